//! Watching: what changed is read as it is read by anybody else, a batch at a time, each under an entry of its own. Nothing
//! waits in a queue, so a slow watcher costs nothing and loses nothing but what has been replaced meanwhile.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;

use super::{Sharing, WhyNot};
use crate::{
    authenticate::{Caller, Identity, TokenError},
    decide::{Access, Decision, Verdict},
    model::{DecisionId, RefusalReason, Revision, StateKey, StatePrefix},
    record::{FollowOrder, Followed, RecordError, StateOrder, StateOutcome},
    state::{OpenedValue, Since, StateReader},
};

/// How many changes are looked at together.
const LOOKED_AT_MAX: usize = 1_024;
/// How many, where they have to be looked for among all keys.
const LOOKED_FOR_MAX: usize = 4_096;
/// How many are shown together, at most.
const SHOWN_MAX: usize = 64;

/// Why a watch ends, or does not begin.
#[derive(Debug, Error)]
pub enum WatchEnd {
    /// The caller's token is no longer good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Decided, and recorded.
    #[error("refused by decision {decision_id}")]
    Refused {
        /// Which decision.
        decision_id: DecisionId,
        /// What the client may know.
        reason: RefusalReason,
    },
    /// The log did not take it.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It is no longer known what was deleted after the revision from which the watcher wants to go on; up to this one.
    #[error("deletions up to revision {0} are no longer known")]
    TooOld(Revision),
    /// The watcher wants to go on from a revision that is not there yet.
    #[error("there is no revision {0} yet")]
    NotThereYet(Revision),
    /// The store cannot be read.
    #[error("shared state cannot be read")]
    Unreadable,
    /// The broker ends.
    #[error("the broker ends")]
    Ended,
}

/// Some changes, for a watcher.
#[derive(Debug)]
pub struct Shown {
    /// In the order of revisions.
    pub changes: Vec<ShownChange>,
    /// All changes up to here were looked at.
    pub through: Revision,
    /// Under which decision the values were read, if there are any.
    pub decision_id: Option<DecisionId>,
}

/// One change.
#[derive(Debug)]
pub enum ShownChange {
    /// A value was written.
    Put(OpenedValue),
    /// A value is gone.
    Gone {
        /// Which.
        key: StateKey,
        /// Since when.
        revision: Revision,
        /// Whether its time had run out.
        expired: bool,
    },
    /// A value cannot be shown any more, since its key was destroyed.
    Shredded {
        /// Which.
        key: StateKey,
        /// Which version.
        revision: Revision,
    },
}

/// An open watch.
pub struct Watch {
    sharing: Sharing,
    caller: Caller,
    prefix: StatePrefix,
    listen: watch::Receiver<Revision>,
    /// Everything up to here was looked at.
    through: Revision,
    /// Looked up, and still to be shown.
    ahead: Since,
    /// What was forgotten before a watcher came who has seen nothing.
    forgotten_before: Revision,
    /// What was gone before the watcher came is no news to one who has seen nothing.
    news_after: Revision,
    /// The last change as the watch began, until the watcher knows that it has come so far.
    began_at: Option<Revision>,
    opened_by: DecisionId,
}

impl Sharing {
    /// Opens a watch on what changes after a revision.
    ///
    /// # Errors
    /// [`WatchEnd`].
    pub async fn watch(&self, caller: Caller, prefix: StatePrefix, after: Revision) -> Result<Watch, WatchEnd> {
        let identity = caller.identity();
        identity.check_standing(self.stages.clock.now())?;
        let access = Access::StateWatch(&prefix);
        let verdict = self.stages.decider.decide_access(access, &identity, caller.peer());
        let order = StateOrder::note(access, &verdict, identity, caller.peer());
        let outcomes = self.stages.recorder.state(vec![order]).await?.outcomes().await?;
        let opened_by = match outcomes.into_iter().next() {
            Some(StateOutcome::Noted(decision_id)) => decision_id,
            Some(StateOutcome::Refused { decision_id, reason, .. }) => {
                return Err(WatchEnd::Refused { decision_id, reason });
            }
            _ => return Err(RecordError::Failed.into()),
        };
        let listen = self.stages.changes.listen();
        let begins = self.stages.changes.through();
        if after > begins {
            return Err(WatchEnd::NotThereYet(after));
        }
        let is_fresh = after == Revision::NONE;
        let forgotten = self.stages.reader.forgotten(prefix.scope()).map_err(|error| unreadable(&error))?;
        let forgotten_before = if is_fresh { forgotten } else { Revision::NONE };
        let news_after = if is_fresh { begins } else { Revision::NONE };
        Ok(Watch {
            sharing: self.clone(),
            caller,
            prefix,
            listen,
            through: after,
            ahead: Since { changes: Vec::new(), through: after },
            forgotten_before,
            news_after,
            began_at: Some(begins),
            opened_by,
        })
    }
}

impl Watch {
    /// Under which decision it was opened.
    #[must_use]
    pub const fn opened_by(&self) -> &DecisionId {
        &self.opened_by
    }

    /// The last change as the watch began: what was there is shown once that is reached.
    #[must_use]
    pub fn began_at(&self) -> Revision {
        self.began_at.unwrap_or(self.through)
    }

    /// Waits until there is something to look at. Nothing is lost where this is given up.
    ///
    /// # Errors
    /// [`WatchEnd::Ended`].
    pub async fn changed(&mut self) -> Result<(), WatchEnd> {
        let is_behind = self.sharing.stages.changes.through() > self.through;
        if is_behind || !self.ahead.changes.is_empty() || self.began_at.is_some() {
            return Ok(());
        }
        self.listen.changed().await.map_err(|_| WatchEnd::Ended)
    }

