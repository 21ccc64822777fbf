//! Decisions on requests, and what takes effect with their entries: revocations at once, since nothing that they name may
//! stand after them; their end only once that is durable. Whatever fails on the way leaves a revocation in force.
//!
//! Whether one is over is for the clock to say each time somebody asks. That it is over is not forgotten on a clock's word: only
//! when it has been over for a day, on the clock and in running time, or when another one needs its place.

use std::sync::Weak;

use crate::{
    authenticate::{Identity, Revocation, Revoked, TokenError},
    engine::Record,
    model::RefusalReason,
    record::{
        AccessReceipt, Draft,
        commit::Commit,
        journal::Journal,
        queue::{Change, Request},
        revocation,
    },
};

use super::{Writer, reads::Reads};

/// What a commit changes beside the log.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) records: Vec<Record>,
    /// In force already; to be recorded again should the commit fail.
    pub(super) revoked: Vec<Unrecorded>,
    /// To be lifted once the commit is durable.
    pub(super) lifted: Vec<u64>,
    /// What watchers are shown, and is not recorded yet.
    pub(super) reads: Reads,
    /// Which root key counts is decided by it.
    pub(super) moves_root: bool,
    /// Begins once the commit is durable.
    pub(super) journal: Option<Weak<Journal>>,
}

/// A revocation in force whose entry may not be in the log.
pub(super) struct Unrecorded {
    index: u64,
    draft: Draft,
    revocation: Revocation,
}

impl Writer {
    /// The changes that come with any commit: how long this has been running, and revocations that a failed commit left behind are
    /// recorded again, under new names.
    pub(super) fn changes(&mut self, commit: &mut Commit) -> Changes {
        let mut changes = Changes::default();
        changes.records.extend(self.running.record());
        let unrecorded = std::mem::take(&mut self.unrecorded);
        let former: Vec<u64> = unrecorded.iter().map(|one| one.index).collect();
        changes.records.extend(former.iter().map(|index| revocation::forgotten(*index)));
        let put = unrecorded.into_iter().map(|one| self.put(one.draft, one.revocation, commit, &mut changes)).collect();
        if !former.is_empty() {
            self.revocations.change(put, &former);
        }
        changes
    }

    /// What the passing of time has done, and whoever set the clock.
    pub(super) fn tick(&mut self, commit: &mut Commit, changes: &mut Changes) {
        if let Some(step_us) = self.steps.step_us() {
            self.metrics.clock_stepped();
            self.notes.push(Draft::clock_stepped(step_us));
        }
        let (records, ended) = self.running.look(&self.revocations);
        changes.records.extend(records);
        for index in ended {
            self.forget(index, commit, changes);
        }
        self.events.say();
    }

    /// A revocation that is over is not kept any more, which has an entry.
    fn forget(&mut self, index: u64, commit: &mut Commit, changes: &mut Changes) {
        if changes.lifted.contains(&index) {
            return;
        }
        if let Some(revoked) = self.revocations.at(index) {
            self.push_request(Draft::revocation_ended(&revoked), commit);
        }
        changes.records.push(revocation::forgotten(index));
        changes.records.extend(self.running.forget(index));
        changes.lifted.push(index);
    }

    /// Makes room for one more revocation, if there is none: of those that are over, the one that has been for longest goes.
    /// `false` where none is over, or where only a clock says so that was just set.
    fn make_room(&mut self, commit: &mut Commit, changes: &mut Changes) -> bool {
        if self.revocations.len().saturating_sub(changes.lifted.len()) < self.settings.revocations_max {
            return true;
        }
        let now = self.clock.confirmed().min(self.clock.now());
        let over = self.revocations.over(now.seconds()).into_iter();
        let longest = over.filter(|(index, _)| !changes.lifted.contains(index)).min_by_key(|(_, end)| *end);
        if let Some((index, _)) = longest {
            self.forget(index, commit, changes);
        }
        longest.is_some()
    }

    /// Records a decision on a request. Its asker's token may have run out or been revoked while it waited.
    pub(super) fn request(&mut self, request: Request, commit: &mut Commit, changes: &mut Changes) -> AccessReceipt {
        let Request { mut draft, asker, change } = request;
        let refused = asker.and_then(|asker| self.fallen(&asker)).or_else(|| self.cannot(&change, commit, changes));
        if let Some((rule, reason)) = refused {
            draft.deny(&rule, reason);
            let index = self.push_request(draft, commit);
            let decision_id = self.decision_id(index);
            return AccessReceipt { decision_id, refused: Some(reason) };
        }
        let index = match change {
            Change::None => self.push_request(draft, commit),
            Change::Copy(journal) => {
                changes.journal = Some(journal);
                self.push_request(draft, commit)
            }
            Change::Reinstate(revoked) => {
                changes.records.push(revocation::forgotten(revoked.index));
                changes.records.extend(self.running.forget(revoked.index));
                changes.lifted.push(revoked.index);
                self.push_request(draft, commit)
            }
            Change::Revoke(revocation) => {
                let revoked = self.put(draft, revocation, commit, changes);
                let index = revoked.index;
                self.revocations.change(vec![revoked], &[]);
                index
            }
        };
        AccessReceipt { decision_id: self.decision_id(index), refused: None }
    }

    /// Takes the entry of a request, and says what an operator should hear of it.
    pub(super) fn push_request(&mut self, mut draft: Draft, commit: &mut Commit) -> u64 {
        draft.back_at(commit.next_index());
        self.events.entry(&draft.0, commit.next_index());
        commit.push(draft)
    }

    /// Why nothing more is taken from a sender or asker: the rule, and the word.
    pub(super) fn fallen(&self, identity: &Identity) -> Option<(String, RefusalReason)> {
        let error = identity.check_standing(self.clock.now()).err()?;
        let reason = match error {
            TokenError::Revoked => RefusalReason::TokenRevoked,
            _ => RefusalReason::TokenExpired,
        };
        Some((format!("native/token-{}", error.reason()), reason))
    }

    /// Why a change cannot be made, as things are now.
    fn cannot(
        &mut self,
        change: &Change,
        commit: &mut Commit,
        changes: &mut Changes,
    ) -> Option<(String, RefusalReason)> {
        let (rule, reason) = match change {
            Change::Revoke(_) if !self.make_room(commit, changes) => {
                ("native/revocation-limit", RefusalReason::RevocationLimit)
            }
            // After a failed write another one may stand under its index.
            Change::Reinstate(revoked) if !self.revocations.holds(revoked) => {
                ("native/no-such-revocation", RefusalReason::NoSuchRevocation)
            }
            Change::Copy(_) if is_kept(&self.journal) || changes.journal.as_ref().is_some_and(is_kept) => {
                ("native/backup-running", RefusalReason::BackupRunning)
            }
            Change::None | Change::Revoke(_) | Change::Reinstate(_) | Change::Copy(_) => return None,
        };
        Some((rule.to_owned(), reason))
    }

    /// Gives a revocation its entry, which names it.
    fn put(&mut self, draft: Draft, revocation: Revocation, commit: &mut Commit, changes: &mut Changes) -> Revoked {
        let (index, id) = (commit.next_index(), self.decision_id(commit.next_index()));
        let mut named = draft.clone();
        named.name_revocation(&id);
        self.push_request(named, commit);
        let revoked = Revoked { index, id: id.to_string(), revocation: revocation.clone() };
        changes.records.push(revocation::kept(&revoked));
        changes.revoked.push(Unrecorded { index, draft, revocation });
        revoked
    }
}

/// Whether somebody still has the journal.
fn is_kept(journal: &Weak<Journal>) -> bool {
    journal.strong_count() > 0
}
