//! Which Rego this broker takes: the part that `regorus` and OPA are known to evaluate alike.
//!
//! An allow-list of constructs and builtins, each compared with OPA, held to it by a test; what is not on it does not load,
//! with a [`Diagnostic`] that names file, line, reason and rewrite. A false alarm is accepted where the rewrite is easy, a
//! miss is not. Out of scope: what a policy decides (see [`policy`](super::policy)), data files (see
//! [`data`](super::data)).

mod body;
mod builtins;
mod checker;
mod diagnostic;
mod expression;
mod graph;
mod kind;
pub(super) mod number;
mod pattern;
mod program;
mod reference;

use std::collections::{BTreeMap, BTreeSet};

use regorus::{
    Source, Value,
    unstable::{Lexer, Module, Ref, Rule as Definition, Span, TokenKind},
};

pub use self::diagnostic::Diagnostic;
pub(super) use self::diagnostic::Rule;
use self::{
    checker::Outcome,
    kind::Kind,
    program::{Form, Program, RulePath, Symbol},
};

/// How many rules may stand on each other: with all that one may hold, each takes some 30 KiB of stack.
pub(super) const RULE_DEPTH_MAX: usize = 100;
/// How deep brackets may stand in each other.
const BRACKETS_MAX: u32 = 12;
/// How much a file may cost to parse: each bracket is tried in two ways, so what stands in `n` of them is read 2^n times.
const READS_MAX: u64 = 250_000;
/// How many operators one file may have: a chain of them is a tree of that depth.
const OPERATORS_MAX: usize = 4_000;

const KEYWORDS: [&str; 10] = ["as", "default", "else", "every", "if", "import", "in", "not", "package", "some"];

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
    let (mut depth, mut operators, mut reads) = (0_u32, 0_usize, 0_u64);
    let mut last: Option<(String, u32)> = None;
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
        reads = reads.saturating_add(1 << depth.min(BRACKETS_MAX));
        // OPA takes a keyword before a bracket or dot for a name, or not at all.
        let (text, start) = (token.1.text(), token.1.start);
        if let Some((word, end)) = last.replace((text.to_owned(), token.1.end))
            && end == start
            && matches!(text, "(" | "[" | "{" | ".")
            && (KEYWORDS.contains(&word.as_str()) || word == "contains" && text != "(")
        {
            let message = format!("`{word}{text}`, without a blank between");
            return Err(finding(token.1.line, token.1.col, Rule::Blank, &message));
        }
        if reads > READS_MAX {
            return Err(finding(
                token.1.line,
                token.1.col,
                Rule::Size,
                "too much in brackets that stand in each other",
            ));
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

/// Checks a policy as it was parsed, with its data.
pub(super) fn check(modules: &[Ref<Module>], data: Value) -> Checked {
    let mut findings = Vec::new();
    let mut program = Program::new(modules, data, &mut findings);
    let is_bounded = !findings.iter().any(|finding| finding.rule == Rule::Size.name());
    let rules = if is_bounded { program.definitions() } else { BTreeMap::new() };
    let dependencies = rules.iter().map(|(path, rule)| (path.as_str(), look(&program, rule).dependencies)).collect();
    if let Some(order) = graph::order(&program, &dependencies, &mut findings) {
        narrow(&mut program, &rules, &order);
    }
    let mut wraps = Vec::new();
    for rule in rules.values() {
        let outcome = look(&program, rule);
        findings.extend(outcome.findings);
        wraps.extend(outcome.wraps);
    }
    findings.sort();
    findings.dedup();
    wraps.sort();
    wraps.dedup();
    let packages = program.files.iter().map(|file| file.package.clone()).collect();
    let is_value = |symbol: &Symbol| !matches!(symbol.form, Form::Function { .. });
    let rules = program.symbols.iter().filter(|(_, symbol)| is_value(symbol)).map(|(path, _)| path.clone()).collect();
    Checked { findings, wraps, packages, rules }
}

/// All definitions of one rule, each with the number of its file.
type Definitions<'a> = Vec<(usize, &'a Definition)>;

/// What the definitions of one rule bring together.
fn look(program: &Program<'_>, definitions: &Definitions<'_>) -> Outcome {
    let mut whole = Outcome::default();
    let mut values: Vec<Option<String>> = Vec::new();
    for (file, definition) in definitions {
        let Some(file) = program.files.get(*file) else { continue };
        let outcome = checker::check(program, file, definition);
        whole.kind = whole.kind.or(outcome.kind);
        whole.size = whole.size.saturating_add(outcome.size);
        whole.may_fail |= outcome.may_fail;
        whole.findings.extend(outcome.findings);
        whole.dependencies.extend(outcome.dependencies);
        whole.calls.extend(outcome.calls);
        whole.wraps.extend(outcome.wraps);
        if !matches!(definition, Definition::Default { .. }) {
            values.push(outcome.value);
        }
    }
    // Definitions that give different values can contradict each other.
    whole.may_fail |= values.len() > 1 && values.iter().any(|value| value.is_none() || Some(value) != values.first());
    whole
}

/// Finds out what rules and arguments can be. They begin as anything and only become less, so each step holds by itself.
fn narrow(program: &mut Program<'_>, rules: &BTreeMap<RulePath, Definitions<'_>>, order: &[RulePath]) {
    const ROUNDS_MAX: usize = 4;
    for _ in 0..ROUNDS_MAX {
        let mut is_new = false;
        for path in order {
            let Some(outcome) = rules.get(path).map(|rule| look(program, rule)) else { continue };
            let Some(symbol) = program.symbols.get_mut(path) else { continue };
            is_new |= symbol.kind != outcome.kind || symbol.may_fail != outcome.may_fail;
            (symbol.kind, symbol.may_fail, symbol.size) = (outcome.kind, outcome.may_fail, outcome.size);
        }
        // A function behind all that call it.
        let mut calls: BTreeMap<RulePath, Vec<Kind>> = BTreeMap::new();
        for path in order.iter().rev() {
            if let (Some(arguments), Some(symbol)) = (calls.remove(path), program.symbols.get_mut(path)) {
                is_new |= symbol.arguments != arguments;
                symbol.arguments = arguments;
            }
            for (function, arguments) in rules.get(path).map(|rule| look(program, rule).calls).unwrap_or_default() {
                let known = calls.entry(function).or_insert_with(|| vec![Kind::NOTHING; arguments.len()]);
                known.iter_mut().zip(arguments).for_each(|(known, argument)| *known = known.or(argument));
            }
        }
        if !is_new {
            return;
        }
    }
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
