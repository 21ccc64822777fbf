use std::fs;

use futures_util::StreamExt as _;
use tonic::{Code, Status};
use veribus_proto::v1::{self, DeliveryBatch, SubscribeResponse, Subscribed, subscribe_response::Response};

use super::fake::{Fake, SubscribeScript, status};
use crate::{DeliveryFault, Error, Gap, Subscription, SubscriptionEvent};

pub(super) fn subscribed(id: &str) -> Result<SubscribeResponse, Status> {
    let subscribed = Subscribed { subscription_id: id.to_owned(), ..Subscribed::default() };
    Ok(SubscribeResponse { response: Some(Response::Subscribed(subscribed)) })
}

pub(super) fn delivery(audit_index: u64) -> v1::Delivery {
    v1::Delivery {
        message: Some(v1::Message { topic: "a.b".to_owned(), data: "data".into(), ..v1::Message::default() }),
        sender: Some(v1::VerifiedSender {
            issuer: "issuer".to_owned(),
            agent: "agent".to_owned(),
            ..v1::VerifiedSender::default()
        }),
        decision_id: format!("fake-{audit_index}"),
        audit_index,
        content_salt: vec![3; 32],
    }
}

pub(super) fn batch(deliveries: Vec<v1::Delivery>, dropped_total: u64) -> Result<SubscribeResponse, Status> {
    Ok(SubscribeResponse { response: Some(Response::Batch(DeliveryBatch { deliveries, dropped_total })) })
}

fn then_ends(responses: Vec<Result<SubscribeResponse, Status>>) -> Result<SubscribeScript, Status> {
    Ok(SubscribeScript { responses, ..SubscribeScript::default() })
}

fn then_stays(responses: Vec<Result<SubscribeResponse, Status>>) -> Result<SubscribeScript, Status> {
    Ok(SubscribeScript { responses, stays: true, ..SubscribeScript::default() })
}

async fn subscribe(fake: &Fake) -> Subscription {
    fake.client().await.subscribe(["a.>"]).await.expect("subscribed")
}

async fn next_index(subscription: &mut Subscription) -> u64 {
    subscription.next().await.expect("a delivery").expect("sound").audit_index
}

#[tokio::test]
async fn deliveries_come_with_their_proofs_in_order() {
    let fake = Fake::start().await;
    fake.next_subscription(then_stays(vec![subscribed("s1"), batch(vec![delivery(4), delivery(7)], 0)]));
    let mut subscription = subscribe(&fake).await;
    assert_eq!(subscription.id(), "s1");
    let first = subscription.next().await.expect("a delivery").expect("sound");
    assert_eq!((first.topic(), first.text().expect("text"), first.audit_index), ("a.b", "data", 4));
    assert_eq!((first.sender.agent.as_str(), first.sender.issuer.as_str()), ("agent", "issuer"));
    assert_eq!(next_index(&mut subscription).await, 7);
}

#[tokio::test]
async fn a_subscription_comes_back_after_a_drain_and_after_being_too_slow() {
    let fake = Fake::start().await;
    let draining = status(Code::Unavailable, "DRAINING", &[]);
    let slow = status(Code::ResourceExhausted, "SLOW_SUBSCRIBER", &[]);
    fake.next_subscription(then_ends(vec![subscribed("s1"), batch(vec![delivery(4)], 0), Err(draining)]));
    fake.next_subscription(Err(status(Code::Unavailable, "DRAINING", &[])));
    fake.next_subscription(then_ends(vec![subscribed("s2"), batch(vec![delivery(2)], 0), Err(slow)]));
    fake.next_subscription(then_stays(vec![subscribed("s3"), batch(vec![delivery(9)], 0)]));
    let mut subscription = subscribe(&fake).await;
    assert_eq!((next_index(&mut subscription).await, subscription.reconnects()), (4, 0));
    assert_eq!((next_index(&mut subscription).await, subscription.reconnects()), (2, 1));
    assert_eq!((next_index(&mut subscription).await, subscription.reconnects()), (9, 2));
    assert_eq!(subscription.id(), "s3");
}

