//! The bearer token and its strict pre-parse: what is wrong in form is refused before any key is looked up.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{error::TokenError, keys::SignatureAlgorithm, shown::shown, strict_json};

/// As what a token was presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `authorization: Bearer`.
    Bearer,
    /// `authorization: DPoP`.
    Dpop,
    /// In a message of ours, where no scheme is said.
    Unsaid,
}

/// A bearer token as presented: secret, bounded, not yet looked into. Its memory is zeroed when it is dropped.
#[derive(Clone)]
pub struct BearerToken(Zeroizing<String>);

impl BearerToken {
    /// The longest token accepted, in bytes.
    pub const LEN_BYTES_MAX: usize = 8192;

    /// Takes the token out of an `authorization` header value (RFC 6750, section 2.1; RFC 9449, section 7.1).
    ///
    /// # Errors
    /// [`TokenError::NotBearer`], [`TokenError::TooLong`].
    pub fn from_authorization(value: &[u8]) -> Result<(Scheme, Self), TokenError> {
        let text = std::str::from_utf8(value).map_err(|_| TokenError::NotBearer)?;
        let (scheme, token) = text.split_once(' ').ok_or(TokenError::NotBearer)?;
        let scheme = match scheme {
            name if name.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
            name if name.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
            _ => return Err(TokenError::NotBearer),
        };
        // 1*SP: more than one space may stand between them.
        Ok((scheme, Self::new(token.trim_start_matches(' '))?))
    }

    /// Takes a bare token.
    ///
    /// # Errors
    /// [`TokenError::TooLong`].
    pub fn new(text: impl Into<String>) -> Result<Self, TokenError> {
        let text = Zeroizing::new(text.into());
        if text.len() > Self::LEN_BYTES_MAX { Err(TokenError::TooLong) } else { Ok(Self(text)) }
    }

    pub(super) fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(..)")
    }
}

/// A token whose form and header are beyond doubt; nothing in it is verified.
pub(super) struct Jws<'a> {
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) key_id: Option<String>,
    /// Whether `typ` says that this is an access token, and nothing else (RFC 9068, section 2.1).
    pub(super) is_at_jwt: bool,
    /// Header and payload as they are signed.
    pub(super) signing_input: &'a str,
    /// Base64url.
    pub(super) signature: &'a str,
    payload: Vec<u8>,
}

impl Jws<'_> {
    pub(super) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        object(&self.payload, "payload")
    }

    pub(super) fn signing_input_sha256(&self) -> [u8; 32] {
        Sha256::digest(self.signing_input.as_bytes()).into()
    }
}

/// Header members that tell a verifier to trust, unpack or understand something else. Those that only say where else a key
/// might be found, `jku`, `x5u` and `x5c`, may be ignored (RFC 7515, section 4), and are: nothing is ever fetched for a token.
const FORBIDDEN_HEADERS: [&str; 7] = ["crit", "b64", "jwk", "zip", "enc", "epk", "p2c"];

/// The longest name of an algorithm that is repeated, in bytes.
const ALGORITHM_SHOWN_BYTES_MAX: usize = 32;

/// Media types of `typ` that say "access token" (RFC 9068, section 4), and those that say no more than "JWT".
const ACCESS_TOKEN_TYPES: [&str; 2] = ["at+jwt", "application/at+jwt"];
const PLAIN_TYPES: [&str; 2] = ["jwt", "application/jwt"];

pub(super) fn parse(token: &BearerToken) -> Result<Jws<'_>, TokenError> {
    let (signing_input, signature) = token.as_str().rsplit_once('.').ok_or(TokenError::NotCompact)?;
    let (header, payload) = signing_input.split_once('.').ok_or(TokenError::NotCompact)?;
    let (header, payload) = (decode(header)?, decode(payload)?);
    if decode(signature)?.is_empty() {
        return Err(TokenError::NotCompact);
    }
    let header = object(&header, "header")?;
    for name in FORBIDDEN_HEADERS {
        if header.contains_key(name) {
            return Err(TokenError::ForbiddenHeader(name));
        }
    }
    if header.get("cty").is_some_and(says_nested) {
        return Err(TokenError::ForbiddenHeader("cty"));
    }
    Ok(Jws {
        is_at_jwt: is_access_token_type(&header)?,
        algorithm: algorithm(&header)?,
        key_id: key_id(&header)?,
        signing_input,
        signature,
        payload,
    })
}

