//! Shared state as it is in the store, for those who look through it: lists, and watchers who are far behind.

use std::collections::BinaryHeap;

use bytes::Bytes;
use prost::Message as _;

use super::{
    Since, TableError,
    stored::{self, Head},
    table::{DueKey, number},
    value::{self, Metadata},
};
use crate::{
    engine::{ReadError, SharedLogStore},
    model::{Revision, Scope, StateKey, StatePrefix, UnixMicros},
};

/// How many records are read at a time.
const PAGE_RECORDS: usize = 1_024;

/// Reads what is durable.
#[derive(Clone)]
pub struct StateReader {
    store: SharedLogStore,
}

/// Where to go on looking for what is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueFrom(Bytes);

impl DueFrom {
    /// What is due then or later.
    #[must_use]
    pub fn time(time: UnixMicros) -> Self {
        Self(stored::due_until(time).freeze())
    }
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// What is known of each value, in key order.
    pub values: Vec<Metadata>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<StateKey>,
}

impl StateReader {
    /// Reads from `store`.
    #[must_use]
    pub const fn new(store: SharedLogStore) -> Self {
        Self { store }
    }

    /// The store, for the parts of long values.
    #[must_use]
    pub const fn store(&self) -> &SharedLogStore {
        &self.store
    }

    /// The first `max` values after `after` that the prefix names.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn list(
        &self,
        prefix: &StatePrefix,
        after: Option<&StateKey>,
        max: usize,
        now: UnixMicros,
    ) -> Result<Listing, TableError> {
        let mut listing = Listing { values: Vec::new(), next: None };
        for head in self.heads(prefix, after) {
            let (key, head) = head?;
            if let Some(version) = head.live(now) {
                if listing.values.len() >= max {
                    listing.next = listing.values.last().map(|last| last.key.clone());
                    break;
                }
                let earlier = head.earlier.iter().copied().map(Revision).collect();
                listing.values.push(value::metadata(key, version, earlier));
            }
        }
        Ok(listing)
    }

    /// Everything that is kept of the changes after `after` and up to `through`, the first `max` of them.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn changed(
        &self,
        prefix: &StatePrefix,
        after: Revision,
        through: Revision,
        max: usize,
    ) -> Result<Since, TableError> {
        let mut first: BinaryHeap<(Revision, StateKey)> = BinaryHeap::new();
        for head in self.heads(prefix, None) {
            let (key, head) = head?;
            let revisions = head.earlier.iter().copied().map(Revision).chain([head.last_revision()]);
            for revision in revisions.filter(|revision| after < *revision && *revision <= through) {
                first.push((revision, key.clone()));
                if first.len() > max {
                    first.pop();
                }
            }
        }
        let changes = first.into_sorted_vec();
        let is_all = changes.len() < max;
        let last = changes.last().map_or(through, |(revision, _)| *revision);
        Ok(Since { through: if is_all { through } else { last }, changes })
    }

    /// The newest deletion in the scope that is no longer remembered: who watches from before that has missed it.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn forgotten(&self, scope: &Scope) -> Result<Revision, ReadError> {
        let record = self.store.record(&stored::gone_key(scope))?;
        Ok(Revision(record.map_or(0, |value| number(&value))))
    }

    /// The first `max` keys about which something is due at `until` and was not before `from`, and where to go on.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn due(&self, from: &DueFrom, until: UnixMicros, max: usize) -> Result<(Vec<DueKey>, DueFrom), ReadError> {
        let until = stored::due_until(UnixMicros(until.0.saturating_add(1)));
        let found = self.store.records_between(&from.0, &until, max)?;
        let next = found.last().map_or_else(|| from.clone(), |(last, _)| DueFrom([&last[..], &[0]].concat().into()));
        Ok((found.iter().filter_map(|(key, _)| stored::key_of_due(key)).map(DueKey).collect(), next))
    }

    /// Page by page.
    fn heads(
        &self,
        prefix: &StatePrefix,
        after: Option<&StateKey>,
    ) -> impl Iterator<Item = Result<(StateKey, Head), TableError>> {
        let (mut from, to) = stored::heads_of(prefix, after);
        let mut page = Vec::new().into_iter();
        let mut is_last = false;
        std::iter::from_fn(move || {
            if page.len() == 0 && !is_last {
                let records = match self.store.records_between(&from, &to, PAGE_RECORDS) {
                    Ok(records) => records,
                    Err(error) => {
                        is_last = true;
                        return Some(Err(error.into()));
                    }
                };
                is_last = records.len() < PAGE_RECORDS;
                if let Some((last, _)) = records.last() {
                    from = [&last[..], &[0]].concat();
                }
                page = records.into_iter();
            }
            let (record_key, record) = page.next()?;
            Some(parse(&record_key, record))
        })
    }
}

fn parse(record_key: &[u8], record: bytes::Bytes) -> Result<(StateKey, Head), TableError> {
    let key =
        stored::key_of_head(record_key).ok_or_else(|| ReadError::Store("a key of state is damaged".to_owned()))?;
    let head = Head::decode(record).map_err(|_| TableError::Damaged(key.clone()))?;
    Ok((key, head))
}
