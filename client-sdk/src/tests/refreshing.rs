//! Fresh tokens on streams that run: nothing is lost, nothing comes twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use tonic::{Code, Status};
use veribus_proto::v1::{self, SubscribeResponse, subscribe_response::Response};

use super::{
    fake::{Came, Fake, PublishScript, Refresh, SubscribeScript},
    source::Source,
    subscribing::{batch, delivery, subscribed},
};
use crate::{Client, Error, Message, SubscriptionEvent, Token, TokenFuture, TokenProvider};

const LONG: Duration = Duration::from_secs(20);

fn message(number: usize) -> Message {
    Message::text("a.b", "kind", "data").id(format!("m{number}"))
}

async fn client(fake: &Fake, source: &Source) -> Client {
    fake.builder().token_provider(source.clone()).connect().await.expect("connected")
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("in time");
}

/// What came after the call that connecting makes.
fn came(fake: &Fake) -> Vec<Came> {
    fake.state.came.lock().unwrap()[1..].to_vec()
}

fn messages(came: &[Came]) -> Vec<String> {
    came.iter().filter_map(|one| if let Came::Message { id } = one { Some(id.clone()) } else { None }).collect()
}

fn tokens(came: &[Came]) -> Vec<String> {
    let token = |one: &Came| match one {
        Came::Opened { token } => Some(format!("opened {token}")),
        Came::Refresh { token } => Some(format!("fresh {token}")),
        Came::Message { .. } => None,
    };
    came.iter().filter_map(token).collect()
}

fn refreshed(patterns: &[&str]) -> Result<SubscribeResponse, Status> {
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    let refreshed = v1::Refreshed { token_expires_at: 0, patterns, refused: false };
    Ok(SubscribeResponse { response: Some(Response::Refreshed(refreshed)) })
}

fn stays(
    responses: Vec<Result<SubscribeResponse, Status>>,
    after_refresh: Vec<Vec<Result<SubscribeResponse, Status>>>,
) -> Result<SubscribeScript, Status> {
    Ok(SubscribeScript { responses, stays: true, after_refresh: after_refresh.into() })
}

#[tokio::test]
async fn a_publisher_sends_fresh_tokens_between_its_messages_and_each_message_once() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let publisher = client(&fake, &source).await.publisher();
    let mut pendings = Vec::new();
    for number in 0..1000 {
        if number % 200 == 100 {
            let round = number / 200 + 1;
            source.set(&format!("t{round}"));
            until(|| tokens(&came(&fake)).last() == Some(&format!("fresh t{round}"))).await;
        }
        pendings.push(publisher.send(message(number)).await.expect("sent"));
    }
    let receipts: Vec<_> = join_all(pendings).await.into_iter().map(|one| one.expect("a receipt")).collect();
    assert!(receipts.is_sorted_by_key(|receipt| receipt.audit_index));
    let came = came(&fake);
    assert_eq!(messages(&came), (0..1000).map(|number| format!("m{number}")).collect::<Vec<_>>());
    assert_eq!(tokens(&came), ["opened t0", "fresh t1", "fresh t2", "fresh t3", "fresh t4", "fresh t5"]);
    let place = |wanted: &Came| came.iter().position(|one| one == wanted).expect("it came");
    for round in 1..=5 {
        let fresh = place(&Came::Refresh { token: format!("t{round}") });
        let next = place(&Came::Message { id: format!("m{}", round * 200 - 100) });
        assert!(fresh < next, "token {round} goes before the messages that were sent after it");
    }
}

#[tokio::test]
async fn an_idle_publisher_keeps_its_stream_fresh() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let publisher = client(&fake, &source).await.publisher();
    publisher.send(message(0)).await.expect("sent").await.expect("a receipt");
    for token in ["t1", "t2"] {
        source.set(token);
        until(|| tokens(&came(&fake)).last() == Some(&format!("fresh {token}"))).await;
    }
    publisher.send(message(1)).await.expect("sent").await.expect("a receipt");
    assert_eq!(tokens(&came(&fake)), ["opened t0", "fresh t1", "fresh t2"]);
}

#[tokio::test]
async fn a_stream_that_a_fresh_token_ends_is_opened_with_it_and_what_was_unanswered_goes_again() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let script = PublishScript { refresh: Refresh::Refuse, is_silent: true, ..PublishScript::default() };
    fake.next_publish_stream(script);
    let publisher = client.publisher();
    let mut pendings = Vec::new();
    for number in 0..100 {
        pendings.push(publisher.send(message(number)).await.expect("sent"));
    }
    until(|| messages(&came(&fake)).len() == 100).await;
    source.set("t1");
    for (number, pending) in pendings.into_iter().enumerate() {
        assert_eq!(pending.await.expect("a receipt").message_id, format!("m{number}"));
    }
    let twice = (0..100).chain(0..100).map(|number| format!("m{number}"));
    assert_eq!(messages(&came(&fake)), twice.collect::<Vec<_>>());
    assert_eq!(tokens(&came(&fake)), ["opened t0", "fresh t1", "opened t1"]);
}

