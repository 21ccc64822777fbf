//! A log that is held up between the moment in which an audience is fixed and the one in which it is recorded: what has
//! changed in between counts.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use veribus_broker::engine::{AppendError, Chunk, LogStore, ReadError, Record};
use veribus_proto::v1::{EntryKind, Revocation, RevokeRequest, revocation::Target, subscribe_response::Response};
use veribus_tests::{
    broker::{Setup, TestBroker},
    faults::FaultyStore,
    log::{Log, undelivered},
    messages::wire,
    patiently,
    streams::{PublishStream, RawSubscription, receipt},
};

/// Keeps appends waiting while it is held.
#[derive(Default)]
struct HeldStore {
    inner: FaultyStore,
    held: Mutex<bool>,
    changed: Condvar,
}

impl HeldStore {
    fn hold(&self, held: bool) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.changed.notify_all();
    }
}

impl LogStore for HeldStore {
    fn append(&self, chunks: &[Chunk], records: &[Record]) -> Result<(), AppendError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(held, |held| *held).unwrap_or_else(PoisonError::into_inner));
        self.inner.append(chunks, records)
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.inner.records(prefix)
    }

    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.inner.records_between(from, to, max)
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.inner.record(key)
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        self.inner.chunk_at(index)
    }

    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }
}

struct Held {
    store: Arc<HeldStore>,
    broker: TestBroker,
    inbox: RawSubscription,
    publishing: PublishStream,
}

impl Held {
    /// A subscriber to `a` and `b`, and a log that is held with a first message in its commit.
    async fn new() -> Result<Self> {
        let store = Arc::new(HeldStore::default());
        let broker = Setup::default().open_policy().store(store.clone()).start().await?;
        let reader = broker.raw(&broker.token("reader", &["subscribe:>"])?).await?;
        let inbox = RawSubscription::open(&reader, &["a", "b"]).await?;
        let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
        let publishing = PublishStream::open(&sender).await?;
        store.hold(true);
        let held = Self { store, broker, inbox, publishing };
        held.send("first", "b").await?;
        Ok(held)
    }

    /// Sends a message, whose audience is fixed before this returns. It waits behind the commit that is held.
    async fn send(&self, id: &str, topic: &str) -> Result<()> {
        self.publishing.send(vec![wire(id, topic, "text")]).await?;
        // Nothing tells from outside that a message has come as far as the log.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        Ok(())
    }

    async fn published(&mut self) -> Result<u64> {
        let outcomes = self.publishing.results().await?.context("the stream is over")?;
        Ok(receipt(outcomes.first().context("one")?)?.audit_index)
    }
}

fn missed(log: &Log, reason: &str) -> Vec<u64> {
    let reports = log.entries().iter().filter(|entry| entry.detail == reason && entry.undelivered.is_some());
    reports.flat_map(undelivered).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_after_the_audience_was_fixed_gets_nothing_and_that_is_recorded() -> Result<()> {
    let mut held = Held::new().await?;
    held.send("second", "b").await?;
    let operator = held.broker.raw(&held.broker.token("operator", &["admin.revoke"])?).await?;
    let issuer = held.broker.directory().issuer().issuer().to_owned();
    let target = Some(Target::Agent("reader".to_owned()));
    let revocation = Some(Revocation { issuer, target, ..Revocation::default() });
    let revoking = tokio::spawn(async move { operator.admin().revoke(RevokeRequest { revocation }).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!revoking.is_finished(), "not answered before it is durable");
    held.store.hold(false);
    let revoked = patiently(revoking).await???.into_inner();
    let (first, second) = (held.published().await?, held.published().await?);
    assert!(first < second && second < revoked.audit_index);

    let mut delivered = Vec::new();
    while let Ok(Some(batch)) = held.inbox.batch().await {
        delivered.extend(batch.iter().map(|delivery| delivery.audit_index));
    }
    assert!(!delivered.contains(&second), "{delivered:?}");
    let log = held.broker.log().await?;
    assert_eq!(log.audience(log.decision("second")?)?.len(), 1, "it is named");
    assert!(missed(&log, "revoked").contains(&second), "and reported");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_subscription_was_narrowed_by_after_the_audience_was_fixed_is_not_delivered_and_is_recorded()
-> Result<()> {
    let mut held = Held::new().await?;
    held.send("withdrawn", "a").await?;
    held.inbox.refresh(&held.broker.token("reader", &["subscribe:b"])?).await?;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    held.store.hold(false);
    let (first, withdrawn) = (held.published().await?, held.published().await?);
    held.publishing.send(vec![wire("last", "b", "text")]).await?;
    let last = held.published().await?;
    let (mut delivered, mut is_refreshed) = (Vec::new(), false);
    while delivered.last() != Some(&last) {
        match held.inbox.response().await?.context("the stream is over")? {
            Response::Batch(batch) => delivered.extend(batch.deliveries.iter().map(|delivery| delivery.audit_index)),
            Response::Refreshed(refreshed) => is_refreshed = refreshed.patterns == ["b"],
            Response::Subscribed(_) => {}
        }
    }
    assert!(is_refreshed);
    assert_eq!(delivered, [first, last]);
    let log = held.broker.log_with(|log| !missed(log, "narrowed").is_empty()).await?;
    assert_eq!(missed(&log, "narrowed"), [withdrawn]);
    assert_eq!(log.audience(log.decision("withdrawn")?)?.len(), 1, "it is named, and reported");
    let narrowed = log.of_kind(EntryKind::TokenRefreshed).next().context("recorded")?;
    assert!(narrowed.index > withdrawn, "narrowed before it was recorded");
    Ok(())
}
