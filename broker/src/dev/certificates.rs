//! A certificate authority for development, and the broker's certificate from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::{Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, date_time_ymd,
};

const AUTHORITY_NAME: &str = "Veribus development authority";
const AUTHORITY_YEARS: i16 = 10;
const SERVER_YEARS: i16 = 1;

/// Makes a private key (ECDSA P-256): PKCS #8, PEM.
pub(super) fn generate_key() -> Result<String, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(|key| key.serialize_pem())
}

/// The authority's own certificate, PEM.
pub(super) fn authority(authority_key: &str) -> Result<String, rcgen::Error> {
    let key = KeyPair::from_pem(authority_key)?;
    authority_params().self_signed(&key).map(|certificate| certificate.pem())
}

/// The broker's certificate, PEM: for `localhost`, the loopback addresses and `listen`.
pub(super) fn server(authority_key: &str, server_key: &str, listen: IpAddr) -> Result<String, rcgen::Error> {
    let authority = Issuer::new(authority_params(), KeyPair::from_pem(authority_key)?);
    let key = KeyPair::from_pem(server_key)?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.subject_alt_names.extend(addresses(listen).into_iter().map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, "veribus");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    limit_to(&mut params, SERVER_YEARS);
    params.signed_by(&key, &authority).map(|certificate| certificate.pem())
}

fn addresses(listen: IpAddr) -> Vec<IpAddr> {
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !listen.is_unspecified() && !addresses.contains(&listen) {
        addresses.push(listen);
    }
    addresses
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_to(&mut params, AUTHORITY_YEARS);
    params
}

/// Valid from yesterday, so that a clock that is a little behind does no harm.
fn limit_to(params: &mut CertificateParams, years: i16) {
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let first = today.yesterday().unwrap_or(today);
    let (month, day) = (first.month().unsigned_abs(), first.day().unsigned_abs().min(28));
    params.not_before = date_time_ymd(first.year().into(), month, day);
    params.not_after = date_time_ymd(first.year().saturating_add(years).into(), month, day);
}