#[tokio::test]
async fn a_broker_that_does_not_answer_a_fresh_token_holds_up_no_message() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    fake.next_publish_stream(PublishScript { refresh: Refresh::Ignore, ..PublishScript::default() });
    let publisher = client.publisher();
    publisher.send(message(0)).await.expect("sent").await.expect("a receipt");
    source.set("t1");
    until(|| tokens(&came(&fake)).len() == 2).await;
    publisher.send(message(1)).await.expect("sent").await.expect("a receipt");
}

#[tokio::test]
async fn a_subscription_goes_on_under_fresh_tokens_without_a_gap() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let after = (1..=3).map(|round| vec![refreshed(&["a.>"]), batch(vec![delivery(round * 10)], 0)]).collect();
    fake.next_subscription(stays(vec![subscribed("s1"), batch(vec![delivery(1)], 0)], after));
    let mut events = client.subscribe(["a.>"]).await.expect("subscribed").events();
    for expected in [1, 10, 20, 30] {
        let event = events.next().await.expect("a delivery").expect("sound");
        assert!(matches!(&event, SubscriptionEvent::Delivery(one) if one.audit_index == expected), "{event:?}");
        source.set(&format!("t{}", expected / 10 + 1));
    }
    until(|| fake.state.refreshes.lock().unwrap().len() == 4).await;
    let sent: Vec<_> = fake.state.refreshes.lock().unwrap().iter().map(|fresh| fresh.token.clone()).collect();
    assert_eq!(sent, ["t1", "t2", "t3", "t4"]);
    assert_eq!((events.subscription().id(), events.subscription().reconnects()), ("s1", 0));
    assert_eq!(fake.state.authorizations.lock().unwrap()[1..], ["Bearer t0"]);
}

#[tokio::test]
async fn a_reader_that_does_not_read_does_not_keep_a_fresh_token_back() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let batches = (1..=15).map(|index| batch(vec![delivery(index)], 0));
    let responses = [subscribed("s1")].into_iter().chain(batches).collect();
    fake.next_subscription(stays(responses, vec![vec![refreshed(&["a.>"]), batch(vec![delivery(16)], 0)]]));
    let mut subscription = client.subscribe(["a.>"]).await.expect("subscribed");
    tokio::time::sleep(Duration::from_millis(50)).await; // until the driver waits for the reader
    source.set("t1");
    until(|| fake.state.refreshes.lock().unwrap().len() == 1).await;
    for index in 1..=16 {
        assert_eq!(subscription.next().await.expect("a delivery").expect("sound").audit_index, index);
    }
}

#[tokio::test]
async fn a_lesser_token_shows_in_the_patterns_and_as_an_event_at_its_place() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let after = vec![
        vec![refreshed(&["a.>"]), batch(vec![delivery(2)], 0)],
        vec![refreshed(&["a.>", "c"]), batch(vec![delivery(3)], 0)],
    ];
    fake.next_subscription(stays(vec![subscribed("s1"), batch(vec![delivery(1)], 0)], after));
    let mut events = client.subscribe(["a.>", "c"]).await.expect("subscribed").events();
    assert_eq!(events.subscription().patterns(), ["a.>", "c"]);
    for (token, served) in [("t1", vec!["a.>"]), ("t2", vec!["a.>", "c"])] {
        assert!(matches!(events.next().await, Some(Ok(SubscriptionEvent::Delivery(_)))));
        source.set(token);
        let event = events.next().await;
        let Some(Ok(SubscriptionEvent::PatternsChanged { patterns })) = event else { panic!("{event:?}") };
        assert_eq!(patterns, served);
        assert_eq!(events.subscription().patterns(), served);
    }
    assert!(matches!(events.next().await, Some(Ok(SubscriptionEvent::Delivery(one))) if one.audit_index == 3));
}

