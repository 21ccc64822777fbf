use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use tokio::sync::watch;
use tonic::{Code, Status};
use veribus_proto::v1::{self, PublishResult, publish_result::Outcome};

use super::fake::{End, Fake, PublishScript, accepted, status};
use crate::{Error, Message, Pending, Publisher, Receipt};

fn message(number: usize) -> Message {
    Message::text("a.b", "kind", "data").id(format!("m{number}"))
}

fn ids(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("m{number}")).collect()
}

async fn send(publisher: &Publisher, numbers: std::ops::Range<usize>) -> Vec<Pending> {
    let mut pendings = Vec::new();
    for number in numbers {
        pendings.push(publisher.send(message(number)).await.expect("sent"));
    }
    pendings
}

async fn receipts(pendings: Vec<Pending>) -> Vec<Receipt> {
    join_all(pendings).await.into_iter().map(|outcome| outcome.expect("a receipt")).collect()
}

fn message_ids(receipts: &[Receipt]) -> Vec<String> {
    receipts.iter().map(|receipt| receipt.message_id.clone()).collect()
}

/// A hold, and what lifts it.
fn hold() -> (PublishScript, watch::Sender<bool>) {
    let (lift, held) = watch::channel(false);
    (PublishScript { hold: Some(held), ..PublishScript::default() }, lift)
}

fn refuse_m1(message: &v1::Message, index: u64) -> PublishResult {
    refuse(message, index, Code::PermissionDenied, "POLICY_DENIED")
}

fn refuse(message: &v1::Message, index: u64, code: Code, reason: &str) -> PublishResult {
    if message.id != "m1" {
        return accepted(message, index);
    }
    let refusal = v1::Refusal {
        message_id: message.id.clone(),
        code: code.into(),
        reason: reason.to_owned(),
        decision_id: format!("fake-{index}"),
        audit_index: index,
        ..v1::Refusal::default()
    };
    PublishResult { outcome: Some(Outcome::Refusal(refusal)) }
}

#[tokio::test]
async fn each_message_gets_its_receipt_in_order() {
    let fake = Fake::start().await;
    let publisher = fake.client().await.publisher();
    let receipts = receipts(send(&publisher, 0..500).await).await;
    assert_eq!(message_ids(&receipts), ids(0..500));
    assert!(receipts.is_sorted_by_key(|receipt| receipt.audit_index));
    assert_eq!(fake.streamed(), [ids(0..500)]);
}

#[tokio::test]
async fn a_refused_message_does_not_hold_up_the_rest() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.next_publish_stream(PublishScript { result: Some(refuse_m1), ..PublishScript::default() });
    let publisher = client.publisher();
    let outcomes = join_all(send(&publisher, 0..3).await).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    let Err(Error::Refused(refusal)) = &outcomes[1] else { panic!("{:?}", outcomes[1]) };
    assert_eq!((refusal.reason.as_str(), refusal.message_id.as_str()), ("POLICY_DENIED", "m1"));
    assert_eq!(refusal.decision_id, Some(format!("fake-{}", refusal.audit_index.expect("recorded"))));
}

#[tokio::test]
async fn when_the_connection_breaks_the_rest_is_sent_again_in_order() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    for answered in [70, 0, 1] {
        let end = Some((answered, End::KillConnection));
        fake.next_publish_stream(PublishScript { end, ..PublishScript::default() });
    }
    let publisher = client.publisher();
    let receipts = receipts(send(&publisher, 0..300).await).await;
    assert_eq!(message_ids(&receipts), ids(0..300), "each one resolved, in order");
    assert!(receipts.is_sorted_by_key(|receipt| receipt.audit_index));
    let streamed = fake.streamed();
    assert_eq!(streamed.len(), 4);
    for stream in &streamed {
        let first: usize = stream[0].trim_start_matches('m').parse().unwrap();
        assert_eq!(*stream, ids(first..first + stream.len()), "in order, without a hole");
    }
    assert_eq!(streamed[3].last(), Some(&"m299".to_owned()));
}

