//! The check of one rule: every construct in it must be one that `regorus` and OPA evaluate alike.
//!
//! What differs most is what happens to a value that is not there. OPA moves references out of the operands of a negated
//! expression, so that a missing one makes the whole body undefined; `regorus` negates the undefined result. Hence a
//! [`Term`] says whether it always has a value, and a negation takes only operands that do.

use std::collections::BTreeSet;

use regorus::unstable::{
    ArithOp, AssignOp, BinOp, BoolOp, Expr, Literal, LiteralStmt, Query, Ref, Rule as Definition, RuleAssign, RuleBody,
    RuleHead, Span,
};

use super::{
    Wrap,
    builtins::{self, Builtin, Terms},
    diagnostic::{Diagnostic, Rule},
    kind::Kind,
    number, pattern,
    program::{File, Form, Program, RulePath, Target, names, reserved},
};

/// What is known of an expression.
#[derive(Debug, Clone, Copy)]
struct Term {
    kind: Kind,
    /// It has a value, or fails, whenever its statement is reached.
    is_defined: bool,
    /// Its evaluation can fail, which denies.
    may_fail: bool,
    /// A variable, a literal, or a path from one along literals and variables: nothing that OPA would move out of it.
    is_flat: bool,
}

impl Term {
    /// Of what was refused: nothing that would be refused for it too.
    const UNKNOWN: Self = Self::literal(Kind::JSON);

    const fn literal(kind: Kind) -> Self {
        Self { kind, is_defined: true, may_fail: false, is_flat: true }
    }

    /// A path into the input or a data file.
    const DOCUMENT: Self = Self { kind: Kind::JSON, is_defined: false, may_fail: false, is_flat: true };

    fn computed(kind: Kind, operands: &[Self]) -> Self {
        let may_fail = operands.iter().any(|operand| operand.may_fail);
        Self { kind, is_defined: operands.iter().all(|operand| operand.is_defined), may_fail, is_flat: false }
    }
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
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
    let mut checker = Checker { program, file, scope: Vec::new(), iterates: false, outcome: Outcome::default() };
    checker.definition(definition);
    checker.outcome
}

#[derive(Clone)]
struct Local {
    name: String,
    kind: Kind,
    is_used: bool,
    /// Bound by `every`: as an index, the engine takes it for unbound.
    is_of_every: bool,
}

struct Checker<'a> {
    program: &'a Program<'a>,
    file: &'a File<'a>,
    /// Local variables, innermost last.
    scope: Vec<Local>,
    /// `some … in` was seen.
    iterates: bool,
    outcome: Outcome,
}

