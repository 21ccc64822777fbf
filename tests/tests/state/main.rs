//! Shared state over the wire: what comes back, in which order, and to whom.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use veribus_broker::{
    config::HistoryConfig,
    model::{Clock, UnixSeconds},
};
use veribus_proto::{
    content,
    v1::{
        Decision, DeleteRequest, EntryKind, GetRequest, ListRequest, PutRequest, StateRead, state_change::Change,
        state_operation::Operation, state_result::Result as Answer, watch_response::Response,
    },
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    raw::{Raw, reason},
    state::{StateSession, StateWatch, delete, get, list, put, put_if},
};

mod lists;
mod refusals;
mod watches;

const GRANTS: [&str; 2] = ["state.read:>", "state.write:>"];

async fn broker() -> Result<TestBroker> {
    let deep = HistoryConfig { scopes: "deep".to_owned(), versions: 3 };
    Setup::default().open_policy().configure(|config| config.state.histories.push(deep)).start().await
}

/// A token with these permissions that may decrypt these scopes.
fn token(broker: &TestBroker, agent: &str, permissions: &[&str], decrypt: &[&str]) -> Result<String> {
    let claims = permissions.iter().fold(broker.claims(agent), |claims, one| claims.permission(*one));
    broker.sign(&decrypt.iter().fold(claims, |claims, scope| claims.decrypt(*scope)))
}

async fn agent(broker: &TestBroker, name: &str) -> Result<Raw> {
    broker.raw(&token(broker, name, &GRANTS, &[">"])?).await
}

async fn written(raw: &Raw, request: PutRequest) -> Result<u64> {
    Ok(raw.state().put(request).await?.into_inner().revision)
}

async fn read(raw: &Raw, key: &str) -> Result<String, Status> {
    let response = raw.state().get(get(key)).await?.into_inner();
    Ok(String::from_utf8_lossy(&response.value.unwrap_or_default().value).into_owned())
}

fn metadata(status: &Status, name: &str) -> String {
    status.get_details_error_info().and_then(|info| info.metadata.get(name).cloned()).unwrap_or_default()
}

#[tokio::test]
async fn what_is_written_is_read_and_each_step_is_in_the_log() -> Result<()> {
    let broker = broker().await?;
    let (writer, reader) = (agent(&broker, "writer").await?, agent(&broker, "reader").await?);
    let put_response = writer.state().put(put("notes/a", "first")).await?.into_inner();
    let got = reader.state().get(get("notes/a")).await?.into_inner();
    let value = got.value.context("a value")?;
    let about = value.metadata.context("metadata")?;
    assert_eq!(value.value, "first");
    assert_eq!((about.key.as_str(), about.revision, about.size_bytes), ("notes/a", put_response.revision, 5));
    assert_eq!((about.content_type.as_str(), about.expires_at), ("text/plain", None));
    assert_eq!(about.writer.context("a writer")?.agent, "writer");
    let gone = writer.state().delete(delete("notes/a")).await?.into_inner();
    assert!(gone.existed && gone.revision > got.audit_index);
    let missing = read(&reader, "notes/a").await.expect_err("gone");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "NOT_FOUND"));
    assert!(!writer.state().delete(delete("notes/a")).await?.into_inner().existed);

    let log = broker.log().await?;
    let entry = log.at(put_response.revision)?;
    assert_eq!((entry.kind(), entry.resource.as_str()), (EntryKind::StatePut, "notes/a"));
    let (facts, state) = (entry.message.as_ref().context("facts")?, entry.state.as_ref().context("state")?);
    assert_eq!((state.previous_revision, state.epoch), (0, 1));
    let salt = put_response.content_salt.try_into().ok().context("a salt")?;
    assert_eq!(
        facts.content_digest,
        content::digest(&salt, &content::value_hash("notes/a", "text/plain", b"first")),
        "provable, and not to be guessed"
    );
    let read = log.at(got.audit_index)?;
    assert_eq!(read.actor.as_ref().context("an actor")?.agent, "reader");
    assert_eq!(
        read.state.as_ref().context("state")?.reads,
        [StateRead { key: String::new(), revision: put_response.revision }]
    );
    assert_eq!(log.at(gone.revision)?.state.as_ref().context("state")?.previous_revision, put_response.revision);
    let kinds: Vec<_> = log.of_kind(EntryKind::Keys).map(|entry| entry.detail.as_str()).collect();
    assert_eq!(kinds, ["created"], "the scope's first key has an entry of its own");
    let of_nothing = log.of_kind(EntryKind::StateRead).last().context("an entry")?;
    assert!(of_nothing.state.as_ref().is_none_or(|state| state.reads.is_empty()), "nothing was handed over");
    Ok(())
}

