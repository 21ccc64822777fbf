use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use veribus_proto::{
    chain::ChainVerifier,
    entries,
    v1::{AuditEntry, Decision, EntryKind},
};

use super::*;
use crate::{
    engine::{Chunk, LogStore, ReadError, Record},
    fixtures::{MemoryStore, NOW, World, decider, fingerprints, inspector, message, peer},
    inspect::Submitted,
    issue::KeyKind,
    model::{AgentId, Issuer, SubscriptionId},
};

/// A store in memory that can fail in both ways: before the write persists, and after.
#[derive(Default)]
struct Store {
    kept: MemoryStore,
    failures: Mutex<Vec<Failure>>,
    appends: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    NotPersisted,
    PersistedButReportedFailed,
    Sync,
}

impl LogStore for Store {
    fn append(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        let failure = self.failures.lock().pop();
        if failure != Some(Failure::NotPersisted) {
            self.kept.append(chunks, records)?;
        }
        match failure {
            None => Ok(()),
            Some(Failure::Sync) => Err(AppendError::Fatal(std::io::Error::other("the disk is gone"))),
            Some(_) => Err(AppendError::Write("failed on purpose".to_owned())),
        }
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.kept.records(prefix)
    }

    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.kept.records_between(from, to, max)
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.kept.record(key)
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        self.kept.chunk_at(index)
    }

    fn size_bytes(&self) -> u64 {
        0
    }
}

impl Store {
    fn entries(&self) -> Vec<AuditEntry> {
        let mut verifier = ChainVerifier::from_genesis();
        let chunks = self.kept.chunks.lock();
        let bytes = chunks.iter().flat_map(|chunk| entries::iter(&chunk.bytes));
        bytes.map(|entry| verifier.push(entry.expect("whole")).expect("a whole chain")).collect()
    }
}

/// Takes down what is handed over.
#[derive(Clone, Default)]
struct Delivered(Arc<Mutex<Vec<u64>>>);

impl Handover for Delivered {
    fn hand_over(&mut self, batch: Vec<Recorded>) -> Vec<Draft> {
        self.0.lock().extend(batch.iter().map(|one| one.decision_id().audit_index()));
        Vec::new()
    }
}

mod copying;
mod keys;
mod revoking;

type Running = std::thread::JoinHandle<Result<(), WriterEnd>>;

struct Bench {
    world: World,
    store: Arc<Store>,
    delivered: Delivered,
}

impl Bench {
    fn new() -> Self {
        Self { world: World::new(KeyKind::EdDsa), store: Arc::default(), delivered: Delivered::default() }
    }

    /// The same store, and nothing else of what the process knew.
    fn restarted(self) -> Self {
        Self { world: self.world.restarted(), ..self }
    }

    fn start(&self) -> Result<(Recorder, LogReader, Running), StartError> {
        let (writer, recorder, reader) = self.open()?;
        let delivered = self.delivered.clone();
        let running = std::thread::spawn(move || writer.run(delivered));
        Ok((recorder, reader, running))
    }

    /// A writer that does not run yet.
    fn open(&self) -> Result<(Writer, Recorder, LogReader), StartError> {
        let settings = WriterSettings {
            node: NodeName::parse("test").expect("a name"),
            commit_entries_max: 64,
            linger_max: Duration::from_micros(100),
            queue_submissions_max: 16,
            queue_bytes_max: 1 << 20,
            verify_at_start_entries_max: 1_000,
            dedup_ids_per_sender_max: 100,
            dedup_senders_max: 10,
            revocations_max: 3,
        };
        let disk = DiskWatch::new(std::path::Path::new("/"), 0);
        let (store, clock) = (self.store.clone(), self.world.clock.clone());
        let revocations = Arc::clone(self.world.verifier.revocations());
        let table = crate::fixtures::state_table(&(store.clone() as SharedLogStore));
        Writer::start(store, settings, disk, clock, Metrics::default(), revocations, table)
    }

    fn routed(&self, id: &str, allow: bool) -> Routed {
        self.routed_with(id, allow, "{}")
    }

