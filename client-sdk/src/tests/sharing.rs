//! Shared state, one call at a time.

use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::{
    fake::{Fake, status},
    fake_state::Fault,
};
use crate::{Error, NewValue, State};

async fn state() -> (Fake, State) {
    let fake = Fake::start().await;
    let state = fake.client().await.state();
    (fake, state)
}

fn draining() -> Status {
    status(Code::Unavailable, "DRAINING", &[])
}

#[tokio::test]
async fn what_was_written_is_read_with_all_that_is_known_of_it() {
    let (_fake, state) = state().await;
    assert_eq!(state.get("a/b").await.expect("an answer"), None);
    let put = state.put("a/b", "data").content_type("text/plain").ttl(Duration::from_millis(1_500));
    let written = put.await.expect("written");
    assert_eq!(written.decision_id, format!("fake-{}", written.revision));
    let value = state.get("a/b").await.expect("an answer").expect("a value");
    assert_eq!((value.text().expect("text"), value.revision()), ("data", written.revision));
    assert!(value.audit_index > written.revision);
    assert_eq!((&*value.metadata.key, &*value.metadata.content_type), ("a/b", "text/plain"));
    assert_eq!(value.metadata.expires_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2)));
    assert_eq!((&*value.metadata.writer.issuer, &*value.metadata.writer.agent), ("issuer", "agent"));
}

#[tokio::test]
async fn an_earlier_revision_is_read_by_its_number() {
    let (_fake, state) = state().await;
    let first = state.put("a/b", "one").await.expect("written").revision;
    state.put("a/b", "two").await.expect("written");
    let earlier = state.get_revision("a/b", first).await.expect("an answer").expect("kept");
    assert_eq!((earlier.text().expect("text"), earlier.revision()), ("one", first));
    for unknown in [0, 999] {
        assert_eq!(state.get_revision("a/b", unknown).await.expect("an answer"), None, "{unknown}");
    }
}

#[tokio::test]
async fn a_conflict_says_what_stands_there() {
    let (_fake, state) = state().await;
    let conflict = state.put("a/b", "x").if_revision(3).await.expect_err("nothing there");
    assert!(matches!(&conflict, Error::Conflict { key, current_revision: None } if key == "a/b"));
    assert_eq!(conflict.to_string(), "`a/b` has no value");
    let written = state.put("a/b", "x").if_absent().await.expect("absent");
    let conflict = state.put("a/b", "y").if_absent().await.expect_err("present");
    assert!(matches!(conflict, Error::Conflict { current_revision: Some(found), .. } if found == written.revision));
    assert_eq!((conflict.code(), conflict.reason()), (Some(Code::Aborted), Some("REVISION_CONFLICT")));
    assert!(matches!(state.delete("a/b").if_revision(1_000).await, Err(Error::Conflict { .. })));
    assert!(state.delete("a/b").if_revision(written.revision).await.expect("deleted").existed);
    assert!(!state.delete("a/b").await.expect("recorded").existed);
}

#[tokio::test]
async fn a_refusal_names_its_decision_and_a_shredded_value_is_told_apart() {
    let (fake, state) = state().await;
    let denied = [("decision_id", "fake-7"), ("audit_index", "7")];
    fake.next_faults([
        Fault::Before(status(Code::PermissionDenied, "POLICY_DENIED", &denied)),
        Fault::Before(status(Code::DataLoss, "SHREDDED", &[])),
        Fault::Before(status(Code::DataLoss, "LOG_DAMAGED", &[])),
    ]);
    let Err(Error::Refused(refusal)) = state.get("a/b").await else { panic!("refused") };
    assert_eq!((refusal.reason.as_str(), refusal.audit_index), ("POLICY_DENIED", Some(7)));
    assert_eq!(refusal.decision_id.as_deref(), Some("fake-7"));
    assert!(matches!(state.get("a/b").await, Err(Error::Shredded { key }) if key == "a/b"));
    assert!(matches!(state.get("a/b").await, Err(Error::Refused(_))));
}

#[tokio::test]
async fn reads_are_made_again_and_unconditional_writes_are_not() {
    let (fake, state) = state().await;
    state.put("a/b", "one").await.expect("written");
    fake.next_faults([Fault::After(draining()), Fault::Before(draining())]);
    assert!(state.get("a/b").await.expect("an answer").is_some());
    for fault in [Fault::After(draining()), Fault::Before(draining())] {
        fake.next_faults([fault]);
        let outcome = state.put("a/b", "two").await;
        assert!(matches!(outcome, Err(Error::ChangeUnknown { key, .. }) if key == "a/b"));
    }
    fake.next_faults([Fault::After(draining())]);
    assert!(matches!(state.put("a/new", "x").if_absent().await, Err(Error::ChangeUnknown { .. })));
    fake.next_faults([Fault::After(draining())]);
    assert!(matches!(state.delete("a/b").await, Err(Error::ChangeUnknown { .. })));
    assert_eq!(fake.changes(), 4);
}

