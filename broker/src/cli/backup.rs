//! `veribus backup` and `veribus restore`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use owo_colors::Style;
use serde_json::{Value, json};
use tokio::task::{block_in_place, spawn_blocking};
use veribus_client::Client;

use super::{connect::ConnectArgs, failure::Failure, output};
use crate::backup::{BackupError, Contents, Receiver, restore as restore_backup};

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The directory to make; it is called DIR.partial until the backup is complete
    dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup; it stays as it is
    backup: PathBuf,
    /// The data directory to make, `record.data_directory` of the broker to be
    data_directory: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Takes a consistent copy of a running broker's data, and verifies it.
pub(super) async fn backup(args: BackupArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let receiver = Receiver::create(&args.dir)?;
    let partial = receiver.partial_path();
    let verified = receive(&client, receiver).await.inspect_err(|_| {
        output::note(format_args!("what was received is in {}; it is not complete", partial.display()));
    })?;
    if args.json {
        return Ok(output::json(&facts(&verified))?);
    }
    let Contents { entries, records, bytes, .. } = &verified;
    let text = format!(
        " {entries} entries, {records} records, {} in {}, head {}",
        HumanBytes(*bytes),
        args.dir.display(),
        HEXLOWER.encode(&verified.head)
    );
    output::line(done("backed up").text(text))?;
    Ok(output::line(root_key_text(&verified))?)
}

/// Verifies a backup, and copies it to a new data directory.
pub(super) async fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let RestoreArgs { backup, data_directory, json } = args;
    let directory = data_directory.clone();
    let restoring = spawn_blocking(move || restore_backup(&backup, &data_directory));
    let verified = restoring.await.map_err(Failure::failed)??;
    if json {
        return Ok(output::json(&facts(&verified))?);
    }
    let Contents { entries, records, head, .. } = &verified;
    let text =
        format!(" {entries} entries and {records} records to {}, head {}", directory.display(), HEXLOWER.encode(head));
    output::line(done("restored").text(text))?;
    Ok(output::line(root_key_text(&verified))?)
}

async fn receive(client: &Client, mut receiver: Receiver) -> Result<Contents, Failure> {
    let mut parts = client.admin().backup();
    let progress = progress_bar();
    while let Some(part) = parts.next().await {
        let part = part?;
        let so_far = block_in_place(|| receiver.take(part))?;
        progress.set_position(so_far.bytes);
        progress.set_message(format!("{} entries", so_far.entries));
    }
    progress.set_message("verifying");
    let verified = block_in_place(|| receiver.finish())?;
    progress.finish_and_clear();
    Ok(verified)
}

fn done(word: &str) -> output::Line {
    output::Line::new().styled(word, Style::new().green().bold())
}

fn facts(verified: &Contents) -> Value {
    json!({
        "verified": true,
        "entries": verified.entries,
        "head": HEXLOWER.encode(&verified.head),
        "records": verified.records,
        "bytes": verified.bytes,
        "root_key_ids": verified.root_keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn root_key_text(verified: &Contents) -> String {
    let ids: Vec<_> = verified.root_keys.iter().map(|id| format!("`{id}`")).collect();
    format!(
        "the keys in it are wrapped by root key {}, which is not in it: without that key no value can be read and no broker \
         starts from it; keep its file (`state.root_key_file`) safe, elsewhere",
        ids.join(" and ")
    )
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::NotEmpty(_)
            | BackupError::Leftover(_)
            | BackupError::NoName(_)
            | BackupError::Incomplete(_) => Self::usage(error),
            BackupError::File { .. }
            | BackupError::Open(_)
            | BackupError::Append(_)
            | BackupError::Read(_)
            | BackupError::Keys(_)
            | BackupError::Broken(_)
            | BackupError::OtherEnd { .. }
            | BackupError::Protocol(_)
            | BackupError::Manifest { .. }
            | BackupError::Changed(_) => Self::failed(error),
        }
    }
}

/// Shows only where standard error is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes}  {bytes_per_sec}  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
