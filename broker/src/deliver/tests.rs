use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use veribus_proto::v1::{AuditEntry, EntryKind};

use super::*;
use crate::{
    authenticate::{Identity, OpenSession, Revocation, RevocationTarget, Revoked, Sessions},
    engine::{SharedLogStore, sled::SledLog},
    fixtures::{World, decider, fingerprints, inspector, message, peer},
    inspect::Submitted,
    issue::KeyKind,
    metrics::Metrics,
    model::{DecisionId, NodeName, Outcome, TopicPattern},
    record::{DiskWatch, Draft, LogReader, Recorder, Routed, Writer, WriterSettings},
};

const LIMITS: QueueLimits = QueueLimits { messages_max: 100, bytes_max: 1 << 20, drop_oldest: false };

/// A writer and a deliverer on a log of their own.
struct Bench {
    world: World,
    router: Arc<Router>,
    sessions: Arc<Sessions>,
    recorder: Recorder,
    log: LogReader,
    _place: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(LIMITS)
    }

    fn with_limits(limits: QueueLimits) -> Self {
        let (world, place) = (World::new(KeyKind::EdDsa), tempfile::tempdir().expect("a directory"));
        let store = Arc::new(SledLog::open(place.path(), 1 << 20).expect("opened"));
        let disk = DiskWatch::new(place.path(), 0);
        let revocations = Arc::clone(world.verifier.revocations());
        let table = crate::fixtures::state_table(&(Arc::clone(&store) as SharedLogStore));
        let (clock, metrics) = (world.clock.clone(), Metrics::default());
        let started = Writer::start(store, settings(), disk, clock, metrics, revocations, table);
        let (writer, recorder, log) = started.expect("started");
        let router = Arc::new(Router::new(limits, world.clock.clone(), Metrics::default()));
        let deliverer = Deliverer::new(Arc::clone(&router));
        std::thread::spawn(move || writer.run(deliverer));
        let sessions = Sessions::new(world.clock.clone());
        Self { world, router, sessions, recorder, log, _place: place }
    }

    fn identity(&self, agent: &str) -> Arc<Identity> {
        self.world.identity(&self.world.claims(agent).permission("publish:>").permission("subscribe:>"))
    }

    /// A message whose audience is fixed now.
    fn routed(&self, id: &str) -> Routed {
        let policy = "package veribus\nimport rego.v1\nallow if true\n";
        let decider = decider(&[("test.rego", policy)], self.world.clock.clone()).expect("a policy");
        let submitted = Submitted::new(self.identity("sender"), peer(), message(id, "a.b", "t", "", "{}"));
        Routed::new(decider.decide(inspector().inspect(submitted)), &fingerprints(), |permitted| {
            self.router.audience(permitted)
        })
    }

    async fn record(&self, routed: Routed) -> Outcome {
        let pending = self.recorder.messages(vec![routed]).await.expect("queued");
        pending.outcomes().await.expect("recorded").remove(0)
    }

    fn revoke(&self, identity: &Identity) {
        let revocation = Revocation {
            issuer: identity.issuer().clone(),
            target: RevocationTarget::Agent(identity.agent().clone()),
            expires_at: None,
            reason: String::new(),
        };
        let revoked = Revoked { index: u64::MAX, id: "test".to_owned(), revocation };
        self.world.verifier.revocations().change(vec![revoked], &[]);
    }

    async fn undelivered(&self) -> Vec<(String, u64)> {
        self.recorder.report(Draft::stopped()).await.expect("recorded");
        let entries =
            (0..self.log.committed()).filter_map(|index| self.log.read(index).expect("read").into_iter().next());
        let decoded = entries.map(|entry| AuditEntry::decode(entry.bytes).expect("an entry"));
        let reports = decoded.filter(|entry| entry.kind() == EntryKind::Undelivered);
        reports.map(|entry| (entry.detail, entry.undelivered.map_or(0, |undelivered| undelivered.messages))).collect()
    }
}

