//! `veribus health`: asks as any gRPC health probe does, without a token.

use std::{io, path::Path, sync::Arc, time::Duration};

use clap::Args;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::service_fn;

use super::{connect::BrokerArgs, failure::Failure, output};

const SERVICE: &str = "veribus.v1.BrokerService";
const ANSWER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let (url, ca) = args.broker.checked()?;
    let url = Uri::try_from(url).map_err(Failure::usage)?;
    let asked = tokio::time::timeout(ANSWER_MAX, ask(&url, &ca)).await;
    match asked.unwrap_or_else(|_| Err(Failure::failed("the broker does not answer")))? {
        ServingStatus::Serving => Ok(output::line("serving")?),
        ServingStatus::NotServing | ServingStatus::Unknown | ServingStatus::ServiceUnknown => {
            Err(Failure::failed("the broker does not serve: it is stopping, or its disk is nearly full"))
        }
    }
}

async fn ask(url: &Uri, ca: &Path) -> Result<ServingStatus, Failure> {
    let channel = connect(url, ca).await?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service: SERVICE.to_owned() }).await;
    let status =
        answer.map_err(|status| Failure::failed(format!("the broker does not serve: {}", status.message())))?;
    Ok(status.into_inner().status())
}

async fn connect(url: &Uri, ca: &Path) -> Result<Channel, Failure> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| Failure::usage(format!("`{url}` names no host")))?;
    let (port, tls) = (url.port_u16().unwrap_or(443), tls(ca)?);
    let connector = service_fn(move |_: Uri| handshake(host.clone(), port, name.clone(), tls.clone()));
    Endpoint::from(url.clone())
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::failed(format!("cannot reach `{url}`: {}", root_cause(&error))))
}

async fn handshake(
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tls.connect(name, tcp).await.map(TokioIo::new)
}

fn tls(ca: &Path) -> Result<TlsConnector, Failure> {
    let about = |fault: &dyn ToString| Failure::usage(format!("`{}`: {}", ca.display(), fault.to_string()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| about(&error))? {
        roots.add(certificate.map_err(|error| about(&error))?).map_err(|error| about(&error))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| about(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