/// `BASE64URL_NOPAD` takes neither padding, nor other alphabets, nor trailing bits that are not zero.
pub(super) fn decode(segment: &str) -> Result<Vec<u8>, TokenError> {
    BASE64URL_NOPAD.decode(segment.as_bytes()).map_err(|_| TokenError::NotCompact)
}

pub(super) fn object(bytes: &[u8], what: &'static str) -> Result<Map<String, Value>, TokenError> {
    match strict_json::parse(bytes) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) | Err(_) => Err(TokenError::NotStrictJson(what)),
    }
}

/// Whether `typ` says so; `false` where it says nothing. Media types are compared without case (RFC 7515, section 4.1.9).
fn is_access_token_type(header: &Map<String, Value>) -> Result<bool, TokenError> {
    let Some(value) = header.get("typ") else { return Ok(false) };
    let name = value.as_str().ok_or(TokenError::WrongType)?;
    let is_one_of = |types: [&str; 2]| types.iter().any(|one| name.eq_ignore_ascii_case(one));
    if is_one_of(ACCESS_TOKEN_TYPES) {
        Ok(true)
    } else if is_one_of(PLAIN_TYPES) {
        Ok(false)
    } else {
        Err(TokenError::WrongType)
    }
}

/// Whether a `cty` says that the payload is a token itself (RFC 7519, section 5.2), with or without parameters.
fn says_nested(content_type: &Value) -> bool {
    content_type.as_str().is_none_or(|text| {
        let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        PLAIN_TYPES.contains(&name.as_str()) || name.ends_with("+jwt")
    })
}

fn algorithm(header: &Map<String, Value>) -> Result<SignatureAlgorithm, TokenError> {
    let named = header.get("alg");
    let found = named.and_then(Value::as_str).and_then(SignatureAlgorithm::from_name);
    found.ok_or_else(|| {
        let text = named.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        TokenError::Algorithm(shown(&text.unwrap_or_default(), ALGORITHM_SHOWN_BYTES_MAX))
    })
}

