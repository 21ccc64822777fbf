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
