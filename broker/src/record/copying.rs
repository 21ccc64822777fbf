//! A copy of everything in the store, as of one commit, while others go on: first the records page by page, each page
//! preceded by what changed before it was read; then what changed until no more has; then the log up to that commit.
//!
//! A page may show what was changed after the page before it was read, so what is handed out is consistent only once it is
//! complete, each part applied to those before it: whatever changed since the copy began follows in the order of its
//! commits, and so nothing older comes last.

use std::sync::Arc;

use thiserror::Error;
use veribus_proto::entries;

use super::journal::{Journal, JournalFault, LogEnd, Taken};
use crate::engine::{Chunk, KEY_BYTES_MAX, ReadError, Record, SharedLogStore};

/// How many records are read at a time.
const PAGE_RECORDS: usize = 512;
/// How much one part holds of records and of changes each, or of the log, in bytes, about.
const PART_BYTES: usize = 512 * 1024;
/// After every key.
const AFTER_ALL: [u8; KEY_BYTES_MAX + 1] = [u8::MAX; KEY_BYTES_MAX + 1];

/// Why a copy cannot be completed.
#[derive(Debug, Error)]
pub enum CopyError {
    /// It is not known what changed meanwhile.
    #[error(transparent)]
    Journal(#[from] JournalFault),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A part of a copy, to be applied to the parts before it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CopyPart {
    /// What stands beside the log, in the order in which it is to be applied.
    pub records: Vec<Record>,
    /// The log, in order and without gaps.
    pub chunks: Vec<Chunk>,
    /// In the last part: up to where the copy goes.
    pub end: Option<LogEnd>,
}

/// A copy under way. As long as it is there, no other begins.
pub struct Copying {
    store: SharedLogStore,
    journal: Arc<Journal>,
    stage: Stage,
}

enum Stage {
    /// Records from this key on.
    Records(Vec<u8>),
    Changes,
    /// The log from this index on.
    Log(u64, LogEnd),
    Complete,
}

impl Copying {
    pub(super) const fn new(store: SharedLogStore, journal: Arc<Journal>) -> Self {
        Self { store, journal, stage: Stage::Records(Vec::new()) }
    }

    /// The next part; `None` after the last. Blocks on the disk.
    ///
    /// # Errors
    /// [`CopyError`]: the copy cannot be completed.
    pub fn next_part(&mut self) -> Result<Option<CopyPart>, CopyError> {
        match &self.stage {
            Stage::Records(from) => self.records(&from.clone()),
            Stage::Changes => self.changes(),
            Stage::Log(next, end) => self.entries(*next, *end),
            Stage::Complete => return Ok(None),
        }
        .map(Some)
    }

    fn records(&mut self, from: &[u8]) -> Result<CopyPart, CopyError> {
        // Before the page is read: what the page shows is newer, and must not be undone by these.
        let mut records = self.journal.take(PART_BYTES)?;
        let page = self.store.records_between(from, &AFTER_ALL, PAGE_RECORDS)?;
        let (is_last, found) = (page.len() < PAGE_RECORDS, page.len());
        let (mut bytes, before) = (0, records.len());
        for (key, value) in page {
            if bytes >= PART_BYTES {
                break;
            }
            bytes += key.len() + value.len();
            records.push(Record { key, value: Some(value) });
        }
        let is_all = is_last && records.len() - before == found;
        self.stage = match records.last() {
            Some(last) if !is_all => Stage::Records([&last.key[..], &[0]].concat()),
            _ => {
                // The copy must not end before a commit of which it has seen something.
                self.journal.settle()?;
                Stage::Changes
            }
        };
        Ok(CopyPart { records, ..CopyPart::default() })
    }

    fn changes(&mut self) -> Result<CopyPart, CopyError> {
        let records = match self.journal.take_or_close(PART_BYTES)? {
            Taken::Some(records) => records,
            Taken::Last(records, end) => {
                self.stage = Stage::Log(0, end);
                records
            }
        };
        Ok(CopyPart { records, ..CopyPart::default() })
    }

