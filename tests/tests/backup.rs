//! Backups of a running broker, and brokers that start from them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use data_encoding::{BASE64, HEXLOWER};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::task::{JoinHandle, spawn_blocking};
use tonic::Code;
use veribus_broker::backup::{BackupError, Contents, Receiver, restore};
use veribus_client::Client;
use veribus_proto::v1::{
    BackupRequest, BackupResponse, Decision, EntryKind, state_operation::Operation, state_result::Result as Answer,
};
use veribus_tests::{
    broker::{Home, Setup, TestBroker},
    messages::wire,
    patiently,
    process::files,
    raw::{Raw, RawOptions, reason},
    state::{StateSession, delete, get, put},
    streams::PublishStream,
};

const CANARY: &str = "canary-5be1a7c0ffee";

fn agent(broker: &TestBroker) -> Result<String> {
    let claims = broker.claims("agent").role("auditor").decrypt(">");
    let permissions = ["state.read:>", "state.write:>", "publish:>", "audit.read"];
    broker.sign(&permissions.iter().fold(claims, |claims, one| claims.permission(*one)))
}

fn operator(broker: &TestBroker) -> Result<String> {
    broker.token("operator", &["admin.backup"])
}

/// A broker with values of all sizes, some replaced, some deleted.
struct Origin {
    broker: TestBroker,
    place: TempDir,
    /// What was acknowledged.
    values: BTreeMap<String, String>,
}

