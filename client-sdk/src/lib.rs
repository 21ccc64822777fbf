//! The client SDK for Veribus: publish, subscribe, and know what became of each message.
//!
//! ```no_run
//! use futures_util::StreamExt as _;
//! use veribus_client::{Client, Message};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), veribus_client::Error> {
//!     let client = Client::from_env().await?;
//!     let mut inbox = client.subscribe(["tickets.>"]).await?;
//!     let receipt = client.publish(Message::text("tickets.resolved", "ticket.resolved", "done")).await?;
//!     println!("recorded as entry {}", receipt.audit_index);
//!     if let Some(delivery) = inbox.next().await {
//!         println!("{}", delivery?.text()?);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! - [`Client`]: the connection. TLS 1.3 only, to a broker that the given authorities vouch for.
//! - [`Client::publish`] and [`Publisher`]: one message, or many under way at once. Either way a message ends in a
//!   [`Receipt`] or in an [`Error`] that says whether it was recorded, was not, or may have been.
//! - [`Subscription`]: deliveries in the order of the audit log, each checked before it is handed on.
//! - [`Audit`]: the audit log.
//! - [`Admin`]: revoking, and open sessions.
//!
//! What breaks is taken up again: connections, streams, tokens that ran out where their file holds a newer one.
//! Messages are sent again with the same id, which the broker records once.
//!
//! In scope: the broker's `BrokerService`, `AuditService` and `AdminService`. Out of scope: getting a token.

mod admin;
mod audit;
mod builder;
mod client;
mod connect;
mod error;
mod message;
mod publisher;
mod receipt;
mod retry;
mod session;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod token;

pub use tonic::Code;
pub use veribus_proto as proto;

pub use admin::{Admin, Disconnect, Disconnected, Revocation, Revoked};
pub use audit::{Audit, AuditEntries, AuditFilter, StoredEntry};
pub use builder::ClientBuilder;
pub use client::Client;
pub use error::{DeliveryFault, Error, Refusal};
pub use message::Message;
pub use publisher::{Pending, Publisher};
pub use receipt::{Decision, Receipt};
pub use subscription::{Delivery, Gap, Subscription, SubscriptionEvent, SubscriptionEvents, VerifiedSender};
