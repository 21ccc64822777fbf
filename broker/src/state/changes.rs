//! What changed lately, for those who watch. Only the fact: values are read like any others.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::{Revision, StateKey, StatePrefix};

/// How many changes are remembered. Whoever is further behind looks through the records instead.
const REMEMBERED_MAX: usize = 65_536;
/// How many are looked at in one go, while nobody else can; and in how many goes, at most.
const LOOKED_AT_MAX: usize = 4_096;
const GOES_MAX: usize = 4;

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
    /// Changes of the same key share it, so that whoever collects them tells keys apart by where they stand.
    changes: VecDeque<(Revision, Arc<StateKey>)>,
    keys: HashSet<Arc<StateKey>>,
}

impl Latest {
    fn after(start: Revision) -> Self {
        Self { complete_after: start, changes: VecDeque::new(), keys: HashSet::new() }
    }

    fn push(&mut self, revision: Revision, key: StateKey) {
        if self.changes.len() >= REMEMBERED_MAX
            && let Some((forgotten, key)) = self.changes.pop_front()
        {
            self.complete_after = forgotten;
            // Here and among the keys: no other change is of it.
            if Arc::strong_count(&key) == 2 {
                self.keys.remove(&key);
            }
        }
        let known = self.keys.get(&key).map(Arc::clone);
        let key = known.unwrap_or_else(|| {
            let key = Arc::new(key);
            self.keys.insert(Arc::clone(&key));
            key
        });
        self.changes.push_back((revision, key));
    }
}

/// Changes of one key that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: StateKey,
    /// The first of them.
    pub first: Revision,
    /// The last of them.
    pub last: Revision,
    /// How many.
    pub count: u64,
}

impl Change {
    /// A single one.
    #[must_use]
    pub const fn one(revision: Revision, key: StateKey) -> Self {
        Self { key, first: revision, last: revision, count: 1 }
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn spans(&self, revision: Revision) -> bool {
        (self.first..=self.last).contains(&revision)
    }
}

/// Some changes, in the order of the first of each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// Which keys changed.
    pub changes: Vec<Change>,
    /// There are no others up to here.
    pub through: Revision,
}

/// How far one goes who collects changes.
#[derive(Debug, Clone, Copy)]
pub struct CollectLimits {
    /// Up to so many stand one by one; those of a key together where there are more.
    pub apart_max: usize,
    /// So many keys, at most.
    pub keys_max: usize,
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
        Self { latest: Mutex::new(Latest::after(Revision::NONE)), through: watch::Sender::new(Revision::NONE) }
    }

    /// Remembers what comes after `start`, the last entry of the log.
    pub fn begin(&self, start: Revision) {
        *self.latest.lock() = Latest::after(start);
        self.through.send_replace(start);
    }

    /// Takes note of changes that are durable, in the order of their revisions.
    pub fn note(&self, changes: impl IntoIterator<Item = (Revision, StateKey)>) {
        let mut latest = self.latest.lock();
        let mut through = None;
        for (revision, key) in changes {
            latest.push(revision, key);
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

    /// The changes after `revision` of keys that `prefix` names, as far as they are collected; `None` where that is too long
    /// ago.
    #[must_use]
    pub fn after(&self, revision: Revision, prefix: &StatePrefix, limits: CollectLimits) -> Option<Since> {
        let mut collected = Collected::new(revision, prefix, limits);
        for _ in 0..GOES_MAX {
            let latest = self.latest.lock();
            let through = collected.since.through;
            if through < latest.complete_after {
                // What was collected stands: the rest is forgotten, and looked for among all keys.
                return (through > revision).then_some(collected.since);
            }
            let from = latest.changes.partition_point(|(changed, _)| *changed <= through);
            let mut looked_at = 0;
            for (changed, key) in latest.changes.range(from..).take(LOOKED_AT_MAX) {
                looked_at += 1;
                if !collected.add(*changed, key) {
                    return Some(collected.since);
                }
            }
            if looked_at < LOOKED_AT_MAX {
                break;
            }
        }
        Some(collected.since)
    }
}

/// What is collected for one who asks.
struct Collected<'p> {
    prefix: &'p StatePrefix,
    limits: CollectLimits,
    since: Since,
    /// Of each key that was met, by where it stands while it is held: its place among the changes that go together, or `None`
    /// where it was not asked for.
    met: HashMap<*const StateKey, Option<usize>>,
    /// Keeps them where they stand.
    held: Vec<Arc<StateKey>>,
    are_apart: bool,
}

impl<'p> Collected<'p> {
    fn new(after: Revision, prefix: &'p StatePrefix, limits: CollectLimits) -> Self {
        let since = Since { changes: Vec::new(), through: after };
        Self { prefix, limits, since, met: HashMap::new(), held: Vec::new(), are_apart: true }
    }

