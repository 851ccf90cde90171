#![doc = include_str!("../README.md")]
//!
//! The HTTP client, for trackers, issuers, receivers of alarms and collectors of traces.
//!
//! **The same for all of them**, with nothing to switch off: a certificate is verified, against what [`Trust`] says. No redirect
//! is followed, for a token goes to the URL that was configured and to no other. No proxy is taken from the environment, where a
//! caller of a CGI program can put one. No cookie is kept. A body is read up to a bound ([`read`]), and what is asked has a time
//! limit as a whole, not for each wait ([`in_time`]).
//!
//! **Retries** are up to the calling code, because only it knows what a second request does:
//!
//! | caller | connections | asks again |
//! |---|---|---|
//! | `login`, `check-tracker` | fresh | never: the tracker may have used the token up |
//! | `verifier` | fresh | once, with the same `Idempotency-Key`, after a lost answer or a 502, 503 or 504 |
//! | alarms of `server` | kept | seven times at growing intervals, with the same `webhook-id` |
//! | traces of `server` | kept | twice, after the answers that OTLP calls retryable; a span may come twice |
//! | issuers' keys of `server` | fresh | never at once: ten seconds later at the earliest |
//!
//! `client`, for the private API, has connections of its own, because it also speaks through Unix sockets, shows a certificate and
//! follows a stream. It shares the trust, the errors and the bound of bodies, and never asks again: whether a token was issued
//! is not known.

#![forbid(unsafe_code)]

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
pub use countersign_tls::Trust;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
pub use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;
use url::{Host, Url};

type BoxError = Box<dyn Error + Send + Sync>;
/// Makes TCP connections: to the server, or through a proxy.
type Reach = BoxCloneSyncService<Uri, TokioIo<TcpStream>, BoxError>;

/// Sends requests. A clone shares the connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    hyper: Client<HttpsConnector<Reach>, Full<Bytes>>,
}

/// Whether a connection serves more than one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Connections {
    /// Each request has its own. Some servers close a connection after an answer without saying so, and the only request that
    /// the token is good for would meet a closed door.
    Fresh,
    /// They are kept. A request that met a connection that was just closed, and so was never sent, goes over another one.
    Kept,
}

/// An HTTP proxy on the way, which must allow CONNECT.
#[derive(Clone, Debug)]
pub struct Proxy(Uri);

impl Proxy {
    /// A proxy at `http://HOST:PORT`; `None` if it is said in another way.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text.trim()).ok()?;
        let plain = url.scheme() == "http"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        if plain { url.as_str().parse().ok().map(Self) } else { None }
    }
}

impl HttpClient {
    /// A client that trusts these servers, and goes through this proxy.
    ///
    /// # Errors
    ///
    /// If TLS does not work on this machine.
    pub fn new(trust: Trust, proxy: Option<Proxy>, connections: Connections) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let reach: Reach = match proxy {
            None => BoxCloneSyncService::new(tcp.map_err(BoxError::from)),
            Some(Proxy(proxy)) => BoxCloneSyncService::new(Tunnel::new(proxy, tcp).map_err(BoxError::from)),
        };
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(trust.client()?.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(reach);
        let mut builder = Client::builder(TokioExecutor::new());
        if connections == Connections::Fresh {
            builder.pool_max_idle_per_host(0).retry_canceled_requests(false);
        }
        Ok(Self { hyper: builder.build(https) })
    }

    /// Sends a request by its absolute URL. The body of the answer is left to be read.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, HttpError> {
        let (mut head, body) = request.into_parts();
        head.uri = with_port(head.uri)?;
        let sent = self.hyper.request(Request::from_parts(head, Full::new(body))).await;
        sent.map_err(|error| HttpError::of(&error))
    }
}

/// Whether a URL leads to this machine itself, where plain HTTP cannot be read on the way. This is the one
/// rule for every URL that a secret or a token is sent to. A name counts only if no resolver may point it elsewhere (RFC 6761
/// section 6.3).
pub fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    }
}

/// The URL with its port, also if that is the scheme's own: a tunnel takes none for 443.
fn with_port(url: Uri) -> Result<Uri, HttpError> {
    let (Some(host), None) = (url.host(), url.port()) else { return Ok(url) };
    let port = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let authority = format!("{host}:{port}").parse();
    let mut parts = url.into_parts();
    parts.authority = Some(authority.map_err(|_| HttpError::url())?);
    Uri::from_parts(parts).map_err(|_| HttpError::url())
}

/// Waits for an exchange, so long at most.
pub async fn in_time<T>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    tokio::time::timeout(limit, exchange).await.unwrap_or(Err(HttpError::Late(limit)))
}

/// Reads a body to its end, appending it to `into`, which then has `longest` bytes at most. What came before an error is there.
///
/// # Errors
///
/// [`HttpError::TooLong`], and [`HttpError::Lost`] if the body ends too early.
pub async fn read(body: &mut Incoming, into: &mut Vec<u8>, longest: usize) -> Result<(), HttpError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HttpError::of(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = longest.saturating_sub(into.len());
        into.extend_from_slice(data.get(..room).unwrap_or(data));
        if data.len() > room {
            return Err(HttpError::TooLong(longest));
        }
    }
    Ok(())
}

