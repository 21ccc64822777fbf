//! Watches: what they show, where they go on, and when they end.

use prost::Message as _;
use veribus_tests::{
    faults::{Fault, FaultyStore},
    raw::RawOptions,
    wire::{Wire, frame},
};

use veribus_proto::v1::{WatchRequest, WatchTarget, watch_request};

use super::*;

#[tokio::test]
async fn a_watch_shows_what_is_there_then_what_changes_and_goes_on_where_it_was() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    written(&raw, put("notes/old", "1")).await?;
    written(&raw, put("notes/gone", "1")).await?;
    raw.state().delete(delete("notes/gone")).await?;
    let mut watch = StateWatch::open(&raw, "notes", 0).await?;
    let shown: Vec<_> = watch.initial().await?.into_iter().filter_map(|change| change.change).collect();
    assert!(matches!(&shown[..], [Change::Put(value)] if value.value == "1"), "{shown:?}");
    let new = written(&raw, put("notes/new", "2")).await?;
    written(&raw, put("other/new", "3")).await?;
    let batch = watch.batch().await?;
    assert!(matches!(&batch.changes[0].change, Some(Change::Put(value)) if value.value == "2"));
    assert_eq!(batch.through_revision, new);
    let log = broker.log().await?;
    let read = log.at(batch.audit_index)?;
    let reads = &read.state.as_ref().context("state")?.reads;
    assert_eq!(reads[..], [StateRead { key: "notes/new".to_owned(), revision: new }]);
    drop(watch);

    // While the watcher is away, a value is deleted and one is written twice; then the broker restarts.
    raw.state().delete(delete("notes/old")).await?;
    written(&raw, put("notes/new", "3")).await?;
    let last = written(&raw, put("notes/new", "4")).await?;
    let broker = broker.stop().await?.start().await?;
    let raw = agent(&broker, "a").await?;
    let mut watch = StateWatch::open(&raw, "notes", new).await?;
    let shown: Vec<_> = watch.initial().await?.into_iter().filter_map(|change| change.change).collect();
    assert!(
        matches!(&shown[..], [Change::Gone(gone), Change::Put(value)] if gone.key == "notes/old" && value.value == "4"),
        "{shown:?}"
    );
    let unknown = StateWatch::open(&raw, "notes", last + 1_000).await.err().context("refused")?;
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::OutOfRange, "REVISION_UNKNOWN"));
    Ok(())
}

#[tokio::test]
async fn a_watcher_who_was_away_for_too_long_is_told_so() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let setup = Setup::default().open_policy().clock(&clock).configure(|config| config.state.gone_kept_s = 100);
    let broker = setup.start().await?;
    let raw = agent(&broker, "a").await?;
    let first = written(&raw, put("notes/a", "1")).await?;
    raw.state().delete(delete("notes/a")).await?;
    clock.advance(Duration::from_secs(101));
    let ended = async {
        loop {
            // Each write makes the broker look at the time.
            if let Err(status) = StateWatch::open(&raw, "notes", first).await?.initial().await {
                return Ok::<_, anyhow::Error>(status);
            }
        }
    };
    let ended = veribus_tests::patiently(ended).await??;
    let status = ended.downcast::<Status>()?;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "REVISION_TOO_OLD"));
    assert!(StateWatch::open(&raw, "notes", 0).await?.initial().await?.is_empty());
    Ok(())
}

