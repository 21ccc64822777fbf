//! Watches: what they show, where they go on, and when they end.

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
