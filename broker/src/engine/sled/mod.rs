//! The store in `sled` 0.34.
//!
//! What this crate does not do by itself, and what is done about it here:
//! - `flush` does not reach the disk (it calls `sync_file_range` only): every append ends with `fdatasync` on `db`.
//! - leaf pages above 128 KiB go to files under `blobs/`, which are never synced: values stay at or under
//!   [`VALUE_BYTES_MAX`].
//! - after a write error sled refuses all further writes, while what failed still shows in its memory: any error ends the
//!   process, and only a new start tells what is on disk.
//! - a kill while opening can leave files that make the next open fail: they are moved aside first.
//! - a torn or truncated file opens as an older state, without a word: the head of the log is kept beside it as well, and
//!   a log that has fallen behind its head does not open.

mod head;
mod open_error;
mod store;

pub use open_error::OpenError;
pub(super) use open_error::remedy;
pub use store::{SledLog, VALUE_BYTES_MAX, wait_until_closed};
