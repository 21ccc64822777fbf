use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use veribus_proto::v1::{AuditEntry, EntryKind};

use super::{
    usage::{PLACE_BYTES, memory_bytes},
    *,
};
use crate::{
    authenticate::{Identity, OpenSession, Revocation, RevocationTarget, Revoked, Sessions},
    engine::{SharedLogStore, sled::SledLog},
    fixtures::{World, decider, fingerprints, inspector, message, peer},
    inspect::Submitted,
    issue::KeyKind,
    metrics::Metrics,
    model::{DecisionId, Message, NodeName, Outcome, SubscriptionId, TopicPattern},
    record::{DiskWatch, Draft, LogReader, Recorder, Routed, Writer, WriterSettings},
};

const STALL: Duration = Duration::from_secs(2);
const LIMITS: QueueLimits = QueueLimits {
    messages_max: 100,
    bytes_max: 1 << 20,
    stall_max: STALL,
    all_bytes_max: 64 << 20,
    drop_oldest: false,
};
/// Queues that are over their bound with the third message.
const SMALL: QueueLimits = QueueLimits { messages_max: 2, ..LIMITS };

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
        self.routed_message(message(id, "a.b", "t", "", "{}"))
    }

    fn routed_message(&self, message: Message) -> Routed {
        let policy = "package veribus\nimport rego.v1\nallow if true\n";
        let decider = decider(&[("test.rego", policy)], self.world.clock.clone()).expect("a policy");
        let submitted = Submitted::new(self.identity("sender"), peer(), message);
        Routed::new(decider.decide(inspector().inspect(submitted)), &fingerprints(), |permitted| {
            self.router.audience(permitted)
        })
    }

    async fn record(&self, routed: Routed) -> Outcome {
        let pending = self.recorder.messages(vec![routed]).await.expect("queued");
        pending.outcomes().await.expect("recorded").remove(0)
    }

    /// Records as many messages, one by one, until they are in the queues; the index of the last.
    async fn deliver(&self, messages: usize) -> u64 {
        let mut last = 0;
        for _ in 0..messages {
            let number = self.log.committed();
            let Outcome::Accepted(receipt) = self.record(self.routed(&format!("m-{number:04}"))).await else {
                panic!("refused")
            };
            last = receipt.decision_id.audit_index();
            self.recorder.caught_up().await.expect("recorded");
        }
        last
    }

    /// What a message of [`Bench::deliver`] takes in memory, in bytes.
    async fn message_bytes(&self) -> usize {
        let (mut inbox, _open) = subscribe_as(self, &self.identity("scale"), 999);
        self.deliver(1).await;
        memory_bytes(&inbox.next(1, 1).await.expect("delivered").0[0])
    }

    async fn cut_off_stalled(&self) -> usize {
        let reports = self.router.retire_stalled();
        let cut_off = reports.len();
        for report in reports {
            self.recorder.report(report).await.expect("recorded");
        }
        cut_off
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
    subscribe_as(bench, reader, 1_000)
}

/// Another one, with an id of its own.
fn subscribe_as(bench: &Bench, reader: &Arc<Identity>, id: u64) -> (Inbox, OpenSession) {
    let open = bench.sessions.open(Arc::clone(reader), peer(), "/x/Subscribe");
    let inbox = Inbox::open(
        Arc::clone(&bench.router),
        bench.recorder.clone(),
        TaskTracker::new(),
        &DecisionId::new(node(), id),
        Arc::clone(open.session()),
        vec![TopicPattern::parse("a.>").expect("a pattern")],
        CancellationToken::new(),
    );
    (inbox, open)
}

#[tokio::test]
async fn one_that_is_too_slow_is_told_of_every_message_that_names_it_also_of_those_on_their_way() {
    let bench = Bench::with_limits(SMALL);
    let reader = bench.identity("reader");
    let (mut inbox, _open) = subscribe(&bench, &reader);
    let on_their_way: Vec<_> = (0..4).map(|number| bench.routed(&format!("late-{number}"))).collect();
    bench.deliver(3).await;
    bench.world.clock.advance(STALL);
    let last = bench.deliver(1).await;
    for routed in on_their_way {
        assert!(matches!(bench.record(routed).await, Outcome::Accepted(receipt) if receipt.recipients == Some(1)));
    }
    let end = inbox.next(10, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 4 + 4 }));
    let reported = bench.undelivered().await;
    assert!(reported.iter().all(|(reason, _)| reason == "slow_subscriber"), "{reported:?}");
    assert_eq!(reported.iter().map(|(_, messages)| messages).sum::<u64>(), 4 + 4);
    let absence = bench.router.absence(&reader).expect("it was cut off");
    assert_eq!(absence.first(), last + 1, "after the one that was too many");
    absence.told();
    drop(inbox);
    assert!(bench.router.absence(&reader).is_none(), "once, whatever becomes of its reader");
}

