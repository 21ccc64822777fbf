//! The honest clients, and what they see.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use veribus_client::{Decision, Error, Message, Publisher, State, StateChange, SubscriptionEvent};

use crate::target::Target;

const MESSAGES_EVERY: Duration = Duration::from_millis(20);
const PUTS_EVERY: Duration = Duration::from_millis(100);
const LISTS_EVERY: Duration = Duration::from_millis(500);
const HEALTH_EVERY: Duration = Duration::from_millis(50);
const NEWCOMER_EVERY: Duration = Duration::from_secs(1);
/// How long a newcomer tries.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(20);
const KEYS: usize = 20;
/// How long what is under way may take to arrive after the last of it was sent.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a health check may take before it counts as unanswered.
const HEALTH_PATIENCE: Duration = Duration::from_secs(10);

/// How long something took, each time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delays(Vec<Duration>);

impl Delays {
    /// The delay that this part of all (in thousandths) did not exceed.
    pub(crate) fn quantile(&self, thousandths: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * thousandths).div_ceil(1_000).saturating_sub(1);
        sorted.get(at).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// All that the honest clients see.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) health: Delays,
    pub(crate) health_failures: BTreeMap<String, u64>,
    /// From the call to `send` to the receipt, waiting for room included.
    pub(crate) publish: Delays,
    /// Why messages have no receipt.
    pub(crate) publish_failures: BTreeMap<String, u64>,
    pub(crate) quarantined: u64,
    /// From the receipt to the delivery; zero where the delivery is first.
    pub(crate) delivery: Delays,
    pub(crate) gaps: Vec<String>,
    pub(crate) put: Delays,
    pub(crate) put_failures: BTreeMap<String, u64>,
    pub(crate) watch: Delays,
    pub(crate) watch_end: Option<String>,
    pub(crate) watch_skipped: u64,
    pub(crate) watch_reconnects: u64,
    pub(crate) list: Delays,
    pub(crate) list_failures: BTreeMap<String, u64>,
    /// From the first packet of a new connection to the first answer on it.
    pub(crate) newcomer: Delays,
    pub(crate) newcomer_failures: BTreeMap<String, u64>,
    /// By how much timers of this process were late: what the machine adds to every other figure.
    pub(crate) timer: Delays,
    messages: HashMap<String, OneMessage>,
    /// By revision: when its put was acknowledged, and when it was shown.
    changes: HashMap<u64, (Option<Instant>, Option<Instant>)>,
    /// The last acknowledged and the last shown revision of each key.
    keys: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct OneMessage {
    allowed_at: Option<Instant>,
    delivered_at: Option<Instant>,
    deliveries: u32,
}

/// How the honest clients' messages ended.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Balance {
    pub(crate) sent: usize,
    pub(crate) allowed: usize,
    pub(crate) delivered: usize,
    /// Allowed, and never delivered.
    pub(crate) lost: usize,
    pub(crate) delivered_twice: usize,
}

impl Seen {
    pub(crate) fn balance(&self) -> Balance {
        let count = |is_meant: fn(&OneMessage) -> bool| self.messages.values().filter(|one| is_meant(one)).count();
        Balance {
            sent: self.messages.len(),
            allowed: count(|one| one.allowed_at.is_some()),
            delivered: count(|one| one.deliveries > 0),
            lost: count(|one| one.allowed_at.is_some() && one.deliveries == 0),
            delivered_twice: count(|one| one.deliveries > 1),
        }
    }

    /// The keys whose last acknowledged value was not shown.
    pub(crate) fn keys_behind(&self) -> Vec<&str> {
        self.keys.iter().filter(|(_, (acked, shown))| shown < acked).map(|(key, _)| key.as_str()).collect()
    }

    fn settled(&self) -> bool {
        self.balance().lost == 0 && self.keys_behind().is_empty()
    }

    fn with_delivery(mut self) -> Self {
        let both = self.messages.values().filter_map(|one| Some((one.allowed_at?, one.delivered_at?)));
        self.delivery = Delays(both.map(|(allowed, delivered)| delivered.saturating_duration_since(allowed)).collect());
        let both = self.changes.values().filter_map(|(acked, shown)| Some(((*acked)?, (*shown)?)));
        self.watch = Delays(both.map(|(acked, shown)| shown.saturating_duration_since(acked)).collect());
        self
    }
}

