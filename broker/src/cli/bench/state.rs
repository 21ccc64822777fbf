//! Durable writes and audited reads of shared state a second, and how long each takes; beside JetStream's key-value store
//! on the same machine, where there is one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet};
use veribus_client::{Error, PendingState, StateSession, StateValue, Written};

use super::{
    super::{failure::Failure, output},
    broker::BenchBroker,
    jetstream::{self, Absent, JetStreamReport},
    publish::{filler, nanoseconds},
    report::{Latency, Machine, histogram, per_s},
};

const WRITER: &str = "support-agent";
const READER: &str = "billing-agent";
const SCOPE: &str = "tickets";

#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct StateArgs {
    /// How many values are written in all, and then read
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) operations: u64,
    /// One value, in bytes
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(super) size: u32,
    /// Under how many keys
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) keys: u64,
    /// How many sessions, each with a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    pub(super) sessions: u64,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl StateArgs {
    /// How many operations the session of this number does.
    pub(super) const fn share(&self, session: u64) -> u64 {
        self.operations / self.sessions + if session < self.operations % self.sessions { 1 } else { 0 }
    }

    /// The name of the operation of this number of one session: over the keys, again and again.
    pub(super) fn name(&self, session: u64, number: u64) -> String {
        format!("k{}", (number * self.sessions + session) % self.keys)
    }
}

/// How fast one kind of operation was.
#[derive(Debug, Serialize)]
pub(super) struct Speed {
    pub(super) per_s: f64,
    pub(super) latency: Latency,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
}

impl Speed {
    pub(super) fn of(outcomes: &Outcomes, took: Duration) -> Self {
        Self {
            per_s: per_s(outcomes.latencies.len(), took),
            latency: Latency::of(&outcomes.latencies),
            done: outcomes.latencies.len(),
            failed: outcomes.failed,
            seconds: took.as_secs_f64(),
        }
    }
}

/// What came of some operations.
pub(super) struct Outcomes {
    pub(super) latencies: Histogram<u64>,
    pub(super) failed: u64,
}

impl Outcomes {
    pub(super) fn none() -> Result<Self, Failure> {
        Ok(Self { latencies: histogram()?, failed: 0 })
    }

    pub(super) fn note(&mut self, sent: Instant, is_done: bool) {
        if is_done {
            self.latencies.saturating_record(nanoseconds(sent.elapsed()));
        } else {
            self.failed += 1;
        }
    }

