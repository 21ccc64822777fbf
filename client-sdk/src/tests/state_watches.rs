//! Watches: each change once, whatever breaks.

use futures_util::StreamExt as _;
use tonic::{Code, Status};
use veribus_proto::v1::{
    self, PutRequest, StateGone, WatchBatch, WatchOpened, WatchResponse, state_change::Change, watch_response::Response,
};

use super::{
    fake::{Fake, status},
    fake_state::{WatchScript, metadata},
    source::Source,
};
use crate::{Error, StateChange, StateWatch};

fn response(response: Response) -> Result<WatchResponse, Status> {
    Ok(WatchResponse { response: Some(response) })
}

fn opened() -> Result<WatchResponse, Status> {
    response(Response::Opened(WatchOpened {
        decision_id: "fake-1".to_owned(),
        audit_index: 1,
        ..WatchOpened::default()
    }))
}

fn refreshed() -> Result<WatchResponse, Status> {
    response(Response::Refreshed(v1::Refreshed::default()))
}

fn put_of(key: &str, revision: u64) -> v1::StateChange {
    let put = PutRequest { value: format!("r{revision}").into(), ..PutRequest::default() };
    let value = v1::StateValue { metadata: Some(metadata(key, revision, &put, Vec::new())), value: put.value };
    v1::StateChange { change: Some(Change::Put(value)) }
}

fn put(revision: u64) -> v1::StateChange {
    put_of("a/b", revision)
}

fn batch(changes: Vec<v1::StateChange>, through_revision: u64) -> Result<WatchResponse, Status> {
    response(Response::Batch(WatchBatch { changes, through_revision, audit_index: 99, ..WatchBatch::default() }))
}

fn then_ends(responses: Vec<Result<WatchResponse, Status>>) -> Result<WatchScript, Status> {
    Ok(WatchScript { responses, ..WatchScript::default() })
}

fn then_stays(responses: Vec<Result<WatchResponse, Status>>) -> Result<WatchScript, Status> {
    Ok(WatchScript { responses, stays: true, ..WatchScript::default() })
}

async fn watch(fake: &Fake) -> StateWatch {
    fake.client().await.state().watch("a").await.expect("watching")
}

async fn next(watch: &mut StateWatch) -> StateChange {
    watch.next().await.expect("a change").expect("sound")
}

async fn next_revision(watch: &mut StateWatch) -> u64 {
    next(watch).await.revision()
}

#[tokio::test]
async fn changes_come_in_the_order_of_their_revisions_with_what_they_are() {
    let fake = Fake::start().await;
    let gone = |revision, expired| StateGone { key: "a/b".to_owned(), revision, expired };
    let change = |change| v1::StateChange { change: Some(change) };
    let changes = vec![
        put(4),
        change(Change::Gone(gone(5, false))),
        change(Change::Gone(gone(6, true))),
        change(Change::Shredded(gone(7, false))),
    ];
    fake.next_watch(then_stays(vec![opened(), batch(changes, 9)]));
    let mut watch = watch(&fake).await;
    let StateChange::Put(value) = next(&mut watch).await else { panic!("a write comes first") };
    assert_eq!((value.text().expect("text"), value.revision(), value.audit_index), ("r4", 4, 99));
    let key = || "a/b".to_owned();
    assert_eq!(next(&mut watch).await, StateChange::Deleted { key: key(), revision: 5 });
    assert_eq!(next(&mut watch).await, StateChange::Expired { key: key(), revision: 6 });
    assert_eq!(next(&mut watch).await, StateChange::Shredded { key: key(), revision: 7 });
}

