//! One commit in the making: entries get their index and link, are encoded once, and packed into chunks.

use prost::Message as _;
use veribus_proto::{
    chain::{self, LeafHash},
    entries,
    v1::AuditEntry,
};

use super::{Draft, prepared::Prepared};
use crate::{
    engine::{CHUNK_BYTES_MAX, Chunk},
    model::{NodeName, UnixMicros},
};

/// Entries of one tile of C2SP `tlog-tiles`: chunks never cross such a boundary.
const TILE_ENTRIES: u64 = 256;

/// Where the chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainEnd {
    pub(super) next_index: u64,
    pub(super) head: LeafHash,
    pub(super) time: UnixMicros,
}

impl ChainEnd {
    pub(super) const GENESIS: Self = Self { next_index: 0, head: chain::GENESIS, time: UnixMicros(0) };
}

/// Entries to be appended together.
pub(super) struct Commit {
    end: ChainEnd,
    chunks: Vec<Chunk>,
    open: Vec<u8>,
    open_first: u64,
    place: AuditEntry,
    encoded: Vec<u8>,
}

impl Commit {
    /// Begins after `end`. The entries' time is `now`, or that of the last entry where the clock went back; then `now` stands
    /// beside it.
    pub(super) fn new(origin: &NodeName, end: ChainEnd, now: UnixMicros) -> Self {
        let clock_unix_us = (now < end.time).then_some(now.0);
        let end = ChainEnd { time: now.max(end.time), ..end };
        let place = AuditEntry { origin: origin.as_str().to_owned(), clock_unix_us, ..AuditEntry::default() };
        let (chunks, open, encoded) = (Vec::new(), Vec::new(), Vec::new());
        Self { end, chunks, open, open_first: end.next_index, place, encoded }
    }

    /// The index that the next entry gets.
    pub(super) const fn next_index(&self) -> u64 {
        self.end.next_index
    }

    /// Takes an entry, and returns its index.
    pub(super) fn push(&mut self, entry: impl Into<Prepared>) -> u64 {
        self.push_with(entry, AuditEntry::default())
    }

    /// Takes an entry and what is known of it only now, and returns its index.
    pub(super) fn push_with(&mut self, entry: impl Into<Prepared>, added: AuditEntry) -> u64 {
        self.try_push_with(entry, added).unwrap_or_else(|TooLong(index)| index)
    }

    /// The same for an entry whose effect can still be denied.
    ///
    /// # Errors
    /// [`TooLong`]: a short entry stands in its place, which denies what it was about.
    pub(super) fn try_push_with(&mut self, entry: impl Into<Prepared>, added: AuditEntry) -> Result<u64, TooLong> {
        let index = self.end.next_index;
        self.place.index = index;
        self.place.time_unix_us = self.end.time.0;
        self.place.prev.clear();
        self.place.prev.extend_from_slice(&self.end.head);
        entry.into().encode(&self.place, added, &mut self.encoded);
        let is_whole = self.pack(index);
        if !is_whole {
            tracing::error!(
                index,
                bytes = self.encoded.len(),
                "an entry is too long for the log: shortened, and denied"
            );
            self.encoded = shortened(&self.encoded).encode_to_vec();
            self.pack(index);
        }
        self.end.head = chain::leaf_hash(&self.encoded);
        self.end.next_index = index.saturating_add(1);
        if is_whole { Ok(index) } else { Err(TooLong(index)) }
    }

    /// The chunks, and where the chain ends once they are appended.
    pub(super) fn finish(mut self) -> (Vec<Chunk>, ChainEnd) {
        self.close();
        (self.chunks, self.end)
    }

    /// Puts the encoded entry into a chunk; `false` where it is too long for one.
    fn pack(&mut self, index: u64) -> bool {
        let full = self.open.len() + 2 + self.encoded.len() > CHUNK_BYTES_MAX;
        if !self.open.is_empty() && (full || index.is_multiple_of(TILE_ENTRIES)) {
            self.close();
        }
        if self.open.is_empty() {
            self.open_first = index;
        }
        entries::push(&mut self.open, &self.encoded).is_ok()
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let bytes = std::mem::take(&mut self.open).into();
            self.chunks.push(Chunk { first_index: self.open_first, bytes });
        }
    }
}

/// An entry was longer than the log can hold; what stands at this index says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) u64);

