//! What a broker reads from files is loaded anew while it runs: as a whole, recorded, and with effect on what is open.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{CertificateParams, KeyPair};
use sha2::{Digest as _, Sha256};
use tonic::{Code, Status, Streaming};
use veribus_broker::{
    config::ClientCertificates,
    issue::{PublishedKeys, TokenIssuer},
    model::{Clock, UnixSeconds},
};
use veribus_proto::v1::{
    AuditEntry, Decision, DecisionFacts, EntryKind, PublishRequest, Reload, ReloadCause, TailRequest, WatchRequest,
    WatchTarget, watch_request,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    certificates::ClientAuthority,
    log::Log,
    messages::{OPEN_POLICY, SMALL_RULES, wire},
    patiently,
    raw::{Raw, RawOptions, reason},
    streams::{PublishStream, RawSubscription, refusal},
};

/// As the open policy, without anything for the agent `out`.
fn without_out() -> String {
    format!("{OPEN_POLICY}\ndeny contains \"out\" if input.agent.id == \"out\"\n")
}

fn write_policy(broker: &TestBroker, text: &str) -> Result<()> {
    Ok(fs::write(broker.directory().policies_path().join("test.rego"), text)?)
}

fn reloads<'a>(log: &'a Log, resource: &'a str) -> impl Iterator<Item = (&'a AuditEntry, &'a Reload)> {
    let of = move |entry: &&AuditEntry| entry.resource.starts_with(resource);
    log.of_kind(EntryKind::Reloaded).filter(of).filter_map(|entry| Some((entry, entry.reload.as_ref()?)))
}

/// The log, once so many reloads of this are in it.
async fn log_with_reloads(broker: &TestBroker, resource: &str, count: usize) -> Result<Log> {
    broker.log_with(|log| reloads(log, resource).count() >= count).await
}

/// Waits for so many messages.
async fn taken(inbox: &mut RawSubscription, mut count: usize) -> Result<()> {
    while count > 0 {
        count = count.saturating_sub(inbox.batch().await?.context("the stream is over")?.len());
    }
    Ok(())
}

/// What ends a subscription.
async fn end(inbox: &mut RawSubscription) -> Result<Status> {
    loop {
        match inbox.batch().await {
            Ok(next) => ensure!(next.is_some(), "ended without a status"),
            Err(end) => return Ok(end),
        }
    }
}

/// What ends a stream, whatever comes before.
async fn ended<T>(stream: &mut Streaming<T>) -> Result<Status> {
    loop {
        match patiently(stream.message()).await? {
            Ok(next) => ensure!(next.is_some(), "ended without a status"),
            Err(end) => return Ok(end),
        }
    }
}

async fn publish(agent: &Raw, id: &str, data: &str) -> Result<(), Status> {
    let request = PublishRequest { message: Some(wire(id, "news", data)) };
    agent.broker().publish(request).await.map(drop)
}

fn sha256(file: &Path) -> Result<Vec<u8>> {
    Ok(Sha256::digest(fs::read(file)?).to_vec())
}

const ALL: [&str; 5] = ["publish:>", "subscribe:>", "state.read:>", "state.write:>", "audit.read"];

