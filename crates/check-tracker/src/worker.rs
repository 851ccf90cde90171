//! The worker's side of the login.

use std::time::Duration;

use countersign_http_client::{Connections, HttpClient, Trust};
use countersign_login::{LoginOutcome, Parameter, TrackerResponse, exchange};
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use crate::observation::NoResponse;
use crate::step::Credential;
use crate::{CheckError, Tracker};

/// The longest answer that is read, in bytes: an error page can be long.
const MAX_ANSWER: usize = 1024 * 1024;

const AGENT: &str = concat!("countersign-check-tracker/", env!("CARGO_PKG_VERSION"));

/// A client that comes to the tracker with tokens.
pub(crate) struct Worker {
    client: HttpClient,
    timeout: Duration,
}

/// Additions to a request.
pub(crate) struct Extras {
    /// They replace those of the client's own.
    pub(crate) headers: HeaderMap,
    /// Parameters of the URL's query; in a Bugzilla also members of the call's struct.
    pub(crate) query: Vec<Parameter>,
}

impl Worker {
    pub(crate) fn new(timeout: Duration) -> Result<Self, CheckError> {
        // Each visit gets a new connection: nothing of one reaches the next.
        let client = HttpClient::new(Trust::system(), None, Connections::Fresh).map_err(CheckError::Tls)?;
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
        let kind = tracker.kind();
        let request = match credential {
            Credential::Nothing => kind.detection_request(base),
            Credential::Look(method) => {
                kind.look_request(base, token, Method::from_bytes(method.as_bytes()).unwrap_or_default())
            }
            Credential::Token | Credential::SameToken | Credential::Text(_) => {
                kind.login_request(base, token, &extras.query)
            }
        };
        let mut request = request?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        request.headers_mut().extend(extras.headers);
        Ok(exchange(&self.client, request, MAX_ANSWER, self.timeout).await?.whole()?)
    }
}

/// The tracker's own words for a refusal: one line, in parentheses, at most 300 characters; empty if it has none.
pub(crate) fn said(tracker: Tracker, answer: &TrackerResponse) -> String {
    let text = tracker.kind().refusal_text(answer);
    let harmless: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let line = harmless.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.starts_with('<') { String::new() } else { format!(" ({line})") }
}

/// Whether the answer to a worker that brought nothing shows that there is a plugin.
pub(crate) fn detected(tracker: Tracker, answer: &TrackerResponse) -> Result<&'static str, String> {
    match tracker.kind().outcome(answer) {
        LoginOutcome::Refused => tracker.kind().shows_plugin(answer).map_err(str::to_owned),
        LoginOutcome::LetIn => Err("it lets in whoever brings nothing".to_owned()),
        LoginOutcome::Other(what) => Err(format!("it answers with {what}")),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn answer(body: &str) -> TrackerResponse {
        TrackerResponse { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into(), broken: None }
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
    fn finding_names_the_sent_request() {
        let base: Url = "https://bugs.example.org/".parse().unwrap();
        for method in ["HEAD", "GET", "POST", "PUT", "OPTIONS"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (bugzilla, trac) = (Tracker::Bugzilla.kind(), Tracker::Trac.kind());
            let sent = bugzilla.look_request(&base, "cs1token", method.clone()).unwrap();
            let named = format!("{} of {}", sent.method(), sent.uri().path().trim_start_matches('/'));
            assert_eq!(bugzilla.look_in_words(method.as_str()), named);
            let sent = trac.look_request(&base, "cs1token", method.clone()).unwrap();
            assert_eq!(trac.look_in_words(method.as_str()), sent.method().as_str());
        }
    }

    #[test]
    fn fault_is_read_in_any_order_and_spelling() {
        let (code, text) = (("faultCode", "<int>10705</int>"), ("faultString", "No &lt;b&gt;\n account."));
        for members in [[code, text], [text, code], [("faultCode", "<string>Server</string>"), text]] {
            let answer = fault(&members);
            assert_eq!(Tracker::Bugzilla.kind().outcome(&answer), LoginOutcome::Refused);
            assert_eq!(said(Tracker::Bugzilla, &answer), " (No <b> account.)");
            assert!(detected(Tracker::Bugzilla, &answer).is_ok());
        }
        for code in ["<int>-32601</int>", "Client"] {
            assert!(detected(Tracker::Bugzilla, &fault(&[("faultCode", code), text])).is_err(), "{code}");
        }
    }

    #[test]
    fn foreign_document_is_no_answer() {
        let deep = format!("<methodResponse>{}", "<a>".repeat(10_000));
        for body in ["", "<html></html>", "<fault>", "<fault></fault>", &deep] {
            assert!(
                matches!(Tracker::Bugzilla.kind().outcome(&answer(body)), LoginOutcome::Other(_)),
                "{body:.40}"
            );
            assert_eq!(said(Tracker::Bugzilla, &answer(body)), "");
        }
        assert!(matches!(Tracker::Bugzilla.kind().outcome(&fault(&[])), LoginOutcome::Other(_)));
    }
}
