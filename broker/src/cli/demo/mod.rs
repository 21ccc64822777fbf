//! `veribus demo`: a broker on a free port, real clients over TLS, and what becomes of what they try.
//!
//! Every line is observed from outside: by the sender's answer, by the receiver's inbox, and by the auditor's reading of
//! the log. A step is as expected only if all of them agree.

mod audit;
mod cast;
mod report;
mod script;

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::{cast::Cast, report::Step};
use super::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Print one JSON object per step, and one with the summary
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let progress = spinner();
    progress.set_message("starting a broker");
    let cast = Cast::assemble().await?;
    let mut steps = Vec::new();
    for scene in script::scenes() {
        progress.set_message(scene.what);
        steps.push(script::play(scene, &cast).await?);
    }
    progress.set_message("the auditor reads the log");
    let findings = audit::read(&cast, &mut steps).await?;
    cast.leave().await?;
    progress.finish_and_clear();
    report::print(&steps, &findings, args.json)?;
    if steps.iter().all(Step::is_as_expected) && findings.chain_ok { Ok(()) } else { Err(Failure::Reported) }
}

fn spinner() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(80));
    progress
}
