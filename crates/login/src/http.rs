//! Asking a tracker over HTTP: verified certificates, no redirects, bounded time and size.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dxr::{MethodCall, Value};
use http::header::{CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use url::{Host, Url};

use crate::LoginError;
use crate::answer::{CallOutcome, read_answer};
use crate::trackers::Parameter;

/// The largest answer to a login that is read, in bytes. Those that matter have a few hundred.
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// The largest answer to any other call, in bytes: the comments of a bug can be many.
pub(crate) const MAX_RESULT: usize = 16 * 1024 * 1024;

const AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));

/// How trackers are reached.
#[derive(Clone, Debug)]
pub struct HttpSettings<'a> {
    /// How long each of the two questions may take until it is answered in full.
    pub timeout: Duration,
    /// A PEM file with certificate authorities to trust besides those of the system.
    pub ca_file: Option<&'a Path>,
    /// An HTTP proxy, `http://HOST:PORT`, that must allow CONNECT. Variables of the environment are not looked at.
    pub proxy: Option<&'a str>,
    /// Whether a token may travel over plain http to another machine.
    pub allow_http: bool,
    /// The trace that the login is a part of, which the tracker is told (W3C Trace Context).
    pub traceparent: Option<&'a str>,
}

impl Default for HttpSettings<'_> {
    /// 30 seconds: longer than a tracker takes to ask an issuer that does not answer, twice.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            ca_file: None,
            proxy: None,
            allow_http: false,
            traceparent: None,
        }
    }
}

/// A client that talks to trackers.
pub(crate) struct Http {
    client: AnyClient,
    timeout: Duration,
    traceparent: Option<HeaderValue>,
}

enum AnyClient {
    Direct(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    Proxied(Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>),
}

/// A request to a tracker, by an absolute URL.
pub type TrackerRequest = Request<Bytes>;

/// An answer, with as much of its body as came: the status and the cookies of a login are in its head.
pub struct TrackerResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// Why the body is not whole.
    pub broken: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// The certificate is not valid for this tracker.
    Certificate(String),
    /// Anything else, from a name that does not exist to an answer that is too long.
    NoAnswer(String),
}

impl Http {
    /// A client for the tracker at `base`.
    pub(crate) fn new(settings: &HttpSettings<'_>, base: &Url) -> Result<Self, LoginError> {
        let proxy = settings.proxy.map(proxy_address).transpose()?;
        // Behind a proxy even this machine's own name leads elsewhere.
        let stays_here = is_loopback(base) && proxy.is_none();
        if base.scheme() == "http" && !stays_here && !settings.allow_http {
            return Err(LoginError::PlainHttp);
        }

        let tls = tls(settings.ca_file, base.scheme() == "https")?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        // Each request has a connection of its own: some servers close one after its answer without saying so, and the
        // token would meet a closed door.
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(0);
        let client = match proxy {
            Some(proxy) => AnyClient::Proxied(builder.build(https.wrap_connector(Tunnel::new(proxy, tcp)))),
            None => AnyClient::Direct(builder.build(https.wrap_connector(tcp))),
        };
        // A trace that no header can carry is no reason not to log in.
        let traceparent = settings.traceparent.and_then(|parent| HeaderValue::from_str(parent).ok());
        Ok(Self { client, timeout: settings.timeout, traceparent })
    }

