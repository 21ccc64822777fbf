//! The way in and out: TLS connections, gRPC services, and the translation between wire and domain.
//!
//! - [`tls`]: TLS 1.3, and nothing older; certificates of clients where they are asked for.
//! - [`listener`], [`connection`]: who may connect, how often, and for how long without saying who they are.
//! - [`gate`]: no call passes without a verified caller, before any of its body is decoded.
//! - [`broker`], [`state`], [`audit`], [`admin`]: the services of `veribus.v1`.
//! - [`status`]: the one table from errors to gRPC statuses.

pub mod admin;
pub mod audit;
mod backup_stream;
pub mod broker;
pub mod certificate;
pub mod connection;
mod convert;
pub mod frame_body;
pub mod gate;
pub mod health;
mod keys;
pub mod listener;
pub mod malformed;
pub mod overruns;
pub mod pipeline;
mod publish_stream;
pub mod refusals;
pub mod renewal;
mod senders;
mod session_body;
pub mod state;
mod state_session;
mod status;
mod subscribe_stream;
pub mod tls;
mod watch_stream;
