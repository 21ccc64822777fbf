//! What the operator's log says of what is recorded: denials, refused callers, revocations and the like, one line for each kind
//! and agent in a bounded rhythm, with the entry at which the rest is found.

use std::{collections::HashMap, time::Duration};

use veribus_proto::v1::{AuditEntry, Decision, EntryKind};

use crate::{
    authenticate::Identity,
    model::{Clock, Outcome, RefusalReason},
};

/// How often one kind of event of one agent is said again.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// How many are told apart between two lines; of the others only the number is said.
const TOLD_APART_MAX: usize = 256;
const OTHERS: &str = "(others)";

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    MessageDenied,
    MessageHeld,
    RequestDenied,
    Malformed,
    OverQuota,
    CallerRefused,
    ConnectionRefused,
    SlowSubscriber,
    Revoked,
    Reinstated,
    RevocationEnded,
    ClockStepped,
}

impl Event {
    const fn text(self) -> &'static str {
        match self {
            Self::MessageDenied => "messages denied",
            Self::MessageHeld => "messages quarantined",
            Self::RequestDenied => "requests denied",
            Self::Malformed => "requests that cannot be read",
            Self::OverQuota => "beyond a quota",
            Self::CallerRefused => "callers refused",
            Self::ConnectionRefused => "connections refused",
            Self::SlowSubscriber => "slow subscribers cut off",
            Self::Revoked => "revoked",
            Self::Reinstated => "revocation lifted",
            Self::RevocationEnded => "revocation ended",
            Self::ClockStepped => "the clock does not go as time passes",
        }
    }

    /// What an entry tells of.
    fn of(entry: &AuditEntry) -> Option<Self> {
        let decision = entry.decision.as_ref().map(veribus_proto::v1::DecisionFacts::decision);
        let is_denied = decision == Some(Decision::Deny);
        match entry.kind() {
            EntryKind::AuthenticationRefused => Some(Self::CallerRefused),
            EntryKind::ConnectionRefused => Some(Self::ConnectionRefused),
            EntryKind::QuotaExceeded => Some(Self::OverQuota),
            EntryKind::Malformed => Some(Self::Malformed),
            EntryKind::ClockStepped => Some(Self::ClockStepped),
            EntryKind::RevocationEnded => Some(Self::RevocationEnded),
            EntryKind::Unsubscribe if entry.detail == "slow_subscriber" => Some(Self::SlowSubscriber),
            EntryKind::Revoked if !is_denied => Some(Self::Revoked),
            EntryKind::Reinstated if !is_denied => Some(Self::Reinstated),
            _ if is_denied => Some(Self::RequestDenied),
            _ => None,
        }
    }
}

/// Counts events, and says them.
pub(super) struct EventLog {
    clock: Clock,
    counted: HashMap<(Event, String), Count>,
    /// When each was last said, in running time.
    said: HashMap<(Event, String), Duration>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    events: u64,
    /// Of the last one.
    index: u64,
    reason: String,
}

