//! The policy's input document: one place that says what a policy can see.
//!
//! ```json
//! {"action": "publish", "topic": "finance.transactions", "topic_levels": ["finance", "transactions"],
//!  "topic_patterns": ["finance.transactions", "finance.>"],
//!  "agent": {"id": "…", "issuer": "…", "roles": ["…"], "permissions": ["…"], "claims": {…},
//!            "token": {"id": "…", "age_s": 3, "expires_in_s": 3597, "bound": true, "confirmation": "jkt"},
//!            "actors": [{"issuer": "…", "agent": "…"}]},
//!  "via": {"id": "…", "issuer": "…"},
//!  "message": {"id": "…", "type": "…", "subject": "…", "datacontenttype": "application/json", "size_bytes": 512,
//!              "destination": "role:compliance", "destination_role": "compliance", "reply_to": "",
//!              "correlation_id": "", "attributes": {…}, "body": …},
//!  "findings": [{"kind": "injection", "rule": "…", "severity": "high", "location": "data"}],
//!  "patterns": ["finance.>"], "peer": {"address": "192.0.2.1"}, "time": {"unix_s": 1790000000}}
//! ```
//!
//! ```json
//! {"action": "admin.revoke", "operation": "revoke",
//!  "revocation": {"issuer": "…", "agent": "…", "token_id": "…", "whole_issuer": false}, "agent": {…}, …}
//! ```
//!
//! `admin.revoke` has the operations `revoke` and `reinstate`, `admin.sessions` has `read` and `disconnect`; `revocation`
//! is there for `revoke`.
//!
//! `topic…`, `message` and `findings` are there for `publish`, `patterns` for `subscribe`. `body` is there where the
//! content type is JSON and the data is. `token.confirmation` is what the token is bound to: `x5t#S256` (a client
//! certificate), `jkt` (a key) or empty. `actors` act for the agent, the current one first; only that one may count for
//! access (RFC 8693, section 4.1). `via` is there where the agent sent the message through another one that speaks for
//! several, and says who that is. `topic_patterns` are the keys of `data.topics` that match, most specific first.

use std::net::SocketAddr;

use serde_json::{Value as Json, json};

use super::{
    reads::Reads,
    sink::{Projected, Sink},
    verdict::Access,
};
use crate::{
    authenticate::{Confirmation, DelegatedActor, Identity, Revocation, RevocationTarget},
    inspect::Inspected,
    model::{Destination, Finding, Message, Topic, TopicPattern, UnixMicros},
};

/// Paths whose value differs from one message to the next: a policy that reads one gains nothing from remembering.
pub(super) const CHANGING: [&[&str]; 6] = [
    &["time"],
    &["message", "id"],
    &["message", "body"],
    &["message", "correlation_id"],
    &["agent", "token", "age_s"],
    &["agent", "token", "expires_in_s"],
];

/// What is asked.
pub(super) enum Question<'a> {
    Publish(&'a Inspected),
    Access { access: Access<'a>, agent: &'a Identity, peer: SocketAddr },
}

/// Hands the input document to `sink`, as far as it is read.
pub(super) fn describe<S: Sink>(
    question: &Question<'_>,
    topic_settings: &TopicSettings,
    now: UnixMicros,
    reads: &Reads,
    sink: &mut S,
) {
    let mut input = Projected { reads, sink };
    match question {
        Question::Publish(inspected) => {
            input.text("action", "publish");
            topic(inspected.message(), topic_settings, &mut input);
            input.object("message", |member| message(inspected.message(), member));
            input.json("findings", || Some(findings(inspected.findings())));
            caller(inspected.sender(), inspected.peer(), now, &mut input);
            if let Some(carrier) = inspected.via() {
                input.object("via", |member| via(carrier, member));
            }
        }
        Question::Access { access, agent, peer } => {
            requested(*access, &mut input);
            caller(agent, *peer, now, &mut input);
        }
    }
}

fn requested<S: Sink>(access: Access<'_>, input: &mut Projected<'_, S>) {
    let mut administer = |action, operation| {
        input.text("action", action);
        input.text("operation", operation);
    };
    match access {
        Access::Revoke(_) => administer("admin.revoke", "revoke"),
        Access::Reinstate(_) => administer("admin.revoke", "reinstate"),
        Access::AdminRead(_) => administer("admin.sessions", "read"),
        Access::Disconnect(_) => administer("admin.sessions", "disconnect"),
        Access::AuditRead => input.text("action", "audit.read"),
        Access::Subscribe(patterns) => {
            input.text("action", "subscribe");
            input.texts("patterns", patterns.iter().map(TopicPattern::as_str));
        }
    }
    if let Access::Revoke(revocation) = access {
        input.object("revocation", |member| revoked(revocation, member));
    }
}

