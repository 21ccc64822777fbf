//! Callers that could not prove who they are, and connections beyond a limit, on their way to the log: one by one up to a rate, counted together above it,
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
    authenticate::{Bearer, Session, TokenError},
    metrics::Metrics,
    model::{AgentId, Issuer},
    record::{Draft, Recorder},
};

/// How many kinds of refusals are counted apart within a second; beyond, whose token it was and the address are left out.
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
    counted: HashMap<Refused, (u64, Option<Bearer>)>,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Refused {
    what: What,
    reason: &'static str,
    agent: Option<(Issuer, AgentId)>,
    peer: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Caller,
    Connection,
}

impl Refused {
    fn draft(&self, bearer: Option<&Bearer>, method: &str, count: u64) -> Draft {
        match self.what {
            What::Caller => Draft::authentication_refused(self.reason, bearer, self.peer, method, count),
            What::Connection => Draft::connection_refused(self.reason, bearer, self.peer, count),
        }
    }
}

impl Refusals {
    /// Records up to `per_s_max` a second one by one.
    #[must_use]
    pub fn new(per_s_max: u32, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { per_s_max, state: Mutex::default(), news: Notify::new(), metrics })
    }

    /// A caller was refused; `bearer` is whose token it was, where its signature is good.
    pub fn note(&self, error: &TokenError, bearer: Option<Bearer>, peer: IpAddr, method: &str) {
        self.metrics.authentication_refused(error.reason());
        self.count(What::Caller, error.reason(), bearer, peer, method);
    }

    /// A connection was refused, by this limit.
    pub fn note_connection(&self, limit: &'static str, bearer: Option<Bearer>, peer: IpAddr) {
        self.metrics.connection_refused(limit);
        self.count(What::Connection, limit, bearer, peer, "");
    }

    /// A session whose token is no longer good. It is noted once, whoever comes upon it first.
    pub fn note_session(&self, session: &Session, error: &TokenError) {
        if session.complain_once() {
            let bearer = Bearer::from(&*session.identity());
            self.note(error, Some(bearer), session.peer().ip(), session.method());
        }
    }

    fn count(&self, what: What, reason: &'static str, bearer: Option<Bearer>, peer: IpAddr, method: &str) {
        let agent = bearer.as_ref().map(|bearer| (bearer.issuer.clone(), bearer.agent.clone()));
        let mut refused = Refused { what, reason, agent, peer: Some(address_key(peer)) };
        let mut state = self.state.lock();
        if state.single < self.per_s_max {
            state.single += 1;
            state.waiting.push(refused.draft(bearer.as_ref(), short(method), 1));
            self.news.notify_one();
            return;
        }
        if state.counted.len() >= COUNTED_APART_MAX && !state.counted.contains_key(&refused) {
            (refused.agent, refused.peer) = (None, None);
        }
        let bearer = bearer.filter(|_| refused.agent.is_some());
        let (count, last) = state.counted.entry(refused).or_default();
        *count += 1;
        *last = bearer;
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
        drafts.extend(counted.map(|(refused, (count, bearer))| refused.draft(bearer.as_ref(), "", count)));
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
                refusals.note(&TokenError::Expired, None, IpAddr::from([192, 0, 2, last]), "/x");
            }
            refusals.note(&TokenError::Signature, None, IpAddr::from([198, 51, 100, last]), "/x");
            refusals.note_connection("connections_max", None, IpAddr::from([203, 0, 113, last]));
        }
        let drafts = refusals.end_of_second();
        assert!(drafts.len() <= 2 + COUNTED_APART_MAX + 3, "{}", drafts.len());
        assert!(refusals.end_of_second().is_empty());
    }
}
