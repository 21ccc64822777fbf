//! A client that holds a key and makes DPoP proofs (RFC 9449) with it, good and bad ones.

use anyhow::{Context as _, Result};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Request;
use veribus_broker::issue::{KeyKind, TokenIssuer};

/// Where the broker is told to be.
pub const PUBLIC_URL: &str = "https://broker.example:7443";

/// Who holds a key.
pub struct Prover {
    key: EncodingKey,
    jwk: Value,
    thumbprint: String,
}

impl Prover {
    /// With a new ECDSA key.
    ///
    /// # Errors
    /// Where none can be made.
    pub fn new() -> Result<Self> {
        let pem = KeyKind::Es256.generate_pem()?;
        // Its public form and its thumbprint, as an issuer would publish them.
        let issuer = TokenIssuer::from_pem("i", "a", &pem)?;
        let set: Value = serde_json::from_str(issuer.jwks())?;
        let jwk = set.pointer("/keys/0").cloned().context("a key")?;
        Ok(Self { key: EncodingKey::from_ec_pem(pem.as_bytes())?, jwk, thumbprint: issuer.key_id().to_owned() })
    }

    /// As `jkt` names it.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Claims that are right for a token presented to a method at a second.
    #[must_use]
    pub fn claims(token: &str, method: &str, now: i64) -> Value {
        let ath = BASE64URL_NOPAD.encode(&Sha256::digest(token));
        let id = uuid::Uuid::now_v7().to_string();
        json!({ "jti": id, "htm": "POST", "htu": format!("{PUBLIC_URL}{method}"), "iat": now, "ath": ath })
    }

    /// Signs claims, whatever they say.
    ///
    /// # Errors
    /// Where they cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk });
        let encode = |part: &Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let signing_input = format!("{}.{}", encode(&header), encode(claims));
        let signature = jsonwebtoken::crypto::sign(signing_input.as_bytes(), &self.key, Algorithm::ES256)?;
        Ok(format!("{signing_input}.{signature}"))
    }
}

/// A request with a token under a scheme, and as many proofs as there are.
///
/// # Errors
/// Where they cannot be sent at all.
pub fn request<T>(message: T, scheme: &str, token: &str, proofs: &[&str]) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("{scheme} {token}").parse()?);
    for proof in proofs {
        request.metadata_mut().append("dpop", proof.parse()?);
    }
    Ok(request)
}
