//! Keys from a file, which may be read again while the broker runs.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{jwk::VerificationKey, set::KeySet};
use crate::authenticate::{error::TokenError, token::Jws};

/// An issuer's keys as they were last read. Cheap to clone.
#[derive(Clone)]
pub struct LocalKeys(Arc<ArcSwap<KeySet>>);

impl LocalKeys {
    /// Goes by these from now on. What was verified by a key that is no longer among them is no longer good.
    ///
    /// Returns the names of the keys that were withdrawn.
    pub fn replace(&self, keys: KeySet) -> Vec<String> {
        let (next, withdrawn) = keys.succeed(&self.0.load_full(), |_| {});
        self.0.store(Arc::new(next));
        withdrawn.iter().map(ToString::to_string).collect()
    }

    pub(super) fn find(&self, jws: &Jws<'_>) -> Result<Arc<VerificationKey>, TokenError> {
        self.0.load().find(jws).cloned()
    }
}

impl From<KeySet> for LocalKeys {
    fn from(keys: KeySet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }
}
