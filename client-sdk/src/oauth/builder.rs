//! What a token is asked for with.

use std::{fmt, path::PathBuf, sync::Mutex, time::Duration};

use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::{ClientCredentials, ClientSecret, TIMEOUT, endpoint::Endpoint};
use crate::{
    DpopKey, Error,
    connect::{read_file, roots, tls13},
};

/// Collects what [`ClientCredentials`] need; [`ClientCredentialsBuilder::build`] checks it.
#[must_use]
pub struct ClientCredentialsBuilder {
    token_url: String,
    client: ClientSecret,
    form: Vec<(String, String)>,
    authorities: Option<Authorities>,
    allow_loopback_http: bool,
    dpop: Option<DpopKey>,
    timeout: Duration,
}

enum Authorities {
    File(PathBuf),
    Pem(Vec<u8>),
}

impl ClientCredentialsBuilder {
    pub(super) fn new(token_url: String, id: String, secret: Zeroizing<String>) -> Self {
        Self {
            token_url,
            client: ClientSecret { id, secret, is_in_body: false },
            form: vec![("grant_type".to_owned(), "client_credentials".to_owned())],
            authorities: None,
            allow_loopback_http: false,
            dpop: None,
            timeout: TIMEOUT,
        }
    }

    /// What the token shall permit; several with spaces between them.
    pub fn scope(self, scope: impl Into<String>) -> Self {
        self.parameter("scope", scope)
    }

    /// For whom the token is meant, at servers that ask for it by the name `audience`.
    pub fn audience(self, audience: impl Into<String>) -> Self {
        self.parameter("audience", audience)
    }

    /// For whom the token is meant (RFC 8707). May be given more than once.
    pub fn resource(self, resource: impl Into<String>) -> Self {
        self.parameter("resource", resource)
    }

    /// Anything else that the server wants to be told.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.form.push((name.into(), value.into()));
        self
    }

    /// Shows the secret in the form (`client_secret_post`), for servers that do not take it in the header
    /// (`client_secret_basic`), which is the default.
    pub const fn secret_in_body(mut self) -> Self {
        self.client.is_in_body = true;
        self
    }

    /// The file of authorities, PEM, that the server's certificate must come from, instead of the system's.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(Authorities::File(path.into()));
        self
    }

    /// The same, as PEM.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(Authorities::Pem(pem.into()));
        self
    }

    /// Takes a `http` address too, but only on this machine: for tests and sidecars. The secret travels in plain.
    pub const fn allow_loopback_http(mut self) -> Self {
        self.allow_loopback_http = true;
        self
    }

    /// Asks for tokens that are bound to this key (RFC 9449 §5), and takes no others.
    pub fn dpop(mut self, key: DpopKey) -> Self {
        self.dpop = Some(key);
        self
    }

    /// How long one request may take. Default 10 s; the client waits 30 s at most.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the provider. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Configuration`].
    pub fn build(self) -> Result<ClientCredentials, Error> {
        let endpoint = Endpoint::parse(&self.token_url, self.allow_loopback_http)?;
        let roots = match self.authorities {
            Some(Authorities::Pem(pem)) => roots(&pem)?,
            Some(Authorities::File(path)) => roots(&read_file("authorities", &path)?)?,
            None => system_roots()?,
        };
        let http = http(&endpoint, roots, self.timeout)?;
        Ok(ClientCredentials {
            http,
            endpoint,
            client: self.client,
            form: self.form,
            dpop: self.dpop,
            nonce: Mutex::new(None),
        })
    }
}

impl fmt::Debug for ClientCredentialsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentialsBuilder").field("client_id", &self.client.id).finish_non_exhaustive()
    }
}

/// A client that follows nobody elsewhere: a redirect would take the secret along.
fn http(endpoint: &Endpoint, roots: RootCertStore, timeout: Duration) -> Result<Client, Error> {
    let tls: ClientConfig = tls13()?.with_root_certificates(roots).with_no_client_auth();
    let builder = Client::builder().tls_backend_preconfigured(tls).redirect(redirect::Policy::none()).timeout(timeout);
    let builder = if endpoint.is_loopback() { builder.no_proxy() } else { builder.https_only(true) };
    builder.build().map_err(|error| Error::Configuration(format!("no HTTP client: {error}")))
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(Error::Configuration("the system has no certificate authorities: give some".to_owned()));
    }
    Ok(roots)
}
