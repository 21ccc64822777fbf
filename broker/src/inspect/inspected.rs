//! A message that was looked into. Only [`Inspector::inspect`], in this file, makes an [`Inspected`].

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::Inspector;
use crate::{
    authenticate::Identity,
    model::{Finding, FindingKind, Message, Severity},
};

/// A message of a known sender, with what was found in it.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
#[derive(Debug)]
pub struct Inspected {
    sender: Arc<Identity>,
    via: Option<Arc<Identity>>,
    peer: SocketAddr,
    message: Message,
    findings: Vec<Finding>,
    findings_omitted: u32,
}

impl Inspected {
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

    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
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

impl Inspector {
    /// Looks into a message. It only finds; what follows from a finding is the policy's to say.
    #[must_use]
    pub fn inspect(&self, sender: Arc<Identity>, peer: SocketAddr, message: Message) -> Inspected {
        // A scanner that panics has not found the message clean.
        let found = catch_unwind(AssertUnwindSafe(|| self.findings_and_omitted(&message)));
        let (findings, findings_omitted) = found.unwrap_or_else(|_| (vec![crashed()], 0));
        Inspected { sender, via: None, peer, message, findings, findings_omitted }
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
