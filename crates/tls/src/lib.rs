#![doc = include_str!("../README.md")]
//!
//! # Why errors quote nothing
//!
//! The PEM parser of `rustls-pki-types` puts the offending line into its error. In a private key whose line ends were
//! lost, that line is the whole key. So its errors stay inside this crate, and [`PemError`] describes the fault instead.

#![forbid(unsafe_code)]

mod named;
mod names;
mod pem;
pub mod small_file;
mod validity;

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, Error, RootCertStore};

pub use self::names::names;
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

/// What every connection of ours uses. It is named, so that the rest of a program may use another provider, or several.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What is wrong with a server's certificate, for a person.
pub fn in_words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "it is signed by nobody who is trusted here (UnknownIssuer); if its owner has an authority of their own, trust that one"
                .to_owned()
        }
        CertificateError::BadSignature => {
            "it is signed by another authority of the same name than the one that is trusted here (BadSignature); trust that one"
                .to_owned()
        }
        CertificateError::Other(other) => match other.0.to_string().as_str() {
            "CaUsedAsEndEntity" => {
                "it is an authority's (CA:TRUE), and not itself trusted here; trust this certificate, or give the server one \
                 that is not an authority's"
                    .to_owned()
            }
            reason => reason.to_owned(),
        },
        other => other.to_string(),
    }
}

/// By which certificates a client knows the servers that it may talk to.
#[derive(Clone, Debug)]
pub struct Trust {
    authorities: RootCertStore,
    named: Vec<CertificateDer<'static>>,
}

impl Trust {
    /// No authority, for connections without TLS.
    pub fn nobody() -> Self {
        Self { authorities: RootCertStore::empty(), named: Vec::new() }
    }

    /// The authorities that this machine trusts; none if it has no such list. A file of the machine's that cannot be read takes
    /// nothing away from the others.
    pub fn system() -> Self {
        Self::nobody().and_system()
    }

    /// The certificates in a PEM text, and no others: of authorities, and of servers themselves.
    ///
    /// # Errors
    ///
    /// If there is none in it, or one cannot be used.
    pub fn only(pem: &[u8]) -> Result<Self, PemError> {
        Ok(Self { authorities: authorities(pem)?, named: certificates(pem)? })
    }

    /// [`Self::only`] if there is a text, else [`Self::system`].
    ///
    /// # Errors
    ///
    /// Those of [`Self::only`].
    pub fn only_or_system(pem: Option<&[u8]>) -> Result<Self, PemError> {
        pem.map_or_else(|| Ok(Self::system()), Self::only)
    }

    /// The same, and the authorities that this machine trusts, also as the certificates of servers.
    #[must_use]
    pub fn and_system(mut self) -> Self {
        let trusted = rustls_native_certs::load_native_certs().certs;
        self.authorities.add_parsable_certificates(trusted.iter().cloned());
        if !self.authorities.is_empty() {
            self.named.extend(trusted);
        }
        self
    }

    /// Whether no server can be known.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
    }

    /// A client that has yet to be told whether it shows a certificate.
    ///
    /// # Errors
    ///
    /// If the provider offers no TLS version, which no build of ours does.
    pub fn client(self) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        if self.named.is_empty() {
            return Ok(builder.with_root_certificates(self.authorities));
        }
        let verifier = named::verifier(self.authorities, self.named);
        let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
        Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
    }
}
