//! A message whose entry is durable. Only the writer, after a commit, makes one: it is the only thing that is delivered.

use super::Audience;
use crate::{decide::Permitted, model::DecisionId};

/// A permitted message with its place in the log.
// INVARIANT: no public field, `Default`, `Deserialize`, `From` or test-only maker.
#[derive(Debug)]
pub struct Recorded {
    permitted: Permitted,
    audience: Audience,
    decision_id: DecisionId,
    salt: [u8; 32],
}

impl Recorded {
    pub(super) const fn new(permitted: Permitted, audience: Audience, decision_id: DecisionId, salt: [u8; 32]) -> Self {
        Self { permitted, audience, decision_id, salt }
    }

    /// The message, its sender and where it came from.
    #[must_use]
    pub const fn permitted(&self) -> &Permitted {
        &self.permitted
    }

    /// Who gets it, as named in the entry.
    #[must_use]
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// The decision, and with it the audit index.
    #[must_use]
    pub const fn decision_id(&self) -> &DecisionId {
        &self.decision_id
    }

    /// With the data it gives the content digest in the entry.
    #[must_use]
    pub const fn salt(&self) -> &[u8; 32] {
        &self.salt
    }
}
