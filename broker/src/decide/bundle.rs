//! A policy as it lies in a directory, in the layout of the `opa` tool: `*.rego`, `data.yaml`, `data.json`.
//!
//! `*_test.rego` are the policy's own tests: they are not part of what decides, nor of its digest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use regorus::{Engine, Value};
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    data::{self, Document},
    functions,
    input::{Settings, TopicSettings},
    language::{self, Checked, Diagnostic, Rule},
    meter::{self, Interruption},
    quotas,
    reads::{self, Reads},
};
use crate::model::{QuotaOverrides, TopicPattern};

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The directory or a file in it cannot be read.
    #[error("cannot read the policy at `{path}`: {source}")]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More than we take.
    #[error("the policy at `{path}` is larger than {max} bytes")]
    TooLarge {
        /// The directory.
        path: PathBuf,
        /// The most we take, in bytes.
        max: usize,
    },
    /// No policy there.
    #[error("there is no `.rego` file in `{0}`")]
    Empty(PathBuf),
    /// Nothing could ever be allowed.
    #[error("the policy has no rule `data.veribus.allow`, so nothing could be allowed")]
    NoAllow,
    /// It says what this broker does not take, or its data is not as it must be. At least one.
    #[error("{}", summary(.0))]
    Refused(Vec<Diagnostic>),
    /// It does not come to an answer.
    #[error("the policy cannot be evaluated: {0}")]
    Evaluation(#[from] EvaluationError),
}

