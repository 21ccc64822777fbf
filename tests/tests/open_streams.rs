//! A thousand open streams of one agent, half of them publishing and half receiving, under load: after a revocation has
//! returned nothing passes in either direction, nor after the token has run out; and a fresh token in each of them loses
//! no message. Prints its figures.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use veribus_broker::model::{Clock, UnixSeconds};
use veribus_proto::v1::{
    Credentials, EntryKind, PublishStreamRequest, PublishStreamResponse, Revocation, RevokeRequest, SubscribeRequest,
    SubscribeResponse, publish_result::Outcome, revocation::Target, subscribe_request, subscribe_response,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
    patiently,
    raw::Raw,
    streams::opening,
};

const CONNECTIONS: usize = 16;
/// Of each kind on each connection: 2 * 31 * 16 = 992, and one connection more with 8.
const PAIRS: usize = 31;
const EXTRA_PAIRS: usize = 4;
const STREAMS: usize = 2 * (CONNECTIONS * PAIRS + EXTRA_PAIRS);
const AGENT: &str = "swarm";
/// How often each publisher sends.
const PACE: Duration = Duration::from_millis(100);

/// What one publish stream was told.
#[derive(Default)]
struct Published {
    sent: usize,
    accepted: Vec<u64>,
    refreshed: usize,
    end: Option<Code>,
}

/// What one subscription was handed.
#[derive(Default)]
struct Received {
    indexes: Vec<u64>,
    refreshed: usize,
    end: Option<Code>,
}

struct Publishing {
    requests: mpsc::Sender<PublishStreamRequest>,
    told: Arc<Mutex<Published>>,
    reading: JoinHandle<()>,
}

struct Receiving {
    requests: mpsc::Sender<SubscribeRequest>,
    handed: Arc<Mutex<Received>>,
    reading: JoinHandle<()>,
}

struct Swarm {
    broker: TestBroker,
    clock: Clock,
    publishing: Vec<Publishing>,
    receiving: Vec<Receiving>,
    stop: Arc<AtomicBool>,
    sending: Vec<JoinHandle<()>>,
}

impl Publishing {
    async fn open(raw: &Raw) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(4);
        let responses = raw.broker().publish_stream(ReceiverStream::new(receiver)).await?.into_inner();
        let told = Arc::<Mutex<Published>>::default();
        let reading = tokio::spawn(Self::read(responses, Arc::clone(&told)));
        Ok(Self { requests, told, reading })
    }

    async fn read(mut responses: Streaming<PublishStreamResponse>, told: Arc<Mutex<Published>>) {
        loop {
            match responses.message().await {
                Ok(Some(answer)) => {
                    let mut told = told.lock();
                    told.refreshed += usize::from(answer.refreshed.is_some());
                    for outcome in answer.results.into_iter().filter_map(|result| result.outcome) {
                        if let Outcome::Receipt(receipt) = outcome {
                            told.accepted.push(receipt.audit_index);
                        }
                    }
                }
                end => return told.lock().end = Some(end.err().map_or(Code::Ok, |status| status.code())),
            }
        }
    }
}

impl Receiving {
    async fn open(raw: &Raw, topic: &str) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(4);
        requests.send(opening(&[topic])).await?;
        let mut responses = raw.broker().subscribe(ReceiverStream::new(receiver)).await?.into_inner();
        patiently(responses.message()).await??.context("the subscription does not stand")?;
        let handed = Arc::<Mutex<Received>>::default();
        let reading = tokio::spawn(Self::read(responses, Arc::clone(&handed)));
        Ok(Self { requests, handed, reading })
    }

    async fn read(mut responses: Streaming<SubscribeResponse>, handed: Arc<Mutex<Received>>) {
        loop {
            match responses.message().await {
                Ok(Some(answer)) => {
                    let mut handed = handed.lock();
                    match answer.response {
                        Some(subscribe_response::Response::Batch(batch)) => {
                            handed.indexes.extend(batch.deliveries.iter().map(|delivery| delivery.audit_index));
                        }
                        Some(subscribe_response::Response::Refreshed(_)) => handed.refreshed += 1,
                        _ => {}
                    }
                }
                end => return handed.lock().end = Some(end.err().map_or(Code::Ok, |status| status.code())),
            }
        }
    }
}

