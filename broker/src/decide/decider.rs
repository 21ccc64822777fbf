//! The stage: native checks, then the policy. Only this file makes a [`Decided`].

use std::net::SocketAddr;

use super::{
    bundle::{Bundle, BundleError},
    input::Question,
    permitted::Decided,
    policy::Policy,
    verdict::{Access, Decision, Verdict},
};
use crate::{
    authenticate::Identity,
    inspect::Inspected,
    model::{Clock, Finding, FindingKind, QuotaOverrides, RefusalReason, Write},
};

/// How decisions are made.
#[derive(Debug, Clone)]
pub struct DeciderSettings {
    /// Where the policy lies.
    pub directory: std::path::PathBuf,
    /// How many steps one evaluation may take.
    pub evaluation_steps_max: u64,
    /// How many decisions are remembered.
    pub cache_entries_max: usize,
}

/// Decides on every publish, and on every request to read.
pub struct Decider {
    policy: Policy,
    clock: Clock,
}

impl Decider {
    /// Loads the policy.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn load(settings: &DeciderSettings, clock: Clock) -> Result<Self, BundleError> {
        let bundle = Bundle::load(&settings.directory, settings.evaluation_steps_max)?;
        Ok(Self { policy: Policy::new(bundle, settings.cache_entries_max), clock })
    }

    /// SHA-256 of the policy in force.
    #[must_use]
    pub const fn policy_sha256(&self) -> &[u8; 32] {
        self.policy.bundle().sha256()
    }

    /// Who may use more or less than others, as the policy's data says.
    #[must_use]
    pub const fn quotas(&self) -> &QuotaOverrides {
        &self.policy.bundle().quotas
    }

    /// Decides what becomes of a message.
    #[must_use]
    pub fn decide(&self, inspected: Inspected) -> Decided {
        let verdict = self.verdict(&inspected);
        Decided::new(inspected, verdict)
    }

    /// Decides whether a caller may read or administer.
    #[must_use]
    pub fn decide_access(&self, access: Access<'_>, agent: &Identity, peer: SocketAddr) -> Verdict {
        let permissions = agent.permissions();
        let readable = match access {
            Access::StateGet(key) => Some(key.scope()),
            Access::StateList(prefix) | Access::StateWatch(prefix) => Some(prefix.scope()),
            _ => None,
        };
        let permitted = match access {
            Access::Subscribe(patterns) => {
                !patterns.is_empty() && patterns.iter().all(|pattern| permissions.subscribe(pattern))
            }
            Access::AuditRead => permissions.audit_read(),
            Access::Revoke(_) | Access::Reinstate(_) => permissions.admin_revoke(),
            Access::AdminRead(_) | Access::Disconnect(_) => permissions.admin_sessions(),
            Access::StateGet(key) => permissions.state_read(key.scope()),
            Access::StateList(prefix) | Access::StateWatch(prefix) => permissions.state_read(prefix.scope()),
            Access::StateDelete(key) => permissions.state_write(key.scope()),
            Access::Keys(..) => permissions.admin_keys(),
            Access::Backup => permissions.admin_backup(),
        };
        if !permitted {
            return self.native_denial("native/permission", RefusalReason::MissingPermission);
        }
        if readable.is_some_and(|scope| !agent.may_decrypt(scope)) {
            return self.native_denial("native/decrypt-claim", RefusalReason::MissingDecryptClaim);
        }
        let verdict = self.policy.ask(&Question::Access { access, agent, peer }, self.clock.now());
        // There is nothing to withhold of a request to read: what is not allowed is refused.
        if verdict.decision == Decision::Quarantine {
            return Verdict { decision: Decision::Deny, reason: Some(RefusalReason::PolicyDenied), ..verdict };
        }
        verdict
    }

    /// Decides what becomes of a value that is to be written.
    #[must_use]
    pub fn decide_write(&self, inspected: Inspected<Write>) -> Decided<Write> {
        let verdict = self.write_verdict(&inspected);
        Decided::new(inspected, verdict)
    }

    fn write_verdict(&self, inspected: &Inspected<Write>) -> Verdict {
        if !inspected.sender().permissions().state_write(inspected.content().key.scope()) {
            return self.native_denial("native/permission", RefusalReason::MissingPermission);
        }
        let verdict = self.policy.ask(&Question::Write(inspected), self.clock.now());
        if verdict.decision != Decision::Allow {
            return verdict;
        }
        self.native_floor(inspected.findings()).unwrap_or(verdict)
    }

    fn verdict(&self, inspected: &Inspected) -> Verdict {
        let (sender, message) = (inspected.sender(), inspected.message());
        if !sender.permissions().publish(&message.topic) {
            return self.native_denial("native/permission", RefusalReason::MissingPermission);
        }
        if !sender.may_send_type(message.kind.as_str()) {
            return self.native_denial("native/type-not-granted", RefusalReason::MissingPermission);
        }
        let verdict = self.policy.ask(&Question::Publish(inspected), self.clock.now());
        if verdict.decision != Decision::Allow {
            return verdict;
        }
        self.native_floor(inspected.findings()).unwrap_or(verdict)
    }

    /// What no policy can allow: a message that inspection could not look into, or one above the broker's own limit.
    fn native_floor(&self, findings: &[Finding]) -> Option<Verdict> {
        let found = |kind| findings.iter().any(|finding| finding.kind == kind);
        if found(FindingKind::ScannerFailure) {
            return Some(self.native_denial("native/scanner-failure", RefusalReason::DecisionFailed));
        }
        let held = || Verdict::new(Decision::Quarantine, &["native/message-too-large"], *self.policy_sha256());
        found(FindingKind::Size).then(held)
    }

    fn native_denial(&self, rule: &str, reason: RefusalReason) -> Verdict {
        Verdict::denied(rule, reason, *self.policy_sha256())
    }
}

#[cfg(test)]
mod tests;
