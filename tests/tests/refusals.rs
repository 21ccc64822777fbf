//! Whatever is refused leaves an entry that says why, and who it was as far as that is known.

use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

use anyhow::{Context as _, Result, ensure};
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::{Code, Status};
use veribus_broker::{config::Config, model::Clock, transport::refusals::ANONYMOUS_ENTRY_BYTES_MAX};
use veribus_proto::v1::{
    AuditEntry, Decision, DisconnectRequest, EntryFilter, EntryKind, ListKeysRequest, ListRevocationsRequest,
    ListSessionsRequest, PublishRequest, QueryRequest, ReinstateRequest, Revocation, RevokeRequest, RotateKeysRequest,
    ShredKeyRequest, SubscribeRequest, Subscription, TailRequest, WatchRequest, WatchTarget, revocation::Target,
    subscribe_request, watch_request,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
    patiently,
    raw::{Raw, RawOptions, reason},
    streams::RawSubscription,
};

const OPERATOR: [&str; 6] =
    ["audit.read", "admin.revoke", "admin.sessions", "admin.keys", "subscribe:>", "state.read:>"];

fn subscribe(patterns: &[&str]) -> SubscribeRequest {
    let patterns = patterns.iter().map(|one| (*one).to_owned()).collect();
    SubscribeRequest { request: Some(subscribe_request::Request::Subscription(Subscription { patterns })) }
}

fn watch(prefix: &str, after_revision: u64) -> WatchRequest {
    let target = WatchTarget { prefix: prefix.to_owned(), after_revision };
    WatchRequest { request: Some(watch_request::Request::Target(target)) }
}

async fn subscribed(raw: &Raw, first: SubscribeRequest) -> Status {
    match raw.broker().subscribe(tokio_stream::iter([first])).await {
        Ok(response) => response.into_inner().message().await.err().unwrap_or_else(|| Status::ok("subscribed")),
        Err(status) => status,
    }
}

async fn watched(raw: &Raw, first: WatchRequest) -> Status {
    match raw.state().watch(tokio_stream::iter([first])).await {
        Ok(response) => response.into_inner().message().await.err().unwrap_or_else(|| Status::ok("watched")),
        Err(status) => status,
    }
}

/// One request of each kind that cannot be read, and the answers.
async fn malformed(raw: &Raw) -> Vec<(&'static str, Status)> {
    fn refused<T>(answer: Result<T, Status>) -> Status {
        answer.err().unwrap_or_else(|| Status::ok("accepted"))
    }
    let text = || "a..b".to_owned();
    let no_kind = EntryFilter { kind: 9_999, ..EntryFilter::default() };
    let page_token = || "x".to_owned();
    let (mut admin, mut audit) = (raw.admin(), raw.audit());
    let revocation =
        Revocation { issuer: "i".to_owned(), target: Some(Target::Agent(String::new())), ..Revocation::default() };
    vec![
        ("Subscribe", subscribed(raw, subscribe(&["a..b"])).await),
        ("Subscribe", subscribed(raw, subscribe(&[])).await),
        ("Subscribe", subscribed(raw, SubscribeRequest::default()).await),
        ("Watch", watched(raw, watch("a..b/", 0)).await),
        ("Watch", watched(raw, WatchRequest::default()).await),
        (
            "Query",
            refused(audit.query(QueryRequest { filter: Some(no_kind.clone()), ..QueryRequest::default() }).await),
        ),
        ("Tail", refused(audit.tail(TailRequest { filter: Some(no_kind), ..TailRequest::default() }).await)),
        ("Revoke", refused(admin.revoke(RevokeRequest { revocation: None }).await)),
        ("Revoke", refused(admin.revoke(RevokeRequest { revocation: Some(revocation) }).await)),
        ("Reinstate", refused(admin.reinstate(ReinstateRequest { revocation_id: "\u{202e}".to_owned() }).await)),
        (
            "ListRevocations",
            refused(admin.list_revocations(ListRevocationsRequest { page_token: page_token(), page_size: 0 }).await),
        ),
        (
            "ListSessions",
            refused(
                admin
                    .list_sessions(ListSessionsRequest { page_token: page_token(), ..ListSessionsRequest::default() })
                    .await,
            ),
        ),
        ("Disconnect", refused(admin.disconnect(DisconnectRequest { target: None }).await)),
        ("ListKeys", refused(admin.list_keys(ListKeysRequest { scope: text(), ..ListKeysRequest::default() }).await)),
        ("RotateKeys", refused(admin.rotate_keys(RotateKeysRequest { scope: text() }).await)),
        ("ShredKey", refused(admin.shred_key(ShredKeyRequest { scope: text(), epoch: 1 }).await)),
    ]
}

