//! `veribus audit query` and `veribus audit tail`.

use clap::Args;
use futures_util::StreamExt as _;
use veribus_client::{AuditEntries, StoredEntry};

use super::{
    entry::{COLUMNS, EntryJson, row},
    filter::FilterArgs,
};
use crate::cli::{connect::ConnectArgs, failure::Failure, output};

/// How many entries one printed table holds, so that a long log needs little memory.
const TABLE_ROWS_MAX: usize = 1000;

#[derive(Debug, Args)]
pub(in crate::cli) struct QueryArgs {
    /// Where to begin
    #[arg(long, default_value_t = 0, value_name = "N")]
    from_index: u64,
    /// How many entries at most; 0 means all
    #[arg(long, default_value_t = 0, value_name = "N")]
    limit: u64,
    /// Print one JSON object per entry
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TailArgs {
    /// Where to begin [default: what is recorded from now on]
    #[arg(long, value_name = "N")]
    from_index: Option<u64>,
    /// Print one JSON object per entry
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn query(args: QueryArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let entries = client.audit().query(args.filter.filter(), args.from_index, args.limit);
    if args.json { lines(entries, json_line).await } else { tables(entries).await }
}

pub(super) async fn tail(args: TailArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let entries = client.audit().tail(args.from_index, args.filter.filter());
    let print = if args.json { json_line } else { text_line };
    tokio::select! {
        done = lines(entries, print) => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn lines(mut entries: AuditEntries, print: fn(StoredEntry) -> Result<(), Failure>) -> Result<(), Failure> {
    while let Some(entry) = entries.next().await {
        print(entry?)?;
    }
    Ok(())
}

fn json_line(stored: StoredEntry) -> Result<(), Failure> {
    Ok(output::json(&EntryJson::new(stored.entry, &stored.bytes))?)
}

fn text_line(stored: StoredEntry) -> Result<(), Failure> {
    let [index, time, kind, decision, agent, resource, about] = row(&stored.entry);
    let line = format!("{index:>8}  {time}  {kind:<12}  {decision:<10}  {agent:<18}  {resource:<22}  {about}");
    Ok(output::line(line.trim_end())?)
}

async fn tables(mut entries: AuditEntries) -> Result<(), Failure> {
    let mut table = output::new_table(COLUMNS);
    while let Some(entry) = entries.next().await {
        table.add_row(row(&entry?.entry));
        if table.row_count() == TABLE_ROWS_MAX {
            output::table(&table)?;
            table = output::new_table(COLUMNS);
        }
    }
    if table.row_count() > 0 {
        output::table(&table)?;
    }
    Ok(())
}
