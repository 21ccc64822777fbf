use std::time::Duration;

use tonic::{Code, Status};

use super::fake::{Fake, status};
use crate::{Decision, Error, Message};

fn message(id: &str) -> Message {
    Message::text("a.b", "kind", "data").id(id)
}

#[tokio::test]
async fn a_publish_gives_the_receipt() {
    let fake = Fake::start().await;
    let receipt = fake.client().await.publish(message("m1")).await.expect("recorded");
    assert_eq!((receipt.message_id.as_str(), receipt.decision), ("m1", Decision::Allow));
    assert_eq!((receipt.decision_id.as_str(), receipt.audit_index), ("fake-1", 1));
    assert_eq!(receipt.content_salt, Some([7; 32]));
}

#[tokio::test]
async fn a_refusal_tells_what_the_broker_told_and_is_not_tried_again() {
    let fake = Fake::start().await;
    let metadata = [("decision_id", "fake-9"), ("audit_index", "9"), ("message_id", "m1")];
    let denied = status(Code::PermissionDenied, "POLICY_DENIED", &metadata);
    fake.state.publishes.lock().unwrap().push_back(denied);
    let error = fake.client().await.publish(message("m1")).await.expect_err("denied");
    assert_eq!((error.code(), error.reason()), (Some(Code::PermissionDenied), Some("POLICY_DENIED")));
    let Error::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!((refusal.decision_id.as_deref(), refusal.audit_index), (Some("fake-9"), Some(9)));
    assert_eq!((refusal.message_id.as_str(), refusal.message.as_str()), ("m1", "said the fake"));
    assert_eq!(fake.state.published.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn details_of_another_domain_are_not_the_brokers() {
    let fake = Fake::start().await;
    let details = tonic_types::ErrorDetails::with_error_info("POLICY_DENIED", "a.proxy", []);
    let denied = <Status as tonic_types::StatusExt>::with_error_details(Code::PermissionDenied, "no", details);
    fake.state.publishes.lock().unwrap().push_back(denied);
    let error = fake.client().await.publish(message("m1")).await.expect_err("denied");
    assert_eq!((error.code(), error.reason()), (Some(Code::PermissionDenied), None));
}

#[tokio::test]
async fn what_is_unavailable_is_sent_again_with_the_same_id() {
    let fake = Fake::start().await;
    let reasons = ["RECORD_FAILED", "DRAINING"].map(|reason| status(Code::Unavailable, reason, &[]));
    fake.state.publishes.lock().unwrap().extend(reasons);
    fake.client().await.publish(message("m1")).await.expect("recorded at last");
    assert_eq!(*fake.state.published.lock().unwrap(), ["m1", "m1", "m1"]);
}

#[tokio::test]
async fn a_broken_connection_is_made_again() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.kill_connections();
    client.publish(message("m1")).await.expect("recorded over a new connection");
}

#[tokio::test]
async fn without_an_answer_in_time_the_outcome_is_unknown() {
    let fake = Fake::start().await;
    let broken = (0..1000).map(|_| status(Code::Unavailable, "RECORD_FAILED", &[]));
    fake.state.publishes.lock().unwrap().extend(broken);
    let client = fake.builder().publish_for(Duration::from_millis(100)).connect().await.expect("connected");
    let error = client.publish(message("m1")).await.expect_err("never recorded");
    assert!(matches!(&error, Error::OutcomeUnknown { message_id, .. } if message_id == "m1"), "{error}");
    assert_eq!(error.reason(), Some("RECORD_FAILED"));
}

#[tokio::test]
async fn after_an_attempt_that_may_have_been_recorded_only_a_decision_settles_the_outcome() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let lost = || status(Code::Unavailable, "RECORD_FAILED", &[]);
    fake.state.publishes.lock().unwrap().extend([lost(), Status::unauthenticated("unauthenticated")]);
    let error = client.publish(message("m1")).await.expect_err("the token is refused");
    assert!(matches!(&error, Error::OutcomeUnknown { .. }), "{error}");
    assert_eq!(error.code(), Some(Code::Unauthenticated));

    let decided = status(Code::PermissionDenied, "POLICY_DENIED", &[("decision_id", "fake-3")]);
    fake.state.publishes.lock().unwrap().extend([lost(), decided]);
    let error = client.publish(message("m2")).await.expect_err("denied");
    assert!(matches!(error, Error::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_message_that_no_broker_would_decode_is_not_sent() {
    let fake = Fake::start().await;
    let client = fake.builder().message_bytes_max(100).connect().await.expect("connected");
    let error = client.publish(Message::new("a", "b", vec![0; 200])).await.expect_err("too large");
    assert!(matches!(error, Error::TooLarge { bytes_max: 100, .. }), "{error}");
    assert!(fake.state.published.lock().unwrap().is_empty());
}
