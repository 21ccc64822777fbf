//! Copies of everything, made while the writer goes on.

use std::sync::Arc;

use veribus_proto::v1::EntryKind;

use super::{Bench, Failure, kinds, record};
use crate::{
    authenticate::Identity,
    decide::{Access, Verdict},
    fixtures::peer,
    model::RefusalReason,
    record::{AccessReceipt, CopyError, Copying, Draft, JournalFault, LogReader, RecordError, Recorder},
};

fn draft(bench: &Bench) -> (Draft, Arc<Identity>) {
    let operator = bench.world.identity(&bench.world.claims("operator"));
    let verdict =
        Verdict { decision: crate::decide::Decision::Allow, rules: [].into(), reason: None, policy_sha256: [0; 32] };
    (Draft::access(Access::Backup, &verdict, &operator, peer()), operator)
}

async fn begin(
    bench: &Bench,
    recorder: &Recorder,
    reader: &LogReader,
    journal_bytes_max: usize,
) -> Result<(AccessReceipt, Copying), RecordError> {
    let (draft, operator) = draft(bench);
    recorder.copy(draft, operator, reader, journal_bytes_max).await
}

/// Reads to the end: how many entries it has.
fn entries(mut copying: Copying) -> Result<u64, CopyError> {
    loop {
        let part = copying.next_part()?.expect("an end");
        if let Some(end) = part.end {
            return Ok(end.next_index);
        }
    }
}

#[tokio::test]
async fn a_copy_holds_its_own_entry_and_what_was_recorded_until_it_was_read() {
    let bench = Bench::new();
    let (recorder, reader, _running) = bench.start().expect("started");
    record(&recorder, bench.routed("before", true)).await.expect("recorded");
    let (receipt, copying) = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
    assert_eq!((receipt.decision_id.audit_index(), receipt.refused), (1, None));
    record(&recorder, bench.routed("during", true)).await.expect("recorded");
    assert_eq!(entries(copying).expect("copied"), 3);
    assert_eq!(kinds(&bench), [EntryKind::Publish, EntryKind::Backup, EntryKind::Publish]);
}

#[tokio::test]
async fn one_copy_at_a_time_and_another_when_it_is_over() {
    let bench = Bench::new();
    let (recorder, reader, _running) = bench.start().expect("started");
    let first = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
    let (second, _) = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
    assert_eq!(second.refused, Some(RefusalReason::BackupRunning));
    let entry = bench.store.entries().pop().expect("an entry");
    assert_eq!(entry.decision.expect("decided").rules, ["native/backup-running"]);
    drop(first);
    let (third, _) = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
    assert_eq!(third.refused, None);
}

#[tokio::test]
async fn of_two_copies_in_one_commit_one_begins() {
    let bench = Bench::new();
    let (writer, recorder, reader) = bench.open().expect("opened");
    let two =
        async { tokio::join!(begin(&bench, &recorder, &reader, 1_000), begin(&bench, &recorder, &reader, 1_000)) };
    let delivered = bench.delivered.clone();
    let running = async {
        while recorder.queued() < 2 {
            tokio::task::yield_now().await;
        }
        std::thread::spawn(move || writer.run(delivered))
    };
    let ((first, second), _running) = tokio::join!(two, running);
    assert_eq!(bench.store.appends.load(std::sync::atomic::Ordering::SeqCst), 1, "one commit");
    let refused = [first, second].map(|begun| begun.expect("recorded").0.refused);
    assert_eq!(refused, [None, Some(RefusalReason::BackupRunning)]);
}

#[tokio::test]
async fn a_write_that_fails_ends_the_copy_since_nobody_knows_what_it_left() {
    for failure in [Failure::NotPersisted, Failure::PersistedButReportedFailed] {
        let bench = Bench::new();
        let (recorder, reader, _running) = bench.start().expect("started");
        let (_, copying) = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
        bench.store.failures.lock().push(failure);
        assert!(record(&recorder, bench.routed("during", true)).await.is_err());
        record(&recorder, bench.routed("after", true)).await.expect("recorded");
        let fault = entries(copying).expect_err("not known");
        assert!(matches!(fault, CopyError::Journal(JournalFault::WriteFailed)), "{fault}");
        // Nothing begins with a commit that failed.
        bench.store.failures.lock().push(failure);
        assert!(begin(&bench, &recorder, &reader, 1_000).await.is_err());
        let (receipt, _) = begin(&bench, &recorder, &reader, 1_000).await.expect("recorded");
        assert_eq!(receipt.refused, None);
    }
}
