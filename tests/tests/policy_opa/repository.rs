//! The policies of the repository under the tools of OPA, and on inputs like those that the broker makes.

use std::{collections::BTreeMap, fs, path::Path};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use veribus_broker::decide::Bundle;

use super::{
    Counts, Verdict, compare,
    oracle::{Case, Oracle},
    say,
};

/// The default policy and the examples, by folder.
fn policies() -> BTreeMap<String, BTreeMap<String, String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let examples = fs::read_dir(root.join("docs/examples")).expect("examples").map(|entry| entry.expect("one").path());
    let folders = std::iter::once(root.join("broker/policies")).chain(examples);
    folders.map(|folder| (folder.display().to_string(), Bundle::read(&folder).expect("a policy"))).collect()
}

#[test]
fn they_pass_the_check_and_the_tests_of_opa() {
    let Some(mut oracle) = Oracle::start() else { return };
    let capabilities = include_str!("../../../docs/capabilities.json");
    for (name, files) in policies() {
        let without_tests = files.iter().filter(|(file, _)| !file.ends_with("_test.rego"));
        let without_tests = without_tests.map(|(file, text)| (file.clone(), text.clone())).collect();
        assert_eq!(oracle.check(&without_tests, capabilities), None, "{name}");
        let tests = oracle.test(&files);
        let written = files.values().flat_map(|text| text.lines()).filter(|line| line.starts_with("test_")).count();
        assert!(tests.len() == written && written > 3, "{name}: {} of {written} tests", tests.len());
        let failed: Vec<_> = tests.iter().filter(|(_, passed)| !**passed).map(|(test, _)| test).collect();
        assert!(failed.is_empty(), "{name}: {failed:?}");
    }
}

#[test]
fn they_answer_as_under_opa() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut counts = Counts::default();
    for (name, files) in policies() {
        let mut rng = SmallRng::seed_from_u64(7);
        let inputs: Vec<String> = (0..300).map(|_| input(&mut rng).to_string()).collect();
        let queries = ["allow", "deny", "quarantine", "invalid"].map(|rule| format!("data.veribus.{rule}"));
        let has = |query: &String| {
            let rule = query.trim_start_matches("data.veribus.");
            files.iter().any(|(file, text)| !file.ends_with("_test.rego") && text.contains(&format!("\n{rule} ")))
        };
        let queries = queries.into_iter().filter(has).collect();
        let case = Case { files, queries, inputs };
        let answer = oracle.ask(&case);
        assert_eq!(compare(&case, &answer, &mut counts), Vec::<String>::new(), "{name}");
    }
    say(format_args!("policies of the repository: {counts}"));
    assert_eq!(counts.of(Verdict::Refused) + counts.of(Verdict::LoadsOnlyHere), 0, "{counts}");
    assert!(counts.of(Verdict::Agree) > 9 * counts.of(Verdict::Error), "{counts}");
}

/// An input like the broker's, with members missing or of odd types.
fn input(rng: &mut SmallRng) -> Value {
    let mut pick = |values: &[Value]| values.choose(rng).cloned().unwrap_or_default();
    let role =
        [json!("finance"), json!("support"), json!("billing"), json!("external"), json!("auditor"), json!("documents")];
    let topics = [
        json!(["finance.transactions", "finance.>"]),
        json!(["finance.>"]),
        json!(["tickets.>"]),
        json!(["documents.>"]),
        json!(["external.>"]),
        json!([]),
    ];
    let kind =
        ["finance.transaction", "finance.report", "ticket.created", "document.text", "x"].map(|kind| json!(kind));
    let to = ["", "role:compliance", "role:billing", "role:external", "somebody"].map(|to| json!(to));
    let content = ["application/json", "text/plain", "text/html"].map(|content| json!(content));
    let patterns =
        ["finance.>", "finance.transactions", ">", "*.x", "tickets.new", "external.>"].map(|text| json!(text));
    let finding = ["injection", "malformed", "unheard", "scanner_failure", "unheard"].map(|kind| json!(kind));
    let topic_patterns = pick(&topics);
    let levels = topic_patterns[0].as_str().unwrap_or("x.y").split('.').map(|level| json!(level)).collect::<Value>();
    let mut input = json!({
        "action": pick(&["publish", "publish", "publish", "subscribe", "state.put", "state.get", "audit.read", "admin.keys", "x"].map(|a| json!(a))),
        "agent": {"id": "a", "issuer": "i", "roles": [pick(&role), pick(&role)], "permissions": [], "token": {"bound": pick(&[json!(true), json!(false)])}},
        "topic": "t", "topic_levels": levels, "topic_patterns": topic_patterns,
        "message": {"type": pick(&kind), "destination": pick(&to), "destination_role": pick(&role),
                    "datacontenttype": pick(&content), "size_bytes": pick(&[json!(10), json!(65_536), json!(65_537), json!(9_000_000)]),
                    "body": {"amount": pick(&[json!(1), json!(99_999.5), json!("1"), json!(null)]), "currency": pick(&[json!("EUR"), json!(1)])}},
        "value": {"datacontenttype": pick(&content), "size_bytes": pick(&[json!(10), json!(70_000)])},
        "state": {"scope": "s", "scope_patterns": pick(&[json!(["tickets"]), json!(["finance.>"]), json!(["scratch.>"]), json!([])]), "name": "n"},
        "patterns": [pick(&patterns), pick(&patterns)],
        "findings": [{"kind": pick(&finding), "severity": pick(&[json!("high"), json!("medium"), json!("low")]), "rule": "r", "location": "data"}],
        "peer": {"address": pick(&[json!("10.1.2.3"), json!("192.0.2.1"), json!("2001:db8::1")])},
        "time": {"unix_s": 1_900_000_000},
    });
    if rng.random_bool(0.5) {
        input["findings"] = json!([]);
    }
    if rng.random_bool(0.4) {
        spoil(rng, &mut input);
    }
    input
}

/// Takes a member away, or puts something odd in its place, at any depth.
fn spoil(rng: &mut SmallRng, value: &mut Value) {
    let Value::Object(members) = value else { return };
    let names: Vec<String> = members.keys().cloned().collect();
    let Some(name) = names.choose(rng) else { return };
    if let Some(below @ Value::Object(_)) = members.get_mut(name)
        && rng.random_bool(0.6)
    {
        return spoil(rng, below);
    }
    if rng.random_bool(0.5) {
        members.remove(name);
    } else {
        let odd = [
            json!(null),
            json!(7),
            json!(1.5),
            json!("x"),
            json!([]),
            json!([null, 1]),
            json!({}),
            json!({"a": []}),
            json!(true),
        ];
        members.insert(name.clone(), odd.choose(rng).cloned().unwrap_or_default());
    }
}
