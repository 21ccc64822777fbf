//! The TLS settings: 1.3 only, aws-lc-rs, the hybrid post-quantum key exchange X25519MLKEM768 first, ALPN `h2`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use thiserror::Error;

use crate::seal::SecretFile;

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no PEM of the kind expected.
    #[error("`{path}` holds no valid PEM {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// The certificate and the key do not make a pair, or cannot be used.
    #[error("the certificate `{certificate}` cannot be used with its key: {source}")]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The authorities cannot be used to check client certificates.
    #[error("`{path}` cannot be used to check client certificates: {detail}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        detail: String,
    },
}

/// Who vouches for the certificates of clients. Whoever shows one must hold its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAuthorities<'a> {
    /// The authorities' certificates, PEM.
    pub file: &'a Path,
    /// Whether nobody connects without a certificate.
    pub is_required: bool,
}

/// The cryptography that both ends use; passed explicitly, since another crate may bring another default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server's settings from a certificate chain, in a file, and its key, PEM both. Clients are asked for certificates only where there
/// are authorities for those.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    certificate_file: &Path,
    private_key: &SecretFile,
    clients: Option<ClientAuthorities<'_>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate_file)?;
    let key = key_in(private_key)?;
    let pair = |source| TlsError::Pair { certificate: certificate_file.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_client_cert_verifier(client_verifier(clients)?)
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    if clients.is_some() {
        // A resumed session would carry its certificate on without checking it again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn client_verifier(clients: Option<ClientAuthorities<'_>>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(ClientAuthorities { file: path, is_required }) = clients else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let fault = |error: &dyn ToString| TlsError::Authorities { path: path.to_owned(), detail: error.to_string() };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| fault(&error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| pem_error(path, what, error))?;
    if chain.is_empty() { Err(TlsError::Pem { path: path.to_owned(), what }) } else { Ok(chain) }
}

fn key_in(file: &SecretFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(file.content()).map_err(|error| pem_error(file.path(), "private key", error))
}

fn pem_error(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Read { path: path.to_owned(), source },
        _ => TlsError::Pem { path: path.to_owned(), what },
    }
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    #[test]
    fn the_hybrid_post_quantum_key_exchange_is_offered_first() {
        let first = provider().kx_groups.first().map(|group| group.name());
        assert_eq!(first, Some(NamedGroup::X25519MLKEM768));
    }

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("cert.pem");
        std::fs::write(&file, "not a certificate").expect("written");
        let key = SecretFile::read(&file).expect("a file");
        let error = server_config(&file, &key, None).expect_err("no certificate").to_string();
        assert!(error.contains("cert.pem") && error.contains("certificate"), "{error}");
    }
}
