//! `veribus bench`: how fast this machine is, with everything on.

mod broker;
mod publish;
mod report;

use clap::Subcommand;

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Publish and receive, pipelined, through a broker in a process of its own
    Publish(publish::PublishArgs),
}

pub(super) async fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Publish(args) => publish::run(args).await,
    }
}
