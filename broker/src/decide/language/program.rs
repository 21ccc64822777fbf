//! The names of a policy: its packages, rules and imports, and what a reference stands for.

use std::collections::{BTreeMap, BTreeSet};

use regorus::{
    Value,
    unstable::{Expr, Import, Module, Ref, Rule as Definition, RuleHead, Span},
};

use super::{
    builtins,
    diagnostic::{Diagnostic, Rule},
    kind::Kind,
};

/// A rule's path without `data`, as in `veribus.deny`.
pub(super) type RulePath = String;

/// What a rule is; all definitions of one name are of one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Complete,
    Set,
    Function { arguments: usize },
}

/// What is known of a rule.
pub(super) struct Symbol {
    pub(super) form: Form,
    pub(super) has_default: bool,
    /// What it can be.
    pub(super) kind: Kind,
    /// Its evaluation can fail, which denies.
    pub(super) may_fail: bool,
    /// How many parts its value can have beyond those of documents.
    pub(super) size: u64,
    /// What a function is called with.
    pub(super) arguments: Vec<Kind>,
}

impl Symbol {
    /// Whether it has a value whatever the input.
    pub(super) const fn is_always_defined(&self) -> bool {
        self.has_default || matches!(self.form, Form::Set)
    }
}

/// A file, and what its names mean.
pub(super) struct File<'a> {
    pub(super) module: &'a Ref<Module>,
    pub(super) name: String,
    pub(super) package: Vec<String>,
    pub(super) imports: BTreeMap<String, Vec<String>>,
}

/// All files together.
pub(super) struct Program<'a> {
    pub(super) files: Vec<File<'a>>,
    pub(super) symbols: BTreeMap<RulePath, Symbol>,
    /// The documents of the data files, together.
    pub(super) data: Value,
    packages: BTreeSet<Vec<String>>,
}

/// What a path below `data` leads to.
pub(super) enum Target {
    /// A rule, and how many names were used up.
    Rule(RulePath, usize),
    /// A document from a data file.
    Document,
    /// A package, or part of its name.
    Package,
}

