//! What was decided, and by what.

use std::sync::Arc;

use crate::{
    authenticate::Revocation,
    model::{RefusalReason, Scope, StateKey, StatePrefix, TopicPattern},
};

/// What may become of a message, or of a request to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// Withhold it until somebody has looked.
    Quarantine,
}

/// A decision with its grounds, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was decided.
    pub decision: Decision,
    /// The rules that spoke, by name.
    pub rules: Arc<[String]>,
    /// What the client may know of a denial.
    pub reason: Option<RefusalReason>,
    /// SHA-256 of the policy in force.
    pub policy_sha256: [u8; 32],
}

impl Verdict {
    pub(super) fn new(decision: Decision, rules: &[&str], policy_sha256: [u8; 32]) -> Self {
        let rules = rules.iter().map(|&rule| rule.to_owned()).collect();
        let reason = (decision == Decision::Deny).then_some(RefusalReason::PolicyDenied);
        Self { decision, rules, reason, policy_sha256 }
    }

    pub(super) fn denied(rule: &str, reason: RefusalReason, policy_sha256: [u8; 32]) -> Self {
        Self { reason: Some(reason), ..Self::new(Decision::Deny, &[rule], policy_sha256) }
    }
}

/// A request to read or to administer, which the policy is asked about as well.
#[derive(Debug, Clone, Copy)]
pub enum Access<'a> {
    /// To subscribe to these patterns.
    Subscribe(&'a [TopicPattern]),
    /// To read the audit log.
    AuditRead,
    /// To revoke this.
    Revoke(&'a Revocation),
    /// To lift the revocation of this name.
    Reinstate(&'a str),
    /// To see these: `sessions` or `revocations`.
    AdminRead(&'a str),
    /// To end these sessions, in words.
    Disconnect(&'a str),
    /// To read a value.
    StateGet(&'a StateKey),
    /// To delete a value.
    StateDelete(&'a StateKey),
    /// To list keys.
    StateList(&'a StatePrefix),
    /// To read values as they change.
    StateWatch(&'a StatePrefix),
    /// To see or change keys: `list`, `rotate`, `rewrap` or `shred`, of this scope or of all.
    Keys(&'a str, Option<&'a Scope>),
    /// To copy all data.
    Backup,
}