impl Origin {
    async fn new() -> Result<Self> {
        let broker = Setup::default().open_policy().start().await?;
        let mut session = StateSession::open(&broker.raw(&agent(&broker)?).await?).await?;
        let mut values = BTreeMap::new();
        for first in (0..1_200).step_by(100) {
            let mut operations = Vec::new();
            for number in first..first + 100 {
                let (key, value) = (format!("notes/{number}"), format!("{CANARY} {number} ").repeat(1 + number % 150));
                operations.push(Operation::Put(put(&key, "replaced")));
                operations.push(Operation::Put(put(&key, &value)));
                if number % 10 == 0 {
                    operations.push(Operation::Delete(delete(&key)));
                } else {
                    values.insert(key, value);
                }
            }
            let answers = session.run(operations).await?;
            let refused = answers.iter().find(|answer| matches!(answer, Answer::Refusal(_)));
            ensure!(refused.is_none(), "{refused:?}");
        }
        Ok(Self { broker, place: tempfile::tempdir()?, values })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    async fn client(&self) -> Result<Client> {
        self.broker.client(&operator(&self.broker)?).await
    }

    async fn back_up(&self) -> Result<(PathBuf, Contents)> {
        let path = self.path("backup");
        let verified = back_up(&self.client().await?, &path).await?;
        Ok((path, verified))
    }
}

async fn back_up(client: &Client, path: &Path) -> Result<Contents> {
    let path = path.to_owned();
    let mut receiver = spawn_blocking(move || Receiver::create(&path)).await??;
    let mut parts = client.admin().backup();
    while let Some(part) = patiently(parts.next()).await? {
        let part = part?;
        let take = move || receiver.take(part).map(|_| receiver);
        receiver = spawn_blocking(take).await??;
    }
    Ok(spawn_blocking(move || receiver.finish()).await??)
}

/// Puts values and publishes until it is told to stop; returns how many of each.
fn load(raw: Raw, is_over: &Arc<AtomicBool>) -> JoinHandle<Result<(u64, u64)>> {
    let is_over = Arc::clone(is_over);
    tokio::spawn(async move {
        let mut session = StateSession::open(&raw).await?;
        let mut publishing = PublishStream::open(&raw).await?;
        let (mut puts, mut messages) = (0, 0);
        while !is_over.load(Ordering::Relaxed) {
            let value = format!("{CANARY} under load ").repeat(usize::try_from(puts % 20 + 1)?);
            let new = |number: u64| Operation::Put(put(&format!("load/{number}"), &value));
            let mut operations: Vec<_> = (puts..puts + 20).map(new).collect();
            operations.extend((0..20).map(|number| Operation::Put(put(&format!("hot/{number}"), &format!("{puts}")))));
            let answers = session.run(operations).await?;
            ensure!(answers.iter().all(|answer| !matches!(answer, Answer::Refusal(_))));
            puts += 20;
            let id = |number: u64| wire(&format!("m{number}"), "x", "text");
            publishing.publish((messages..messages + 20).map(id).collect()).await?;
            messages += 20;
        }
        Ok((puts, messages))
    })
}

async fn value(raw: &Raw, key: &str) -> Result<Option<(u64, String)>> {
    match patiently(raw.state().get(get(key))).await? {
        Ok(answer) => {
            let value = answer.into_inner().value.context("a value")?;
            let revision = value.metadata.context("what is known of it")?.revision;
            Ok(Some((revision, String::from_utf8(value.value.to_vec())?)))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status).context(key.to_owned()),
    }
}

/// Starts a broker from a restored directory, with the keys and settings of the first.
async fn start_from(mut home: Home, data_directory: &Path) -> Result<TestBroker> {
    home.config_mut().record.data_directory = data_directory.to_owned();
    home.start().await
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_starts_from_a_backup_that_was_taken_under_load_with_all_that_was_acknowledged_before() -> Result<()> {
    let origin = Origin::new().await?;
    let is_over = Arc::new(AtomicBool::new(false));
    let loading = load(origin.broker.raw(&agent(&origin.broker)?).await?, &is_over);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let (backup, verified) = origin.back_up().await?;
    is_over.store(true, Ordering::Relaxed);
    let (puts, messages) = patiently(loading).await???;
    println!("{verified:?} under {puts} puts and {messages} messages");

    let (from, data) = (backup.clone(), origin.path("data"));
    let to = data.clone();
    let restored = spawn_blocking(move || restore(&from, &to)).await??;
    assert_eq!(restored, verified);
    let before = origin.broker.log().await?;
    let home = origin.broker.stop().await?;
    let broker = start_from(home, &data).await?;

    // The log is that of the first broker up to the end of the backup, and goes on.
    let log = broker.log().await?;
    let end = usize::try_from(verified.entries)?;
    assert!(log.entries()[..end] == before.entries()[..end], "the same log");
    assert!(before.entries().len() > end + 20, "it was under load at its end: {}", before.entries().len());
    assert_eq!(HEXLOWER.encode(&log.entries()[end].prev), HEXLOWER.encode(&verified.head));
    assert_eq!(log.entries()[end].kind(), EntryKind::BrokerStarted);
    let entry = log.of_kind(EntryKind::Backup).next().context("recorded")?;
    assert!(entry.actor.as_ref().is_some_and(|actor| actor.agent == "operator"));

    let raw = broker.raw(&agent(&broker)?).await?;
    for number in 0..1_200 {
        let key = format!("notes/{number}");
        let found = value(&raw, &key).await?.map(|(_, value)| value);
        assert_eq!(found.as_ref(), origin.values.get(&key), "{key}");
    }
    // What was written meanwhile is there exactly up to the end, each with the revision of its entry.
    let mut written = BTreeMap::new();
    for entry in &before.entries()[..end] {
        let is_allowed = entry.decision.as_ref().is_some_and(|decision| decision.decision() == Decision::Allow);
        let is_load = entry.resource.starts_with("load/") || entry.resource.starts_with("hot/");
        if entry.kind() == EntryKind::StatePut && is_allowed && is_load {
            written.insert(entry.resource.clone(), entry.index);
        }
    }
    assert!(written.len() > 40, "{} values under load", written.len());
    for number in 0..puts {
        let key = format!("load/{number}");
        assert_eq!(value(&raw, &key).await?.map(|(revision, _)| revision), written.get(&key).copied(), "{key}");
    }
    for number in 0..20 {
        let key = format!("hot/{number}");
        assert_eq!(value(&raw, &key).await?.map(|(revision, _)| revision), written.get(&key).copied(), "{key}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_value_nor_the_root_key_is_in_a_backup_in_clear() -> Result<()> {
    let origin = Origin::new().await?;
    let (backup, verified) = origin.back_up().await?;
    let home = origin.broker.stop().await?;
    let text = fs::read_to_string(home.root_key_file())?;
    let encoded = text.trim().rsplit(' ').next().context("a key")?.to_owned();
    let root_key = BASE64.decode(encoded.as_bytes())?;
    ensure!(root_key.len() == 32);
    assert_eq!(verified.root_keys.len(), 1, "it is known which root key is needed");
    let found = files(&backup)?;
    let total: usize = found.values().map(Vec::len).sum();
    assert!(total > 1_000_000, "the values are in it: {total} bytes");
    for (path, bytes) in found {
        let is_in_clear = contains(&bytes, CANARY.as_bytes());
        let is_betrayed = contains(&bytes, &root_key) || contains(&bytes, encoded.as_bytes());
        assert!(!is_in_clear && !is_betrayed, "{}", path.display());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_with_a_flipped_byte_is_refused_and_a_directory_with_something_in_it_as_well() -> Result<()> {
    let origin = Origin::new().await?;
    let (backup, _) = origin.back_up().await?;
    let data = origin.path("data");
    let mut tried = 0;
    for (path, bytes) in files(&backup)? {
        for at in [0, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            let mut changed = bytes.clone();
            let Some(byte) = changed.get_mut(at) else { continue };
            *byte ^= 1;
            fs::write(&path, &changed)?;
            let refused = restore(&backup, &data);
            assert!(refused.is_err(), "byte {at} of {}", path.display());
            assert!(!data.exists() && !origin.path("data.partial").exists(), "nothing is left");
            tried += 1;
        }
        fs::write(&path, &bytes)?;
    }
    println!("{tried} flipped bytes");
    fs::create_dir(&data)?;
    fs::write(data.join("something"), "")?;
    assert!(matches!(restore(&backup, &data), Err(BackupError::NotEmpty(_))));
    fs::remove_file(data.join("something"))?;
    restore(&backup, &data)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_root_key_no_broker_starts_from_a_backup() -> Result<()> {
    let origin = Origin::new().await?;
    let (backup, _) = origin.back_up().await?;
    let data = origin.path("data");
    restore(&backup, &data)?;
    let mut home = origin.broker.stop().await?;
    let other = origin.place.path().join("other.key");
    veribus_broker::seal::RootKeys::create(&other)?;
    home.config_mut().state.root_key_file = Some(other);
    let error = start_from(home, &data).await.err().context("started")?;
    assert!(error.to_string().contains("root key"), "{error}");
    Ok(())
}

#[tokio::test]
async fn without_permission_nothing_comes_and_the_refusal_is_recorded() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let token = broker.token("operator", &["admin.revoke", "admin.sessions", "audit.read", "state.read:>"])?;
    let refused = broker.raw(&token).await?.admin().backup(BackupRequest {}).await.err().context("permitted")?;
    assert_eq!((refused.code(), &*reason(&refused)), (Code::PermissionDenied, "MISSING_PERMISSION"));
    let log = broker.log().await?;
    let entry = log.of_kind(EntryKind::Backup).next().context("recorded")?;
    let decision = entry.decision.as_ref().context("decided")?;
    assert_eq!((decision.decision(), &*decision.rules), (Decision::Deny, &["native/permission".to_owned()][..]));
    Ok(())
}

/// A backup that was begun and not taken in: the client's window is full.
async fn begun(origin: &Origin) -> Result<tonic::Streaming<BackupResponse>> {
    let options = RawOptions { window_bytes: Some(65_535), ..RawOptions::default() };
    let raw = origin.broker.raw_with(Some(&operator(&origin.broker)?), options).await?;
    Ok(raw.admin().backup(BackupRequest {}).await?.into_inner())
}

async fn end_of(mut parts: tonic::Streaming<BackupResponse>) -> Result<tonic::Status> {
    loop {
        match patiently(parts.message()).await? {
            Ok(Some(part)) => ensure!(part.end.is_none(), "it was completed"),
            Ok(None) => anyhow::bail!("it ended without a word"),
            Err(status) => return Ok(status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_backup_is_refused_while_one_is_under_way() -> Result<()> {
    let origin = Origin::new().await?;
    let first = begun(&origin).await?;
    let refused = begun(&origin).await.err().context("begun")?;
    let status = refused.downcast::<tonic::Status>()?;
    assert_eq!((status.code(), &*reason(&status)), (Code::FailedPrecondition, "BACKUP_RUNNING"));
    drop(first);
    // The broker finds out in its own time that the first one is gone.
    patiently(async {
        while begun(&origin).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_taken_in_too_slowly_fails_and_the_broker_goes_on() -> Result<()> {
    let mut origin = Origin::new().await?;
    let mut home = origin.broker.stop().await?;
    home.config_mut().record.backup_journal_bytes_max = 100_000;
    origin.broker = home.start().await?;
    let slow = begun(&origin).await?;
    let raw = origin.broker.raw(&agent(&origin.broker)?).await?;
    for number in 0..60 {
        patiently(raw.state().put(put(&format!("more/{number}"), &"x".repeat(3_000)))).await??;
    }
    let status = end_of(slow).await?;
    assert_eq!((status.code(), &*reason(&status)), (Code::ResourceExhausted, "BACKUP_OVERTAKEN"));
    assert!(value(&raw, "more/59").await?.is_some());
    origin.back_up().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_ends_with_the_session_and_with_the_broker() -> Result<()> {
    let origin = Origin::new().await?;
    let revoked = begun(&origin).await?;
    let admin = origin.broker.client(&origin.broker.token("admin", &["admin.revoke"])?).await?;
    let issuer = origin.broker.directory().issuer().issuer().to_owned();
    admin.admin().revoke(veribus_client::Revocation::agent(issuer, "operator")).await?;
    assert_eq!(end_of(revoked).await?.code(), Code::Unauthenticated);

    let other = origin.broker.token("other", &["admin.backup"])?;
    let options = RawOptions { window_bytes: Some(65_535), ..RawOptions::default() };
    let raw = origin.broker.raw_with(Some(&other), options).await?;
    let draining = patiently(async {
        loop {
            match raw.admin().backup(BackupRequest {}).await {
                Ok(parts) => return parts.into_inner(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await?;
    let (server, _home) = origin.broker.into_parts();
    let (ended, drained) = tokio::join!(end_of(draining), server.drain());
    drained?;
    assert_eq!(&*reason(&ended?), "DRAINING");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_broke_off_is_marked_and_is_no_backup() -> Result<()> {
    let origin = Origin::new().await?;
    let path = origin.path("backup");
    let mut receiver = Receiver::create(&path)?;
    let client = origin.client().await?;
    let mut parts = client.admin().backup();
    receiver.take(patiently(parts.next()).await?.context("a part")??)?;
    drop(parts);
    assert!(matches!(receiver.finish(), Err(BackupError::Protocol(_))));
    assert!(!path.exists());
    let partial = origin.path("backup.partial");
    assert!(matches!(restore(&partial, &origin.path("data")), Err(BackupError::Incomplete(_))));
    assert!(matches!(Receiver::create(&path), Err(BackupError::Leftover(_))));
    Ok(())
}

/// What the receiver is told is not what it believes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_changed_on_the_way_is_not_taken() -> Result<()> {
    let origin = Origin::new().await?;
    let raw = origin.broker.raw(&operator(&origin.broker)?).await?;
    let mut responses = raw.admin().backup(BackupRequest {}).await?.into_inner();
    let mut parts = Vec::new();
    while let Some(part) = patiently(responses.message()).await?? {
        parts.push(part);
    }
    let attempt = |name: &str, change: &dyn Fn(&mut Vec<BackupResponse>)| -> Result<Contents, BackupError> {
        let mut changed = parts.clone();
        change(&mut changed);
        let mut receiver = Receiver::create(&origin.path(name))?;
        changed.into_iter().try_for_each(|part| receiver.take(part).map(drop))?;
        receiver.finish()
    };
    let logged = parts.iter().position(|part| part.chunks.len() > 2).context("a part of the log")?;
    let last = parts.len() - 1;
    attempt("whole", &|_| {})?;
    let gap = attempt("gap", &|parts| drop(parts[logged].chunks.remove(1)));
    assert!(matches!(gap, Err(BackupError::Protocol(_))), "{gap:?}");
    let flipped = attempt("flipped", &|parts| {
        let mut bytes = parts[logged].chunks[1].entries.to_vec();
        bytes[40] ^= 1;
        parts[logged].chunks[1].entries = bytes.into();
    });
    assert!(flipped.is_err());
    let short = attempt("short", &|parts| drop(parts[last].chunks.pop()));
    assert!(matches!(short, Err(BackupError::OtherEnd { .. })), "{short:?}");
    let other = attempt("other", &|parts| parts[last].end.iter_mut().for_each(|end| end.head[0] ^= 1));
    assert!(matches!(other, Err(BackupError::OtherEnd { .. })), "{other:?}");
    let more = attempt("more", &|parts| parts.push(BackupResponse::default()));
    assert!(matches!(more, Err(BackupError::Protocol(_))), "{more:?}");
    Ok(())
}