    /// Sends a request, and reads so many bytes of the answer's body at most.
    pub(crate) async fn send(
        &self,
        request: TrackerRequest,
        longest: usize,
    ) -> Result<TrackerResponse, HttpError> {
        let (mut head, body) = request.into_parts();
        head.uri = explicit(head.uri)?;
        head.headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(traceparent) = &self.traceparent {
            head.headers.insert("traceparent", traceparent.clone());
        }
        let request = Request::from_parts(head, Full::new(body));
        let late = || format!("nothing within {} s", self.timeout.as_secs_f32());
        let deadline = tokio::time::sleep(self.timeout);
        tokio::pin!(deadline);
        let head = tokio::select! {
            head = self.exchange(request) => head.map_err(|error| trouble(&error))?,
            () = &mut deadline => return Err(HttpError::NoAnswer(late())),
        };
        let (head, mut rest) = head.into_parts();
        let mut body = Vec::new();
        let broken = tokio::select! {
            end = read(&mut rest, &mut body, longest) => end.err(),
            () = &mut deadline => Some(late()),
        };
        Ok(TrackerResponse { status: head.status, headers: head.headers, body, broken })
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        match &self.client {
            AnyClient::Direct(client) => client.request(request).await,
            AnyClient::Proxied(client) => client.request(request).await,
        }
    }
}

/// Reads a body to its end. `Err` says why that was not reached.
async fn read(from: &mut Incoming, into: &mut Vec<u8>, longest: usize) -> Result<(), String> {
    while let Some(frame) = from.frame().await {
        let frame = frame.map_err(|error| match trouble(&error) {
            HttpError::Certificate(reason) | HttpError::NoAnswer(reason) => reason,
        })?;
        if let Some(data) = frame.data_ref() {
            into.extend_from_slice(data.get(..longest.saturating_sub(into.len())).unwrap_or(data));
        }
        if into.len() >= longest {
            return Err(format!("it is longer than {longest} bytes"));
        }
    }
    Ok(())
}

impl TrackerResponse {
    /// The same, if all of its body came.
    pub(crate) fn whole(self) -> Result<Self, HttpError> {
        match self.broken {
            None => Ok(self),
            Some(reason) => Err(HttpError::NoAnswer(reason)),
        }
    }

    /// Whether a 401 comes from a web server that wants a password, and not from a plugin.
    pub(crate) fn asks_for_password(&self) -> bool {
        self.headers.get_all(WWW_AUTHENTICATE).iter().any(|challenge| {
            let scheme = challenge.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
            ["basic", "digest", "negotiate", "ntlm", "bearer"]
                .iter()
                .any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
        })
    }

    fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// The body, if it is text for people and not a page.
    pub(crate) fn plain_text(&self) -> Option<String> {
        let kind = self.content_type().filter(|kind| kind.starts_with("text/plain"))?;
        let text = countersign_xmlrpc::decode(Some(kind), &self.body).ok();
        Some(text.unwrap_or_else(|| String::from_utf8_lossy(&self.body)).into_owned())
    }

    /// What the answer to a call says; `None` if it is not one.
    pub(crate) fn xml_rpc(&self) -> Option<CallOutcome> {
        read_answer(self.content_type(), &self.body)
    }

    /// Where a redirect of what was asked leads.
    pub(crate) fn location(&self, asked: &Url) -> Option<Url> {
        let location = self.headers.get(http::header::LOCATION)?.to_str().ok()?;
        asked.join(location).ok()
    }

    /// Where a redirect leads, without what was asked for below the tracker's base URL, so that it can be tried as that.
    pub(crate) fn redirect(&self, base: &Url, asked: &Url) -> Option<LoginError> {
        if !self.status.is_redirection() {
            return None;
        }
        let mut to = self.location(asked);
        if let Some(to) = &mut to
            && let Some(suffix) = asked.path().strip_prefix(base.path().trim_end_matches('/'))
            && let Some(base) = to.path().strip_suffix(suffix).map(str::to_owned)
        {
            to.set_path(&base);
        }
        Some(LoginError::Redirected { to })
    }
}

impl From<HttpError> for LoginError {
    /// For trouble before the token was sent.
    fn from(trouble: HttpError) -> Self {
        match trouble {
            HttpError::Certificate(reason) => Self::Certificate { reason },
            HttpError::NoAnswer(reason) => Self::Unreachable { reason },
        }
    }
}

impl HttpError {
    /// For trouble with the request that had the token in it.
    pub(crate) fn with_token(self) -> LoginError {
        match self {
            Self::Certificate(reason) => LoginError::Certificate { reason },
            Self::NoAnswer(reason) => LoginError::AnswerLost { reason },
        }
    }
}

