//! The check of references and calls: what a name stands for.

use regorus::{
    Value,
    unstable::{Expr, Ref, Span},
};

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
        const STEPS_MAX: usize = 32;
        if steps.len() > STEPS_MAX {
            self.refuse(span, Rule::Size, format!("a reference of more than {STEPS_MAX} steps"));
        }
        let (mut is_flat, mut indexes, mut kinds) = (true, Vec::new(), Vec::new());
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
                kinds.push(Some(term.kind));
            } else {
                kinds.push(None);
            }
        }
        let (term, rest) = self.root(span, &steps, &kinds);
        indexes.push(term);
        self.in_order(span, &indexes);
        let may_fail = indexes.iter().any(|term| term.may_fail);
        if rest == 0 {
            return Term { is_flat, may_fail, ..term };
        }
        Term { kind: term.kind.element(), is_defined: false, may_fail, size: term.size, is_flat }
    }

    /// What the first names of a reference stand for, and how many steps lead on from there.
    fn root(&mut self, span: &Span, steps: &[Step<'_>], indexes: &[Option<Kind>]) -> (Term, usize) {
        let name = span.text();
        if let Some(local) = self.scope.iter_mut().rev().find(|local| local.name == name) {
            local.is_used = true;
            return (Term { size: local.size, ..Term::literal(local.kind) }, steps.len());
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
            Target::Document => {
                let imported = path.get(1..given).unwrap_or_default();
                if let Some(problem) = self.document(imported, steps, indexes) {
                    self.refuse(span, Rule::DataIndex, problem);
                }
                (Term::DOCUMENT, 0)
            }
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
                // Below `data` the engine takes a number for a text.
                let beyond = indexes.iter().rev().take(rest).flatten();
                if name == "data" && beyond.into_iter().any(|kind| kind.may_be(Kind::NUMBER)) {
                    self.refuse(span, Rule::DataIndex, format!("what may be a number as an index of `data.{rule}`"));
                }
                (term, rest)
            }
        }
    }

    /// What the engines index unlike in documents from files: OPA takes a text for the number of an element, and the number
    /// of a member for its name, unlike the engine if it was imported.
    fn document(&self, imported: &[String], steps: &[Step<'_>], indexes: &[Option<Kind>]) -> Option<String> {
        let member = |node: &'_ Value, name: &str| node.as_object().ok()?.get(&Value::from(name)).cloned();
        let mut nodes: Vec<Value> =
            imported.iter().try_fold(self.program.data.clone(), |node, name| member(&node, name)).into_iter().collect();
        for (step, index) in steps.iter().zip(indexes) {
            let is_array = nodes.iter().any(|node| node.as_array().is_ok());
            match (step, index) {
                (Step::Name(name), _) if is_array => return Some(format!("the text `{name}` as an index of an array")),
                (Step::Name(name), _) => nodes = nodes.iter().filter_map(|node| member(node, name)).collect(),
                (Step::Index(_), index) => {
                    let kind = index.unwrap_or(Kind::ANYTHING);
                    if is_array && kind.may_be(Kind::TEXT) {
                        return Some("what may be a text as an index of an array".to_owned());
                    }
                    if !imported.is_empty() && kind.may_be(Kind::NUMBER) {
                        return Some("what may be a number as an index of an imported document".to_owned());
                    }
                    nodes = nodes.iter().flat_map(children).collect();
                }
            }
        }
        None
    }

    fn rule(&mut self, span: &Span, rule: &str) -> Term {
        let Some(symbol) = self.program.symbols.get(rule) else { return Term::UNKNOWN };
        if matches!(symbol.form, Form::Function { .. }) {
            self.refuse(span, Rule::Arguments, format!("the function `{rule}` without arguments"));
        }
        self.outcome.dependencies.insert(rule.to_owned());
        let (is_defined, may_fail) = (symbol.is_always_defined(), symbol.may_fail);
        self.outcome.may_fail |= may_fail;
        Term { kind: symbol.kind, is_defined, may_fail, size: symbol.size, is_flat: true }
    }

    // ---- Calls

    pub(super) fn call(&mut self, span: &Span, function: &Ref<Expr>, arguments: &[Ref<Expr>]) -> Term {
        let terms: Vec<_> = arguments.iter().map(|argument| self.expression(argument, Place::Operand)).collect();
        if arguments.len() > 1 {
            arguments.iter().for_each(|argument| self.no_comprehension(argument));
        }
        self.in_order(span, &terms);
        self.no_blank_behind(function.span());
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
        let size = terms.iter().fold(1, |most: u64, term| most.max(term.size));
        Term { may_fail: term.may_fail || may_fail, size, ..term }
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
        let (kind, may_fail, size) = (symbol.kind, symbol.may_fail, symbol.size);
        self.outcome.may_fail |= may_fail;
        self.outcome.dependencies.insert(rule.clone());
        self.outcome.calls.push((rule, terms.iter().map(|term| term.kind).collect()));
        // Every part of the result can hold every argument.
        let given = terms.iter().fold(1, |most: u64, term| most.max(term.size));
        let size = self.grown(span, size.saturating_mul(given));
        let term = Term::computed(kind, terms);
        Term { is_defined: false, may_fail: term.may_fail || may_fail, size, ..term }
    }
}

fn children(node: &Value) -> Vec<Value> {
    match node {
        Value::Array(items) => items.iter().cloned().collect(),
        Value::Object(members) => members.iter().map(|(_, member)| member.clone()).collect(),
        _ => Vec::new(),
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
