//! Shared state as the writer changes it: every operation sees what those before it did, also within one commit, and
//! nothing is in the store before the commit is.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{
    Changes, SealedValue,
    stored::{self, Head, INLINE_BYTES_MAX, PART_BYTES_MAX, Version},
    value,
};
use crate::{
    decide::Permitted,
    engine::{ReadError, Record, SharedLogStore},
    model::{Epoch, HISTORY_MAX, Revision, Scope, StateKey, TopicPattern, UnixMicros, Write},
    seal::{KEY_PREFIX, KeyChange, KeyRing, KeyRingError, NoKey, ScopeKey, SealError},
};

/// How state is kept.
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// How many versions of a value are kept, the newest among them, by scope: the first pattern that matches counts, and
    /// where none does only the newest is kept.
    pub histories: Vec<(TopicPattern, usize)>,
    /// How long it is remembered that a value is gone, in seconds.
    pub gone_kept_s: u64,
    /// How many scopes may have keys.
    pub scopes_max: usize,
    /// How many with the same first level.
    pub scopes_per_level_max: usize,
    /// How many bytes of long values may wait for their readers to take them.
    pub read_bytes_max: usize,
}

/// Why an operation on state could not be carried out.
#[derive(Debug, Error)]
pub enum TableError {
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A record is not in its form.
    #[error("the record of `{0}` is damaged")]
    Damaged(StateKey),
    /// A value cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyRingError),
    /// There is no key to seal with.
    #[error("the scope has no key")]
    NoKey,
    /// As many scopes have keys as may.
    #[error("as many scopes have keys as may")]
    ScopeLimit,
    /// The value has more parts than can be counted.
    #[error("the value is too large")]
    TooLarge,
}

/// What stands under a key at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// Which version; [`Revision::NONE`] if none.
    pub revision: Revision,
    /// The last revision that the key has had, also where the value is gone.
    pub last: Revision,
}

/// What a read finds.
#[derive(Debug)]
pub enum Lookup {
    /// A version.
    Found(Box<SealedValue>),
    /// None.
    Nothing,
    /// A version whose key was destroyed.
    Shredded(Revision),
    /// The value was deleted, or its time had run out.
    Gone {
        /// Since when.
        revision: Revision,
        /// Whether its time had run out.
        expired: bool,
    },
}

/// A head about which something is to be done: its value's time has run out, or it need no longer be remembered that it is
/// gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueKey(pub StateKey);

/// The records of the open commit over those in the store.
pub struct StateTable {
    store: SharedLogStore,
    settings: StateSettings,
    keys: Arc<KeyRing>,
    pending: HashMap<Bytes, Option<Bytes>>,
    pending_keys: HashMap<Scope, (Epoch, Arc<ScopeKey>)>,
    key_changes: Vec<KeyChange>,
    changed: Vec<(Revision, StateKey)>,
    changes: Arc<Changes>,
    read_room: Arc<Semaphore>,
}

impl StateTable {
    /// State in `store`, under `keys`. What changes is told to `changes`.
    #[must_use]
    pub fn new(store: SharedLogStore, settings: StateSettings, keys: Arc<KeyRing>, changes: Arc<Changes>) -> Self {
        let read_room = Arc::new(Semaphore::new(settings.read_bytes_max.min(u32::MAX as usize)));
        Self {
            changes,
            read_room,
            store,
            settings,
            keys,
            pending: HashMap::new(),
            pending_keys: HashMap::new(),
            key_changes: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// The keys that values are sealed with.
    #[must_use]
    pub const fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// What stands under `key`.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn current(&self, key: &StateKey, now: UnixMicros) -> Result<Current, TableError> {
        let head = self.head(key)?;
        let revision = head.live(now).map_or(Revision::NONE, |version| Revision(version.revision));
        Ok(Current { revision, last: head.last_revision() })
    }

    /// The key that a new value of the scope is sealed with; `None` where the scope has none yet.
    #[must_use]
    pub fn key_of(&self, scope: &Scope) -> Option<(Epoch, Arc<ScopeKey>)> {
        self.pending_keys.get(scope).cloned().or_else(|| self.keys.current(scope))
    }

    /// Begins the next epoch of a scope.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn begin_epoch(&mut self, scope: &Scope, now: UnixMicros) -> Result<Epoch, TableError> {
        let current = self.key_of(scope);
        let is_new = current.is_none() && self.keys.list(Some(scope), None, 1).is_empty();
        if is_new && self.is_full(scope) {
            return Err(TableError::ScopeLimit);
        }
        let change = self.keys.begin_epoch(scope, current.map(|(epoch, _)| epoch), now)?;
        let begun = change.key().ok_or(TableError::NoKey)?;
        let epoch = begun.0;
        self.pending_keys.insert(scope.clone(), begun);
        self.change_keys(change);
        Ok(epoch)
    }

