//! An entry without its place in the chain: the writer adds index, link, time and origin.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use prost_types::Timestamp;
use veribus_proto::{
    content::{self, ContentHash, SALT_BYTES},
    v1::{self, AuditEntry, EntryKind},
};

use super::{Fingerprints, Malformed, Recipient, revocation_facts};
use crate::{
    authenticate::{Bearer, DelegatedActor, Identity, Revoked},
    decide::{Access, Decided, Decision, Verdict},
    inspect::{Findings, Submitted},
    model::{
        DecisionId, Epoch, Finding, Message, RefusalReason, Scope, Severity, StateKey, StatePrefix, SubscriptionId,
        TopicPattern, UnixMicros, Write,
    },
    seal::{Fingerprint, RootKeyId},
};

/// An entry to be.
#[derive(Debug, Clone)]
pub struct Draft(pub(super) AuditEntry);

/// How many rules or findings an entry lists; what is beyond is counted.
const LISTED_MAX: usize = 32;
/// The longest rule name that an entry repeats, in bytes.
const RULE_BYTES_MAX: usize = 128;

/// The longest description of what is wrong with a request, in bytes.
const FAULT_BYTES_MAX: usize = 512;

/// Messages that a recipient of their audience did not get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UndeliveredCount {
    ranges: Vec<(u64, u64)>,
    messages: u64,
}

impl UndeliveredCount {
    /// How many separate ranges are kept; past that the last one is widened.
    pub const RANGES_MAX: usize = 1_024;

    /// Adds the message recorded at `index`; indexes come in rising order.
    pub fn add(&mut self, index: u64) {
        self.messages += 1;
        let full = self.ranges.len() >= Self::RANGES_MAX;
        match self.ranges.last_mut() {
            Some((_, last)) if full || last.checked_add(1) == Some(index) => *last = index.max(*last),
            _ => self.ranges.push((index, index)),
        }
    }

    /// How many messages.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }
}

impl Draft {
    /// The broker started.
    #[must_use]
    pub fn started(version: &str, policy_sha256: [u8; 32]) -> Self {
        let decision = v1::DecisionFacts { policy_sha256: policy_sha256.to_vec(), ..v1::DecisionFacts::default() };
        let detail = format!("veribus {version}");
        Self(AuditEntry { decision: Some(decision), detail, ..entry(EntryKind::BrokerStarted) })
    }

    /// A write failed, and what persisted was read back.
    #[must_use]
    pub(super) fn recovered() -> Self {
        Self(AuditEntry {
            detail: "a write failed; the log was read back".to_owned(),
            ..entry(EntryKind::RecordRecovered)
        })
    }

    /// The clock was set, by so many microseconds.
    #[must_use]
    pub(super) fn clock_stepped(step_us: i64) -> Self {
        let direction = if step_us < 0 { "back" } else { "forward" };
        let by = Duration::from_micros(step_us.unsigned_abs()).as_secs_f64();
        let detail = format!("the clock went {direction} by {by:.3} s");
        Self(AuditEntry { detail, ..entry(EntryKind::ClockStepped) })
    }

    /// Something was loaded anew, or could not be.
    #[must_use]
    pub fn reloaded(subject: &str, reload: v1::Reload) -> Self {
        let reload = v1::Reload { error: cut(&reload.error, FAULT_BYTES_MAX), ..reload };
        Self(AuditEntry { resource: subject.to_owned(), reload: Some(reload), ..entry(EntryKind::Reloaded) })
    }

    /// A revocation that has ended by itself is not kept any more.
    #[must_use]
    pub(super) fn revocation_ended(revoked: &Revoked) -> Self {
        Self(AuditEntry {
            resource: revoked.revocation.to_string(),
            revocation: Some(revocation_facts(&revoked.revocation, &revoked.id)),
            ..entry(EntryKind::RevocationEnded)
        })
    }

    /// The broker stopped in good order.
    #[must_use]
    pub fn stopped() -> Self {
        Self(entry(EntryKind::BrokerStopped))
    }

