//! Puts hostile tokens before the verifier: `hostile_tokens [HOW MANY] [SEED]`. Ends with code 1 if one is accepted, or a
//! valid one refused.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a tool for developers: it may stop where it stands"
)]

#[path = "../tests/hostile_tokens/attack/mod.rs"]
mod attack;
#[path = "../tests/hostile_tokens/run.rs"]
mod run;
#[path = "../tests/hostile_tokens/signers.rs"]
mod signers;

use std::{io::Write as _, process::ExitCode, time::Instant};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let tokens = usize::try_from(arguments.next().unwrap_or(100_000)).expect("a number");
    let seed = arguments.next().unwrap_or_else(rand::random);
    let started = Instant::now();
    let tally = run::run(tokens, seed);
    let mut out = std::io::stdout().lock();
    for (class, reasons) in &tally.reasons {
        writeln!(out, "{:>7}  {class}: {reasons:?}", reasons.values().sum::<usize>()).expect("stdout");
    }
    writeln!(
        out,
        "seed {seed}: {} hostile, {} accepted; {} valid, {} refused; {} panics; {:.1} s",
        tally.hostile,
        tally.accepted.len(),
        tally.valid,
        tally.refused.len(),
        tally.panics,
        started.elapsed().as_secs_f64(),
    )
    .expect("stdout");
    for wrong in tally.accepted.iter().map(|(class, token)| format!("accepted, although {class}: {token}")) {
        writeln!(out, "{wrong}").expect("stdout");
    }
    for wrong in tally.refused.iter().map(|(error, token)| format!("refused, because {error}: {token}")) {
        writeln!(out, "{wrong}").expect("stdout");
    }
    let is_good = tally.accepted.is_empty() && tally.refused.is_empty() && tally.panics == 0;
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
