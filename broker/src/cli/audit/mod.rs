//! `veribus audit`: what happened, and whether the log is whole.

mod entry;
mod export;
mod filter;
mod query;
mod reload;
mod shared;
mod verify;

use clap::Subcommand;

pub(super) use entry::{revocation_json, revocation_text};

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Print entries that are recorded already
    Query(query::QueryArgs),
    /// Print entries as they are recorded
    Tail(query::TailArgs),
    /// Follow the hash chain from the first entry to the last
    Verify(verify::VerifyArgs),
    /// Write all entries to a file, as they are stored
    Export(export::ExportArgs),
}

pub(super) async fn run(command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Query(args) => query::query(args).await,
        AuditCommand::Tail(args) => query::tail(args).await,
        AuditCommand::Verify(args) => verify::run(args).await,
        AuditCommand::Export(args) => export::run(args).await,
    }
}