    /// Who may write to scopes of one first level cannot use up all that there may be.
    fn is_full(&self, scope: &Scope) -> bool {
        let pending = |level: &str| self.pending_keys.keys().filter(|one| one.first_level() == level).count();
        let level = scope.first_level();
        self.keys.scopes() + self.pending_keys.len() >= self.settings.scopes_max
            || self.keys.scopes_of(level) + pending(level) >= self.settings.scopes_per_level_max
    }

    /// Takes a change of the keys into the commit.
    pub fn change_keys(&mut self, change: KeyChange) {
        self.take(change.records().iter().cloned());
        self.key_changes.push(change);
    }

    /// Puts a value in the place of what stands there; `revision` is the index of the entry that says so. Returns the epoch,
    /// and when the value is gone.
    ///
    /// # Errors
    /// [`TableError`]: nothing is changed then.
    pub fn put(
        &mut self,
        permitted: &Permitted<Write>,
        revision: Revision,
        now: UnixMicros,
    ) -> Result<(Epoch, Option<UnixMicros>), TableError> {
        let write = permitted.write();
        let key = &write.key;
        let (epoch, scope_key) = self.key_of(key.scope()).ok_or(TableError::NoKey)?;
        let mut head = self.head(key)?;
        let numbers = (revision, head.last_revision());
        let mut version = value::seal(write, permitted.writer(), (epoch, &scope_key), numbers, now)?;
        let parts = self.split(key, &mut version)?;
        let outdated = self.push_history(key, &mut head, now)?;
        self.take(parts);
        self.take(outdated);
        let expires_at = (version.expires_unix_us != 0).then_some(UnixMicros(version.expires_unix_us));
        let newest = Some(version);
        let due_unix_us = expires_at.map_or(0, |at| at.0);
        self.set_head(key, &head, &Head { newest, due_unix_us, gone_at: 0, expired: false, ..head.clone() });
        self.changed.push((revision, key.clone()));
        Ok((epoch, expires_at))
    }

    /// Removes a value with all its versions; `revision` is the index of the entry that says so.
    ///
    /// # Errors
    /// [`TableError`]: nothing is changed then.
    pub fn remove(
        &mut self,
        key: &StateKey,
        revision: Revision,
        expired: bool,
        now: UnixMicros,
    ) -> Result<(), TableError> {
        let head = self.head(key)?;
        let mut records = Vec::new();
        for past in &head.earlier {
            self.drop_past(key, *past, &mut records)?;
        }
        if let Some(version) = &head.newest {
            drop_parts(key, version, &mut records);
        }
        self.take(records);
        let kept_us = i64::try_from(self.settings.gone_kept_s).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        let gone = Head { gone_at: revision.0, expired, due_unix_us: now.0.saturating_add(kept_us), ..Head::default() };
        self.set_head(key, &head, &gone);
        self.changed.push((revision, key.clone()));
        Ok(())
    }

