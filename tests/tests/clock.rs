//! A clock that is wrong for a moment decides nothing for good.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::TryStreamExt as _;
use tonic::Code;
use veribus_broker::model::{Clock, UnixMicros, UnixSeconds};
use veribus_client::{AuditFilter, Client, Error, Message, StoredEntry};
use veribus_proto::v1::{EntryKind, PublishRequest, Revocation, RevokeRequest, revocation::Target};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
    raw::Raw,
};

const START: UnixSeconds = UnixSeconds(1_800_000_000);
const AHEAD_US: i64 = 25 * 3_600 * 1_000_000;

/// Sets the clock, and waits until the broker has noticed: its entry says so.
async fn set(broker: &TestBroker, clock: &Clock, to: UnixMicros) -> Result<()> {
    let auditor = auditor(broker).await?;
    let steps = |log: &Log| log.of_kind(EntryKind::ClockStepped).count();
    let before = steps(&Log::read(&auditor).await?);
    clock.set(to);
    Log::read_until(&auditor, |log| steps(log) > before).await?;
    Ok(())
}

async fn auditor(broker: &TestBroker) -> Result<Raw> {
    broker.raw(&lasting(broker, "auditor", &["audit.read"])?).await
}

async fn of_kind(broker: &TestBroker, kind: EntryKind) -> Result<usize> {
    Ok(Log::read(&auditor(broker).await?).await?.of_kind(kind).count())
}

/// A token that is good whatever the clock says.
fn lasting(broker: &TestBroker, agent: &str, permissions: &[&str]) -> Result<String> {
    let claims = broker.directory().issuer().claims(agent, START, Duration::from_secs(80 * 3_600)).decrypt(">");
    broker.sign(&permissions.iter().fold(claims, |claims, one| claims.permission(*one)))
}

async fn start(clock: &Clock) -> Result<TestBroker> {
    let setup = Setup::default().open_policy().clock(clock);
    setup.configure(|config| config.identity.token_lifetime_s_max = 100 * 3_600).start().await
}

