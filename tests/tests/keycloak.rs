//! Against a real Keycloak, set up as `docs/identity-keycloak.md` shows it. Where there is none, these tests are skipped; see
//! [`veribus_tests::keycloak`].

use std::{
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tonic::Code;
use veribus_broker::{
    config::{IdentityConfig, IssuerConfig, Preset},
    model::Clock,
};
use veribus_proto::v1::{AuditEntry, EntryKind, PublishRequest};
use veribus_tests::{
    PATIENCE,
    broker::{Setup, TestBroker},
    dpop::{PUBLIC_URL, Prover, request},
    keycloak::Realm,
    messages::wire,
    raw::{Raw, RawOptions},
    streams::{PublishStream, RawSubscription, receipt},
};

const PUBLISH: &str = "/veribus.v1.BrokerService/Publish";
const TTL: Duration = Duration::from_secs(4);

/// `[[identity.issuers]]`, as the documentation shows it.
fn documented_issuer() -> Result<IssuerConfig> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity-keycloak.md"))?;
    let (_, after) = page.split_once("```toml\n[[identity.issuers]]\n").context("an issuer")?;
    let (shown, _) = after.split_once("```\n").context("its end")?;
    Ok(toml::from_str(shown)?)
}

/// A broker that trusts a realm.
async fn broker(realm: &Realm, preset: Preset) -> Result<TestBroker> {
    let url = PUBLIC_URL.parse()?;
    let issuer = IssuerConfig { issuer: realm.issuer(), preset, allow_loopback_http: true, ..documented_issuer()? };
    let setup = Setup::default().open_policy().configure(|config| {
        config.server.public_url = Some(url);
        config.identity = IdentityConfig {
            keys_ttl_s: TTL.as_secs(),
            keys_refresh_interval_s_min: 1,
            issuers: config.identity.issuers.iter().cloned().chain([issuer]).collect(),
            ..config.identity.clone()
        };
    });
    setup.start().await
}

async fn publish(agent: &Raw, id: &str, topic: &str) -> Result<(), Code> {
    let request = PublishRequest { message: Some(wire(id, topic, "text")) };
    agent.broker().publish(request).await.map(drop).map_err(|status| status.code())
}

/// What the log says of a message that is published with a token.
async fn entry(broker: &TestBroker, token: &str) -> Result<AuditEntry> {
    let id = uuid::Uuid::now_v7().to_string();
    publish(&broker.raw(token).await?, &id, "finance.x").await.map_err(anyhow::Error::msg)?;
    Ok(broker.log().await?.decision(&id)?.clone())
}

/// What the log of a broker says of a token that it refuses.
async fn refusal(realm: &Realm, preset: Preset, token: &str) -> Result<String> {
    let broker = broker(realm, preset).await?;
    let outcome = publish(&broker.raw(token).await?, "refused", "finance.x").await;
    ensure!(outcome == Err(Code::Unauthenticated), "{outcome:?}");
    let log = broker.log_with(|log| log.of_kind(EntryKind::AuthenticationRefused).count() == 1).await?;
    Ok(log.of_kind(EntryKind::AuthenticationRefused).map(|entry| entry.detail.clone()).collect())
}

#[test]
fn the_documentation_shows_an_issuer_whose_agents_are_clients() -> Result<()> {
    let issuer = documented_issuer()?;
    assert_eq!((issuer.preset, issuer.discovery), (Preset::KeycloakClients, true));
    Ok(())
}

#[tokio::test]
async fn the_documented_client_is_an_agent_with_its_roles_and_permissions() -> Result<()> {
    let Some(realm) = Realm::create("documented").await? else { return Ok(()) };
    let broker = broker(&realm, Preset::KeycloakClients).await?;
    let token = realm.documented_token()?;
    let agent = broker.raw(&token).await?;
    let mut subscription = RawSubscription::open(&agent, &["finance.>"]).await?;
    let actor = entry(&broker, &token).await?.actor.context("an actor")?;
    assert_eq!((actor.issuer, &*actor.agent), (realm.issuer(), "finance-agent"));
    assert!(actor.roles.iter().any(|role| role == "finance"), "{:?}", actor.roles);
    assert_eq!(subscription.batch().await?.map(|batch| batch.len()), Some(1));
    assert_eq!(publish(&agent, "elsewhere", "tickets.x").await, Err(Code::PermissionDenied));
    Ok(())
}
