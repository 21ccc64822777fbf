//! Whose message it is: the caller's, or that of an agent for whom the caller speaks and whose token comes with it.

use std::sync::Arc;

use veribus_proto::v1::Credentials;

use super::refusals::Refusals;
use crate::authenticate::{Authenticator, BearerToken, Caller, Identity, TokenError};

/// Recognises the senders of single messages.
#[derive(Clone)]
pub(super) struct Senders {
    authenticator: Arc<Authenticator>,
    refusals: Arc<Refusals>,
}

/// A message came with credentials that do not say whose it is. It is nobody's, and not the caller's either.
pub(super) struct Unrecognised;

impl Senders {
    /// By the same rules as callers, and with the same record of who is refused.
    pub(super) const fn new(authenticator: Arc<Authenticator>, refusals: Arc<Refusals>) -> Self {
        Self { authenticator, refusals }
    }

    /// Who sends a message with these credentials; `None` without any: the caller. Waits only where the issuer of the
    /// token may have published its key just now.
    pub(super) async fn recognise(
        &self,
        caller: &Caller,
        credentials: Option<Credentials>,
    ) -> Result<Option<Arc<Identity>>, Unrecognised> {
        let Some(credentials) = credentials else { return Ok(None) };
        self.authenticate(caller, &credentials).await.map(Some).map_err(|error| {
            let bearer = BearerToken::new(&*credentials.token).ok().and_then(|token| self.authenticator.bearer(&token));
            self.refusals.note(&error, bearer, caller.peer().ip(), caller.session().method());
            Unrecognised
        })
    }

    async fn authenticate(&self, caller: &Caller, credentials: &Credentials) -> Result<Arc<Identity>, TokenError> {
        self.authenticator.authenticate_or_fetch(&caller.presents(&credentials.token, &credentials.dpop_proof)?).await
    }
}
