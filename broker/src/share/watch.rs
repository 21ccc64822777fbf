//! Watching: what changed is read as it is read by anybody else, a batch at a time, each under an entry of its own. Nothing
//! waits in a queue, so a slow watcher costs nothing and loses nothing but what has been overtaken meanwhile.
//!
//! A watcher that keeps up is shown every change. One that is behind is shown the newest version of each key that changed, so
//! that what it costs to catch up is bounded by the keys and not by the changes; one that is too far behind for the changes
//! that are remembered goes once through all keys.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use thiserror::Error;
use tokio::sync::watch;

use super::{Sharing, WhyNot};
use crate::{
    authenticate::{Caller, Identity, TokenError},
    decide::{Access, Decision, Verdict},
    model::{DecisionId, RefusalReason, Revision, StateKey, StatePrefix},
    record::{FollowOrder, Followed, RecordError, StateOrder, StateOutcome, WatchedChange},
    state::{Change, CollectLimits, Cursor, OpenedValue, Since, StateReader},
    workers::TimeSlice,
};

/// How many are shown together, at most.
const SHOWN_MAX: usize = 64;
/// What is looked at together: change by change, as long as that is shown together.
const LOOKED_AT: CollectLimits = CollectLimits { apart_max: SHOWN_MAX, keys_max: 4_096 };
/// How many changes are looked through at once without a thread for that.
const LOOKED_AT_INLINE_MAX: u64 = 512;
/// How many pages of keys are gone through together, where changes have to be looked for among them.
const SCANNED_PAGES_MAX: usize = 8;
/// For how many keys it is known that they were shown ahead of the rest. Of more keys, some come twice.
const SHOWN_AHEAD_MAX: usize = 65_536;

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
    /// In the order of revisions. They may be newer than `through`.
    pub changes: Vec<ShownChange>,
    /// All changes up to here were looked at.
    pub through: Revision,
    /// How many changes the watch has not shown so far, because they were overtaken.
    pub skipped: u64,
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

impl ShownChange {
    const fn key(&self) -> &StateKey {
        match self {
            Self::Put(value) => &value.metadata.key,
            Self::Gone { key, .. } | Self::Shredded { key, .. } => key,
        }
    }

    const fn revision(&self) -> Revision {
        match self {
            Self::Put(value) => value.metadata.revision,
            Self::Gone { revision, .. } | Self::Shredded { revision, .. } => *revision,
        }
    }
}

/// An open watch.
pub struct Watch {
    sharing: Sharing,
    caller: Caller,
    prefix: StatePrefix,
    listen: watch::Receiver<Revision>,
    policy_changes: watch::Receiver<()>,
    /// Everything up to here was looked at.
    through: Revision,
    /// Looked up, and still to be shown.
    ahead: VecDeque<Change>,
    /// Everything up to here was looked at once that is shown and `cursor` is at its end.
    ahead_through: Revision,
    /// Whether what changed is looked for among all keys, and how far that has come; `None` at the end.
    is_scanning: bool,
    cursor: Option<Cursor>,
    /// The newest that was shown of a key, where that is newer than `through`.
    shown_ahead: HashMap<StateKey, Revision>,
    skipped: u64,
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
        let policy_changes = self.stages.decider.policy_changes();
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
            policy_changes,
            through: after,
            ahead: VecDeque::new(),
            ahead_through: after,
            is_scanning: false,
            cursor: None,
            shown_ahead: HashMap::new(),
            skipped: 0,
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

    /// Waits until there is something to look at, and meanwhile whether another policy ends the watch. Nothing is lost where
    /// this is given up.
    ///
    /// # Errors
    /// [`WatchEnd`]: the watch is over.
    pub async fn changed(&mut self) -> Result<(), WatchEnd> {
        let is_behind = self.sharing.stages.changes.through() > self.through;
        if is_behind || !self.ahead.is_empty() || self.cursor.is_some() || self.began_at.is_some() {
            return Ok(());
        }
        loop {
            tokio::select! {
                changed = self.listen.changed() => return changed.map_err(|_| WatchEnd::Ended),
                Ok(()) = self.policy_changes.changed() => drop(self.verdict(&self.caller.identity()).await?),
            }
        }
    }

