use std::collections::BTreeMap;

use super::{RULE_DEPTH_MAX, Rule};
use crate::decide::{Bundle, BundleError};

const ALLOW: &str = "package veribus\nallow if true\n";

/// The rules of the check that a policy breaks.
fn broken(files: &[(&str, &str)]) -> Vec<&'static str> {
    let files: BTreeMap<_, _> = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    match Bundle::compile(&files, 100_000) {
        Ok(_) => Vec::new(),
        Err(BundleError::Refused(findings)) => {
            assert!(findings.iter().all(|finding| !finding.message.contains('\n')), "{findings:?}");
            findings.iter().map(|finding| finding.rule).collect()
        }
        Err(error) => panic!("{error}"),
    }
}

fn breaks(rules: &str) -> Vec<&'static str> {
    broken(&[("policy.rego", &format!("package veribus\n{rules}\nallow if true\n"))])
}

/// For each rule of the check, policies that break it and no other.
const BREAKING: &[(Rule, &[&str])] = &[
    (Rule::Syntax, &["a if {", "a := +", "f(x) if not x[_] == 1 else := 2 {"]),
    (
        Rule::Import,
        &[
            "import future.keywords.not",
            "import data",
            "import input",
            "import data.a\nimport data.b.a",
            "import input.q as internal",
        ],
    ),
    (
        Rule::Name,
        &[
            "a := 1\nb if { a := 2; a == 2 }",
            "b if { x := 1; y := {x | some x in input.l}; y == 1 }",
            "f(x, x) if x == 1",
            "b if { count := 1; count == 1 }",
            "b if { net := 1; net == 1 }",
            "b if { veribus_elements := 1; veribus_elements == 1 }",
            "startswith(x, y) if x == y",
            "neq(p, q) if p == q",
            "walk(z) if z == 1",
            "a if { lt := 1; lt == 1 }",
        ],
    ),
    (
        Rule::Head,
        &[
            "a.b := 1",
            "a[k] := 1 if some k in input.l",
            "a[k].b contains 1 if some k in input.l",
            "f([x, y]) if input.x",
            "f({\"a\": x}) if input.x",
            "a = 1",
        ],
    ),
    (
        Rule::Blank,
        &[
            "a if count (input.l) == 1",
            "f(x) if x == 1\na if f (1)",
            "f\n(x) if x == 1",
            "a if 1 in[1]",
            "a if { some x in[1]; x == 1 }",
        ],
    ),
    (Rule::Line, &["a if { input.x == 1, }", "a if { [input.x] }", "a if { \"text\" }"]),
    (Rule::Form, &["a := 1\na contains 2", "a(x) if x == 1\na := 1"]),
    (Rule::Default, &["default a := 1\ndefault a := 2", "default a := input.x", "default a := data.b"]),
    (
        Rule::HeadValue,
        &[
            "a := input.x if input.y",
            "a contains f.rule if some f in input.l",
            "a contains {\"x\": f.rule} if some f in input.l",
            "f(x) := x.y if x.z",
        ],
    ),
    (Rule::Else, &["a := 1 if { input.x } else := 2", "a := 1 if { input.x } else := 2 if { input.y }"]),
    (Rule::With, &["a if allow with input as {}", "a if not allow with data.b as 1"]),
    (Rule::Recursion, &["a if b\nb if a", "f(x) if f(x)", "a contains x if { some x in {1}; count(a) == 1 }"]),
    (
        Rule::Variable,
        &[
            "a if x == 1",
            "a if input.roles[_] == 1",
            "a if { input.l[i] == 1 }",
            "a if { x == 1; x := 1 }",
            "a if { every x in input.l { input.y } }",
        ],
    ),
    (Rule::Assignment, &["a if input.x = 1", "a if [x, y] := input.l", "a if {\"a\": x} := input.o"]),
    (
        Rule::Some,
        &["a if { some x; input.l == 1 }", "a if some {\"kind\": \"text\"} in input.l", "a if some 1, x in input.l"],
    ),
    (
        Rule::KeyedSet,
        &[
            "a if { some k, v in {1, 2}; k == v }",
            "s contains 1\na if { some k, v in s; k == v }",
            "f(x) if { some k, v in x; k == v }\na if f({1})",
            "a if { every k, v in {1, 2} { k == v } }",
        ],
    ),
    (
        Rule::Not,
        &[
            "a if not true",
            "a if not \"text\"",
            "a if not [1]",
            "a if not {x | some x in input.l}",
            "a if not count(input.l) - 1",
        ],
    ),
    (
        Rule::NotOperand,
        &[
            "blocked(x) if x == 1\na if not blocked(input.name)",
            "a if not is_array(input.findings)",
            "a if not input.x != 1",
            "a if not input.x < 1",
            "a if not input.x in {1, 2}",
            "a if { x := 1; not x in input.l }",
            "a if not input.table[input.key]",
            "a if not input.x == input.table[input.key]",
            "b := input.x\na if not is_array(b)",
        ],
    ),
    (
        Rule::Membership,
        &[
            "a if (1 in input.l) == false",
            "a if { x := 1 in input.l; x == false }",
            "a if 0, 1 in input.l",
            "a if count({1 in input.l}) == 1",
        ],
    ),
    (
        Rule::Infix,
        &[
            "a if input.x == input.y == true",
            "a if input.x in {x | some x in input.l}",
            "f(x, y) if x == y\na if f(input.x, [x | some x in input.l])",
        ],
    ),
    (
        Rule::Arithmetic,
        &[
            "a if input.a + input.b == 0.3",
            "a if count(input.l) / 2 == 1",
            "a if { x := 0.1 + 0.2; x == 0.3 }",
            "a if count(input.l) * 1.5 == 3",
            "a := -input.x",
        ],
    ),
    (Rule::Ordering, &["s := {1}\no := {\"a\": 1}\na if s < o", "f(x) if x < 1\na if f({1})", "a if [{1}] >= input.x"]),
    (
        Rule::SetMember,
        &[
            "a := {{1}, 2}",
            "a contains [{1}]",
            "a := {s: 1 | s := {1}}",
            "a if { v := input.x; count({v, 1}) == 2 }",
            "a := {1, 1}",
        ],
    ),
    (Rule::SetOperator, &["a := input.a | input.b", "a := input.a & {1}", "f(x) := x | {1}\na := f(input.x)"]),
    (Rule::ObjectKey, &["a := {1: 2}", "a := {\"x\": 1, \"x\": 2}", "a := {`x`: 1}"]),
    (
        Rule::Number,
        &[
            "a if input.x == 1e3",
            "a if input.x == 1.0",
            "a if input.x == 18446744073709551616",
            "a if input.x == 0.1000000000000000055",
        ],
    ),
    (Rule::Text, &["a if input.x == \"\\u0041\"", "a if input.x == \"\\/\""]),
    (Rule::Reference, &["a := {\"a\": 1}[input.x]", "f(x) := x\na := f(input.x).y", "a := input.s[[1]]"]),
    (
        Rule::EveryIndex,
        &["a if { every x in input.l { not input.table[x] } }", "a if { every i, x in input.l { x == input.m[i] } }"],
    ),
    (
        Rule::Order,
        &[
            "a if input.x < count(input.l)",
            "b := count(input.l)\na if input.x == b",
            "a := [input.x, count(input.l)]",
            "f(x, y) if x == y\na if f(input.x, count(input.l))",
        ],
    ),
    (Rule::SetReference, &["s contains 1\na if s[1]", "s contains {\"a\": 1}\na if s[input.x].a"]),
    (
        Rule::WholePackage,
        &["a := data", "a := data.veribus", "a := data.veribus.nothing", "a if count(data[input.x]) == 1"],
    ),
    (
        Rule::Builtin,
        &[
            "a if lower(input.x) == \"a\"",
            "a if no.such(1)",
            "a if { input.action == \"x\"; no.such(1) }",
            "a if http.send({\"url\": \"x\"})",
            "a := time.now_ns()",
            "a if strings.count(input.s, input.t) > 2",
            "a if to_number(input.x) == 1",
            "a if walk(input)",
            "a if input.f(1)",
            "a if print(input)",
            "a if veribus_elements(input.x)",
        ],
    ),
    (
        Rule::Arguments,
        &[
            "a if count(input.x, input.y)",
            "a if startswith(input.x)",
            "f(x) if x == 1\na if f(1, 2)",
            "f(x) if x == 1\na := f",
            "a := object.get(input, [\"a\"], 1)",
            "a := object.get(input, input.x, 1)",
            "a := split(input.x, \"\")",
            "a := split(input.x, input.y)",
            "a if startswith(5, \"a\")",
        ],
    ),
    (
        Rule::Pattern,
        &[
            "a if regex.match(`^\\w+$`, input.name)",
            "a if regex.match(`[|&&;]`, input.name)",
            "a if regex.match(input.pattern, input.name)",
            "a if regex.match(`(?i)a`, input.name)",
            "a if regex.match(`a**`, input.name)",
            "a if regex.match(`a++`, input.name)",
            "a if regex.match(`[[:alpha:]]`, input.name)",
            "a if regex.match(`a{101}`, input.name)",
            "a if regex.match(`(a{9}){9}`, input.name)",
            "a if regex.match(`(a`, input.name)",
            "a if regex.match(`ä`, input.name)",
            "a if regex.match(`\\<a`, input.name)",
            "a if regex.match(`[\\>]`, input.name)",
        ],
    ),
    (
        Rule::Glob,
        &[
            "a if glob.match(\"user-[^a-z]\", [], input.id)",
            "a if glob.match(\"finance{,.eu}\", [\".\"], input.topic)",
            "a if glob.match(\"?\", [\".\"], input.id)",
            "a if glob.match(\"a*\", [\".\"], input.id)",
            "a if glob.match(\"a.*\", [], input.id)",
            "a if glob.match(\"*\", [\":\"], input.id)",
            "a if glob.match(\"**/b\", [\"/\"], input.id)",
            "a if glob.match(input.pattern, [\".\"], input.id)",
            "a if glob.match(\"a\", input.d, input.id)",
        ],
    ),
    (
        Rule::Cidr,
        &[
            "a if net.cidr_contains(\"10.0.0.0/8\", input.other)",
            "a if net.cidr_contains(data.network, input.peer.address)",
            "a if net.cidr_contains(\"10.0.0.0/33\", input.peer.address)",
            "a if net.cidr_contains(\"2001:db8::/32\", input.peer.address)",
        ],
    ),
    (
        Rule::Contract,
        &[
            "deny := true",
            "deny contains 7",
            "quarantine contains {\"name\": \"x\"}",
            "quarantine contains x if { some x in input.l }",
            "invalid if true",
            "deny(x) if x == 1",
        ],
    ),
];

