//! A log that cannot be written: nothing is delivered, nobody is told otherwise, and a retry does the right thing.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use veribus_broker::server::ServerError;
use veribus_proto::v1::{EntryKind, Message, PublishRequest, Receipt};
use veribus_tests::{
    broker::{Setup, TestBroker},
    faults::{Fault, FaultyStore},
    log::undelivered,
    messages::wire,
    patiently,
    raw::{Raw, reason},
    streams::{PublishStream, RawSubscription, receipt, refusal},
};

struct Bench {
    broker: TestBroker,
    store: Arc<FaultyStore>,
    agent: Raw,
    inbox: RawSubscription,
}

impl Bench {
    async fn new() -> Result<Self> {
        let store = Arc::new(FaultyStore::default());
        let broker = Setup::default().open_policy().store(store.clone()).start().await?;
        let agent = broker.raw(&broker.token("a", &["publish:>", "subscribe:>"])?).await?;
        let inbox = RawSubscription::open(&agent, &[">"]).await?;
        Ok(Self { broker, store, agent, inbox })
    }

    async fn publish(&self, id: &str) -> Result<Receipt, Status> {
        publish(&self.agent, wire(id, "x", "text")).await
    }

    /// The next message that is delivered.
    async fn next_id(&mut self) -> Result<String> {
        let batch = self.inbox.batch().await?.context("the subscription ended")?;
        let ids: Vec<_> = batch.into_iter().filter_map(|delivery| delivery.message).map(|message| message.id).collect();
        let [id] = ids.as_slice() else { anyhow::bail!("{ids:?}") };
        Ok(id.clone())
    }
}

async fn publish(agent: &Raw, message: Message) -> Result<Receipt, Status> {
    let response = agent.broker().publish(PublishRequest { message: Some(message) }).await?;
    response.into_inner().receipt.ok_or_else(|| Status::internal("no receipt"))
}

fn told(refused: &Result<Receipt, Status>) -> Option<(Code, String)> {
    refused.as_ref().err().map(|status| (status.code(), reason(status)))
}

fn record_failed() -> Option<(Code, String)> {
    Some((Code::Unavailable, "RECORD_FAILED".to_owned()))
}

#[tokio::test]
async fn a_write_that_did_not_persist_delivers_nothing_and_a_retry_is_recorded_and_delivered_once() -> Result<()> {
    let mut bench = Bench::new().await?;
    bench.store.fail_next(Fault::NotPersisted);
    assert_eq!(told(&bench.publish("m-1").await), record_failed());
    bench.publish("marker").await?;
    assert_eq!(bench.next_id().await?, "marker", "nothing came of the failed one");
    let retried = bench.publish("m-1").await?;
    assert!(!retried.duplicate);
    assert_eq!(bench.next_id().await?, "m-1");
    let log = bench.broker.log().await?;
    assert_eq!(log.decision("m-1")?.index, retried.audit_index);
    Ok(())
}

#[tokio::test]
async fn a_write_that_persisted_but_was_reported_failed_delivers_nothing_and_a_retry_gets_the_first_receipt()
-> Result<()> {
    let mut bench = Bench::new().await?;
    bench.store.fail_next(Fault::PersistedButReportedFailed);
    assert_eq!(told(&bench.publish("m-1").await), record_failed());
    let retried = bench.publish("m-1").await?;
    assert!(retried.duplicate);
    bench.publish("marker").await?;
    assert_eq!(bench.next_id().await?, "marker", "nothing came of the failed one");
    let log = bench.broker.log_with(|log| log.of_kind(EntryKind::Undelivered).count() > 0).await?;
    assert_eq!(log.decision("m-1")?.index, retried.audit_index);
    let missed = log.of_kind(EntryKind::Undelivered).next().context("reported")?;
    assert_eq!((undelivered(missed), &*missed.detail), (vec![retried.audit_index], "record-failed"));
    assert_eq!(missed.subscription_id, bench.inbox.subscribed().subscription_id);
    Ok(())
}

#[tokio::test]
async fn a_failed_write_refuses_every_message_of_a_stream_and_the_stream_goes_on() -> Result<()> {
    let mut bench = Bench::new().await?;
    let mut stream = PublishStream::open(&bench.agent).await?;
    bench.store.fail_next(Fault::NotPersisted);
    let frame = ["m-1", "m-2", "m-3"].map(|id| wire(id, "x", "text"));
    for (outcome, sent) in stream.publish(frame.to_vec()).await?.iter().zip(&frame) {
        let refused = refusal(outcome)?;
        assert_eq!((&refused.message_id, &*refused.reason), (&sent.id, "RECORD_FAILED"));
        assert_eq!((Code::from_i32(refused.code), &*refused.decision_id), (Code::Unavailable, ""));
    }
    for outcome in stream.publish(frame.to_vec()).await? {
        assert!(!receipt(&outcome)?.duplicate);
    }
    let batch = bench.inbox.batch().await?.context("delivered")?;
    assert_eq!(batch.len(), 3);
    Ok(())
}

