//! Structured logs on standard error: text on a terminal, one JSON object per line otherwise.
//!
//! Standard error of a broker may be a pipe whose reader is gone or asleep, or a full disk. Nothing that a broker says waits
//! for it or fails with it: all of it, panics too, goes through one [`Queue`].

mod queue;

use std::{
    backtrace::Backtrace,
    io::{self, IsTerminal as _},
    panic,
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use queue::Queue;

const FILTER_VARIABLE: &str = "VERIBUS_LOG";
/// How long the end of the process, or a panic, waits for what is said last.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// Of a broker: the one way to standard error.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Starts logging: as `VERIBUS_LOG` says, else `info` for a broker and `warn` for a client.
pub(super) fn start(is_broker: bool) {
    if is_broker {
        start_queue();
    }
    let default = if is_broker { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    let writer = match QUEUE.get() {
        Some(queue) => BoxMakeWriter::new(|| queue.clone()),
        None => BoxMakeWriter::new(io::stderr),
    };
    // With its own errors logged, one that cannot write would panic on the attempt to say so.
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    let is_terminal = io::stderr().is_terminal();
    // An error says that somebody else logs already, which is fine.
    let _ = if is_terminal { logs.try_init() } else { logs.json().flatten_event(true).try_init() };
}

/// Of a broker: where everything goes that is meant for standard error.
pub(super) fn queue() -> Option<&'static Queue> {
    QUEUE.get()
}

/// Lets what was said last be written, for a moment.
pub(super) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_WORDS_MAX);
    }
}

/// Where there can be no thread, what follows fails as well, and says so by itself.
fn start_queue() {
    let Ok(queue) = Queue::start(io::stderr()) else { return };
    if QUEUE.set(queue).is_ok() {
        panic::set_hook(Box::new(|told| {
            // Not its message: that may repeat the text that was at fault, and with it what an agent sent.
            let place = told.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, backtrace = %Backtrace::capture(), "panicked");
            finish();
        }));
    }
}
