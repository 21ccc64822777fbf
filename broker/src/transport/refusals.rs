//! Callers that could not prove who they are, and connections beyond a limit, on their way to the log: one by one up to a rate, counted together above it,
//! so that nobody can fill the disk from outside. Those of whom nothing is known, for lack of a token with a good signature,
//! have a budget of bytes besides.

mod anonymous;

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU64,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{interval, sleep},
};

use super::connection::address_key;
use crate::{
    authenticate::{Bearer, Session, TokenError},
    metrics::Metrics,
    model::{AgentId, Clock, Issuer},
    record::{Draft, Recorder},
};

pub use anonymous::ANONYMOUS_ENTRY_BYTES_MAX;
use anonymous::Anonymous;

/// How many kinds of refusals of known agents are counted apart within a second; beyond, whose token it was and the address
/// are left out.
const COUNTED_APART_MAX: usize = 256;

/// Takes refusals in.
pub struct Refusals {
    limits: RefusalLimits,
    clock: Clock,
    state: Mutex<State>,
    news: Notify,
    metrics: Metrics,
}

/// What may be recorded.
#[derive(Debug, Clone, Copy)]
pub struct RefusalLimits {
    /// Entries of single refusals, of known agents and of others each.
    pub recorded_per_s_max: u32,
    /// Entries that name no agent, in bytes.
    pub anonymous_bytes_per_day_max: NonZeroU64,
}

struct State {
    /// Recorded one by one in this second.
    single: u32,
    anonymous_single: u32,
    waiting: Vec<Draft>,
    counted: HashMap<Refused, (u64, Option<Bearer>)>,
    anonymous: Anonymous<Cause>,
}