/// Reads a body of `longest` bytes at most as a whole.
///
/// # Errors
///
/// Those of [`read`].
pub async fn read_whole(mut body: Incoming, longest: usize) -> Result<Vec<u8>, HttpError> {
    let mut whole = Vec::new();
    read(&mut body, &mut whole, longest).await?;
    Ok(whole)
}

/// Why there is no answer, or not all of it. No text has the URL in it, and so none has a token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HttpError {
    /// The peer cannot prove to be the server: a retry does not help.
    #[error("invalid peer certificate: {0}")]
    Certificate(String),
    /// There was no answer within this time.
    #[error("no answer in {0:?}")]
    Late(Duration),
    /// The answer is longer than this, in bytes.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// The request or the answer was lost, for this reason.
    #[error("{0}")]
    Lost(String),
}

impl HttpError {
    /// The innermost cause says most.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let mut cause = error;
        loop {
            // An I/O error that wraps another one hides it from `source`.
            let hidden = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(tls) =
                cause.downcast_ref().or_else(|| hidden.and_then(|hidden| hidden.downcast_ref()))
            {
                return Self::of_tls(tls);
            }
            match hidden.map(|hidden| hidden as &(dyn Error + 'static)).or_else(|| cause.source()) {
                Some(deeper) => cause = deeper,
                None => return Self::Lost(cause.to_string()),
            }
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(reason) => Self::Certificate(countersign_tls::in_words(reason)),
            rustls::Error::NoCertificatesPresented => Self::Certificate("it presented none".to_owned()),
            rustls::Error::InvalidMessage(_) => Self::Lost("it does not speak TLS there".to_owned()),
            other => Self::Lost(format!("TLS: {other}")),
        }
    }

    /// For a URL that no request can have.
    pub fn url() -> Self {
        Self::Lost("its URL cannot be asked for".to_owned())
    }
}

/// Whether a URL is safe to ask: `https`, or `http` on this machine's loopback; and without a user name, which would stand in logs.
pub fn is_https_or_loopback(url: &Url) -> bool {
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_this_machine(url));
    is_safe && url.has_host() && url.username().is_empty() && url.password().is_none()
}

/// The innermost cause of an error, in words.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    HttpError::of(error).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn proxy_is_a_host_and_a_port() {
        for (text, is_one) in [
            ("http://proxy:3128", true),
            (" http://proxy:3128/ ", true),
            ("http://[::1]:3128", true),
            ("", false),
            ("proxy:3128", false),
            ("https://proxy:3128", false),
            ("http://u:p@proxy:3128", false),
            ("http://proxy/x", false),
            ("http://proxy/?x", false),
            ("http://proxy/#x", false),
        ] {
            assert_eq!(Proxy::parse(text).is_some(), is_one, "{text}");
        }
    }

    #[test]
    fn loopback_counts_as_this_machine() {
        for (url, is_here) in [
            ("http://localhost:8080", true),
            ("http://LOCALHOST/", true),
            ("http://countersign.localhost", true),
            ("http://127.9.9.9", true),
            ("http://127.1/", true),
            ("http://[::1]:1", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost.example.org", false),
            ("http://notlocalhost", false),
            ("http://10.0.0.1", false),
            ("http://[::ffff:10.0.0.1]/", false),
            ("http://0.0.0.0", false),
            ("http://127.0.0.1.example.org", false),
            ("unix:/run/countersign.sock", false),
        ] {
            assert_eq!(is_this_machine(&url.parse().unwrap()), is_here, "{url}");
        }
    }

    /// An answer with this body, from a server that then closes the connection.
    async fn answer(length: usize, body: &'static str) -> Incoming {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(text.as_bytes()).await.unwrap();
        });
        let client = HttpClient::new(Trust::nobody(), None, Connections::Fresh).unwrap();
        client.send(Request::get(url).body(Bytes::new()).unwrap()).await.unwrap().into_body()
    }

    #[tokio::test]
    async fn body_is_read_up_to_its_limit() {
        for (length, body, longest, came, error) in [
            (5, "abcde", 5, "abcde", None),
            (5, "abcde", 4, "abcd", Some("it is longer than 4 bytes")),
            (0, "", 0, "", None),
        ] {
            let mut into = Vec::new();
            let read = read(&mut answer(length, body).await, &mut into, longest).await;
            assert_eq!(read.err().map(|error| error.to_string()).as_deref(), error, "{body} {longest}");
            assert_eq!(into, came.as_bytes());
        }
    }

    #[tokio::test]
    async fn truncated_body_keeps_its_first_part() {
        let mut into = Vec::new();
        let read = read(&mut answer(9, "abcde").await, &mut into, 100).await;
        assert!(matches!(read, Err(HttpError::Lost(_))), "{read:?}");
        assert_eq!(into, b"abcde");
    }

    #[test]
    fn default_port_is_added_to_the_host() {
        for (url, expected) in [
            ("https://h/a%2Fb?c=d", "https://h:443/a%2Fb?c=d"),
            ("http://[::1]/", "http://[::1]:80/"),
            ("https://h:8443/", "https://h:8443/"),
        ] {
            assert_eq!(with_port(url.parse().unwrap()).unwrap().to_string(), expected);
        }
    }
}
