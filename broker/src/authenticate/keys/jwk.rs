//! One public key of a set, bound to the one algorithm that it verifies (RFC 8725, section 3.1).

use std::{fmt, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    algorithm::{Algorithms, SignatureAlgorithm},
    standing::KeyStanding,
};
use crate::authenticate::{
    error::{KeySetError, TokenError},
    token::Jws,
};

/// The smallest and largest RSA modulus, in bits: NIST SP 800-131A, and what our cryptography library verifies.
const RSA_MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The least RSA public exponent (FIPS 186-5, section 5.4), and the most bytes of one, so that its cost is bounded.
const RSA_EXPONENT_MIN: u64 = 65_537;
const RSA_EXPONENT_BYTES_MAX: usize = 4;

/// A public key, the algorithm that it verifies, and until when it counts.
pub(in crate::authenticate) struct VerificationKey {
    algorithm: SignatureAlgorithm,
    key: DecodingKey,
    pub(in crate::authenticate) standing: Arc<KeyStanding>,
    /// SHA-256 of algorithm and parameters: whether a key under the same name is the same key.
    material: [u8; 32],
}

impl VerificationKey {
    /// Whether this key made the token's signature, by its own algorithm.
    ///
    /// # Errors
    /// [`TokenError::KeyAlgorithmMismatch`], [`TokenError::Signature`].
    pub(in crate::authenticate) fn check_signature(&self, jws: &Jws<'_>) -> Result<(), TokenError> {
        if jws.algorithm != self.algorithm {
            return Err(TokenError::KeyAlgorithmMismatch);
        }
        let signed = jws.signing_input.as_bytes();
        match jsonwebtoken::crypto::verify(jws.signature, signed, &self.key, self.algorithm.jws()) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(TokenError::Signature),
        }
    }

    pub(super) fn is_the_same_as(&self, other: &Self) -> bool {
        self.material == other.material
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// The name and the key; `None` for a key that is for something else than we do.
pub(super) fn read(
    jwk: &Map<String, Value>,
    allowed: &Algorithms,
) -> Result<Option<(String, VerificationKey)>, KeySetError> {
    let kid = text(jwk, "kid").unwrap_or_default().to_owned();
    if ["d", "k", "p", "q"].iter().any(|secret| jwk.contains_key(*secret)) {
        return Err(KeySetError::Private(kid));
    }
    let Some(algorithm) = algorithm(jwk, allowed) else { return Ok(None) };
    let for_signatures = jwk.get("use").is_none_or(|usage| usage == "sig");
    if kid.is_empty() || !for_signatures || !may_verify(jwk) || !allowed.allow(algorithm) {
        return Ok(None);
    }
    let key = decoding_key(jwk, algorithm).ok_or_else(|| KeySetError::Invalid(kid.clone()))?;
    let material = material(jwk, algorithm);
    let standing = Arc::new(KeyStanding::lasting());
    Ok(Some((kid, VerificationKey { algorithm, key, standing, material })))
}

/// The one algorithm of a key. An RSA key could do two: it is for the one that its `alg` names; without `alg` for RS256,
/// unless the issuer may sign with PS256 and not with RS256.
fn algorithm(jwk: &Map<String, Value>, allowed: &Algorithms) -> Option<SignatureAlgorithm> {
    use SignatureAlgorithm::{EdDsa, Es256, Es384, Ps256, Rs256};
    let possible: &[SignatureAlgorithm] = match (text(jwk, "kty")?, text(jwk, "crv")) {
        ("EC", Some("P-256")) => &[Es256],
        ("EC", Some("P-384")) => &[Es384],
        ("OKP", Some("Ed25519")) => &[EdDsa],
        ("RSA", None) if allowed.allow(Ps256) && !allowed.allow(Rs256) => &[Ps256, Rs256],
        ("RSA", None) => &[Rs256, Ps256],
        _ => return None,
    };
    match jwk.get("alg") {
        None => possible.first().copied(),
        Some(name) => possible.iter().copied().find(|one| name == one.name()),
    }
}

fn may_verify(jwk: &Map<String, Value>) -> bool {
    jwk.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")))
}

fn decoding_key(jwk: &Map<String, Value>, algorithm: SignatureAlgorithm) -> Option<DecodingKey> {
    match algorithm {
        SignatureAlgorithm::Es256 => curve_point(jwk, 32),
        SignatureAlgorithm::Es384 => curve_point(jwk, 48),
        SignatureAlgorithm::EdDsa => DecodingKey::from_ed_components(coordinate(jwk, "x", 32)?).ok(),
        SignatureAlgorithm::Rs256 | SignatureAlgorithm::Ps256 => rsa(jwk),
    }
}

/// Coordinates have the curve's full length (RFC 7518, section 6.2.1.2; RFC 8037, section 2).
fn curve_point(jwk: &Map<String, Value>, bytes: usize) -> Option<DecodingKey> {
    DecodingKey::from_ec_components(coordinate(jwk, "x", bytes)?, coordinate(jwk, "y", bytes)?).ok()
}

fn coordinate<'a>(jwk: &'a Map<String, Value>, name: &str, bytes: usize) -> Option<&'a str> {
    let text = text(jwk, name)?;
    (decode(text)?.len() == bytes).then_some(text)
}

/// Both numbers in their shortest form (RFC 7518, section 6.3.1), the modulus odd and of a sane size.
fn rsa(jwk: &Map<String, Value>) -> Option<DecodingKey> {
    let (modulus, exponent) = (decode(text(jwk, "n")?)?, decode(text(jwk, "e")?)?);
    let leading_zeros = usize::try_from(modulus.first()?.leading_zeros()).ok()?;
    let has_size = leading_zeros < 8 && RSA_MODULUS_BITS.contains(&(modulus.len() * 8 - leading_zeros));
    let is_odd = modulus.last()? & 1 == 1;
    if !has_size || !is_odd || !is_sane_exponent(&exponent) {
        return None;
    }
    Some(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn is_sane_exponent(bytes: &[u8]) -> bool {
    if bytes.len() > RSA_EXPONENT_BYTES_MAX || bytes.first() == Some(&0) {
        return false;
    }
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    value >= RSA_EXPONENT_MIN && value & 1 == 1
}

fn material(jwk: &Map<String, Value>, algorithm: SignatureAlgorithm) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(algorithm.name());
    for name in ["x", "y", "n", "e"] {
        digest.update([0]);
        digest.update(text(jwk, name).unwrap_or_default());
    }
    digest.finalize().into()
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    jwk.get(name).and_then(Value::as_str)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()
}
