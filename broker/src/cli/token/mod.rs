//! `veribus token`: tokens for those who run no identity provider, and a look into any token.

mod inspect;
mod issue;

use clap::Subcommand;

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Sign a token
    Issue(Box<issue::IssueArgs>),
    /// Show what a token says, without verifying it
    Inspect(inspect::InspectArgs),
}

pub(super) fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Issue(args) => issue::run(&args),
        TokenCommand::Inspect(args) => inspect::run(&args),
    }
}
