//! What changed lately, for those who watch. Only the fact: values are read like any others.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{Revision, StateKey, StatePrefix};

/// How many changes are remembered. Whoever is further behind looks through the records instead.
const REMEMBERED_MAX: usize = 65_536;
/// How many are looked at in one go, while nobody else can.
const LOOKED_AT_MAX: usize = 4_096;

/// The latest changes of shared state.
#[derive(Debug)]
pub struct Changes {
    latest: Mutex<Latest>,
    through: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Latest {
    /// All changes after this one are remembered.
    complete_after: Revision,
    changes: VecDeque<(Revision, StateKey)>,
}

/// Some changes in the order of their revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// Which keys changed, and to which revision.
    pub changes: Vec<(Revision, StateKey)>,
    /// There are no others up to here.
    pub through: Revision,
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

impl Changes {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let latest = Latest { complete_after: Revision::NONE, changes: VecDeque::new() };
        Self { latest: Mutex::new(latest), through: watch::Sender::new(Revision::NONE) }
    }

    /// Remembers what comes after `start`, the last entry of the log.
    pub fn begin(&self, start: Revision) {
        *self.latest.lock() = Latest { complete_after: start, changes: VecDeque::new() };
        self.through.send_replace(start);
    }

    /// Takes note of changes that are durable, in the order of their revisions.
    pub fn note(&self, changes: impl IntoIterator<Item = (Revision, StateKey)>) {
        let mut latest = self.latest.lock();
        let mut through = None;
        for (revision, key) in changes {
            if latest.changes.len() >= REMEMBERED_MAX
                && let Some((forgotten, _)) = latest.changes.pop_front()
            {
                latest.complete_after = forgotten;
            }
            latest.changes.push_back((revision, key));
            through = Some(revision);
        }
        drop(latest);
        if let Some(through) = through {
            self.through.send_replace(through);
        }
    }

    /// The last change.
    #[must_use]
    pub fn through(&self) -> Revision {
        *self.through.borrow()
    }

    /// Tells when there is another.
    #[must_use]
    pub fn listen(&self) -> watch::Receiver<Revision> {
        self.through.subscribe()
    }

    /// The first changes after `revision` of keys that `prefix` names, at most `max`; `None` where that is too long ago.
    #[must_use]
    pub fn after(&self, revision: Revision, prefix: &StatePrefix, max: usize) -> Option<Since> {
        let latest = self.latest.lock();
        if revision < latest.complete_after {
            return None;
        }
        let first = latest.changes.partition_point(|(changed, _)| *changed <= revision);
        let mut through = revision;
        let mut changes = Vec::new();
        for (changed, key) in latest.changes.range(first..).take(LOOKED_AT_MAX) {
            if prefix.matches(key) {
                if changes.len() >= max {
                    break;
                }
                changes.push((*changed, key.clone()));
            }
            through = *changed;
        }
        Some(Since { changes, through })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> StateKey {
        StateKey::parse(text).expect("a key")
    }

    fn prefix(text: &str) -> StatePrefix {
        StatePrefix::parse(text).expect("a prefix")
    }

    #[test]
    fn whoever_asks_gets_what_is_new_to_him_in_order_and_how_far_that_goes() {
        let changes = Changes::new();
        changes.begin(Revision(10));
        changes.note([(Revision(12), key("a/x")), (Revision(14), key("b/y")), (Revision(15), key("a/z"))]);
        let since = |revision, max| changes.after(Revision(revision), &prefix("a"), max).expect("not too long ago");
        let both = vec![(Revision(12), key("a/x")), (Revision(15), key("a/z"))];
        assert_eq!(since(10, 9), Since { changes: both.clone(), through: Revision(15) });
        assert_eq!(since(10, 1), Since { changes: both[..1].to_vec(), through: Revision(14) });
        assert_eq!(since(14, 9), Since { changes: both[1..].to_vec(), through: Revision(15) });
        assert_eq!(since(15, 9), Since { changes: vec![], through: Revision(15) });
        assert_eq!(changes.after(Revision(9), &prefix("a"), 9), None, "before what is remembered");
    }

    #[test]
    fn what_is_forgotten_is_not_passed_over_in_silence() {
        let changes = Changes::new();
        changes.note((1..=REMEMBERED_MAX as u64 + 2).map(|revision| (Revision(revision), key("a/x"))));
        assert_eq!(changes.after(Revision(1), &prefix("a"), 1), None);
        let since = changes.after(Revision(2), &prefix("a"), 1).expect("remembered");
        assert_eq!(since.changes, [(Revision(3), key("a/x"))]);
    }
}
