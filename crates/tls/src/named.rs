//! Servers whose own certificate is trusted, rather than an authority that signed it.
//!
//! `openssl req -x509` makes a certificate that is an authority (`CA:TRUE`) unless it is told otherwise, and people give it to
//! a server and to its callers. webpki refuses to take an authority for a server. If the very certificate that the server
//! shows has been named as trusted, nothing is left to be vouched for, and its name and dates decide. `curl --cacert` and
//! every other program on OpenSSL do the same.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::{Validity, provider};

/// Verifies servers by the authorities that signed their certificates, and those servers whose certificate is one of `named`.
pub(crate) fn verifier(
    authorities: RootCertStore,
    named: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ServerCertVerifier>, VerifierBuilderError> {
    let by_authorities =
        WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider()).build()?;
    Ok(Arc::new(Verifier { by_authorities, named }))
}

#[derive(Debug)]
struct Verifier {
    by_authorities: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.named.iter().any(|named| named.as_ref() == shown.as_ref()) {
            return self.by_authorities.verify_server_cert(shown, intermediates, server, ocsp, now);
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, server)?;
        let validity = Validity::of(shown).ok_or(CertificateError::BadEncoding)?;
        let at = |moment: Timestamp| {
            let seconds = u64::try_from(moment.as_second()).unwrap_or(0);
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        };
        let (not_before, not_after) = (at(validity.from), at(validity.until));
        if now < not_before {
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        if now > not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, shown, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, shown, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;
    use crate::Trust;

    const DAY: Duration = Duration::from_hours(24);

    fn certificate(name: &str, is_ca: IsCa) -> Certificate {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.distinguished_name.push(DnType::CommonName, name);
        let start = std::time::UNIX_EPOCH + 100 * DAY;
        (params.not_before, params.not_after) = (start.into(), (start + 10 * DAY).into());
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    fn judged(trusted: &Certificate, shown: &Certificate, name: &str, day: u32) -> Result<(), Error> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(day * DAY);
        let Trust { authorities, named } = Trust::only(trusted.pem().as_bytes()).unwrap();
        let verifier = verifier(authorities, named).unwrap();
        verifier.verify_server_cert(shown.der(), &[], &name, &[], now).map(drop)
    }

    #[test]
    fn unknown_certificate_is_explained_in_words() {
        // As `openssl req -x509` makes it.
        let authority = IsCa::Ca(BasicConstraints::Unconstrained);
        for (trusted, is_ca, says) in [
            ("other.example", IsCa::NoCa, "it is signed by nobody who is trusted here (UnknownIssuer)"),
            ("tokens.example", IsCa::NoCa, "it is signed by another authority of the same name"),
            ("other.example", authority, "it is an authority's (CA:TRUE), and not itself trusted here"),
        ] {
            let (trusted, shown) = (certificate(trusted, IsCa::NoCa), certificate("tokens.example", is_ca));
            let error = judged(&trusted, &shown, "tokens.example", 105).unwrap_err();
            let Error::InvalidCertificate(error) = error else { panic!("{error}") };
            let words = crate::in_words(&error);
            assert!(words.starts_with(says), "{words}");
        }
    }

    #[test]
    fn named_self_signed_certificate_is_accepted() {
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let ours = certificate("tokens.example", is_ca);
            assert_eq!(judged(&ours, &ours, "tokens.example", 105), Ok(()));
            assert!(matches!(
                judged(&ours, &ours, "other.example", 105),
                Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }))
            ));
            for (day, says) in [(99, "certificate not valid yet"), (111, "certificate expired")] {
                let error = judged(&ours, &ours, "tokens.example", day).unwrap_err().to_string();
                assert!(error.contains(says), "{error}");
            }
            let other = certificate("tokens.example", is_ca);
            assert!(judged(&ours, &other, "tokens.example", 105).is_err(), "the same name, and another key");
        }
    }
}