    fn routed_with(&self, id: &str, allow: bool, data: &str) -> Routed {
        let sender = self.world.identity(&self.world.claims("sender").permission("publish:>"));
        self.routed_by(sender, id, allow, data)
    }

    fn routed_by(&self, sender: Arc<crate::authenticate::Identity>, id: &str, allow: bool, data: &str) -> Routed {
        self.routed_through(None, sender, id, allow, data)
    }

    fn routed_through(
        &self,
        via: Option<Arc<crate::authenticate::Identity>>,
        sender: Arc<crate::authenticate::Identity>,
        id: &str,
        allow: bool,
        data: &str,
    ) -> Routed {
        let rule = if allow { "allow if true" } else { "allow if input.topic == \"never\"" };
        let policy = format!("package veribus\nimport rego.v1\n{rule}\n");
        let decider = decider(&[("test.rego", &policy)], self.world.clock.clone()).expect("a policy");
        let submitted = Submitted { sender, via, peer: peer(), content: message(id, "a.b", "t", "", data) };
        Routed::new(decider.decide(inspector().inspect(submitted)), &fingerprints(), |_| {
            Audience::new([recipient(1)].into())
        })
    }
}

fn recipient(number: u64) -> Recipient {
    Recipient {
        subscription: SubscriptionId(number),
        issuer: Issuer::parse("https://issuer.example").expect("an issuer"),
        agent: AgentId::parse(&format!("receiver-{number}")).expect("an agent"),
    }
}

async fn record(recorder: &Recorder, message: Routed) -> Result<Outcome, super::super::RecordError> {
    let pending = recorder.messages(vec![message]).await?;
    Ok(pending.outcomes().await?.remove(0))
}

fn index(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Accepted(receipt) | Outcome::Quarantined(receipt) => receipt.decision_id.audit_index(),
        Outcome::Refused(refused) => refused.decision_id.audit_index(),
    }
}

#[tokio::test]
async fn an_allowed_message_is_recorded_then_delivered_and_a_denied_one_only_recorded() {
    let bench = Bench::new();
    let (recorder, reader, _running) = bench.start().expect("started");
    let allowed = record(&recorder, bench.routed("m1", true)).await.expect("recorded");
    let denied = record(&recorder, bench.routed("m2", false)).await.expect("recorded");
    assert!(matches!(allowed, Outcome::Accepted(_)) && matches!(denied, Outcome::Refused(_)));
    assert_eq!(*bench.delivered.0.lock(), [index(&allowed)]);
    let entries = bench.store.entries();
    let decisions: Vec<_> = entries.iter().map(|entry| entry.decision.as_ref().expect("decided").decision()).collect();
    assert_eq!(decisions, [Decision::Allow, Decision::Deny]);
    assert_eq!(reader.committed(), 2);
    assert_eq!(reader.read(0).expect("read")[0].bytes, entries[0].encode_to_vec(), "served as stored");
}

#[tokio::test]
async fn a_failed_log_write_delivers_nothing_whether_it_persisted_or_not() {
    for failure in [Failure::NotPersisted, Failure::PersistedButReportedFailed] {
        let bench = Bench::new();
        let (recorder, _reader, _running) = bench.start().expect("started");
        record(&recorder, bench.routed("before", true)).await.expect("recorded");
        bench.store.failures.lock().push(failure);
        assert!(record(&recorder, bench.routed("during", true)).await.is_err());
        let after = record(&recorder, bench.routed("after", true)).await.expect("recorded");
        let delivered = bench.delivered.0.lock().clone();
        assert_eq!(delivered, [0, index(&after)], "what failed is delivered to nobody");

        let entries = bench.store.entries();
        let of_the_failed: Vec<_> =
            entries.iter().filter(|entry| entry.message.as_ref().is_some_and(|m| m.id == "during")).collect();
        assert!(entries.iter().any(|entry| entry.kind() == EntryKind::RecordRecovered), "the failure is in the log");
        let undelivered: Vec<_> = entries.iter().filter(|entry| entry.kind() == EntryKind::Undelivered).collect();
        if failure == Failure::NotPersisted {
            assert!(of_the_failed.is_empty() && undelivered.is_empty());
        } else {
            assert_eq!((of_the_failed.len(), undelivered.len()), (1, 1));
            assert_eq!(undelivered[0].undelivered.as_ref().expect("named").indexes[0].first, of_the_failed[0].index);
        }
    }
}

