//! Which message ids were recorded already: a bounded window for each sender, rebuilt from the log's tail at start.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
};

use lru::LruCache;
use sha2::{Digest as _, Sha256};
use veribus_proto::v1::{self, AuditEntry, EntryKind};

use crate::{model::RefusalReason, seal::Fingerprint};

impl FirstOutcome {
    /// Whether the same message would always be answered like this. What a moment is to blame for is not remembered, and
    /// neither is the refusal of an id that belongs to another message.
    pub(super) const fn is_final(self) -> bool {
        match self {
            Self::Accepted
            | Self::Quarantined
            | Self::Refused(
                RefusalReason::MissingPermission | RefusalReason::PolicyDenied | RefusalReason::MessageTooLarge,
            ) => true,
            Self::Refused(
                RefusalReason::DecisionFailed
                | RefusalReason::MalformedMessage
                | RefusalReason::TokenExpired
                | RefusalReason::TokenRevoked
                | RefusalReason::RevocationLimit
                | RefusalReason::NoSuchRevocation
                | RefusalReason::RevocationOver
                | RefusalReason::MissingDecryptClaim
                | RefusalReason::Quarantined
                | RefusalReason::AnswerTooLarge
                | RefusalReason::RevisionConflict
                | RefusalReason::ScopeLimit
                | RefusalReason::NoSuchKey
                | RefusalReason::RootKeyFixed
                | RefusalReason::RootKeyFailed
                | RefusalReason::BackupRunning
                | RefusalReason::MessageIdReused,
            ) => false,
        }
    }
}

/// What was answered the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub(super) index: u64,
    pub(super) outcome: FirstOutcome,
    /// Known only to the process that recorded it.
    pub(super) salt: Option<[u8; 32]>,
    /// Tells whether a message with the same id is the same message. `None` in entries of before there were any: then it
    /// is taken for another.
    pub(super) fingerprint: Option<Fingerprint>,
    /// How many subscriptions are its audience; `None` where its entry only refers to them.
    pub(super) recipients: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstOutcome {
    Accepted,
    Quarantined,
    Refused(RefusalReason),
}

/// An id stands as the first half of its SHA-256: 16 bytes, whatever its length.
type IdHash = [u8; 16];

/// The windows of all senders.
pub(super) struct Duplicates {
    senders: LruCache<[u8; 32], Window>,
    ids_per_sender_max: usize,
}

/// Which message of which sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    sender: [u8; 32],
    id: IdHash,
}

impl Key {
    pub(super) fn new(issuer: &str, agent: &str, message_id: &str) -> Self {
        let length = issuer.len().to_be_bytes();
        let sender = Sha256::new().chain_update(length).chain_update(issuer).chain_update(agent).finalize();
        let id = Sha256::digest(message_id);
        Self { sender: sender.into(), id: id.first_chunk().copied().unwrap_or_default() }
    }
}

#[derive(Default)]
struct Window {
    order: VecDeque<IdHash>,
    first: HashMap<IdHash, First>,
}

impl Duplicates {
    pub(super) fn new(senders_max: usize, ids_per_sender_max: usize) -> Self {
        let senders_max = NonZeroUsize::new(senders_max).unwrap_or(NonZeroUsize::MIN);
        Self { senders: LruCache::new(senders_max), ids_per_sender_max: ids_per_sender_max.max(1) }
    }

    pub(super) fn find(&mut self, key: &Key) -> Option<First> {
        self.senders.get(&key.sender)?.first.get(&key.id).copied()
    }

    pub(super) fn insert(&mut self, key: Key, first: First) {
        let ids_max = self.ids_per_sender_max;
        let window = self.senders.get_or_insert_mut(key.sender, Window::default);
        let id = key.id;
        if window.first.insert(id, first).is_none() {
            window.order.push_back(id);
        }
        if window.order.len() > ids_max
            && let Some(oldest) = window.order.pop_front()
        {
            window.first.remove(&oldest);
        }
    }

    /// Takes in an entry of the log's tail.
    pub(super) fn replay(&mut self, entry: &AuditEntry) {
        let (Some(actor), Some(message)) = (&entry.actor, &entry.message) else { return };
        if entry.kind() != EntryKind::Publish {
            return;
        }
        if let Some(outcome) = entry.decision.as_ref().and_then(outcome) {
            let fingerprint = message.fingerprint.as_slice().try_into().ok();
            let first = First { index: entry.index, outcome, salt: None, fingerprint, recipients: recipients(entry) };
            if outcome.is_final() {
                self.insert(Key::new(&actor.issuer, &actor.agent, &message.id), first);
            }
        }
    }
}

fn recipients(entry: &AuditEntry) -> Option<u32> {
    match &entry.audience {
        None => Some(0),
        Some(audience) if audience.listed_at.is_empty() => u32::try_from(audience.recipients.len()).ok(),
        Some(_) => None,
    }
}

fn outcome(decision: &v1::DecisionFacts) -> Option<FirstOutcome> {
    match decision.decision() {
        v1::Decision::Allow => Some(FirstOutcome::Accepted),
        v1::Decision::Quarantine => Some(FirstOutcome::Quarantined),
        v1::Decision::Deny => Some(FirstOutcome::Refused(
            RefusalReason::from_word(&decision.reason).unwrap_or(RefusalReason::PolicyDenied),
        )),
        v1::Decision::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(index: u64) -> First {
        First { index, outcome: FirstOutcome::Accepted, salt: None, fingerprint: None, recipients: None }
    }

    #[test]
    fn an_id_is_known_to_its_own_sender_only() {
        let mut duplicates = Duplicates::new(8, 8);
        duplicates.insert(Key::new("iss", "a", "1"), first(7));
        assert_eq!(duplicates.find(&Key::new("iss", "a", "1")), Some(first(7)));
        assert_eq!(duplicates.find(&Key::new("iss", "b", "1")), None);
        assert_eq!(duplicates.find(&Key::new("is", "sa", "1")), None);
    }

    #[test]
    fn a_busy_sender_pushes_out_its_own_oldest_ids_and_nobody_elses() {
        let mut duplicates = Duplicates::new(8, 2);
        duplicates.insert(Key::new("iss", "quiet", "1"), first(0));
        for index in 0..5u64 {
            duplicates.insert(Key::new("iss", "busy", &index.to_string()), first(index));
        }
        assert_eq!(duplicates.find(&Key::new("iss", "busy", "2")), None);
        assert_eq!(duplicates.find(&Key::new("iss", "busy", "3")), Some(first(3)));
        assert_eq!(duplicates.find(&Key::new("iss", "quiet", "1")), Some(first(0)));
    }

    #[test]
    fn memory_is_bounded_in_senders_too() {
        let mut duplicates = Duplicates::new(2, 8);
        for agent in ["a", "b", "c"] {
            duplicates.insert(Key::new("iss", agent, "1"), first(1));
        }
        assert_eq!(duplicates.find(&Key::new("iss", "a", "1")), None);
        assert_eq!(duplicates.senders.len(), 2);
    }
}
