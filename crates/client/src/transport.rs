//! One request over one connection: TCP, TLS, or a Unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_http_client::{HttpError, Trust, read_whole, reason};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use url::Url;

use crate::Credentials;

/// How long an answer may take. Statistics of a very large store take some seconds.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The longest answer that is read, in bytes. The longest that a server gives is a page of events: half a MiB, and from
/// servers before that was bounded some 4 MiB.
pub(crate) const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Why there is no answer. The variant tells the operator where to look.
#[derive(Debug)]
pub(crate) enum TransportError {
    /// The connection is not accepted.
    Unreachable(String),
    /// The connection is accepted, but the TLS handshake fails.
    Tls(String),
    /// A server listens there, but its answer is missing or wrong; the text continues with "but".
    NoAnswer(String),
}

/// A way to a server.
pub(crate) enum Transport {
    /// To a host and port, and with TLS for a server of that name.
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
    /// To a socket on this machine.
    Unix(PathBuf),
}

impl Transport {
    /// The way to the server at a URL.
    pub(crate) fn to_url(url: &Url, credentials: &Credentials) -> Result<Self, String> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(80);
        let tls = if url.scheme() == "https" {
            let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
            Some((TlsConnector::from(Arc::new(tls_config(credentials)?)), name))
        } else {
            None
        };
        Ok(Self::Tcp { host, port, tls })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), TransportError> {
        let response = Box::pin(self.open(request)).await?;
        let status = response.status();
        Ok((status, in_time(read(response)).await?))
    }

    /// Sends a request, and leaves the body of its answer to be read as it comes.
    pub(crate) async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TransportError> {
        let unreachable = |error: io::Error| TransportError::Unreachable(reason(&error));
        match self {
            Self::Unix(path) => {
                let stream = connect(UnixStream::connect(path)).await.map_err(unreachable)?;
                in_time(converse(stream, request)).await
            }
            Self::Tcp { host, port, tls } => {
                let stream =
                    connect(TcpStream::connect((host.as_str(), *port))).await.map_err(unreachable)?;
                let Some((connector, name)) = tls else { return in_time(converse(stream, request)).await };
                let encrypted = async {
                    let encrypted = connector.connect(name.clone(), stream).await;
                    encrypted.map_err(|error| TransportError::Tls(reason(&error)))
                };
                in_time(converse(in_time(encrypted).await?, request)).await
            }
        }
    }
}

async fn connect<S>(connecting: impl Future<Output = io::Result<S>>) -> io::Result<S> {
    let connected = tokio::time::timeout(TIMEOUT, connecting).await;
    connected.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it does not take the connection"))?
}

async fn in_time<T>(answered: impl Future<Output = Result<T, TransportError>>) -> Result<T, TransportError> {
    let answered = tokio::time::timeout(TIMEOUT, answered).await;
    answered.unwrap_or_else(|_| {
        Err(TransportError::NoAnswer(format!("it has not answered for {} seconds", TIMEOUT.as_secs())))
    })
}

/// Reads the body of an answer.
pub(crate) async fn read(response: Response<Incoming>) -> Result<Bytes, TransportError> {
    read_whole(response.into_body(), MAX_ANSWER_BYTES).await.map(Bytes::from).map_err(|error| {
        TransportError::NoAnswer(match error {
            HttpError::TooLong(longest) => {
                format!("its answer is longer than {longest} bytes; ask for less at a time")
            }
            error => broken(&error),
        })
    })
}

fn broken(error: &HttpError) -> String {
    format!("its answer did not arrive whole ({error})")
}

async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let no_answer = |error: hyper::Error| TransportError::NoAnswer(broken(&HttpError::of(&error)));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
    // It ends when the answer has been read, or its reader is gone.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(no_answer)
}

fn tls_config(credentials: &Credentials) -> Result<ClientConfig, String> {
    let trust = Trust::only_or_system(credentials.server_authorities.as_deref())
        .map_err(|error| format!("the file of the server's authorities cannot be used: {error}"))?;
    let config = trust.client().map_err(|error| error.to_string())?;
    let Some(pem) = &credentials.identity else { return Ok(config.with_no_client_auth()) };
    let unusable = |reason: String| format!("the client identity cannot be used: {reason}");
    let chain = countersign_tls::certificates(pem).map_err(|error| unusable(error.to_string()))?;
    let key = countersign_tls::private_key(pem).map_err(|error| unusable(error.to_string()))?;
    config.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))
}

/// What a web server says to a GET. No redirect is followed.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its status.
    pub status: StatusCode,
    /// Where it would send the caller.
    pub location: Option<String>,
    /// The body, as text; empty if it is longer than a few KiB.
    pub body: String,
    /// The certificate that it showed, if it speaks TLS. It has been verified.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Asks a web server that need not be a private API, with a GET and without any credential.
///
/// # Errors
///
/// Why there is no answer, for a person; also if its certificate is not valid.
pub async fn probe(url: &Url) -> Result<Probe, String> {
    probed(probe_now(url)).await
}

/// How long an answer to a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest body of an answer to a probe that is read, in bytes.
const MAX_PROBE_BYTES: usize = 4096;

/// The same of a server on a Unix socket.
///
/// # Errors
///
/// Why there is no answer, for a person.
pub async fn probe_socket(socket: &Path, path: &str) -> Result<Probe, String> {
    probed(async {
        let request = Request::get(path).header(hyper::header::HOST, "localhost");
        let request = request.body(Full::new(Bytes::new())).map_err(io::Error::other)?;
        probe_over(UnixStream::connect(socket).await?, request).await
    })
    .await
}

async fn probed(asking: impl Future<Output = io::Result<Probe>>) -> Result<Probe, String> {
    let answered = tokio::time::timeout(PROBE_TIMEOUT, asking).await;
    answered
        .map_err(|_| format!("no answer in {} s", PROBE_TIMEOUT.as_secs()))?
        .map_err(|error| HttpError::of(&error).to_string())
}

async fn probe_now(url: &Url) -> io::Result<Probe> {
    let transport = Transport::to_url(url, &Credentials::default()).map_err(io::Error::other)?;
    let Transport::Tcp { host, port, tls } = transport else { return Err(io::ErrorKind::Unsupported.into()) };
    let request = Request::get(url.path()).header(hyper::header::HOST, url.authority());
    let request = request.body(Full::new(Bytes::new())).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    match tls {
        None => probe_over(stream, request).await,
        Some((connector, name)) => {
            let stream = connector.connect(name, stream).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = shown.map(|certificate| certificate.clone().into_owned());
            Ok(Probe { certificate, ..probe_over(stream, request).await? })
        }
    }
}

async fn probe_over<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<Probe>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let location = head.headers.get(hyper::header::LOCATION).and_then(|value| value.to_str().ok());
    let location = location.filter(|_| head.status.is_redirection()).map(str::to_owned);
    let body = read_whole(body, MAX_PROBE_BYTES).await.unwrap_or_default();
    connection.abort();
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Probe { status: head.status, location, body, certificate: None })
}
