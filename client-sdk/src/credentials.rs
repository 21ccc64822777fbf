//! For gateways: whose message it is, where that is not the client itself.

use std::fmt;

use crate::{DpopKey, Token};

/// The credentials of another agent, for [`crate::Message::on_behalf_of`]. Their `Debug` says nothing about them.
#[derive(Clone)]
pub struct Credentials {
    token: Token,
    key: Option<DpopKey>,
}

impl Credentials {
    /// A bearer token.
    #[must_use]
    pub const fn new(token: Token) -> Self {
        Self { token, key: None }
    }

    /// The key that the token is bound to. Each time the message is sent, a fresh proof goes with it.
    #[must_use]
    pub fn dpop(self, key: DpopKey) -> Self {
        Self { key: Some(key), ..self }
    }

    pub(crate) const fn token(&self) -> &Token {
        &self.token
    }

    pub(crate) const fn key(&self) -> Option<&DpopKey> {
        self.key.as_ref()
    }
}

impl From<Token> for Credentials {
    fn from(token: Token) -> Self {
        Self::new(token)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let thumbprint = |one: &Self| one.key.as_ref().map(|key| key.thumbprint().to_owned());
        self.token.is(&other.token) && thumbprint(self) == thumbprint(other)
    }
}
