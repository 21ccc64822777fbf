//! `kill -9` while state is written, read, deleted and watched, again and again.

mod again;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::oneshot;
use veribus_broker::{dev::DevDirectory, model::Clock};
use veribus_proto::{
    chain::ChainVerifier,
    v1::{
        EntryKind, QueryRequest, state_change::Change, state_operation::Operation, state_result::Result as Answer,
        watch_response::Response,
    },
};
use veribus_tests::{
    patiently,
    process::{Binary, Process, open_directory},
    raw::Raw,
    state::{StateSession, StateWatch, delete, get, list, put, put_if},
};

const KILLS: usize = 20;
const FRAME: usize = 8;
const UNDER_WAY: usize = 4;

fn token(directory: &DevDirectory, agent: &str, permissions: &[&str]) -> Result<String> {
    let (issuer, now) = (directory.issuer(), Clock::system().now().seconds());
    let claims = issuer.claims(agent, now, Duration::from_secs(3_600)).role("auditor").decrypt(">");
    Ok(issuer.issue(&permissions.iter().fold(claims, |claims, one| claims.permission(*one)))?)
}

/// What the clients were told, over all restarts.
#[derive(Default)]
struct Told {
    /// Under which revision each key was written; every key is written once.
    written: BTreeMap<String, u64>,
    /// Of those that were then deleted.
    deleted: BTreeMap<String, u64>,
    /// The last number that a compare-and-swap wrote, and its revision.
    counter: (u64, u64),
}

/// What a watcher saw, over all restarts.
#[derive(Default)]
struct Seen {
    through: u64,
    puts: BTreeMap<String, u64>,
    gone: BTreeMap<String, u64>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_under_mixed_load_twenty_times_keeps_every_acknowledged_write() -> Result<()> {
    let binary = Binary::build()?;
    let place = tempfile::tempdir()?;
    let directory = open_directory(&place.path().join("dev"))?;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut told, mut seen) = (Told::default(), Seen::default());
    for round in 0..KILLS {
        let mut broker = binary.dev(directory.root()).await?;
        check_values(&broker, &directory, &told).await.with_context(|| format!("round {round}"))?;
        let after = Duration::from_millis(random.random_range(1..150));
        load_and_kill(&mut broker, &directory, round, after, &mut told, &mut seen).await?;
    }
    let broker = binary.dev(directory.root()).await?;
    check_values(&broker, &directory, &told).await?;
    check_log(&broker, &directory, &told).await?;
    // The watcher goes on to the end, and has then seen everything once.
    let raw = broker.raw(&token(&directory, "watcher", &["state.read:>"])?).await?;
    let mut watch = StateWatch::open(&raw, "notes", seen.through).await?;
    let last = watch.began_at;
    while seen.through < last {
        let batch = watch.batch().await?;
        seen.take(batch.changes.into_iter().filter_map(|change| change.change), batch.through_revision)?;
    }
    for (key, revision) in &told.written {
        let was_deleted = told.deleted.contains_key(key);
        let is_right = seen.puts.get(key) == Some(revision) || (was_deleted && !seen.puts.contains_key(key));
        // One of whose deletion nobody was told may have been deleted all the same.
        ensure!(is_right || seen.gone.contains_key(key), "`{key}` of {revision} was never shown");
    }
    for (key, revision) in &told.deleted {
        ensure!(seen.gone.get(key) == Some(revision), "the deletion of `{key}` was never shown");
    }
    println!("{} written, {} deleted, {} shown", told.written.len(), told.deleted.len(), seen.puts.len());
    ensure!(told.written.len() > KILLS * FRAME && told.deleted.len() > KILLS);
    Ok(())
}