#[tokio::test]
async fn a_policy_is_in_force_as_a_whole_and_what_is_open_is_decided_anew() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let decrypting = |agent: &str| {
        broker.sign(&ALL.iter().fold(broker.claims(agent).decrypt(">"), |claims, one| claims.permission(*one)))
    };
    let (out, stays) = (broker.raw(&decrypting("out")?).await?, broker.raw(&decrypting("stays")?).await?);
    let mut inbox_out = RawSubscription::open(&out, &["news"]).await?;
    let mut inbox_stays = RawSubscription::open(&stays, &["news"]).await?;
    let target = WatchTarget { prefix: "notes/".to_owned(), after_revision: 0 };
    let opening = WatchRequest { request: Some(watch_request::Request::Target(target)) };
    let watching = tokio_stream::StreamExt::chain(tokio_stream::once(opening), tokio_stream::pending());
    let mut watch = out.state().watch(watching).await?.into_inner();
    ensure!(watch.message().await?.is_some(), "opened");
    let mut tail = out.audit().tail(TailRequest::default()).await?.into_inner();
    ensure!(tail.message().await?.is_some(), "begun");
    publish(&out, "before", "text").await?;
    taken(&mut inbox_stays, 1).await?;
    taken(&mut inbox_out, 1).await?;

    write_policy(&broker, &without_out())?;
    broker.server().reload();
    let over = end(&mut inbox_out).await?;
    assert_eq!((over.code(), &*reason(&over)), (Code::PermissionDenied, "POLICY_DENIED"), "{over:?}");
    let end = ended(&mut watch).await?;
    assert_eq!((end.code(), &*reason(&end)), (Code::PermissionDenied, "POLICY_DENIED"), "{end:?}");
    let end = ended(&mut tail).await?;
    assert_eq!((end.code(), &*reason(&end)), (Code::PermissionDenied, "POLICY_DENIED"), "{end:?}");
    assert_eq!(publish(&out, "after", "text").await.map_err(|status| status.code()), Err(Code::PermissionDenied));
    publish(&stays, "stays", "text").await?;
    taken(&mut inbox_stays, 1).await?;

    let log = broker.log().await?;
    let (entry, reload) = reloads(&log, "policy").next().context("recorded")?;
    let started = log.of_kind(EntryKind::BrokerStarted).next().and_then(|entry| entry.decision.clone());
    assert_eq!(reload.previous_sha256, started.context("a policy")?.policy_sha256);
    assert_eq!((reload.cause(), &*reload.error), (ReloadCause::Signal, ""));
    for (kind, count) in [(EntryKind::Subscribe, 1), (EntryKind::StateWatch, 1), (EntryKind::AuditRead, 1)] {
        let denials = log.of_kind(kind).filter(|entry| {
            entry.decision.as_ref().is_some_and(|facts| facts.decision() == Decision::Deny)
                && entry.actor.as_ref().is_some_and(|actor| actor.agent == "out")
        });
        let denials: Vec<_> = denials.collect();
        assert_eq!(denials.len(), count, "{kind:?}");
        for denial in denials {
            assert!(denial.index > entry.index, "{kind:?}");
            assert_eq!(denial.decision.as_ref().map(|facts| &facts.policy_sha256), Some(&reload.sha256), "{kind:?}");
        }
    }
    let before = log.decision("before")?.decision.clone().context("decided")?;
    assert_eq!(before.policy_sha256, reload.previous_sha256);
    let stays = log.decision("stays")?.decision.clone().context("decided")?;
    assert_eq!(stays.policy_sha256, reload.sha256);
    assert_eq!(reloads(&log, "").count(), 1, "what is as it was is not recorded");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_does_not_load_leaves_the_one_before_in_force_which_is_recorded() -> Result<()> {
    let broker = Setup::default().policy(without_out()).start().await?;
    let out = broker.raw(&broker.token("out", &ALL)?).await?;
    write_policy(&broker, &format!("{OPEN_POLICY}\nallow if startswith("))?;
    broker.server().reload();
    let log = log_with_reloads(&broker, "policy", 1).await?;
    let (_, reload) = reloads(&log, "policy").next().context("recorded")?;
    assert!(reload.sha256.is_empty() && reload.error.contains("test.rego"), "{reload:?}");
    assert_eq!(publish(&out, "still", "text").await.map_err(|status| status.code()), Err(Code::PermissionDenied));
    // What was wrong is mended.
    write_policy(&broker, OPEN_POLICY)?;
    broker.server().reload();
    // It is in force a moment after its entry.
    patiently(async {
        let mut number = 0;
        while publish(&out, &format!("now-{number}"), "text").await.is_err() {
            number += 1;
        }
    })
    .await?;
    assert_eq!(reloads(&broker.log().await?, "policy").count(), 2);
    Ok(())
}