fn reason_of(entry: &AuditEntry) -> &str {
    entry.decision.as_ref().map_or("", |decision| &decision.reason)
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_recorded_and_answered_only_to_who_may_make_it() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    for (agent, permissions, code, word) in [
        ("operator", &OPERATOR[..], Code::InvalidArgument, "MALFORMED_MESSAGE"),
        ("nobody", &["publish:>"][..], Code::PermissionDenied, "MISSING_PERMISSION"),
    ] {
        let answers = malformed(&broker.raw(&broker.token(agent, permissions)?).await?).await;
        for (method, status) in &answers {
            assert_eq!(status.code(), code, "{agent} {method}: {status:?}");
        }
        let log = broker.log().await?;
        let of = |entry: &&AuditEntry| entry.actor.as_ref().is_some_and(|actor| actor.agent == agent);
        let entries: Vec<_> = log.of_kind(EntryKind::Malformed).filter(of).collect();
        let recorded: Vec<_> =
            entries.iter().map(|entry| entry.resource.rsplit('/').next().unwrap_or_default()).collect();
        assert_eq!(recorded, answers.iter().map(|(method, _)| *method).collect::<Vec<_>>(), "{agent}");
        ensure!(entries.iter().all(|entry| reason_of(entry) == word && !entry.detail.is_empty()), "{agent}");
    }
    Ok(())
}

#[tokio::test]
async fn what_follows_on_a_stream_and_is_none_of_that_is_recorded() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let raw = broker.raw(&broker.token("agent", &OPERATOR)?).await?;
    let requests = tokio_stream::iter([subscribe(&["a"]), subscribe(&["b"])]);
    let mut responses = raw.broker().subscribe(requests).await?.into_inner();
    let end = loop {
        match patiently(responses.message()).await? {
            Ok(response) => drop(response.context("it ended without a status")?),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::InvalidArgument);
    let log = broker.log().await?;
    assert_eq!(log.of_kind(EntryKind::Malformed).count(), 1, "{}", log.summary());
    Ok(())
}

#[tokio::test]
async fn a_watch_from_an_unknown_revision_is_not_taken_for_a_message_that_is_too_large() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let claims = broker.claims("agent").permission("state.read:>").decrypt(">");
    let raw = broker.raw(&broker.sign(&claims)?).await?;
    let status = watched(&raw, watch("notes/", 1_000_000)).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::OutOfRange, "REVISION_UNKNOWN"));
    ensure!(broker.log().await?.of_kind(EntryKind::Malformed).next().is_none());
    Ok(())
}

fn of_agent<'a>(log: &'a Log, agent: &str) -> Vec<&'a AuditEntry> {
    let of = |entry: &&AuditEntry| entry.actor.as_ref().is_some_and(|actor| actor.agent == agent);
    log.of_kind(EntryKind::AuthenticationRefused).filter(of).collect()
}

