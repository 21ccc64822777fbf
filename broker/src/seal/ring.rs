//! The keys of all scopes and epochs, unwrapped, for as long as the broker runs.
//!
//! Readers look keys up at any time. Changes have one maker: it makes a [`KeyChange`], commits its records together with the
//! audit entry, and applies it when they are durable. A change that is dropped has changed nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use thiserror::Error;

use super::{
    envelope::SealError,
    key::ScopeKey,
    node::NodeKey,
    root::{RootKey, RootKeyId, WrapContext},
    stored::{StoredBody, StoredKey},
};
use crate::{
    engine::Record,
    model::{Epoch, Scope, UnixMicros},
};

pub use super::stored::KEY_PREFIX;

/// Why the keys cannot be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyRingError {
    /// A record that nobody here wrote.
    #[error("the store holds a damaged key record `{0}`")]
    Damaged(String),
    /// A key is wrapped by another root key.
    #[error(
        "the key of scope `{scope}`, epoch {epoch}, is wrapped by root key `{wrapped_by}`, but `{given}` was given"
    )]
    OtherRoot {
        /// The scope.
        scope: Scope,
        /// The epoch.
        epoch: Epoch,
        /// The root key that would be needed.
        wrapped_by: RootKeyId,
        /// The one that is there.
        given: RootKeyId,
    },
    /// A key does not unwrap.
    #[error("the key of scope `{scope}`, epoch {epoch}, does not unwrap: the record is damaged")]
    NotUnwrapped {
        /// The scope.
        scope: Scope,
        /// The epoch.
        epoch: Epoch,
    },
    /// A change was made and neither applied nor dropped; this one would undo it or be undone by it.
    #[error("another change of keys has not been committed yet")]
    ChangePending,
    /// All keys would stay under the root key that is to be replaced.
    #[error("the next root key is the one in use")]
    SameRoot,
    /// No further number.
    #[error("the scope has no epochs left")]
    EpochsExhausted,
    /// There is no such key to shred.
    #[error(transparent)]
    NoKey(#[from] NoKey),
    /// A key could not be made or wrapped.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoKey {
    /// There never was one.
    #[error("no such key")]
    Unknown,
    /// It was destroyed.
    #[error("the key was shredded")]
    Shredded,
}

/// What may be told of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFact {
    /// The scope.
    pub scope: Scope,
    /// Which key of the scope.
    pub epoch: Epoch,
    /// When it was made.
    pub created_at: UnixMicros,
    /// Whether it seals what is written now.
    pub current: bool,
    /// When it was destroyed, where it was.
    pub shredded_at: Option<UnixMicros>,
}

/// All keys.
pub struct KeyRing {
    keys: RwLock<Keys>,
    pending: Mutex<Pending>,
}

impl KeyRing {
    /// Which root keys the records under [`KEY_PREFIX`] name. One, unless there are no records or somebody mixed them.
    ///
    /// # Errors
    /// [`KeyRingError::Damaged`].
    pub fn roots_in_use(records: &[(Bytes, Bytes)]) -> Result<BTreeSet<RootKeyId>, KeyRingError> {
        records.iter().map(|(key, value)| parse(key, value).map(|stored| stored.root)).collect()
    }

    /// Unwraps the keys in the records under [`KEY_PREFIX`].
    ///
    /// # Errors
    /// [`KeyRingError`]: one bad record, and there is no ring.
    pub fn load(records: Vec<(Bytes, Bytes)>, root: Arc<dyn RootKey>) -> Result<Self, KeyRingError> {
        let mut keys = Keys { root, scopes: BTreeMap::new() };
        for (key, value) in records {
            let stored = parse(&key, &value)?;
            let kept = keys.unwrap(&stored)?;
            keys.put(stored.scope, stored.epoch, kept);
        }
        Ok(Self { keys: RwLock::new(keys), pending: Mutex::default() })
    }

    /// The key that seals what is written to a scope now. None where the scope has no key yet, or where its latest was
    /// shredded: an older one never becomes current again.
    #[must_use]
    pub fn current(&self, scope: &Scope) -> Option<(Epoch, Arc<ScopeKey>)> {
        let keys = self.keys.read();
        let (epoch, kept) = keys.scopes.get(scope)?.last_key_value()?;
        Some((*epoch, kept.key().ok()?))
    }

