//! What a token endpoint answers (RFC 6749 §5).

use std::time::{Duration, SystemTime};

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::unavailable;
use crate::{Token, TokenError};

/// The largest answer that is read: many times what a token takes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How much of what a server says about its refusal is passed on.
const DESCRIPTION_CHARS_MAX: usize = 200;
/// A server that asks for its nonce in the proof (RFC 9449 §8).
const USE_NONCE: &str = "use_dpop_nonce";

pub(super) enum Answer {
    Token { token: Token, is_bound: bool },
    WantsNonce,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: String,
    expires_in: Option<Value>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

pub(super) async fn read(response: &mut Response) -> Result<Answer, TokenError> {
    let status = response.status();
    let body = capped(response).await?;
    if status.is_success() { granted(&body) } else { refused(status, &body) }
}

/// The body, if it is no larger than an answer may be.
async fn capped(response: &mut Response) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    // All the room at once: growing would leave copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
        if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
            return Err(TokenError::Unavailable(format!("its answer is larger than {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn granted(body: &[u8]) -> Result<Answer, TokenError> {
    let Granted { access_token, token_type, expires_in } =
        serde_json::from_slice(body).map_err(|_| TokenError::Unavailable("its answer holds no token".to_owned()))?;
    let access_token = Zeroizing::new(access_token);
    let is_bound = token_type.eq_ignore_ascii_case("DPoP");
    if !is_bound && !token_type.eq_ignore_ascii_case("Bearer") {
        return Err(TokenError::Refused("the token is of a type that is not understood".to_owned()));
    }
    let token = Token::new(access_token.as_str())?;
    let token = match expires_in.and_then(seconds).and_then(|life| SystemTime::now().checked_add(life)) {
        Some(at) => token.expiring_at(at),
        None => token,
    };
    Ok(Answer::Token { token, is_bound })
}

/// A number by the book; some servers give it as a text.
fn seconds(value: Value) -> Option<Duration> {
    let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    Some(Duration::from_secs(seconds))
}

fn refused(status: StatusCode, body: &[u8]) -> Result<Answer, TokenError> {
    let said = serde_json::from_slice::<Refused>(body).ok();
    if said.as_ref().is_some_and(|said| said.error == USE_NONCE) {
        return Ok(Answer::WantsNonce);
    }
    let text = said.map_or_else(|| status.to_string(), |said| said.text());
    let is_final = status.is_client_error()
        && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    Err(if is_final { TokenError::Refused(text) } else { TokenError::Unavailable(text) })
}

impl Refused {
    /// On one line, and not for ever.
    fn text(&self) -> String {
        let text = if self.error_description.is_empty() {
            self.error.clone()
        } else {
            format!("{}: {}", self.error, self.error_description)
        };
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DESCRIPTION_CHARS_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(body: &str) -> Option<u64> {
        let Ok(Answer::Token { token, .. }) = granted(body.as_bytes()) else { panic!("{body}") };
        let left = token.expires_at()?.duration_since(SystemTime::now()).expect("to come");
        Some(left.as_secs_f64().round() as u64)
    }

    #[test]
    fn how_long_a_token_lives_is_a_number_or_a_text_or_unknown() {
        for (given, expected) in
            [("300", Some(300)), ("\"300\"", Some(300)), ("null", None), ("-1", None), ("\"soon\"", None), ("[]", None)]
        {
            let body = format!(r#"{{"access_token":"opaque","token_type":"bearer","expires_in":{given}}}"#);
            assert_eq!(life(&body), expected, "{given}");
        }
    }

    #[test]
    fn an_answer_without_a_token_or_of_another_type_is_none() {
        for body in [
            "",
            "[]",
            r#"{"access_token":"a"}"#,
            r#"{"access_token":"","token_type":"Bearer"}"#,
            r#"{"access_token":"a b","token_type":"Bearer"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
        ] {
            assert!(granted(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn what_the_server_says_is_kept_on_one_short_line() {
        let body = format!(r#"{{"error":"invalid_client","error_description":"no\n\u001b[31m{}"}}"#, "x".repeat(1000));
        let Err(TokenError::Refused(text)) = refused(StatusCode::UNAUTHORIZED, body.as_bytes()) else { panic!() };
        assert!(text.starts_with("invalid_client: no  [31mxxx"), "{text}");
        assert_eq!(text.chars().count(), DESCRIPTION_CHARS_MAX);
    }
}
