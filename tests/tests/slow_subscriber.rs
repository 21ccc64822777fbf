//! A subscriber that does not keep up: what it misses is in the log, message by message, and nobody else waits for it.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use veribus_broker::{
    config::Overflow,
    model::{Clock, UnixSeconds},
};
use veribus_client::{Client, Message, Subscription};
use veribus_proto::v1::{DeliveryBatch, EntryKind, SubscribeResponse, Subscribed, subscribe_response::Response};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::{Log, undelivered},
    patiently,
    raw::{Raw, RawOptions},
    streams::{RawSubscription, opening, refreshing},
    wire::{Answers, Wire, frame},
};

const MESSAGES: usize = 300;
const QUEUE: usize = 8;

/// A subscriber that takes 256 bytes before it begins to read.
struct Slow {
    wire: Wire,
    answers: Answers,
    subscribed: Subscribed,
}

impl Slow {
    async fn subscribe(broker: &TestBroker) -> Result<Self> {
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(256);
        let ca = broker.directory().ca_path();
        let wire = Wire::connect_with(broker.address(), &ca, settings).await?;
        let token = broker.token("slow", &["subscribe:>"])?;
        let mut call = wire.call("/veribus.v1.BrokerService/Subscribe", Some(&token)).await?;
        call.requests.send_data(frame(&opening(&[">"]).encode_to_vec()), false)?;
        let mut answers = call.answers().await?;
        let first = answers.next::<SubscribeResponse>().await?.ok().and_then(|first| first.response);
        let Some(Response::Subscribed(subscribed)) = first else { anyhow::bail!("{first:?}") };
        Ok(Self { wire, answers, subscribed })
    }

    /// Reads on: the next batch, or the status at the end.
    async fn batch(&mut self) -> Result<Result<DeliveryBatch, Code>> {
        match patiently(self.answers.next::<SubscribeResponse>()).await?? {
            Ok(SubscribeResponse { response: Some(Response::Batch(batch)) }) => Ok(Ok(batch)),
            Ok(other) => anyhow::bail!("{other:?}"),
            Err(status) => Ok(Err(Code::from_i32(status))),
        }
    }
}

async fn broker(overflow: Overflow) -> Result<TestBroker> {
    setup(overflow).start().await
}

fn setup(overflow: Overflow) -> Setup {
    Setup::default().open_policy().configure(move |config| {
        config.delivery.queue_messages_max = QUEUE;
        config.delivery.stall_ms_max = 1;
        config.delivery.overflow = overflow;
    })
}

/// Stands a little ahead, so that tokens made during a test are not of the future.
fn standing_clock() -> Clock {
    let UnixSeconds(now) = Clock::system().now().seconds();
    Clock::manual(UnixSeconds(now + 30))
}

/// Publishes one by one, so that a subscriber that reads has the time to, and sees that such a one gets everything.
async fn publish_all(sender: &Client, fast: &mut Subscription) -> Result<BTreeSet<u64>> {
    publish(sender, fast, 0..MESSAGES).await
}

async fn publish(sender: &Client, fast: &mut Subscription, numbers: Range<usize>) -> Result<BTreeSet<u64>> {
    let mut indexes = BTreeSet::new();
    for number in numbers {
        let message = Message::text("x", "test", "y".repeat(1_000)).id(format!("m-{number}"));
        indexes.insert(sender.publish(message).await?.audit_index);
        let delivery = patiently(fast.next()).await?.context("the fast one was cut off")??;
        assert_eq!(delivery.message.id, format!("m-{number}"));
    }
    Ok(indexes)
}

/// The messages whose entries name the subscription in their audience.
fn meant_for(log: &Log, subscription: &str) -> Result<BTreeSet<u64>> {
    let mut indexes = BTreeSet::new();
    for entry in log.of_kind(EntryKind::Publish) {
        if log.audience_subscriptions(entry)?.contains(subscription) {
            indexes.insert(entry.index);
        }
    }
    Ok(indexes)
}

/// What the log reports as not delivered to the subscription; each message once.
fn missed(log: &Log, subscription: &str) -> Vec<u64> {
    let about_it = log.entries().iter().filter(|entry| entry.subscription_id == subscription);
    about_it.flat_map(undelivered).collect()
}

