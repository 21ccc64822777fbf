//! What the check says of a policy: one finding at one place.

use std::fmt;

use serde::Serialize;

/// Why a policy does not load, at one place of one of its files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Relative to the policy's directory.
    pub file: String,
    /// From 1; 0 where it is about the whole file.
    pub line: u32,
    /// From 1; 0 where it is about the whole line.
    pub column: u32,
    /// Which rule of the check, as `docs/policy-language.md` lists them.
    pub rule: &'static str,
    /// What is there, and why it is not taken.
    pub message: String,
    /// How to write it instead.
    pub rewrite: &'static str,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:", self.file)?;
        if self.line > 0 {
            write!(formatter, "{}:{}:", self.line, self.column)?;
        }
        write!(formatter, " [{}] {}; {}", self.rule, self.message, self.rewrite)
    }
}

/// The rules of the check: a name, and how to write it instead.
///
/// Each stands for a way in which `regorus` 0.14.1 and OPA 1.22.3 were seen to differ, or for a construct that nobody has
/// compared yet.
macro_rules! rules {
    ($($rule:ident $name:literal $rewrite:literal)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::decide) enum Rule { $($rule),* }

        impl Rule {
            #[cfg(test)]
            pub(in crate::decide) const ALL: &[Self] = &[$(Self::$rule),*];

            pub(in crate::decide) const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name),* }
            }

            pub(in crate::decide) const fn rewrite(self) -> &'static str {
                match self { $(Self::$rule => $rewrite),* }
            }
        }
    };
}

rules! {
    Syntax "syntax" "write it as `opa fmt` and `opa check` take it"
    Size "size" "split the file, or move tables to data.yaml"
    Blank "blank" "write a blank between keyword and bracket, and none between a name and its arguments"
    Line "line" "a line is a condition: write each of them in a line of its own"
    DataIndex "data-index" "say `is_string(name)` first; refer to data as `data.…`, to rules by their name or an import of the rule"
    Package "package" "name the package with plain words, as in `package veribus.lib`"
    Import "import" "import `rego.v1`, `data.…` or `input.…`, each with a name of its own"
    Name "name" "choose a name that nothing else has"
    Head "rule-head" "write `name if …`, `name := value if …`, `name contains value if …` or `name(arguments) if …`; \
        a table is an object comprehension"
    Form "rule-form" "give each form a name of its own"
    Default "default" "give one plain value, once, to a rule that is no function"
    HeadValue "head-value" "bind it in the body, as in `kind := finding.kind`, and put `kind` into the head"
    Else "else" "write one rule a case, with conditions that exclude each other"
    With "with" "pass the value as an argument of a function; `with` is for tests"
    Recursion "recursion" "break the circle"
    Depth "depth" "let fewer rules stand on each other"
    Variable "variable" "bind it first: `x := …`, `some x in …`, `every x in …` or an argument"
    Assignment "assignment" "compare with `==`, bind one variable with `:=`"
    Some "some" "write `some x in collection` or `some key, value in object` with new variables, and compare in the next line"
    KeyedSet "keyed-set" "write `some x in set`; for `key, value` say first that it is none: `is_object(x)` or `is_array(x)`"
    Not "not" "say it positively in a rule, as in `known if is_array(input.findings)`, then `not known`"
    NotOperand "not-operand" "bind the operand first (`name := input.agent.name`), or say it positively in a rule \
        (`known if is_array(input.findings)`) and write `not known`"
    Membership "membership" "let `in` stand alone in its line, or in a rule of its own"
    Infix "infix" "bind the inner one to a variable first"
    Arithmetic "arithmetic" "only `count(…)` and whole numbers can be added, subtracted or multiplied; compare instead, or \
        put the result into data.yaml"
    Ordering "ordering" "say first what it is (`is_number(x)`), or compare elements"
    SetMember "set-member" "put texts, numbers, arrays or objects without sets into a set, literals or one variable: \
        `{x | some x in [a, b]}` for the rest"
    SetOperator "set-operator" "use `&`, `|` and `-` on set comprehensions, set literals and `contains` rules"
    ObjectKey "object-key" "give each member a text as its key, once"
    Number "number" "write a whole number of at most 64 bits, or a decimal of at most 15 digits, without exponent or useless zeros"
    Text "text" "write the character itself, or `\\n`, `\\t`, `\\\"`, `\\\\`"
    Reference "reference" "bind it to a variable first, then step into that"
    EveryIndex "every-index" "pass it to a function, or bind it once more: `key := name`, then `table[key]`"
    Order "order" "bind each of them in a line of its own: `n := count(input.items)`"
    SetReference "set-reference" "write `x in set`"
    WholePackage "whole-package" "name the rule, as in `data.veribus.lib.rule`"
    Builtin "builtin" "use one of those in docs/policy-language.md, or let data.yaml say it"
    Arguments "arguments" "call it with the arguments that it has"
    Pattern "pattern" "write the pattern as a literal, of ASCII letters, digits, `.`, `[a-z]`, `( | )`, `? * +`, `{2}`, `^`, `$` \
        and escaped punctuation"
    Glob "glob" "write pattern and delimiters as literals: ASCII letters, digits, `_ - : / @ .` and whole levels `*` or `**`, with the delimiter `.`"
    Cidr "cidr" "write `net.cidr_contains(\"192.0.2.0/24\", input.peer.address)`, with the network as a literal"
    DataFile "data-file" "name it data.yaml or data.json, in a folder that is its path; keep hidden and other files elsewhere"
    DataShape "data-shape" "one document, a mapping at its top, no anchors, tags or block texts"
    DataScalar "data-scalar" "put texts into double quotes; write `true`, `false`, `null` and plain numbers"
    DataKey "data-key" "put the key into double quotes, and name it once"
    DataConflict "data-conflict" "say each value in one file, outside the packages of the policy"
    Contract "contract" "`allow` is a boolean; `deny`, `quarantine` and `invalid` are sets: `deny contains {\"rule\": \"name\"} if …`"
    Settings "settings" "mend the data"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_is_listed_in_the_documentation() {
        let page = include_str!("../../../../docs/policy-language.md");
        let listed: BTreeSet<_> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|(name, _)| name).collect();
        for rule in Rule::ALL {
            assert!(listed.contains(rule.name()), "`{}` is not in docs/policy-language.md", rule.name());
        }
    }
}