#[tokio::test]
async fn a_refused_token_whose_signature_is_good_says_whose_it_was_and_no_other_does() -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let clock = Clock::manual(veribus_broker::model::UnixSeconds(i64::try_from(now)?));
    let broker = Setup::default().open_policy().clock(&clock).start().await?;
    let expired = broker.token("expired", &["publish:>"])?;
    clock.advance(Duration::from_secs(3_601));
    let later = broker.directory().issuer().claims(
        "early",
        veribus_broker::model::UnixSeconds(clock.now().seconds().0 + 900),
        Duration::from_secs(600),
    );
    let early = broker.sign(&later)?;
    let revoked = broker.token("revoked", &["publish:>"])?;
    let operator = broker.raw(&broker.token("operator", &OPERATOR)?).await?;
    let revocation = Revocation {
        issuer: "veribus-dev".to_owned(),
        target: Some(Target::Agent("revoked".to_owned())),
        ..Revocation::default()
    };
    operator.admin().revoke(RevokeRequest { revocation: Some(revocation) }).await?;
    let mut forged = broker.token("forged", &["publish:>"])?;
    forged.truncate(forged.len() - 6);
    forged.push_str("AAAAAA");
    for token in [&expired, &early, &revoked, &forged] {
        let raw = broker.raw(token).await?;
        let refused = raw.broker().publish(PublishRequest { message: Some(wire("1", "a", "x")) }).await;
        assert_eq!(refused.map_err(|status| status.code()).err(), Some(Code::Unauthenticated));
    }
    let auditor = broker.raw(&broker.token("auditor", &["audit.read"])?).await?;
    let log = Log::read_until(&auditor, |log| log.of_kind(EntryKind::AuthenticationRefused).count() == 4).await?;
    for (agent, detail) in [("expired", "expired"), ("early", "not_yet_valid"), ("revoked", "revoked")] {
        let entries = of_agent(&log, agent);
        let [entry] = entries.as_slice() else { anyhow::bail!("{agent}: {}", log.summary()) };
        let actor = entry.actor.as_ref().context("an actor")?;
        ensure!(!actor.token_id.is_empty() && actor.token_sha256.len() == 32 && actor.issuer == "veribus-dev");
        let decision = entry.decision.as_ref().context("a decision")?;
        assert_eq!((&*entry.detail, decision.decision()), (detail, Decision::Deny), "marked as refused");
    }
    ensure!(of_agent(&log, "forged").is_empty());
    Ok(())
}

fn few(change: impl FnOnce(&mut Config) + Send + 'static) -> Setup {
    Setup::default().open_policy().configure(change)
}

/// Connects until the broker hangs up, which it does right away.
async fn is_hung_up(address: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(address).await?;
    patiently(stream.readable()).await??;
    ensure!(matches!(stream.try_read(&mut [0; 1]), Ok(0) | Err(_)), "the broker says something");
    Ok(())
}

#[tokio::test]
async fn a_connection_beyond_a_limit_is_recorded_with_the_limit() -> Result<()> {
    for limit in ["connections_max", "connections_per_address_max"] {
        let broker = few(move |config| match limit {
            "connections_max" => config.limits.connections_max = 3,
            _ => config.limits.connections_per_address_max = 3,
        });
        let broker = broker.start().await?;
        let auditor = broker.raw(&broker.agent_token("auditor")?).await?;
        let held = [TcpStream::connect(broker.address()).await?, TcpStream::connect(broker.address()).await?];
        is_hung_up(broker.address()).await?;
        let log = Log::read_until(&auditor, |log| log.of_kind(EntryKind::ConnectionRefused).count() == 1).await?;
        let entry = log.of_kind(EntryKind::ConnectionRefused).next().context("an entry")?;
        assert_eq!((&*entry.detail, &*entry.peer, reason_of(entry)), (limit, "127.0.0.1", "CONNECTION_LIMIT"));
        drop(held);
    }
    Ok(())
}

#[tokio::test]
async fn a_flood_of_connections_is_counted_together() -> Result<()> {
    let broker = few(|config| {
        config.limits.connections_max = 2;
        config.limits.authentication_refusals_recorded_per_s_max = 2;
    });
    let broker = broker.start().await?;
    let auditor = broker.raw(&broker.agent_token("auditor")?).await?;
    let _held = TcpStream::connect(broker.address()).await?;
    for _ in 0..50 {
        is_hung_up(broker.address()).await?;
    }
    let refused = |log: &Log| log.of_kind(EntryKind::ConnectionRefused).map(|entry| entry.count.max(1)).sum::<u64>();
    let log = Log::read_until(&auditor, |log| refused(log) == 50).await?;
    ensure!(log.of_kind(EntryKind::ConnectionRefused).count() < 50, "{}", log.summary());
    Ok(())
}