#[tokio::test]
async fn a_revoked_token_stays_revoked_when_the_clock_was_ahead_for_a_moment_also_after_a_restart() -> Result<()> {
    let clock = Clock::manual(START);
    let broker = start(&clock).await?;
    let revoked = lasting(&broker, "thief", &["publish:>"])?;
    let operator = broker.raw(&lasting(&broker, "operator", &["admin.revoke"])?).await?;
    let end = START.0 + 24 * 3_600;
    let revocation = Revocation {
        issuer: "veribus-dev".to_owned(),
        target: Some(Target::Agent("thief".to_owned())),
        expires_at: Some(prost_types::Timestamp { seconds: end, nanos: 0 }),
        ..Revocation::default()
    };
    operator.admin().revoke(RevokeRequest { revocation: Some(revocation) }).await?;
    let publish = |id: &'static str| PublishRequest { message: Some(wire(id, "x", "text")) };

    set(&broker, &clock, UnixMicros(clock.now().0 + AHEAD_US)).await?;
    // It is over as long as the clock says so, and somebody else is refused.
    let thief = broker.raw(&revoked).await?;
    thief.broker().publish(publish("1")).await?;
    ensure!(broker.raw("nonsense").await?.broker().publish(publish("2")).await.is_err());
    clock.advance(Duration::from_secs(2));
    set(&broker, &clock, UnixMicros(clock.now().0 - AHEAD_US)).await?;
    let code = |status: tonic::Status| status.code();
    let refused = thief.broker().publish(publish("3")).await.map_err(code);
    ensure!(refused.is_err_and(|code| code == Code::Unauthenticated), "on the connection that had it");

    let broker = broker.stop().await?.start().await?;
    let refused = broker.raw(&revoked).await?.broker().publish(publish("4")).await.map_err(code);
    ensure!(refused.is_err_and(|code| code == Code::Unauthenticated), "after a restart");
    ensure!(of_kind(&broker, EntryKind::RevocationEnded).await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_value_is_hidden_while_the_clock_is_ahead_and_there_again_when_it_is_set_right() -> Result<()> {
    let clock = Clock::manual(START);
    let broker = start(&clock).await?;
    let client = broker.client(&lasting(&broker, "agent", &["state.read:>", "state.write:>"])?).await?;
    client.state().put("leases/a", "held").ttl(Duration::from_secs(3_600)).await?;
    set(&broker, &clock, UnixMicros(clock.now().0 + AHEAD_US)).await?;
    ensure!(client.state().get("leases/a").await?.is_none());
    // Long enough for it to be removed, had the clock gone on.
    clock.advance(Duration::from_secs(2));
    client.state().put("leases/b", "mark").ttl(Duration::from_secs(1)).await?;
    set(&broker, &clock, UnixMicros(clock.now().0 - AHEAD_US)).await?;
    ensure!(client.state().get("leases/a").await?.is_some());
    ensure!(of_kind(&broker, EntryKind::StateExpired).await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_start_by_a_wrong_clock_removes_no_value_and_what_is_written_after_it_runs_out_in_time() -> Result<()> {
    let mut clock = Clock::manual(START);
    let mut broker = start(&clock).await?;
    let token = lasting(&broker, "agent", &["state.read:>", "state.write:>"])?;
    broker.client(&token).await?.state().put("leases/old", "held").ttl(Duration::from_secs(3_600)).await?;
    clock.advance(Duration::from_secs(10));
    let right = clock.now();
    for to in [UnixMicros(right.0 + AHEAD_US), right] {
        let home = broker.stop().await?;
        clock = Clock::manual(to.seconds());
        broker = home.by_clock(&clock).start().await?;
        let client = broker.client(&token).await?;
        client.state().put("leases/young", "held").ttl(Duration::from_secs(1)).await?;
        clock.advance(Duration::from_secs(1));
        let is_removed = |entry: &veribus_proto::v1::AuditEntry| {
            entry.kind() == EntryKind::StateExpired && entry.time_unix_us >= to.0
        };
        let log = Log::read_until(&auditor(&broker).await?, |log| log.entries().iter().any(is_removed)).await?;
        let removed: Vec<_> = log.of_kind(EntryKind::StateExpired).map(|entry| &*entry.resource).collect();
        ensure!(removed.iter().all(|key| *key == "leases/young"), "{removed:?}");
    }
    ensure!(broker.client(&token).await?.state().get("leases/old").await?.is_some(), "it has fifty minutes to go");
    Ok(())
}

async fn audit(client: &Client, filter: AuditFilter) -> Result<Vec<String>, Error> {
    let entries: Vec<StoredEntry> = client.audit().query(filter.kind(EntryKind::Publish), 0, 0).try_collect().await?;
    Ok(entries.into_iter().filter_map(|stored| stored.entry.message).map(|facts| facts.id).collect())
}

#[tokio::test]
async fn times_are_filtered_by_what_the_clock_said() -> Result<()> {
    let clock = Clock::manual(START);
    let broker = start(&clock).await?;
    let client = broker.client(&lasting(&broker, "agent", &["publish:>", "audit.read"])?).await?;
    let publish = |id: &str| client.publish(Message::text("a", "test", "x").id(id));
    publish("before").await?;
    set(&broker, &clock, UnixMicros(clock.now().0 + AHEAD_US)).await?;
    publish("ahead").await?;
    set(&broker, &clock, UnixMicros(clock.now().0 - AHEAD_US + 10_000_000)).await?;
    publish("right").await?;
    let at = |seconds: i64| -> Result<std::time::SystemTime> {
        Ok(std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(START.0 + seconds).context("after the epoch")?))
    };
    let all = AuditFilter::all;
    assert_eq!(audit(&client, all().from_time(at(5)?).to_time(at(3_600)?)).await?, ["right"]);
    assert_eq!(audit(&client, all().to_time(at(5)?)).await?, ["before"]);
    assert_eq!(audit(&client, all().from_time(at(3_600)?)).await?, ["ahead"]);
    Ok(())
}
