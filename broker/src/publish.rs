//! The way of a message, from a recognised caller to its record. Delivery follows the record: the writer hands what it
//! committed to [`deliver`](crate::deliver).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    authenticate::{Caller, Identity, TokenError},
    decide::Decider,
    deliver::Router,
    inspect::{INLINE_BYTES_MAX, ITEM_BYTES, Inspector, Submitted},
    metrics::{MessageEnd, Metrics, Stage},
    model::{Clock, Message, Outcome, RefusalReason},
    record::{Fingerprints, Malformed, PendingOutcomes, RecordError, Recorder, Routed, SubmitError},
    workers::{TimeSlice, Workers},
};

/// Carries messages through every stage.
pub struct Publisher {
    inspector: Arc<Inspector>,
    decider: Arc<Decider>,
    router: Arc<Router>,
    recorder: Recorder,
    fingerprints: Fingerprints,
    workers: Workers,
    clock: Clock,
    metrics: Metrics,
}

/// A message, or what came instead of one.
pub struct Posted {
    /// Whose it is, where that is not the caller: an agent for whom the caller speaks, recognised by its own token.
    pub sender: Option<Arc<Identity>>,
    /// The message.
    pub message: Result<Message, Malformed>,
}

/// Messages on their way to the record.
pub struct Publishing {
    pending: PendingOutcomes,
    started: Instant,
    metrics: Metrics,
}

impl Publisher {
    /// Put together from its stages.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the stages are put together here, once")]
    pub const fn new(
        inspector: Arc<Inspector>,
        decider: Arc<Decider>,
        router: Arc<Router>,
        recorder: Recorder,
        fingerprints: Fingerprints,
        workers: Workers,
        clock: Clock,
        metrics: Metrics,
    ) -> Self {
        Self { inspector, decider, router, recorder, fingerprints, workers, clock, metrics }
    }

    /// Carries messages that one caller brings through every stage, in order. Those that are not well-formed are recorded
    /// as such.
    ///
    /// # Errors
    /// On error nothing was delivered, and none of them is recorded.
    pub async fn publish(self: &Arc<Self>, caller: &Caller, messages: Vec<Posted>) -> Result<Publishing, SubmitError> {
        let routed = self.route(&caller.identity(), caller.peer(), messages).await?;
        Ok(self.record(routed).await?)
    }

    /// Every stage between the caller and the record. Several requests of one stream may be under way here at once: it is
    /// the record that puts them in order.
    ///
    /// # Errors
    /// [`SubmitError`]: the caller's token is no longer good, or a stage broke off.
    pub async fn route(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        messages: Vec<Posted>,
    ) -> Result<Vec<Routed>, SubmitError> {
        let size_bytes = |posted: &Posted| ITEM_BYTES + posted.message.as_ref().map_or(0, Message::size_bytes);
        if messages.iter().map(size_bytes).sum::<usize>() <= INLINE_BYTES_MAX {
            let (mut slice, mut routed) = (TimeSlice::begin(), Vec::with_capacity(messages.len()));
            for posted in messages {
                slice.yield_if_over().await;
                routed.push(self.route_posted(identity, peer, posted)?);
            }
            return Ok(routed);
        }
        let (this, caller) = (Arc::clone(self), Arc::clone(identity));
        let route_all = move || messages.into_iter().map(|posted| this.route_posted(&caller, peer, posted)).collect();
        let routed: Result<Result<_, TokenError>, _> = self.workers.run(identity, route_all).await;
        // A stage that broke off: nothing of this request is recorded.
        Ok(routed.map_err(|_| RecordError::Failed)??)
    }

    fn route_posted(
        &self,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        Posted { sender, message }: Posted,
    ) -> Result<Routed, TokenError> {
        match message {
            Ok(message) => self.route_one(identity, sender, peer, message),
            Err(malformed) => Ok(Routed::malformed(malformed)),
        }
    }

    /// Queues what was routed for its record, in this order.
    ///
    /// # Errors
    /// [`RecordError`]: none of them is recorded.
    pub async fn record(&self, routed: Vec<Routed>) -> Result<Publishing, RecordError> {
        let pending = self.recorder.messages(routed).await?;
        Ok(Publishing { pending, started: Instant::now(), metrics: self.metrics.clone() })
    }

    /// The token's signature was checked when the call began; its standing
    /// is checked here, for each message. That of another sender was checked a moment ago, and is checked again when the
    /// message is recorded: it may refuse this message, never the call.
    fn route_one(
        &self,
        caller: &Arc<Identity>,
        sender: Option<Arc<Identity>>,
        peer: SocketAddr,
        message: Message,
    ) -> Result<Routed, TokenError> {
        caller.check_standing(self.clock.now())?;
        let via = sender.is_some().then(|| Arc::clone(caller));
        let sender = sender.unwrap_or_else(|| Arc::clone(caller));
        let submitted = Submitted { sender, via, peer, content: message };
        let (started, mut inspecting) = (Instant::now(), Duration::ZERO);
        let decided = self.decider.admit(submitted).map_or_else(
            |denied| denied,
            |submitted| {
                let inspected = self.inspector.inspect(submitted);
                inspecting = started.elapsed();
                self.decider.decide(inspected)
            },
        );
        let decided_at = Instant::now();
        let routed = Routed::new(decided, &self.fingerprints, |permitted| self.router.audience(permitted));
        self.metrics.stage(Stage::Inspect, inspecting);
        self.metrics.stage(Stage::Decide, decided_at - started - inspecting);
        self.metrics.stage(Stage::Route, decided_at.elapsed());
        Ok(routed)
    }
}

