//! The builtins that a policy may call: those that `regorus` and OPA were seen to answer alike, for all arguments or for
//! the arguments that the check lets pass.

use super::kind::Kind;

/// A builtin that is taken.
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) arguments: usize,
    /// What it does not fail on: its first argument, and if that is a text, the others too.
    pub(super) takes: Kind,
    pub(super) result: Kind,
    /// What must be known of the arguments.
    pub(super) terms: Terms,
}

/// What must be known of a call's arguments before it is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Terms {
    Free,
    /// The first argument, if it is a local variable, is of this kind from here on.
    Guard(Kind),
    /// `object.get` with a text as its key: with an array it is a path, which differs.
    TextKey,
    /// `split` with a text of its own to split at.
    TextDelimiter,
    /// A pattern of `regex.match`.
    Pattern,
    /// A pattern and delimiters of `glob.match`.
    Glob,
    /// A network, and the peer's address.
    Cidr,
}

impl Builtin {
    /// What it takes as its argument number `at`, from 0, without failing.
    pub(super) fn takes(&self, at: usize) -> Kind {
        if at == 0 || self.takes == Kind::TEXT { self.takes } else { Kind::ANYTHING }
    }
}

const fn builtin(name: &'static str, arguments: usize, takes: Kind, result: Kind, terms: Terms) -> Builtin {
    Builtin { name, arguments, takes, result, terms }
}

const fn guard(name: &'static str, kind: Kind) -> Builtin {
    builtin(name, 1, Kind::ANYTHING, Kind::BOOLEAN, Terms::Guard(kind))
}

const TEXT: Kind = Kind::TEXT;
const ARRAY: Kind = Kind::ARRAY;

pub(super) const BUILTINS: [Builtin; 19] = [
    builtin("contains", 2, TEXT, Kind::BOOLEAN, Terms::Free),
    builtin("count", 1, Kind::COUNTABLE, Kind::NUMBER, Terms::Free),
    builtin("endswith", 2, TEXT, Kind::BOOLEAN, Terms::Free),
    builtin("glob.match", 3, Kind::NOTHING, Kind::BOOLEAN, Terms::Glob),
    guard("is_array", ARRAY),
    guard("is_boolean", Kind::BOOLEAN),
    guard("is_null", Kind::NULL),
    guard("is_number", Kind::NUMBER),
    guard("is_object", Kind::OBJECT),
    guard("is_set", Kind::SET),
    guard("is_string", Kind::TEXT),
    builtin("net.cidr_contains", 2, TEXT, Kind::BOOLEAN, Terms::Cidr),
    builtin("object.get", 3, Kind::OBJECT, Kind::ANYTHING, Terms::TextKey),
    builtin("object.keys", 1, Kind::OBJECT, Kind::SET, Terms::Free),
    builtin("regex.match", 2, TEXT, Kind::BOOLEAN, Terms::Pattern),
    builtin("split", 2, TEXT, ARRAY, Terms::TextDelimiter),
    builtin("startswith", 2, TEXT, Kind::BOOLEAN, Terms::Free),
    builtin("trim_prefix", 2, TEXT, Kind::TEXT, Terms::Free),
    builtin("trim_suffix", 2, TEXT, Kind::TEXT, Terms::Free),
];

pub(super) fn find(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|builtin| builtin.name == name)
}

/// Whether a name of the policy's own would hide a builtin, or the first word of one.
pub(super) fn is_taken(name: &str) -> bool {
    BUILTINS.iter().any(|builtin| builtin.name == name || builtin.name.split('.').next() == Some(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What `opa check --capabilities` is given says what the check says; operators are builtins to OPA.
    #[test]
    fn the_capabilities_are_those_that_are_taken() {
        const OPERATORS: [&str; 14] = [
            "and",
            "assign",
            "eq",
            "equal",
            "gt",
            "gte",
            "internal.member_2",
            "lt",
            "lte",
            "minus",
            "mul",
            "neq",
            "or",
            "plus",
        ];
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../../../docs/capabilities.json")).expect("JSON");
        let listed: BTreeSet<_> =
            file["builtins"].as_array().expect("a list").iter().map(|one| one["name"].as_str()).collect();
        let taken = BUILTINS.iter().map(|builtin| builtin.name).chain(OPERATORS).map(Some).collect();
        assert_eq!(listed, taken);
    }

    #[test]
    fn the_documentation_names_every_builtin() {
        let page = include_str!("../../../../docs/policy-language.md");
        for builtin in &BUILTINS {
            assert!(page.contains(&format!("`{}`", builtin.name)), "{}", builtin.name);
        }
    }
}