#[tokio::test]
async fn what_a_failed_write_left_behind_is_not_acknowledged_until_a_write_succeeds() {
    let bench = Bench::new();
    let (recorder, reader, running) = bench.start().expect("started");
    record(&recorder, bench.routed("before", true)).await.expect("recorded");
    *bench.store.failures.lock() = vec![Failure::PersistedButReportedFailed; 10];
    assert!(record(&recorder, bench.routed("m", true)).await.is_err());
    assert!(record(&recorder, bench.routed("m", true)).await.is_err(), "a duplicate of what may not be on disk");
    assert!(
        matches!(running.join().expect("no panic"), Err(WriterEnd::Append(_))),
        "a store that only fails is the end"
    );
    assert_eq!(reader.committed(), 1, "no reader sees what may not be on disk");
    assert_eq!(*bench.delivered.0.lock(), [0]);
}

#[tokio::test]
async fn a_note_survives_a_failed_write() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    *bench.store.failures.lock() = vec![Failure::NotPersisted];
    recorder.note(Draft::stopped().with_detail("kept".to_owned())).await.expect("queued");
    record(&recorder, bench.routed("after", true)).await.ok();
    record(&recorder, bench.routed("later", true)).await.expect("recorded");
    assert!(bench.store.entries().iter().any(|entry| entry.detail == "kept"));
}

#[tokio::test]
async fn a_disk_that_does_not_confirm_ends_the_writer_and_nothing_is_acknowledged_after() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    bench.store.failures.lock().push(Failure::Sync);
    assert!(record(&recorder, bench.routed("m", true)).await.is_err());
    assert!(matches!(running.join().expect("no panic"), Err(WriterEnd::Append(_))));
    assert!(record(&recorder, bench.routed("later", true)).await.is_err());
    assert!(bench.delivered.0.lock().is_empty());
}

#[tokio::test]
async fn nothing_is_recorded_after_the_last_entry() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    // So many that the writer would wait for more.
    let messages: Vec<_> = (0..LINGER_ENTRIES_MIN).map(|number| bench.routed(&number.to_string(), true)).collect();
    let in_time = recorder.messages(messages).await.expect("queued");
    recorder.finish(Draft::stopped()).await.expect("queued");
    let late = recorder.messages(vec![bench.routed("m2", true)]).await.expect("queued");
    let delivered = bench.delivered.clone();
    std::thread::spawn(move || writer.run(delivered)).join().expect("no panic").expect("ended in good order");
    assert_eq!(in_time.outcomes().await.expect("recorded").len(), LINGER_ENTRIES_MIN);
    assert_eq!(late.outcomes().await, Err(super::super::RecordError::Failed));
    assert_eq!(kinds(&bench).last(), Some(&EntryKind::BrokerStopped));
}

/// Reaches nobody.
struct NobodyThere;

impl Handover for NobodyThere {
    fn hand_over(&mut self, batch: Vec<Recorded>) -> Vec<Draft> {
        let mut count = UndeliveredCount::default();
        batch.iter().for_each(|one| count.add(one.decision_id().audit_index()));
        if batch.is_empty() { Vec::new() } else { vec![Draft::undelivered(&recipient(1), "client_gone", &count)] }
    }
}

#[tokio::test]
async fn what_could_not_be_handed_over_at_the_last_is_recorded_before_the_end() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    let _pending = recorder.messages(vec![bench.routed("m1", true)]).await.expect("queued");
    recorder.finish(Draft::stopped()).await.expect("queued");
    std::thread::spawn(move || writer.run(NobodyThere)).join().expect("no panic").expect("ended in good order");
    assert_eq!(kinds(&bench), [EntryKind::Publish, EntryKind::Undelivered, EntryKind::BrokerStopped]);
}

