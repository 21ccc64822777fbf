//! `veribus state get`.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use veribus_client::StateValue;

use super::shown;
use crate::cli::{connect::ConnectArgs, failure::Failure, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct GetArgs {
    /// `SCOPE/NAME`
    key: String,
    /// An earlier revision that is still kept [default: the latest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
    /// Print one JSON object, with what is known of the value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: GetArgs) -> Result<(), Failure> {
    let state = args.connection.connect().await?.state();
    let value = match args.revision {
        Some(revision) => state.get_revision(&args.key, revision).await?,
        None => state.get(&args.key).await?,
    };
    let value = value.ok_or_else(|| Failure::failed(format!("there is no value under `{}`", args.key)))?;
    if args.json { Ok(output::json(&shown::value_json(&value))?) } else { print(&value) }
}

/// Programs get the value as it is.
fn print(value: &StateValue) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        return Ok(output::line(shown::text(value))?);
    }
    let mut out = io::stdout().lock();
    out.write_all(&value.value)?;
    Ok(out.flush()?)
}
