//! What a submission brings to a commit, and what it gets back.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    model::Outcome,
    record::{AccessReceipt, Draft, Following, KeyReceipt, StateOutcome, queue::Submission},
};

impl Submission {
    /// A note is kept until its commit has succeeded: nobody else would submit it again.
    pub(super) fn note(&self) -> Option<Draft> {
        match self {
            Self::Note(draft) => Some(draft.clone()),
            Self::Messages(..)
            | Self::Access(..)
            | Self::State(..)
            | Self::Follow(..)
            | Self::Keys(..)
            | Self::Due(_)
            | Self::Tick
            | Self::Finish(_)
            | Self::Barrier(_) => None,
        }
    }

    /// Whether it needs a commit that nothing else is in.
    pub(super) const fn stands_alone(&self) -> bool {
        matches!(self, Self::Keys(..))
    }

    /// Whether nothing that comes after it goes into the same commit.
    pub(super) const fn closes_commit(&self) -> bool {
        matches!(self, Self::Keys(..) | Self::Finish(_))
    }

    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Messages(messages, ..) => messages.len().max(1),
            Self::State(orders, ..) => orders.len().max(1),
            Self::Due(due) => due.len().max(1),
            Self::Access(..) | Self::Follow(..) | Self::Keys(..) | Self::Note(_) | Self::Finish(_) => 1,
            Self::Tick | Self::Barrier(_) => 0,
        }
    }
}

/// An answer that waits for the commit. Dropped unsent, it tells the asker that recording failed.
pub(super) enum Reply {
    Messages(oneshot::Sender<Vec<Outcome>>, Vec<Outcome>, OwnedSemaphorePermit),
    Access(oneshot::Sender<AccessReceipt>, AccessReceipt),
    State(oneshot::Sender<Vec<StateOutcome>>, Vec<StateOutcome>, OwnedSemaphorePermit),
    /// With the place of its record among those of the commit, until that has its index.
    Follow(oneshot::Sender<Following>, Following, Option<usize>),
    Keys(oneshot::Sender<KeyReceipt>, KeyReceipt),
    Barrier(oneshot::Sender<()>),
    None,
}

impl Reply {
    /// Whoever is gone meanwhile finds the answer in the log.
    pub(super) fn send(self) {
        match self {
            Self::Messages(reply, outcomes, _room) => drop(reply.send(outcomes)),
            Self::Access(reply, receipt) => drop(reply.send(receipt)),
            Self::State(reply, outcomes, _room) => drop(reply.send(outcomes)),
            Self::Follow(reply, following, _) => drop(reply.send(following)),
            Self::Keys(reply, receipt) => drop(reply.send(receipt)),
            Self::Barrier(reply) => drop(reply.send(())),
            Self::None => {}
        }
    }
}