/// What is kept of an entry that is too long: its place, who acted, and which message it was about.
fn shortened(encoded: &[u8]) -> AuditEntry {
    let whole = AuditEntry::decode(encoded).unwrap_or_default();
    let mut draft = Draft(whole);
    draft.shorten();
    draft.0
}

#[cfg(test)]
mod tests {
    use veribus_proto::chain::ChainVerifier;

    use veribus_proto::v1;

    use super::*;

    fn origin() -> NodeName {
        NodeName::parse("test").expect("a name")
    }

    fn draft(detail_bytes: usize) -> Draft {
        Draft::stopped().with_detail("x".repeat(detail_bytes))
    }

    #[test]
    fn chunks_hold_the_chain_in_order_and_keep_to_size_and_tile() {
        let origin = origin();
        let mut commit = Commit::new(&origin, ChainEnd::GENESIS, UnixMicros(5));
        for index in 0..700u64 {
            assert_eq!(commit.push(draft(if index % 50 == 0 { 9_000 } else { 100 })), index);
        }
        let (chunks, end) = commit.finish();
        let mut verifier = ChainVerifier::from_genesis();
        for chunk in &chunks {
            assert_eq!(chunk.first_index, verifier.next_index());
            let mut count = 0;
            for entry in entries::iter(&chunk.bytes) {
                verifier.push(entry.expect("whole")).expect("linked");
                count += 1;
            }
            assert!(chunk.bytes.len() <= CHUNK_BYTES_MAX || count == 1, "only a long entry makes a long chunk");
            assert_eq!(chunk.first_index / 256, (chunk.first_index + count - 1) / 256, "within one tile");
        }
        assert_eq!((verifier.next_index(), verifier.head()), (end.next_index, Some(end.head)));
    }

    #[test]
    fn an_entry_that_is_too_long_is_cut_down_and_not_lost() {
        let origin = origin();
        let mut commit = Commit::new(&origin, ChainEnd::GENESIS, UnixMicros(5));
        commit.push(draft(70_000));
        let (chunks, end) = commit.finish();
        assert_eq!((chunks.len(), end.next_index), (1, 1));
        let entry = entries::iter(&chunks[0].bytes).next().expect("one").expect("whole").to_vec();
        assert!(ChainVerifier::from_genesis().push(&entry).expect("linked").detail.contains("cut down"));
    }

    /// Whatever a draft was bounded to, what is added to it may be too much all the same.
    #[test]
    fn an_entry_that_is_too_long_all_the_same_is_replaced_by_one_that_denies() {
        let origin = origin();
        let mut commit = Commit::new(&origin, ChainEnd::GENESIS, UnixMicros(5));
        let listed_at = (1 << 60..(1 << 60) + 10_000).collect();
        let audience = Some(v1::Audience { listed_at, recipients: Vec::new() });
        let draft = Draft::started("1", [7; 32]);
        assert_eq!(commit.try_push_with(draft, AuditEntry { audience, ..AuditEntry::default() }), Err(TooLong(0)));
        assert_eq!(commit.push(Draft::stopped()), 1, "the chain goes on behind it");
        let (chunks, _) = commit.finish();
        let mut verifier = ChainVerifier::from_genesis();
        let bundle: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
        let all: Vec<_> =
            entries::iter(&bundle).map(|entry| verifier.push(entry.expect("whole")).expect("linked")).collect();
        let decision = all[0].decision.as_ref().expect("a decision");
        assert_eq!(
            (all.len(), all[0].kind(), decision.decision()),
            (2, v1::EntryKind::BrokerStarted, v1::Decision::Deny)
        );
        assert_eq!(decision.rules, ["native/entry-too-long"]);
    }

    #[test]
    fn time_never_goes_back() {
        let origin = origin();
        let end = ChainEnd { time: UnixMicros(100), ..ChainEnd::GENESIS };
        let mut commit = Commit::new(&origin, end, UnixMicros(50));
        commit.push(draft(1));
        let (chunks, end) = commit.finish();
        assert_eq!(end.time, UnixMicros(100));
        let entry = entries::iter(&chunks[0].bytes).next().expect("one").expect("whole").to_vec();
        let entry = AuditEntry::decode(&*entry).expect("an entry");
        assert_eq!((entry.time_unix_us, entry.clock_unix_us), (100, Some(50)), "what the clock says is not lost");
    }
}
