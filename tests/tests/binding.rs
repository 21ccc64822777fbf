//! Tokens that are bound to something count only for whoever holds it; and a gateway that speaks for others does so only
//! with their own tokens, message by message.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming};
use veribus_broker::{
    config::ClientCertificates,
    issue::Claims,
    model::{Clock, UnixMicros, UnixSeconds},
};
use veribus_proto::v1::{
    Credentials, EntryKind, Message, PublishRequest, PublishStreamRequest, PublishStreamResponse, Refusal,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    certificates::{ClientAuthority, ClientCertificate},
    dpop::{PUBLIC_URL, Prover, request},
    log::Log,
    messages::wire,
    patiently,
    raw::{Raw, RawOptions},
    streams::{PublishStream, RawSubscription, receipt, refusal},
};

const PUBLISH: &str = "/veribus.v1.BrokerService/Publish";
const PUBLISH_STREAM: &str = "/veribus.v1.BrokerService/PublishStream";

/// A broker that asks for client certificates.
async fn asking(mode: ClientCertificates, authority: &ClientAuthority) -> Result<(TestBroker, tempfile::TempDir)> {
    let place = tempfile::tempdir()?;
    let file = place.path().join("clients.pem");
    std::fs::write(&file, authority.pem())?;
    let setup = Setup::default().open_policy().configure(move |config| {
        config.server.client_certificates = mode;
        config.server.client_ca_file = Some(file);
    });
    Ok((setup.start().await?, place))
}

fn bound_to(claims: Claims, certificate: &ClientCertificate) -> Claims {
    claims.claim("cnf", json!({ "x5t#S256": certificate.thumbprint() }))
}

async fn publish(agent: &Raw, message: Message) -> Result<(), Status> {
    let mut broker = agent.broker();
    let answer = broker.publish(PublishRequest { message: Some(message) });
    patiently(answer).await.map_err(|_| Status::deadline_exceeded("no answer"))?.map(drop)
}

fn code<T>(outcome: Result<T, Status>) -> Code {
    outcome.err().map_or(Code::Ok, |status| status.code())
}

