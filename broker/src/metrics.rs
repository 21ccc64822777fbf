//! What is counted and timed, and its Prometheus text form. Where and to whom it is shown is the server's business.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::model::Issuer;

/// The stages whose time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Recognising the caller of a call.
    Authenticate,
    /// Looking into a message.
    Inspect,
    /// Native checks and policy.
    Decide,
    /// Finding the audience.
    Route,
    /// From the queue to the durable record.
    Record,
}

/// All metrics of one broker. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    messages: [Counter; 4],
    duplicates: Counter,
    clock_steps: Counter,
    stages: [Histogram; 5],
    commit_entries: Histogram,
    commit_seconds: Histogram,
    authentication_refusals: Family<Reason, Counter>,
    key_refreshes: Family<RefreshLabel, Counter>,
    key_set_entries_skipped: Family<IssuerLabel, Gauge>,
    undelivered: Family<Reason, Counter>,
    quota_refusals: Family<Quota, Counter>,
    connection_refusals: Family<LimitLabel, Counter>,
    reloads: Family<ReloadLabel, Counter>,
    certificate_days_left: Gauge,
    connections: Gauge,
    subscriptions: Gauge,
    queued_deliveries: Gauge,
    queued_submissions: Gauge<u64, AtomicU64>,
    log_entries: Gauge<u64, AtomicU64>,
    log_bytes: Gauge<u64, AtomicU64>,
    free_disk_bytes: Gauge<u64, AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The issuers are those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabel {
    issuer: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabel {
    subject: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Quota {
    quota: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabel {
    decision: &'static str,
}

/// How a message's way ended, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageEnd {
    /// Handed to its audience.
    Allow,
    /// Refused by permission, policy or failure.
    Deny,
    /// Withheld.
    Quarantine,
    /// Not well-formed.
    Malformed,
}

/// What is looked up only when somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Submissions that wait for the writer.
    pub queued_submissions: usize,
    /// Entries in the log.
    pub log_entries: u64,
    /// Bytes that the log takes on disk.
    pub log_bytes: u64,
    /// Free bytes on its disk.
    pub free_disk_bytes: u64,
}

const STAGES: [&str; 5] = ["authenticate", "inspect", "decide", "route", "record"];
const DECISIONS: [&str; 4] = ["allow", "deny", "quarantine", "malformed"];
const SECONDS: [f64; 16] =
    [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0];
const ENTRIES: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("veribus");
        let decisions = Family::<DecisionLabel, Counter>::default();
        let stages = Family::<StageLabel, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        let inner = Inner {
            messages: DECISIONS.map(|decision| decisions.get_or_create(&DecisionLabel { decision }).clone()),
            duplicates: Counter::default(),
            clock_steps: Counter::default(),
            stages: STAGES.map(|stage| stages.get_or_create(&StageLabel { stage }).clone()),
            commit_entries: Histogram::new(ENTRIES),
            commit_seconds: Histogram::new(SECONDS),
            authentication_refusals: Family::default(),
            key_refreshes: Family::default(),
            key_set_entries_skipped: Family::default(),
            undelivered: Family::default(),
            quota_refusals: Family::default(),
            connection_refusals: Family::default(),
            reloads: Family::default(),
            certificate_days_left: Gauge::default(),
            connections: Gauge::default(),
            subscriptions: Gauge::default(),
            queued_deliveries: Gauge::default(),
            queued_submissions: Gauge::default(),
            log_entries: Gauge::default(),
            log_bytes: Gauge::default(),
            free_disk_bytes: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("messages", "Recorded messages by decision", decisions);
        registry.register("duplicates", "Publishes of an id that was recorded before", inner.duplicates.clone());
        let help = "Times that the clock moved otherwise than time passed";
        registry.register("clock_steps", help, inner.clock_steps.clone());
        registry.register_with_unit("stage", "Time a message spends in a stage", Unit::Seconds, stages);
        registry.register("commit_entries", "Entries in one commit", inner.commit_entries.clone());
        registry.register_with_unit("commit", "Time of one commit", Unit::Seconds, inner.commit_seconds.clone());
        let help = "Callers that could not prove who they are";
        registry.register("authentication_refusals", help, inner.authentication_refusals.clone());
        registry.register("key_refreshes", "Fetches of an issuer's keys", inner.key_refreshes.clone());
        let help = "Entries of an issuer's key set that do not count";
        registry.register("key_set_entries_skipped", help, inner.key_set_entries_skipped.clone());
        registry.register("undelivered", "Messages that a recipient did not get", inner.undelivered.clone());
        let help = "Messages and calls of agents beyond their quota";
        registry.register("quota_refusals", help, inner.quota_refusals.clone());
        let help = "Connections beyond a limit";
        registry.register("connection_refusals", help, inner.connection_refusals.clone());
        let help = "Times that what is read from files was loaded anew, or could not be";
        registry.register("reloads", help, inner.reloads.clone());
        let help = "Whole days until the server's certificate expires";
        registry.register("certificate_days_left", help, inner.certificate_days_left.clone());
        registry.register("connections", "Open connections", inner.connections.clone());
        registry.register("subscriptions", "Live subscriptions", inner.subscriptions.clone());
        registry.register("queued_deliveries", "Messages that wait for a subscriber", inner.queued_deliveries.clone());
        registry.register("queued_submissions", "Submissions that wait for the log", inner.queued_submissions.clone());
        registry.register("log_entries", "Entries in the audit log", inner.log_entries.clone());
        registry.register_with_unit("log", "Size of the audit log", Unit::Bytes, inner.log_bytes.clone());
        let help = "Free space on the disk of the audit log";
        registry.register_with_unit("free_disk", help, Unit::Bytes, inner.free_disk_bytes.clone());
        Self(Arc::new(Inner { registry, ..inner }))
    }
}