impl Checker<'_> {
    fn refuse(&mut self, span: &Span, rule: Rule, message: impl Into<String>) {
        self.outcome.findings.push(self.file.finding(span, rule, message.into()));
    }

    // ---- Rules

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
        if has_body && !term.is_defined {
            let text = excerpt(beginning(value));
            self.refuse(beginning(value), Rule::HeadValue, format!("`{text}` in the head of a rule may have no value"));
        }
        term.kind
    }

    fn arguments(&mut self, head: &RuleHead, arguments: &[Ref<Expr>], span: &Span) {
        if arguments.is_empty() {
            self.refuse(span, Rule::Head, "a function without arguments");
        }
        let RuleHead::Func { refr, .. } = head else { return };
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

    // ---- Bodies

    fn body(&mut self, query: &Query) {
        for statement in &query.stmts {
            self.statement(statement);
        }
    }

    /// A body of its own: what it binds is gone behind it.
    fn comprehension(&mut self, query: &Query, then: impl FnOnce(&mut Self) -> Kind) -> Term {
        let outer = self.scope.clone();
        let outer_fails = std::mem::take(&mut self.outcome.may_fail);
        let outer_iterates = self.iterates;
        self.body(query);
        let kind = then(self);
        self.leave(outer);
        self.iterates = outer_iterates;
        let may_fail = std::mem::replace(&mut self.outcome.may_fail, outer_fails);
        self.outcome.may_fail |= may_fail;
        // It always has a value; under `not` it would be moved out with what it reads.
        Term { kind, is_defined: true, may_fail, is_flat: false }
    }

    fn statement(&mut self, statement: &LiteralStmt) {
        if let Some(modifier) = statement.with_mods.first() {
            self.refuse(&modifier.span, Rule::With, "`with`");
        }
        match &statement.literal {
            Literal::Expr { expr, .. } => self.line(expr),
            Literal::NotExpr { expr, .. } => self.negation(expr),
            Literal::SomeVars { span, .. } => self.refuse(span, Rule::Some, "`some` without `in`"),
            Literal::SomeIn { key, value, collection, span } => self.some_in(span, key.as_ref(), value, collection),
            Literal::Every { key, value, domain, query, .. } => {
                let domain_term = self.expression(domain, Place::Operand);
                let outer = self.scope.clone();
                if let Some(key) = key {
                    self.keys_of(domain, domain_term.kind);
                    self.declare(key, Kind::TEXT | Kind::NUMBER);
                }
                self.declare(value, domain_term.kind.element());
                self.scope.iter_mut().skip(outer.len()).for_each(|local| local.is_of_every = true);
                self.body(query);
                for variable in key.iter().chain([value]) {
                    // OPA does not load it.
                    if self.scope.iter().any(|local| local.name == variable.text() && !local.is_used) {
                        self.refuse(
                            variable,
                            Rule::Variable,
                            format!("`{}` is bound and not used: write `_`", variable.text()),
                        );
                    }
                }
                self.leave(outer);
            }
        }
    }

    /// Forgets what an inner body bound, not what it used.
    fn leave(&mut self, mut outer: Vec<Local>) {
        for (before, now) in outer.iter_mut().zip(&self.scope) {
            before.is_used |= now.is_used;
        }
        self.scope = outer;
    }

    fn line(&mut self, expression: &Ref<Expr>) {
        if let Expr::AssignExpr { op, lhs, rhs, span, .. } = expression.as_ref() {
            return self.assignment(span, op, lhs, rhs);
        }
        self.expression(expression, Place::Line);
        self.narrow(expression);
    }

    fn assignment(&mut self, span: &Span, op: &AssignOp, lhs: &Ref<Expr>, rhs: &Ref<Expr>) {
        if *op != AssignOp::ColEq {
            return self.refuse(span, Rule::Assignment, "`=`, which binds or compares");
        }
        let kind = self.expression(rhs, Place::Operand).kind;
        match lhs.as_ref() {
            Expr::Var { span, .. } if span.text() != "_" => self.declare(span, kind),
            other => self.refuse(other.span(), Rule::Assignment, "`:=` to something else than one variable"),
        }
    }

    fn some_in(&mut self, span: &Span, key: Option<&Ref<Expr>>, value: &Ref<Expr>, collection: &Ref<Expr>) {
        self.iterates = true;
        let term = self.expression(collection, Place::Operand);
        if !term.kind.is_collection() {
            self.outcome.wraps.push(Wrap::around(collection.span()));
        }
        if let Some(key) = key {
            self.keys_of(collection, term.kind);
            self.bind(span, key, Kind::TEXT | Kind::NUMBER);
        }
        self.bind(span, value, term.kind.element());
    }

    /// With a key, sets are iterated over unlike: `regorus` gives the member twice.
    fn keys_of(&mut self, collection: &Expr, kind: Kind) {
        if kind.may_be(Kind::SET) {
            let text = excerpt(collection.span());
            self.refuse(collection.span(), Rule::KeyedSet, format!("`{text}` may be a set, which has no keys"));
        }
    }

    fn bind(&mut self, span: &Span, variable: &Expr, kind: Kind) {
        match variable {
            Expr::Var { span, .. } => self.declare(span, kind),
            _ => self.refuse(span, Rule::Some, "`some` with a pattern"),
        }
    }

    fn declare(&mut self, span: &Span, kind: Kind) {
        let name = span.text();
        if name == "_" {
            return;
        }
        let has_other_meaning = self.scope.iter().any(|local| local.name == name)
            || self.file.imports.contains_key(name)
            || self.program.symbols.contains_key(&self.file.path(name));
        if let Some(problem) = reserved(name) {
            self.refuse(span, Rule::Name, problem);
        } else if has_other_meaning {
            self.refuse(span, Rule::Name, format!("`{name}` stands for something else already"));
        }
        self.scope.push(Local { name: name.to_owned(), kind, is_used: false, is_of_every: false });
    }

    /// After a line `is_number(x)`, `x` is a number.
    fn narrow(&mut self, line: &Expr) {
        let Expr::Call { fcn, params, .. } = line else { return };
        let [argument] = params.as_slice() else { return };
        let Expr::Var { span, .. } = argument.as_ref() else { return };
        let builtin = names(fcn).filter(|path| path.len() == 1).and_then(|path| builtins::find(path.first()?));
        let Some(Builtin { terms: Terms::Guard(kind), .. }) = builtin else { return };
        if let Some(local) = self.scope.iter_mut().rev().find(|local| local.name == span.text()) {
            let inside = Kind::ARRAY | Kind::OBJECT;
            let has_inside = kind.may_be(inside) && local.kind.may_be(Kind::SET_INSIDE);
            local.kind = if has_inside { *kind | Kind::SET_INSIDE } else { *kind };
        }
    }

    /// See the module's text: an operand that may be missing is negated by one engine and moved out by the other.
    fn negation(&mut self, expression: &Ref<Expr>) {
        let mut operands: Vec<&Ref<Expr>> = Vec::new();
        let mut takes_flat = false;
        match expression.as_ref() {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                takes_flat = true;
                operands.push(expression);
            }
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                takes_flat = *op == BoolOp::Eq;
                operands.extend([lhs, rhs]);
            }
            Expr::Membership { value, collection, .. } => operands.extend([value, collection]),
            Expr::Call { params, .. } => operands.extend(params),
            other => self.refuse(other.span(), Rule::Not, format!("`not {}`", excerpt(other.span()))),
        }
        for operand in operands {
            let term = self.quietly(operand);
            if !(term.is_defined || takes_flat && term.is_flat) {
                let text = excerpt(beginning(operand));
                self.refuse(beginning(operand), Rule::NotOperand, format!("`{text}` may have no value, under `not`"));
            }
        }
        self.expression(expression, Place::Line);
    }

    /// What is known of an expression that is checked in another place.
    fn quietly(&mut self, expression: &Ref<Expr>) -> Term {
        let before = self.outcome.findings.len();
        let term = self.expression(expression, Place::Operand);
        self.outcome.findings.truncate(before);
        term
    }

    // ---- Expressions

    fn expression(&mut self, expression: &Ref<Expr>, place: Place) -> Term {
        match expression.as_ref() {
            Expr::String { span, .. } => {
                if let Err(problem) = pattern::text(span.text()) {
                    self.refuse(span, Rule::Text, problem);
                }
                Term::literal(Kind::TEXT)
            }
            Expr::RawString { span, .. } => {
                if span.text().contains('\r') {
                    self.refuse(span, Rule::Text, "a carriage return in a text");
                }
                Term::literal(Kind::TEXT)
            }
            Expr::Number { span, .. } => Term::literal(self.number(span)),
            Expr::Bool { .. } => Term::literal(Kind::BOOLEAN),
            Expr::Null { .. } => Term::literal(Kind::NULL),
            Expr::UnaryExpr { expr, span, .. } => match expr.as_ref() {
                Expr::Number { span, .. } if !span.text().starts_with('-') => Term::literal(self.number(span)),
                _ => {
                    self.refuse(span, Rule::Arithmetic, "`-` before something else than a number");
                    Term::UNKNOWN
                }
            },
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expression),
            Expr::Array { items, .. } => {
                let terms: Vec<_> = items.iter().map(|item| self.expression(item, Place::Operand)).collect();
                let element = terms.iter().fold(Kind::NOTHING, |kind, term| kind.or(term.kind));
                self.in_order(beginning(expression), &terms);
                composite(Kind::ARRAY.holding(element), &terms)
            }
            Expr::Set { items, .. } => {
                let terms: Vec<_> = items.iter().map(|item| self.expression(item, Place::Operand)).collect();
                for (item, term) in items.iter().zip(&terms) {
                    self.set_member(item, term.kind);
                }
                self.in_order(beginning(expression), &terms);
                composite(Kind::SET, &terms)
            }
            Expr::Object { fields, .. } => self.object(fields),
            Expr::ArrayCompr { term, query, .. } => self.comprehension(query, |checker| {
                let element = checker.expression(term, Place::Operand).kind;
                Kind::ARRAY.holding(element)
            }),
            Expr::SetCompr { term, query, .. } => self.comprehension(query, |checker| {
                let member = checker.expression(term, Place::Operand).kind;
                checker.set_member(term, member);
                Kind::SET
            }),
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(query, |checker| {
                let name = checker.expression(key, Place::Operand);
                checker.set_member(key, name.kind);
                let element = checker.expression(value, Place::Operand);
                checker.in_order(key.span(), &[name, element]);
                // One key can get two values.
                checker.outcome.may_fail = true;
                Kind::OBJECT.holding(element.kind)
            }),
            Expr::Call { span, fcn, params, .. } => self.call(span, fcn, params),
            Expr::BinExpr { span, op, lhs, rhs, .. } => {
                self.set_operands(span, if *op == BinOp::Union { "|" } else { "&" }, lhs, rhs)
            }
            Expr::ArithExpr { span, op, lhs, rhs, .. } => self.arithmetic(span, op, lhs, rhs),
            Expr::BoolExpr { span, op, lhs, rhs, .. } => self.comparison(span, op, lhs, rhs),
            Expr::Membership { span, key, value, collection, .. } => {
                self.membership(span, key.as_ref(), value, collection, place)
            }
            Expr::AssignExpr { span, .. } => {
                self.refuse(span, Rule::Assignment, "an assignment inside an expression");
                Term::UNKNOWN
            }
        }
    }

    fn number(&mut self, span: &Span) -> Kind {
        let text = span.text();
        if !number::is_plain_literal(text.strip_prefix('-').unwrap_or(text)) || text == "-0" {
            self.refuse(span, Rule::Number, format!("the number `{text}`"));
        }
        let is_small = text.parse::<i32>().is_ok();
        if is_small { Kind::NUMBER | Kind::SMALL } else { Kind::NUMBER }
    }

    /// Sets come before objects in one engine and after them in the other, so a set that holds sets has no order.
    fn set_member(&mut self, member: &Expr, kind: Kind) {
        if !kind.is_free_of_sets() {
            let text = excerpt(beginning(member));
            self.refuse(
                beginning(member),
                Rule::SetMember,
                format!("`{text}` may be or hold a set, in a set or as a key"),
            );
        }
    }

    fn object(&mut self, fields: &[(Span, Ref<Expr>, Ref<Expr>)]) -> Term {
        let mut keys = BTreeSet::new();
        let mut terms = Vec::new();
        for (span, key, value) in fields {
            let name = match key.as_ref() {
                Expr::String { value, .. } => value.as_string().ok().map(ToString::to_string),
                _ => None,
            };
            if !name.is_some_and(|name| keys.insert(name)) {
                let text = excerpt(key.span());
                self.refuse(span, Rule::ObjectKey, format!("the key `{text}` is no text, or is there twice"));
            }
            self.expression(key, Place::Operand);
            terms.push(self.expression(value, Place::Operand));
        }
        if let Some((_, key, _)) = fields.first() {
            self.in_order(key.span(), &terms);
        }
        let element = terms.iter().fold(Kind::NOTHING, |kind, term| kind.or(term.kind));
        composite(Kind::OBJECT.holding(element), &terms)
    }

    /// OPA finds variables of a comprehension unsafe that other operands use too.
    fn no_comprehension(&mut self, expression: &Expr) {
        if matches!(expression, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. }) {
            let text = excerpt(expression.span());
            self.refuse(
                expression.span(),
                Rule::Infix,
                format!("the comprehension `{text}` as one of several operands"),
            );
        }
    }

    fn operand(&mut self, expression: &Ref<Expr>) -> Term {
        if is_infix(expression) {
            let text = excerpt(expression.span());
            self.refuse(
                expression.span(),
                Rule::Infix,
                format!("`{text}` as an operand: the engines may group it unlike"),
            );
        }
        self.expression(expression, Place::Operand)
    }

    /// OPA leaves an expression at its first operand without a value, `regorus` goes on, and may fail at the next.
    fn in_order(&mut self, span: &Span, operands: &[Term]) {
        let fails_beside = |at: usize| operands.iter().enumerate().any(|(other, term)| other != at && term.may_fail);
        if operands.iter().enumerate().any(|(at, term)| !term.is_defined && fails_beside(at)) {
            self.refuse(span, Rule::Order, "an operand that may have no value beside one that may fail");
        }
    }

    fn set_operands(&mut self, span: &Span, op: &str, lhs: &Ref<Expr>, rhs: &Ref<Expr>) -> Term {
        let sides = [lhs, rhs].map(|side| self.operand(side));
        for (side, term) in [lhs, rhs].into_iter().zip(&sides) {
            if !term.kind.is_within(Kind::SET) {
                let text = excerpt(side.span());
                self.refuse(span, Rule::SetOperator, format!("`{text}` may be no set, at `{op}`"));
            }
        }
        self.in_order(span, &sides);
        Term::computed(Kind::SET, &sides)
    }

    fn arithmetic(&mut self, span: &Span, op: &ArithOp, lhs: &Ref<Expr>, rhs: &Ref<Expr>) -> Term {
        let sides = [lhs, rhs].map(|side| self.operand(side));
        self.in_order(span, &sides);
        if *op == ArithOp::Sub && sides.iter().all(|side| side.kind.is_within(Kind::SET)) {
            return Term::computed(Kind::SET, &sides);
        }
        if matches!(op, ArithOp::Div | ArithOp::Mod) || !sides.iter().all(|side| side.kind.is_small()) {
            let text = excerpt(span);
            self.refuse(
                span,
                Rule::Arithmetic,
                format!("`{text}`: one engine computes with doubles, the other with decimals"),
            );
        }
        Term::computed(Kind::NUMBER, &sides)
    }

    fn comparison(&mut self, span: &Span, op: &BoolOp, lhs: &Ref<Expr>, rhs: &Ref<Expr>) -> Term {
        [lhs, rhs].into_iter().for_each(|side| self.no_comprehension(side));
        let sides = [self.comparand(lhs), self.comparand(rhs)];
        let orders = !matches!(op, BoolOp::Eq | BoolOp::Ne);
        if orders && !sides.iter().all(|side| side.kind.is_free_of_sets()) {
            let text = excerpt(span);
            self.refuse(span, Rule::Ordering, format!("`{text}` may order sets, which the engines do unlike"));
        }
        self.in_order(span, &sides);
        Term::computed(Kind::BOOLEAN, &sides)
    }

    /// Sums and set operations bind closer than comparisons, in both.
    fn comparand(&mut self, expression: &Ref<Expr>) -> Term {
        if matches!(expression.as_ref(), Expr::BoolExpr { .. }) {
            self.operand(expression)
        } else {
            self.expression(expression, Place::Operand)
        }
    }

    fn membership(
        &mut self,
        span: &Span,
        key: Option<&Ref<Expr>>,
        value: &Ref<Expr>,
        collection: &Ref<Expr>,
        place: Place,
    ) -> Term {
        if place == Place::Operand {
            self.refuse(
                span,
                Rule::Membership,
                "`in` inside another expression: false here, undefined there, where the collection is missing",
            );
        }
        if key.is_some() {
            self.refuse(span, Rule::Membership, "`key, value in …`");
        }
        let sides = [value, collection].map(|side| {
            self.no_comprehension(side);
            self.operand(side)
        });
        self.in_order(span, &sides);
        Term::computed(Kind::BOOLEAN, &sides)
    }

    // ---- References

    fn reference(&mut self, expression: &Ref<Expr>) -> Term {
        let (root, steps) = flatten(expression);
        let Expr::Var { span, .. } = root else {
            self.refuse(root.span(), Rule::Reference, format!("a step into `{}`", excerpt(root.span())));
            return Term::UNKNOWN;
        };
        let (mut is_flat, mut indexes) = (true, Vec::new());
        for step in &steps {
            if let Step::Index(index) = step {
                let term = self.expression(index, Place::Operand);
                is_flat &= term.is_flat && term.is_defined;
                indexes.push(term);
                if let Expr::Var { span, .. } = index.as_ref()
                    && self.scope.iter().any(|local| local.name == span.text() && local.is_of_every)
                {
                    self.refuse(span, Rule::EveryIndex, format!("`{}`, bound by `every`, as an index", span.text()));
                }
                if matches!(index.as_ref(), Expr::Array { .. } | Expr::Object { .. } | Expr::Set { .. }) {
                    self.refuse(index.span(), Rule::Reference, "an array, object or set as an index");
                }
            }
        }
        let (term, rest) = self.root(span, &steps);
        indexes.push(term);
        self.in_order(span, &indexes);
        let may_fail = indexes.iter().any(|term| term.may_fail);
        if rest == 0 {
            return Term { is_flat, may_fail, ..term };
        }
        Term { kind: term.kind.element(), is_defined: false, may_fail, is_flat }
    }

    /// What the first names of a reference stand for, and how many steps lead on from there.
    fn root(&mut self, span: &Span, steps: &[Step<'_>]) -> (Term, usize) {
        let name = span.text();
        if let Some(local) = self.scope.iter_mut().rev().find(|local| local.name == name) {
            local.is_used = true;
            return (Term::literal(local.kind), steps.len());
        }
        let mut path: Vec<String> = match (name, self.file.imports.get(name)) {
            ("input" | "data", _) => vec![name.to_owned()],
            (_, Some(import)) => import.clone(),
            _ if self.program.symbols.contains_key(&self.file.path(name)) => ["data"]
                .map(str::to_owned)
                .into_iter()
                .chain(self.file.package.clone())
                .chain([name.to_owned()])
                .collect(),
            _ => {
                self.refuse(span, Rule::Variable, format!("`{name}` is bound nowhere"));
                return (Term::UNKNOWN, 0);
            }
        };
        if path.first().is_some_and(|root| root == "input") {
            return (Term::DOCUMENT, 0);
        }
        let given = path.len();
        path.extend(steps.iter().map_while(Step::name));
        let below = path.get(1..).unwrap_or_default();
        match self.program.target(below) {
            Target::Document => (Term::DOCUMENT, 0),
            Target::Package => {
                let path = path.join(".");
                self.refuse(
                    span,
                    Rule::WholePackage,
                    format!("`{path}` is a package, part of its name, or nothing in it"),
                );
                (Term::UNKNOWN, 0)
            }
            Target::Rule(rule, used) => {
                let rest = (steps.len() + given).saturating_sub(used + 1);
                let term = self.rule(span, &rule);
                if rest > 0 && term.kind.is_within(Kind::SET) {
                    self.refuse(span, Rule::SetReference, format!("a step into the set `{rule}`"));
                }
                (term, rest)
            }
        }
    }

    fn rule(&mut self, span: &Span, rule: &str) -> Term {
        let Some(symbol) = self.program.symbols.get(rule) else { return Term::UNKNOWN };
        if matches!(symbol.form, Form::Function { .. }) {
            self.refuse(span, Rule::Arguments, format!("the function `{rule}` without arguments"));
        }
        self.outcome.dependencies.insert(rule.to_owned());
        let (is_defined, may_fail) = (symbol.is_always_defined(), symbol.may_fail);
        self.outcome.may_fail |= may_fail;
        Term { kind: symbol.kind, is_defined, may_fail, is_flat: true }
    }

    // ---- Calls

    fn call(&mut self, span: &Span, function: &Ref<Expr>, arguments: &[Ref<Expr>]) -> Term {
        let terms: Vec<_> = arguments.iter().map(|argument| self.expression(argument, Place::Operand)).collect();
        if arguments.len() > 1 {
            arguments.iter().for_each(|argument| self.no_comprehension(argument));
        }
        self.in_order(span, &terms);
        let Some(path) = names(function) else {
            self.refuse(span, Rule::Builtin, format!("a call of `{}`", excerpt(function.span())));
            return Term::UNKNOWN;
        };
        let name = path.join(".");
        if let Some(rule) = self.function(&path) {
            return self.call_of_rule(span, rule, &terms);
        }
        let Some(builtin) = builtins::find(&name) else {
            self.refuse(span, Rule::Builtin, format!("`{name}` is no function that this broker takes"));
            return Term::UNKNOWN;
        };
        if builtin.arguments != arguments.len() {
            self.refuse(
                span,
                Rule::Arguments,
                format!("`{name}` takes {} arguments, not {}", builtin.arguments, arguments.len()),
            );
        }
        if let Err((rule, problem)) = pattern::check(builtin, arguments) {
            self.refuse(span, rule, problem);
        }
        let result = if name == "count" { builtin.result | Kind::SMALL } else { builtin.result };
        let mut may_fail = false;
        for (at, (argument, term)) in arguments.iter().zip(&terms).enumerate() {
            let takes = builtin.takes(at);
            may_fail |= !term.kind.outside().is_within(takes.outside());
            if takes != Kind::NOTHING && term.kind.is_apart_from(takes) {
                let text = excerpt(beginning(argument));
                self.refuse(beginning(argument), Rule::Arguments, format!("`{name}` never takes what `{text}` is"));
            }
        }
        self.outcome.may_fail |= may_fail;
        let term = Term::computed(result, &terms);
        // All that are taken answer, or fail.
        Term { may_fail: term.may_fail || may_fail, ..term }
    }

    /// The rule that a call names, if it names one.
    fn function(&self, path: &[String]) -> Option<RulePath> {
        let (root, rest) = path.split_first()?;
        let full: Vec<String> = if let Some(import) = self.file.imports.get(root) {
            import.iter().chain(rest).cloned().collect()
        } else if root == "data" {
            path.to_vec()
        } else if rest.is_empty() && self.program.symbols.contains_key(&self.file.path(root)) {
            return Some(self.file.path(root));
        } else {
            return None;
        };
        let rule = full.get(1..)?.join(".");
        (full.first()? == "data" && self.program.symbols.contains_key(&rule)).then_some(rule)
    }

    fn call_of_rule(&mut self, span: &Span, rule: RulePath, terms: &[Term]) -> Term {
        let Some(symbol) = self.program.symbols.get(&rule) else { return Term::UNKNOWN };
        if symbol.form != (Form::Function { arguments: terms.len() }) {
            self.refuse(span, Rule::Arguments, format!("`{rule}` is no function of {} arguments", terms.len()));
        }
        let (kind, may_fail) = (symbol.kind, symbol.may_fail);
        self.outcome.may_fail |= may_fail;
        self.outcome.dependencies.insert(rule.clone());
        self.outcome.calls.push((rule, terms.iter().map(|term| term.kind).collect()));
        let term = Term::computed(kind, terms);
        Term { is_defined: false, may_fail: term.may_fail || may_fail, ..term }
    }
}

