//! Shared state, many operations at once.

use futures_util::future::join_all;
use tonic::Code;
use veribus_proto::v1::{
    PutResponse, StateOperation, StateRefusal, state_operation::Operation, state_result::Result as Told,
};

use super::{
    fake::{End, Fake, Refresh, status},
    fake_state::{SessionScript, StateCame},
    source::Source,
};
use crate::{Error, PendingState, StateSession, Written};

async fn session(fake: &Fake) -> StateSession {
    fake.client().await.state().session()
}

async fn puts(session: &StateSession, numbers: std::ops::Range<usize>) -> Vec<PendingState<Written>> {
    let mut pendings = Vec::new();
    for number in numbers {
        pendings.push(session.put(format!("a/{number}"), "data").await.expect("sent"));
    }
    pendings
}

fn operations(fake: &Fake) -> Vec<String> {
    let about = |came| if let StateCame::Operation { about } = came { Some(about) } else { None };
    fake.state_came().into_iter().filter_map(about).collect()
}

#[tokio::test]
async fn operations_are_carried_out_and_answered_in_order() {
    let fake = Fake::start().await;
    let session = session(&fake).await;
    let writes = puts(&session, 0..500).await;
    let read = session.get("a/7").await.expect("sent");
    let none = session.get("a/none").await.expect("sent");
    let page = session.list("a/1", 0, None).await.expect("sent");
    let deleted = session.delete("a/7").await.expect("sent");
    let gone = session.get("a/7").await.expect("sent");
    let writes: Vec<_> = join_all(writes).await.into_iter().map(|one| one.expect("written")).collect();
    assert!(writes.is_sorted_by(|one, next| one.revision < next.revision));
    assert_eq!(read.await.expect("read").expect("a value").revision(), writes[7].revision);
    assert_eq!(none.await.expect("read"), None);
    let page = page.await.expect("listed");
    assert_eq!((&*page.values[0].key, page.next_page_token.as_deref()), ("a/1", Some("a/10")));
    assert!(deleted.await.expect("deleted").existed);
    assert_eq!(gone.await.expect("read"), None);
    session.close().await;
    assert_eq!(fake.state_came()[0], StateCame::Opened);
    assert_eq!(operations(&fake).len(), 505);
}

#[tokio::test]
async fn a_refused_operation_does_not_hold_up_the_rest() {
    let fake = Fake::start().await;
    fake.next_session(SessionScript {
        result: Some(|operation: &StateOperation| match operation.operation.as_ref().unwrap() {
            Operation::Put(put) if put.key == "a/1" => Some(Told::Refusal(StateRefusal {
                code: Code::PermissionDenied.into(),
                reason: "POLICY_DENIED".to_owned(),
                decision_id: "fake-9".to_owned(),
                audit_index: 9,
                ..StateRefusal::default()
            })),
            _ => None,
        }),
        ..SessionScript::default()
    });
    let session = session(&fake).await;
    let outcomes = join_all(puts(&session, 0..3).await).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    let Err(Error::Refused(refusal)) = &outcomes[1] else { panic!("{:?}", outcomes[1]) };
    assert_eq!((refusal.reason.as_str(), refusal.audit_index), ("POLICY_DENIED", Some(9)));
    let conflict = session.put("a/0", "x").if_absent().await.expect("sent").await;
    let standing = outcomes[0].as_ref().expect("written").revision;
    assert!(matches!(conflict, Err(Error::Conflict { current_revision: Some(found), .. }) if found == standing));
}

#[tokio::test]
async fn when_the_connection_breaks_reads_are_made_again_and_writes_are_not() {
    let fake = Fake::start().await;
    fake.next_session(SessionScript { end: Some((2, End::KillConnection)), ..SessionScript::default() });
    let session = session(&fake).await;
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for number in 0..4 {
        writes.push(session.put(format!("a/{number}"), "data").await.expect("sent"));
        reads.push(session.get(format!("a/{number}")).await.expect("sent"));
    }
    let reads: Vec<_> = join_all(reads).await.into_iter().map(|one| one.expect("read")).collect();
    for (number, write) in join_all(writes).await.into_iter().enumerate() {
        match write {
            Ok(_) => assert!(reads[number].is_some(), "{number}"),
            Err(Error::ChangeUnknown { key, .. }) => assert_eq!(key, format!("a/{number}")),
            Err(error) => panic!("{number}: {error}"),
        }
    }
    let again = operations(&fake);
    let of = |about: &str| again.iter().filter(|one| *one == about).count();
    assert!((0..4).all(|number| of(&format!("put a/{number}")) <= 1), "{again:?}");
    assert!((0..4).all(|number| of(&format!("get a/{number}")) >= 1), "{again:?}");
}

