//! TCP and TLS 1.3 to the broker.
//!
//! In scope: which broker is trusted, and how the bytes travel. Out of scope: when to connect again, which is for
//! those who have something to send.

use std::{
    fmt,
    future::Future,
    io,
    net::IpAddr,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    crypto::{CryptoProvider, aws_lc_rs},
    version::TLS13,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName,
    pem::{self, PemObject as _},
};
use thiserror::Error as ThisError;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Error;

const ALPN_H2: &[u8] = b"h2";

/// Why there is no connection. Travels through tonic as the source of a status.
#[derive(Debug, Clone, ThisError)]
pub(crate) enum ConnectFault {
    #[error("cannot reach `{address}`: {fault}")]
    Unreachable { address: String, fault: String },
    #[error("no secure connection to `{address}`: {fault}")]
    Tls { address: String, fault: String },
}

impl From<ConnectFault> for Error {
    fn from(fault: ConnectFault) -> Self {
        match fault {
            ConnectFault::Unreachable { address, fault } => Self::Unreachable { address, fault },
            ConnectFault::Tls { address, fault } => Self::Tls { address, fault },
        }
    }
}

/// Where the broker is, and the name it has to prove.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) uri: Uri,
    host: String,
    port: u16,
    server_name: ServerName<'static>,
}

