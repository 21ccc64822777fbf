//! Handing recorded messages to those who may have them.
//!
//! The [`Router`] knows the live subscriptions and fixes a message's audience; the [`Deliverer`] takes what the writer has
//! committed and puts it into the bounded queue of each recipient; an [`Inbox`] is the end from which a stream reads.
//! Every message that a named recipient does not get is reported back to the log.
//!
//! Out of scope: whether a caller may subscribe (see [`decide`](crate::decide)).

mod absences;
mod deliverer;
mod inbox;
mod queue;
mod router;
mod usage;

/// Why a message was not handed over that a subscriber may no longer have under its fresh token.
const NARROWED: &str = "narrowed";
/// Why a message was not handed over that made room for a later one.
const DROPPED_OLDEST: &str = "dropped_oldest";

/// Every reason for which messages are counted as undelivered.
pub fn undelivered_reasons() -> impl Iterator<Item = &'static str> {
    EndReason::ALL.into_iter().map(EndReason::as_str).chain([NARROWED, DROPPED_OLDEST])
}

pub use absences::Absence;
pub use deliverer::Deliverer;
pub use inbox::{Inbox, InboxError, InboxTerms};
pub use queue::{EndReason, QueueLimits};
pub use router::Router;

#[cfg(test)]
mod tests;