    /// The key of one epoch. It stays usable for who has it, even if it is shredded meanwhile.
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn key(&self, scope: &Scope, epoch: Epoch) -> Result<Arc<ScopeKey>, NoKey> {
        self.keys.read().kept(scope, epoch)?.key()
    }

    /// Up to `count_max` keys, of one scope or of all, in order, from behind `after`.
    #[must_use]
    pub fn list(&self, scope: Option<&Scope>, after: Option<(&Scope, Epoch)>, count_max: usize) -> Vec<KeyFact> {
        let keys = self.keys.read();
        let first = scope.max(after.map(|(scope, _)| scope));
        let from = first.map_or(Bound::Unbounded, Bound::Included);
        let scopes = keys.scopes.range::<Scope, _>((from, Bound::Unbounded));
        let facts = scopes
            .filter(|(name, _)| !name.is_reserved())
            .take_while(|(name, _)| scope.is_none_or(|scope| *name == scope))
            .flat_map(|(name, epochs)| facts(name, epochs))
            .filter(|fact| after.is_none_or(|after| (&fact.scope, fact.epoch) > after));
        facts.take(count_max).collect()
    }

    /// How many scopes have keys, or had.
    #[must_use]
    pub fn scopes(&self) -> usize {
        self.keys.read().callers().count()
    }

    /// The scopes that have keys, or had: all, or this one if it is one of them.
    #[must_use]
    pub fn scope_names(&self, only: Option<&Scope>) -> Vec<Scope> {
        let keys = self.keys.read();
        keys.callers().map(|(name, _)| name).filter(|name| only.is_none_or(|only| only == *name)).cloned().collect()
    }

    /// How many keys are not shredded.
    #[must_use]
    pub fn live(&self) -> usize {
        let keys = self.keys.read();
        keys.callers().flat_map(|(_, epochs)| epochs.values()).filter(|held| held.key().is_ok()).count()
    }

    /// How many of them have this first level.
    #[must_use]
    pub fn scopes_of(&self, first_level: &str) -> usize {
        self.keys.read().scopes.keys().filter(|scope| scope.first_level() == first_level).count()
    }

    /// The key that this node has of its own, and what to commit first where it is new.
    ///
    /// # Errors
    /// [`KeyRingError`].
    pub fn node_key(&self, now: UnixMicros) -> Result<(NodeKey, Option<KeyChange>), KeyRingError> {
        let scope = Scope::of_node();
        if let Ok(key) = self.key(&scope, Epoch::FIRST) {
            return Ok((NodeKey::new(&key)?, None));
        }
        let change = self.begin_epoch(&scope, None, now)?;
        let (_, key) = change.key().ok_or(KeyRingError::NoKey(NoKey::Unknown))?;
        Ok((NodeKey::new(&key)?, Some(change)))
    }

    /// The root key that wraps them.
    #[must_use]
    pub fn root_id(&self) -> RootKeyId {
        self.keys.read().root.id().clone()
    }

    /// A new key for a scope, with the next number: behind all that the ring knows, and behind `after`, which the caller has
    /// begun but not applied yet. Several scopes may begin epochs at a time.
    ///
    /// # Errors
    /// [`KeyRingError::ChangePending`] while the root key changes; [`KeyRingError::EpochsExhausted`]; [`KeyRingError::Seal`].
    pub fn begin_epoch(&self, scope: &Scope, after: Option<Epoch>, now: UnixMicros) -> Result<KeyChange, KeyRingError> {
        let hold = self.pending.lock().begin_epoch()?;
        let keys = self.keys.read();
        let epoch = next_epoch(keys.latest(scope).max(after))?;
        let kept = Kept { created_at: now, state: State::Live(Arc::new(ScopeKey::generate()?)) };
        let records = vec![kept.to_record(scope, epoch, &*keys.root)?];
        Ok(KeyChange { records, effect: Effect::Begin(scope.clone(), epoch, kept), _hold: hold })
    }

    /// All keys under the next root key.
    ///
    /// # Errors
    /// [`KeyRingError::ChangePending`] while any other change waits; [`KeyRingError::SameRoot`]; [`KeyRingError::Seal`].
    pub fn rewrap(&self, next: Arc<dyn RootKey>) -> Result<KeyChange, KeyRingError> {
        let hold = self.pending.lock().change_root()?;
        let keys = self.keys.read();
        let records = keys.rewrapped(&*next, |_, _| None)?;
        Ok(KeyChange { records, effect: Effect::Rewrap(next), _hold: hold })
    }

