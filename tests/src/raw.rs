//! The generated clients, over a connection of our own, with any metadata.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use veribus_broker::transport::tls::provider;
use veribus_proto::v1::{
    admin_service_client::AdminServiceClient, audit_service_client::AuditServiceClient,
    broker_service_client::BrokerServiceClient, state_service_client::StateServiceClient,
};

use crate::certificates::ClientCertificate;

/// How a connection differs from an ordinary one.
#[derive(Debug, Clone, Copy, Default)]
pub struct RawOptions {
    /// HTTP/2 windows of the stream and of the connection, in bytes; HTTP/2's own of 64 KiB if absent.
    pub window_bytes: Option<u32>,
    /// The largest header list that the client accepts, in bytes.
    pub header_list_bytes_max: Option<u32>,
}

/// A channel that sends a token, or none.
pub type RawChannel = InterceptedService<Channel, Bearer>;

/// One connection, and who speaks on it.
#[derive(Debug, Clone)]
pub struct Raw {
    channel: Channel,
    bearer: Bearer,
}

impl Raw {
    /// Connects at once.
    ///
    /// # Errors
    /// Why there is no connection, or why the token cannot be sent at all.
    pub async fn connect(address: SocketAddr, ca: &Path, token: Option<&str>, options: RawOptions) -> Result<Self> {
        Self::connect_by(client_config(ca)?, address, token, options).await
    }

    /// The same with TLS settings of one's own.
    ///
    /// # Errors
    /// As [`Raw::connect`].
    pub async fn connect_by(
        tls: ClientConfig,
        address: SocketAddr,
        token: Option<&str>,
        options: RawOptions,
    ) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(tls));
        let connector = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move { tls_connect(&tls, address).await.map(TokioIo::new) }
        });
        let mut endpoint = Endpoint::try_from(format!("https://{address}"))?
            .initial_stream_window_size(options.window_bytes)
            .initial_connection_window_size(options.window_bytes);
        if let Some(bytes) = options.header_list_bytes_max {
            endpoint = endpoint.http2_max_header_list_size(bytes);
        }
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok(Self { channel, bearer: Bearer::new(token)? })
    }

    /// The same connection with another token.
    ///
    /// # Errors
    /// Where the token cannot be sent at all.
    pub fn with_token(&self, token: Option<&str>) -> Result<Self> {
        Ok(Self { channel: self.channel.clone(), bearer: Bearer::new(token)? })
    }

    /// The connection itself.
    #[must_use]
    pub fn channel(&self) -> RawChannel {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// `BrokerService`.
    #[must_use]
    pub fn broker(&self) -> BrokerServiceClient<RawChannel> {
        BrokerServiceClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }

    /// `StateService`.
    #[must_use]
    pub fn state(&self) -> StateServiceClient<RawChannel> {
        StateServiceClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }

    /// `AdminService`.
    #[must_use]
    pub fn admin(&self) -> AdminServiceClient<RawChannel> {
        AdminServiceClient::new(self.channel())
    }

    /// `AuditService`.
    #[must_use]
    pub fn audit(&self) -> AuditServiceClient<RawChannel> {
        AuditServiceClient::new(self.channel()).max_decoding_message_size(64 << 20)
    }
}

/// Puts the token into each request.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn new(token: Option<&str>) -> Result<Self> {
        let value = |token| MetadataValue::try_from(format!("Bearer {token}")).context("not even metadata");
        Ok(Self(token.map(value).transpose()?))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A TLS connection that speaks HTTP/2.
///
/// # Errors
/// Why there is none.
pub async fn tls_connect(tls: &TlsConnector, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    tls.connect(ServerName::from(address.ip()), tcp).await
}

/// TLS settings that trust the authority in `ca` and nobody else.
///
/// # Errors
/// Where there is no such authority.
pub fn client_config(ca: &Path) -> Result<ClientConfig> {
    client_config_as(ca, None)
}

/// The same, showing a client certificate if the broker asks for one.
///
/// # Errors
/// As [`client_config`]; also where the certificate cannot be used.
pub fn client_config_as(ca: &Path, certificate: Option<&ClientCertificate>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match certificate {
        Some(certificate) => builder.with_client_auth_cert(certificate.chain(), certificate.key())?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The broker's stable word in a status; empty if there is none.
#[must_use]
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
