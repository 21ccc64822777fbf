//! What is shredded is gone: for its readers, and for whoever kept a copy.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use data_encoding::BASE64;
use tonic::Code;
use veribus_broker::{
    engine::LogStore as _,
    model::{Epoch, Scope},
    seal::{
        KEY_PREFIX, KeyRing, KeyRingError, OVERHEAD_BYTES, RootKey, RootKeyError, RootKeySource, RootKeys, WrapContext,
    },
    server::{KeysError, ServerError, StartOptions, start},
};
use veribus_proto::v1::{EntryKind, GetRequest, state_change::Change};
use veribus_tests::{broker::left_log, state::StateWatch};

use super::{GRANTS, agent, code_and_reason, facts, keys, read, root_key_id, rotate, said, setup, shred, told, write};

#[tokio::test]
async fn who_may_read_is_told_that_it_is_shredded_and_nobody_else() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    let old = write(&raw, "deep/a", "old").await?;
    let lost = write(&raw, "deep/lost", "lost").await?;
    rotate(&raw, "deep").await?;
    write(&raw, "deep/a", "new").await?;
    let done = shred(&raw, "deep", 1).await?;

    let shredded = told(Code::DataLoss, "SHREDDED");
    assert_eq!(code_and_reason(read(&raw, "deep/lost").await), shredded);
    let past = GetRequest { key: "deep/a".to_owned(), revision: old };
    assert_eq!(code_and_reason(raw.state().get(past).await), shredded);
    assert_eq!(read(&raw, "deep/a").await?, "new", "what another key encrypts is there");
    let reader = broker.sign(&broker.claims("other").permission("state.read:>"))?;
    let no_claim = told(Code::PermissionDenied, "MISSING_DECRYPT_CLAIM");
    let reader = broker.raw(&reader).await?;
    assert_eq!(code_and_reason(read(&reader, "deep/lost").await), no_claim);
    let writer = agent(&broker, &["state.write:>"]).await?;
    let no_permission = told(Code::PermissionDenied, "MISSING_PERMISSION");
    assert_eq!(code_and_reason(read(&writer, "deep/lost").await), no_permission);
    let changes = StateWatch::open(&raw, "deep", 0).await?.initial().await?;
    let gone = changes.iter().filter_map(|change| match &change.change {
        Some(Change::Shredded(gone)) => Some((gone.key.as_str(), gone.revision)),
        _ => None,
    });
    assert_eq!(gone.collect::<Vec<_>>(), [("deep/a", old), ("deep/lost", lost)]);
    // It can be written again.
    write(&raw, "deep/lost", "again").await?;
    assert_eq!(read(&raw, "deep/lost").await?, "again");

    assert_eq!(code_and_reason(shred(&raw, "deep", 1).await), told(Code::NotFound, "NO_SUCH_KEY"));
    let log = broker.log().await?;
    assert_eq!(said(log.at(done.audit_index)?)?, ("shredded", "deep", 1, done.root_key_id.as_str()));
    let refused = log.of_kind(EntryKind::Keys).last().context("an entry")?;
    assert_eq!(said(refused)?, ("shred", "deep", 1, ""));
    Ok(())
}

#[tokio::test]
async fn the_current_epoch_is_rotated_before_it_is_shredded() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "x").await?;
    let done = shred(&raw, "notes", 1).await?;
    assert_eq!(facts(&keys(&raw, "notes").await?), [("notes", 1, false, true), ("notes", 2, true, false)]);
    assert_eq!(code_and_reason(read(&raw, "notes/a").await), told(Code::DataLoss, "SHREDDED"));
    let revision = write(&raw, "notes/a", "y").await?;
    let log = broker.log().await?;
    assert_eq!(said(log.at(done.audit_index - 1)?)?.0, "rotated");
    assert_eq!(log.at(revision)?.state.as_ref().context("state")?.epoch, 2);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, name) = {
            let entry = entry?;
            (entry.path(), entry.file_name())
        };
        if entry.is_dir() { copy(&entry, &to.join(name))? } else { fs::copy(&entry, to.join(name)).map(drop)? }
    }
    Ok(())
}

fn file_holding(directory: &Path, needle: &[u8]) -> Result<Option<String>> {
    for entry in walkdir::WalkDir::new(directory) {
        let entry = entry?;
        let is_there = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
        if entry.file_type().is_file() && is_there(fs::read(entry.path())?) {
            return Ok(Some(entry.path().display().to_string()));
        }
    }
    Ok(None)
}

