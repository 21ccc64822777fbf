//! The one writer. It runs on a thread of its own, since it waits for the disk.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use lru::LruCache;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use veribus_proto::v1::{self, EntryKind};

use super::{
    Audience, DiskWatch, Draft, LogReader, Recipient, Recorded, Recorder, Routed, StartError, UndeliveredCount,
    audience,
    commit::{ChainEnd, Commit, TooLong},
    duplicates::{Duplicates, First, FirstOutcome, Key},
    events::EventLog,
    journal::Journal,
    order::ANSWER_BYTES_MAX,
    prepared::Prepared,
    queue::Submission,
    revocation,
    routed::Ending,
    running::RunningTime,
    tail,
};
use malformed::MalformedRun;
use reply::Reply;
use request::{Changes, Unrecorded};

use crate::{
    authenticate::Revocations,
    decide::Permitted,
    engine::{AppendError, SharedLogStore},
    metrics::Metrics,
    model::{
        Clock, DecisionId, NodeName, Outcome, Receipt, RefusalReason, RefusedReceipt, Revision, StepWatch, UnixMicros,
    },
    state::{StateTable, TableError},
};

/// Takes what is recorded, in index order, and hands it to its audience.
pub trait Handover: Send + 'static {
    /// Must not block. Returns what could not be handed over, to be recorded.
    fn hand_over(&mut self, batch: Vec<Recorded>) -> Vec<Draft>;
}

/// How the log is written.
#[derive(Debug, Clone)]
pub struct WriterSettings {
    /// Which node writes.
    pub node: NodeName,
    /// How many entries one commit takes, about.
    pub commit_entries_max: usize,
    /// How long a commit that has some entries waits for more.
    pub linger_max: Duration,
    /// How many submissions may wait.
    pub queue_submissions_max: usize,
    /// How many payload bytes may wait for their commit, over all senders.
    pub queue_bytes_max: usize,
    /// How many of the newest entries are verified at start.
    pub verify_at_start_entries_max: u64,
    /// How many message ids are remembered for each sender.
    pub dedup_ids_per_sender_max: usize,
    /// For how many senders.
    pub dedup_senders_max: usize,
    /// How many revocations may be in force.
    pub revocations_max: usize,
}

/// Why the writer stopped for good. Nothing is acknowledged after this.
#[derive(Debug, Error)]
pub enum WriterEnd {
    /// The store cannot write any more.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// After a failed write the log could not be read back.
    #[error("after a failed write: {0}")]
    Recovery(#[from] StartError),
    /// Nobody knows which root key the store's keys are under; the next start finds out.
    #[error("the change of the root key may or may not be in the store: {0}")]
    RootKey(String),
    /// After a failed write the keys could not be read back.
    #[error("after a failed write: {0}")]
    State(#[from] TableError),
}

/// Bytes of recipients that one entry names itself; a longer audience is listed in entries of its own.
const INLINE_AUDIENCE_BYTES_MAX: usize = 1024;
/// How many audiences, and parts of audiences, are known by the entries that list them.
const KNOWN_AUDIENCES_MAX: NonZeroUsize = match NonZeroUsize::new(16_384) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};

/// With fewer entries than this, a commit waits for none; with more than that, it need not.
const LINGER_ENTRIES_MIN: usize = 32;
const LINGER_ENTRIES_MAX: usize = 512;
/// How far the clock may be behind the log's last entry at start without being noted: less than that, it is adjusted often.
const CLOCK_BEHIND_US_MIN: i64 = 2_000_000;
/// How many commits may fail in a row.
const FAILURES_MAX: u32 = 3;

/// Writes the log.
pub struct Writer {
    store: SharedLogStore,
    submissions: mpsc::Receiver<Submission>,
    /// Taken already, for a commit of its own.
    held_back: Option<Submission>,
    committed: watch::Sender<u64>,
    settings: WriterSettings,
    clock: Clock,
    steps: StepWatch,
    running: RunningTime,
    events: EventLog,
    metrics: Metrics,
    end: ChainEnd,
    duplicates: Duplicates,
    known_audiences: LruCache<audience::AudienceDigest, u64>,
    notes: Vec<Draft>,
    revocations: Arc<Revocations>,
    state: StateTable,
    /// In force, and not known to be in the log.
    unrecorded: Vec<Unrecorded>,
    /// Of the copy under way, if there is one.
    journal: Weak<Journal>,
    failures: u32,
}

impl Writer {
    /// Verifies the log's tail and begins after it. What was revoked before is put in force in `revocations`.
    ///
    /// # Errors
    /// [`StartError`]: the broker must not run on a log that it cannot continue.
    pub fn start(
        store: SharedLogStore,
        settings: WriterSettings,
        disk: DiskWatch,
        clock: Clock,
        metrics: Metrics,
        revocations: Arc<Revocations>,
        state: StateTable,
    ) -> Result<(Self, Recorder, LogReader), StartError> {
        let mut duplicates = Duplicates::new(settings.dedup_senders_max, settings.dedup_ids_per_sender_max);
        let (end, last) = tail::load(&*store, settings.verify_at_start_entries_max, &mut duplicates)?;
        if last.is_some_and(|last| last.kind != EntryKind::BrokerStopped) {
            let entries = end.next_index;
            tracing::warn!(entries, "the broker did not stop in good order before this start");
        }
        revocations.change(revocation::load(&*store)?, &[]);
        let (recorder, submissions) = Recorder::new(settings.queue_submissions_max, settings.queue_bytes_max, disk);
        let (committed, reader) = watch::channel(end.next_index);
        let reader = LogReader::new(store.clone(), reader, last.map(|last| last.clock));
        let known_audiences = LruCache::new(KNOWN_AUDIENCES_MAX);
        state.begin(Revision(end.next_index.saturating_sub(1)));
        let last = last.map(|last| last.clock);
        let running = RunningTime::load(&*store, clock.clone(), last)?;
        let mut notes = Vec::new();
        notes.extend(clock_before(end.time, clock.now()).map(Draft::clock_stepped));
        let writer = Self {
            store,
            submissions,
            held_back: None,
            committed,
            settings,
            steps: StepWatch::new(clock.clone()),
            running,
            events: EventLog::new(clock.clone()),
            clock,
            metrics,
            end,
            duplicates,
            known_audiences,
            notes,
            revocations,
            state,
            unrecorded: Vec::new(),
            journal: Weak::new(),
            failures: 0,
        };
        Ok((writer, recorder, reader))
    }

