//! The key that signs, and the form of what it signs.

use std::{fmt, time::Duration};

use jsonwebtoken::{
    EncodingKey, Header,
    jwk::{JwkSet, ThumbprintHash},
};
use rcgen::KeyPair;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;
use uuid::Uuid;

use super::{Claims, KeyKind};
use crate::model::UnixSeconds;

/// Why there is no token, or no issuer.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The key cannot be read.
    #[error("the signing key is not a PKCS #8 private key in PEM form")]
    UnreadableKey(#[source] rcgen::Error),
    /// The key is of a kind that signs no tokens here.
    #[error("the signing key is not an ECDSA P-256 or P-384, Ed25519 or RSA key")]
    UnsupportedKey,
    /// The key is not of the kind that was asked for.
    #[error("the signing key does not sign with {}", .0.name())]
    OtherKind(KeyKind),
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    KeyGeneration(#[source] rcgen::Error),
    /// The claims could not be signed.
    #[error("cannot sign the token: {0}")]
    Signing(#[from] jsonwebtoken::errors::Error),
    /// The key set could not be written down.
    #[error("cannot write the key set: {0}")]
    KeySet(#[from] serde_json::Error),
}

/// Signs tokens with one key, in the name of one issuer, for one audience.
pub struct TokenIssuer {
    issuer: String,
    audience: String,
    header: Header,
    key: EncodingKey,
    public: Map<String, Value>,
    jwks: String,
}

impl TokenIssuer {
    /// Takes the private key from PEM (PKCS #8). The key's id is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`IssueError`] where the text is no key, or one of another kind than [`KeyKind`].
    pub fn from_pem(issuer: impl Into<String>, audience: impl Into<String>, pem: &str) -> Result<Self, IssueError> {
        Self::build(issuer.into(), audience.into(), pem, None)
    }

    /// Like [`TokenIssuer::from_pem`], with a key id of one's own.
    ///
    /// # Errors
    /// As [`TokenIssuer::from_pem`].
    pub fn with_key_id(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        pem: &str,
        key_id: impl Into<String>,
    ) -> Result<Self, IssueError> {
        Self::build(issuer.into(), audience.into(), pem, Some(key_id.into()))
    }

    /// Like [`TokenIssuer::from_pem`], for a key of a known kind: needed for an RSA key that signs with PSS.
    ///
    /// # Errors
    /// As [`TokenIssuer::from_pem`], and [`IssueError::OtherKind`].
    pub fn of_kind(
        issuer: impl Into<String>,
        audience: impl Into<String>,
        pem: &str,
        kind: KeyKind,
        key_id: Option<String>,
    ) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(pem).map_err(IssueError::UnreadableKey)?;
        if !kind.takes(KeyKind::of(&key)?) {
            return Err(IssueError::OtherKind(kind));
        }
        Self::sign_with(issuer.into(), audience.into(), kind, kind.encoding_key(pem, &key)?, &key, key_id)
    }

    fn build(issuer: String, audience: String, pem: &str, key_id: Option<String>) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(pem).map_err(IssueError::UnreadableKey)?;
        let kind = KeyKind::of(&key)?;
        Self::sign_with(issuer, audience, kind, kind.encoding_key(pem, &key)?, &key, key_id)
    }

    fn sign_with(
        issuer: String,
        audience: String,
        kind: KeyKind,
        key: EncodingKey,
        pair: &KeyPair,
        key_id: Option<String>,
    ) -> Result<Self, IssueError> {
        let mut jwk = kind.public_key(&key, pair)?;
        let key_id = key_id.map_or_else(|| jwk.thumbprint(ThumbprintHash::SHA256), Ok)?;
        jwk.common.key_id = Some(key_id.clone());
        let jwks = serde_json::to_string_pretty(&JwkSet { keys: vec![jwk.clone()] })?;
        let Value::Object(public) = serde_json::to_value(jwk)? else { return Err(IssueError::UnsupportedKey) };
        let mut header = Header::new(kind.algorithm());
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(key_id);
        Ok(Self { issuer, audience, header, key, public, jwks })
    }

    /// Claims in this issuer's name, for its audience, with a fresh token id, valid from `now` for `lifetime`.
    #[must_use]
    pub fn claims(&self, agent: impl Into<String>, now: UnixSeconds, lifetime: Duration) -> Claims {
        let UnixSeconds(iat) = now;
        Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: agent.into(),
            iat,
            nbf: None,
            exp: iat.saturating_add_unsigned(lifetime.as_secs()),
            jti: Uuid::now_v7().to_string(),
            roles: Vec::new(),
            permissions: Vec::new(),
            types: None,
            other: Map::new(),
        }
    }

    /// Signs the claims as they are.
    ///
    /// # Errors
    /// [`IssueError::Signing`].
    pub fn issue(&self, claims: &Claims) -> Result<String, IssueError> {
        self.sign(claims)
    }

    /// Signs anything that is a JSON object: for tests of tokens that no [`Claims`] can express.
    ///
    /// # Errors
    /// [`IssueError::Signing`].
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, IssueError> {
        Ok(jsonwebtoken::encode(&self.header, claims, &self.key)?)
    }

    /// The key set with the public key, JSON (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// The public key, a JSON Web Key (RFC 7517).
    #[must_use]
    pub const fn public_key(&self) -> &Map<String, Value> {
        &self.public
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The `aud` of its tokens.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The `kid` of its tokens.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.header.kid.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};

    use super::*;

    fn issuer(kind: KeyKind) -> TokenIssuer {
        let pem = kind.generate_pem().expect("a key");
        TokenIssuer::of_kind("an-issuer", "veribus", &pem, kind, None).expect("an issuer")
    }

    fn now() -> UnixSeconds {
        crate::model::Clock::system().now().seconds()
    }

    fn verify(token: &str, issuer: &TokenIssuer) -> Result<Claims, jsonwebtoken::errors::Error> {
        let keys: JwkSet = serde_json::from_str(issuer.jwks()).expect("a key set");
        let header = decode_header(token)?;
        let key = keys.find(&header.kid.expect("a key id")).expect("the key");
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&["veribus"]);
        validation.set_issuer(&["an-issuer"]);
        decode(token, &DecodingKey::from_jwk(key)?, &validation).map(|data| data.claims)
    }

    #[test]
    fn a_token_comes_back_as_it_was_issued() {
        for kind in KeyKind::ALL {
            let issuer = issuer(kind);
            let claims = issuer
                .claims("finance-agent", now(), Duration::from_secs(60))
                .role("finance")
                .permission("publish:finance.>")
                .message_type("finance.transaction")
                .claim("tenant", "a");
            let token = issuer.issue(&claims).expect("signed");
            assert_eq!(verify(&token, &issuer).expect("valid"), claims, "{kind:?}");
            let header = decode_header(&token).expect("a header");
            assert_eq!(header.typ.as_deref(), Some("at+jwt"));
            assert_eq!(header.alg, kind.algorithm());
            assert_eq!(header.kid.as_deref(), Some(issuer.key_id()));
        }
    }

    #[test]
    fn another_key_does_not_vouch_for_the_token() {
        let (ours, mut theirs) = (issuer(KeyKind::Es256), issuer(KeyKind::Es256));
        theirs.header.kid = ours.header.kid.clone();
        let token = theirs.issue(&theirs.claims("a", now(), Duration::from_secs(60))).expect("signed");
        assert!(verify(&token, &ours).is_err());
    }

    #[test]
    fn the_key_set_holds_no_private_key() {
        for kind in KeyKind::ALL {
            let keys: serde_json::Value = serde_json::from_str(issuer(kind).jwks()).expect("JSON");
            assert_eq!(keys["keys"][0].get("d"), None);
            assert_eq!(keys["keys"][0]["use"], "sig");
        }
    }

    #[test]
    fn a_key_id_of_ones_own_is_kept() {
        let pem = KeyKind::EdDsa.generate_pem().expect("a key");
        let issuer = TokenIssuer::with_key_id("an-issuer", "veribus", &pem, "mine").expect("an issuer");
        let token = issuer.issue(&issuer.claims("a", now(), Duration::from_secs(60))).expect("signed");
        assert_eq!(decode_header(&token).expect("a header").kid.as_deref(), Some("mine"));
        assert!(verify(&token, &issuer).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let error = TokenIssuer::from_pem("i", "a", "no key").expect_err("no key");
        assert!(matches!(error, IssueError::UnreadableKey(_)), "{error}");
    }

    #[test]
    fn a_key_signs_with_nothing_but_its_own_algorithm() {
        let pem = KeyKind::Es256.generate_pem().expect("a key");
        for kind in KeyKind::ALL.into_iter().filter(|kind| *kind != KeyKind::Es256) {
            let error = TokenIssuer::of_kind("i", "a", &pem, kind, None).expect_err("another kind");
            assert!(matches!(error, IssueError::OtherKind(_)), "{error}");
        }
    }

    #[test]
    fn the_debug_form_shows_no_key() {
        let text = format!("{:?}", issuer(KeyKind::Es256));
        assert!(text.starts_with("TokenIssuer { issuer: \"an-issuer\", key_id:"), "{text}");
        assert!(!text.contains("key: "), "{text}");
    }
}
