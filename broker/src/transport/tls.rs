//! The TLS settings: 1.3 only, aws-lc-rs, the hybrid post-quantum key exchange X25519MLKEM768 first, ALPN `h2`. Certificate and
//! client authorities can be replaced while the broker runs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::UnixTime,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::certificate::{CertificateFacts, CertificateFault};
use crate::{model::UnixMicros, seal::SecretFile};

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
    /// The private key is under a passphrase, which nobody could type in.
    #[error(
        "the private key `{0}` is encrypted: decrypt it (`openssl pkey -in {0} -out server.key`) and protect the file instead"
    )]
    EncryptedKey(PathBuf),
    /// The certificate is for another key.
    #[error(
        "the certificate `{certificate}` and the private key `{key}` do not belong together: \
         `openssl x509 -noout -pubkey -in {certificate}` and `openssl pkey -pubout -in {key}` print different keys"
    )]
    Mismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The certificate and the key cannot be used.
    #[error("the certificate `{certificate}` cannot be used with its key: {source}")]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// What the certificate says keeps clients away.
    #[error("the certificate `{path}` {fault}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: CertificateFault,
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

impl TlsError {
    /// Whether both say the same of a certificate.
    #[must_use]
    pub fn is_alike(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Certificate { fault, .. }, Self::Certificate { fault: other, .. })
            if std::mem::discriminant(fault) == std::mem::discriminant(other))
    }
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

/// The broker's certificate chain and its key, which belong together.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    certified: Arc<CertifiedKey>,
    facts: CertificateFacts,
    sha256: [u8; 32],
    path: PathBuf,
}

impl ServerCertificate {
    /// Reads the chain, PEM, leaf first; `key` is PEM too.
    ///
    /// # Errors
    /// [`TlsError`]; what else may keep clients away is for [`faults`](Self::faults) to say.
    pub fn load(certificate_file: &Path, key: &SecretFile) -> Result<Self, TlsError> {
        let (chain, sha256) = certificates(certificate_file)?;
        let path = || certificate_file.to_owned();
        let facts = chain.first().map(CertificateFacts::read).transpose();
        let facts = facts.ok().flatten().ok_or_else(|| TlsError::Pem { path: path(), what: "certificate" })?;
        let certified = CertifiedKey::from_der(chain, key_in(key)?, &provider()).map_err(|source| match source {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { certificate: path(), key: key.path().to_owned() }
            }
            source => TlsError::Pair { certificate: path(), source },
        })?;
        Ok(Self { certified: Arc::new(certified), facts, sha256, path: path() })
    }

    /// What in it keeps clients away at this time.
    #[must_use]
    pub fn faults(&self, now: UnixMicros) -> Vec<TlsError> {
        let at = |fault| TlsError::Certificate { path: self.path.clone(), fault };
        self.facts.faults(now).into_iter().map(at).collect()
    }

    /// What it says of itself.
    #[must_use]
    pub const fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// SHA-256 of its file.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

/// Checks the certificates of clients.
#[derive(Debug, Clone)]
pub struct ClientVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    sha256: [u8; 32],
}

impl ClientVerifier {
    /// Reads the authorities.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(authorities: ClientAuthorities<'_>) -> Result<Self, TlsError> {
        let path = authorities.file;
        let fault = |error: &dyn ToString| TlsError::Authorities { path: path.to_owned(), detail: error.to_string() };
        let (certificates, sha256) = certificates(path)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| fault(&error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if authorities.is_required { builder } else { builder.allow_unauthenticated() };
        Ok(Self { verifier: builder.build().map_err(|error| fault(&error))?, sha256 })
    }

    /// SHA-256 of the authorities' file.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Whether an authority vouches for the first certificate of a client's chain at this moment.
    fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// The settings of TLS in force.
#[derive(Debug)]
pub struct ServerTls {
    /// What the settings are made of; held while they are replaced.
    parts: Mutex<(ServerCertificate, Option<ClientVerifier>)>,
    current: ArcSwap<TlsSettings>,
}

/// The settings under which one handshake is made.
#[derive(Debug)]
pub struct TlsSettings {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<ClientVerifier>,
}

impl ServerTls {
    /// Clients are asked for certificates only where there is somebody to check them.
    ///
    /// # Errors
    /// [`TlsError::Pair`].
    pub fn new(certificate: ServerCertificate, clients: Option<ClientVerifier>) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(settings(&certificate, clients.clone())?);
        Ok(Self { parts: Mutex::new((certificate, clients)), current })
    }

    /// The settings for the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<TlsSettings> {
        self.current.load_full()
    }

    /// Shows another certificate from now on.
    ///
    /// # Errors
    /// [`TlsError::Pair`]: the one before stays.
    pub fn set_certificate(&self, certificate: ServerCertificate) -> Result<(), TlsError> {
        let mut parts = self.parts.lock();
        self.current.store(Arc::new(settings(&certificate, parts.1.clone())?));
        parts.0 = certificate;
        Ok(())
    }

    /// Has the certificates of clients checked by others from now on.
    ///
    /// # Errors
    /// [`TlsError::Pair`]: those before stay.
    pub fn set_clients(&self, clients: ClientVerifier) -> Result<(), TlsError> {
        let mut parts = self.parts.lock();
        self.current.store(Arc::new(settings(&parts.0, Some(clients.clone()))?));
        parts.1 = Some(clients);
        Ok(())
    }

    /// The certificate in force.
    #[must_use]
    pub fn certificate(&self) -> ServerCertificate {
        self.parts.lock().0.clone()
    }

    /// SHA-256 of the file with the authorities in force, if clients are asked for certificates.
    #[must_use]
    pub fn clients_sha256(&self) -> Option<[u8; 32]> {
        self.parts.lock().1.as_ref().map(|clients| clients.sha256)
    }
}

impl TlsSettings {
    /// Whether the authorities of these settings vouch for a client's chain.
    #[must_use]
    pub fn vouch_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.vouches_for(chain))
    }
}

fn settings(certificate: &ServerCertificate, clients: Option<ClientVerifier>) -> Result<TlsSettings, TlsError> {
    let pair = |source| TlsError::Pair { certificate: certificate.path.clone(), source };
    let verifier = match &clients {
        Some(clients) => Arc::clone(&clients.verifier),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.certified))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    if clients.is_some() {
        // A resumed session would carry its certificate on without checking it again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(TlsSettings { config: Arc::new(config), clients })
}

/// The certificates in a file, and SHA-256 of the file.
fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, [u8; 32]), TlsError> {
    let what = "certificate";
    let text = fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok((chain, Sha256::digest(&text).into())),
        Ok(_) | Err(_) => Err(TlsError::Pem { path: path.to_owned(), what }),
    }
}

fn key_in(file: &SecretFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(file.content()).map_err(|_| {
        let path = file.path().to_owned();
        let says = |text: &[u8]| file.content().windows(text.len()).any(|window| window == text);
        // PKCS #8 (RFC 5958, section 3), and what OpenSSL wrote before.
        if says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED") {
            return TlsError::EncryptedKey(path);
        }
        TlsError::Pem { path, what: "private key" }
    })
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
        let error = ServerCertificate::load(&file, &key).expect_err("no certificate").to_string();
        assert!(error.contains("cert.pem") && error.contains("certificate"), "{error}");
    }
}