impl Swarm {
    /// Opens all streams. Each pair on a connection has a topic of its own.
    async fn open(lifetime: Duration, clock: Clock) -> Result<Self> {
        let broker = Setup::default().open_policy().clock(&clock).start().await?;
        let token = token(&broker, lifetime)?;
        let (mut publishing, mut receiving) = (Vec::new(), Vec::new());
        for connection in 0..=CONNECTIONS {
            let raw = broker.raw(&token).await?;
            let pairs = if connection == CONNECTIONS { EXTRA_PAIRS } else { PAIRS };
            let topics: Vec<_> = (0..pairs).map(|pair| topic(connection * PAIRS + pair)).collect();
            receiving.extend(try_join_all(topics.iter().map(|topic| Receiving::open(&raw, topic))).await?);
            publishing.extend(try_join_all(topics.iter().map(|_| Publishing::open(&raw))).await?);
        }
        ensure!(publishing.len() + receiving.len() == STREAMS);
        let (stop, sending) = (Arc::default(), Vec::new());
        let mut swarm = Self { broker, clock, publishing, receiving, stop, sending };
        swarm.begin();
        Ok(swarm)
    }

    /// Every publisher sends at its pace, on its topic, until it is stopped or its stream is over.
    fn begin(&mut self) {
        for (number, publisher) in self.publishing.iter().enumerate() {
            let (requests, told) = (publisher.requests.clone(), Arc::clone(&publisher.told));
            let (stop, topic) = (Arc::clone(&self.stop), topic(number));
            self.sending.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let messages = vec![wire("", &topic, "text")];
                    if requests.send(PublishStreamRequest { messages, refresh: None }).await.is_err() {
                        return;
                    }
                    told.lock().sent += 1;
                    tokio::time::sleep(PACE).await;
                }
            }));
        }
    }

    async fn run_until_all_work(&self) -> Result<()> {
        patiently(async {
            let works = || {
                self.publishing.iter().all(|one| one.told.lock().accepted.len() >= 3)
                    && self.receiving.iter().all(|one| one.handed.lock().indexes.len() >= 3)
            };
            while !works() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Waits for all streams to end.
    async fn ended(&mut self) -> Result<()> {
        for one in &mut self.publishing {
            patiently(&mut one.reading).await??;
        }
        for one in &mut self.receiving {
            patiently(&mut one.reading).await??;
        }
        Ok(())
    }

    fn accepted(&self) -> BTreeSet<u64> {
        self.publishing.iter().flat_map(|one| one.told.lock().accepted.clone()).collect()
    }

    fn received(&self) -> BTreeSet<u64> {
        self.receiving.iter().flat_map(|one| one.handed.lock().indexes.clone()).collect()
    }

    /// How many messages are in the log as accepted, and were handed over, from entry `index` on.
    fn passed_from(&self, log: &Log, index: u64) -> (usize, usize, usize) {
        let is_swarm = |entry: &&veribus_proto::v1::AuditEntry| {
            let by_swarm = entry.actor.as_ref().is_some_and(|actor| actor.agent == AGENT);
            let allowed = entry.decision.as_ref().is_some_and(|decision| decision.decision == 1);
            by_swarm && allowed && entry.index >= index
        };
        let recorded = log.of_kind(EntryKind::Publish).filter(is_swarm).count();
        (recorded, self.accepted().range(index..).count(), self.received().range(index..).count())
    }

    fn ends(&self) -> HashSet<Option<Code>> {
        let published = self.publishing.iter().map(|one| one.told.lock().end);
        published.chain(self.receiving.iter().map(|one| one.handed.lock().end)).collect()
    }
}

fn topic(pair: usize) -> String {
    format!("swarm.t{pair}")
}

fn token(broker: &TestBroker, lifetime: Duration) -> Result<String> {
    let mut claims = broker.claims(AGENT).permission("publish:>").permission("subscribe:>");
    claims.exp = claims.iat.saturating_add_unsigned(lifetime.as_secs());
    broker.sign(&claims)
}

/// A little ahead: tokens that are issued while the broker starts are good by a clock that stands still.
fn now() -> UnixSeconds {
    UnixSeconds(Clock::system().now().seconds().0 + 30)
}

#[expect(clippy::print_stdout, reason = "the figures are the point")]
fn print(text: &str) {
    println!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_revocation_has_returned_nothing_passes_through_a_thousand_streams() -> Result<()> {
    let mut swarm = Swarm::open(Duration::from_secs(3_600), Clock::manual(now())).await?;
    swarm.run_until_all_work().await?;
    let operator = swarm.broker.raw(&swarm.broker.agent_token("operator")?).await?;
    let revocation = Some(Revocation {
        issuer: swarm.broker.directory().issuer().issuer().to_owned(),
        target: Some(Target::Agent(AGENT.to_owned())),
        ..Revocation::default()
    });
    let begun = Instant::now();
    let revoked = operator.admin().revoke(RevokeRequest { revocation }).await?.into_inner();
    let took = begun.elapsed();
    swarm.ended().await?;
    let all_ended = begun.elapsed();
    let log = swarm.broker.log().await?;
    let index = revoked.audit_index;
    let (recorded, accepted, received) = swarm.passed_from(&log, index);
    print(&format!(
        "revoke: {STREAMS} streams, {} messages accepted and {} delivered before entry {index}; the call took {took:?}, \
         the last stream had ended after {all_ended:?}; {} sessions ended; after it: {recorded} recorded as accepted, \
         {accepted} receipts, {received} deliveries",
        swarm.accepted().len(),
        swarm.received().len(),
        revoked.sessions_ended,
    ));
    assert_eq!((recorded, accepted, received), (0, 0, 0));
    assert_eq!(swarm.ends(), [Some(Code::Unauthenticated)].into());
    assert_eq!(revoked.sessions_ended, STREAMS as u64);
    assert_eq!(log.at(index)?.kind(), EntryKind::Revoked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_the_token_has_run_out_nothing_passes_through_a_thousand_streams() -> Result<()> {
    let mut swarm = Swarm::open(Duration::from_secs(60), Clock::manual(now())).await?;
    swarm.run_until_all_work().await?;
    swarm.clock.advance(Duration::from_secs(60));
    // What is recorded from here on is recorded after `exp`.
    let auditor = swarm.broker.raw(&swarm.broker.agent_token("auditor")?).await?;
    let begun = Instant::now();
    let mark = auditor.audit().query(veribus_proto::v1::QueryRequest { limit: 1, ..Default::default() }).await;
    drop(mark?);
    swarm.ended().await?;
    let all_ended = begun.elapsed();
    let log = swarm.broker.log().await?;
    let end_us = log.of_kind(EntryKind::AuditRead).next().context("a mark")?.time_unix_us;
    let first_after = log.entries().iter().find(|entry| entry.time_unix_us >= end_us).context("a mark")?.index;
    let (recorded, accepted, received) = swarm.passed_from(&log, first_after);
    print(&format!(
        "expiry: {STREAMS} streams, {} messages accepted and {} delivered before `exp`; the last stream had ended \
         {all_ended:?} after it; after it: {recorded} recorded as accepted, {accepted} receipts, {received} deliveries",
        swarm.accepted().len(),
        swarm.received().len(),
    ));
    assert_eq!((recorded, accepted, received), (0, 0, 0));
    assert_eq!(swarm.ends(), [Some(Code::Unauthenticated)].into());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fresh_token_in_each_of_a_thousand_streams_loses_no_message() -> Result<()> {
    let mut swarm = Swarm::open(Duration::from_secs(60), Clock::manual(now())).await?;
    swarm.run_until_all_work().await?;
    let fresh = token(&swarm.broker, Duration::from_secs(3_600))?;
    let credentials = || Credentials { token: fresh.clone(), ..Credentials::default() };
    let begun = Instant::now();
    for one in &swarm.publishing {
        let request = PublishStreamRequest { messages: Vec::new(), refresh: Some(credentials()) };
        one.requests.send(request).await?;
    }
    for one in &swarm.receiving {
        let request = Some(subscribe_request::Request::Refresh(credentials()));
        one.requests.send(SubscribeRequest { request }).await?;
    }
    patiently(async {
        let done = || {
            swarm.publishing.iter().all(|one| one.told.lock().refreshed == 1)
                && swarm.receiving.iter().all(|one| one.handed.lock().refreshed == 1)
        };
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await?;
    let took = begun.elapsed();
    // Past the end of the first token.
    swarm.clock.advance(Duration::from_secs(120));
    tokio::time::sleep(Duration::from_secs(2)).await;
    swarm.stop.store(true, Ordering::Relaxed);
    for sending in std::mem::take(&mut swarm.sending) {
        patiently(sending).await??;
    }
    let sent: usize = swarm.publishing.iter().map(|one| one.told.lock().sent).sum();
    patiently(async {
        while swarm.accepted().len() < sent || swarm.received().len() < sent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .with_context(|| {
        format!("{sent} sent, {} accepted, {} received", swarm.accepted().len(), swarm.received().len())
    })?;
    let (accepted, received) = (swarm.accepted(), swarm.received());
    let twice: usize =
        swarm.receiving.iter().map(|one| one.handed.lock().indexes.len()).sum::<usize>() - received.len();
    print(&format!(
        "refresh: {STREAMS} streams took a fresh token within {took:?}; {sent} messages sent, {} accepted, {} delivered, \
         {} lost, {twice} delivered twice",
        accepted.len(),
        received.len(),
        sent - received.len(),
    ));
    assert_eq!((&accepted, twice), (&received, 0));
    assert_eq!(swarm.ends(), [None].into(), "all of them still run");
    Ok(())
}

#[tokio::test]
async fn one_connection_carries_hundreds_of_streams() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let raw = broker.raw(&token(&broker, Duration::from_secs(3_600))?).await?;
    let topics: Vec<_> = (0..500).map(topic).collect();
    // A stream above the limit would wait without a word.
    patiently(try_join_all(topics.iter().map(|topic| Receiving::open(&raw, topic)))).await??;
    Ok(())
}
