//! `veribus policy`: does a policy load, and what does it answer?

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{failure::Failure, output};
use crate::decide::{Bundle, BundleError, Diagnostic};

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Load a policy as the broker does, and print everything that keeps it from loading
    Check(CheckArgs),
    /// Print what the broker's own engine answers on an input
    Eval(EvalArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The directory with `*.rego` and data files
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print one JSON object per finding, or one about the policy if there is none
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// The directory with `*.rego` and data files
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The input document, JSON; `-` for standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// One more data document, JSON or YAML, merged at the root of `data`
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// A rule or document, as in `data.veribus.deny`; without it the three values that decide
    #[arg(long, value_name = "REF")]
    query: Option<String>,
    /// How many steps the evaluation may take
    #[arg(long, value_name = "NUMBER", default_value_t = crate::config::EVALUATION_STEPS_MAX)]
    steps_max: u64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Check(args) => check(&args),
        PolicyCommand::Eval(args) => eval(&args),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    match Bundle::load(&args.directory, crate::config::EVALUATION_STEPS_MAX) {
        Ok(bundle) => {
            let sha256 = data_encoding::HEXLOWER.encode(bundle.sha256());
            let files = bundle.files();
            if args.json {
                output::json(&json!({ "files": files, "sha256": sha256 }))?;
            } else {
                output::line(format_args!("the policy loads: files {files}, SHA-256 {sha256}"))?;
            }
            Ok(())
        }
        Err(BundleError::Refused(findings)) => {
            print_findings(&findings, args.json)?;
            Err(Failure::Reported)
        }
        Err(error) => Err(unusable(error)),
    }
}

fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let mut files = Bundle::read(&args.directory).map_err(unusable)?;
    if let Some(path) = &args.data {
        // The same document as if it lay in the directory, beside the others.
        let kind = if path.extension().is_some_and(|extension| extension == "json") { "json" } else { "yaml" };
        files.insert(format!("./data.{kind}"), read(path)?);
    }
    let input = read(&args.input)?;
    let bundle = match Bundle::compile(&files, args.steps_max) {
        Ok(bundle) => bundle,
        Err(BundleError::Refused(findings)) => {
            print_findings(&findings, args.json)?;
            return Err(Failure::Reported);
        }
        Err(error) => return Err(unusable(error)),
    };
    if let Some(query) = &args.query {
        let value = bundle.eval(query, &input).map_err(Failure::failed)?;
        if args.json {
            output::json(&answer(query, value))?;
        } else {
            output::line(shown(value.as_ref()))?;
        }
        return Ok(());
    }
    let mut decisions = serde_json::Map::new();
    for rule in ["allow", "deny", "quarantine"] {
        let reference = format!("data.veribus.{rule}");
        let value =
            if bundle.has_rule(&reference) { bundle.eval(&reference, &input).map_err(Failure::failed)? } else { None };
        if args.json {
            decisions.insert(rule.to_owned(), answer(&reference, value));
        } else {
            output::line(format_args!("{rule}: {}", shown(value.as_ref())))?;
        }
    }
    if args.json {
        output::json(&decisions)?;
    }
    Ok(())
}

fn answer(query: &str, value: Option<Json>) -> Json {
    match value {
        Some(value) => json!({ "query": query, "value": value }),
        None => json!({ "query": query, "undefined": true }),
    }
}

fn shown(value: Option<&Json>) -> String {
    value.map_or_else(|| "undefined".to_owned(), output::json_text)
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    let text =
        if path.as_os_str() == "-" { std::io::read_to_string(std::io::stdin()) } else { fs::read_to_string(path) };
    text.map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))
}

fn unusable(error: BundleError) -> Failure {
    match error {
        BundleError::Read { .. } | BundleError::Empty(_) => Failure::usage(error),
        _ => Failure::failed(error),
    }
}

/// All findings, each with its place and how to write it instead.
pub(super) fn print_findings(findings: &[Diagnostic], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(findings.iter().try_for_each(output::json)?);
    }
    for finding in findings {
        output::line(finding)?;
    }
    let count = findings.len();
    Ok(output::line(format_args!(
        "the policy does not load: {count} {}",
        if count == 1 { "finding" } else { "findings" }
    ))?)
}