#[tokio::test]
async fn a_burst_over_the_bound_that_is_taken_in_time_loses_nothing() {
    let bench = Bench::with_limits(SMALL);
    let (mut inbox, _open) = subscribe(&bench, &bench.identity("reader"));
    bench.deliver(9).await;
    bench.world.clock.advance(STALL - Duration::from_millis(1));
    bench.deliver(1).await;
    assert_eq!(inbox.next(100, 1 << 20).await.expect("delivered").0.len(), 10);
    bench.world.clock.advance(10 * STALL);
    bench.deliver(1).await;
    assert_eq!(inbox.next(100, 1 << 20).await.expect("it goes on").0.len(), 1);
    assert_eq!(bench.undelivered().await, []);
}

#[tokio::test]
async fn one_that_is_stuck_is_cut_off_also_when_nothing_more_comes() {
    let bench = Bench::with_limits(SMALL);
    let reader = bench.identity("reader");
    let (mut inbox, _open) = subscribe(&bench, &reader);
    let usage = Arc::clone(&bench.router.find(inbox.id()).expect("live").queue.usage);
    bench.deliver(2).await;
    bench.world.clock.advance(10 * STALL);
    assert_eq!(bench.cut_off_stalled().await, 0, "not over its bound");
    let last = bench.deliver(1).await;
    bench.world.clock.advance(STALL - Duration::from_millis(1));
    assert_eq!(bench.cut_off_stalled().await, 0);
    bench.world.clock.advance(Duration::from_millis(1));
    assert_eq!((bench.cut_off_stalled().await, bench.router.subscriptions()), (1, 0));
    assert_eq!(usage.bytes(), 0);
    let end = inbox.next(10, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 3 }));
    assert_eq!(bench.undelivered().await, [("slow_subscriber".to_owned(), 3)]);
    assert_eq!(bench.router.absence(&reader).expect("it was cut off").first(), last + 1);
}

#[tokio::test]
async fn what_is_no_longer_permitted_does_not_hold_a_queue_over_its_bound() {
    let bench = Bench::with_limits(SMALL);
    let reader = bench.identity("reader");
    let (mut inbox, _open) = subscribe(&bench, &reader);
    bench.deliver(3).await;
    inbox.terms().regrant(Arc::clone(&reader), vec![TopicPattern::parse("a.c").expect("a pattern")]);
    assert_eq!(bench.router.find(inbox.id()).expect("live").queue.usage.bytes(), 0);
    bench.world.clock.advance(STALL);
    bench.record(bench.routed_message(message("later", "a.c", "t", "", "{}"))).await;
    assert_eq!(inbox.next(10, 1 << 20).await.expect("it goes on").0.len(), 1);
}

#[tokio::test]
async fn one_that_takes_a_little_each_second_is_bounded_by_its_agents_share_alone() {
    let message_bytes = Bench::new().message_bytes().await;
    let bench = Bench::with_limits(QueueLimits { all_bytes_max: 8 * 20 * (message_bytes + PLACE_BYTES), ..SMALL });
    let (mut inbox, _open) = subscribe(&bench, &bench.identity("reader"));
    for second in 0..19 {
        bench.deliver(2).await;
        assert_eq!(inbox.next(1, 1 << 20).await.expect("delivered").0.len(), 1, "{second} s");
        bench.world.clock.advance(Duration::from_secs(1));
        assert_eq!(bench.cut_off_stalled().await, 0, "{second} s");
    }
    bench.deliver(2).await;
    let end = inbox.next(1, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 21 }));
    assert_eq!(bench.undelivered().await, [("slow_subscriber".to_owned(), 21)]);
}

/// An agent with a share of 10 messages and four subscriptions, the first of which got eight messages more.
async fn many_subscriptions(drop_oldest: bool) -> (Bench, Vec<(Inbox, OpenSession)>, usize) {
    let message_bytes = Bench::new().message_bytes().await;
    let all_bytes_max = 8 * (10 * message_bytes + 21 * PLACE_BYTES);
    let bench = Bench::with_limits(QueueLimits { all_bytes_max, drop_oldest, ..LIMITS });
    let reader = bench.identity("reader");
    let mut open = vec![subscribe(&bench, &reader)];
    bench.deliver(8).await;
    open.extend((1..4).map(|number| subscribe_as(&bench, &reader, 1_000 + number)));
    let usage = Arc::clone(&bench.router.find(SubscriptionId(1_000)).expect("live").queue.usage);
    bench.deliver(3).await;
    let messages = usage.bytes() / message_bytes;
    (bench, open, messages)
}

