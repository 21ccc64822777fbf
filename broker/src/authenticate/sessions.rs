//! All open calls and streams of this node. There are never more than connections times streams of each, which are
//! limited where connections are made.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;

use super::{
    Identity, Revocation,
    session::{Session, SessionEnd, SessionId},
};
use crate::model::{AgentId, Clock, Issuer};

/// The open sessions.
pub struct Sessions {
    open: DashMap<SessionId, Arc<Session>>,
    next: AtomicU64,
    clock: Clock,
}

/// Which sessions are meant. What is not said means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Those of this agent.
    pub agent: Option<AgentId>,
    /// Those of agents of this issuer.
    pub issuer: Option<Issuer>,
}

/// A session's place among the open ones. Dropping it ends the session.
pub struct OpenSession {
    session: Arc<Session>,
    sessions: Arc<Sessions>,
}

impl Sessions {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { open: DashMap::new(), next: AtomicU64::new(1), clock })
    }

    /// Opens a session for a call.
    #[must_use]
    pub fn open(self: &Arc<Self>, identity: Arc<Identity>, peer: SocketAddr, method: &str) -> OpenSession {
        let id = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let now = self.clock.now();
        let session = Arc::new(Session::new(id, identity, peer, method, now));
        self.open.insert(id, Arc::clone(&session));
        // A token may have been revoked after it was verified and before the session could be found here.
        if let Err(end) = session.check(self.clock.now()) {
            session.end(&end);
        }
        OpenSession { session, sessions: Arc::clone(self) }
    }

    /// The sessions that a revocation names.
    #[must_use]
    pub fn named_by(&self, revocation: &Revocation) -> HashMap<SessionId, Arc<Session>> {
        let named = self.all().into_iter().filter(|session| revocation.names(&session.identity()));
        named.map(|session| (session.id(), session)).collect()
    }

    /// Ends the sessions whose token is no longer good, and says how many. When this returns, nothing passes through them.
    pub fn end_fallen(&self) -> usize {
        let now = self.clock.now();
        let fallen = |session: &Arc<Session>| session.check(now).err().is_some_and(|end| session.end(&end));
        self.all().iter().filter(|session| fallen(session)).count()
    }

    /// Closes the connections of those that are over and that their clients have held open for `rounds_max` such looks.
    pub fn cut_off_stuck(&self, rounds_max: u8) {
        self.all().iter().for_each(|session| session.cut_off_if_stuck(rounds_max));
    }

    /// The session of this number, if it is open.
    #[must_use]
    pub fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.open.get(&id).map(|session| Arc::clone(&session))
    }

    /// The first `max` sessions after `after`, in the order of their numbers.
    #[must_use]
    pub fn list(&self, filter: &SessionFilter, after: SessionId, max: usize) -> Vec<Arc<Session>> {
        let mut found = self.all();
        found.retain(|session| session.id() > after && session.end_reason().is_none() && filter.matches(session));
        found.sort_unstable_by_key(|session| session.id());
        found.truncate(max);
        found
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Taken out first, so that nobody waits for this map while a session is ended.
    fn all(&self) -> Vec<Arc<Session>> {
        self.open.iter().map(|session| Arc::clone(&session)).collect()
    }
}

impl SessionFilter {
    fn matches(&self, session: &Session) -> bool {
        let identity = session.identity();
        self.agent.as_ref().is_none_or(|agent| agent == identity.agent())
            && self.issuer.as_ref().is_none_or(|issuer| issuer == identity.issuer())
    }
}

