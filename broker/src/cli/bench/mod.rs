//! `veribus bench`: how fast this machine is, with everything on.

mod broker;
mod jetstream;
mod nats;
mod publish;
mod report;
mod state;

use clap::Subcommand;

use super::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Publish and receive, pipelined, through a broker in a process of its own
    Publish(publish::PublishArgs),
    /// Write and read shared state, pipelined, beside JetStream's key-value store where `nats-server` is on the PATH
    State(state::StateArgs),
}

pub(super) async fn run(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Publish(args) => publish::run(args).await,
        BenchCommand::State(args) => state::run(args).await,
    }
}