    /// A decision on a request to read or to administer.
    #[must_use]
    pub fn access(access: Access<'_>, verdict: &Verdict, agent: &Identity, peer: SocketAddr) -> Self {
        let (kind, resource) = match access {
            Access::Subscribe(patterns) => (EntryKind::Subscribe, pattern_list(patterns)),
            Access::AuditRead => (EntryKind::AuditRead, "log".to_owned()),
            Access::Revoke(revocation) => (EntryKind::Revoked, revocation.to_string()),
            Access::Reinstate(id) => (EntryKind::Reinstated, cut(id, RULE_BYTES_MAX)),
            Access::AdminRead(what) => (EntryKind::AdminRead, what.to_owned()),
            Access::Disconnect(whom) => (EntryKind::Disconnected, whom.to_owned()),
            Access::StateGet(key) => (EntryKind::StateRead, key.to_string()),
            Access::StateDelete(key) => (EntryKind::StateDelete, key.to_string()),
            Access::StateList(prefix) => (EntryKind::StateList, prefix.to_string()),
            Access::StateWatch(prefix) => (EntryKind::StateWatch, prefix.to_string()),
            Access::Keys(..) => (EntryKind::Keys, "keys".to_owned()),
            Access::Backup => (EntryKind::Backup, "data".to_owned()),
        };
        let revocation = match access {
            Access::Revoke(revocation) => Some(revocation_facts(revocation, "")),
            _ => None,
        };
        let (detail, keys) = match access {
            Access::Keys(operation, scope) => (operation.to_owned(), Some(key_facts(scope, None, None))),
            _ => (String::new(), None),
        };
        Self(AuditEntry {
            revocation,
            actor: Some(actor(agent)),
            peer: peer.to_string(),
            resource,
            decision: Some(decision(verdict, &Findings::default())),
            detail,
            keys,
            ..entry(kind)
        })
    }

    /// The same about the key of one epoch.
    #[must_use]
    pub fn of_epoch(mut self, epoch: Epoch) -> Self {
        self.0.keys.get_or_insert_default().epoch = epoch.0;
        self
    }

    /// The old root key could not be destroyed when its successor took its place.
    #[must_use]
    pub fn old_root_key_left(root_key: &RootKeyId) -> Self {
        Self::keys("old root key not destroyed", key_facts(None, None, Some(root_key)))
    }

    /// A stream goes on under a fresh token, or does not; `resource` is the call, or what is left of the subscription.
    #[must_use]
    pub fn refreshed(
        resource: String,
        verdict: Option<&Verdict>,
        subscription: Option<SubscriptionId>,
        agent: &Identity,
        peer: SocketAddr,
    ) -> Self {
        Self(AuditEntry {
            actor: Some(actor(agent)),
            peer: peer.to_string(),
            resource,
            decision: verdict.map(|verdict| decision(verdict, &Findings::default())),
            subscription_id: subscription.map(|id| id.to_string()).unwrap_or_default(),
            ..entry(EntryKind::TokenRefreshed)
        })
    }

    /// The same with a text that says what is read.
    #[must_use]
    pub fn with_detail(mut self, detail: String) -> Self {
        self.0.detail = detail;
        self
    }

    /// The same of an agent that was in no audience from this index on. Up to where, the writer knows.
    #[must_use]
    pub fn with_absence_from(mut self, first: Option<u64>) -> Self {
        self.0.absent = first.map(|first| v1::IndexRange { first, last: u64::MAX });
        self
    }

    /// It is about this subscription.
    #[must_use]
    pub fn with_subscription(mut self, id: SubscriptionId) -> Self {
        self.0.subscription_id = id.to_string();
        self
    }

    /// The agent is back with the entry at `index`, if that lets it in. Where there is no entry between, it was not away.
    pub(super) fn back_at(&mut self, index: u64) {
        let is_let_in = self.0.decision.as_ref().is_some_and(|facts| facts.decision() == v1::Decision::Allow);
        let range = |first| Some(v1::IndexRange { first, last: index.checked_sub(1).filter(|last| first <= *last)? });
        self.0.absent = self.0.absent.take().filter(|_| is_let_in).and_then(|absent| range(absent.first));
    }

    /// A subscription ended; `undelivered` are the messages that still waited for it.
    #[must_use]
    pub fn unsubscribed(recipient: &Recipient, reason: &str, undelivered: &UndeliveredCount) -> Self {
        let draft = if undelivered.messages() == 0 {
            Self(entry(EntryKind::Unsubscribe))
        } else {
            Self::undelivered(recipient, reason, undelivered)
        };
        Self(AuditEntry {
            kind: EntryKind::Unsubscribe.into(),
            actor: Some(recipient_actor(recipient)),
            subscription_id: recipient.subscription.to_string(),
            detail: reason.to_owned(),
            ..draft.0
        })
    }

