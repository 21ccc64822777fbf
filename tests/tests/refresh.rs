//! Fresh tokens on streams that are already running.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tonic::{Code, Status};
use veribus_broker::model::{Clock, UnixSeconds};
use veribus_proto::v1::{Decision, EntryKind, Refreshed, publish_result::Outcome, subscribe_response::Response};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::undelivered,
    messages::wire,
    raw::RawOptions,
    streams::{PublishStream, RawSubscription, receipt, refusal},
};

const MINUTE: Duration = Duration::from_secs(60);

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

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn refreshed(inbox: &mut RawSubscription) -> Result<Refreshed> {
    loop {
        match inbox.response().await?.context("the stream is over")? {
            Response::Refreshed(refreshed) => return Ok(refreshed),
            Response::Batch(_) => {}
            Response::Subscribed(_) => bail!("opened twice"),
        }
    }
}

#[tokio::test]
async fn a_publish_stream_goes_on_under_a_fresh_token_which_holds_from_that_request_on() -> Result<()> {
    let (broker, clock) = broker().await?;
    let raw = broker.raw(&token(&broker, "a", &["publish:old"], MINUTE)?).await?;
    let mut stream = PublishStream::open(&raw).await?;
    stream.send(vec![wire("before", "new", "text")]).await?;
    let fresh = token(&broker, "a", &["publish:new"], 10 * MINUTE)?;
    stream.refresh(&fresh, vec![wire("with", "new", "text"), wire("lost", "old", "text")]).await?;
    let before = stream.answer().await?.context("an answer")?;
    assert!(before.refreshed.is_none() && matches!(before.results[0].outcome, Some(Outcome::Refusal(_))));
    let answer = stream.answer().await?.context("an answer")?;
    let outcomes: Vec<_> = answer.results.into_iter().filter_map(|result| result.outcome).collect();
    let exp = clock.now().seconds().0 + 600;
    assert_eq!(answer.refreshed, Some(Refreshed { token_expires_at: exp, patterns: vec![], refused: false }));
    let with = receipt(&outcomes[0])?.audit_index;
    assert_eq!(refusal(&outcomes[1])?.reason, "MISSING_PERMISSION", "a lesser token narrows at once");
    clock.advance(5 * MINUTE);
    receipt(stream.publish(vec![wire("later", "new", "text")]).await?.first().context("one")?)?;
    clock.advance(5 * MINUTE);
    stream.send(vec![wire("late", "new", "text")]).await.ok();
    assert_eq!(code(stream.results().await), Code::Unauthenticated, "the timer is that of the fresh token");

    let log = broker.log().await?;
    let entry = log.of_kind(EntryKind::TokenRefreshed).next().context("recorded")?;
    assert!(entry.index < with, "before what came under it");
    assert_eq!(entry.resource, "/veribus.v1.BrokerService/PublishStream");
    assert_ne!(entry.actor, log.decision("before")?.actor);
    assert_eq!(entry.actor, log.decision("with")?.actor, "as in the fresh token");
    assert!(log.decisions("late").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_token_of_another_agent_or_one_that_is_not_good_leaves_the_stream_under_the_one_before() -> Result<()> {
    let (broker, clock) = broker().await?;
    let exp = clock.now().seconds().0 + 60;
    let permissions = ["publish:>", "subscribe:>"];
    let raw = broker.raw(&token(&broker, "a", &permissions, MINUTE)?).await?;
    let mut spent = broker.claims("a").permission("publish:>");
    (spent.iat, spent.exp) = (spent.iat - 100, spent.iat - 1);
    let another = token(&broker, "b", &permissions, MINUTE)?;
    for wrong in [&another, &broker.sign(&spent)?, "nonsense"] {
        let mut inbox = RawSubscription::open(&raw, &["x"]).await?;
        let mut stream = PublishStream::open(&raw).await?;
        stream.refresh(wrong, vec![wire(&format!("with-{}", wrong.len()), "x", "text")]).await?;
        let answer = stream.answer().await?.context("an answer")?;
        let refused = |patterns: &[&str]| Refreshed {
            token_expires_at: exp,
            patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            refused: true,
        };
        assert_eq!(answer.refreshed, Some(refused(&[])));
        let outcome = answer.results.into_iter().next().and_then(|result| result.outcome).context("one")?;
        receipt(&outcome)?;
        assert_eq!(inbox.batch().await?.context("delivered")?.len(), 1);
        inbox.refresh(wrong).await?;
        assert_eq!(refreshed(&mut inbox).await?, refused(&["x"]));
        receipt(
            stream.publish(vec![wire(&format!("after-{}", wrong.len()), "x", "text")]).await?.first().context("one")?,
        )?;
        assert_eq!(inbox.batch().await?.context("delivered")?.len(), 1);
    }
    let refused = |log: &veribus_tests::log::Log| log.of_kind(EntryKind::AuthenticationRefused).count() == 6;
    let log = broker.log_with(refused).await?;
    let reasons: Vec<_> = log.of_kind(EntryKind::AuthenticationRefused).map(|entry| &*entry.detail).collect();
    let each = ["other_agent", "expired", "not_compact"];
    assert_eq!(reasons, each.iter().flat_map(|reason| [*reason; 2]).collect::<Vec<_>>());
    // Until that runs out, and no longer.
    let mut inbox = RawSubscription::open(&raw, &["x"]).await?;
    inbox.refresh("nonsense").await?;
    assert!(refreshed(&mut inbox).await?.refused);
    clock.advance(MINUTE);
    assert_eq!(code(inbox.response().await), Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_lesser_token_narrows_a_subscription_and_a_fuller_one_gives_back_what_was_asked_for() -> Result<()> {
    let (broker, clock) = broker().await?;
    let full = ["subscribe:a", "subscribe:b", "subscribe:c"];
    let raw = broker.raw(&token(&broker, "r", &full[..2], MINUTE)?).await?;
    let mut inbox = RawSubscription::open(&raw, &["a", "b"]).await?;
    inbox.refresh(&token(&broker, "r", &["subscribe:b", "subscribe:c"], 2 * MINUTE)?).await?;
    let exp = clock.now().seconds().0 + 120;
    assert_eq!(
        refreshed(&mut inbox).await?,
        Refreshed { token_expires_at: exp, patterns: vec!["b".to_owned()], refused: false }
    );

    let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
    let mut stream = PublishStream::open(&sender).await?;
    let all = |round: &str| ["a", "b", "c"].map(|topic| wire(&format!("{round}-{topic}"), topic, "text")).to_vec();
    stream.publish(all("narrow")).await?;
    let topics = async |inbox: &mut RawSubscription| -> Result<Vec<String>> {
        let batch = inbox.batch().await?.context("delivered")?;
        Ok(batch.into_iter().filter_map(|delivery| Some(delivery.message?.id)).collect())
    };
    assert_eq!(topics(&mut inbox).await?, ["narrow-b"]);
    inbox.refresh(&token(&broker, "r", &full, 10 * MINUTE)?).await?;
    assert_eq!(refreshed(&mut inbox).await?.patterns, ["a", "b"], "never more than was asked for");
    stream.publish(all("wide")).await?;
    assert_eq!(topics(&mut inbox).await?, ["wide-a", "wide-b"]);
    clock.advance(5 * MINUTE);
    stream.publish(all("later")).await?;
    assert_eq!(topics(&mut inbox).await?, ["later-a", "later-b"], "the timer is that of the fresh token");
    let log = broker.log().await?;
    let resources: Vec<_> = log.of_kind(EntryKind::TokenRefreshed).map(|entry| &*entry.resource).collect();
    assert_eq!(resources, ["b", "a b"]);
    assert_eq!(log.audience(log.decision("narrow-a")?)?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_token_that_permits_nothing_of_it_ends_a_subscription_and_that_is_a_recorded_denial() -> Result<()> {
    let (broker, _clock) = broker().await?;
    let raw = broker.raw(&token(&broker, "r", &["subscribe:a"], MINUTE)?).await?;
    let mut inbox = RawSubscription::open(&raw, &["a"]).await?;
    inbox.refresh(&token(&broker, "r", &["subscribe:b"], MINUTE)?).await?;
    assert_eq!(code(inbox.response().await), Code::PermissionDenied);
    let log = broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).count() == 1).await?;
    let entry = log.of_kind(EntryKind::TokenRefreshed).next().context("recorded")?;
    assert_eq!(entry.decision.as_ref().map(|decision| decision.decision()), Some(Decision::Deny));
    assert_eq!(entry.subscription_id, inbox.subscribed().subscription_id);
    assert_eq!(log.of_kind(EntryKind::Unsubscribe).next().context("one")?.detail, "not_permitted");
    Ok(())
}

/// Topics, and a role: what waits for a reader is looked at again.
#[tokio::test]
async fn what_waits_and_is_no_longer_permitted_is_dropped_and_recorded() -> Result<()> {
    let (broker, _clock) = broker().await?;
    let claims = broker.claims("r").permission("subscribe:>").role("compliance");
    let options = RawOptions { window_bytes: Some(65_535), ..RawOptions::default() };
    let raw = broker.raw_with(Some(&broker.sign(&claims)?), options).await?;
    let mut inbox = RawSubscription::open(&raw, &["a", "b"]).await?;
    let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
    let mut stream = PublishStream::open(&sender).await?;
    let large = "x".repeat(16_384);
    let (mut plain, mut withdrawn) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        let mut to_role = wire("", "b", &large);
        to_role.destination = "role:compliance".to_owned();
        let outcomes = stream.publish(vec![wire("", "a", &large), to_role, wire("", "b", &large)]).await?;
        let indexes = outcomes.iter().map(|outcome| Ok(receipt(outcome)?.audit_index)).collect::<Result<Vec<_>>>()?;
        withdrawn.extend_from_slice(&indexes[..2]);
        plain.push(indexes[2]);
    }
    // The window is full, so most of it waits. The fresh token has lost the topic `a` and the role.
    inbox.refresh(&token(&broker, "r", &["subscribe:b"], MINUTE)?).await?;
    let (mut before, mut after, mut is_refreshed) = (Vec::new(), Vec::new(), false);
    while after.last() != plain.last() {
        match inbox.response().await?.context("the stream is over")? {
            Response::Refreshed(refreshed) => is_refreshed = refreshed.patterns == ["b"],
            Response::Batch(batch) => {
                let indexes = batch.deliveries.iter().map(|delivery| delivery.audit_index);
                if is_refreshed { after.extend(indexes) } else { before.extend(indexes) }
            }
            Response::Subscribed(_) => bail!("opened twice"),
        }
    }
    assert!(after.iter().all(|index| plain.contains(index)), "nothing withdrawn after the answer");
    let log = broker.log_with(|log| log.entries().iter().any(|entry| entry.detail == "narrowed")).await?;
    let reports = log.of_kind(EntryKind::Undelivered).filter(|entry| entry.detail == "narrowed");
    let missed: Vec<u64> = reports.flat_map(undelivered).filter(|index| withdrawn.contains(index)).collect();
    assert!(!missed.is_empty(), "some were withdrawn");
    for index in &withdrawn {
        assert_ne!(before.contains(index), missed.contains(index), "entry {index}: delivered, or reported");
    }
    assert!(plain.iter().all(|index| before.contains(index) || after.contains(index)), "what is permitted came");
    Ok(())
}