#[tokio::test]
async fn a_broken_connection_shows_as_a_gap_at_its_place() {
    let fake = Fake::start().await;
    fake.next_subscription(then_stays(vec![subscribed("s1"), batch(vec![delivery(4)], 0)]));
    fake.next_subscription(then_stays(vec![subscribed("s2"), batch(vec![delivery(9)], 0)]));
    let mut events = subscribe(&fake).await.events();
    assert!(matches!(events.next().await, Some(Ok(SubscriptionEvent::Delivery(d))) if d.audit_index == 4));
    fake.kill_connections();
    let gap = events.next().await;
    let Some(Ok(SubscriptionEvent::Gap(Gap::Resubscribed { cause }))) = gap else { panic!("{gap:?}") };
    assert!(matches!(cause, Error::ConnectionLost { .. }), "{cause}");
    assert!(matches!(events.next().await, Some(Ok(SubscriptionEvent::Delivery(d))) if d.audit_index == 9));
    assert_eq!(events.subscription().reconnects(), 1);
}

#[tokio::test]
async fn dropped_messages_are_counted_over_reconnects() {
    let fake = Fake::start().await;
    let draining = || Err(status(Code::Unavailable, "DRAINING", &[]));
    let first = vec![subscribed("s1"), batch(vec![delivery(4)], 3), batch(vec![delivery(5)], 3), draining()];
    fake.next_subscription(then_ends(first));
    fake.next_subscription(then_stays(vec![subscribed("s2"), batch(vec![delivery(9)], 2)]));
    let mut subscription = subscribe(&fake).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push((next_index(&mut subscription).await, subscription.dropped_total()));
    }
    assert_eq!(seen, [(4, 3), (5, 3), (9, 5)]);
}

#[tokio::test]
async fn what_a_subscription_that_was_too_slow_did_not_get_is_told_at_its_place() {
    let fake = Fake::start().await;
    let slow = |count| Err(status(Code::ResourceExhausted, "SLOW_SUBSCRIBER", &[("undelivered", count)]));
    fake.next_subscription(then_ends(vec![subscribed("s1"), batch(vec![delivery(4)], 0), slow("12")]));
    fake.next_subscription(then_ends(vec![subscribed("s2"), slow("3")]));
    fake.next_subscription(Err(status(Code::PermissionDenied, "POLICY_DENIED", &[])));
    let mut events = subscribe(&fake).await.events();
    assert!(matches!(events.next().await, Some(Ok(SubscriptionEvent::Delivery(d))) if d.audit_index == 4));
    let gap = events.next().await;
    assert!(matches!(gap, Some(Ok(SubscriptionEvent::Gap(Gap::CutOff { undelivered: 12 })))), "{gap:?}");
    let again = events.next().await;
    let Some(Ok(SubscriptionEvent::Gap(Gap::Resubscribed { cause: Error::Refused(refusal) }))) = again else {
        panic!("{again:?}")
    };
    assert_eq!((refusal.undelivered, refusal.reason.as_str()), (Some(12), "SLOW_SUBSCRIBER"));
    assert!(refusal.to_string().contains("not delivered: 12"), "{refusal}");
    let gap = events.next().await;
    assert!(matches!(gap, Some(Ok(SubscriptionEvent::Gap(Gap::CutOff { undelivered: 3 })))), "{gap:?}");
    // Told also where there is no coming back.
    assert!(matches!(events.next().await, Some(Err(error)) if error.code() == Some(Code::PermissionDenied)));
    assert_eq!(events.subscription().undelivered_total(), 15);
}

