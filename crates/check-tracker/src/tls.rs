//! The certificate of an issuer that nobody can trust.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::CheckError;

/// Speaks TLS with a new certificate for `host` that is signed by itself.
pub(crate) fn self_signed(host: IpAddr) -> Result<TlsAcceptor, CheckError> {
    let made = |error: rcgen::Error| CheckError::Certificate(error.to_string());
    let key = KeyPair::generate().map_err(made)?;
    let certificate = CertificateParams::new([host.to_string()]).map_err(made)?;
    let certificate = certificate.self_signed(&key).map_err(made)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(CheckError::Tls)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(CheckError::Tls)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