#[tokio::test]
async fn a_broker_that_asks_to_come_again_gets_the_message_again() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let draining = status(Code::Unavailable, "DRAINING", &[]);
    fake.next_publish_stream(PublishScript { end: Some((1, End::Status(draining))), ..PublishScript::default() });
    let record_failed = |message: &v1::Message, index| refuse(message, index, Code::Unavailable, "RECORD_FAILED");
    fake.next_publish_stream(PublishScript { result: Some(record_failed), ..PublishScript::default() });
    let publisher = client.publisher();
    let receipts = receipts(publisher.send_batch((0..4).map(message).collect()).await.expect("sent")).await;
    assert_eq!(message_ids(&receipts), ids(0..4));
    assert_eq!(fake.streamed(), [ids(0..4), ids(1..4), ids(1..4)]);
}

#[tokio::test]
async fn no_more_than_the_window_is_under_way() {
    let fake = Fake::start().await;
    let client = fake.builder().in_flight_max(4, 1 << 20).connect().await.expect("connected");
    let (script, lift) = hold();
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let pendings = send(&publisher, 0..4).await;
    let mut fifth = Box::pin(publisher.send(message(4)));
    assert!(fifth.as_mut().now_or_never().is_none(), "there is no room");
    lift.send(true).unwrap();
    let fifth = fifth.await.expect("room");
    assert_eq!(message_ids(&receipts(pendings).await), ids(0..4));
    assert_eq!(fifth.await.expect("a receipt").message_id, "m4");
}

#[tokio::test]
async fn the_window_counts_bytes_and_lets_a_larger_message_go_alone() {
    let fake = Fake::start().await;
    let client = fake.builder().in_flight_max(1000, 1000).connect().await.expect("connected");
    let (script, lift) = hold();
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let large = publisher.send(Message::new("a", "b", vec![0; 5000])).await.expect("sent");
    let mut small = Box::pin(publisher.send(message(1)));
    assert!(small.as_mut().now_or_never().is_none(), "there is no room");
    lift.send(true).unwrap();
    assert!(large.await.is_ok() && small.await.expect("room").await.is_ok());
}

#[tokio::test]
async fn a_batch_larger_than_the_window_goes_through_in_portions() {
    let fake = Fake::start().await;
    let client = fake.builder().in_flight_max(10, 700).connect().await.expect("connected");
    let publisher = client.publisher();
    let sizes = [10, 600, 10, 10, 2000, 10, 300, 300, 300];
    let batch = sizes.iter().cycle().take(90).map(|size| Message::new("a", "b", vec![0; *size])).collect();
    assert_eq!(receipts(publisher.send_batch(batch).await.expect("sent")).await.len(), 90);
}

#[tokio::test]
async fn closing_waits_for_all_and_dropping_gives_up() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let publisher = client.publisher();
    let pendings = send(&publisher, 0..100).await;
    publisher.close().await;
    for pending in pendings {
        assert!(pending.now_or_never().expect("resolved by now").is_ok());
    }

    let (script, _lift) = hold();
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let pendings = send(&publisher, 200..203).await;
    drop(publisher);
    for (number, outcome) in (200..).zip(join_all(pendings).await) {
        let is_honest = match outcome {
            Err(Error::OutcomeUnknown { message_id, .. }) => message_id == format!("m{number}"),
            Err(Error::Closed) => !fake.streamed().concat().contains(&format!("m{number}")),
            _ => false,
        };
        assert!(is_honest, "message {number}");
    }
}

