//! The keys that tokens are verified with: where they come from, and how long each one counts.
//!
//! In scope: JWK Sets (RFC 7517) from a file, a URL or by discovery (OpenID Connect Discovery 1.0, RFC 8414); one key,
//! one algorithm; a key that its issuer no longer lists stops counting, for tokens that were verified before, too. Out of
//! scope: what the tokens say.

mod address;
mod algorithm;
mod jwk;
mod local;
mod remote;
mod set;
mod skipped;
mod source;
mod standing;

#[cfg(test)]
mod corpus_tests;

pub use address::AddressError;
pub use algorithm::{Algorithms, SignatureAlgorithm};
pub use local::LocalKeys;
pub use remote::{RemoteKeys, RemoteKeysSettings};
pub use set::KeySet;
pub use skipped::{SkipReason, Skipped, SkippedEntries};
pub use source::{Access, FetchError, KeySource, SourceError};
pub use standing::KeyStanding;

use std::sync::Arc;

pub(super) use jwk::{PRIVATE_MEMBERS, VerificationKey};

use super::{error::TokenError, token::Jws};
use crate::model::UnixMicros;

/// One issuer's keys.
pub enum IssuerKeys {
    /// Read from a file.
    Local(LocalKeys),
    /// Fetched from the issuer, again and again.
    Remote(RemoteKeys),
}

impl From<KeySet> for IssuerKeys {
    fn from(keys: KeySet) -> Self {
        Self::Local(keys.into())
    }
}

impl IssuerKeys {
    /// The key that a token names, if it counts now.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`], [`TokenError::KeyIdNeeded`].
    pub(super) fn find(&self, jws: &Jws<'_>, now: UnixMicros) -> Result<Arc<VerificationKey>, TokenError> {
        let found = match self {
            Self::Local(keys) => keys.find(jws),
            Self::Remote(keys) => keys.find(jws),
        }?;
        if found.standing.is_good(now) { Ok(found) } else { Err(TokenError::UnknownKey) }
    }
}
