//! A recognised caller on its connection.

use std::{net::SocketAddr, sync::Arc};

use super::{BearerToken, Identity, Presented, Scheme, Session, TokenError};

/// Who calls, in which session.
#[derive(Debug, Clone)]
pub struct Caller {
    session: Arc<Session>,
    certificate_sha256: Option<[u8; 32]>,
}

impl Caller {
    /// Who calls in `session`.
    #[must_use]
    pub const fn new(session: Arc<Session>) -> Self {
        Self { session, certificate_sha256: None }
    }

    /// The same over a connection with this client certificate.
    #[must_use]
    pub const fn over(mut self, certificate_sha256: Option<[u8; 32]>) -> Self {
        self.certificate_sha256 = certificate_sha256;
        self
    }

    /// Credentials that came within the call: they count for its method and its connection.
    ///
    /// # Errors
    /// [`TokenError::TooLong`].
    pub fn presents<'a>(&'a self, token: &str, proof: &'a str) -> Result<Presented<'a>, TokenError> {
        Ok(Presented {
            token: BearerToken::new(token)?,
            scheme: Scheme::Unsaid,
            proof: (!proof.is_empty()).then_some(proof),
            certificate_sha256: self.certificate_sha256,
            method: self.session.method(),
        })
    }

    /// Who, as in the token that is in force now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.session.identity()
    }

    /// The network address of the connection.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.session.peer()
    }

    /// The call or stream.
    #[must_use]
    pub const fn session(&self) -> &Arc<Session> {
        &self.session
    }
}