    /// Reads the next changes, if there are any to show. It waits for its turn, and must be driven on once it has it, so not
    /// by what its client's flow control holds up. The first time it has come so far it says that also without any.
    ///
    /// # Errors
    /// [`WatchEnd`]: the watch is over.
    pub async fn advance(&mut self) -> Result<Option<Shown>, WatchEnd> {
        if self.ahead.is_empty() {
            self.look().await?;
        }
        let shown = if self.ahead.is_empty() { self.shown_none() } else { self.show().await? };
        let has_caught_up = self.began_at.is_some_and(|revision| self.through >= revision);
        if has_caught_up {
            self.began_at = None;
        }
        Ok((has_caught_up || !shown.changes.is_empty()).then_some(shown))
    }

    fn shown_none(&mut self) -> Shown {
        self.settle();
        Shown { changes: Vec::new(), through: self.through, skipped: self.skipped, decision_id: None }
    }

    /// How far everything was looked at by now.
    fn settle(&mut self) {
        if self.is_scanning && (self.cursor.is_some() || !self.ahead.is_empty()) {
            return;
        }
        self.is_scanning = false;
        self.through = looked_through(self.ahead.front(), self.ahead_through).max(self.through);
        if self.ahead.is_empty() {
            let through = self.through;
            self.shown_ahead.retain(|_, shown| *shown > through);
        }
    }

    /// Looks up what comes next.
    async fn look(&mut self) -> Result<(), WatchEnd> {
        let stages = Arc::clone(&self.sharing.stages);
        let identity = self.caller.identity();
        identity.check_standing(stages.clock.now())?;
        if !self.is_scanning {
            let last = stages.changes.through();
            match self.remembered(&identity, last).await? {
                Some(Since { changes, through }) => (self.ahead, self.ahead_through) = (changes.into(), through),
                None => {
                    (self.is_scanning, self.cursor, self.ahead_through) = (true, Some(Cursor::default()), last);
                }
            }
        }
        let has_scanned = self.is_scanning;
        if has_scanned {
            self.scan(&identity).await?;
        }
        let (shown_ahead, skipped) = (&self.shown_ahead, &mut self.skipped);
        self.ahead.retain(|change| match shown_ahead.get(&change.key) {
            Some(shown) if *shown >= change.last => {
                *skipped += change.count.saturating_sub(u64::from(change.spans(*shown)));
                false
            }
            _ => true,
        });
        if self.ahead.is_empty() && self.began_at.is_none() && !has_scanned {
            return Ok(());
        }
        // Looked up first, asked then: what is forgotten in between is not passed over.
        let forgotten = stages.reader.forgotten(self.prefix.scope()).map_err(|error| unreadable(&error))?;
        if self.through < forgotten && self.forgotten_before < forgotten {
            return Err(WatchEnd::TooOld(forgotten));
        }
        Ok(())
    }

    /// The next of the changes that are remembered, up to about `last`. Many are looked through where that holds up nobody.
    async fn remembered(&self, identity: &Identity, last: Revision) -> Result<Option<Since>, WatchEnd> {
        let (after, changes) = (self.through, Arc::clone(&self.sharing.stages.changes));
        if last.0.saturating_sub(after.0) <= LOOKED_AT_INLINE_MAX {
            return Ok(changes.after(after, &self.prefix, LOOKED_AT));
        }
        let prefix = self.prefix.clone();
        let look = move || changes.after(after, &prefix, LOOKED_AT);
        self.sharing.scans.run(identity, look).await.map_err(|_| WatchEnd::Unreadable)
    }

