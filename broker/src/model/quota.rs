//! How much an agent may use, in the words of settings and policy.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
};

use super::{AgentId, RoleName};

/// One agent may have this part of the memory for what agents send: an eighth.
pub const RECEIVE_SHARE: usize = 8;
/// And this part of the memory for what waits for subscribers.
pub const QUEUES_SHARE: usize = 8;

/// A bound, or none. No bound is the greatest of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ceiling {
    /// So much and no more.
    Max(NonZeroU64),
    /// As much as there is.
    Unlimited,
}

/// What an agent may use. What is absent is said elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaTerms {
    /// Messages published a second.
    pub messages_per_s: Option<Ceiling>,
    /// Bytes published a second, as the messages are encoded on the wire.
    pub bytes_per_s: Option<Ceiling>,
    /// How many seconds' worth of both may come at once.
    pub burst_s: Option<NonZeroU32>,
    /// Calls and streams that are open at the same time.
    pub streams: Option<Ceiling>,
    /// Subscriptions that are open at the same time.
    pub subscriptions: Option<Ceiling>,
}

/// Who may use more or less than others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuotaOverrides {
    /// By agent id, whoever issued it.
    pub agents: HashMap<AgentId, QuotaTerms>,
    /// By role.
    pub roles: HashMap<RoleName, QuotaTerms>,
}
