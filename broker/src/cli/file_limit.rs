//! How many files the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Open files beside the connections: the store, the listeners, the fetches of keys, a backup.
const FILES_RESERVED: u64 = 128;

/// Raises the limit of open files (`RLIMIT_NOFILE`) as far as the process may, and warns where `connections_max` connections
/// still have no room.
pub(super) fn raise(connections_max: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised =
        if current == maximum { Ok(()) } else { setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) };
    if let Err(error) = raised {
        debug!(%error, "the limit of open files could not be raised");
    }
    // None: there is no limit.
    let Some(open_files_max) = getrlimit(Resource::Nofile).current else { return };
    let connections_fit = open_files_max.saturating_sub(FILES_RESERVED);
    if connections_fit < connections_max as u64 {
        warn!(
            open_files_max,
            connections_fit, connections_max, "the limit of open files is too low for `limits.connections_max`"
        );
    }
}
