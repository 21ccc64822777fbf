//! Which Rego this broker takes: the part that `regorus` and OPA are known to evaluate alike.
//!
//! An allow-list of constructs and builtins, each compared with OPA, held to it by a test; what is not on it does not load,
//! with a [`Diagnostic`] that names file, line, reason and rewrite. A false alarm is accepted where the rewrite is easy, a
//! miss is not. Out of scope: what a policy decides (see [`policy`](super::policy)), data files (see
//! [`data`](super::data)).

mod builtins;
mod diagnostic;
mod kind;
pub(super) mod number;
mod pattern;
mod program;
mod terms;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use regorus::{
    Source,
    unstable::{Lexer, Module, Ref, Span, TokenKind},
};

pub use self::diagnostic::Diagnostic;
pub(super) use self::diagnostic::Rule;
use self::program::{Form, Program, RulePath, Symbol};

/// How many rules may stand on each other. Each takes some 5 KiB of stack.
pub(super) const RULE_DEPTH_MAX: usize = 100;
/// How deep brackets may stand in each other: the parser tries each opening one in two ways.
const BRACKETS_MAX: usize = 12;
/// How many operators one file may have: a chain of them is a tree of that depth.
const OPERATORS_MAX: usize = 4_000;

/// A place where text goes around an expression.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wrap {
    file: String,
    start: usize,
    end: usize,
}

impl Wrap {
    fn around(span: &Span) -> Self {
        Self { file: span.source.file().clone(), start: span.start as usize, end: span.end as usize }
    }
}

/// What the check of all files brings.
pub(super) struct Checked {
    /// Sorted; empty if the policy is taken.
    pub(super) findings: Vec<Diagnostic>,
    /// What is iterated over and may be no collection.
    pub(super) wraps: Vec<Wrap>,
    /// The names of the policy's packages.
    pub(super) packages: Vec<Vec<String>>,
    /// The paths of its rules that are no functions, without `data`.
    pub(super) rules: BTreeSet<RulePath>,
}

/// Before it is parsed: whether a file can be parsed at all, within bounds of depth.
///
/// # Errors
/// One finding.
pub(super) fn measure(file: &str, text: &str) -> Result<(), Diagnostic> {
    let finding = |line, column, rule: Rule, message: &str| Diagnostic {
        file: file.to_owned(),
        line,
        column,
        rule: rule.name(),
        message: message.to_owned(),
        rewrite: rule.rewrite(),
    };
    let source = Source::from_contents(file.to_owned(), text.to_owned())
        .map_err(|error| finding(0, 0, Rule::Size, &one_line(&error.to_string())))?;
    let mut lexer = Lexer::new(&source);
    let (mut depth, mut operators) = (0_usize, 0_usize);
    loop {
        let token = lexer.next_token().map_err(|error| syntax(file, &error.to_string()))?;
        match (&token.0, token.1.text()) {
            (TokenKind::Eof, _) => return Ok(()),
            (TokenKind::Symbol, "(" | "[" | "{" | "set(") => depth += 1,
            (TokenKind::Symbol, ")" | "]" | "}") => depth = depth.saturating_sub(1),
            (TokenKind::Symbol, "|" | "&" | "+" | "-" | "*" | "/" | "%" | "<" | "<=" | ">" | ">=" | "==" | "!=") => {
                operators += 1;
            }
            _ => {}
        }
        if depth > BRACKETS_MAX {
            return Err(finding(token.1.line, token.1.col, Rule::Size, "brackets that stand too deep in each other"));
        }
        if operators > OPERATORS_MAX {
            return Err(finding(token.1.line, token.1.col, Rule::Size, "too many operators in one file"));
        }
    }
}

