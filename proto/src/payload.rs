//! The salted payload digest: it binds an audit entry to a message without betraying the content.

use sha2::{Digest as _, Sha256};

/// Length of a payload salt in bytes.
pub const SALT_BYTES: usize = 32;

/// `SHA-256(salt ‖ data)`: 32 bytes, as in the audit entry's `message.payload_digest`.
#[must_use]
pub fn digest(salt: &[u8; SALT_BYTES], data: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(data).finalize().into()
}
