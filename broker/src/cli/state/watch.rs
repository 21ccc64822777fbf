//! `veribus state watch`.

use clap::Args;
use futures_util::TryStreamExt as _;
use owo_colors::Style;
use serde_json::{Value, json};
use veribus_client::{StateChange, StateWatch};

use super::shown;
use crate::cli::{connect::ConnectArgs, failure::Failure, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct WatchArgs {
    /// `SCOPE/BEGINNING`, or a scope alone
    prefix: String,
    /// Only what was written after this revision [default: all that is there]
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    after: u64,
    /// Print one JSON object per change
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: WatchArgs) -> Result<(), Failure> {
    let state = args.connection.connect().await?.state();
    let watch = state.watch_after(&args.prefix, args.after).await?;
    output::note(format_args!("watching {}", args.prefix));
    tokio::select! {
        done = print(watch, args.json) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn print(mut watch: StateWatch, as_json: bool) -> Result<(), Failure> {
    let mut reconnects = 0;
    while let Some(change) = watch.try_next().await? {
        if watch.reconnects() != reconnects {
            reconnects = watch.reconnects();
            output::note("the watch was taken up again after the connection was lost");
        }
        if as_json { output::json(&to_json(&change))? } else { output::line(to_line(&change))? }
    }
    Ok(())
}

const fn word(change: &StateChange) -> &'static str {
    match change {
        StateChange::Put(_) => "put",
        StateChange::Deleted { .. } => "deleted",
        StateChange::Expired { .. } => "expired",
        StateChange::Shredded { .. } => "shredded",
        _ => "changed",
    }
}

fn to_line(change: &StateChange) -> output::Line {
    let beginning = output::Line::new()
        .text(format_args!("{:<8}  ", word(change)))
        .styled(change.key(), Style::new().cyan())
        .text(format_args!("  revision {}", change.revision()));
    match change {
        StateChange::Put(value) => beginning
            .text(" from ")
            .styled(&value.metadata.writer.agent, Style::new().green())
            .text(format_args!("  {}", shown::text(value))),
        _ => beginning,
    }
}

fn to_json(change: &StateChange) -> Value {
    let mut object = match change {
        StateChange::Put(value) => shown::value_json(value),
        change => json!({"key": change.key(), "revision": change.revision()}),
    };
    if let Value::Object(object) = &mut object {
        object.insert("change".to_owned(), json!(word(change)));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_told_with_its_revision() {
        let gone = StateChange::Expired { key: "a/\u{1b}b".to_owned(), revision: 7 };
        assert_eq!(to_json(&gone), json!({"key": "a/\u{1b}b", "revision": 7, "change": "expired"}));
        let line = to_line(&gone);
        assert!(line.as_str().contains("revision 7") && line.as_str().contains("a/\\u{1b}b"), "{line:?}");
    }
}