    /// Reads the next changes, if there are any to show. The first time it has come so far it says that also without any.
    ///
    /// # Errors
    /// [`WatchEnd`]: the watch is over.
    pub async fn advance(&mut self) -> Result<Option<Shown>, WatchEnd> {
        if self.ahead.changes.is_empty() {
            self.look().await?;
        }
        let shown = if self.ahead.changes.is_empty() {
            self.through = self.ahead.through;
            Shown { changes: Vec::new(), through: self.through, decision_id: None }
        } else {
            self.show().await?
        };
        let has_caught_up = self.began_at.is_some_and(|revision| self.through >= revision);
        if has_caught_up {
            self.began_at = None;
        }
        Ok((has_caught_up || !shown.changes.is_empty()).then_some(shown))
    }

    /// Looks up what comes next.
    async fn look(&mut self) -> Result<(), WatchEnd> {
        let stages = &self.sharing.stages;
        let last = stages.changes.through();
        self.ahead = match stages.changes.after(self.through, &self.prefix, LOOKED_AT_MAX) {
            Some(since) => since,
            None => {
                let (prefix, after) = (self.prefix.clone(), self.through);
                let look = move |reader: &StateReader| reader.changed(&prefix, after, last, LOOKED_FOR_MAX);
                self.sharing.scan(look).await.ok_or(WatchEnd::Unreadable)?
            }
        };
        if self.ahead.changes.is_empty() && self.began_at.is_none() {
            return Ok(());
        }
        // Looked up first, asked then: what is forgotten in between is not passed over.
        let forgotten = stages.reader.forgotten(self.prefix.scope()).map_err(|error| unreadable(&error))?;
        if self.through < forgotten && self.forgotten_before < forgotten {
            return Err(WatchEnd::TooOld(forgotten));
        }
        Ok(())
    }

    /// Whether the watcher may still watch, as its token is now. If not, that is recorded.
    async fn verdict(&self, identity: &Arc<Identity>) -> Result<Verdict, WatchEnd> {
        let (stages, peer) = (&self.sharing.stages, self.caller.peer());
        identity.check_standing(stages.clock.now())?;
        let access = Access::StateWatch(&self.prefix);
        let verdict = stages.decider.decide_access(access, identity, peer);
        if verdict.decision == Decision::Allow {
            return Ok(verdict);
        }
        let order = StateOrder::note(access, &verdict, Arc::clone(identity), peer);
        let outcome = stages.recorder.state(vec![order]).await?.outcomes().await?.into_iter().next();
        match outcome {
            Some(StateOutcome::Refused { decision_id, reason, .. }) => Err(WatchEnd::Refused { decision_id, reason }),
            _ => Err(RecordError::Failed.into()),
        }
    }

    /// Shows as many of the changes ahead as go together.
    async fn show(&mut self) -> Result<Shown, WatchEnd> {
        let (identity, peer) = (self.caller.identity(), self.caller.peer());
        let verdict = self.verdict(&identity).await?;
        let stages = &self.sharing.stages;
        let together = self.ahead.changes.len().min(SHOWN_MAX);
        let looked_at: Vec<_> = self.ahead.changes.drain(..together).collect();
        let last_looked_at = looked_at.last().map_or(self.ahead.through, |(revision, _)| *revision);
        let may_see = |(_, key): &(Revision, StateKey)| {
            stages.decider.decide_access(Access::StateGet(key), &identity, peer).decision == Decision::Allow
        };
        let visible: Vec<_> = looked_at.into_iter().filter(may_see).collect();
        let withheld = u32::try_from(together - visible.len()).unwrap_or(u32::MAX);
        let order = FollowOrder::new(&self.prefix, (visible.clone(), withheld), &verdict, identity, peer);
        let following = stages.recorder.follow(order).await?;
        let followed = match (following.changes, following.decision_id.clone()) {
            (Ok(followed), _) => followed,
            (Err(reason), Some(decision_id)) => return Err(WatchEnd::Refused { decision_id, reason }),
            (Err(_), None) => return Err(RecordError::Failed.into()),
        };
        let last_shown = following.consumed.checked_sub(1).and_then(|last| visible.get(last));
        let rest = visible.get(following.consumed..).unwrap_or_default();
        self.through = match last_shown {
            Some((revision, _)) if !rest.is_empty() => *revision,
            _ if self.ahead.changes.is_empty() => self.ahead.through,
            _ => last_looked_at,
        };
        self.ahead.changes.splice(..0, rest.iter().cloned());
        let mut changes = Vec::with_capacity(followed.len());
        for one in followed {
            changes.extend(self.shown(one).await?);
        }
        Ok(Shown { changes, through: self.through, decision_id: following.decision_id })
    }

    /// `None` where there is nothing left to show: another revision has taken its place, and follows.
    async fn shown(&self, followed: Followed) -> Result<Option<ShownChange>, WatchEnd> {
        match followed {
            Followed::Gone { revision, .. } if revision <= self.news_after => Ok(None),
            Followed::Gone { key, revision, expired } => Ok(Some(ShownChange::Gone { key, revision, expired })),
            Followed::Shredded { key, revision } => Ok(Some(ShownChange::Shredded { key, revision })),
            Followed::Put(sealed) => {
                let (key, revision) = (sealed.key().clone(), sealed.revision());
                match self.sharing.open(*sealed).await {
                    Ok(value) => Ok(Some(ShownChange::Put(value))),
                    Err(WhyNot::Shredded) => Ok(Some(ShownChange::Shredded { key, revision })),
                    Err(WhyNot::Replaced) => Ok(None),
                    Err(_) => Err(WatchEnd::Unreadable),
                }
            }
        }
    }
}

fn unreadable(error: &dyn std::error::Error) -> WatchEnd {
    tracing::error!(%error, "shared state cannot be read");
    WatchEnd::Unreadable
}
