//! How much memory the queues hold: those of one agent, and all of them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{model::QUEUES_SHARE, record::Recorded};

/// What an attribute takes beside its texts, in bytes: its place in the map, and two allocations.
const ATTRIBUTE_BYTES: usize = 128;
/// What the allocations of the names, the findings and the verdict take beside their texts, in bytes.
const ALLOCATIONS_BYTES: usize = 256;

/// What a message's place in a queue takes, in bytes. A queue that grows has half of its places free.
pub(super) const PLACE_BYTES: usize = 32;

/// What a message that waits takes in memory, in bytes.
pub(super) fn memory_bytes(recorded: &Recorded) -> usize {
    let message = recorded.permitted().message();
    let names = [message.id.as_str(), message.topic.as_str(), message.kind.as_str(), message.content_type.as_str()];
    let names: usize = names.into_iter().map(str::len).sum();
    let attributes = message.attributes.len() * ATTRIBUTE_BYTES;
    size_of::<Recorded>() + ALLOCATIONS_BYTES + names + attributes + message.size_bytes()
}

/// What waits for one agent, over all its subscriptions, and with that for all. Only the writer's thread adds to it.
#[derive(Debug)]
pub(super) struct Usage {
    bytes: AtomicUsize,
    all: Arc<AtomicUsize>,
}

/// A message that waits for an agent: in its [`Usage`] once, in however many of its queues, as long as it is in one.
#[derive(Debug)]
pub(super) struct Charge {
    usage: Arc<Usage>,
    bytes: usize,
    _all: Arc<ChargeOfAll>,
}

/// A message that waits for anybody.
#[derive(Debug)]
struct ChargeOfAll {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.usage.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for ChargeOfAll {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The charges of one message, while it is put into queues.
#[derive(Default)]
pub(super) struct Charges {
    bytes: usize,
    of_all: Option<Arc<ChargeOfAll>>,
    of_agents: HashMap<*const Usage, Arc<Charge>>,
}

impl Charges {
    /// Begins with a message.
    pub(super) fn begin(&mut self, message: &Recorded) {
        self.bytes = memory_bytes(message);
        self.of_all = None;
        self.of_agents.clear();
    }

    /// That of the agent whose usage this is.
    pub(super) fn of(&mut self, usage: &Arc<Usage>) -> Arc<Charge> {
        let (bytes, of_all) = (self.bytes, &mut self.of_all);
        let charge = self.of_agents.entry(Arc::as_ptr(usage)).or_insert_with(|| {
            let all = of_all.get_or_insert_with(|| {
                usage.all.fetch_add(bytes, Ordering::Relaxed);
                Arc::new(ChargeOfAll { all: Arc::clone(&usage.all), bytes })
            });
            usage.bytes.fetch_add(bytes, Ordering::Relaxed);
            Arc::new(Charge { usage: Arc::clone(usage), bytes, _all: Arc::clone(all) })
        });
        Arc::clone(charge)
    }
}

/// Which bound is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Agent,
    All,
}

impl Usage {
    /// Of an agent for whom nothing waits; `all` is what waits for all.
    pub(super) const fn new(all: Arc<AtomicUsize>) -> Self {
        Self { bytes: AtomicUsize::new(0), all }
    }

    /// A queue of the agent has so many places more.
    pub(super) fn take_places(&self, places: usize) {
        self.bytes.fetch_add(places * PLACE_BYTES, Ordering::Relaxed);
        self.all.fetch_add(places * PLACE_BYTES, Ordering::Relaxed);
    }

    /// Or fewer.
    pub(super) fn give_back_places(&self, places: usize) {
        self.bytes.fetch_sub(places * PLACE_BYTES, Ordering::Relaxed);
        self.all.fetch_sub(places * PLACE_BYTES, Ordering::Relaxed);
    }

    /// For this agent.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// For all.
    #[cfg(test)]
    pub(super) fn all_bytes(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Whether this agent holds more than its share of `all_bytes_max`, or all together more than that.
    pub(super) fn excess(&self, all_bytes_max: usize) -> Option<Excess> {
        if self.bytes() > all_bytes_max / QUEUES_SHARE {
            return Some(Excess::Agent);
        }
        (self.all.load(Ordering::Relaxed) > all_bytes_max).then_some(Excess::All)
    }
}