    /// Messages that a recipient of their audience did not get.
    #[must_use]
    pub fn undelivered(recipient: &Recipient, reason: &str, undelivered: &UndeliveredCount) -> Self {
        let indexes = undelivered.ranges.iter().map(|&(first, last)| v1::IndexRange { first, last }).collect();
        Self(AuditEntry {
            undelivered: Some(v1::Undelivered {
                indexes,
                messages: undelivered.messages,
                recipient: Some(recipient_facts(recipient)),
            }),
            subscription_id: recipient.subscription.to_string(),
            detail: reason.to_owned(),
            ..entry(EntryKind::Undelivered)
        })
    }

    /// Callers that were refused for the same reason from the same address. `bearer` is whose token it was, where that is
    /// known.
    #[must_use]
    pub fn authentication_refused(
        reason: &str,
        bearer: Option<&Bearer>,
        peer: Option<IpAddr>,
        method: &str,
        count: u64,
    ) -> Self {
        Self(AuditEntry {
            actor: bearer.map(bearer_actor),
            peer: peer.map(|address| address.to_string()).unwrap_or_default(),
            resource: method.to_owned(),
            detail: reason.to_owned(),
            decision: Some(v1::DecisionFacts {
                decision: v1::Decision::Deny.into(),
                reason: "UNAUTHENTICATED".to_owned(),
                ..v1::DecisionFacts::default()
            }),
            count,
            ..entry(EntryKind::AuthenticationRefused)
        })
    }

    /// Connections that were refused by the same limit, from the same address or of the same agent.
    #[must_use]
    pub fn connection_refused(limit: &str, bearer: Option<&Bearer>, peer: Option<IpAddr>, count: u64) -> Self {
        Self(AuditEntry {
            actor: bearer.map(bearer_actor),
            peer: peer.map(|address| address.to_string()).unwrap_or_default(),
            detail: limit.to_owned(),
            decision: Some(v1::DecisionFacts {
                decision: v1::Decision::Deny.into(),
                reason: "CONNECTION_LIMIT".to_owned(),
                ..v1::DecisionFacts::default()
            }),
            count,
            ..entry(EntryKind::ConnectionRefused)
        })
    }

    /// Messages or calls beyond the quota of an agent, or, if `agent` is absent, of more agents than are told apart.
    #[must_use]
    pub fn quota_exceeded(agent: Option<(&Identity, SocketAddr)>, quota: &str, count: u64) -> Self {
        Self(AuditEntry {
            actor: agent.map(|(identity, _)| actor(identity)),
            peer: agent.map(|(_, peer)| peer.to_string()).unwrap_or_default(),
            detail: quota.to_owned(),
            decision: Some(v1::DecisionFacts {
                decision: v1::Decision::Deny.into(),
                reason: "QUOTA_EXCEEDED".to_owned(),
                ..v1::DecisionFacts::default()
            }),
            count,
            ..entry(EntryKind::QuotaExceeded)
        })
    }

    /// A frame that could not be decoded, so that it is not known which messages it held.
    #[must_use]
    pub fn undecodable(agent: &Identity, peer: SocketAddr, method: &str, detail: &str) -> Self {
        Self(AuditEntry {
            actor: Some(actor(agent)),
            peer: peer.to_string(),
            resource: method.to_owned(),
            detail: cut(detail, FAULT_BYTES_MAX),
            decision: Some(malformed_decision()),
            ..entry(EntryKind::Malformed)
        })
    }

    pub(super) fn malformed(malformed: &Malformed) -> Self {
        Self(AuditEntry {
            actor: Some(actor(&malformed.sender)),
            via: malformed.via.as_deref().map(actor),
            peer: malformed.peer.to_string(),
            message: Some(v1::MessageFacts {
                id: malformed.message_id.clone(),
                size_bytes: malformed.size_bytes as u64,
                ..v1::MessageFacts::default()
            }),
            detail: malformed.fault.clone(),
            decision: Some(malformed_decision()),
            ..entry(EntryKind::Malformed)
        })
    }

