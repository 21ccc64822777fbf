//! `veribus policy`: what a security team does before it hands a policy to the broker.

use std::{fs, path::Path, process::Output};

use serde_json::{Value, json};

use super::{code, veribus};

fn policy(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(path, text).expect("written");
    }
    directory
}

fn check(directory: &Path, args: &[&str]) -> Output {
    veribus().args(["policy", "check"]).arg(directory).args(args).output().expect("the binary runs")
}

fn eval(directory: &Path, input: &Path, args: &[&str]) -> Output {
    let mut command = veribus();
    command.args(["policy", "eval"]).arg(directory).arg("--input").arg(input);
    command.args(args).output().expect("the binary runs")
}

fn printed(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

const POLICY: &str = "package veribus\n\nallow if input.x == 1\n\ndeny contains {\"rule\": \"b\"} if input.id in data.lists.bad\n\n\
                      label := data.labels[input.id]\n";

#[test]
fn a_policy_that_does_not_load_is_told_with_every_finding() {
    let bad = policy(&[
        ("policy.rego", "package veribus\n\nallow if not blocked(input.name)\n\nblocked(x) if lower(x) == \"a\"\n"),
        ("data.yaml", "limit: 0100\n"),
    ]);
    let output = check(bad.path(), &[]);
    assert_eq!(code(&output), 1);
    for expected in [
        "policy.rego:3:",
        "[not-operand]",
        "policy.rego:5:",
        "[builtin]",
        "data.yaml:1:8",
        "[data-scalar]",
        "3 findings",
    ] {
        assert!(printed(&output).contains(expected), "{expected}: {}", printed(&output));
    }
    let output = check(bad.path(), &["--json"]);
    assert_eq!(code(&output), 1);
    let findings: Vec<Value> = printed(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(findings.len(), 3);
    let about = findings.iter().find(|finding| finding["rule"] == "not-operand").expect("found");
    assert_eq!((&about["file"], &about["line"]), (&json!("policy.rego"), &json!(3)));
    assert!(about["rewrite"].as_str().is_some_and(|text| text.contains("not known")), "{about}");
}

#[test]
fn a_policy_that_loads_is_told_too_and_wrong_usage_is_another_code() {
    let good = policy(&[("policy.rego", POLICY)]);
    let output = check(good.path(), &[]);
    assert_eq!((code(&output), printed(&output).contains("SHA-256")), (0, true));
    let output = check(good.path(), &["--json"]);
    assert_eq!(code(&output), 0);
    assert!(printed(&output).contains("\"sha256\":"), "{}", printed(&output));
    assert_eq!(code(&check(Path::new("/nowhere"), &[])), 2);
    assert_eq!(code(&eval(good.path(), Path::new("/nowhere"), &[])), 2);
    assert_eq!(code(&check(policy(&[]).path(), &[])), 2);
}

#[test]
fn an_evaluation_prints_what_the_broker_would_decide() {
    let files = policy(&[
        ("policy.rego", POLICY),
        ("lists/data.json", "{\"bad\": [\"m\"]}"),
        ("more.txt", "labels: {m: \"mine\"}\n"),
    ]);
    let input = files.path().join("in.txt");
    fs::write(&input, r#"{"x": 1, "id": "m"}"#).expect("written");
    let more = files.path().join("more.txt");
    let with_more = ["--data", more.to_str().expect("text")];

    let output = eval(files.path(), &input, &[]);
    assert_eq!(
        (code(&output), printed(&output)),
        (0, "allow: true\ndeny: [{\"rule\":\"b\"}]\nquarantine: undefined\n")
    );
    let query = |args: &[&str]| printed(&eval(files.path(), &input, args)).to_owned();
    assert_eq!(query(&["--query", "data.veribus.label"]), "undefined\n");
    assert_eq!(query(&[&["--query", "data.veribus.label"], &with_more[..]].concat()), "\"mine\"\n");
    assert_eq!(query(&["--query", "data.lists.bad"]), "[\"m\"]\n");
    let answer: Value = serde_json::from_str(&query(&["--query", "data.veribus.label", "--json"])).expect("JSON");
    assert_eq!(answer, json!({"query": "data.veribus.label", "undefined": true}));
    let answer: Value = serde_json::from_str(&query(&["--json"])).expect("JSON");
    assert_eq!(answer["allow"], json!({"query": "data.veribus.allow", "value": true}));

    for neither_rule_nor_document in ["veribus.deny", "data.veribus", "input.x"] {
        let output = eval(files.path(), &input, &["--query", neither_rule_nor_document]);
        assert_eq!((code(&output), printed(&output)), (1, ""), "{neither_rule_nor_document}");
    }
    let output = eval(files.path(), &input, &["--steps-max", "1"]);
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("steps"));
}

#[test]
fn config_check_and_serve_print_the_findings_of_policy_check() {
    let outer = tempfile::tempdir().expect("a directory");
    let directory = outer.path().join("dev");
    let mut dev = super::Running::start(veribus().arg("dev").arg("--dir").arg(&directory));
    super::Running::line(&mut dev.0.stdout, "ready ");
    drop(dev);
    let policies = directory.join("policies");
    fs::write(policies.join("more.rego"), "package veribus\n\nmore if lower(input.x) == \"a\"\n").expect("written");
    let findings = check(&policies, &[]);
    let finding = printed(&findings).lines().next().expect("a finding").to_owned();
    assert!(finding.starts_with("more.rego:3:"), "{finding}");

    let config = directory.join("veribus.toml");
    let checked = veribus().args(["config", "check", "--json", "--config"]).arg(&config).output().expect("runs");
    assert_eq!((code(&checked), printed(&checked).contains("more.rego:3:")), (2, true), "{}", printed(&checked));
    let served = veribus().args(["serve", "--config"]).arg(&config).output().expect("runs");
    assert_eq!(code(&served), 2);
    let told = String::from_utf8_lossy(&served.stderr);
    assert!(told.lines().any(|line| line == finding), "{told}");
}
