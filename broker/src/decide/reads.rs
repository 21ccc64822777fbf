//! Which parts of `input` a policy can read, from its syntax tree.
//!
//! The answer errs on one side only: a part may be listed that is never read; none is left out. Every way to the input
//! begins with the variable `input`, so each place where it stands is followed outwards as long as the next step is a
//! literal name; from there on, everything below counts as read.

use std::collections::BTreeMap;

use serde_json::Value;

/// Parts of the input, as a tree of member names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reads {
    /// Everything below.
    All,
    /// Only these members; none if empty.
    Members(BTreeMap<String, Reads>),
}

impl Reads {
    /// Nothing at all.
    pub(super) const fn nothing() -> Self {
        Self::Members(BTreeMap::new())
    }

    /// What is read of the member `name`; `None` if it is not read.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        match self {
            Self::All => Some(&Self::All),
            Self::Members(members) => members.get(name),
        }
    }

    /// Whether anything at this path, or below it, is read.
    pub(super) fn includes(&self, path: &[&str]) -> bool {
        path.iter().try_fold(self, |reads, name| reads.member(name)).is_some()
    }

    fn add(&mut self, path: &[String]) {
        match (&mut *self, path.split_first()) {
            (Self::All, _) => {}
            (Self::Members(_), None) => *self = Self::All,
            (Self::Members(members), Some((name, rest))) => {
                members.entry(name.clone()).or_insert_with(Self::nothing).add(rest);
            }
        }
    }
}

/// Walks the syntax tree that `regorus` gives as JSON.
pub(super) fn analyse(syntax_tree: &Value) -> Reads {
    let mut reads = Reads::nothing();
    walk(syntax_tree, &mut reads);
    reads
}

fn walk(node: &Value, reads: &mut Reads) {
    if let Some(path) = input_path(node) {
        reads.add(&path.names);
        return walk_indexes(node, reads);
    }
    match node {
        Value::Array(items) => items.iter().for_each(|item| walk(item, reads)),
        Value::Object(members) => members.values().for_each(|member| walk(member, reads)),
        _ => {}
    }
}

/// Below a reference that was noted as a whole, only what stands in brackets is still to be looked at.
fn walk_indexes(node: &Value, reads: &mut Reads) {
    if let Some(index) = node.get("RefBrack").and_then(|bracket| bracket.get("index")) {
        walk(index, reads);
    }
    if let Some((inner, _)) = reference(node) {
        walk_indexes(inner, reads);
    }
}

struct InputPath {
    names: Vec<String>,
    /// A step could not be read from the text, so all below belongs to the path and no later step narrows it.
    open: bool,
}

/// The path that a reference takes from `input`, as far as it is literal; `None` if it does not begin there.
///
/// Asked of the outermost reference of a chain only: the shorter ones inside it would widen the result.
fn input_path(node: &Value) -> Option<InputPath> {
    if let Some(name) = variable(node) {
        return (name == "input").then(|| InputPath { names: Vec::new(), open: false });
    }
    let (inner, step) = reference(node)?;
    let mut path = input_path(inner)?;
    match step {
        Some(name) if !path.open => path.names.push(name.to_owned()),
        _ => path.open = true,
    }
    Some(path)
}

fn variable(node: &Value) -> Option<&str> {
    node.get("Var")?.get("value")?.as_str()
}

/// The reference inside, and the literal name that follows it, if it is one.
fn reference(node: &Value) -> Option<(&Value, Option<&str>)> {
    if let Some(dot) = node.get("RefDot") {
        return Some((dot.get("refr")?, dot.get("field").and_then(|field| field.get(1)).and_then(Value::as_str)));
    }
    let bracket = node.get("RefBrack")?;
    let index = bracket.get("index").and_then(|index| index.get("String").or_else(|| index.get("RawString")));
    Some((bracket.get("refr")?, index.and_then(|string| string.get("value")).and_then(Value::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads_of(rules: &str) -> Reads {
        let mut engine = regorus::Engine::new();
        let source = format!("package veribus\nimport rego.v1\n{rules}");
        engine.add_policy("test.rego".to_owned(), source).expect("a policy");
        let tree = engine.get_ast_as_json().expect("a syntax tree");
        analyse(&serde_json::from_str(&tree).expect("JSON"))
    }

    fn paths(reads: &Reads, prefix: &str) -> Vec<String> {
        match reads {
            Reads::All => vec![format!("{prefix}*")],
            Reads::Members(members) => {
                members.iter().flat_map(|(name, below)| paths(below, &format!("{prefix}{name}."))).collect()
            }
        }
    }

    #[test]
    fn literal_paths_are_followed_to_their_end() {
        let rules = r#"
            allow if { input.message.type == "a"; input["agent"].id == `b` }
            deny contains {"rule": "x"} if { some role in input.agent.roles; role == "r" }
        "#;
        assert_eq!(paths(&reads_of(rules), ""), ["agent.id.*", "agent.roles.*", "message.type.*"]);
    }

    #[test]
    fn a_computed_step_opens_all_below_and_its_index_is_read_too() {
        let rules = r#"allow if { input.message[input.topic].x == 1; input.findings[_].kind == "k" }"#;
        assert_eq!(paths(&reads_of(rules), ""), ["findings.*", "message.*", "topic.*"]);
    }

    #[test]
    fn the_bare_input_reads_everything_however_it_is_reached() {
        for rules in [
            "allow if count(input) > 0",
            "allow if { x := input; x.topic == 1 }",
            "allow if { some name; input[name] == 1 }",
            "f(x) := x.topic\nallow if f(input) == 1",
            "allow if { walk(input, [path, value]); value == 1 }",
            "allow if { {\"a\": input}.a.topic == 1 }",
            "allow if { [x | x := input[_]][0] == 1 }",
        ] {
            assert_eq!(reads_of(rules), Reads::All, "{rules}");
        }
    }

    #[test]
    fn imports_and_aliases_are_reads() {
        let rules = "import input.message as m\nallow if m.type == 1";
        assert_eq!(paths(&reads_of(rules), ""), ["message.*"]);
        let rules = "allow if { m := input.message; m.type == 1 }";
        assert_eq!(paths(&reads_of(rules), ""), ["message.*"]);
    }
}
