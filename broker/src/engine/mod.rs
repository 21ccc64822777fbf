//! The storage seam: what the stages need of a store, and nothing of how it is kept.
//!
//! Only [`sled`] names the storage crate. Nothing above this folder assumes that one process owns all data: each broker
//! node writes an audit log of its own.

pub mod sled;

use std::{io, sync::Arc};

use bytes::Bytes;
use thiserror::Error;

use self::sled::remedy;

/// How large a chunk should be at most, in bytes; only an entry that is larger by itself makes a larger one.
pub const CHUNK_BYTES_MAX: usize = self::sled::VALUE_BYTES_MAX;

/// Some entries that stand one after another, in the form of [`veribus_proto::entries`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The index of the first entry.
    pub first_index: u64,
    /// The entries.
    pub bytes: Bytes,
}

/// A value under a key, beside the log; without a value, its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// At most [`KEY_BYTES_MAX`] bytes.
    pub key: Bytes,
    /// At most [`CHUNK_BYTES_MAX`] bytes.
    pub value: Option<Bytes>,
}

/// The longest key of a [`Record`], in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// Why an append did not succeed.
#[derive(Debug, Error)]
pub enum AppendError {
    /// The write failed. Whether any of it persisted is not known: read the tail again before going on.
    #[error("the log could not be written: {0}")]
    Write(String),
    /// The store cannot write any more, or the disk did not confirm what was written. Nothing may be acknowledged after
    /// this, ever: end the process. The next start finds what is on disk.
    #[error("the log could not be made durable: {0}{remedy}", remedy = remedy(.0))]
    Fatal(#[source] io::Error),
}

/// Why the store could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store says so.
    #[error("the log could not be read: {0}")]
    Store(String),
    /// The store found its files damaged.
    #[error("the log is damaged: {0}; restore the data directory from a backup")]
    Corrupt(String),
    /// The store holds something that nobody wrote there.
    #[error("the log holds a damaged record at entry {0}")]
    Damaged(u64),
}

/// An append-only store of chunks, and records that change with them.
pub trait LogStore: Send + Sync + 'static {
    /// Appends chunks and changes records, all or nothing, durably: when this returns `Ok`, they survive a power cut. Of
    /// several records with one key the last one stands.
    ///
    /// # Errors
    /// [`AppendError`].
    fn append(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError>;

    /// The keys that begin with `prefix`, in order, each with its value.
    ///
    /// # Errors
    /// [`ReadError`].
    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError>;

    /// The first `max` of the keys from `from` on and before `to`, in order, each with its value.
    ///
    /// # Errors
    /// [`ReadError`].
    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError>;

    /// The value under a key.
    ///
    /// # Errors
    /// [`ReadError`].
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// The last chunk that begins at or before `index`.
    ///
    /// # Errors
    /// [`ReadError`].
    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError>;

    /// How much disk it takes, in bytes.
    fn size_bytes(&self) -> u64;
}

/// A store that several parts of the broker share.
pub type SharedLogStore = Arc<dyn LogStore>;