#[tokio::test]
async fn what_was_to_be_noted_when_a_write_failed_is_noted_with_the_next_one() -> Result<()> {
    let bench = Bench::new().await?;
    let Bench { broker, store, agent, inbox } = bench;
    let (subscription_id, appends) = (inbox.subscribed().subscription_id.clone(), store.appends());
    store.fail_next(Fault::NotPersisted);
    drop(inbox);
    patiently(async {
        while store.appends() == appends {
            tokio::task::yield_now().await;
        }
    })
    .await?;
    publish(&agent, wire("m-1", "x", "text")).await?;
    let log = broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).count() > 0).await?;
    let ended: Vec<_> = log.of_kind(EntryKind::Unsubscribe).map(|entry| entry.subscription_id.clone()).collect();
    assert_eq!(ended, [subscription_id]);
    Ok(())
}

#[tokio::test]
async fn a_disk_that_does_not_confirm_a_write_is_the_end() -> Result<()> {
    let Bench { mut broker, store, agent, mut inbox } = Bench::new().await?;
    store.fail_next(Fault::Sync);
    assert_eq!(told(&publish(&agent, wire("m-1", "x", "text")).await), record_failed());
    let failure = patiently(broker.failed()).await?;
    assert!(matches!(failure, ServerError::Writer(_)), "{failure}");
    // Neither a retry nor anything else is acknowledged any more.
    for id in ["m-1", "m-2"] {
        assert_eq!(told(&publish(&agent, wire(id, "x", "text")).await), record_failed(), "{id}");
    }
    let refused = RawSubscription::open(&agent, &[">"]).await.err().context("no subscription")?;
    assert_eq!((refused.code(), reason(&refused)), (Code::Unavailable, "RECORD_FAILED".to_owned()));
    let (server, _home) = broker.into_parts();
    assert!(patiently(server.drain()).await?.is_err(), "the log has not been ended");
    // The drain ended the subscription; nothing was ever delivered to it.
    assert!(inbox.batch().await.is_err());
    Ok(())
}

/// What the health service says of these services, in order: the broker as a whole, messages, state, audit, administration.
async fn serving(agent: &Raw) -> Result<[bool; 5]> {
    let services = ["", "BrokerService", "StateService", "AuditService", "AdminService"];
    let mut found = [false; 5];
    for (found, service) in found.iter_mut().zip(services) {
        let service = if service.is_empty() { String::new() } else { format!("veribus.v1.{service}") };
        let answer = HealthClient::new(agent.channel()).check(HealthCheckRequest { service }).await?;
        *found = answer.into_inner().status() == ServingStatus::Serving;
    }
    Ok(found)
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_read_and_health_says_so_until_there_is_room() -> Result<()> {
    let place = tempfile::tempdir()?;
    let absent = place.path().join("absent");
    // A disk that cannot be asked counts as full.
    let directory = absent.clone();
    let setup = Setup::default().open_policy().store(Arc::new(FaultyStore::default())).configure(move |config| {
        config.record.data_directory = directory;
        config.record.free_disk_bytes_min = 4;
    });
    let broker = setup.start().await?;
    let agent = broker.raw(&broker.token("a", &["publish:>", "subscribe:>"])?).await?;
    assert_eq!(serving(&agent).await?, [false, false, false, false, true]);
    let refused = RawSubscription::open(&agent, &[">"]).await.err().context("not recorded, so not read")?;
    assert_eq!((refused.code(), reason(&refused)), (Code::ResourceExhausted, "DISK_FLOOR".to_owned()));
    assert!(refused.message().contains("cannot be recorded"), "{refused}");
    std::fs::create_dir(&absent)?;
    patiently(async {
        while serving(&agent).await? != [true; 5] {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    })
    .await??;
    RawSubscription::open(&agent, &[">"]).await?;
    Ok(())
}

#[tokio::test]
async fn below_the_disk_floor_publishes_are_refused_while_reading_goes_on() -> Result<()> {
    let setup = Setup::default().open_policy().configure(|config| config.record.free_disk_bytes_min = u64::MAX);
    let broker = setup.start().await?;
    let agent = broker.raw(&broker.token("a", &["publish:>", "subscribe:>"])?).await?;
    assert_eq!(serving(&agent).await?, [false, false, false, true, true]);
    let _inbox = RawSubscription::open(&agent, &[">"]).await?;
    let refused = publish(&agent, wire("m-1", "x", "text")).await;
    assert_eq!(told(&refused), Some((Code::ResourceExhausted, "DISK_FLOOR".to_owned())));
    let mut stream = PublishStream::open(&agent).await?;
    for id in ["m-2", "m-3"] {
        let results = stream.publish(vec![wire(id, "x", "text")]).await?;
        let refused = refusal(results.first().context("one")?)?;
        assert_eq!((Code::from_i32(refused.code), &*refused.reason), (Code::ResourceExhausted, "DISK_FLOOR"));
    }
    let log = broker.log().await?;
    assert_eq!(log.of_kind(EntryKind::Subscribe).count(), 1);
    assert_eq!(log.of_kind(EntryKind::Publish).count(), 0);
    Ok(())
}