    /// Writes until it is told to finish, or every [`Recorder`] is gone. Blocks: give it a thread of its own.
    ///
    /// # Errors
    /// [`WriterEnd`]: the process must end.
    pub fn run(mut self, mut handover: impl Handover) -> Result<(), WriterEnd> {
        let mut batch = Vec::new();
        loop {
            if self.notes.is_empty() {
                match self.held_back.take().or_else(|| self.submissions.blocking_recv()) {
                    Some(first) => batch.push(first),
                    None => return Ok(()),
                }
            }
            self.collect(&mut batch);
            self.linger(&mut batch);
            let last = batch.pop_if(|one| matches!(one, Submission::Finish(_)));
            self.commit(&mut batch, &mut handover)?;
            if let Some(Submission::Finish(stopped)) = last {
                return self.finish(stopped, &mut handover);
            }
        }
    }

    /// Ends the log: what is still to be noted, then the last entry, and nothing after it.
    fn finish(mut self, stopped: Draft, handover: &mut impl Handover) -> Result<(), WriterEnd> {
        self.commit_notes(handover)?;
        self.notes.push(stopped);
        self.commit_notes(handover)
    }

    fn commit_notes(&mut self, handover: &mut impl Handover) -> Result<(), WriterEnd> {
        while !self.notes.is_empty() {
            self.commit(&mut Vec::new(), handover)?;
        }
        Ok(())
    }

    /// Under load, waits a moment for more: one commit of many costs far less than many of few. One who publishes now and
    /// then is not kept waiting.
    fn linger(&mut self, batch: &mut Vec<Submission>) {
        let entries: usize = batch.iter().map(Submission::entries).sum();
        if (LINGER_ENTRIES_MIN..LINGER_ENTRIES_MAX).contains(&entries) {
            thread::park_timeout(self.settings.linger_max);
            self.collect(batch);
        }
    }

    /// Takes what else waits, up to the size of a commit, and nothing that comes after the end or goes with nothing else.
    fn collect(&mut self, batch: &mut Vec<Submission>) {
        let mut entries: usize = batch.iter().map(Submission::entries).sum();
        while entries < self.settings.commit_entries_max && !batch.last().is_some_and(Submission::closes_commit) {
            let Some(next) = self.held_back.take().or_else(|| self.submissions.try_recv().ok()) else { return };
            if next.stands_alone() && !batch.is_empty() {
                self.held_back = Some(next);
                return;
            }
            entries += next.entries();
            batch.push(next);
        }
    }

