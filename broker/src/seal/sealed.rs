//! Values and messages, sealed for the disk.

use rand::Rng as _;

use super::{
    envelope::{self, OpenError, SALT_BYTES, SUITE, SealError, VALUE, VERSION},
    key::ScopeKey,
};
use crate::model::{Epoch, Revision};

/// What a value belongs to. It opens in exactly this place and as exactly this agent's write, and nowhere else. None of it is
/// secret, and none of it is stored with the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// The scope whose key seals it.
    pub scope: &'a str,
    /// Which key of the scope.
    pub epoch: Epoch,
    /// What it is the value of: a state key or a topic.
    pub resource: &'a str,
    /// The revision that it replaces; 0 where there was none.
    pub previous_revision: Revision,
    /// Who vouched for the writer.
    pub issuer: &'a str,
    /// The writer.
    pub subject: &'a str,
    /// The writer's token.
    pub token_id: &'a str,
    /// What the token was bound to, as `Confirmation` displays; empty where it was not.
    pub confirmation: &'a str,
    /// SHA-256 of the token's signing input.
    pub token_sha256: &'a [u8; 32],
}

impl Context<'_> {
    fn encode(&self) -> Result<Vec<u8>, SealError> {
        envelope::length_prefixed(&[
            &u64::from(VERSION).to_be_bytes(),
            &u64::from(SUITE).to_be_bytes(),
            self.scope.as_bytes(),
            &u64::from(self.epoch.0).to_be_bytes(),
            self.resource.as_bytes(),
            &self.previous_revision.0.to_be_bytes(),
            self.issuer.as_bytes(),
            self.subject.as_bytes(),
            self.token_id.as_bytes(),
            self.confirmation.as_bytes(),
            self.token_sha256,
        ])
    }
}

/// Seals a value: version ‖ suite ‖ message id ‖ commitment ‖ ciphertext ‖ tag, [`super::OVERHEAD_BYTES`] more than the plaintext.
///
/// # Errors
/// [`SealError::TooLong`]: more than 64 GiB, or a context with a part of more than 4 GiB.
pub fn seal(key: &ScopeKey, context: &Context<'_>, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut message_id = [0; SALT_BYTES];
    rand::rng().fill_bytes(&mut message_id);
    seal_as(&message_id, key, context, plaintext)
}

/// Opens what [`seal`] made with this key and in this context.
///
/// # Errors
/// [`OpenError`] for everything else.
pub fn open(key: &ScopeKey, context: &Context<'_>, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let context = context.encode().map_err(|_| OpenError)?;
    envelope::open(key.bytes(), &VALUE, &context, sealed)
}

/// Only [`seal`] and the test of the published vectors say which id: one that comes twice betrays both values.
fn seal_as(
    message_id: &[u8; SALT_BYTES],
    key: &ScopeKey,
    context: &Context<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    envelope::close(key.bytes(), &VALUE, &context.encode()?, message_id, plaintext)
}

#[cfg(test)]
mod tests;
