//! Messages and operations of one request that cannot be read.

use std::sync::Arc;

use veribus_proto::v1::AuditEntry;

use crate::{
    authenticate::Identity,
    record::{commit::Commit, prepared::Prepared},
};

/// So many have an entry each; the others share one that says how many they are. Two bytes can be such a message, and an entry
/// takes some hundred.
pub(super) const APART_MAX: usize = 16;

/// Those of one request.
pub(super) struct MalformedRun {
    apart_left: usize,
    /// How many share an entry.
    together: u64,
    shared: Option<u64>,
}

impl MalformedRun {
    /// With the senders of all of them. Where they are not the same, each has its entry.
    pub(super) fn new<'s>(senders: impl Iterator<Item = &'s Arc<Identity>>) -> Self {
        let (mut count, mut first, mut is_one) = (0, None, true);
        for sender in senders {
            count += 1;
            is_one &= Arc::ptr_eq(first.get_or_insert(sender), sender);
        }
        let apart_left = if is_one && count > APART_MAX { APART_MAX } else { count };
        Self { apart_left, together: (count - apart_left) as u64, shared: None }
    }

    /// Records the next one; returns the index of its entry.
    pub(super) fn push(&mut self, entry: Prepared, commit: &mut Commit) -> u64 {
        if self.apart_left > 0 {
            self.apart_left -= 1;
            return commit.push(entry);
        }
        let (together, shared) = (self.together, &mut self.shared);
        *shared.get_or_insert_with(|| commit.push_with(entry, AuditEntry { count: together, ..AuditEntry::default() }))
    }
}
