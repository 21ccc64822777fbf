//! Keys in memory: on the heap in one place, zeroed when dropped, and never printed.

use std::fmt;

use rand::{TryRng as _, rngs::SysRng};
use zeroize::Zeroizing;

use super::envelope::{KEY_BYTES, SealError};

/// The key of one scope in one epoch. Whoever has it, opens every value of that scope and epoch.
pub struct ScopeKey(Secret);

impl ScopeKey {
    /// Makes one from the system's random bytes.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn generate() -> Result<Self, SealError> {
        Secret::generate().map(Self)
    }

    /// One that was kept elsewhere. The caller zeroes what it came from.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(Secret::from_bytes(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.bytes()
    }
}

impl fmt::Debug for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScopeKey(..)")
    }
}

/// 32 bytes that nobody else may know. Boxed, so that moving it leaves no copy behind.
pub(super) struct Secret(Box<Zeroizing<[u8; KEY_BYTES]>>);

impl Secret {
    pub(super) fn generate() -> Result<Self, SealError> {
        let mut secret = Self(Box::default());
        SysRng.try_fill_bytes(secret.0.as_mut_slice()).map_err(|_| SealError::Random)?;
        Ok(secret)
    }

    pub(super) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let mut secret = Self(Box::default());
        secret.0.copy_from_slice(bytes);
        secret
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}
