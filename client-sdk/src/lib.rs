//! The client SDK for Veribus: publish, subscribe, share state, and know what became of each message.
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
//! - [`State`]: values that agents share under keys, written by compare-and-swap where it matters, and watched.
//! - [`Audit`]: the audit log.
//! - [`Admin`]: revoking, open sessions, the keys of shared state, and backups.
//!
//! What breaks is taken up again: connections and streams. Messages are sent again with the same id, which the broker
//! records once.
//!
//! # Who the client is
//!
//! A [`TokenProvider`] gets the tokens: [`ClientBuilder::token`] for one that outlives the client,
//! [`ClientBuilder::token_file`] for a file that something else keeps fresh, [`ClientCredentials`] for an OAuth 2 server,
//! or your own. The next token is asked for before the one at hand runs out, and sent on the streams that run, which go on
//! under it: no message is lost or sent twice for it, and no subscription has a gap. A source that fails is asked again,
//! ever less often; the old token stays until it runs out.
//!
//! A stolen token is worthless where it is bound to something that was not stolen with it:
//!
//! - [`ClientBuilder::client_certificate_files`]: to the key of a TLS certificate (RFC 8705).
//! - [`ClientBuilder::dpop`]: to a key of the client's own (DPoP, RFC 9449). Where the issuer wants to be told which:
//!   [`DpopKey::thumbprint`].
//!
//! ```no_run
//! use veribus_client::{Client, DpopKey};
//!
//! # async fn connect() -> Result<(), veribus_client::Error> {
//! let client = Client::builder("https://broker.example.com:7443")
//!     .ca_file("ca.pem")
//!     .token_file("/run/agent/token.jwt")
//!     .client_certificate_files("agent.pem", "agent.key")
//!     .dpop(DpopKey::from_pem_file("dpop.key")?)
//!     .connect()
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Client::from_env`] reads the same from `VERIBUS_URL`, `VERIBUS_CA` and `VERIBUS_TOKEN_FILE`, and where they are set
//! from `VERIBUS_CLIENT_CERT` with `VERIBUS_CLIENT_KEY`, and `VERIBUS_DPOP_KEY` (PEM files).
//!
//! A gateway that speaks for several agents gives each message the credentials of its agent:
//! [`Message::on_behalf_of`].
//!
//! A fresh token may permit less than the one before. The broker then serves fewer of the patterns that were subscribed
//! to; [`Subscription::patterns`] and [`SubscriptionEvent::PatternsChanged`] say which. One that permits none of them ends
//! the subscription.
//!
//! # Scope
//!
//! In scope: the broker's `BrokerService`, `StateService`, `AuditService` and `AdminService`. Out of scope: getting a token for a person.
//!
//! The feature `oauth`, on by default, brings [`ClientCredentials`] and with it an HTTP client.

mod admin;
mod audit;
mod backup;
mod builder;
mod client;
mod connect;
mod credentials;
mod dpop;
mod error;
mod message;
#[cfg(feature = "oauth")]
mod oauth;
mod pipeline;
mod present;
mod publisher;
mod receipt;
mod retry;
mod session;
mod state;
mod status;
mod subscription;
#[cfg(test)]
mod tests;
mod token;
mod upstream;

pub use tonic::Code;
pub use veribus_proto as proto;

pub use admin::{Admin, Disconnect, Disconnected, Keys, Revocation, Revoked, RewrappedKeys, RotatedKeys, ShreddedKey};
pub use audit::{Audit, AuditEntries, AuditFilter, StoredEntry};
pub use backup::Backup;
pub use builder::ClientBuilder;
pub use client::Client;
pub use credentials::Credentials;
pub use dpop::DpopKey;
pub use error::{DeliveryFault, Error, Refusal};
pub use message::Message;

#[cfg(feature = "oauth")]
pub use oauth::{ClientCredentials, ClientCredentialsBuilder};
pub use publisher::{Pending, Publisher};
pub use receipt::{Decision, Receipt};
pub use state::{
    Deleted, NewValue, PendingState, State, StateChange, StateDelete, StateList, StateMetadata, StatePage, StatePut,
    StateSession, StateValue, StateWatch, StateWriter, Written,
};
pub use subscription::{Delivery, Gap, Subscription, SubscriptionEvent, SubscriptionEvents, VerifiedSender};
pub use token::{StaticToken, Token, TokenError, TokenFile, TokenFuture, TokenProvider};

/// The programs in the README compile.
#[cfg(all(doctest, feature = "oauth"))]
#[doc = include_str!("../README.md")]
struct Readme;
