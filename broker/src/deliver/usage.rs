//! How much memory the queues hold: those of one agent, and all of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{model::QUEUES_SHARE, record::Recorded};

/// What an attribute takes beside its texts, in bytes: its place in the map, and two allocations.
const ATTRIBUTE_BYTES: usize = 128;
/// What the allocations of the names, the findings and the verdict take beside their texts, in bytes.
const ALLOCATIONS_BYTES: usize = 256;

/// What a message that waits takes in memory, in bytes. Queues share messages, and each counts it in full: any one of
/// them may be the last that holds it.
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

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// For this agent.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether this agent holds more than its share of `all_bytes_max`, or all together more than that.
    pub(super) fn excess(&self, all_bytes_max: usize) -> Option<Excess> {
        if self.bytes() > all_bytes_max / QUEUES_SHARE {
            return Some(Excess::Agent);
        }
        (self.all.load(Ordering::Relaxed) > all_bytes_max).then_some(Excess::All)
    }
}
