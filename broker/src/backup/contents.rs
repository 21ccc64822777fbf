//! Reading a store from its first entry to its last, and every record beside it.

use std::collections::BTreeSet;

use veribus_proto::{
    chain::{ChainVerifier, GENESIS, LeafHash},
    entries,
};

use super::BackupError;
use crate::{
    engine::{Chunk, KEY_BYTES_MAX, LogStore, ReadError},
    seal::{KEY_PREFIX, KeyRing, RootKeyId},
};

/// How many records are read at a time.
const PAGE_RECORDS: usize = 512;

/// What a store holds, its chain followed from entry 0 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// How many entries the log has.
    pub entries: u64,
    /// The leaf hash of the last of them.
    pub head: LeafHash,
    /// How many records stand beside it.
    pub records: u64,
    /// How many bytes the files have.
    pub bytes: u64,
    /// Which root keys the keys in it are wrapped by: one, or none where nothing was sealed yet.
    pub root_keys: BTreeSet<RootKeyId>,
}

/// Reads everything.
pub(super) fn verify(store: &dyn LogStore) -> Result<Contents, BackupError> {
    let mut chain = ChainVerifier::from_genesis();
    while let Some(chunk) = store.chunk_at(chain.next_index())?.filter(|one| one.first_index == chain.next_index()) {
        push(&mut chain, &chunk)?;
    }
    let last = store.chunk_at(u64::MAX)?.map_or(0, |chunk| chunk.first_index);
    if last > chain.next_index() {
        return Err(ReadError::Damaged(chain.next_index()).into());
    }
    let root_keys = KeyRing::roots_in_use(&store.records(KEY_PREFIX)?)?;
    let head = chain.head().unwrap_or(GENESIS);
    Ok(Contents { entries: chain.next_index(), head, records: count(store)?, bytes: 0, root_keys })
}

/// Follows the chain through a chunk.
pub(super) fn push(chain: &mut ChainVerifier, chunk: &Chunk) -> Result<(), BackupError> {
    let first_index = chain.next_index();
    for entry in entries::iter(&chunk.bytes) {
        chain.push(entry.map_err(|_| ReadError::Damaged(chain.next_index()))?)?;
    }
    if chain.next_index() == first_index { Err(ReadError::Damaged(first_index).into()) } else { Ok(()) }
}

fn count(store: &dyn LogStore) -> Result<u64, ReadError> {
    let (mut from, mut records) = (Vec::new(), 0);
    loop {
        let page = store.records_between(&from, &[u8::MAX; KEY_BYTES_MAX + 1], PAGE_RECORDS)?;
        records += page.len() as u64;
        match page.last() {
            Some((last, _)) if page.len() == PAGE_RECORDS => from = [&last[..], &[0]].concat(),
            _ => return Ok(records),
        }
    }
}
