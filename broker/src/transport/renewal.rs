//! Fresh tokens on streams that are already running: recognised as at the gate, and of the same agent.

use std::sync::Arc;

use tonic::Status;
use veribus_proto::v1::{Credentials, Refreshed};

use super::{refusals::Refusals, status};
use crate::{
    authenticate::{Authenticator, Caller, Identity, TokenError},
    record::{Draft, Recorder},
};

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
