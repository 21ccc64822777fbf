//! An authority for client certificates, and certificates from it.

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

/// Vouches for clients.
pub struct ClientAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A client's certificate and its key.
pub struct ClientCertificate {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl ClientAuthority {
    /// A new one.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a client.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn issue(&self, name: &str) -> Result<ClientCertificate> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate { certificate: certificate.der().clone(), pem: certificate.pem(), key })
    }
}

impl ClientCertificate {
    /// As `x5t#S256` names it (RFC 8705, section 3.1).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        BASE64URL_NOPAD.encode(&Sha256::digest(&self.certificate))
    }

    /// As it is shown.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    /// The same as a PEM file.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.pem
    }

    /// Its private key as a PEM file.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Its private key.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}
