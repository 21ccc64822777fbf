//! The way of an operator's request: who asks, may they, record it, do it, record what it cost others, answer.
//!
//! What was begun is carried out to its end, also where the operator goes away in between, or revokes itself.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::try_join_all;
use tokio_util::task::TaskTracker;

use crate::{
    authenticate::{
        AHEAD_S_MAX, Caller, Revocation, RevocationTarget, Revocations, Revoked, Session, SessionEnd, SessionFilter,
        SessionId, Sessions, TokenError,
    },
    decide::{Access, Decider, Decision},
    deliver::{EndReason, Router},
    model::{AgentId, Clock, DecisionId, Issuer, RefusalReason, UnixSeconds},
    record::{AccessReceipt, Copying, Draft, LogReader, RecordError, Recorder},
    subscribe::ReadRefusal,
};

mod keys;

pub use keys::{KeyPage, KeyRefusal, KeyStages, Rewrapped, Rotated};

/// How long tokens may be good for.
#[derive(Debug, Clone, Copy)]
pub struct TokenLifetime {
    /// From `iat` to `exp`, in seconds.
    pub max_s: u64,
}

impl TokenLifetime {
    /// When the last token that a revocation names must have run out; never, where it names those of the future too, or
    /// where that is later than can be kept: such an end could not be read back at the next start.
    ///
    /// A token is taken from [`AHEAD_S_MAX`] before `iat` until `exp`, which is at most the longest lifetime after `iat`.
    fn runs_out(self, target: &RevocationTarget, now: UnixSeconds) -> Option<UnixSeconds> {
        let issued_at_most = match target {
            RevocationTarget::Token(_) => now.0,
            RevocationTarget::IssuedBefore(_, moment) => moment.0.max(now.0),
            RevocationTarget::Agent(_) | RevocationTarget::WholeIssuer => return None,
        };
        let good_for = self.max_s.saturating_add(AHEAD_S_MAX.unsigned_abs());
        let end = issued_at_most.saturating_add_unsigned(good_for);
        Revocation::TIMES.contains(&end).then_some(UnixSeconds(end))
    }
}

/// The stages that an operator's request goes through.
pub struct AdminStages {
    /// Says who may.
    pub decider: Arc<Decider>,
    /// Holds the subscriptions.
    pub router: Arc<Router>,
    /// Records.
    pub recorder: Recorder,
    /// The open calls.
    pub sessions: Arc<Sessions>,
    /// What is in force.
    pub revocations: Arc<Revocations>,
    /// What is under way.
    pub tasks: TaskTracker,
    /// Tells the time.
    pub clock: Clock,
    /// How long tokens may be good for.
    pub lifetime: TokenLifetime,
    /// The keys of shared state.
    pub keys: KeyStages,
    /// What is copied for a backup.
    pub log: LogReader,
    /// How many bytes of changes may wait for a backup under way.
    pub backup_journal_bytes_max: usize,
}

/// Carries operators' requests out. Cheap to clone.
#[derive(Clone)]
pub struct Administration(Arc<AdminStages>);

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoking {
    /// As it is in force.
    pub revoked: Revoked,
    /// How many sessions it ended.
    pub sessions_ended: usize,
}

/// Which sessions are to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnecting {
    /// One.
    Session(SessionId),
    /// All of an agent.
    Agent(Issuer, AgentId),
}

/// What was seen, and the record of that.
pub type Seen<T> = Result<Vec<Arc<T>>, ReadRefusal>;

impl Administration {
    /// Put together from its stages.
    #[must_use]
    pub fn new(stages: AdminStages) -> Self {
        Self(Arc::new(stages))
    }