impl<'a> Program<'a> {
    pub(super) fn new(modules: &'a [Ref<Module>], data: Value, findings: &mut Vec<Diagnostic>) -> Self {
        let mut program = Self { files: Vec::new(), symbols: BTreeMap::new(), data, packages: BTreeSet::new() };
        for module in modules {
            let file = File::new(module, findings);
            program.packages.insert(file.package.clone());
            for definition in &module.policy {
                program.define(&file, definition, findings);
            }
            program.files.push(file);
        }
        const DEFINITIONS_MAX: usize = 2_000;
        let mut definitions =
            program.files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, rule)));
        if let Some((file, definition)) = definitions.nth(DEFINITIONS_MAX) {
            let message = format!("more than {DEFINITIONS_MAX} definitions of rules");
            findings.push(file.finding(head(definition).span(), Rule::Size, message));
        }
        program.check_names(findings);
        program
    }

    fn define(&mut self, file: &File<'_>, definition: &Definition, findings: &mut Vec<Diagnostic>) {
        let mut refuse = |span: &Span, rule, message: String| findings.push(file.finding(span, rule, message));
        let (head, form) = match definition {
            Definition::Spec { head: RuleHead::Compr { refr, .. }, .. } => (refr, Form::Complete),
            Definition::Spec { head: RuleHead::Set { refr, .. }, .. } => (refr, Form::Set),
            Definition::Spec { head: RuleHead::Func { refr, args, .. }, .. } => {
                (refr, Form::Function { arguments: args.len() })
            }
            Definition::Default { refr, args, .. } => {
                let form = if args.is_empty() { Form::Complete } else { Form::Function { arguments: args.len() } };
                (refr, form)
            }
        };
        let Expr::Var { span, .. } = head.as_ref() else {
            return refuse(head.span(), Rule::Head, format!("the rule `{}` has a path", head.span().text()));
        };
        let is_default = matches!(definition, Definition::Default { .. });
        let arguments = if let Form::Function { arguments } = form { arguments } else { 0 };
        let new = Symbol {
            form,
            has_default: false,
            kind: Kind::ANYTHING,
            may_fail: true,
            size: 1,
            arguments: vec![Kind::ANYTHING; arguments],
        };
        let symbol = self.symbols.entry(file.path(span.text())).or_insert(new);
        if symbol.form != form {
            refuse(span, Rule::Form, format!("`{}` is defined in two forms", span.text()));
        }
        if is_default && symbol.has_default {
            refuse(span, Rule::Default, format!("`{}` has two defaults", span.text()));
        }
        if is_default && form != Form::Complete {
            refuse(span, Rule::Default, format!("`{}` is a function or a set, with a default", span.text()));
        }
        symbol.has_default |= is_default;
    }

    /// Names of rules, imports and packages stand for one thing each.
    fn check_names(&self, findings: &mut Vec<Diagnostic>) {
        for file in &self.files {
            for (alias, import) in &file.imports {
                if self.symbols.contains_key(&file.path(alias)) {
                    findings.push(file.about_import(alias, format!("`{alias}` is a rule and an import")));
                }
                let (root, below) = import.split_first().map_or(("", &[][..]), |(root, below)| (root.as_str(), below));
                let is_one_thing = match self.target(below) {
                    Target::Document => true,
                    Target::Rule(_, used) => used == below.len(),
                    // The engine evaluates other rules of it than those that are asked for, and not all of those.
                    Target::Package => false,
                };
                if root == "data" && !is_one_thing {
                    let message = format!("`{}` is a package, part of one, or part of a rule", import.join("."));
                    findings.push(file.about_import(alias, message));
                }
                // The engine knows an alias by its package, not by its file.
                let others = self.files.iter().filter(|other| other.package == file.package);
                if others.filter_map(|other| other.imports.get(alias)).any(|other| other != import) {
                    findings.push(
                        file.about_import(alias, format!("`{alias}` is another import in another file of the package")),
                    );
                }
                let as_package: Vec<_> = file.package.iter().chain([alias]).cloned().collect();
                if self.packages.iter().any(|package| package.starts_with(&as_package)) {
                    findings.push(
                        file.about_import(alias, format!("`{alias}` is an import and part of the name of a package")),
                    );
                }
            }
            for definition in &file.module.policy {
                // What is no plain name was reported where it is defined.
                let Expr::Var { span, .. } = head(definition) else { continue };
                if let Some(problem) = reserved(span.text()) {
                    findings.push(file.finding(span, Rule::Name, problem));
                }
                if self.packages.iter().any(|package| {
                    package.len() > file.package.len()
                        && package.starts_with(&file.package)
                        && package.get(file.package.len()).is_some_and(|name| name == span.text())
                }) {
                    let problem = format!("`{}` is a rule and part of the name of a package", span.text());
                    findings.push(file.finding(span, Rule::Name, problem));
                }
            }
        }
    }

    /// All definitions by rule, each with the number of its file.
    pub(super) fn definitions(&self) -> BTreeMap<RulePath, Vec<(usize, &'a Definition)>> {
        let mut rules: BTreeMap<RulePath, Vec<(usize, &'a Definition)>> = BTreeMap::new();
        for (number, file) in self.files.iter().enumerate() {
            let module: &'a Module = file.module;
            for definition in &module.policy {
                rules.entry(file.path(head(definition).span().text())).or_default().push((number, definition));
            }
        }
        rules
    }

    /// Follows names below `data` as far as they lead to a rule.
    pub(super) fn target(&self, names: &[String]) -> Target {
        for length in 1..=names.len() {
            let path = names.get(..length).unwrap_or_default();
            let rule = path.join(".");
            if self.symbols.contains_key(&rule) {
                return Target::Rule(rule, length);
            }
            if !self.packages.iter().any(|package| package.starts_with(path)) {
                // Below a package that has no such rule: nothing, and certainly no data.
                let is_inside =
                    (1..length).any(|length| self.packages.contains(names.get(..length).unwrap_or_default()));
                return if is_inside { Target::Package } else { Target::Document };
            }
        }
        Target::Package
    }
}