/// Why an evaluation gave no usable answer. Each of them denies.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EvaluationError {
    /// The engine failed, as on an argument of a wrong type.
    #[error("evaluation failed: {0}")]
    Engine(String),
    /// The answer is not of the agreed shape.
    #[error("`{0}` is not of the agreed shape")]
    Shape(&'static str),
    /// The input holds a number that not all engines take for the same.
    #[error("the input has a number of more than 64 bits or 15 decimal digits")]
    Number,
    /// It went beyond its bounds.
    #[error("the evaluation {0}")]
    Interrupted(#[from] Interruption),
    /// What was asked for is no rule and no path in the data.
    #[error("`{0}` is no rule of the policy and no path in its data")]
    Reference(String),
}

impl EvaluationError {
    /// For a log: the engine's own words quote what a message holds, so of those only the place in the policy.
    pub(super) fn without_values(&self) -> String {
        let Self::Engine(text) = self else { return self.to_string() };
        let place = text.strip_prefix("--> ").and_then(|rest| rest.split(' ').next());
        format!("evaluation failed at {}", place.unwrap_or("an unknown place"))
    }
}

fn summary(findings: &[Diagnostic]) -> String {
    let mut text = String::new();
    if let Some(first) = findings.first() {
        let _ = write!(text, "{first}");
    }
    if findings.len() > 1 {
        let _ = write!(text, " (and {} more: `veribus policy check`)", findings.len() - 1);
    }
    text
}

/// A compiled policy.
pub struct Bundle {
    pub(super) engine: Engine,
    pub(super) reads: Reads,
    pub(super) settings: Settings,
    pub(super) rules: DecisionRules,
    pub(super) quotas: QuotaOverrides,
    pub(super) steps_max: u64,
    /// The paths of its rules, without `data`.
    names: BTreeSet<String>,
    data: Value,
    sha256: [u8; 32],
    files: usize,
    unused: Vec<String>,
}

/// Which of the sets that the broker asks for the policy defines.
#[derive(Debug, Clone, Copy)]
pub(super) struct DecisionRules {
    pub(super) deny: bool,
    pub(super) quarantine: bool,
}

impl Bundle {
    /// The most that all files of a policy may hold, in bytes.
    pub const BYTES_MAX: usize = 16 * 1024 * 1024;

    /// Reads, checks and compiles the policy in `directory`, at any depth; one evaluation may take `steps_max` steps.
    ///
    /// # Errors
    /// [`BundleError`]; nothing of a policy is used unless all of it is good.
    pub fn load(directory: &Path, steps_max: u64) -> Result<Self, BundleError> {
        Self::compile(&Self::read(directory)?, steps_max)
    }

    /// The files of the policy in `directory`, by their path below it.
    ///
    /// # Errors
    /// [`BundleError::Read`], [`BundleError::TooLarge`], [`BundleError::Empty`].
    pub fn read(directory: &Path) -> Result<BTreeMap<String, String>, BundleError> {
        let files = read_files(directory)?;
        if files.keys().any(|name| decides(name)) { Ok(files) } else { Err(BundleError::Empty(directory.to_owned())) }
    }

    /// Checks and compiles a policy whose files are at hand, by their path below its directory.
    ///
    /// # Errors
    /// [`BundleError`]; nothing of a policy is used unless all of it is good.
    pub fn compile(files: &BTreeMap<String, String>, steps_max: u64) -> Result<Self, BundleError> {
        meter::install();
        // Parsing and checking take stack as evaluating does.
        stacker::maybe_grow(LOAD_STACK_BYTES, LOAD_STACK_BYTES, || Self::compile_here(files, steps_max))
    }

    fn compile_here(files: &BTreeMap<String, String>, steps_max: u64) -> Result<Self, BundleError> {
        let mut findings = Vec::new();
        let (documents, whole) = read_data(files, &mut findings);
        let data = whole.into_value();
        let sources: Vec<_> =
            files.iter().filter(|(name, _)| decides(name)).map(|(name, text)| (&**name, &**text)).collect();
        let parsed = parse(&sources, &mut findings);
        let checked = parsed.map(|mut engine| {
            let modules = engine.get_modules();
            let checked = language::check(modules, data.clone());
            findings.extend(checked.findings.iter().cloned());
            findings.extend(conflicts(&documents, &checked));
            checked
        });
        findings.sort();
        let (Some(checked), true) = (checked, findings.is_empty()) else { return Err(BundleError::Refused(findings)) };
        let mut engine = build(&sources, &checked, data.clone())?;
        prepare(&mut engine)?;
        let reads = analyse(&engine)?;
        let settings = Settings { topics: patterns(&data, "topics")?, scopes: patterns(&data, "scopes")? };
        let quotas =
            quotas::overrides(&data).map_err(|problem| refused("quotas", format!("`data.quotas`: {problem}")))?;
        let has = |rule: &str| checked.rules.contains(&format!("veribus.{rule}"));
        if !has("allow") {
            return Err(BundleError::NoAllow);
        }
        let rules = DecisionRules { deny: has("deny"), quarantine: has("quarantine") };
        let (sha256, files) = (digest(files), files.len());
        let has_invalid = has("invalid");
        let unused = unused(&sources, &checked.packages);
        let names = checked.rules;
        let bundle = Self { engine, reads, settings, rules, quotas, steps_max, names, data, sha256, files, unused };
        if has_invalid {
            bundle.check_settings()?;
        }
        Ok(bundle)
    }

    /// SHA-256 over the names and contents of all files that decide, in order of their names.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// How many files it was made of.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.files
    }

    /// The files of packages outside `veribus` that nothing of it refers to, so that their rules never count.
    #[must_use]
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The documents of its data files, together.
    #[must_use]
    pub fn data(&self) -> serde_json::Value {
        self.data.to_json_str().ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The value of a rule or document, as in `data.veribus.deny`, on `input`; `None` if it is undefined. Sets come as
    /// arrays.
    ///
    /// # Errors
    /// [`EvaluationError`].
    pub fn eval(&self, reference: &str, input: &str) -> Result<Option<serde_json::Value>, EvaluationError> {
        let unknown = || EvaluationError::Reference(reference.to_owned());
        let value = if self.has_rule(reference) {
            self.eval_rule(reference, input_value(input)?)?
        } else {
            let mut names = reference.split('.');
            let below = format!("{}.", reference.trim_start_matches("data."));
            // A package is no document: it has a value only rule by rule.
            if names.next() != Some("data") || self.names.iter().any(|rule| rule.starts_with(&below)) {
                return Err(unknown());
            }
            names.fold(self.data.clone(), |value, name| value[name].clone())
        };
        if value == Value::Undefined {
            return Ok(None);
        }
        let text = value.to_json_str().map_err(|error| EvaluationError::Engine(error.to_string()))?;
        serde_json::from_str(&text).map(Some).map_err(|error| EvaluationError::Engine(error.to_string()))
    }

    /// Whether `reference` is a rule that has a value, as `data.veribus.deny`.
    #[must_use]
    pub fn has_rule(&self, reference: &str) -> bool {
        reference.strip_prefix("data.").is_some_and(|path| self.names.contains(path))
    }

    fn eval_rule(&self, reference: &str, input: Value) -> Result<Value, EvaluationError> {
        let mut engine = self.engine.clone();
        engine.set_input(input);
        meter::run(self.steps_max, || eval(&mut engine, reference))?.0
    }

    /// What the policy itself says of its settings: `data.veribus.invalid` must be empty.
    fn check_settings(&self) -> Result<(), BundleError> {
        match self.eval_rule("data.veribus.invalid", Value::new_object())? {
            Value::Set(findings) if findings.is_empty() => Ok(()),
            Value::Set(findings) => Err(BundleError::Refused(
                findings
                    .iter()
                    .map(|finding| finding.as_string().map_or_else(|_| finding.to_string(), |text| text.to_string()))
                    .map(|message| about(Rule::Settings, "data.veribus.invalid", message))
                    .collect(),
            )),
            _ => Err(EvaluationError::Shape("data.veribus.invalid").into()),
        }
    }
}

/// What parsing and checking find free of stack, in bytes.
const LOAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Evaluates one rule.
pub(super) fn eval(engine: &mut Engine, rule: &str) -> Result<Value, EvaluationError> {
    engine
        .eval_rule(rule.to_owned())
        .map_err(|error| EvaluationError::Engine(error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// An input as a file has it.
fn input_value(text: &str) -> Result<Value, EvaluationError> {
    let no_json = |error: serde_json::Error| EvaluationError::Engine(format!("the input is no JSON: {error}"));
    serde_json::from_str::<IgnoredAny>(text).map_err(no_json)?;
    if !language::number::all_are_plain(text.as_bytes()) {
        return Err(EvaluationError::Number);
    }
    language::number::value(&serde_json::from_str(text).map_err(no_json)?).ok_or(EvaluationError::Number)
}

fn about(rule: Rule, file: &str, message: String) -> Diagnostic {
    Diagnostic { file: file.to_owned(), line: 0, column: 0, rule: rule.name(), message, rewrite: rule.rewrite() }
}

fn refused(member: &str, message: String) -> BundleError {
    BundleError::Refused(vec![about(Rule::Settings, &format!("data.{member}"), message)])
}

/// The documents by file, and all together.
fn read_data(files: &BTreeMap<String, String>, findings: &mut Vec<Diagnostic>) -> (Vec<(String, Document)>, Document) {
    let mut documents = Vec::new();
    let mut whole = Document::empty();
    for (name, text) in files.iter().filter(|(name, _)| !is_rego(name) || is_hidden(name)) {
        if !is_data(name) || is_hidden(name) {
            findings.push(about(Rule::DataFile, name, "data to `opa`, and not here".to_owned()));
            continue;
        }
        match data::read(name, text) {
            Ok(document) => {
                if let Err(path) = whole.merge(document.clone()) {
                    findings.push(about(
                        Rule::DataConflict,
                        name,
                        format!("`data.{path}` has a value in another file too"),
                    ));
                }
                documents.push((name.clone(), document));
            }
            Err(finding) => findings.push(finding),
        }
    }
    (documents, whole)
}

/// Data may not stand where rules do, nor in the way to them.
fn conflicts(documents: &[(String, Document)], checked: &Checked) -> Vec<Diagnostic> {
    let meets = |document: &Document| checked.packages.iter().find(|package| document.meets(package)).cloned();
    let finding = |(name, document): &(String, Document)| {
        let package = meets(document)?.join(".");
        Some(about(Rule::DataConflict, name, format!("`data.{package}` is a package of the policy")))
    };
    documents.iter().filter_map(finding).collect()
}

/// All files, if each of them can be parsed.
fn parse(sources: &[(&str, &str)], findings: &mut Vec<Diagnostic>) -> Option<Engine> {
    let mut engine = Engine::new();
    let before = findings.len();
    for (name, text) in sources {
        let parsed = language::measure(name, text).and_then(|()| {
            engine
                .add_policy((*name).to_owned(), (*text).to_owned())
                .map_err(|error| language::syntax(name, &error.to_string()))
        });
        findings.extend(parsed.err());
    }
    (findings.len() == before).then_some(engine)
}

/// The engine that decides: the text with what it needs around what is iterated over, and the builtins that differ.
fn build(sources: &[(&str, &str)], checked: &Checked, data: Value) -> Result<Engine, BundleError> {
    let failed = |error: anyhow::Error| EvaluationError::Engine(error.to_string());
    let mut engine = Engine::new();
    engine.set_strict_builtin_errors(true);
    engine.set_execution_timer_config(meter::timer());
    for (name, text) in sources {
        let text = language::wrap(name, text, &checked.wraps);
        engine.add_policy((*name).to_owned(), text).map_err(failed)?;
    }
    engine.add_data(data).map_err(failed)?;
    functions::add(&mut engine).map_err(failed)?;
    Ok(engine)
}

/// What the engine finds only when it is about to evaluate. It is asked for a rule that no policy can have.
fn prepare(engine: &mut Engine) -> Result<(), BundleError> {
    match engine.eval_rule("data.veribus.__".to_owned()) {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("not a valid rule path") => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let file = text.lines().find_map(|line| line.strip_prefix("--> ")?.split(':').next()).unwrap_or_default();
            Err(BundleError::Refused(vec![language::syntax(file, &text)]))
        }
    }
}

fn read_files(directory: &Path) -> Result<BTreeMap<String, String>, BundleError> {
    let mut files = BTreeMap::new();
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(directory).follow_links(true).max_depth(16) {
        let entry = entry.map_err(|error| BundleError::Read { path: directory.to_owned(), source: error.into() })?;
        let name = entry.path().strip_prefix(directory).unwrap_or(entry.path()).to_string_lossy().into_owned();
        if !entry.file_type().is_file() || is_of_a_mount(&name) || !belongs(&name) {
            continue;
        }
        // A bundle is refused by its name, whatever is in it.
        let text = if name.ends_with(".tar.gz") { Ok(String::new()) } else { fs::read_to_string(entry.path()) };
        let text = text.map_err(|source| BundleError::Read { path: entry.path().to_owned(), source })?;
        bytes += text.len();
        if bytes > Bundle::BYTES_MAX {
            return Err(BundleError::TooLarge { path: directory.to_owned(), max: Bundle::BYTES_MAX });
        }
        files.insert(name, text);
    }
    Ok(files)
}

/// Volumes that Kubernetes mounts have the real files in folders like `..data`, and links to them.
fn is_of_a_mount(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with(".."))
}

/// What `opa` loads from a directory.
fn belongs(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rego" | "json" | "yaml" | "yml")) || name.ends_with(".tar.gz")
}

fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') && part != ".")
}

fn is_data(name: &str) -> bool {
    matches!(name.rsplit('/').next(), Some("data.yaml" | "data.yml" | "data.json"))
}

fn decides(name: &str) -> bool {
    is_rego(name) && !name.ends_with("_test.rego") && !is_hidden(name)
}

fn is_rego(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "rego")
}

