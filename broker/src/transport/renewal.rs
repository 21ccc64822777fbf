//! Fresh tokens on streams that are already running: recognised as at the gate, and of the same agent. One that is not leaves the
//! stream as it is: the token before is good until it runs out.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::Status;
use veribus_proto::v1::{Credentials, Refreshed};

use super::{refusals::Refusals, status};
use crate::{
    authenticate::{Authenticator, Caller, Identity, TokenError},
    model::{Clock, TopicPattern},
    quota::Meter,
    record::{Draft, Recorder},
};

/// How often a stream takes a fresh token, and how many it takes at once.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const BURST: u32 = 16;

/// How fast fresh tokens of one stream are taken. Each is an entry in the log and may change who listens to what: a stream
/// that sends more than these, or than its agent's quota lets pass, is read no faster than that.
pub(super) struct Pace {
    next: Instant,
    meter: Meter,
    clock: Clock,
}

impl Pace {
    pub(super) fn new(meter: Meter, clock: Clock) -> Self {
        Self { next: Instant::now(), meter, clock }
    }

    /// Waits until one more of the caller's may be taken.
    pub(super) async fn next(&mut self, caller: &Caller) {
        let now = Instant::now();
        sleep(self.next.saturating_duration_since(now).saturating_sub(INTERVAL_MIN * (BURST - 1))).await;
        self.next = self.next.max(now) + INTERVAL_MIN;
        self.meter.follow(&caller.identity());
        while let Err(exceeded) = self.meter.take_entry(self.clock.now()) {
            sleep(exceeded.retry_after.unwrap_or(INTERVAL_MIN)).await;
        }
    }
}

/// Takes fresh tokens.
#[derive(Clone)]
pub struct Renewals {
    authenticator: Arc<Authenticator>,
    refusals: Arc<Refusals>,
    recorder: Recorder,
}

impl Renewals {
    /// Recognises tokens by `authenticator`.
    #[must_use]
    pub const fn new(authenticator: Arc<Authenticator>, refusals: Arc<Refusals>, recorder: Recorder) -> Self {
        Self { authenticator, refusals, recorder }
    }

    /// Whom a fresh token names; `None` for one that is not good, or another agent's. That is recorded.
    pub(super) async fn recognise(&self, caller: &Caller, credentials: &Credentials) -> Option<Arc<Identity>> {
        let fresh = self.authenticate(caller, credentials).await;
        let fresh = fresh.and_then(|fresh| caller.session().check_successor(&fresh).map(|()| fresh));
        fresh.inspect_err(|error| self.refusals.note_session(caller.session(), error)).ok()
    }

    /// Goes on under a fresh token, recorded; or under the one before, where it is refused.
    ///
    /// # Errors
    /// The end of the stream.
    pub(super) async fn renew(&self, caller: &Caller, credentials: &Credentials) -> Result<Refreshed, Status> {
        let Some(fresh) = self.recognise(caller, credentials).await else { return Ok(refused(caller, &[])) };
        self.adopt(caller, Arc::clone(&fresh))?;
        let resource = caller.session().method().to_owned();
        let draft = Draft::refreshed(resource, None, None, &fresh, caller.peer());
        let receipt = self.recorder.access(draft, Arc::clone(&fresh)).await.map_err(status::record_status)?;
        match receipt.refused {
            None => Ok(taken(&fresh, &[])),
            Some(_) => Err(status::unauthenticated()),
        }
    }

    async fn authenticate(&self, caller: &Caller, credentials: &Credentials) -> Result<Arc<Identity>, TokenError> {
        let presented = caller.presents(&credentials.token, &credentials.dpop_proof)?;
        self.authenticator.authenticate_or_fetch(&presented).await
    }

    fn adopt(&self, caller: &Caller, fresh: Arc<Identity>) -> Result<(), Status> {
        caller.session().renew(fresh).map_err(|error| {
            self.refusals.note_session(caller.session(), &error);
            status::unauthenticated()
        })
    }
}

/// The stream goes on under a fresh token, and serves these patterns.
pub(super) fn taken(fresh: &Identity, patterns: &[TopicPattern]) -> Refreshed {
    let patterns = patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    Refreshed { token_expires_at: fresh.expires_at().0, patterns, refused: false }
}

/// The stream goes on under the token before.
pub(super) fn refused(caller: &Caller, patterns: &[TopicPattern]) -> Refreshed {
    Refreshed { refused: true, ..taken(&caller.identity(), patterns) }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::{
        authenticate::Sessions,
        fixtures::{World, peer},
        issue::KeyKind,
        model::{Ceiling, QuotaOverrides, QuotaTerms},
        quota::{QuotaTable, Quotas},
    };

    /// A caller with a quota of so many messages a second, and the pace of one of its streams.
    fn pace(world: &World, terms: QuotaTerms) -> (Caller, Pace) {
        let identity = world.identity(&world.claims("one"));
        let quotas = Quotas::new(QuotaTable::new(terms, QuotaOverrides::default()), 10, 1 << 20, world.clock.clone());
        let meter = quotas.open_call(Arc::clone(&identity)).expect("a place").meter();
        let open = Sessions::new(world.clock.clone()).open(identity, peer(), "/x/Y");
        (Caller::new(Arc::clone(open.session())), Pace::new(meter, world.clock.clone()))
    }

    #[tokio::test(start_paused = true)]
    async fn some_fresh_tokens_are_taken_at_once_and_then_one_in_each_interval() {
        let world = World::new(KeyKind::EdDsa);
        let (caller, mut pace) = pace(&world, QuotaTerms::default());
        let began = Instant::now();
        for _ in 0..BURST {
            pace.next(&caller).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.next(&caller).await;
        pace.next(&caller).await;
        assert!((INTERVAL_MIN * 2..INTERVAL_MIN * 2 + Duration::from_millis(10)).contains(&began.elapsed()));
        tokio::time::sleep(INTERVAL_MIN * 2 * BURST).await;
        let rested = Instant::now();
        for _ in 0..BURST {
            pace.next(&caller).await;
        }
        assert_eq!(rested.elapsed(), Duration::ZERO, "no less than at the beginning");
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_tokens_are_taken_no_faster_than_messages() {
        let world = World::new(KeyKind::EdDsa);
        let terms = QuotaTerms { messages_per_s: Some(Ceiling::Max(NonZeroU64::MIN)), ..QuotaTerms::default() };
        let (caller, mut pace) = pace(&world, terms);
        pace.next(&caller).await;
        let mut second = std::pin::pin!(pace.next(&caller));
        assert!(futures_util::poll!(&mut second).is_pending(), "the burst is one");
        world.clock.advance(Duration::from_secs(1));
        second.await;
    }
}
