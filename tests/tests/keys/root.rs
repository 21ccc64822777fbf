//! Changes of the root key that do not come to their end, and those that come to it late.

use std::{fs, path::Path, sync::Arc};

use anyhow::Result;
use tonic::Code;
use veribus_broker::{
    record::WriterEnd,
    seal::RootKeys,
    server::{ServerError, StartOptions, start},
};
use veribus_proto::v1::EntryKind;
use veribus_tests::{
    broker::Home,
    faults::{Fault, FaultyStore},
    raw::{Raw, RawOptions},
};

use super::{GRANTS, agent, code_and_reason, keys, read, rewrap, root_key_id, rotate, said, setup, shred, told, write};

/// A broker that stopped after a rewrap, and the root key from before it.
async fn rewrapped(old: &Path) -> Result<(Home, String)> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "kept").await?;
    fs::copy(broker.directory().root().join("root.key"), old)?;
    let new_id = rewrap(&raw).await?.root_key_id;
    drop(raw);
    Ok((broker.stop().await?, new_id))
}

#[tokio::test]
async fn a_change_that_stopped_between_commit_and_adoption_is_finished_by_the_next_start() -> Result<()> {
    let place = tempfile::tempdir()?;
    let old = place.path().join("old.key");
    // As a crash leaves it: before the old root key was overwritten, and after.
    for is_overwritten in [false, true] {
        let (home, new_id) = rewrapped(&old).await?;
        let (file, next) = (home.root_key_file(), home.root_key_file().with_extension("key.next"));
        let adopted = fs::read(&file)?;
        fs::rename(&file, &next)?;
        fs::copy(&old, &file)?;
        if is_overwritten {
            fs::write(&file, [0; 64])?;
        }
        let broker = home.start().await?;
        assert!(!next.exists());
        assert_eq!(fs::read(&file)?, adopted);
        let raw = agent(&broker, &GRANTS).await?;
        assert_eq!((root_key_id(&raw).await?, read(&raw, "notes/a").await?), (new_id, "kept".to_owned()));
        rewrap(&raw).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_change_that_was_prepared_and_not_committed_is_undone_by_the_next_start() -> Result<()> {
    let place = tempfile::tempdir()?;
    let (home, id) = rewrapped(&place.path().join("old.key")).await?;
    let next = home.root_key_file().with_extension("key.next");
    RootKeys::create(&next)?;
    let broker = home.start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    assert_eq!((root_key_id(&raw).await?, read(&raw, "notes/a").await?), (id, "kept".to_owned()));
    assert!(!next.exists());
    Ok(())
}

#[tokio::test]
async fn a_root_key_that_cannot_be_prepared_changes_nothing_and_is_recorded() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "kept").await?;
    let (before, file) = (root_key_id(&raw).await?, broker.directory().root().join("root.key"));
    let line = fs::read(&file)?;
    // Somebody else's: it must not be lost, and nothing goes under it.
    let next = broker.directory().root().join("root.key.next");
    RootKeys::create(&next)?;
    let others = fs::read(&next)?;
    let failed = told(Code::Internal, "ROOT_KEY_FAILED");
    assert_eq!(code_and_reason(rewrap(&raw).await), failed);
    assert_eq!(code_and_reason(shred(&raw, "notes", 1).await), failed);
    assert_eq!((fs::read(&file)?, fs::read(&next)?), (line, others));
    assert_eq!((root_key_id(&raw).await?, keys(&raw, "").await?.len()), (before, 1), "not even rotated");
    let log = broker.log().await?;
    let denied = |entry: &&veribus_proto::v1::AuditEntry| {
        entry.decision.as_ref().is_some_and(|decision| decision.rules.contains(&"native/root-key".to_owned()))
    };
    assert_eq!(log.of_kind(EntryKind::Keys).filter(denied).count(), 2);
    fs::remove_file(&next)?;
    rewrap(&raw).await?;
    Ok(())
}

#[tokio::test]
async fn an_old_root_key_that_cannot_be_destroyed_is_told_and_goes_with_the_next_change() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "kept").await?;
    let root = broker.directory().root();
    let (file, next) = (root.join("root.key"), root.join("root.key.next"));
    // Nothing can be renamed over a directory.
    fs::remove_file(&file)?;
    fs::create_dir(&file)?;
    assert_eq!(code_and_reason(rewrap(&raw).await), told(Code::Internal, "OLD_ROOT_KEY_LEFT"));
    let in_effect = root_key_id(&raw).await?;
    let log = broker.log().await?;
    let left = log.of_kind(EntryKind::Keys).find(|entry| entry.detail == "old root key not destroyed");
    assert_eq!(left.map(said).transpose()?.map(|said| said.3), Some(in_effect.as_str()));
    assert_eq!(read(&raw, "notes/a").await?, "kept");
    assert!(next.exists());
    write(&raw, "fresh/a", "under the new one").await?;

    fs::remove_dir(&file)?;
    let done = rewrap(&raw).await?;
    assert!(file.exists() && !next.exists());
    drop(raw);
    let broker = broker.stop().await?.start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    assert_eq!(root_key_id(&raw).await?, done.root_key_id);
    assert_eq!(read(&raw, "fresh/a").await?, "under the new one");
    Ok(())
}

/// Nobody knows which root key counts after a write that failed: the process ends, and the next start asks the store.
#[tokio::test]
async fn after_a_write_that_failed_the_next_start_finds_out_which_root_key_counts() -> Result<()> {
    for (fault, is_new) in [(Fault::NotPersisted, false), (Fault::PersistedButReportedFailed, true)] {
        let store = Arc::new(FaultyStore::default());
        let mut broker = setup().store(store.clone()).start().await?;
        let raw = agent(&broker, &GRANTS).await?;
        write(&raw, "notes/a", "kept").await?;
        rotate(&raw, "notes").await?;
        let before = root_key_id(&raw).await?;
        store.fail_next(fault);
        assert_eq!(code_and_reason(rewrap(&raw).await), told(Code::Unavailable, "RECORD_FAILED"));
        assert!(matches!(broker.failed().await, ServerError::Writer(WriterEnd::RootKey(_))));
        assert_eq!(code_and_reason(read(&raw, "notes/a").await), told(Code::Unavailable, "RECORD_FAILED"));
        assert!(broker.directory().root().join("root.key.next").exists(), "kept until it is known");
        let token =
            broker.sign(&GRANTS.iter().fold(broker.claims("agent"), |all, one| all.permission(*one)).decrypt(">"))?;
        let ca = broker.directory().ca_path();
        let (server, mut home) = broker.into_parts();
        drop(raw);
        server.drain().await.expect_err("its writer had ended");

        let options = StartOptions { store: Some(store), ..StartOptions::default() };
        let server = start(home.config_mut().clone(), options).await?;
        let raw = Raw::connect(server.address(), &ca, Some(&token), RawOptions::default()).await?;
        assert_eq!(root_key_id(&raw).await? != before, is_new);
        assert_eq!(read(&raw, "notes/a").await?, "kept");
        assert!(!home.root_key_file().with_extension("key.next").exists());
        rewrap(&raw).await?;
        server.drain().await?;
    }
    Ok(())
}
