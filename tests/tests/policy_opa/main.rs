//! The broker's engine held to the Open Policy Agent: what both load, both answer alike.
//!
//! Needs the program in `tests/opa` (see [`oracle`]); `.ci/run` installs and requires it. `VERIBUS_OPA_CASES` says how many
//! generated policies are compared, from `VERIBUS_OPA_SEED` on.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failed expectation is a failed test, in what the tests share too"
)]

mod documents;
mod generator;
mod known;
mod oracle;
mod repository;

use std::{collections::BTreeMap, env, fmt, io::Write as _};

use serde_json::Value;
use veribus_broker::decide::{Bundle, BundleError, EvaluationError};

use oracle::{Answer, Case, Oracle, Outcome};

const STEPS_MAX: u64 = 200_000;

/// How the two compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Agree,
    /// It does not load here.
    Refused,
    /// The input has a number that is not taken: denied before the policy is asked.
    RefusedInput,
    /// Denied here; OPA fails too when errors of builtins count.
    Error,
    /// The same, but OPA fails only when it evaluates each rule in full, without its index and early exit.
    ErrorInFull,
    /// It loads here, and OPA's type checker refuses it.
    LoadsOnlyHere,
    Different,
}

/// How many comparisons came out how.
#[derive(Default)]
struct Counts(BTreeMap<Verdict, usize>);

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        *self.0.entry(verdict).or_default() += 1;
    }

    fn of(&self, verdict: Verdict) -> usize {
        self.0.get(&verdict).copied().unwrap_or_default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verdict, count) in &self.0 {
            write!(formatter, "{verdict:?} {count}  ")?;
        }
        Ok(())
    }
}

/// Compares a case, and says of each difference what it is.
fn compare(case: &Case, answer: &Answer, counts: &mut Counts) -> Vec<String> {
    let bundle = match Bundle::compile(&case.files, STEPS_MAX) {
        Ok(bundle) => bundle,
        Err(BundleError::Refused(findings)) => {
            assert!(!findings.is_empty(), "refused without a word");
            counts.add(Verdict::Refused);
            return Vec::new();
        }
        Err(error) => {
            counts.add(Verdict::Different);
            return vec![format!("it does not load, without findings: {error}")];
        }
    };
    let rows = match answer {
        Ok(rows) => rows,
        Err(reason) => {
            // What every engine must find out; the rest is for OPA's type checker.
            let is_of_types = !["recursive", "is unsafe", "multiple default rules", "conflict", "parse_error"]
                .iter()
                .any(|word| reason.contains(word));
            counts.add(if is_of_types { Verdict::LoadsOnlyHere } else { Verdict::Different });
            return if is_of_types { Vec::new() } else { vec![format!("OPA refuses it: {reason}")] };
        }
    };
    let mut differences = Vec::new();
    for (input, row) in case.inputs.iter().zip(rows) {
        for (query, theirs) in case.queries.iter().zip(row) {
            let ours = bundle.eval(query, input);
            let verdict = judge(&ours, theirs);
            counts.add(verdict);
            if verdict == Verdict::Different {
                differences.push(format!("{query} on {input}\n    here: {ours:?}\n    OPA:  {theirs:?}"));
            }
        }
    }
    differences
}

fn judge(ours: &Result<Option<Value>, EvaluationError>, theirs: &Outcome) -> Verdict {
    match (ours, &theirs.value) {
        (Err(EvaluationError::Number), _) => Verdict::RefusedInput,
        (Err(_), Err(_)) => Verdict::Error,
        (Err(_), Ok(_)) if theirs.strict_error.is_some() => Verdict::Error,
        (Err(_), Ok(_)) if theirs.full_error.is_some() => Verdict::ErrorInFull,
        (Ok(ours), Ok(theirs)) if same(ours.as_ref(), theirs.as_ref()) => Verdict::Agree,
        _ => Verdict::Different,
    }
}

fn same(ours: Option<&Value>, theirs: Option<&Value>) -> bool {
    match (ours, theirs) {
        (None, None) => true,
        (Some(ours), Some(theirs)) => alike(ours, theirs),
        _ => false,
    }
}

/// Equal, numbers by their value.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, member)| other.get(name).is_some_and(|other| alike(member, other)))
        }
        _ => one == other,
    }
}

/// Told whether the test passes or not.
fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number(variable: &str, otherwise: u64) -> u64 {
    env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn generated_policies_mean_the_same_or_do_not_load() {
    let Some(mut oracle) = Oracle::start() else { return };
    let first = number("VERIBUS_OPA_SEED", 0);
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for seed in first..first + number("VERIBUS_OPA_CASES", 1_000) {
        let case = generator::case(seed);
        let inputs = case.inputs.iter().map(|input| generator::canonical(input)).collect();
        let answer = oracle.ask(&Case { inputs, ..case.clone() });
        for difference in compare(&case, &answer, &mut counts) {
            failures.push(format!(
                "case {seed}: {difference}\n{}\ndata {}",
                case.files["policy.rego"], case.files["data.json"]
            ));
        }
    }
    say(format_args!("compared with OPA: {counts}"));
    let shown = number("VERIBUS_OPA_SHOWN", 5) as usize;
    assert!(
        failures.is_empty(),
        "{} differences\n{}",
        failures.len(),
        failures[..failures.len().min(shown)].join("\n\n")
    );
    assert!(counts.of(Verdict::Agree) > 2 * counts.of(Verdict::Refused), "too little is compared: {counts}");
}
