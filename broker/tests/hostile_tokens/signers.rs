//! Keys of every algorithm, and what is signed with them, well-formed or not.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData as _,
};
use serde_json::{Value, json};

/// A key, its public half as a JWK, and the one algorithm that it is for.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: String,
    pub(crate) jwk: Value,
    /// The public key as it stands in a certificate.
    pub(crate) public_der: Vec<u8>,
    key: EncodingKey,
}

pub(crate) const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::ES256, Algorithm::EdDSA, Algorithm::ES384, Algorithm::RS256, Algorithm::PS256];

impl Signer {
    pub(crate) fn new(algorithm: Algorithm, kid: &str) -> Self {
        let kind = match algorithm {
            Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::ES384 => &PKCS_ECDSA_P384_SHA384,
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(kind).expect("a key");
        let mut jwk = parameters(algorithm, pair.der_bytes());
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk["alg"] = json!(name(algorithm));
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_der(pair.serialized_der()),
            Algorithm::EdDSA => EncodingKey::from_ed_der(pair.serialized_der()),
            _ => EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).expect("an RSA key"),
        };
        Self { algorithm, kid: kid.to_owned(), jwk, public_der: pair.subject_public_key_info(), key }
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": name(self.algorithm), "kid": self.kid, "typ": "at+jwt"})
    }

    /// Signs two segments as they are.
    pub(crate) fn sign_segments(&self, header: &str, payload: &str) -> String {
        let signed = format!("{header}.{payload}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, self.algorithm).expect("signed");
        format!("{signed}.{signature}")
    }

    /// Signs texts that need not be JSON.
    pub(crate) fn sign_text(&self, header: &[u8], payload: &[u8]) -> String {
        self.sign_segments(&encode(header), &encode(payload))
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    BASE64URL_NOPAD.encode(bytes)
}

pub(crate) fn key_set<'a>(signers: impl IntoIterator<Item = &'a Signer>) -> String {
    json!({"keys": signers.into_iter().map(|signer| &signer.jwk).collect::<Vec<_>>()}).to_string()
}

pub(crate) fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::EdDSA => "EdDSA",
        Algorithm::RS256 => "RS256",
        _ => "PS256",
    }
}

/// The public key of RSA is the DER of its modulus of 2048 bits and of 65537; that of a curve, a point of SEC 1.
fn parameters(algorithm: Algorithm, public: &[u8]) -> Value {
    match algorithm {
        Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(public)}),
        Algorithm::ES256 | Algorithm::ES384 => {
            let (x, y) = public[1..].split_at(public.len() / 2);
            let curve = if algorithm == Algorithm::ES256 { "P-256" } else { "P-384" };
            json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
        }
        _ => json!({"kty": "RSA", "n": encode(&public[9..265]), "e": "AQAB"}),
    }
}
