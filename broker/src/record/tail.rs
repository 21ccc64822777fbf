//! The end of the log, read and verified: at start, and after a write that failed.

use thiserror::Error;
use veribus_proto::{
    chain::{BrokenChain, ChainVerifier},
    entries,
    v1::EntryKind,
};

use super::{commit::ChainEnd, duplicates::Duplicates};
use crate::{
    engine::{LogStore, ReadError},
    model::UnixMicros,
};

/// Why the broker does not run on this log.
#[derive(Debug, Error)]
pub enum StartError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its chain is broken: somebody or something changed it.
    #[error(
        "the audit log is broken: {0}; keep a copy of the data directory as evidence, then restore it from a backup, or \
         move it away to begin a new log"
    )]
    Broken(#[from] BrokenChain),
}

/// What is to be known of the last entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastEntry {
    pub(super) kind: EntryKind,
    /// What the clock said.
    pub(super) clock: UnixMicros,
}

/// Reads the newest `entries_max` entries (rounded up to whole chunks), verifies their chain, and takes their message ids
/// into `duplicates`. Says where the log ends, and what is to be known of its last entry, if there is one.
pub(super) fn load(
    store: &dyn LogStore,
    entries_max: u64,
    duplicates: &mut Duplicates,
) -> Result<(ChainEnd, Option<LastEntry>), StartError> {
    let Some(last) = store.chunk_at(u64::MAX)? else { return Ok((ChainEnd::GENESIS, None)) };
    let wanted = last.first_index.saturating_sub(entries_max);
    let first = store.chunk_at(wanted)?.ok_or(ReadError::Damaged(wanted))?.first_index;
    let mut verifier = ChainVerifier::from_index(first);
    let (mut time, mut newest) = (UnixMicros(0), None);
    while verifier.next_index() <= last.first_index {
        let index = verifier.next_index();
        let chunk = store.chunk_at(index)?.ok_or(ReadError::Damaged(index))?;
        for entry in entries::iter(&chunk.bytes) {
            let entry = verifier.push(entry.map_err(|_| ReadError::Damaged(index))?)?;
            time = time.max(UnixMicros(entry.time_unix_us));
            let clock = UnixMicros(entry.clock_unix_us.unwrap_or(entry.time_unix_us));
            newest = Some(LastEntry { kind: entry.kind(), clock });
            duplicates.replay(&entry);
        }
        if verifier.next_index() == index {
            return Err(ReadError::Damaged(index).into());
        }
    }
    let head = verifier.head().ok_or(ReadError::Damaged(first))?;
    Ok((ChainEnd { next_index: verifier.next_index(), head, time }, newest))
}
