//! An issuer's public keys, from a JWK Set (RFC 7517). Each key is bound to one algorithm.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::{error::KeySetError, strict_json};

/// A public key and the one algorithm that it verifies.
pub(super) struct VerificationKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// An issuer's signature keys by `kid`.
pub struct KeySet(HashMap<String, VerificationKey>);

impl KeySet {
    /// How many keys a set may hold.
    pub const KEYS_MAX: usize = 64;
    /// The largest set read, in bytes.
    pub const BYTES_MAX: usize = 256 * 1024;

    /// Reads a JWK Set. Keys for encryption, without a `kid`, or of kinds that are not verified here are passed over.
    ///
    /// # Errors
    /// [`KeySetError`]; also where a key is private, since then it is known to too many.
    pub fn from_json(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(KeySetError::TooLarge { max: Self::BYTES_MAX });
        }
        let document = strict_json::parse(bytes).map_err(|_| KeySetError::NotStrictJson)?;
        let listed = document.get("keys").and_then(Value::as_array).ok_or(KeySetError::NoKeys)?;
        if listed.len() > Self::KEYS_MAX {
            return Err(KeySetError::TooMany { max: Self::KEYS_MAX });
        }
        let mut keys = HashMap::new();
        for jwk in listed {
            let jwk = jwk.as_object().ok_or(KeySetError::NoKeys)?;
            if let Some((kid, key)) = verification_key(jwk)?
                && keys.insert(kid.clone(), key).is_some()
            {
                return Err(KeySetError::DuplicateKeyId(kid));
            }
        }
        if keys.is_empty() { Err(KeySetError::NoUsableKey) } else { Ok(Self(keys)) }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none; a set that was read holds one at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn find(&self, key_id: &str) -> Option<&VerificationKey> {
        self.0.get(key_id)
    }
}

fn verification_key(jwk: &Map<String, Value>) -> Result<Option<(String, VerificationKey)>, KeySetError> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let kid = text("kid").unwrap_or_default().to_owned();
    if ["d", "k", "p", "q"].iter().any(|secret| jwk.contains_key(*secret)) {
        return Err(KeySetError::Private(kid));
    }
    let (algorithm, name) = match (text("kty"), text("crv")) {
        (Some("EC"), Some("P-256")) => (Algorithm::ES256, "ES256"),
        (Some("OKP"), Some("Ed25519")) => (Algorithm::EdDSA, "EdDSA"),
        _ => return Ok(None),
    };
    let for_signatures = jwk.get("use").is_none_or(|usage| usage == "sig");
    let for_this_algorithm = jwk.get("alg").is_none_or(|alg| alg == name);
    if kid.is_empty() || !for_signatures || !for_this_algorithm || !may_verify(jwk) {
        return Ok(None);
    }
    let invalid = || KeySetError::Invalid(kid.clone());
    let key = match algorithm {
        Algorithm::ES256 => DecodingKey::from_ec_components(
            coordinate(text("x")).ok_or_else(invalid)?,
            coordinate(text("y")).ok_or_else(invalid)?,
        ),
        _ => DecodingKey::from_ed_components(coordinate(text("x")).ok_or_else(invalid)?),
    };
    let key = key.map_err(|_| invalid())?;
    Ok(Some((kid, VerificationKey { algorithm, key })))
}

fn may_verify(jwk: &Map<String, Value>) -> bool {
    jwk.get("key_ops").is_none_or(|ops| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")))
}

/// Both curves have coordinates of 32 bytes (RFC 7518, section 6.2.1.2; RFC 8037, section 2).
fn coordinate(text: Option<&str>) -> Option<&str> {
    let text = text?;
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    (bytes.len() == 32).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7515, appendix A.3.1, and RFC 8037, appendix A.2.
    const EC: &str = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const ED: &str = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;

    fn read(keys: &[String]) -> Result<usize, KeySetError> {
        KeySet::from_json(format!(r#"{{"keys":[{}]}}"#, keys.join(",")).as_bytes()).map(|set| set.len())
    }

    #[test]
    fn keys_of_both_kinds_are_read() {
        assert_eq!(read(&[format!(r#"{{"kid":"a",{EC}}}"#), format!(r#"{{"kid":"b","use":"sig",{ED}}}"#)]), Ok(2));
    }

    #[test]
    fn keys_for_something_else_are_passed_over() {
        for other in [
            format!(r#"{{{EC}}}"#),
            format!(r#"{{"kid":"a","use":"enc",{EC}}}"#),
            format!(r#"{{"kid":"a","alg":"ES384",{EC}}}"#),
            format!(r#"{{"kid":"a","key_ops":["sign"],{EC}}}"#),
            r#"{"kid":"a","kty":"RSA","n":"AQAB","e":"AQAB"}"#.to_owned(),
        ] {
            assert_eq!(read(std::slice::from_ref(&other)), Err(KeySetError::NoUsableKey), "{other}");
        }
    }

    #[test]
    fn a_private_key_or_a_repeated_name_spoils_the_set() {
        let private = format!(r#"{{"kid":"a","d":"x",{EC}}}"#);
        assert_eq!(read(&[private]), Err(KeySetError::Private("a".to_owned())));
        let secret = r#"{"kid":"a","kty":"oct","k":"x"}"#.to_owned();
        assert_eq!(read(&[secret]), Err(KeySetError::Private("a".to_owned())));
        let twice = format!(r#"{{"kid":"a",{EC}}}"#);
        assert_eq!(read(&[twice.clone(), twice]), Err(KeySetError::DuplicateKeyId("a".to_owned())));
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        assert_eq!(KeySet::from_json(b"").err(), Some(KeySetError::NotStrictJson));
        assert_eq!(KeySet::from_json(b"{}").err(), Some(KeySetError::NoKeys));
        assert_eq!(read(&[]), Err(KeySetError::NoUsableKey));
        assert_eq!(read(&vec!["{}".to_owned(); KeySet::KEYS_MAX + 1]), Err(KeySetError::TooMany { max: 64 }));
        let short = r#"{"kid":"a","kty":"OKP","crv":"Ed25519","x":"AAAA"}"#.to_owned();
        assert_eq!(read(&[short]), Err(KeySetError::Invalid("a".to_owned())));
    }
}