fn tls(ca_file: Option<&Path>, is_needed: bool) -> Result<ClientConfig, LoginError> {
    let mut roots = match ca_file {
        Some(path) => countersign_tls::read(path)
            .and_then(|pem| countersign_tls::authorities(&pem))
            .map_err(|error| LoginError::CaFile { path: path.to_owned(), reason: error.to_string() })?,
        None => RootCertStore::empty(),
    };
    if is_needed {
        roots.extend(countersign_tls::system_authorities().roots);
        if roots.is_empty() {
            return Err(LoginError::NoAuthorities);
        }
    }
    countersign_tls::client(roots).map_err(LoginError::Tls)
}

fn proxy_address(text: &str) -> Result<Uri, LoginError> {
    let url = Url::parse(text).map_err(|_| LoginError::Proxy)?;
    let plain = url.scheme() == "http"
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { url.as_str().parse().map_err(|_| LoginError::Proxy) } else { Err(LoginError::Proxy) }
}

/// A URL below that of a tracker, with these parameters in its query.
pub(crate) fn below(base: &Url, path: &str, query: &[Parameter]) -> String {
    let mut url = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    if !query.is_empty() {
        url.push('?');
        url.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
    }
    url
}

/// A text as a part of a path: everything but letters and digits is percent-encoded, so that it arrives in its place.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// A request without a body.
pub(crate) fn request(method: Method, url: &str) -> Result<TrackerRequest, HttpError> {
    Request::builder().method(method).uri(url).body(Bytes::new()).map_err(|_| cannot_be_asked())
}

/// A call by XML-RPC.
pub(crate) fn call(url: &str, method: &str, params: Vec<Value>) -> Result<TrackerRequest, HttpError> {
    let call = MethodCall { name: method.to_owned().into(), params };
    // The writer's own error would have the document in it, and that the token.
    let call = call.to_xml().map_err(|_| HttpError::NoAnswer("the call could not be written".to_owned()))?;
    let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{call}");
    let request = Request::post(url).header(CONTENT_TYPE, "text/xml; charset=utf-8");
    request.body(body.into()).map_err(|_| cannot_be_asked())
}

fn cannot_be_asked() -> HttpError {
    HttpError::NoAnswer("its URL cannot be asked for".to_owned())
}

/// The URL with its port, also if that is the scheme's own: the tunnel takes none for 443.
fn explicit(url: Uri) -> Result<Uri, HttpError> {
    if url.port().is_some() {
        return Ok(url);
    }
    let port = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = url.host().unwrap_or_default().to_owned();
    let mut parts = url.into_parts();
    parts.authority = format!("{host}:{port}").parse().ok();
    Uri::from_parts(parts).map_err(|_| cannot_be_asked())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}

/// The innermost cause says most. None of them knows the URL, and so the token.
fn trouble(error: &(dyn Error + 'static)) -> HttpError {
    let mut cause = error;
    loop {
        let hidden = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = cause.downcast_ref().or_else(|| hidden.and_then(|hidden| hidden.downcast_ref())) {
            return tls_trouble(tls);
        }
        // An I/O error that wraps another one hides it from `source`.
        match hidden.map(|hidden| hidden as &(dyn Error + 'static)).or_else(|| cause.source()) {
            Some(deeper) => cause = deeper,
            None => return HttpError::NoAnswer(cause.to_string()),
        }
    }
}

fn tls_trouble(error: &rustls::Error) -> HttpError {
    match error {
        rustls::Error::InvalidCertificate(reason) => HttpError::Certificate(reason.to_string()),
        rustls::Error::NoCertificatesPresented => HttpError::Certificate("it presented none".to_owned()),
        rustls::Error::InvalidMessage(_) => HttpError::NoAnswer("it does not speak TLS there".to_owned()),
        other => HttpError::NoAnswer(format!("TLS: {other}")),
    }
}
