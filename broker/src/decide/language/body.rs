//! The check of a body, line by line.

use regorus::unstable::{AssignOp, BoolOp, Expr, Literal, LiteralStmt, Query, Ref, Span};

use super::{
    Wrap,
    builtins::{self, Builtin, Terms},
    checker::{Checker, Local, Place, Term, beginning, excerpt},
    diagnostic::Rule,
    kind::Kind,
    program::{names, reserved},
};

impl Checker<'_> {
    pub(super) fn body(&mut self, query: &Query) {
        const LINES_MAX: usize = 100;
        if query.stmts.len() > LINES_MAX {
            return self.refuse(&query.span, Rule::Size, format!("a body of more than {LINES_MAX} lines"));
        }
        for statement in &query.stmts {
            self.statement(statement);
        }
    }

    /// A body of its own: what it binds is gone behind it.
    pub(super) fn comprehension(&mut self, query: &Query, then: impl FnOnce(&mut Self) -> (Kind, u64)) -> Term {
        let outer = self.scope.clone();
        let outer_fails = std::mem::take(&mut self.outcome.may_fail);
        let outer_iterates = self.iterates;
        self.body(query);
        let (kind, size) = then(self);
        self.leave(outer);
        self.iterates = outer_iterates;
        let may_fail = std::mem::replace(&mut self.outcome.may_fail, outer_fails);
        self.outcome.may_fail |= may_fail;
        // It always has a value; under `not` it would be moved out with what it reads.
        // One part is of a document, however many there are; a larger one can be there many times.
        const TIMES: u64 = 64;
        let size = if size > 1 { self.grown(&query.span, size.saturating_mul(TIMES)) } else { 1 };
        Term { kind, is_defined: true, may_fail, size, is_flat: false }
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
                    self.declare(key, Kind::JSON);
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
        match expression.as_ref() {
            Expr::Bool { .. }
            | Expr::Var { .. }
            | Expr::RefDot { .. }
            | Expr::RefBrack { .. }
            | Expr::Call { .. }
            | Expr::BoolExpr { .. }
            | Expr::Membership { .. } => {}
            // `{ a, b }` is a set, and true, to the engine.
            other => self.refuse(
                beginning(other),
                Rule::Line,
                format!("`{}` as a line, which is always true", excerpt(other.span())),
            ),
        }
        self.expression(expression, Place::Line);
        self.narrow(expression);
    }

    fn assignment(&mut self, span: &Span, op: &AssignOp, lhs: &Ref<Expr>, rhs: &Ref<Expr>) {
        if *op != AssignOp::ColEq {
            return self.refuse(span, Rule::Assignment, "`=`, which binds or compares");
        }
        let term = self.expression(rhs, Place::Operand);
        match lhs.as_ref() {
            Expr::Var { span, .. } if span.text() != "_" => {
                self.declare(span, term.kind);
                if let Some(local) = self.scope.last_mut() {
                    local.size = term.size;
                }
            }
            other => self.refuse(other.span(), Rule::Assignment, "`:=` to something else than one variable"),
        }
    }

    fn some_in(&mut self, span: &Span, key: Option<&Ref<Expr>>, value: &Ref<Expr>, collection: &Ref<Expr>) {
        // Each stands on the stack while what is behind it runs.
        const ITERATIONS_MAX: usize = 20;
        self.iterates = true;
        self.iterations += 1;
        if self.iterations == ITERATIONS_MAX + 1 {
            self.refuse(span, Rule::Size, format!("more than {ITERATIONS_MAX} times `some` in one rule"));
        }
        let term = self.expression(collection, Place::Operand);
        if !term.kind.is_collection() {
            self.outcome.wraps.push(Wrap::around(collection.span()));
        }
        if let Some(key) = key {
            self.keys_of(collection, term.kind);
            self.bind(span, key, Kind::JSON);
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

    pub(super) fn declare(&mut self, span: &Span, kind: Kind) {
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
        self.scope.push(Local { name: name.to_owned(), kind, size: 1, is_used: false, is_of_every: false });
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
}
