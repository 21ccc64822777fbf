//! `veribus token`: keys and tokens for those who run no identity provider, and a look into any token.

mod inspect;
mod issue;
mod key_set_file;
mod keygen;
mod retire;
mod signer;

use clap::Subcommand;

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Sign a token
    Issue(Box<issue::IssueArgs>),
    /// Make a signing key, and add its public half to a key set
    Keygen(keygen::KeygenArgs),
    /// Take a key out of a key set
    Retire(retire::RetireArgs),
    /// Show what a token says, without verifying it
    Inspect(inspect::InspectArgs),
}

pub(super) fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Issue(args) => issue::run(&args),
        TokenCommand::Keygen(args) => keygen::run(&args),
        TokenCommand::Retire(args) => retire::run(&args),
        TokenCommand::Inspect(args) => inspect::run(&args),
    }
}
