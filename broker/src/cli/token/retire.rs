//! `veribus token retire`: a key that is to count no more.

use std::path::PathBuf;

use clap::Args;

use super::key_set_file;
use crate::cli::{failure::Failure, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct RetireArgs {
    /// The key's id
    #[arg(long, value_name = "ID")]
    kid: String,
    /// The key set from which it is taken. A broker that reads this file refuses its tokens from its next reading on
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
}

pub(super) fn run(args: &RetireArgs) -> Result<(), Failure> {
    let left = key_set_file::change(&args.jwks, false, |keys| {
        keys.retire(&args.kid).map_err(key_set_file::refused(&args.jwks))?;
        Ok(keys.key_ids().collect::<Vec<_>>().join(" "))
    })?;
    output::note(format_args!("`{}` is out of the set; left: {left}", args.kid));
    Ok(())
}
