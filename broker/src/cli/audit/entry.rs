//! An audit entry as a JSON object and as a row of a table: the one place that says how entries look.

use data_encoding::HEXLOWER;
use serde::Serialize;
use veribus_proto::{
    chain::leaf_hash,
    v1::{
        Actor, Audience, AuditEntry, Decision, DecisionFacts, DelegatedActor, EntryKind, Finding, MessageFacts,
        Recipient, Revocation, Severity, Undelivered, revocation::Target,
    },
};

use super::{
    reload::{ReloadJson, reload_words},
    shared::{self, KeysJson, StateJson},
};
use crate::cli::instant;

/// The columns of [`row`].
pub(super) const COLUMNS: [&str; 7] = ["INDEX", "TIME", "KIND", "DECISION", "AGENT", "RESOURCE", "ABOUT"];

/// An entry for programs. Absent members say that the entry has nothing of the kind.
#[derive(Debug, Serialize)]
pub(super) struct EntryJson {
    index: u64,
    time: String,
    /// The latest time in the log so far, where the clock was set back since.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_before_clock_was_set_back: Option<String>,
    origin: String,
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    issuer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    agent: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_sha256: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    confirmation: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    delegation: Vec<PartyJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<PartyJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageJson>,
    #[serde(flatten)]
    decision: Option<DecisionJson>,
    #[serde(flatten)]
    audience: Option<AudienceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undelivered: Option<UndeliveredJson>,
    /// From where to where the subscriber was gone, both ends inclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revocation: Option<RevocationJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<KeysJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reload: Option<ReloadJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subscription_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    count: u64,
    prev: String,
    leaf_hash: String,
}

#[derive(Debug, Serialize)]
struct PartyJson {
    issuer: String,
    agent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_id: String,
}

#[derive(Debug, Serialize)]
struct MessageJson {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    datacontenttype: String,
    size_bytes: u64,
    content_digest: String,
    destination: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    correlation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject_hmac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    correlation_id_hmac: String,
}

#[derive(Debug, Serialize)]
struct DecisionJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    decision: String,
    rules: Vec<String>,
    findings: Vec<FindingJson>,
    findings_omitted: u32,
    policy_sha256: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct FindingJson {
    kind: String,
    rule: String,
    severity: String,
    location: String,
}

#[derive(Debug, Serialize)]
struct AudienceJson {
    audience: Vec<RecipientJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audience_listed_at: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct RecipientJson {
    subscription_id: String,
    issuer: String,
    agent: String,
}

/// A revocation for programs.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct RevocationJson {
    id: String,
    issuer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<String>,
    whole_issuer: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    reason: String,
}

#[derive(Debug, Serialize)]
struct UndeliveredJson {
    recipient: Option<RecipientJson>,
    messages: u64,
    indexes: Vec<[u64; 2]>,
}

impl EntryJson {
    /// The entry whose stored bytes are `bytes`.
    pub(super) fn new(entry: AuditEntry, bytes: &[u8]) -> Self {
        let (kind, time) = (kind_word(&entry), instant::from_micros(clock_time(&entry)));
        let set_back = entry.clock_unix_us.map(|_| instant::from_micros(entry.time_unix_us));
        let actor = entry.actor.unwrap_or_default();
        Self {
            index: entry.index,
            time,
            time_before_clock_was_set_back: set_back,
            origin: entry.origin,
            kind,
            issuer: actor.issuer,
            agent: actor.agent,
            roles: actor.roles,
            token_id: actor.token_id,
            token_sha256: hex(&actor.token_sha256),
            confirmation: actor.confirmation,
            delegation: actor.delegation.into_iter().map(delegated).collect(),
            via: entry.via.map(carrier),
            peer: entry.peer,
            resource: entry.resource,
            message: entry.message.map(message),
            decision: entry.decision.map(decision),
            audience: entry.audience.map(|audience| AudienceJson {
                audience: audience.recipients.into_iter().map(recipient).collect(),
                audience_listed_at: audience.listed_at,
            }),
            undelivered: entry.undelivered.map(undelivered),
            absent: entry.absent.map(|range| [range.first, range.last]),
            revocation: entry.revocation.as_ref().map(revocation_json),
            state: entry.state.map(StateJson::from),
            keys: entry.keys.map(KeysJson::from),
            reload: entry.reload.map(ReloadJson::from),
            subscription_id: entry.subscription_id,
            detail: entry.detail,
            count: entry.count.max(1),
            prev: hex(&entry.prev),
            leaf_hash: hex(&leaf_hash(bytes)),
        }
    }
}

