//! `veribus state list`.

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _};
use veribus_client::StateList;

use super::shown;
use crate::cli::{connect::ConnectArgs, failure::Failure, output};

/// How many values one printed table holds, so that a long listing needs little memory.
const TABLE_ROWS_MAX: usize = 1000;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// `SCOPE/BEGINNING`, or a scope alone
    prefix: String,
    /// Print one JSON object per value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: ListArgs) -> Result<(), Failure> {
    let values = args.connection.connect().await?.state().list(args.prefix);
    if args.json { lines(values).await } else { tables(values).await }
}

async fn lines(mut values: StateList) -> Result<(), Failure> {
    while let Some(value) = values.try_next().await? {
        output::json(&shown::listed_json(&value))?;
    }
    Ok(())
}

async fn tables(values: StateList) -> Result<(), Failure> {
    let mut parts = values.map_err(Failure::from).try_chunks(TABLE_ROWS_MAX);
    while let Some(part) = parts.next().await {
        let mut table = output::new_table(shown::COLUMNS);
        for value in part.map_err(|broken| broken.1)? {
            table.add_row(shown::row(&value));
        }
        output::table(&table)?;
    }
    Ok(())
}
