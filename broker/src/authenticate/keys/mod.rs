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
mod source;
mod standing;

#[cfg(test)]
mod corpus_tests;

pub use address::AddressError;
pub use algorithm::{Algorithms, SignatureAlgorithm};
pub use local::LocalKeys;
pub use remote::{RemoteKeys, RemoteKeysSettings};
pub use set::KeySet;
pub use source::{Access, FetchError, KeySource, SourceError};
pub use standing::KeyStanding;

use std::sync::Arc;

pub(super) use jwk::VerificationKey;

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
    /// The key of that name, if it counts now.
    pub(super) fn find(&self, key_id: &str, now: UnixMicros) -> Option<Arc<VerificationKey>> {
        let found = match self {
            Self::Local(keys) => keys.find(key_id),
            Self::Remote(keys) => keys.find(key_id),
        };
        found.filter(|key| key.standing.is_good(now))
    }
}