    /// Looks for what changed among the next keys. Where all of that is little, it is shown like changes that are remembered, in
    /// the order of revisions.
    async fn scan(&mut self, identity: &Identity) -> Result<(), WatchEnd> {
        let has_begun = self.cursor == Some(Cursor::default());
        let (mut found, mut pages) = (Vec::new(), 0);
        while found.len() < LOOKED_AT.keys_max && pages < SCANNED_PAGES_MAX {
            let Some(cursor) = self.cursor.take() else { break };
            let (prefix, after) = (self.prefix.clone(), self.through);
            let look = move |reader: &StateReader| reader.changed(&prefix, after, &cursor);
            let (changes, next) = self.sharing.scan(identity, look).await.ok_or(WatchEnd::Unreadable)?;
            found.extend(changes);
            self.cursor = next;
            pages += 1;
        }
        if has_begun && self.cursor.is_none() {
            found.sort_by_key(|change| change.last);
            self.is_scanning = false;
        }
        self.ahead = found.into();
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
        let (stages, watching) = (Arc::clone(&self.sharing.stages), Arc::clone(&self.sharing.watching));
        let turn = watching.acquire().await.ok();
        let together = self.ahead.len().min(SHOWN_MAX);
        let looked_at: Vec<_> = self.ahead.drain(..together).collect();
        let (mut slice, mut visible) = (TimeSlice::begin(), Vec::with_capacity(together));
        for change in looked_at {
            slice.yield_if_over().await;
            let access = Access::StateGet(&change.key);
            if stages.decider.decide_access(access, &identity, peer).decision == Decision::Allow {
                visible.push(change);
            }
        }
        let withheld = u32::try_from(together - visible.len()).unwrap_or(u32::MAX);
        let watched = |change: &Change| {
            let seen = self.shown_ahead.get(&change.key).copied().unwrap_or(self.through);
            WatchedChange { change: change.clone(), seen }
        };
        let wanted = visible.iter().map(watched).collect();
        drop(turn);
        let order = FollowOrder::new((&self.prefix, &self.opened_by), (wanted, withheld), &verdict, identity, peer);
        let following = stages.recorder.follow(order).await?;
        let followed = match (following.changes, following.decision_id.clone()) {
            (Ok(followed), _) => followed,
            (Err(reason), Some(decision_id)) => return Err(WatchEnd::Refused { decision_id, reason }),
            (Err(_), None) => return Err(RecordError::Failed.into()),
        };
        self.skipped += following.skipped;
        for change in visible.into_iter().skip(following.consumed).rev() {
            self.ahead.push_front(change);
        }
        let mut changes = Vec::with_capacity(followed.len());
        let _turn = watching.acquire().await.ok();
        for one in followed {
            slice.yield_if_over().await;
            changes.extend(self.shown(one).await?);
        }
        changes.sort_by_key(ShownChange::revision);
        self.settle();
        for change in &changes {
            // What a scan has passed does not come again, unless it changes.
            let behind = if self.is_scanning { self.ahead_through } else { self.through };
            if change.revision() > behind && self.shown_ahead.len() < SHOWN_AHEAD_MAX {
                self.shown_ahead.insert(change.key().clone(), change.revision());
            }
        }
        Ok(Shown { changes, through: self.through, skipped: self.skipped, decision_id: following.decision_id })
    }

    /// `None` where there is nothing left to show: another revision has taken its place, and follows.
    async fn shown(&mut self, followed: Followed) -> Result<Option<ShownChange>, WatchEnd> {
        match followed {
            Followed::Gone { revision, .. } if revision <= self.news_after => Ok(None),
            Followed::Gone { key, revision, expired } => Ok(Some(ShownChange::Gone { key, revision, expired })),
            Followed::Shredded { key, revision } => Ok(Some(ShownChange::Shredded { key, revision })),
            Followed::Put(sealed) => {
                let (key, revision) = (sealed.key().clone(), sealed.revision());
                match self.sharing.open(*sealed).await {
                    Ok(value) => Ok(Some(ShownChange::Put(value))),
                    Err(WhyNot::Shredded) => Ok(Some(ShownChange::Shredded { key, revision })),
                    Err(WhyNot::Replaced) => {
                        self.skipped += 1;
                        Ok(None)
                    }
                    Err(_) => Err(WatchEnd::Unreadable),
                }
            }
        }
    }
}

/// Up to where everything was looked at. What is still to be shown stands in the order of the first change of each key, and may be
/// newer than `ahead_through`: between that and the next of them, other keys may have changed behind the back of a scan.
fn looked_through(next: Option<&Change>, ahead_through: Revision) -> Revision {
    let before = |next: &Change| Revision(next.first.0.saturating_sub(1));
    next.map_or(ahead_through, before).min(ahead_through)
}

fn unreadable(error: &dyn std::error::Error) -> WatchEnd {
    tracing::error!(%error, "shared state cannot be read");
    WatchEnd::Unreadable
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scan that began at revision 10 passes `a`, which changes at 12, and then finds `b` as it is since 15.
    #[test]
    fn what_changes_behind_the_back_of_a_scan_is_not_passed_over() {
        let found = |revision| Change::one(Revision(revision), StateKey::parse("notes/b").expect("a key"));
        assert_eq!(looked_through(Some(&found(15)), Revision(10)), Revision(10));
        assert_eq!(looked_through(Some(&found(8)), Revision(10)), Revision(7));
        assert_eq!(looked_through(None, Revision(10)), Revision(10));
    }
}
