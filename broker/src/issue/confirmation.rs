//! What binds a token to its holder: the claim `cnf` (RFC 7800).

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, ThumbprintHash};
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Why something cannot be what a token is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfirmationError {
    /// No certificate.
    #[error("there is no X.509 certificate in PEM form")]
    NotACertificate,
    /// No key.
    #[error("it is not a JSON Web Key of a kind that can be named by a thumbprint")]
    NotAKey,
    /// A key that only its holder may know.
    #[error("it holds a private or symmetric key: give the public key only")]
    Secret,
}

/// Whom a token is bound to, besides its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// The holder of a client certificate, by its SHA-256, `x5t#S256` (RFC 8705, section 3.1).
    Certificate(String),
    /// The holder of a key that proves possession, by its thumbprint, `jkt` (RFC 9449, section 6.1).
    Key(String),
}

impl Confirmation {
    /// By the first certificate in PEM text.
    ///
    /// # Errors
    /// [`ConfirmationError::NotACertificate`].
    pub fn of_certificate(pem: &[u8]) -> Result<Self, ConfirmationError> {
        let not_one = || ConfirmationError::NotACertificate;
        let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| not_one())?;
        ParsedCertificate::try_from(&certificate).map_err(|_| not_one())?;
        Ok(Self::Certificate(BASE64URL_NOPAD.encode(&Sha256::digest(&certificate))))
    }

    /// By a public key, a JSON Web Key (RFC 7517).
    ///
    /// # Errors
    /// [`ConfirmationError::NotAKey`], [`ConfirmationError::Secret`].
    pub fn of_jwk(json: &[u8]) -> Result<Self, ConfirmationError> {
        let members: Map<String, Value> = serde_json::from_slice(json).map_err(|_| ConfirmationError::NotAKey)?;
        let jwk: Jwk = serde_json::from_slice(json).map_err(|_| ConfirmationError::NotAKey)?;
        if members.contains_key("d") || matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_)) {
            return Err(ConfirmationError::Secret);
        }
        jwk.thumbprint(ThumbprintHash::SHA256).map(Self::Key).map_err(|_| ConfirmationError::NotAKey)
    }

    /// The claim.
    #[must_use]
    pub fn to_claim(&self) -> Value {
        match self {
            Self::Certificate(sha256) => json!({ "x5t#S256": sha256 }),
            Self::Key(thumbprint) => json!({ "jkt": thumbprint }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_named_by_the_sha_256_of_its_der_form() {
        let certified = rcgen::generate_simple_self_signed(["agent".to_owned()]).expect("a certificate");
        let pem = certified.cert.pem();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certified.cert.der());
        let expected = json!({ "x5t#S256": BASE64URL_NOPAD.encode(digest.as_ref()) });
        assert_eq!(Confirmation::of_certificate(pem.as_bytes()).expect("bound").to_claim(), expected);
        let key = certified.signing_key.serialize_pem();
        assert_eq!(Confirmation::of_certificate(key.as_bytes()), Err(ConfirmationError::NotACertificate));
        let nothing = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(Confirmation::of_certificate(nothing), Err(ConfirmationError::NotACertificate));
    }

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        // RFC 8037, appendix A.3.
        let key = br#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let expected = Confirmation::Key("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".to_owned());
        assert_eq!(Confirmation::of_jwk(key), Ok(expected.clone()));
        assert_eq!(expected.to_claim(), json!({"jkt": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"}));
    }

    #[test]
    fn a_secret_is_no_name() {
        for secret in [
            &br#"{"kty":"OKP","crv":"Ed25519","d":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#[..],
            br#"{"kty":"oct","k":"AAAA"}"#,
        ] {
            assert_eq!(Confirmation::of_jwk(secret), Err(ConfirmationError::Secret));
        }
        assert_eq!(Confirmation::of_jwk(b"{}"), Err(ConfirmationError::NotAKey));
    }
}
