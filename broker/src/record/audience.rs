//! Who gets a message: fixed before the message is recorded, and named in its entry.

use std::sync::Arc;

use crate::model::{AgentId, Issuer, SubscriptionId};

/// One subscription that gets a message, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Who vouches for the agent.
    pub issuer: Issuer,
    /// The agent, as verified.
    pub agent: AgentId,
}

/// Everybody who gets a message, in order of their subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Audience(Arc<[Recipient]>);

impl Audience {
    /// These recipients.
    #[must_use]
    pub fn new(recipients: Arc<[Recipient]>) -> Self {
        Self(recipients)
    }

    /// One by one.
    #[must_use]
    pub fn recipients(&self) -> &[Recipient] {
        &self.0
    }

    /// Whether it is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
