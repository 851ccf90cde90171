//! PEM files and the client's side of TLS: read once here, so that no error anywhere quotes a certificate file or a key.
//!
//! The PEM parser of `rustls-pki-types` puts the offending line into its error. In a private key whose line ends were
//! lost, that line is the whole key. So its errors stay inside this crate, and [`PemError`] describes the fault instead.

#![forbid(unsafe_code)]

mod named;
mod pem;
mod validity;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};

pub use self::named::verifier;
pub use self::pem::{PemError, certificates, private_key, read};
pub use self::validity::{Validity, is_authority};

/// The certificate authorities in a PEM text.
///
/// # Errors
///
/// If there is none in it, or one cannot be used.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| PemError::Authority(error.to_string()))?;
    }
    Ok(roots)
}

/// The certificate authorities that this machine trusts; empty if it has none. A file of the machine's that cannot be read
/// takes nothing away from the others.
pub fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// What every connection of ours uses. It is named, so that the rest of a program may use another provider, or several.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A client that trusts `roots` and shows no certificate.
///
/// # Errors
///
/// If the provider offers no TLS version, which no build of ours does.
pub fn client(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
