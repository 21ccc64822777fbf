//! What changes beside the log while a copy of everything is made, commit by commit.
//!
//! The writer never waits for it: a journal that is full fails, and with it the copy, and nothing else.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::{Condvar, Mutex};
use thiserror::Error;
use veribus_proto::chain::LeafHash;

use super::commit::ChainEnd;
use crate::engine::Record;

/// What a change takes beside its key and value, about, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// Why a journal does not say what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JournalFault {
    /// More changed than it holds, and was not taken in time.
    #[error("more changed meanwhile than the journal holds")]
    Full,
    /// A write to the log failed, so that it is not known what changed.
    #[error("a write to the log failed meanwhile")]
    WriteFailed,
}

/// Where the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// How many entries it has.
    pub next_index: u64,
    /// The leaf hash of the last of them.
    pub head: LeafHash,
}

impl From<ChainEnd> for LogEnd {
    fn from(end: ChainEnd) -> Self {
        Self { next_index: end.next_index, head: end.head }
    }
}

/// Some changes, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There are others.
    Some(Vec<Record>),
    /// These are the last, and no others are kept: the log ends here.
    Last(Vec<Record>, LogEnd),
}

/// The changes that nobody has taken yet.
pub(super) struct Journal {
    bytes_max: usize,
    open: Mutex<Result<Open, JournalFault>>,
    /// A commit is over, or the journal has failed.
    over: Condvar,
}

struct Open {
    changes: VecDeque<Record>,
    bytes: usize,
    end: LogEnd,
    /// How many commits have begun, and how many are over.
    commits: (u64, u64),
    is_closed: bool,
}

impl Journal {
    /// Holds up to `bytes_max`, about.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let end = ChainEnd::GENESIS.into();
        let open = Open { changes: VecDeque::new(), bytes: 0, end, commits: (0, 0), is_closed: false };
        Arc::new(Self { bytes_max, open: Mutex::new(Ok(open)), over: Condvar::new() })
    }

    /// A commit begins: whoever reads may see what it changes from now on.
    pub(super) fn begin(&self) {
        if let Ok(open) = &mut *self.open.lock() {
            open.commits.0 += 1;
        }
    }

    /// Takes down what a commit changed, which is durable.
    pub(super) fn note(&self, records: &[Record], end: ChainEnd) {
        let mut state = self.open.lock();
        self.over.notify_all();
        let Ok(open) = &mut *state else { return };
        if open.is_closed {
            return;
        }
        open.end = end.into();
        open.commits.1 = open.commits.0;
        open.bytes = open.bytes.saturating_add(records.iter().map(bytes_of).sum());
        if open.bytes > self.bytes_max {
            *state = Err(JournalFault::Full);
            return;
        }
        open.changes.extend(records.iter().cloned());
    }

    /// What a commit changed is not known.
    pub(super) fn fail(&self) {
        let mut state = self.open.lock();
        self.over.notify_all();
        // What is closed was complete before.
        if !state.as_ref().is_ok_and(|open| open.is_closed) {
            *state = Err(JournalFault::WriteFailed);
        }
    }

    /// Waits until what may have been read up to now is taken down: commits show before they are over.
    pub(super) fn settle(&self) -> Result<(), JournalFault> {
        let mut state = self.open.lock();
        let begun = state.as_ref().map_err(|fault| *fault)?.commits.0;
        self.over.wait_while(&mut state, |state| state.as_ref().is_ok_and(|open| open.commits.1 < begun));
        state.as_ref().map(drop).map_err(|fault| *fault)
    }

    /// The oldest changes, about `bytes_max` of them.
    pub(super) fn take(&self, bytes_max: usize) -> Result<Vec<Record>, JournalFault> {
        self.open.lock().as_mut().map(|open| open.take(bytes_max)).map_err(|fault| *fault)
    }

    /// The same; where these are all, the journal ends with them.
    pub(super) fn take_or_close(&self, bytes_max: usize) -> Result<Taken, JournalFault> {
        let mut state = self.open.lock();
        let open = state.as_mut().map_err(|fault| *fault)?;
        let changes = open.take(bytes_max);
        if !open.changes.is_empty() {
            return Ok(Taken::Some(changes));
        }
        open.is_closed = true;
        Ok(Taken::Last(changes, open.end))
    }
}

impl Open {
    fn take(&mut self, bytes_max: usize) -> Vec<Record> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && let Some(record) = self.changes.pop_front()
        {
            bytes += bytes_of(&record);
            taken.push(record);
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        taken
    }
}

fn bytes_of(record: &Record) -> usize {
    RECORD_OVERHEAD_BYTES + record.key.len() + record.value.as_ref().map_or(0, bytes::Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnixMicros;

    fn change(key: &'static str) -> Record {
        Record { key: key.into(), value: Some("value".into()) }
    }

    fn end(next_index: u64) -> ChainEnd {
        ChainEnd { next_index, head: [7; 32], time: UnixMicros(0) }
    }

    #[test]
    fn changes_come_back_in_order_up_to_the_commit_at_which_it_is_closed() {
        let journal = Journal::new(10_000);
        journal.note(&[change("a"), change("b")], end(3));
        journal.note(&[change("a")], end(5));
        assert_eq!(journal.take(1), Ok(vec![change("a")]));
        assert_eq!(journal.take_or_close(1), Ok(Taken::Some(vec![change("b")])));
        journal.note(&[change("c")], end(6));
        let last = vec![change("a"), change("c")];
        assert_eq!(journal.take_or_close(10_000), Ok(Taken::Last(last, end(6).into())));
        journal.note(&[change("d")], end(7));
        journal.fail();
        assert_eq!(journal.take_or_close(10_000), Ok(Taken::Last(vec![], end(6).into())), "nothing after the end");
    }

    #[test]
    fn a_journal_that_is_full_keeps_nothing_and_says_so_from_then_on() {
        let journal = Journal::new(250);
        journal.note(&[change("a"), change("b")], end(1));
        assert_eq!(journal.take(1).map(|taken| taken.len()), Ok(1));
        journal.note(&[change("c")], end(2));
        journal.note(&[change("d")], end(3));
        assert_eq!(journal.take(1), Err(JournalFault::Full));
        assert_eq!(journal.take_or_close(1), Err(JournalFault::Full));
        assert!(journal.open.lock().is_err(), "it holds nothing any more");
    }

    #[test]
    fn whoever_has_read_waits_until_the_commit_that_he_may_have_seen_is_over() {
        for fails in [false, true] {
            let journal = Journal::new(10_000);
            journal.begin();
            let waiting = std::thread::spawn({
                let journal = Arc::clone(&journal);
                move || journal.settle().and_then(|()| journal.take_or_close(10_000))
            });
            std::thread::park_timeout(std::time::Duration::from_millis(20));
            assert!(!waiting.is_finished());
            if fails {
                journal.fail();
            } else {
                journal.note(&[change("a")], end(1));
            }
            let expected = Ok(Taken::Last(vec![change("a")], end(1).into()));
            let expected = if fails { Err(JournalFault::WriteFailed) } else { expected };
            assert_eq!(waiting.join().expect("no panic"), expected);
        }
    }

    #[test]
    fn after_a_write_that_failed_nobody_knows_what_changed() {
        let journal = Journal::new(10_000);
        journal.note(&[change("a")], end(1));
        journal.fail();
        assert_eq!(journal.take(1), Err(JournalFault::WriteFailed));
    }
}