/// The words under which a broker counts some things: what is counted there is shown from the start, with zero.
#[derive(Debug, Clone)]
pub struct KnownWords {
    /// Why callers are refused.
    pub authentication_refusals: Vec<&'static str>,
    /// Why messages are not delivered.
    pub undelivered: Vec<&'static str>,
    /// Which quotas there are.
    pub quotas: Vec<&'static str>,
    /// Which limits of connections there are.
    pub connection_limits: Vec<&'static str>,
    /// What can be loaded anew.
    pub reload_subjects: Vec<&'static str>,
}

const REFRESH_OUTCOMES: [&str; 2] = ["failed", "ok"];

impl Metrics {
    /// With a zero for each of these.
    #[must_use]
    pub fn with_known(known: KnownWords) -> Self {
        let metrics = Self::default();
        for reason in known.authentication_refusals {
            drop(metrics.0.authentication_refusals.get_or_create(&Reason { reason }));
        }
        for reason in known.undelivered {
            drop(metrics.0.undelivered.get_or_create(&Reason { reason }));
        }
        for quota in known.quotas {
            drop(metrics.0.quota_refusals.get_or_create(&Quota { quota }));
        }
        for limit in known.connection_limits {
            drop(metrics.0.connection_refusals.get_or_create(&LimitLabel { limit }));
        }
        for subject in known.reload_subjects {
            for outcome in REFRESH_OUTCOMES {
                drop(metrics.0.reloads.get_or_create(&ReloadLabel { subject, outcome }));
            }
        }
        metrics
    }

    /// An issuer's keys will be fetched.
    pub fn keys_to_refresh(&self, issuer: &Issuer) {
        self.key_set_entries_skipped(issuer, 0);
        for outcome in REFRESH_OUTCOMES {
            drop(self.0.key_refreshes.get_or_create(&RefreshLabel { issuer: issuer.as_str().to_owned(), outcome }));
        }
    }

