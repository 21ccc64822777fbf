//! The binary `veribus`: arguments in, exit code out.

use std::process::ExitCode;

use veribus_broker::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::from_arguments().map_or_else(|code| code, Cli::run)
}
