use futures_util::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::{Code, Status};
use veribus_proto::v1::{self, AuditEntry, EntryKind, QueryResponse};

use super::fake::{Fake, status};
use crate::{AuditFilter, Error, StoredEntry};

fn stored(index: u64) -> v1::StoredEntry {
    let entry = AuditEntry { index, detail: format!("entry {index}"), ..AuditEntry::default() };
    v1::StoredEntry { index, entry: entry.encode_to_vec().into() }
}

fn part(indexes: &[u64], next_index: u64) -> Result<QueryResponse, Status> {
    Ok(QueryResponse { entries: indexes.iter().map(|index| stored(*index)).collect(), next_index })
}

fn broken() -> Result<QueryResponse, Status> {
    Err(status(Code::Unavailable, "DRAINING", &[]))
}

fn indexes(entries: &[StoredEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

#[tokio::test]
async fn a_query_goes_on_where_its_connection_broke() {
    let fake = Fake::start().await;
    fake.next_audit(vec![part(&[2, 5], 8), broken()]);
    fake.next_audit(vec![part(&[9], 10), part(&[], 20)]);
    let filter = AuditFilter::all().agent("agent").kind(EntryKind::Publish);
    let audit = fake.client().await.audit();
    let entries: Vec<_> = audit.query(filter, 1, 0).try_collect().await.expect("entries");
    assert_eq!(indexes(&entries), [2, 5, 9]);
    assert_eq!((entries[0].entry.detail.as_str(), &entries[0].bytes), ("entry 2", &stored(2).entry));
    let queries = fake.state.queries.lock().unwrap();
    assert_eq!(queries.iter().map(|query| query.from_index).collect::<Vec<_>>(), [1, 8]);
    let filters: Vec<_> = queries.iter().map(|query| query.filter.as_ref().expect("a filter")).collect();
    assert!(filters.iter().all(|filter| filter.agent == "agent" && filter.kind() == EntryKind::Publish));
}

#[tokio::test]
async fn a_limit_holds_over_a_broken_connection() {
    let fake = Fake::start().await;
    fake.next_audit(vec![part(&[0, 1], 2), broken()]);
    fake.next_audit(vec![part(&[2], 3)]);
    let audit = fake.client().await.audit();
    let entries: Vec<_> = audit.query(AuditFilter::all(), 0, 3).try_collect().await.expect("entries");
    assert_eq!(indexes(&entries), [0, 1, 2]);
    let limits: Vec<_> = fake.state.queries.lock().unwrap().iter().map(|query| query.limit).collect();
    assert_eq!(limits, [3, 1]);
}

#[tokio::test]
async fn a_no_ends_the_query() {
    let fake = Fake::start().await;
    fake.next_audit(vec![Err(status(Code::PermissionDenied, "MISSING_PERMISSION", &[]))]);
    let mut entries = fake.client().await.audit().query(AuditFilter::all(), 0, 0);
    let error = entries.next().await.expect("an end").expect_err("refused");
    assert_eq!(error.reason(), Some("MISSING_PERMISSION"));
    assert!(entries.next().await.is_none());
}

#[tokio::test]
async fn entries_that_do_not_fit_are_not_believed() {
    let mislabelled = QueryResponse { entries: vec![v1::StoredEntry { index: 3, ..stored(2) }], next_index: 4 };
    let undecodable =
        QueryResponse { entries: vec![v1::StoredEntry { index: 3, entry: "\u{7f}".into() }], next_index: 4 };
    let scripts =
        [Ok(mislabelled), Ok(undecodable), part(&[3, 3], 4), part(&[0], 4), part(&[5], 5), part(&[1, 2, 3], 4)];
    for (number, script) in scripts.into_iter().enumerate() {
        let fake = Fake::start().await;
        fake.next_audit(vec![script]);
        let entries: Result<Vec<_>, _> =
            fake.client().await.audit().query(AuditFilter::all(), 1, 2).try_collect().await;
        assert!(matches!(entries, Err(Error::Protocol(_))), "script {number}: {entries:?}");
    }
}

#[tokio::test]
async fn a_tail_goes_on_where_it_was() {
    let fake = Fake::start().await;
    fake.next_audit(vec![part(&[7], 8), broken()]);
    fake.next_audit(vec![part(&[8], 9)]);
    fake.next_audit(vec![part(&[9], 10), Err(Status::permission_denied("no"))]);
    let mut entries = fake.client().await.audit().tail(None, AuditFilter::all());
    for index in 7..10 {
        assert_eq!(entries.next().await.expect("an entry").expect("sound").index, index);
    }
    assert_eq!(entries.next().await.expect("an end").expect_err("no").code(), Some(Code::PermissionDenied));
    assert_eq!(*fake.state.tails.lock().unwrap(), [None, Some(8), Some(9)]);
}

#[tokio::test]
async fn a_tail_that_does_not_know_where_it_was_leaves_nothing_out() {
    let fake = Fake::start().await;
    fake.next_audit(vec![broken()]);
    let mut entries = fake.client().await.audit().tail(None, AuditFilter::all());
    let error = entries.next().await.expect("an end").expect_err("lost");
    assert_eq!((error.reason(), fake.state.tails.lock().unwrap().len()), (Some("DRAINING"), 1));
}