    fn commit(&mut self, batch: &mut Vec<Submission>, handover: &mut impl Handover) -> Result<(), WriterEnd> {
        if batch.is_empty() && self.notes.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let node = self.settings.node.clone();
        let mut commit = Commit::new(&node, self.end, self.clock.now());
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(batch.iter().filter_map(Submission::note));
        for note in &notes {
            let index = commit.push(note.clone());
            self.events.entry(&note.0, index);
        }
        let mut changes = self.changes(&mut commit);
        let mut recorded = Vec::new();
        let mut take = |one| self.take(one, &mut commit, &mut recorded, &mut changes);
        let mut replies: Vec<Reply> = batch.drain(..).map(&mut take).collect();
        self.record_reads(&mut replies, &mut changes, &mut commit);
        let (chunks, end) = commit.finish();
        changes.records.extend(self.state.records());
        let entries = end.next_index - self.end.next_index;
        if chunks.is_empty() && changes.records.is_empty() {
            replies.into_iter().for_each(Reply::send);
            return Ok(());
        }
        let journal = self.journal.upgrade();
        journal.iter().for_each(|journal| journal.begin());
        let appended = self.store.append(&chunks, &changes.records);
        if appended.is_err() {
            journal.iter().for_each(|journal| journal.fail());
        }
        match appended {
            Ok(()) => {}
            Err(AppendError::Write(detail)) if changes.moves_root => return Err(WriterEnd::RootKey(detail)),
            Err(AppendError::Write(detail)) => {
                tracing::error!(detail, "a write to the audit log failed: everything in flight is refused");
                drop(replies);
                self.unrecorded = changes.revoked;
                return self.recover(detail, notes, &recorded);
            }
            // A lost disk: what was in flight is neither acknowledged nor delivered.
            Err(error @ AppendError::Fatal(_)) => return Err(error.into()),
        }
        self.failures = 0;
        self.end = end;
        self.state.committed();
        self.journal(&mut changes);
        if !changes.lifted.is_empty() {
            self.revocations.change(Vec::new(), &changes.lifted);
        }
        self.committed.send_replace(end.next_index);
        self.metrics.committed(entries, started.elapsed());
        let undelivered = handover.hand_over(recorded);
        self.notes.extend(undelivered);
        replies.into_iter().for_each(Reply::send);
        Ok(())
    }

    /// Takes down for a copy what a durable commit changed; one that begins with it finds that in the store.
    fn journal(&mut self, changes: &mut Changes) {
        if let Some(begun) = changes.journal.take() {
            self.journal = begun;
            changes.records.clear();
        }
        if let Some(journal) = self.journal.upgrade() {
            journal.note(&changes.records, self.end);
        }
    }

    /// After a failed write nobody knows what persisted: read it back, as after a crash. What did persist was delivered to
    /// nobody, which is recorded next. Until an entry that says so is durable, nothing that was read back counts: no
    /// duplicate is answered and no reader sees it.
    fn recover(&mut self, fault: String, notes: Vec<Draft>, in_flight: &[Recorded]) -> Result<(), WriterEnd> {
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(AppendError::Write(fault).into());
        }
        let settings = &self.settings;
        self.duplicates = Duplicates::new(settings.dedup_senders_max, settings.dedup_ids_per_sender_max);
        self.known_audiences.clear();
        self.state.recover()?;
        (self.end, _) = tail::load(&*self.store, settings.verify_at_start_entries_max, &mut self.duplicates)?;
        // What persisted was told to nobody who watches: they look through the records.
        self.state.begin(Revision(self.end.next_index.saturating_sub(1)));
        let mut missed: HashMap<&Recipient, UndeliveredCount> = HashMap::new();
        for recorded in in_flight.iter().filter(|one| one.decision_id().audit_index() < self.end.next_index) {
            for recipient in recorded.audience().recipients() {
                missed.entry(recipient).or_default().add(recorded.decision_id().audit_index());
            }
        }
        self.notes.push(Draft::recovered());
        self.notes.extend(notes);
        let missed = missed.iter().map(|(recipient, count)| Draft::undelivered(recipient, "record-failed", count));
        self.notes.extend(missed);
        Ok(())
    }

