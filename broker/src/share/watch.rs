//! Watching: what changed is read as it is read by anybody else, a batch at a time, each under an entry of its own. Nothing
//! waits in a queue, so a slow watcher costs nothing and loses nothing but what has been replaced meanwhile.

use thiserror::Error;
use tokio::sync::watch;

use super::{Sharing, WhyNot};
use crate::{
    authenticate::{Caller, TokenError},
    decide::{Access, Decision, Verdict},
    model::{DecisionId, RefusalReason, Revision, StateKey, StatePrefix},
    record::{FollowOrder, Followed, RecordError, StateOrder, StateOutcome},
    state::{OpenedValue, Since},
};

/// How many changes are looked at together.
const LOOKED_AT_MAX: usize = 1_024;
/// How many, where they have to be looked for among all keys.
const LOOKED_FOR_MAX: usize = 16_384;

/// Why a watch ends, or does not begin.
#[derive(Debug, Error)]
pub enum WatchEnd {
    /// The caller's token is no longer good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Decided, and recorded where there is an id.
    #[error("refused: {reason:?}")]
    Refused {
        /// Which decision.
        decision_id: Option<DecisionId>,
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
        identity.check_standing(self.0.clock.now())?;
        let access = Access::StateWatch(&prefix);
        let verdict = self.0.decider.decide_access(access, &identity, caller.peer());
        let order = StateOrder::note(access, &verdict, identity, caller.peer());
        let outcomes = self.0.recorder.state(vec![order]).await?.outcomes().await?;
        let opened_by = match outcomes.into_iter().next() {
            Some(StateOutcome::Noted(decision_id)) => decision_id,
            Some(StateOutcome::Refused { decision_id, reason, .. }) => {
                return Err(WatchEnd::Refused { decision_id: Some(decision_id), reason });
            }
            _ => return Err(RecordError::Failed.into()),
        };
        let listen = self.0.changes.listen();
        let begins = self.0.changes.through();
        if after > begins {
            return Err(WatchEnd::NotThereYet(after));
        }
        let news_after = if after == Revision::NONE { begins } else { Revision::NONE };
        Ok(Watch {
            sharing: self.clone(),
            caller,
            prefix,
            listen,
            through: after,
            ahead: Since { changes: Vec::new(), through: after },
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
        let is_behind = self.sharing.0.changes.through() > self.through;
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
        let verdict = self.verdict()?;
        if self.ahead.changes.is_empty() {
            self.look().await?;
        }
        let shown = self.show(&verdict).await?;
        let has_caught_up = self.began_at.is_some_and(|revision| self.through >= revision);
        if has_caught_up {
            self.began_at = None;
        }
        Ok((has_caught_up || !shown.changes.is_empty()).then_some(shown))
    }

    /// Whether the watcher may still watch, as its token is now.
    fn verdict(&self) -> Result<Verdict, WatchEnd> {
        let (stages, identity) = (&self.sharing.0, self.caller.identity());
        identity.check_standing(stages.clock.now())?;
        let verdict = stages.decider.decide_access(Access::StateWatch(&self.prefix), &identity, self.caller.peer());
        if verdict.decision == Decision::Allow {
            return Ok(verdict);
        }
        let reason = verdict.reason.unwrap_or(RefusalReason::DecisionFailed);
        Err(WatchEnd::Refused { decision_id: None, reason })
    }

    /// Looks up what comes next.
    async fn look(&mut self) -> Result<(), WatchEnd> {
        let stages = &self.sharing.0;
        let last = stages.changes.through();
        self.ahead = match stages.changes.after(self.through, &self.prefix, LOOKED_AT_MAX) {
            Some(since) => since,
            None => {
                let (reader, prefix, after) = (stages.reader.clone(), self.prefix.clone(), self.through);
                let look = move || reader.changed(&prefix, after, last, LOOKED_FOR_MAX);
                let found = tokio::task::spawn_blocking(look).await.map_err(|_| WatchEnd::Unreadable)?;
                found.map_err(|error| unreadable(&error))?
            }
        };
        // Looked up first, asked then: what is forgotten in between is not passed over.
        let forgotten = stages.reader.forgotten(self.prefix.scope()).map_err(|error| unreadable(&error))?;
        if self.through != Revision::NONE && self.through < forgotten {
            return Err(WatchEnd::TooOld(forgotten));
        }
        Ok(())
    }

    /// Shows as many of the changes ahead as go together.
    async fn show(&mut self, verdict: &Verdict) -> Result<Shown, WatchEnd> {
        let changes = std::mem::take(&mut self.ahead.changes);
        let nothing = |through| Shown { changes: Vec::new(), through, decision_id: None };
        if changes.is_empty() {
            self.through = self.ahead.through;
            return Ok(nothing(self.through));
        }
        let identity = self.caller.identity();
        let may_see = |(_, key): &(Revision, StateKey)| {
            let access = Access::StateGet(key);
            self.sharing.0.decider.decide_access(access, &identity, self.caller.peer()).decision == Decision::Allow
        };
        let asked = changes.len();
        let visible: Vec<_> = changes.into_iter().filter(may_see).collect();
        let withheld = u32::try_from(asked - visible.len()).unwrap_or(u32::MAX);
        let order =
            FollowOrder::new(&self.prefix, (visible.clone(), withheld), verdict, identity.clone(), self.caller.peer());
        let following = self.sharing.0.recorder.follow(order).await?;
        let refused = |reason| WatchEnd::Refused { decision_id: following.decision_id.clone(), reason };
        let followed = following.changes.map_err(refused)?;
        let rest = visible.get(following.consumed..).unwrap_or_default();
        let last_shown = following.consumed.checked_sub(1).and_then(|last| visible.get(last));
        self.through = match last_shown {
            Some((revision, _)) if !rest.is_empty() => *revision,
            _ => self.ahead.through,
        };
        self.ahead.changes = rest.to_vec();
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
