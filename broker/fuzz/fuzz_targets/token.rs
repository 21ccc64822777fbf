//! Any text as a token: nothing panics, and nothing is accepted but the one token that was signed.
//!
//! `cargo fuzz run token -s none` in `broker/` (with `RUSTC_BOOTSTRAP=1` on a stable toolchain).

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use veribus_broker::authenticate::{Authenticator, BearerToken};
use veribus_fuzz::{authenticator, key, present, sign};

static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(authenticator);
static VALID: LazyLock<String> = LazyLock::new(|| {
    let header = include_bytes!("../header.json");
    let payload = include_bytes!("../payload.json");
    sign(header.trim_ascii(), payload.trim_ascii(), &key())
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(token) = str::from_utf8(bytes).map_err(drop).and_then(|text| BearerToken::new(text).map_err(drop)) else {
        return;
    };
    let accepted = present(&AUTHENTICATOR, token).is_ok();
    assert_eq!(accepted, bytes == VALID.as_bytes());
});
