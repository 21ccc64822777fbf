//! The way of a read: who asks, may they, record it, hand over.

use std::{net::SocketAddr, sync::Arc};

use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authenticate::{Caller, Identity, TokenError},
    decide::{Access, Decider, Decision, Verdict},
    deliver::{Absence, Inbox, InboxTerms, Router},
    model::{Clock, DecisionId, RefusalReason, TopicPattern},
    record::{AccessReceipt, Draft, RecordError, Recorder},
};

/// How many subscriptions are decided anew at once, when another policy is in force.
const RECONSIDERED_AT_ONCE_MAX: usize = 2;

/// Why a caller may not read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadRefusal {
    /// The caller's token is no longer good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Decided, and recorded.
    #[error("refused by decision {decision_id}")]
    Denied {
        /// Which decision.
        decision_id: DecisionId,
        /// What the client may know.
        reason: RefusalReason,
    },
    /// The log did not take it.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A subscription that stood and is not permitted any more.
#[must_use]
#[derive(Debug)]
pub struct Withdrawn(Verdict);

/// Lets callers read: live messages, and the log.
pub struct Reading {
    decider: Arc<Decider>,
    router: Arc<Router>,
    recorder: Recorder,
    tasks: TaskTracker,
    reconsidering: Semaphore,
    clock: Clock,
}

impl Reading {
    /// Put together from its stages; what ends later reports through `tasks`.
    #[must_use]
    pub const fn new(
        decider: Arc<Decider>,
        router: Arc<Router>,
        recorder: Recorder,
        tasks: TaskTracker,
        clock: Clock,
    ) -> Self {
        Self { decider, router, recorder, tasks, reconsidering: Semaphore::const_new(RECONSIDERED_AT_ONCE_MAX), clock }
    }

    /// Opens a subscription: every message accepted from now on that matches is delivered to it. `cut_off` closes its
    /// connection, for a client that takes nothing in.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn subscribe(
        &self,
        caller: &Caller,
        patterns: Vec<TopicPattern>,
        cut_off: CancellationToken,
    ) -> Result<(Inbox, AccessReceipt), ReadRefusal> {
        let absence = self.router.absence(&caller.identity());
        let first = absence.as_ref().map(Absence::first);
        let receipt = self.permit(caller, Access::Subscribe(&patterns), |draft| draft.with_absence_from(first)).await?;
        if let Some(absence) = absence {
            absence.told();
        }
        let inbox = Inbox::open(
            Arc::clone(&self.router),
            self.recorder.clone(),
            self.tasks.clone(),
            &receipt.decision_id,
            Arc::clone(caller.session()),
            patterns,
            cut_off,
        );
        Ok((inbox, receipt))
    }

    /// Goes on with a subscription under a fresh token of the same agent, and returns the patterns that it still permits,
    /// of those that were asked for. What it does not permit is taken away before that is recorded.
    ///
    /// # Errors
    /// [`ReadRefusal`]: the subscription is at its end.
    pub async fn renew(
        &self,
        caller: &Caller,
        terms: &InboxTerms,
        fresh: Arc<Identity>,
    ) -> Result<Vec<TopicPattern>, ReadRefusal> {
        let (patterns, verdict) = self.still_permitted(terms.asked(), &fresh, caller.peer());
        let draft = Draft::refreshed(
            patterns.iter().map(TopicPattern::as_str).collect::<Vec<_>>().join(" "),
            Some(&verdict),
            Some(terms.id()),
            &fresh,
            caller.peer(),
        );
        if patterns.is_empty() {
            terms.end_not_permitted();
        } else {
            caller.session().renew(Arc::clone(&fresh))?;
            terms.regrant(Arc::clone(&fresh), patterns.clone());
        }
        let receipt = self.recorder.access(draft, fresh).await?;
        let denied = patterns.is_empty().then(|| reason(&verdict));
        match denied.or(receipt.refused) {
            None => Ok(patterns),
            Some(reason) => Err(ReadRefusal::Denied { decision_id: receipt.decision_id, reason }),
        }
    }

    /// Learns when another policy is in force; to be asked for before a subscription is opened.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<()> {
        self.decider.policy_changes()
    }

    /// Decides on a subscription anew, by the policy that is in force now. Where that does not permit it as it stands, nothing
    /// more is handed over.
    ///
    /// # Errors
    /// [`Withdrawn`], which is still to be recorded.
    pub async fn reconsider(&self, caller: &Caller, terms: &InboxTerms) -> Result<(), Withdrawn> {
        // All subscriptions come at the same moment.
        let _turn = self.reconsidering.acquire().await;
        let access = terms.granted();
        let verdict = self.decider.decide_access(Access::Subscribe(&access), &caller.identity(), caller.peer());
        if verdict.decision == Decision::Allow {
            return Ok(());
        }
        terms.end_not_permitted();
        Err(Withdrawn(verdict))
    }

    /// Records that a subscription is not permitted any more.
    pub async fn record_end(&self, caller: &Caller, terms: &InboxTerms, withdrawn: Withdrawn) -> ReadRefusal {
        let Withdrawn(verdict) = &withdrawn;
        let (identity, patterns) = (caller.identity(), terms.granted());
        let draft = Draft::access(Access::Subscribe(&patterns), verdict, &identity, caller.peer());
        match self.recorder.access(draft.with_subscription(terms.id()), identity).await {
            Ok(AccessReceipt { decision_id, .. }) => ReadRefusal::Denied { decision_id, reason: reason(verdict) },
            Err(error) => error.into(),
        }
    }

    /// The patterns that are permitted one by one, if they are permitted together as well; and the last word on them.
    fn still_permitted(
        &self,
        asked: &[TopicPattern],
        identity: &Identity,
        peer: SocketAddr,
    ) -> (Vec<TopicPattern>, Verdict) {
        let decide =
            |patterns: &[TopicPattern]| self.decider.decide_access(Access::Subscribe(patterns), identity, peer);
        let allows = |verdict: &Verdict| verdict.decision == Decision::Allow;
        let mut permitted = asked.to_vec();
        permitted.retain(|pattern| allows(&decide(std::slice::from_ref(pattern))));
        let verdict = if permitted.is_empty() { decide(asked) } else { decide(&permitted) };
        if !allows(&verdict) {
            permitted.clear();
        }
        (permitted, verdict)
    }

    /// Permits one reading of the log; `what` says in the entry what is read.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn read_log(&self, caller: &Caller, what: String) -> Result<AccessReceipt, ReadRefusal> {
        self.permit(caller, Access::AuditRead, |draft| draft.with_detail(what)).await
    }

    async fn permit(
        &self,
        caller: &Caller,
        access: Access<'_>,
        add: impl FnOnce(Draft) -> Draft,
    ) -> Result<AccessReceipt, ReadRefusal> {
        let identity = caller.identity();
        identity.check_standing(self.clock.now())?;
        let verdict = self.decider.decide_access(access, &identity, caller.peer());
        let draft = add(Draft::access(access, &verdict, &identity, caller.peer()));
        let receipt = self.recorder.access(draft, identity).await?;
        let denied = (verdict.decision != Decision::Allow).then(|| reason(&verdict));
        let Some(reason) = denied.or(receipt.refused) else { return Ok(receipt) };
        Err(ReadRefusal::Denied { decision_id: receipt.decision_id, reason })
    }
}

fn reason(denied: &Verdict) -> RefusalReason {
    denied.reason.unwrap_or(RefusalReason::DecisionFailed)
}