impl OpenSession {
    /// The session.
    #[must_use]
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.session.end(&SessionEnd::Left);
        self.sessions.open.remove(&self.session.id());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        authenticate::{RevocationTarget, Revoked, TokenError},
        fixtures::{LIFETIME, World, peer},
        issue::KeyKind,
    };

    const METHOD: &str = "/x/Y";

    struct Bench {
        world: World,
        sessions: Arc<Sessions>,
    }

    impl Bench {
        fn new() -> Self {
            let world = World::new(KeyKind::EdDsa);
            let sessions = Sessions::new(world.clock.clone());
            Self { world, sessions }
        }

        fn open(&self, agent: &str) -> OpenSession {
            self.sessions.open(self.world.identity(&self.world.claims(agent)), peer(), METHOD)
        }

        fn revoke(&self, agent: &str) -> Revocation {
            let revocation = Revocation {
                issuer: Issuer::parse("https://issuer.example").expect("an issuer"),
                target: RevocationTarget::Agent(AgentId::parse(agent).expect("an agent")),
                expires_at: None,
                reason: String::new(),
            };
            let revoked = Revoked { index: 1, id: "test-1".to_owned(), revocation: revocation.clone() };
            self.world.verifier.revocations().change(vec![revoked], &[]);
            revocation
        }
    }

    #[test]
    fn those_whose_token_is_no_longer_good_are_ended_and_no_others() {
        let bench = Bench::new();
        let (one, other) = (bench.open("one"), bench.open("other"));
        let named = bench.sessions.named_by(&bench.revoke("one"));
        assert_eq!(named.keys().copied().collect::<Vec<_>>(), [one.session().id()]);
        assert_eq!(bench.sessions.end_fallen(), 1);
        assert_eq!(one.session().end_reason(), Some(&SessionEnd::Token(TokenError::Revoked)));
        assert_eq!(other.session().end_reason(), None);
        bench.world.clock.advance(LIFETIME);
        assert_eq!(bench.sessions.end_fallen(), 1, "the first is over already");
        assert_eq!(other.session().end_reason(), Some(&SessionEnd::Token(TokenError::Expired)));
    }

    #[test]
    fn a_client_that_holds_open_what_is_over_is_cut_off_and_no_other() {
        let bench = Bench::new();
        let (one, other) = (bench.open("one"), bench.open("other"));
        let [switch, another] = [&one, &other].map(|open| {
            let switch = tokio_util::sync::CancellationToken::new();
            open.session().can_be_cut_off_by(&switch);
            switch
        });
        let look = || bench.sessions.cut_off_stuck(2);
        (0..5).for_each(|_| look());
        assert!(!switch.is_cancelled(), "while it is good");
        one.session().end(&SessionEnd::Token(TokenError::Revoked));
        look();
        look();
        assert!(!switch.is_cancelled(), "it may take a moment");
        look();
        assert!(switch.is_cancelled() && !another.is_cancelled());
    }

    #[test]
    fn a_session_that_opens_while_its_token_is_revoked_is_over() {
        let bench = Bench::new();
        let identity = bench.world.identity(&bench.world.claims("one"));
        bench.revoke("one");
        let late = bench.sessions.open(identity, peer(), METHOD);
        assert_eq!(late.session().end_reason(), Some(&SessionEnd::Token(TokenError::Revoked)));
    }

    #[test]
    fn nothing_passes_once_a_session_is_ended_and_the_first_reason_stands() {
        let bench = Bench::new();
        let open = bench.open("one");
        let session = Arc::clone(open.session());
        let now = bench.world.clock.now();
        assert_eq!(session.pass(now, || 7), Ok(7));
        assert!(session.end(&SessionEnd::Disconnected));
        assert!(!session.end(&SessionEnd::Left));
        assert_eq!(session.pass(now, || 7), Err(SessionEnd::Disconnected));
        drop(open);
        assert!(bench.sessions.is_empty() && session.ended_token().is_cancelled());
    }

    #[test]
    fn whoever_ends_a_session_waits_until_what_is_being_handed_over_is_through() {
        let bench = Bench::new();
        let open = bench.open("one");
        let (session, now) = (Arc::clone(open.session()), bench.world.clock.now());
        let (tell, ended) = std::sync::mpsc::channel();
        let handed_over = session.pass(now, || {
            let session = Arc::clone(&session);
            std::thread::spawn(move || tell.send(session.end(&SessionEnd::Disconnected)));
            assert!(ended.recv_timeout(Duration::from_millis(50)).is_err(), "ended while something was handed over");
        });
        assert_eq!(handed_over, Ok(()));
        assert_eq!(ended.recv(), Ok(true));
    }

    #[test]
    fn a_fresh_token_moves_the_end_and_must_be_of_the_same_agent() {
        let bench = Bench::new();
        let open = bench.open("one");
        let session = open.session();
        bench.world.clock.advance(LIFETIME / 2);
        let mut claims = bench.world.claims("one");
        claims.exp += i64::try_from(LIFETIME.as_secs()).expect("short");
        session.renew(bench.world.identity(&claims)).expect("the same agent");
        let another = bench.world.identity(&bench.world.claims("other"));
        assert_eq!(session.renew(another), Err(TokenError::OtherAgent));
        bench.world.clock.advance(LIFETIME);
        assert_eq!((session.check(bench.world.clock.now()), session.renewals()), (Ok(()), 1));
        bench.world.clock.advance(LIFETIME);
        assert_eq!(session.check(bench.world.clock.now()), Err(SessionEnd::Token(TokenError::Expired)));
    }
}
