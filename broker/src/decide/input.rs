//! The policy's input document: one place that says what a policy can see.
//!
//! ```json
//! {"action": "publish", "topic": "finance.transactions", "topic_levels": ["finance", "transactions"],
//!  "topic_patterns": ["finance.transactions", "finance.>"],
//!  "agent": {"id": "…", "issuer": "…", "roles": ["…"], "permissions": ["…"], "decrypt": ["…"], "claims": {…},
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
//! ```json
//! {"action": "state.put", "state": {"scope": "tickets.open", "scope_levels": ["tickets", "open"],
//!  "scope_patterns": ["tickets.>"], "name": "4711", "expected_revision": 17, "ttl_s": 3600},
//!  "value": {"datacontenttype": "application/json", "size_bytes": 512, "body": …}, "findings": […], "agent": {…}, …}
//! ```
//!
//! `state` is there for `state.put`, `state.get` and `state.delete`, with `prefix` instead of `name` for `state.list` and
//! `state.watch`; `scope_patterns` are the keys of `data.scopes` that match. `expected_revision` is -1 where any will do,
//! `ttl_s` is 0 where the value stays. Nothing says whether there is a value: a refusal would tell. `admin.keys` has the
//! operations `list`, `rotate`, `rewrap` and `shred` and the `scope`, empty for all; `admin.backup` has neither.
//!
//! `peer.address` of an IPv4 peer is written as IPv4, however the connection has it. Numbers have one spelling: 1.0 is 1; one that
//! not all engines take for the same denies (see [`language::number`](super::language::number)).
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
    inspect::{Inspected, Submitted},
    model::{AgentId, Destination, Finding, Message, Scope, Topic, TopicPattern, UnixMicros, Write},
};

/// Paths whose value differs from one moment to the next: a policy that reads one gains nothing from remembering.
const CHANGING: [&[&str]; 3] = [&["time"], &["agent", "token", "age_s"], &["agent", "token", "expires_in_s"]];
/// The same, from one message to the next.
const CHANGING_IN_MESSAGES: [&[&str]; 3] = [&["message", "id"], &["message", "body"], &["message", "correlation_id"]];
/// The same, from one value of shared state to the next.
const CHANGING_IN_STATE: [&[&str]; 4] =
    [&["state", "name"], &["state", "prefix"], &["state", "expected_revision"], &["value", "body"]];

/// For which questions a policy that reads this much may be remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lasting {
    messages: bool,
    others: bool,
}

impl Lasting {
    pub(super) fn new(reads: &Reads) -> Self {
        let reads_none = |paths: &[&[&str]]| !paths.iter().any(|path| reads.includes(path));
        let always = reads_none(&CHANGING);
        Self { messages: always && reads_none(&CHANGING_IN_MESSAGES), others: always && reads_none(&CHANGING_IN_STATE) }
    }

    pub(super) const fn covers(self, question: &Question<'_>) -> bool {
        match question {
            Question::Publish(_) => self.messages,
            Question::Write(_) | Question::Access { .. } => self.others,
        }
    }
}