/// `None` only where the member is absent (RFC 7515, section 4.1.4).
fn key_id(header: &Map<String, Value>) -> Result<Option<String>, TokenError> {
    match header.get("kid") {
        None => Ok(None),
        Some(Value::String(kid)) if !kid.is_empty() => Ok(Some(kid.clone())),
        Some(_) => Err(TokenError::NoKeyId),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.AAAA", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(payload.as_bytes()))
    }

    fn error(text: &str) -> TokenError {
        let parsed = BearerToken::new(text).and_then(|token| parse(&token)?.claims());
        match parsed {
            Ok(_) => panic!("accepted: {text}"),
            Err(error) => error,
        }
    }

    const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

    #[test]
    fn a_token_of_good_form_passes() {
        let token = BearerToken::new(token(HEADER, r#"{"sub":"a"}"#)).expect("short");
        let claims = parse(&token).and_then(|jws| jws.claims()).expect("good form");
        assert_eq!(claims.get("sub"), Some(&Value::from("a")));
    }

    #[test]
    fn only_three_canonical_segments_pass() {
        let good = token(HEADER, "{}");
        let (signing_input, _) = good.rsplit_once('.').expect("dots");
        for text in [
            "",
            "..",
            "a.b",
            signing_input,
            &format!("{signing_input}."),
            &format!("{good}.AAAA"),
            &format!("{good}="),
            &format!("{signing_input}.AAB"), // the last two bits are not zero
            &format!("{signing_input}.AA+A"),
            &format!("{good}\n"),
            &format!(" {good}"),
        ] {
            assert_eq!(error(text), TokenError::NotCompact, "{text:?}");
        }
        assert_eq!(error(&"a".repeat(BearerToken::LEN_BYTES_MAX + 1)), TokenError::TooLong);
    }

    #[test]
    fn a_header_that_asks_for_more_is_refused() {
        for name in FORBIDDEN_HEADERS {
            let header = format!(r#"{{"alg":"ES256","kid":"k","{name}":["x"]}}"#);
            assert_eq!(error(&token(&header, "{}")), TokenError::ForbiddenHeader(name));
        }
        let nested = ["JWT", "jwt", "application/jwt", "Application/JWT", "at+jwt", "x/y+JWT", "JWT; a=b"];
        for cty in nested.map(Value::from).into_iter().chain([Value::Null, Value::from(vec!["JWT"])]) {
            let header = format!(r#"{{"alg":"ES256","kid":"k","cty":{cty}}}"#);
            assert_eq!(error(&token(&header, "{}")), TokenError::ForbiddenHeader("cty"), "{cty}");
        }
    }

    #[test]
    fn what_says_where_else_a_key_might_be_is_ignored() {
        for member in [r#""jku":"https://a.example""#, r#""x5u":1"#, r#""x5c":["x"]"#, r#""cty":"json""#, r#""cty":"""#]
        {
            let token = token(&format!(r#"{{"alg":"ES256","kid":"k",{member}}}"#), "{}");
            let token = BearerToken::new(token).expect("short");
            assert_eq!(parse(&token).map(|jws| jws.key_id).ok(), Some(Some("k".to_owned())), "{member}");
        }
    }

    #[test]
    fn other_algorithms_types_and_keyless_headers_are_refused() {
        for (alg, shown) in [
            (r#""none""#, "none"),
            (r#""HS256""#, "HS256"),
            (r#""RS384""#, "RS384"),
            (r#""RS512""#, "RS512"),
            (r#""PS384""#, "PS384"),
            (r#""PS512""#, "PS512"),
            (r#""ES512""#, "ES512"),
            (r#""es256""#, "es256"),
            (r#""ed25519""#, "ed25519"),
            (r#"["ES256"]"#, r#"[\"ES256\"]"#),
            ("null", "null"),
            (r#""a\nbcdefghijklmnopqrstuvwxyz0123456789""#, r"a\nbcdefghijklmnopqrstuvwxyz0..."),
        ] {
            let header = format!(r#"{{"alg":{alg},"kid":"k"}}"#);
            assert_eq!(error(&token(&header, "{}")), TokenError::Algorithm(shown.to_owned()), "{alg}");
        }
        assert_eq!(error(&token(r#"{"kid":"k"}"#, "{}")), TokenError::Algorithm(String::new()));
        for alg in ["EdDSA", "Ed25519"] {
            let token = BearerToken::new(token(&format!(r#"{{"alg":"{alg}"}}"#), "{}")).expect("short");
            let parsed = parse(&token).map(|jws| (jws.algorithm, jws.key_id)).ok();
            assert_eq!(parsed, Some((SignatureAlgorithm::EdDsa, None)), "{alg}");
        }
        for typ in [r#""dpop+jwt""#, r#""logout+jwt""#, "1"] {
            let header = format!(r#"{{"alg":"ES256","kid":"k","typ":{typ}}}"#);
            assert_eq!(error(&token(&header, "{}")), TokenError::WrongType, "{typ}");
        }
        for kid in [r#""""#, "null", "1", r#"["k"]"#] {
            assert_eq!(error(&token(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#), "{}")), TokenError::NoKeyId, "{kid}");
        }
    }

    #[test]
    fn a_member_named_twice_is_refused_in_header_and_payload() {
        let twice = r#"{"alg":"none","alg":"ES256","kid":"k"}"#;
        assert_eq!(error(&token(twice, "{}")), TokenError::NotStrictJson("header"));
        assert_eq!(error(&token(HEADER, r#"{"a":{"sub":1,"sub":2}}"#)), TokenError::NotStrictJson("payload"));
        assert_eq!(error(&token(HEADER, "[]")), TokenError::NotStrictJson("payload"));
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let (_, token) = BearerToken::from_authorization(b"Bearer secret").expect("bearer");
        assert_eq!(format!("{token:?}"), "BearerToken(..)");
    }

    #[test]
    fn two_schemes_are_known() {
        let scheme = |value: &[u8]| BearerToken::from_authorization(value).map(|(scheme, _)| scheme);
        assert_eq!([scheme(b"Bearer a"), scheme(b"bearer a")], [Ok(Scheme::Bearer), Ok(Scheme::Bearer)]);
        assert_eq!([scheme(b"DPoP a"), scheme(b"dpop a")], [Ok(Scheme::Dpop), Ok(Scheme::Dpop)]);
        for value in [&b"Bearer   a"[..], b"DPoP  a", b"Bearer a"] {
            let (_, token) = BearerToken::from_authorization(value).expect("one or more spaces");
            assert_eq!(token.as_str(), "a");
        }
        for value in [&b"Basic abc"[..], b"Bearer", b"DPoP", b"", b" a", b"Bearer\xff a", b"BearerDPoP a"] {
            assert_eq!(scheme(value), Err(TokenError::NotBearer), "{value:?}");
        }
    }
}