    /// Puts a revocation in force. When this returns, it is durable, nothing that it names is accepted after it, nothing
    /// more is handed to those whom it names, and what they did not get is recorded.
    ///
    /// # Errors
    /// [`ReadRefusal`]. Where the log failed, the revocation is in force all the same, as long as the broker runs.
    pub async fn revoke(&self, caller: Caller, revocation: Revocation) -> Result<Revoking, ReadRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.revoke(&caller, revocation).await }).await
    }

    /// Lifts a revocation.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn reinstate(&self, caller: Caller, id: String) -> Result<DecisionId, ReadRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.reinstate(&caller, &id).await }).await
    }

    /// Ends sessions, and says how many.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn disconnect(&self, caller: Caller, whom: Disconnecting) -> Result<(DecisionId, usize), ReadRefusal> {
        let stages = Arc::clone(&self.0);
        self.to_the_end(async move { stages.disconnect(&caller, &whom).await }).await
    }

    /// The first `max` revocations in force from index `from` on.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn revocations(&self, caller: &Caller, from: u64, max: usize) -> Seen<Revoked> {
        let stages = &self.0;
        stages.permit(caller, Access::AdminRead("revocations"), format!("from {from}")).await?;
        Ok(stages.revocations.list(from, max, stages.now()))
    }

    /// The first `max` open sessions after `after`.
    ///
    /// # Errors
    /// [`ReadRefusal`].
    pub async fn sessions(
        &self,
        caller: &Caller,
        filter: &SessionFilter,
        after: SessionId,
        max: usize,
    ) -> Seen<Session> {
        let agent = filter.agent.as_ref().map_or("", AgentId::as_str);
        let issuer = filter.issuer.as_ref().map_or("", Issuer::as_str);
        let detail = format!("agent={agent} issuer={issuer} after {}", after.0);
        self.0.permit(caller, Access::AdminRead("sessions"), detail).await?;
        Ok(self.0.sessions.list(filter, after, max))
    }

    /// Begins with a copy of everything: of the log, and of what stands beside it.
    ///
    /// # Errors
    /// [`ReadRefusal`], also where another copy is under way.
    pub async fn backup(&self, caller: &Caller) -> Result<Copying, ReadRefusal> {
        let stages = &self.0;
        let (draft, asker) = (stages.decide(caller, Access::Backup).await?, caller.identity());
        let copy = stages.recorder.copy(draft, asker, &stages.log, stages.backup_journal_bytes_max);
        let (receipt, copying) = copy.await?;
        accepted(receipt).map(|_| copying)
    }

    /// On a task of its own: a caller who goes away does not stop it half way.
    async fn to_the_end<T, E>(&self, work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<RecordError> + Send + 'static,
    {
        let done = self.0.tasks.spawn(work).await;
        done.unwrap_or_else(|_| Err(RecordError::Failed.into()))
    }
}

impl AdminStages {
    async fn revoke(&self, caller: &Caller, mut revocation: Revocation) -> Result<Revoking, ReadRefusal> {
        // A clock that was set back would let it end too early.
        let now = self.now().max(self.clock.confirmed().seconds());
        revocation.expires_at = revocation.expires_at.or_else(|| self.lifetime.runs_out(&revocation.target, now));
        let draft = self.decide(caller, Access::Revoke(&revocation)).await?;
        if revocation.expires_at.is_some_and(|end| end <= self.now()) {
            let reason = RefusalReason::RevocationOver;
            let denied = draft.denied("native/revocation-over", reason);
            let decision_id = self.recorder.access(denied, caller.identity()).await?.decision_id;
            return Err(ReadRefusal::Denied { decision_id, reason });
        }
        let mut named = self.sessions.named_by(&revocation);
        let receipt = self.recorder.revoke(draft, revocation.clone(), caller.identity()).await?;
        let id = accepted(receipt)?;
        named.extend(self.sessions.named_by(&revocation));
        let now = self.clock.now();
        let reports = self.router.retire(|session| session.check(now).err().map(|end| EndReason::from(&end)));
        self.sessions.end_fallen();
        let is_revoked = |session: &Session| session.end_reason() == Some(&SessionEnd::Token(TokenError::Revoked));
        let sessions_ended = named.values().filter(|session| is_revoked(session)).count();
        self.report(reports).await?;
        Ok(Revoking { revoked: Revoked { index: id.audit_index(), id: id.to_string(), revocation }, sessions_ended })
    }

    async fn reinstate(&self, caller: &Caller, id: &str) -> Result<DecisionId, ReadRefusal> {
        let draft = self.decide(caller, Access::Reinstate(id)).await?;
        let Some(found) = self.revocations.find(id, self.now()) else {
            let reason = RefusalReason::NoSuchRevocation;
            let denied = draft.denied("native/no-such-revocation", reason);
            let decision_id = self.recorder.access(denied, caller.identity()).await?.decision_id;
            return Err(ReadRefusal::Denied { decision_id, reason });
        };
        accepted(self.recorder.reinstate(draft, found, caller.identity()).await?)
    }

