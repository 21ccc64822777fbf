//! The command line: one file per subcommand.
//!
//! In scope: arguments, what is printed, exit codes. Out of scope: what the commands do, which is the client SDK's and
//! the server's.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage or a bad configuration.

mod admin;
mod audit;
mod backup;
mod bench;
mod config;
mod connect;
mod demo;
mod dev;
mod failure;
mod file_limit;
mod health;
mod instant;
mod keys;
mod logging;
mod output;
mod policy;
mod publish;
mod secret;
mod serve;
mod start;
mod state;
mod subscribe;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;

/// A message broker for systems of AI agents: every message is verified, decided on and recorded.
#[derive(Debug, Parser)]
#[command(name = "veribus", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a directory with keys, tokens, policies and a configuration, and start a broker with it
    Dev(dev::DevArgs),
    /// Start the broker
    Serve(serve::ServeArgs),
    /// The configuration file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Check a policy, and ask it
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Issue and look into tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Publish one message
    Pub(publish::PublishArgs),
    /// Print messages as they arrive
    Sub(subscribe::SubscribeArgs),
    /// Share state with other agents: values under keys
    #[command(subcommand)]
    State(state::StateCommand),
    /// Read, follow, verify and export the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Stop accepting a token, an agent or an issuer, at once and on open streams
    Revoke(admin::RevokeArgs),
    /// Lift a revocation
    Reinstate(admin::ReinstateArgs),
    /// Print the revocations in force
    Revocations(admin::RevocationsArgs),
    /// See and end open calls and streams
    #[command(subcommand)]
    Sessions(admin::SessionsCommand),
    /// The keys that shared state is encrypted with
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Take a consistent copy of a running broker's data: the log, and shared state as it is sealed
    Backup(backup::BackupArgs),
    /// Verify a backup, and copy it to a new data directory
    Restore(backup::RestoreArgs),
    /// Play through what the broker lets pass and what it stops, with real clients
    Demo(demo::DemoArgs),
    /// Measure how fast it is on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Ask a broker whether it serves
    Health(health::HealthArgs),
}

/// Policies are evaluated on the runtime's threads: room for one, and for what called it.
const THREAD_STACK_BYTES: usize = 24 * 1024 * 1024;

/// How many tasks run before a thread looks for what has arrived. Where many tasks are ready, a short call waits that long.
const TASKS_PER_LOOK_AT_SOCKETS: u32 = 16;

impl Cli {
    /// What the arguments say. Where they are wrong, or ask for help, that is printed, and this is the exit code.
    ///
    /// # Errors
    /// The exit code.
    pub fn from_arguments() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            if error.use_stderr() && std::env::args_os().any(|argument| output::steers(&argument.to_string_lossy())) {
                // The message repeats the arguments, which may be the names of somebody else's files.
                error.render().to_string().lines().for_each(output::note);
            } else {
                // An error says that nobody is there to read it.
                let _ = error.print();
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        })
    }

    /// Does what the arguments say, and tells how it went.
    #[must_use]
    pub fn run(self) -> ExitCode {
        logging::start(self.command.is_broker());
        let done = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(THREAD_STACK_BYTES)
            .event_interval(TASKS_PER_LOOK_AT_SOCKETS)
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))
            .and_then(|runtime| runtime.block_on(self.command.run()));
        let code = match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        };
        logging::finish();
        code
    }
}

impl Command {
    const fn is_broker(&self) -> bool {
        matches!(self, Self::Dev(_) | Self::Serve(_))
    }

    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Dev(args) => dev::run(args).await,
            Self::Serve(args) => serve::run(args).await,
            Self::Config(command) => config::run(command).await,
            Self::Policy(command) => policy::run(command),
            Self::Token(command) => token::run(command),
            Self::Pub(args) => publish::run(args).await,
            Self::Sub(args) => subscribe::run(args).await,
            Self::State(command) => state::run(command).await,
            Self::Audit(command) => audit::run(command).await,
            Self::Revoke(args) => admin::revoke(args).await,
            Self::Reinstate(args) => admin::reinstate(args).await,
            Self::Revocations(args) => admin::revocations(args).await,
            Self::Sessions(command) => admin::sessions(command).await,
            Self::Keys(command) => keys::run(command).await,
            Self::Backup(args) => backup::backup(args).await,
            Self::Restore(args) => backup::restore(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Bench(command) => bench::run(command).await,
            Self::Health(args) => health::run(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
