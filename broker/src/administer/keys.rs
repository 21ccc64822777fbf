//! The keys of shared state: seen, rotated, rewrapped, shredded.
//!
//! A change of the root key is prepared in its file first, committed with its entry second, and adopted third. Whatever
//! happens in between, the next start knows from the store which root key counts.
//!
//! Out of scope: how keys change (see [`seal`](crate::seal)), and in which commit (see [`record`](crate::record)).

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;
use tokio::sync::Mutex;

use super::{AdminStages, Administration, accepted};
use crate::{
    authenticate::{Caller, Identity},
    decide::Access,
    model::{DecisionId, Epoch, RefusalReason, Scope},
    record::{Draft, KeyOrder, KeyReceipt, RecordError},
    seal::{KeyFact, KeyRing, RootKey, RootKeyError, RootKeyId, RootKeys},
    subscribe::ReadRefusal,
};

/// The keys, and the root key that wraps them.
pub struct KeyStages {
    ring: Arc<KeyRing>,
    roots: Arc<RootKeys>,
    /// Held while the root key changes.
    changing: Mutex<()>,
}

impl KeyStages {
    /// Of these.
    #[must_use]
    pub fn new(ring: Arc<KeyRing>, roots: RootKeys) -> Self {
        Self { ring, roots: Arc::new(roots), changing: Mutex::default() }
    }
}

/// Why a request about keys has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyRefusal {
    /// Refused.
    #[error(transparent)]
    Refused(#[from] ReadRefusal),
    /// Done by this decision, but the old root key lies where it lay. The next start destroys it.
    #[error("done by decision {0}, but the old root key is not destroyed")]
    OldRootLeft(DecisionId),
}

impl From<RecordError> for KeyRefusal {
    fn from(error: RecordError) -> Self {
        Self::Refused(error.into())
    }
}

/// Some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// In order.
    pub keys: Vec<KeyFact>,
    /// The root key that wraps them.
    pub root: RootKeyId,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The first of its decisions.
    pub decision_id: DecisionId,
    /// The new keys.
    pub keys: Vec<KeyFact>,
}

/// What a change of the root key did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// Which decision.
    pub decision_id: DecisionId,
    /// The root key from now on.
    pub root: RootKeyId,
    /// How many keys went under it.
    pub keys: usize,
}

impl Administration {
    /// The first `max` keys after `after`, of one scope or of all.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn keys(
        &self,
        caller: &Caller,
        scope: Option<&Scope>,
        after: Option<(&Scope, Epoch)>,
        max: usize,
    ) -> Result<KeyPage, ReadRefusal> {
        let draft = self.0.decide(caller, Access::Keys("list", scope)).await?;
        accepted(self.0.recorder.access(draft, caller.identity()).await?)?;
        let ring = &self.0.keys.ring;
        Ok(KeyPage { keys: ring.list(scope, after, max), root: ring.root_id() })
    }

    /// Begins a new epoch of one scope, or of each.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn rotate_keys(&self, caller: Caller, scope: Option<Scope>) -> Result<Rotated, ReadRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.rotate(&caller, scope).await }).await
    }

    /// Puts all keys under a new root key, and destroys the old one.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub async fn rewrap_keys(&self, caller: Caller) -> Result<Rewrapped, KeyRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.rewrap(&caller).await }).await
    }

    /// Destroys the key of one epoch, and the root key that wrapped it; all other keys go under a new one. Where the epoch is
    /// the current one, the scope gets its next one first.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub async fn shred_key(&self, caller: Caller, scope: Scope, epoch: Epoch) -> Result<Rewrapped, KeyRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.shred(&caller, scope, epoch).await }).await
    }
}

impl AdminStages {
    async fn rotate(&self, caller: &Caller, scope: Option<Scope>) -> Result<Rotated, ReadRefusal> {
        let draft = self.decide(caller, Access::Keys("rotate", scope.as_ref())).await?;
        let receipt = self.recorder.change_keys(draft, KeyOrder::Rotate(scope), caller.identity()).await?;
        let decision_id = accepted(receipt.access)?;
        Ok(Rotated { decision_id, keys: receipt.begun })
    }

    async fn rewrap(&self, caller: &Caller) -> Result<Rewrapped, KeyRefusal> {
        let draft = self.decide(caller, Access::Keys("rewrap", None)).await?;
        let _changing = self.keys.changing.lock().await;
        let next = self.next_root(&draft, caller.identity()).await?;
        self.commit_root(draft, caller.identity(), next, KeyOrder::Rewrap).await
    }

