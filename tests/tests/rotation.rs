//! Keys of tokens and the server's certificate are changed while messages pass, and none of them is lost.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use rcgen::{CertificateParams, KeyPair};
use veribus_broker::issue::{PublishedKeys, TokenIssuer};
use veribus_client::{Client, Message, Subscription, SubscriptionEvent};
use veribus_proto::v1::EntryKind;
use veribus_tests::{
    PATIENCE,
    broker::{Setup, TestBroker},
    log::Log,
    patiently,
};

const PERMISSIONS: [&str; 2] = ["publish:news", "subscribe:news"];

/// Who signs with a key of its own, in the name of the broker's issuer.
fn next_issuer(broker: &TestBroker) -> Result<TokenIssuer> {
    let claims = broker.claims("any");
    Ok(TokenIssuer::from_pem(claims.iss, claims.aud, &KeyPair::generate()?.serialize_pem())?)
}

fn change(file: &Path, change: impl FnOnce(&mut PublishedKeys) -> Result<()>) -> Result<()> {
    let mut keys = PublishedKeys::from_json(&fs::read_to_string(file)?)?;
    change(&mut keys)?;
    Ok(fs::write(file, keys.to_json())?)
}

fn claims(broker: &TestBroker, agent: &str) -> veribus_broker::issue::Claims {
    PERMISSIONS.iter().fold(broker.claims(agent), |claims, one| claims.permission(*one))
}

/// A client whose token comes from a file.
async fn client(broker: &TestBroker, token_file: &Path) -> Result<Client> {
    let builder = Client::builder(broker.url()).ca_file(broker.directory().ca_path()).token_file(token_file);
    Ok(builder.publish_for(PATIENCE).reconnect_for(PATIENCE).connect().await?)
}

/// Publishes so many messages one by one, and receives each of them.
async fn pass(sender: &Client, inbox: &mut Subscription, from: usize, count: usize) -> Result<()> {
    for number in from..from + count {
        sender.publish(Message::text("news", "note", "text").id(format!("m{number}"))).await?;
        let delivery = patiently(inbox.next()).await?.context("the subscription ended")??;
        ensure!(delivery.message.id == format!("m{number}"), "{delivery:?}");
    }
    Ok(())
}

async fn key_sets_loaded(broker: &TestBroker, count: usize) -> Result<()> {
    let loaded = |log: &Log| {
        let key_sets = log.of_kind(EntryKind::Reloaded).filter(|entry| entry.resource.starts_with("key_set"));
        key_sets.count() == count
    };
    broker.log_with(loaded).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_tokens_and_the_certificate_change_while_messages_pass() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let place = tempfile::tempdir()?;
    let (jwks, token_file) = (broker.directory().root().join("jwks.json"), place.path().join("token"));
    fs::write(&token_file, broker.sign(&claims(&broker, "agent"))?)?;
    let sender = client(&broker, &token_file).await?;
    let mut inbox = sender.subscribe(["news"]).await?;
    pass(&sender, &mut inbox, 0, 20).await?;

    // The next key is listed beside the old one; once that is loaded, tokens are signed with it; then the old one goes.
    let old = PublishedKeys::from_json(&fs::read_to_string(&jwks)?)?.key_ids().next().context("a key")?.to_owned();
    let next = next_issuer(&broker)?;
    change(&jwks, |keys| Ok(keys.add(next.key_id(), next.public_key().clone())?))?;
    key_sets_loaded(&broker, 1).await?;
    pass(&sender, &mut inbox, 20, 20).await?;
    fs::write(&token_file, next.issue(&claims(&broker, "agent"))?)?;
    let refreshed = |log: &Log| log.of_kind(EntryKind::TokenRefreshed).next().is_some();
    broker.log_with(refreshed).await?;
    pass(&sender, &mut inbox, 40, 20).await?;
    let auditor = broker.raw(&next.issue(&broker.claims("auditor").permission("audit.read"))?).await?;
    change(&jwks, |keys| Ok(keys.retire(&old)?))?;
    Log::read_until(&auditor, |log| {
        log.of_kind(EntryKind::Reloaded).filter(|entry| entry.resource.starts_with("key_set")).count() == 2
    })
    .await?;
    pass(&sender, &mut inbox, 60, 20).await?;

    let (certificate, key) = {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        (params.self_signed(&key)?.pem(), key.serialize_pem())
    };
    fs::write(broker.directory().root().join("server.key"), key)?;
    fs::write(broker.directory().root().join("server.pem"), certificate)?;
    let loaded = |log: &Log| {
        log.of_kind(EntryKind::Reloaded).any(|entry| {
            entry.resource == "server_certificate" && entry.reload.as_ref().is_some_and(|one| one.error.is_empty())
        })
    };
    Log::read_until(&auditor, loaded).await?;
    pass(&sender, &mut inbox, 80, 20).await?;
    assert_eq!((inbox.reconnects(), inbox.dropped_total()), (0, 0));
    Ok(())
}

/// As where the issuer signs with a key before the broker knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_whose_key_comes_late_costs_no_subscription() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let place = tempfile::tempdir()?;
    let (jwks, token_file) = (broker.directory().root().join("jwks.json"), place.path().join("token"));
    fs::write(&token_file, broker.sign(&claims(&broker, "agent"))?)?;
    let sender = broker.client(&broker.sign(&claims(&broker, "sender"))?).await?;
    let agent = client(&broker, &token_file).await?;
    let mut events = agent.subscribe(["news"]).await?.events();
    let next = next_issuer(&broker)?;
    fs::write(&token_file, next.issue(&claims(&broker, "agent"))?)?;
    let event = patiently(events.next()).await?.context("the subscription ended")??;
    ensure!(matches!(event, SubscriptionEvent::TokenRefused), "{event:?}");
    for number in 0..5 {
        sender.publish(Message::text("news", "note", "text").id(format!("m{number}"))).await?;
        agent.publish(Message::text("news", "note", "text").id(format!("a{number}"))).await?;
    }
    let mut got = Vec::new();
    while got.len() < 10 {
        match patiently(events.next()).await?.context("the subscription ended")?? {
            SubscriptionEvent::Delivery(delivery) => got.push(delivery.message.id.clone()),
            other => anyhow::bail!("{other:?}"),
        }
    }
    change(&jwks, |keys| Ok(keys.add(next.key_id(), next.public_key().clone())?))?;
    let refreshed = |log: &Log| log.of_kind(EntryKind::TokenRefreshed).next().is_some();
    broker.log_with(refreshed).await?;
    assert_eq!(events.subscription().reconnects(), 0);
    ensure!(got.iter().filter(|id| id.starts_with('a')).count() == 5, "{got:?}");
    tokio::time::timeout(Duration::ZERO, events.next()).await.err().context("nothing more")?;
    Ok(())
}
