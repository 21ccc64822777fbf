//! Any header and payload (what comes before and after the first zero byte) with a signature that verifies: nothing
//! panics, and what is accepted is what it should be.
//!
//! `cargo fuzz run signed -s none` in `broker/` (with `RUSTC_BOOTSTRAP=1` on a stable toolchain).

#![no_main]

use std::sync::LazyLock;

use jsonwebtoken::EncodingKey;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use veribus_broker::authenticate::{Authenticator, BearerToken};
use veribus_fuzz::{AUDIENCE, ISSUER, NOW, authenticator, key, present, sign};

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(authenticator);
static KEY: LazyLock<EncodingKey> = LazyLock::new(key);

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (header, payload) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let Ok(token) = BearerToken::new(&sign(header, payload, &KEY)) else { return };
    let Ok(identity) = present(&AUTHENTICATOR, token) else { return };
    let header: Value = serde_json::from_slice(header).expect("a header that was read");
    assert_eq!((&header["alg"], &header["kid"]), (&Value::from("EdDSA"), &Value::from("k")));
    for name in ["crit", "b64", "jku", "jwk", "x5u", "x5c", "zip", "cty"] {
        assert!(header.get(name).is_none());
    }
    assert!(identity.confirmation().is_none(), "nothing was shown that a token could be bound to");
    assert_eq!(identity.issuer().as_str(), ISSUER);
    let audience = &identity.claims()["aud"];
    assert!(audience == AUDIENCE || audience.as_array().is_some_and(|all| all.iter().any(|one| one == AUDIENCE)));
    assert!(identity.issued_at().0 <= NOW && NOW < identity.expires_at().0);
    assert!(identity.expires_at().0 - identity.issued_at().0 <= 86_400);
    assert!(!identity.agent().as_str().is_empty() && !identity.token_id().as_str().is_empty());
});
