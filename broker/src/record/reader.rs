//! Reading the log: the bytes as stored, in index order, up to what is committed.

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use veribus_proto::{entries, v1::AuditEntry};

use crate::{
    engine::{ReadError, SharedLogStore},
    model::UnixMicros,
};

/// One entry as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryAt {
    /// Its index.
    pub index: u64,
    /// Its bytes: those that were hashed.
    pub bytes: Bytes,
}

/// Reads what is committed.
#[derive(Clone)]
pub struct LogReader {
    store: SharedLogStore,
    committed: watch::Receiver<u64>,
    found_at: Option<UnixMicros>,
}

impl LogReader {
    pub(super) const fn new(
        store: SharedLogStore,
        committed: watch::Receiver<u64>,
        found_at: Option<UnixMicros>,
    ) -> Self {
        Self { store, committed, found_at }
    }

    /// What the clock said at the last entry that was there at the start, if there was one.
    #[must_use]
    pub const fn found_at(&self) -> Option<UnixMicros> {
        self.found_at
    }

    pub(super) const fn store(&self) -> &SharedLogStore {
        &self.store
    }

    /// How many entries are committed: the index that comes next.
    #[must_use]
    pub fn committed(&self) -> u64 {
        *self.committed.borrow()
    }

    /// How much disk the log takes, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }

    /// Waits until the entry at `index` is committed; `false` if the log ended before.
    pub async fn wait_for(&mut self, index: u64) -> bool {
        self.committed.wait_for(|&committed| committed > index).await.is_ok()
    }

    /// Some entries from `from` on: at least one, if it is committed. Blocks on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(&self, from: u64) -> Result<Vec<EntryAt>, ReadError> {
        let committed = self.committed();
        if from >= committed {
            return Ok(Vec::new());
        }
        let chunk = self.store.chunk_at(from)?.ok_or(ReadError::Damaged(from))?;
        let mut found = Vec::new();
        for (index, entry) in (chunk.first_index..committed).zip(entries::iter(&chunk.bytes)) {
            let entry = entry.map_err(|_| ReadError::Damaged(index))?;
            if index >= from {
                found.push(EntryAt { index, bytes: chunk.bytes.slice_ref(entry) });
            }
        }
        if found.is_empty() { Err(ReadError::Damaged(from)) } else { Ok(found) }
    }

    /// The first entry at or after `time`, or the end of the log: times never go back, so it is found by halving. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn seek(&self, time: UnixMicros) -> Result<u64, ReadError> {
        let (mut low, mut high) = (0, self.committed());
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.read(middle)?;
            let entry = found.first().and_then(|entry| AuditEntry::decode(entry.bytes.clone()).ok());
            let entry = entry.ok_or(ReadError::Damaged(middle))?;
            if entry.time_unix_us < time.0 { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}
