//! An entry that is encoded as far as can be before its place in the chain is known, so that the one writer has little
//! left to do for each.

use prost::Message as _;
use veribus_proto::{
    entries,
    v1::{self, AuditEntry},
};

use super::draft::{self, Draft};
use crate::model::RefusalReason;

/// Room for what the writer adds: index, link, time, origin and audience.
const ADDED_BYTES_MAX: usize = 24 * 1024;

/// A draft, encoded; a message's decision apart, since the writer may have to change it.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    facts: Vec<u8>,
    decision: Option<v1::DecisionFacts>,
}

impl From<Draft> for Prepared {
    fn from(mut draft: Draft) -> Self {
        cut_down_if_long(&mut draft);
        Self { facts: draft.0.encode_to_vec(), decision: None }
    }
}

impl Prepared {
    /// An entry whose decision may still be turned into a denial.
    pub(super) fn deniable(mut draft: Draft) -> Self {
        cut_down_if_long(&mut draft);
        let decision = draft.0.decision.take();
        Self { facts: draft.0.encode_to_vec(), decision }
    }

    /// Turns the decision into a denial.
    pub(super) fn deny(&mut self, rule: &str, reason: RefusalReason) {
        draft::deny(self.decision.get_or_insert_default(), rule, reason);
    }

    /// Appends the decision alone.
    pub(super) fn encode_decision(&self, bytes: &mut Vec<u8>) {
        self.decision.iter().for_each(|decision| decision.encode_raw(bytes));
    }

    /// Writes the entry to `encoded`: its place in the chain, its facts, its decision, and what is `added` now: audience, state. The order of fields does
    /// not matter (Protocol Buffers, "Encoding": "Field Order").
    pub(super) fn encode(self, place: &AuditEntry, added: AuditEntry, encoded: &mut Vec<u8>) {
        encoded.clear();
        place.encode_raw(encoded);
        encoded.extend_from_slice(&self.facts);
        AuditEntry { decision: self.decision, ..added }.encode_raw(encoded);
    }
}

fn cut_down_if_long(draft: &mut Draft) {
    if draft.0.encoded_len() > entries::ENTRY_BYTES_MAX - ADDED_BYTES_MAX {
        draft.cut_down();
    }
}
