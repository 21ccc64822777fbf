//! `veribus keys`: the keys that shared state is encrypted with, and the root key that wraps them. No key is ever printed.

mod shred;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use veribus_proto::v1::KeyEpoch;

use super::{connect::ConnectArgs, failure::Failure, instant, output};
use crate::seal::RootKeys;

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a root key in a new file, that only its owner can read
    Init(InitArgs),
    /// Print which keys there are
    Status(StatusArgs),
    /// Begin a new epoch: what is written from now on is encrypted with a new key
    Rotate(RotateArgs),
    /// Wrap all keys with a new root key, and destroy the old one
    Rewrap(RewrapArgs),
    /// Destroy the key of one epoch, and with it, for ever, all that it encrypts
    Shred(shred::ShredArgs),
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where the root key goes; a file that is there already stays as it is
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this scope's
    #[arg(long)]
    scope: Option<String>,
    /// Print one JSON object per key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// Only this scope's
    #[arg(long)]
    scope: Option<String>,
    /// Print one JSON object per new key
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

#[derive(Debug, Args)]
pub(super) struct RewrapArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Init(args) => init(&args),
        KeysCommand::Status(args) => status(args).await,
        KeysCommand::Rotate(args) => rotate(args).await,
        KeysCommand::Rewrap(args) => rewrap(args).await,
        KeysCommand::Shred(args) => shred::run(args).await,
    }
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let id = RootKeys::create(&args.file).map_err(Failure::failed)?;
    let file = args.file.display().to_string();
    if args.json {
        return Ok(output::json(&json!({ "root_key_id": id.as_str(), "file": file }))?);
    }
    Ok(output::line(format_args!("root key {id} in {file}"))?)
}

async fn status(args: StatusArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let found = client.admin().keys(args.scope.as_deref()).await?;
    if args.json {
        return found.keys.iter().try_for_each(|one| Ok(output::json(&key_json(one, Some(&found.root_key_id)))?));
    }
    output::line(format_args!("root key {}", found.root_key_id))?;
    print(&found.keys)
}

async fn rotate(args: RotateArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let done = client.admin().rotate_keys(args.scope.as_deref()).await?;
    if args.json {
        return done.keys.iter().try_for_each(|one| Ok(output::json(&key_json(one, None))?));
    }
    output::line(format_args!("scopes rotated: {} (entry {})", done.keys.len(), done.audit_index))?;
    if done.keys.is_empty() { Ok(()) } else { print(&done.keys) }
}

async fn rewrap(args: RewrapArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let done = client.admin().rewrap_keys().await?;
    let (id, keys, entry) = (&done.root_key_id, done.keys_rewrapped, done.audit_index);
    if args.json {
        let object = json!({ "root_key_id": id, "keys_rewrapped": keys, "audit_index": entry });
        return Ok(output::json(&object)?);
    }
    Ok(output::line(format_args!("root key {id} wraps {keys} keys (entry {entry}); the old root key is destroyed"))?)
}

fn print(keys: &[KeyEpoch]) -> Result<(), Failure> {
    let mut table = output::new_table(["SCOPE", "EPOCH", "CREATED", "STATE"]);
    keys.iter().for_each(|one| {
        table.add_row(row(one));
    });
    Ok(output::table(&table)?)
}

fn row(key: &KeyEpoch) -> [String; 4] {
    let state = match &key.shredded_at {
        Some(at) => format!("shredded {}", moment(Some(at))),
        None => if key.current { "current" } else { "readable" }.to_owned(),
    };
    [key.scope.clone(), key.epoch.to_string(), moment(key.created_at.as_ref()), state]
}

fn key_json(key: &KeyEpoch, root_key_id: Option<&str>) -> serde_json::Value {
    let mut object = json!({
        "scope": key.scope, "epoch": key.epoch, "current": key.current,
        "created_at": moment(key.created_at.as_ref()),
        "shredded_at": key.shredded_at.as_ref().map(|at| moment(Some(at))),
    });
    if let (Some(id), Some(members)) = (root_key_id, object.as_object_mut()) {
        members.insert("root_key_id".to_owned(), id.into());
    }
    object
}

fn moment(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.copied().unwrap_or_default();
    instant::from_micros(time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_current_or_readable_or_shredded() {
        let key = KeyEpoch { scope: "tickets".to_owned(), epoch: 2, current: true, ..KeyEpoch::default() };
        assert_eq!(row(&key), ["tickets", "2", "1970-01-01T00:00:00.000000Z", "current"]);
        assert_eq!(row(&KeyEpoch { current: false, ..key.clone() })[3], "readable");
        let shredded_at = Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 0 });
        let shredded = KeyEpoch { current: false, shredded_at, ..key };
        assert_eq!(row(&shredded)[3], "shredded 2026-09-21T14:13:20.000000Z");
        assert_eq!(key_json(&shredded, None)["shredded_at"], "2026-09-21T14:13:20.000000Z");
    }

    #[test]
    fn a_root_key_is_made_once_and_never_overwritten() {
        let place = tempfile::tempdir().expect("a directory");
        let args = InitArgs { file: place.path().join("root.key"), json: true };
        assert_eq!(init(&args), Ok(()));
        let before = std::fs::read(&args.file).expect("read");
        assert!(matches!(init(&args), Err(Failure::Failed(_))));
        assert_eq!(std::fs::read(&args.file).expect("read"), before);
    }
}