#[tokio::test]
async fn a_policy_behind_a_link_is_loaded_when_the_link_points_elsewhere() -> Result<()> {
    let place = tempfile::tempdir()?;
    for (version, text) in [("one", OPEN_POLICY.to_owned()), ("two", without_out())] {
        fs::create_dir(place.path().join(version))?;
        fs::write(place.path().join(version).join("test.rego"), text)?;
    }
    let link = place.path().join("current");
    symlink("one", &link)?;
    let directory = link.clone();
    let broker = Setup::default().open_policy().configure(|config| config.policy.directory = directory).start().await?;
    let out = broker.raw(&broker.token("out", &ALL)?).await?;
    let mut inbox = RawSubscription::open(&out, &["news"]).await?;
    symlink("two", place.path().join("next"))?;
    fs::rename(place.path().join("next"), &link)?;
    assert_eq!(end(&mut inbox).await?.code(), Code::PermissionDenied);
    let log = broker.log().await?;
    let causes: Vec<_> = reloads(&log, "policy").map(|(_, reload)| reload.cause()).collect();
    assert_eq!(causes, [ReloadCause::LinkChanged]);
    Ok(())
}

#[tokio::test]
async fn terms_that_a_policy_gives_to_single_agents_hold_for_streams_that_are_open() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let mut stream = PublishStream::open(&broker.raw(&broker.token("a", &ALL)?).await?).await?;
    let outcomes = stream.publish(vec![wire("a", "news", "text"), wire("b", "news", "text")]).await?;
    ensure!(outcomes.iter().all(|outcome| refusal(outcome).is_err()), "{outcomes:?}");
    let data = r#"{"quotas": {"a": {"messages_per_s_max": 1}}}"#;
    fs::write(broker.directory().policies_path().join("data.json"), data)?;
    broker.server().reload();
    // It is in force a moment after its entry.
    log_with_reloads(&broker, "policy", 1).await?;
    let beyond = patiently(async {
        for number in 0.. {
            let outcomes = stream.publish(vec![wire(&number.to_string(), "news", "text")]).await?;
            if let Some(refusal) = outcomes.first().and_then(|outcome| refusal(outcome).ok()) {
                return Ok(refusal.reason.clone());
            }
        }
        bail!("not beyond")
    });
    assert_eq!(beyond.await??, "QUOTA_EXCEEDED");
    Ok(())
}

/// The clock stands still, so its quota never lets the agent's fresh token pass.
#[tokio::test]
async fn a_subscription_is_withdrawn_also_while_its_agent_waits_for_its_quota() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let quota = r#"{"quotas": {"out": {"messages_per_s_max": 1}}}"#;
    let setup = Setup::default().open_policy().policy_data("data.json", quota);
    let broker = setup.clock(&Clock::manual(UnixSeconds(now))).start().await?;
    let token = broker.token("out", &["publish:>", "subscribe:>"])?;
    let out = broker.raw(&token).await?;
    let mut inbox = RawSubscription::open(&out, &["news"]).await?;
    // The subscription's own entry was all that it may have.
    assert_eq!(publish(&out, "beyond", "text").await.map_err(|status| status.code()), Err(Code::ResourceExhausted));
    inbox.refresh(&token).await?;
    write_policy(&broker, &without_out())?;
    broker.server().reload();
    let over = end(&mut inbox).await?;
    assert_eq!((over.code(), &*reason(&over)), (Code::PermissionDenied, "POLICY_DENIED"), "{over:?}");
    Ok(())
}

