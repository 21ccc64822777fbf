//! Which rule stands on which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    RULE_DEPTH_MAX,
    diagnostic::{Diagnostic, Rule},
    program::{Program, RulePath, head},
};

/// The rules in an order in which each comes behind those that it stands on; `None`, with findings, if a rule stands on itself
/// or on too many others.
pub(super) fn order(
    program: &Program<'_>,
    rules: &BTreeMap<&str, BTreeSet<RulePath>>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Vec<RulePath>> {
    const SHOWN_MAX: usize = 20;
    let before = findings.len();
    let mut order = Vec::new();
    let mut dependants: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
    for (rule, dependencies) in rules {
        waiting.insert(rule, dependencies.iter().filter(|dependency| rules.contains_key(dependency.as_str())).count());
        for dependency in dependencies {
            dependants.entry(dependency).or_default().push(rule);
        }
    }
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ready: VecDeque<&str> = waiting.iter().filter(|(_, count)| **count == 0).map(|(rule, _)| *rule).collect();
    while let Some(rule) = ready.pop_front() {
        order.push(rule.to_owned());
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
    for (rule, count) in &waiting {
        if findings.len() == before + SHOWN_MAX {
            break;
        } else if *count > 0 {
            let message = format!("`{rule}` stands on itself, or on rules that do");
            findings.push(about_rule(program, rule, Rule::Recursion, message));
        } else if depths.get(rule).is_some_and(|depth| *depth == RULE_DEPTH_MAX + 1) {
            let message = format!("`{rule}` stands on a chain of more than {RULE_DEPTH_MAX} rules");
            findings.push(about_rule(program, rule, Rule::Depth, message));
        }
    }
    (findings.len() == before).then_some(order)
}

fn about_rule(program: &Program<'_>, rule: &str, kind: Rule, message: String) -> Diagnostic {
    let found = program.files.iter().find_map(|file| {
        let mut heads = file.module.policy.iter().map(|definition| head(definition).span());
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
