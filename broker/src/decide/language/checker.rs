//! The check of one definition of a rule: every construct in it must be one that `regorus` and OPA evaluate alike.
//!
//! What differs most is what happens to a value that is not there. OPA moves references out of the operands of a negated
//! expression, so that a missing one makes the whole body undefined; `regorus` negates the undefined result. Hence a
//! [`Term`] says whether it always has a value, and a negation takes only operands that do.
use std::collections::BTreeSet;

use regorus::unstable::{AssignOp, Expr, Ref, Rule as Definition, RuleAssign, RuleBody, RuleHead, Span};

use super::{
    Wrap,
    diagnostic::{Diagnostic, Rule},
    kind::Kind,
    program::{File, Form, Program, RulePath},
};

/// What is known of an expression.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) kind: Kind,
    /// It has a value, or fails, whenever its statement is reached.
    pub(super) is_defined: bool,
    /// Its evaluation can fail, which denies.
    pub(super) may_fail: bool,
    /// How many parts it can have beyond those of a document.
    pub(super) size: u64,
    /// A variable, a literal, or a path from one along literals and variables: nothing that OPA would move out of it.
    pub(super) is_flat: bool,
}

impl Term {
    /// Of what was refused: nothing that would be refused for it too.
    pub(super) const UNKNOWN: Self = Self::literal(Kind::JSON);

    pub(super) const fn literal(kind: Kind) -> Self {
        Self { kind, is_defined: true, may_fail: false, size: 1, is_flat: true }
    }

    /// A path into the input or a data file.
    pub(super) const DOCUMENT: Self =
        Self { kind: Kind::JSON, is_defined: false, may_fail: false, size: 1, is_flat: true };

    pub(super) fn computed(kind: Kind, operands: &[Self]) -> Self {
        let may_fail = operands.iter().any(|operand| operand.may_fail);
        let is_defined = operands.iter().all(|operand| operand.is_defined);
        Self { kind, is_defined, may_fail, size: 1, is_flat: false }
    }
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A line of a body, negated or not.
    Line,
    /// Part of another expression.
    Operand,
}

/// What the check of one definition brings.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) findings: Vec<Diagnostic>,
    /// Which rules it stands on.
    pub(super) dependencies: BTreeSet<RulePath>,
    /// What it can be.
    pub(super) kind: Kind,
    /// Its evaluation can fail, other than by giving a second value.
    pub(super) may_fail: bool,
    /// The value that it always gives; `None` if it depends. Of a set, which has no second value, a mark.
    pub(super) value: Option<String>,
    /// How many parts its value can have beyond those of a document.
    pub(super) size: u64,
    /// What it calls functions with.
    pub(super) calls: Vec<(RulePath, Vec<Kind>)>,
    /// What may be no collection and is iterated over.
    pub(super) wraps: Vec<Wrap>,
}

impl Default for Kind {
    fn default() -> Self {
        Self::NOTHING
    }
}

/// Checks one definition of a rule.
pub(super) fn check(program: &Program<'_>, file: &File<'_>, definition: &Definition) -> Outcome {
    let mut checker =
        Checker { program, file, scope: Vec::new(), iterations: 0, iterates: false, outcome: Outcome::default() };
    checker.definition(definition);
    checker.outcome
}

#[derive(Clone)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) is_used: bool,
    /// Bound by `every`: as an index, the engine takes it for unbound.
    pub(super) is_of_every: bool,
}

pub(super) struct Checker<'a> {
    pub(super) program: &'a Program<'a>,
    pub(super) file: &'a File<'a>,
    /// Local variables, innermost last.
    pub(super) scope: Vec<Local>,
    /// How often `some … in` was seen.
    pub(super) iterations: usize,
    /// It was seen in the body that is looked at.
    pub(super) iterates: bool,
    pub(super) outcome: Outcome,
}

