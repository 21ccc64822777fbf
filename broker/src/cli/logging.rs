//! Structured logs on standard error: text on a terminal, one JSON object per line otherwise.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

const FILTER_VARIABLE: &str = "VERIBUS_LOG";

/// Starts logging: as `VERIBUS_LOG` says, else `info` for a broker and `warn` for a client.
pub(super) fn start(is_broker: bool) {
    let default = if is_broker { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let is_terminal = io::stderr().is_terminal();
    // An error says that somebody else logs already, which is fine.
    let _ = if is_terminal { logs.try_init() } else { logs.json().flatten_event(true).try_init() };
}
