//! Who may read what: every combination of token and value, with the one answer that is right.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use tonic::Code;
use veribus_broker::model::{Clock, UnixSeconds};
use veribus_proto::v1::{
    PutRequest, Revocation, RevokeRequest, RotateKeysRequest, ShredKeyRequest, revocation::Target,
    state_operation::Operation, state_result::Result as Answer,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    raw::{Raw, reason},
    state::{StateSession, delete, get, put},
};

const SCOPES: [&str; 4] = ["kept", "kept.deep", "burnt", "burnt.deep"];
const VALUES: [&str; 4] = ["there", "deleted", "expired", "never"];
const EPOCHS: [u32; 2] = [1, 2];
/// What a token may decrypt.
const CLAIMS: [Claim; 6] = [
    Claim { name: "none", patterns: &[], covers: |_| false },
    Claim { name: "others", patterns: &["elsewhere", "kept.deep.er"], covers: |_| false },
    Claim { name: "top", patterns: &["kept", "burnt"], covers: |scope| !scope.contains('.') },
    Claim { name: "below", patterns: &["kept.>", "burnt.*"], covers: |scope| scope.contains('.') },
    Claim {
        name: "two",
        patterns: &["elsewhere", "burnt.deep", "kept"],
        covers: |scope| scope == "burnt.deep" || scope == "kept",
    },
    ALL,
];
const ALL: Claim = Claim { name: "all", patterns: &[">"], covers: |_| true };

#[derive(Debug, Clone, Copy)]
struct Claim {
    name: &'static str,
    patterns: &'static [&'static str],
    /// Whether it covers a scope.
    covers: fn(&str) -> bool,
}

/// What there is to know of a token.
#[derive(Debug, Clone, Copy)]
struct Holder {
    claim: Claim,
    permitted: bool,
    revoked: bool,
}

/// What there is to know of a value.
#[derive(Debug, Clone, Copy)]
struct Kept {
    scope: &'static str,
    epoch: u32,
    value: &'static str,
}

impl Kept {
    fn key(self) -> String {
        format!("{}/{}-{}", self.scope, self.value, self.epoch)
    }

    fn all() -> impl Iterator<Item = Self> {
        SCOPES.into_iter().flat_map(|scope| {
            EPOCHS.into_iter().flat_map(move |epoch| VALUES.into_iter().map(move |value| Self { scope, epoch, value }))
        })
    }
}

/// The right answer, in the broker's words.
fn right(holder: Holder, kept: Kept) -> String {
    let may_decrypt = (holder.claim.covers)(kept.scope);
    let is_shredded = kept.scope.starts_with("burnt") && kept.epoch == 1;
    match (holder.revoked, holder.permitted, may_decrypt, kept.value) {
        (true, ..) => "UNAUTHENTICATED".to_owned(),
        (_, false, ..) => "MISSING_PERMISSION".to_owned(),
        (_, _, false, _) => "MISSING_DECRYPT_CLAIM".to_owned(),
        (.., "there") if is_shredded => "SHREDDED".to_owned(),
        (.., "there") => format!("value {}", kept.key()),
        _ => "NOT_FOUND".to_owned(),
    }
}

/// Values of two epochs in four scopes, of which the first epoch is shredded in two; and a clock past the time of some.
async fn prepared() -> Result<TestBroker> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let broker = Setup::default().open_policy().clock(&clock).start().await?;
    let owner = broker.raw(&broker.token("owner", &["state.write:>"])?).await?;
    let operator = broker.raw(&broker.token("operator", &["admin.keys"])?).await?;
    for epoch in EPOCHS {
        for kept in Kept::all().filter(|kept| kept.epoch == epoch && kept.value != "never") {
            let ttl_s = if kept.value == "expired" { 60 } else { 0 };
            owner.state().put(PutRequest { ttl_s, ..put(&kept.key(), &kept.key()) }).await?;
            if kept.value == "deleted" {
                owner.state().delete(delete(&kept.key())).await?;
            }
        }
        if epoch == 1 {
            operator.admin().rotate_keys(RotateKeysRequest { scope: String::new() }).await?;
        }
    }
    for scope in ["burnt", "burnt.deep"] {
        operator.admin().shred_key(ShredKeyRequest { scope: scope.to_owned(), epoch: 1 }).await?;
    }
    clock.advance(Duration::from_secs(60));
    Ok(broker)
}

