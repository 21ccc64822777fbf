//! A message, or a value to be written, that was looked into. Only [`Inspector::inspect`], in this file, makes an [`Inspected`].

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::Inspector;
use crate::{
    authenticate::Identity,
    model::{Finding, FindingKind, Message, Severity, Write},
};

/// What can be inspected.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A message.
    Message(&'a Message),
    /// A value on its way into shared state.
    Write(&'a Write),
}

impl<'a> From<&'a Message> for Content<'a> {
    fn from(message: &'a Message) -> Self {
        Self::Message(message)
    }
}

impl<'a> From<&'a Write> for Content<'a> {
    fn from(write: &'a Write) -> Self {
        Self::Write(write)
    }
}

/// A message, or a value to be written, as a known sender submitted it.
#[derive(Debug)]
pub struct Submitted<T = Message> {
    /// Who sent it.
    pub sender: Arc<Identity>,
    /// Who brought it, where that is not the sender.
    pub via: Option<Arc<Identity>>,
    /// From where.
    pub peer: SocketAddr,
    /// What was sent.
    pub content: T,
}

impl<T> Submitted<T> {
    /// Sent and brought by the same.
    #[must_use]
    pub const fn new(sender: Arc<Identity>, peer: SocketAddr, content: T) -> Self {
        Self { sender, via: None, peer, content }
    }
}

/// What was submitted, with what was found in it.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
#[derive(Debug)]
pub struct Inspected<T = Message> {
    submitted: Submitted<T>,
    findings: Findings,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// The worst, at most [`FINDINGS_MAX`](super::FINDINGS_MAX).
    pub listed: Vec<Finding>,
    /// How many more there were, none of them worse, counted up to [`OMITTED_MAX`](super::OMITTED_MAX).
    pub omitted: u32,
}

impl<T> Inspected<T> {
    /// What was looked into.
    #[must_use]
    pub const fn submitted(&self) -> &Submitted<T> {
        &self.submitted
    }

    /// What was found in it.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Both.
    #[must_use]
    pub fn into_parts(self) -> (Submitted<T>, Findings) {
        (self.submitted, self.findings)
    }
}

impl Inspector {
    /// Looks into a message, or a value to be written. It only finds; what follows from a finding is the policy's to say.
    #[must_use]
    pub fn inspect<T>(&self, submitted: Submitted<T>) -> Inspected<T>
    where
        for<'a> &'a T: Into<Content<'a>>,
    {
        // A scanner that panics has not found the content clean.
        let found = catch_unwind(AssertUnwindSafe(|| self.findings_and_omitted((&submitted.content).into())));
        let (listed, omitted) = found.unwrap_or_else(|_| (vec![crashed()], 0));
        Inspected { submitted, findings: Findings { listed, omitted } }
    }
}

fn crashed() -> Finding {
    Finding {
        kind: FindingKind::ScannerFailure,
        rule: "scanner-crashed".to_owned(),
        severity: Severity::High,
        location: "message".to_owned(),
    }
}
