//! The root key: it wraps the keys of the scopes and nothing else.

use std::fmt;

use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use rand::{TryRng as _, rngs::SysRng};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    envelope::{self, KEY_BYTES, OpenError, SALT_BYTES, SUITE, SealError, VERSION, WRAP},
    key::{ScopeKey, Secret},
};
use crate::model::{Epoch, Scope};

/// Tells root keys apart without betraying them: 16 hexadecimal characters, derived from the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootKeyId(Box<str>);

impl RootKeyId {
    const LEN_BYTES: usize = 16;

    /// Parses one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == Self::LEN_BYTES && text.bytes().all(is_lower_hex)).then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which key is wrapped. It unwraps as that one and as no other.
#[derive(Debug, Clone, Copy)]
pub struct WrapContext<'a> {
    /// The scope.
    pub scope: &'a Scope,
    /// Which key of the scope.
    pub epoch: Epoch,
}

/// Wraps the keys of scopes: from a file today, behind a key management service another day.
pub trait RootKey: Send + Sync {
    /// Which root key this is.
    fn id(&self) -> &RootKeyId;

    /// Wraps a key.
    ///
    /// # Errors
    /// [`SealError`].
    fn wrap(&self, context: &WrapContext<'_>, key: &ScopeKey) -> Result<Vec<u8>, SealError>;

    /// Unwraps what [`RootKey::wrap`] of this root key made for this context.
    ///
    /// # Errors
    /// [`OpenError`] for everything else.
    fn unwrap(&self, context: &WrapContext<'_>, wrapped: &[u8]) -> Result<ScopeKey, OpenError>;
}

/// A root key in the memory of this process.
pub(super) struct LocalRootKey {
    id: RootKeyId,
    secret: Secret,
}

impl LocalRootKey {
    pub(super) fn generate() -> Result<Self, SealError> {
        Secret::generate().and_then(Self::new)
    }

    pub(super) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, SealError> {
        Self::new(Secret::from_bytes(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        self.secret.bytes()
    }

    fn new(secret: Secret) -> Result<Self, SealError> {
        let mut block = [0; 32];
        envelope::expand(&Hkdf::<Sha256>::new(None, secret.bytes()), &[b"veribus/1/root-key-id"], &mut block)?;
        let mut text = HEXLOWER.encode(&block);
        text.truncate(RootKeyId::LEN_BYTES);
        Ok(Self { id: RootKeyId(text.into()), secret })
    }

    fn encode(&self, context: &WrapContext<'_>) -> Result<Vec<u8>, SealError> {
        envelope::length_prefixed(&[
            &u64::from(VERSION).to_be_bytes(),
            &u64::from(SUITE).to_be_bytes(),
            self.id.as_str().as_bytes(),
            context.scope.as_str().as_bytes(),
            &u64::from(context.epoch.0).to_be_bytes(),
        ])
    }
}

impl RootKey for LocalRootKey {
    fn id(&self) -> &RootKeyId {
        &self.id
    }

    fn wrap(&self, context: &WrapContext<'_>, key: &ScopeKey) -> Result<Vec<u8>, SealError> {
        let mut salt = [0; SALT_BYTES];
        SysRng.try_fill_bytes(&mut salt).map_err(|_| SealError::Random)?;
        envelope::close(self.secret.bytes(), &WRAP, &self.encode(context)?, &salt, key.bytes())
    }

    fn unwrap(&self, context: &WrapContext<'_>, wrapped: &[u8]) -> Result<ScopeKey, OpenError> {
        let context = self.encode(context).map_err(|_| OpenError)?;
        let bytes = Zeroizing::new(envelope::open(self.secret.bytes(), &WRAP, &context, wrapped)?);
        bytes.as_array().map(ScopeKey::from_bytes).ok_or(OpenError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_root_key_wrapped_unwraps_with_it_and_in_its_place_only() {
        let (root, other) = (LocalRootKey::generate().expect("a key"), LocalRootKey::generate().expect("a key"));
        let [tickets, finance] = ["tickets", "finance"].map(|name| Scope::parse(name).expect("a scope"));
        let place = WrapContext { scope: &tickets, epoch: Epoch(1) };
        let key = ScopeKey::generate().expect("a key");
        let wrapped = root.wrap(&place, &key).expect("wrapped");
        let same = LocalRootKey::from_bytes(root.bytes()).expect("the key");
        assert_eq!(same.unwrap(&place, &wrapped).expect("unwrapped").bytes(), key.bytes());
        assert!(other.unwrap(&place, &wrapped).is_err(), "another root key");
        assert!(root.unwrap(&WrapContext { epoch: Epoch(2), ..place }, &wrapped).is_err(), "another epoch");
        assert!(root.unwrap(&WrapContext { scope: &finance, ..place }, &wrapped).is_err(), "another scope");
        assert_ne!(root.wrap(&place, &key).expect("wrapped"), wrapped);
    }

    #[test]
    fn a_wrapped_key_that_is_cut_off_or_has_a_bit_flipped_does_not_unwrap() {
        let (root, key) = (LocalRootKey::generate().expect("a key"), ScopeKey::generate().expect("a key"));
        let scope = Scope::parse("tickets").expect("a scope");
        let place = WrapContext { scope: &scope, epoch: Epoch(1) };
        let mut wrapped = root.wrap(&place, &key).expect("wrapped");
        for len in 0..wrapped.len() {
            assert!(root.unwrap(&place, &wrapped[..len]).is_err(), "cut to {len}");
        }
        for bit in 0..wrapped.len() * 8 {
            wrapped[bit / 8] ^= 1 << (bit % 8);
            assert!(root.unwrap(&place, &wrapped).is_err(), "bit {bit}");
            wrapped[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(root.unwrap(&place, &wrapped).is_ok());
    }

    /// The id is told to everybody. It comes from the key by a label of its own, and the wrapping keys by others.
    #[test]
    fn an_id_is_sixteen_characters_and_the_same_for_the_same_key() {
        let root = LocalRootKey::from_bytes(&[7; 32]).expect("a key");
        assert_eq!(root.id().as_str(), "7ce1ff7f342ad287");
        assert_eq!(RootKeyId::parse(root.id().as_str()).as_ref(), Some(root.id()));
        assert_ne!(LocalRootKey::from_bytes(&[8; 32]).expect("a key").id(), root.id());
        for text in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF", "0123456789abcde/"] {
            assert_eq!(RootKeyId::parse(text), None, "{text:?}");
        }
    }
}