/// Why callers were refused, in order.
fn reasons(log: &Log) -> Vec<&str> {
    log.of_kind(EntryKind::AuthenticationRefused).map(|entry| &*entry.detail).collect()
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_is_worth_nothing_over_another_connection() -> Result<()> {
    let authority = ClientAuthority::new()?;
    let (broker, _place) = asking(ClientCertificates::Optional, &authority).await?;
    let (own, other) = (authority.issue("agent")?, authority.issue("thief")?);
    let token = broker.sign(&bound_to(broker.claims("agent").permission("publish:>"), &own))?;
    for (certificate, expected) in [
        (Some(&own), Code::Ok),
        (None, Code::Unauthenticated),
        (Some(&other), Code::Unauthenticated),
        (Some(&own), Code::Ok),
    ] {
        let agent = broker.raw_as(Some(&token), certificate).await?;
        let id = uuid::Uuid::now_v7().to_string();
        assert_eq!(code(publish(&agent, wire(&id, "x", "text")).await), expected);
    }
    let log = broker.log_with(|log| reasons(log).len() == 2).await?;
    assert_eq!(reasons(&log), ["certificate_missing", "certificate_mismatch"]);
    let confirmations: Vec<_> =
        log.of_kind(EntryKind::Publish).filter_map(|entry| Some(&*entry.actor.as_ref()?.confirmation)).collect();
    let expected = format!("x5t#S256:{}", own.thumbprint());
    assert_eq!(confirmations, [&expected; 2]);
    Ok(())
}

#[tokio::test]
async fn a_certificate_must_be_of_a_known_authority_and_may_be_required() -> Result<()> {
    let authority = ClientAuthority::new()?;
    let (own, foreign) = (authority.issue("agent")?, ClientAuthority::new()?.issue("agent")?);
    for (mode, without) in [(ClientCertificates::Optional, true), (ClientCertificates::Required, false)] {
        let (broker, _place) = asking(mode, &authority).await?;
        let token = broker.token("agent", &["publish:>"])?;
        for (certificate, is_served) in [(Some(&own), true), (Some(&foreign), false), (None, without)] {
            let served = async {
                let agent = broker.raw_as(Some(&token), certificate).await?;
                anyhow::Ok(publish(&agent, wire("", "x", "text")).await?)
            };
            assert_eq!(served.await.is_ok(), is_served, "{mode:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_broker_may_refuse_every_token_that_is_not_bound() -> Result<()> {
    let authority = ClientAuthority::new()?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("clients.pem");
    std::fs::write(&file, authority.pem())?;
    let setup = Setup::default().open_policy().configure(move |config| {
        config.server.client_certificates = ClientCertificates::Optional;
        config.server.client_ca_file = Some(file);
        config.identity.require_bound = true;
    });
    let (broker, own) = (setup.start().await?, authority.issue("agent")?);
    let claims = broker.claims("agent").permission("publish:>").permission("audit.read");
    let (unbound, bound) = (broker.sign(&claims)?, broker.sign(&bound_to(claims, &own))?);
    let thief = broker.raw_as(Some(&unbound), Some(&own)).await?;
    assert_eq!(code(publish(&thief, wire("a", "x", "text")).await), Code::Unauthenticated);
    let agent = broker.raw_as(Some(&bound), Some(&own)).await?;
    assert_eq!(code(publish(&agent, wire("b", "x", "text")).await), Code::Ok);
    let log = Log::read_until(&agent, |log| reasons(log).len() == 1).await?;
    assert_eq!(reasons(&log), ["unbound"]);
    Ok(())
}

async fn knowing_its_url(clock: &Clock) -> Result<TestBroker> {
    let url = PUBLIC_URL.parse()?;
    Setup::default().open_policy().clock(clock).configure(|config| config.server.public_url = Some(url)).start().await
}

/// A little ahead, so that the tokens of the development directory, made by the system's clock, are not of the future.
fn standing_clock() -> Clock {
    let UnixSeconds(now) = Clock::system().now().seconds();
    Clock::manual(UnixSeconds(now + 30))
}

/// A key, and a token of an agent that names it.
fn holder(broker: &TestBroker, agent: &str) -> Result<(Prover, String)> {
    let prover = Prover::new()?;
    let cnf = json!({ "jkt": prover.thumbprint() });
    let token = broker.sign(&broker.claims(agent).permission("publish:>").claim("cnf", cnf))?;
    Ok((prover, token))
}

async fn call(raw: &Raw, scheme: &str, token: &str, proofs: &[&str]) -> Result<Code> {
    let message = PublishRequest { message: Some(wire("", "x", "text")) };
    let answer = patiently(raw.broker().publish(request(message, scheme, token, proofs)?)).await?;
    Ok(code(answer))
}

#[tokio::test]
async fn a_token_that_names_a_key_needs_a_fresh_proof_for_each_call() -> Result<()> {
    let clock = standing_clock();
    let broker = knowing_its_url(&clock).await?;
    clock.advance(Duration::from_secs(100));
    let now = clock.now().seconds().0;
    let raw = broker.raw_with(None, RawOptions::default()).await?;
    let (prover, token) = holder(&broker, "agent")?;
    let good = || prover.sign(&Prover::claims(&token, PUBLISH, now));
    let with = |name: &str, value: Value| {
        let mut claims = Prover::claims(&token, PUBLISH, now);
        if let Some(claim) = claims.get_mut(name) {
            *claim = value;
        }
        prover.sign(&claims)
    };

    let first = good()?;
    assert_eq!(call(&raw, "DPoP", &token, &[&first]).await?, Code::Ok);
    assert_eq!(call(&raw, "DPoP", &token, &[&good()?]).await?, Code::Ok);
    let other_token = broker.token("agent", &["publish:>"])?;
    let stolen = Prover::new()?.sign(&Prover::claims(&token, PUBLISH, now))?;
    let refused = [
        (first, "dpop_replayed"),
        (with("htu", json!(format!("{PUBLIC_URL}{PUBLISH_STREAM}")))?, "dpop_other_call"),
        (with("htu", json!(format!("https://other.example{PUBLISH}")))?, "dpop_other_call"),
        (with("htm", json!("GET"))?, "dpop_other_call"),
        (with("ath", Prover::claims(&other_token, PUBLISH, now)["ath"].clone())?, "dpop_other_token"),
        (with("iat", json!(now - 61))?, "dpop_old"),
        (with("iat", json!(now + 6))?, "dpop_early"),
        (stolen, "dpop_other_key"),
        ("nonsense".to_owned(), "dpop_form"),
    ];
    for (proof, reason) in &refused {
        assert_eq!(call(&raw, "DPoP", &token, &[proof]).await?, Code::Unauthenticated, "{reason}");
    }
    let mut expected: Vec<_> = refused.iter().map(|(_, reason)| *reason).collect();
    for (scheme, token, proofs, reason) in [
        ("DPoP", &token, &[][..], "dpop_missing"),
        ("DPoP", &token, &[&*good()?, &*good()?], "dpop_several"),
        ("Bearer", &token, &[], "dpop_as_bearer"),
        ("Bearer", &token, &[&*good()?], "dpop_as_bearer"),
        ("DPoP", &other_token, &[], "dpop_unbound_token"),
        ("Bearer", &other_token, &[&*good()?], "dpop_unbound_token"),
    ] {
        assert_eq!(call(&raw, scheme, token, proofs).await?, Code::Unauthenticated, "{reason}");
        expected.push(reason);
    }
    let log = broker.log_with(|log| reasons(log).len() == expected.len()).await?;
    assert_eq!(reasons(&log), expected);
    let actor = log.of_kind(EntryKind::Publish).next().and_then(|entry| entry.actor.clone()).context("recorded")?;
    assert_eq!(actor.confirmation, format!("jkt:{}", prover.thumbprint()));
    Ok(())
}

#[tokio::test]
async fn a_proof_does_not_come_again_after_a_restart_by_a_clock_that_is_behind() -> Result<()> {
    let broker = knowing_its_url(&standing_clock()).await?;
    let (prover, token) = holder(&broker, "agent")?;
    let now = standing_clock().now().seconds().0;
    let clock = Clock::manual(UnixSeconds(now));
    let broker = broker.stop().await?.by_clock(&clock).start().await?;
    clock.advance(Duration::from_secs(100));
    let proof = |iat: i64| prover.sign(&Prover::claims(&token, PUBLISH, iat));
    let used = proof(now + 100)?;
    let raw = broker.raw_with(None, RawOptions::default()).await?;
    assert_eq!(call(&raw, "DPoP", &token, &[&used]).await?, Code::Ok);

    let behind = Clock::manual(UnixSeconds(now - 3_600));
    let broker = broker.stop().await?.by_clock(&behind).start().await?;
    behind.set(UnixMicros((now + 101) * 1_000_000));
    let raw = broker.raw_with(None, RawOptions::default()).await?;
    assert_eq!(call(&raw, "DPoP", &token, &[&used]).await?, Code::Unauthenticated);
    assert_eq!(call(&raw, "DPoP", &token, &[&proof(now + 101)?]).await?, Code::Ok);
    Ok(())
}

#[tokio::test]
async fn without_a_public_url_the_log_says_what_is_missing() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let (prover, token) = holder(&broker, "agent")?;
    let raw = broker.raw_with(None, RawOptions::default()).await?;
    let proof = prover.sign(&Prover::claims(&token, PUBLISH, Clock::system().now().seconds().0))?;
    assert_eq!(call(&raw, "DPoP", &token, &[&proof]).await?, Code::Unauthenticated);
    let log = broker.log_with(|log| reasons(log).len() == 1).await?;
    assert_eq!(reasons(&log), ["dpop_needs_server.public_url"]);
    Ok(())
}

/// A message that comes with its own credentials.
fn of(token: &str, message: Message) -> Message {
    Message { credentials: Some(Credentials { token: token.to_owned(), dpop_proof: String::new() }), ..message }
}

/// Told so, and not recorded as a decision on a message.
fn is_unauthenticated(refusal: &Refusal, id: &str) -> bool {
    let word = (refusal.code, &*refusal.reason) == (Code::Unauthenticated.into(), "UNAUTHENTICATED");
    word && refusal.message_id == id && refusal.decision_id.is_empty()
}

#[tokio::test]
async fn each_message_through_a_gateway_is_that_of_its_own_token() -> Result<()> {
    let clock = standing_clock();
    let broker = Setup::default().open_policy().clock(&clock).start().await?;
    let mut inbox =
        RawSubscription::open(&broker.raw(&broker.token("reader", &["subscribe:>"])?).await?, &[">"]).await?;
    // The gateway itself may write to one topic only, which says nothing about those for whom it speaks.
    let gateway = broker.raw(&broker.token("gateway", &["publish:own"])?).await?;
    let (able, unable) = (broker.token("able", &["publish:x"])?, broker.token("unable", &["publish:other"])?);
    let brief = Claims { exp: clock.now().seconds().0 + 60, ..broker.claims("brief").permission("publish:x") };
    let brief = broker.sign(&brief)?;

    let mut stream = PublishStream::open(&gateway).await?;
    let sent = vec![
        wire("1", "own", "text"),
        of(&able, wire("1", "x", "text")),
        of(&unable, wire("1", "x", "text")),
        of(&brief, wire("1", "x", "text")),
        of("nonsense", wire("2", "own", "text")),
        of("", wire("3", "own", "text")),
        wire("4", "x", "text"),
        of(&able, wire("5", "not a topic", "text")),
        of(&able, wire("6", "x", "text")),
    ];
    let results = stream.publish(sent).await?;
    let result = |place: usize| results.get(place).context("a result");
    for place in [0, 1, 3, 8] {
        receipt(result(place)?)?;
    }
    for (place, expected) in [(2, "MISSING_PERMISSION"), (6, "MISSING_PERMISSION"), (7, "MALFORMED_MESSAGE")] {
        assert_eq!(refusal(result(place)?)?.reason, expected, "{place}");
    }
    for (place, id) in [(4, "2"), (5, "3")] {
        ensure!(is_unauthenticated(refusal(result(place)?)?, id), "{place}");
    }
    // The same id of three senders: three messages. The first of them that comes again is a duplicate.
    let again = stream.publish(vec![of(&able, wire("1", "x", "text"))]).await?;
    ensure!(receipt(again.first().context("one")?)?.duplicate);
    clock.advance(Duration::from_secs(60));
    let results = stream.publish(vec![of(&brief, wire("7", "x", "text")), wire("8", "own", "text")]).await?;
    ensure!(is_unauthenticated(refusal(results.first().context("two")?)?, "7"), "it was remembered as good");
    receipt(results.get(1).context("two")?)?;

    let mut senders = Vec::new();
    while senders.len() < 5 {
        let batch = inbox.batch().await?.context("delivered")?;
        ensure!(batch.iter().all(|one| one.message.as_ref().is_some_and(|message| message.credentials.is_none())));
        senders.extend(batch.into_iter().filter_map(|one| Some(one.sender?.agent)));
    }
    assert_eq!(senders, ["gateway", "able", "brief", "able", "gateway"]);
    let log = broker.log_with(|log| reasons(log).len() == 3).await?;
    assert_eq!(reasons(&log), ["not_compact", "not_compact", "expired"]);
    let who = |kind| {
        let entries = log.of_kind(kind);
        let party = |entry: &veribus_proto::v1::AuditEntry| {
            let agent = entry.actor.as_ref().map_or("", |actor| &actor.agent);
            format!("{agent} via {}", entry.via.as_ref().map_or("", |via| &via.agent))
        };
        entries.map(party).collect::<Vec<_>>()
    };
    let published = who(EntryKind::Publish);
    let through = ["gateway via ", "able via gateway", "unable via gateway", "brief via gateway", "gateway via "];
    assert_eq!(published, [&through[..], &["able via gateway", "gateway via "]].concat());
    assert_eq!(who(EntryKind::Malformed), ["able via gateway"]);
    Ok(())
}

#[tokio::test]
async fn a_single_publish_for_another_agent_is_that_agents_or_nobodys() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let gateway = broker.raw(&broker.token("gateway", &["publish:>"])?).await?;
    let (able, unable) = (broker.token("able", &["publish:x"])?, broker.token("unable", &["publish:other"])?);
    assert_eq!(code(publish(&gateway, of(&able, wire("1", "x", "text"))).await), Code::Ok);
    assert_eq!(code(publish(&gateway, of(&unable, wire("2", "x", "text"))).await), Code::PermissionDenied);
    assert_eq!(code(publish(&gateway, of("nonsense", wire("3", "x", "text"))).await), Code::Unauthenticated);
    assert_eq!(code(publish(&gateway, of("", wire("4", "x", "text"))).await), Code::Unauthenticated);
    let log = broker.log_with(|log| reasons(log).len() == 2).await?;
    let actor = log.decision("1")?.actor.as_ref().context("an actor")?;
    assert_eq!(actor.agent, "able");
    assert!(log.decisions("3").is_empty() && log.decisions("4").is_empty());
    Ok(())
}

#[tokio::test]
async fn a_bound_token_in_a_message_is_held_to_its_binding_too() -> Result<()> {
    let clock = standing_clock();
    let broker = knowing_its_url(&clock).await?;
    let now = clock.now().seconds().0;
    let gateway = broker.raw(&broker.token("gateway", &[])?).await?;
    let mut stream = PublishStream::open(&gateway).await?;
    let (prover, token) = holder(&broker, "agent")?;
    let by_certificate = ClientAuthority::new()?.issue("elsewhere")?;
    let by_certificate = broker.sign(&bound_to(broker.claims("other").permission("publish:>"), &by_certificate))?;
    let proof = prover.sign(&Prover::claims(&token, PUBLISH_STREAM, now))?;
    let for_another_call = prover.sign(&Prover::claims(&token, PUBLISH, now))?;
    let proven = |id: &str, proof: &str| {
        let credentials = Credentials { token: token.clone(), dpop_proof: proof.to_owned() };
        Message { credentials: Some(credentials), ..wire(id, "x", "text") }
    };
    let sent = vec![
        proven("1", &proof),
        proven("2", &proof),
        proven("3", &for_another_call),
        proven("4", ""),
        of(&by_certificate, wire("5", "x", "text")),
    ];
    let results = stream.publish(sent).await?;
    receipt(results.first().context("five")?)?;
    for (id, outcome) in ["2", "3", "4", "5"].iter().zip(results.iter().skip(1)) {
        ensure!(is_unauthenticated(refusal(outcome)?, id), "{id}");
    }
    let log = broker.log_with(|log| reasons(log).len() == 4).await?;
    assert_eq!(reasons(&log), ["dpop_replayed", "dpop_other_call", "dpop_missing", "certificate_missing"]);
    Ok(())
}

/// Whether the stream goes on under a fresh token, and not under the one before.
async fn is_refreshed(mut answers: Streaming<PublishStreamResponse>) -> Result<bool> {
    loop {
        let answer = patiently(answers.message()).await??.context("the stream is over")?;
        if let Some(refreshed) = answer.refreshed {
            return Ok(!refreshed.refused);
        }
    }
}

#[tokio::test]
async fn a_stream_of_a_bound_token_goes_on_only_under_a_new_proof_by_the_same_key() -> Result<()> {
    let clock = standing_clock();
    let broker = knowing_its_url(&clock).await?;
    let now = clock.now().seconds().0;
    let raw = broker.raw_with(None, RawOptions::default()).await?;
    let (prover, token) = holder(&broker, "agent")?;
    let (stranger, strangers) = holder(&broker, "agent")?;
    let unbound = broker.token("agent", &["publish:>"])?;
    let proof = |by: &Prover, token: &str| by.sign(&Prover::claims(token, PUBLISH_STREAM, now));
    let refreshed = [
        (&token, proof(&prover, &token)?, true),
        (&token, String::new(), false),
        (&unbound, String::new(), false),
        (&strangers, proof(&stranger, &strangers)?, false),
    ];
    for (fresh, dpop_proof, expected) in refreshed {
        let refresh = Some(Credentials { token: fresh.clone(), dpop_proof });
        let requests = tokio_stream::iter([PublishStreamRequest { messages: Vec::new(), refresh }]);
        let opening = request(requests, "DPoP", &token, &[&proof(&prover, &token)?])?;
        let answers = patiently(raw.broker().publish_stream(opening)).await??.into_inner();
        assert_eq!(is_refreshed(answers).await?, expected);
    }
    let log = broker.log_with(|log| reasons(log).len() == 3).await?;
    assert_eq!(reasons(&log), ["dpop_missing", "other_binding", "other_binding"]);
    Ok(())
}

const ABOUT_PARTIES: &str = r#"package veribus

import rego.v1

allow if true

deny contains {"rule": "rogue-actor"} if input.agent.actors[0].agent == "rogue"

deny contains {"rule": "rogue-gateway"} if input.via.id == "rogue-gateway"

deny contains {"rule": "not-bound"} if {
	input.topic == "sensitive"
	input.agent.token.confirmation != "x5t#S256"
}

deny contains {"rule": "not-bound"} if {
	input.topic == "sensitive"
	not input.agent.token.bound
}
"#;

#[tokio::test]
async fn who_acts_for_an_agent_and_who_brings_its_messages_is_the_policys_to_judge() -> Result<()> {
    let broker = Setup::default().open_policy().policy(ABOUT_PARTIES).start().await?;
    let (good, rogue) =
        (broker.raw(&broker.token("gateway", &[])?).await?, broker.raw(&broker.token("rogue-gateway", &[])?).await?);
    let agent = |act: Value| broker.sign(&broker.claims("agent").permission("publish:>").claim("act", act));
    let helped = agent(json!({"sub": "helper", "act": {"sub": "rogue", "iss": "https://other.example"}}))?;
    let misused = agent(json!({"sub": "rogue"}))?;
    assert_eq!(code(publish(&good, of(&helped, wire("1", "x", "text"))).await), Code::Ok);
    assert_eq!(code(publish(&good, of(&misused, wire("2", "x", "text"))).await), Code::PermissionDenied);
    assert_eq!(code(publish(&rogue, of(&helped, wire("3", "x", "text"))).await), Code::PermissionDenied);
    assert_eq!(code(publish(&good, of(&helped, wire("4", "sensitive", "text"))).await), Code::PermissionDenied);
    assert_eq!(code(publish(&good, of(&agent(json!("helper"))?, wire("5", "x", "text"))).await), Code::Unauthenticated);

    let log = broker.log().await?;
    let own = broker.claims("agent").iss;
    let delegation = |id: &str| -> Result<Vec<(String, String)>> {
        let actor = log.decision(id)?.actor.clone().context("an actor")?;
        Ok(actor.delegation.into_iter().map(|party| (party.issuer, party.agent)).collect())
    };
    let parties = [(own.clone(), "helper".to_owned()), ("https://other.example".to_owned(), "rogue".to_owned())];
    assert_eq!(delegation("1")?, parties);
    assert_eq!(delegation("2")?, [(own, "rogue".to_owned())]);
    let rules = |id: &str| anyhow::Ok(log.decision(id)?.decision.clone().context("a decision")?.rules);
    assert_eq!(rules("2")?, ["rogue-actor"]);
    assert_eq!(rules("3")?, ["rogue-gateway"]);
    assert_eq!(rules("4")?, ["not-bound"]);
    Ok(())
}
