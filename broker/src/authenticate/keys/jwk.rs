//! One public key of a set, bound to the one algorithm that it verifies (RFC 8725, section 3.1).

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, LazyLock},
};

use data_encoding::{BASE64URL_NOPAD, Encoding};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    algorithm::{Algorithms, SignatureAlgorithm},
    skipped::{KEY_ID_SHOWN_BYTES_MAX, SkipReason},
    standing::KeyStanding,
};
use crate::authenticate::{error::TokenError, shown::shown, token::Jws};

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

    pub(super) const fn material(&self) -> &[u8; 32] {
        &self.material
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

/// Members that only a private or symmetric key has (RFC 7518, section 6).
pub(in crate::authenticate) const PRIVATE_MEMBERS: [&str; 8] = ["d", "k", "p", "q", "dp", "dq", "qi", "oth"];

/// By what a token finds its key: two keys of one `kid` are told apart by what they verify.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct KeyName {
    /// `None` for the only key of a set.
    pub(super) kid: Option<String>,
    pub(super) algorithm: SignatureAlgorithm,
}

/// For logs: the `kid`, escaped and cut.
impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.kid.as_deref().unwrap_or_default(), KEY_ID_SHOWN_BYTES_MAX))
    }
}

/// Public parts of keys whose private part stands beside it, in any entry of a set.
#[derive(Debug)]
pub(super) struct ExposedKeys(HashSet<Vec<u8>>);

impl ExposedKeys {
    pub(super) fn among(entries: &[Value]) -> Self {
        let exposed = entries.iter().filter_map(Value::as_object).filter(|jwk| is_private(jwk));
        Self(exposed.flat_map(public_parts).collect())
    }

    fn include(&self, jwk: &Map<String, Value>) -> bool {
        public_parts(jwk).any(|part| self.0.contains(&part))
    }
}

fn is_private(jwk: &Map<String, Value>) -> bool {
    PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member))
}

/// The numbers that say whose private part it is, however they are written: the modulus, since its factors serve any
/// exponent, and `x` alone, since the point opposite has the opposite secret.
fn public_parts(jwk: &Map<String, Value>) -> impl Iterator<Item = Vec<u8>> {
    ["n", "x"].into_iter().filter_map(|name| {
        let text = text(jwk, name)?.replace('+', "-").replace('/', "_");
        let bytes = LENIENT.decode(text.trim_end_matches('=').as_bytes()).ok()?;
        let number: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
        Some(number).filter(|number| !number.is_empty())
    })
}

/// As others read base64url.
static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64URL_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification.ignore.push_str(" \r\n\t");
    specification.encoding().unwrap_or(BASE64URL_NOPAD)
});

/// The name and the key; `None` for a key that is for something else than we do.
///
/// # Errors
/// Why the entry does not count.
pub(super) fn read(
    jwk: &Map<String, Value>,
    allowed: &Algorithms,
    exposed: &ExposedKeys,
) -> Result<Option<(KeyName, VerificationKey)>, SkipReason> {
    if is_private(jwk) {
        return Err(SkipReason::Private);
    }
    if exposed.include(jwk) {
        return Err(SkipReason::PrivateElsewhere);
    }
    if text(jwk, "kty").is_none() {
        return Err(SkipReason::NoType);
    }
    let Some(algorithm) = algorithm(jwk, allowed) else { return Ok(None) };
    let for_signatures = jwk.get("use").is_none_or(|usage| usage == "sig");
    if !for_signatures || !may_verify(jwk) || !allowed.allow(algorithm) {
        return Ok(None);
    }
    let kid = key_id(jwk)?;
    let key = decoding_key(jwk, algorithm)?;
    let material = material(jwk, algorithm);
    let standing = Arc::new(KeyStanding::lasting());
    Ok(Some((KeyName { kid, algorithm }, VerificationKey { algorithm, key, standing, material })))
}

fn key_id(jwk: &Map<String, Value>) -> Result<Option<String>, SkipReason> {
    match jwk.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) => Ok(Some(kid.clone()).filter(|kid| !kid.is_empty())),
        Some(_) => Err(SkipReason::KeyId),
    }
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
        Some(name) => SignatureAlgorithm::from_name(name.as_str()?).filter(|named| possible.contains(named)),
    }
}

