//! A verifier that trusts the example key of RFC 8037, appendix A, at a fixed time, so that a finding can be repeated.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use veribus_broker::{
    authenticate::{
        Algorithms, Authenticator, BearerToken, ClaimPaths, GrantLimits, KeySet, Presented, ProofSettings,
        TrustedIssuer, Verifier, VerifierSettings,
    },
    model::{Clock, Issuer, UnixSeconds},
};

/// The `iss` that is trusted.
pub const ISSUER: &str = "https://issuer.example";
/// The `aud` that is meant.
pub const AUDIENCE: &str = "veribus";
/// The time.
pub const NOW: i64 = 1_900_000_000;

const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","alg":"EdDSA","use":"sig","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
/// PKCS #8 around the private key.
const PREFIX: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

/// Recognises callers by the key.
///
/// # Panics
/// If the example of the RFC were no key.
#[must_use]
pub fn authenticator() -> Authenticator {
    let trusted = TrustedIssuer {
        issuer: Issuer::parse(ISSUER).expect("an issuer"),
        audiences: vec![AUDIENCE.to_owned()],
        keys: KeySet::from_json(JWKS.as_bytes(), &Algorithms::default()).expect("a key").into(),
        claims: ClaimPaths::default(),
        require_at_jwt: false,
        require_bound: false,
        may_grant: GrantLimits::default(),
    };
    let settings = VerifierSettings { cache_entries_max: 16, cache_bytes_max: 1 << 20, token_lifetime_s_max: 86_400 };
    let clock = Clock::manual(UnixSeconds(NOW));
    let verifier = Verifier::new(vec![trusted], settings, clock.clone());
    Authenticator::new(Arc::new(verifier), ProofSettings::NONE, clock)
}

/// A token as somebody presents it.
#[must_use]
pub const fn presented(token: BearerToken) -> Presented<'static> {
    Presented::as_bearer(token, "/veribus.v1.BrokerService/Publish")
}

/// The private key to it.
///
/// # Panics
/// As [`authenticator`].
#[must_use]
pub fn key() -> EncodingKey {
    let seed = BASE64URL_NOPAD.decode(SEED.as_bytes()).expect("base64url");
    EncodingKey::from_ed_der(&[&PREFIX[..], &seed].concat())
}

/// A token with this header and payload, whatever they are, and a signature that verifies.
///
/// # Panics
/// As [`authenticator`].
#[must_use]
pub fn sign(header: &[u8], payload: &[u8], key: &EncodingKey) -> String {
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(header), BASE64URL_NOPAD.encode(payload));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, Algorithm::EdDSA).expect("signed");
    format!("{signed}.{signature}")
}
