//! Callers that could not prove who they are, on their way to the log: one by one up to a rate, counted together above it,
//! so that nobody can fill the disk from outside.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{interval, sleep},
};

use super::connection::address_key;
use crate::{
    authenticate::{Session, TokenError},
    metrics::Metrics,
    record::{Draft, Recorder},
};

/// How many pairs of reason and address are counted apart within a second; beyond, the address is left out.
const COUNTED_APART_MAX: usize = 256;

/// Takes refusals in.
pub struct Refusals {
    per_s_max: u32,
    state: Mutex<State>,
    news: Notify,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    /// Recorded one by one in this second.
    single: u32,
    waiting: Vec<Draft>,
    counted: HashMap<(&'static str, Option<IpAddr>), u64>,
}

impl Refusals {
    /// Records up to `per_s_max` a second one by one.
    #[must_use]
    pub fn new(per_s_max: u32, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { per_s_max, state: Mutex::default(), news: Notify::new(), metrics })
    }

    /// A caller was refused.
    pub fn note(&self, error: &TokenError, peer: IpAddr, method: &str) {
        let reason = error.reason();
        self.metrics.authentication_refused(reason);
        let peer = address_key(peer);
        let mut state = self.state.lock();
        if state.single < self.per_s_max {
            state.single += 1;
            state.waiting.push(Draft::authentication_refused(reason, Some(peer), short(method), 1));
            self.news.notify_one();
            return;
        }
        let crowded = state.counted.len() >= COUNTED_APART_MAX;
        let known = state.counted.contains_key(&(reason, Some(peer)));
        let from = (known || !crowded).then_some(peer);
        *state.counted.entry((reason, from)).or_default() += 1;
    }

    /// A session whose token is no longer good. It is noted once, whoever comes upon it first.
    pub fn note_session(&self, session: &Session, error: &TokenError) {
        if session.complain_once() {
            self.note(error, session.peer().ip(), session.method());
        }
    }

    /// Brings what is noted to the log, until this is dropped.
    pub async fn record(this: Weak<Self>, recorder: Recorder) {
        let mut second = interval(Duration::from_secs(1));
        while let Some(refusals) = this.upgrade() {
            let drafts = tokio::select! {
                // While the disk is nearly full, refusals go on being counted, and are written once there is room.
                _ = second.tick(), if !recorder.disk().is_below_floor() => refusals.end_of_second(),
                () = refusals.news.notified(), if !recorder.disk().is_below_floor() => {
                    std::mem::take(&mut refusals.state.lock().waiting)
                }
                () = sleep(Duration::from_secs(1)) => Vec::new(),
            };
            drop(refusals);
            for draft in drafts {
                // A writer that is gone ends the broker, and it is the writer's end that is told.
                if recorder.note(draft).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Everything that is not yet recorded; begins a new second.
    pub fn end_of_second(&self) -> Vec<Draft> {
        let mut state = self.state.lock();
        state.single = 0;
        let mut drafts = std::mem::take(&mut state.waiting);
        let counted = state.counted.drain();
        drafts.extend(counted.map(|((reason, peer), count)| Draft::authentication_refused(reason, peer, "", count)));
        drafts
    }
}

/// A path that nobody serves is repeated only as far as a real one is long.
fn short(method: &str) -> &str {
    let mut end = method.len().min(64);
    while !method.is_char_boundary(end) {
        end -= 1;
    }
    method.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written_out() {
        let refusals = Refusals::new(2, Metrics::default());
        for last in 0..=255u8 {
            for _ in 0..10 {
                refusals.note(&TokenError::Expired, IpAddr::from([192, 0, 2, last]), "/x");
            }
            refusals.note(&TokenError::Signature, IpAddr::from([198, 51, 100, last]), "/x");
        }
        let drafts = refusals.end_of_second();
        assert!(drafts.len() <= 2 + COUNTED_APART_MAX + 2, "{}", drafts.len());
        assert!(refusals.end_of_second().is_empty());
    }
}
