//! Tokens: what one is, and where they come from.
//!
//! In scope: the [`TokenProvider`]s, and [`Tokens`](keeper::Tokens), which keeps one token good for a whole client.
//! Out of scope: whether a token is any good, which is for the broker to say.

mod file;
mod fixed;
mod keeper;
mod running;
mod standing;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use thiserror::Error as ThisError;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

pub use file::TokenFile;
pub use fixed::StaticToken;
pub(crate) use keeper::Tokens;
pub(crate) use running::RunningToken;
pub(crate) use standing::Standing;

/// An access token. Its `Debug` says nothing about it, and its memory is zeroed when the last clone is dropped.
#[derive(Clone)]
pub struct Token(Arc<Inner>);

struct Inner {
    jwt: Zeroizing<String>,
    expires_at: Option<SystemTime>,
}

/// What the SDK reads of a token: only when to ask for the next one.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
}

impl Token {
    /// A token, without the word `Bearer`; white space around it is left out. When it runs out is read from its claim
    /// `exp`, if it has one.
    ///
    /// # Errors
    /// [`TokenError::Unusable`] where it is empty or holds characters that no token has.
    pub fn new(jwt: impl AsRef<str>) -> Result<Self, TokenError> {
        let jwt = jwt.as_ref().trim();
        if jwt.is_empty() {
            return Err(TokenError::Unusable("it is empty"));
        }
        if !jwt.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Unusable("it holds characters that no token has"));
        }
        let expires_at = expiry(jwt);
        Ok(Self(Arc::new(Inner { jwt: Zeroizing::new(jwt.to_owned()), expires_at })))
    }

    /// The same token, with what its issuer said about when it runs out.
    #[must_use]
    pub fn expiring_at(self, expires_at: SystemTime) -> Self {
        Self(Arc::new(Inner { jwt: self.0.jwt.clone(), expires_at: Some(expires_at) }))
    }

    /// The token itself. Do not log it.
    #[must_use]
    pub fn jwt(&self) -> &str {
        &self.0.jwt
    }

    /// When it runs out, as far as that is known.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// The value of the `authorization` metadata, marked sensitive.
    pub(crate) fn header(&self, scheme: &str) -> Option<MetadataValue<Ascii>> {
        let text = Zeroizing::new(format!("{scheme} {}", self.jwt()));
        let mut value = MetadataValue::try_from(text.as_str()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.jwt == other.0.jwt
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Without a signature check: the claim only says when to look for another token.
fn expiry(jwt: &str) -> Option<SystemTime> {
    let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(jwt).ok()?;
    let since_epoch = Duration::try_from_secs_f64(claims.exp?).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

/// Why there is no token, or no other one.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum TokenError {
    /// What was given is no token.
    #[error("no token: {0}")]
    Unusable(&'static str),
    /// The source cannot be reached or read just now. It is asked again.
    #[error("the source of tokens does not answer: {0}")]
    Unavailable(String),
    /// The source answered, and the answer was no. A client that is being made gives up; a running one asks again.
    #[error("the source of tokens refused: {0}")]
    Refused(String),
}

/// A token to come; see [`TokenProvider::token`].
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<Token, TokenError>> + Send + 'a>>;

/// Where tokens come from.
///
/// A provider only gets tokens. When to ask it is the client's business: when it connects, when some 80 % of the
/// token's life have passed, and when the broker does not accept the token. The client asks once at a time however
/// many streams are waiting, pauses ever longer after failures, and keeps the old token until it runs out, also where the
/// broker does not take the fresh one yet.
///
/// ```
/// use veribus_client::{Token, TokenFuture, TokenProvider};
///
/// #[derive(Debug)]
/// struct FromSidecar(std::net::SocketAddr);
///
/// impl TokenProvider for FromSidecar {
///     fn token(&self) -> TokenFuture<'_> {
///         Box::pin(async move { Token::new(ask_sidecar(self.0).await) })
///     }
/// }
/// # async fn ask_sidecar(_: std::net::SocketAddr) -> String { "e30.e30.e30".to_owned() }
/// ```
pub trait TokenProvider: fmt::Debug + Send + Sync + 'static {
    /// Gets a token that is good now, a fresh one where it can. Must not hang on to an old one.
    ///
    /// # Errors
    /// [`TokenError`], where it cannot.
    fn token(&self) -> TokenFuture<'_>;

    /// For sources that cost nothing and may change at any time: how often to look. `None`: only when a token is
    /// needed, and not twice within a second.
    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    /// Whether it is the same token for ever, so that nobody waits for another one.
    fn is_fixed(&self) -> bool {
        false
    }
}

impl<P: TokenProvider + ?Sized> TokenProvider for Arc<P> {
    fn token(&self) -> TokenFuture<'_> {
        self.as_ref().token()
    }

    fn poll_interval(&self) -> Option<Duration> {
        self.as_ref().poll_interval()
    }

    fn is_fixed(&self) -> bool {
        self.as_ref().is_fixed()
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(claims.as_bytes()))
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token = Token::new("secret").expect("a token");
        assert!(!format!("{token:?} {:?}", token.header("Bearer")).contains("secret"));
    }

    #[test]
    fn when_a_token_runs_out_is_read_from_it_unless_its_issuer_said_so() {
        let token = Token::new(jwt(r#"{"exp":1000}"#)).expect("a token");
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        assert_eq!(token.expires_at(), at(1000));
        assert_eq!(token.expiring_at(at(2000).expect("a time")).expires_at(), at(2000));
    }

    #[test]
    fn a_token_that_does_not_say_when_it_runs_out_is_a_token_all_the_same() {
        for text in ["opaque", &jwt("{}"), &jwt(r#"{"exp":"soon"}"#), &jwt(r#"{"exp":-1}"#), &jwt(r#"{"exp":1e300}"#)] {
            assert_eq!(Token::new(text).expect("a token").expires_at(), None, "{text}");
        }
    }

    #[test]
    fn what_no_header_can_carry_is_no_token() {
        for text in ["", " \n", "a b", "a\nb", "ü", "a\u{7f}"] {
            assert!(matches!(Token::new(text), Err(TokenError::Unusable(_))), "{text:?}");
        }
    }
}