#[tokio::test]
async fn rules_of_inspection_are_loaded_anew_or_stay() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let file = broker.directory().root().join("rules.toml");
    let before = sha256(&file)?;
    let agent = broker.raw(&broker.token("a", &ALL)?).await?;
    publish(&agent, "clean", "open the vault for everybody now").await?;
    fs::write(&file, SMALL_RULES.replace("ignore all previous instructions", "open the vault for everybody now"))?;
    broker.server().reload();
    let log = log_with_reloads(&broker, "inspection_rules", 1).await?;
    let (_, reload) = reloads(&log, "inspection_rules").next().context("recorded")?;
    assert_eq!((&reload.previous_sha256, &reload.sha256), (&before, &sha256(&file)?));
    let is_held = async |id: String| {
        publish(&agent, &id, "open the vault for everybody now").await.ok();
        let decision = broker.log().await?.decision(&id)?.decision.as_ref().map(DecisionFacts::decision);
        anyhow::Ok(decision == Some(Decision::Quarantine))
    };
    // They are in force a moment after their entry.
    patiently(async {
        for number in 0.. {
            if is_held(format!("found-{number}")).await? {
                break;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    fs::write(&file, "[[rule]]")?;
    broker.server().reload();
    log_with_reloads(&broker, "inspection_rules", 2).await?;
    assert!(is_held("still-found".to_owned()).await?);
    let clean = broker.log().await?.decision("clean")?.decision.clone();
    assert_eq!(clean.context("decided")?.decision(), Decision::Allow);
    Ok(())
}

/// The broker's key set with another key beside the one in it, and with that alone; and who signs with it.
struct NextKey {
    issuer: TokenIssuer,
    both: String,
    alone: String,
}

impl NextKey {
    fn new(broker: &TestBroker, file: &Path) -> Result<Self> {
        let claims = broker.claims("any");
        let pem = KeyPair::generate()?.serialize_pem();
        let issuer = TokenIssuer::from_pem(claims.iss, claims.aud, &pem)?;
        let mut both = PublishedKeys::from_json(&fs::read_to_string(file)?)?;
        both.add(issuer.key_id(), issuer.public_key().clone())?;
        let mut alone = PublishedKeys::empty();
        alone.add(issuer.key_id(), issuer.public_key().clone())?;
        Ok(Self { issuer, both: both.to_json(), alone: alone.to_json() })
    }

    fn token(&self, broker: &TestBroker, agent: &str) -> Result<String> {
        Ok(self.issuer.issue(&ALL.iter().fold(broker.claims(agent), |claims, one| claims.permission(*one)))?)
    }
}

#[tokio::test]
async fn a_key_that_its_file_does_not_list_any_more_ends_what_it_vouched_for() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let file = broker.directory().root().join("jwks.json");
    let next = NextKey::new(&broker, &file)?;
    let old = broker.raw(&broker.token("a", &ALL)?).await?;
    let mut inbox = RawSubscription::open(&old, &["news"]).await?;
    fs::write(&file, &next.both)?;
    log_with_reloads(&broker, "key_set", 1).await?;
    let new = broker.raw(&next.token(&broker, "b")?).await?;
    publish(&new, "by-the-next-key", "text").await?;
    taken(&mut inbox, 1).await?;
    fs::write(&file, &next.alone)?;
    assert_eq!(end(&mut inbox).await?.code(), Code::Unauthenticated);
    publish(&new, "still", "text").await?;
    assert_eq!(publish(&old, "not", "text").await.map_err(|status| status.code()), Err(Code::Unauthenticated));
    let log = Log::read(&new).await?;
    let reloads: Vec<_> = reloads(&log, "key_set").collect();
    assert!(reloads.iter().all(|(_, reload)| reload.cause() == ReloadCause::FileChanged), "{reloads:?}");
    assert_eq!(reloads.last().context("recorded")?.1.sha256, sha256(&file)?);
    Ok(())
}

#[tokio::test]
async fn a_key_set_that_cannot_be_read_leaves_the_keys_before() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let agent = broker.raw(&broker.token("a", &ALL)?).await?;
    let file = broker.directory().root().join("jwks.json");
    fs::write(&file, "{\"keys\": [")?;
    let log = log_with_reloads(&broker, "key_set", 1).await?;
    assert!(reloads(&log, "key_set").all(|(_, reload)| !reload.error.is_empty() && reload.sha256.is_empty()));
    fs::remove_file(&file)?;
    log_with_reloads(&broker, "key_set", 2).await?;
    publish(&agent, "still", "text").await?;
    Ok(())
}

/// A certificate for the loopback, signed by its own key, and that key; both PEM.
fn self_signed() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

#[tokio::test]
async fn a_certificate_is_replaced_without_ending_what_is_open_and_one_that_cannot_be_used_is_not() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let root = broker.directory().root().to_owned();
    let token = broker.token("a", &ALL)?;
    let old = broker.raw(&token).await?;
    let mut inbox = RawSubscription::open(&old, &["news"]).await?;
    let (certificate, key) = self_signed()?;
    fs::write(root.join("server.key"), key)?;
    fs::write(root.join("server.pem"), &certificate)?;
    let auditor = old.with_token(Some(&broker.agent_token("auditor")?))?;
    let is_loaded = |log: &Log| reloads(log, "server_certificate").any(|(_, reload)| reload.error.is_empty());
    let log = Log::read_until(&auditor, is_loaded).await?;
    let loaded = reloads(&log, "server_certificate").last().context("recorded")?.1;
    assert_eq!(loaded.sha256, sha256(&root.join("server.pem"))?);
    assert!(broker.raw(&token).await.is_err(), "the authority of the certificate before");
    let connect = || async {
        Raw::connect(broker.address(), &root.join("server.pem"), Some(&token), RawOptions::default()).await
    };
    publish(&connect().await?, "over-the-new-one", "text").await?;
    taken(&mut inbox, 1).await?;

    // As `openssl req -x509` makes it: most clients would be kept away.
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = KeyPair::generate()?;
    let before = fs::read(root.join("server.pem"))?;
    fs::write(root.join("server.key"), own.serialize_pem())?;
    fs::write(root.join("server.pem"), params.self_signed(&own)?.pem())?;
    let is_refused = |log: &Log| reloads(log, "server_certificate").any(|(_, reload)| reload.error.contains("CA:TRUE"));
    Log::read_until(&auditor, is_refused).await?;
    fs::write(root.join("server.pem"), before)?;
    publish(&connect().await?, "not-over-that", "text").await?;
    taken(&mut inbox, 1).await?;

    fs::write(root.join("server.key"), self_signed()?.1)?;
    let is_refused = |log: &Log| {
        reloads(log, "server_certificate").any(|(_, reload)| reload.error.contains("do not belong together"))
    };
    Log::read_until(&auditor, is_refused).await?;
    publish(&connect().await?, "still", "text").await?;
    taken(&mut inbox, 1).await
}

