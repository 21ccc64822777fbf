//! The SDK proves to a real broker who it is, and stays that while its streams run.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use serde_json::json;
use veribus_broker::{config::ClientCertificates, issue::Claims};
use veribus_client::{Client, ClientBuilder, DpopKey, Message, Token};
use veribus_proto::v1::EntryKind;
use veribus_tests::{
    broker::{Setup, TestBroker},
    certificates::{ClientAuthority, ClientCertificate},
    patiently,
};

/// How long a token of these tests is good for.
const LIFETIME: Duration = Duration::from_secs(3);
/// For how many of those the streams run.
const LIFETIMES: u32 = 3;

fn builder(broker: &TestBroker) -> ClientBuilder {
    Client::builder(broker.url()).ca_file(broker.directory().ca_path())
}

fn claims(broker: &TestBroker, agent: &str) -> Claims {
    broker.claims(agent).permission("publish:>").permission("subscribe:>")
}

/// The message passes from a client to itself.
async fn passes(client: &Client, id: &str) -> Result<()> {
    let mut inbox = client.subscribe([">"]).await?;
    client.publish(Message::text("x", "test", "text").id(id)).await?;
    let delivery = patiently(inbox.next()).await?.context("the subscription ended")??;
    assert_eq!(delivery.message.id, id);
    Ok(())
}

#[tokio::test]
async fn a_client_with_a_key_proves_that_it_holds_it() -> Result<()> {
    let broker = Setup::default()
        .open_policy()
        .configure(|config| {
            config.server.public_url = "https://broker.example:7443".parse().ok();
        })
        .start()
        .await?;
    let key = DpopKey::generate()?;
    let token = broker.sign(&claims(&broker, "agent").claim("cnf", json!({ "jkt": key.thumbprint() })))?;
    let with = |key: DpopKey| {
        builder(&broker).token(token.clone()).public_url("https://broker.example:7443").dpop(key).connect()
    };
    passes(&with(key.clone()).await?, "own").await?;
    let thief = with(DpopKey::generate()?).await;
    let stolen = match thief {
        Ok(client) => client.publish(Message::text("x", "test", "text")).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(stolen, Err(veribus_client::Error::Unauthenticated)), "{stolen:?}");
    let log = broker.log().await?;
    let published = log.of_kind(EntryKind::Publish).next().context("published")?;
    let confirmation = &published.actor.as_ref().context("an actor")?.confirmation;
    assert_eq!(*confirmation, format!("jkt:{}", key.thumbprint()));
    assert_eq!(log.of_kind(EntryKind::Publish).count(), 1);
    Ok(())
}

fn write(place: &Path, certificate: &ClientCertificate) -> Result<[std::path::PathBuf; 2]> {
    let files = [place.join("client.pem"), place.join("client.key")];
    fs::write(&files[0], certificate.chain_pem())?;
    fs::write(&files[1], certificate.key_pem())?;
    Ok(files)
}

#[tokio::test]
async fn a_client_with_a_certificate_is_the_one_that_its_token_names() -> Result<()> {
    let authority = ClientAuthority::new()?;
    let place = tempfile::tempdir()?;
    let ca = place.path().join("clients.pem");
    fs::write(&ca, authority.pem())?;
    let broker = Setup::default()
        .open_policy()
        .configure(move |config| {
            config.server.client_certificates = ClientCertificates::Required;
            config.server.client_ca_file = Some(ca);
        })
        .start()
        .await?;
    let certificate = authority.issue("agent")?;
    let [chain, key] = write(place.path(), &certificate)?;
    let bound = claims(&broker, "agent").claim("cnf", json!({ "x5t#S256": certificate.thumbprint() }));
    let token = broker.sign(&bound)?;
    passes(&builder(&broker).token(token).client_certificate_files(chain, key).connect().await?, "own").await
}

#[tokio::test]
async fn a_gateway_publishes_for_others_under_their_names() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let gateway = broker.client(&broker.token("gateway", &["publish:>"])?).await?;
    let speaker = Token::new(broker.token("speaker", &["publish:x"])?)?;
    let publisher = gateway.publisher();
    let message = |topic: &str| Message::text(topic, "test", "text").on_behalf_of(speaker.clone());
    let receipt = publisher.send(message("x")).await?.await?;
    assert!(publisher.send(message("y")).await?.await.is_err(), "what the gateway may and the speaker may not");
    let log = broker.log().await?;
    let entry = log.at(receipt.audit_index)?;
    let name = |actor: &Option<veribus_proto::v1::Actor>| actor.as_ref().map(|actor| actor.agent.clone());
    assert_eq!((name(&entry.actor), name(&entry.via)), (Some("speaker".to_owned()), Some("gateway".to_owned())));
    Ok(())
}

#[tokio::test]
async fn streams_run_on_over_many_tokens_and_each_message_arrives_once() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("token.jwt");
    let sign = || {
        let claims = claims(&broker, "agent");
        let exp = claims.iat.saturating_add_unsigned(LIFETIME.as_secs());
        broker.sign(&Claims { exp, ..claims })
    };
    fs::write(&file, sign()?)?;
    let client = builder(&broker).token_file(&file).connect().await?;
    let mut inbox = client.subscribe([">"]).await?;
    let publisher = client.publisher();
    let end = tokio::time::Instant::now() + LIFETIME * LIFETIMES;
    let (mut sent, mut renewed) = (Vec::new(), tokio::time::Instant::now());
    while tokio::time::Instant::now() < end {
        if renewed.elapsed() > LIFETIME / 3 {
            // As an agent beside it would: written aside, then put in its place.
            fs::write(place.path().join("next"), sign()?)?;
            fs::rename(place.path().join("next"), &file)?;
            renewed = tokio::time::Instant::now();
        }
        let id = format!("m-{}", sent.len());
        publisher.send(Message::text("x", "test", "text").id(&*id)).await?.await?;
        let delivery = patiently(inbox.next()).await?.context("the subscription ended")??;
        assert_eq!(delivery.message.id, id, "in order, each once");
        sent.push(id);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let log = broker.log().await?;
    assert_eq!(log.of_kind(EntryKind::Publish).count(), sent.len());
    let opened = log.of_kind(EntryKind::Subscribe).count();
    assert_eq!(opened, 1, "one subscription all the way");
    assert!(log.of_kind(EntryKind::TokenRefreshed).count() >= 2 * (LIFETIMES as usize - 1), "on both streams");
    Ok(())
}
