//! The check of references and calls: what a name stands for.

use regorus::unstable::{Expr, Ref, Span};

use super::{
    builtins,
    checker::{Checker, Place, Term, beginning, excerpt},
    diagnostic::Rule,
    kind::Kind,
    pattern,
    program::{Form, RulePath, Target, names},
};

impl Checker<'_> {
    pub(super) fn reference(&mut self, expression: &Ref<Expr>) -> Term {
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

    pub(super) fn call(&mut self, span: &Span, function: &Ref<Expr>, arguments: &[Ref<Expr>]) -> Term {
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
