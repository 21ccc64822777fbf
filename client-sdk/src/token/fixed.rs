//! A token that never changes.

use super::{Token, TokenFuture, TokenProvider};

/// The same token for ever, for clients that live no longer than it does.
#[derive(Debug, Clone)]
pub struct StaticToken(Token);

impl StaticToken {
    /// Of this token.
    #[must_use]
    pub const fn new(token: Token) -> Self {
        Self(token)
    }
}

impl TokenProvider for StaticToken {
    fn token(&self) -> TokenFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }

    fn is_fixed(&self) -> bool {
        true
    }
}