    /// Those of all tasks, as they end.
    pub(super) async fn of(mut tasks: JoinSet<Result<Self, Failure>>) -> Result<Self, Failure> {
        let mut all = Self::none()?;
        while let Some(ended) = tasks.join_next().await {
            let one = ended.map_err(Failure::failed)??;
            all.latencies.add(&one.latencies).map_err(Failure::failed)?;
            all.failed += one.failed;
        }
        Ok(all)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    puts: Speed,
    gets: Speed,
    jetstream: Option<JetStreamReport>,
    operations: u64,
    size_bytes: u32,
    keys: u64,
    sessions: u64,
    on: [&'static str; 8],
    machine: Machine,
}

const ON: [&str; 8] = [
    "TLS 1.3 on every connection",
    "JWT (ES256), its lifetime checked for each operation",
    "content inspection of each value written",
    "permission, decryption claim and Rego policy for each operation",
    "a key of its own for each value (HKDF-SHA-256, AES-256-GCM)",
    "hash-chained audit entry for each write and each read",
    "fdatasync before each answer, to reads as well (group commit)",
    "broker and load generator on the same cores",
];

pub(super) async fn run(args: StateArgs) -> Result<(), Failure> {
    let (puts, gets) = veribus(args).await?;
    // The broker is gone: the two do not share the cores.
    let (jetstream, absent) = match jetstream::measure(args).await {
        Ok(measured) => (Some(measured), None),
        Err(absent) => (None, Some(absent)),
    };
    let is_complete = [&puts, &gets].into_iter().all(|speed| speed.done == args.operations);
    let report = Report {
        puts,
        gets,
        jetstream,
        operations: args.operations,
        size_bytes: args.size,
        keys: args.keys,
        sessions: args.sessions,
        on: ON,
        machine: Machine::this(),
    };
    print(&report, absent, args.json)?;
    if is_complete { Ok(()) } else { Err(Failure::failed("some operations were not carried out")) }
}

async fn veribus(args: StateArgs) -> Result<(Speed, Speed), Failure> {
    let broker = BenchBroker::start().await?;
    let puts = timed(&broker, WRITER, args, &Operation::Put(value(args.size))).await?;
    let gets = timed(&broker, READER, args, &Operation::Get).await?;
    Ok((puts, gets))
}

#[derive(Debug, Clone)]
enum Operation {
    Put(Bytes),
    Get,
}

impl Operation {
    async fn send(&self, session: &StateSession, key: String) -> Result<Pending, Error> {
        match self {
            Self::Put(value) => session.put(key, value.clone()).content_type("text/plain").await.map(Pending::Written),
            Self::Get => session.get(key).await.map(Pending::Read),
        }
    }
}

#[derive(Debug)]
enum Pending {
    Written(PendingState<Written>),
    Read(PendingState<Option<StateValue>>),
}

impl Pending {
    async fn failure(self) -> Option<String> {
        match self {
            Self::Written(pending) => pending.await.err().map(|error| error.to_string()),
            Self::Read(pending) => match pending.await {
                Ok(Some(_)) => None,
                Ok(None) => Some("a value is missing".to_owned()),
                Err(error) => Some(error.to_string()),
            },
        }
    }
}

async fn timed(broker: &BenchBroker, agent: &str, args: StateArgs, operation: &Operation) -> Result<Speed, Failure> {
    let mut sessions = Vec::new();
    for _ in 0..args.sessions {
        sessions.push(broker.client(agent).await?.state().session());
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for (number, session) in (0..).zip(sessions) {
        tasks.spawn(operate(session, number, args, operation.clone()));
    }
    Ok(Speed::of(&Outcomes::of(tasks).await?, began.elapsed()))
}

async fn operate(
    session: StateSession,
    number: u64,
    args: StateArgs,
    operation: Operation,
) -> Result<Outcomes, Failure> {
    let (pending, receiver) = mpsc::unbounded_channel();
    let answers = tokio::spawn(answers(receiver));
    for count in 0..args.share(number) {
        let key = format!("{SCOPE}/{}", args.name(number, count));
        let sent = Instant::now();
        let one = operation.send(&session, key).await?;
        pending.send((sent, one)).map_err(|_| Failure::failed("the receiver of answers is gone"))?;
    }
    drop(pending);
    answers.await.map_err(Failure::failed)?
}

async fn answers(mut pending: mpsc::UnboundedReceiver<(Instant, Pending)>) -> Result<Outcomes, Failure> {
    let mut outcomes = Outcomes::none()?;
    while let Some((sent, one)) = pending.recv().await {
        let failure = one.failure().await;
        if let Some(failure) = failure.as_ref().filter(|_| outcomes.failed == 0) {
            output::note(format_args!("an operation was not carried out: {failure}"));
        }
        outcomes.note(sent, failure.is_none());
    }
    Ok(outcomes)
}

/// Text of exactly so many bytes.
pub(super) fn value(size_bytes: u32) -> Bytes {
    let mut text = filler(size_bytes);
    text.truncate(size_bytes as usize);
    text.into()
}

fn print(report: &Report, absent: Option<Absent>, as_json: bool) -> Result<(), Failure> {
    if let Some(absent) = absent {
        output::note(format_args!("JetStream was not measured: {absent}"));
    }
    if as_json {
        return Ok(output::json(report)?);
    }
    line("durable puts", &report.puts)?;
    line("audited gets", &report.gets)?;
    if let Some(jetstream) = &report.jetstream {
        line("JetStream puts, not synced", &jetstream.puts)?;
        line("JetStream puts, synced", &jetstream.synced_puts)?;
        line("JetStream gets", &jetstream.gets)?;
    }
    output::line(format_args!(
        "\n{} operations on {} keys, values of {} bytes, {} session(s)",
        report.operations, report.keys, report.size_bytes, report.sessions
    ))?;
    output::line(&report.machine)?;
    output::line("on (none of it in JetStream, which is asked over plain TCP):")?;
    for stage in report.on {
        output::line(format_args!("  {stage}"))?;
    }
    Ok(())
}

fn line(what: &str, speed: &Speed) -> Result<(), Failure> {
    Ok(output::line(format_args!("{what:<26}  {:>10.0}/s   {}", speed.per_s, speed.latency))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_value_has_the_size_asked_for() {
        for size in [1, 512, 60_000] {
            assert_eq!(value(size).len(), size as usize);
        }
    }

    #[test]
    fn the_sessions_share_the_operations_and_the_keys() {
        let args = StateArgs { operations: 10, size: 1, keys: 4, sessions: 3, json: false };
        assert_eq!((0..3).map(|session| args.share(session)).sum::<u64>(), 10);
        let names: std::collections::BTreeSet<_> =
            (0..3).flat_map(|session| (0..args.share(session)).map(move |number| args.name(session, number))).collect();
        assert_eq!(names.len(), 4);
    }
}
