//! Operations on shared state, carried out in the order of their entries.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::oneshot;
use veribus_proto::v1::{AuditEntry, StateFacts, StateRead};

use super::{Writer, malformed::MalformedRun, reply::Reply, request::Changes};
use crate::{
    decide::Permitted,
    model::{RefusalReason, Revision, Scope, StateKey, UnixMicros, Write},
    record::{
        Draft, FollowOrder, Followed, Following, StateOrder, StateOutcome, WatchedChange,
        commit::Commit,
        draft::timestamp,
        events::Event,
        order::{ANSWER_BYTES_MAX, Work},
        prepared::Prepared,
    },
    state::{Change, Current, DueKey, Lookup, TableError},
};

/// How many values a watcher is shown under one entry.
const FOLLOWED_MAX: usize = 48;
/// How many bytes of values, about. Of a watcher who takes nothing in, two such batches wait.
const FOLLOWED_BYTES_MAX: u64 = 128 << 10;

/// What a watcher is to be shown.
#[derive(Default)]
struct News {
    followed: Vec<Followed>,
    /// Of how many of the changes that were asked for.
    consumed: usize,
    /// How many were overtaken.
    skipped: u64,
}

/// Why an operation is not carried out: the rule, the word, and what stands there.
struct Refused(&'static str, RefusalReason, Option<Revision>);

impl From<TableError> for Refused {
    /// What fails on the way denies.
    fn from(error: TableError) -> Self {
        if matches!(error, TableError::ScopeLimit) {
            return Self("native/scope-limit", RefusalReason::ScopeLimit, None);
        }
        tracing::error!(%error, "an operation on shared state failed: refused");
        Self("native/state-failure", RefusalReason::DecisionFailed, None)
    }
}

impl Writer {
    /// Carries out an operation. Its asker's token may have run out or been revoked while it waited.
    /// `room_bytes` is what the answers of its request may still hold of values.
    pub(super) fn operation(
        &mut self,
        order: StateOrder,
        room_bytes: &mut u64,
        commit: &mut Commit,
        malformed: &mut MalformedRun,
    ) -> StateOutcome {
        let asker = Arc::clone(&order.asker);
        let outcome = match order.is_malformed() {
            true => {
                let decision_id = self.decision_id(malformed.push(order.entry, commit));
                StateOutcome::Refused { decision_id, reason: RefusalReason::MalformedMessage, current: None }
            }
            false => self.carry_out(order, room_bytes, commit),
        };
        if let StateOutcome::Refused { decision_id, reason, .. } = &outcome {
            self.events.denied(Event::RequestDenied, &asker, *reason, decision_id.audit_index());
        }
        outcome
    }

    fn carry_out(&mut self, order: StateOrder, room_bytes: &mut u64, commit: &mut Commit) -> StateOutcome {
        let StateOrder { mut entry, asker, work, .. } = order;
        if let Some((rule, reason)) = self.fallen(&asker) {
            entry.deny(&rule, reason);
            return self.refused(entry, reason, None, commit);
        }
        let now = self.clock.now();
        let done = match work {
            Work::Refuse(reason) => return self.refused(entry, reason, None, commit),
            Work::Note => return StateOutcome::Noted(self.decision_id(commit.push(entry))),
            Work::Get(key, revision) => self.get(&key, revision, room_bytes, now).map(|(found, state)| {
                let decision_id = self.decision_id(push(&mut entry, state, commit));
                StateOutcome::Read { decision_id, found }
            }),
            Work::Put(permitted, salt) => self.put_value(&permitted, now, commit).map(|state| {
                let decision_id = self.decision_id(push(&mut entry, state, commit));
                StateOutcome::Put { decision_id, salt }
            }),
            Work::Delete(key, expected) => self.delete(&key, expected, now, commit).map(|(existed, state)| {
                let decision_id = self.decision_id(push(&mut entry, state, commit));
                StateOutcome::Deleted { decision_id, existed }
            }),
        };
        done.unwrap_or_else(|Refused(rule, reason, current)| {
            entry.deny(rule, reason);
            self.refused(entry, reason, current, commit)
        })
    }

    /// What is to be shown of the changes that a watcher asks for. Its record follows, if there is anything to record: see
    /// [`record_reads`](Self::record_reads).
    pub(super) fn follow(
        &mut self,
        order: FollowOrder,
        reply: oneshot::Sender<Following>,
        changes: &mut Changes,
        commit: &mut Commit,
    ) -> Reply {
        let FollowOrder { mut entry, prefix, opened_by, asker, changes: asked, withheld } = order;
        let news = match self.fallen(&asker) {
            Some(denial) => Err(denial),
            None => self.news(&asked, self.clock.now()).map_err(|Refused(rule, reason, _)| (rule.to_owned(), reason)),
        };
        let News { followed, consumed, skipped } = match news {
            Ok(news) => news,
            Err((rule, reason)) => {
                entry.deny(&rule, reason);
                let decision_id = Some(self.decision_id(commit.push(entry)));
                let following = Following { decision_id, changes: Err(reason), skipped: 0, consumed: 0 };
                return Reply::Follow(reply, following, None);
            }
        };
        let reads: Vec<_> = followed.iter().filter_map(read_of).collect();
        let is_silent = followed.is_empty() && withheld == 0;
        let state = StateFacts { reads, withheld, ..StateFacts::default() };
        let read = (!is_silent).then(|| changes.reads.add(entry, &prefix, state, &asker, opened_by));
        Reply::Follow(reply, Following { decision_id: None, changes: Ok(followed), skipped, consumed }, read)
    }

    /// Records what watchers are shown, once for all that are shown the same.
    pub(super) fn record_reads(&self, replies: &mut [Reply], changes: &mut Changes, commit: &mut Commit) {
        let push = |(entry, state)| self.decision_id(commit.push_with(entry, added(state)));
        let decisions: Vec<_> = changes.reads.take().map(push).collect();
        for reply in replies {
            if let Reply::Follow(_, following, Some(read)) = reply {
                following.decision_id = decisions.get(*read).cloned();
            }
        }
    }

    /// Records what the passing of time has done. What is over by a clock that was just set forward is hidden from readers,
    /// and not removed yet.
    pub(super) fn due(&mut self, due: &[DueKey], commit: &mut Commit) {
        let now = self.clock.now();
        for key in due {
            if let Err(error) = self.one_due(key, now, commit) {
                tracing::error!(%error, key = %key.0, "a value whose time has run out could not be removed");
            }
        }
    }

    fn one_due(&mut self, due: &DueKey, now: UnixMicros, commit: &mut Commit) -> Result<(), TableError> {
        match self.state.lifetime(due)? {
            Some((written, end)) if self.clock.has_come(end, written) => {}
            Some(_) => return Ok(()),
            None => return self.state.forget_if_due(due, now.min(self.clock.confirmed())),
        }
        let previous = self.state.current(&due.0, now)?.last;
        self.state.remove(&due.0, Revision(commit.next_index()), true, now)?;
        let state = StateFacts { previous_revision: previous.0, ..StateFacts::default() };
        commit.push_with(Draft::expired(&due.0), added(state));
        Ok(())
    }

    fn put_value(
        &mut self,
        permitted: &Permitted<Write>,
        now: UnixMicros,
        commit: &mut Commit,
    ) -> Result<StateFacts, Refused> {
        let write = permitted.write();
        let current = self.expect(&write.key, write.expected, now)?;
        if self.state.key_of(write.key.scope()).is_none() {
            self.begin_epoch(write.key.scope(), now, commit)?;
        }
        let (epoch, expires_at) = self.state.put(permitted, Revision(commit.next_index()), now)?;
        Ok(StateFacts {
            previous_revision: current.revision.0,
            epoch: epoch.0,
            expires_at: expires_at.map(timestamp),
            ..StateFacts::default()
        })
    }

    /// A scope gets its first key with its first value, and that has an entry of its own.
    fn begin_epoch(&mut self, scope: &Scope, now: UnixMicros, commit: &mut Commit) -> Result<(), TableError> {
        let epoch = self.state.begin_epoch(scope, now)?;
        commit.push(Draft::key_created(scope, epoch, &self.state.keys().root_id()));
        Ok(())
    }

    fn delete(
        &mut self,
        key: &StateKey,
        expected: Option<Revision>,
        now: UnixMicros,
        commit: &Commit,
    ) -> Result<(bool, StateFacts), Refused> {
        let current = self.expect(key, expected, now)?;
        let existed = current.revision != Revision::NONE;
        if existed {
            self.state.remove(key, Revision(commit.next_index()), false, now)?;
        }
        Ok((existed, StateFacts { previous_revision: current.revision.0, ..StateFacts::default() }))
    }

    fn get(
        &self,
        key: &StateKey,
        revision: Option<Revision>,
        room_bytes: &mut u64,
        now: UnixMicros,
    ) -> Result<(Lookup, StateFacts), Refused> {
        let mut found = self.state.find(key, revision, now)?;
        if let Lookup::Found(value) = found {
            // The first fits, however large it is.
            if value.size_bytes() > *room_bytes && *room_bytes < ANSWER_BYTES_MAX {
                return Err(Refused("native/answer-too-large", RefusalReason::AnswerTooLarge, None));
            }
            *room_bytes = room_bytes.saturating_sub(value.size_bytes().max(1));
            found = Lookup::Found(Box::new(self.state.take_along(*value)?));
        }
        let reads = match &found {
            Lookup::Found(value) => vec![StateRead { key: String::new(), revision: value.revision().0 }],
            Lookup::Nothing | Lookup::Shredded(_) | Lookup::Gone { .. } => Vec::new(),
        };
        Ok((found, StateFacts { reads, ..StateFacts::default() }))
    }

    /// What is to be shown of these changes, as far as it fits an entry and an answer.
    fn news(&self, changes: &[WatchedChange], now: UnixMicros) -> Result<News, Refused> {
        let (mut news, mut bytes, mut shown) = (News::default(), 0, HashMap::new());
        for WatchedChange { change, seen } in changes {
            if news.followed.len() >= FOLLOWED_MAX || bytes >= FOLLOWED_BYTES_MAX {
                break;
            }
            news.consumed += 1;
            let seen = *shown.get(&change.key).unwrap_or(seen);
            let found = self.newest_or(change, now)?;
            let revision = match &found {
                Lookup::Found(value) => value.revision(),
                Lookup::Gone { revision, .. } | Lookup::Shredded(revision) => *revision,
                Lookup::Nothing => Revision::NONE,
            };
            let known = [seen, revision].into_iter().filter(|revision| change.spans(*revision));
            let known = known.collect::<BTreeSet<_>>().len() as u64;
            news.skipped += change.count.saturating_sub(known);
            if revision <= seen {
                continue;
            }
            shown.insert(&change.key, revision);
            let key = change.key.clone();
            news.followed.push(match found {
                Lookup::Found(value) => {
                    bytes += value.size_bytes();
                    Followed::Put(Box::new(self.state.take_along(*value)?))
                }
                Lookup::Gone { revision, expired } => Followed::Gone { key, revision, expired },
                Lookup::Shredded(_) => Followed::Shredded { key, revision },
                Lookup::Nothing => continue,
            });
        }
        Ok(news)
    }

    /// What a single change made, where that is still kept; what stands there now, where it was overtaken or is one of several.
    fn newest_or(&self, change: &Change, now: UnixMicros) -> Result<Lookup, TableError> {
        if change.count == 1 {
            let found = self.state.find(&change.key, Some(change.last), now)?;
            if !matches!(found, Lookup::Nothing) {
                return Ok(found);
            }
        }
        self.state.find(&change.key, None, now)
    }

    /// What stands there, if that is what the writer expects.
    fn expect(&self, key: &StateKey, expected: Option<Revision>, now: UnixMicros) -> Result<Current, Refused> {
        let current = self.state.current(key, now)?;
        if expected.is_some_and(|expected| expected != current.revision) {
            let conflict = RefusalReason::RevisionConflict;
            return Err(Refused("native/revision-conflict", conflict, Some(current.revision)));
        }
        Ok(current)
    }

    fn refused(
        &self,
        entry: Prepared,
        reason: RefusalReason,
        current: Option<Revision>,
        commit: &mut Commit,
    ) -> StateOutcome {
        StateOutcome::Refused { decision_id: self.decision_id(commit.push(entry)), reason, current }
    }
}

fn push(entry: &mut Prepared, state: StateFacts, commit: &mut Commit) -> u64 {
    commit.push_with(std::mem::take(entry), added(state))
}

fn added(state: StateFacts) -> AuditEntry {
    AuditEntry { state: Some(state), ..AuditEntry::default() }
}

fn read_of(followed: &Followed) -> Option<StateRead> {
    match followed {
        Followed::Put(value) => Some(StateRead { key: value.key().to_string(), revision: value.revision().0 }),
        Followed::Gone { .. } | Followed::Shredded { .. } => None,
    }
}
