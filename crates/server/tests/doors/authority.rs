//! Certificates for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_server::TlsFiles;
use countersign_testkit::{Authority, Certified};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::fixture::connect;

/// Writes a certificate for 127.0.0.1 into a directory, over what is there.
pub(crate) fn write_to(authority: &Authority, directory: &Path) -> TlsFiles {
    let Certified { certificate, key } = authority.certify("127.0.0.1");
    TlsFiles {
        certificates: write(directory, "server.crt", &certificate),
        key: write(directory, "server.key", &key),
        client_authorities: None,
    }
}

/// A connection by TLS to the listener of this URL, which offers these protocols.
pub(crate) async fn connect_trusting(
    authority: &Authority,
    url: &str,
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, connect(url).await).await.unwrap()
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}