#[tokio::test]
async fn the_queues_of_one_agent_hold_at_most_its_share_and_the_fullest_is_cut_off() {
    let (bench, mut open, messages) = many_subscriptions(false).await;
    assert_eq!(messages, 3);
    let end = open[0].0.next(100, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 11 }));
    for (inbox, _) in &mut open[1..] {
        assert_eq!(inbox.next(100, 1 << 20).await.expect("delivered").0.len(), 3);
    }
    assert_eq!(bench.undelivered().await, [("slow_subscriber".to_owned(), 11)]);
}

#[tokio::test]
async fn where_the_oldest_give_way_the_fullest_queue_of_an_agent_drops_them() {
    let (bench, mut open, messages) = many_subscriptions(true).await;
    assert_eq!(messages, 10);
    let mut taken = Vec::new();
    for (inbox, _) in &mut open {
        let (taken_now, dropped) = inbox.next(100, 1 << 20).await.expect("delivered");
        taken.push((taken_now.len(), dropped));
    }
    assert_eq!(taken, [(10, 1), (3, 0), (3, 0), (3, 0)]);
    assert_eq!(bench.undelivered().await, [("dropped_oldest".to_owned(), 1)]);
}

/// What many queues hold is there once: nobody is cut off for how many read along.
#[tokio::test]
async fn a_message_counts_once_for_each_agent_and_for_all() {
    let message_bytes = Bench::new().message_bytes().await;
    let bench = Bench::with_limits(QueueLimits { all_bytes_max: 8 * 20 * message_bytes, ..LIMITS });
    let identities: Vec<_> = (0..20).map(|number| bench.identity(&format!("reader-{number}"))).collect();
    let open: Vec<_> =
        (0..200usize).map(|number| subscribe_as(&bench, &identities[number % 20], number as u64)).collect();
    bench.deliver(9).await;
    let usage = Arc::clone(&bench.router.find(SubscriptionId(0)).expect("live").queue.usage);
    let with_places = |queues: usize| 9 * (message_bytes + queues * PLACE_BYTES);
    assert_eq!(bench.router.subscriptions(), 200);
    assert_eq!((usage.bytes(), usage.all_bytes()), (with_places(10), with_places(200)));
    drop(open);
    assert_eq!((usage.bytes(), usage.all_bytes()), (0, 0));
}

#[tokio::test]
async fn at_the_bound_of_all_queues_the_agent_that_holds_most_gives_way_and_nobody_else() {
    let message_bytes = Bench::new().message_bytes().await;
    let bench = Bench::with_limits(QueueLimits { all_bytes_max: 8 * 10 * (message_bytes + 20), ..LIMITS });
    let deliver = async |to: &str, messages: usize| {
        for number in 0..messages {
            bench.record(bench.routed_message(message(&format!("{to}-{number:03}"), "a.b", "t", to, "{}"))).await;
        }
        bench.recorder.caught_up().await.expect("recorded");
    };
    let (mut most, _open) = subscribe_as(&bench, &bench.identity("most"), 1_000);
    deliver("most", 9).await;
    let reader = |number: u64| subscribe_as(&bench, &bench.identity(&format!("r{number}")), number);
    let mut others: Vec<_> = (0..12).map(reader).collect();
    for number in 0..12 {
        deliver(&format!("r{number}"), 8).await;
    }
    let end = most.next(100, 1 << 20).await.err();
    assert_eq!(end, Some(InboxError { reason: EndReason::SlowSubscriber, undelivered: 9 }));
    let mut kept = 0;
    for (inbox, _open) in &mut others {
        kept += inbox.next(100, 1 << 20).await.map_or(0, |(messages, _)| messages.len());
    }
    assert!(kept >= 8 * 8, "of those who held less, no more gave way than had to: {kept}");
}

#[tokio::test]
async fn a_message_counts_with_what_its_attributes_take_in_memory() {
    let bench = Bench::with_limits(QueueLimits { bytes_max: 64 << 10, ..LIMITS });
    let (_inbox, _open) = subscribe(&bench, &bench.identity("reader"));
    for number in 0..16 {
        let attributes = (0..32).map(|key| (format!("{key:02}"), String::new())).collect();
        let message = Message { attributes, ..message(&format!("m-{number}"), "a.b", "t", "", "{}") };
        bench.record(bench.routed_message(message)).await;
    }
    bench.recorder.caught_up().await.expect("recorded");
    bench.world.clock.advance(STALL);
    assert_eq!(bench.cut_off_stalled().await, 1);
}

#[test]
fn every_end_is_listed() {
    let listed: std::collections::BTreeSet<_> = EndReason::ALL.map(EndReason::as_str).into();
    assert_eq!(crate::fixtures::words_of(include_str!("queue.rs"), "as_str"), listed);
}
