//! Who may read what: every combination of token and value, with the one answer that is right.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use tonic::Code;
use veribus_broker::{
    config::HistoryConfig,
    model::{Clock, UnixSeconds},
};
use veribus_proto::v1::{
    GetRequest, PutRequest, Revocation, RevokeRequest, RotateKeysRequest, ShredKeyRequest, StateChange,
    revocation::Target, state_change::Change, state_operation::Operation, state_result::Result as Answer,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    raw::{Raw, reason},
    state::{StateSession, StateWatch, delete, get, list, put},
};

const SCOPES: [&str; 4] = ["kept", "kept.deep", "burnt", "burnt.deep"];
const VALUES: [&str; 4] = ["there", "deleted", "expired", "never"];
const EPOCHS: [u32; 2] = [1, 2];
/// How a value is read.
const READS: [Read; 4] = [Read::Newest, Read::Old, Read::List, Read::Watch];
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    Newest,
    /// `Get` with the revision of the version before.
    Old,
    /// `List` from this key on.
    List,
    /// `Watch` of this key by one who was shown nothing so far.
    Watch,
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

    /// The text of the version before.
    fn old(self) -> String {
        format!("{} of old", self.key())
    }

    fn all() -> impl Iterator<Item = Self> {
        SCOPES.into_iter().flat_map(|scope| {
            EPOCHS.into_iter().flat_map(move |epoch| VALUES.into_iter().map(move |value| Self { scope, epoch, value }))
        })
    }
}

/// The right answer, in the broker's words.
fn right(read: Read, holder: Holder, kept: Kept) -> String {
    let may_decrypt = (holder.claim.covers)(kept.scope);
    let is_shredded = kept.scope.starts_with("burnt") && kept.epoch == 1;
    match (holder.revoked, holder.permitted, may_decrypt, kept.value) {
        (true, ..) => "UNAUTHENTICATED".to_owned(),
        (_, false, ..) => "MISSING_PERMISSION".to_owned(),
        (_, _, false, _) => "MISSING_DECRYPT_CLAIM".to_owned(),
        // What is shredded has a name still.
        (.., "there") if read == Read::List => format!("name {}", kept.key()),
        (.., "there") if is_shredded => "SHREDDED".to_owned(),
        (.., "there") if read == Read::Old => format!("value {}", kept.old()),
        (.., "there") => format!("value {}", kept.key()),
        _ if matches!(read, Read::List | Read::Watch) => "nothing".to_owned(),
        _ => "NOT_FOUND".to_owned(),
    }
}

/// The revision of each key's version before the newest; 1, which is no value's, where there never was one.
type OldRevisions = BTreeMap<String, u64>;

