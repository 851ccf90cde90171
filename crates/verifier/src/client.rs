//! One question to the issuer over HTTP.
//!
//! There is nothing here to switch off: this client follows no redirect, reads no proxy from the environment, keeps no
//! cookie, and repeats nothing on its own.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use crate::SetupError;

/// The longest body that is read, in bytes: claims have at most 1 KiB.
const MAX_BODY_BYTES: usize = 16 * 1024;

type BoxError = Box<dyn StdError + Send + Sync>;
/// Makes TCP connections: to the issuer, or through a proxy.
type Reach = BoxCloneSyncService<Uri, TokioIo<TcpStream>, BoxError>;

/// Asks questions.
#[derive(Clone)]
pub(crate) struct Client {
    http: HyperClient<HttpsConnector<Reach>, Full<Bytes>>,
    timeout: Duration,
}

/// A handshake to be asked for, perhaps twice. It has no `Debug`, because it has the token.
pub(crate) struct HandshakeRequest {
    pub(crate) url: Uri,
    /// The `Idempotency-Key`: the issuer gives the same answer to the same key.
    pub(crate) key: String,
    /// `application/x-www-form-urlencoded`.
    pub(crate) form: String,
}

/// What the issuer said.
#[derive(Debug)]
pub(crate) struct IssuerResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: Body,
    /// `Retry-After` in seconds; `None` if it is not there, or is a date.
    pub(crate) retry_after: Option<Duration>,
}

/// The part of an answer that is read: JSON that comes with a 200. Otherwise the status is the whole answer.
#[derive(Debug)]
pub(crate) enum Body {
    Unread,
    Json(Bytes),
    TooLong,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The request or the answer was lost on the way, for this reason: asking again may help.
    Lost(String),
    /// Somebody is there but cannot prove to be the issuer: asking again does not help.
    Untrusted(String),
}

impl Client {
    /// A client that waits so long for each answer.
    pub(crate) fn new(tls: ClientConfig, proxy: Option<Uri>, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let reach: Reach = match proxy {
            None => BoxCloneSyncService::new(tcp.map_err(BoxError::from)),
            Some(proxy) => BoxCloneSyncService::new(Tunnel::new(proxy, tcp).map_err(BoxError::from)),
        };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(reach);
        let http = HyperClient::builder(TokioExecutor::new())
            // Logins are rare: a fresh connection costs little, and was not closed by the other side meanwhile.
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .build(https);
        Self { http, timeout }
    }

    /// Asks once.
    pub(crate) async fn ask(&self, question: &HandshakeRequest) -> Result<IssuerResponse, RequestError> {
        tokio::time::timeout(self.timeout, self.exchange(question))
            .await
            .unwrap_or_else(|_| Err(RequestError::Lost(format!("no answer in {:?}", self.timeout))))
    }

    async fn exchange(&self, question: &HandshakeRequest) -> Result<IssuerResponse, RequestError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(question.url.clone())
            .header(ACCEPT, "application/json, text/plain;q=0.9")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, concat!("countersign-verifier/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", &question.key)
            .body(Full::from(question.form.clone()))
            .map_err(|error| no_answer(&error))?;
        let response = self.http.request(request).await.map_err(|error| no_answer(&error))?;
        let (head, body) = response.into_parts();
        let body = if head.status == StatusCode::OK && is_json(&head.headers) {
            match Limited::new(body, MAX_BODY_BYTES).collect().await {
                Ok(body) => Body::Json(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Body::TooLong,
                Err(error) => return Err(no_answer(error.as_ref())),
            }
        } else {
            Body::Unread
        };
        Ok(IssuerResponse { status: head.status, body, retry_after: retry_after(&head.headers) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Which certificates are good: those of `authorities` (PEM) if given, else those that the machine trusts.
pub(crate) fn tls(authorities: Option<&[u8]>) -> Result<ClientConfig, SetupError> {
    let roots = match authorities {
        Some(pem) => {
            countersign_tls::authorities(pem).map_err(|error| SetupError::Authorities(error.to_string()))?
        }
        None => countersign_tls::system_authorities(),
    };
    if roots.is_empty() {
        return Err(SetupError::NoAuthorities);
    }
    tls_with(roots)
}

/// For an issuer without TLS, where no certificate is ever looked at.
pub(crate) fn tls_unused() -> Result<ClientConfig, SetupError> {
    tls_with(RootCertStore::empty())
}

fn tls_with(roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    countersign_tls::client(roots).map_err(|error| SetupError::Tls(error.to_string()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Tells a certificate that is not good from everything else, and names the innermost cause: that is the one a person
/// can act on.
fn no_answer(error: &(dyn StdError + 'static)) -> RequestError {
    let mut cause = error;
    loop {
        // An `io::Error` is transparent: its source is that of the error inside it.
        let inside = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match (inside, cause.source()) {
            (Some(inside), _) => inside,
            (None, Some(source)) => source,
            (None, None) => break,
        };
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return RequestError::Untrusted(cause.to_string());
        }
    }
    RequestError::Lost(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_media_type() {
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/problem+json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), json, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn a_pause_is_whole_seconds() {
        for (value, pause) in
            [("3", Some(3)), (" 0 ", Some(0)), ("-1", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)]
        {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers), pause.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn authorities_must_be_certificates() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for pem in ["", "not PEM", broken, "-----BEGIN CERTIFICATE-----\n"] {
            assert!(matches!(tls(Some(pem.as_bytes())), Err(SetupError::Authorities(_))), "{pem}");
        }
    }
}
