//! A policy as it lies in a directory, in the layout of the `opa` tool: `*.rego`, `data.yaml`, `data.json`.
//!
//! `*_test.rego` are the policy's own tests: they belong to its digest, and are not part of what decides.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{
    input::{Settings, TopicSettings},
    quotas,
    reads::{self, Analysis},
};
use crate::model::{QuotaOverrides, TopicError, TopicPattern};

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
    /// A file that does not compile, or data that does not parse.
    #[error("`{file}` is not valid: {detail}")]
    Invalid {
        /// Relative to the directory.
        file: String,
        /// What the engine said, on one line.
        detail: String,
    },
    /// Nothing could ever be allowed.
    #[error("the policy has no rule `data.veribus.allow`, so nothing could be allowed")]
    NoAllow,
    /// A call that the engine cannot answer: a rule built on it would never fire.
    #[error("the policy calls `{0}`, which this broker cannot answer")]
    RefusedCall(String),
    /// A key of `data.topics` or `data.scopes` that is no topic pattern.
    #[error("`data.{member}` has the key `{key}`: {source}")]
    TopicPattern {
        /// Which of the two.
        member: &'static str,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: TopicError,
    },
    /// Quotas that cannot be kept.
    #[error("`data.quotas` is not valid: {0}")]
    Quotas(String),
}

/// A compiled policy.
pub struct Bundle {
    pub(super) engine: Engine,
    pub(super) analysis: Analysis,
    pub(super) settings: Settings,
    pub(super) rules: DecisionRules,
    pub(super) quotas: QuotaOverrides,
    sha256: [u8; 32],
    files: usize,
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

    /// Reads and compiles the policy in `directory`, at any depth; one evaluation may take `evaluation_max`.
    ///
    /// # Errors
    /// [`BundleError`]; nothing of a policy is used unless all of it is good.
    pub fn load(directory: &Path, evaluation_max: Duration) -> Result<Self, BundleError> {
        Self::compile(&read_files(directory)?, directory, evaluation_max)
    }

    /// SHA-256 over the names and contents of all files, in order of their names.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// How many files it was made of.
    #[must_use]
    pub const fn files(&self) -> usize {
        self.files
    }

    fn compile(
        files: &BTreeMap<String, String>,
        directory: &Path,
        evaluation_max: Duration,
    ) -> Result<Self, BundleError> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: evaluation_max,
            check_interval: NonZeroU32::MIN,
        });
        for (file, text) in files {
            add_file(&mut engine, file, text)?;
        }
        let analysis = analyse(&engine, directory)?;
        if let Some(call) = analysis.refused_calls.first() {
            return Err(BundleError::RefusedCall(call.clone()));
        }
        let rules = try_out(&mut engine)?;
        let data = engine.get_data();
        let settings = Settings { topics: patterns(&data, "topics")?, scopes: patterns(&data, "scopes")? };
        let quotas = quotas::overrides(&engine.get_data()).map_err(BundleError::Quotas)?;
        Ok(Self { engine, analysis, settings, rules, quotas, sha256: digest(files), files: files.len() })
    }
}

fn read_files(directory: &Path) -> Result<BTreeMap<String, String>, BundleError> {
    let mut files = BTreeMap::new();
    let mut bytes = 0;
    for entry in walkdir::WalkDir::new(directory).follow_links(true).max_depth(16) {
        let entry = entry.map_err(|error| BundleError::Read { path: directory.to_owned(), source: error.into() })?;
        let name = entry.path().strip_prefix(directory).unwrap_or(entry.path()).to_string_lossy().into_owned();
        if !entry.file_type().is_file() || hidden(&name) || !belongs(&name) {
            continue;
        }
        let text = fs::read_to_string(entry.path())
            .map_err(|source| BundleError::Read { path: entry.path().to_owned(), source })?;
        bytes += text.len();
        if bytes > Bundle::BYTES_MAX {
            return Err(BundleError::TooLarge { path: directory.to_owned(), max: Bundle::BYTES_MAX });
        }
        files.insert(name, text);
    }
    if files.keys().any(|name| decides(name)) { Ok(files) } else { Err(BundleError::Empty(directory.to_owned())) }
}

/// Editors and mounted Kubernetes volumes leave hidden copies beside the real files.
fn hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

fn belongs(name: &str) -> bool {
    is_rego(name) || matches!(file_name(name), "data.yaml" | "data.yml" | "data.json")
}

fn decides(name: &str) -> bool {
    is_rego(name) && !name.ends_with("_test.rego")
}

fn is_rego(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "rego")
}

fn file_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn add_file(engine: &mut Engine, file: &str, text: &str) -> Result<(), BundleError> {
    let added = match file_name(file) {
        "data.json" => Value::from_json_str(text).and_then(|data| engine.add_data(data)),
        "data.yaml" | "data.yml" => Value::from_yaml_str(text).and_then(|data| engine.add_data(data)),
        _ if decides(file) => engine.add_policy(file.to_owned(), text.to_owned()).map(drop),
        _ => Ok(()),
    };
    added.map_err(|error| invalid(file, &error.to_string()))
}

fn invalid(file: &str, detail: &str) -> BundleError {
    let detail = detail.split_whitespace().collect::<Vec<_>>().join(" ");
    BundleError::Invalid { file: file.to_owned(), detail }
}

fn analyse(engine: &Engine, directory: &Path) -> Result<Analysis, BundleError> {
    let tree = engine
        .get_ast_as_json()
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
        .map_err(|detail| invalid(&directory.display().to_string(), &detail))?;
    Ok(reads::analyse(&tree))
}

/// Evaluates once on an empty input, so that what only shows then (an unknown function, recursion) shows now.
fn try_out(engine: &mut Engine) -> Result<DecisionRules, BundleError> {
    engine.set_input(Value::new_object());
    let defined = |engine: &mut Engine, rule: &str| match engine.eval_rule(format!("data.veribus.{rule}")) {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("not a valid rule path") => Ok(false),
        Err(error) => Err(invalid(&format!("data.veribus.{rule}"), &error.to_string())),
    };
    if !defined(engine, "allow")? {
        return Err(BundleError::NoAllow);
    }
    Ok(DecisionRules { deny: defined(engine, "deny")?, quarantine: defined(engine, "quarantine")? })
}

/// The keys of `data.topics` or `data.scopes`, which are patterns.
fn patterns(data: &Value, member: &'static str) -> Result<TopicSettings, BundleError> {
    let Ok(topics) = data[member].as_object() else { return Ok(TopicSettings::default()) };
    let patterns = topics.keys().map(|key| {
        let key = key.as_string().map_or_else(|_| key.to_string(), |text| text.to_string());
        TopicPattern::parse(&key).map_err(|source| BundleError::TopicPattern { member, key, source })
    });
    Ok(TopicSettings::new(patterns.collect::<Result<_, _>>()?))
}

fn digest(files: &BTreeMap<String, String>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in files.iter().flat_map(|(name, text)| [name, text]) {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}
