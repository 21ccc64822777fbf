//! How a key set is fetched: over HTTPS, without redirects, and never more bytes than a set may have.

use std::{path::PathBuf, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, header::ACCEPT, redirect::Policy};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Map, Value};
use thiserror::Error;
use url::Url;

use super::{
    address::{self, AddressError},
    algorithm::Algorithms,
    set::KeySet,
};
use crate::{
    authenticate::{error::KeySetError, strict_json},
    model::Issuer,
};

const CONNECT_MAX: Duration = Duration::from_secs(5);
const REQUEST_MAX: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";
/// RFC 7517, section 8.5.2, and what most servers say.
const KEY_SET_TYPES: &str = "application/jwk-set+json, application/json";

/// Why a source cannot be set up.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The address is none to fetch keys from.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The authority's certificate cannot be read.
    #[error("cannot read a certificate in `{path}`: {detail}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// No HTTP client.
    #[error("cannot set up the HTTP client: {0}")]
    Client(String),
}

/// Why there is no key set.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No answer, or not a whole one.
    #[error("cannot reach `{url}`: {detail}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        detail: String,
    },
    /// An answer that is not the document.
    #[error("`{url}` answers with status {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// Longer than a key set may be.
    #[error("`{url}` answers with more than {max} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The most we take.
        max: usize,
    },
    /// Not a discovery document.
    #[error("`{url}` is not a discovery document with `issuer` and `jwks_uri`")]
    NotDiscovery {
        /// What was asked.
        url: String,
    },
    /// The discovery document is somebody else's (OpenID Connect Discovery 1.0, section 4.3; RFC 8414, section 3.3).
    #[error("the document at `{url}` is that of `{found}`")]
    OtherIssuer {
        /// What was asked.
        url: String,
        /// The issuer that it names.
        found: String,
    },
    /// The discovery document names an address that keys may not be fetched from.
    #[error("the discovery document's `jwks_uri`: {0}")]
    Address(#[from] AddressError),
    /// The answer is no key set.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

impl FetchError {
    /// Whether it may be the moment, and not the settings, that is to blame.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Status { .. })
    }
}

/// What an operator decides about the way to an issuer's keys.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Which algorithms the issuer may sign with.
    pub algorithms: Algorithms,
    /// Whether plain HTTP is accepted, on the loopback.
    pub allow_loopback_http: bool,
    /// The only authority whose certificates are accepted, PEM; those of the system if absent.
    pub ca_file: Option<PathBuf>,
}

/// Where an issuer publishes its keys.
pub struct KeySource {
    client: Client,
    place: Place,
    access: Access,
}

enum Place {
    Discovery { issuer: Issuer, openid: Url, oauth: Url },
    KeySet(Url),
}

impl KeySource {
    /// By the issuer's own document: `.well-known/openid-configuration` below the issuer, or, where there is none to
    /// be had, that of RFC 8414.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn discovery(issuer: Issuer, access: Access) -> Result<Self, SourceError> {
        let root = address::parse(issuer.as_str(), access.allow_loopback_http)?;
        let path = root.path().trim_end_matches('/');
        let at = |path: String| {
            let mut url = root.clone();
            url.set_path(&path);
            url.set_query(None);
            url
        };
        let openid = at(format!("{path}/.well-known/openid-configuration"));
        let oauth = at(format!("/.well-known/oauth-authorization-server{path}"));
        let place = Place::Discovery { issuer, openid, oauth };
        Ok(Self { client: client(&access)?, place, access })
    }

    /// At this URL.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn jwks_url(url: &str, access: Access) -> Result<Self, SourceError> {
        let url = address::parse(url, access.allow_loopback_http)?;
        Ok(Self { client: client(&access)?, place: Place::KeySet(url), access })
    }

    /// Fetches the set as it is now; it may be empty.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(&self) -> Result<KeySet, FetchError> {
        let url = match &self.place {
            Place::KeySet(url) => url.clone(),
            Place::Discovery { issuer, openid, oauth } => self.discover(issuer, openid, oauth).await?,
        };
        Ok(KeySet::parse(&self.get(&url, KEY_SET_TYPES).await?, &self.access.algorithms)?)
    }

    async fn discover(&self, issuer: &Issuer, openid: &Url, oauth: &Url) -> Result<Url, FetchError> {
        let (url, document) = match self.get(openid, JSON).await {
            // Some answer so where there is none.
            Err(FetchError::Status { status: 401 | 403 | 404, .. }) => (oauth, self.get(oauth, JSON).await?),
            answer => (openid, answer?),
        };
        let invalid = || FetchError::NotDiscovery { url: url.to_string() };
        let members = object(&document).ok_or_else(invalid)?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).ok_or_else(invalid);
        let found = text("issuer")?;
        if found != issuer.as_str() {
            return Err(FetchError::OtherIssuer { url: url.to_string(), found: found.to_owned() });
        }
        Ok(address::parse(text("jwks_uri")?, self.access.allow_loopback_http)?)
    }

    async fn get(&self, url: &Url, types: &'static str) -> Result<Vec<u8>, FetchError> {
        let unreachable =
            |error: reqwest::Error| FetchError::Unreachable { url: url.to_string(), detail: cause(&error) };
        let request = self.client.get(url.clone()).header(ACCEPT, types);
        let mut answer = request.send().await.map_err(unreachable)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status { url: url.to_string(), status: answer.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > KeySet::BYTES_MAX {
                return Err(FetchError::TooLarge { url: url.to_string(), max: KeySet::BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match strict_json::parse(bytes) {
        Ok(Value::Object(members)) => Some(members),
        _ => None,
    }
}

/// The innermost reason, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn client(access: &Access) -> Result<Client, SourceError> {
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls(access)?)
        .https_only(!access.allow_loopback_http)
        .redirect(Policy::none())
        .connect_timeout(CONNECT_MAX)
        .timeout(REQUEST_MAX)
        .user_agent(concat!("veribus/", env!("CARGO_PKG_VERSION")));
    if access.allow_loopback_http {
        // What is meant for the loopback must not leave the machine through a proxy.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| SourceError::Client(cause(&error)))
}

fn tls(access: &Access) -> Result<ClientConfig, SourceError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SourceError::Client(error.to_string()))?;
    let roots = match &access.ca_file {
        Some(path) => authority(path)?,
        None => system_roots(),
    };
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn authority(path: &PathBuf) -> Result<RootCertStore, SourceError> {
    let fault = |detail: String| SourceError::Authority { path: path.clone(), detail };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))? {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() { Err(fault("it holds none".to_owned())) } else { Ok(roots) }
}

/// Those that cannot be read are passed over: without any, no issuer can be reached, and that is told.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
