//! Who is calling: the first stage of a message's way.
//!
//! A token (JWT, RFC 7519) goes in, with what was presented besides it, and an [`Identity`] comes out of
//! [`Authenticator::authenticate`]. [`Verifier`] looks at the token alone; [`Authenticator`] then holds whoever presents it to
//! what it is bound to: the client certificate of the connection, or a key that signs a proof. The rules are
//! those of RFC 8725 (JWT best current practices) and RFC 9068 (access tokens): the algorithm is the key's and never
//! the token's choice, the key is looked up by `kid` among the configured issuer's keys only, and everything that a
//! lenient parser might read in two ways is refused.
//!
//! Out of scope: what the caller may do (see [`decide`](crate::decide)).

mod admission;
mod caller;
mod claims;
mod confirmation;
mod delegation;
mod dpop;
mod error;
mod grants;
mod identity;
mod keys;
mod permission;
mod revocation;
mod session;
mod sessions;
mod shown;
mod strict_json;
mod token;

pub use admission::{Authenticator, Presented};
pub use caller::Caller;
pub use confirmation::Confirmation;
pub use delegation::DelegatedActor;
pub use dpop::{ProofError, ProofLimits, ProofSettings};
pub use error::{KeySetError, TokenError};
pub use grants::{AllowedPermission, GrantLimits};
pub use identity::{AHEAD_S_MAX, Bearer, ClaimPaths, Identity, TrustedIssuer, Verifier, VerifierSettings};
pub use keys::{
    Access, AddressError, Algorithms, FetchError, IssuerKeys, KeySet, KeySource, KeyStanding, LocalKeys, RemoteKeys,
    RemoteKeysSettings, SignatureAlgorithm, SkipReason, Skipped, SkippedEntries, SourceError,
};
pub use permission::{Permission, Permissions};
pub use revocation::{Revocation, RevocationTarget, Revocations, Revoked};
pub use session::{Session, SessionEnd, SessionId};
pub use sessions::{OpenSession, SessionFilter, Sessions};
pub use token::{BearerToken, Scheme};
