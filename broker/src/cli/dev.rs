//! `veribus dev`: everything that it takes to try a broker out, and the broker.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{failure::Failure, start};
use crate::dev::{DevDirectory, DevError, DevOptions, quote};

#[derive(Debug, Args)]
pub(super) struct DevArgs {
    /// The directory to make or to reuse
    #[arg(long, default_value = "veribus-dev")]
    dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one [default: as configured, at first 127.0.0.1:0; a free port is kept]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address and port for Prometheus metrics, plain HTTP
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

pub(super) async fn run(args: DevArgs) -> Result<(), Failure> {
    let options = DevOptions { listen: args.listen, metrics_listen: args.metrics };
    let directory = DevDirectory::create_or_reuse(&args.dir, options).map_err(failure)?;
    let config = directory.config().map_err(failure)?;
    let announce = |address| directory.write_env(address).map_err(Failure::failed);
    start::run(config, |server| announce(server.address()), &how_to_connect(&directory)).await
}

fn failure(error: DevError) -> Failure {
    match error {
        DevError::Config(_)
        | DevError::Certificate { .. }
        | DevError::Issuer { .. }
        | DevError::KeySet { .. }
        | DevError::Secret(_) => Failure::usage(error),
        DevError::Read { .. } | DevError::Write { .. } | DevError::RootKey(_) => Failure::failed(error),
    }
}

fn how_to_connect(directory: &DevDirectory) -> String {
    let (env, root) = (quote(&directory.env_path().to_string_lossy()), directory.root().display());
    let compliance = quote(&directory.token_path("compliance-agent").to_string_lossy());
    let auditor = quote(&directory.token_path("auditor").to_string_lossy());
    format!(
        "
Keys, tokens, policies and the configuration are in {root}
In other terminals:

  source {env}
  veribus sub 'finance.>' --token-file {compliance}
  veribus pub finance.transactions --type finance.transaction --destination role:compliance --data '{{\"amount\": 12}}'
  veribus audit tail --token-file {auditor}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_names_files_that_are_there() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = DevDirectory::create_or_reuse(outer.path(), DevOptions::default()).expect("made");
        let text = how_to_connect(&directory);
        for agent in ["compliance-agent", "auditor"] {
            let path = directory.token_path(agent);
            assert!(path.exists() && text.contains(&*path.to_string_lossy()), "{agent}");
        }
    }
}
