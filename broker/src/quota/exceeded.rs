//! What was too much, and for how long.

use std::time::Duration;

use thiserror::Error;

/// Which quota. Its name is that of the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Messages published a second.
    Messages,
    /// Bytes published a second.
    Bytes,
    /// Calls and streams at the same time.
    Streams,
    /// Subscriptions at the same time.
    Subscriptions,
    /// Agents that accounts are kept for.
    Agents,
}

impl QuotaKind {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Messages, Self::Bytes, Self::Streams, Self::Subscriptions, Self::Agents];

    /// The stable word under which refusals are counted and recorded.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages_per_s_max",
            Self::Bytes => "bytes_per_s_max",
            Self::Streams => "streams_max",
            Self::Subscriptions => "subscriptions_max",
            Self::Agents => "agents_max",
        }
    }
}

/// More than the agent may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("over the quota `{}`", .kind.as_str())]
pub struct QuotaExceeded {
    /// Of what.
    pub kind: QuotaKind,
    /// When the same would pass if nothing else is sent; `None` where it never would.
    pub retry_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fixtures::words_of;

    #[test]
    fn every_quota_is_listed() {
        assert_eq!(
            words_of(include_str!("exceeded.rs"), "as_str"),
            BTreeSet::from(QuotaKind::ALL.map(QuotaKind::as_str))
        );
    }
}