fn revoked<S: Sink>(revocation: &Revocation, member: &mut Projected<'_, S>) {
    let (agent, token_id) = match &revocation.target {
        RevocationTarget::Token(token_id) => ("", token_id.as_str()),
        RevocationTarget::Agent(agent) | RevocationTarget::IssuedBefore(agent, _) => (agent.as_str(), ""),
        RevocationTarget::WholeIssuer => ("", ""),
    };
    member.text("issuer", revocation.issuer.as_str());
    member.text("agent", agent);
    member.text("token_id", token_id);
    member.flag("whole_issuer", revocation.target == RevocationTarget::WholeIssuer);
}

fn topic<S: Sink>(message: &Message, settings: &TopicSettings, input: &mut Projected<'_, S>) {
    input.text("topic", message.topic.as_str());
    input.texts("topic_levels", message.topic.levels());
    if input.reads("topic_patterns") {
        input.texts("topic_patterns", settings.matching(&message.topic));
    }
}

fn message<S: Sink>(message: &Message, member: &mut Projected<'_, S>) {
    let destination = message.destination.as_ref();
    member.text("id", message.id.as_str());
    member.text("type", message.kind.as_str());
    member.text("subject", &message.subject);
    member.text("datacontenttype", &message.content_type.essence());
    member.number("size_bytes", message.size_bytes());
    member.text("destination", &destination.map(Destination::text).unwrap_or_default());
    member.text(
        "destination_role",
        match destination {
            Some(Destination::Role(role)) => role.as_str(),
            Some(Destination::Agent(_)) | None => "",
        },
    );
    member.text("reply_to", message.reply_to.as_ref().map_or("", Topic::as_str));
    member.text("correlation_id", &message.correlation_id);
    member.json("attributes", || Some(json!(message.attributes)));
    member.json("body", || message.content_type.is_json().then(|| serde_json::from_slice(&message.data).ok())?);
}

fn caller<S: Sink>(identity: &Identity, peer: SocketAddr, now: UnixMicros, input: &mut Projected<'_, S>) {
    input.object("agent", |agent| {
        agent.text("id", identity.agent().as_str());
        agent.text("issuer", identity.issuer().as_str());
        agent.texts("roles", identity.roles().iter().map(|role| role.as_str()));
        agent.json("permissions", || {
            Some(identity.permissions().iter().map(|permission| Json::from(permission.to_string())).collect())
        });
        agent.json("claims", || Some(Json::Object(identity.claims().clone())));
        agent.object("token", |token| {
            token.text("id", identity.token_id().as_str());
            token.number("age_s", now.seconds().0.saturating_sub(identity.issued_at().0));
            token.number("expires_in_s", identity.expires_at().0.saturating_sub(now.seconds().0));
            token.flag("bound", identity.confirmation().is_some());
            token.text("confirmation", identity.confirmation().map_or("", Confirmation::kind));
        });
        agent.json("actors", || Some(actors(identity)));
    });
    input.object("peer", |member| member.text("address", &peer.ip().to_string()));
    input.object("time", |time| time.number("unix_s", now.seconds().0));
}

fn actors(identity: &Identity) -> Json {
    let actor = |actor: &DelegatedActor| json!({ "issuer": actor.issuer.as_str(), "agent": actor.agent.as_str() });
    identity.actors().iter().map(actor).collect()
}

fn via<S: Sink>(carrier: &Identity, member: &mut Projected<'_, S>) {
    member.text("id", carrier.agent().as_str());
    member.text("issuer", carrier.issuer().as_str());
}

fn findings(findings: &[Finding]) -> Json {
    findings
        .iter()
        .map(|finding| {
            json!({
                "kind": finding.kind.as_str(),
                "rule": finding.rule,
                "severity": finding.severity.as_str(),
                "location": finding.location,
            })
        })
        .collect()
}

/// The keys of `data.topics`, most specific first.
#[derive(Debug, Default)]
pub(super) struct TopicSettings(Vec<TopicPattern>);

impl TopicSettings {
    pub(super) fn new(mut patterns: Vec<TopicPattern>) -> Self {
        patterns.sort_by_cached_key(specificity);
        Self(patterns)
    }

    fn matching<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|pattern| pattern.matches(topic)).map(TopicPattern::as_str)
    }
}

/// Level by level: a name before `*` before `>`.
fn specificity(pattern: &TopicPattern) -> (Vec<u8>, String) {
    let ranks = pattern.levels().map(|level| match level {
        "*" => 1,
        ">" => 2,
        _ => 0,
    });
    (ranks.collect(), pattern.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_topic_setting_comes_first() {
        let patterns = [">", "finance.>", "finance.*", "*.transactions", "finance.transactions", "tickets.>"];
        let settings =
            TopicSettings::new(patterns.iter().map(|text| TopicPattern::parse(text).expect("pattern")).collect());
        let topic = Topic::parse("finance.transactions").expect("topic");
        let matching: Vec<_> = settings.matching(&topic).collect();
        assert_eq!(matching, ["finance.transactions", "finance.*", "finance.>", "*.transactions", ">"]);
    }
}
