//! `veribus serve`: a broker as the configuration says.

use std::path::PathBuf;

use clap::Args;

use super::{failure::Failure, output, start};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(|error| {
        error.lines().iter().for_each(output::complain);
        Failure::ReportedUsage
    })?;
    start::run(config, |_| Ok(()), "").await
}