    /// So many entries of an issuer's key set do not count.
    pub fn key_set_entries_skipped(&self, issuer: &Issuer, entries: usize) {
        let label = IssuerLabel { issuer: issuer.as_str().to_owned() };
        self.0.key_set_entries_skipped.get_or_create(&label).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// A message's way ended.
    pub fn message(&self, end: MessageEnd) {
        if let Some(counter) = self.0.messages.get(end as usize) {
            counter.inc();
        }
    }

    /// A message id came again.
    pub fn duplicate(&self) {
        self.0.duplicates.inc();
    }

    /// The clock was set.
    pub fn clock_stepped(&self) {
        self.0.clock_steps.inc();
    }

    /// A stage took this long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.0.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A commit of so many entries took this long.
    pub fn committed(&self, entries: u64, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a commit holds far fewer than 2^52 entries")]
        self.0.commit_entries.observe(entries as f64);
        self.0.commit_seconds.observe(took.as_secs_f64());
    }

    /// A caller was refused.
    pub fn authentication_refused(&self, reason: &'static str) {
        self.0.authentication_refusals.get_or_create(&Reason { reason }).inc();
    }

    /// An issuer's keys were fetched, or could not be.
    pub fn keys_refreshed(&self, issuer: &Issuer, succeeded: bool) {
        let [failed, ok] = REFRESH_OUTCOMES;
        let outcome = if succeeded { ok } else { failed };
        self.0.key_refreshes.get_or_create(&RefreshLabel { issuer: issuer.as_str().to_owned(), outcome }).inc();
    }

    /// What is read from files was loaded anew, or could not be.
    pub fn reloaded(&self, subject: &'static str, succeeded: bool) {
        let [failed, ok] = REFRESH_OUTCOMES;
        let outcome = if succeeded { ok } else { failed };
        self.0.reloads.get_or_create(&ReloadLabel { subject, outcome }).inc();
    }

    /// So many whole days are left of the server's certificate.
    pub fn certificate_days_left(&self, days: i64) {
        self.0.certificate_days_left.set(days);
    }

    /// Messages did not reach a recipient.
    pub fn undelivered(&self, reason: &'static str, messages: u64) {
        self.0.undelivered.get_or_create(&Reason { reason }).inc_by(messages);
    }

    /// Messages or calls were beyond a quota.
    pub fn quota_refused(&self, quota: &'static str, count: u64) {
        self.0.quota_refusals.get_or_create(&Quota { quota }).inc_by(count);
    }

    /// A connection was refused.
    pub fn connection_refused(&self, limit: &'static str) {
        self.0.connection_refusals.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Connections came (positive) or went (negative).
    pub fn connections(&self, change: i64) {
        self.0.connections.inc_by(change);
    }

    /// Subscriptions came (positive) or went (negative).
    pub fn subscriptions(&self, change: i64) {
        self.0.subscriptions.inc_by(change);
    }

    /// Messages were queued for subscribers (positive) or taken (negative).
    pub fn queued_deliveries(&self, change: i64) {
        self.0.queued_deliveries.inc_by(change);
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Only if formatting fails.
    pub fn render(&self, gauges: Gauges) -> Result<String, fmt::Error> {
        self.0.queued_submissions.set(gauges.queued_submissions as u64);
        self.0.log_entries.set(gauges.log_entries);
        self.0.log_bytes.set(gauges.log_bytes);
        self.0.free_disk_bytes.set(gauges.free_disk_bytes);
        let mut text = String::new();
        text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_its_label() {
        let metrics = Metrics::default();
        metrics.message(MessageEnd::Quarantine);
        metrics.stage(Stage::Record, Duration::from_millis(1));
        metrics.undelivered("slow_subscriber", 3);
        metrics.quota_refused("messages_per_s_max", 2);
        metrics.keys_refreshed(&Issuer::parse("https://login.example").expect("an issuer"), false);
        let gauges = Gauges { queued_submissions: 1, log_entries: 2, log_bytes: 3, free_disk_bytes: 4 };
        let text = metrics.render(gauges).expect("text");
        for line in [
            r#"veribus_messages_total{decision="quarantine"} 1"#,
            r#"veribus_messages_total{decision="allow"} 0"#,
            r#"veribus_stage_seconds_count{stage="record"} 1"#,
            r#"veribus_undelivered_total{reason="slow_subscriber"} 3"#,
            r#"veribus_quota_refusals_total{quota="messages_per_s_max"} 2"#,
            r#"veribus_key_refreshes_total{issuer="https://login.example",outcome="failed"} 1"#,
            "veribus_log_entries 2",
            "veribus_log_bytes 3",
            "veribus_free_disk_bytes 4",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
