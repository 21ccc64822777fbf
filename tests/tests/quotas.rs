//! What an agent may use: over quota is refused at once, says when to come again, stands in the log with a count, and is
//! nobody else's loss.

use std::{
    fs,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use veribus_broker::{
    config::QuotasConfig,
    model::{Clock, UnixSeconds},
};
use veribus_client::{Error, Message};
use veribus_proto::v1::{EntryKind, PublishRequest, QueryRequest, Refusal, publish_result::Outcome};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::{OPEN_POLICY, wire},
    raw::{Raw, reason},
    streams::{PublishStream, RawSubscription, receipt, refusal},
};

const SECOND: Duration = Duration::from_secs(1);

/// A little ahead: the example agents' tokens, which are made by the system's clock, are good from their first second on.
fn clock() -> Clock {
    let UnixSeconds(now) = Clock::system().now().seconds();
    Clock::manual(UnixSeconds(now + 60))
}

/// A broker whose clock stands still until the test moves it.
async fn broker(quotas: QuotasConfig) -> Result<(TestBroker, Clock)> {
    let clock = clock();
    let setup = Setup::default().open_policy().clock(&clock).configure(|config| config.quotas = quotas);
    Ok((setup.start().await?, clock))
}

const fn max(value: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(value)
}

fn messages_per_s(value: u64) -> QuotasConfig {
    QuotasConfig { messages_per_s_max: max(value), ..QuotasConfig::default() }
}

async fn sender(broker: &TestBroker, agent: &str) -> Result<Raw> {
    broker.raw(&broker.token(agent, &["publish:>", "subscribe:>"])?).await
}

async fn publish(raw: &Raw, id: &str) -> Result<(), Status> {
    let request = PublishRequest { message: Some(wire(id, "x", "text")) };
    raw.broker().publish(request).await.map(drop)
}

/// That a call was refused for a quota, and when it may be made again.
fn retry_after(status: &Status) -> Result<Duration> {
    assert_eq!((status.code(), &*reason(status)), (Code::ResourceExhausted, "QUOTA_EXCEEDED"), "{status:?}");
    status.get_details_retry_info().and_then(|info| info.retry_delay).context("when to come again")
}

fn over_quota(outcome: &Outcome) -> Result<&Refusal> {
    let refusal = refusal(outcome)?;
    assert_eq!((refusal.code, &*refusal.reason), (Code::ResourceExhausted.into(), "QUOTA_EXCEEDED"));
    assert_eq!((&*refusal.decision_id, refusal.audit_index), ("", 0));
    Ok(refusal)
}

/// Agent, quota and count of each entry, summed up over the seconds.
fn overruns(log: &Log) -> Vec<(String, String, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for entry in log.of_kind(EntryKind::QuotaExceeded) {
        let agent = entry.actor.clone().unwrap_or_default().agent;
        *sums.entry((agent, entry.detail.clone())).or_default() += entry.count;
    }
    sums.into_iter().map(|((agent, quota), count)| (agent, quota, count)).collect()
}

fn overrun(agent: &str, quota: &str, count: u64) -> (String, String, u64) {
    (agent.to_owned(), quota.to_owned(), count)
}