/// Values of two epochs in four scopes, two versions of each, of which the first epoch is shredded in two; and a clock past
/// the time of some.
async fn prepared() -> Result<(TestBroker, OldRevisions)> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let history = HistoryConfig { scopes: ">".to_owned(), versions: 3 };
    let setup = Setup::default().open_policy().clock(&clock);
    let broker = setup.configure(|config| config.state.histories.push(history)).start().await?;
    let mut old: OldRevisions = Kept::all().map(|kept| (kept.key(), 1)).collect();
    let owner = broker.raw(&broker.token("owner", &["state.write:>"])?).await?;
    let operator = broker.raw(&broker.token("operator", &["admin.keys"])?).await?;
    for epoch in EPOCHS {
        for kept in Kept::all().filter(|kept| kept.epoch == epoch && kept.value != "never") {
            let ttl_s = if kept.value == "expired" { 60 } else { 0 };
            let before = owner.state().put(put(&kept.key(), &kept.old())).await?.into_inner().revision;
            old.insert(kept.key(), before);
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
    Ok((broker, old))
}

/// The read of one value, and its answer.
async fn answer(raw: &Raw, read: Read, kept: Kept, old: &OldRevisions) -> Result<String> {
    let answer = match read {
        Read::Newest => raw.state().get(get(&kept.key())).await.map(|got| Answer::Get(got.into_inner())),
        Read::Old => raw.state().get(get_old(kept, old)).await.map(|got| Answer::Get(got.into_inner())),
        Read::List => raw.state().list(list(&kept.key())).await.map(|page| Answer::List(page.into_inner())),
        Read::Watch => match StateWatch::open(raw, &kept.key(), 0).await {
            Ok(mut watch) => return Ok(shown(kept, watch.initial().await?)),
            Err(refused) => Err(refused),
        },
    };
    Ok(answer.map_or_else(|status| reason(&status), word))
}

fn get_old(kept: Kept, old: &OldRevisions) -> GetRequest {
    GetRequest { revision: old.get(&kept.key()).copied().unwrap_or_default(), ..get(&kept.key()) }
}

/// The newest version alone: the one before is shown too for as long as the broker remembers that it came, but not for longer,
/// and not where it is shredded.
fn shown(kept: Kept, changes: Vec<StateChange>) -> String {
    let changes = changes.into_iter().filter_map(|change| change.change).map(|change| match change {
        Change::Put(value) => format!("value {}", String::from_utf8_lossy(&value.value)),
        Change::Shredded(_) => "SHREDDED".to_owned(),
        gone @ Change::Gone(_) => format!("{gone:?}"),
    });
    let mut changes: Vec<_> = changes.collect();
    changes.dedup();
    if changes == [kept.old(), kept.key()].map(|text| format!("value {text}")) {
        changes.remove(0);
    }
    joined(changes)
}

fn word(answer: Answer) -> String {
    match answer {
        Answer::Get(got) => {
            format!("value {}", String::from_utf8_lossy(&got.value.map(|value| value.value).unwrap_or_default()))
        }
        Answer::List(page) => joined(page.values.into_iter().map(|value| format!("name {}", value.key)).collect()),
        Answer::Refusal(refusal) => refusal.reason,
        other => format!("{other:?}"),
    }
}

fn joined(answers: Vec<String>) -> String {
    if answers.is_empty() { "nothing".to_owned() } else { answers.join(", ") }
}

async fn holder_of(broker: &TestBroker, holder: Holder) -> Result<(Raw, String)> {
    let name = format!("reader-{}-{}-{}", holder.claim.name, holder.permitted, holder.revoked);
    let claims = holder.claim.patterns.iter().fold(broker.claims(&name), |claims, scope| claims.decrypt(*scope));
    let claims = if holder.permitted { claims.permission("state.read:>") } else { claims.permission("state.write:>") };
    Ok((broker.raw(&broker.sign(&claims)?).await?, name))
}

#[tokio::test]
async fn every_reader_gets_the_right_answer_about_every_value() -> Result<()> {
    let (broker, old) = prepared().await?;
    let operator = broker.raw(&broker.token("operator", &["admin.revoke"])?).await?;
    let mut words: BTreeMap<Read, BTreeSet<String>> = BTreeMap::new();
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
                for (read, kept) in READS.into_iter().flat_map(|read| Kept::all().map(move |kept| (read, kept))) {
                    let answer = answer(&raw, read, kept, &old).await?;
                    assert_eq!(answer, right(read, holder, kept), "{read:?} {holder:?} {kept:?}");
                    let word = answer.split(' ').next().unwrap_or_default().to_owned();
                    words.entry(read).or_default().insert(word);
                }
                if !revoked {
                    assert_eq!(by_session(&raw, &old).await?, right_by_session(holder), "{holder:?}");
                }
            }
        }
    }
    let refusals = ["MISSING_DECRYPT_CLAIM", "MISSING_PERMISSION", "UNAUTHENTICATED"];
    for (read, others) in [
        (Read::Newest, &["NOT_FOUND", "SHREDDED", "value"][..]),
        (Read::Old, &["NOT_FOUND", "SHREDDED", "value"]),
        (Read::List, &["name", "nothing"]),
        (Read::Watch, &["SHREDDED", "nothing", "value"]),
    ] {
        let all = refusals.iter().chain(others).map(|word| (*word).to_owned()).collect();
        assert_eq!(words.get(&read), Some(&all), "each answer is the right one somewhere: {read:?}");
    }
    Ok(())
}

/// The same but for watches, all in one request.
async fn by_session(raw: &Raw, old: &OldRevisions) -> Result<Vec<String>> {
    let mut session = StateSession::open(raw).await?;
    let operations = Kept::all().flat_map(|kept| {
        [Operation::Get(get(&kept.key())), Operation::Get(get_old(kept, old)), Operation::List(list(&kept.key()))]
    });
    Ok(session.run(operations.collect()).await?.into_iter().map(word).collect())
}

fn right_by_session(holder: Holder) -> Vec<String> {
    let reads = [Read::Newest, Read::Old, Read::List];
    Kept::all().flat_map(|kept| reads.map(|read| right(read, holder, kept))).collect()
}

/// The broker went through it all with the data that it has: after a restart the answers are the same.
#[tokio::test]
async fn the_answers_are_the_same_after_a_restart() -> Result<()> {
    let (broker, old) = prepared().await?;
    let broker = broker.stop().await?.start().await?;
    let holder = Holder { claim: ALL, permitted: true, revoked: false };
    let (raw, _) = holder_of(&broker, holder).await?;
    assert_eq!(by_session(&raw, &old).await?, right_by_session(holder));
    for kept in Kept::all() {
        assert_eq!(answer(&raw, Read::Watch, kept, &old).await?, right(Read::Watch, holder, kept), "{kept:?}");
    }
    let burnt = raw.state().get(get("burnt/there-1")).await.expect_err("shredded");
    assert_eq!(burnt.code(), Code::DataLoss);
    Ok(())
}
