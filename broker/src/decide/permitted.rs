//! A message with its verdict. Only [`Decider::decide`](super::Decider::decide) makes one, through [`Decided::new`].

use std::{net::SocketAddr, sync::Arc};

use super::{Decision, Verdict};
use crate::{
    authenticate::Identity,
    inspect::{Findings, Inspected, Submitted},
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
    submitted: Submitted<T>,
    findings: Findings,
    verdict: Verdict,
}

impl<T> Decided<T> {
    pub(super) fn new(inspected: Inspected<T>, verdict: Verdict) -> Self {
        let decision = verdict.decision;
        let (submitted, findings) = inspected.into_parts();
        let judged = Judged { submitted, findings, verdict };
        match decision {
            Decision::Allow => Self::Permitted(Permitted(judged)),
            Decision::Quarantine => Self::Held(Held(judged)),
            Decision::Deny => Self::Denied(Denied(judged)),
        }
    }

    /// Refused on grounds that need nobody to look into it.
    pub(super) fn denied_unseen(submitted: Submitted<T>, verdict: Verdict) -> Self {
        Self::Denied(Denied(Judged { submitted, findings: Findings::default(), verdict }))
    }

    /// What was submitted.
    #[must_use]
    pub const fn submitted(&self) -> &Submitted<T> {
        &self.judged().submitted
    }

    /// What was found in it. Nothing where the verdict did not need an inspection.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.judged().findings
    }

    /// The grounds.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.judged().verdict
    }

    const fn judged(&self) -> &Judged<T> {
        match self {
            Self::Permitted(Permitted(judged)) | Self::Held(Held(judged)) | Self::Denied(Denied(judged)) => judged,
        }
    }
}

impl Permitted {
    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.0.submitted.content
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> &Identity {
        &self.0.submitted.sender
    }

    /// From where.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.0.submitted.peer
    }
}

impl Permitted<Write> {
    /// The value to be written.
    #[must_use]
    pub const fn write(&self) -> &Write {
        &self.0.submitted.content
    }

    /// Who writes.
    #[must_use]
    pub const fn writer(&self) -> &Arc<Identity> {
        &self.0.submitted.sender
    }
}
