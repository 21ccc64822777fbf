//! The hash chain of the audit log.
//!
//! An entry's leaf hash is `SHA-256(0x00 ‖ entry)` ([RFC 6962], section 2.1), over the bytes as stored. Each entry
//! names its index and the leaf hash of the one before it, so changing, removing or inserting an entry breaks the
//! chain at the next one. Out of scope: what was cut off at the end; that takes a checkpoint that somebody else has
//! seen.
//!
//! [RFC 6962]: https://www.rfc-editor.org/rfc/rfc6962

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::v1::AuditEntry;

/// A leaf hash, 32 bytes.
pub type LeafHash = [u8; 32];

/// What entry 0 carries as `prev`.
pub const GENESIS: LeafHash = [0; 32];

/// The leaf hash of an entry's stored bytes.
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> LeafHash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// Where and how a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("entry {index} {fault}")]
pub struct BrokenChain {
    /// The entry at which the break shows.
    pub index: u64,
    /// What is wrong there.
    pub fault: ChainFault,
}

/// What can be wrong with an entry's place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainFault {
    /// The bytes are no `AuditEntry`.
    #[error("cannot be decoded: its bytes were changed")]
    Undecodable,
    /// The entry names another index than the one it stands at.
    #[error("says that it is entry {0}: entries were removed, inserted or reordered, or its bytes were changed")]
    WrongIndex(u64),
    /// The entry does not name the leaf hash of the one before it.
    #[error("does not continue the chain: entry {} or the link to it was changed", .0)]
    WrongPrev(u64),
    /// The entry's own leaf hash is not the one that somebody else vouches for.
    #[error("has another leaf hash than the one on record for it: its bytes were changed")]
    WrongLeaf,
}

/// Follows a chain entry by entry.
#[derive(Debug, Clone)]
pub struct ChainVerifier {
    next_index: u64,
    head: Option<LeafHash>,
}

impl ChainVerifier {
    /// Begins at entry 0.
    #[must_use]
    pub const fn from_genesis() -> Self {
        Self { next_index: 0, head: Some(GENESIS) }
    }

    /// Begins at entry `index`, whose link to the one before cannot be checked, unless it is entry 0.
    #[must_use]
    pub const fn from_index(index: u64) -> Self {
        Self { next_index: index, head: if index == 0 { Some(GENESIS) } else { None } }
    }

    /// Begins after entry `next_index - 1`, whose leaf hash is `head`.
    #[must_use]
    pub const fn after(next_index: u64, head: LeafHash) -> Self {
        Self { next_index, head: Some(head) }
    }

    /// Checks that `entry` comes next, and returns it decoded.
    ///
    /// # Errors
    /// [`BrokenChain`] with the index at which it shows. The verifier then stays where it was.
    pub fn push(&mut self, entry: &[u8]) -> Result<AuditEntry, BrokenChain> {
        let broken = |fault| BrokenChain { index: self.next_index, fault };
        let decoded = AuditEntry::decode(entry).map_err(|_| broken(ChainFault::Undecodable))?;
        if decoded.index != self.next_index {
            return Err(broken(ChainFault::WrongIndex(decoded.index)));
        }
        if self.head.is_some_and(|head| decoded.prev != head) {
            return Err(broken(ChainFault::WrongPrev(self.next_index.saturating_sub(1))));
        }
        self.head = Some(leaf_hash(entry));
        self.next_index = self.next_index.saturating_add(1);
        Ok(decoded)
    }

    /// The index that comes next: how long the verified log is.
    #[must_use]
    pub const fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The leaf hash of the last entry, [`GENESIS`] before the first; `None` if nothing is known yet.
    #[must_use]
    pub const fn head(&self) -> Option<LeafHash> {
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<Vec<u8>> {
        let mut prev = GENESIS;
        (0..length)
            .map(|index| {
                let entry = AuditEntry {
                    index,
                    prev: prev.to_vec(),
                    detail: format!("entry number {index}"),
                    ..AuditEntry::default()
                };
                let bytes = entry.encode_to_vec();
                prev = leaf_hash(&bytes);
                bytes
            })
            .collect()
    }

    fn verify(entries: &[Vec<u8>]) -> Result<(), BrokenChain> {
        let mut verifier = ChainVerifier::from_genesis();
        entries.iter().try_for_each(|entry| verifier.push(entry).map(drop))
    }

    #[test]
    fn the_leaf_hash_is_that_of_rfc_6962() {
        // The hash of the empty leaf, as in the RFC's reference implementations.
        let expected = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
        let hex: String = leaf_hash(b"").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_whole_chain_verifies() {
        assert_eq!(verify(&chain(5)), Ok(()));
    }

    #[test]
    fn any_flipped_bit_is_found_at_its_entry_or_at_the_next() {
        let whole = chain(4);
        for (position, bit) in (0..whole[1].len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = whole.clone();
            changed[1][position] ^= 1 << bit;
            let broken = verify(&changed).expect_err("a changed entry");
            assert!(broken.index == 1 || broken.index == 2, "byte {position} bit {bit}: {broken}");
        }
    }

    #[test]
    fn removed_inserted_and_swapped_entries_are_found() {
        let whole = chain(4);
        let mut removed = whole.clone();
        removed.remove(1);
        let mut inserted = whole.clone();
        inserted.insert(1, whole[0].clone());
        let mut swapped = whole;
        swapped.swap(1, 2);
        for changed in [removed, inserted, swapped] {
            assert_eq!(verify(&changed).expect_err("a changed log").index, 1);
        }
    }
}
