//! Who is calling: the first stage of a message's way.
//!
//! A bearer token (JWT, RFC 7519) goes in, an [`Identity`] comes out; only [`Verifier::verify`] makes one. The rules are
//! those of RFC 8725 (JWT best current practices) and RFC 9068 (access tokens): the algorithm is the key's and never
//! the token's choice, the key is looked up by `kid` among the configured issuer's keys only, and everything that a
//! lenient parser might read in two ways is refused.
//!
//! Out of scope: what the caller may do (see [`decide`](crate::decide)).

mod caller;
mod claims;
mod error;
mod identity;
mod keys;
mod permission;
mod revocation;
mod session;
mod sessions;
mod strict_json;
mod token;

pub use caller::Caller;
pub use error::{KeySetError, TokenError};
pub use identity::{Identity, TrustedIssuer, Verifier, VerifierSettings};
pub use keys::KeySet;
pub use permission::{Permission, Permissions};
pub use revocation::{Revocation, RevocationTarget, Revocations, Revoked};
pub use session::{Session, SessionEnd, SessionId};
pub use sessions::{OpenSession, SessionFilter, Sessions};
pub use token::BearerToken;
