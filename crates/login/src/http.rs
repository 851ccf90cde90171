//! Requests to a tracker, and its answers.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use countersign_http_client::{Connections, HttpClient, HttpError, Proxy, Trust, is_this_machine, read};
use countersign_xmlrpc::{CallOutcome, read_response};
use dxr::{MethodCall, Value};
use http::header::{CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::LoginError;
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
    /// An HTTP proxy, `http://HOST:PORT`, that must allow CONNECT. Environment variables are ignored.
    pub proxy: Option<&'a str>,
    /// Whether a token may travel over plain http to another machine.
    pub allow_http: bool,
    /// The trace that the login belongs to; the tracker receives it (W3C Trace Context).
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
    client: HttpClient,
    timeout: Duration,
    traceparent: Option<HeaderValue>,
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
    pub broken: Option<HttpError>,
}

impl Http {
    /// A client for the tracker at `base`.
    pub(crate) fn new(settings: &HttpSettings<'_>, base: &Url) -> Result<Self, LoginError> {
        let proxy = settings.proxy.map(|text| Proxy::parse(text).ok_or(LoginError::Proxy)).transpose()?;
        // Behind a proxy even this machine's own name leads elsewhere.
        let stays_here = is_this_machine(base) && proxy.is_none();
        if base.scheme() == "http" && !stays_here && !settings.allow_http {
            return Err(LoginError::PlainHttp);
        }
        let trust = trust(settings.ca_file, base.scheme() == "https")?;
        let client = HttpClient::new(trust, proxy, Connections::Fresh).map_err(LoginError::Tls)?;
        // A trace that no header can carry is no reason not to log in.
        let traceparent = settings.traceparent.and_then(|parent| HeaderValue::from_str(parent).ok());
        Ok(Self { client, timeout: settings.timeout, traceparent })
    }

    /// Sends a request, and reads so many bytes of the answer's body at most.
    pub(crate) async fn send(
        &self,
        mut request: TrackerRequest,
        longest: usize,
    ) -> Result<TrackerResponse, HttpError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(traceparent) = &self.traceparent {
            headers.insert("traceparent", traceparent.clone());
        }
        exchange(&self.client, request, longest, self.timeout).await
    }
}

/// Sends a request, and reads so many bytes of the answer's body at most: what came of it within the time limit, if that has the
/// status and the headers.
pub async fn exchange(
    client: &HttpClient,
    request: TrackerRequest,
    longest: usize,
    timeout: Duration,
) -> Result<TrackerResponse, HttpError> {
    let deadline = Instant::now() + timeout;
    let late = HttpError::Late(timeout);
    let head = timeout_at(deadline, client.send(request)).await;
    let (head, mut rest) = head.unwrap_or_else(|_| Err(late.clone()))?.into_parts();
    let mut body = Vec::new();
    let read = timeout_at(deadline, read(&mut rest, &mut body, longest)).await;
    let broken = read.unwrap_or(Err(late)).err();
    Ok(TrackerResponse { status: head.status, headers: head.headers, body, broken })
}

impl TrackerResponse {
    /// The same, if all of its body came.
    pub fn whole(self) -> Result<Self, HttpError> {
        match self.broken {
            None => Ok(self),
            Some(reason) => Err(reason),
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
        read_response(self.content_type(), &self.body)
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
            trouble => Self::Unreachable { reason: in_words(&trouble) },
        }
    }
}

/// For trouble with the request that had the token in it.
pub(crate) fn with_token(trouble: HttpError) -> LoginError {
    match trouble {
        HttpError::Certificate(reason) => LoginError::Certificate { reason },
        trouble => LoginError::AnswerLost { reason: in_words(&trouble) },
    }
}

pub(crate) fn in_words(trouble: &HttpError) -> String {
    match trouble {
        HttpError::Late(limit) => format!("nothing within {} s", limit.as_secs_f32()),
        other => other.to_string(),
    }
}

fn trust(ca_file: Option<&Path>, is_needed: bool) -> Result<Trust, LoginError> {
    let named = ca_file.map(|path| {
        countersign_tls::read(path)
            .and_then(|pem| Trust::only(&pem))
            .map_err(|error| LoginError::CaFile { path: path.to_owned(), reason: error.to_string() })
    });
    let trust = named.unwrap_or_else(|| Ok(Trust::nobody()))?;
    if !is_needed {
        return Ok(trust);
    }
    let trust = trust.and_system();
    if trust.is_empty() { Err(LoginError::NoAuthorities) } else { Ok(trust) }
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
    Request::builder().method(method).uri(url).body(Bytes::new()).map_err(|_| HttpError::url())
}

/// A call by XML-RPC.
pub(crate) fn call(url: &str, method: &str, params: Vec<Value>) -> Result<TrackerRequest, HttpError> {
    let call = MethodCall { name: method.to_owned().into(), params };
    // The writer's own error would have the document in it, and that the token.
    let call = call.to_xml().map_err(|_| HttpError::Lost("the call could not be written".to_owned()))?;
    let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{call}");
    let request = Request::post(url).header(CONTENT_TYPE, "text/xml; charset=utf-8");
    request.body(body.into()).map_err(|_| HttpError::url())
}