#[tokio::test]
async fn answers_to_fresh_tokens_that_make_no_sense_end_the_subscription() {
    for (answer, after_one) in [(refreshed(&["a.>"]), false), (refreshed(&["other.>"]), true), (refreshed(&[]), true)] {
        let (fake, source) = (Fake::start().await, Source::of("t0"));
        let client = client(&fake, &source).await;
        let (before, after) = if after_one {
            (vec![subscribed("s1")], vec![vec![answer]])
        } else {
            (vec![subscribed("s1"), answer], vec![])
        };
        fake.next_subscription(stays(before, after));
        let mut subscription = client.subscribe(["a.>"]).await.expect("subscribed");
        source.set("t1");
        let end = tokio::time::timeout(LONG, subscription.next()).await.expect("in time");
        let error = end.expect("an end").expect_err("no sense");
        assert!(matches!(error, Error::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_subscription_outlives_a_source_of_tokens_that_is_away_for_a_while() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let expired = || Status::unauthenticated("unauthenticated");
    fake.next_subscription(Ok(SubscribeScript {
        responses: vec![subscribed("s1"), batch(vec![delivery(1)], 0), Err(expired())],
        ..SubscribeScript::default()
    }));
    let mut subscription = client.subscribe(["a.>"]).await.expect("subscribed");
    source.fail();
    assert_eq!(subscription.next().await.expect("a delivery").expect("sound").audit_index, 1);
    for _ in 0..50 {
        fake.next_subscription(Err(expired()));
    }
    let asked = source.asked();
    until(|| source.asked() > asked + 1).await;
    fake.state.subscriptions.lock().unwrap().clear();
    fake.next_subscription(stays(vec![subscribed("s2"), batch(vec![delivery(9)], 0)], Vec::new()));
    source.set("t1");
    assert_eq!(subscription.next().await.expect("a delivery").expect("sound").audit_index, 9);
}

#[tokio::test]
async fn without_a_first_token_there_is_no_client() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    source.fail();
    let connecting = fake.builder().token_provider(source.clone()).connect_timeout(Duration::from_millis(60)).connect();
    let error = connecting.await.expect_err("no token");
    assert!(matches!(error, Error::Token(_)), "{error}");
    assert!(source.asked() > 1, "it was asked again");
    assert!(fake.state.authorizations.lock().unwrap().is_empty());
}

fn expired(message: &v1::Message, index: u64) -> v1::PublishResult {
    let code = Code::Unauthenticated.into();
    let refusal = v1::Refusal { code, message_id: message.id.clone(), audit_index: index, ..v1::Refusal::default() };
    v1::PublishResult { outcome: Some(v1::publish_result::Outcome::Refusal(refusal)) }
}

/// Never changes by itself, and counts how often it is asked.
#[derive(Debug, Clone, Default)]
struct Costly(Arc<AtomicUsize>);

impl TokenProvider for Costly {
    fn token(&self) -> TokenFuture<'_> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { Token::new(format!("t{number}")) })
    }
}

#[tokio::test]
async fn a_message_refused_for_the_token_of_another_agent_says_nothing_about_the_clients_own() {
    let (fake, source) = (Fake::start().await, Costly::default());
    let client = fake.builder().token_provider(source.clone()).connect().await.expect("connected");
    fake.next_publish_stream(PublishScript { result: Some(expired), ..PublishScript::default() });
    let publisher = client.publisher();
    tokio::time::sleep(Duration::from_millis(1100)).await; // or it would not be asked in any case
    let spoken = message(0).on_behalf_of(Token::new("of-another").unwrap());
    publisher.send(spoken).await.expect("sent").await.expect_err("refused");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(source.0.load(Ordering::Relaxed), 1);
    publisher.send(message(1)).await.expect("sent").await.expect_err("refused");
    until(|| tokens(&came(&fake)).last() == Some(&"fresh t1".to_owned())).await;
}

#[tokio::test]
async fn a_message_refused_for_its_token_makes_the_client_look_for_another() {
    let (fake, file) = (Fake::start().await, tempfile::NamedTempFile::new().unwrap());
    std::fs::write(file.path(), "t0").unwrap();
    let client = fake.builder().token_file(file.path()).connect().await.expect("connected");
    fake.next_publish_stream(PublishScript { result: Some(expired), ..PublishScript::default() });
    let publisher = client.publisher();
    std::fs::write(file.path(), "t1").unwrap();
    publisher.send(message(0)).await.expect("sent").await.expect_err("refused");
    until(|| tokens(&came(&fake)).last() == Some(&"fresh t1".to_owned())).await;
}

/// The key of the fresh token's issuer is not known to the broker yet.
#[tokio::test]
async fn a_subscription_goes_on_under_the_token_before_until_the_broker_takes_the_fresh_one() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let client = client(&fake, &source).await;
    let refused = v1::Refreshed { token_expires_at: 0, patterns: vec!["a.>".to_owned()], refused: true };
    let refused = || Ok(SubscribeResponse { response: Some(Response::Refreshed(refused.clone())) });
    let after =
        vec![vec![refused(), batch(vec![delivery(3)], 0)], vec![refreshed(&["a.>"]), batch(vec![delivery(4)], 0)]];
    fake.next_subscription(stays(vec![subscribed("s1")], after));
    let mut events = client.subscribe(["a.>"]).await.expect("subscribed").events();
    source.set("t1");
    let told = events.next().await.expect("an event").expect("no end");
    assert!(matches!(told, SubscriptionEvent::TokenRefused), "{told:?}");
    for index in [3, 4] {
        let event = events.next().await.expect("an event").expect("no end");
        let SubscriptionEvent::Delivery(delivery) = event else { panic!("{event:?}") };
        assert_eq!(delivery.audit_index, index);
    }
    let offered: Vec<_> = fake.state.refreshes.lock().unwrap().iter().map(|one| one.token.clone()).collect();
    assert_eq!(offered, ["t1", "t1"]);
    assert_eq!(events.subscription().reconnects(), 0);
}
