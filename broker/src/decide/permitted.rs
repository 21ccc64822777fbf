//! A message with its verdict. Only [`Decider::decide`](super::Decider::decide) makes one, through [`Decided::new`].

use std::net::SocketAddr;

use super::{Decision, Verdict};
use crate::{authenticate::Identity, inspect::Inspected, model::Message};

/// Allowed: the only kind that can be given an audience.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker; the same for `Held` and `Denied`.
#[derive(Debug)]
pub struct Permitted(Judged);

/// To be withheld.
#[derive(Debug)]
pub struct Held(Judged);

/// Refused.
#[derive(Debug)]
pub struct Denied(Judged);

/// What was decided about a message. All three are recorded.
#[derive(Debug)]
pub enum Decided {
    /// It may go to its audience.
    Permitted(Permitted),
    /// It is withheld.
    Held(Held),
    /// It goes nowhere.
    Denied(Denied),
}

#[derive(Debug)]
struct Judged {
    inspected: Inspected,
    verdict: Verdict,
}

impl Decided {
    pub(super) fn new(inspected: Inspected, verdict: Verdict) -> Self {
        let decision = verdict.decision;
        let judged = Judged { inspected, verdict };
        match decision {
            Decision::Allow => Self::Permitted(Permitted(judged)),
            Decision::Quarantine => Self::Held(Held(judged)),
            Decision::Deny => Self::Denied(Denied(judged)),
        }
    }

    /// The message with its sender and findings.
    #[must_use]
    pub const fn inspected(&self) -> &Inspected {
        match self {
            Self::Permitted(Permitted(judged)) | Self::Held(Held(judged)) | Self::Denied(Denied(judged)) => {
                &judged.inspected
            }
        }
    }

    /// The grounds.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        match self {
            Self::Permitted(Permitted(judged)) | Self::Held(Held(judged)) | Self::Denied(Denied(judged)) => {
                &judged.verdict
            }
        }
    }
}

impl Permitted {
    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        self.0.inspected.message()
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &Identity {
        self.0.inspected.sender()
    }

    /// From where.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.0.inspected.peer()
    }
}
