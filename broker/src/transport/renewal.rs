//! Fresh tokens on streams that are already running: recognised as at the gate, and of the same agent.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::Status;
use veribus_proto::v1::{Credentials, Refreshed};

use super::{refusals::Refusals, status};
use crate::{
    authenticate::{Authenticator, Caller, Identity, TokenError},
    record::{Draft, Recorder},
};

/// How often a stream takes a fresh token, and how many it takes at once.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const BURST: u32 = 16;

/// How fast fresh tokens of one stream are taken. Each is an entry in the log and may change who listens to what, and no
/// quota counts it: a stream that sends more is read no faster than this.
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Waits until one more may be taken.
    pub(super) async fn next(&mut self) {
        let now = Instant::now();
        sleep(self.0.saturating_duration_since(now).saturating_sub(INTERVAL_MIN * (BURST - 1))).await;
        self.0 = self.0.max(now) + INTERVAL_MIN;
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

    pub(super) const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Whom a fresh token names. One that is not good, or another agent's, is the end of the stream.
    pub(super) async fn recognise(&self, caller: &Caller, credentials: &Credentials) -> Result<Arc<Identity>, Status> {
        let fresh = self.authenticate(caller, credentials).await;
        let fresh = fresh.and_then(|fresh| caller.session().check_successor(&fresh).map(|()| fresh));
        fresh.map_err(|error| {
            self.refusals.note_session(caller.session(), &error);
            status::unauthenticated()
        })
    }

    /// Goes on under a fresh token, recorded.
    pub(super) async fn renew(&self, caller: &Caller, credentials: &Credentials) -> Result<Refreshed, Status> {
        let fresh = self.recognise(caller, credentials).await?;
        self.adopt(caller, Arc::clone(&fresh))?;
        let resource = caller.session().method().to_owned();
        let draft = Draft::refreshed(resource, None, None, &fresh, caller.peer());
        let receipt = self.recorder.access(draft, Arc::clone(&fresh)).await.map_err(status::record_status)?;
        match receipt.refused {
            None => Ok(Refreshed { token_expires_at: fresh.expires_at().0, patterns: Vec::new() }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_fresh_tokens_are_taken_at_once_and_then_one_in_each_interval() {
        let began = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..BURST {
            pace.next().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.next().await;
        pace.next().await;
        assert!((INTERVAL_MIN * 2..INTERVAL_MIN * 2 + Duration::from_millis(10)).contains(&began.elapsed()));
        tokio::time::sleep(INTERVAL_MIN * 2 * BURST).await;
        let rested = Instant::now();
        for _ in 0..BURST {
            pace.next().await;
        }
        assert_eq!(rested.elapsed(), Duration::ZERO, "no less than at the beginning");
    }
}
