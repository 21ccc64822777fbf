//! Which kinds of keys sign, and how they are made.

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{Jwk, PublicKeyUse},
};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _,
    RsaKeySize,
};

use super::IssueError;

/// A kind of key, with the one algorithm that it signs with (RFC 7518, section 3.1; RFC 8037, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// RSA, PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA, PSS with SHA-256.
    Ps256,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Es256, Self::Es384, Self::EdDsa, Self::Rs256, Self::Ps256];

    /// Its name in a token's header (`alg`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Makes a private key: PKCS #8, PEM. RSA keys have 3072 bits.
    ///
    /// # Errors
    /// [`IssueError::KeyGeneration`].
    pub fn generate_pem(self) -> Result<String, IssueError> {
        let key = match self {
            Self::Es256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::Es384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Self::EdDsa => KeyPair::generate_for(&PKCS_ED25519),
            Self::Rs256 | Self::Ps256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        };
        Ok(key.map_err(IssueError::KeyGeneration)?.serialize_pem())
    }

    /// The kind of a private key; an RSA key, which could sign with either, counts as [`KeyKind::Rs256`].
    pub(super) fn of(key: &KeyPair) -> Result<Self, IssueError> {
        [
            (&PKCS_ECDSA_P256_SHA256, Self::Es256),
            (&PKCS_ECDSA_P384_SHA384, Self::Es384),
            (&PKCS_ED25519, Self::EdDsa),
            (&PKCS_RSA_SHA256, Self::Rs256),
        ]
        .into_iter()
        .find_map(|(algorithm, kind)| key.is_compatible(algorithm).then_some(kind))
        .ok_or(IssueError::UnsupportedKey)
    }

    /// Whether a key of the kind `found` can sign as this one.
    pub(super) fn takes(self, found: Self) -> bool {
        found == self || (found, self) == (Self::Rs256, Self::Ps256)
    }

    pub(super) const fn algorithm(self) -> Algorithm {
        match self {
            Self::Es256 => Algorithm::ES256,
            Self::Es384 => Algorithm::ES384,
            Self::EdDsa => Algorithm::EdDSA,
            Self::Rs256 => Algorithm::RS256,
            Self::Ps256 => Algorithm::PS256,
        }
    }

    pub(super) fn encoding_key(self, pem: &str, key: &KeyPair) -> Result<EncodingKey, IssueError> {
        Ok(match self {
            Self::Es256 | Self::Es384 => EncodingKey::from_ec_der(key.serialized_der()),
            Self::EdDsa => EncodingKey::from_ed_der(key.serialized_der()),
            // In a form of its own inside PKCS #8.
            Self::Rs256 | Self::Ps256 => EncodingKey::from_rsa_pem(pem.as_bytes())?,
        })
    }

    /// The public key, without a key id.
    pub(super) fn public_key(self, signing: &EncodingKey, key: &KeyPair) -> Result<Jwk, IssueError> {
        let mut jwk = match self {
            // The other way does not know the form that holds both halves (RFC 8410, section 7).
            Self::EdDsa => Jwk::from_decoding_key(&DecodingKey::from_ed_der(key.der_bytes()), Some(self.algorithm()))?,
            _ => Jwk::from_encoding_key(signing, self.algorithm())?,
        };
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(jwk)
    }
}
