//! Shared state at rest: nothing in clear, nothing beside the store's own file, and nothing that opens in another place.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use veribus_broker::{
    dev::DevDirectory,
    engine::{AppendError, Chunk, LogStore, ReadError, Record, SharedLogStore, sled::SledLog},
    model::{Clock, StateKey},
    seal::{KEY_PREFIX, KeyRing, RootKeySource, RootKeys},
    state::{Changes, Lookup, StateSettings, StateTable},
};
use veribus_proto::v1::{
    PutRequest, QueryRequest, RotateKeysRequest, state_operation::Operation, state_result::Result as Answer,
};
use veribus_tests::{
    broker::{Setup, left_log},
    patiently,
    process::{Binary, files, open_directory},
    state::{StateSession, delete, get, put},
};

const CANARIES: usize = 1_000;

fn token(directory: &DevDirectory, agent: &str, permissions: &[&str]) -> Result<String> {
    let (issuer, now) = (directory.issuer(), Clock::system().now().seconds());
    let claims = issuer.claims(agent, now, Duration::from_secs(3_600)).role("auditor").decrypt(">");
    Ok(issuer.issue(&permissions.iter().fold(claims, |claims, one| claims.permission(*one)))?)
}

/// A thousand values are written, read, replaced and deleted, while keys are rotated, and never in clear: not on disk, not in logs, not in metrics, not
/// in entries, neither while the broker runs nor when it was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_found_in_clear_anywhere() -> Result<()> {
    let binary = Binary::build()?;
    let place = tempfile::tempdir()?;
    let directory = open_directory(&place.path().join("dev"))?;
    let log_file = place.path().join("log");
    let mut broker = binary.dev_logging(directory.root(), "trace", Stdio::from(fs::File::create(&log_file)?)).await?;
    let raw = broker.raw(&token(&directory, "a", &["state.read:>", "state.write:>"])?).await?;
    let mut session = StateSession::open(&raw).await?;
    let mut random = StdRng::seed_from_u64(rand::random());
    // A mark that all share, so that one search finds any of them.
    let mark = format!("canary-{:032x}", random.random::<u128>());
    for first in (0..CANARIES).step_by(50) {
        let mut operations = Vec::new();
        for number in first..first + 50 {
            let repeated = format!("{mark}-{number} ").repeat(random.random_range(1..200));
            let key = format!("notes/{number}");
            operations.push(Operation::Put(put(&key, &repeated)));
            operations.push(Operation::Get(get(&key)));
            match number % 3 {
                0 => operations.push(Operation::Delete(delete(&key))),
                1 => operations.push(Operation::Put(put(&key, &format!("{mark} again")))),
                _ => {}
            }
        }
        if first > 0 && first % 200 == 0 {
            let operator = broker.raw(&token(&directory, "operator", &["admin.keys"])?).await?;
            operator.admin().rotate_keys(RotateKeysRequest { scope: "notes".to_owned() }).await?;
        }
        let answers = session.run(operations).await?;
        let refused = answers.iter().find(|answer| matches!(answer, Answer::Refusal(_)));
        ensure!(refused.is_none(), "{refused:?}");
    }
    let auditor = broker.raw(&token(&directory, "auditor", &["audit.read"])?).await?;
    let mut entries = auditor.audit().query(QueryRequest::default()).await?.into_inner();
    let (mut log, mut writes) = (Vec::new(), 0);
    while let Some(response) = patiently(entries.message()).await?? {
        writes += response.entries.len();
        log.extend(response.encode_to_vec());
    }
    ensure!(writes > 2 * CANARIES, "{writes} entries");
    let metrics = broker.metrics().await?;
    ensure!(metrics.contains("veribus_"), "{metrics}");
    broker.kill().await?;
    let mut searched = files(place.path())?;
    ensure!(searched.get(&log_file).is_some_and(|log| !log.is_empty()), "a log");
    searched.insert("entries".into(), log);
    searched.insert("metrics".into(), metrics.into_bytes());
    let total: usize = searched.values().map(Vec::len).sum();
    ensure!(total > 100 * CANARIES, "the values themselves lie somewhere: {total} bytes");
    for (name, bytes) in &searched {
        let found = bytes.windows(mark.len()).any(|window| window == mark.as_bytes());
        assert!(!found, "in clear: {}", name.display());
    }
    Ok(())
}

/// What sled puts beside its file is never synced.
#[tokio::test]
async fn values_of_all_sizes_stay_in_the_file_that_is_synced() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let token = broker.sign(&broker.claims("a").permission("state.write:>"))?;
    let raw = broker.raw(&token).await?;
    let mut random = StdRng::seed_from_u64(7);
    let edges = [1, 3_900, 4_000, 4_096, 6_143, 6_144, 6_145, 7_168, 65_535, 131_052, 1 << 20];
    let sizes = edges.into_iter().chain((0..300).map(|_| random.random_range(1..40_000)));
    for (number, bytes) in sizes.enumerate() {
        let filler: Vec<u8> = (0..bytes).map(|at: usize| u8::try_from(at % 253).unwrap_or_default()).collect();
        let request =
            PutRequest { value: filler.into(), content_type: String::new(), ..put(&format!("x/{number}"), "") };
        patiently(raw.state().put(request)).await?.with_context(|| format!("{bytes} bytes"))?;
    }
    let home = broker.stop().await?;
    let blobs = home.data_directory().join("log/blobs");
    assert_eq!(fs::read_dir(blobs)?.count(), 0);
    Ok(())
}

/// Some records as another has changed them, over those of the store.
struct Tampered {
    store: SledLog,
    changed: Mutex<BTreeMap<Bytes, Bytes>>,
}

