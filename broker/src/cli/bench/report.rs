//! Figures, with the machine and the conditions beside them.

use std::{fs, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
}

impl Latency {
    #[expect(clippy::cast_precision_loss, reason = "latencies lie far below 2^52 nanoseconds")]
    pub(super) fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| nanoseconds.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50_us: at(0.5), p99_us: at(0.99), p99_9_us: at(0.999) }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs", self.p50_us, self.p99_us, self.p99_9_us)
    }
}

/// The machine that a figure is of.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    build: &'static str,
}

impl Machine {
    pub(super) fn this() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: kernel.trim().to_owned(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} cores, Linux {}, {} build", self.cpu, self.cores, self.kernel, self.build)
    }
}

/// How many in a second.
#[expect(clippy::cast_precision_loss, reason = "counts lie far below 2^52")]
pub(super) fn per_s(count: u64, took: Duration) -> f64 {
    (count as f64 / took.as_secs_f64()).round()
}

/// A histogram of nanoseconds, up to a minute, to three digits.
pub(super) fn histogram() -> Result<Histogram<u64>, super::Failure> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(super::Failure::failed)
}