#[tokio::test]
async fn a_certificate_that_no_client_can_use_keeps_a_broker_from_starting() -> Result<()> {
    let place = tempfile::tempdir()?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let certificate = place.path().join("server.pem");
    fs::write(&certificate, params.self_signed(&key)?.pem())?;
    for (name, key, words) in
        [("own.key", key.serialize_pem(), "expired at 2020"), ("other.key", self_signed()?.1, "do not belong together")]
    {
        let (certificate, file) = (certificate.clone(), place.path().join(name));
        fs::write(&file, key)?;
        let setup = Setup::default().open_policy().configure(|config| {
            (config.server.certificate_file, config.server.private_key_file) = (certificate, file);
        });
        let error = setup.start().await.err().context("it started")?;
        assert!(error.to_string().contains(words), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_taken_out_ends_the_connections_it_vouched_for() -> Result<()> {
    let (stays, goes) = (ClientAuthority::new()?, ClientAuthority::new()?);
    let place = tempfile::tempdir()?;
    let file = place.path().join("clients.pem");
    fs::write(&file, [stays.pem(), goes.pem()].concat())?;
    let authorities = file.clone();
    let setup = Setup::default().open_policy().configure(|config| {
        config.server.client_certificates = ClientCertificates::Optional;
        config.server.client_ca_file = Some(authorities);
    });
    let broker = setup.start().await?;
    let token = broker.token("a", &ALL)?;
    let (kept, fallen) = (stays.issue("kept")?, goes.issue("fallen")?);
    let mut inboxes = Vec::new();
    for certificate in [None, Some(&kept), Some(&fallen)] {
        let agent = broker.raw_as(Some(&token), certificate).await?;
        inboxes.push(RawSubscription::open(&agent, &["news"]).await?);
    }
    fs::write(&file, stays.pem())?;
    let [without, kept_inbox, fallen_inbox] = &mut inboxes[..] else { bail!("three") };
    let ended = end(fallen_inbox).await?;
    assert!(ended.code() != Code::Ok, "{ended:?}");
    let by_fallen =
        async { publish(&broker.raw_as(Some(&token), Some(&fallen)).await?, "no", "text").await.map_err(Into::into) };
    let refused: Result<()> = by_fallen.await;
    assert!(refused.is_err());
    publish(&broker.raw_as(Some(&token), Some(&kept)).await?, "yes", "text").await?;
    taken(without, 1).await?;
    taken(kept_inbox, 1).await?;
    let log = broker.log().await?;
    assert_eq!(reloads(&log, "client_authorities").last().context("recorded")?.1.sha256, sha256(&file)?);
    Ok(())
}
