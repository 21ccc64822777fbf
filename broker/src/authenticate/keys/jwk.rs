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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<Option<SignatureAlgorithm>, KeySetError> {
        let [n, e] = [modulus, exponent].map(|number| BASE64URL_NOPAD.encode(number));
        let jwk = json!({"kid": "k", "kty": "RSA", "n": n, "e": e});
        let members = jwk.as_object().expect("an object");
        read(members, &Algorithms::default()).map(|found| found.map(|(_, key)| key.algorithm))
    }

    fn modulus(bits: usize) -> Vec<u8> {
        let mut bytes = vec![0x55; bits.div_ceil(8)];
        bytes[0] = if bits.is_multiple_of(8) { 0x80 } else { (1 << (bits % 8)) >> 1 };
        bytes
    }

    const E: [u8; 3] = [1, 0, 1];

    #[test]
    fn an_rsa_key_is_neither_weak_nor_too_much_work() {
        for (bits, is_accepted) in
            [(1024, false), (2047, false), (2048, true), (2049, true), (4096, true), (8192, true), (8193, false)]
        {
            assert_eq!(rsa_key(&modulus(bits), &E).is_ok(), is_accepted, "{bits}");
        }
        let even = [&modulus(2048)[..255], &[0x54]].concat();
        assert_eq!(rsa_key(&even, &E), Err(KeySetError::Invalid("k".to_owned())));
        assert!(rsa_key(&[&[0][..], &modulus(2048)].concat(), &E).is_err(), "not its shortest form");
        assert!(rsa_key(&[], &E).is_err());
    }

    #[test]
    fn an_rsa_exponent_is_odd_and_neither_small_nor_huge() {
        for (exponent, is_accepted) in [
            (&[1, 0, 1][..], true),
            (&[1, 0, 3], true),
            (&[255, 255, 255, 255], true),
            (&[], false),
            (&[0], false),
            (&[1], false),
            (&[3], false),
            (&[255, 255], false),
            (&[1, 0, 2], false),
            (&[0, 1, 0, 1], false),
            (&[1, 0, 0, 0, 1], false),
        ] {
            assert_eq!(rsa_key(&modulus(2048), exponent).is_ok(), is_accepted, "{exponent:?}");
        }
    }

    #[test]
    fn a_key_whose_alg_is_not_of_its_kind_is_passed_over() {
        for (kty, crv, alg) in [
            ("EC", Some("P-256"), json!("ES384")),
            ("EC", Some("P-384"), json!("ES256")),
            ("OKP", Some("Ed25519"), json!("ES256")),
            ("RSA", None, json!("RS512")),
            ("RSA", None, json!("HS256")),
            ("RSA", None, json!("RSA-OAEP")),
            ("RSA", None, json!(1)),
            ("RSA", Some("P-256"), json!("RS256")),
        ] {
            let jwk = json!({"kid": "k", "kty": kty, "crv": crv, "alg": alg});
            assert!(matches!(read(jwk.as_object().expect("an object"), &Algorithms::default()), Ok(None)), "{jwk}");
        }
    }
}