impl Checker<'_> {
    /// OPA takes a name with a blank behind it for a variable, not for a function.
    pub(super) fn no_blank_behind(&mut self, name: &Span) {
        let behind = usize::try_from(name.end).ok().and_then(|end| name.source.contents().get(end..));
        if !behind.is_some_and(|behind| behind.starts_with('(')) {
            self.refuse(name, Rule::Blank, format!("a blank between `{}` and its arguments", name.text()));
        }
    }

    /// Of what is built from other values, the size.
    pub(super) fn grown(&mut self, span: &Span, parts: u64) -> u64 {
        if parts > PARTS_MAX {
            self.refuse(span, Rule::Size, format!("a value that can have more than {PARTS_MAX} parts"));
            return 1;
        }
        parts
    }

    pub(super) fn refuse(&mut self, span: &Span, rule: Rule, message: impl Into<String>) {
        self.outcome.findings.push(self.file.finding(span, rule, message.into()));
    }

    fn definition(&mut self, definition: &Definition) {
        match definition {
            Definition::Default { value, op, span, .. } => {
                if *op != AssignOp::ColEq {
                    self.refuse(span, Rule::Default, "a default that is given by `=`");
                }
                self.constant(value);
                self.outcome.kind = self.expression(value, Place::Operand).kind;
            }
            Definition::Spec { head, bodies, .. } => self.spec(head, bodies),
        }
    }

    fn spec(&mut self, head: &RuleHead, bodies: &[RuleBody]) {
        if let RuleHead::Func { args, span, .. } = head {
            self.arguments(head, args, span);
        }
        if let [_, second, ..] = bodies {
            self.refuse(&second.span, Rule::Else, "a rule with several bodies");
        }
        for body in bodies {
            if let Some(assign) = &body.assign {
                self.refuse(&assign.span, Rule::Else, "a body with a value of its own");
            }
            self.body(&body.query);
        }
        let has_body = !bodies.is_empty();
        self.outcome.kind = self.head(head, has_body);
    }

    fn head(&mut self, head: &RuleHead, has_body: bool) -> Kind {
        match head {
            RuleHead::Compr { assign, refr, .. } | RuleHead::Func { assign, refr, .. } => {
                let kind = match assign {
                    None => Kind::BOOLEAN,
                    Some(RuleAssign { op, value, span }) => {
                        if *op != AssignOp::ColEq {
                            self.refuse(span, Rule::Head, "a value that is given by `=`");
                        }
                        self.head_value(value, has_body)
                    }
                };
                self.contract(refr, Form::Complete, kind, None);
                self.outcome.value = match assign.as_ref().map(|assign| assign.value.as_ref()) {
                    None => Some("true".to_owned()),
                    Some(literal) if is_literal(literal) => Some(literal.span().text().to_owned()),
                    Some(_) => None,
                };
                // Each round of an iteration can give another value.
                self.outcome.may_fail |= self.outcome.value.is_none() && self.iterates;
                kind
            }
            RuleHead::Set { key: None, span, .. } => {
                self.refuse(span, Rule::Head, "a set without `contains`");
                Kind::SET
            }
            RuleHead::Set { key: Some(key), refr, .. } => {
                let member = self.head_value(key, has_body);
                self.set_member(key, member);
                self.contract(refr, Form::Set, member, Some(key));
                self.outcome.value = Some("a member".to_owned());
                Kind::SET
            }
        }
    }

    /// What the broker asks for must be of the shape that it understands. A set's kind is that of its members.
    fn contract(&mut self, head: &Expr, form: Form, kind: Kind, member: Option<&Expr>) {
        if self.file.package != ["veribus"] {
            return;
        }
        let names_rule = |member: &Expr| match member {
            Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| {
                let is_text = matches!(value.as_ref(), Expr::String { .. } | Expr::RawString { .. } | Expr::Var { .. });
                is_text && matches!(key.as_ref(), Expr::String { span, .. } if span.text().trim_matches('"') == "rule")
            }),
            _ => kind.is_within(Kind::TEXT),
        };
        let is_agreed = match head.span().text() {
            "allow" => form == Form::Complete && kind.is_within(Kind::BOOLEAN),
            "deny" | "quarantine" => form == Form::Set && member.is_some_and(names_rule),
            "invalid" => form == Form::Set,
            _ => true,
        };
        if !is_agreed {
            let name = head.span().text();
            self.refuse(head.span(), Rule::Contract, format!("`{name}` is not what the broker asks for"));
        }
    }

    /// In a head that has a body, `regorus` forgets what it gathered when a value is missing.
    fn head_value(&mut self, value: &Ref<Expr>, has_body: bool) -> Kind {
        let term = self.expression(value, Place::Operand);
        self.outcome.size = self.outcome.size.saturating_add(term.size);
        if has_body && !term.is_defined {
            let text = excerpt(beginning(value));
            self.refuse(beginning(value), Rule::HeadValue, format!("`{text}` in the head of a rule may have no value"));
        }
        term.kind
    }

    fn arguments(&mut self, head: &RuleHead, arguments: &[Ref<Expr>], span: &Span) {
        if arguments.is_empty() || arguments.len() > ARGUMENTS_MAX {
            self.refuse(span, Rule::Head, format!("a function of no, or more than {ARGUMENTS_MAX}, arguments"));
        }
        let RuleHead::Func { refr, .. } = head else { return };
        self.no_blank_behind(refr.span());
        let path = self.file.path(refr.span().text());
        let kinds = self.program.symbols.get(&path).map(|symbol| symbol.arguments.clone()).unwrap_or_default();
        for (at, argument) in arguments.iter().enumerate() {
            match argument.as_ref() {
                Expr::Var { span, .. } => self.declare(span, kinds.get(at).copied().unwrap_or(Kind::ANYTHING)),
                literal if is_literal(literal) => {
                    self.expression(argument, Place::Operand);
                }
                other => self.refuse(other.span(), Rule::Head, "an argument that is no variable and no plain value"),
            }
        }
    }

    fn constant(&mut self, value: &Expr) {
        match value {
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| self.constant(item)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| self.constant(value)),
            literal if is_literal(literal) => {}
            other => self.refuse(other.span(), Rule::Default, "a default that is no plain value"),
        }
    }
}

const fn is_literal(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. }
    )
}

/// Most that a function takes.
pub(super) const ARGUMENTS_MAX: usize = 32;
/// How large a value may become by being put into itself: comparing it is one step, however large it is.
pub(super) const PARTS_MAX: u64 = 1_000_000;

/// Where an expression begins; of an object the engine keeps its last member.
pub(super) fn beginning(expression: &Expr) -> &Span {
    match expression {
        Expr::Object { fields, span, .. } => fields.first().map_or(span, |(_, key, _)| key.span()),
        other => other.span(),
    }
}

/// The first line of an expression, so long as it fits into a message.
pub(super) fn excerpt(span: &Span) -> String {
    const CHARACTERS_MAX: usize = 60;
    let line = span.text().lines().next().unwrap_or_default();
    let short: String = line.chars().take(CHARACTERS_MAX).collect();
    if short.len() == span.text().len() { short } else { format!("{short}…") }
}
