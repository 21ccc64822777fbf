//! A broker that is told to stop while much is under way.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use prost::Message as _;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use veribus_client::{Client, Message};
use veribus_proto::v1::{EntryKind, TailRequest};
use veribus_tests::{
    broker::Setup,
    log::{Log, undelivered},
    messages::wire,
    patiently,
    raw::{Raw, reason},
    streams::{PublishStream, RawSubscription, opening, receipt},
    wire::{Wire, frame},
};

fn is_draining(status: &Status) -> bool {
    (status.code(), reason(status)) == (Code::Unavailable, "DRAINING".to_owned())
}

/// The ids of messages that were acknowledged, and the status at the end.
struct Published {
    acknowledged: Vec<String>,
    end: Status,
}

/// Publishes frame after frame, ten of them under way, until the stream ends; says when it is at full speed.
async fn publish_on(raw: Raw, name: &'static str, running: oneshot::Sender<()>) -> Result<Published> {
    let mut stream = PublishStream::open(&raw).await?;
    let (mut acknowledged, mut running) = (Vec::new(), Some(running));
    for number in 0_u64.. {
        let ids = (0..10).map(|part| format!("{name}-{number}-{part}"));
        // A stream that is over is told by its results.
        stream.send(ids.map(|id| wire(&id, "x", "text")).collect()).await.ok();
        if number < 10 {
            continue;
        }
        match stream.results().await {
            Ok(results) => {
                if let Some(running) = running.take() {
                    running.send(()).ok();
                }
                for outcome in results.context("ended without a status")? {
                    acknowledged.push(receipt(&outcome)?.message_id.clone());
                }
            }
            Err(end) => return Ok(Published { acknowledged, end }),
        }
    }
    anyhow::bail!("never ended")
}