/// Calls without a token that could be one.
async fn flood(broker: &TestBroker, calls: u64) -> Result<()> {
    let nobody = broker.raw_with(Some("garbage"), RawOptions::default()).await?;
    for _ in 0..calls {
        let refused = nobody.broker().publish(PublishRequest { message: Some(wire("1", "a", "x")) }).await;
        assert_eq!(refused.map_err(|status| status.code()).err(), Some(Code::Unauthenticated));
    }
    Ok(())
}

/// The log, read with a token of this clock, as soon as there is in it what is waited for.
async fn log_at(broker: &TestBroker, clock: &Clock, is_there: impl Fn(&Log) -> bool) -> Result<Log> {
    let issuer = broker.directory().issuer();
    let claims = issuer.claims("auditor", clock.now().seconds(), Duration::from_secs(600)).permission("audit.read");
    Log::read_until(&broker.raw(&broker.sign(&claims)?).await?, is_there).await
}

#[tokio::test]
async fn anonymous_callers_write_no_more_than_their_budget_and_all_are_counted() -> Result<()> {
    const BYTES_PER_DAY: u64 = 32 * 1024;
    let day = Duration::from_secs(86_400);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let clock = Clock::manual(veribus_broker::model::UnixSeconds(i64::try_from(now)?));
    let setup = few(|config| {
        config.node.name = "n".repeat(32);
        config.limits.authentication_refusals_recorded_per_s_max = u32::MAX;
        config.limits.anonymous_record_bytes_per_day_max = NonZeroU64::MIN.saturating_add(BYTES_PER_DAY - 1);
    });
    let broker = setup.clock(&clock).start().await?;
    let refused = |log: &Log| log.of_kind(EntryKind::AuthenticationRefused).map(|entry| entry.count).sum::<u64>();

    flood(&broker, 300).await?;
    let log = log_at(&broker, &clock, |log| refused(log) >= 2).await?;
    assert_eq!((refused(&log), log.of_kind(EntryKind::AuthenticationRefused).count()), (2, 2), "half a day's at once");
    clock.advance(day);
    let log = log_at(&broker, &clock, |log| refused(log) == 300).await?;
    let entries: Vec<_> = log.of_kind(EntryKind::AuthenticationRefused).collect();
    let [_, _, together] = entries.as_slice() else { anyhow::bail!("{}", log.summary()) };
    assert_eq!((together.count, &*together.peer, &*together.resource), (298, "127.0.0.0", ""));
    for entry in entries {
        let longest = 64 - entry.resource.len() + "2001:db8:1111:2222:3333:4444:5555:6666".len() - entry.peer.len();
        let bytes = (entry.encoded_len() + longest + 64) as u64;
        ensure!(bytes <= ANONYMOUS_ENTRY_BYTES_MAX, "{bytes}, and numbers and reasons that are longer: {entry:?}");
    }

    flood(&broker, 300).await?;
    let broker = broker.stop().await?.start().await?;
    let log = log_at(&broker, &clock, |log| refused(log) >= 600).await?;
    assert_eq!(refused(&log), 600);
    let entries: Vec<_> = log.of_kind(EntryKind::AuthenticationRefused).collect();
    ensure!(entries.len() <= 3 + 1 + 1, "one more of its own, and one for what was left: {}", log.summary());
    Ok(())
}

#[tokio::test]
async fn an_identity_with_too_many_connections_is_named() -> Result<()> {
    let broker = few(|config| config.limits.connections_per_identity_max = 1).start().await?;
    let token = broker.token("agent", &["subscribe:>", "publish:>"])?;
    let _held = RawSubscription::open(&broker.raw(&token).await?, &["a"]).await?;
    let second = broker.raw(&token).await?;
    let refused = second.broker().publish(PublishRequest { message: Some(wire("1", "a", "x")) }).await;
    let status = refused.err().context("refused")?;
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "CONNECTION_LIMIT"));
    let log = broker.log_with(|log| log.of_kind(EntryKind::ConnectionRefused).count() == 1).await?;
    let entry = log.of_kind(EntryKind::ConnectionRefused).next().context("an entry")?;
    let agent = entry.actor.as_ref().map(|actor| &*actor.agent);
    assert_eq!((&*entry.detail, agent), ("connections_per_identity_max", Some("agent")));
    Ok(())
}
