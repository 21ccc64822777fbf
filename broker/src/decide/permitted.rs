//! A message with its verdict. Only [`Decider::decide`](super::Decider::decide) makes one, through [`Decided::new`].

use std::{net::SocketAddr, sync::Arc};

use super::{Decision, Verdict};
use crate::{
    authenticate::Identity,
    inspect::Inspected,
    model::{Message, Write},
};

/// Allowed: the only kind that can be given an audience.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker; the same for `Held` and `Denied`.
#[derive(Debug)]
pub struct Permitted<T = Message>(Judged<T>);

/// To be withheld.
#[derive(Debug)]
pub struct Held<T = Message>(Judged<T>);

/// Refused.
#[derive(Debug)]
pub struct Denied<T = Message>(Judged<T>);

/// What was decided about a message, or a value to be written. All three are recorded.
#[derive(Debug)]
pub enum Decided<T = Message> {
    /// It may go to its audience, or be kept.
    Permitted(Permitted<T>),
    /// It is withheld.
    Held(Held<T>),
    /// It goes nowhere.
    Denied(Denied<T>),
}

#[derive(Debug)]
struct Judged<T> {
    inspected: Inspected<T>,
    verdict: Verdict,
}

impl<T> Decided<T> {
    pub(super) fn new(inspected: Inspected<T>, verdict: Verdict) -> Self {
        let decision = verdict.decision;
        let judged = Judged { inspected, verdict };
        match decision {
            Decision::Allow => Self::Permitted(Permitted(judged)),
            Decision::Quarantine => Self::Held(Held(judged)),
            Decision::Deny => Self::Denied(Denied(judged)),
        }
    }

    /// The content with its sender and findings.
    #[must_use]
    pub const fn inspected(&self) -> &Inspected<T> {
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

impl Permitted<Write> {
    /// The value to be written.
    #[must_use]
    pub const fn write(&self) -> &Write {
        self.0.inspected.content()
    }

    /// Who writes.
    #[must_use]
    pub const fn writer(&self) -> &Arc<Identity> {
        self.0.inspected.sender()
    }
}
