//! Shared state as it is in the store, for those who look through it: lists, and watchers who are far behind.

use bytes::Bytes;
use prost::Message as _;

use super::{
    Change, TableError,
    stored::{self, Head, Heads},
    table::{DueKey, number},
    value::{self, Metadata},
};
use crate::{
    engine::{ReadError, SharedLogStore},
    model::{Revision, Scope, StateKey, StatePrefix, UnixMicros},
};

/// How many records are read at a time.
pub const PAGE_RECORDS: usize = 1_024;

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

/// Some heads that were looked at, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What is of interest of them.
    pub found: Vec<T>,
    /// Behind which key to go on; `None` where there are no more.
    pub next: Option<StateKey>,
}

/// How far those who look for what changed have come: first through the values that are there, then through those that are
/// gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    heads: Heads,
    after: Option<StateKey>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { heads: Heads::Live, after: None }
    }
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

    /// The values among the next `max` keys after `after` that the prefix names, [`PAGE_RECORDS`] at most.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn list(
        &self,
        prefix: &StatePrefix,
        after: Option<&StateKey>,
        max: usize,
        now: UnixMicros,
    ) -> Result<Page<Metadata>, TableError> {
        let Page { found, next } = self.page(Heads::Live, prefix, after, max.min(PAGE_RECORDS))?;
        let metadata = |(key, head): (StateKey, Head)| {
            let earlier = head.earlier.iter().copied().map(Revision).collect();
            head.live(now).map(|version| value::metadata(key, version, earlier))
        };
        Ok(Page { found: found.into_iter().filter_map(metadata).collect(), next })
    }

    /// The last change of each of the next [`PAGE_RECORDS`] keys that the prefix names, where it came after `after`; and how
    /// far that goes, `None` where all were looked at.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn changed(
        &self,
        prefix: &StatePrefix,
        after: Revision,
        cursor: &Cursor,
    ) -> Result<(Vec<Change>, Option<Cursor>), TableError> {
        let Page { found, next } = self.page(cursor.heads, prefix, cursor.after.as_ref(), PAGE_RECORDS)?;
        let changes = found.into_iter().map(|(key, head)| (head.last_revision(), key));
        let changes = changes.filter(|(last, _)| after < *last).map(|(last, key)| Change::one(last, key)).collect();
        let next = match (next, cursor.heads) {
            (Some(key), heads) => Some(Cursor { heads, after: Some(key) }),
            (None, Heads::Live) => Some(Cursor { heads: Heads::Gone, after: None }),
            (None, Heads::Gone) => None,
        };
        Ok((changes, next))
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

    fn page(
        &self,
        heads: Heads,
        prefix: &StatePrefix,
        after: Option<&StateKey>,
        max: usize,
    ) -> Result<Page<(StateKey, Head)>, TableError> {
        let (from, to) = heads.of(prefix, after);
        let records = self.store.records_between(&from, &to, max)?;
        let is_last = records.len() < max;
        let parse = |(record_key, record): (Bytes, Bytes)| {
            let damaged = || ReadError::Store("a key of state is damaged".to_owned());
            let key = heads.key(&record_key).ok_or_else(damaged)?;
            let head = Head::decode(record).map_err(|_| TableError::Damaged(key.clone()))?;
            Ok((key, head))
        };
        let found = records.into_iter().map(parse).collect::<Result<Vec<_>, TableError>>()?;
        let next = if is_last { None } else { found.last().map(|(key, _)| key.clone()) };
        Ok(Page { found, next })
    }
}