    pub(super) fn decided(decided: &Decided) -> Self {
        let Submitted { sender, via, peer, content: message } = decided.submitted();
        Self(AuditEntry {
            actor: Some(actor(sender)),
            via: via.as_deref().map(actor),
            peer: peer.to_string(),
            resource: message.topic.as_str().to_owned(),
            message: Some(v1::MessageFacts {
                id: message.id.as_str().to_owned(),
                r#type: message.kind.as_str().to_owned(),
                datacontenttype: message.content_type.as_str().to_owned(),
                size_bytes: message.size_bytes() as u64,
                destination: message.destination.as_ref().map(|to| to.text().into_owned()).unwrap_or_default(),
                ..v1::MessageFacts::default()
            }),
            decision: Some(decision(decided.verdict(), decided.findings())),
            ..entry(EntryKind::Publish)
        })
    }

    /// Binds the entry to what the message says, and makes a retry of it known.
    pub(super) fn bind(&mut self, salt: &[u8; SALT_BYTES], content: &ContentHash, fingerprint: &Fingerprint) {
        let facts = self.0.message.get_or_insert_default();
        facts.content_digest = content::digest(salt, content).to_vec();
        facts.fingerprint = fingerprint.to_vec();
    }

    pub(super) fn name_subject(&mut self, fingerprints: &Fingerprints, message: &Message) {
        fingerprints.record_subject(message, self.0.message.get_or_insert_default());
    }

    pub(super) fn write(decided: &Decided<Write>, salt: &[u8; 32]) -> Self {
        let Submitted { sender, peer, content: write, .. } = decided.submitted();
        Self(AuditEntry {
            actor: Some(actor(sender)),
            peer: peer.to_string(),
            resource: write.key.to_string(),
            message: Some(v1::MessageFacts {
                datacontenttype: write.content_type.as_str().to_owned(),
                size_bytes: write.value.len() as u64,
                content_digest: content::digest(salt, &value_hash(write)).to_vec(),
                ..v1::MessageFacts::default()
            }),
            decision: Some(decision(decided.verdict(), decided.findings())),
            ..entry(EntryKind::StatePut)
        })
    }

    pub(super) fn with_listed(mut self, listed: v1::ListedValues) -> Self {
        self.0.state.get_or_insert_default().listed = Some(listed);
        self
    }

    /// What a watcher is shown.
    pub(super) fn follow(prefix: &StatePrefix, verdict: &Verdict, agent: &Identity, peer: SocketAddr) -> Self {
        Self(AuditEntry {
            actor: Some(actor(agent)),
            peer: peer.to_string(),
            resource: prefix.to_string(),
            decision: Some(decision(verdict, &Findings::default())),
            ..entry(EntryKind::StateRead)
        })
    }

    /// The time of a value has run out.
    pub(super) fn expired(key: &StateKey) -> Self {
        Self(AuditEntry { resource: key.to_string(), ..entry(EntryKind::StateExpired) })
    }

    /// A scope got its first key.
    pub(super) fn key_created(scope: &Scope, epoch: Epoch, root_key: &RootKeyId) -> Self {
        Self::keys("created", key_facts(Some(scope), Some(epoch), Some(root_key)))
    }

    fn keys(detail: &str, keys: v1::KeyFacts) -> Self {
        let (resource, detail) = ("keys".to_owned(), detail.to_owned());
        Self(AuditEntry { resource, detail, keys: Some(keys), ..entry(EntryKind::Keys) })
    }

    /// What was asked for was done to keys: to these.
    pub(super) fn with_keys_done(
        mut self,
        done: &str,
        scope: Option<&Scope>,
        epoch: Option<Epoch>,
        root_key: &RootKeyId,
    ) -> Self {
        done.clone_into(&mut self.0.detail);
        self.0.keys = Some(key_facts(scope, epoch, Some(root_key)));
        self
    }

    /// An audience that is listed in these entries.
    pub(super) fn audience_of(listed_at: Vec<u64>) -> Self {
        let audience = v1::Audience { recipients: Vec::new(), listed_at };
        Self(AuditEntry { audience: Some(audience), ..entry(EntryKind::Audience) })
    }

    pub(super) fn listed_audience(recipients: &[Recipient]) -> Self {
        let recipients = recipients.iter().map(recipient_facts).collect();
        let audience = v1::Audience { recipients, listed_at: Vec::new() };
        Self(AuditEntry { audience: Some(audience), ..entry(EntryKind::Audience) })
    }

