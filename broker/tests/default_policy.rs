//! The default policy, held to its own tests (the conventions of `opa test`: every rule `test_…` must be true), and its
//! notion of which patterns overlap held to the broker's.

#![expect(clippy::expect_used, reason = "a failed expectation is a failed test, in what the tests share too")]

use regorus::{
    Engine, Value,
    unstable::{Expr, Rule, RuleHead},
};
use veribus_broker::{
    decide::Bundle,
    model::{Topic, TopicPattern},
};

const POLICY: &str = include_str!("../policies/veribus.rego");
const TESTS: &str = include_str!("../policies/veribus_test.rego");
const SETTINGS: &str = include_str!("../policies/data.yaml");

fn engine() -> Engine {
    engine_with(POLICY)
}

/// As the broker reads them.
fn settings() -> Value {
    let files = [("veribus.rego", POLICY), ("data.yaml", SETTINGS)];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let bundle = Bundle::compile(&files, 100_000).expect("loads");
    Value::from_json_str(&bundle.data().to_string()).expect("JSON")
}

fn engine_with(policy: &str) -> Engine {
    let mut engine = Engine::new();
    engine.add_policy("veribus.rego".to_owned(), policy.to_owned()).expect("the policy compiles");
    engine.add_policy("veribus_test.rego".to_owned(), TESTS.to_owned()).expect("its tests compile");
    engine.add_data(settings()).expect("settings");
    engine
}

fn name_of(rule: &Rule) -> Option<String> {
    let Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } = rule else { return None };
    let Expr::Var { span, .. } = refr.as_ref() else { return None };
    Some(span.text().to_owned())
}

fn test_names(engine: &mut Engine) -> Vec<String> {
    let rules = engine.get_modules().iter().flat_map(|module| module.policy.iter());
    rules.filter_map(|rule| name_of(rule)).filter(|name| name.starts_with("test_")).collect()
}

#[test]
fn every_test_of_the_default_policy_is_true() {
    let mut engine = engine();
    let names = test_names(&mut engine);
    assert_eq!(names.len(), TESTS.lines().filter(|line| line.starts_with("test_")).count());
    assert!(names.len() >= 30, "{names:?}");
    for name in names {
        let value = engine.eval_rule(format!("data.veribus_test.{name}")).expect("evaluates");
        assert_eq!(value, Value::Bool(true), "{name}");
    }
}

#[test]
fn a_policy_test_that_is_not_true_would_be_seen() {
    let mut engine = engine();
    let failing = "package veribus_test\nimport rego.v1\ntest_wrong if data.veribus.allow with input as {}";
    engine.add_policy("wrong_test.rego".to_owned(), failing.to_owned()).expect("compiles");
    assert!(test_names(&mut engine).contains(&"test_wrong".to_owned()));
    assert_ne!(engine.eval_rule("data.veribus_test.test_wrong".to_owned()).expect("evaluates"), Value::Bool(true));
}

fn is_true(engine: &mut Engine, test: &str) -> bool {
    matches!(engine.eval_rule(format!("data.veribus_test.{test}")), Ok(Value::Bool(true)))
}

#[test]
fn no_rule_of_the_default_policy_can_go_unnoticed() {
    let blocks: Vec<&str> = POLICY.split("\n\n").collect();
    let is_rule = |block: &str| ["allow", "deny", "quarantine", "invalid"].iter().any(|word| block.starts_with(word));
    let rules: Vec<usize> = (0..blocks.len()).filter(|at| is_rule(blocks[*at])).collect();
    assert!(rules.len() >= 17, "{}", rules.len());
    for at in rules {
        let mut fewer = blocks.clone();
        let removed = fewer.remove(at);
        let mut engine = engine_with(&fewer.join("\n\n"));
        let names = test_names(&mut engine);
        assert!(names.iter().any(|name| !is_true(&mut engine, name)), "no test misses this rule:\n{removed}");
    }
}

const PATTERNS: [&str; 12] = ["a", "*", ">", "a.b", "a.*", "a.>", "*.b", "*.>", "a.b.c", "a.*.c", "a.b.>", "*.*.>"];

fn ask(engine: &mut Engine, question: &str, a: &str, b: &str) -> bool {
    let call = format!(r#"data.veribus.{question}(split("{a}", "."), split("{b}", "."))"#);
    engine.eval_bool_query(call, false).unwrap_or(false)
}

#[test]
fn patterns_cover_each_other_in_the_policy_as_in_the_broker() {
    let mut engine = engine();
    for (wide, narrow) in PATTERNS.iter().flat_map(|wide| PATTERNS.map(|narrow| (*wide, narrow))) {
        let expected = parse(wide).covers(&parse(narrow));
        assert_eq!(ask(&mut engine, "covers", wide, narrow), expected, "{wide} covers {narrow}");
    }
}

#[test]
fn patterns_overlap_in_the_policy_where_some_topic_matches_both() {
    let levels = ["a", "b", "c", "x"];
    let mut topics: Vec<String> = levels.map(str::to_owned).to_vec();
    for depth in 1..4 {
        let longest: Vec<_> = topics.iter().filter(|topic| topic.split('.').count() == depth).cloned().collect();
        topics.extend(longest.iter().flat_map(|topic| levels.map(|level| format!("{topic}.{level}"))));
    }
    let topics: Vec<Topic> = topics.iter().map(|topic| Topic::parse(topic).expect("a topic")).collect();
    let mut engine = engine();
    for (a, b) in PATTERNS.iter().flat_map(|a| PATTERNS.map(|b| (*a, b))) {
        let expected = topics.iter().any(|topic| parse(a).matches(topic) && parse(b).matches(topic));
        assert_eq!(ask(&mut engine, "overlap", a, b), expected, "{a} and {b}");
    }
}

fn parse(pattern: &str) -> TopicPattern {
    TopicPattern::parse(pattern).expect("a pattern")
}
