//! The HTTP client for requests of the server itself: to the alarm webhook and the trace collector.

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// What the server says it is.
pub(crate) const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

/// A client that verifies certificates and follows no redirect.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that believes `authorities` (PEM), or else those that this machine trusts.
///
/// # Errors
///
/// Why TLS cannot be set up.
pub(crate) fn client(authorities: Option<&[u8]>) -> Result<HttpClient, String> {
    let roots = match authorities {
        Some(pem) => countersign_tls::authorities(pem).map_err(|error| error.to_string())?,
        // Without any, no certificate can be verified, and every request says so.
        None => countersign_tls::system_authorities(),
    };
    let tls = countersign_tls::client(roots).map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// The cause behind an error and its causes, which says most in the fewest words.
pub(crate) fn innermost<'e>(error: &'e (dyn std::error::Error + 'static)) -> &'e dyn std::error::Error {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}
