//! `veribus audit verify`: follows the hash chain from the first entry to the last, without trusting the broker's word.
//!
//! What was cut off at the end cannot be seen here: compare the printed head with one that was noted before.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use data_encoding::HEXLOWER;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::Style;
use serde_json::json;
use thiserror::Error;
use veribus_client::{AuditFilter, Client};
use veribus_proto::{
    chain::{BrokenChain, ChainVerifier},
    entries::{self, EntriesError},
};

use crate::cli::{connect::ConnectArgs, failure::Failure, output};

const READ_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Verify an exported file instead of a broker's log
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

/// Why a log does not verify.
#[derive(Debug, Error)]
enum Fault {
    #[error(transparent)]
    Broken(#[from] BrokenChain),
    #[error("entry {index} is cut off: {fault}")]
    CutOff { index: u64, fault: EntriesError },
    #[error("cannot read: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Client(#[from] veribus_client::Error),
}

impl Fault {
    /// Where the log is broken, if it is the log that is at fault.
    const fn index(&self) -> Option<u64> {
        match self {
            Self::Broken(BrokenChain { index, .. }) | Self::CutOff { index, .. } => Some(*index),
            Self::Read(_) | Self::Client(_) => None,
        }
    }
}

pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let progress = progress_bar();
    let verified = match &args.file {
        Some(path) => verify_file(open(path)?, &progress),
        None => verify_log(&args.connection.connect().await?, &progress).await,
    };
    progress.finish_and_clear();
    match verified {
        Ok(chain) => tell(&chain, args.json),
        Err(fault) => Err(broken(&fault, args.json)),
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::usage(format!("cannot read `{}`: {error}", path.display())))
}

async fn verify_log(client: &Client, progress: &ProgressBar) -> Result<ChainVerifier, Fault> {
    let mut chain = ChainVerifier::from_genesis();
    let mut entries = client.audit().query(AuditFilter::all(), 0, 0);
    while let Some(stored) = entries.next().await {
        chain.push(&stored?.bytes)?;
        progress.inc(1);
    }
    Ok(chain)
}

/// Reads piece by piece: an export may be larger than the memory.
fn verify_file(mut file: impl Read, progress: &ProgressBar) -> Result<ChainVerifier, Fault> {
    let mut chain = ChainVerifier::from_genesis();
    let mut unread = Vec::new();
    loop {
        let is_end = file.by_ref().take(READ_BYTES).read_to_end(&mut unread)? == 0;
        let mut rest = 0;
        for entry in entries::iter(&unread) {
            match entry {
                Ok(entry) => drop(chain.push(entry)?),
                Err(EntriesError::CutOff(bytes)) if !is_end => rest = bytes,
                Err(fault) => return Err(Fault::CutOff { index: chain.next_index(), fault }),
            }
        }
        progress.set_position(chain.next_index());
        if is_end {
            return Ok(chain);
        }
        unread.drain(..unread.len().saturating_sub(rest));
    }
}

fn tell(chain: &ChainVerifier, as_json: bool) -> Result<(), Failure> {
    let (entries, head) = (chain.next_index(), HEXLOWER.encode(&chain.head().unwrap_or_default()));
    if as_json {
        return Ok(output::json(&json!({"verified": true, "entries": entries, "head": head}))?);
    }
    let line = output::Line::new().styled("verified", Style::new().green().bold());
    Ok(output::line(line.text(format_args!(" {entries} entries, head {head}")))?)
}

fn broken(fault: &Fault, as_json: bool) -> Failure {
    if !as_json {
        return match fault.index() {
            Some(_) => Failure::failed(format!("the audit log is broken: {fault}")),
            None => Failure::failed(fault),
        };
    }
    let told = json!({"verified": false, "broken_at": fault.index(), "fault": fault.to_string()});
    output::json(&told).map_or_else(Failure::from, |()| Failure::Reported)
}

/// Shows only where standard error is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} entries  {per_sec}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use veribus_proto::{
        chain::{GENESIS, leaf_hash},
        v1::AuditEntry,
    };

    use super::*;

    fn export(length: u64, detail_bytes: usize) -> Vec<u8> {
        let (mut prev, mut file) = (GENESIS, Vec::new());
        for index in 0..length {
            let detail = "x".repeat(detail_bytes);
            let bytes = AuditEntry { index, prev: prev.to_vec(), detail, ..AuditEntry::default() }.encode_to_vec();
            prev = leaf_hash(&bytes);
            entries::push(&mut file, &bytes).expect("fits");
        }
        file
    }

    fn verify(file: &[u8]) -> Result<ChainVerifier, Fault> {
        verify_file(file, &ProgressBar::hidden())
    }

    #[test]
    fn an_export_of_several_pieces_verifies() {
        let file = export(100, 40_000);
        assert!(file.len() as u64 > 3 * READ_BYTES);
        let chain = verify(&file).expect("whole");
        assert_eq!(chain.next_index(), 100);
        let last = entries::iter(&file).last().expect("some").expect("whole");
        assert_eq!(chain.head(), Some(leaf_hash(last)));
    }

    #[test]
    fn a_flipped_byte_is_named_by_its_entry_or_the_next() {
        let whole = export(5, 10);
        let entry_bytes = whole.len() / 5 + 1;
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            let at = u64::try_from(position / entry_bytes).expect("small");
            match verify(&changed) {
                Ok(chain) => assert_eq!(at, 4, "byte {position}: only the last entry has no next: {chain:?}"),
                Err(fault) => {
                    let index = fault.index().expect("the log's fault");
                    assert!(index.abs_diff(at) <= 1, "byte {position} of entry {at}: {fault}");
                }
            }
        }
    }

    #[test]
    fn an_entry_that_is_cut_off_is_named() {
        let file = export(3, 10);
        let fault = verify(&file[..file.len() - 1]).expect_err("cut off");
        assert_eq!(fault.index(), Some(2), "{fault}");
        assert!(fault.to_string().starts_with("entry 2 is cut off"), "{fault}");
    }

    #[test]
    fn an_empty_log_is_whole() {
        assert_eq!(verify(b"").expect("whole").next_index(), 0);
    }
}
