//! `veribus state put` and `veribus state delete`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use data_encoding::HEXLOWER;
use owo_colors::Style;
use serde_json::{Value, json};
use veribus_client::Error;

use crate::cli::{
    connect::ConnectArgs,
    failure::Failure,
    output,
    publish::{content_type, payload},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct PutArgs {
    /// `SCOPE/NAME`
    key: String,
    /// The value
    #[arg(long, value_name = "TEXT", required_unless_present = "file", allow_hyphen_values = true)]
    data: Option<String>,
    /// A file that holds the value, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// The value's media type [default: JSON or plain text, if it is one]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Write only if this is the revision that stands there; 0: only if there is no value
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    /// The value is gone after this time, for example `1h`
    #[arg(long, value_name = "TIME", value_parser = time_to_live)]
    ttl: Option<Duration>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DeleteArgs {
    /// `SCOPE/NAME`
    key: String,
    /// Delete only if this is the revision that stands there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    if_revision: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn put(args: PutArgs) -> Result<(), Failure> {
    let data = payload(args.data, args.file)?;
    let content_type = args.content_type.unwrap_or_else(|| content_type(&data).to_owned());
    let state = args.connection.connect().await?.state();
    let mut put = state.put(&args.key, data).content_type(content_type);
    if let Some(revision) = args.if_revision {
        put = put.if_revision(revision);
    }
    if let Some(ttl) = args.ttl {
        put = put.ttl(ttl);
    }
    let written = put.await.map_err(|error| not_done(error, args.json))?;
    let (revision, decision_id) = (written.revision, &written.decision_id);
    if args.json {
        return Ok(output::json(&json!({
            "key": args.key, "outcome": "written", "revision": revision, "decision_id": decision_id,
            "content_salt": HEXLOWER.encode(&written.content_salt),
        }))?);
    }
    told("written", revision, decision_id)
}

pub(super) async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let state = args.connection.connect().await?.state();
    let mut delete = state.delete(&args.key);
    if let Some(revision) = args.if_revision {
        delete = delete.if_revision(revision);
    }
    let deleted = delete.await.map_err(|error| not_done(error, args.json))?;
    let (revision, decision_id) = (deleted.revision, &deleted.decision_id);
    let word = if deleted.existed { "deleted" } else { "absent" };
    if args.json {
        return Ok(output::json(
            &json!({"key": args.key, "outcome": word, "revision": revision, "decision_id": decision_id}),
        )?);
    }
    told(word, revision, decision_id)
}

fn told(word: &str, revision: u64, decision_id: &str) -> Result<(), Failure> {
    let line = output::Line::new().styled(word, Style::new().green().bold());
    Ok(output::line(line.text(format_args!("  revision {revision}  decision {decision_id}")))?)
}

/// What the broker decided is printed where programs look for it; everything else is told to the user.
fn not_done(error: Error, as_json: bool) -> Failure {
    match decision_json(&error).filter(|_| as_json) {
        Some(object) => output::json(&object).map_or_else(Failure::from, |()| Failure::Reported),
        None => error.into(),
    }
}

fn decision_json(error: &Error) -> Option<Value> {
    match error {
        Error::Conflict { key, current_revision } => {
            Some(json!({"key": key, "outcome": "conflict", "current_revision": current_revision}))
        }
        Error::Refused(refusal) if refusal.decision_id.is_some() => Some(json!({
            "outcome": "refused", "reason": refusal.reason, "message": refusal.message,
            "decision_id": refusal.decision_id, "audit_index": refusal.audit_index,
        })),
        _ => None,
    }
}

fn time_to_live(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("a value cannot be gone at once".to_owned()),
        Ok(ttl) => Ok(ttl),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_an_object_to_programs_and_a_reason_to_people() {
        let conflict = || Error::Conflict { key: "a/b".to_owned(), current_revision: Some(7) };
        let object = decision_json(&conflict()).expect("a decision");
        assert_eq!(object, json!({"key": "a/b", "outcome": "conflict", "current_revision": 7}));
        assert_eq!(not_done(conflict(), false), Failure::Failed("`a/b` has the revision 7".to_owned()));
        assert_eq!(not_done(Error::Closed, true), Failure::Failed("closed".to_owned()));
    }
}
