//! What an operator does about agents whose streams are already running.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use veribus_broker::{
    issue::{KeyKind, TokenIssuer},
    model::{Clock, UnixSeconds},
};
use veribus_proto::v1::{
    AgentSessions, Decision, DisconnectRequest, EntryKind, IssuedBefore, ListRevocationsRequest, ListSessionsRequest,
    PublishRequest, ReinstateRequest, Revocation, RevokeRequest, RevokeResponse, TailRequest, disconnect_request,
    revocation::Target,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::{Log, undelivered},
    messages::wire,
    patiently,
    raw::Raw,
    streams::{PublishStream, RawSubscription, receipt},
};

const ADMIN: [&str; 2] = ["admin.revoke", "admin.sessions"];
const ALL: [&str; 3] = ["publish:>", "subscribe:>", "audit.read"];

async fn broker() -> Result<TestBroker> {
    Setup::default().open_policy().start().await
}

fn revocation(broker: &TestBroker, target: Target) -> Revocation {
    let issuer = broker.directory().issuer().issuer().to_owned();
    Revocation { issuer, target: Some(target), reason: "stolen".to_owned(), ..Revocation::default() }
}

fn agent(name: &str) -> Target {
    Target::Agent(name.to_owned())
}

async fn revoke(broker: &TestBroker, target: Target) -> Result<RevokeResponse> {
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let revocation = Some(revocation(broker, target));
    Ok(operator.admin().revoke(RevokeRequest { revocation }).await?.into_inner())
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn publish(raw: &Raw, id: &str) -> Code {
    code(raw.broker().publish(PublishRequest { message: Some(wire(id, "x", "text")) }).await)
}

#[tokio::test]
async fn each_target_stops_what_it_names_and_nothing_else() -> Result<()> {
    let broker = broker().await?;
    let now = broker.claims("x").iat;
    let claims = |agent: &str, iat: i64| {
        let mut claims = broker.claims(agent).permission("publish:>");
        claims.iat = iat;
        claims
    };
    let first = claims("one", now - 100);
    let tokens = [broker.sign(&first)?, broker.sign(&claims("one", now))?, broker.token("other", &["publish:>"])?];
    let mut callers = Vec::new();
    for token in &tokens {
        callers.push(broker.raw(token).await?);
    }
    let (stop, pass) = (Code::Unauthenticated, Code::Ok);
    let issued_before = Target::IssuedBefore(IssuedBefore { agent: "one".to_owned(), issued_before: now - 80 });
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    for (target, expected) in [
        (Target::TokenId(first.jti.clone()), [stop, pass, pass]),
        (issued_before, [stop, pass, pass]),
        (agent("one"), [stop, stop, pass]),
    ] {
        let revoked = revoke(&broker, target.clone()).await?;
        let is_by_time = matches!(target, Target::IssuedBefore(_));
        assert_eq!(revoked.passes_from.map(|from| from.seconds), is_by_time.then_some(now - 20), "{target:?}");
        let codes = [publish(&callers[0], "").await, publish(&callers[1], "").await, publish(&callers[2], "").await];
        assert_eq!(codes, expected, "{target:?}");
        let revocation_id = revoked.revocation.context("named")?.id;
        operator.admin().reinstate(ReinstateRequest { revocation_id }).await?;
        for caller in &callers {
            assert_eq!(publish(caller, "").await, pass, "lifted: {target:?}");
        }
    }
    // The operator is one of the issuer's own.
    let everybody = RevokeRequest { revocation: Some(revocation(&broker, Target::WholeIssuer(true))) };
    assert_eq!(code(operator.admin().revoke(everybody).await), stop);
    for caller in &callers {
        assert_eq!(publish(caller, "").await, stop);
    }
    Ok(())
}

#[tokio::test]
async fn a_namesake_of_another_issuer_is_untouched() -> Result<()> {
    let pem = KeyKind::Es256.generate_pem()?;
    let elsewhere = TokenIssuer::from_pem("https://elsewhere.example", "veribus", &pem)?;
    let jwks = elsewhere.jwks();
    let place = tempfile::tempdir()?;
    let file = place.path().join("jwks.json");
    std::fs::write(&file, jwks)?;
    let trusting = Setup::default().open_policy().configure(move |config| {
        let mut other = config.identity.issuers[0].clone();
        other.issuer = "https://elsewhere.example".to_owned();
        other.audience = "veribus".into();
        other.jwks_file = Some(file);
        config.identity.issuers.push(other);
    });
    let broker = trusting.start().await?;
    let ours = broker.raw(&broker.token("one", &["publish:>"])?).await?;
    let now = Clock::system().now().seconds();
    let namesake =
        elsewhere.claims("one", now, Duration::from_secs(600)).permission("publish:>").permission("subscribe:>");
    let namesake = broker.raw(&elsewhere.issue(&namesake)?).await?;
    let mut stream = PublishStream::open(&namesake).await?;
    revoke(&broker, agent("one")).await?;
    assert_eq!([publish(&ours, "").await, publish(&namesake, "").await], [Code::Unauthenticated, Code::Ok]);
    receipt(stream.publish(vec![wire("", "x", "text")]).await?.first().context("one")?)?;
    Ok(())
}

#[tokio::test]
async fn the_open_streams_of_a_revoked_agent_end_and_anothers_go_on() -> Result<()> {
    let broker = broker().await?;
    let one = broker.raw(&broker.token("one", &ALL)?).await?;
    let other = broker.raw(&broker.token("other", &ALL)?).await?;
    let mut publishing = (PublishStream::open(&one).await?, PublishStream::open(&other).await?);
    let mut inboxes = (RawSubscription::open(&one, &["x"]).await?, RawSubscription::open(&other, &["x"]).await?);
    let mut tail = one.audit().tail(TailRequest::default()).await?.into_inner();
    patiently(tail.message()).await??;
    let revoked = revoke(&broker, agent("one")).await?;
    assert_eq!(revoked.sessions_ended, 3);

    publishing.0.send(vec![wire("late", "x", "text")]).await.ok();
    assert_eq!(code(publishing.0.results().await), Code::Unauthenticated);
    assert_eq!(code(inboxes.0.batch().await), Code::Unauthenticated);
    let end = loop {
        match patiently(tail.message()).await? {
            Ok(Some(response)) => assert!(response.entries.iter().all(|entry| entry.index <= revoked.audit_index)),
            end => break code(end),
        }
    };
    assert_eq!(end, Code::Unauthenticated);
    receipt(publishing.1.publish(vec![wire("after", "x", "text")]).await?.first().context("one")?)?;
    assert_eq!(inboxes.1.batch().await?.context("delivered")?.len(), 1);

    let log = broker.log_with(|log| log.of_kind(EntryKind::Unsubscribe).count() == 1).await?;
    let entry = log.at(revoked.audit_index)?;
    assert_eq!((entry.kind(), entry.revocation.clone()), (EntryKind::Revoked, revoked.revocation));
    assert_eq!(entry.actor.as_ref().map(|actor| &*actor.agent), Some("operator"));
    assert!(log.decisions("late").is_empty(), "it never reached a decision");
    let ended = log.of_kind(EntryKind::Unsubscribe).next().context("one")?;
    assert_eq!((&*ended.detail, &ended.subscription_id), ("revoked", &inboxes.0.subscribed().subscription_id));
    assert_eq!(log.audience_subscriptions(log.decision("after")?)?.len(), 1);
    Ok(())
}

/// A subscriber that takes nothing in, and messages that wait for it.
async fn stuck(broker: &TestBroker, patterns: &[&str], token: &str) -> Result<(RawSubscription, Vec<u64>)> {
    let options = veribus_tests::raw::RawOptions { window_bytes: Some(65_535), ..Default::default() };
    let raw = broker.raw_with(Some(token), options).await?;
    let subscription = RawSubscription::open(&raw, patterns).await?;
    let sender = broker.raw(&broker.token("sender", &["publish:>"])?).await?;
    let mut stream = PublishStream::open(&sender).await?;
    let mut indexes = Vec::new();
    for _ in 0..100 {
        for outcome in stream.publish(vec![wire("", "a", &"x".repeat(8_192)), wire("", "b", "x")]).await? {
            indexes.push(receipt(&outcome)?.audit_index);
        }
    }
    Ok((subscription, indexes))
}

/// What was delivered before the stream ended, and how it ended.
async fn drained(mut subscription: RawSubscription) -> Result<(Vec<u64>, Code)> {
    let mut delivered = Vec::new();
    loop {
        match subscription.batch().await {
            Ok(Some(batch)) => delivered.extend(batch.iter().map(|delivery| delivery.audit_index)),
            end => return Ok((delivered, code(end))),
        }
    }
}

fn reported(log: &Log, reason: &str) -> Vec<u64> {
    let reports = log.entries().iter().filter(|entry| entry.detail == reason && entry.undelivered.is_some());
    reports.flat_map(undelivered).collect()
}

#[tokio::test]
async fn what_waited_for_a_revoked_agent_is_dropped_and_recorded_before_the_call_is_answered() -> Result<()> {
    let broker = broker().await?;
    let (subscription, sent) = stuck(&broker, &[">"], &broker.token("one", &["subscribe:>"])?).await?;
    revoke(&broker, agent("one")).await?;
    let log = broker.log().await?;
    let (delivered, end) = drained(subscription).await?;
    assert_eq!(end, Code::Unauthenticated);
    let missed = reported(&log, "revoked");
    assert!(!missed.is_empty() && missed.len() < sent.len(), "some were on their way: {}", missed.len());
    assert!(missed.iter().all(|index| !delivered.contains(index)), "what is reported was not delivered");
    assert!(delivered.len() + missed.len() >= sent.len(), "nothing is unaccounted for");
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_the_revocation() -> Result<()> {
    let broker = broker().await?;
    let token = broker.token("one", &["publish:>"])?;
    revoke(&broker, agent("one")).await?;
    let broker = broker.stop().await?.start().await?;
    assert_eq!(publish(&broker.raw(&token).await?, "late").await, Code::Unauthenticated);
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let listed = operator.admin().list_revocations(ListRevocationsRequest::default()).await?.into_inner().revocations;
    assert_eq!(listed.iter().map(|one| &*one.reason).collect::<Vec<_>>(), ["stolen"]);
    Ok(())
}

#[tokio::test]
async fn a_moment_that_cannot_be_is_refused_and_the_broker_starts_again() -> Result<()> {
    let broker = broker().await?;
    let issued_before = |moment| Target::IssuedBefore(IssuedBefore { agent: "x".to_owned(), issued_before: moment });
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    // The last one that is taken, one beyond it, and milliseconds.
    for (moment, expected) in [
        (253_402_300_799, Code::Ok),
        (253_402_300_800, Code::InvalidArgument),
        (1_790_000_000_000, Code::InvalidArgument),
    ] {
        let revocation = Some(revocation(&broker, issued_before(moment)));
        let answer = operator.admin().revoke(RevokeRequest { revocation }).await;
        assert_eq!(code(answer), expected, "{moment}");
    }
    drop(operator);
    let broker = broker.stop().await?.start().await?;
    assert_eq!(publish(&broker.raw(&broker.token("x", &ALL)?).await?, "1").await, Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_is_forgotten_when_it_must_have_run_out_and_an_agent_is_not() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let lifetime = |config: &mut veribus_broker::config::Config| {
        config.identity.token_lifetime_s_max = 3_600;
    };
    let broker = Setup::default().open_policy().clock(&clock).configure(lifetime).start().await?;
    let end = |revoked: RevokeResponse| revoked.revocation.and_then(|one| one.expires_at).map(|end| end.seconds);
    assert_eq!(end(revoke(&broker, Target::TokenId("t".to_owned())).await?), Some(now + 3_660));
    let issued_before = IssuedBefore { agent: "one".to_owned(), issued_before: now + 60 };
    assert_eq!(end(revoke(&broker, Target::IssuedBefore(issued_before)).await?), Some(now + 3_720));
    assert_eq!(end(revoke(&broker, agent("one")).await?), None);
    clock.advance(Duration::from_secs(3_720));
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let listed = operator.admin().list_revocations(ListRevocationsRequest::default()).await?.into_inner().revocations;
    assert_eq!(listed.into_iter().filter_map(|one| one.target).collect::<Vec<_>>(), [agent("one")]);
    Ok(())
}

#[tokio::test]
async fn an_operator_can_revoke_itself_and_who_may_not_is_recorded() -> Result<()> {
    let broker = broker().await?;
    let viewer = broker.raw(&broker.token("viewer", &["admin.sessions"])?).await?;
    let request = |target| RevokeRequest { revocation: Some(revocation(&broker, target)) };
    assert_eq!(code(viewer.admin().revoke(request(agent("one"))).await), Code::PermissionDenied);
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    assert_eq!(code(operator.admin().revoke(request(agent("operator"))).await), Code::Unauthenticated);
    assert_eq!(code(operator.admin().list_sessions(ListSessionsRequest::default()).await), Code::Unauthenticated);
    let log = broker.log().await?;
    let decisions = log.of_kind(EntryKind::Revoked).map(|entry| {
        let named = entry.revocation.as_ref().is_some_and(|revocation| !revocation.id.is_empty());
        (entry.decision.as_ref().map(|decision| decision.decision()), named)
    });
    assert_eq!(decisions.collect::<Vec<_>>(), [(Some(Decision::Deny), false), (Some(Decision::Allow), true)]);
    Ok(())
}

#[tokio::test]
async fn a_reinstatement_of_nothing_is_recorded_and_refused() -> Result<()> {
    let broker = broker().await?;
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let reinstate = ReinstateRequest { revocation_id: "dev-0".to_owned() };
    assert_eq!(code(operator.admin().reinstate(reinstate).await), Code::NotFound);
    let log = broker.log().await?;
    let entry = log.of_kind(EntryKind::Reinstated).next().context("recorded")?;
    assert_eq!(entry.decision.as_ref().map(|decision| &*decision.reason), Some("NO_SUCH_REVOCATION"));
    Ok(())
}

#[tokio::test]
async fn sessions_are_listed_page_by_page_and_ended_one_by_one_or_by_agent() -> Result<()> {
    let broker = broker().await?;
    let one = broker.raw(&broker.token("one", &ALL)?).await?;
    let other = broker.raw(&broker.token("other", &ALL)?).await?;
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let mut streams = Vec::new();
    for raw in [&one, &one, &other] {
        streams.push(RawSubscription::open(raw, &["x"]).await?);
    }
    let list = async |agent: &str, page_size, page_token: String| -> Result<_> {
        let request = ListSessionsRequest { agent: agent.to_owned(), page_size, page_token, ..Default::default() };
        Ok(operator.admin().list_sessions(request).await?.into_inner())
    };
    let first = list("one", 1, String::new()).await?;
    let second = list("one", 1, first.next_page_token.clone()).await?;
    let third = list("one", 1, second.next_page_token.clone()).await?;
    assert_eq!([&first, &second, &third].map(|page| page.sessions.len()), [1, 1, 0]);
    let session = first.sessions.first().context("one")?;
    let actor = session.actor.as_ref().context("an actor")?;
    assert_eq!((&*actor.agent, &*session.method), ("one", "/veribus.v1.BrokerService/Subscribe"));
    assert!(session.opened_at.is_some() && session.token_expires_at > 0 && !session.peer.is_empty());

    let disconnect = async |target| -> Result<u64> {
        let request = DisconnectRequest { target: Some(target) };
        Ok(operator.admin().disconnect(request).await?.into_inner().sessions_ended)
    };
    assert_eq!(disconnect(disconnect_request::Target::SessionId(session.id)).await?, 1);
    assert_eq!(disconnect(disconnect_request::Target::SessionId(session.id)).await?, 0, "ended already");
    assert_eq!(code(streams[0].batch().await), Code::Unavailable);
    let issuer = broker.directory().issuer().issuer().to_owned();
    let whose = AgentSessions { issuer, agent: "other".to_owned() };
    assert_eq!(disconnect(disconnect_request::Target::Agent(whose)).await?, 1);
    assert_eq!(code(streams[2].batch().await), Code::Unavailable);
    // They may come back, and others never noticed.
    RawSubscription::open(&other, &["x"]).await?;
    assert_eq!(publish(&one, "").await, Code::Ok);
    assert_eq!(streams[1].batch().await?.context("delivered")?.len(), 1);
    let log = broker.log().await?;
    let ends: Vec<_> = log.of_kind(EntryKind::Disconnected).map(|entry| entry.resource.clone()).collect();
    assert_eq!(ends.len(), 3, "{ends:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_a_revocation() -> Result<()> {
    let broker = broker().await?;
    let one = broker.raw(&broker.token("one", &ALL)?).await?;
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let request = RevokeRequest { revocation: Some(revocation(&broker, agent("one"))) };
    for _ in 0..20 {
        let (mut admin, request) = (operator.admin(), request.clone());
        let call = tokio::spawn(async move { admin.revoke(request).await });
        tokio::time::sleep(Duration::from_micros(300)).await;
        call.abort();
    }
    let log = broker.log_with(|log| log.of_kind(EntryKind::Revoked).next().is_some()).await?;
    assert!(log.of_kind(EntryKind::Revoked).next().is_some());
    assert_eq!(publish(&one, "late").await, Code::Unauthenticated);
    Ok(())
}

#[tokio::test]
async fn a_revocation_that_would_be_over_at_once_is_refused_and_that_is_recorded() -> Result<()> {
    let broker = broker().await?;
    let operator = broker.raw(&broker.token("operator", &ADMIN)?).await?;
    let over = Clock::system().now().seconds().0 - 1;
    let expires_at = Some(prost_types::Timestamp { seconds: over, nanos: 0 });
    let revocation = Some(Revocation { expires_at, ..revocation(&broker, agent("one")) });
    let outcome = operator.admin().revoke(RevokeRequest { revocation }).await;
    assert_eq!(code(outcome), Code::InvalidArgument);
    let log = broker.log().await?;
    let entry = log.of_kind(EntryKind::Revoked).next().context("recorded")?;
    assert_eq!(entry.decision.as_ref().context("decided")?.rules, ["native/revocation-over"]);
    assert!(
        operator.admin().list_revocations(ListRevocationsRequest::default()).await?.into_inner().revocations.is_empty()
    );
    Ok(())
}
