//! The Open Policy Agent as a program that answers line by line: `tests/opa`, installed by `go install`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json, value::RawValue};

/// A policy as it lies in a directory, and what is asked of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Case {
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) queries: Vec<String>,
    /// JSON, as it is written.
    pub(crate) inputs: Vec<String>,
}

/// What OPA says of one query on one input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// The value; `None` where it is undefined; the error that no setting turns into undefined.
    pub(crate) value: Result<Option<Value>, String>,
    /// What fails when errors of builtins count.
    pub(crate) strict_error: Option<String>,
    /// The same, where each rule is evaluated in full.
    pub(crate) full_error: Option<String>,
}

/// What OPA says of a case: why it does not load, or the outcomes, by input and query.
pub(crate) type Answer = Result<Vec<Vec<Outcome>>, String>;

pub(crate) struct Oracle {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

const NAME: &str = "veribus-opa-oracle";

impl Oracle {
    /// The installed program; without it the test is skipped aloud, or fails where `VERIBUS_OPA_REQUIRED` says so.
    pub(crate) fn start() -> Option<Self> {
        let Some(path) = installed() else {
            assert!(std::env::var_os("VERIBUS_OPA_REQUIRED").is_none(), "{NAME} is required, and not installed");
            super::say(format_args!(
                "skipped: {NAME} is not installed (`go install .` in tests/opa), nothing is compared"
            ));
            return None;
        };
        let mut child =
            Command::new(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the oracle starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { child, stdin, stdout })
    }

    /// What OPA says of a case.
    pub(crate) fn ask(&mut self, case: &Case) -> Answer {
        let inputs: Vec<Box<RawValue>> =
            case.inputs.iter().map(|text| RawValue::from_string(text.clone()).expect("JSON")).collect();
        let answer = self.exchange(&json!({ "files": case.files, "queries": case.queries }), Some(inputs));
        if let Some(reason) = answer["refused"].as_str() {
            return Err(reason.to_owned());
        }
        let rows = answer["outcomes"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().map(|row| row.as_array().expect("a row").iter().map(outcome).collect()).collect())
    }

    /// As `opa check --strict --capabilities`: why it does not load, if it does not.
    pub(crate) fn check(&mut self, files: &BTreeMap<String, String>, capabilities: &str) -> Option<String> {
        let answer = self.exchange(&json!({ "files": files, "capabilities": capabilities }), None);
        answer["refused"].as_str().map(str::to_owned)
    }

    /// As `opa test`: the tests by name, and whether they passed.
    pub(crate) fn test(&mut self, files: &BTreeMap<String, String>) -> BTreeMap<String, bool> {
        let answer = self.exchange(&json!({ "files": files, "tests": true }), None);
        let tests = answer["tests"].as_object().expect("tests");
        tests.iter().map(|(name, passed)| (name.clone(), *passed == json!(true))).collect()
    }

    /// Inputs go as they are written: not every number survives being parsed.
    fn exchange(&mut self, request: &Value, inputs: Option<Vec<Box<RawValue>>>) -> Value {
        #[derive(serde::Serialize)]
        struct Request<'a> {
            #[serde(flatten)]
            request: &'a Value,
            inputs: Vec<Box<RawValue>>,
        }
        let request = Request { request, inputs: inputs.unwrap_or_default() };
        let mut line = serde_json::to_string(&request).expect("JSON");
        line.push('\n');
        self.stdin.as_mut().expect("open").write_all(line.as_bytes()).expect("the oracle reads");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the oracle answers");
        serde_json::from_str(&answer).expect("JSON")
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn outcome(answer: &Value) -> Outcome {
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    let value = match (text("error"), answer["undefined"] == json!(true)) {
        (Some(error), _) => Err(error),
        (None, true) => Ok(None),
        (None, false) => Ok(Some(answer["value"].clone())),
    };
    Outcome { value, strict_error: text("strict_error"), full_error: text("full_error") }
}

/// Where `go install` puts programs.
fn installed() -> Option<PathBuf> {
    let setting = |name: &str| {
        let output = Command::new("go").args(["env", name]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let directory =
        setting("GOBIN").map(PathBuf::from).or_else(|| Some(PathBuf::from(setting("GOPATH")?).join("bin")))?;
    Some(directory.join(NAME)).filter(|path| path.is_file())
}