#[tokio::test]
async fn a_subscriber_that_does_not_keep_up_is_cut_off_and_each_message_it_missed_is_recorded() -> Result<()> {
    let broker = broker(Overflow::Disconnect).await?;
    let mut slow = Slow::subscribe(&broker).await?;
    let id = slow.subscribed.subscription_id.clone();
    let mut fast = broker.client(&broker.token("fast", &["subscribe:>"])?).await?.subscribe([">"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    publish_all(&sender, &mut fast).await?;

    let mut received = BTreeSet::new();
    let end = loop {
        match slow.batch().await? {
            Ok(batch) => received.extend(batch.deliveries.iter().map(|delivery| delivery.audit_index)),
            Err(code) => break code,
        }
    };
    assert_eq!(end, Code::ResourceExhausted);
    let log =
        broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).any(|entry| entry.subscription_id == id)).await?;
    let ended = log.of_kind(EntryKind::Unsubscribe).find(|entry| entry.subscription_id == id).context("ended")?;
    assert_eq!(ended.detail, "slow_subscriber");
    let (meant, missed) = (meant_for(&log, &id)?, missed(&log, &id));
    assert!(missed.len() > QUEUE && meant.len() < MESSAGES, "{} missed of {}", missed.len(), meant.len());
    let accounted: BTreeSet<u64> = received.iter().chain(&missed).copied().collect();
    assert_eq!((accounted.len(), accounted), (received.len() + missed.len(), meant), "each one either way, and once");
    Ok(())
}

/// An agent who reads slowly, seen by generated clients, which show how a stream ends.
async fn slow_reader(broker: &TestBroker, permissions: &[&str]) -> Result<Raw> {
    let options = RawOptions { window_bytes: Some(1_024), ..RawOptions::default() };
    broker.raw_with(Some(&broker.token("slow", permissions)?), options).await
}

/// Reads a subscription to its end: what came, and the status.
async fn read_out(slow: &mut RawSubscription) -> Result<(BTreeSet<u64>, Status)> {
    let mut received = BTreeSet::new();
    loop {
        match slow.batch().await {
            Ok(batch) => received.extend(batch.context("no status")?.iter().map(|delivery| delivery.audit_index)),
            Err(status) => return Ok((received, status)),
        }
    }
}

#[tokio::test]
async fn one_that_is_cut_off_is_told_what_it_missed_and_its_next_entry_says_how_long_it_was_gone() -> Result<()> {
    let clock = standing_clock();
    let broker = setup(Overflow::Disconnect).clock(&clock).start().await?;
    let reader = slow_reader(&broker, &["subscribe:>"]).await?;
    let mut slow = RawSubscription::open(&reader, &[">"]).await?;
    let id = slow.subscribed().subscription_id.clone();
    let mut fast = broker.client(&broker.token("fast", &["subscribe:>"])?).await?.subscribe([">"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    let mut all = publish(&sender, &mut fast, 0..MESSAGES / 2).await?;
    assert!(missed(&broker.log().await?, &id).is_empty(), "it may wait as long as no time passes");
    clock.advance(Duration::from_millis(1));
    broker.log_with(|log| !missed(log, &id).is_empty()).await?;
    all.extend(publish(&sender, &mut fast, MESSAGES / 2..MESSAGES).await?);
    let (received, end) = read_out(&mut slow).await?;
    let details = end.get_details_error_info().context("details")?;
    assert_eq!((end.code(), details.reason.as_str()), (Code::ResourceExhausted, "SLOW_SUBSCRIBER"));
    let told: usize = details.metadata.get("undelivered").context("a count")?.parse()?;
    for number in 0..3 {
        let message = Message::text("elsewhere", "test", "y").id(format!("gone-{number}"));
        all.insert(sender.publish(message).await?.audit_index);
    }

    // Who is not let in is not back.
    let refused = RawSubscription::open(&slow_reader(&broker, &[]).await?, &[">"]).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::PermissionDenied));
    let back = RawSubscription::open(&reader, &["x"]).await?.subscribed().audit_index;
    all.insert(sender.publish(Message::text("x", "test", "y").id("back")).await?.audit_index);
    let last = RawSubscription::open(&reader, &["x"]).await?.subscribed().audit_index;

    let has_ended = |log: &Log| log.of_kind(EntryKind::Unsubscribe).any(|entry| entry.subscription_id == id);
    let log = broker.log_with(|log| log.at(last).is_ok() && has_ended(log)).await?;
    let (meant, missed) = (meant_for(&log, &id)?, missed(&log, &id));
    assert_eq!(told, missed.len(), "as the log has it");
    let accounted: BTreeSet<u64> = received.iter().chain(&missed).copied().collect();
    assert_eq!(accounted, meant);
    let absent: Vec<_> = log.of_kind(EntryKind::Subscribe).filter(|entry| entry.absent.is_some()).collect();
    assert_eq!(absent.iter().map(|entry| entry.index).collect::<Vec<_>>(), [back], "told once, where it is back");
    let absent = absent[0].absent.context("absent")?;
    assert_eq!(absent.last, back - 1);
    assert_eq!(Some(&(absent.first - 1)), meant.last(), "from the message that was one too many");
    let gone: BTreeSet<u64> =
        all.iter().filter(|index| (absent.first..=absent.last).contains(index)).copied().collect();
    let not_meant: BTreeSet<u64> = all.difference(&meant).filter(|index| **index < back).copied().collect();
    assert!(gone.len() > 3);
    assert_eq!(gone, not_meant, "every message that found it gone, and no other");
    Ok(())
}

