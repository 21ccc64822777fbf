//! Lists: what a page shows, what it tells of what it does not show, and what it costs.

use std::sync::Arc;

use veribus_proto::v1::{ListResponse, ListedValues};
use veribus_tests::faults::FaultyStore;

use super::*;

/// Everybody may read all but what begins like this.
const HIDING: &str = r#"package veribus

import rego.v1

allow if true

deny contains {"rule": "hidden"} if {
	input.action == "state.get"
	startswith(input.state.name, "hidden")
}
"#;

async fn page(raw: &Raw, prefix: &str, page_size: u32, page_token: &str) -> Result<ListResponse, Status> {
    let request = ListRequest { page_size, page_token: page_token.to_owned(), ..list(prefix) };
    raw.state().list(request).await.map(tonic::Response::into_inner)
}

fn names(page: &ListResponse) -> Vec<&str> {
    page.values.iter().map(|value| value.key.as_str()).collect()
}

async fn put_all(session: &mut StateSession, keys: &[String]) -> Result<()> {
    for part in keys.chunks(1_000) {
        session.run(part.iter().map(|key| Operation::Put(put(key, "x"))).collect()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_list_names_what_is_there_page_by_page_and_nothing_of_other_scopes() -> Result<()> {
    let broker = broker().await?;
    let raw = agent(&broker, "a").await?;
    for name in ["b/1", "b/2", "b/3", "c", "b"] {
        written(&raw, put(&format!("notes/{name}"), name)).await?;
    }
    written(&raw, put("notes.other/b/4", "x")).await?;
    raw.state().delete(delete("notes/b/2")).await?;
    let mut names = Vec::new();
    let mut request = ListRequest { prefix: "notes/b".to_owned(), page_size: 1, page_token: String::new() };
    loop {
        let page = raw.state().list(request.clone()).await?.into_inner();
        assert!(page.values.len() <= 1);
        names.extend(page.values.into_iter().map(|value| value.key));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, ["notes/b", "notes/b/1", "notes/b/3"]);
    Ok(())
}

#[tokio::test]
async fn a_page_is_full_whatever_is_hidden_and_names_nothing_of_that() -> Result<()> {
    let broker = Setup::default().policy(HIDING).start().await?;
    let raw = agent(&broker, "a").await?;
    for name in ["a", "hidden-bonus", "hidden-salary", "x", "z"] {
        written(&raw, put(&format!("p/{name}"), "1")).await?;
    }
    let (mut shown, mut token) = (Vec::new(), String::new());
    loop {
        let page = page(&raw, "p", 1, &token).await?;
        assert_eq!(page.values.len(), 1, "no page is empty");
        shown.extend(names(&page).into_iter().map(str::to_owned));
        token = page.next_page_token;
        assert!(!token.contains("hidden") && !token.contains("salary"), "{token}");
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(shown, ["p/a", "p/x", "p/z"]);

    // What a page showed is in its entry.
    let two = page(&raw, "p", 2, "").await?;
    let log = broker.log().await?;
    let listed = log.at(two.audit_index)?.state.clone().and_then(|state| state.listed);
    let (first_key, last_key) = ("p/a".to_owned(), "p/x".to_owned());
    assert_eq!(listed, Some(ListedValues { count: 2, first_key, last_key, hidden: 2 }));
    Ok(())
}

/// Where very much is hidden, a page ends before it is full: what an agent may not see costs no more than that.
#[tokio::test]
async fn a_page_passes_by_so_much_that_is_hidden_and_no_more() -> Result<()> {
    let broker = Setup::default().policy(HIDING).start().await?;
    let raw = agent(&broker, "a").await?;
    let mut session = StateSession::open(&raw).await?;
    let hidden: Vec<_> = (0..3_000).map(|number| format!("p/hidden{number:04}")).collect();
    put_all(&mut session, &hidden).await?;
    written(&raw, put("p/last", "1")).await?;
    let (mut pages, mut token) = (0, String::new());
    let last = loop {
        let page = page(&raw, "p", 10, &token).await?;
        pages += 1;
        if page.next_page_token.is_empty() {
            break page;
        }
        assert!(page.values.is_empty());
        token = page.next_page_token;
    };
    assert_eq!((names(&last), pages), (vec!["p/last"], 3_000 / 1_024 + 1));
    Ok(())
}

#[tokio::test]
async fn a_list_costs_its_page_however_much_was_deleted_there() -> Result<()> {
    let store = Arc::new(FaultyStore::default());
    let broker = Setup::default().open_policy().store(Arc::clone(&store) as _).start().await?;
    let raw = agent(&broker, "a").await?;
    let mut session = StateSession::open(&raw).await?;
    let keys: Vec<_> = (0..5_000).map(|number| format!("p/{number}")).collect();
    put_all(&mut session, &keys).await?;
    for part in keys.chunks(1_000) {
        session.run(part.iter().map(|key| Operation::Delete(delete(key))).collect()).await?;
    }
    written(&raw, put("p/left", "1")).await?;
    let before = store.records_read();
    assert_eq!(names(&page(&raw, "p", 10, "").await?), ["p/left"]);
    let records_read = store.records_read() - before;
    assert!(records_read < 100, "{records_read}");
    Ok(())
}

#[tokio::test]
async fn a_page_token_is_good_for_its_list_and_its_agent_only() -> Result<()> {
    let broker = broker().await?;
    let owner = agent(&broker, "owner").await?;
    for key in ["hr/salaries", "notes/a", "notes/zz", "secret/key"] {
        written(&owner, put(key, "x")).await?;
    }
    let raw = broker.raw(&token_of(&broker)?).await?;
    let own = page(&raw, "notes", 1, "").await?.next_page_token;
    assert_eq!(names(&page(&raw, "notes", 1, &own).await?), ["notes/zz"]);
    let others = page(&owner, "notes", 1, "").await?.next_page_token;
    for (prefix, token) in [
        ("notes", "a/a"),
        ("notes", "hr/a"),
        ("notes", "notes/a"),
        ("notes/z", &own),
        ("notes", &others),
        ("notes", &own[1..]),
    ] {
        let refused = page(&raw, prefix, 1, token).await.expect_err(token);
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"));
    }
    // It outlives the broker that gave it.
    let broker = broker.stop().await?.start().await?;
    let raw = broker.raw(&token_of(&broker)?).await?;
    assert_eq!(names(&page(&raw, "notes", 1, &own).await?), ["notes/zz"]);
    Ok(())
}

fn token_of(broker: &TestBroker) -> Result<String> {
    token(broker, "a", &["state.read:notes"], &["notes"])
}