    /// Destroys a key: all others go under the next root key, and a tombstone takes its place. Copies of the old records stay
    /// readable for who has the old root key, so the caller destroys that when the change is durable.
    ///
    /// # Errors
    /// As [`KeyRing::rewrap`]; [`KeyRingError::NoKey`].
    pub fn shred(
        &self,
        scope: &Scope,
        epoch: Epoch,
        next: Arc<dyn RootKey>,
        now: UnixMicros,
    ) -> Result<KeyChange, KeyRingError> {
        let hold = self.pending.lock().change_root()?;
        let keys = self.keys.read();
        let kept = keys.kept(scope, epoch)?;
        kept.key()?;
        let tombstone = Kept { created_at: kept.created_at, state: State::Shredded(now) };
        let is_it = |name: &Scope, number: Epoch| (name, number) == (scope, epoch);
        let records = keys.rewrapped(&*next, |name, number| is_it(name, number).then(|| tombstone.clone()))?;
        Ok(KeyChange { records, effect: Effect::Shred(next, scope.clone(), epoch, tombstone), _hold: hold })
    }

    /// Reads the keys back, where it is not known which of them persisted.
    ///
    /// # Errors
    /// [`KeyRingError`]: the ring is as it was.
    pub fn reload(&self, records: Vec<(Bytes, Bytes)>) -> Result<(), KeyRingError> {
        let root = Arc::clone(&self.keys.read().root);
        let loaded = Self::load(records, root)?;
        *self.keys.write() = loaded.keys.into_inner();
        Ok(())
    }

    /// Lets a change take effect. Only when its records are durable.
    pub fn apply(&self, change: KeyChange) {
        let mut keys = self.keys.write();
        match change.effect {
            Effect::Begin(scope, epoch, kept) => keys.put(scope, epoch, kept),
            Effect::Rewrap(next) => keys.root = next,
            Effect::Shred(next, scope, epoch, tombstone) => {
                keys.root = next;
                keys.put(scope, epoch, tombstone);
            }
        }
    }
}

/// A change that is not in effect yet. While it exists, no other is made that would not go with it.
#[must_use = "commit its records, then apply it"]
pub struct KeyChange {
    records: Vec<Record>,
    effect: Effect,
    _hold: Arc<()>,
}

impl KeyChange {
    /// What to commit.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The key that [`KeyRing::begin_epoch`] made.
    #[must_use]
    pub fn key(&self) -> Option<(Epoch, Arc<ScopeKey>)> {
        match &self.effect {
            Effect::Begin(_, epoch, kept) => Some((*epoch, kept.key().ok()?)),
            Effect::Rewrap(_) | Effect::Shred(..) => None,
        }
    }
}

enum Effect {
    Begin(Scope, Epoch, Kept),
    Rewrap(Arc<dyn RootKey>),
    Shred(Arc<dyn RootKey>, Scope, Epoch, Kept),
}

/// Who holds one of these has a change that is not in effect. A new key is wrapped by the root key of its day, so none may
/// be begun while that changes, nor the other way round.
#[derive(Default)]
struct Pending {
    epochs: Arc<()>,
    root: Arc<()>,
}

impl Pending {
    fn begin_epoch(&self) -> Result<Arc<()>, KeyRingError> {
        if is_held(&self.root) { Err(KeyRingError::ChangePending) } else { Ok(self.epochs.clone()) }
    }

    fn change_root(&self) -> Result<Arc<()>, KeyRingError> {
        if is_held(&self.root) || is_held(&self.epochs) {
            return Err(KeyRingError::ChangePending);
        }
        Ok(self.root.clone())
    }
}

fn is_held(token: &Arc<()>) -> bool {
    Arc::strong_count(token) > 1
}

type Epochs = BTreeMap<Epoch, Kept>;

struct Keys {
    root: Arc<dyn RootKey>,
    scopes: BTreeMap<Scope, Epochs>,
}

impl Keys {
    fn put(&mut self, scope: Scope, epoch: Epoch, kept: Kept) {
        self.scopes.entry(scope).or_default().insert(epoch, kept);
    }