fn settings() -> WriterSettings {
    WriterSettings {
        node: node(),
        commit_entries_max: 64,
        linger_max: Duration::from_micros(100),
        queue_submissions_max: 16,
        queue_bytes_max: 1 << 20,
        verify_at_start_entries_max: 1_000,
        dedup_ids_per_sender_max: 100,
        dedup_senders_max: 10,
        revocations_max: 10,
    }
}

fn node() -> NodeName {
    NodeName::parse("test").expect("a name")
}

#[tokio::test]
async fn what_comes_to_a_queue_after_its_subscriber_was_revoked_is_refused_there_and_reported() {
    let bench = Bench::new();
    let reader = bench.identity("reader");
    let (mut inbox, _open) = subscribe(&bench, &reader);
    assert!(matches!(bench.record(bench.routed("in-time")).await, Outcome::Accepted(_)));
    assert_eq!(inbox.next(10, 1 << 20).await.expect("delivered").0.len(), 1);
    let named = bench.routed("late");
    bench.revoke(&reader);
    assert!(matches!(bench.record(named).await, Outcome::Accepted(_)));
    assert_eq!(inbox.next(10, 1 << 20).await.err(), Some(InboxError { reason: EndReason::Revoked, undelivered: 0 }));
    assert_eq!(bench.undelivered().await, [("revoked".to_owned(), 1)]);
    let again = bench.routed("later");
    assert_eq!(bench.router.subscriptions(), 0);
    bench.record(again).await;
    assert_eq!(bench.undelivered().await.len(), 1, "it is in no audience any more");
}

/// A subscription of `reader` to everything below `a`.
fn subscribe(bench: &Bench, reader: &Arc<Identity>) -> (Inbox, OpenSession) {
    let open = bench.sessions.open(Arc::clone(reader), peer(), "/x/Subscribe");
    let inbox = Inbox::open(
        Arc::clone(&bench.router),
        bench.recorder.clone(),
        TaskTracker::new(),
        &DecisionId::new(node(), 1_000),
        Arc::clone(open.session()),
        vec![TopicPattern::parse("a.>").expect("a pattern")],
        CancellationToken::new(),
    );
    (inbox, open)
}

#[tokio::test]
async fn one_that_is_too_slow_is_told_of_every_message_that_names_it_also_of_those_on_their_way() {
    let bench = Bench::with_limits(QueueLimits { messages_max: 2, ..LIMITS });
    let reader = bench.identity("reader");
    let (mut inbox, _open) = subscribe(&bench, &reader);
    let on_their_way: Vec<_> = (0..4).map(|number| bench.routed(&format!("late-{number}"))).collect();
    let mut indexes = Vec::new();
    for number in 0..3 {
        let Outcome::Accepted(receipt) = bench.record(bench.routed(&format!("m-{number}"))).await else {
            panic!("refused")
        };
        indexes.push(receipt.decision_id.audit_index());
    }
    for routed in on_their_way {
        assert!(matches!(bench.record(routed).await, Outcome::Accepted(receipt) if receipt.recipients == Some(1)));
    }
    let end = inbox.next(10, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 3 + 4 }));
    let reported = bench.undelivered().await;
    assert!(reported.iter().all(|(reason, _)| reason == "slow_subscriber"), "{reported:?}");
    assert_eq!(reported.iter().map(|(_, messages)| messages).sum::<u64>(), 3 + 4);
    let absence = bench.router.absence(&reader).expect("it was cut off");
    assert_eq!(Some(absence.first()), indexes.last().map(|last| last + 1), "after the one that was too many");
    absence.told();
    drop(inbox);
    assert!(bench.router.absence(&reader).is_none(), "once, whatever becomes of its reader");
}

#[test]
fn every_end_is_listed() {
    let listed: std::collections::BTreeSet<_> = EndReason::ALL.map(EndReason::as_str).into();
    assert_eq!(crate::fixtures::words_of(include_str!("queue.rs"), "as_str"), listed);
}