#[tokio::test]
async fn the_position_is_where_another_watch_would_go_on() {
    let fake = Fake::start().await;
    fake.next_watch(then_stays(vec![
        opened(),
        batch(vec![put(4), put(5)], 9),
        batch(vec![], 20),
        batch(vec![put(21)], 21),
    ]));
    let client = fake.client().await;
    let mut watch = client.state().watch_after("a/b", 3).await.expect("watching");
    assert_eq!(watch.position(), 3);
    assert_eq!((next_revision(&mut watch).await, watch.position()), (4, 3), "the batch is not taken yet");
    assert_eq!((next_revision(&mut watch).await, watch.position()), (5, 9));
    assert_eq!((next_revision(&mut watch).await, watch.position()), (21, 21));
    assert_eq!(fake.targets(), [("a/b".to_owned(), 3)]);
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_without_gap_or_repetition() {
    let fake = Fake::start().await;
    let draining = || status(Code::Unavailable, "DRAINING", &[]);
    fake.next_watch(then_ends(vec![opened(), batch(vec![put(4), put(5)], 7), Err(draining())]));
    fake.next_watch(Err(draining()));
    fake.next_watch(then_ends(vec![opened(), batch(vec![], 12), Err(status(Code::ResourceExhausted, "SLOW", &[]))]));
    fake.next_watch(then_ends(vec![opened()]));
    fake.next_watch(then_stays(vec![opened(), batch(vec![put(13)], 13)]));
    let mut watch = watch(&fake).await;
    let revisions = [next_revision(&mut watch).await, next_revision(&mut watch).await, next_revision(&mut watch).await];
    assert_eq!((revisions, watch.reconnects()), ([4, 5, 13], 3));
    let after: Vec<_> = fake.targets().into_iter().map(|(_, after)| after).collect();
    assert_eq!(after, [0, 7, 12, 12]);
}

#[tokio::test]
async fn a_change_may_be_newer_than_what_was_looked_at_and_what_was_skipped_is_told() {
    let fake = Fake::start().await;
    let skipping = |changes, through, skipped_total| {
        response(Response::Batch(WatchBatch { changes, through_revision: through, audit_index: 99, skipped_total }))
    };
    fake.next_watch(then_ends(vec![
        opened(),
        skipping(vec![put(30)], 10, 7),
        skipping(vec![put(12)], 20, 8),
        Err(status(Code::Unavailable, "DRAINING", &[])),
    ]));
    fake.next_watch(then_stays(vec![opened(), skipping(vec![put(30)], 31, 2)]));
    let mut watch = watch(&fake).await;
    assert_eq!((next_revision(&mut watch).await, watch.position(), watch.skipped()), (30, 10, 7));
    assert_eq!((next_revision(&mut watch).await, watch.position(), watch.skipped()), (12, 20, 8));
    assert_eq!((next_revision(&mut watch).await, watch.position(), watch.skipped()), (30, 31, 10));
    assert_eq!(fake.targets().last(), Some(&("a".to_owned(), 20)));
}

#[tokio::test]
async fn a_watch_survives_a_broken_connection() {
    let fake = Fake::start().await;
    fake.next_watch(then_stays(vec![opened(), batch(vec![put(4)], 4)]));
    let mut watch = watch(&fake).await;
    assert_eq!(next_revision(&mut watch).await, 4);
    fake.next_watch(then_stays(vec![opened(), batch(vec![put(5)], 5)]));
    fake.kill_connections();
    assert_eq!(next_revision(&mut watch).await, 5);
    assert_eq!(fake.targets().last(), Some(&("a".to_owned(), 4)));
}

#[tokio::test]
async fn a_watch_goes_on_under_fresh_tokens_and_ends_where_one_does_not_permit_it() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let denied = Err(status(Code::PermissionDenied, "MISSING_PERMISSION", &[]));
    let after_refresh = vec![vec![refreshed(), batch(vec![put(5)], 5)], vec![denied]];
    fake.next_watch(Ok(WatchScript {
        responses: vec![opened(), batch(vec![put(4)], 4)],
        stays: true,
        after_refresh: after_refresh.into(),
    }));
    let client = fake.builder().token_provider(source.clone()).connect().await.expect("connected");
    let mut watch = client.state().watch("a").await.expect("watching");
    assert_eq!(next_revision(&mut watch).await, 4);
    source.set("t1");
    assert_eq!((next_revision(&mut watch).await, watch.reconnects()), (5, 0));
    source.set("t2");
    let end = watch.next().await.expect("an end");
    assert!(matches!(end, Err(Error::Refused(refusal)) if refusal.reason == "MISSING_PERMISSION"));
    assert!(watch.next().await.is_none());
    let tokens: Vec<_> = fake.state.refreshes.lock().unwrap().iter().map(|refresh| refresh.token.clone()).collect();
    assert_eq!(tokens, ["t1", "t2"]);
}