impl Target {
    /// Reads `https://host:port`; without a port it is 443.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let invalid = |fault: &str| Error::InvalidUrl { url: url.to_owned(), fault: fault.to_owned() };
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
        if uri.scheme_str() != Some("https") {
            return Err(invalid("it must begin with `https://`: plain connections are refused"));
        }
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(invalid("it may not have a path or a query"));
        }
        let bracketed = uri.host().ok_or_else(|| invalid("it names no host"))?;
        let host = bracketed.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = match host.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(host.clone()).map_err(|_| invalid("its host is no name and no address"))?,
        };
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self { uri, host, port, server_name })
    }

    /// `https://host:port` as in a URL that is compared: without the port that goes without saying.
    pub(crate) fn origin(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_ascii_lowercase() };
        if self.port == 443 { format!("https://{host}") } else { format!("https://{host}:{}", self.port) }
    }

    pub(crate) fn address(&self) -> String {
        let is_v6 = self.host.contains(':');
        if is_v6 { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// Makes connections to one broker.
#[derive(Clone)]
pub(crate) struct Connector {
    target: Arc<Target>,
    tls: TlsConnector,
    timeout: Duration,
}

impl Connector {
    /// Trusts the authorities in `ca_pem`, and nobody else.
    pub(crate) fn new(
        target: Target,
        ca_pem: &[u8],
        certificate: Option<ClientCertificate>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let config = tls_config(roots(ca_pem)?, certificate)?;
        Ok(Self { target: Arc::new(target), tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    async fn connect(self) -> Result<TokioIo<TlsStream<TcpStream>>, ConnectFault> {
        let address = self.target.address();
        match tokio::time::timeout(self.timeout, self.handshake(&address)).await {
            Ok(connected) => connected,
            Err(_) => Err(ConnectFault::Unreachable { address, fault: "no answer in time".to_owned() }),
        }
    }

    async fn handshake(&self, address: &str) -> Result<TokioIo<TlsStream<TcpStream>>, ConnectFault> {
        let tcp = tcp_connect(&self.target).await.map_err(|error| unreachable(address, &error))?;
        let name = self.target.server_name.clone();
        let stream = self.tls.connect(name, tcp).await.map_err(|error| handshake_fault(address, &error))?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            let fault = "the other side does not speak HTTP/2".to_owned();
            return Err(ConnectFault::Tls { address: address.to_owned(), fault });
        }
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectFault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

async fn tcp_connect(target: &Target) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn unreachable(address: &str, error: &io::Error) -> ConnectFault {
    ConnectFault::Unreachable { address: address.to_owned(), fault: error.to_string() }
}

/// A TLS fault where rustls found one; else the connection broke in mid-handshake, which says nothing about trust.
fn handshake_fault(address: &str, error: &io::Error) -> ConnectFault {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(fault) => ConnectFault::Tls { address: address.to_owned(), fault: fault.to_string() },
        None => unreachable(address, error),
    }
}

/// What the client proves its own name with in TLS.
pub(crate) struct ClientCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientCertificate {
    /// Reads the chain, the client's own certificate first, and its private key.
    pub(crate) fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, Error> {
        let unreadable = |error: pem::Error| unusable_certificate(error);
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain_pem).collect::<Result<_, _>>().map_err(unreadable)?;
        if chain.is_empty() {
            return Err(unusable_certificate("there is no PEM certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(unreadable)?;
        Ok(Self { chain, key })
    }
}

fn unusable_certificate(fault: impl fmt::Display) -> Error {
    Error::Configuration(format!("the client certificate cannot be used: {fault}"))
}

pub(crate) fn roots(ca_pem: &[u8]) -> Result<RootCertStore, Error> {
    let unusable = |fault: String| Error::Configuration(format!("the certificate authorities cannot be used: {fault}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("there is no PEM certificate".to_owned()));
    }
    Ok(roots)
}

fn tls_config(roots: RootCertStore, certificate: Option<ClientCertificate>) -> Result<ClientConfig, Error> {
    let config = tls13()?.with_root_certificates(roots);
    let mut config = match certificate {
        None => config.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            config.with_client_auth_cert(chain, key).map_err(unusable_certificate)?
        }
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// TLS 1.3 and nothing before it.
pub(crate) fn tls13() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| Error::Configuration(format!("tls cannot be set up: {error}")))
}

/// The hybrid post-quantum key exchange first, whatever features other crates switch on.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider { kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1], ..aws_lc_rs::default_provider() }
}

/// Reads a file that the settings name.
pub(crate) fn read_file(what: &str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path)
        .map_err(|error| Error::Configuration(format!("cannot read the {what} `{}`: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_addresses_without_a_path_are_taken() {
        for url in ["http://localhost:1", "localhost:1", "https://", "https://a:1/path", "https://a:1?q", "ftp://a", ""]
        {
            assert!(matches!(Target::parse(url), Err(Error::InvalidUrl { .. })), "{url}");
        }
    }

    #[test]
    fn names_and_addresses_of_both_kinds_are_taken() {
        for (url, address) in [
            ("https://broker.example:7443", "broker.example:7443"),
            ("https://127.0.0.1:7443/", "127.0.0.1:7443"),
            ("https://[::1]:7443", "[::1]:7443"),
            ("https://broker.example", "broker.example:443"),
        ] {
            assert_eq!(Target::parse(url).expect("an address").address(), address);
        }
    }

    #[test]
    fn the_origin_is_written_in_one_way() {
        for (url, origin) in [
            ("https://Broker.Example:7443/", "https://broker.example:7443"),
            ("https://broker.example:443", "https://broker.example"),
            ("https://broker.example", "https://broker.example"),
            ("https://[::1]:7443", "https://[::1]:7443"),
        ] {
            assert_eq!(Target::parse(url).expect("an address").origin(), origin);
        }
    }

    #[test]
    fn a_client_certificate_needs_its_own_key() {
        let certified = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let (one, other) = (certified("one"), certified("other"));
        let config = |chain: &str, key: &str| {
            ClientCertificate::parse(chain.as_bytes(), key.as_bytes())
                .and_then(|certificate| tls_config(RootCertStore::empty(), Some(certificate)))
        };
        let (chain, key) = (one.cert.pem(), one.signing_key.serialize_pem());
        assert!(config(&chain, &key).is_ok());
        for (chain, key) in [(&chain, &other.signing_key.serialize_pem()), (&key, &key), (&chain, &chain)] {
            assert!(matches!(config(chain, key), Err(Error::Configuration(_))));
        }
    }

    #[test]
    fn the_post_quantum_exchange_comes_first() {
        let first = provider().kx_groups.first().map(|group| group.name());
        assert_eq!(first, Some(rustls::NamedGroup::X25519MLKEM768));
    }

    #[test]
    fn without_a_certificate_there_is_no_trust() {
        assert!(matches!(roots(b"no pem here"), Err(Error::Configuration(_))));
    }
}