#[tokio::test]
async fn a_no_is_final() {
    for code in [Code::PermissionDenied, Code::InvalidArgument] {
        let fake = Fake::start().await;
        fake.next_subscription(Err(status(code, "POLICY_DENIED", &[])));
        let error = fake.client().await.subscribe(["a.>"]).await.expect_err("refused");
        assert_eq!((error.code(), error.reason()), (Some(code), Some("POLICY_DENIED")));

        fake.next_subscription(then_ends(vec![subscribed("s1"), Err(status(code, "POLICY_DENIED", &[]))]));
        let mut subscription = subscribe(&fake).await;
        assert_eq!(subscription.next().await.expect("an end").expect_err("refused").code(), Some(code));
        assert!(subscription.next().await.is_none());
    }
}

#[tokio::test]
async fn a_token_that_ran_out_is_replaced_from_its_file_or_ends_the_subscription() {
    let fake = Fake::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "old").unwrap();
    let builder = fake.builder().token_file(file.path()).late_token_for(std::time::Duration::ZERO);
    let client = builder.connect().await.expect("connected");
    let unauthenticated = || Err(Status::unauthenticated("unauthenticated"));
    let (ends, resumed) = ([subscribed("s1"), unauthenticated()], [subscribed("s2"), batch(vec![delivery(9)], 0)]);
    fake.next_subscription(then_ends(ends.into()));
    fs::write(file.path(), "new").unwrap();
    fake.next_subscription(then_ends(resumed.into_iter().chain([unauthenticated()]).collect()));
    let mut subscription = client.subscribe(["a.>"]).await.expect("subscribed");
    assert_eq!(next_index(&mut subscription).await, 9);
    let error = subscription.next().await.expect("an end").expect_err("not accepted");
    assert!(matches!(error, Error::Unauthenticated), "{error}");
    assert_eq!(fake.state.authorizations.lock().unwrap()[1..], ["Bearer old", "Bearer new"]);
}

#[tokio::test]
async fn an_inconsistent_delivery_ends_the_subscription_after_those_before_it() {
    let fake = Fake::start().await;
    let lie = v1::Delivery { decision_id: "fake-1".to_owned(), ..delivery(5) };
    fake.next_subscription(then_stays(vec![subscribed("s1"), batch(vec![delivery(4), lie, delivery(6)], 0)]));
    let mut subscription = subscribe(&fake).await;
    assert_eq!(next_index(&mut subscription).await, 4);
    let error = subscription.next().await.expect("an end").expect_err("a lie");
    assert!(
        matches!(error, Error::InconsistentDelivery { audit_index: 5, fault: DeliveryFault::DecisionId }),
        "{error}"
    );
    assert!(subscription.next().await.is_none());
}

#[tokio::test]
async fn order_is_checked_over_batches() {
    let fake = Fake::start().await;
    let batches = [batch(vec![delivery(4)], 0), batch(vec![delivery(4)], 0)];
    fake.next_subscription(then_stays([subscribed("s1")].into_iter().chain(batches).collect()));
    let mut subscription = subscribe(&fake).await;
    assert_eq!(next_index(&mut subscription).await, 4);
    let error = subscription.next().await.expect("an end").expect_err("twice");
    assert!(matches!(error, Error::InconsistentDelivery { fault: DeliveryFault::Order, .. }), "{error}");
}

#[tokio::test]
async fn deliveries_before_the_subscription_stands_are_not_believed() {
    let fake = Fake::start().await;
    fake.next_subscription(then_stays(vec![batch(vec![delivery(4)], 0)]));
    let error = fake.client().await.subscribe(["a.>"]).await.expect_err("not subscribed");
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[tokio::test]
async fn dropping_a_subscription_ends_it_at_the_broker() {
    let fake = Fake::start().await;
    fake.next_subscription(then_stays(vec![subscribed("s1")]));
    let mut unsubscribed = fake.state.unsubscribed.subscribe();
    let subscription = subscribe(&fake).await;
    assert_eq!(*unsubscribed.borrow_and_update(), 0);
    drop(subscription);
    unsubscribed.changed().await.expect("noticed");
}