fn may_verify(jwk: &Map<String, Value>) -> bool {
    jwk.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")))
}

fn decoding_key(jwk: &Map<String, Value>, algorithm: SignatureAlgorithm) -> Result<DecodingKey, SkipReason> {
    match algorithm {
        SignatureAlgorithm::Es256 => curve_point(jwk, 32),
        SignatureAlgorithm::Es384 => curve_point(jwk, 48),
        SignatureAlgorithm::EdDsa => {
            let x = coordinate(jwk, "x", 32).ok_or(SkipReason::Invalid(BAD_X))?;
            DecodingKey::from_ed_components(x).map_err(|_| SkipReason::Invalid(BAD_X))
        }
        SignatureAlgorithm::Rs256 | SignatureAlgorithm::Ps256 => rsa(jwk),
    }
}

const BAD_X: &str = "its `x` is missing, or not as many bytes in base64url as its curve takes";
const BAD_Y: &str = "its `y` is missing, or not as many bytes in base64url as its curve takes";

/// Coordinates have the curve's full length (RFC 7518, section 6.2.1.2; RFC 8037, section 2).
fn curve_point(jwk: &Map<String, Value>, bytes: usize) -> Result<DecodingKey, SkipReason> {
    let x = coordinate(jwk, "x", bytes).ok_or(SkipReason::Invalid(BAD_X))?;
    let y = coordinate(jwk, "y", bytes).ok_or(SkipReason::Invalid(BAD_Y))?;
    DecodingKey::from_ec_components(x, y).map_err(|_| SkipReason::Invalid(BAD_X))
}

fn coordinate<'a>(jwk: &'a Map<String, Value>, name: &str, bytes: usize) -> Option<&'a str> {
    let text = text(jwk, name)?;
    (decode(text)?.len() == bytes).then_some(text)
}

/// Both numbers in their shortest form (RFC 7518, section 6.3.1), the modulus odd and of a sane size.
fn rsa(jwk: &Map<String, Value>) -> Result<DecodingKey, SkipReason> {
    let number = |name| text(jwk, name).and_then(decode).filter(|bytes| !bytes.is_empty());
    let modulus = number("n").ok_or(SkipReason::Invalid("its `n` is missing, or not base64url"))?;
    let exponent = number("e").ok_or(SkipReason::Invalid("its `e` is missing, or not base64url"))?;
    check_modulus(&modulus)?;
    if !is_sane_exponent(&exponent) {
        return Err(SkipReason::Invalid("its `e` is even, less than 65537, longer than 4 bytes, or begins with zeros"));
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn check_modulus(bytes: &[u8]) -> Result<(), SkipReason> {
    let zero_bits = bytes.first().map_or(8, |byte| byte.leading_zeros());
    if zero_bits == 8 {
        return Err(SkipReason::Invalid("its `n` begins with zeros"));
    }
    if !RSA_MODULUS_BITS.contains(&(bytes.len() * 8).saturating_sub(zero_bits as usize)) {
        return Err(SkipReason::Invalid("its `n` has fewer than 2048 or more than 8192 bits"));
    }
    if bytes.last().is_none_or(|byte| byte & 1 == 0) { Err(SkipReason::Invalid("its `n` is even")) } else { Ok(()) }
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

    fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<Option<SignatureAlgorithm>, SkipReason> {
        let [n, e] = [modulus, exponent].map(|number| BASE64URL_NOPAD.encode(number));
        let jwk = json!({"kid": "k", "kty": "RSA", "n": n, "e": e});
        let members = jwk.as_object().expect("an object");
        read(members, &Algorithms::default(), &ExposedKeys::among(&[])).map(|found| found.map(|(_, key)| key.algorithm))
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
        assert_eq!(rsa_key(&even, &E), Err(SkipReason::Invalid("its `n` is even")));
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
            let members = jwk.as_object().expect("an object");
            let found = read(members, &Algorithms::default(), &ExposedKeys::among(&[]));
            assert!(matches!(found, Ok(None)), "{jwk}");
        }
    }
}