/// What is counted together of a known agent, or of more than are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Refused {
    cause: Cause,
    agent: Option<(Issuer, AgentId)>,
    peer: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cause {
    Token(&'static str),
    ConnectionLimit(&'static str),
}

impl Cause {
    fn draft(self, bearer: Option<&Bearer>, peer: Option<IpAddr>, method: &str, count: u64) -> Draft {
        self.draft_about(None, bearer, peer, method, count)
    }

    /// With what the reason is about, where that is told: one refusal alone, not those that are counted together.
    fn draft_about(
        self,
        subject: Option<&str>,
        bearer: Option<&Bearer>,
        peer: Option<IpAddr>,
        method: &str,
        count: u64,
    ) -> Draft {
        match (self, subject) {
            (Self::Token(reason), Some(subject)) => {
                Draft::authentication_refused(&format!("{reason}: {subject}"), bearer, peer, method, count)
            }
            (Self::Token(reason), None) => Draft::authentication_refused(reason, bearer, peer, method, count),
            (Self::ConnectionLimit(limit), _) => Draft::connection_refused(limit, bearer, peer, count),
        }
    }
}

impl Refusals {
    /// None yet.
    #[must_use]
    pub fn new(limits: RefusalLimits, clock: Clock, metrics: Metrics) -> Arc<Self> {
        let state = State {
            single: 0,
            anonymous_single: 0,
            waiting: Vec::new(),
            counted: HashMap::new(),
            anonymous: Anonymous::new(limits.anonymous_bytes_per_day_max),
        };
        Arc::new(Self { limits, clock, state: Mutex::new(state), news: Notify::new(), metrics })
    }

    /// A caller was refused; `bearer` is whose token it was, where its signature is good.
    pub fn note(&self, error: &TokenError, bearer: Option<Bearer>, peer: IpAddr, method: &str) {
        self.metrics.authentication_refused(error.reason());
        tracing::debug!(%peer, method, reason = error.reason(), %error, "a caller was refused");
        self.count(Cause::Token(error.reason()), error.subject(), bearer, peer, method);
    }

    /// A connection was refused, by this limit.
    pub fn note_connection(&self, limit: &'static str, bearer: Option<Bearer>, peer: IpAddr) {
        self.metrics.connection_refused(limit);
        self.count(Cause::ConnectionLimit(limit), None, bearer, peer, "");
    }

    /// A session whose token is no longer good. It is noted once, whoever comes upon it first.
    pub fn note_session(&self, session: &Session, error: &TokenError) {
        if session.complain_once() {
            let bearer = Bearer::from(&*session.identity());
            self.note(error, Some(bearer), session.peer().ip(), session.method());
        }
    }

    fn count(&self, cause: Cause, subject: Option<&str>, bearer: Option<Bearer>, peer: IpAddr, method: &str) {
        let mut state = self.state.lock();
        let is_single = match bearer {
            Some(bearer) => state.count_known(self.limits.recorded_per_s_max, cause, subject, bearer, peer, method),
            None => {
                let running = self.clock.running();
                state.count_anonymous(self.limits.recorded_per_s_max, cause, subject, peer, method, running)
            }
        };
        if is_single {
            self.news.notify_one();
        }
    }

    /// Brings what is noted to the log, until this is dropped.
    pub async fn record(this: Weak<Self>, recorder: Recorder) {
        let mut second = interval(Duration::from_secs(1));
        while let Some(refusals) = this.upgrade() {
            let drafts = tokio::select! {
                // While the disk is nearly full, refusals go on being counted, and are written once there is room.
                _ = second.tick(), if !recorder.disk().is_below_floor() => refusals.end_of_second(),
                () = refusals.news.notified(), if !recorder.disk().is_below_floor() => {
                    std::mem::take(&mut refusals.state.lock().waiting)
                }
                () = sleep(Duration::from_secs(1)) => Vec::new(),
            };
            drop(refusals);
            for draft in drafts {
                // A writer that is gone ends the broker, and it is the writer's end that is told.
                if recorder.note(draft).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Everything that is not yet recorded and for which there is room; begins a new second.
    pub fn end_of_second(&self) -> Vec<Draft> {
        let mut state = self.state.lock();
        let mut drafts = state.take_known();
        drafts.extend(anonymous_drafts(state.anonymous.due(self.clock.running())));
        drafts
    }

    /// Everything that is not yet recorded.
    pub fn rest(&self) -> Vec<Draft> {
        let mut state = self.state.lock();
        let mut drafts = state.take_known();
        drafts.extend(anonymous_drafts(state.anonymous.rest()));
        drafts
    }
}

impl State {
    /// Whether it gets an entry of its own.
    fn count_known(
        &mut self,
        single_max: u32,
        cause: Cause,
        subject: Option<&str>,
        bearer: Bearer,
        peer: IpAddr,
        method: &str,
    ) -> bool {
        let peer = address_key(peer);
        if self.single < single_max {
            self.single += 1;
            self.waiting.push(cause.draft_about(subject, Some(&bearer), Some(peer), short(method), 1));
            return true;
        }
        let agent = Some((bearer.issuer.clone(), bearer.agent.clone()));
        let mut refused = Refused { cause, agent, peer: Some(peer) };
        if self.counted.len() >= COUNTED_APART_MAX && !self.counted.contains_key(&refused) {
            (refused.agent, refused.peer) = (None, None);
        }
        let bearer = Some(bearer).filter(|_| refused.agent.is_some());
        let (count, last) = self.counted.entry(refused).or_default();
        *count += 1;
        *last = bearer;
        false
    }

    /// Whether it gets an entry of its own.
    fn count_anonymous(
        &mut self,
        single_max: u32,
        cause: Cause,
        subject: Option<&str>,
        peer: IpAddr,
        method: &str,
        running: Duration,
    ) -> bool {
        if self.anonymous_single < single_max && self.anonymous.admit(cause, peer, running) {
            self.anonymous_single += 1;
            self.waiting.push(cause.draft_about(subject, None, Some(address_key(peer)), short(method), 1));
            return true;
        }
        self.anonymous.count(cause, peer);
        false
    }

    fn take_known(&mut self) -> Vec<Draft> {
        (self.single, self.anonymous_single) = (0, 0);
        let mut drafts = std::mem::take(&mut self.waiting);
        let counted = self.counted.drain();
        drafts.extend(
            counted.map(|(refused, (count, bearer))| refused.cause.draft(bearer.as_ref(), refused.peer, "", count)),
        );
        drafts
    }
}

fn anonymous_drafts(counts: Vec<(Cause, Option<IpAddr>, u64)>) -> impl Iterator<Item = Draft> {
    counts.into_iter().map(|(cause, prefix, count)| cause.draft(None, prefix, "", count))
}

/// A path that nobody serves is repeated only as far as a real one is long.
fn short(method: &str) -> &str {
    let mut end = method.len().min(64);
    while !method.is_char_boundary(end) {
        end -= 1;
    }
    method.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{NOW, World},
        issue::KeyKind,
    };

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    /// Of which the first prefix may take as much at once.
    const SHARE_ENTRIES: usize = 8;

    fn refusals(recorded_per_s_max: u32) -> (Clock, Arc<Refusals>) {
        let clock = Clock::manual(NOW);
        let bytes = 32 * ANONYMOUS_ENTRY_BYTES_MAX * SHARE_ENTRIES as u64;
        let anonymous_bytes_per_day_max = NonZeroU64::new(bytes).expect("some");
        let limits = RefusalLimits { recorded_per_s_max, anonymous_bytes_per_day_max };
        (clock.clone(), Refusals::new(limits, clock, Metrics::default()))
    }

    fn agent(name: &str) -> Bearer {
        let world = World::new(KeyKind::EdDsa);
        Bearer::from(&*world.identity(&world.claims(name)))
    }

    #[test]
    fn a_flood_is_counted_and_not_written_out() {
        let (_, refusals) = refusals(2);
        let bearer = agent("a");
        for last in 0..=255u8 {
            for _ in 0..10 {
                refusals.note(&TokenError::Expired, Some(bearer.clone()), IpAddr::from([192, 0, 2, last]), "/x");
            }
            let (caller, connection) = (IpAddr::from([198, 51, 100, last]), IpAddr::from([203, 0, 113, last]));
            refusals.note(&TokenError::Revoked, Some(bearer.clone()), caller, "/x");
            refusals.note_connection("connections_per_identity_max", Some(bearer.clone()), connection);
        }
        let drafts = refusals.end_of_second();
        assert!(drafts.len() <= 2 + COUNTED_APART_MAX + 3, "{}", drafts.len());
        assert!(refusals.end_of_second().is_empty());
    }

    #[test]
    fn a_refusal_alone_says_which_claim_or_algorithm_it_is_about_and_those_counted_together_do_not() {
        let (_, refusals) = refusals(1);
        for (error, bearer) in
            [(TokenError::Claim("aud"), Some(agent("a"))), (TokenError::Algorithm("RS512".to_owned()), None)]
        {
            for _ in 0..2 {
                refusals.note(&error, bearer.clone(), PEER, "/x");
            }
        }
        let texts: Vec<_> = refusals.end_of_second().iter().map(|draft| format!("{draft:?}")).collect();
        for (detail, drafts) in [("claim: aud", 1), ("claim", 1), ("algorithm: RS512", 1), ("algorithm", 1)] {
            let is_it = |text: &&String| text.contains(&format!("detail: \"{detail}\""));
            assert_eq!(texts.iter().filter(is_it).count(), drafts, "{detail}: {texts:?}");
        }
    }

    #[test]
    fn anonymous_refusals_are_written_as_far_as_the_budget_goes_and_then_counted() {
        let (clock, refusals) = refusals(u32::MAX);
        let flood = || {
            for _ in 0..1_000 {
                refusals.note(&TokenError::Signature, None, PEER, "/x");
                refusals.note_connection("connections_max", None, PEER);
            }
        };
        flood();
        assert_eq!(refusals.end_of_second().len(), SHARE_ENTRIES);
        flood();
        assert_eq!(refusals.end_of_second().len(), 0);
        clock.advance(Duration::from_secs(86_400));
        flood();
        assert_eq!(refusals.end_of_second().len(), 2, "both causes, with their counts");
        flood();
        assert_eq!(refusals.end_of_second().len(), SHARE_ENTRIES - 2);
        flood();
        assert_eq!(refusals.rest().len(), 2, "in the end whatever is left");
        assert_eq!(refusals.rest().len(), 0);
    }

    #[test]
    fn in_a_second_anonymous_refusals_have_so_many_entries_of_their_own_and_each_cause_one_with_a_count() {
        let (_, refusals) = refusals(3);
        for _ in 0..1_000 {
            refusals.note(&TokenError::Signature, None, PEER, "/x");
        }
        assert_eq!(refusals.end_of_second().len(), 4);
        refusals.note(&TokenError::Signature, None, PEER, "/x");
        assert_eq!(refusals.end_of_second().len(), 1);
    }

    #[test]
    fn whose_signature_is_good_is_neither_charged_nor_kept_out_by_who_is_not_known() {
        let (_, refusals) = refusals(1_000);
        let bearer = agent("a");
        for _ in 0..500 {
            refusals.note(&TokenError::Revoked, Some(bearer.clone()), PEER, "/x");
        }
        for _ in 0..2_000 {
            refusals.note(&TokenError::Signature, None, PEER, "/x");
        }
        for _ in 0..500 {
            refusals.note(&TokenError::Revoked, Some(bearer.clone()), PEER, "/x");
        }
        assert_eq!(refusals.end_of_second().len(), 1_000 + SHARE_ENTRIES);
    }
}