#[tokio::test]
async fn one_with_the_default_window_gets_all_of_a_burst_that_is_far_over_its_bound() -> Result<()> {
    const BURST: usize = 600;
    let setup = Setup::default().open_policy();
    let broker = setup.clock(&standing_clock()).start().await?;
    let reader = broker.raw(&broker.token("reader", &["subscribe:>"])?).await?;
    let mut subscription = RawSubscription::open(&reader, &[">"]).await?;
    let publisher = broker.client(&broker.token("sender", &["publish:>"])?).await?.publisher();
    let text = "y".repeat(50_000);
    let mut pending = Vec::new();
    for number in 0..BURST {
        let message = Message::text("x", "test", text.clone()).id(format!("m-{number}"));
        pending.push(publisher.send(message).await?);
    }
    let mut published = Vec::new();
    for receipt in pending {
        published.push(patiently(receipt).await??.audit_index);
    }
    let mut received = Vec::new();
    while received.len() < BURST {
        let batch = subscription.batch().await?.context("it ended")?;
        received.extend(batch.iter().map(|delivery| delivery.audit_index));
    }
    assert_eq!(received, published);
    Ok(())
}

#[tokio::test]
async fn where_the_oldest_give_way_a_slow_subscriber_goes_on_and_each_message_dropped_is_recorded() -> Result<()> {
    let broker = broker(Overflow::DropOldest).await?;
    let mut slow = Slow::subscribe(&broker).await?;
    let id = slow.subscribed.subscription_id.clone();
    let mut fast = broker.client(&broker.token("fast", &["subscribe:>"])?).await?.subscribe([">"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    let all = publish_all(&sender, &mut fast).await?;

    let (mut received, mut dropped_total) = (Vec::new(), 0);
    while received.last() != all.last() {
        let batch = slow.batch().await?.map_err(|code| anyhow::anyhow!("cut off: {code}"))?;
        received.extend(batch.deliveries.iter().map(|delivery| delivery.audit_index));
        dropped_total = batch.dropped_total;
    }
    assert!(received.is_sorted());
    // The last drop is noted after the message that caused it.
    let drops = usize::try_from(dropped_total)?;
    let log = broker.log_with(|log| missed(log, &id).len() >= drops).await?;
    let missed = missed(&log, &id);
    assert!(missed.len() > QUEUE, "{missed:?}");
    assert_eq!(missed.len(), drops, "as the subscriber was told");
    assert!(log.of_kind(EntryKind::Undelivered).all(|entry| entry.detail == "dropped_oldest"));
    let accounted: BTreeSet<u64> = received.iter().chain(&missed).copied().collect();
    assert_eq!((accounted.len(), accounted), (MESSAGES, all), "each one either way, and once");
    Ok(())
}

#[tokio::test]
async fn a_slow_subscriber_that_goes_away_leaves_a_record_of_what_waited_for_it() -> Result<()> {
    let broker = broker(Overflow::DropOldest).await?;
    let slow = Slow::subscribe(&broker).await?;
    let id = slow.subscribed.subscription_id.clone();
    let mut fast = broker.client(&broker.token("fast", &["subscribe:>"])?).await?.subscribe([">"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    let all = publish_all(&sender, &mut fast).await?;
    drop((slow.answers, slow.wire));
    let log =
        broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).any(|entry| entry.subscription_id == id)).await?;
    let ended = log.of_kind(EntryKind::Unsubscribe).find(|entry| entry.subscription_id == id).context("ended")?;
    assert_eq!(ended.detail, "client_gone");
    let last: Vec<u64> = all.iter().rev().take(QUEUE).rev().copied().collect();
    assert_eq!(undelivered(ended), last, "what waited in its queue");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_who_takes_nothing_in_may_still_send_a_fresh_token() -> Result<()> {
    let broker = broker(Overflow::DropOldest).await?;
    let mut slow = Slow::subscribe(&broker).await?;
    let mut fast = broker.client(&broker.token("fast", &["subscribe:>"])?).await?.subscribe([">"]).await?;
    let sender = broker.client(&broker.token("sender", &["publish:>"])?).await?;
    publish_all(&sender, &mut fast).await?;
    let fresh = broker.token("slow", &["subscribe:>"])?;
    slow.answers.requests.send_data(frame(&refreshing(&fresh).encode_to_vec()), false)?;
    let log = broker.log_with(|log| log.of_kind(EntryKind::TokenRefreshed).next().is_some()).await?;
    let refreshed = log.of_kind(EntryKind::TokenRefreshed).next().context("refreshed")?;
    assert_eq!(refreshed.subscription_id, slow.subscribed.subscription_id);
    Ok(())
}
