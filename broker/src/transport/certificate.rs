//! What a server's certificate says that keeps clients away (RFC 5280; RFC 9525).

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::{certificate::X509Certificate, error::X509Error, prelude::FromDer as _};

use crate::model::UnixMicros;

const DAY_S: i64 = 86_400;
/// Less than this many days before its end, a certificate should be on its way to be replaced.
pub const DAYS_LEFT_MIN: i64 = 14;

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateFault {
    /// RFC 5280, section 4.1.2.5.
    #[error("expired at {0}, so that no client can connect: replace it")]
    Expired(jiff::Timestamp),
    /// As before.
    #[error("is not valid before {0}, and no client can connect until then: check this machine's clock, or replace it")]
    NotYetValid(jiff::Timestamp),
    /// RFC 9525, section 2.
    #[error(
        "names no host: it has no subject alternative name, and clients ignore the common name; issue it with \
         `-addext subjectAltName=DNS:broker.example`"
    )]
    NoName,
    /// RFC 5280, section 4.2.1.9.
    #[error(
        "is that of an authority (`CA:TRUE`, as `openssl req -x509` makes it), which Rust and Go clients refuse as a server's \
         (`CaUsedAsEndEntity`): issue it with `-addext basicConstraints=critical,CA:FALSE`"
    )]
    Authority,
}

impl CertificateFault {
    /// Whether it keeps away every client for good.
    #[must_use]
    pub const fn is_expired(&self) -> bool {
        matches!(self, Self::Expired(_))
    }
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// In seconds since the Unix epoch, inclusive.
    not_before: i64,
    not_after: i64,
    has_names: bool,
    is_authority: bool,
}

impl CertificateFacts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, X509Error> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => error,
            x509_parser::nom::Err::Incomplete(_) => X509Error::InvalidCertificate,
        })?;
        let validity = certificate.validity();
        let names = certificate.subject_alternative_name()?;
        Ok(Self {
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            has_names: names.is_some_and(|names| !names.value.general_names.is_empty()),
            is_authority: certificate.is_ca(),
        })
    }

    /// What keeps clients away at this time.
    #[must_use]
    pub fn faults(&self, now: UnixMicros) -> Vec<CertificateFault> {
        let now = now.0.div_euclid(1_000_000);
        let instant = |seconds| jiff::Timestamp::from_second(seconds).unwrap_or_default();
        let faults = [
            (now > self.not_after).then(|| CertificateFault::Expired(instant(self.not_after))),
            (now < self.not_before).then(|| CertificateFault::NotYetValid(instant(self.not_before))),
            (!self.has_names).then_some(CertificateFault::NoName),
            self.is_authority.then_some(CertificateFault::Authority),
        ];
        faults.into_iter().flatten().collect()
    }

    /// Whole days until its end; negative once it is over.
    #[must_use]
    pub fn days_left(&self, now: UnixMicros) -> i64 {
        (self.not_after - now.0.div_euclid(1_000_000)).div_euclid(DAY_S)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn facts(change: impl FnOnce(&mut CertificateParams)) -> CertificateFacts {
        let mut params = CertificateParams::new(vec!["broker.example".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 3, 1));
        change(&mut params);
        let certificate = params.self_signed(&KeyPair::generate().expect("a key")).expect("signed");
        CertificateFacts::read(certificate.der()).expect("a certificate")
    }

    fn at(date: &str) -> UnixMicros {
        let instant: jiff::Timestamp = format!("{date}T00:00:00Z").parse().expect("a date");
        UnixMicros(instant.as_microsecond())
    }

    #[test]
    fn a_good_certificate_has_no_fault_on_any_of_its_days() {
        let facts = facts(|_| {});
        for date in ["2026-01-01", "2026-02-01", "2026-03-01"] {
            assert_eq!(facts.faults(at(date)), [], "{date}");
        }
    }

    #[test]
    fn each_fault_is_found_and_says_what_to_do() {
        let found = |facts: CertificateFacts, date| facts.faults(at(date));
        let expired = found(facts(|_| {}), "2026-03-02");
        assert!(matches!(&expired[..], [fault @ CertificateFault::Expired(_)] if fault.is_expired()), "{expired:?}");
        assert!(expired[0].to_string().contains("2026-03-01T00:00:00Z"), "{}", expired[0]);
        let early = found(facts(|_| {}), "2025-12-31");
        assert!(matches!(&early[..], [fault @ CertificateFault::NotYetValid(_)] if !fault.is_expired()), "{early:?}");
        let nameless = found(facts(|params| params.subject_alt_names.clear()), "2026-02-01");
        assert_eq!(nameless, [CertificateFault::NoName]);
        let authority = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(found(facts(authority), "2026-02-01"), [CertificateFault::Authority]);
    }

    #[test]
    fn days_are_counted_down_and_beyond_the_end() {
        let facts = facts(|_| {});
        let days: Vec<_> =
            ["2026-02-15", "2026-02-28", "2026-03-01", "2026-03-02"].map(|date| facts.days_left(at(date))).into();
        assert_eq!(days, [14, 1, 0, -1]);
    }
}
