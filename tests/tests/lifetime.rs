//! A token that runs out in the middle of a stream: nothing passes after that, and the log says so.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use veribus_broker::model::{Clock, UnixSeconds};
use veribus_proto::v1::{EntryKind, PublishRequest, QueryRequest, TailRequest};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
    patiently,
    streams::{PublishStream, RawSubscription, receipt},
};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

async fn broker() -> Result<(TestBroker, Clock)> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    Ok((Setup::default().open_policy().clock(&clock).start().await?, clock))
}

/// A token that is good for `lifetime`.
fn token(broker: &TestBroker, agent: &str, permissions: &[&str], lifetime: Duration) -> Result<String> {
    let claims = permissions.iter().fold(broker.claims(agent), |claims, one| claims.permission(*one));
    let exp = claims.iat.saturating_add_unsigned(lifetime.as_secs());
    broker.sign(&veribus_broker::issue::Claims { exp, ..claims })
}

fn refusals(log: &Log) -> Vec<(String, String)> {
    let refused = log.of_kind(EntryKind::AuthenticationRefused);
    refused.map(|entry| (entry.resource.clone(), entry.detail.clone())).collect()
}

fn expired(method: &str) -> (String, String) {
    (method.to_owned(), "expired".to_owned())
}

#[tokio::test]
async fn a_publish_stream_takes_messages_up_to_the_last_second_and_none_after() -> Result<()> {
    let (broker, clock) = broker().await?;
    let raw = broker.raw(&token(&broker, "a", &["publish:>"], MINUTE)?).await?;
    let mut stream = PublishStream::open(&raw).await?;
    clock.advance(MINUTE - SECOND);
    receipt(stream.publish(vec![wire("in-time", "x", "text")]).await?.first().context("one")?)?;
    clock.advance(SECOND);
    stream.send(vec![wire("late", "x", "text")]).await?;
    assert_eq!(stream.results().await.err().map(|status| status.code()), Some(Code::Unauthenticated));
    let unary = raw.broker().publish(PublishRequest { message: Some(wire("later", "x", "text")) }).await;
    assert_eq!(unary.err().map(|status| status.code()), Some(Code::Unauthenticated));

    let log = broker.log_with(|log| refusals(log).len() == 2).await?;
    assert!(log.decision("in-time").is_ok());
    assert!(log.decisions("late").is_empty() && log.decisions("later").is_empty());
    let methods = ["/veribus.v1.BrokerService/PublishStream", "/veribus.v1.BrokerService/Publish"];
    assert_eq!(refusals(&log), methods.map(expired));
    Ok(())
}

#[tokio::test]
async fn a_subscriber_whose_token_ran_out_is_in_no_audience() -> Result<()> {
    let (broker, clock) = broker().await?;
    let reader = broker.raw(&token(&broker, "reader", &["subscribe:>"], MINUTE)?).await?;
    let mut inbox = RawSubscription::open(&reader, &[">"]).await?;
    let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
    let mut stream = PublishStream::open(&sender).await?;
    stream.publish(vec![wire("in-time", "x", "text")]).await?;
    assert_eq!(inbox.batch().await?.context("delivered")?.len(), 1);
    clock.advance(MINUTE);
    stream.publish(vec![wire("late", "x", "text")]).await?;
    let log = broker.log().await?;
    assert_eq!(log.audience(log.decision("in-time")?)?.len(), 1);
    assert!(log.audience(log.decision("late")?)?.is_empty());
    let refused = RawSubscription::open(&reader, &[">"]).await.err().context("no subscription")?;
    assert_eq!(refused.code(), Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_tail_hands_over_nothing_that_is_recorded_after_its_token_ran_out() -> Result<()> {
    let (broker, clock) = broker().await?;
    let auditor = broker.raw(&token(&broker, "reader", &["audit.read"], MINUTE)?).await?;
    let mut tail = auditor.audit().tail(TailRequest::default()).await?.into_inner();
    // The first thing that a tail sees is the record of its own reading.
    let mut seen = 0;
    while seen == 0 {
        seen = patiently(tail.message()).await??.context("the tail ended")?.entries.len();
    }
    clock.advance(MINUTE);
    let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
    sender.broker().publish(PublishRequest { message: Some(wire("late", "x", "text")) }).await?;
    let end = patiently(tail.message()).await?;
    assert_eq!(end.err().map(|status| status.code()), Some(Code::Unauthenticated));
    let query = auditor.audit().query(QueryRequest::default()).await;
    assert_eq!(query.err().map(|status| status.code()), Some(Code::Unauthenticated));
    let log = broker.log_with(|log| refusals(log).len() == 2).await?;
    assert_eq!(refusals(&log), ["/veribus.v1.AuditService/Tail", "/veribus.v1.AuditService/Query"].map(expired));
    Ok(())
}

/// The one suite that waits for the system's clock: the timers themselves are meant.
#[tokio::test]
async fn idle_streams_end_by_themselves_when_the_token_runs_out() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let permissions = ["publish:>", "subscribe:>", "audit.read"];
    let raw = broker.raw(&token(&broker, "a", &permissions, 2 * SECOND)?).await?;
    let mut publishing = PublishStream::open(&raw).await?;
    let mut inbox = RawSubscription::open(&raw, &[">"]).await?;
    let mut tail = raw.audit().tail(TailRequest::default()).await?.into_inner();
    patiently(tail.message()).await??;
    let code = |status: Status| status.code();
    let (published, delivered, read) = tokio::join!(publishing.results(), inbox.batch(), last(&mut tail));
    let codes = [published.err().map(code), delivered.err().map(code), read?.err().map(code)];
    assert_eq!(codes, [Some(Code::Unauthenticated); 3]);

    let log =
        broker.log_with(|log| refusals(log).len() == 3 && log.of_kind(EntryKind::Unsubscribe).count() == 1).await?;
    let ended = log.of_kind(EntryKind::Unsubscribe).next().context("one")?;
    assert_eq!((&*ended.detail, &ended.subscription_id), ("token_expired", &inbox.subscribed().subscription_id));
    let mut refused = refusals(&log);
    refused.sort();
    let methods = ["AuditService/Tail", "BrokerService/PublishStream", "BrokerService/Subscribe"];
    assert_eq!(refused, methods.map(|method| expired(&format!("/veribus.v1.{method}"))));
    Ok(())
}

async fn last<T>(stream: &mut tonic::Streaming<T>) -> Result<Result<(), Status>> {
    loop {
        match patiently(stream.message()).await? {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}
