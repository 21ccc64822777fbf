//! `veribus state list`, `watch` and `delete`, on a broker that runs.

use std::process::Output;

use serde_json::{Value, json};

use super::{Broker, Running, code, json, json_lines, told};

fn put(broker: &Broker, key: &str, data: &str) -> Value {
    let output = broker.run("support-agent", &["state", "put", key, "--data", data, "--json"]);
    assert_eq!(code(&output), 0, "{output:?}");
    json(&output).get("revision").cloned().unwrap_or_default()
}

fn printed(output: &Output) -> &str {
    assert_eq!(code(output), 0, "{output:?}");
    std::str::from_utf8(&output.stdout).expect("text")
}

#[test]
fn a_listing_shows_what_is_there_and_no_value() {
    let broker = Broker::start();
    put(&broker, "tickets/1", "first text");
    let [new, other] = [put(&broker, "tickets/1", "second text"), put(&broker, "tickets/2", "third text")];
    let listed = broker.run("billing-agent", &["state", "list", "tickets", "--json"]);
    assert!(!printed(&listed).contains("text\""), "{listed:?}");
    let listed = json_lines(&listed);
    let [one, two] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&one["key"], &one["revision"], &two["key"]), (&"tickets/1".into(), &new, &"tickets/2".into()));
    assert_eq!((&one["earlier_revisions"], &two["revision"]), (&json!([]), &other));
    assert_eq!(one["writer"]["agent"], "support-agent");

    let table = broker.run("billing-agent", &["state", "list", "tickets/2"]);
    assert!(printed(&table).contains("tickets/2") && !printed(&table).contains("tickets/1"), "{table:?}");
    let nothing = broker.run("billing-agent", &["state", "list", "tickets/3", "--json"]);
    assert_eq!(printed(&nothing), "");
    let refused = broker.run("finance-agent", &["state", "list", "tickets"]);
    assert!(code(&refused) == 1 && told(&refused).contains("MISSING_PERMISSION"), "{refused:?}");
}

#[test]
fn a_watch_shows_what_is_there_and_what_comes() {
    let broker = Broker::start();
    let first = put(&broker, "tickets/1", "open");
    let mut watching = ["--json", "--after=0"].map(|option| {
        let mut process = Running::start(&mut broker.client("billing-agent", &["state", "watch", "tickets", option]));
        assert_eq!(Running::line(&mut process.0.stderr, "watching "), "watching tickets");
        process
    });
    let [programs, people] = &mut watching;
    let next = |process: &mut Running| -> Value {
        serde_json::from_str(&Running::line(&mut process.0.stdout, "{")).expect("JSON")
    };
    let shown = next(programs);
    assert_eq!((&shown["change"], &shown["value"], &shown["revision"]), (&"put".into(), &"open".into(), &first));
    assert!(Running::line(&mut people.0.stdout, "put ").contains("tickets/1"));
    put(&broker, "tickets/0", "before");
    assert_eq!(next(programs)["key"], "tickets/0");
    let deleted = json(&broker.run("support-agent", &["state", "delete", "tickets/1", "--json"]));
    let shown = next(programs);
    assert_eq!((&shown["change"], &shown["key"]), (&"deleted".into(), &"tickets/1".into()));
    assert_eq!(shown["revision"], deleted["revision"]);
    assert!(Running::line(&mut people.0.stdout, "deleted ").contains("tickets/1"));

    let after = deleted["revision"].to_string();
    let after = ["state", "watch", "tickets", "--json", "--after", &after];
    let mut later = Running::start(&mut broker.client("billing-agent", &after));
    Running::line(&mut later.0.stderr, "watching ");
    put(&broker, "tickets/2", "new");
    assert_eq!(next(&mut later)["key"], "tickets/2");
    let refused = broker.run("external-agent", &["state", "watch", "tickets"]);
    assert!(code(&refused) == 1 && told(&refused).contains("MISSING_DECRYPT_CLAIM"), "{refused:?}");
}

#[test]
fn a_deletion_can_depend_on_the_revision_and_says_whether_there_was_a_value() {
    let broker = Broker::start();
    let first = put(&broker, "tickets/1", "open");
    let revision = put(&broker, "tickets/1", "solved");
    let delete = |args: &[&str]| broker.run("support-agent", &[&["state", "delete", "tickets/1"], args].concat());
    let conflict = delete(&["--if-revision", &first.to_string(), "--json"]);
    assert_eq!((code(&conflict), &json(&conflict)["current_revision"]), (1, &revision));
    let deleted = delete(&["--if-revision", &revision.to_string(), "--json"]);
    assert_eq!((code(&deleted), &json(&deleted)["outcome"]), (0, &"deleted".into()));
    let gone = broker.run("support-agent", &["state", "get", "tickets/1"]);
    assert!(code(&gone) == 1 && told(&gone).contains("no value"), "{gone:?}");
    assert!(printed(&delete(&[])).starts_with("absent"));
    let refused = broker.run("billing-agent", &["state", "delete", "tickets/1"]);
    assert!(code(&refused) == 1 && told(&refused).contains("MISSING_PERMISSION"), "{refused:?}");
}