    /// When the value under a key was written, and when its time runs out, if there is one and its time does.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn lifetime(&self, DueKey(key): &DueKey) -> Result<Option<(UnixMicros, UnixMicros)>, TableError> {
        let newest = self.head(key)?.newest.filter(|version| version.expires_unix_us != 0);
        Ok(newest.map(|version| (UnixMicros(version.written_unix_us), UnixMicros(version.expires_unix_us))))
    }

    /// Forgets that a value is gone, if that is due. Whoever watches from before that cannot go on.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn forget_if_due(&mut self, DueKey(key): &DueKey, now: UnixMicros) -> Result<(), TableError> {
        let head = self.head(key)?;
        if head.newest.is_some() || head.due_unix_us == 0 || head.due_unix_us > now.0 {
            return Ok(());
        }
        let gone_key = stored::gone_key(key.scope());
        let before = self.record(&gone_key)?.map_or(0, |value| number(&value));
        self.pending.insert(gone_key, Some(Bytes::copy_from_slice(&before.max(head.gone_at).to_be_bytes())));
        self.pending.insert(stored::due_key(key, head.due_unix_us), None);
        self.pending.insert(stored::head_key(key), None);
        self.pending.insert(stored::tombstone_key(key), None);
        Ok(())
    }

    /// Finds the newest version, or that of one revision; or that the value is gone.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn find(&self, key: &StateKey, revision: Option<Revision>, now: UnixMicros) -> Result<Lookup, TableError> {
        let head = self.head(key)?;
        let Some(newest) = head.live(now) else {
            let gone = Revision(head.gone_at);
            let is_that = gone != Revision::NONE && revision.is_none_or(|revision| revision == gone);
            return Ok(match is_that {
                true => Lookup::Gone { revision: gone, expired: head.expired },
                false => Lookup::Nothing,
            });
        };
        let version = match revision {
            Some(Revision(wanted)) if wanted != newest.revision => {
                self.past(key, wanted)?.filter(|past| !past.is_over(now))
            }
            _ => Some(newest.clone()),
        };
        let Some(version) = version else { return Ok(Lookup::Nothing) };
        match self.keys.key(key.scope(), Epoch(version.epoch)) {
            Err(NoKey::Shredded) => Ok(Lookup::Shredded(Revision(version.revision))),
            // What is missing by mistake is found out when it is opened.
            Ok(_) | Err(NoKey::Unknown) => Ok(Lookup::Found(Box::new(SealedValue::new(key.clone(), version)))),
        }
    }

    /// What was found, with its parts as they are now: what replaces it takes them away. Where too much waits for its readers,
    /// they are left in the store.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn take_along(&self, found: SealedValue) -> Result<SealedValue, TableError> {
        let bytes = u32::try_from(found.size_bytes()).unwrap_or(u32::MAX);
        match Arc::clone(&self.read_room).try_acquire_many_owned(bytes) {
            Ok(room) if found.is_long() => found.whole(room, |part| self.record(part)),
            _ => Ok(found),
        }
    }

    /// The changed records of the open commit.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let record = |(key, value): (&Bytes, &Option<Bytes>)| Record { key: key.clone(), value: value.clone() };
        self.pending.iter().map(record).collect()
    }

    /// The log ends at `index` as this begins.
    pub fn begin(&self, index: Revision) {
        self.changes.begin(index);
    }

    /// The commit is durable: what changed is told.
    pub fn committed(&mut self) {
        self.pending.clear();
        self.pending_keys.clear();
        self.key_changes.drain(..).for_each(|change| self.keys.apply(change));
        if !self.changed.is_empty() {
            self.changes.note(self.changed.drain(..));
        }
    }

    /// The commit failed, and what persisted of it is not known: what was pending is not, and the keys are read back.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn recover(&mut self) -> Result<(), TableError> {
        self.pending.clear();
        self.pending_keys.clear();
        self.key_changes.clear();
        self.changed.clear();
        self.keys.reload(self.store.records(KEY_PREFIX)?)?;
        Ok(())
    }

    fn head(&self, key: &StateKey) -> Result<Head, TableError> {
        let record = match self.record(&stored::head_key(key))? {
            Some(record) => Some(record),
            None => self.record(&stored::tombstone_key(key))?,
        };
        let Some(record) = record else { return Ok(Head::default()) };
        let head = Head::decode(record).map_err(|_| TableError::Damaged(key.clone()))?;
        let last = head.last_revision().0;
        // One that was put here from elsewhere.
        if head.earlier.iter().any(|earlier| *earlier >= last) {
            return Err(TableError::Damaged(key.clone()));
        }
        Ok(head)
    }

    fn past(&self, key: &StateKey, revision: u64) -> Result<Option<Version>, TableError> {
        let Some(record) = self.record(&stored::past_key(key, revision))? else { return Ok(None) };
        let version = Version::decode(record).ok().filter(|version| version.revision == revision);
        version.map(Some).ok_or_else(|| TableError::Damaged(key.clone()))
    }

    fn record(&self, key: &Bytes) -> Result<Option<Bytes>, ReadError> {
        match self.pending.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.store.record(key),
        }
    }

    fn take(&mut self, records: impl IntoIterator<Item = Record>) {
        self.pending.extend(records.into_iter().map(|record| (record.key, record.value)));
    }

    fn set_head(&mut self, key: &StateKey, before: &Head, head: &Head) {
        if before.due_unix_us != head.due_unix_us {
            if before.due_unix_us != 0 {
                self.pending.insert(stored::due_key(key, before.due_unix_us), None);
            }
            if head.due_unix_us != 0 {
                self.pending.insert(stored::due_key(key, head.due_unix_us), Some(Bytes::new()));
            }
        }
        let record = Some(head.encode_to_vec().into());
        let (live, gone) = if head.newest.is_some() { (record, None) } else { (None, record) };
        self.pending.insert(stored::head_key(key), live);
        if gone.is_some() || before.gone_at != 0 {
            self.pending.insert(stored::tombstone_key(key), gone);
        }
    }

    /// Takes a long sealed value out of its version.
    fn split(&self, key: &StateKey, version: &mut Version) -> Result<Vec<Record>, TableError> {
        if version.sealed.len() <= INLINE_BYTES_MAX {
            return Ok(Vec::new());
        }
        let sealed = std::mem::take(&mut version.sealed);
        let parts = sealed.len().div_ceil(PART_BYTES_MAX);
        let parts = u16::try_from(parts).map_err(|_| TableError::TooLarge)?;
        version.parts = parts.into();
        let part = |(part, from): (u16, usize)| Record {
            key: stored::part_key(key, version.revision, part),
            value: Some(sealed.slice(from..sealed.len().min(from + PART_BYTES_MAX))),
        };
        Ok((0..parts).zip((0..sealed.len()).step_by(PART_BYTES_MAX)).map(part).collect())
    }

    /// Makes the newest version an earlier one, as far as earlier ones are kept. One whose time has run out is not.
    fn push_history(&self, key: &StateKey, head: &mut Head, now: UnixMicros) -> Result<Vec<Record>, TableError> {
        let mut records = Vec::new();
        let Some(version) = head.newest.take() else { return Ok(records) };
        let earlier_max = self.history(key.scope()).saturating_sub(1);
        if earlier_max == 0 || version.is_over(now) {
            drop_parts(key, &version, &mut records);
        } else {
            head.earlier.push(version.revision);
            let value = Some(version.encode_to_vec().into());
            records.push(Record { key: stored::past_key(key, version.revision), value });
        }
        // What stood before one whose time has run out is gone with it.
        let kept_max = if version.is_over(now) { 0 } else { earlier_max };
        while head.earlier.len() > kept_max {
            self.drop_past(key, head.earlier.remove(0), &mut records)?;
        }
        Ok(records)
    }

    fn history(&self, scope: &Scope) -> usize {
        let setting = self.settings.histories.iter().find(|(pattern, _)| pattern.matches(scope.as_topic()));
        setting.map_or(1, |(_, versions)| (*versions).clamp(1, HISTORY_MAX))
    }

    fn drop_past(&self, key: &StateKey, revision: u64, records: &mut Vec<Record>) -> Result<(), TableError> {
        if let Some(version) = self.past(key, revision)? {
            drop_parts(key, &version, records);
        }
        records.push(Record { key: stored::past_key(key, revision), value: None });
        Ok(())
    }
}

fn drop_parts(key: &StateKey, version: &Version, records: &mut Vec<Record>) {
    let parts = 0..u16::try_from(version.parts).unwrap_or(u16::MAX);
    records.extend(parts.map(|part| Record { key: stored::part_key(key, version.revision, part), value: None }));
}

/// Big-endian; 0 where it is none.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}