impl<'a> File<'a> {
    fn new(module: &'a Ref<Module>, findings: &mut Vec<Diagnostic>) -> Self {
        let mut file = Self {
            module,
            name: module.package.span.source.file().clone(),
            package: names(&module.package.refr).unwrap_or_default(),
            imports: BTreeMap::new(),
        };
        let span = module.package.refr.span();
        if file.package.is_empty() || file.package.iter().any(|name| !is_word(name) || name == "_") {
            findings.push(file.finding(span, Rule::Package, format!("the package `{}`", span.text())));
        }
        const IMPORTS_MAX: usize = 100;
        if let Some(import) = module.imports.get(IMPORTS_MAX) {
            findings.push(file.finding(&import.span, Rule::Size, format!("more than {IMPORTS_MAX} imports")));
        }
        for import in module.imports.iter().take(IMPORTS_MAX) {
            if let Err(problem) = file.import(import) {
                findings.push(file.finding(&import.span, Rule::Import, problem));
            }
        }
        file
    }

    fn import(&mut self, import: &Import) -> Result<(), String> {
        let text = import.refr.span().text();
        let path = names(&import.refr).ok_or_else(|| format!("the import of `{text}`"))?;
        match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["rego", "v1"] | ["future", "keywords", "if" | "in" | "contains" | "every"] if import.r#as.is_none() => {
                Ok(())
            }
            ["data" | "input", .., last] => {
                let alias = import.r#as.as_ref().map_or(last, Span::text).to_owned();
                reserved(&alias).map_or(Ok(()), Err)?;
                match self.imports.insert(alias.clone(), path) {
                    None => Ok(()),
                    Some(_) => Err(format!("two imports are called `{alias}`")),
                }
            }
            _ => Err(format!("the import of `{text}`")),
        }
    }

    pub(super) fn path(&self, name: &str) -> RulePath {
        let mut path = self.package.join(".");
        path.push('.');
        path.push_str(name);
        path
    }

    pub(super) fn finding(&self, span: &Span, rule: Rule, message: String) -> Diagnostic {
        Diagnostic {
            file: self.name.clone(),
            line: span.line,
            column: span.col,
            rule: rule.name(),
            message,
            rewrite: rule.rewrite(),
        }
    }

    fn about_import(&self, alias: &str, message: String) -> Diagnostic {
        let import = self.module.imports.iter().find(|import| {
            import.r#as.as_ref().map_or_else(|| import.refr.span().text().ends_with(alias), |name| name.text() == alias)
        });
        let span = import.map_or(&self.module.package.span, |import| &import.span);
        self.finding(span, Rule::Import, message)
    }
}

/// The name under which a rule is defined.
pub(super) fn head(definition: &Definition) -> &Expr {
    match definition {
        Definition::Spec { head: RuleHead::Compr { refr, .. }, .. }
        | Definition::Spec { head: RuleHead::Set { refr, .. }, .. }
        | Definition::Spec { head: RuleHead::Func { refr, .. }, .. }
        | Definition::Default { refr, .. } => refr,
    }
}

/// The names of a reference that has nothing but names: `data.veribus.deny`.
pub(super) fn names(mut expression: &Expr) -> Option<Vec<String>> {
    let mut names = Vec::new();
    loop {
        match expression {
            Expr::Var { span, .. } => {
                names.push(span.text().to_owned());
                names.reverse();
                return Some(names);
            }
            Expr::RefDot { refr, field, .. } => {
                names.push(field.0.text().to_owned());
                expression = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                let Expr::String { value, .. } = index.as_ref() else { return None };
                names.push(value.as_string().ok()?.to_string());
                expression = refr;
            }
            _ => return None,
        }
    }
}

/// What the engines look for under these names, operators as OPA names them among them.
const RESERVED: [&str; 24] = [
    "_",
    "and",
    "assign",
    "data",
    "div",
    "eq",
    "equal",
    "gt",
    "gte",
    "input",
    "internal",
    "lt",
    "lte",
    "minus",
    "mul",
    "neq",
    "or",
    "plus",
    "print",
    "rem",
    "set",
    "trace",
    "walk",
    super::ELEMENTS,
];

/// Why a rule, an import or a variable may not have this name.
pub(super) fn reserved(name: &str) -> Option<String> {
    if !is_word(name) || name.starts_with("__") {
        return Some(format!("the name `{name}`"));
    }
    if RESERVED.contains(&name) || builtins::is_taken(name) {
        return Some(format!("`{name}` has a meaning of its own"));
    }
    None
}

fn is_word(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.bytes().next().is_some_and(is_letter) && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}
