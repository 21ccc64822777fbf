//! `veribus config`: is the configuration, and everything that it names, fit to start with?

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::Color;

use super::{
    failure::Failure,
    output::{self, Cell},
};
use crate::check::{Check, check_file};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check the configuration, its certificate, key sets and policy
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object per check
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(ConfigCommand::Check(args): ConfigCommand) -> Result<(), Failure> {
    let checks = check_file(&args.config).await;
    print(&checks, args.json)?;
    if checks.iter().all(|check| check.ok) { Ok(()) } else { Err(Failure::ReportedUsage) }
}

fn print(checks: &[Check], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(checks.iter().try_for_each(output::json)?);
    }
    let mut table = output::new_table(["", "CHECK", "DETAIL"]);
    for check in checks {
        let (mark, color) = match (check.ok, check.warning) {
            (true, false) => ("✓", Color::Green),
            (true, true) => ("!", Color::Yellow),
            (false, _) => ("✗", Color::Red),
        };
        table.add_row([Cell::new(mark).fg(color), Cell::new(check.name), Cell::new(&check.detail)]);
    }
    Ok(output::table(&table)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::{DevDirectory, DevOptions};

    #[tokio::test]
    async fn faults_end_with_the_code_for_a_bad_configuration() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
        let check = |config: PathBuf| run(ConfigCommand::Check(CheckArgs { config, json: true }));
        assert_eq!(check(directory.config_path()).await, Ok(()));
        assert_eq!(check("/nowhere/veribus.toml".into()).await, Err(Failure::ReportedUsage));
    }
}
