//! The one construction behind values and wrapped keys: a key that is used once, and a commitment to it, derived from a long
//! lived key, a random salt and a context.
//!
//! AES-GCM alone does not commit to its key: one ciphertext can be made to open under several. So a commitment, derived
//! beside the key, is stored and compared before anything is decrypted.

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _, Tag};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::{Zeroize as _, Zeroizing};

/// What sealing adds to a plaintext: version, suite, salt, commitment, tag.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

pub(super) const KEY_BYTES: usize = 32;
pub(super) const SALT_BYTES: usize = 32;
const COMMITMENT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 2 + SALT_BYTES + COMMITMENT_BYTES;

/// The format.
pub(super) const VERSION: u8 = 1;
/// HKDF-SHA-256 and AES-256-GCM with a commitment.
pub(super) const SUITE: u8 = 1;

/// Why something could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SealError {
    /// The plaintext, or a part of its context, is longer than the format can say.
    #[error("too long to be sealed")]
    TooLong,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// It cannot be opened. Nobody learns why: a wrong key, a wrong context and a damaged text look alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("cannot be opened")]
pub struct OpenError;

/// What the derived keys are for, so that no two uses share one.
pub(super) struct Purpose {
    key: &'static [u8],
    commitment: &'static [u8],
}

/// Values and messages.
pub(super) const VALUE: Purpose = Purpose { key: b"veribus/1/key", commitment: b"veribus/1/commit" };
/// Page tokens, under the node's key.
pub(super) const PAGE: Purpose = Purpose { key: b"veribus/1/page/key", commitment: b"veribus/1/page/commit" };
/// Keys of scopes, under the root key.
pub(super) const WRAP: Purpose = Purpose { key: b"veribus/1/wrap/key", commitment: b"veribus/1/wrap/commit" };

/// Each part behind its length (four bytes, big-endian), so that no two lists of parts look alike.
pub(super) fn length_prefixed(parts: &[&[u8]]) -> Result<Vec<u8>, SealError> {
    let mut all = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
    for part in parts {
        let len = u32::try_from(part.len()).map_err(|_| SealError::TooLong)?;
        all.extend_from_slice(&len.to_be_bytes());
        all.extend_from_slice(part);
    }
    Ok(all)
}

/// Seals a plaintext. A salt must never come twice with one key: whoever calls this has just made it from random bytes.
pub(super) fn close(
    key: &[u8; KEY_BYTES],
    purpose: &Purpose,
    context: &[u8],
    salt: &[u8; SALT_BYTES],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let derived = Derived::new(key, purpose, context, salt)?;
    let mut sealed = Vec::with_capacity(OVERHEAD_BYTES.saturating_add(plaintext.len()));
    sealed.extend_from_slice(&[VERSION, SUITE]);
    sealed.extend_from_slice(salt);
    sealed.extend_from_slice(&derived.commitment);
    sealed.extend_from_slice(plaintext);
    let body = sealed.get_mut(HEADER_BYTES..).unwrap_or_default();
    let aad = associated_data(salt, context, &derived.commitment);
    let tag = derived.cipher().encrypt_inout_detached(&NONCE.into(), &aad, body.into());
    sealed.extend_from_slice(&tag.map_err(|_| SealError::TooLong)?);
    Ok(sealed)
}

/// Opens what [`close`] made with the same key, purpose and context.
pub(super) fn open(
    key: &[u8; KEY_BYTES],
    purpose: &Purpose,
    context: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, OpenError> {
    let parts = Parts::split(sealed).ok_or(OpenError)?;
    let derived = Derived::new(key, purpose, context, parts.salt).map_err(|_| OpenError)?;
    if !bool::from(derived.commitment.ct_eq(parts.commitment)) {
        return Err(OpenError);
    }
    let mut plaintext = parts.ciphertext.to_vec();
    let aad = associated_data(parts.salt, context, &derived.commitment);
    let tag = Tag::from(*parts.tag);
    let opened = derived.cipher().decrypt_inout_detached(&NONCE.into(), &aad, plaintext.as_mut_slice().into(), &tag);
    opened.map_err(|_| OpenError)?;
    Ok(plaintext)
}

/// The key is used once, so the nonce need not vary.
const NONCE: [u8; 12] = [0; 12];

fn associated_data(salt: &[u8], context: &[u8], commitment: &[u8]) -> Vec<u8> {
    [&[VERSION], salt, context, commitment].concat()
}

/// What is derived for one sealed text.
pub(super) struct Derived {
    pub(super) key: Zeroizing<[u8; KEY_BYTES]>,
    pub(super) commitment: [u8; COMMITMENT_BYTES],
}

impl Derived {
    pub(super) fn new(
        key: &[u8; KEY_BYTES],
        purpose: &Purpose,
        context: &[u8],
        salt: &[u8; SALT_BYTES],
    ) -> Result<Self, SealError> {
        let (mut prk, hkdf) = Hkdf::<Sha256>::extract(Some(salt), key);
        prk.as_mut_slice().zeroize();
        let context = Sha256::digest(context);
        let mut derived = Self { key: Zeroizing::new([0; KEY_BYTES]), commitment: [0; COMMITMENT_BYTES] };
        expand(&hkdf, &[purpose.key, &context], &mut derived.key)?;
        expand(&hkdf, &[purpose.commitment, &context], &mut derived.commitment)?;
        Ok(derived)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new((&*self.key).into())
    }
}

/// One block of output, which is never too long.
pub(super) fn expand(hkdf: &Hkdf<Sha256>, info: &[&[u8]], output: &mut [u8; 32]) -> Result<(), SealError> {
    hkdf.expand_multi_info(info, output).map_err(|_| SealError::TooLong)
}

/// A sealed text, taken apart.
struct Parts<'a> {
    salt: &'a [u8; SALT_BYTES],
    commitment: &'a [u8; COMMITMENT_BYTES],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Parts<'a> {
    fn split(sealed: &'a [u8]) -> Option<Self> {
        let (&[VERSION, SUITE], rest) = sealed.split_first_chunk()? else { return None };
        let (salt, rest) = rest.split_first_chunk()?;
        let (commitment, rest) = rest.split_first_chunk()?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        Some(Self { salt, commitment, ciphertext, tag })
    }
}
