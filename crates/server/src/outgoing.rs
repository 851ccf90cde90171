//! Requests that the server makes itself: to whoever takes alarms, and to the collector of traces.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_rustls::rustls::crypto::ring as tls_ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What the server says it is.
pub(crate) const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

/// A client that verifies certificates and follows no redirect.
pub(crate) type Outgoing = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that believes `authorities` (PEM), or else those that this machine trusts.
///
/// # Errors
///
/// Why TLS cannot be set up.
pub(crate) fn client(authorities: Option<&[u8]>) -> Result<Outgoing, String> {
    let tls = tls(authorities).map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn tls(authorities: Option<&[u8]>) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate?)?;
            }
        }
        // Without any, nothing can be verified, and every request says so.
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(tls_ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The cause behind an error and its causes, which says most in the fewest words.
pub(crate) fn innermost<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e dyn std::error::Error {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}