    /// Those of the scopes that callers can name.
    fn callers(&self) -> impl Iterator<Item = (&Scope, &Epochs)> {
        self.scopes.iter().filter(|(name, _)| !name.is_reserved())
    }

    fn latest(&self, scope: &Scope) -> Option<Epoch> {
        self.scopes.get(scope)?.last_key_value().map(|(epoch, _)| *epoch)
    }

    fn kept(&self, scope: &Scope, epoch: Epoch) -> Result<&Kept, NoKey> {
        self.scopes.get(scope).and_then(|epochs| epochs.get(&epoch)).ok_or(NoKey::Unknown)
    }

    fn unwrap(&self, stored: &StoredKey) -> Result<Kept, KeyRingError> {
        let StoredKey { scope, epoch, created_at, root, body } = stored;
        let (scope, epoch, created_at) = (scope.clone(), *epoch, *created_at);
        let wrapped = match body {
            StoredBody::Shredded(at) => return Ok(Kept { created_at, state: State::Shredded(*at) }),
            StoredBody::Wrapped(wrapped) => wrapped,
        };
        if root != self.root.id() {
            let (wrapped_by, given) = (root.clone(), self.root.id().clone());
            return Err(KeyRingError::OtherRoot { scope, epoch, wrapped_by, given });
        }
        match self.root.unwrap(&WrapContext { scope: &scope, epoch }, wrapped) {
            Ok(key) => Ok(Kept { created_at, state: State::Live(Arc::new(key)) }),
            Err(_) => Err(KeyRingError::NotUnwrapped { scope, epoch }),
        }
    }

    /// Every record anew under another root key, some with something else in their place.
    fn rewrapped(
        &self,
        next: &dyn RootKey,
        instead: impl Fn(&Scope, Epoch) -> Option<Kept>,
    ) -> Result<Vec<Record>, KeyRingError> {
        if next.id() == self.root.id() {
            return Err(KeyRingError::SameRoot);
        }
        let mut records = Vec::new();
        for (scope, epochs) in &self.scopes {
            for (epoch, kept) in epochs {
                let instead = instead(scope, *epoch);
                records.push(instead.as_ref().unwrap_or(kept).to_record(scope, *epoch, next)?);
            }
        }
        Ok(records)
    }
}

#[derive(Clone)]
struct Kept {
    created_at: UnixMicros,
    state: State,
}

#[derive(Clone)]
enum State {
    Live(Arc<ScopeKey>),
    Shredded(UnixMicros),
}

impl Kept {
    fn key(&self) -> Result<Arc<ScopeKey>, NoKey> {
        match &self.state {
            State::Live(key) => Ok(key.clone()),
            State::Shredded(_) => Err(NoKey::Shredded),
        }
    }

    fn to_record(&self, scope: &Scope, epoch: Epoch, root: &dyn RootKey) -> Result<Record, KeyRingError> {
        let body = match &self.state {
            State::Live(key) => StoredBody::Wrapped(root.wrap(&WrapContext { scope, epoch }, key)?),
            State::Shredded(at) => StoredBody::Shredded(*at),
        };
        let stored =
            StoredKey { scope: scope.clone(), epoch, created_at: self.created_at, root: root.id().clone(), body };
        Ok(stored.to_record())
    }
}

fn facts<'a>(scope: &'a Scope, epochs: &'a Epochs) -> impl Iterator<Item = KeyFact> + 'a {
    let latest = epochs.last_key_value().map(|(epoch, _)| *epoch);
    epochs.iter().map(move |(epoch, kept)| {
        let shredded_at = match kept.state {
            State::Live(_) => None,
            State::Shredded(at) => Some(at),
        };
        let current = shredded_at.is_none() && Some(*epoch) == latest;
        KeyFact { scope: scope.clone(), epoch: *epoch, created_at: kept.created_at, current, shredded_at }
    })
}

fn next_epoch(latest: Option<Epoch>) -> Result<Epoch, KeyRingError> {
    let Some(latest) = latest else { return Ok(Epoch::FIRST) };
    latest.0.checked_add(1).map(Epoch).ok_or(KeyRingError::EpochsExhausted)
}

fn parse(key: &[u8], value: &[u8]) -> Result<StoredKey, KeyRingError> {
    StoredKey::parse(key, value).ok_or_else(|| KeyRingError::Damaged(key.escape_ascii().to_string()))
}

#[cfg(test)]
mod tests;