/// An array, object or set has a value where all its parts have.
fn composite(kind: Kind, parts: &[Term]) -> Term {
    Term { is_flat: parts.iter().all(|part| part.is_flat && part.is_defined), ..Term::computed(kind, parts) }
}

const fn is_literal(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. }
    )
}

const fn is_infix(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::BinExpr { .. }
            | Expr::ArithExpr { .. }
            | Expr::BoolExpr { .. }
            | Expr::Membership { .. }
            | Expr::AssignExpr { .. }
    )
}

/// One step of a reference.
enum Step<'a> {
    Name(String),
    Index(&'a Ref<Expr>),
}

impl Step<'_> {
    fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Index(_) => None,
        }
    }
}

/// What a reference begins with, and its steps from there.
fn flatten(mut expression: &Ref<Expr>) -> (&Expr, Vec<Step<'_>>) {
    let mut steps = Vec::new();
    loop {
        match expression.as_ref() {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Step::Name(field.0.text().to_owned()));
                expression = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                let name = match index.as_ref() {
                    Expr::String { value, .. } => value.as_string().ok(),
                    _ => None,
                };
                steps.push(name.map_or(Step::Index(index), |name| Step::Name(name.to_string())));
                expression = refr;
            }
            root => {
                steps.reverse();
                return (root, steps);
            }
        }
    }
}

/// Where an expression begins; of an object the engine keeps its last member.
fn beginning(expression: &Expr) -> &Span {
    match expression {
        Expr::Object { fields, span, .. } => fields.first().map_or(span, |(_, key, _)| key.span()),
        other => other.span(),
    }
}

/// The first line of an expression, so long as it fits into a message.
fn excerpt(span: &Span) -> String {
    const CHARACTERS_MAX: usize = 60;
    let line = span.text().lines().next().unwrap_or_default();
    let short: String = line.chars().take(CHARACTERS_MAX).collect();
    if short.len() == span.text().len() { short } else { format!("{short}…") }
}