impl Seen {
    fn take(&mut self, changes: impl Iterator<Item = Change>, through: u64) -> Result<()> {
        for change in changes {
            let (revision, earlier) = match change {
                Change::Put(value) => {
                    let about = value.metadata.context("metadata")?;
                    ensure!(value.value == about.key.as_bytes(), "another value under `{}`", about.key);
                    (about.revision, self.puts.insert(about.key, about.revision))
                }
                Change::Gone(gone) => (gone.revision, self.gone.insert(gone.key, gone.revision)),
                Change::Shredded(gone) => bail!("`{}` was never shredded", gone.key),
            };
            // What was shown ahead of the rest comes again after a restart, as it was.
            let is_again = earlier == Some(revision);
            ensure!(earlier.is_none() || is_again, "shown at {earlier:?}, and again at {revision}");
            ensure!(revision > self.through, "{revision} is not after {}", self.through);
        }
        self.through = through;
        Ok(())
    }
}

/// Writes from two sessions, counts by compare-and-swap, watches, and kills the broker in the middle of it.
async fn load_and_kill(
    broker: &mut Process,
    directory: &DevDirectory,
    round: usize,
    after: Duration,
    told: &mut Told,
    seen: &mut Seen,
) -> Result<()> {
    // From before the first write on: a watcher who has seen nothing is not told what was gone before it came.
    let raw = broker.raw(&token(directory, "watcher", &["state.read:>"])?).await?;
    let watch = StateWatch::open(&raw, "notes", seen.through).await?;
    let watching = tokio::spawn(watch_on(watch, std::mem::take(seen)));
    let mut writing = Vec::new();
    for name in ["w0", "w1"] {
        let raw = broker.raw(&token(directory, name, &["state.read:>", "state.write:>"])?).await?;
        let (answered, first) = oneshot::channel();
        writing.push(tokio::spawn(write_on(raw, format!("{name}-{round}"), answered)));
        patiently(first).await??;
    }
    let raw = broker.raw(&token(directory, "counter", &["state.read:>", "state.write:>"])?).await?;
    let counting = tokio::spawn(count_on(raw, told.counter));
    // The moment of the kill is to be any.
    tokio::time::sleep(after).await;
    broker.kill().await?;
    for writer in writing {
        let (written, deleted) = patiently(writer).await???;
        told.written.extend(written);
        told.deleted.extend(deleted);
    }
    told.counter = patiently(counting).await???;
    *seen = patiently(watching).await???;
    Ok(())
}

type Written = (BTreeMap<String, u64>, BTreeMap<String, u64>);

/// Keeps some frames under way until the stream breaks. Every fourth key is deleted again.
async fn write_on(raw: Raw, name: String, answered: oneshot::Sender<()>) -> Result<Written> {
    let mut session = StateSession::open(&raw).await?;
    let (mut written, mut deleted, mut answered) = (BTreeMap::new(), BTreeMap::new(), Some(answered));
    let mut sent = BTreeMap::new();
    for number in 0.. {
        let keys: Vec<_> = (0..FRAME).map(|part| format!("notes/{name}-{number}-{part}")).collect();
        let mut operations = Vec::new();
        for (part, key) in keys.iter().enumerate() {
            operations.push(Operation::Put(put(key, key)));
            operations.push(Operation::Get(get(key)));
            if part % 4 == 0 {
                operations.push(Operation::Delete(delete(key)));
            }
        }
        sent.insert(number, keys);
        let is_over = session.send(operations, None).await.is_err();
        if number < UNDER_WAY && !is_over {
            continue;
        }
        let Ok(Some(answers)) = session.answers().await else { return Ok((written, deleted)) };
        let (_, keys) = sent.pop_first().context("an answer to nothing")?;
        let mut keys = keys.into_iter();
        let mut current = String::new();
        for answer in answers {
            match answer {
                Answer::Put(put) => {
                    current = keys.next().context("too many")?;
                    written.insert(current.clone(), put.revision);
                }
                Answer::Get(got) => ensure!(got.value.context("a value")?.value == current.as_bytes()),
                Answer::Delete(gone) => {
                    ensure!(gone.existed);
                    deleted.insert(current.clone(), gone.revision);
                }
                other => bail!("{other:?}"),
            }
        }
        if let Some(answered) = answered.take() {
            answered.send(()).ok();
        }
    }
    bail!("never ended")
}