/// The honest clients at work.
pub(crate) struct Honest {
    seen: Arc<Mutex<Seen>>,
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Honest {
    /// Connects all of them and lets them begin.
    pub(crate) async fn start(target: &Arc<Target>) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let is_over = Arc::new(AtomicBool::new(false));
        let run = Run { seen: Arc::clone(&seen), is_over: Arc::clone(&is_over) };
        let health = target.raw(None).await?;

        let subscriber = target.client(&target.token("honest-subscriber", &["subscribe:honest.>"])?).await?;
        let deliveries = subscriber.subscribe(["honest.messages"]).await?.events();
        let publisher = target.client(&target.token("honest-publisher", &["publish:honest.>"])?).await?;
        let watcher = target.client(&target.token("honest-watcher", &["state.read:honest"])?).await?;
        let watch = watcher.state().watch("honest/").await?;
        let writer = target.client(&target.token("honest-writer", &["state.write:honest"])?).await?;
        let lister = target.client(&target.token("honest-lister", &["state.read:honest"])?).await?;
        let newcomer = target.token("honest-newcomer", &["state.read:honest"])?;
        let tasks = vec![
            tokio::spawn(check_health(run.clone(), health, Arc::clone(target))),
            tokio::spawn(publish(run.clone(), publisher.publisher())),
            tokio::spawn(receive(run.clone(), deliveries)),
            tokio::spawn(put(run.clone(), writer.state())),
            tokio::spawn(follow(run.clone(), watch)),
            tokio::spawn(list(run.clone(), lister.state())),
            tokio::spawn(come_anew(run.clone(), Arc::clone(target), newcomer)),
            tokio::spawn(keep_time(run)),
        ];
        Ok(Self { seen, is_over, tasks })
    }

    pub(crate) fn so_far(&self) -> Seen {
        self.seen.lock().clone().with_delivery()
    }

    /// Forgets the delays up to here, not what may be lost.
    pub(crate) fn start_anew(&self) {
        let mut guard = self.seen.lock();
        let seen = &mut *guard;
        for delays in
            [&mut seen.health, &mut seen.publish, &mut seen.put, &mut seen.list, &mut seen.newcomer, &mut seen.timer]
        {
            delays.0.clear();
        }
        // What has arrived is in order and need not be counted again.
        seen.messages.retain(|_, one| one.allowed_at.is_none() || one.deliveries == 0);
        seen.changes.retain(|_, (acked, shown)| acked.is_none() || shown.is_none());
    }

    /// How it goes, in a few words.
    pub(crate) fn line(&self) -> String {
        let seen = self.so_far();
        let balance = seen.balance();
        let shown = |delays: &Delays| delays.quantile(990).map_or_else(|| "-".to_owned(), |p99| format!("{p99:.0?}"));
        format!(
            "p99: health {}, publish {}, put {}, list {}; {} of {} delivered",
            shown(&seen.health),
            shown(&seen.publish),
            shown(&seen.put),
            shown(&seen.list),
            balance.delivered,
            balance.sent
        )
    }

    /// Sends nothing more, waits for what is under way, and says what was seen.
    pub(crate) async fn finish(self) -> Seen {
        self.is_over.store(true, Ordering::Relaxed);
        let end = Instant::now() + SETTLE;
        // Receipts of the last messages first, then what they announce.
        tokio::time::sleep(Duration::from_secs(1)).await;
        while Instant::now() < end && !self.seen.lock().settled() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for task in &self.tasks {
            task.abort();
        }
        self.so_far()
    }
}

#[derive(Clone)]
struct Run {
    seen: Arc<Mutex<Seen>>,
    is_over: Arc<AtomicBool>,
}