#[tokio::test]
async fn whoever_waits_for_the_log_finds_what_could_not_be_handed_over_in_it() {
    let bench = Bench::new();
    let (writer, recorder, _reader) = bench.open().expect("opened");
    let _running = std::thread::spawn(move || writer.run(NobodyThere));
    record(&recorder, bench.routed("m1", true)).await.expect("recorded");
    recorder.caught_up().await.expect("caught up");
    assert_eq!(kinds(&bench), [EntryKind::Publish, EntryKind::Undelivered]);
    recorder.caught_up().await.expect("caught up");
    assert_eq!(kinds(&bench).len(), 2, "waiting leaves no entry");
}

fn kinds(bench: &Bench) -> Vec<EntryKind> {
    bench.store.entries().iter().map(AuditEntry::kind).collect()
}

#[tokio::test]
async fn a_message_id_that_comes_again_gets_the_first_receipt_also_after_a_restart() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    let first = record(&recorder, bench.routed("m", true)).await.expect("recorded");
    let Outcome::Accepted(first) = first else { panic!("not accepted") };
    let Outcome::Accepted(again) = record(&recorder, bench.routed("m", true)).await.expect("answered") else {
        panic!("not accepted")
    };
    assert_eq!((again.decision_id.clone(), again.salt, again.duplicate), (first.decision_id.clone(), first.salt, true));
    let refused = record(&recorder, bench.routed("d", false)).await.expect("recorded");
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");

    let (recorder, _reader, _running) = bench.start().expect("started again");
    let Outcome::Accepted(later) = record(&recorder, bench.routed("m", true)).await.expect("answered") else {
        panic!("not accepted")
    };
    assert_eq!((later.decision_id, later.salt, later.duplicate), (first.decision_id, None, true));
    let refused_again = record(&recorder, bench.routed("d", true)).await.expect("answered");
    assert_eq!(index(&refused_again), index(&refused));
    assert_eq!(bench.store.entries().len(), 2);
    assert_eq!(bench.delivered.0.lock().len(), 1);
}

#[tokio::test]
async fn another_message_under_a_used_id_is_refused_goes_nowhere_and_is_recorded() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    record(&recorder, bench.routed("m", true)).await.expect("recorded");
    let other = record(&recorder, bench.routed_with("m", true, r#"{"amount":1}"#)).await.expect("recorded");
    let reused = RefusalReason::MessageIdReused;
    assert!(matches!(&other, Outcome::Refused(refused) if refused.reason == reused && index(&other) == 1));
    let entries = bench.store.entries();
    let rules = entries[1].decision.as_ref().expect("decided").rules.clone();
    assert_eq!((entries.len(), rules), (2, vec!["native/message-id-reused".to_owned()]));
    assert_eq!(bench.delivered.0.lock().len(), 1);
    record(&recorder, bench.routed("m", true)).await.expect("answered");
    assert_eq!(bench.store.entries().len(), 2, "the same message again is nothing new");
}

#[tokio::test]
async fn a_refusal_that_a_moment_is_to_blame_for_is_not_remembered() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let late = bench.routed("m", true);
    bench.world.clock.advance(crate::fixtures::LIFETIME);
    let refused = record(&recorder, late).await.expect("recorded");
    assert!(matches!(refused, Outcome::Refused(_)));
    let now = bench.world.clock.now().seconds();
    let claims = bench.world.issuer.claims("sender", now, crate::fixtures::LIFETIME).permission("publish:>");
    let again = bench.routed_by(bench.world.identity(&claims), "m", true, "{}");
    assert!(matches!(record(&recorder, again).await.expect("recorded"), Outcome::Accepted(_)));
}

#[tokio::test]
async fn two_of_the_same_id_in_one_batch_are_recorded_once() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let batch = vec![bench.routed("m", true), bench.routed("m", true)];
    let outcomes = recorder.messages(batch).await.expect("queued").outcomes().await.expect("recorded");
    assert_eq!(index(&outcomes[0]), index(&outcomes[1]));
    assert_eq!((bench.store.entries().len(), bench.delivered.0.lock().len()), (1, 1));
}