/// The files that are neither in package `veribus` or below, nor referred to by one that is, directly or not. Where a text
/// may refer to a package, it does.
fn unused(sources: &[(&str, &str)], packages: &[Vec<String>]) -> Vec<String> {
    let root = |package: &[String]| package.first().cloned().unwrap_or_default();
    let (mut used, mut rest): (Vec<_>, Vec<_>) =
        sources.iter().zip(packages).partition(|(_, package)| root(package) == "veribus");
    while let Some(((_, text), _)) = used.pop() {
        let (found, left) = rest.into_iter().partition(|(_, package)| refers(text, &root(package)));
        used.extend::<Vec<_>>(found);
        rest = left;
    }
    rest.into_iter().map(|((name, _), _)| (*name).to_owned()).collect()
}

/// Whether a text has `data.NAME` or computes what follows `data`.
fn refers(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("data").any(|(at, _)| {
        let rest = text.get(at + "data".len()..).unwrap_or_default();
        let dotted = rest.strip_prefix('.').and_then(|rest| rest.strip_prefix(name));
        rest.starts_with('[') || dotted.is_some_and(|rest| !rest.starts_with(is_part))
    })
}

fn analyse(engine: &Engine) -> Result<Reads, EvaluationError> {
    let failed = |error: String| EvaluationError::Engine(error);
    let tree = engine.get_ast_as_json().map_err(|error| failed(error.to_string()))?;
    let tree = serde_json::from_str(&tree).map_err(|error| failed(error.to_string()))?;
    Ok(reads::analyse(&tree))
}