impl Run {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

fn count(failures: &mut BTreeMap<String, u64>, what: String) {
    *failures.entry(what).or_default() += 1;
}

fn described(error: &Error) -> String {
    error.reason().map_or_else(|| error.to_string(), str::to_owned)
}

/// Anonymous, as a load balancer is. Connects again where the connection ends; the time that it takes is part of the answer's.
async fn check_health(run: Run, raw: veribus_tests::raw::Raw, target: Arc<Target>) {
    let mut health = HealthClient::new(raw.channel());
    let mut ticks = every(HEALTH_EVERY);
    while !run.is_over() {
        ticks.tick().await;
        let asked = Instant::now();
        let check = health.check(HealthCheckRequest::default());
        let answer = tokio::time::timeout(HEALTH_PATIENCE, check).await;
        let failure = match answer {
            Ok(Ok(_)) => None,
            Ok(Err(status)) => Some(format!("{:?}: {}", status.code(), status.message())),
            Err(_) => Some(format!("no answer within {HEALTH_PATIENCE:?}")),
        };
        if let Some(failure) = failure {
            count(&mut run.seen.lock().health_failures, failure);
            if let Ok(raw) = target.raw(None).await {
                health = HealthClient::new(raw.channel());
            }
        }
        run.seen.lock().health.0.push(asked.elapsed());
    }
}

async fn publish(run: Run, publisher: Publisher) {
    let publisher = Arc::new(publisher);
    let padding = "x".repeat(1_000);
    let mut ticks = every(MESSAGES_EVERY);
    for number in 0_u64.. {
        ticks.tick().await;
        if run.is_over() {
            break;
        }
        let id = format!("honest-{number}");
        let text = format!(r#"{{"number": {number}, "padding": "{padding}"}}"#);
        let message = Message::json("honest.messages", "test", text).id(id.as_str());
        run.seen.lock().messages.entry(id.clone()).or_default();
        let (run, publisher, sent) = (run.clone(), Arc::clone(&publisher), Instant::now());
        // One message's wait is not the next one's.
        tokio::spawn(async move {
            let outcome = match publisher.send(message).await {
                Ok(pending) => pending.await,
                Err(error) => Err(error),
            };
            let mut seen = run.seen.lock();
            match outcome {
                Ok(receipt) => {
                    seen.publish.0.push(sent.elapsed());
                    match receipt.decision {
                        Decision::Allow => {
                            seen.messages.entry(id).or_default().allowed_at = Some(Instant::now());
                        }
                        Decision::Quarantine => seen.quarantined += 1,
                    }
                }
                Err(error) => count(&mut seen.publish_failures, described(&error)),
            }
        });
    }
    // Open until the last receipt is here.
    tokio::time::sleep(SETTLE).await;
}

async fn receive(run: Run, mut deliveries: veribus_client::SubscriptionEvents) {
    while let Some(event) = deliveries.next().await {
        let mut seen = run.seen.lock();
        match event {
            Ok(SubscriptionEvent::Delivery(delivery)) => {
                let one = seen.messages.entry(delivery.message.id.clone()).or_default();
                one.deliveries += 1;
                one.delivered_at.get_or_insert_with(Instant::now);
            }
            Ok(other) => seen.gaps.push(format!("{other:?}")),
            Err(error) => seen.gaps.push(format!("ended: {error}")),
        }
    }
}

async fn put(run: Run, state: State) {
    let mut ticks = every(PUTS_EVERY);
    for number in 0_usize.. {
        ticks.tick().await;
        if run.is_over() {
            break;
        }
        let (run, state) = (run.clone(), state.clone());
        tokio::spawn(async move {
            let (key, sent) = (format!("honest/key-{}", number % KEYS), Instant::now());
            let outcome = state.put(key.as_str(), number.to_string()).await;
            let mut seen = run.seen.lock();
            match outcome {
                Ok(written) => {
                    seen.put.0.push(sent.elapsed());
                    seen.changes.entry(written.revision).or_default().0 = Some(Instant::now());
                    let (acked, _) = seen.keys.entry(key).or_default();
                    *acked = written.revision.max(*acked);
                }
                Err(error) => count(&mut seen.put_failures, described(&error)),
            }
        });
    }
}

async fn follow(run: Run, mut watch: veribus_client::StateWatch) {
    while let Some(change) = watch.next().await {
        let mut seen = run.seen.lock();
        seen.watch_skipped = watch.skipped();
        seen.watch_reconnects = watch.reconnects();
        match change {
            Ok(change) => {
                if matches!(change, StateChange::Put(_)) {
                    let (_, shown_at) = seen.changes.entry(change.revision()).or_default();
                    shown_at.get_or_insert_with(Instant::now);
                }
                let (_, shown) = seen.keys.entry(change.key().to_owned()).or_default();
                *shown = change.revision().max(*shown);
            }
            Err(error) => seen.watch_end = Some(error.to_string()),
        }
    }
}

async fn list(run: Run, state: State) {
    let mut ticks = every(LISTS_EVERY);
    while !run.is_over() {
        ticks.tick().await;
        let asked = Instant::now();
        let listed = state.list("honest/").try_collect::<Vec<_>>().await;
        let mut seen = run.seen.lock();
        match listed {
            Ok(_) => seen.list.0.push(asked.elapsed()),
            Err(error) => count(&mut seen.list_failures, described(&error)),
        }
    }
}

/// An agent that connects anew each time; more than one may be at it at once.
async fn come_anew(run: Run, target: Arc<Target>, token: String) {
    let mut ticks = every(NEWCOMER_EVERY);
    while !run.is_over() {
        ticks.tick().await;
        let (run, target, token) = (run.clone(), Arc::clone(&target), token.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let attempt = async {
                let client = target.client(&token).await.map_err(|error| format!("connecting: {error:#}"))?;
                client.state().get("honest/key-0").await.map(drop).map_err(|error| described(&error))
            };
            let outcome = tokio::time::timeout(NEWCOMER_PATIENCE, attempt).await;
            let mut seen = run.seen.lock();
            match outcome {
                Ok(Ok(())) => seen.newcomer.0.push(began.elapsed()),
                Ok(Err(fault)) => count(&mut seen.newcomer_failures, fault),
                Err(_) => count(&mut seen.newcomer_failures, format!("not within {NEWCOMER_PATIENCE:?}")),
            }
        });
    }
}

async fn keep_time(run: Run) {
    const STEP: Duration = Duration::from_millis(10);
    while !run.is_over() {
        let began = Instant::now();
        tokio::time::sleep(STEP).await;
        run.seen.lock().timer.0.push(began.elapsed().saturating_sub(STEP));
    }
}