#[tokio::test]
async fn messages_over_quota_are_refused_in_their_place_and_pass_when_they_come_again() -> Result<()> {
    let (broker, clock) = broker(messages_per_s(3)).await?;
    let mut stream = PublishStream::open(&sender(&broker, "a").await?).await?;
    let batch = |names: &[&str]| names.iter().map(|id| wire(id, "x", "text")).collect::<Vec<_>>();
    let outcomes = stream.publish(batch(&["1", "2", "3", "4", "5"])).await?;
    for (outcome, id) in outcomes.iter().zip(["1", "2", "3"]) {
        assert_eq!(receipt(outcome)?.message_id, id);
    }
    for (outcome, id) in outcomes.iter().skip(3).zip(["4", "5"]) {
        let refusal = over_quota(outcome)?;
        assert_eq!((&*refusal.message_id, refusal.retry_after_ms), (id, 334));
    }
    clock.advance(Duration::from_millis(333));
    over_quota(stream.publish(batch(&["4"])).await?.first().context("one")?)?;
    clock.advance(Duration::from_millis(1));
    receipt(stream.publish(batch(&["4"])).await?.first().context("one")?)?;

    let log = broker.log_with(|log| overruns(log) == [overrun("a", "messages_per_s_max", 3)]).await?;
    let entry = log.of_kind(EntryKind::QuotaExceeded).next().context("an entry")?;
    let actor = entry.actor.as_ref().context("an actor")?;
    assert!(!actor.token_id.is_empty() && !entry.peer.is_empty());
    assert_eq!(entry.decision.as_ref().context("a decision")?.reason, "QUOTA_EXCEEDED");
    assert!(log.decisions("5").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_unary_publish_over_quota_says_when_to_come_again() -> Result<()> {
    let (broker, clock) = broker(messages_per_s(1)).await?;
    let raw = sender(&broker, "a").await?;
    publish(&raw, "1").await?;
    let wait = retry_after(&publish(&raw, "2").await.err().context("refused")?)?;
    assert_eq!(wait, SECOND);
    clock.advance(wait);
    publish(&raw, "2").await?;
    Ok(())
}

#[tokio::test]
async fn bytes_are_counted_as_on_the_wire_and_a_smaller_message_may_pass_after_a_refused_one() -> Result<()> {
    let message = |id: &str, length: usize| wire(id, "x", &"z".repeat(length));
    let (large, small) = (message("large", 700), message("small", 100));
    let room = large.encoded_len() + small.encoded_len();
    let quotas = QuotasConfig { bytes_per_s_max: max(room as u64), ..QuotasConfig::default() };
    let (broker, clock) = broker(quotas).await?;
    let raw = sender(&broker, "a").await?;
    let mut stream = PublishStream::open(&raw).await?;
    let again = message("again", 700);
    let outcomes = stream.publish(vec![large, again.clone(), small]).await?;
    let [first, second, third] = outcomes.as_slice() else { bail!("{outcomes:?}") };
    assert_eq!((&*receipt(first)?.message_id, &*receipt(third)?.message_id), ("large", "small"));
    // The small one came later and took of what the other one waits for.
    let wait = over_quota(second)?.retry_after_ms;
    assert!(wait > 0 && wait < 1_000, "{wait}");
    clock.advance(SECOND);
    receipt(stream.publish(vec![again]).await?.first().context("one")?)?;

    let never = message("never", room);
    let outcomes = stream.publish(vec![never.clone()]).await?;
    let refused = refusal(outcomes.first().context("one")?)?;
    let told = (refused.code, &*refused.reason, refused.retry_after_ms);
    assert_eq!(told, (Code::FailedPrecondition.into(), "MESSAGE_EXCEEDS_QUOTA", 0));
    let status = raw.broker().publish(PublishRequest { message: Some(never) }).await.err().context("refused")?;
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "MESSAGE_EXCEEDS_QUOTA"));
    assert!(status.get_details_retry_info().is_none());
    broker.log_with(|log| overruns(log) == [overrun("a", "bytes_per_s_max", 3)]).await?;
    Ok(())
}

#[tokio::test]
async fn one_agent_shares_its_quota_over_connections_and_calls_and_takes_nothing_from_another() -> Result<()> {
    let (broker, _clock) = broker(messages_per_s(2)).await?;
    let (one, two, other) = (sender(&broker, "a").await?, sender(&broker, "a").await?, sender(&broker, "other").await?);
    publish(&one, "1").await?;
    let mut stream = PublishStream::open(&two).await?;
    receipt(stream.publish(vec![wire("2", "x", "text")]).await?.first().context("one")?)?;
    retry_after(&publish(&one, "3").await.err().context("refused")?)?;
    over_quota(stream.publish(vec![wire("3", "x", "text")]).await?.first().context("one")?)?;
    publish(&other, "1").await?;
    publish(&other, "2").await?;
    Ok(())
}

#[tokio::test]
async fn streams_are_counted_while_they_are_open() -> Result<()> {
    let quotas = QuotasConfig { streams_max: NonZeroU64::MIN.saturating_add(1), ..QuotasConfig::default() };
    let (broker, _clock) = broker(quotas).await?;
    let (one, two) = (sender(&broker, "a").await?, sender(&broker, "a").await?);
    let stream = PublishStream::open(&one).await?;
    let _inbox = RawSubscription::open(&two, &[">"]).await?;
    assert_eq!(retry_after(&publish(&one, "1").await.err().context("refused")?)?, SECOND);
    assert!(PublishStream::open(&two).await.is_err());
    publish(&sender(&broker, "other").await?, "1").await?;
    broker.log_with(|log| overruns(log) == [overrun("a", "streams_max", 2)]).await?;
    let mut end = stream.done();
    assert!(end.message().await?.is_none());
    publish(&one, "1").await?;
    Ok(())
}

#[tokio::test]
async fn subscriptions_are_counted_while_they_are_open() -> Result<()> {
    let quotas = QuotasConfig { subscriptions_max: NonZeroU64::MIN, ..QuotasConfig::default() };
    let (broker, _clock) = broker(quotas).await?;
    let (one, two) = (sender(&broker, "a").await?, sender(&broker, "a").await?);
    let inbox = RawSubscription::open(&one, &["x"]).await?;
    assert_eq!(retry_after(&RawSubscription::open(&two, &["y"]).await.err().context("refused")?)?, SECOND);
    let _others = RawSubscription::open(&sender(&broker, "other").await?, &["x"]).await?;
    let log = broker.log_with(|log| overruns(log) == [overrun("a", "subscriptions_max", 1)]).await?;
    assert_eq!(log.of_kind(EntryKind::Subscribe).count(), 2);
    drop(inbox);
    broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).count() == 1).await?;
    RawSubscription::open(&two, &["y"]).await?;
    Ok(())
}