#[test]
fn each_rule_refuses_what_it_is_for_and_nothing_else_does() {
    let mut others = Vec::new();
    for (rule, policies) in BREAKING {
        for policy in *policies {
            let rules = breaks(policy);
            if rules.is_empty() || rules.iter().any(|name| *name != rule.name()) {
                others.push(format!("{policy}: {rules:?}, not {}", rule.name()));
            }
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn rules_about_files_and_packages() {
    let with = |name, text| broken(&[("policy.rego", ALLOW), (name, text)]);
    assert_eq!(with("b.rego", "package veribus.b[\"c d\"]\na := 1\n"), ["package"]);
    assert_eq!(with("b.rego", "package veribus.allow\na := 1\n"), ["name"]);
    assert_eq!(with("b.rego", "package x\nimport data.veribus.allow\nallow := 1\n"), ["import"]);
    assert_eq!(with("b.rego", "package _\na := 1\n"), ["package"]);
    for file in ["limits.json", ".q.rego", ".h/q.rego", ".h/data.json", "bundle.tar.gz"] {
        assert_eq!(with(file, "{}"), ["data-file"], "{file}");
    }
    assert_eq!(with("data.json", "{\"veribus\": {\"allow\": true}}"), ["data-conflict"]);
    assert_eq!(with("data.json", "{\"veribus\": {}}"), ["data-conflict"]);
    assert_eq!(with("data.json", "{\"veribus\": 1}"), ["data-conflict"]);
    assert_eq!(with("veribus/data.json", "{\"x\": 1}"), ["data-conflict"]);
    let twice = [("policy.rego", ALLOW), ("data.json", "{\"a\": {\"b\": 1}}"), ("a/data.yaml", "b: 2\n")];
    assert_eq!(broken(&twice), ["data-conflict"]);
    let apart = [("policy.rego", ALLOW), ("x/data.json", "{\"a\": 1}"), ("y/data.json", "{\"a\": 2}")];
    assert!(broken(&apart).is_empty());
}

#[test]
fn what_the_documentation_shows_as_taken_is_taken() {
    let page = include_str!("../../../../docs/policy-language.md");
    let (_, after) = page.split_once("```rego\n").expect("an example");
    let (example, _) = after.split_once("```\n").expect("its end");
    let lib = "package veribus.lib\nknown(x) if x == 1\n";
    assert_eq!(broken(&[("policy.rego", example), ("lib.rego", lib)]), [""; 0]);
}

#[test]
fn an_import_is_of_one_rule_or_document() {
    let with = |import: &str, others: &[(&str, &str)]| {
        let policy = format!("package veribus\n{import}\nallow if input.x == 1\n");
        broken(&[&[("policy.rego", policy.as_str())], others].concat())
    };
    let lib = ("lib.rego", "package lib\nx := 1\n");
    assert!(with("import data.lib.x", &[lib]).is_empty());
    assert!(with("import data.limits", &[lib]).is_empty());
    for whole in ["import data.lib", "import data.veribus as h", "import data.lib.x.y", "import data.lib.nothing"] {
        assert_eq!(with(whole, &[lib]), ["import"], "{whole}");
    }
    let other = ("other.rego", "package veribus\nimport input.peer as who\nb if who == 1\n");
    assert_eq!(with("import input.agent as who", &[other]), ["import", "import"]);
    let below = ("below.rego", "package veribus.lib\nz := 8\n");
    assert_eq!(with("import data.foo as lib", &[below]), ["import"]);
}

#[test]
fn data_is_indexed_as_opa_does_it_or_not_at_all() {
    let data = ("data.json", r#"{"d": [true, [true]], "o": {"1": true, "l": [1]}, "lists": {"a": [1], "b": [2]}}"#);
    let lib = ("lib.rego", "package lib\ntab := {\"1\": true}\n");
    for (rule, expected) in [
        ("a if data.d[0]", vec![]),
        ("a if data.o[input.i]", vec![]),
        ("a if data.o[\"1\"]", vec![]),
        ("import data.o\na if o[\"1\"]", vec![]),
        ("import data.o\na if { k := input.i; is_string(k); o[k] }", vec![]),
        ("import data.lib.tab\na if tab[input.i]", vec![]),
        ("a if { some x in data.lists[input.i]; x == 1 }", vec![]),
        ("a if data.d[\"0\"]", vec!["data-index"]),
        ("a if data.d[input.i]", vec!["data-index"]),
        ("a if { k := input.i; not data.d[k] }", vec!["data-index"]),
        ("a if data.d[1][input.i]", vec!["data-index"]),
        ("a if data.lists[input.i][input.j]", vec!["data-index"]),
        ("import data.o\na if o[input.i]", vec!["data-index"]),
        ("a if data.lib.tab[input.i]", vec!["data-index"]),
        ("a if data.lib.tab[1]", vec!["data-index"]),
    ] {
        let (imports, rules) =
            rule.split_once("\na").map_or(("", rule.to_owned()), |(import, rest)| (import, format!("a{rest}")));
        let policy = format!("package veribus\n{imports}\n{rules}\nallow if true\n");
        assert_eq!(broken(&[("policy.rego", &policy), lib, data]), expected, "{rule}");
    }
}

#[test]
fn a_value_that_grows_by_being_put_into_itself_has_a_bound() {
    let doubled = |times: usize| {
        let rules: String = (1..=times).map(|n| format!("b{n} := [b{}, b{}]\n", n - 1, n - 1)).collect();
        format!("b0 := [1, 2]\n{rules}")
    };
    assert!(breaks(&doubled(12)).is_empty());
    assert!(breaks(&doubled(25)).contains(&"size"));
    assert!(breaks("f(x) := [x, x, x, x]\na := f(f(f(f(f(f(f(f(f(f(1))))))))))").contains(&"size"));
}

#[test]
fn what_would_overwhelm_the_parser_does_not_reach_it() {
    for policy in [
        format!("a := {}1{}", "[".repeat(60), "]".repeat(60)),
        format!("a := {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("a := {}1", "1 +\n".repeat(19_000)),
        format!("a := {}1{}", "f(\n".repeat(9_000), ")\n".repeat(9_000)),
        "x\n".repeat(30_000),
        format!("a := {}1{}", "[".repeat(12), "]".repeat(12)).repeat(300),
        format!("a if {{\n{}}}", "x := 1\n".repeat(3_000)),
        format!("a if {{\n{}}}", "some _ in input.a\n".repeat(50)),
        format!("a := input{}", "[\"a\"\n]".repeat(2_000)),
        format!("a := [{}]", "1,\n".repeat(15_000)),
        format!("f({}) if true", (0..15_000).map(|n| format!("x{n},\n")).collect::<String>()),
        (0..15_000).map(|n| format!("a{n} := 1\n")).collect(),
        format!("a := \"{}\"", "x".repeat(2_000)),
    ] {
        let rules = breaks(&policy);
        assert!(matches!(rules[..], ["size" | "syntax" | "rule-head"]), "{rules:?}");
    }
}

#[test]
fn a_chain_of_rules_has_a_bound() {
    let chain = |length: usize| {
        let links: String = (1..length).map(|link| format!("r{link} if r{}\n", link - 1)).collect();
        format!("r0 if input.x\n{links}")
    };
    assert!(breaks(&chain(RULE_DEPTH_MAX)).is_empty());
    assert_eq!(breaks(&chain(RULE_DEPTH_MAX + 1)), ["depth"]);
    assert!(breaks(&chain(9_000)).iter().all(|rule| matches!(*rule, "depth" | "size")));
}

#[test]
fn data_that_the_policy_itself_calls_invalid_does_not_load() {
    let policy = format!(
        "{ALLOW}invalid contains {{\"limit\": name}} if {{\n some name, limit in data.limits\n not is_number(limit)\n}}\n"
    );
    assert!(broken(&[("policy.rego", &policy), ("data.yaml", "limits: {a: 1}\n")]).is_empty());
    assert_eq!(broken(&[("policy.rego", &policy), ("data.yaml", "limits: {a: \"1\", b: 2}\n")]), ["settings"]);
    assert_eq!(broken(&[("policy.rego", ALLOW), ("data.yaml", "topics: {\"a..b\": {}}\n")]), ["settings"]);
}

/// As deep as the check lets it be: rules on rules, iterations in each, and brackets in brackets.
#[test]
fn the_deepest_policy_that_loads_fits_its_stack() {
    let iterations: String = (0..20).map(|number| format!(" some v{number} in [x]\n")).collect();
    let mut policy = String::from("r0(x) := x if input.x\n");
    for link in 1..RULE_DEPTH_MAX - 1 {
        let call = format!("{}r{}(x){}", "[".repeat(5), link - 1, "]".repeat(5));
        policy.push_str(&format!("r{link}(x) := y if {{\n{iterations} y := {call}\n}}\n"));
    }
    let last = RULE_DEPTH_MAX - 2;
    policy.push_str(&format!("deep if {{\n every y in [1] {{ count([z | some z in r{last}(y)]) == 1 }}\n}}\n"));
    let policy = format!("package veribus\n{policy}\nallow if true\n");
    let bundle = Bundle::compile(&[("policy.rego".to_owned(), policy)].into(), 1_000_000).expect("loads");
    let small = std::thread::Builder::new().stack_size(128 * 1024);
    let evaluated = small.spawn(move || bundle.eval("data.veribus.deep", r#"{"x": 1}"#)).expect("spawned").join();
    assert_eq!(evaluated.expect("no overflow"), Ok(Some(serde_json::Value::Bool(true))));
}
