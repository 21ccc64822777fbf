//! Tokens by the OAuth 2 client credentials grant (RFC 6749 §4.4), bound to a key where there is one (RFC 9449 §5).
//!
//! In scope: one request to a token endpoint and its answer. Out of scope: when to make it, which is for the client that
//! asks; other grants, which need a person.

mod answer;
mod builder;
mod endpoint;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder, Response, header::AUTHORIZATION, header::HeaderValue};
use zeroize::Zeroizing;

pub use builder::ClientCredentialsBuilder;

use crate::{DpopKey, Token, TokenError, TokenFuture, TokenProvider};
use answer::{Answer, read};
use endpoint::Endpoint;

/// What stays as it is in a form (RFC 6749 appendix B says which encoding, RFC 3986 what is unreserved).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest nonce that is given back to a server.
const NONCE_BYTES_MAX: usize = 1024;

/// Gets tokens from a token endpoint for the client itself.
///
/// ```no_run
/// use veribus_client::{Client, ClientCredentials, DpopKey};
///
/// # async fn connect(secret: String) -> Result<(), veribus_client::Error> {
/// let key = DpopKey::generate()?;
/// let tokens = ClientCredentials::builder("https://login.example.com/token", "billing-agent", secret)
///     .scope("publish:finance.>")
///     .audience("veribus")
///     .dpop(key.clone()) // the issuer binds the tokens to the key …
///     .build()?;
/// let client = Client::builder("https://broker.example.com:7443")
///     .ca_file("ca.pem")
///     .token_provider(tokens)
///     .dpop(key) // … and the client proves that it holds it
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub struct ClientCredentials {
    http: Client,
    endpoint: Endpoint,
    client: ClientSecret,
    /// The grant and what it is for.
    form: Vec<(String, String)>,
    dpop: Option<DpopKey>,
    /// What the server wants to see in the next proof.
    nonce: Mutex<Option<String>>,
}

/// Who asks, and how that is shown.
struct ClientSecret {
    id: String,
    secret: Zeroizing<String>,
    is_in_body: bool,
}

impl ClientSecret {
    /// `client_secret_basic`: both parts form-encoded first (RFC 6749 §2.3.1).
    fn basic(&self) -> Option<HeaderValue> {
        let encode = |text| Zeroizing::new(utf8_percent_encode(text, RESERVED).to_string());
        let pair = Zeroizing::new(format!("{}:{}", *encode(&self.id), *encode(&self.secret)));
        let text = Zeroizing::new(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes())));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl ClientCredentials {
    /// For the token endpoint at `token_url`, as the client of that id and secret.
    ///
    /// The URL must be `https`. The authorities of the system are trusted unless others are given. TLS is 1.3.
    pub fn builder(
        token_url: impl Into<String>,
        client_id: impl Into<String>,
        client_secret: impl Into<String>,
    ) -> ClientCredentialsBuilder {
        ClientCredentialsBuilder::new(token_url.into(), client_id.into(), Zeroizing::new(client_secret.into()))
    }

    /// Asks, and once more where the server wants its nonce in the proof (RFC 9449 §8).
    async fn request(&self) -> Result<Token, TokenError> {
        let answer = match self.ask().await? {
            Answer::WantsNonce if self.nonce().is_some() => self.ask().await?,
            answer => answer,
        };
        match answer {
            Answer::Token { token, is_bound } if is_bound == self.dpop.is_some() => Ok(token),
            Answer::Token { is_bound: true, .. } => Err(TokenError::Refused("the token needs a DPoP key".to_owned())),
            Answer::Token { .. } => Err(TokenError::Refused("the token is not bound to the DPoP key".to_owned())),
            Answer::WantsNonce => {
                Err(TokenError::Refused("the server does not take the nonce that it gave".to_owned()))
            }
        }
    }

    async fn ask(&self) -> Result<Answer, TokenError> {
        let mut response = self.post()?.send().await.map_err(unavailable)?;
        self.keep_nonce(&response);
        read(&mut response).await
    }

    fn post(&self) -> Result<RequestBuilder, TokenError> {
        let ClientSecret { id, secret, is_in_body } = &self.client;
        let request = self.http.post(self.endpoint.url()).header("accept", "application/json");
        let form: Vec<(&str, &str)> = self.form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let request = if *is_in_body {
            request.form(&[form, vec![("client_id", id), ("client_secret", secret)]].concat())
        } else {
            let basic = self.client.basic().ok_or(TokenError::Unusable("the client's id or secret cannot be sent"))?;
            request.form(&form).header(AUTHORIZATION, basic)
        };
        match &self.dpop {
            None => Ok(request),
            Some(key) => Ok(request.header("dpop", self.proof(key)?)),
        }
    }

    fn proof(&self, key: &DpopKey) -> Result<String, TokenError> {
        key.proof("POST", self.endpoint.target(), None, self.nonce().as_deref())
            .map_err(|error| TokenError::Refused(error.to_string()))
    }

    fn nonce(&self) -> Option<String> {
        self.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A server may give a new one with any answer.
    fn keep_nonce(&self, response: &Response) {
        let given = response.headers().get("dpop-nonce").and_then(|nonce| nonce.to_str().ok());
        if let Some(nonce) = given.filter(|nonce| !nonce.is_empty() && nonce.len() <= NONCE_BYTES_MAX) {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
    }
}

impl TokenProvider for ClientCredentials {
    fn token(&self) -> TokenFuture<'_> {
        Box::pin(self.request())
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("endpoint", &self.endpoint.target())
            .field("client_id", &self.client.id)
            .finish_non_exhaustive()
    }
}

fn unavailable(error: reqwest::Error) -> TokenError {
    let mut error: &dyn std::error::Error = &error.without_url();
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        error = source;
        text = format!("{text}: {error}");
    }
    TokenError::Unavailable(text)
}

/// How long one request may take unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