#[tokio::test]
async fn a_write_to_a_known_revision_is_made_again_and_counts_once() {
    let (fake, state) = state().await;
    let first = state.put("a/b", "one").await.expect("written").revision;
    fake.next_faults([Fault::Before(draining())]);
    let second = state.put("a/b", "two").if_revision(first).await.expect("written the second time").revision;
    fake.next_faults([Fault::After(draining())]);
    let outcome = state.put("a/b", "three").if_revision(second).await;
    let Err(Error::ChangeUnknown { cause, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(*cause, Error::Conflict { current_revision: Some(found), .. } if found > second));
    assert_eq!(fake.changes(), 3);
}

#[tokio::test]
async fn a_write_with_a_token_that_is_not_accepted_did_not_happen() {
    let (fake, state) = state().await;
    fake.next_faults([Fault::Before(status(Code::Unauthenticated, "UNAUTHENTICATED", &[]))]);
    assert!(matches!(state.put("a/b", "x").await, Err(Error::Unauthenticated)), "there is no other token");
    assert_eq!(fake.changes(), 0);
}

#[tokio::test]
async fn a_value_that_is_too_large_is_not_sent() {
    let fake = Fake::start().await;
    let state = fake.builder().message_bytes_max(100).connect().await.expect("connected").state();
    assert!(matches!(state.put("a/b", vec![0; 200]).await, Err(Error::TooLarge { bytes_max: 100, .. })));
    assert!(matches!(state.session().put("a/b", vec![0; 200]).await, Err(Error::TooLarge { .. })));
    assert_eq!(fake.changes(), 0);
}

#[tokio::test]
async fn a_listing_goes_over_all_pages_in_order() {
    let (fake, state) = state().await;
    for key in ["a/3", "a/1", "a/2", "a/5", "a/4", "b/1"] {
        state.put(key, key).await.expect("written");
    }
    state.put("a/1", "again").await.expect("written");
    fake.next_faults([Fault::After(draining())]);
    let all: Vec<_> = state.list("a/").try_collect().await.expect("listed");
    let keys: Vec<_> = all.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, ["a/1", "a/2", "a/3", "a/4", "a/5"]);
    assert_eq!((all[0].size_bytes, all[0].earlier_revisions.len()), (5, 1));
}

#[tokio::test]
async fn a_listing_that_does_not_hold_together_ends_with_that() {
    let (fake, state) = state().await;
    for key in ["a/1", "a/2", "a/3"] {
        state.put(key, key).await.expect("written");
    }
    let tampers: [fn(&mut veribus_proto::v1::ListResponse); 5] = [
        |list| list.values.reverse(),
        |list| list.values[0].key = "b/1".to_owned(),
        |list| list.decision_id = "fake-1".to_owned(),
        |list| list.values[0].writer = None,
        |list| list.values.iter_mut().for_each(|value| value.key = "a/2".to_owned()),
    ];
    for (number, tamper) in tampers.into_iter().enumerate() {
        *fake.state.shared.tamper_list.lock().unwrap() = Some(tamper);
        let all: Vec<_> = state.list("a").collect().await;
        assert!(matches!(all.last(), Some(Err(Error::Protocol(_)))), "tamper {number}");
        assert_eq!(all.iter().filter(|one| one.is_err()).count(), 1, "tamper {number}");
    }
}

#[tokio::test]
async fn pages_that_do_not_follow_one_another_end_the_listing() {
    let (fake, state) = state().await;
    for key in ["a/1", "a/2", "a/3"] {
        state.put(key, key).await.expect("written");
    }
    *fake.state.shared.tamper_list.lock().unwrap() = Some(|list| {
        list.next_page_token = if list.next_page_token.is_empty() { String::new() } else { "a/1".to_owned() }
    });
    let all: Vec<_> = state.list("a").collect().await;
    assert!(matches!(all.last(), Some(Err(Error::Protocol("a listing is out of order")))), "{all:?}");
}

