//! `veribus pub`: one message, and what became of it.

use std::{fs, io, path::PathBuf};

use clap::Args;
use data_encoding::HEXLOWER;
use owo_colors::Style;
use serde_json::{Value, json};
use veribus_client::{Decision, Error, Message, Receipt, Refusal};

use super::{
    connect::ConnectArgs,
    failure::Failure,
    output::{self, Line},
};

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BINARY: &str = "application/octet-stream";

#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The topic
    topic: String,
    /// The message type, for example `finance.transaction`
    #[arg(long = "type", value_name = "TYPE")]
    kind: String,
    /// The payload
    #[arg(long, value_name = "TEXT", required_unless_present = "data_file", allow_hyphen_values = true)]
    data: Option<String>,
    /// A file that holds the payload, `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    data_file: Option<PathBuf>,
    /// The payload's media type [default: JSON or plain text, if it is one]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// For whom alone it is meant: an agent's id or `role:NAME`
    #[arg(long, visible_alias = "to", value_name = "AGENT")]
    destination: Option<String>,
    /// The message's id; publishing it again then has no further effect [default: a new one]
    #[arg(long)]
    id: Option<String>,
    /// What the message is about
    #[arg(long)]
    subject: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(mut args: PublishArgs) -> Result<(), Failure> {
    let data = payload(args.data.take(), args.data_file.take())?;
    let as_json = args.json;
    let (message, connection) = message(args, data);
    let client = connection.connect().await?;
    match client.publish(message).await {
        Ok(receipt) => accepted(&receipt, as_json),
        Err(Error::Refused(refusal)) if refusal.decision_id.is_some() => refused(&refusal, as_json),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn payload(data: Option<String>, file: Option<PathBuf>) -> Result<Vec<u8>, Failure> {
    let Some(path) = file else { return Ok(data.unwrap_or_default().into_bytes()) };
    let read = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        fs::read(&path)
    };
    read.map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))
}

fn message(args: PublishArgs, data: Vec<u8>) -> (Message, ConnectArgs) {
    let content_type = args.content_type.unwrap_or_else(|| content_type(&data).to_owned());
    let message = Message::new(args.topic, args.kind, data)
        .content_type(content_type)
        .to(args.destination.unwrap_or_default())
        .id(args.id.unwrap_or_default())
        .subject(args.subject.unwrap_or_default());
    (message, args.connection)
}

pub(super) fn content_type(data: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        JSON
    } else if std::str::from_utf8(data).is_ok() {
        TEXT
    } else {
        BINARY
    }
}

fn accepted(receipt: &Receipt, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::json(&receipt_json(receipt))?;
    } else {
        let word = match receipt.decision {
            Decision::Allow => Line::new().styled("allowed", Style::new().green().bold()),
            Decision::Quarantine => Line::new().styled("quarantined", Style::new().yellow().bold()),
        };
        let line = summary(word, &receipt.decision_id, receipt.audit_index, receipt.duplicate);
        output::line(line.text(audience(receipt)))?;
    }
    match receipt.decision {
        Decision::Allow => Ok(()),
        Decision::Quarantine => Err(Failure::Reported),
    }
}

fn refused(refusal: &Refusal, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::json(&refusal_json(refusal))?;
    } else {
        let (id, index) = (refusal.decision_id.as_deref().unwrap_or_default(), refusal.audit_index.unwrap_or_default());
        let word = Line::new().styled("denied", Style::new().red().bold());
        let line = summary(word, id, index, refusal.duplicate);
        output::line(line.text(format_args!("  {}: {}", refusal.reason, refusal.message)))?;
    }
    Err(Failure::Reported)
}

fn summary(word: Line, decision_id: &str, audit_index: u64, duplicate: bool) -> Line {
    let again = if duplicate { "  (as decided before)" } else { "" };
    word.text(format_args!("  decision {decision_id}  entry {audit_index}{again}"))
}

/// A sender should not have to ask the log why nobody answers.
fn audience(receipt: &Receipt) -> String {
    match (receipt.decision, receipt.recipients) {
        (Decision::Allow, Some(0)) => "  to nobody: no subscription matches".to_owned(),
        (Decision::Allow, Some(1)) => "  to 1 subscription".to_owned(),
        (Decision::Allow, Some(recipients)) => format!("  to {recipients} subscriptions"),
        (Decision::Allow, None) | (Decision::Quarantine, _) => String::new(),
    }
}

const fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Quarantine => "quarantine",
    }
}

fn receipt_json(receipt: &Receipt) -> Value {
    json!({
        "message_id": receipt.message_id,
        "decision": word(receipt.decision),
        "decision_id": receipt.decision_id,
        "audit_index": receipt.audit_index,
        "content_salt": receipt.content_salt.map(|salt| HEXLOWER.encode(&salt)),
        "retained": receipt.retained,
        "duplicate": receipt.duplicate,
        "recipients": receipt.recipients,
    })
}

fn refusal_json(refusal: &Refusal) -> Value {
    json!({
        "message_id": refusal.message_id,
        "decision": "deny",
        "decision_id": refusal.decision_id,
        "audit_index": refusal.audit_index,
        "reason": refusal.reason,
        "message": refusal.message,
        "duplicate": refusal.duplicate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_is_what_the_payload_is() {
        for (data, expected) in [
            (&b"{\"a\": 1}"[..], JSON),
            (b"12", JSON),
            (b"{\"a\": 1} and more", TEXT),
            (b"hello", TEXT),
            (b"", TEXT),
            (b"\xff\xfe", BINARY),
        ] {
            assert_eq!(content_type(data), expected, "{data:?}");
        }
    }

    #[test]
    fn a_payload_comes_from_a_file_or_from_the_argument() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("data");
        fs::write(&path, b"\x00\xff").expect("written");
        assert_eq!(payload(None, Some(path)), Ok(b"\x00\xff".to_vec()));
        assert_eq!(payload(Some("text".to_owned()), None), Ok(b"text".to_vec()));
        assert!(matches!(payload(None, Some("/nowhere".into())), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_duplicate_says_so() {
        let told = |duplicate| summary("allowed".into(), "dev-7", 7, duplicate).as_str().to_owned();
        assert_eq!(told(false), "allowed  decision dev-7  entry 7");
        assert!(told(true).ends_with("(as decided before)"));
    }
}