    /// Everything that can be long is left out: what remains always fits.
    pub(super) fn cut_down(&mut self) {
        for actor in self.0.actor.iter_mut().chain(&mut self.0.via) {
            actor.roles.clear();
        }
        if let Some(decision) = &mut self.0.decision {
            decision.rules.clear();
            let listed = u32::try_from(decision.findings.len()).unwrap_or(u32::MAX);
            decision.findings_omitted = decision.findings_omitted.saturating_add(listed);
            decision.findings.clear();
        }
        self.0.resource.clear();
        self.0.audience = None;
        self.0.undelivered = None;
        self.0.detail = "entry too long: cut down".to_owned();
    }

    /// Only who acted and what it was about is left, bounded; where something was decided, it is denied.
    pub(super) fn shorten(&mut self) {
        let text = |text: &str| cut(text, RULE_BYTES_MAX);
        let whole = std::mem::take(&mut self.0);
        self.0 = AuditEntry {
            index: whole.index,
            prev: whole.prev,
            time_unix_us: whole.time_unix_us,
            clock_unix_us: whole.clock_unix_us,
            origin: whole.origin,
            kind: whole.kind,
            actor: whole.actor.map(|actor| v1::Actor {
                issuer: text(&actor.issuer),
                agent: text(&actor.agent),
                token_id: text(&actor.token_id),
                ..v1::Actor::default()
            }),
            peer: text(&whole.peer),
            resource: text(&whole.resource),
            message: whole.message.map(|facts| v1::MessageFacts { id: text(&facts.id), ..v1::MessageFacts::default() }),
            detail: "the entry was too long, and this stands in its place".to_owned(),
            ..AuditEntry::default()
        };
        if whole.decision.is_some() {
            self.deny("native/entry-too-long", RefusalReason::DecisionFailed);
        }
    }

    /// The same, refused by the broker itself.
    #[must_use]
    pub fn denied(mut self, rule: &str, reason: RefusalReason) -> Self {
        self.deny(rule, reason);
        self
    }

    /// The revocation in it gets its name.
    pub(super) fn name_revocation(&mut self, id: &DecisionId) {
        if let Some(revocation) = &mut self.0.revocation {
            revocation.id = id.to_string();
        }
    }

    pub(super) fn deny(&mut self, rule: &str, reason: RefusalReason) {
        deny(self.0.decision.get_or_insert_default(), rule, reason);
    }
}

/// Turns a decision into a denial.
pub(super) fn deny(decision: &mut v1::DecisionFacts, rule: &str, reason: RefusalReason) {
    decision.decision = v1::Decision::Deny.into();
    reason.as_str().clone_into(&mut decision.reason);
    decision.rules.push(rule.to_owned());
}

fn entry(kind: EntryKind) -> AuditEntry {
    AuditEntry { kind: kind.into(), ..AuditEntry::default() }
}

fn malformed_decision() -> v1::DecisionFacts {
    v1::DecisionFacts {
        decision: v1::Decision::Deny.into(),
        reason: RefusalReason::MalformedMessage.as_str().to_owned(),
        ..v1::DecisionFacts::default()
    }
}

/// Who acted, as verified.
#[must_use]
pub fn actor(identity: &Identity) -> v1::Actor {
    v1::Actor {
        issuer: identity.issuer().as_str().to_owned(),
        agent: identity.agent().as_str().to_owned(),
        roles: identity.roles().to_vec(),
        token_id: identity.token_id().as_str().to_owned(),
        token_sha256: identity.token_sha256().to_vec(),
        confirmation: identity.confirmation().map(ToString::to_string).unwrap_or_default(),
        delegation: identity.actors().iter().map(delegated).collect(),
    }
}

fn bearer_actor(bearer: &Bearer) -> v1::Actor {
    v1::Actor {
        issuer: bearer.issuer.as_str().to_owned(),
        agent: bearer.agent.as_str().to_owned(),
        token_id: bearer.token_id.as_str().to_owned(),
        token_sha256: bearer.token_sha256.to_vec(),
        ..v1::Actor::default()
    }
}

fn delegated(actor: &DelegatedActor) -> v1::DelegatedActor {
    v1::DelegatedActor {
        issuer: actor.issuer.as_str().to_owned(),
        agent: actor.agent.as_ref().map(|agent| agent.as_str().to_owned()).unwrap_or_default(),
    }
}

