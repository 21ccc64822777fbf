//! Keys that are fetched from their issuer, and how fresh they are.
//!
//! One task fetches, and nobody else: at the start, then at about half of the time to live; after a failure with longer
//! and longer pauses. Nobody waits for it but a caller whose token names a key that is not known, for a few seconds; such
//! callers cause no more than one fetch in each interval, however many they are.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use super::{
    jwk::VerificationKey,
    set::KeySet,
    source::{FetchError, KeySource},
};
use crate::{
    authenticate::{error::TokenError, token::Jws},
    metrics::Metrics,
    model::{Clock, Issuer, UnixMicros},
};

/// How long a caller waits for a key that is not known.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause after a first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// How fresh an issuer's keys are kept.
#[derive(Debug, Clone, Copy)]
pub struct RemoteKeysSettings {
    /// How long a key counts after the issuer last listed it.
    pub ttl: Duration,
    /// How long after a key that was not known another one may cause a fetch.
    pub refresh_interval_min: Duration,
}

/// An issuer's keys, kept fresh by a task of their own until this is dropped.
pub struct RemoteKeys {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl RemoteKeys {
    /// Begins to fetch, in a task that `spawn` starts.
    #[must_use]
    pub fn start(
        issuer: Issuer,
        source: KeySource,
        settings: RemoteKeysSettings,
        clock: Clock,
        metrics: Metrics,
        spawn: impl FnOnce(BoxFuture<'static, ()>) -> AbortHandle,
    ) -> Self {
        metrics.keys_to_refresh(&issuer);
        let shared = Arc::new(Shared {
            issuer,
            source,
            settings,
            clock,
            metrics,
            known: ArcSwap::from_pointee(KeySet::empty()),
            demand: Mutex::new(Demand { pending: true, last: None }),
            wanted: Notify::new(),
            fetches: watch::Sender::new(0),
        });
        let task = spawn(Box::pin(Arc::clone(&shared).keep_fresh()));
        Self { shared, task }
    }

    pub(super) fn find(&self, jws: &Jws<'_>) -> Result<Arc<VerificationKey>, TokenError> {
        self.shared.known.load().find(jws).cloned()
    }

    /// Waits for a fetch that is under way, or, if the last demand is long enough ago, for a new one; not for long.
    pub(in crate::authenticate) async fn fetch_once_more(&self) {
        if let Some(mut fetches) = self.shared.demand() {
            tokio::time::timeout(WAIT_MAX, fetches.changed()).await.ok();
        }
    }
}

impl Drop for RemoteKeys {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    issuer: Issuer,
    source: KeySource,
    settings: RemoteKeysSettings,
    clock: Clock,
    metrics: Metrics,
    known: ArcSwap<KeySet>,
    demand: Mutex<Demand>,
    wanted: Notify,
    /// How many there were.
    fetches: watch::Sender<u64>,
}

/// Whether a fetch is under way or asked for, and when one was last asked for.
struct Demand {
    pending: bool,
    last: Option<Instant>,
}

impl Shared {
    async fn keep_fresh(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            failures = if self.refresh().await { 0 } else { failures + 1 };
            let pause = self.pause_after(failures);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
            self.demand.lock().pending = true;
        }
    }

    /// Fetches once, and says whether it succeeded.
    async fn refresh(&self) -> bool {
        // Counted from before the question: the answer may be as old as that.
        let asked_at = self.clock.now();
        let outcome = self.source.fetch().await;
        let succeeded = outcome.is_ok();
        match outcome {
            Ok(keys) => self.take(keys, asked_at),
            Err(error) => self.tell(&error),
        }
        self.metrics.keys_refreshed(&self.issuer, succeeded);
        let mut demand = self.demand.lock();
        demand.pending = false;
        self.fetches.send_modify(|count| *count += 1);
        succeeded
    }

    /// A key that is still listed counts for longer; one that is not, or is another one under the same name, ends.
    fn take(&self, fetched: KeySet, asked_at: UnixMicros) {
        let (known, skipped) = (self.known.load_full(), fetched.skipped().clone());
        if skipped != *known.skipped() {
            skipped.tell(&self.issuer, &self.metrics);
        }
        let listed = |key: &VerificationKey| key.standing.count_for(self.settings.ttl, asked_at);
        let (next, withdrawn) = fetched.succeed(&known, listed);
        for name in withdrawn {
            tracing::info!(issuer = %self.issuer, kid = %name, "a key was withdrawn");
        }
        if next.is_empty() {
            tracing::warn!(issuer = %self.issuer, "the issuer lists no key that can be used");
        }
        self.known.store(Arc::new(next));
    }

    fn tell(&self, error: &FetchError) {
        tracing::warn!(issuer = %self.issuer, %error, "an issuer's keys could not be fetched; those known count until they are too old");
    }

    /// Not all brokers at the same moment, and a broken issuer less and less often.
    fn pause_after(&self, failures: u32) -> Duration {
        let ttl = self.settings.ttl;
        let longest = match failures {
            0 => ttl / 2,
            _ => PAUSE_MIN.saturating_mul(1 << (failures - 1).min(6)).min(PAUSE_MAX).min(ttl / 4),
        };
        longest.mul_f64(rand::rng().random_range(0.7..1.0))
    }

    /// Changes when the fetch ends that is under way, or was asked for now; `None` where it is too early to ask.
    fn demand(&self) -> Option<watch::Receiver<u64>> {
        let mut demand = self.demand.lock();
        if !demand.pending {
            if demand.last.is_some_and(|last| last.elapsed() < self.settings.refresh_interval_min) {
                return None;
            }
            *demand = Demand { pending: true, last: Some(Instant::now()) };
            self.wanted.notify_one();
        }
        Some(self.fetches.subscribe())
    }
}

#[cfg(test)]
mod tests;