/// What the clock said.
fn clock_time(entry: &AuditEntry) -> i64 {
    entry.clock_unix_us.unwrap_or(entry.time_unix_us)
}

fn delegated(actor: DelegatedActor) -> PartyJson {
    PartyJson { issuer: actor.issuer, agent: actor.agent, token_id: String::new() }
}

fn carrier(actor: Actor) -> PartyJson {
    PartyJson { issuer: actor.issuer, agent: actor.agent, token_id: actor.token_id }
}

/// An entry for people: one text per column of [`COLUMNS`].
pub(super) fn row(entry: &AuditEntry) -> [String; 7] {
    let agent = entry.actor.as_ref().map(|actor| actor.agent.clone()).unwrap_or_default();
    [
        entry.index.to_string(),
        instant::from_micros(clock_time(entry)),
        kind_word(entry),
        entry.decision.as_ref().map(|facts| decision_word(facts.decision())).unwrap_or_default(),
        agent,
        entry.resource.clone(),
        about(entry),
    ]
}

fn about(entry: &AuditEntry) -> String {
    let mut parts = Vec::new();
    if let Some(message) = &entry.message {
        parts.push(format!("{} {} B", message.r#type, message.size_bytes));
        parts.extend((!message.destination.is_empty()).then(|| format!("to {}", message.destination)));
        parts.extend((!message.subject.is_empty()).then(|| format!("about {}", message.subject)));
        parts.extend((!message.correlation_id.is_empty()).then(|| format!("case {}", message.correlation_id)));
    }
    if let Some(decision) = &entry.decision {
        parts.extend((!decision.rules.is_empty()).then(|| decision.rules.join(",")));
        parts.extend((!decision.reason.is_empty()).then(|| decision.reason.clone()));
    }
    parts.extend(entry.audience.as_ref().and_then(audience_words));
    parts.extend(entry.undelivered.as_ref().map(undelivered_words));
    parts.extend(entry.absent.as_ref().map(|range| format!("absent from {} to {}", range.first, range.last)));
    if let Some(revocation) = &entry.revocation {
        parts.extend((!revocation.id.is_empty()).then(|| format!("as {}", revocation.id)));
        parts.extend((!revocation.reason.is_empty()).then(|| revocation.reason.clone()));
    }
    parts.extend(entry.state.iter().flat_map(shared::state_words));
    parts.extend(entry.keys.iter().flat_map(shared::key_words));
    parts.extend(entry.reload.iter().flat_map(reload_words));
    parts.extend((!entry.detail.is_empty()).then(|| entry.detail.clone()));
    parts.extend((entry.count > 1).then(|| format!("{} times", entry.count)));
    parts.join("  ")
}

/// How many recipients are named by agent in a row.
const NAMED_MAX: usize = 4;

/// Who gets the message; an audience that an earlier entry lists is named by that entry.
fn audience_words(audience: &Audience) -> Option<String> {
    let mut agents: Vec<&str> = audience.recipients.iter().map(|recipient| recipient.agent.as_str()).collect();
    agents.sort_unstable();
    agents.dedup();
    let others = agents.len().saturating_sub(NAMED_MAX);
    agents.truncate(NAMED_MAX);
    let mut words: Vec<String> = agents.into_iter().map(str::to_owned).collect();
    words.extend((others > 0).then(|| format!("{others} more")));
    words.extend(audience.listed_at.iter().take(NAMED_MAX).map(|index| format!("those of entry {index}")));
    (!words.is_empty()).then(|| format!("for {}", words.join(", ")))
}

fn undelivered_words(undelivered: &Undelivered) -> String {
    let to = undelivered.recipient.as_ref().map(|to| format!(" to {}", to.agent)).unwrap_or_default();
    format!("{} undelivered{to}", undelivered.messages)
}

/// A revocation as a JSON object.
pub(in crate::cli) fn revocation_json(revocation: &Revocation) -> RevocationJson {
    let (token_id, agent, issued_before) = match revocation.target.clone() {
        Some(Target::TokenId(token_id)) => (Some(token_id), None, None),
        Some(Target::Agent(agent)) => (None, Some(agent), None),
        Some(Target::IssuedBefore(issued)) => {
            (None, Some(issued.agent), Some(instant::from_seconds(issued.issued_before)))
        }
        Some(Target::WholeIssuer(_)) | None => (None, None, None),
    };
    RevocationJson {
        id: revocation.id.clone(),
        issuer: revocation.issuer.clone(),
        token_id,
        agent,
        issued_before,
        whole_issuer: matches!(revocation.target, Some(Target::WholeIssuer(true))),
        expires_at: revocation.expires_at.as_ref().map(|end| instant::from_seconds(end.seconds)),
        reason: revocation.reason.clone(),
    }
}

/// What a revocation names of its issuer's, in a few words.
pub(in crate::cli) fn revocation_text(revocation: &Revocation) -> String {
    match &revocation.target {
        Some(Target::TokenId(id)) => format!("token {id}"),
        Some(Target::Agent(agent)) => format!("agent {agent}"),
        Some(Target::IssuedBefore(issued)) => {
            format!("agent {}, issued before {}", issued.agent, instant::from_seconds(issued.issued_before))
        }
        Some(Target::WholeIssuer(_)) => "everybody".to_owned(),
        None => "nothing".to_owned(),
    }
}

fn message(facts: MessageFacts) -> MessageJson {
    MessageJson {
        id: facts.id,
        kind: facts.r#type,
        datacontenttype: facts.datacontenttype,
        size_bytes: facts.size_bytes,
        content_digest: hex(&facts.content_digest),
        destination: facts.destination,
        subject: facts.subject,
        correlation_id: facts.correlation_id,
        subject_hmac: hex(&facts.subject_hmac),
        correlation_id_hmac: hex(&facts.correlation_id_hmac),
    }
}

fn decision(facts: DecisionFacts) -> DecisionJson {
    DecisionJson {
        decision: decision_word(facts.decision()),
        rules: facts.rules,
        findings: facts.findings.into_iter().map(finding).collect(),
        findings_omitted: facts.findings_omitted,
        policy_sha256: hex(&facts.policy_sha256),
        reason: facts.reason,
    }
}

fn finding(finding: Finding) -> FindingJson {
    let severity = word(Severity::as_str_name(&finding.severity()), "SEVERITY_");
    FindingJson { kind: finding.kind, rule: finding.rule, severity, location: finding.location }
}

fn recipient(recipient: Recipient) -> RecipientJson {
    let Recipient { subscription_id, issuer, agent } = recipient;
    RecipientJson { subscription_id, issuer, agent }
}

fn undelivered(undelivered: Undelivered) -> UndeliveredJson {
    UndeliveredJson {
        recipient: undelivered.recipient.map(recipient),
        messages: undelivered.messages,
        indexes: undelivered.indexes.into_iter().map(|range| [range.first, range.last]).collect(),
    }
}

fn kind_word(entry: &AuditEntry) -> String {
    match EntryKind::try_from(entry.kind) {
        Ok(kind) => word(kind.as_str_name(), "ENTRY_KIND_"),
        Err(_) => format!("kind_{}", entry.kind),
    }
}

/// Empty where nothing was decided.
fn decision_word(decision: Decision) -> String {
    match decision {
        Decision::Unspecified => String::new(),
        Decision::Allow | Decision::Deny | Decision::Quarantine => word(decision.as_str_name(), "DECISION_"),
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::{Value, json};
    use veribus_proto::v1::{Actor, IndexRange};

    use super::*;

    fn denied() -> AuditEntry {
        AuditEntry {
            index: 7,
            prev: vec![1; 32],
            time_unix_us: 1_790_000_000_000_001,
            origin: "dev".to_owned(),
            kind: EntryKind::Publish.into(),
            actor: Some(Actor {
                issuer: "veribus-dev".to_owned(),
                agent: "finance-agent".to_owned(),
                roles: vec!["finance".to_owned()],
                token_id: "t".to_owned(),
                token_sha256: vec![2; 32],
                ..Actor::default()
            }),
            peer: "127.0.0.1:5".to_owned(),
            resource: "finance.transactions".to_owned(),
            message: Some(MessageFacts {
                id: "m".to_owned(),
                r#type: "finance.transaction".to_owned(),
                datacontenttype: "application/json".to_owned(),
                size_bytes: 12,
                content_digest: vec![3; 32],
                destination: "role:external".to_owned(),
                ..MessageFacts::default()
            }),
            decision: Some(DecisionFacts {
                decision: Decision::Deny.into(),
                rules: vec!["finance-to-compliance-only".to_owned()],
                findings: vec![Finding {
                    kind: "injection".to_owned(),
                    rule: "r".to_owned(),
                    severity: Severity::High.into(),
                    location: "data".to_owned(),
                }],
                policy_sha256: vec![4; 32],
                reason: "POLICY_DENIED".to_owned(),
                findings_omitted: 0,
            }),
            audience: Some(Audience::default()),
            ..AuditEntry::default()
        }
    }

    fn to_json(entry: AuditEntry) -> Value {
        let bytes = entry.encode_to_vec();
        serde_json::to_value(EntryJson::new(entry, &bytes)).expect("JSON")
    }

    #[test]
    fn an_entry_is_told_in_full_to_programs() {
        let leaf = hex(&leaf_hash(&denied().encode_to_vec()));
        let expected = json!({
            "index": 7, "time": "2026-09-21T14:13:20.000001Z", "origin": "dev", "kind": "publish",
            "issuer": "veribus-dev", "agent": "finance-agent", "roles": ["finance"], "token_id": "t",
            "token_sha256": "02".repeat(32), "peer": "127.0.0.1:5", "resource": "finance.transactions",
            "message": {
                "id": "m", "type": "finance.transaction", "datacontenttype": "application/json", "size_bytes": 12,
                "content_digest": "03".repeat(32), "destination": "role:external",
            },
            "decision": "deny", "rules": ["finance-to-compliance-only"], "findings_omitted": 0,
            "findings": [{"kind": "injection", "rule": "r", "severity": "high", "location": "data"}],
            "policy_sha256": "04".repeat(32), "reason": "POLICY_DENIED", "audience": [], "count": 1,
            "prev": "01".repeat(32), "leaf_hash": leaf,
        });
        assert_eq!(to_json(denied()), expected);
    }

    #[test]
    fn what_an_entry_has_not_is_not_told() {
        let object = to_json(AuditEntry { kind: EntryKind::BrokerStarted.into(), ..AuditEntry::default() });
        let names: Vec<_> = object.as_object().expect("an object").keys().cloned().collect();
        assert_eq!(names, ["count", "index", "kind", "leaf_hash", "origin", "prev", "time"]);
        assert_eq!(object["kind"], "broker_started");
    }

    #[test]
    fn an_entry_is_one_row_to_people() {
        let row = row(&denied());
        assert_eq!(row[..4], ["7", "2026-09-21T14:13:20.000001Z", "publish", "deny"]);
        assert_eq!(row[4..6], ["finance-agent", "finance.transactions"]);
        assert_eq!(row[6], "finance.transaction 12 B  to role:external  finance-to-compliance-only  POLICY_DENIED");
    }

    #[test]
    fn a_row_names_who_gets_a_message_and_who_did_not() {
        let recipient = |number: usize| Recipient {
            subscription_id: format!("dev-{number}"),
            issuer: "veribus-dev".to_owned(),
            agent: format!("agent-{}", number / 2),
        };
        let audience = |recipients: usize, listed_at: &[u64]| Audience {
            recipients: (0..recipients).map(recipient).collect(),
            listed_at: listed_at.to_vec(),
        };
        let about = |entry: &AuditEntry| row(entry)[6].clone();
        let message = |audience| AuditEntry { audience: Some(audience), ..AuditEntry::default() };
        assert_eq!(about(&message(audience(3, &[]))), "for agent-0, agent-1");
        assert_eq!(about(&message(audience(12, &[]))), "for agent-0, agent-1, agent-2, agent-3, 2 more");
        assert_eq!(about(&message(audience(0, &[7]))), "for those of entry 7");
        let undelivered = Undelivered { messages: 3, recipient: Some(recipient(4)), ..Undelivered::default() };
        let entry =
            AuditEntry { undelivered: Some(undelivered), detail: "revoked".to_owned(), ..AuditEntry::default() };
        assert_eq!(about(&entry), "3 undelivered to agent-2  revoked");
    }

    #[test]
    fn a_revocation_is_told_with_its_name_and_reason() {
        let revocation = Revocation {
            id: "dev-9".to_owned(),
            issuer: "veribus-dev".to_owned(),
            target: Some(Target::Agent("finance-agent".to_owned())),
            reason: "stolen laptop".to_owned(),
            expires_at: None,
        };
        assert_eq!(revocation_text(&revocation), "agent finance-agent");
        let entry = AuditEntry {
            kind: EntryKind::Revoked.into(),
            resource: "agent finance-agent of veribus-dev".to_owned(),
            revocation: Some(revocation),
            ..AuditEntry::default()
        };
        let row = row(&entry);
        assert_eq!((&*row[2], &*row[6]), ("revoked", "as dev-9  stolen laptop"));
        let expected = json!({"id": "dev-9", "issuer": "veribus-dev", "agent": "finance-agent", "whole_issuer": false,
            "reason": "stolen laptop"});
        assert_eq!(to_json(entry)["revocation"], expected);
    }

    #[test]
    fn a_subscription_tells_from_where_to_where_its_agent_was_gone() {
        let absent = Some(IndexRange { first: 7, last: 9 });
        let entry = AuditEntry { kind: EntryKind::Subscribe.into(), absent, ..AuditEntry::default() };
        assert_eq!(row(&entry)[6], "absent from 7 to 9");
        assert_eq!(to_json(entry)["absent"], json!([7, 9]));
    }

    #[test]
    fn a_row_does_not_steer_the_terminal() {
        let entry = AuditEntry { detail: "\x1b[31m".to_owned(), resource: "\x07".to_owned(), ..AuditEntry::default() };
        let mut table = crate::cli::output::new_table(COLUMNS);
        table.add_row(row(&entry));
        assert!(table.text().contains("\\u{7}") && table.text().contains("\\u{1b}[31m"), "{}", table.text());
        assert!(!table.text().contains(|c: char| c.is_control() && c != '\n'));
    }

    #[test]
    fn an_entry_of_a_kind_yet_unheard_of_is_shown_all_the_same() {
        assert_eq!(row(&AuditEntry { kind: 999, ..AuditEntry::default() })[2], "kind_999");
    }
}