#[tokio::test]
async fn what_was_not_sent_when_the_broker_refused_the_session_is_sent_later() {
    let fake = Fake::start().await;
    for _ in 0..2 {
        let refuse = Some(status(Code::Unavailable, "DRAINING", &[]));
        fake.next_session(SessionScript { refuse, ..SessionScript::default() });
    }
    let session = session(&fake).await;
    let outcomes = join_all(puts(&session, 0..300).await).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(fake.changes(), 300);
}

#[tokio::test]
async fn a_write_that_the_broker_cannot_vouch_for_is_unknown() {
    let fake = Fake::start().await;
    fake.next_session(SessionScript {
        result: Some(|_| {
            let (code, reason) = (Code::Unavailable.into(), "RECORD_FAILED".to_owned());
            Some(Told::Refusal(StateRefusal { code, reason, ..StateRefusal::default() }))
        }),
        ..SessionScript::default()
    });
    let session = session(&fake).await;
    let (write, read) = (session.put("a/b", "x").await.expect("sent"), session.get("a/b").await.expect("sent"));
    assert!(matches!(write.await, Err(Error::ChangeUnknown { .. })));
    assert!(matches!(read.await, Err(Error::Refused(refusal)) if refusal.reason == "RECORD_FAILED"));
}

#[tokio::test]
async fn reads_that_have_no_room_beside_others_are_made_again_alone() {
    let fake = Fake::start().await;
    fake.next_session(SessionScript { reads_are_large: true, ..SessionScript::default() });
    let session = session(&fake).await;
    let writes = puts(&session, 0..20).await;
    let mut reads = Vec::new();
    for number in 0..20 {
        reads.push(session.get(format!("a/{number}")).await.expect("sent"));
    }
    assert!(join_all(writes).await.iter().all(Result::is_ok));
    for (number, read) in join_all(reads).await.into_iter().enumerate() {
        assert_eq!(read.expect("read").expect("a value").metadata.key, format!("a/{number}"));
    }
    session.close().await;
}

#[tokio::test]
async fn an_answer_to_another_operation_is_not_taken() {
    let answers: [fn(&StateOperation) -> Option<Told>; 3] = [
        |_| Some(Told::Put(PutResponse { revision: 7, decision_id: "fake-7".to_owned(), content_salt: vec![0; 32] })),
        |_| Some(Told::Put(PutResponse { revision: 7, decision_id: "fake-8".to_owned(), content_salt: vec![0; 32] })),
        |_| Some(Told::Put(PutResponse { revision: 7, decision_id: "fake-7".to_owned(), content_salt: vec![0; 31] })),
    ];
    for (number, result) in answers.into_iter().enumerate() {
        let fake = Fake::start().await;
        fake.next_session(SessionScript { result: Some(result), ..SessionScript::default() });
        let session = session(&fake).await;
        if number == 0 {
            assert!(matches!(session.get("a/b").await.expect("sent").await, Err(Error::Protocol(_))));
        } else {
            let outcome = session.put("a/b", "x").await.expect("sent").await;
            assert!(matches!(outcome, Err(Error::ChangeUnknown { .. })), "{number}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_session_sends_fresh_tokens_between_its_operations() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    let session = fake.builder().token_provider(source.clone()).connect().await.expect("connected").state().session();
    session.put("a/1", "x").await.expect("sent").await.expect("written");
    source.set("t1");
    while !fake.state_came().contains(&StateCame::Refresh { token: "t1".to_owned() }) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    session.put("a/2", "x").await.expect("sent").await.expect("written");
    let opened = fake.state_came().iter().filter(|came| **came == StateCame::Opened).count();
    assert_eq!((opened, fake.changes()), (1, 2));
}

#[tokio::test]
async fn a_session_that_a_fresh_token_ends_goes_on_with_it() {
    let (fake, source) = (Fake::start().await, Source::of("t0"));
    fake.next_session(SessionScript { refresh: Refresh::Refuse, ..SessionScript::default() });
    let session = fake.builder().token_provider(source.clone()).connect().await.expect("connected").state().session();
    session.put("a/1", "x").await.expect("sent").await.expect("written");
    source.set("t1");
    while !fake.state_came().contains(&StateCame::Refresh { token: "t1".to_owned() }) {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    session.get("a/1").await.expect("sent").await.expect("read").expect("a value");
    assert_eq!(fake.state.authorizations.lock().unwrap().last().map(String::as_str), Some("Bearer t1"));
}

#[tokio::test]
async fn what_is_under_way_when_a_session_is_dropped_is_given_up() {
    let fake = Fake::start().await;
    let session = session(&fake).await;
    let pending = session.put("a/b", "x").await.expect("sent");
    drop(session);
    assert!(matches!(pending.await, Err(Error::Closed | Error::ChangeUnknown { .. })));
}