/// A lesser token in mid-stream stops the values at once.
#[tokio::test]
async fn a_narrower_token_ends_a_watch_and_closes_a_session_to_what_it_no_longer_permits() -> Result<()> {
    let broker = broker().await?;
    let (owner, reader) = (agent(&broker, "owner").await?, agent(&broker, "reader").await?);
    written(&owner, put("notes/a", "1")).await?;
    let mut session = StateSession::open(&reader).await?;
    assert!(matches!(session.run(vec![Operation::Get(get("notes/a"))]).await?[..], [Answer::Get(_)]));
    let mut watch = StateWatch::open(&reader, "notes", 0).await?;
    watch.initial().await?;
    let narrow = token(&broker, "reader", &GRANTS, &["other"])?;
    watch.refresh(&narrow).await?;
    assert!(matches!(watch.response().await?, Some(Response::Refreshed(_))));
    written(&owner, put("notes/a", "2")).await?;
    let end = watch.response().await.expect_err("over");
    assert_eq!((end.code(), reason(&end).as_str()), (Code::PermissionDenied, "MISSING_DECRYPT_CLAIM"));
    let index = metadata(&end, "audit_index").parse()?;
    assert_eq!(broker.log().await?.at(index)?.kind(), EntryKind::StateWatch, "that it ended is recorded");
    session.send(vec![Operation::Get(get("notes/a"))], Some(&narrow)).await?;
    let answers = session.answers().await?.context("answers")?;
    assert!(matches!(&answers[..], [Answer::Refusal(refusal)] if refusal.reason == "MISSING_DECRYPT_CLAIM"));
    Ok(())
}

/// More values than are looked up in one go, in a scope where deletions were forgotten before the watcher came.
#[tokio::test]
async fn a_new_watcher_comes_to_the_end_of_a_large_scope() -> Result<()> {
    const VALUES: usize = 9_000;
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let setup = Setup::default().open_policy().clock(&clock).configure(|config| config.state.gone_kept_s = 1);
    let broker = setup.start().await?;
    let raw = agent(&broker, "a").await?;
    let mut session = StateSession::open(&raw).await?;
    let keys: Vec<_> = (0..VALUES).map(|number| format!("notes/{number}")).collect();
    for part in keys.chunks(1_000) {
        session.run(part.iter().map(|key| Operation::Put(put(key, "x"))).collect()).await?;
    }
    let last = written(&raw, put("notes/gone", "x")).await?;
    raw.state().delete(delete("notes/gone")).await?;
    clock.advance(Duration::from_secs(2));
    let forgotten = async {
        while StateWatch::open(&raw, "notes", last).await?.initial().await.is_ok() {}
        Ok::<_, anyhow::Error>(())
    };
    veribus_tests::patiently(forgotten).await??;
    drop(session);
    // After a restart, nobody remembers the latest changes.
    let broker = broker.stop().await?.start().await?;
    let raw = agent(&broker, "a").await?;
    let shown = StateWatch::open(&raw, "notes", 0).await?.initial().await?;
    assert_eq!(shown.len(), VALUES);
    Ok(())
}

/// One who is behind gets the newest of each key, in the time that the keys take, and is told what it was not shown.
#[tokio::test]
async fn a_watcher_who_is_behind_catches_up_by_keys_and_is_told_what_it_missed() -> Result<()> {
    const KEYS: usize = 500;
    const ROUNDS: usize = 20;
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    let begin = written(&raw, put("deep/0", "0")).await?;
    let mut session = StateSession::open(&raw).await?;
    for round in 0..ROUNDS {
        let puts = (0..KEYS).map(|key| Operation::Put(put(&format!("deep/{key}"), &round.to_string())));
        session.run(puts.collect()).await?;
    }
    let before = broker.log().await?.of_kind(EntryKind::StateRead).count();
    let mut watch = StateWatch::open(&raw, "deep", begin).await?;
    let (mut values, mut skipped) = (Vec::new(), 0);
    while values.len() < KEYS {
        let batch = watch.batch().await?;
        skipped = batch.skipped_total;
        values.extend(batch.changes.into_iter().filter_map(|change| match change.change {
            Some(Change::Put(value)) => Some((value.metadata.unwrap_or_default().key, value.value)),
            _ => None,
        }));
    }
    let last = (ROUNDS - 1).to_string();
    assert!(values.iter().all(|(_, value)| *value == last), "the newest of each");
    values.sort_unstable();
    values.dedup_by(|(one, _), (other, _)| one == other);
    assert_eq!((values.len(), skipped as usize), (KEYS, KEYS * (ROUNDS - 1)));
    let entries = broker.log().await?.of_kind(EntryKind::StateRead).count() - before;
    assert!(entries <= KEYS / 40, "{entries} entries");
    Ok(())
}

