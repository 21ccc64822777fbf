//! A minute in which everything that hostile clients can do happens at once, beside honest clients whose losses and delays
//! are measured.
//!
//! ```sh
//! cargo build --release -p veribus-broker -p veribus-tests --bin veribus
//! cargo run --release -p veribus-tests --bin hostile_minute -- --seconds 60
//! ```
//!
//! The broker is the binary `veribus` beside this one, in a process of its own, with default limits and a new development
//! directory. Hostile and honest clients run in this process, on threads of their own; all of them share the machine with
//! the broker, so that the figures are those of the machine as well: the delay of a timer in this process is reported
//! beside them.
//!
//! Exits with 0 where all aims are met, with 1 where not, with 2 for wrong usage.

mod honest;
mod hostile;
mod report;
mod target;

use std::{
    env,
    io::{Write as _, stderr, stdout},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

use honest::Honest;
use hostile::Outcomes;
use report::Report;
use target::{BrokerProcess, Memory, processor_time};

const USAGE: &str = "usage: hostile_minute [--seconds N] [--tombstones N] [--only ATTACK,...] [--json]
  --seconds N      how long everything runs [default: 60]
  --tombstones N   how many deleted keys the lists have to pass [default: 20000]
  --only A,B       only these attacks: payloads, frames, malformed, fan-out, watches, lists, slow, anonymous, quota
  --json           the report as JSON, on standard output";
/// How often a line says how it goes.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How long reading the whole audit log may take.
const AUDIT_PATIENCE: Duration = Duration::from_secs(180);

/// What is asked for on the command line.
#[derive(Debug, Clone)]
struct Options {
    seconds: u64,
    tombstones: usize,
    only: Option<Vec<String>>,
    json: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { seconds: 60, tombstones: 20_000, only: None, json: false };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("`{argument}` wants a value"));
            match argument.as_str() {
                "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
                "--tombstones" => options.tombstones = value()?.parse().context("--tombstones")?,
                "--only" => {
                    let named: Vec<_> = value()?.split(',').map(str::to_owned).collect();
                    let unknown = named.iter().find(|name| !hostile::ATTACKS.contains(&name.as_str()));
                    anyhow::ensure!(unknown.is_none(), "there is no attack {unknown:?}");
                    options.only = Some(named);
                }
                "--json" => options.json = true,
                other => anyhow::bail!("`{other}` is not an option"),
            }
        }
        anyhow::ensure!(options.seconds > 0, "--seconds must be at least 1");
        Ok(options)
    }

    fn attacks(&self) -> Vec<&'static str> {
        let is_meant = |name: &&str| self.only.as_ref().is_none_or(|only| only.iter().any(|one| one == name));
        hostile::ATTACKS.iter().copied().filter(is_meant).collect()
    }
}

fn main() -> Result<ExitCode> {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            writeln!(stderr(), "{error:#}\n{USAGE}")?;
            return Ok(ExitCode::from(2));
        }
    };
    // The attacks must not delay the measurements in this process: threads of their own.
    let honest = runtime("honest")?;
    let hostile = runtime("hostile")?;
    let report = honest.block_on(run(&options, hostile))?;
    honest.shutdown_background();
    if options.json {
        writeln!(stdout(), "{:#}", report.json())?;
    } else {
        report.write(&mut stdout())?;
    }
    Ok(if report.aims_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn runtime(name: &str) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build()?)
}

async fn run(options: &Options, hostile: Runtime) -> Result<Report> {
    let mut broker = BrokerProcess::start().await?;
    let target = Arc::clone(broker.target());
    let outcomes = Arc::new(Outcomes::default());
    let attacks = options.attacks();
    if attacks.contains(&"lists") {
        writeln!(stderr(), "makes {} tombstones", options.tombstones)?;
        hostile::tombstones(&target, options.tombstones).await.context("making tombstones")?;
    }
    let broker_pid = broker.pid();
    let memory_before = Memory::of(broker_pid)?;
    let honest = Honest::start(&target).await.context("the honest clients")?;
    // What the same clients see of a broker at rest.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let at_rest = honest.so_far();
    honest.start_anew();
    let processor = || (processor_time(broker_pid), processor_time(std::process::id()));
    let (began, processor_before) = (Instant::now(), processor());
    for attack in attacks {
        hostile.spawn(hostile::run(attack, Arc::clone(&target), Arc::clone(&outcomes)));
    }
    let mut memory = Vec::new();
    let end = began + Duration::from_secs(options.seconds);
    let mut progress = began + PROGRESS_EVERY;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250).min(end.saturating_duration_since(Instant::now()))).await;
        if let Some(status) = broker.ended()? {
            writeln!(stderr(), "the broker ended: {status}")?;
            break;
        }
        let now = Memory::of(broker_pid)?;
        memory.push(now);
        if Instant::now() >= progress {
            progress += PROGRESS_EVERY;
            let (seconds, streams) = (began.elapsed().as_secs(), outcomes.open_streams());
            writeln!(stderr(), "{seconds:>3} s  {streams} hostile streams  {now}  {}", honest.line())?;
        }
    }
    let attacked_for = began.elapsed();
    let processor_after = processor();
    let streams_peak = outcomes.open_streams_peak();
    hostile.shutdown_background();
    let measured = honest.finish().await;
    let memory_peak = Memory::of(broker_pid).ok();
    writeln!(stderr(), "reads the audit log")?;
    let reading = tokio::time::timeout(AUDIT_PATIENCE, report::AuditTotals::read(&target)).await;
    let log = match reading {
        Ok(read) => read.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("not within {AUDIT_PATIENCE:?}")),
    };
    let data_bytes = broker.data_bytes()?;
    let broker_log = broker.log()?;
    broker.kill().await;
    Ok(Report {
        attacked_for,
        broker_processor: processor_after.0.zip(processor_before.0).map(|(after, before)| after.saturating_sub(before)),
        clients_processor: processor_after
            .1
            .zip(processor_before.1)
            .map(|(after, before)| after.saturating_sub(before)),
        at_rest,
        measured,
        memory_before,
        memory_peak,
        memory,
        streams_peak,
        outcomes: outcomes.counts(),
        log,
        data_bytes,
        broker_log,
    })
}
