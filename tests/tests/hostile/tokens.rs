//! Every class of hostile token over the wire: the client learns nothing, and the log says why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tonic::{Code, Status};
use veribus_broker::{
    config::IssuerConfig,
    model::{Clock, UnixSeconds},
};
use veribus_proto::v1::{EntryKind, PublishRequest};
use veribus_tests::{
    broker::{Setup, TestBroker},
    log::Log,
    messages::wire,
};

use crate::{
    ALONE,
    attack::{AUDIENCE, Attack, CLASSES, ISSUER, OTHER_ISSUER},
    count_panics, panics,
    signers::{Signer, key_set},
};

const TOKENS: usize = 1_000;

/// A broker that trusts both issuers of the attack, and writes each refusal down.
async fn broker(attack: &Attack, keys: &TempDir, now: UnixSeconds) -> Result<TestBroker> {
    let issuers = [issuer(keys, ISSUER, &attack.known)?, issuer(keys, OTHER_ISSUER, &attack.others)?];
    let setup = Setup::default().open_policy().configure(|config| {
        config.identity.issuers.extend(issuers);
        config.limits.authentication_refusals_recorded_per_s_max = u32::MAX;
    });
    setup.clock(&Clock::manual(now)).start().await
}

fn issuer(keys: &TempDir, name: &str, signers: &[Signer]) -> Result<IssuerConfig> {
    let file = keys.path().join(format!("{}.json", name.len()));
    fs::write(&file, key_set(signers))?;
    let settings = format!("issuer = \"{name}\"\naudience = \"{AUDIENCE}\"\njwks_file = \"{}\"", file.display());
    Ok(toml::from_str(&settings)?)
}

/// What the client learns: the same words and bytes, whatever was wrong.
fn learns(status: &Status) -> (Code, &str, &[u8]) {
    (status.code(), status.message(), status.details())
}

/// The reason, without what it is about.
fn word(detail: &str) -> &str {
    detail.split(": ").next().unwrap_or_default()
}

/// Which reasons were written down, and how often.
fn reasons(log: &Log) -> BTreeMap<&str, usize> {
    let mut reasons = BTreeMap::new();
    for entry in log.of_kind(EntryKind::AuthenticationRefused) {
        *reasons.entry(word(&entry.detail)).or_default() += 1;
    }
    reasons
}

#[tokio::test]
async fn every_class_of_hostile_token_is_refused_without_a_word_and_recorded() -> Result<()> {
    let _beside = ALONE.read().await;
    count_panics();
    // The auditor's token is issued by the clock of the machine, in a moment.
    let now = UnixSeconds(Clock::system().now().seconds().0 + 10);
    let mut attack = Attack::new(1, now.0);
    let keys = tempfile::tempdir()?;
    let broker = broker(&attack, &keys, now).await?;
    let agent = broker.raw(&attack.valid()).await?;
    let nobody = agent.with_token(None)?.broker().publish(PublishRequest::default()).await.err().context("nobody")?;
    assert_eq!((nobody.code(), nobody.message()), (Code::Unauthenticated, "unauthenticated"));
    let (mut sent, mut classes) = (1, BTreeSet::new());
    for number in 0..TOKENS {
        let (class, token) = attack.hostile();
        if token.starts_with(' ') {
            // One more after the scheme, which RFC 6750, section 2.1, allows.
            continue;
        }
        // Some cannot be sent as a header at all.
        let Ok(hostile) = agent.with_token(Some(&token)) else { continue };
        let request = PublishRequest { message: Some(wire(&format!("hostile-{number}"), "x", "text")) };
        let status = hostile.broker().publish(request).await.err().with_context(|| format!("{class}: {token}"))?;
        ensure!(learns(&status) == learns(&nobody), "{class}: {status:?}");
        sent += 1;
        classes.insert(class);
        if number % 50 == 0 {
            let valid = agent.with_token(Some(&attack.valid()))?;
            let message = Some(wire(&format!("valid-{number}"), "a.x", "text"));
            valid.broker().publish(PublishRequest { message }).await?;
        }
    }
    assert_eq!(classes.len(), CLASSES.len());
    assert_eq!(panics(), 0);

    let log = broker.log_with(|log| reasons(log).values().sum::<usize>() >= sent).await?;
    let reasons = reasons(&log);
    assert_eq!(reasons.values().sum::<usize>(), sent, "each refusal once: {reasons:?}");
    for reason in
        ["not_compact", "signature", "unknown_key", "unknown_issuer", "audience", "forbidden_header", "other_kind"]
    {
        assert!(reasons.contains_key(reason), "{reason} is not in {reasons:?}");
    }
    for entry in log.of_kind(EntryKind::AuthenticationRefused) {
        let is_a_word = word(&entry.detail).bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        ensure!(is_a_word && entry.resource == "/veribus.v1.BrokerService/Publish", "{entry:?}");
    }
    let published = log.of_kind(EntryKind::Publish).filter_map(|entry| entry.message.as_ref());
    let mut ids = published.map(|facts| facts.id.as_str());
    assert!(ids.all(|id| id.starts_with("valid-")), "only what was sent with a valid token");
    Ok(())
}