/// What is asked.
pub(super) enum Question<'a> {
    Publish(&'a Inspected),
    Write(&'a Inspected<Write>),
    Access { access: Access<'a>, agent: &'a Identity, peer: SocketAddr },
}

/// Hands the input document to `sink`, as far as it is read.
pub(super) fn describe<S: Sink>(
    question: &Question<'_>,
    settings: &Settings,
    now: UnixMicros,
    reads: &Reads,
    sink: &mut S,
) {
    let mut input = Projected { reads, sink };
    match question {
        Question::Publish(inspected) => {
            input.text("action", "publish");
            let Submitted { sender, via: carrier, peer, content } = inspected.submitted();
            topic(content, &settings.topics, &mut input);
            input.object("message", |member| message(content, member));
            input.json("findings", || Some(findings(&inspected.findings().listed)));
            caller(sender, *peer, now, &mut input);
            if let Some(carrier) = carrier {
                input.object("via", |member| via(carrier, member));
            }
        }
        Question::Write(inspected) => {
            let Submitted { sender, peer, content: write, .. } = inspected.submitted();
            input.text("action", "state.put");
            input.object("state", |member| {
                scope(write.key.scope(), &settings.scopes, member);
                member.text("name", write.key.name());
                member.number(
                    "expected_revision",
                    write.expected.map_or(-1, |revision| i64::try_from(revision.0).unwrap_or(i64::MAX)),
                );
                member.number("ttl_s", write.ttl_s.unwrap_or(0));
            });
            input.object("value", |member| {
                member.text("datacontenttype", &write.content_type.essence());
                member.number("size_bytes", write.value.len());
                if write.content_type.is_json() {
                    member.json_text("body", &write.value);
                }
            });
            input.json("findings", || Some(findings(&inspected.findings().listed)));
            caller(sender, *peer, now, &mut input);
        }
        Question::Access { access, agent, peer } => {
            requested(*access, &settings.scopes, &mut input);
            caller(agent, *peer, now, &mut input);
        }
    }
}

fn requested<S: Sink>(access: Access<'_>, scopes: &TopicSettings, input: &mut Projected<'_, S>) {
    match access {
        Access::Revoke(_) => operation("admin.revoke", "revoke", input),
        Access::Reinstate(_) => operation("admin.revoke", "reinstate", input),
        Access::AdminRead(_) => operation("admin.sessions", "read", input),
        Access::Disconnect(_) => operation("admin.sessions", "disconnect", input),
        Access::Keys(name, scope) => {
            operation("admin.keys", name, input);
            input.text("scope", scope.map_or("", Scope::as_str));
        }
        Access::Backup => input.text("action", "admin.backup"),
        Access::AuditRead => input.text("action", "audit.read"),
        Access::Subscribe(patterns) => {
            input.text("action", "subscribe");
            input.texts("patterns", patterns.iter().map(TopicPattern::as_str));
        }
        Access::StateGet(key) => state("state.get", (key.scope(), scopes), ("name", key.name()), input),
        Access::StateDelete(key) => state("state.delete", (key.scope(), scopes), ("name", key.name()), input),
        Access::StateList(prefix) => {
            state("state.list", (prefix.scope(), scopes), ("prefix", prefix.beginning()), input);
        }
        Access::StateWatch(prefix) => {
            state("state.watch", (prefix.scope(), scopes), ("prefix", prefix.beginning()), input);
        }
    }
    if let Access::Revoke(revocation) = access {
        input.object("revocation", |member| revoked(revocation, member));
    }
}

fn operation<S: Sink>(action: &str, name: &str, input: &mut Projected<'_, S>) {
    input.text("action", action);
    input.text("operation", name);
}

fn state<S: Sink>(
    action: &str,
    (named, settings): (&Scope, &TopicSettings),
    (member, text): (&str, &str),
    input: &mut Projected<'_, S>,
) {
    input.text("action", action);
    input.object("state", |state| {
        scope(named, settings, state);
        state.text(member, text);
    });
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

fn scope<S: Sink>(scope: &Scope, settings: &TopicSettings, member: &mut Projected<'_, S>) {
    member.text("scope", scope.as_str());
    member.texts("scope_levels", scope.as_topic().levels());
    if member.reads("scope_patterns") {
        member.texts("scope_patterns", settings.matching(scope.as_topic()));
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
    if message.content_type.is_json() {
        member.json_text("body", &message.data);
    }
}

fn caller<S: Sink>(identity: &Identity, peer: SocketAddr, now: UnixMicros, input: &mut Projected<'_, S>) {
    input.object("agent", |agent| {
        agent.text("id", identity.agent().as_str());
        agent.text("issuer", identity.issuer().as_str());
        agent.texts("roles", identity.roles().iter().map(String::as_str));
        agent.json("permissions", || {
            Some(identity.permissions().iter().map(|permission| Json::from(permission.to_string())).collect())
        });
        agent.texts("decrypt", identity.decrypt().iter().map(TopicPattern::as_str));
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
    input.object("peer", |member| member.text("address", &peer.ip().to_canonical().to_string()));
    input.object("time", |time| time.number("unix_s", now.seconds().0));
}

fn actors(identity: &Identity) -> Json {
    let actor = |actor: &DelegatedActor| json!({ "issuer": actor.issuer.as_str(), "agent": actor.agent.as_ref().map(AgentId::as_str) });
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

/// What the policy's data has settings for.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) topics: TopicSettings,
    pub(super) scopes: TopicSettings,
}

/// The keys of `data.topics` or `data.scopes`, most specific first.
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
