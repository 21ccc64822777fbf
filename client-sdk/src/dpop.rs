//! Proofs that whoever shows a token also holds the key that it was issued for (DPoP, RFC 9449).
//!
//! In scope: the key, and proofs made with it. Out of scope: which call a proof goes with, see `present`.

use std::{fmt, fs, path::Path, sync::Arc, time::SystemTime};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{CommonParameters, Jwk, ThumbprintHash},
};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{Error, Token};

/// The value of `typ` (RFC 9449 §4.2).
const PROOF_TYPE: &str = "dpop+jwt";

/// A P-256 key that signs proofs. Cheap to clone; its `Debug` shows the thumbprint only.
///
/// A token is bound to it by the claim `cnf.jkt`, which its issuer sets to [`DpopKey::thumbprint`]. Without the key, the
/// token is worthless.
///
/// ```
/// # use veribus_client::DpopKey;
/// let key = DpopKey::generate()?; // lives as long as the process does
/// assert_eq!(key.thumbprint().len(), 43);
/// # Ok::<_, veribus_client::Error>(())
/// ```
#[derive(Clone)]
pub struct DpopKey(Arc<Inner>);

struct Inner {
    key: EncodingKey,
    public: Jwk,
    thumbprint: String,
}

/// The claims of a proof (RFC 9449 §4.2).
#[derive(Serialize)]
struct Claims<'a> {
    jti: String,
    htm: &'a str,
    htu: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
}

impl DpopKey {
    /// A new key.
    ///
    /// # Errors
    /// [`Error::Configuration`] where the system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| unusable("it could not be made"))?;
        Self::new(EncodingKey::from_ec_der(document.as_ref()))
    }

    /// The key in a PEM text: PKCS#8, P-256.
    ///
    /// # Errors
    /// [`Error::Configuration`] where there is none.
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Result<Self, Error> {
        let key = EncodingKey::from_ec_pem(pem.as_ref()).map_err(unusable)?;
        Self::new(key)
    }

    /// The key in a PEM file.
    ///
    /// # Errors
    /// [`Error::Configuration`] where it cannot be read or holds no key.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let read = |error| Error::Configuration(format!("cannot read the DPoP key `{}`: {error}", path.display()));
        Self::from_pem(Zeroizing::new(fs::read(path).map_err(read)?))
    }

    fn new(key: EncodingKey) -> Result<Self, Error> {
        let public = Jwk::from_encoding_key(&key, Algorithm::ES256).map_err(unusable)?;
        let public = Jwk { common: CommonParameters::default(), ..public };
        let thumbprint = public.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?;
        Ok(Self(Arc::new(Inner { key, public, thumbprint })))
    }

    /// The SHA-256 thumbprint of the public key (RFC 7638), base64url: what an issuer puts into `cnf.jkt`.
    #[must_use]
    pub fn thumbprint(&self) -> &str {
        &self.0.thumbprint
    }

    /// A proof, good once, for a request by `method` to `url` (without query and fragment).
    ///
    /// The client makes its own; this is for [`crate::TokenProvider`]s that ask for bound tokens. With the token that the
    /// request shows, if it shows one, and the server's nonce, if it gave one.
    ///
    /// # Errors
    /// [`Error::Configuration`] where the key cannot sign.
    pub fn proof(&self, method: &str, url: &str, token: Option<&Token>, nonce: Option<&str>) -> Result<String, Error> {
        let header = Header {
            typ: Some(PROOF_TYPE.to_owned()),
            jwk: Some(self.0.public.clone()),
            ..Header::new(Algorithm::ES256)
        };
        let claims = Claims {
            jti: uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string(),
            htm: method,
            htu: url,
            iat: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            ath: token.map(|token| BASE64URL_NOPAD.encode(digest(&SHA256, token.jwt().as_bytes()).as_ref())),
            nonce,
        };
        jsonwebtoken::encode(&header, &claims, &self.0.key).map_err(unusable)
    }
}

impl fmt::Debug for DpopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DpopKey").field("thumbprint", &self.0.thumbprint).finish_non_exhaustive()
    }
}

