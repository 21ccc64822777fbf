//! What a token is bound to: its claim `cnf` (RFC 7800), of which the two members that can be checked here are understood. Others
//! are ignored (section 3.1); Keycloak, for example, adds `kc-jkt-type`.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};

use super::error::TokenError;

/// What whoever presents the token must hold besides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The client certificate of the connection, by the SHA-256 of its DER (RFC 8705, section 3.1).
    Certificate([u8; 32]),
    /// The private key that signs DPoP proofs, by the thumbprint of the public one (RFC 9449, section 6.1).
    Key([u8; 32]),
}

impl Confirmation {
    const CERTIFICATE: &str = "x5t#S256";
    const KEY: &str = "jkt";

    /// The name of the member of `cnf`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Certificate(_) => Self::CERTIFICATE,
            Self::Key(_) => Self::KEY,
        }
    }

    /// What the claims bind the token to; `None` without a `cnf`. A `cnf` without a member that is understood asks for a check
    /// that is not made here, so the token is refused and not taken for an unbound one; so is one with both, of which
    /// RFC 7800 allows one.
    pub(super) fn from_claims(claims: &Map<String, Value>) -> Result<Option<Self>, TokenError> {
        let Some(claim) = claims.get("cnf") else { return Ok(None) };
        let members = claim.as_object().ok_or(TokenError::Confirmation)?;
        let digest = |value: &Value| value.as_str().and_then(sha256).ok_or(TokenError::Confirmation);
        match (members.get(Self::CERTIFICATE), members.get(Self::KEY)) {
            (Some(value), None) => Ok(Some(Self::Certificate(digest(value)?))),
            (None, Some(value)) => Ok(Some(Self::Key(digest(value)?))),
            (Some(_), Some(_)) | (None, None) => Err(TokenError::Confirmation),
        }
    }
}

/// As in the log: the member's name and its value.
impl fmt::Display for Confirmation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Certificate(digest) | Self::Key(digest)) = self;
        write!(f, "{}:{}", self.kind(), BASE64URL_NOPAD.encode(digest))
    }
}

/// 32 bytes in their one canonical base64url form.
pub(super) fn sha256(text: &str) -> Option<[u8; 32]> {
    BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // RFC 8705, section 3.1, and RFC 9449, section 6.1.
    const X5T: &str = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";
    const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";

    fn read(cnf: Value) -> Result<Option<Confirmation>, TokenError> {
        Confirmation::from_claims(json!({ "cnf": cnf }).as_object().expect("an object"))
    }

    #[test]
    fn a_certificate_or_a_key_is_understood() {
        let key = read(json!({ "jkt": JKT })).expect("understood").expect("bound");
        assert_eq!((key.kind(), key.to_string()), ("jkt", format!("jkt:{JKT}")));
        let digest = BASE64URL_NOPAD.encode(&[7; 32]);
        let certificate = read(json!({ "x5t#S256": digest })).expect("understood").expect("bound");
        assert_eq!(certificate, Confirmation::Certificate([7; 32]));
        assert_eq!(certificate.to_string(), format!("x5t#S256:{digest}"));
        assert_eq!(Confirmation::from_claims(&Map::new()), Ok(None));
        for member in ["kid", "kc-jkt-type"] {
            assert_eq!(read(json!({ "jkt": JKT, member: "more" })), Ok(Some(key)), "{member}");
        }
    }

    #[test]
    fn a_confirmation_that_cannot_be_checked_is_not_taken_for_none() {
        for cnf in [
            json!(null),
            json!({}),
            json!("jkt"),
            json!([JKT]),
            json!({ "jkt": null }),
            json!({ "jkt": "" }),
            json!({ "jkt": "AAAA" }),
            json!({ "jkt": format!("{JKT}=") }),
            // The last character has bits that are not zero: the example of RFC 8705 itself is not canonical.
            json!({ "x5t#S256": X5T }),
            json!({ "x5t": JKT }),
            json!({ "kid": "key" }),
            json!({ "jwk": { "kty": "EC" } }),
            json!({ "jku": "https://keys.example" }),
            json!({ "jkt": JKT, "x5t#S256": JKT }),
            json!({ "jkt": null, "kid": "key" }),
        ] {
            assert_eq!(read(cnf.clone()), Err(TokenError::Confirmation), "{cnf}");
        }
    }
}
