//! One open call or stream, and whether anything may still pass through it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Identity, TokenError};
use crate::model::UnixMicros;

/// A session, numbered by this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The call was answered, or its client went away.
    Left,
    /// The token is no longer good.
    Token(TokenError),
    /// An operator ended it.
    Disconnected,
}

/// A call or stream of a recognised caller. A stream may go on under a fresh token, so its identity can change; the agent
/// cannot.
pub struct Session {
    id: SessionId,
    identity: ArcSwap<Identity>,
    peer: SocketAddr,
    method: Box<str>,
    opened_at: UnixMicros,
    renewals: AtomicU32,
    /// Held while something is handed to the transport, and while the session is ended.
    passing: Mutex<()>,
    end: OnceLock<SessionEnd>,
    ended: CancellationToken,
    complained: AtomicBool,
    /// Closes the connection.
    cut_off: OnceLock<CancellationToken>,
    /// How often it was found over and still open.
    lingered: AtomicU8,
}

impl Session {
    pub(super) fn new(
        id: SessionId,
        identity: Arc<Identity>,
        peer: SocketAddr,
        method: &str,
        opened_at: UnixMicros,
    ) -> Self {
        Self {
            id,
            identity: ArcSwap::new(identity),
            peer,
            method: method.into(),
            opened_at,
            renewals: AtomicU32::new(0),
            passing: Mutex::default(),
            end: OnceLock::new(),
            ended: CancellationToken::new(),
            complained: AtomicBool::new(false),
            cut_off: OnceLock::new(),
            lingered: AtomicU8::new(0),
        }
    }

    /// What closes its connection, should its client not let it end.
    pub fn can_be_cut_off_by(&self, switch: &CancellationToken) {
        self.cut_off.get_or_init(|| switch.clone());
    }

    /// Asked at regular times: a client that takes nothing in is never told that the session is over, and holds its call
    /// open. After `rounds_max` of them its connection is closed.
    pub(super) fn cut_off_if_stuck(&self, rounds_max: u8) {
        if self.end.get().is_some()
            && self.lingered.fetch_add(1, Ordering::Relaxed) >= rounds_max
            && let Some(switch) = self.cut_off.get()
        {
            switch.cancel();
        }
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Who calls, as in the token that is in force now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// The network address of the connection.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The path of the call, for example `/veribus.v1.BrokerService/Subscribe`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// When the call began.
    #[must_use]
    pub const fn opened_at(&self) -> UnixMicros {
        self.opened_at
    }

    /// How many fresh tokens it has taken.
    #[must_use]
    pub fn renewals(&self) -> u32 {
        self.renewals.load(Ordering::Acquire)
    }

    /// Whether a fresh token is one of the agent that opened the session, bound to the same as the one before, if that was
    /// bound.
    ///
    /// # Errors
    /// [`TokenError::OtherAgent`], [`TokenError::OtherBinding`].
    pub fn check_successor(&self, fresh: &Identity) -> Result<(), TokenError> {
        let held = self.identity.load();
        if fresh.issuer() != held.issuer() || fresh.agent() != held.agent() {
            return Err(TokenError::OtherAgent);
        }
        let is_as_bound = held.confirmation().is_none() || held.confirmation() == fresh.confirmation();
        if is_as_bound { Ok(()) } else { Err(TokenError::OtherBinding) }
    }

    /// Goes on under a fresh token.
    ///
    /// # Errors
    /// [`TokenError::OtherAgent`], [`TokenError::OtherBinding`]: the session is as before.
    pub fn renew(&self, fresh: Arc<Identity>) -> Result<(), TokenError> {
        self.check_successor(&fresh)?;
        self.identity.store(fresh);
        self.renewals.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Whether anything may pass at this moment, in either direction.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: UnixMicros) -> Result<(), SessionEnd> {
        match self.end.get() {
            Some(end) => Err(end.clone()),
            None => self.identity.load().check_standing(now).map_err(SessionEnd::Token),
        }
    }

    /// Hands something over, if anything may pass. Whoever ends the session waits until that is done, and once it is
    /// ended nothing is handed over. `hand_over` must not end the session itself.
    ///
    /// # Errors
    /// Why nothing passes any more; the session is over then.
    pub fn pass<T>(&self, now: UnixMicros, hand_over: impl FnOnce() -> T) -> Result<T, SessionEnd> {
        let _passing = self.passing.lock();
        match self.check(now) {
            Ok(()) => Ok(hand_over()),
            Err(end) => {
                self.set_end(&end);
                Err(end)
            }
        }
    }

    /// Ends it: when this returns, nothing passes any more. The first reason stands; `false` if it was over already.
    pub fn end(&self, end: &SessionEnd) -> bool {
        let _passing = self.passing.lock();
        self.set_end(end)
    }

    /// Why it is over; `None` while it is not.
    #[must_use]
    pub fn end_reason(&self) -> Option<&SessionEnd> {
        self.end.get()
    }

    /// Completes when it is over.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The same, for who cannot wait on a borrow.
    #[must_use]
    pub const fn ended_token(&self) -> &CancellationToken {
        &self.ended
    }

    /// Whether this is the first complaint about its token: one session is in the log once.
    #[must_use]
    pub fn complain_once(&self) -> bool {
        !self.complained.swap(true, Ordering::Relaxed)
    }

    fn set_end(&self, end: &SessionEnd) -> bool {
        let first = self.end.set(end.clone()).is_ok();
        self.ended.cancel();
        first
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).field("method", &self.method).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        fixtures::{METHOD, Prover, World, bearer, peer},
        issue::KeyKind,
    };

    /// An identity by a token that names the key of `prover`, or none.
    fn identity(world: &World, prover: Option<&Prover>, id: &str) -> Arc<Identity> {
        let Some(prover) = prover else { return world.identity(&world.claims("agent")) };
        let claims = world.claims("agent").claim("cnf", json!({ "jkt": prover.thumbprint }));
        let token = world.issuer.issue(&claims).expect("signed");
        let proof = prover.proof(&token, id);
        let presented = crate::authenticate::Presented {
            scheme: crate::authenticate::Scheme::Dpop,
            proof: Some(&proof),
            ..bearer(&token)
        };
        world.authenticator.authenticate(&presented).expect("recognised")
    }

    #[test]
    fn a_bound_session_goes_on_only_under_a_token_that_is_bound_to_the_same() {
        let world = World::new(KeyKind::Es256);
        let (own, other) = (Prover::new(KeyKind::Es256), Prover::new(KeyKind::Es256));
        let session = |identity| Session::new(SessionId(1), identity, peer(), METHOD, world.clock.now());
        let bound = session(identity(&world, Some(&own), "1"));
        assert_eq!(bound.renew(identity(&world, None, "")), Err(TokenError::OtherBinding));
        assert_eq!(bound.renew(identity(&world, Some(&other), "2")), Err(TokenError::OtherBinding));
        assert_eq!(bound.renewals(), 0);
        assert_eq!(bound.renew(identity(&world, Some(&own), "3")), Ok(()));
        let unbound = session(identity(&world, None, ""));
        assert_eq!(unbound.renew(identity(&world, Some(&own), "4")), Ok(()), "it may become more");
        assert_eq!(unbound.renew(identity(&world, None, "")), Err(TokenError::OtherBinding), "and then no less");
        let another = world.identity(&world.claims("another"));
        assert_eq!(unbound.renew(another), Err(TokenError::OtherAgent));
    }
}