impl EventLog {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, counted: HashMap::new(), said: HashMap::new() }
    }

    /// A message was decided on; one that passed, or came again, is nothing to tell of.
    pub(super) fn outcome(&mut self, sender: &Identity, outcome: &Outcome) {
        match outcome {
            Outcome::Refused(refused) if !refused.duplicate => {
                let event = match refused.reason {
                    RefusalReason::MalformedMessage => Event::Malformed,
                    _ => Event::MessageDenied,
                };
                self.denied(event, sender, refused.reason, refused.decision_id.audit_index());
            }
            Outcome::Quarantined(receipt) if !receipt.duplicate => {
                let agent = sender.agent().as_str();
                self.count(Event::MessageHeld, agent, 1, receipt.decision_id.audit_index(), "");
            }
            Outcome::Accepted(_) | Outcome::Quarantined(_) | Outcome::Refused(_) => {}
        }
    }

    pub(super) fn denied(&mut self, event: Event, asker: &Identity, reason: RefusalReason, index: u64) {
        self.count(event, asker.agent().as_str(), 1, index, reason.as_str());
    }

    /// Whatever an entry tells of.
    pub(super) fn entry(&mut self, entry: &AuditEntry, index: u64) {
        let Some(event) = Event::of(entry) else { return };
        let agent = entry.actor.as_ref().map_or(entry.peer.as_str(), |actor| actor.agent.as_str());
        let reason = match event {
            Event::Revoked | Event::Reinstated | Event::RevocationEnded => entry.resource.as_str(),
            Event::RequestDenied => entry.decision.as_ref().map_or("", |decision| decision.reason.as_str()),
            _ => entry.detail.as_str(),
        };
        self.count(event, agent, entry.count.max(1), index, reason);
    }

    fn count(&mut self, event: Event, agent: &str, events: u64, index: u64, reason: &str) {
        let mut key = (event, agent.to_owned());
        if self.counted.len() >= TOLD_APART_MAX && !self.counted.contains_key(&key) {
            key.1 = OTHERS.to_owned();
        }
        let count = self.counted.entry(key).or_default();
        count.events = count.events.saturating_add(events);
        count.index = index;
        reason.clone_into(&mut count.reason);
    }

    /// Says what has come together, as far as it is time to.
    pub(super) fn say(&mut self) {
        for ((event, agent), Count { events, index, reason }) in self.due() {
            tracing::warn!(agent, count = events, audit_index = index, reason, "{}", event.text());
        }
    }

    fn due(&mut self) -> Vec<((Event, String), Count)> {
        let now = self.clock.running();
        self.said.retain(|_, at| now < at.saturating_add(SAID_EVERY));
        let due: Vec<_> = self.counted.extract_if(|key, _| !self.said.contains_key(key)).collect();
        self.said.extend(due.iter().map(|(key, _)| (key.clone(), now)));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        deliver::EndReason,
        fixtures::NOW,
        model::{AgentId, Issuer, SubscriptionId},
        record::{Draft, Recipient, UndeliveredCount},
    };

    fn log() -> (Clock, EventLog) {
        let clock = Clock::manual(NOW);
        (clock.clone(), EventLog::new(clock))
    }

    #[test]
    fn one_kind_of_one_agent_is_said_at_once_and_then_in_a_rhythm_with_its_number() {
        let (clock, mut log) = log();
        let count = |log: &mut EventLog, index| log.count(Event::MessageDenied, "a", 1, index, "POLICY_DENIED");
        count(&mut log, 1);
        assert_eq!(log.due().len(), 1);
        (2..1_000).for_each(|index| count(&mut log, index));
        assert!(log.due().is_empty());
        log.count(Event::MessageDenied, "b", 1, 1_000, "");
        log.count(Event::MessageHeld, "a", 1, 1_001, "");
        assert_eq!(log.due().len(), 2, "another agent, another kind");
        clock.advance(SAID_EVERY);
        let expected = Count { events: 998, index: 999, reason: "POLICY_DENIED".to_owned() };
        assert_eq!(log.due(), [((Event::MessageDenied, "a".to_owned()), expected)]);
    }

    #[test]
    fn however_many_agents_there_are_the_lines_are_bounded() {
        let (_, mut log) = log();
        for agent in 0..10_000 {
            log.count(Event::CallerRefused, &agent.to_string(), 1, agent, "");
        }
        let due = log.due();
        assert_eq!(due.len(), TOLD_APART_MAX + 1);
        assert_eq!(due.iter().map(|(_, count)| count.events).sum::<u64>(), 10_000);
    }

    #[test]
    fn entries_tell_of_refusals_and_not_of_what_passed() {
        let event = |draft: &Draft| Event::of(&draft.0);
        assert_eq!(event(&Draft::authentication_refused("expired", None, None, "", 3)), Some(Event::CallerRefused));
        assert_eq!(event(&Draft::connection_refused("connections_max", None, None, 1)), Some(Event::ConnectionRefused));
        assert_eq!(event(&Draft::clock_stepped(-9_000_000)), Some(Event::ClockStepped));
        let recipient = Recipient {
            subscription: SubscriptionId(7),
            issuer: Issuer::parse("issuer").expect("an issuer"),
            agent: AgentId::parse("agent").expect("an agent"),
        };
        for (end, expected) in [(EndReason::SlowSubscriber, Some(Event::SlowSubscriber)), (EndReason::ClientGone, None)]
        {
            let ended = Draft::unsubscribed(&recipient, end.as_str(), &UndeliveredCount::default());
            assert_eq!(event(&ended), expected, "{end:?}");
        }
        assert_eq!(event(&Draft::stopped()), None);
        assert_eq!(event(&Draft::started("1", [0; 32])), None);
    }
}
