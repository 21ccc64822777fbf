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

/// A message, or a value to be written, of a known sender, with what was found in it.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
#[derive(Debug)]
pub struct Inspected<T = Message> {
    sender: Arc<Identity>,
    via: Option<Arc<Identity>>,
    peer: SocketAddr,
    content: T,
    findings: Vec<Finding>,
    findings_omitted: u32,
}

impl<T> Inspected<T> {
    /// Who sent it.
    #[must_use]
    pub const fn sender(&self) -> &Arc<Identity> {
        &self.sender
    }

    /// Who brought it, where that is not the sender.
    #[must_use]
    pub const fn via(&self) -> Option<&Arc<Identity>> {
        self.via.as_ref()
    }

    /// The same, brought by a gateway that speaks for the sender.
    #[must_use]
    pub fn brought_by(self, via: Option<Arc<Identity>>) -> Self {
        Self { via, ..self }
    }

    /// From where.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What was looked into.
    #[must_use]
    pub const fn content(&self) -> &T {
        &self.content
    }

    /// What was found, at most [`FINDINGS_MAX`](super::FINDINGS_MAX).
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many more findings there were, none of them worse, counted up to [`OMITTED_MAX`](super::OMITTED_MAX).
    #[must_use]
    pub const fn findings_omitted(&self) -> u32 {
        self.findings_omitted
    }
}

impl Inspected {
    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.content
    }
}

impl Inspector {
    /// Looks into a message, or a value to be written. It only finds; what follows from a finding is the policy's to say.
    #[must_use]
    pub fn inspect<T>(&self, sender: Arc<Identity>, peer: SocketAddr, content: T) -> Inspected<T>
    where
        for<'a> &'a T: Into<Content<'a>>,
    {
        // A scanner that panics has not found the content clean.
        let found = catch_unwind(AssertUnwindSafe(|| self.findings_and_omitted((&content).into())));
        let (findings, findings_omitted) = found.unwrap_or_else(|_| (vec![crashed()], 0));
        Inspected { sender, via: None, peer, content, findings, findings_omitted }
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
