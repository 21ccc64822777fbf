//! The TLS settings: 1.3 only, aws-lc-rs, the hybrid post-quantum key exchange X25519MLKEM768 first, ALPN `h2`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ServerConfig, crypto::CryptoProvider, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use thiserror::Error;

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
}

/// The cryptography that both ends use; passed explicitly, since another crate may bring another default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server's settings from a certificate chain and its key, PEM both.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(certificate_file: &Path, private_key_file: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate_file)?;
    let key = private_key(private_key_file)?;
    let pair = |source| TlsError::Pair { certificate: certificate_file.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| pem_error(path, what, error))?;
    if chain.is_empty() { Err(TlsError::Pem { path: path.to_owned(), what }) } else { Ok(chain) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(path, "private key", error))
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
        let error = server_config(&file, &file).expect_err("no certificate").to_string();
        assert!(error.contains("cert.pem") && error.contains("certificate"), "{error}");
    }
}