/// Takes down everything that is delivered, until the stream ends.
async fn receive_on(mut inbox: RawSubscription) -> Result<(BTreeSet<u64>, Status)> {
    let mut received = BTreeSet::new();
    loop {
        match inbox.batch().await {
            Ok(batch) => received.extend(batch.context("no status")?.iter().map(|delivery| delivery.audit_index)),
            Err(end) => return Ok((received, end)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_before_a_drain_is_in_the_log_and_streams_are_told_to_come_again() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let reader = broker.raw(&broker.token("reader", &["subscribe:>"])?).await?;
    let inbox = RawSubscription::open(&reader, &[">"]).await?;
    let subscription = inbox.subscribed().subscription_id.clone();
    let receiving = tokio::spawn(receive_on(inbox));
    let auditor = broker.raw(&broker.agent_token("auditor")?).await?;
    let tail = auditor.audit().tail(TailRequest::default()).await?.into_inner();
    let mut publishing = Vec::new();
    for name in ["p0", "p1"] {
        let raw = broker.raw(&broker.token(name, &["publish:>"])?).await?;
        let (running, is_running) = oneshot::channel();
        publishing.push(tokio::spawn(publish_on(raw, name, running)));
        patiently(is_running).await??;
    }
    let home = patiently(broker.stop()).await??;

    let mut acknowledged = Vec::new();
    for publisher in publishing {
        let published = patiently(publisher).await???;
        // One that still sends when its connection is closed may find it broken before it can read the status.
        let is_broken = std::error::Error::source(&published.end).is_some();
        assert!(is_draining(&published.end) || is_broken, "{:?}", published.end);
        acknowledged.extend(published.acknowledged);
    }
    let (received, end) = patiently(receiving).await???;
    assert!(is_draining(&end), "{end:?}");
    assert!(is_draining(&last_status(tail).await?), "the tail");

    let broker = home.start().await?;
    let log = broker.log().await?;
    let stopped = log.of_kind(EntryKind::BrokerStopped).next().context("the end is recorded")?.index;
    assert_eq!(log.at(stopped + 1)?.kind(), EntryKind::BrokerStarted, "it was the last entry");
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        assert!(log.decision(id)?.index < stopped, "{id}");
    }
    let undelivered: BTreeSet<u64> =
        log.entries().iter().filter(|entry| entry.subscription_id == subscription).flat_map(undelivered).collect();
    let accounted: BTreeSet<u64> = received.union(&undelivered).copied().collect();
    assert_eq!(accounted, messages_for(&log, &subscription)?, "each message was received or is reported");
    assert!(received.is_disjoint(&undelivered));
    Ok(())
}

fn messages_for(log: &Log, subscription: &str) -> Result<BTreeSet<u64>> {
    let mut indexes = BTreeSet::new();
    for entry in log.of_kind(EntryKind::Publish) {
        if log.audience_subscriptions(entry)?.contains(subscription) {
            indexes.insert(entry.index);
        }
    }
    Ok(indexes)
}

async fn last_status<T>(mut stream: tonic::Streaming<T>) -> Result<Status> {
    loop {
        match patiently(stream.message()).await? {
            Ok(message) => drop(message.context("ended without a status")?),
            Err(status) => return Ok(status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_publish_under_way_in_the_sdk_resolves_to_a_receipt_or_an_error() -> Result<()> {
    const MESSAGES: usize = 2_000;
    let broker = Setup::default().open_policy().start().await?;
    let builder = Client::builder(broker.url()).ca_file(broker.directory().ca_path());
    let builder = builder.token(broker.token("a", &["publish:>"])?);
    let give_up = Duration::from_millis(300);
    let client = builder.publish_for(give_up).connect_timeout(give_up).connect().await?;
    let publisher = client.publisher();
    let messages = (0..MESSAGES).map(|number| Message::text("x", "test", "text").id(number.to_string()));
    let sending = tokio::spawn(async move {
        let mut pending = Vec::new();
        for message in messages {
            pending.push(publisher.send(message).await?);
        }
        Ok::<_, veribus_client::Error>((publisher, pending))
    });
    let first = client.publish(Message::text("x", "test", "text").id("first")).await?;
    let home = patiently(broker.stop()).await??;
    let (_publisher, pending) = patiently(sending).await???;
    let (mut acknowledged, mut others) = (vec![(first.message_id, first.audit_index)], 0);
    for pending in pending {
        match patiently(pending).await? {
            Ok(receipt) => acknowledged.push((receipt.message_id, receipt.audit_index)),
            Err(_) => others += 1,
        }
    }
    assert_eq!(acknowledged.len() + others, MESSAGES + 1);
    let broker = home.start().await?;
    let log = broker.log().await?;
    for (id, index) in acknowledged {
        assert_eq!(log.decision(&id)?.index, index, "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_up_a_drain() -> Result<()> {
    let setup = Setup::default().open_policy().configure(|config| config.server.drain_ms_max = 200);
    let broker = setup.start().await?;
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(256);
    let stuck = Wire::connect_with(broker.address(), &broker.directory().ca_path(), settings).await?;
    let token = broker.token("stuck", &["subscribe:>"])?;
    let mut call = stuck.call("/veribus.v1.BrokerService/Subscribe", Some(&token)).await?;
    call.requests.send_data(frame(&opening(&[">"]).encode_to_vec()), false)?;
    let _answers = call.answers().await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    sender.publish(Message::text("x", "test", "y".repeat(10_000)).id("m-1")).await?;

    let broker = patiently(broker.stop()).await??.start().await?;
    let log = broker.log().await?;
    assert_eq!(log.of_kind(EntryKind::Unsubscribe).count(), 1);
    let stopped = log.of_kind(EntryKind::BrokerStopped).next().context("the end is recorded")?.index;
    assert_eq!(log.at(stopped + 1)?.kind(), EntryKind::BrokerStarted);
    Ok(())
}

#[tokio::test]
async fn a_drained_broker_takes_no_connection() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let (address, ca) = (broker.address(), broker.directory().ca_path());
    let home = broker.stop().await?;
    assert!(Wire::connect(address, &ca).await.is_err());
    drop(home);
    Ok(())
}
