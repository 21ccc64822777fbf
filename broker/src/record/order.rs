//! What the writer takes of shared state: a decided operation, with its entry drafted.

use std::{net::SocketAddr, sync::Arc};

use veribus_proto::v1;

use super::{Draft, Malformed, prepared::Prepared};
use crate::{
    authenticate::Identity,
    decide::{Access, Decided, Decision, Permitted, Verdict},
    model::{DecisionId, RefusalReason, Revision, StateKey, StatePrefix, Write},
    state::{Change, Lookup, SealedValue},
};

/// How many bytes of values the answers to one request hold together, unless one alone is larger.
pub(crate) const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An operation on shared state that is ready to be recorded and carried out.
#[derive(Debug)]
pub struct StateOrder {
    pub(super) entry: Prepared,
    pub(super) asker: Arc<Identity>,
    pub(super) size_bytes: usize,
    pub(super) work: Work,
}

/// What is to be done. Only a permitted write can be kept.
#[derive(Debug)]
pub(super) enum Work {
    Put(Box<Permitted<Write>>, [u8; 32]),
    Get(StateKey, Option<Revision>),
    Delete(StateKey, Option<Revision>),
    /// Only the record: a watch reads later, and a list has read before.
    Note,
    Refuse(RefusalReason),
}

/// What became of an operation, once that is recorded.
#[derive(Debug)]
pub enum StateOutcome {
    /// Written: the revision is the decision's audit index.
    Put {
        /// Which decision.
        decision_id: DecisionId,
        /// With the value it gives the content digest in the log.
        salt: [u8; 32],
    },
    /// Read: what was found may be handed over.
    Read {
        /// Which decision.
        decision_id: DecisionId,
        /// What was found.
        found: Lookup,
    },
    /// Deleted: the revision is the decision's audit index.
    Deleted {
        /// Which decision.
        decision_id: DecisionId,
        /// Whether there was a value.
        existed: bool,
    },
    /// Permitted, and nothing done yet.
    Noted(DecisionId),
    /// Not done.
    Refused {
        /// Which decision.
        decision_id: DecisionId,
        /// Why.
        reason: RefusalReason,
        /// For a conflict: what stands there.
        current: Option<Revision>,
    },
}

/// A watcher's wish to be shown what became of some changes.
#[derive(Debug)]
pub struct FollowOrder {
    pub(super) entry: Prepared,
    pub(super) prefix: StatePrefix,
    /// The entry that opened the watch.
    pub(super) opened_by: u64,
    pub(super) asker: Arc<Identity>,
    pub(super) changes: Vec<WatchedChange>,
    pub(super) withheld: u32,
}

/// Changes of a key that a watcher has not looked at.
#[derive(Debug, Clone)]
pub struct WatchedChange {
    /// Which.
    pub change: Change,
    /// The newest that the watcher was shown of the key.
    pub seen: Revision,
}

/// What a watcher is to be shown.
#[derive(Debug)]
pub struct Following {
    /// Which decision; `None` where there is nothing to show, and nothing recorded.
    pub decision_id: Option<DecisionId>,
    /// Each newer than the one before of its key; or why nothing may be shown.
    pub changes: Result<Vec<Followed>, RefusalReason>,
    /// How many changes the watcher is not shown, because they were overtaken.
    pub skipped: u64,
    /// Of how many of the changes that were asked for these are left: for the others, ask again.
    pub consumed: usize,
}

/// One change, for a watcher.
#[derive(Debug)]
pub enum Followed {
    /// A value was written.
    Put(Box<SealedValue>),
    /// A value is gone.
    Gone {
        /// Which.
        key: StateKey,
        /// Since when.
        revision: Revision,
        /// Whether its time had run out.
        expired: bool,
    },
    /// A value was written whose key was destroyed since.
    Shredded {
        /// Which.
        key: StateKey,
        /// Which version.
        revision: Revision,
    },
}

