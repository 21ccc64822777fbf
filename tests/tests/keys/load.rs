//! Changes of keys while others read and write.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result};
use veribus_proto::v1::{EntryKind, state_operation::Operation, state_result::Result as Answer};
use veribus_tests::state::{StateSession, get, put};

use super::{GRANTS, agent, keys, rewrap, rotate, setup, shred, write};

const CHANGES: u32 = 40;

/// Writes and reads back, each time also to a scope that has no key yet, until told to stop; says how often.
async fn work(mut session: StateSession, worker: usize, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let (known, fresh) = (format!("notes/{worker}"), format!("fresh.{worker}.{rounds}/a"));
        let value = format!("{worker} {rounds}");
        let (known, fresh) = (known.as_str(), fresh.as_str());
        let operations = [
            Operation::Put(put(known, &value)),
            Operation::Put(put(fresh, &value)),
            Operation::Get(get(known)),
            Operation::Get(get(fresh)),
        ];
        let answers = session.run(operations.into()).await?;
        let is_right = |answer: &Answer| match answer {
            Answer::Put(_) => true,
            Answer::Get(response) => response.value.as_ref().is_some_and(|found| found.value == value),
            _ => false,
        };
        anyhow::ensure!(answers.len() == 4 && answers.iter().all(is_right), "{answers:?}");
        rounds += 1;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_or_write_fails_while_keys_are_rotated_rewrapped_and_shredded() -> Result<()> {
    let broker = setup().start().await?;
    let operator = agent(&broker, &GRANTS).await?;
    write(&operator, "notes/0", "x").await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for worker in 0..4 {
        let session = StateSession::open(&agent(&broker, &GRANTS).await?).await?;
        workers.push(tokio::spawn(work(session, worker, Arc::clone(&stop))));
    }
    for change in 1..=CHANGES {
        rotate(&operator, "notes").await.context("rotate")?;
        rewrap(&operator).await.context("rewrap")?;
        if change % 10 == 0 {
            rotate(&operator, "").await.context("rotate all")?;
            // Long out of use: the workers read what they have just written.
            shred(&operator, "notes", change / 10).await.context("shred")?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut rounds = Vec::new();
    for worker in workers {
        rounds.push(worker.await??);
    }
    assert!(rounds.iter().all(|count| *count > 5), "there was load: {rounds:?}");
    assert_eq!(keys(&operator, "notes").await?.len() as u32, 1 + CHANGES + CHANGES / 10);
    let log = broker.log().await?;
    let rewrapped = log.of_kind(EntryKind::Keys).filter(|entry| entry.detail == "rewrapped").count();
    assert_eq!(rewrapped as u32, CHANGES);
    Ok(())
}
