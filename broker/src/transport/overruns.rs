//! What was beyond a quota, on its way to the log: for each agent and quota one entry a second at most, with a count, so that
//! nobody can fill the disk by asking for too much.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::interval;

use crate::{
    authenticate::{Caller, Identity},
    metrics::Metrics,
    model::{AgentId, Issuer},
    quota::QuotaKind,
    record::{Draft, Recorder},
};

/// How many pairs of agent and quota are counted apart within a second; beyond, the agent is left out.
const COUNTED_APART_MAX: usize = 1_024;

/// Takes overruns in.
pub struct Overruns {
    counted: Mutex<Counted>,
    metrics: Metrics,
}

#[derive(Default)]
struct Counted {
    apart: HashMap<(Issuer, AgentId, QuotaKind), Overrun>,
    together: HashMap<QuotaKind, u64>,
}

/// Of one agent in this second, as it came last.
struct Overrun {
    identity: Arc<Identity>,
    peer: SocketAddr,
    count: u64,
}

impl Overruns {
    /// None yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { counted: Mutex::default(), metrics })
    }

    /// A caller sent so many messages too much, or made so many calls.
    pub fn note(&self, caller: &Caller, kind: QuotaKind, count: u64) {
        self.note_identity(caller.identity(), caller.peer(), kind, count);
    }

    /// The same, before there is a session.
    pub fn note_identity(&self, identity: Arc<Identity>, peer: SocketAddr, kind: QuotaKind, count: u64) {
        self.metrics.quota_refused(kind.as_str(), count);
        let agent = (identity.issuer().clone(), identity.agent().clone(), kind);
        let mut counted = self.counted.lock();
        if counted.apart.len() >= COUNTED_APART_MAX && !counted.apart.contains_key(&agent) {
            *counted.together.entry(kind).or_default() += count;
            return;
        }
        let before = counted.apart.get(&agent).map_or(0, |overrun| overrun.count);
        counted.apart.insert(agent, Overrun { identity, peer, count: before + count });
    }

    /// Brings what is noted to the log, each second, until this is dropped.
    pub async fn record(this: Weak<Self>, recorder: Recorder) {
        let mut second = interval(Duration::from_secs(1));
        loop {
            second.tick().await;
            let Some(overruns) = this.upgrade() else { return };
            // While the disk is nearly full, they go on being counted, and are written once there is room.
            if recorder.disk().is_below_floor() {
                continue;
            }
            for draft in overruns.end_of_second() {
                // As with refusals.
                if recorder.note(draft).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Everything that is not yet recorded; begins a new second.
    pub fn end_of_second(&self) -> Vec<Draft> {
        let Counted { apart, together } = std::mem::take(&mut *self.counted.lock());
        let apart = apart.into_iter().map(|((_, _, kind), overrun)| {
            Draft::quota_exceeded(Some((&overrun.identity, overrun.peer)), kind.as_str(), overrun.count)
        });
        let together = together.into_iter().map(|(kind, count)| Draft::quota_exceeded(None, kind.as_str(), count));
        apart.chain(together).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{World, peer},
        issue::KeyKind,
    };

    #[test]
    fn a_flood_is_counted_and_not_written_out() {
        let (world, overruns) = (World::new(KeyKind::EdDsa), Overruns::new(Metrics::default()));
        let identity = world.identity(&world.claims("a"));
        for _ in 0..10_000 {
            overruns.note_identity(Arc::clone(&identity), peer(), QuotaKind::Messages, 3);
        }
        overruns.note_identity(identity, peer(), QuotaKind::Streams, 1);
        assert_eq!(overruns.end_of_second().len(), 2);
        assert_eq!(overruns.end_of_second().len(), 0);
    }

    #[test]
    fn no_more_agents_are_told_apart_than_there_is_room_for() {
        let (world, overruns) = (World::new(KeyKind::EdDsa), Overruns::new(Metrics::default()));
        for index in 0..COUNTED_APART_MAX + 10 {
            let identity = world.identity(&world.claims(&format!("agent-{index}")));
            overruns.note_identity(identity, peer(), QuotaKind::Messages, 1);
        }
        assert_eq!(overruns.end_of_second().len(), COUNTED_APART_MAX + 1);
    }
}