/// The parser's own words, with the place that they name.
pub(super) fn syntax(file: &str, error: &str) -> Diagnostic {
    let place = error.lines().find_map(|line| line.strip_prefix("--> ")).and_then(|place| {
        let (rest, column) = place.rsplit_once(':')?;
        let (_, line) = rest.rsplit_once(':')?;
        Some((line.parse().ok()?, column.parse().ok()?))
    });
    let message = error.lines().find_map(|line| line.strip_prefix("error: ")).unwrap_or(error);
    let (line, column) = place.unwrap_or_default();
    let rule = Rule::Syntax;
    Diagnostic {
        file: file.to_owned(),
        line,
        column,
        rule: rule.name(),
        message: one_line(message),
        rewrite: rule.rewrite(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks a policy as it was parsed.
pub(super) fn check(modules: &[Ref<Module>]) -> Checked {
    let mut findings = Vec::new();
    let mut program = Program::new(modules, &mut findings);
    // Kinds begin as anything and become less with each round, so that each round holds.
    const ROUNDS_MAX: usize = RULE_DEPTH_MAX + 2;
    let mut round = analyse(&program);
    let is_bounded = check_graph(&program, &round.dependencies, &mut findings);
    for _ in 1..ROUNDS_MAX {
        if !is_bounded || !learn(&mut program, &round) {
            break;
        }
        round = analyse(&program);
    }
    findings.extend(round.findings);
    findings.sort();
    findings.dedup();
    round.wraps.sort();
    round.wraps.dedup();
    let packages = program.files.iter().map(|file| file.package.clone()).collect();
    let is_value = |symbol: &Symbol| !matches!(symbol.form, Form::Function { .. });
    let rules = program.symbols.iter().filter(|(_, symbol)| is_value(symbol)).map(|(path, _)| path.clone()).collect();
    Checked { findings, wraps: round.wraps, packages, rules }
}

/// What one look at all rules brings.
#[derive(Default)]
struct Round {
    findings: Vec<Diagnostic>,
    wraps: Vec<Wrap>,
    kinds: BTreeMap<RulePath, kind::Kind>,
    failing: BTreeSet<RulePath>,
    values: BTreeMap<RulePath, Option<String>>,
    calls: BTreeMap<RulePath, Vec<kind::Kind>>,
    dependencies: BTreeMap<RulePath, BTreeSet<RulePath>>,
}

fn analyse(program: &Program<'_>) -> Round {
    let mut round = Round::default();
    for file in &program.files {
        for definition in &file.module.policy {
            let outcome = terms::check(program, file, definition);
            let path = file.path(program::head(definition).span().text());
            let kind = round.kinds.entry(path.clone()).or_default();
            *kind = kind.or(outcome.kind);
            // Definitions that give different values can contradict each other.
            let differs = round.values.get(&path).is_some_and(|value| value.is_none() || *value != outcome.value);
            if outcome.may_fail || differs {
                round.failing.insert(path.clone());
            }
            round.values.insert(path.clone(), outcome.value);
            for (function, arguments) in outcome.calls {
                let known = round.calls.entry(function).or_insert_with(|| vec![kind::Kind::NOTHING; arguments.len()]);
                known.iter_mut().zip(arguments).for_each(|(known, argument)| *known = known.or(argument));
            }
            round.findings.extend(outcome.findings);
            round.wraps.extend(outcome.wraps);
            round.dependencies.entry(path).or_default().extend(outcome.dependencies);
        }
    }
    round
}

/// Takes over what the round found out; whether that was anything new.
fn learn(program: &mut Program<'_>, round: &Round) -> bool {
    let mut is_new = false;
    for (path, symbol) in &mut program.symbols {
        if let Some(kind) = round.kinds.get(path) {
            is_new |= symbol.kind != *kind;
            symbol.kind = *kind;
        }
        let may_fail = round.failing.contains(path);
        is_new |= symbol.may_fail != may_fail;
        symbol.may_fail = may_fail;
        if let Some(arguments) = round.calls.get(path) {
            is_new |= symbol.arguments != *arguments;
            symbol.arguments.clone_from(arguments);
        }
    }
    is_new
}

/// No rule may stand on itself, nor on too many others; whether none does.
fn check_graph(
    program: &Program<'_>,
    rules: &BTreeMap<RulePath, BTreeSet<RulePath>>,
    findings: &mut Vec<Diagnostic>,
) -> bool {
    let before = findings.len();
    let mut dependants: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for (rule, dependencies) in rules {
        waiting.insert(rule, dependencies.iter().filter(|dependency| rules.contains_key(*dependency)).count());
        for dependency in dependencies {
            dependants.entry(dependency).or_default().push(rule);
        }
    }
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ready: VecDeque<&str> = waiting.iter().filter(|(_, count)| **count == 0).map(|(rule, _)| *rule).collect();
    while let Some(rule) = ready.pop_front() {
        let depth = *depths.entry(rule).or_insert(1);
        for dependant in dependants.get(rule).into_iter().flatten().copied() {
            let known = depths.entry(dependant).or_insert(1);
            *known = (*known).max(depth + 1);
            if let Some(count) = waiting.get_mut(dependant) {
                *count -= 1;
                if *count == 0 {
                    ready.push_back(dependant);
                }
            }
        }
    }
    const SHOWN_MAX: usize = 20;
    for (rule, count) in &waiting {
        if findings.len() == before + SHOWN_MAX {
            break;
        } else if *count > 0 {
            findings.push(about_rule(
                program,
                rule,
                Rule::Recursion,
                format!("`{rule}` stands on itself, or on rules that do"),
            ));
        } else if depths.get(rule).is_some_and(|depth| *depth == RULE_DEPTH_MAX + 1) {
            let message = format!("`{rule}` stands on a chain of more than {RULE_DEPTH_MAX} rules");
            findings.push(about_rule(program, rule, Rule::Depth, message));
        }
    }
    findings.len() == before
}

fn about_rule(program: &Program<'_>, rule: &str, kind: Rule, message: String) -> Diagnostic {
    let found = program.files.iter().find_map(|file| {
        let mut heads = file.module.policy.iter().map(|definition| program::head(definition).span());
        heads.find(|span| file.path(span.text()) == rule).map(|span| file.finding(span, kind, message.clone()))
    });
    found.unwrap_or_else(|| Diagnostic {
        file: String::new(),
        line: 0,
        column: 0,
        rule: kind.name(),
        message,
        rewrite: kind.rewrite(),
    })
}

/// The function that stands around what is iterated over: what is no collection has no elements.
pub(super) const ELEMENTS: &str = "veribus_elements";

/// Puts [`ELEMENTS`] around what may be no collection: `regorus` fails on it, OPA goes on to the next rule.
pub(super) fn wrap(file: &str, text: &str, wraps: &[Wrap]) -> String {
    let mut text = text.to_owned();
    let mut edits: Vec<_> = wraps
        .iter()
        .filter(|wrap| wrap.file == file)
        .flat_map(|wrap| [(wrap.end, ")".to_owned()), (wrap.start, format!("{ELEMENTS}("))])
        .collect();
    edits.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    for (at, insert) in edits {
        text.insert_str(at, &insert);
    }
    text
}

#[cfg(test)]
mod tests;
