//! Data files: what the broker takes, OPA reads alike.

use std::fmt::Write as _;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::{
    Counts, Verdict, compare, number,
    oracle::{Case, Oracle},
    say,
};

/// Spellings of scalars, those that readers take unlike among them.
const SCALARS: [&str; 78] = [
    "a",
    "finance.>",
    "role:gateway",
    "/path",
    "_x",
    "a b",
    "a#b",
    "a-b",
    "true",
    "false",
    "null",
    "0",
    "1",
    "-1",
    "65536",
    "1.5",
    "-0.25",
    "18446744073709551615",
    "9007199254740993",
    "0.1",
    "\"\"",
    "\"a\"",
    "'a'",
    "'it''s'",
    "\"1\"",
    "\"a: b\"",
    "\"\\n\"",
    "\"\\t\\\"\\\\\"",
    "\"\\u00e4\"",
    "\"\\x41\"",
    "\"\\e\"",
    "\"\\/\"",
    "\"ä😀\"",
    "ä",
    "日本",
    "'#'",
    "a: b",
    "a #c",
    "~",
    "Null",
    "NULL",
    "True",
    "TRUE",
    "yes",
    "No",
    "on",
    "OFF",
    "y",
    "N",
    "65_536",
    "0200000",
    "0100",
    "08",
    "0o17",
    "0x1F",
    "0b11",
    "1e3",
    "1E3",
    "+1",
    ".5",
    "1.",
    "1.50",
    "-0",
    "-0.0",
    "12:30:45",
    "190:20:30",
    "2026-11-30",
    "2026-11-30T10:00:00Z",
    ".inf",
    "-.INF",
    ".nan",
    "18446744073709551616",
    "0.1000000000000000055",
    "10.0.0.1",
    "1.2.3",
    "<<",
    "=",
    "!!str 1",
];
const KEYS: [&str; 18] = [
    "a",
    "b",
    "\"c d\"",
    "'e'",
    "finance.>",
    "role:a",
    "\"*\"",
    "\">\"",
    "_",
    "x-y",
    "ä",
    "yes",
    "1",
    "true",
    "null",
    "\"1\"",
    "~",
    "<<",
];

fn document(rng: &mut SmallRng) -> String {
    let mut text = String::new();
    if rng.random_ratio(1, 8) {
        text.push_str(["---\n", "# a comment\n", "\n", "%YAML 1.1\n---\n"].choose(rng).copied().unwrap_or_default());
    }
    mapping(rng, 0, &mut text);
    if rng.random_ratio(1, 20) {
        text.push_str(["...\n", "---\nb: 1\n", "# end\n"].choose(rng).copied().unwrap_or_default());
    }
    text
}

fn mapping(rng: &mut SmallRng, depth: usize, text: &mut String) {
    for member in 0..rng.random_range(1..4) {
        let key = if rng.random_ratio(1, 3) {
            KEYS.choose(rng).copied().unwrap_or("a").to_owned()
        } else {
            format!("k{member}")
        };
        let _ = write!(text, "{}{key}:", " ".repeat(2 * depth));
        value(rng, depth, text);
    }
}

fn value(rng: &mut SmallRng, depth: usize, text: &mut String) {
    match rng.random_range(0..if depth < 3 { 8 } else { 5 }) {
        0..=3 => {
            let _ = writeln!(text, " {}", scalar(rng));
        }
        4 => {
            let _ = writeln!(text, " {}", flow(rng, 2));
        }
        5 => {
            text.push('\n');
            for _ in 0..rng.random_range(1..4) {
                let _ = writeln!(text, "{}- {}", " ".repeat(2 * depth + 2), scalar(rng));
            }
        }
        _ => {
            text.push('\n');
            mapping(rng, depth + 1, text);
        }
    }
}

/// Mostly one of those that are taken.
fn scalar(rng: &mut SmallRng) -> &'static str {
    let pool = if rng.random_ratio(1, 12) { &SCALARS[..] } else { &SCALARS[..37] };
    pool.choose(rng).copied().unwrap_or("a")
}

fn flow(rng: &mut SmallRng, depth: usize) -> String {
    let count = rng.random_range(0..3);
    if rng.random_bool(0.5) {
        let items: Vec<String> = (0..count)
            .map(|_| if depth > 0 && rng.random_ratio(1, 4) { flow(rng, depth - 1) } else { scalar(rng).to_owned() })
            .collect();
        format!("[{}]", items.join(", "))
    } else {
        let members: Vec<String> = (0..count)
            .map(|member| {
                format!(
                    "m{member}: {}",
                    if depth > 0 && rng.random_ratio(1, 4) { flow(rng, depth - 1) } else { scalar(rng).to_owned() }
                )
            })
            .collect();
        format!("{{{}}}", members.join(", "))
    }
}

#[test]
fn generated_data_files_are_read_alike_or_do_not_load() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut counts = Counts::default();
    let mut rng = SmallRng::seed_from_u64(number("VERIBUS_OPA_SEED", 0));
    for _ in 0..number("VERIBUS_OPA_CASES", 1_000) {
        let data = document(&mut rng);
        let policy = "package veribus\n\nallow if input.x\n\nall := {\"a\": data.f.a, \"k\": [data.f.k0, data.f.k1, data.f.k2]}\n";
        let policy = format!("{policy}\nmembers := {{[name, value] | some name, value in data.f}}\n");
        let case = Case {
            files: [("policy.rego".to_owned(), policy), ("f/data.yaml".to_owned(), data.clone())].into(),
            queries: ["data.f.k0", "data.f.k1", "data.veribus.all", "data.veribus.members"].map(str::to_owned).into(),
            inputs: vec!["{}".to_owned()],
        };
        let answer = oracle.ask(&case);
        let before = counts.of(Verdict::LoadsOnlyHere);
        assert_eq!(compare(&case, &answer, &mut counts), Vec::<String>::new(), "{data}");
        assert_eq!(counts.of(Verdict::LoadsOnlyHere), before, "{data}: {answer:?}");
    }
    say(format_args!("data files: {counts}"));
    assert!(counts.of(Verdict::Agree) > counts.of(Verdict::Refused), "{counts}");
}
