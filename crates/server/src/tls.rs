//! TLS on a listener, with certificates that are replaced while it serves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use countersign_tls::{PemError, Validity};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};

use crate::file_version::FileVersion;

/// The files of a listener's TLS, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificates: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// The authorities of the certificates that clients must show; `None` asks for no certificate.
    pub client_authorities: Option<PathBuf>,
}

/// Why a listener's TLS cannot be set up. No text carries a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("cannot use the {what} in {}: {reason}", path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The parts do not go together.
    #[error("the certificate in {} cannot be used: {reason}", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A listener's TLS.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    in_use: RwLock<LoadedTls>,
    seen: Mutex<Vec<Option<FileVersion>>>,
}

#[derive(Debug)]
struct LoadedTls {
    config: Arc<ServerConfig>,
    /// Of the certificate that clients are shown.
    validity: Option<Validity>,
    /// Whether that is an authority's.
    is_authority: bool,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let seen = Mutex::new(files.versions());
        let in_use = RwLock::new(files.read()?);
        Ok(Self { files, in_use, seen })
    }

    /// The files.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The dates of the certificate that is in use; `None` if they cannot be read.
    pub fn validity(&self) -> Option<Validity> {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).validity
    }

    /// Whether the certificate that is in use is an authority's, which not every client takes for a server's.
    pub fn is_authority(&self) -> bool {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).is_authority
    }

    /// Whether clients have to show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.files.client_authorities.is_some()
    }

    /// What greets the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&in_use.config))
    }

    /// Reads the files again if one of them has changed, or `anyway`; returns whether it did. Files that cannot be used
    /// change nothing, and are reported once, or each time they are read anyway.
    pub(crate) fn reload_if_changed(&self, anyway: bool) -> Result<bool, TlsError> {
        let found = self.files.versions();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == found && !anyway {
                return Ok(false);
            }
            *seen = found;
        }
        let found = self.files.read()?;
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(true)
    }
}

impl TlsFiles {
    fn versions(&self) -> Vec<Option<FileVersion>> {
        [Some(&self.certificates), Some(&self.key), self.client_authorities.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| FileVersion::at(path))
            .collect()
    }

    fn read(&self) -> Result<LoadedTls, TlsError> {
        let provider = countersign_tls::provider();
        let chain = read(&self.certificates, "certificate chain", countersign_tls::certificates)?;
        let key = read(&self.key, "private key", countersign_tls::private_key)?;
        let verifier = self.client_verifier(&provider)?;
        let validity = chain.first().and_then(Validity::of);
        let is_authority = chain.first().is_some_and(countersign_tls::is_authority);
        let unfit = |reason: String| TlsError::Unfit { path: self.certificates.clone(), reason };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unfit(error.to_string()))?;
        // A client that names protocols, and none of these, gets no connection (RFC 7301 section 3.2).
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        Ok(LoadedTls { config: Arc::new(config), validity, is_authority })
    }

    fn client_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let Some(path) = &self.client_authorities else { return Ok(Arc::new(NoClientAuth)) };
        let roots = read(path, "client authorities", countersign_tls::authorities)?;
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
            .map_err(|error| file_error("client authorities", path, error.to_string()))
    }
}

/// Reads one of the files. The error describes what is wrong and quotes nothing: the file may be a private key.
fn read<T>(
    path: &Path,
    what: &'static str,
    parse: impl FnOnce(&[u8]) -> Result<T, PemError>,
) -> Result<T, TlsError> {
    let parsed = countersign_tls::read(path).and_then(|pem| parse(&pem));
    parsed.map_err(|error| file_error(what, path, error.to_string()))
}

fn file_error(what: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::File { what, path: path.to_owned(), reason }
}