#[tokio::test]
async fn a_write_that_expects_another_revision_is_refused_and_told_what_stands_there() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    let first = written(&raw, put_if("notes/a", "1", 0)).await?;
    let again = raw.state().put(put_if("notes/a", "2", 0)).await.expect_err("there is one");
    assert_eq!((again.code(), reason(&again).as_str()), (Code::Aborted, "REVISION_CONFLICT"));
    assert_eq!(metadata(&again, "current_revision"), first.to_string());
    let second = written(&raw, put_if("notes/a", "2", first)).await?;
    let stale = DeleteRequest { expected_revision: Some(first), ..delete("notes/a") };
    let stale = raw.state().delete(stale).await.expect_err("not that one any more");
    assert_eq!(metadata(&stale, "current_revision"), second.to_string());
    let index = metadata(&stale, "audit_index").parse()?;
    let log = broker.log().await?;
    let denied = log.at(index)?.decision.as_ref().context("a decision")?;
    assert_eq!(
        (denied.decision(), denied.rules.last().map(String::as_str)),
        (Decision::Deny, Some("native/revision-conflict"))
    );
    assert_eq!(read(&raw, "notes/a").await?, "2");
    Ok(())
}

#[tokio::test]
async fn as_many_versions_are_kept_as_the_scope_says() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    let long = "x".repeat(20_000);
    let mut revisions = Vec::new();
    for (number, filler) in ["", &long, "", &long, ""].into_iter().enumerate() {
        revisions.push(written(&raw, put("deep/a", &format!("{number}{filler}"))).await?);
        written(&raw, put("notes/a", &format!("{number}{filler}"))).await?;
    }
    let at = |key: &str, revision| GetRequest { key: key.to_owned(), revision };
    for (number, revision) in revisions.iter().enumerate() {
        let got = raw.state().get(at("deep/a", *revision)).await;
        match number {
            0 | 1 => assert_eq!(got.expect_err("no longer kept").code(), Code::NotFound, "{number}"),
            _ => {
                let value = got?.into_inner().value.context("a value")?.value;
                assert_eq!(value.first(), format!("{number}").as_bytes().first());
                assert_eq!(value.len(), if number == 3 { 20_001 } else { 1 });
            }
        }
    }
    let listed = raw.state().list(list("deep")).await?.into_inner().values;
    assert_eq!(listed.first().context("one")?.earlier_revisions, revisions[2..4]);
    let listed = raw.state().list(list("notes")).await?.into_inner().values;
    assert_eq!(listed.first().context("one")?.earlier_revisions, [0u64; 0]);
    Ok(())
}

#[tokio::test]
async fn a_session_carries_operations_out_in_order_each_seeing_those_before_it() -> Result<()> {
    let broker = broker().await?;
    let mut session = StateSession::open(&agent(&broker, "a").await?).await?;
    let operations = vec![
        Operation::Get(get("notes/a")),
        Operation::Put(put("notes/a", "1")),
        Operation::Get(get("notes/a")),
        Operation::Put(put_if("notes/a", "2", 0)),
        Operation::List(list("notes")),
        Operation::Put(put("notes/", "no name")),
        Operation::Delete(delete("notes/a")),
        Operation::Get(get("notes/a")),
    ];
    let answers = session.run(operations).await?;
    let words: Vec<String> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Put(_) => "put".to_owned(),
            Answer::Get(got) => {
                format!(
                    "got {}",
                    String::from_utf8_lossy(got.value.as_ref().map_or(b"" as &[u8], |value| &value.value))
                )
            }
            Answer::Delete(deleted) => format!("deleted {}", deleted.existed),
            Answer::List(list) => format!("listed {}", list.values.len()),
            Answer::Refusal(refusal) => refusal.reason.clone(),
        })
        .collect();
    let expected = [
        "NOT_FOUND",
        "put",
        "got 1",
        "REVISION_CONFLICT",
        "listed 0",
        "MALFORMED_MESSAGE",
        "deleted true",
        "NOT_FOUND",
    ];
    // A list reads what is durable once its own record is: by then the deletion behind it may be as well.
    assert_eq!(words[..4], expected[..4]);
    assert!(["listed 0", "listed 1"].contains(&words[4].as_str()), "{words:?}");
    assert_eq!(words[5..], expected[5..]);
    let Some(Answer::Refusal(conflict)) = answers.get(3) else { anyhow::bail!("no conflict") };
    let Some(Answer::Put(put)) = answers.get(1) else { anyhow::bail!("not written") };
    assert_eq!((conflict.code, conflict.current_revision), (Code::Aborted as i32, put.revision));
    Ok(())
}