    /// Takes a change in; `false` where there is no room for another key.
    fn add(&mut self, revision: Revision, key: &Arc<StateKey>) -> bool {
        let met = self.met.get(&Arc::as_ptr(key)).copied();
        let place = match met {
            Some(None) => {
                self.since.through = revision;
                return true;
            }
            Some(place) => place,
            None if !self.prefix.matches(key) => {
                self.meet(key, None);
                self.since.through = revision;
                return true;
            }
            None => None,
        };
        if self.are_apart && self.since.changes.len() >= self.limits.apart_max {
            self.put_together();
            return self.add(revision, key);
        }
        let keys = self.since.changes.len();
        let known = place.filter(|_| !self.are_apart).and_then(|place| self.since.changes.get_mut(place));
        if let Some(known) = known {
            known.last = revision;
            known.count += 1;
        } else if !self.are_apart && keys >= self.limits.keys_max {
            return false;
        } else {
            self.meet(key, Some(keys));
            self.since.changes.push(Change::one(revision, StateKey::clone(key)));
        }
        self.since.through = revision;
        true
    }

    fn meet(&mut self, key: &Arc<StateKey>, place: Option<usize>) {
        if self.met.insert(Arc::as_ptr(key), place).is_none() {
            self.held.push(Arc::clone(key));
        }
    }

    /// From now on the changes of a key go together, those that stand there already among them.
    fn put_together(&mut self) {
        self.are_apart = false;
        let mut places: HashMap<StateKey, usize> = HashMap::new();
        let mut together: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.since.changes) {
            match places.get(&change.key).and_then(|place| together.get_mut(*place)) {
                Some(known) => {
                    known.last = change.last;
                    known.count += change.count;
                }
                None => {
                    places.insert(change.key.clone(), together.len());
                    together.push(change);
                }
            }
        }
        for key in &self.held {
            if let Some(place) = places.get(&**key) {
                self.met.insert(Arc::as_ptr(key), Some(*place));
            }
        }
        self.since.changes = together;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: CollectLimits = CollectLimits { apart_max: 100, keys_max: 100 };
    const TOGETHER: CollectLimits = CollectLimits { apart_max: 0, keys_max: 2 };

    fn key(text: &str) -> StateKey {
        StateKey::parse(text).expect("a key")
    }

    fn prefix(text: &str) -> StatePrefix {
        StatePrefix::parse(text).expect("a prefix")
    }

    fn one(revision: u64, text: &str) -> Change {
        Change::one(Revision(revision), key(text))
    }

    #[test]
    fn whoever_asks_gets_what_is_new_to_him_in_order_and_how_far_that_goes() {
        let changes = Changes::new();
        changes.begin(Revision(10));
        changes.note([(Revision(12), key("a/x")), (Revision(14), key("b/y")), (Revision(15), key("a/z"))]);
        let since =
            |revision, limits| changes.after(Revision(revision), &prefix("a"), limits).expect("not too long ago");
        let both = vec![one(12, "a/x"), one(15, "a/z")];
        assert_eq!(since(10, APART), Since { changes: both.clone(), through: Revision(15) });
        let narrow = CollectLimits { apart_max: 0, keys_max: 1 };
        assert_eq!(since(10, narrow), Since { changes: both[..1].to_vec(), through: Revision(14) });
        assert_eq!(since(14, APART), Since { changes: both[1..].to_vec(), through: Revision(15) });
        assert_eq!(since(15, APART), Since { changes: vec![], through: Revision(15) });
        assert_eq!(changes.after(Revision(9), &prefix("a"), APART), None, "before what is remembered");
    }

    #[test]
    fn what_is_forgotten_is_not_passed_over_in_silence() {
        let changes = Changes::new();
        changes.note((1..=REMEMBERED_MAX as u64 + 2).map(|revision| (Revision(revision), key("a/x"))));
        assert_eq!(changes.after(Revision(1), &prefix("a"), APART), None);
        let since = changes.after(Revision(2), &prefix("a"), APART).expect("remembered");
        assert_eq!(since.changes.first().map(|change| change.first), Some(Revision(3)));
    }

    #[test]
    fn many_changes_of_a_key_cost_what_the_key_does() {
        let changes = Changes::new();
        let names = ["a/x", "b/y", "a/z"];
        changes.note((1..=9_000u64).zip(names.iter().cycle()).map(|(revision, name)| (Revision(revision), key(name))));
        let since = changes.after(Revision::NONE, &prefix("a"), TOGETHER).expect("remembered");
        let change =
            |first, last, name| Change { key: key(name), first: Revision(first), last: Revision(last), count: 3_000 };
        assert_eq!(since.changes, [change(1, 8_998, "a/x"), change(3, 9_000, "a/z")]);
        assert_eq!(since.through, Revision(9_000));
    }
}