impl StateOrder {
    /// A write. Makes the salt of the content digest: fresh for each, from the thread's cryptographic generator.
    #[must_use]
    pub fn put(decided: Decided<Write>) -> Self {
        let salt = rand::random();
        let asker = Arc::clone(&decided.submitted().sender);
        let size_bytes = decided.submitted().content.value.len();
        let entry = Prepared::deniable(Draft::write(&decided, &salt));
        let reason = decided.verdict().reason.unwrap_or(RefusalReason::DecisionFailed);
        let work = match decided {
            Decided::Permitted(permitted) => Work::Put(Box::new(permitted), salt),
            Decided::Held(_) => Work::Refuse(RefusalReason::Quarantined),
            Decided::Denied(_) => Work::Refuse(reason),
        };
        Self { entry, asker, size_bytes, work }
    }

    /// A read of the newest version, or of one.
    #[must_use]
    pub fn get(
        (key, revision): (StateKey, Option<Revision>),
        verdict: &Verdict,
        asker: Arc<Identity>,
        peer: SocketAddr,
    ) -> Self {
        let draft = Draft::access(Access::StateGet(&key), verdict, &asker, peer);
        Self::access(draft, verdict, asker, Work::Get(key, revision))
    }

    /// A deletion.
    #[must_use]
    pub fn delete(
        (key, expected): (StateKey, Option<Revision>),
        verdict: &Verdict,
        asker: Arc<Identity>,
        peer: SocketAddr,
    ) -> Self {
        let draft = Draft::access(Access::StateDelete(&key), verdict, &asker, peer);
        Self::access(draft, verdict, asker, Work::Delete(key, expected))
    }

    /// A request to watch.
    #[must_use]
    pub fn note(access: Access<'_>, verdict: &Verdict, asker: Arc<Identity>, peer: SocketAddr) -> Self {
        let draft = Draft::access(access, verdict, &asker, peer);
        Self::access(draft, verdict, asker, Work::Note)
    }

    /// A list, with what it shows.
    #[must_use]
    pub fn list(
        prefix: &StatePrefix,
        listed: v1::ListedValues,
        verdict: &Verdict,
        asker: Arc<Identity>,
        peer: SocketAddr,
    ) -> Self {
        let draft = Draft::access(Access::StateList(prefix), verdict, &asker, peer).with_listed(listed);
        Self::access(draft, verdict, asker, Work::Note)
    }

    /// An operation that could not be read as one.
    #[must_use]
    pub fn malformed(malformed: Malformed) -> Self {
        let entry = Draft::malformed(&malformed).into();
        let work = Work::Refuse(RefusalReason::MalformedMessage);
        Self { entry, asker: malformed.sender, size_bytes: malformed.size_bytes, work }
    }

    pub(super) const fn is_malformed(&self) -> bool {
        matches!(self.work, Work::Refuse(RefusalReason::MalformedMessage))
    }

    fn access(draft: Draft, verdict: &Verdict, asker: Arc<Identity>, work: Work) -> Self {
        let work = match verdict.decision {
            Decision::Allow => work,
            Decision::Deny | Decision::Quarantine => {
                Work::Refuse(verdict.reason.unwrap_or(RefusalReason::DecisionFailed))
            }
        };
        Self { entry: Prepared::deniable(draft), asker, size_bytes: 0, work }
    }
}

impl FollowOrder {
    /// Of `changes`; `withheld` others were left out, because the policy said no. The watch itself is permitted.
    #[must_use]
    pub fn new(
        (prefix, opened_by): (&StatePrefix, &DecisionId),
        (changes, withheld): (Vec<WatchedChange>, u32),
        verdict: &Verdict,
        asker: Arc<Identity>,
        peer: SocketAddr,
    ) -> Self {
        let entry = Prepared::deniable(Draft::follow(prefix, verdict, &asker, peer));
        let (prefix, opened_by) = (prefix.clone(), opened_by.audit_index());
        Self { entry, prefix, opened_by, asker, changes, withheld }
    }
}
