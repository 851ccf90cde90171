//! TLS to the database.

use std::path::Path;
use std::sync::Arc;

use countersign_tls::Trust;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::settings::TlsMode;
use crate::error::OpenError;

/// The TLS connector. [`TlsMode::Disable`] never uses it.
pub(super) fn connector(mode: TlsMode, ca_file: Option<&Path>) -> Result<MakeRustlsConnect, OpenError> {
    let cannot = |error| OpenError::Unusable(format!("TLS cannot be set up: {error}"));
    let config = match mode {
        TlsMode::Verify => trust(ca_file)?.client().map_err(cannot)?.with_no_client_auth(),
        TlsMode::Disable | TlsMode::Prefer => {
            let provider = countersign_tls::provider();
            ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(cannot)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
                .with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

fn trust(ca_file: Option<&Path>) -> Result<Trust, OpenError> {
    let Some(path) = ca_file else {
        let trust = Trust::system();
        if trust.is_empty() {
            return Err(OpenError::Unusable(
                "this system has no certificate authorities to check the database's certificate with; name a file \
                 with store_ca_file"
                    .to_owned(),
            ));
        }
        return Ok(trust);
    };
    countersign_tls::read(path)
        .and_then(|pem| Trust::only(&pem))
        .map_err(|error| OpenError::CaFile { path: path.to_owned(), reason: error.to_string() })
}

/// Takes anybody for the server, as `sslmode=prefer` does, which promises nothing. It keeps out those who only listen.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