#[tokio::test]
async fn a_value_is_gone_when_its_time_has_run_out_and_that_is_recorded() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let broker = Setup::default().open_policy().clock(&clock).start().await?;
    let raw = agent(&broker, "a").await?;
    let revision = written(&raw, PutRequest { ttl_s: 60, ..put("notes/a", "x") }).await?;
    let mut watch = StateWatch::open(&raw, "notes", 0).await?;
    assert_eq!(watch.initial().await?.len(), 1);
    clock.advance(Duration::from_secs(59));
    assert_eq!(read(&raw, "notes/a").await?, "x");
    clock.advance(Duration::from_secs(1));
    assert_eq!(read(&raw, "notes/a").await.expect_err("gone").code(), Code::NotFound);
    written(&raw, put_if("notes/b", "a new one", 0)).await?;
    let batch = watch.batch().await?;
    let mut changes = batch.changes;
    while changes.len() < 2 {
        changes.extend(watch.batch().await?.changes);
    }
    let gone = changes.iter().find_map(|change| match &change.change {
        Some(Change::Gone(gone)) => Some(gone.clone()),
        _ => None,
    });
    let gone = gone.context("the watcher is told")?;
    assert!(gone.expired && gone.key == "notes/a" && gone.revision > revision);
    let log = broker.log().await?;
    let entry = log.at(gone.revision)?;
    assert_eq!((entry.kind(), entry.resource.as_str()), (EntryKind::StateExpired, "notes/a"));
    assert_eq!(entry.state.as_ref().context("state")?.previous_revision, revision);
    Ok(())
}

#[tokio::test]
async fn values_of_any_size_come_back_and_one_beyond_the_limit_is_refused() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    for bytes in [0, 1, 3_900, 4_000, 4_096, 4_097, 6_144, 7_000, 65_536, 1_000_000, 1 << 20] {
        let value: Vec<u8> = (0..bytes).map(|at: usize| u8::try_from(at % 251).unwrap_or_default()).collect();
        let request = PutRequest { value: value.clone().into(), content_type: String::new(), ..put("blobs/a", "") };
        written(&raw, request).await.with_context(|| format!("{bytes} bytes"))?;
        let got = raw.state().get(get("blobs/a")).await?.into_inner().value.context("a value")?;
        assert!(got.value == value, "{bytes} bytes");
    }
    let request = PutRequest { value: vec![1; (1 << 20) + 1].into(), ..put("blobs/a", "") };
    assert_eq!(reason(&raw.state().put(request).await.expect_err("too large")), "MESSAGE_TOO_LARGE");
    Ok(())
}

#[tokio::test]
async fn what_stood_before_a_value_whose_time_has_run_out_does_not_come_back() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let deep = HistoryConfig { scopes: "deep".to_owned(), versions: 3 };
    let setup = Setup::default().open_policy().clock(&clock);
    let broker = setup.configure(|config| config.state.histories.push(deep)).start().await?;
    let raw = agent(&broker, "a").await?;
    let mut session = StateSession::open(&raw).await?;
    let first = written(&raw, put("deep/a", "1")).await?;
    written(&raw, PutRequest { ttl_s: 10, ..put("deep/a", "2") }).await?;
    clock.advance(Duration::from_secs(10));
    // Before anybody has looked for what has run out.
    let old = || Operation::Get(GetRequest { key: "deep/a".to_owned(), revision: first });
    let answers = session.run(vec![old(), Operation::Put(put("deep/a", "3")), old()]).await?;
    let is_missing = |answer: &Answer| matches!(answer, Answer::Refusal(one) if one.reason == "NOT_FOUND");
    assert!(is_missing(&answers[0]) && is_missing(&answers[2]), "{answers:?}");
    assert_eq!(read(&raw, "deep/a").await?, "3");
    let endless = PutRequest { ttl_s: u64::MAX, ..put("deep/a", "4") };
    assert_eq!(reason(&raw.state().put(endless).await.expect_err("too long")), "MALFORMED_MESSAGE");
    Ok(())
}