#[tokio::test]
async fn a_refused_watch_says_so() {
    let fake = Fake::start().await;
    fake.next_watch(Err(status(Code::PermissionDenied, "MISSING_PERMISSION", &[])));
    let refused = fake.client().await.state().watch("a").await;
    assert!(matches!(refused, Err(Error::Refused(refusal)) if refusal.reason == "MISSING_PERMISSION"));
}

#[tokio::test]
async fn a_watch_that_cannot_go_on_from_where_it_was_says_so() {
    let fake = Fake::start().await;
    let draining = status(Code::Unavailable, "DRAINING", &[]);
    fake.next_watch(then_ends(vec![opened(), batch(vec![put(4)], 4), Err(draining)]));
    fake.next_watch(Err(status(Code::OutOfRange, "REVISION_TOO_OLD", &[])));
    let mut watch = watch(&fake).await;
    assert_eq!(next_revision(&mut watch).await, 4);
    let end = watch.next().await.expect("an end");
    assert!(matches!(end, Err(Error::Refused(refusal)) if refusal.reason == "REVISION_TOO_OLD"));
}

#[tokio::test]
async fn a_broker_that_breaks_its_word_ends_the_watch() {
    let wrong_length = {
        let mut change = put(4);
        let Some(Change::Put(value)) = &mut change.change else { panic!("a write") };
        value.value = "longer than that".into();
        change
    };
    let breakages = [
        vec![opened(), batch(vec![put(5), put(4)], 9)],
        vec![opened(), batch(vec![put(5), put(5)], 9)],
        vec![opened(), batch(vec![], 9), batch(vec![put(9)], 9)],
        vec![opened(), batch(vec![], 9), batch(vec![], 8)],
        vec![opened(), batch(vec![put_of("ab/c", 4)], 4)],
        vec![opened(), batch(vec![v1::StateChange { change: None }], 4)],
        vec![opened(), batch(vec![wrong_length], 4)],
        vec![opened(), opened()],
        vec![opened(), refreshed()],
    ];
    for (number, responses) in breakages.into_iter().enumerate() {
        let fake = Fake::start().await;
        fake.next_watch(then_stays(responses));
        let mut watch = watch(&fake).await;
        let end = watch.next().await.expect("an end");
        assert!(matches!(end, Err(Error::Protocol(_))), "breakage {number}: {end:?}");
        assert!(watch.next().await.is_none(), "breakage {number}");
    }
    for first in [
        batch(vec![], 1),
        response(Response::Opened(WatchOpened {
            decision_id: "fake-2".to_owned(),
            audit_index: 1,
            ..WatchOpened::default()
        })),
    ] {
        let fake = Fake::start().await;
        fake.next_watch(then_stays(vec![first]));
        assert!(matches!(fake.client().await.state().watch("a").await, Err(Error::Protocol(_))));
    }
}

#[tokio::test]
async fn a_dropped_watch_is_closed_at_the_broker() {
    let fake = Fake::start().await;
    fake.next_watch(then_stays(vec![opened()]));
    let mut closed = fake.state.unsubscribed.subscribe();
    drop(watch(&fake).await);
    closed.wait_for(|count| *count == 1).await.expect("closed");
}