/// Counts up under one key, one write after the other.
async fn count_on(raw: Raw, (mut number, mut revision): (u64, u64)) -> Result<(u64, u64)> {
    // What the last kill cut off may have been written.
    if let Ok(found) = raw.state().get(get("count/one")).await {
        let value = found.into_inner().value.context("a value")?;
        number = std::str::from_utf8(&value.value)?.parse()?;
        revision = value.metadata.context("metadata")?.revision;
    }
    loop {
        let next = put_if("count/one", &(number + 1).to_string(), revision);
        match raw.state().put(next).await {
            Ok(written) => (number, revision) = (number + 1, written.into_inner().revision),
            Err(_) => return Ok((number, revision)),
        }
    }
}

/// Watches until the stream breaks, from where it was.
async fn watch_on(mut watch: StateWatch, mut seen: Seen) -> Result<Seen> {
    while let Ok(Some(Response::Batch(batch))) = watch.response().await {
        seen.take(batch.changes.into_iter().filter_map(|change| change.change), batch.through_revision)?;
    }
    Ok(seen)
}

/// What was acknowledged is there, under its revision; what was deleted is not.
async fn check_values(broker: &Process, directory: &DevDirectory, told: &Told) -> Result<()> {
    let raw = broker.raw(&token(directory, "checker", &["state.read:>"])?).await?;
    let mut found = BTreeMap::new();
    let mut page = list("notes");
    loop {
        let listed = patiently(raw.state().list(page.clone())).await??.into_inner();
        found.extend(listed.values.into_iter().map(|value| (value.key, value.revision)));
        if listed.next_page_token.is_empty() {
            break;
        }
        page.page_token = listed.next_page_token;
    }
    for (key, revision) in &told.written {
        match found.get(key) {
            Some(there) => {
                ensure!(there == revision && !told.deleted.contains_key(key), "`{key}`: {there}, not {revision}")
            }
            // Deleted, or about to be deleted when the broker was killed.
            None => ensure!(key.ends_with("-0") || key.ends_with("-4"), "`{key}` of {revision} is lost"),
        }
    }
    if told.counter.0 > 0 {
        let value = raw.state().get(get("count/one")).await?.into_inner().value.context("a value")?;
        let number: u64 = std::str::from_utf8(&value.value)?.parse()?;
        ensure!(number == told.counter.0 || number == told.counter.0 + 1, "{number}, not {}", told.counter.0);
    }
    Ok(())
}

/// The chain is whole, each write has its entry, and no revision stands for two.
async fn check_log(broker: &Process, directory: &DevDirectory, told: &Told) -> Result<()> {
    let (puts, deletes) = recorded(broker, directory).await?;
    for (key, revision) in &told.written {
        ensure!(puts.get(revision) == Some(key), "`{key}` has no entry at {revision}");
    }
    for (key, revision) in &told.deleted {
        ensure!(deletes.get(revision) == Some(key), "the deletion of `{key}` has no entry at {revision}");
    }
    let revisions: BTreeSet<_> = told.written.values().chain(told.deleted.values()).collect();
    ensure!(revisions.len() == told.written.len() + told.deleted.len(), "a revision was used twice");
    Ok(())
}

/// Which keys were written and which deleted under which entry of the log, whose chain is whole.
async fn recorded(
    broker: &Process,
    directory: &DevDirectory,
) -> Result<(BTreeMap<u64, String>, BTreeMap<u64, String>)> {
    let auditor = broker.raw(&token(directory, "auditor", &["audit.read"])?).await?;
    let mut responses = auditor.audit().query(QueryRequest::default()).await?.into_inner();
    let mut verifier = ChainVerifier::from_genesis();
    let (mut puts, mut deletes) = (BTreeMap::new(), BTreeMap::new());
    while let Some(response) = patiently(responses.message()).await?? {
        for stored in response.entries {
            let entry = verifier.push(&stored.entry)?;
            match entry.kind() {
                EntryKind::StatePut => puts.insert(entry.index, entry.resource),
                EntryKind::StateDelete => deletes.insert(entry.index, entry.resource),
                _ => None,
            };
        }
    }
    Ok((puts, deletes))
}