    async fn shred(&self, caller: &Caller, scope: Scope, epoch: Epoch) -> Result<Rewrapped, KeyRefusal> {
        let draft = self.decide(caller, Access::Keys("shred", Some(&scope))).await?.of_epoch(epoch);
        let _changing = self.keys.changing.lock().await;
        if self.keys.ring.key(&scope, epoch).is_err() {
            let refusal = self.refuse(draft, caller.identity(), "native/no-such-key", RefusalReason::NoSuchKey);
            return Err(refusal.await.into());
        }
        // Made before anything changes: where there can be none, nothing does.
        let next = self.next_root(&draft, caller.identity()).await?;
        if let Err(refusal) = self.begin_next_if_current(&draft, caller.identity(), &scope, epoch).await {
            self.abandon().await;
            return Err(refusal.into());
        }
        self.commit_root(draft, caller.identity(), next, |next| KeyOrder::Shred(scope, epoch, next)).await
    }

    /// Another key for what is written from now on, in a commit and with an entry of its own.
    async fn begin_next_if_current(
        &self,
        draft: &Draft,
        asker: Arc<Identity>,
        scope: &Scope,
        epoch: Epoch,
    ) -> Result<(), ReadRefusal> {
        if self.keys.ring.current(scope).is_none_or(|(current, _)| current != epoch) {
            return Ok(());
        }
        let rotate = KeyOrder::Rotate(Some(scope.clone()));
        accepted(self.recorder.change_keys(draft.clone(), rotate, asker).await?.access).map(drop)
    }

    /// The next root key, durably in its file. Where it cannot be made, that is recorded.
    async fn next_root(&self, draft: &Draft, asker: Arc<Identity>) -> Result<Arc<dyn RootKey>, ReadRefusal> {
        let ring = Arc::clone(&self.keys.ring);
        let error = match self.with_roots(move |roots| prepare_next(roots, &ring)).await {
            Ok(next) => return Ok(next),
            Err(error) => error,
        };
        tracing::warn!(%error, "the root key cannot be changed");
        let reason = match error {
            RootKeyError::Descriptor(_) => RefusalReason::RootKeyFixed,
            _ => RefusalReason::RootKeyFailed,
        };
        Err(self.refuse(draft.clone(), asker, "native/root-key", reason).await)
    }

    /// Commits a change that was prepared, and destroys the old root key.
    async fn commit_root(
        &self,
        draft: Draft,
        asker: Arc<Identity>,
        next: Arc<dyn RootKey>,
        order: impl FnOnce(Arc<dyn RootKey>) -> KeyOrder,
    ) -> Result<Rewrapped, KeyRefusal> {
        let root = next.id().clone();
        let receipt = self.recorder.change_keys(draft, order(next), asker).await;
        let KeyReceipt { access, rewrapped: keys, .. } = match receipt {
            Ok(receipt) => receipt,
            // It may be in the store: the next root key stays where it is, for the next start.
            Err(RecordError::Failed) => return Err(RecordError::Failed.into()),
            Err(error @ (RecordError::DiskFloor | RecordError::DiskCritical)) => {
                self.abandon().await;
                return Err(error.into());
            }
        };
        let decision_id = match accepted(access) {
            Ok(decision_id) => decision_id,
            Err(refusal) => {
                self.abandon().await;
                return Err(refusal.into());
            }
        };
        // A crash here leaves both root keys; the next start adopts the new one.
        let in_use = root.clone();
        if let Err(error) = self.with_roots(move |roots| roots.adopt(&in_use)).await {
            tracing::error!(%error, "the old root key could not be destroyed");
            self.recorder.report(Draft::old_root_key_left(&root)).await?;
            return Err(KeyRefusal::OldRootLeft(decision_id));
        }
        Ok(Rewrapped { decision_id, root, keys })
    }

    /// Takes back a root key under which nothing certainly is.
    async fn abandon(&self) {
        if let Err(error) = self.with_roots(RootKeys::abandon).await {
            tracing::warn!(%error, "the next root key could not be removed");
        }
    }

    /// Files are written where waiting for the disk holds up nobody else.
    async fn with_roots<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RootKeys) -> Result<T, RootKeyError> + Send + 'static,
    ) -> Result<T, RootKeyError> {
        let roots = Arc::clone(&self.keys.roots);
        let done = tokio::task::spawn_blocking(move || work(&roots)).await;
        done.unwrap_or_else(|error| Err(RootKeyError::File { place: PathBuf::new(), source: error.into() }))
    }

    /// Records what the broker itself refuses.
    async fn refuse(&self, draft: Draft, asker: Arc<Identity>, rule: &str, reason: RefusalReason) -> ReadRefusal {
        match self.recorder.access(draft.denied(rule, reason), asker).await {
            Ok(receipt) => ReadRefusal::Denied { decision_id: receipt.decision_id, reason },
            Err(error) => error.into(),
        }
    }
}

/// What an earlier change left is finished first, where the keys are under its root key. Anything else that lies there is
/// left alone: the store may be under it.
fn prepare_next(roots: &RootKeys, ring: &KeyRing) -> Result<Arc<dyn RootKey>, RootKeyError> {
    match roots.prepare_next() {
        Err(RootKeyError::Unfinished(_)) => {
            roots.adopt(&ring.root_id())?;
            roots.prepare_next()
        }
        prepared => prepared,
    }
}
