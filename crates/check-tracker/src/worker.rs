//! The worker's side of the login, for each kind of tracker.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use countersign_login::{CallOutcome as Reading, read_answer};
use dxr::{MethodCall, Value};
use http::header::{CONTENT_TYPE, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::check::Credential;
use crate::observation::NoResponse;
use crate::{CheckError, Tracker};

/// The longest answer that is read, in bytes: an error page can be long.
const MAX_ANSWER: usize = 1024 * 1024;

const AGENT: &str = concat!("countersign-check-tracker/", env!("CARGO_PKG_VERSION"));

/// A client that comes to the tracker with tokens.
pub(crate) struct Worker {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

/// What a request says besides.
pub(crate) struct Extras {
    /// They replace those of the client's own.
    pub(crate) headers: HeaderMap,
    /// Parameters of the URL's query; in a Bugzilla also members of the call's struct.
    pub(crate) query: Vec<(&'static str, String)>,
}

/// The tracker's answer, with all of its body.
pub(crate) struct TrackerResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

impl TrackerResponse {
    /// What it says, if it is XML-RPC.
    fn reading(&self) -> Option<Reading> {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        read_answer(kind, &self.body)
    }
}

/// What an answer means.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum LoginOutcome {
    /// The worker is logged in.
    LetIn,
    /// It is not, and knows that it met the plugin: 401, or an XML-RPC fault.
    Refused,
    /// Something that a worker does not understand.
    Other(String),
}

impl Worker {
    pub(crate) fn new(timeout: Duration) -> Result<Self, CheckError> {
        let tls = countersign_tls::client(countersign_tls::system_authorities()).map_err(CheckError::Tls)?;
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // A connection of its own for every visit: nothing of one reaches the next.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            .build(https);
        Ok(Self { client, timeout })
    }

    /// Comes to the tracker once.
    pub(crate) async fn visit(
        &self,
        (tracker, base): (Tracker, &Url),
        credential: Credential,
        token: &str,
        extras: Extras,
    ) -> Result<TrackerResponse, NoResponse> {
        let request = match tracker {
            Tracker::Trac => trac(base, credential, token, &extras.query),
            Tracker::Bugzilla => bugzilla(base, credential, token, &extras.query),
        };
        let mut request = request.map_err(|error| NoResponse::NoAnswer(error.to_string()))?;
        request.headers_mut().insert(USER_AGENT, http::HeaderValue::from_static(AGENT));
        request.headers_mut().extend(extras.headers);
        let answer = tokio::time::timeout(self.timeout, self.exchange(request)).await;
        answer.unwrap_or(Err(NoResponse::Late(self.timeout)))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<TrackerResponse, NoResponse> {
        let (head, body) = self.client.request(request).await.map_err(|error| trouble(&error))?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| trouble(&*error))?;
        Ok(TrackerResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// `launchpad-auth/TOKEN`. Everything but letters and digits is percent-encoded, so that it arrives in its place.
fn trac(
    base: &Url,
    credential: Credential,
    token: &str,
    query: &[(&'static str, String)],
) -> http::Result<Request<Full<Bytes>>> {
    let (method, last) = match credential {
        Credential::Nothing => ("GET", "check"),
        Credential::Look(method) => (method, token),
        Credential::Token | Credential::SameToken | Credential::Text(_) => ("GET", token),
    };
    let last = utf8_percent_encode(last, NON_ALPHANUMERIC);
    Request::builder()
        .method(method)
        .uri(below(base, &format!("launchpad-auth/{last}"), query))
        .body(Full::default())
}

/// The XML-RPC method `Launchpad.login`; to look is to call it by JSON-RPC with GET or HEAD, which change nothing in a Bugzilla.
fn bugzilla(
    base: &Url,
    credential: Credential,
    token: &str,
    query: &[(&'static str, String)],
) -> http::Result<Request<Full<Bytes>>> {
    const METHOD: &str = "Launchpad.login";
    let text = |(name, value): &(&str, String)| ((*name).to_owned(), Value::String(value.clone()));
    let mut parameters: BTreeMap<_, _> = query.iter().map(text).collect();
    match credential {
        Credential::Nothing => {}
        Credential::Look(method) => {
            let call = format!("jsonrpc.cgi?method={METHOD}&params=%5B%7B%22token%22%3A%22{token}%22%7D%5D");
            let method = if method == "HEAD" { Method::HEAD } else { Method::GET };
            // `sent_to_look` says the same in words.
            return Request::builder().method(method).uri(below(base, &call, &[])).body(Full::default());
        }
        Credential::Token | Credential::SameToken | Credential::Text(_) => {
            parameters.insert("token".to_owned(), Value::String(token.to_owned()));
        }
    }
    let call = MethodCall { name: METHOD.into(), params: vec![Value::Struct(parameters)] };
    let call = call.to_xml().unwrap_or_default();
    Request::post(below(base, "xmlrpc.cgi", query))
        .header(CONTENT_TYPE, "text/xml; charset=utf-8")
        .body(Full::from(format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{call}")))
}

/// What the worker really sends when it looks with this method.
pub(crate) fn sent_to_look(tracker: Tracker, method: &str) -> String {
    match (tracker, method) {
        (Tracker::Trac, method) => method.to_owned(),
        (Tracker::Bugzilla, "HEAD") => "HEAD of jsonrpc.cgi".to_owned(),
        (Tracker::Bugzilla, _) => "GET of jsonrpc.cgi".to_owned(),
    }
}

fn below(base: &Url, path: &str, query: &[(&'static str, String)]) -> String {
    let mut url = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    if !query.is_empty() {
        url.push('?');
        url.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
    }
    url
}

/// What the answer to a login means.
pub(crate) fn outcome(tracker: Tracker, answer: &TrackerResponse) -> LoginOutcome {
    let status = answer.status.as_u16();
    match (tracker, status) {
        (Tracker::Trac, 200) => LoginOutcome::LetIn,
        (Tracker::Trac, 401) => LoginOutcome::Refused,
        (Tracker::Bugzilla, 200) => match answer.reading() {
            Some(Reading::Fault { .. }) => LoginOutcome::Refused,
            Some(Reading::Returned(_)) => LoginOutcome::LetIn,
            None => LoginOutcome::Other("something else than XML-RPC".to_owned()),
        },
        (Tracker::Trac | Tracker::Bugzilla, _) => LoginOutcome::Other(format!("HTTP status {status}")),
    }
}

/// The tracker's own words for a refusal: one line, in parentheses, at most 300 characters; empty if it has none.
pub(crate) fn said(tracker: Tracker, answer: &TrackerResponse) -> String {
    let text = match tracker {
        Tracker::Trac => String::from_utf8_lossy(&answer.body).into_owned(),
        Tracker::Bugzilla => match answer.reading() {
            Some(Reading::Fault { text, .. }) => text,
            Some(Reading::Returned(_)) | None => String::new(),
        },
    };
    let harmless: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let line = harmless.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.starts_with('<') { String::new() } else { format!(" ({line})") }
}

/// Whether the answer to a worker that brought nothing shows that there is a plugin.
pub(crate) fn detected(tracker: Tracker, answer: &TrackerResponse) -> Result<String, String> {
    match (tracker, outcome(tracker, answer)) {
        (Tracker::Trac, LoginOutcome::Refused) if wants_password(&answer.headers) => {
            Err("it answers 401 because the web server wants a password".to_owned())
        }
        (Tracker::Trac, LoginOutcome::Refused) => Ok("it answers 401".to_owned()),
        (Tracker::Bugzilla, LoginOutcome::Refused) => match answer.reading() {
            // The latter is SOAP::Lite's.
            Some(Reading::Fault { code, .. }) if matches!(code.as_str(), "-32601" | "Client") => {
                Err("it has no method Launchpad.login".to_owned())
            }
            _ => Ok("the method Launchpad.login is there, and objects to a call without a token".to_owned()),
        },
        (_, LoginOutcome::LetIn) => Err("it lets in whoever brings nothing".to_owned()),
        (_, LoginOutcome::Other(what)) => Err(format!("it answers with {what}")),
    }
}

fn wants_password(headers: &HeaderMap) -> bool {
    headers.get_all(WWW_AUTHENTICATE).iter().any(|challenge| {
        let scheme = challenge.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        ["basic", "digest", "negotiate", "ntlm"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()))
    })
}

/// The innermost cause says most.
fn trouble(error: &(dyn Error + 'static)) -> NoResponse {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    NoResponse::NoAnswer(cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> TrackerResponse {
        TrackerResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn fault(members: &[(&str, &str)]) -> TrackerResponse {
        let members = members
            .iter()
            .map(|(name, value)| format!("<member><name>{name}</name><value>{value}</value></member>"));
        let members: String = members.collect();
        answer(&format!(
            "<?xml version=\"1.0\"?><methodResponse><fault><value><struct>{members}</struct></value></fault></methodResponse>"
        ))
    }

    #[test]
    fn finding_names_what_was_sent() {
        let base: Url = "https://bugs.example.org/".parse().unwrap();
        for method in ["HEAD", "GET", "POST", "PUT", "OPTIONS"] {
            let sent = bugzilla(&base, Credential::Look(method), "cs1token", &[]).unwrap();
            let named = format!("{} of {}", sent.method(), sent.uri().path().trim_start_matches('/'));
            assert_eq!(sent_to_look(Tracker::Bugzilla, method), named);
            let sent = trac(&base, Credential::Look(method), "cs1token", &[]).unwrap();
            assert_eq!(sent_to_look(Tracker::Trac, method), sent.method().as_str());
        }
    }

    #[test]
    fn a_fault_is_read_in_any_order_and_spelling() {
        let (code, text) = (("faultCode", "<int>10705</int>"), ("faultString", "No &lt;b&gt;\n account."));
        for members in [[code, text], [text, code], [("faultCode", "<string>Server</string>"), text]] {
            let answer = fault(&members);
            assert_eq!(outcome(Tracker::Bugzilla, &answer), LoginOutcome::Refused);
            assert_eq!(said(Tracker::Bugzilla, &answer), " (No <b> account.)");
            assert!(detected(Tracker::Bugzilla, &answer).is_ok());
        }
        for code in ["<int>-32601</int>", "Client"] {
            assert!(detected(Tracker::Bugzilla, &fault(&[("faultCode", code), text])).is_err(), "{code}");
        }
    }

    #[test]
    fn what_is_not_xml_rpc_is_neither_yes_nor_no() {
        let deep = format!("<methodResponse>{}", "<a>".repeat(10_000));
        for body in ["", "<html></html>", "<fault>", "<fault></fault>", &deep] {
            assert!(
                matches!(outcome(Tracker::Bugzilla, &answer(body)), LoginOutcome::Other(_)),
                "{body:.40}"
            );
            assert_eq!(said(Tracker::Bugzilla, &answer(body)), "");
        }
        assert!(matches!(outcome(Tracker::Bugzilla, &fault(&[])), LoginOutcome::Other(_)));
    }
}
