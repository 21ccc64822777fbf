//! Agents whose subscriptions were cut off as too slow, until they come back: since when they have been in no audience.
//!
//! In scope: what the entry of the next subscription says of that. Out of scope: messages that name the subscription in
//! their audience and came too late for it; those are reported one by one. A restart ends all subscriptions, and forgets
//! this.

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;

use super::queue::Queue;
use crate::{
    authenticate::Identity,
    model::{AgentId, Issuer},
    record::Recipient,
};

/// Of how many agents it is remembered.
const AGENTS_MAX: NonZeroUsize = match NonZeroUsize::new(4_096) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};
/// Of how many subscriptions of one agent; those that were cut off first count.
const PER_AGENT_MAX: usize = 16;

type Agent = (Issuer, AgentId);

/// Each by the index of the first message that could miss it.
pub(super) struct Absences(Mutex<LruCache<Agent, VecDeque<u64>>>);

/// An absence that the entry of a new subscription is to tell. Unless it is told, the next one tells it.
pub struct Absence {
    absences: Arc<Absences>,
    agent: Agent,
    first: u64,
    is_told: bool,
}

impl Absences {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(LruCache::new(AGENTS_MAX))))
    }

    /// Takes over from the queue of a subscription since when it is cut off, if it is. When this returns, whoever of the
    /// threads that end a subscription asked first, a new one of its agent finds that.
    pub(super) fn begin(&self, recipient: &Recipient, queue: &Queue) {
        let mut agents = self.0.lock();
        if let Some(first) = queue.take_cut() {
            insert(&mut agents, (recipient.issuer.clone(), recipient.agent.clone()), first);
        }
    }

    /// The longest absence of an agent that is not told yet.
    pub(super) fn end(self: &Arc<Self>, identity: &Identity) -> Option<Absence> {
        let agent = (identity.issuer().clone(), identity.agent().clone());
        let mut agents = self.0.lock();
        let waiting = agents.get_mut(&agent)?;
        let first = waiting.pop_front();
        if waiting.is_empty() {
            agents.pop(&agent);
        }
        Some(Absence { absences: Arc::clone(self), agent, first: first?, is_told: false })
    }
}

impl Absence {
    /// The index of the first message that could miss the agent.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The entry that tells it is recorded.
    pub fn told(mut self) {
        self.is_told = true;
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        if !self.is_told {
            insert(&mut self.absences.0.lock(), self.agent.clone(), self.first);
        }
    }
}

fn insert(agents: &mut LruCache<Agent, VecDeque<u64>>, agent: Agent, first: u64) {
    let waiting = agents.get_or_insert_mut(agent, VecDeque::new);
    let place = waiting.partition_point(|other| *other <= first);
    waiting.insert(place, first);
    waiting.truncate(PER_AGENT_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::World, issue::KeyKind};

    fn agent(number: u64) -> Agent {
        (Issuer::parse("issuer").expect("an issuer"), AgentId::parse(&format!("a-{number}")).expect("an agent"))
    }

    #[test]
    fn an_absence_is_told_once_and_the_longest_first() {
        let world = World::new(KeyKind::EdDsa);
        let [one, other] = ["one", "other"].map(|agent| world.identity(&world.claims(agent)));
        let absences = Absences::new();
        for first in [20, 10, 10] {
            insert(&mut absences.0.lock(), (one.issuer().clone(), one.agent().clone()), first);
        }
        assert!(absences.end(&other).is_none());
        for expected in [10, 10, 20] {
            let untold = absences.end(&one).expect("one");
            assert_eq!(untold.first(), expected);
            drop(untold);
            let told = absences.end(&one).expect("the same again");
            assert_eq!(told.first(), expected);
            told.told();
        }
        assert!(absences.end(&one).is_none());
    }

    #[test]
    fn of_many_agents_and_of_many_subscriptions_only_so_many_are_remembered() {
        let absences = Absences::new();
        for number in 0..5_000 {
            insert(&mut absences.0.lock(), agent(number), 1);
        }
        for first in 0..100 {
            insert(&mut absences.0.lock(), agent(4_999), first);
        }
        let agents = absences.0.lock();
        assert_eq!(
            (agents.len(), agents.peek(&agent(4_999)).map(VecDeque::len)),
            (AGENTS_MAX.get(), Some(PER_AGENT_MAX))
        );
        assert!(agents.peek(&agent(0)).is_none(), "the one that was cut off first is forgotten first");
    }
}
