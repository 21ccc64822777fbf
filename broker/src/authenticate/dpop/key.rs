//! The public key in a proof's header, and its thumbprint.
//!
//! RSA is left out on purpose: whoever makes a proof also chooses the key, and with it how long its check takes. The
//! curves have one size each, and every client can make such a key.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::error::ProofError;
use crate::authenticate::keys::PRIVATE_MEMBERS;

/// A key that a proof shows, for the one algorithm of its curve.
pub(super) struct ProofKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
    /// SHA-256 of the key's required members (RFC 7638).
    pub(super) thumbprint: [u8; 32],
}

impl ProofKey {
    /// Takes the public key out of the header members `alg` and `jwk`.
    pub(super) fn from_header(header: &Map<String, Value>) -> Result<Self, ProofError> {
        let (algorithm, name) = match header.get("alg").and_then(Value::as_str) {
            Some("ES256") => (Algorithm::ES256, "ES256"),
            Some("ES384") => (Algorithm::ES384, "ES384"),
            Some("EdDSA") => (Algorithm::EdDSA, "EdDSA"),
            _ => return Err(ProofError::Algorithm),
        };
        let jwk = header.get("jwk").and_then(Value::as_object).ok_or(ProofError::Key)?;
        if PRIVATE_MEMBERS.iter().any(|member| jwk.contains_key(*member)) {
            return Err(ProofError::PrivateKey);
        }
        if jwk.get("alg").is_some_and(|alg| alg != name) {
            return Err(ProofError::Key);
        }
        let (key, canonical) = match algorithm {
            Algorithm::ES256 => elliptic(jwk, "P-256", 32)?,
            Algorithm::ES384 => elliptic(jwk, "P-384", 48)?,
            _ => edwards(jwk)?,
        };
        Ok(Self { algorithm, key, thumbprint: Sha256::digest(canonical.as_bytes()).into() })
    }
}

/// The key, and its members in the order and form of RFC 7638, section 3.
fn elliptic(jwk: &Map<String, Value>, curve: &str, length: usize) -> Result<(DecodingKey, String), ProofError> {
    check_kind(jwk, "EC", curve)?;
    let (x, y) = (coordinate(jwk, "x", length)?, coordinate(jwk, "y", length)?);
    let key = DecodingKey::from_ec_components(x, y).map_err(|_| ProofError::Key)?;
    Ok((key, format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#)))
}

fn edwards(jwk: &Map<String, Value>) -> Result<(DecodingKey, String), ProofError> {
    check_kind(jwk, "OKP", "Ed25519")?;
    let x = coordinate(jwk, "x", 32)?;
    let key = DecodingKey::from_ed_components(x).map_err(|_| ProofError::Key)?;
    Ok((key, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)))
}

fn check_kind(jwk: &Map<String, Value>, kind: &str, curve: &str) -> Result<(), ProofError> {
    let is = |name: &str, expected: &str| jwk.get(name).is_some_and(|value| value == expected);
    if is("kty", kind) && is("crv", curve) { Ok(()) } else { Err(ProofError::Key) }
}

/// In its one canonical form, so that the thumbprint cannot be had in two ways, and without anything to escape in JSON.
fn coordinate<'a>(jwk: &'a Map<String, Value>, name: &str, length: usize) -> Result<&'a str, ProofError> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or(ProofError::Key)?;
    match BASE64URL_NOPAD.decode(text.as_bytes()) {
        Ok(bytes) if bytes.len() == length => Ok(text),
        Ok(_) | Err(_) => Err(ProofError::Key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(header: Value) -> Result<String, ProofError> {
        let header = header.as_object().cloned().expect("an object");
        ProofKey::from_header(&header).map(|key| BASE64URL_NOPAD.encode(&key.thumbprint))
    }

    // RFC 9449, section 4.1, and RFC 8037, appendix A.2.
    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256",
            "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
            "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"})
    }

    fn ed() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk.as_object_mut().expect("an object").insert(name.to_owned(), value);
        jwk
    }

    #[test]
    fn thumbprints_are_those_of_the_standards() {
        // RFC 9449, section 6.1, and RFC 8037, appendix A.3.
        let expected = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        assert_eq!(read(json!({"alg": "ES256", "jwk": ec()})).as_deref(), Ok(expected));
        let named = with(with(ec(), "kid", json!("name")), "alg", json!("ES256"));
        assert_eq!(
            read(json!({"alg": "ES256", "jwk": named})).as_deref(),
            Ok(expected),
            "only what makes the key counts"
        );
        let expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
        assert_eq!(read(json!({"alg": "EdDSA", "jwk": ed()})).as_deref(), Ok(expected));
    }

    #[test]
    fn only_the_listed_algorithms_are_accepted() {
        for alg in
            [json!("none"), json!("HS256"), json!("RS256"), json!("ES512"), json!("es256"), json!(null), json!(1)]
        {
            assert_eq!(read(json!({"alg": alg, "jwk": ec()})), Err(ProofError::Algorithm), "{alg}");
        }
        assert_eq!(read(json!({"jwk": ec()})), Err(ProofError::Algorithm));
    }

    #[test]
    fn a_private_key_is_refused_whatever_else_it_is() {
        for member in PRIVATE_MEMBERS {
            let header = json!({"alg": "ES256", "jwk": with(ec(), member, json!("AAAA"))});
            assert_eq!(read(header), Err(ProofError::PrivateKey), "{member}");
        }
    }

    #[test]
    fn a_key_must_be_of_the_algorithms_own_kind_and_form() {
        for (alg, jwk) in [
            ("ES256", json!(null)),
            ("ES256", json!("key")),
            ("ES256", json!({})),
            ("ES256", ed()),
            ("ES384", ec()),
            ("EdDSA", ec()),
            ("ES256", with(ec(), "kty", json!("OKP"))),
            ("ES256", with(ec(), "crv", json!("P-384"))),
            ("ES256", with(ec(), "x", json!("AAAA"))),
            ("ES256", with(ec(), "y", json!(1))),
            ("ES256", with(ec(), "x", json!("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs="))),
            ("ES256", with(ec(), "x", json!("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFt"))),
            ("ES256", with(ec(), "alg", json!("ES384"))),
        ] {
            assert_eq!(read(json!({"alg": alg, "jwk": jwk})), Err(ProofError::Key), "{alg} {jwk}");
        }
        assert_eq!(read(json!({"alg": "ES256"})), Err(ProofError::Key));
    }
}