fn root_key(file: &Path, in_use: &BTreeSet<veribus_broker::seal::RootKeyId>) -> Result<Arc<dyn RootKey>, RootKeyError> {
    RootKeys::new(RootKeySource::File(file.to_owned())).settle(in_use)
}

/// Whether any part of a record, however it is laid out, is a key that this root key unwraps.
fn opens(root: &dyn RootKey, scope: &str, epoch: u32, records: &[(bytes::Bytes, bytes::Bytes)]) -> Result<bool> {
    let scope = Scope::parse(scope)?;
    let context = WrapContext { scope: &scope, epoch: Epoch(epoch) };
    let wrapped_bytes = OVERHEAD_BYTES + 32;
    let is_one = |value: &[u8]| value.windows(wrapped_bytes).any(|part| root.unwrap(&context, part).is_ok());
    Ok(records.iter().any(|(_, value)| is_one(value)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_before_opens_nothing_with_the_new_root_key_and_the_old_one_is_nowhere() -> Result<()> {
    let broker = setup().start().await?;
    let raw = agent(&broker, &GRANTS).await?;
    write(&raw, "notes/a", "shredded").await?;
    write(&raw, "other/a", "kept").await?;
    rotate(&raw, "notes").await?;
    drop(raw);
    let home = broker.stop().await?;
    let (place, data) = (tempfile::tempdir()?, home.data_directory().to_owned());
    let (copied, old_file) = (place.path().join("data"), place.path().join("old.key"));
    copy(&data, &copied)?;

    let broker = home.start().await?;
    let current = broker.directory().root().join("root.key");
    fs::copy(&current, &old_file)?;
    let raw = agent(&broker, &GRANTS).await?;
    let old_id = root_key_id(&raw).await?;
    let new_id = shred(&raw, "notes", 1).await?.root_key_id;
    assert_ne!(old_id, new_id);
    assert_eq!(read(&raw, "other/a").await?, "kept");
    drop(raw);
    let mut home = broker.stop().await?;

    // The old root key is not in any file of the broker's, neither as it is written nor as it is.
    let line = fs::read_to_string(&old_file)?;
    let text = line.trim().rsplit(' ').next().context("a key")?;
    let root = current.parent().context("a directory")?;
    assert_eq!(file_holding(root, text.as_bytes())?, None);
    assert_eq!(file_holding(root, &BASE64.decode(text.as_bytes())?)?, None);
    assert_eq!(file_holding(place.path(), text.as_bytes())?, Some(old_file.display().to_string()), "it would be found");

    // A broker on the copy, with the new root key, does not start.
    let mut config = home.config_mut().clone();
    config.record.data_directory.clone_from(&copied);
    let refused = start(config, StartOptions::default()).await.err().context("refused")?;
    assert!(
        matches!(&refused, ServerError::Keys(KeysError::Root(RootKeyError::Other { found, in_use, .. }))
        if found.as_str() == new_id && in_use.iter().map(|id| id.as_str()).eq([old_id.as_str()])),
        "{refused}"
    );

    // Nor does anything in the copy open by hand, while the old root key, kept elsewhere, would open it.
    let records = left_log(&copied).await?.records(KEY_PREFIX)?;
    let new = root_key(&current, &BTreeSet::new())?;
    let old = root_key(&old_file, &BTreeSet::new())?;
    for (scope, epoch) in [("notes", 1), ("notes", 2), ("other", 1)] {
        assert!(opens(&*old, scope, epoch, &records)?, "{scope} {epoch}: a key of the copy is found");
        assert!(!opens(&*new, scope, epoch, &records)?, "{scope} {epoch}");
    }
    let ring = KeyRing::load(records, Arc::clone(&new));
    assert!(matches!(ring.err(), Some(KeyRingError::OtherRoot { .. })));

    // In the store itself the new root key opens everything but what was shredded, and the old one nothing.
    let records = left_log(&data).await?.records(KEY_PREFIX)?;
    for (scope, epoch, is_there) in [("notes", 1, false), ("notes", 2, true), ("other", 1, true)] {
        assert_eq!(opens(&*new, scope, epoch, &records)?, is_there, "{scope} {epoch}");
        assert!(!opens(&*old, scope, epoch, &records)?, "{scope} {epoch}");
    }
    Ok(())
}