/// However fast somebody writes, a watcher sees every key, each newer than before.
#[tokio::test]
async fn a_watcher_makes_progress_behind_a_writer_who_does_not_pause() -> Result<()> {
    const KEYS: usize = 500;
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    let mut watch = StateWatch::open(&raw, "notes", 0).await?;
    let writer = agent(&broker, "writer").await?;
    let writing = tokio::spawn(async move {
        let mut session = StateSession::open(&writer).await?;
        let puts: Vec<_> = (0..KEYS).map(|key| Operation::Put(put(&format!("notes/{key}"), "x"))).collect();
        session.send(puts.clone(), None).await?;
        loop {
            session.send(puts.clone(), None).await?;
            session.answers().await?;
        }
        #[expect(unreachable_code, reason = "says what the task would end with")]
        Ok::<_, anyhow::Error>(())
    });
    let mut newest = std::collections::HashMap::new();
    let mut shown = 0;
    while newest.len() < KEYS || shown < 4 * KEYS {
        for change in watch.batch().await?.changes {
            let Some(Change::Put(value)) = change.change else { continue };
            let metadata = value.metadata.unwrap_or_default();
            let before = newest.insert(metadata.key, metadata.revision);
            assert!(before.is_none_or(|before| before < metadata.revision), "each is newer than the one before");
            shown += 1;
        }
    }
    assert!(!writing.is_finished(), "it never paused");
    writing.abort();
    Ok(())
}

/// What many are shown at once stands in few entries, which name all of them.
#[tokio::test]
async fn many_watchers_of_one_change_stand_in_few_entries() -> Result<()> {
    const WATCHES: usize = 100;
    const PUTS: usize = 5;
    let broker = broker().await?;
    let (one, other) = (agent(&broker, "one").await?, agent(&broker, "other").await?);
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        let mut watch = StateWatch::open(if number % 2 == 0 { &one } else { &other }, "notes", 0).await?;
        watch.initial().await?;
        watches.push(watch);
    }
    for number in 0..PUTS {
        written(&one, put("notes/a", &number.to_string())).await?;
        for watch in &mut watches {
            watch.batch().await?;
        }
    }
    let log = broker.log().await?;
    let reads: Vec<_> = log.of_kind(EntryKind::StateRead).collect();
    assert!(reads.len() <= PUTS * WATCHES / 4, "{} entries", reads.len());
    let readers =
        |entry: &&veribus_proto::v1::AuditEntry| match &entry.state.as_ref().map_or(&[][..], |state| &state.readers) {
            [] => 1,
            readers => readers.iter().map(|reader| reader.watches.len()).sum(),
        };
    assert_eq!(reads.iter().map(readers).sum::<usize>(), PUTS * WATCHES, "everybody who was shown it is named");
    let opened: std::collections::BTreeSet<u64> = log.of_kind(EntryKind::StateWatch).map(|entry| entry.index).collect();
    let named = reads.iter().flat_map(|entry| &entry.state).flat_map(|state| &state.readers);
    assert!(named.flat_map(|reader| &reader.watches).all(|watch| opened.contains(watch)));
    Ok(())
}

/// After a restart nobody remembers the latest changes: a new watcher goes through all keys, once.
#[tokio::test]
async fn a_watcher_who_has_to_look_among_all_keys_looks_once() -> Result<()> {
    const KEYS: usize = 12_000;
    let store = std::sync::Arc::new(FaultyStore::default());
    let broker = Setup::default().open_policy().store(std::sync::Arc::clone(&store) as _).start().await?;
    let raw = agent(&broker, "a").await?;
    let mut session = StateSession::open(&raw).await?;
    let keys: Vec<_> = (0..KEYS).map(|number| format!("notes/{number}")).collect();
    for part in keys.chunks(1_000) {
        session.run(part.iter().map(|key| Operation::Put(put(key, "x"))).collect()).await?;
    }
    drop(session);
    let broker = broker.stop().await?.start().await?;
    let raw = agent(&broker, "a").await?;
    let before = store.records_read();
    let shown = StateWatch::open(&raw, "notes", 0).await?.initial().await?;
    let records_read = store.records_read() - before;
    assert_eq!(shown.len(), KEYS);
    assert!(records_read as usize <= KEYS + 1_000, "{records_read}");
    Ok(())
}