    async fn disconnect(&self, caller: &Caller, whom: &Disconnecting) -> Result<(DecisionId, usize), ReadRefusal> {
        let named = whom.to_string();
        let id = self.permit(caller, Access::Disconnect(&named), String::new()).await?;
        let meant: Vec<_> = match whom {
            Disconnecting::Session(id) => self.sessions.find(*id).into_iter().collect(),
            Disconnecting::Agent(issuer, agent) => {
                let filter = SessionFilter { agent: Some(agent.clone()), issuer: Some(issuer.clone()) };
                self.sessions.list(&filter, SessionId(0), usize::MAX)
            }
        };
        let ids: HashSet<_> = meant.iter().map(|session| session.id()).collect();
        let reports = self.router.retire(|session| ids.contains(&session.id()).then_some(EndReason::Disconnected));
        let ended = meant.iter().filter(|session| session.end(&SessionEnd::Disconnected)).count();
        self.report(reports).await?;
        Ok((id, ended))
    }

    async fn permit(&self, caller: &Caller, access: Access<'_>, detail: String) -> Result<DecisionId, ReadRefusal> {
        let draft = self.decide(caller, access).await?.with_detail(detail);
        accepted(self.recorder.access(draft, caller.identity()).await?)
    }

    /// A permitted request, to be recorded. One that is not permitted is recorded here.
    async fn decide(&self, caller: &Caller, access: Access<'_>) -> Result<Draft, ReadRefusal> {
        let identity = caller.identity();
        identity.check_standing(self.clock.now())?;
        let verdict = self.decider.decide_access(access, &identity, caller.peer());
        let draft = Draft::access(access, &verdict, &identity, caller.peer());
        if verdict.decision == Decision::Allow {
            return Ok(draft);
        }
        let reason = verdict.reason.unwrap_or(RefusalReason::DecisionFailed);
        let decision_id = self.recorder.access(draft, identity).await?.decision_id;
        Err(ReadRefusal::Denied { decision_id, reason })
    }

    /// Brings to the log what did not reach its recipients, and waits until that is durable, with what their queues had
    /// refused at the door.
    async fn report(&self, drafts: Vec<Draft>) -> Result<(), RecordError> {
        try_join_all(drafts.into_iter().map(|draft| self.recorder.report(draft))).await?;
        self.recorder.caught_up().await
    }

    fn now(&self) -> UnixSeconds {
        self.clock.now().seconds()
    }
}

impl std::fmt::Display for Disconnecting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session(id) => write!(f, "session {}", id.0),
            Self::Agent(issuer, agent) => write!(f, "agent {agent} of {issuer}"),
        }
    }
}

fn accepted(receipt: AccessReceipt) -> Result<DecisionId, ReadRefusal> {
    let AccessReceipt { decision_id, refused } = receipt;
    match refused {
        None => Ok(decision_id),
        Some(reason) => Err(ReadRefusal::Denied { decision_id, reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authenticate::RevocationTarget;

    #[test]
    fn a_revocation_ends_with_the_last_token_that_it_names_or_never() {
        let agent = || AgentId::parse("a").expect("an agent");
        let token = || RevocationTarget::Token(crate::model::TokenId::parse("t").expect("an id"));
        let before = |moment| RevocationTarget::IssuedBefore(agent(), UnixSeconds(moment));
        let now = UnixSeconds(1_000_000);
        let lifetime = TokenLifetime { max_s: 3_600 };
        assert_eq!(lifetime.runs_out(&token(), now), Some(UnixSeconds(1_003_660)));
        assert_eq!(lifetime.runs_out(&before(7), now), Some(UnixSeconds(1_003_660)));
        assert_eq!(lifetime.runs_out(&before(2_000_000), now), Some(UnixSeconds(2_003_660)));
        assert_eq!(lifetime.runs_out(&RevocationTarget::Agent(agent()), now), None);
        assert_eq!(lifetime.runs_out(&RevocationTarget::WholeIssuer, now), None);
        // What could not be read back at the next start must not be kept.
        let last = *Revocation::TIMES.end();
        assert_eq!(lifetime.runs_out(&before(last), now), None);
        assert_eq!(lifetime.runs_out(&before(i64::MAX), now), None);
        let endless = TokenLifetime { max_s: u64::MAX };
        assert_eq!(endless.runs_out(&token(), now), None);
    }
}