    fn entries(&mut self, mut next: u64, end: LogEnd) -> Result<CopyPart, CopyError> {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while next < end.next_index && bytes < PART_BYTES {
            let chunk = self.store.chunk_at(next)?.filter(|chunk| chunk.first_index == next);
            let chunk = chunk.ok_or(ReadError::Damaged(next))?;
            bytes += chunk.bytes.len();
            next = after(&chunk)?;
            chunks.push(chunk);
        }
        if next > end.next_index {
            return Err(ReadError::Damaged(end.next_index).into());
        }
        let is_last = next == end.next_index;
        self.stage = if is_last { Stage::Complete } else { Stage::Log(next, end) };
        Ok(CopyPart { chunks, end: is_last.then_some(end), ..CopyPart::default() })
    }
}

/// The index after a chunk. One without entries would lead nowhere.
fn after(chunk: &Chunk) -> Result<u64, ReadError> {
    let mut next = chunk.first_index;
    for entry in entries::iter(&chunk.bytes) {
        entry.map_err(|_| ReadError::Damaged(next))?;
        next = next.saturating_add(1);
    }
    if next == chunk.first_index { Err(ReadError::Damaged(next)) } else { Ok(next) }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::{
        engine::LogStore,
        fixtures::{MemoryStore, apply},
        model::UnixMicros,
        record::commit::ChainEnd,
    };

    fn chunk(first_index: u64, entries: u64) -> Chunk {
        let mut bytes = Vec::new();
        for index in 0..entries {
            entries::push(&mut bytes, format!("entry {}", first_index + index).as_bytes()).expect("fits");
        }
        Chunk { first_index, bytes: bytes.into() }
    }

    fn end(next_index: u64) -> ChainEnd {
        ChainEnd { next_index, head: [1; 32], time: UnixMicros(0) }
    }

    fn change(random: &mut StdRng) -> Record {
        let number: u32 = random.random_range(0..3_000);
        let value = |random: &mut StdRng| {
            random.random_range(0..1_000_000).to_string().repeat(if number.is_multiple_of(5) { 300 } else { 1 })
        };
        let value = random.random_bool(0.7).then(|| value(random).into());
        Record { key: format!("key {number:05}").into(), value }
    }

    /// A writer that changes values at random, with one entry for each of its commits.
    struct Load {
        store: Arc<MemoryStore>,
        journal: Arc<Journal>,
        random: StdRng,
        committed: Vec<Vec<Record>>,
    }

    impl Load {
        fn commit(&mut self, count: usize) {
            let records: Vec<_> = (0..count).map(|_| change(&mut self.random)).collect();
            self.journal.begin();
            let index = self.committed.len() as u64;
            self.store.append(&[chunk(index, 1)], &records).expect("appended");
            // Others see it, and it is not over.
            std::thread::park_timeout(Duration::from_micros(self.random.random_range(0..100)));
            self.journal.note(&records, end(index + 1));
            self.committed.push(records);
        }
    }

    #[test]
    fn a_copy_is_what_stood_there_at_its_end_however_much_changed_meanwhile() {
        let mut commits = 0;
        for seed in 0..30 {
            let (store, journal) = (Arc::new(MemoryStore::default()), Journal::new(usize::MAX));
            let random = StdRng::seed_from_u64(seed);
            let mut load = Load { store: store.clone(), journal: Journal::new(usize::MAX), random, committed: vec![] };
            load.commit(4_000);
            load.journal = Arc::clone(&journal);
            journal.note(&[], end(1));
            let is_over = Arc::new(AtomicBool::new(false));
            let writing = std::thread::spawn({
                let is_over = Arc::clone(&is_over);
                move || {
                    while !is_over.load(Ordering::Relaxed) {
                        load.commit(10);
                    }
                    load.committed
                }
            });
            let mut copying = Copying::new(store, journal);
            let (mut records, mut chunks, mut last) = (BTreeMap::new(), Vec::new(), None);
            while let Some(part) = copying.next_part().expect("read") {
                std::thread::park_timeout(Duration::from_micros(300));
                assert_eq!(last, None, "nothing follows the end");
                apply(&mut records, &part.records);
                chunks.extend(part.chunks);
                last = part.end;
            }
            is_over.store(true, Ordering::Relaxed);
            let committed = writing.join().expect("no panic");
            let through = usize::try_from(last.expect("an end").next_index).expect("few");
            let mut expected = BTreeMap::new();
            committed[..through].iter().for_each(|records| apply(&mut expected, records));
            assert!(records == expected, "seed {seed}, through {through}");
            commits += through - 1;
            assert_eq!(chunks, (0..through).map(|index| chunk(index as u64, 1)).collect::<Vec<_>>());
        }
        assert!(commits > 100, "only {commits} commits meanwhile");
    }

    #[test]
    fn a_log_with_a_gap_or_beyond_its_end_is_not_copied() {
        for chunks in [vec![chunk(0, 2), chunk(3, 2)], vec![chunk(0, 2), chunk(2, 4)], vec![chunk(0, 2), chunk(2, 0)]] {
            let store = Arc::new(MemoryStore::default());
            store.append(&chunks, &[]).expect("appended");
            let journal = Journal::new(1_000);
            journal.note(&[], end(5));
            let mut copying = Copying::new(store, journal);
            let faults = std::iter::from_fn(|| match copying.next_part() {
                Ok(part) => part.map(|_| None),
                Err(error) => Some(Some(error)),
            });
            let fault = faults.flatten().next().expect("a fault");
            assert!(matches!(fault, CopyError::Read(ReadError::Damaged(_))), "{fault}");
        }
    }
}
