//! The stage: native checks, then the policy. Only this file makes a [`Decided`].

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    bundle::{Bundle, BundleError},
    input::Question,
    permitted::Decided,
    policy::Policy,
    verdict::{Access, Decision, Verdict},
};
use crate::{
    authenticate::Identity,
    inspect::{Findings, Inspected, Submitted},
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
    /// A larger message or value is refused, in bytes.
    pub message_bytes_max: usize,
}

/// A policy that can be put in force.
pub struct LoadedPolicy(Arc<Policy>);

impl LoadedPolicy {
    /// Over the names and contents of its files.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        self.0.bundle().sha256()
    }

    /// Who may use more or less than others by it.
    #[must_use]
    pub fn quotas(&self) -> &QuotaOverrides {
        &self.0.bundle().quotas
    }
}

/// Decides on every publish, and on every request to read.
pub struct Decider {
    policy: ArcSwap<Policy>,
    /// Changes with the policy.
    changes: watch::Sender<()>,
    settings: DeciderSettings,
    clock: Clock,
}

impl Decider {
    /// Loads the policy.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn load(settings: DeciderSettings, clock: Clock) -> Result<Self, BundleError> {
        let policy = ArcSwap::from_pointee(load(&settings)?);
        Ok(Self { policy, changes: watch::Sender::new(()), settings, clock })
    }

    /// Loads the policy as its files are now, without deciding by it.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn load_anew(&self) -> Result<LoadedPolicy, BundleError> {
        load(&self.settings).map(|policy| LoadedPolicy(Arc::new(policy)))
    }

    /// Decides by this policy from now on. What was permitted for longer is to be decided anew.
    pub fn put_in_force(&self, loaded: LoadedPolicy) {
        self.policy.store(loaded.0);
        self.changes.send_replace(());
    }

    /// Learns when another policy is in force. Whoever holds on to what was permitted asks for this before the decision.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// SHA-256 of the policy in force.
    #[must_use]
    pub fn policy_sha256(&self) -> [u8; 32] {
        *self.policy.load().bundle().sha256()
    }

    /// Who may use more or less than others, as the policy's data says.
    #[must_use]
    pub fn quotas(&self) -> QuotaOverrides {
        self.policy.load().bundle().quotas.clone()
    }

    /// Refuses what needs nobody to look into it: the rest goes to inspection.
    ///
    /// # Errors
    /// The denial.
    #[expect(clippy::result_large_err, reason = "either goes on at once, as it is")]
    pub fn admit(&self, submitted: Submitted) -> Result<Submitted, Decided> {
        match self.native_denial_of_message(&submitted) {
            Some(verdict) => Err(Decided::denied_unseen(submitted, verdict)),
            None => Ok(submitted),
        }
    }

    /// Decides what becomes of a message.
    #[must_use]
    pub fn decide(&self, inspected: Inspected) -> Decided {
        let denied = self.native_denial_of_message(inspected.submitted());
        let verdict = denied.unwrap_or_else(|| self.verdict(&Question::Publish(&inspected), inspected.findings()));
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
        let verdict = self.policy.load().ask(&Question::Access { access, agent, peer }, self.clock.now());
        // There is nothing to withhold of a request to read: what is not allowed is refused.
        if verdict.decision == Decision::Quarantine {
            return Verdict { decision: Decision::Deny, reason: Some(RefusalReason::PolicyDenied), ..verdict };
        }
        verdict
    }

    /// Refuses a write as [`admit`](Self::admit) does a message.
    ///
    /// # Errors
    /// The denial.
    #[expect(clippy::result_large_err, reason = "either goes on at once, as it is")]
    pub fn admit_write(&self, submitted: Submitted<Write>) -> Result<Submitted<Write>, Decided<Write>> {
        match self.native_denial_of_write(&submitted) {
            Some(verdict) => Err(Decided::denied_unseen(submitted, verdict)),
            None => Ok(submitted),
        }
    }

    /// Decides what becomes of a value that is to be written.
    #[must_use]
    pub fn decide_write(&self, inspected: Inspected<Write>) -> Decided<Write> {
        let denied = self.native_denial_of_write(inspected.submitted());
        let verdict = denied.unwrap_or_else(|| self.verdict(&Question::Write(&inspected), inspected.findings()));
        Decided::new(inspected, verdict)
    }

    fn native_denial_of_message(&self, Submitted { sender, content, .. }: &Submitted) -> Option<Verdict> {
        if !sender.permissions().publish(&content.topic) {
            return Some(self.native_denial("native/permission", RefusalReason::MissingPermission));
        }
        if !sender.may_send_type(content.kind.as_str()) {
            return Some(self.native_denial("native/type-not-granted", RefusalReason::MissingPermission));
        }
        self.native_denial_of_size(content.size_bytes())
    }

    fn native_denial_of_write(&self, Submitted { sender, content, .. }: &Submitted<Write>) -> Option<Verdict> {
        if !sender.permissions().state_write(content.key.scope()) {
            return Some(self.native_denial("native/permission", RefusalReason::MissingPermission));
        }
        self.native_denial_of_size(content.value.len())
    }

    fn native_denial_of_size(&self, bytes: usize) -> Option<Verdict> {
        (bytes > self.settings.message_bytes_max)
            .then(|| self.native_denial("native/message-too-large", RefusalReason::MessageTooLarge))
    }

    fn verdict(&self, question: &Question<'_>, findings: &Findings) -> Verdict {
        let verdict = self.policy.load().ask(question, self.clock.now());
        match verdict.decision {
            Decision::Allow => self.native_floor(&findings.listed).unwrap_or(verdict),
            Decision::Quarantine | Decision::Deny => verdict,
        }
    }

    /// What no policy can allow: content that inspection could not look into.
    fn native_floor(&self, findings: &[Finding]) -> Option<Verdict> {
        findings
            .iter()
            .any(|finding| finding.kind == FindingKind::ScannerFailure)
            .then(|| self.native_denial("native/scanner-failure", RefusalReason::DecisionFailed))
    }

    fn native_denial(&self, rule: &str, reason: RefusalReason) -> Verdict {
        Verdict::denied(rule, reason, self.policy_sha256())
    }
}

fn load(settings: &DeciderSettings) -> Result<Policy, BundleError> {
    let bundle = Bundle::load(&settings.directory, settings.evaluation_steps_max)?;
    Ok(Policy::new(bundle, settings.cache_entries_max))
}

#[cfg(test)]
mod tests;
