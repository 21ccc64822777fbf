//! Against a real Keycloak, set up as `docs/identity.md` shows it. Where there is none, these tests are skipped; see
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
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/identity.md"))?;
    let (_, section) = page.split_once("## Keycloak in ten minutes\n").context("the section")?;
    let (_, after) = section.split_once("```toml\n[[identity.issuers]]\n").context("an issuer")?;
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

#[tokio::test]
async fn tokens_of_every_kind_are_taken_or_refused_and_the_log_says_why() -> Result<()> {
    let Some(realm) = Realm::create("kinds").await? else { return Ok(()) };
    realm.run(&["more"]).await?;
    let clients = broker(&realm, Preset::KeycloakClients).await?;
    for client in ["signed-RS256", "signed-ES256", "signed-EdDSA", "signed-PS256", "typed"] {
        let entry = entry(&clients, &realm.token(client).await?).await.context(client)?;
        assert_eq!(entry.actor.context("an actor")?.agent, client);
    }
    let [rs512, es512] = [realm.token("signed-RS512").await?, realm.token("signed-ES512").await?];
    let (lightweight, user) = (realm.token("lightweight").await?, realm.token_of_user("people").await?);
    let user_of_client = realm.token_of_user("people-named").await?;
    let [no_profile, no_audience] = [realm.token("no-profile").await?, realm.token("no-audience").await?];
    for (token, detail) in [
        (&no_profile, "claim: preferred_username"),
        (&no_audience, "audience"),
        (&rs512, "algorithm: RS512"),
        (&es512, "algorithm: ES512"),
        (&lightweight, "claim: aud"),
        (&user, "claim: client_id"),
        (&user_of_client, "claim: preferred_username"),
    ] {
        assert_eq!(refusal(&realm, Preset::KeycloakClients, token).await?, detail);
    }
    // The other preset takes users, by their id.
    let people = broker(&realm, Preset::Keycloak).await?;
    let ada = entry(&people, &user).await?.actor.context("an actor")?;
    assert!(uuid::Uuid::parse_str(&ada.agent).is_ok(), "{}", ada.agent);

    exchanged_tokens(&realm, &people).await?;
    a_token_bound_to_a_key(&realm, &clients).await?;
    let token = realm.token("signed-ES256").await?;
    realm.run(&["disable-client", "signed-ES256"]).await?;
    entry(&clients, &token).await.context("the token that a client had before it was disabled")?;
    let refused = realm.token("signed-ES256").await.err().context("a disabled client got a token")?;
    assert!(format!("{refused:#}").contains("401"), "{refused:#}");
    Ok(())
}

/// Keycloak 26.7 names no actor by itself; a claim mapper of the gateway's client does. It writes no `client_id`.
async fn exchanged_tokens(realm: &Realm, people: &TestBroker) -> Result<()> {
    let subject = realm.token("delegating").await?;
    let own = entry(people, &subject).await?.actor.context("an actor")?;
    for (gateway, expected) in [("gateway", None), ("acting-gateway", Some("acting-gateway"))] {
        let token_type = "urn:ietf:params:oauth:token-type:access_token";
        let grant = ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
        let form = [grant, ("subject_token", &*subject), ("subject_token_type", token_type)];
        let exchanged = realm.token_for(gateway, &form, &[]).await?;
        let actor = entry(people, &exchanged).await?.actor.context("an actor")?;
        assert_eq!(actor.agent, own.agent);
        assert_eq!(actor.delegation.first().map(|one| &*one.agent), expected);
        assert_eq!(refusal(realm, Preset::KeycloakClients, &exchanged).await?, "claim: client_id");
    }
    Ok(())
}