impl LogStore for Tampered {
    fn append(&self, _: &[Chunk], _: &[Record]) -> Result<(), AppendError> {
        Err(AppendError::Write("read only".to_owned()))
    }

    fn records(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.store.records(prefix)
    }

    fn records_between(&self, from: &[u8], to: &[u8], max: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        self.store.records_between(from, to, max)
    }

    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        match self.changed.lock().get(key) {
            Some(changed) => Ok(Some(changed.clone())),
            None => self.store.record(key),
        }
    }

    fn chunk_at(&self, index: u64) -> Result<Option<Chunk>, ReadError> {
        self.store.chunk_at(index)
    }

    fn size_bytes(&self) -> u64 {
        self.store.size_bytes()
    }
}

/// A store with shared state in it, and who reads it.
struct AtRest {
    store: Arc<Tampered>,
    table: StateTable,
    keys: Arc<KeyRing>,
    now: veribus_broker::model::UnixMicros,
}

impl AtRest {
    fn open(store: SledLog, root_key: &Path) -> Result<Self> {
        let store = Arc::new(Tampered { store, changed: Mutex::default() });
        let records = store.records(KEY_PREFIX)?;
        let root = RootKeys::new(RootKeySource::File(root_key.to_owned())).settle(&KeyRing::roots_in_use(&records)?)?;
        let keys = Arc::new(KeyRing::load(records, root)?);
        let settings = StateSettings {
            histories: Vec::new(),
            gone_kept_s: 60,
            scopes_max: 100,
            scopes_per_level_max: 100,
            read_bytes_max: 1 << 20,
        };
        let shared = Arc::clone(&store) as SharedLogStore;
        let table = StateTable::new(shared, settings, Arc::clone(&keys), Arc::new(Changes::new()));
        Ok(Self { store, table, keys, now: Clock::system().now() })
    }

    /// Everything that opens: each value of `keys`, newest and earlier, with what is said of it.
    fn opened(&self, key: &StateKey) -> Option<(u64, String, Bytes)> {
        let Ok(Lookup::Found(sealed)) = self.table.find(key, None, self.now) else { return None };
        let shared = Arc::clone(&self.store) as SharedLogStore;
        let opened = sealed.open(&self.keys, &shared).ok()?;
        Some((opened.metadata.revision.0, opened.metadata.content_type, opened.value))
    }

    fn with<T>(&self, record: &Bytes, value: Bytes, look: impl FnOnce() -> T) -> T {
        self.store.changed.lock().insert(record.clone(), value);
        let seen = look();
        self.store.changed.lock().clear();
        seen
    }
}

/// Whatever is done to a record: it opens as what was written there, or not at all.
#[tokio::test]
async fn a_record_that_was_moved_cut_or_changed_opens_as_nothing_else() -> Result<()> {
    let broker = Setup::default().open_policy().start().await?;
    let token = broker.sign(&broker.claims("a").permission("state.write:>"))?;
    let raw = broker.raw(&token).await?;
    let long = "a long value ".repeat(1_000);
    // Two of the same content under one name in two scopes; one that was replaced; one in parts.
    for (key, value) in
        [("a/x", "same"), ("a/y", "same"), ("b/x", "same"), ("a/z", "old"), ("a/z", "new"), ("a/long", &long)]
    {
        raw.state().put(put(key, value)).await?;
    }
    drop(raw);
    let home = broker.stop().await?;
    let at_rest = AtRest::open(left_log(home.data_directory()).await?, &home.root_key_file())?;
    let keys = ["a/x", "a/y", "b/x", "a/z", "a/long"].map(|key| StateKey::parse(key).expect("a key"));
    let truth: Vec<_> = keys.iter().map(|key| at_rest.opened(key)).collect();
    ensure!(truth.iter().all(Option::is_some), "{truth:?}");
    let heads = at_rest.store.records(b"s/head/")?;
    assert_eq!(heads.len(), keys.len());
    let mut tried = 0;
    for (from, value) in &heads {
        for (to, own) in heads.iter().filter(|(to, _)| to != from) {
            let opened =
                at_rest.with(to, value.clone(), || keys.iter().map(|key| at_rest.opened(key)).collect::<Vec<_>>());
            // All others are as they were, and the one that was replaced is nothing.
            let whole = opened.iter().zip(&truth).filter(|(opened, truth)| opened == truth).count();
            let empty = opened.iter().filter(|opened| opened.is_none()).count();
            assert_eq!((whole, empty), (keys.len() - 1, 1), "{from:?} in the place of {to:?} {}", own.len());
            tried += 1;
        }
    }
    let parts = at_rest.store.records(b"s/part/")?;
    assert!(parts.len() > 1, "{} parts", parts.len());
    for (key, (record, value)) in [(&keys[0], &heads[1]), (&keys[4], &parts[0]), (&keys[4], &parts[1])] {
        let right = truth.iter().flatten().map(|(_, _, value)| value.clone()).collect::<Vec<_>>();
        let mut check = |changed: Vec<u8>| {
            tried += 1;
            if let Some((_, content_type, value)) = at_rest.with(record, changed.into(), || at_rest.opened(key)) {
                assert!(right.contains(&value) && content_type == "text/plain", "another value: {value:?}");
            }
        };
        for length in 0..value.len() {
            check(value[..length].to_vec());
        }
        for bit in 0..value.len() * 8 {
            let mut changed = value.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            check(changed);
        }
    }
    println!("{tried} changes tried");
    let swapped = at_rest.with(&parts[0].0, parts[1].1.clone(), || at_rest.opened(&keys[4]));
    assert_eq!(swapped, None, "parts in another order");
    Ok(())
}