/// The keys of `data.topics` or `data.scopes`, which are patterns.
fn patterns(data: &Value, member: &'static str) -> Result<TopicSettings, BundleError> {
    let Ok(topics) = data[member].as_object() else { return Ok(TopicSettings::default()) };
    let patterns = topics.iter().map(|(key, _)| {
        let key = key.as_string().map_or_else(|_| key.to_string(), |text| text.to_string());
        TopicPattern::parse(&key).map_err(|source| refused(member, format!("the key `{key}`: {source}")))
    });
    Ok(TopicSettings::new(patterns.collect::<Result<_, _>>()?))
}

fn digest(files: &BTreeMap<String, String>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let loaded = files.iter().filter(|(name, _)| decides(name) || !is_rego(name));
    for part in loaded.flat_map(|(name, text)| [name, text]) {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_about_a_failed_evaluation_holds_nothing_of_the_message() {
        let policy = "package veribus\n\nallow if startswith(input.card, \"a\")\n";
        let bundle = Bundle::compile(&[("p.rego".to_owned(), policy.to_owned())].into(), 1_000).expect("loads");
        let error = bundle.eval("data.veribus.allow", r#"{"card": [4711]}"#).expect_err("no text");
        assert!(error.to_string().contains("4711"), "the engine quotes it: {error}");
        assert_eq!(error.without_values(), "evaluation failed at p.rego:3:26");
    }

    fn compile(files: &[(&str, &str)]) -> Bundle {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Bundle::compile(&files, 100_000).expect("loads")
    }

    const POLICY: &str = "package veribus\n\nallow if data.lib.a.yes\n";

    #[test]
    fn the_digest_is_of_what_decides() {
        let lib = ("lib.rego", "package lib.a\n\nyes if true\n");
        let policy = ("p.rego", POLICY);
        let alone = compile(&[policy, lib]);
        let tested = compile(&[policy, lib, ("p_test.rego", "package veribus\n\ntest_it if false\n")]);
        assert_eq!(alone.sha256(), tested.sha256());
        for more in [("more.rego", "package veribus\n\nmore if true\n"), ("data.json", "{\"a\": 1}")] {
            assert_ne!(alone.sha256(), compile(&[policy, lib, more]).sha256(), "{more:?}");
        }
    }

    #[test]
    fn a_package_counts_if_one_that_counts_refers_to_it() {
        let bundle = compile(&[
            ("lib.rego", "package lib.a\n\nyes if data.more.b.yes\n"),
            ("more.rego", "package more.b\n\nyes if true\n"),
            ("mine.rego", "package verbus\n\ndeny contains {\"rule\": \"x\"} if true\n"),
            ("below.rego", "package veribus.below\n\nyes if true\n"),
            ("p.rego", POLICY),
        ]);
        assert_eq!(bundle.unused(), ["mine.rego"]);
    }
}