fn unusable(fault: impl fmt::Display) -> Error {
    Error::Configuration(format!("the DPoP key cannot be used: {fault}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Write as _};

    use jsonwebtoken::{DecodingKey, Validation};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
    use serde_json::Value;

    use super::*;

    const URL: &str = "https://broker.example:7443/veribus.v1.BrokerService/Publish";

    /// As a broker that knows nothing but the proof.
    fn verified(proof: &str) -> (Header, Value) {
        let header = jsonwebtoken::decode_header(proof).expect("a header");
        let jwk = header.jwk.clone().expect("a key");
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims = HashSet::new();
        validation.validate_exp = false;
        let key = DecodingKey::from_jwk(&jwk).expect("a public key");
        let claims = jsonwebtoken::decode::<Value>(proof, &key, &validation).expect("a signature").claims;
        (header, claims)
    }

    #[test]
    fn a_proof_verifies_and_says_what_it_is_for() {
        let key = DpopKey::generate().expect("a key");
        let token = Token::new("the.access.token").expect("a token");
        let (header, claims) = verified(&key.proof("POST", URL, Some(&token), None).expect("a proof"));
        assert_eq!((header.typ.as_deref(), header.alg), (Some("dpop+jwt"), Algorithm::ES256));
        let jwk = header.jwk.expect("a key");
        assert_eq!(jwk.thumbprint(ThumbprintHash::SHA256).expect("a thumbprint"), key.thumbprint());
        assert_eq!((claims["htm"].as_str(), claims["htu"].as_str()), (Some("POST"), Some(URL)));
        // SHA-256 of the token, made with another tool.
        assert_eq!(claims["ath"], "R2a7yCsxS8BpCgk-2VRP3xHZJ8n6zSvOygTlU97Z9m0");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        assert!(now - claims["iat"].as_u64().expect("a time") < 5);
        assert!(claims.get("nonce").is_none());
    }

    #[test]
    fn the_private_key_stays_here() {
        let key = DpopKey::generate().expect("a key");
        let proof = key.proof("POST", URL, None, None).expect("a proof");
        let header = proof.split('.').next().expect("a header");
        let header: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).expect("base64")).expect("json");
        let members: HashSet<&str> = header["jwk"].as_object().expect("a key").keys().map(String::as_str).collect();
        assert_eq!(members, HashSet::from(["kty", "crv", "x", "y"]));
        let secret = BASE64URL_NOPAD.encode(key.0.key.as_bytes());
        assert!(!format!("{key:?}").contains(&secret) && !format!("{key:?}").contains("content"));
    }

    #[test]
    fn no_two_proofs_are_the_same() {
        let key = DpopKey::generate().expect("a key");
        let ids: HashSet<String> = (0..100)
            .map(|_| verified(&key.proof("POST", URL, None, None).expect("a proof")).1["jti"].to_string())
            .collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn a_nonce_of_the_server_is_in_the_proof() {
        let key = DpopKey::generate().expect("a key");
        let (_, claims) = verified(&key.proof("POST", URL, None, Some("n-1")).expect("a proof"));
        assert_eq!((claims["nonce"].as_str(), claims.get("ath")), (Some("n-1"), None));
    }

    #[test]
    fn a_key_is_read_from_a_file_and_has_the_same_thumbprint_each_time() {
        let pem = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(pem.as_bytes()).expect("written");
        let key = DpopKey::from_pem_file(file.path()).expect("a key");
        assert_eq!(key.thumbprint(), DpopKey::from_pem(&pem).expect("a key").thumbprint());
        verified(&key.proof("POST", URL, None, None).expect("a proof"));
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key").serialize_pem();
        for pem in [p384.as_str(), "no key", ""] {
            assert!(matches!(DpopKey::from_pem(pem), Err(Error::Configuration(_))), "{pem}");
        }
        assert!(matches!(DpopKey::from_pem_file("/nonexistent"), Err(Error::Configuration(_))));
    }

    #[test]
    fn the_thumbprint_is_that_of_the_public_key_alone() {
        // The EC key of RFC 7517 appendix A.1, whose thumbprint other implementations give as below.
        let jwk: Jwk = serde_json::from_str(
            r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#,
        )
        .expect("a key");
        assert_eq!(jwk.thumbprint(ThumbprintHash::SHA256).expect("one"), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
    }
}
