//! What the minute was like.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use veribus_proto::{chain::ChainVerifier, v1::QueryRequest};

use crate::{
    honest::{Delays, Seen},
    target::{Memory, Target},
};

const HEALTH_MAX: Duration = Duration::from_millis(100);
const MEMORY_BYTES_MAX: u64 = 512 << 20;
/// How much of the broker's own log is shown.
const LOG_LINES_SHOWN: usize = 10;
const LOG_LINE_CHARS: usize = 240;

/// The audit log in numbers, its chain verified.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditTotals {
    /// Entries and their bytes.
    kinds: BTreeMap<String, (u64, u64)>,
    /// By kind and detail, where an entry has one.
    details: BTreeMap<String, u64>,
}

impl AuditTotals {
    pub(crate) async fn read(target: &Target) -> Result<Self> {
        let auditor = target.raw(Some(&target.token("hostile-minute-auditor", &["audit.read"])?)).await?;
        let mut responses = auditor.audit().query(QueryRequest::default()).await?.into_inner();
        let (mut totals, mut verifier) = (Self::default(), ChainVerifier::from_genesis());
        while let Some(response) = responses.message().await? {
            for stored in response.entries {
                let entry = verifier.push(&stored.entry)?;
                let (entries, bytes) = totals.kinds.entry(format!("{:?}", entry.kind())).or_default();
                *entries += 1;
                *bytes += stored.entry.len() as u64;
                let reason = entry.decision.as_ref().map(|decision| decision.reason.as_str()).unwrap_or_default();
                let detail = if entry.detail.is_empty() { reason } else { &entry.detail };
                if !detail.is_empty() {
                    let detail: String = detail.chars().take(80).collect();
                    *totals.details.entry(format!("{:?}: {detail}", entry.kind())).or_default() += entry.count.max(1);
                }
            }
        }
        Ok(totals)
    }

    fn bytes(&self) -> u64 {
        self.kinds.values().map(|(_, bytes)| bytes).sum()
    }
}

/// Everything that was measured.
pub(crate) struct Report {
    pub(crate) attacked_for: Duration,
    /// Processor time during the attack: of the broker, and of this process.
    pub(crate) broker_processor: Option<Duration>,
    pub(crate) clients_processor: Option<Duration>,
    /// Before the attack.
    pub(crate) at_rest: Seen,
    pub(crate) measured: Seen,
    pub(crate) memory_before: Memory,
    pub(crate) memory_peak: Option<Memory>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) streams_peak: usize,
    /// By attack and outcome.
    pub(crate) outcomes: BTreeMap<(&'static str, String), u64>,
    pub(crate) log: Result<AuditTotals, String>,
    pub(crate) data_bytes: u64,
    pub(crate) broker_log: Vec<String>,
}

impl Report {
    pub(crate) fn aims_met(&self) -> bool {
        self.aims().iter().all(|(_, is_met, _)| *is_met)
    }