/// A watcher who takes nothing in, while a value is deleted and that is forgotten again, is told that it missed something, also
/// where nobody remembers the latest changes by then.
#[tokio::test]
async fn a_deletion_that_is_forgotten_meanwhile_ends_the_watch_of_who_was_stuck() -> Result<()> {
    let UnixSeconds(now) = Clock::system().now().seconds();
    let clock = Clock::manual(UnixSeconds(now));
    let store = std::sync::Arc::new(FaultyStore::default());
    let setup = Setup::default().open_policy().clock(&clock).store(std::sync::Arc::clone(&store) as _);
    let broker = setup.configure(|config| config.state.gone_kept_s = 1).start().await?;
    let raw = agent(&broker, "a").await?;
    let first = written(&raw, put("notes/k", "1")).await?;
    let window = RawOptions { window_bytes: Some(65_535), ..RawOptions::default() };
    let stuck = broker.raw_with(Some(&token(&broker, "stuck", &GRANTS, &[">"])?), window).await?;
    let mut watch = StateWatch::open(&stuck, "notes", 0).await?;
    watch.initial().await?;
    // One does not fit its window, another waits behind that, and it asks for no more.
    for name in ["notes/large", "notes/larger"] {
        let shown = written(&raw, put(name, &"y".repeat(500_000))).await?;
        let was_shown = |log: &veribus_tests::log::Log| {
            let states = log.of_kind(EntryKind::StateRead).flat_map(|entry| &entry.state);
            states.flat_map(|state| &state.reads).any(|read| read.revision == shown)
        };
        broker.log_with(was_shown).await?;
    }
    raw.state().delete(delete("notes/k")).await?;
    clock.advance(Duration::from_secs(2));
    let forgotten = async {
        while StateWatch::open(&raw, "notes", first).await?.initial().await.is_ok() {}
        Ok::<_, anyhow::Error>(())
    };
    veribus_tests::patiently(forgotten).await??;
    // After a failed write, what changed is looked for among all keys.
    store.fail_next(Fault::NotPersisted);
    raw.state().put(put("other/x", "1")).await.expect_err("not written");
    written(&raw, put("other/x", "2")).await?;
    let end = async {
        loop {
            match watch.response().await {
                Ok(Some(Response::Batch(_))) => {}
                Ok(other) => return Err(anyhow::anyhow!("{other:?}")),
                Err(status) => return Ok(status),
            }
        }
    };
    let status = veribus_tests::patiently(end).await??;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::OutOfRange, "REVISION_TOO_OLD"));
    Ok(())
}

/// The client's flow control decides what is sent, not whether the broker goes on with what it has begun, which may hold what
/// others wait for. But nothing is read ahead of what was read already.
#[tokio::test]
async fn a_watch_goes_on_by_itself_as_far_as_one_batch() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "one").await?;
    written(&raw, put("notes/a", "1")).await?;
    let mut settings = h2::client::Builder::new();
    settings.initial_window_size(0);
    let wire = Wire::connect_with(broker.address(), &broker.directory().ca_path(), settings).await?;
    let stuck = token(&broker, "stuck", &GRANTS, &[">"])?;
    let mut call = wire.call("/veribus.v1.StateService/Watch", Some(&stuck)).await?;
    let target = watch_request::Request::Target(WatchTarget { prefix: "notes".into(), after_revision: 0 });
    call.requests.send_data(frame(&WatchRequest { request: Some(target) }.encode_to_vec()), false)?;
    let shown = |log: &veribus_tests::log::Log| {
        log.of_kind(EntryKind::StateRead).flat_map(|entry| &entry.state).map(|state| state.reads.len()).sum::<usize>()
    };
    broker.log_with(|log| shown(log) == 1).await?;
    let mut other = StateWatch::open(&agent(&broker, "other").await?, "notes", 0).await?;
    other.initial().await?;
    for number in 2..10 {
        written(&raw, put("notes/a", &number.to_string())).await?;
        other.batch().await?;
    }
    let reads = shown(&broker.log().await?);
    assert_eq!(reads, 1 + 9, "one by the first, the others by the other");
    Ok(())
}
