//! Backups as they stand on disk: received from a running broker, and restored to a data directory.
//!
//! A backup is a directory with a store like that of a broker, and `backup.json`: how long its log is, the hash of its last
//! entry, and the SHA-256 of every file. It is read only as long as every byte is as it was, so a store that is damaged is
//! not even opened. That shows damage, not forgery: whoever can write the files can write new hashes. What an outsider can
//! hold a backup to is the hash of the last entry, noted elsewhere.
//!
//! In scope: making such a directory, verifying it, copying it. Out of scope: how a broker makes a consistent copy (see
//! [`record`](crate::record)), and the root key, which is never in a backup.

mod contents;
mod directory;
mod manifest;
mod receive;
mod restore;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;
use veribus_proto::chain::BrokenChain;

use crate::{
    engine::{AppendError, ReadError},
    seal::KeyRingError,
    server::OpenError,
};

pub use contents::Contents;
pub use receive::{Progress, Receiver};
pub use restore::restore;

/// The page cache of a store that is only copied, in bytes.
const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a backup cannot be made or used.
#[derive(Debug, Error)]
pub enum BackupError {
    /// Something is there already.
    #[error("`{0}` is there already and not an empty directory")]
    NotEmpty(PathBuf),
    /// What an earlier attempt left is in the way.
    #[error("`{0}` is what an earlier attempt left: remove it first")]
    Leftover(PathBuf),
    /// There is no name to make a directory under.
    #[error("`{0}` does not name a directory that could be made")]
    NoName(PathBuf),
    /// It cannot be read or written.
    #[error("`{path}`: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The records of the keys are damaged.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
    /// The log is not whole.
    #[error("the log is broken: {0}")]
    Broken(#[from] BrokenChain),
    /// The log does not end where it should.
    #[error("the log has {found} entries and not {expected}, or another last one")]
    OtherEnd {
        /// How many it has.
        found: u64,
        /// How many it should have.
        expected: u64,
    },
    /// The broker sent something that has no place there.
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
    /// It is no backup, or one that was not completed.
    #[error("`{0}` is no complete backup: it has no `backup.json`")]
    Incomplete(PathBuf),
    /// What says what is in the backup cannot be understood.
    #[error("`{path}` cannot be understood: {fault}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// A file is not as it was.
    #[error("`{0}` is not as it was when the backup was made")]
    Changed(PathBuf),
}

/// Says which file it was.
fn at(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    |source| BackupError::File { path: path.to_owned(), source }
}
