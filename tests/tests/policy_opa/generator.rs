//! Policies at random, over the grammar that the broker takes and a little beyond it, with inputs and data that lack
//! members, have members of odd types, and odd numbers.

mod terms;

use std::fmt::Write as _;

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use serde_json::{Value, json};

use super::oracle::Case;

const FIELDS: [&str; 6] = ["a", "b", "c", "l", "o", "s"];
const TEXTS: [&str; 10] = ["a", "b", "c", "x.y", "x", "ä😀", "", "A", "role:a", "a\\\"b\\\\"];
const NUMBERS: [&str; 8] = ["0", "1", "2", "10", "1.5", "0.1", "18446744073709551615", "9007199254740993"];
/// Odd numbers, with the one spelling in which the broker hands them to the policy; those without one it refuses.
const ODD_NUMBERS: [(&str, &str); 8] = [
    ("1.0", "1"),
    ("-0", "0"),
    ("1e2", "100"),
    ("0.30", "0.3"),
    ("-1.50", "-1.5"),
    ("123456789012345678901234", ""),
    ("0.1000000000000000055", ""),
    ("1E400", ""),
];

/// An input as OPA gets it, to be asked the same.
pub(crate) fn canonical(input: &str) -> String {
    let spelled = ODD_NUMBERS.iter().find_map(|(odd, one)| {
        let rest = input.strip_prefix("{\"a\":")?.strip_prefix(odd)?;
        (!one.is_empty() && rest.starts_with([',', '}'])).then(|| format!("{{\"a\":{one}{rest}"))
    });
    spelled.unwrap_or_else(|| input.to_owned())
}

/// Another package of each policy.
const LIBRARY: &str = "package lib\n\nimport input.l as list\n\ntab := {\"a\": 1, \"1\": [2, input.a], \"l\": list}\n\n\
                       twice(x) := [x, x]\n\ntwice(x) := [x, x] if tab\n\nmembers contains x if some x in list\n\n\
                       default ok := false\n\nok if input.a == data.d.a\n";

/// What a rule that was written can be used as.
#[derive(Clone)]
enum Rule {
    Value(String),
    Set(String),
    Function(String, usize),
}

struct Generator {
    rng: SmallRng,
    variables: Vec<String>,
    next: usize,
    rules: Vec<Rule>,
    /// In a thousand, how often something is written that the check is known to refuse.
    odd: u32,
}

/// The case of this number, the same at each run.
pub(crate) fn case(seed: u64) -> Case {
    let mut generator = Generator {
        rng: SmallRng::seed_from_u64(seed),
        variables: Vec::new(),
        next: 0,
        rules: Vec::new(),
        odd: if seed.is_multiple_of(4) { 60 } else { 4 },
    };
    let policy = generator.policy();
    let data = generator.object(3);
    let extra = generator.object(2);
    let queries = ["data.veribus.allow", "data.veribus.deny"].map(str::to_owned).into_iter();
    let rules = generator.rules.iter().filter_map(|rule| match rule {
        Rule::Value(name) | Rule::Set(name) => Some(format!("data.veribus.{name}")),
        Rule::Function(..) => None,
    });
    let queries = queries.chain(rules).collect();
    Case {
        files: [
            ("policy.rego".to_owned(), policy),
            ("data.json".to_owned(), json!({ "d": data }).to_string()),
            ("e/data.json".to_owned(), extra.to_string()),
            ("lib.rego".to_owned(), LIBRARY.to_owned()),
        ]
        .into(),
        queries,
        inputs: (0..3).map(|_| generator.input()).collect(),
    }
}

impl Generator {
    fn chance(&mut self, in_thousand: u32) -> bool {
        self.rng.random_range(0..1_000) < in_thousand
    }

    fn is_odd(&mut self) -> bool {
        let odd = self.odd;
        self.chance(odd)
    }

    fn below(&mut self, number: usize) -> usize {
        self.rng.random_range(0..number)
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        let at = self.below(items.len());
        items[at].clone()
    }

    // ---- Documents

    fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 8 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.chance(500)),
            2 => json!(self.below(3)),
            3 => json!(self.below(100)),
            4 => json!(1.5),
            5..=7 => json!(self.pick(&["a", "b", "c", "x.y", "x", "ä😀", "", "A"])),
            8 | 9 => {
                let length = self.below(4);
                (0..length).map(|_| self.value(depth - 1)).collect()
            }
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut members = serde_json::Map::new();
        for field in FIELDS {
            if self.chance(650) {
                // What is called a list mostly is one.
                let value = match (field, self.chance(700)) {
                    ("l", true) => {
                        let length = self.below(4);
                        (0..length).map(|_| self.value(depth.saturating_sub(1))).collect()
                    }
                    ("o", true) if depth > 0 => self.object(depth - 1),
                    ("s", true) => json!(self.pick(&["a", "b", "x.y", "x.z", "ä😀", ""])),
                    _ => self.value(depth.saturating_sub(1)),
                };
                members.insert(field.to_owned(), value);
            }
        }
        Value::Object(members)
    }

    /// As text, since not every number survives being parsed.
    fn input(&mut self) -> String {
        let mut input = self.object(3);
        if self.chance(500) {
            let address = self.pick(&["10.1.2.3", "11.0.0.1", "2001:db8::1", "::ffff:10.1.2.3", "10.0.0.0/9", "x", ""]);
            input["peer"] = json!({ "address": address });
        }
        let mut text = input.to_string();
        if self.chance(150) {
            let (number, _) = self.pick(&ODD_NUMBERS);
            let insert = format!(r#""a":{number}{}"#, if text.len() > 2 { "," } else { "" });
            if !text.contains(r#""a":"#) {
                text.insert_str(1, &insert);
            }
        }
        text
    }

    // ---- Rules

    fn policy(&mut self) -> String {
        let mut policy = String::from(
            "package veribus\n\nimport rego.v1\n\nimport data.d\nimport data.lib.tab\nimport data.lib.twice\n\
             import input.o as io\n\n",
        );
        let count = 2 + self.below(5);
        for number in 0..count {
            let rule = self.rule(number);
            policy.push_str(&rule);
        }
        for _ in 0..=self.below(2) {
            self.variables.clear();
            let body = self.body(2);
            let _ = writeln!(policy, "allow if {body}\n");
        }
        for number in 0..=self.below(3) {
            self.variables.clear();
            let body = self.body(3);
            let head = match self.variables.last().cloned() {
                Some(variable) if self.chance(400) => format!("{{\"rule\": \"{number}\", \"about\": {variable}}}"),
                _ => format!("{{\"rule\": \"{number}\"}}"),
            };
            let _ = writeln!(policy, "deny contains {head} if {body}\n");
        }
        policy
    }

    fn rule(&mut self, number: usize) -> String {
        self.variables.clear();
        let text = match self.below(10) {
            0 | 1 => {
                let name = format!("v{number}");
                let default =
                    if self.chance(300) { format!("default {name} := {}\n\n", self.literal()) } else { String::new() };
                let body = self.body(3);
                let value = self.head();
                let rule = match self.below(3) {
                    0 => format!("{default}{name} := {value} if {body}\n\n"),
                    1 => format!("{default}{name} if {body}\n\n"),
                    _ => {
                        self.variables.clear();
                        format!("{default}{name} := {}\n\n", self.term(2))
                    }
                };
                self.rules.push(Rule::Value(name));
                rule
            }
            2..=4 => {
                let name = format!("s{number}");
                let mut rules = String::new();
                for _ in 0..=self.below(2) {
                    self.variables.clear();
                    let body = self.body(3);
                    let _ = writeln!(rules, "{name} contains {} if {body}\n", self.head());
                }
                self.rules.push(Rule::Set(name));
                rules
            }
            _ => {
                let name = format!("f{number}");
                let arity = 1 + self.below(2);
                let mut rules = String::new();
                for _ in 0..=self.below(2) {
                    self.variables.clear();
                    let arguments: Vec<String> =
                        (0..arity).map(|_| if self.chance(120) { self.literal() } else { self.variable() }).collect();
                    let arguments = arguments.join(", ");
                    let rule = match self.below(3) {
                        0 => {
                            let body = self.body(2);
                            format!("{name}({arguments}) := {} if {body}\n\n", self.head())
                        }
                        1 => format!("{name}({arguments}) if {}\n\n", self.body(2)),
                        _ => format!("{name}({arguments}) := {}\n\n", self.term(1)),
                    };
                    rules.push_str(&rule);
                }
                self.rules.push(Rule::Function(name, arity));
                rules
            }
        };
        self.variables.clear();
        text
    }

    fn head(&mut self) -> String {
        if self.is_odd() {
            return self.term(2);
        }
        match self.below(4) {
            0 => self.literal(),
            1 => format!("[{}, {}]", self.atom(), self.atom()),
            2 => format!("{{\"k\": {}}}", self.atom()),
            _ => self.atom(),
        }
    }

    fn variable(&mut self) -> String {
        self.next += 1;
        let name = format!("x{}", self.next);
        self.variables.push(name.clone());
        name
    }

    // ---- Bodies

    fn body(&mut self, depth: usize) -> String {
        let count = 1 + self.below(3);
        let lines: Vec<String> = (0..count).map(|_| self.line(depth)).collect();
        format!("{{\n\t{}\n}}", lines.join("\n\t"))
    }

    /// A body whose variables are gone behind it.
    fn inner_body(&mut self, depth: usize) -> (String, Vec<String>) {
        let outer = self.variables.clone();
        let count = 1 + self.below(2);
        let lines: Vec<String> = (0..count).map(|_| self.line(depth)).collect();
        let inner = std::mem::replace(&mut self.variables, outer);
        (lines.join("; "), inner)
    }

    fn line(&mut self, depth: usize) -> String {
        if self.is_odd() {
            return self.odd_line(depth);
        }
        match self.below(16) {
            0..=2 => {
                let collection = self.collection(depth);
                format!("some {} in {collection}", self.variable())
            }
            3 => {
                let collection = self.document();
                let key = if self.chance(200) { "_".to_owned() } else { self.variable() };
                format!("some {key}, {} in {collection}", self.variable())
            }
            4..=6 => {
                let term = self.term(depth);
                format!("{} := {term}", self.variable())
            }
            7 | 8 => {
                let operator = self.pick(&["==", "!=", "<", "<=", ">", ">="]);
                if matches!(operator, "==" | "!=") || self.is_odd() {
                    format!("{} {operator} {}", self.simple(), self.simple())
                } else {
                    format!("{} {operator} {}", self.orderable(), self.orderable())
                }
            }
            9 => {
                let collection = if self.is_odd() { self.collection(depth) } else { self.members() };
                format!("{} in {collection}", self.atom())
            }
            10..=12 => self.negation(),
            13 if depth > 0 => {
                let domain = self.collection(depth - 1);
                let outer = self.variables.clone();
                let variable = self.variable();
                let (body, _) = self.inner_body(depth - 1);
                self.variables = outer;
                let condition = if self.chance(500) { "!= 1" } else { "== \"a\"" };
                format!("every {variable} in {domain} {{ {variable} {condition}; {body} }}")
            }
            14 => match self.variables.last().cloned() {
                Some(variable) => {
                    let guard = self.pick(&[
                        "is_string",
                        "is_number",
                        "is_array",
                        "is_object",
                        "is_boolean",
                        "is_null",
                        "is_set",
                    ]);
                    format!("{guard}({variable})")
                }
                None => self.reference(),
            },
            13 | 15 => {
                if self.chance(500) {
                    self.call(1)
                } else {
                    self.reference()
                }
            }
            _ => unreachable!("sixteen kinds"),
        }
    }

    fn negation(&mut self) -> String {
        match self.below(6) {
            0 | 1 => format!("not {}", self.reference()),
            2 => format!("not {} == {}", self.simple(), self.simple()),
            3 => format!("not {} in {}", self.atom(), self.atom()),
            4 => {
                format!("not {} != {}", self.atom(), self.atom())
            }
            _ => {
                let outer = self.is_odd();
                if outer { format!("not {}", self.call(1)) } else { format!("not {}", self.call_of_atoms()) }
            }
        }
    }

    /// What the check refuses, most of it.
    fn odd_line(&mut self, depth: usize) -> String {
        let term = self.term(depth);
        match self.below(14) {
            0 => format!("not {term}"),
            1 => format!("{} = {term}", self.simple()),
            2 => format!("some {{\"a\": 1}} in {term}"),
            3 => format!("some {}", self.variable()),
            4 => format!("{}[_] == {}", self.reference(), self.atom()),
            5 => format!("({} in {term}) == false", self.simple()),
            6 => format!("{} + {} == {}", self.simple(), self.simple(), self.atom()),
            7 => format!("{} with input as {{}}", self.reference()),
            8 => format!("lower({}) == {}", self.simple(), self.literal()),
            9 => format!("[{}, _] := {term}", self.variable()),
            10 => format!("{} in {} in {term}", self.simple(), self.simple()),
            11 => format!("not {} in {}", self.simple(), self.collection(depth)),
            12 => format!("not {} < {}", self.simple(), self.simple()),
            _ => format!("{} == {} == {}", self.simple(), self.simple(), self.atom()),
        }
    }
}