#[tokio::test]
async fn a_token_that_ran_out_on_the_way_is_a_denial() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let routed = bench.routed("m", true);
    bench.world.clock.advance(crate::fixtures::LIFETIME);
    let outcome = record(&recorder, routed).await.expect("recorded");
    assert!(matches!(&outcome, Outcome::Refused(refused) if refused.reason == RefusalReason::TokenExpired));
    assert!(bench.delivered.0.lock().is_empty());
    assert_eq!(bench.store.entries()[0].decision.as_ref().expect("decided").decision(), Decision::Deny);
}

#[tokio::test]
async fn an_audience_is_written_out_once_and_referred_to_after_that() {
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    for id in ["m1", "m2"] {
        record(&recorder, bench.routed(id, true)).await.expect("recorded");
    }
    let long = Audience::new((0..400).map(recipient).collect());
    for id in ["m3", "m4"] {
        let mut routed = bench.routed(id, true);
        if let Ending::HandedOver(_, audience) = &mut routed.ending {
            *audience = long.clone();
        }
        record(&recorder, routed).await.expect("recorded");
    }
    let entries = bench.store.entries();
    let named = |index: usize| entries[index].audience.clone().expect("an audience");
    assert_eq!((named(0).recipients.len(), named(1).listed_at), (1, vec![0]));
    let last = entries.len() - 1;
    assert_eq!(subscriptions(&entries, last), (0..400).map(|id| recipient(id).subscription.to_string()).collect());
    assert_eq!(named(last), named(last - 1));
    assert_eq!((named(last).listed_at.len(), named(last).recipients.len()), (1, 0), "by reference");
}

/// Whom an entry names, wherever they are listed.
fn subscriptions(entries: &[AuditEntry], index: usize) -> BTreeSet<String> {
    let audience = entries[index].audience.as_ref().expect("an audience");
    let here = audience.recipients.iter().map(|one| one.subscription_id.clone());
    let elsewhere =
        audience.listed_at.iter().flat_map(|at| subscriptions(entries, usize::try_from(*at).expect("an index")));
    here.chain(elsewhere).collect()
}

/// With many subscribers, one who comes and goes costs a little of what all of them take, and the log says who got what.
#[tokio::test]
async fn an_audience_that_changes_costs_its_change() {
    const SUBSCRIBERS: u64 = 500;
    const CHANGES: u64 = 20;
    let bench = Bench::new();
    let (recorder, _reader, _running) = bench.start().expect("started");
    let without = |left: u64| (0..SUBSCRIBERS).filter(move |id| *id != left * 17).map(recipient);
    let mut bytes = Vec::new();
    for left in 0..CHANGES {
        let mut routed = bench.routed(&format!("m{left}"), true);
        if let Ending::HandedOver(_, audience) = &mut routed.ending {
            *audience = Audience::new(without(left).collect());
        }
        record(&recorder, routed).await.expect("recorded");
        bytes.push(bench.store.entries().iter().map(prost::Message::encoded_len).sum::<usize>());
    }
    let entries = bench.store.entries();
    let published = entries.iter().enumerate().filter(|(_, entry)| entry.kind() == EntryKind::Publish);
    for (left, (at, _)) in (0..CHANGES).zip(published) {
        let expected: BTreeSet<_> = without(left).map(|one| one.subscription.to_string()).collect();
        assert_eq!(subscriptions(&entries, at), expected, "{left}");
    }
    let (first, all) = (bytes[0], bytes[bytes.len() - 1]);
    let each = (all - first) / usize::try_from(CHANGES - 1).expect("few");
    assert!(each < first / 5, "{first} bytes for all of them, {each} for each change");
}

#[tokio::test]
async fn a_broken_tail_refuses_to_start_and_names_the_entry() {
    let bench = Bench::new();
    let (recorder, _reader, running) = bench.start().expect("started");
    for id in ["m1", "m2", "m3"] {
        record(&recorder, bench.routed(id, true)).await.expect("recorded");
    }
    drop(recorder);
    running.join().expect("no panic").expect("ended in order");
    {
        let mut chunks = bench.store.kept.chunks.lock();
        let mut bytes = chunks[1].bytes.to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        chunks[1].bytes = bytes.into();
    }
    let error = bench.start().err().expect("refused").to_string();
    assert!(error.contains("entry 2") || error.contains("entry 1"), "{error}");
    assert!(error.contains("backup"), "it says what to do: {error}");
}