async fn holder_of(broker: &TestBroker, holder: Holder) -> Result<(Raw, String)> {
    let name = format!("reader-{}-{}-{}", holder.claim.name, holder.permitted, holder.revoked);
    let claims = holder.claim.patterns.iter().fold(broker.claims(&name), |claims, scope| claims.decrypt(*scope));
    let claims = if holder.permitted { claims.permission("state.read:>") } else { claims.permission("state.write:>") };
    Ok((broker.raw(&broker.sign(&claims)?).await?, name))
}

#[tokio::test]
async fn every_reader_gets_the_right_answer_about_every_value() -> Result<()> {
    let broker = prepared().await?;
    let operator = broker.raw(&broker.token("operator", &["admin.revoke"])?).await?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for claim in CLAIMS {
        for permitted in [true, false] {
            for revoked in [false, true] {
                let holder = Holder { claim, permitted, revoked };
                let (raw, name) = holder_of(&broker, holder).await?;
                if revoked {
                    let issuer = broker.claims("x").iss;
                    let revocation = Revocation { issuer, target: Some(Target::Agent(name)), ..Revocation::default() };
                    operator.admin().revoke(RevokeRequest { revocation: Some(revocation) }).await?;
                }
                for kept in Kept::all() {
                    let answer = match raw.state().get(get(&kept.key())).await {
                        Ok(got) => {
                            let value = got.into_inner().value.context("a value")?.value;
                            format!("value {}", String::from_utf8_lossy(&value))
                        }
                        Err(status) => reason(&status),
                    };
                    assert_eq!(answer, right(holder, kept), "{holder:?} {kept:?}");
                    *counts.entry(answer.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
                }
                if !revoked {
                    assert_eq!(
                        by_session(&raw).await?,
                        Kept::all().map(|kept| right(holder, kept)).collect::<Vec<_>>()
                    );
                }
            }
        }
    }
    println!("{counts:?}");
    let kinds = ["MISSING_DECRYPT_CLAIM", "MISSING_PERMISSION", "NOT_FOUND", "SHREDDED", "UNAUTHENTICATED", "value"];
    assert!(counts.keys().eq(kinds), "each answer is the right one somewhere: {counts:?}");
    Ok(())
}

/// The same, all in one request.
async fn by_session(raw: &Raw) -> Result<Vec<String>> {
    let mut session = StateSession::open(raw).await?;
    let answers = session.run(Kept::all().map(|kept| Operation::Get(get(&kept.key()))).collect()).await?;
    let word = |answer| match answer {
        Answer::Get(got) => {
            format!("value {}", String::from_utf8_lossy(&got.value.map(|value| value.value).unwrap_or_default()))
        }
        Answer::Refusal(refusal) => refusal.reason,
        other => format!("{other:?}"),
    };
    Ok(answers.into_iter().map(word).collect())
}

/// The broker went through it all with the data that it has: after a restart the answers are the same.
#[tokio::test]
async fn the_answers_are_the_same_after_a_restart() -> Result<()> {
    let broker = prepared().await?.stop().await?.start().await?;
    let holder = Holder { claim: ALL, permitted: true, revoked: false };
    let (raw, _) = holder_of(&broker, holder).await?;
    assert_eq!(by_session(&raw).await?, Kept::all().map(|kept| right(holder, kept)).collect::<Vec<_>>());
    let burnt = raw.state().get(get("burnt/there-1")).await.expect_err("shredded");
    assert_eq!(burnt.code(), Code::DataLoss);
    Ok(())
}
