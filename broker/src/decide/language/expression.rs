//! The check of expressions: literals, composites and operators.

use std::collections::BTreeSet;

use regorus::unstable::{ArithOp, BinOp, BoolOp, Expr, Ref, Span};

use super::{
    checker::{Checker, Place, Term, beginning, excerpt},
    diagnostic::Rule,
    kind::Kind,
    number, pattern,
};

impl Checker<'_> {
    pub(super) fn expression(&mut self, expression: &Ref<Expr>, place: Place) -> Term {
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
                self.composite(expression, Kind::ARRAY.holding(element), &terms)
            }
            Expr::Set { items, .. } => {
                let terms: Vec<_> = items.iter().map(|item| self.expression(item, Place::Operand)).collect();
                for (item, term) in items.iter().zip(&terms) {
                    self.set_member(item, term.kind);
                }
                self.distinct(items);
                self.composite(expression, Kind::SET, &terms)
            }
            Expr::Object { fields, .. } => self.object(expression, fields),
            Expr::ArrayCompr { term, query, .. } => self.comprehension(query, |checker| {
                let element = checker.expression(term, Place::Operand);
                (Kind::ARRAY.holding(element.kind), element.size)
            }),
            Expr::SetCompr { term, query, .. } => self.comprehension(query, |checker| {
                let member = checker.expression(term, Place::Operand);
                checker.set_member(term, member.kind);
                (Kind::SET, member.size)
            }),
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(query, |checker| {
                let name = checker.expression(key, Place::Operand);
                checker.set_member(key, name.kind);
                let element = checker.expression(value, Place::Operand);
                checker.in_order(key.span(), &[name, element]);
                // One key can get two values.
                checker.outcome.may_fail = true;
                (Kind::OBJECT.holding(element.kind), name.size.saturating_add(element.size).saturating_sub(1))
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
    pub(super) fn set_member(&mut self, member: &Expr, kind: Kind) {
        if !kind.is_free_of_sets() {
            let text = excerpt(beginning(member));
            self.refuse(
                beginning(member),
                Rule::SetMember,
                format!("`{text}` may be or hold a set, in a set or as a key"),
            );
        }
    }

    fn object(&mut self, object: &Expr, fields: &[(Span, Ref<Expr>, Ref<Expr>)]) -> Term {
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
        let element = terms.iter().fold(Kind::NOTHING, |kind, term| kind.or(term.kind));
        self.composite(object, Kind::OBJECT.holding(element), &terms)
    }

    /// An array, object or set has a value where all its parts have.
    fn composite(&mut self, expression: &Expr, kind: Kind, parts: &[Term]) -> Term {
        const MEMBERS_MAX: usize = 1_000;
        let span = beginning(expression);
        if parts.len() > MEMBERS_MAX {
            self.refuse(span, Rule::Size, format!("a literal of more than {MEMBERS_MAX} members"));
        }
        self.in_order(span, parts);
        let size = self.grown(span, parts.iter().fold(1, |sum: u64, part| sum.saturating_add(part.size)));
        let is_flat = parts.iter().all(|part| part.is_flat && part.is_defined);
        Term { is_flat, size, ..Term::computed(kind, parts) }
    }

    /// OPA iterates over a member twice that comes twice, as it can where it is computed.
    fn distinct(&mut self, items: &[Ref<Expr>]) {
        let mut seen = BTreeSet::new();
        for item in items {
            let value = match item.as_ref() {
                Expr::String { value, .. }
                | Expr::RawString { value, .. }
                | Expr::Number { value, .. }
                | Expr::Bool { value, .. }
                | Expr::Null { value, .. } => Some(value.clone()),
                _ => None,
            };
            if items.len() > 1 && !value.is_some_and(|value| seen.insert(value)) {
                let text = excerpt(beginning(item));
                self.refuse(
                    beginning(item),
                    Rule::SetMember,
                    format!("`{text}` among other members of a set, which may be there twice"),
                );
            }
        }
    }

    /// OPA finds variables of a comprehension unsafe that other operands use too.
    pub(super) fn no_comprehension(&mut self, expression: &Expr) {
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
    pub(super) fn in_order(&mut self, span: &Span, operands: &[Term]) {
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
        let size = self.grown(span, sides.iter().fold(0, |sum: u64, side| sum.saturating_add(side.size)));
        Term { size, ..Term::computed(Kind::SET, &sides) }
    }

    fn arithmetic(&mut self, span: &Span, op: &ArithOp, lhs: &Ref<Expr>, rhs: &Ref<Expr>) -> Term {
        let sides = [lhs, rhs].map(|side| self.operand(side));
        self.in_order(span, &sides);
        if *op == ArithOp::Sub && sides.iter().all(|side| side.kind.is_within(Kind::SET)) {
            return Term {
                size: sides.iter().map(|side| side.size).max().unwrap_or(1),
                ..Term::computed(Kind::SET, &sides)
            };
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