    fn take(
        &mut self,
        submission: Submission,
        commit: &mut Commit,
        recorded: &mut Vec<Recorded>,
        changes: &mut Changes,
    ) -> Reply {
        match submission {
            Submission::Messages(messages, reply, room) => {
                let malformed = messages.iter().filter(|one| matches!(one.ending, Ending::Malformed(_)));
                let mut malformed = MalformedRun::new(malformed.map(|one| &one.sender));
                let message = |one| self.message(one, commit, recorded, &mut malformed);
                let outcomes = messages.into_iter().map(message).collect();
                Reply::Messages(reply, outcomes, room)
            }
            Submission::Access(request, reply) => Reply::Access(reply, self.request(*request, commit, changes)),
            Submission::State(orders, reply, room) => {
                let mut room_bytes = ANSWER_BYTES_MAX;
                let mut malformed =
                    MalformedRun::new(orders.iter().filter(|one| one.is_malformed()).map(|one| &one.asker));
                let operation = |one| self.operation(one, &mut room_bytes, commit, &mut malformed);
                let outcomes = orders.into_iter().map(operation).collect();
                Reply::State(reply, outcomes, room)
            }
            Submission::Follow(order, reply) => self.follow(*order, reply, changes, commit),
            Submission::Keys(request, reply) => Reply::Keys(reply, self.keys(*request, commit, changes)),
            Submission::Due(due) => {
                self.due(&due, commit);
                Reply::None
            }
            // Taken already, before all else.
            Submission::Note(_) => Reply::None,
            Submission::Finish(draft) => {
                commit.push(draft);
                Reply::None
            }
            Submission::Tick => {
                self.tick(commit, changes);
                Reply::None
            }
            Submission::Barrier(reply) => Reply::Barrier(reply),
        }
    }

    fn message(
        &mut self,
        routed: Routed,
        commit: &mut Commit,
        recorded: &mut Vec<Recorded>,
        malformed: &mut MalformedRun,
    ) -> Outcome {
        let sender = Arc::clone(&routed.sender);
        let outcome = self.record_message(routed, commit, recorded, malformed);
        self.events.outcome(&sender, &outcome);
        outcome
    }

    fn record_message(
        &mut self,
        routed: Routed,
        commit: &mut Commit,
        recorded: &mut Vec<Recorded>,
        malformed: &mut MalformedRun,
    ) -> Outcome {
        let Routed { mut entry, salt, fingerprint, sender, via, ending, .. } = routed;
        let id = match ending {
            Ending::Malformed(message_id) => {
                let decision_id = self.decision_id(malformed.push(entry, commit));
                let reason = RefusalReason::MalformedMessage;
                return Outcome::Refused(RefusedReceipt { message_id, decision_id, reason, duplicate: false });
            }
            Ending::HandedOver(ref permitted, _) => permitted.message().id.clone(),
            Ending::Held(ref id) | Ending::Refused(ref id, _) => id.clone(),
        };
        let key = Key::new(sender.issuer().as_str(), sender.agent().as_str(), id.as_str());
        if let Some(first) = self.duplicates.find(&key) {
            if first.fingerprint == Some(fingerprint) {
                return self.outcome(id, &first, true);
            }
            // Another message under the same id goes nowhere, and what was tried is not hidden.
            let reason = RefusalReason::MessageIdReused;
            entry.deny("native/message-id-reused", reason);
            let (message_id, decision_id) = (id.as_str().to_owned(), self.decision_id(commit.push(entry)));
            return Outcome::Refused(RefusedReceipt { message_id, decision_id, reason, duplicate: false });
        }
        // A token may have run out or been revoked while the message waited.
        let ending = match self.fallen(&sender).or_else(|| self.fallen(via.as_deref()?)) {
            Some((rule, reason)) => {
                entry.deny(&rule, reason);
                Ending::Refused(id.clone(), reason)
            }
            None => ending,
        };
        let (outcome, handed_over) = match ending {
            Ending::HandedOver(permitted, audience) => (FirstOutcome::Accepted, Some((permitted, audience))),
            Ending::Held(_) => (FirstOutcome::Quarantined, None),
            Ending::Refused(_, reason) => (FirstOutcome::Refused(reason), None),
            Ending::Malformed(_) => (FirstOutcome::Refused(RefusalReason::MalformedMessage), None),
        };
        let recipients = handed_over.as_ref().map_or(0, |(_, audience)| audience.recipients().len());
        let recipients = u32::try_from(recipients).ok();
        let index = match self.push(entry, handed_over, salt, commit, recorded) {
            Ok(index) => index,
            Err(TooLong(index)) => {
                let (message_id, decision_id) = (id.as_str().to_owned(), self.decision_id(index));
                let reason = RefusalReason::DecisionFailed;
                return Outcome::Refused(RefusedReceipt { message_id, decision_id, reason, duplicate: false });
            }
        };
        let first = First { index, outcome, salt: Some(salt), fingerprint: Some(fingerprint), recipients };
        if outcome.is_final() {
            self.duplicates.insert(key, first);
        }
        self.outcome(id, &first, false)
    }