impl Publishing {
    /// One outcome for each message, in the order in which they were given, once they are durable.
    ///
    /// # Errors
    /// [`RecordError`]: nothing was delivered. Whether entries persisted is not known: publish again with the same ids.
    pub async fn outcomes(self) -> Result<Vec<Outcome>, RecordError> {
        let outcomes = self.pending.outcomes().await?;
        self.metrics.stage(Stage::Record, self.started.elapsed());
        outcomes.iter().for_each(|outcome| count(&self.metrics, outcome));
        Ok(outcomes)
    }
}

fn count(metrics: &Metrics, outcome: &Outcome) {
    let (end, duplicate) = match outcome {
        Outcome::Accepted(receipt) => (MessageEnd::Allow, receipt.duplicate),
        Outcome::Quarantined(receipt) => (MessageEnd::Quarantine, receipt.duplicate),
        Outcome::Refused(refused) => match refused.reason {
            RefusalReason::MalformedMessage => (MessageEnd::Malformed, refused.duplicate),
            _ => (MessageEnd::Deny, refused.duplicate),
        },
    };
    if duplicate { metrics.duplicate() } else { metrics.message(end) }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        deliver::{Deliverer, QueueLimits},
        engine::{SharedLogStore, sled::SledLog},
        fixtures::{World, decider, fingerprints, message, peer, state_table},
        issue::KeyKind,
        model::NodeName,
        record::{DiskWatch, Writer, WriterSettings},
    };

    struct Bench {
        world: World,
        publisher: Arc<Publisher>,
        workers: Workers,
        _place: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let (world, place) = (World::new(KeyKind::EdDsa), tempfile::tempdir().expect("a directory"));
            let store: SharedLogStore = Arc::new(SledLog::open(place.path(), 1 << 20).expect("opened"));
            let (clock, metrics) = (world.clock.clone(), Metrics::default());
            let settings = WriterSettings {
                node: NodeName::parse("test").expect("a name"),
                commit_entries_max: 64,
                linger_max: Duration::ZERO,
                queue_submissions_max: 16,
                queue_bytes_max: 1 << 20,
                verify_at_start_entries_max: 1,
                dedup_ids_per_sender_max: 1,
                dedup_senders_max: 1,
                revocations_max: 1,
            };
            let (revocations, table) = (Arc::clone(world.verifier.revocations()), state_table(&store));
            let disk = DiskWatch::new(place.path(), 0);
            let started = Writer::start(store, settings, disk, clock.clone(), metrics.clone(), revocations, table);
            let (writer, recorder, _) = started.expect("started");
            let limits = QueueLimits {
                messages_max: 1,
                bytes_max: 1,
                stall_max: Duration::ZERO,
                all_bytes_max: 1,
                drop_oldest: false,
            };
            let router = Arc::new(Router::new(limits, clock.clone(), metrics.clone()));
            let deliverer = Deliverer::new(Arc::clone(&router));
            std::thread::spawn(move || writer.run(deliverer));
            let policy = "package veribus\nimport rego.v1\nallow if true\n";
            let decider = Arc::new(decider(&[("test.rego", policy)], clock.clone()).expect("a policy"));
            let (inspector, workers) = (Arc::new(Inspector::new(None).expect("rules")), Workers::new(1, 1));
            let publisher =
                Publisher::new(inspector, decider, router, recorder, fingerprints(), workers.clone(), clock, metrics);
            Self { world, publisher: Arc::new(publisher), workers, _place: place }
        }
    }

    /// What takes long waits for a thread of its own, and what does not goes by.
    #[tokio::test]
    async fn long_inspections_wait_for_a_worker_and_hold_up_nothing_else() {
        let bench = Bench::new();
        let sender = bench.world.identity(&bench.world.claims("a").permission("publish:>"));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (workers, other) = (bench.workers.clone(), bench.world.identity(&bench.world.claims("b")));
        let busy = tokio::spawn(async move {
            let job = move || {
                begun.send(()).ok();
                released.recv().ok();
            };
            workers.run(&other, job).await
        });
        begins.await.expect("it runs");
        let posted =
            |id: &str, bytes| Posted { sender: None, message: Ok(message(id, "x", "t", "", &"x".repeat(bytes))) };
        let route = |posted| bench.publisher.route(&sender, peer(), vec![posted]);
        let mut long = Box::pin(route(posted("long", INLINE_BYTES_MAX + 1)));
        assert!(poll!(&mut long).is_pending());
        assert_eq!(route(posted("short", 1_000)).await.expect("routed").len(), 1);
        assert!(poll!(&mut long).is_pending());
        release.send(()).expect("it waits");
        busy.await.expect("it ends").expect("in good order");
        assert_eq!(long.await.expect("routed").len(), 1);
    }
}