fn key_facts(scope: Option<&Scope>, epoch: Option<Epoch>, root_key: Option<&RootKeyId>) -> v1::KeyFacts {
    v1::KeyFacts {
        scope: scope.map(ToString::to_string).unwrap_or_default(),
        epoch: epoch.map_or(0, |epoch| epoch.0),
        root_key_id: root_key.map(|id| id.as_str().to_owned()).unwrap_or_default(),
    }
}

/// A moment, on the wire and in entries.
#[must_use]
pub fn timestamp(time: UnixMicros) -> Timestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default();
    Timestamp { seconds: time.0.div_euclid(1_000_000), nanos }
}

fn recipient_actor(recipient: &Recipient) -> v1::Actor {
    v1::Actor {
        issuer: recipient.issuer.as_str().to_owned(),
        agent: recipient.agent.as_str().to_owned(),
        ..v1::Actor::default()
    }
}

pub(super) fn recipient_facts(recipient: &Recipient) -> v1::Recipient {
    v1::Recipient {
        subscription_id: recipient.subscription.to_string(),
        issuer: recipient.issuer.as_str().to_owned(),
        agent: recipient.agent.as_str().to_owned(),
    }
}

fn decision(verdict: &Verdict, findings: &Findings) -> v1::DecisionFacts {
    v1::DecisionFacts {
        decision: match verdict.decision {
            Decision::Allow => v1::Decision::Allow,
            Decision::Deny => v1::Decision::Deny,
            Decision::Quarantine => v1::Decision::Quarantine,
        }
        .into(),
        rules: verdict.rules.iter().take(LISTED_MAX).map(|rule| cut(rule, RULE_BYTES_MAX)).collect(),
        findings: findings.listed.iter().take(LISTED_MAX).map(finding).collect(),
        findings_omitted: u32::try_from(findings.listed.len().saturating_sub(LISTED_MAX))
            .unwrap_or(u32::MAX)
            .saturating_add(findings.omitted),
        policy_sha256: verdict.policy_sha256.to_vec(),
        reason: verdict.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
    }
}

fn value_hash(write: &Write) -> ContentHash {
    content::value_hash(&write.key.to_string(), write.content_type.as_str(), &write.value)
}

fn finding(finding: &Finding) -> v1::Finding {
    v1::Finding {
        kind: finding.kind.as_str().to_owned(),
        rule: cut(&finding.rule, RULE_BYTES_MAX),
        severity: match finding.severity {
            Severity::Low => v1::Severity::Low,
            Severity::Medium => v1::Severity::Medium,
            Severity::High => v1::Severity::High,
        }
        .into(),
        location: cut(&finding.location, RULE_BYTES_MAX),
    }
}

/// The beginning of a text, cut at a character.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

fn pattern_list(patterns: &[TopicPattern]) -> String {
    patterns.iter().map(TopicPattern::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures, issue::KeyKind};

    #[test]
    fn findings_that_inspection_left_out_are_counted() {
        let world = fixtures::World::new(KeyKind::Es256);
        let sender = world.identity(&world.claims("agent"));
        let plain = "your system prompt. tpmorp metsys ruoy. lbhe flfgrz cebzcg.";
        let encoded =
            data_encoding::BASE32.encode(plain.as_bytes()) + " " + &data_encoding::HEXLOWER.encode(plain.as_bytes());
        let text = format!("{plain} {} {encoded} ", data_encoding::BASE64.encode(plain.as_bytes()));
        let message = Message {
            subject: text.clone(),
            correlation_id: text.clone(),
            attributes: [("k".to_owned(), text.clone())].into(),
            ..fixtures::message("m", "a.b", "note", "", &format!("\"{text}\""))
        };
        let submitted = Submitted::new(sender, fixtures::peer(), message);
        let policy = [("hold.rego", "package veribus\nimport rego.v1\nallow if true\n")];
        let decider = fixtures::decider(&policy, world.clock.clone()).expect("a policy");
        let decided = decider.decide(fixtures::inspector().inspect(submitted));
        let found = decided.findings();
        assert!(found.omitted > 0);
        let mut draft = Draft::decided(&decided);
        let facts = |draft: &Draft| draft.0.decision.clone().expect("a decision");
        assert_eq!(facts(&draft).findings_omitted, found.omitted);
        let all = found.omitted as usize + found.listed.len();
        draft.cut_down();
        assert_eq!(facts(&draft).findings_omitted as usize, all);
    }
}