    fn push(
        &mut self,
        entry: Prepared,
        handed_over: Option<(Permitted, Audience)>,
        salt: [u8; 32],
        commit: &mut Commit,
        recorded: &mut Vec<Recorded>,
    ) -> Result<u64, TooLong> {
        let Some((permitted, audience)) = handed_over else { return Ok(commit.push(entry)) };
        let named = self.name_audience(&audience, commit);
        let index = commit.try_push_with(entry, v1::AuditEntry { audience: named, ..v1::AuditEntry::default() })?;
        if !audience.is_empty() {
            recorded.push(Recorded::new(permitted, audience, self.decision_id(index), salt));
        }
        Ok(index)
    }

    /// The audience as it stands in the entry: written out the first time, by reference after that.
    fn name_audience(&mut self, audience: &Audience, commit: &mut Commit) -> Option<v1::Audience> {
        if audience.is_empty() {
            return None;
        }
        let recipients = audience.recipients();
        if let Some(listed_at) = self.known_audiences.get(audience.digest()) {
            return Some(v1::Audience { listed_at: vec![*listed_at], recipients: Vec::new() });
        }
        let bytes: usize = recipients.iter().map(Recipient::bytes).sum();
        if bytes <= INLINE_AUDIENCE_BYTES_MAX {
            self.known_audiences.put(*audience.digest(), commit.next_index());
            let recipients = recipients.iter().map(super::draft::recipient_facts).collect();
            return Some(v1::Audience { recipients, listed_at: Vec::new() });
        }
        let listed_at = self.list_audience(recipients, commit);
        self.known_audiences.put(*audience.digest(), listed_at);
        Some(v1::Audience { listed_at: vec![listed_at], recipients: Vec::new() })
    }

    /// Lists an audience in entries of its own, part by part, and says which they are: of one that differs from those before
    /// in a few recipients, only the parts that these are in are new.
    fn list_audience(&mut self, recipients: &[Recipient], commit: &mut Commit) -> u64 {
        let mut listed_at = Vec::new();
        for part in audience::parts(recipients) {
            let digest = audience::digest(part);
            let known = self.known_audiences.get(&digest).copied();
            let index = known.unwrap_or_else(|| commit.push(Draft::listed_audience(part)));
            self.known_audiences.put(digest, index);
            listed_at.push(index);
        }
        while listed_at.len() > audience::REFERENCES_MAX {
            let referring = |parts: &[u64]| commit.push(Draft::audience_of(parts.to_vec()));
            listed_at = listed_at.chunks(audience::REFERENCES_MAX).map(referring).collect();
        }
        commit.push(Draft::audience_of(listed_at))
    }

    fn outcome(&self, message_id: crate::model::MessageId, first: &First, duplicate: bool) -> Outcome {
        let decision_id = self.decision_id(first.index);
        let First { salt, recipients, .. } = *first;
        let receipt = |message_id, decision_id| Receipt { message_id, decision_id, salt, duplicate, recipients };
        match first.outcome {
            FirstOutcome::Accepted => Outcome::Accepted(receipt(message_id, decision_id)),
            FirstOutcome::Quarantined => Outcome::Quarantined(receipt(message_id, decision_id)),
            FirstOutcome::Refused(reason) => Outcome::Refused(RefusedReceipt {
                message_id: message_id.as_str().to_owned(),
                decision_id,
                reason,
                duplicate,
            }),
        }
    }

    fn decision_id(&self, index: u64) -> DecisionId {
        DecisionId::new(self.settings.node.clone(), index)
    }
}

/// By how much the clock is behind the log's last entry, if it is.
fn clock_before(last: UnixMicros, now: UnixMicros) -> Option<i64> {
    let step = now.0.saturating_sub(last.0);
    (step < -CLOCK_BEHIND_US_MIN).then_some(step)
}

mod keys;
mod malformed;
mod reads;
mod reply;
mod request;
mod state;
#[cfg(test)]
mod tests;