#[tokio::test]
async fn dropping_after_the_broker_listened_leaves_the_outcome_unknown() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let (script, lift) = hold();
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let first = publisher.send(message(0)).await.expect("sent");
    lift.send(true).unwrap();
    first.await.expect("a receipt");
    lift.send(false).unwrap();
    let second = publisher.send(message(1)).await.expect("sent");
    while fake.streamed().concat().len() < 2 {
        tokio::task::yield_now().await;
    }
    drop(publisher);
    let error = second.await.expect_err("given up");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}

#[tokio::test]
async fn a_refused_token_fails_what_was_never_sent_and_leaves_open_what_was() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let unauthenticated = || Status::unauthenticated("unauthenticated");
    fake.next_publish_stream(PublishScript { refuse: Some(unauthenticated()), ..PublishScript::default() });
    let publisher = client.publisher();
    let error = publisher.send(message(0)).await.expect("sent").await.expect_err("refused");
    assert!(matches!(error, Error::Unauthenticated), "{error}");

    let end = Some((0, End::Status(unauthenticated())));
    fake.next_publish_stream(PublishScript { end, ..PublishScript::default() });
    let error = publisher.send(message(1)).await.expect("sent").await.expect_err("refused");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.code(), Some(Code::Unauthenticated));

    fake.next_publish_stream(PublishScript { refuse: Some(unauthenticated()), ..PublishScript::default() });
    let error = publisher.send(message(2)).await.expect("sent").await.expect_err("refused");
    assert!(matches!(error, Error::Unauthenticated), "{error}");

    let receipt = publisher.send(message(3)).await.expect("sent").await.expect("it goes on");
    assert_eq!(receipt.message_id, "m3");
}

#[tokio::test]
async fn a_broker_that_stays_silent_or_away_is_given_up_in_time() {
    let fake = Fake::start().await;
    let client = fake.builder().publish_for(Duration::from_millis(100)).connect().await.expect("connected");
    let (script, _lift) = hold();
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let error = publisher.send(message(0)).await.expect("sent").await.expect_err("no answer");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");

    for _ in 0..1000 {
        let refuse = Some(status(Code::Unavailable, "DRAINING", &[]));
        fake.next_publish_stream(PublishScript { refuse, ..PublishScript::default() });
    }
    let error = publisher.send(message(1)).await.expect("sent").await.expect_err("never recorded");
    assert_eq!(error.reason(), Some("DRAINING"));
}

#[tokio::test]
async fn results_that_do_not_fit_the_messages_are_not_believed() {
    let swapped = |message: &v1::Message, index| {
        let other = v1::Message { id: "other".to_owned(), ..message.clone() };
        accepted(&other, index)
    };
    let empty = |_: &v1::Message, _| PublishResult { outcome: None };
    for result in [swapped as fn(&v1::Message, u64) -> PublishResult, empty] {
        let fake = Fake::start().await;
        let client = fake.client().await;
        fake.next_publish_stream(PublishScript { result: Some(result), ..PublishScript::default() });
        let publisher = client.publisher();
        let error = publisher.send(message(0)).await.expect("sent").await.expect_err("not believed");
        let is_protocol =
            matches!(&error, Error::OutcomeUnknown { cause, .. } if matches!(**cause, Error::Protocol(_)));
        assert!(is_protocol, "{error}");
    }
}

#[tokio::test]
async fn when_the_runtime_of_a_publisher_ends_nobody_waits_for_ever() {
    let fake = Fake::start().await;
    let (script, _lift) = hold();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let builder = fake.builder().in_flight_max(1, 1 << 20);
    let client = other.spawn(builder.connect()).await.unwrap().expect("connected");
    fake.next_publish_stream(script);
    let publisher = other.spawn(async move { client.publisher() }).await.unwrap();
    let pending = publisher.send(message(0)).await.expect("sent");
    let mut waiting = Box::pin(publisher.send(message(1)));
    assert!(waiting.as_mut().now_or_never().is_none(), "there is no room");
    other.shutdown_background();
    assert!(matches!(waiting.await, Err(Error::Closed)));
    let error = pending.await.expect_err("given up");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
}