#[tokio::test]
async fn a_value_that_does_not_hold_together_is_not_handed_on() {
    let (fake, state) = state().await;
    let revision = state.put("a/b", "data").await.expect("written").revision;
    let tampers: [fn(&mut veribus_proto::v1::GetResponse); 7] = [
        |answer| answer.value = None,
        |answer| answer.decision_id = "fake-0".to_owned(),
        |answer| answer.value.as_mut().unwrap().metadata = None,
        |answer| answer.value.as_mut().unwrap().value = "dat".into(),
        |answer| answer.value.as_mut().unwrap().metadata.as_mut().unwrap().key = "a/c".to_owned(),
        |answer| answer.value.as_mut().unwrap().metadata.as_mut().unwrap().written_at = None,
        |answer| answer.value.as_mut().unwrap().metadata.as_mut().unwrap().revision += 1,
    ];
    for (number, tamper) in tampers.into_iter().enumerate() {
        *fake.state.shared.tamper.lock().unwrap() = Some(tamper);
        assert!(matches!(state.get_revision("a/b", revision).await, Err(Error::Protocol(_))), "tamper {number}");
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Ticket {
    status: String,
    notes: u32,
}

#[tokio::test]
async fn json_goes_both_ways() {
    let (fake, state) = state().await;
    let ticket = Ticket { status: "open".to_owned(), notes: 0 };
    state.put_json("tickets/1", &ticket).if_absent().await.expect("written");
    assert_eq!(fake.written("tickets/1").expect("written").content_type, "application/json");
    assert_eq!(state.get_json("tickets/1").await.expect("JSON"), Some(ticket));
    assert_eq!(state.get_json::<Ticket>("tickets/2").await.expect("nothing"), None);
    let mismatch = state.get_json::<u64>("tickets/1").await;
    assert!(matches!(mismatch, Err(Error::Json { key, .. }) if key == "tickets/1"));
    let unwritable = std::collections::BTreeMap::from([(vec![1_u8], 1)]);
    assert!(matches!(state.put_json("tickets/1", &unwritable).await, Err(Error::Json { .. })));
}

#[tokio::test]
async fn an_update_begins_again_where_others_were_faster() {
    let (fake, state) = state().await;
    state.put("a/b", "zero").content_type("text/plain").await.expect("written");
    fake.next_faults([Fault::Before(draining()), Fault::Overtaken("a/c"), Fault::Overtaken("a/b")]);
    let mut seen = Vec::new();
    let written = state.update("a/b", |current| {
        seen.push(current.map(|value| value.text().expect("text").to_owned()).unwrap_or_default());
        "mine"
    });
    written.await.expect("written in the end");
    assert_eq!(seen, ["zero", "theirs"]);
    assert_eq!(fake.written("a/b").expect("written").value, "mine");
}

#[tokio::test]
async fn an_update_keeps_the_media_type_unless_told_otherwise() {
    let (fake, state) = state().await;
    let written = |fake: &Fake| fake.written("a/b").expect("written");
    state.update("a/b", |current| NewValue::new(if current.is_none() { "1" } else { "?" })).await.expect("written");
    assert_eq!(written(&fake).content_type, "");
    state.put("a/b", "x").content_type("text/plain").await.expect("written");
    state.update("a/b", |_| "y").await.expect("written");
    assert_eq!((&*written(&fake).content_type, written(&fake).ttl_s), ("text/plain", 0));
    let other = |_| NewValue::new("z").content_type("text/html").ttl(Duration::from_secs(9));
    state.update("a/b", other).await.expect("written");
    assert_eq!((&*written(&fake).content_type, written(&fake).ttl_s), ("text/html", 9));
}

#[tokio::test]
async fn updates_at_once_all_count() {
    let (_fake, state) = state().await;
    let count = || async {
        for _ in 0..10 {
            state.update_json("a/count", |count: Option<u64>| count.unwrap_or(0) + 1).await.expect("counted");
        }
    };
    futures_util::future::join_all((0..4).map(|_| count())).await;
    assert_eq!(state.get_json::<u64>("a/count").await.expect("a number"), Some(40));
}

#[tokio::test]
async fn an_update_gives_up_when_others_are_faster_all_the_time() {
    let fake = Fake::start().await;
    let client = fake.builder().publish_for(Duration::from_millis(100)).connect().await.expect("connected");
    for _ in 0..200 {
        fake.next_faults([Fault::Overtaken("a/c"), Fault::Overtaken("a/b")]);
    }
    let outcome = client.state().update("a/b", |_| "mine").await;
    assert!(matches!(outcome, Err(Error::Conflict { .. })), "{outcome:?}");
}

#[tokio::test]
async fn an_update_of_what_is_no_json_changes_nothing() {
    let (fake, state) = state().await;
    state.put("a/b", "no JSON").await.expect("written");
    assert!(matches!(state.update_json("a/b", |count: Option<u64>| count.unwrap_or(0)).await, Err(Error::Json { .. })));
    assert_eq!(fake.changes(), 1);
}
