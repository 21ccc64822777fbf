//! Changes of keys, each in a commit of its own.

use std::sync::Arc;

use super::{Writer, request::Changes};
use crate::{
    model::{Epoch, RefusalReason, Scope, UnixMicros},
    record::{AccessReceipt, Draft, KeyOrder, KeyReceipt, commit::Commit, queue::KeyRequest},
    seal::{KeyFact, KeyRingError, RootKey},
    state::TableError,
};

/// Why keys are not changed: the rule, and the word.
struct Refused(&'static str, RefusalReason);

/// What was done: at which entry, which keys are new, and how many went under another root key.
type Done = (u64, Vec<KeyFact>, usize);

impl From<TableError> for Refused {
    /// What fails on the way denies.
    fn from(error: TableError) -> Self {
        if matches!(error, TableError::Keys(KeyRingError::NoKey(_))) {
            return Self("native/no-such-key", RefusalReason::NoSuchKey);
        }
        tracing::error!(%error, "keys could not be changed: refused");
        Self("native/key-failure", RefusalReason::DecisionFailed)
    }
}

impl From<KeyRingError> for Refused {
    fn from(error: KeyRingError) -> Self {
        TableError::Keys(error).into()
    }
}

impl Writer {
    /// Carries a change out. Its asker's token may have run out or been revoked while it waited.
    pub(super) fn keys(&mut self, request: KeyRequest, commit: &mut Commit, changes: &mut Changes) -> KeyReceipt {
        let KeyRequest { draft, asker, order } = request;
        if let Some((rule, reason)) = self.fallen(&asker) {
            return self.no_keys(draft.denied(&rule, reason), reason, commit);
        }
        let done = match order {
            KeyOrder::Rotate(scope) => self.rotate(&draft, scope.as_ref(), commit),
            KeyOrder::Rewrap(next) => self.rewrap(&draft, next, commit, changes),
            KeyOrder::Shred(scope, epoch, next) => self.shred(&draft, (&scope, epoch), next, commit, changes),
        };
        match done {
            Ok((index, begun, rewrapped)) => {
                let access = AccessReceipt { decision_id: self.decision_id(index), refused: None };
                KeyReceipt { access, begun, rewrapped }
            }
            Err(Refused(rule, reason)) => self.no_keys(draft.denied(rule, reason), reason, commit),
        }
    }

    /// One entry for each scope; one that names none, where there are no keys.
    fn rotate(&mut self, draft: &Draft, scope: Option<&Scope>, commit: &mut Commit) -> Result<Done, Refused> {
        let scopes = self.state.keys().scope_names(scope);
        if scope.is_some() && scopes.is_empty() {
            return Err(Refused("native/no-such-key", RefusalReason::NoSuchKey));
        }
        let (index, now, root) = (commit.next_index(), self.clock.now(), self.state.keys().root_id());
        let mut begun = Vec::with_capacity(scopes.len());
        for scope in scopes {
            let epoch = self.state.begin_epoch(&scope, now)?;
            commit.push(draft.clone().with_keys_done("rotated", Some(&scope), Some(epoch), &root));
            begun.push(new_key(scope, epoch, now));
        }
        if begun.is_empty() {
            commit.push(draft.clone().with_keys_done("rotated", None, None, &root));
        }
        Ok((index, begun, 0))
    }

    fn rewrap(
        &mut self,
        draft: &Draft,
        next: Arc<dyn RootKey>,
        commit: &mut Commit,
        changes: &mut Changes,
    ) -> Result<Done, Refused> {
        let id = next.id().clone();
        let change = self.state.keys().rewrap(next)?;
        let live = self.state.keys().live();
        self.state.change_keys(change);
        changes.moves_root = true;
        Ok((commit.push(draft.clone().with_keys_done("rewrapped", None, None, &id)), Vec::new(), live))
    }

    fn shred(
        &mut self,
        draft: &Draft,
        (scope, epoch): (&Scope, Epoch),
        next: Arc<dyn RootKey>,
        commit: &mut Commit,
        changes: &mut Changes,
    ) -> Result<Done, Refused> {
        let id = next.id().clone();
        let change = self.state.keys().shred(scope, epoch, next, self.clock.now())?;
        let others = self.state.keys().live().saturating_sub(1);
        self.state.change_keys(change);
        changes.moves_root = true;
        let done = draft.clone().with_keys_done("shredded", Some(scope), Some(epoch), &id);
        Ok((commit.push(done), Vec::new(), others))
    }

    fn no_keys(&mut self, denied: Draft, reason: RefusalReason, commit: &mut Commit) -> KeyReceipt {
        let index = self.push_request(denied, commit);
        let decision_id = self.decision_id(index);
        let access = AccessReceipt { decision_id, refused: Some(reason) };
        KeyReceipt { access, begun: Vec::new(), rewrapped: 0 }
    }
}

fn new_key(scope: Scope, epoch: Epoch, now: UnixMicros) -> KeyFact {
    KeyFact { scope, epoch, created_at: now, current: true, shredded_at: None }
}
