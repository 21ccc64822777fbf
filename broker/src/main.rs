//! The binary `veribus`: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;
use veribus_broker::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