    /// Each aim, whether it is met, and the figure that says so.
    fn aims(&self) -> [(&'static str, bool, String); 4] {
        let seen = &self.measured;
        let slowest = seen.health.quantile(1_000);
        let is_quick = slowest.is_some_and(|slowest| slowest <= HEALTH_MAX) && seen.health_failures.is_empty();
        let peak = self.memory_peak.map(|memory| memory.peak);
        let is_small = peak.is_some_and(|peak| peak < MEMORY_BYTES_MAX);
        let (lost, twice, behind) = (seen.balance().lost, seen.balance().delivered_twice, seen.keys_behind().len());
        let failed: u64 = [&seen.publish_failures, &seen.put_failures, &seen.list_failures]
            .into_iter()
            .flat_map(BTreeMap::values)
            .sum();
        let unacked = seen.balance().sent - seen.balance().allowed;
        let is_whole = (lost, twice, behind, failed, unacked) == (0, 0, 0, 0, 0) && seen.watch_end.is_none();
        let panics = self.panics();
        let failures: u64 = seen.health_failures.values().sum();
        [
            ("health within 100 ms", is_quick, format!("slowest {}, {failures} failed", ms(slowest))),
            ("memory under 512 MiB", is_small, peak.map_or_else(|| "unknown: it ended".to_owned(), mib)),
            (
                "nothing of the honest lost",
                is_whole,
                format!(
                    "{lost} lost, {twice} twice, {unacked} without receipt, {behind} keys behind, {failed} calls failed"
                ),
            ),
            ("no panics", panics == 0, format!("{panics} in the broker's log")),
        ]
    }

    fn panics(&self) -> usize {
        self.broker_log.iter().filter(|line| line.contains("panicked")).count()
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let seen = &self.measured;
        writeln!(out, "\n{:.0?} under attack, up to {} hostile streams at once", self.attacked_for, self.streams_peak)?;
        let seconds = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
        writeln!(
            out,
            "{}, {} processors, of which the broker had {:.1} s and the clients {:.1} s",
            if cfg!(debug_assertions) { "debug build" } else { "release build" },
            std::thread::available_parallelism().map_or(0, usize::from),
            seconds(self.broker_processor),
            seconds(self.clients_processor)
        )?;
        for (aim, is_met, figure) in self.aims() {
            writeln!(out, "  {}  {aim}: {figure}", if is_met { "met   " } else { "MISSED" })?;
        }
        writeln!(out, "\nDelays in ms (at rest | under attack)      count        p50        p99        max")?;
        for ((name, before), (_, after)) in delays(&self.at_rest).into_iter().zip(delays(seen)) {
            row(out, &format!("{name}, at rest"), before)?;
            row(out, name, after)?;
        }
        let balance = seen.balance();
        writeln!(out, "\nHonest messages: {balance:?}, {} quarantined", seen.quarantined)?;
        writeln!(out, "Honest watch: {} skipped, {} reconnects", seen.watch_skipped, seen.watch_reconnects)?;
        for (name, failures) in failures(seen) {
            if !failures.is_empty() {
                writeln!(out, "  {name} failed: {failures:?}")?;
            }
        }
        for gap in seen.gaps.iter().chain(&seen.watch_end) {
            writeln!(out, "  gap: {gap}")?;
        }
        if !seen.keys_behind().is_empty() {
            writeln!(out, "  keys behind: {:?}", seen.keys_behind())?;
        }
        self.write_memory(out)?;
        self.write_log(out)?;
        writeln!(out, "\nWhat became of the attacks")?;
        for ((attack, outcome), count) in &self.outcomes {
            writeln!(out, "  {attack:<10} {count:>10}  {outcome}")?;
        }
        writeln!(out, "\nThe broker's own log: {} lines", self.broker_log.len())?;
        for line in self.broker_log.iter().take(LOG_LINES_SHOWN) {
            let line: String = line.chars().take(LOG_LINE_CHARS).collect();
            writeln!(out, "  {line}")?;
        }
        if let Some(panic) = self.broker_log.iter().find(|line| line.contains("panicked")) {
            writeln!(out, "The first panic, in full")?;
            for line in panic.split("\\n") {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }

    fn write_memory(&self, out: &mut impl Write) -> io::Result<()> {
        let sampled = self.memory.iter().map(|memory| memory.resident).max().unwrap_or_default();
        let last = self.memory.last().copied().unwrap_or_default();
        let peak = self.memory_peak.map_or_else(|| "unknown".to_owned(), |memory| mib(memory.peak));
        let threads = self.memory.iter().map(|memory| memory.threads).max().unwrap_or_default();
        writeln!(
            out,
            "\nMemory: {} before, {peak} at the peak; sampled at most {}, last {}; {threads} threads",
            mib(self.memory_before.resident),
            mib(sampled),
            mib(last.resident)
        )
    }

    fn write_log(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nStored: {}", mib(self.data_bytes))?;
        let log = match &self.log {
            Ok(log) => log,
            Err(error) => return writeln!(out, "The audit log cannot be read: {error}"),
        };
        writeln!(out, "Audit log, chain verified: {}", mib(log.bytes()))?;
        for (kind, (entries, bytes)) in &log.kinds {
            writeln!(out, "  {kind:<24} {entries:>9} entries {bytes:>12} bytes")?;
        }
        writeln!(out, "By detail, with what is counted only")?;
        let mut details: Vec<_> = log.details.iter().collect();
        details.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (detail, count) in details.into_iter().take(30) {
            writeln!(out, "  {count:>9}  {detail}")?;
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> Value {
        let seen = &self.measured;
        let (rest, attack): (Vec<_>, Vec<_>) = (delays(&self.at_rest).to_vec(), delays(seen).to_vec());
        let object = |delays: Vec<(&'static str, &Delays)>| -> Value {
            let one = |(name, delays): (&'static str, &Delays)| {
                let us = |thousandths| delays.quantile(thousandths).map(|delay| delay.as_micros() as u64);
                let value = json!({"count": delays.count(), "p50_us": us(500), "p99_us": us(990), "max_us": us(1_000)});
                (name.to_owned(), value)
            };
            Value::Object(delays.into_iter().map(one).collect())
        };
        let aims = self.aims().map(|(aim, is_met, figure)| json!({"aim": aim, "met": is_met, "figure": figure}));
        let balance = seen.balance();
        let failures = failures(seen).into_iter().map(|(name, failures)| (name.to_owned(), json!(failures)));
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|((attack, outcome), count)| json!({"attack": attack, "outcome": outcome, "count": count}))
            .collect();
        let log = self.log.as_ref().map_or_else(
            |error| json!({"error": error}),
            |log| {
                let kind = |(kind, (entries, bytes)): (&String, &(u64, u64))| {
                    (kind.clone(), json!({"entries": entries, "bytes": bytes}))
                };
                let kinds = Value::Object(log.kinds.iter().map(kind).collect());
                json!({"bytes": log.bytes(), "kinds": kinds, "details": log.details})
            },
        );
        json!({
            "attacked_ms": self.attacked_for.as_millis() as u64,
            "hostile_streams_peak": self.streams_peak,
            "is_debug_build": cfg!(debug_assertions),
            "broker_processor_ms": self.broker_processor.map(|time| time.as_millis() as u64),
            "clients_processor_ms": self.clients_processor.map(|time| time.as_millis() as u64),
            "aims": aims,
            "at_rest": object(rest),
            "under_attack": object(attack),
            "messages": {
                "sent": balance.sent, "allowed": balance.allowed, "delivered": balance.delivered, "lost": balance.lost,
                "delivered_twice": balance.delivered_twice, "quarantined": seen.quarantined,
            },
            "failures": Value::Object(failures.collect()),
            "gaps": seen.gaps,
            "keys_behind": seen.keys_behind(),
            "watch": {"skipped": seen.watch_skipped, "reconnects": seen.watch_reconnects, "ended": seen.watch_end},
            "memory_bytes": {
                "before": self.memory_before.resident,
                "peak": self.memory_peak.map(|memory| memory.peak),
                "sampled_max": self.memory.iter().map(|memory| memory.resident).max(),
            },
            "stored_bytes": self.data_bytes,
            "audit_log": log,
            "attacks": outcomes,
            "panics": self.broker_log.iter().filter(|line| line.contains("panicked")).collect::<Vec<_>>(),
        })
    }
}

fn delays(seen: &Seen) -> [(&'static str, &Delays); 8] {
    [
        ("health check", &seen.health),
        ("publish to receipt", &seen.publish),
        ("receipt to delivery", &seen.delivery),
        ("put", &seen.put),
        ("put to watcher", &seen.watch),
        ("list", &seen.list),
        ("newcomer to first answer", &seen.newcomer),
        ("timer of this process", &seen.timer),
    ]
}

fn failures(seen: &Seen) -> [(&'static str, &BTreeMap<String, u64>); 5] {
    [
        ("health", &seen.health_failures),
        ("publish", &seen.publish_failures),
        ("put", &seen.put_failures),
        ("list", &seen.list_failures),
        ("newcomer", &seen.newcomer_failures),
    ]
}

fn row(out: &mut impl Write, name: &str, delays: &Delays) -> io::Result<()> {
    let value = |thousandths| ms(delays.quantile(thousandths));
    let (count, p50, p99, max) = (delays.count(), value(500), value(990), value(1_000));
    writeln!(out, "  {name:<36} {count:>9} {p50:>10} {p99:>10} {max:>10}")
}

fn ms(delay: Option<Duration>) -> String {
    delay.map_or_else(|| "-".to_owned(), |delay| format!("{:.1}", delay.as_secs_f64() * 1_000.0))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