async fn a_token_bound_to_a_key(realm: &Realm, clients: &TestBroker) -> Result<()> {
    let (prover, now) = (Prover::new()?, Clock::system().now().seconds().0);
    let id = uuid::Uuid::now_v7().to_string();
    let wanted = json!({ "jti": id, "htm": "POST", "htu": realm.token_url(), "iat": now });
    let header = format!("DPoP: {}", prover.sign(&wanted)?);
    let token = realm.token_for("holder", &[("grant_type", "client_credentials")], &["-H", &header]).await?;
    let raw = clients.raw_with(None, RawOptions::default()).await?;
    let proof = prover.sign(&Prover::claims(&token, PUBLISH, now))?;
    for (scheme, proofs, expected) in [
        ("DPoP", &[&*proof][..], Code::Ok),
        ("DPoP", &[], Code::Unauthenticated),
        ("Bearer", &[], Code::Unauthenticated),
    ] {
        let message = PublishRequest { message: Some(wire("", "finance.x", "text")) };
        let answer = raw.broker().publish(request(message, scheme, &token, proofs)?).await;
        assert_eq!(answer.err().map_or(Code::Ok, |status| status.code()), expected, "{scheme}");
    }
    let bound = format!("jkt:{}", prover.thumbprint());
    let is_bound = |entry: &&AuditEntry| entry.actor.as_ref().is_some_and(|actor| actor.confirmation == bound);
    let log = clients.log_with(|log| log.of_kind(EntryKind::AuthenticationRefused).count() == 2).await?;
    assert!(log.of_kind(EntryKind::Publish).any(|entry| is_bound(&entry)));
    let details: Vec<_> = log.of_kind(EntryKind::AuthenticationRefused).map(|entry| &*entry.detail).collect();
    assert_eq!(details, ["dpop_missing", "dpop_as_bearer"]);
    Ok(())
}

/// Publishes again and again until the token is refused.
async fn refused_after(agent: &Raw, since: Instant) -> Result<Duration> {
    for number in 0.. {
        match publish(agent, &format!("again-{number}"), "finance.x").await {
            Ok(()) => ensure!(since.elapsed() < PATIENCE, "still accepted"),
            Err(code) => {
                ensure!(code == Code::Unauthenticated, "{code}");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(since.elapsed())
}

#[tokio::test]
async fn keys_of_a_realm_rotate_and_a_disabled_one_ends_its_sessions() -> Result<()> {
    let Some(realm) = Realm::create("rotation").await? else { return Ok(()) };
    let broker = broker(&realm, Preset::KeycloakClients).await?;
    let old = broker.raw(&realm.documented_token()?).await?;
    publish(&old, "old", "finance.x").await.map_err(anyhow::Error::msg)?;
    let mut stream = PublishStream::open(&old).await?;
    receipt(stream.publish(vec![wire("stream", "finance.x", "text")]).await?.first().context("one")?)?;

    realm.run(&["key", "next", "rsa-generated", "RS256"]).await?;
    realm.run(&["set-key", "rsa-generated", "passive"]).await?;
    let new = broker.raw(&realm.token("finance-agent").await?).await?;
    publish(&new, "new", "finance.x").await.map_err(anyhow::Error::msg).context("a key that is not known yet")?;
    // Longer than a key counts that is no longer listed.
    tokio::time::sleep(TTL + Duration::from_secs(1)).await;
    publish(&old, "old-again", "finance.x").await.map_err(anyhow::Error::msg).context("a passive key")?;

    realm.run(&["set-key", "rsa-generated", "disabled"]).await?;
    let took = refused_after(&old, Instant::now()).await?;
    assert!(took < TTL, "{took:?}");
    writeln!(std::io::stdout(), "a disabled key was refused after {took:?}, time to live {TTL:?}")?;
    // It may have ended already.
    stream.send(vec![wire("late", "finance.x", "text")]).await.ok();
    assert_eq!(stream.results().await.err().map(|status| status.code()), Some(Code::Unauthenticated));
    publish(&new, "new-again", "finance.x").await.map_err(anyhow::Error::msg).context("the key that stays")?;
    let log = broker.log_with(|log| log.of_kind(EntryKind::AuthenticationRefused).count() > 0).await?;
    let details: Vec<_> = log.of_kind(EntryKind::AuthenticationRefused).map(|entry| &*entry.detail).collect();
    assert!(details.iter().all(|detail| ["key_withdrawn", "unknown_key"].contains(detail)), "{details:?}");
    assert!(log.decisions("late").is_empty());
    Ok(())
}
