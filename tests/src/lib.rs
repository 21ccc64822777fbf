//! The harness of the end-to-end suites: a broker in this process, over real TLS, on a free port and in a directory of
//! its own, and everything that it takes to talk to it, well and badly.
//!
//! - [`broker`]: starts, drains and restarts a broker; signs tokens; makes clients.
//! - [`raw`]: the generated gRPC clients over a connection and with metadata of one's own.
//! - [`streams`]: publish streams and subscriptions by hand, response by response.
//! - [`wire`]: HTTP/2 frame by frame, for what no gRPC client would send; [`frames`]: for what no HTTP/2 client would.
//! - [`log`]: the whole audit log, verified.
//! - [`certificates`], [`dpop`]: what tokens are bound to: client certificates, and keys that sign proofs.
//! - [`faults`]: a log store that fails on command.
//! - [`process`]: the binary, to be killed.
//! - [`python`]: a Python interpreter, for what others wrote in it.
//! - [`keycloak`]: a Keycloak, and realms in it.
//! - [`messages`]: messages, and a policy that leaves everything to permissions.
//!
//! Out of scope: any check of the broker's. Those are in `tests/`.

pub mod broker;
pub mod certificates;
pub mod dpop;
pub mod faults;
pub mod frames;
pub mod keycloak;
pub mod log;
pub mod messages;
pub mod process;
#[cfg(doctest)]
mod proofs;
pub mod python;
pub mod raw;
pub mod state;
pub mod streams;
pub mod wire;

use std::time::Duration;

use anyhow::{Context as _, Result};

/// How long anything may take before a test gives up on it. Nothing lasts this long unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
///
/// # Errors
/// When [`PATIENCE`] is at its end.
pub async fn patiently<T>(what: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, what).await.context("waited in vain")
}
