//! The validity period of a certificate, and whether it is an authority's.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

/// The dates of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// It is not valid before.
    pub from: Timestamp,
    /// Nor after.
    pub until: Timestamp,
}

impl Validity {
    /// Of this certificate; `None` if it is not an X.509 certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        // RFC 5280 has dates up to the year 9999, and so has a `Timestamp`.
        let moment = |time: ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX);
        let validity = parsed.validity();
        Some(Self { from: moment(validity.not_before), until: moment(validity.not_after) })
    }
}

/// Whether a certificate is an authority's (`basicConstraints` with `CA:TRUE`), as `openssl req -x509` makes it. Not every
/// client takes one for a server's own: webpki, which rustls uses, does not.
pub fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}
