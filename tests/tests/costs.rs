//! Nothing costs more than its size: what an agent can make the broker decode, keep and record is bounded by what it sends and
//! by its quota.

use std::num::NonZeroU64;

use anyhow::{Context as _, Result};
use tonic::Code;
use veribus_broker::{
    config::QuotasConfig,
    model::{Clock, UnixSeconds},
};
use veribus_proto::v1::{EntryKind, ListKeysRequest, Message};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    raw::reason,
    state::{get, put},
    streams::PublishStream,
    wire::{Wire, frame},
};

/// A broker whose clock stands still, so that no quota comes back.
async fn metered(messages_per_s: u64) -> Result<TestBroker> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now + 60));
    let quotas = QuotasConfig { messages_per_s_max: NonZeroU64::new(messages_per_s), ..QuotasConfig::default() };
    Setup::default().open_policy().clock(&clock).configure(|config| config.quotas = quotas).start().await
}

fn of_agent<'l>(
    log: &'l Log,
    agent: &'l str,
    kind: EntryKind,
) -> impl Iterator<Item = &'l veribus_proto::v1::AuditEntry> {
    log.of_kind(kind).filter(move |entry| entry.actor.as_ref().is_some_and(|actor| actor.agent == agent))
}

/// Two million empty messages are 3.8 MiB on the wire, and some hundred times that in memory.
#[tokio::test]
async fn a_frame_that_holds_too_many_items_is_not_decoded() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let token = broker.token("a", &["publish:>"])?;
    let mut stream = PublishStream::open(&broker.raw(&token).await?).await?;
    stream.send(vec![Message::default(); 1_900_000]).await?;
    let status = stream.results().await.expect_err("the end");
    assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "TOO_MANY_ITEMS".to_owned()));
    let log = broker.log_with(|log| log.of_kind(EntryKind::Malformed).count() > 0).await?;
    let malformed: Vec<_> = log.of_kind(EntryKind::Malformed).map(|entry| entry.detail.as_str()).collect();
    assert_eq!(malformed, ["a request holds too many items"]);
    Ok(())
}

/// What cannot be decoded is recorded like a message, and metered like one.
#[tokio::test]
async fn undecodable_calls_and_frames_are_recorded_within_the_quota_and_counted_beyond() -> Result<()> {
    const SENT: usize = 50;
    let broker = metered(5).await?;
    let connection = Wire::connect(broker.address(), &broker.directory().ca_path()).await?;
    for (agent, path) in [
        ("unary", "/veribus.v1.BrokerService/Publish"),
        ("stream", "/veribus.v1.BrokerService/PublishStream"),
        ("put", "/veribus.v1.StateService/Put"),
    ] {
        let token = broker.token(agent, &["publish:>", "state.write:>"])?;
        for _ in 0..SENT {
            let mut call = connection.call(path, Some(&token)).await?;
            call.requests.send_data(frame(b"\xff\xff\xff"), true)?;
            let (_, code) = call.answer().await?;
            assert_eq!(code, i32::from(Code::InvalidArgument), "{path}");
        }
        let over = |log: &Log| of_agent(log, agent, EntryKind::QuotaExceeded).map(|entry| entry.count).sum::<u64>();
        let log = broker.log_with(|log| over(log) as usize == SENT - 5).await.context(agent)?;
        assert_eq!(of_agent(&log, agent, EntryKind::Malformed).count(), 5, "{agent}");
    }
    Ok(())
}

/// A call on shared state is one message of the quota.
#[tokio::test]
async fn a_call_on_state_is_charged_once() -> Result<()> {
    let broker = metered(2).await?;
    let claims = broker.claims("a").permission("state.read:>").permission("state.write:>").decrypt(">");
    let raw = broker.raw(&broker.sign(&claims)?).await?;
    raw.state().put(put("notes/a", "x")).await?;
    raw.state().get(get("notes/a")).await?;
    let over = raw.state().get(get("notes/a")).await.expect_err("over quota");
    assert_eq!(reason(&over), "QUOTA_EXCEEDED");
    Ok(())
}

#[tokio::test]
async fn operators_of_every_kind_are_always_heard() -> Result<()> {
    let broker = metered(1).await?;
    for permission in ["audit.read", "admin.revoke", "admin.sessions", "admin.keys", "admin.backup"] {
        let raw = broker.raw(&broker.token(permission, &[permission])?).await?;
        for _ in 0..3 {
            // Whether it may do this is another question.
            let answer = raw.admin().list_keys(ListKeysRequest::default()).await;
            assert!(
                answer.is_ok() || answer.is_err_and(|status| reason(&status) == "MISSING_PERMISSION"),
                "{permission}"
            );
        }
    }
    Ok(())
}