#[tokio::test]
async fn the_policys_data_gives_agents_and_roles_other_quotas() -> Result<()> {
    let place = tempfile::tempdir()?;
    fs::write(place.path().join("test.rego"), OPEN_POLICY)?;
    let data = "quotas:\n  bulk:\n    messages_per_s_max: 3\n  role:gateway:\n    messages_per_s_max: null\n";
    fs::write(place.path().join("data.yaml"), data)?;
    let directory = place.path().to_owned();
    let setup = Setup::default().clock(&clock()).configure(move |config| {
        config.policy.directory = directory;
        config.quotas = messages_per_s(1);
    });
    let broker = setup.start().await?;
    let gateway = broker.claims("gateway").role("gateway").permission("publish:>");
    for (raw, passing) in [
        (sender(&broker, "a").await?, 1),
        (sender(&broker, "bulk").await?, 3),
        (broker.raw(&broker.sign(&gateway)?).await?, 9),
    ] {
        let messages = (0..9).map(|id| wire(&id.to_string(), "x", "text")).collect();
        let outcomes = PublishStream::open(&raw).await?.publish(messages).await?;
        assert_eq!(outcomes.iter().filter(|outcome| receipt(outcome).is_ok()).count(), passing);
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_with_quotas_of_another_shape_is_refused() -> Result<()> {
    let place = tempfile::tempdir()?;
    fs::write(place.path().join("test.rego"), OPEN_POLICY)?;
    fs::write(place.path().join("data.yaml"), "quotas:\n  bulk:\n    messages: 3\n")?;
    let directory = place.path().to_owned();
    let started = Setup::default().configure(move |config| config.policy.directory = directory).start().await;
    let error = started.err().context("refused")?.to_string();
    assert!(error.contains("`data.quotas`: `bulk`: unknown field `messages`"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_flood_over_quota_is_one_entry_a_second_with_its_count() -> Result<()> {
    let (broker, _clock) = broker(messages_per_s(1)).await?;
    let mut stream = PublishStream::open(&sender(&broker, "a").await?).await?;
    for _ in 0..20 {
        stream.publish((0..500).map(|_| wire("", "x", "text")).collect()).await?;
    }
    let log = broker.log_with(|log| overruns(log) == [overrun("a", "messages_per_s_max", 9_999)]).await?;
    let entries = log.of_kind(EntryKind::QuotaExceeded).count();
    assert!(entries < 100, "{entries} entries");
    assert_eq!(log.of_kind(EntryKind::Publish).count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_publisher_is_told_when_to_come_again_and_loses_nothing() -> Result<()> {
    let (broker, clock) = broker(QuotasConfig { burst_s: NonZeroU32::MIN, ..messages_per_s(4) }).await?;
    let client = broker.client(&broker.token("a", &["publish:>"])?).await?;
    let publisher = client.publisher();
    let message = |id: usize| Message::text("x", "test", "text").id(id.to_string());
    let mut pending = Vec::new();
    for id in 0..6 {
        pending.push(publisher.send(message(id)).await?);
    }
    let mut later = Vec::new();
    for (id, pending) in pending.into_iter().enumerate() {
        match pending.await {
            Ok(receipt) => assert_eq!(receipt.message_id, id.to_string()),
            Err(Error::Refused(refusal)) => later.push((id, refusal.retry_after.context("when to come again")?)),
            Err(error) => bail!(error),
        }
    }
    assert_eq!(later, [(4, SECOND / 4), (5, SECOND / 4)]);
    for (id, wait) in later {
        clock.advance(wait);
        publisher.send(message(id)).await?.await?;
    }
    publisher.close().await;
    let refused = client.publish(message(9)).await.err().context("over quota")?;
    assert_eq!((refused.code(), refused.reason()), (Some(Code::ResourceExhausted), Some("QUOTA_EXCEEDED")));
    let Error::Refused(refusal) = refused else { bail!("{refused:?}") };
    assert_eq!(refusal.retry_after, Some(SECOND / 4));
    Ok(())
}

#[tokio::test]
async fn calls_that_are_denied_count_as_messages_and_cannot_fill_the_log() -> Result<()> {
    let (broker, _clock) = broker(messages_per_s(3)).await?;
    let nobody = broker.raw(&broker.token("nobody", &[])?).await?;
    let mut codes = Vec::new();
    for _ in 0..6 {
        codes.push(nobody.audit().query(QueryRequest::default()).await.err().context("denied")?.code());
    }
    assert_eq!(codes[..3], [Code::PermissionDenied; 3]);
    assert_eq!(codes[3..], [Code::ResourceExhausted; 3]);
    broker.log_with(|log| overruns(log) == [overrun("nobody", "messages_per_s_max", 3)]).await?;
    Ok(())
}
