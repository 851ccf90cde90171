//! What is decided about each request to the tracker.
//!
//! | the request | answer |
//! |---|---|
//! | has a session, and a rule of its issuer allows it | 204 (200 for Envoy) with the user's name |
//! | brings no session cookie | 401, or 204 with an empty name if `anonymous` is set |
//! | brings a session cookie that is not good | 401 |
//! | has a session, and no rule allows it, or its path has two readings | 403 |
//! | has a session, changes something or opens a WebSocket, and another site has a browser send it | 403 |
//! | carries the user header itself, in any spelling, or names it in `Connection` | 403 |
//! | is asked about by anybody but the proxy | 403 |
//! | the proxy does not say what the request is | 500 |
//! | the sessions cannot be read | 503 |

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::header::{CONNECTION, HeaderName, ORIGIN, SEC_WEBSOCKET_KEY, UPGRADE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use url::Url;

use crate::config::ReverseProxy;
use crate::events::{Event, EventKind};
use crate::gate::Gate;
use crate::health::{CANNOT_DECIDE, PROXY_IS_NOT_SET_UP};
use crate::login::CHALLENGE;
use crate::original::{OriginalRequest, Question};
use crate::routes::{Peer, text};
use crate::rules::allow;

/// The headers by which some frameworks let a request be of another method than it is.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// The same as a parameter.
const METHOD_PARAMETER: &str = "_method";

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed(HeaderValue),
    Anonymous,
    NoSession,
    SessionOver,
    Forbidden(&'static str),
    NotTheProxy,
    NotStated(String),
    Unavailable(String),
}

pub(crate) async fn answer(
    State(gate): State<Arc<Gate>>,
    Extension(Peer(peer)): Extension<Peer>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let asked = Question { method: &method, uri: &uri, headers: &headers };
    let verdict = if gate.is_proxy(peer) { gate.judge(&asked).await } else { Verdict::NotTheProxy };
    gate.metrics.request(verdict.name());
    gate.log(&verdict, gate.client(peer, &headers));
    let (mut status, sentence) = verdict.answer();
    // The others take any status from 200 to 299 for a yes.
    if status == StatusCode::NO_CONTENT && gate.config.proxy == ReverseProxy::Envoy {
        status = StatusCode::OK;
    }
    let mut response = text(status, sentence);
    match verdict {
        Verdict::Allowed(user) => {
            response.headers_mut().insert(gate.config.user_header.clone(), user);
        }
        // Not left out: Caddy 2.6 would tell the tracker the name of its own variable in the place of the missing value. Envoy
        // passes an empty value on, and no missing one.
        Verdict::Anonymous if gate.config.proxy != ReverseProxy::Envoy => {
            response.headers_mut().insert(gate.config.user_header.clone(), HeaderValue::from_static(""));
        }
        _ if status == StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        _ => {}
    }
    if status.is_success() {
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(axum::http::header::CONTENT_TYPE);
    }
    response
}

impl Gate {
    /// Whether the proxy is at the other end of a connection. The mode of a Unix socket lets only the proxy connect.
    fn is_proxy(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.config.trusted_proxies.iter().any(|network| network.contains(&peer)))
    }

    async fn judge(&self, asked: &Question<'_>) -> Verdict {
        let headers = asked.headers;
        // A proxy that does not remove it might pass it on to the tracker.
        if has_header(headers, self.config.user_header.as_str()) {
            return Verdict::Forbidden("the client sent the header that carries the user's name");
        }
        // A proxy takes the headers that `Connection` names away, also those that it has set.
        if has_connection_option(headers, self.config.user_header.as_str()) {
            return Verdict::Forbidden(
                "the client has the proxy take away the header that carries the user's name",
            );
        }
        let request = match OriginalRequest::read(asked, self.config.proxy) {
            Ok(request) => request,
            Err(error) => return Verdict::NotStated(error.to_string()),
        };
        let Some(digests) = self.cookies.sessions(headers) else {
            return if self.config.anonymous { Verdict::Anonymous } else { Verdict::NoSession };
        };
        for digest in digests {
            match self.sessions.find(digest, self.clock.now()).await {
                Err(error) => return Verdict::Unavailable(error.to_string()),
                Ok(None) => {}
                Ok(Some(session)) => {
                    let Some(issuer) = self.issuer_of(&session) else { continue };
                    return match self.reason_to_forbid(&request, headers, &issuer.config.allow) {
                        None => Verdict::Allowed(issuer.config.user.clone()),
                        Some(reason) => Verdict::Forbidden(reason),
                    };
                }
            }
        }
        Verdict::SessionOver
    }

    fn reason_to_forbid(
        &self,
        request: &OriginalRequest,
        headers: &HeaderMap,
        rules: &[crate::Rule],
    ) -> Option<&'static str> {
        let Ok(path) = &request.path else { return Some("its path can be read in two ways") };
        if !allow(rules, &request.method, path, &self.base) {
            return Some("no rule of the issuer allows this method on this path");
        }
        if METHOD_OVERRIDES.iter().any(|name| has_header(headers, name))
            || path.has_query_parameter(METHOD_PARAMETER)
        {
            return Some("it asks the tracker to take it for another method");
        }
        if (request.is_unsafe() || opens_websocket(headers))
            && comes_from_another_site(headers, &self.config.base_url)
        {
            return Some("another site had a browser send it");
        }
        None
    }

    fn log(&self, verdict: &Verdict, client: Option<IpAddr>) {
        let line = |what: &str, error: bool| {
            let now = self.clock.now();
            let reason = match verdict {
                Verdict::Forbidden(reason) => reason,
                other => other.name(),
            };
            let Some(left_out) = self.log_limit.admit(reason, now) else { return };
            let shown = client.map(tracing::field::display);
            if error {
                tracing::error!(left_out, client = shown, "{what}");
            } else {
                tracing::warn!(left_out, client = shown, "{what}");
            }
            let address = client.map(|client| client.to_string());
            self.note(Event::refused(EventKind::RequestRefused, reason, None, address, now, left_out));
        };
        match verdict {
            Verdict::Allowed(_) | Verdict::Anonymous | Verdict::NoSession => {}
            Verdict::SessionOver => {
                line("rejected a session cookie that is over, or was not made here", false);
            }
            Verdict::Forbidden(reason) => line(&format!("forbade a request: {reason}"), false),
            Verdict::NotTheProxy => line(
                "somebody who is not the proxy asked who is logged in; if it is the proxy, add its address to trusted_proxies",
                true,
            ),
            Verdict::NotStated(error) | Verdict::Unavailable(error) => line(error, true),
        }
    }
}

impl Verdict {
    /// The label of the metric.
    fn name(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Anonymous => "anonymous",
            Self::NoSession => "no_session",
            Self::SessionOver => "session_over",
            Self::Forbidden(_) => "forbidden",
            Self::NotTheProxy => "not_the_proxy",
            Self::NotStated(_) => "not_stated",
            Self::Unavailable(_) => "unavailable",
        }
    }

    fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Allowed(_) | Self::Anonymous => (StatusCode::NO_CONTENT, ""),
            Self::NoSession => (StatusCode::UNAUTHORIZED, "Log in with a login token first."),
            Self::SessionOver => {
                (StatusCode::UNAUTHORIZED, "This session is over. Log in with a new login token.")
            }
            Self::Forbidden(_) | Self::NotTheProxy => (
                StatusCode::FORBIDDEN,
                "This is not allowed. The administrator finds the reason in the gate's log.",
            ),
            Self::NotStated(_) => (StatusCode::INTERNAL_SERVER_ERROR, PROXY_IS_NOT_SET_UP),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, CANNOT_DECIDE),
        }
    }
}

/// Whether there is a header of this name, also with another character for `-`: many servers make `_` of it, and PHP makes
/// `_` of a dot, too.
fn has_header(headers: &HeaderMap, name: &str) -> bool {
    headers.keys().any(|found| passes_for(found.as_str(), name))
}

/// Whether `Connection` names such a header.
fn has_connection_option(headers: &HeaderMap, name: &str) -> bool {
    let is_option = |value: &HeaderValue| {
        String::from_utf8_lossy(value.as_bytes()).split(',').any(|option| passes_for(option.trim(), name))
    };
    headers.get_all(CONNECTION).iter().any(is_option)
}

fn passes_for(found: &str, name: &str) -> bool {
    let is_same = |(found, wanted): (u8, u8)| {
        found.eq_ignore_ascii_case(&wanted) || (wanted == b'-' && !found.is_ascii_alphanumeric())
    };
    found.len() == name.len() && found.bytes().zip(name.bytes()).all(is_same)
}

/// Whether it is a GET that opens a WebSocket, by which a browser lets any site send messages. nginx does not pass `Upgrade` on to
/// the gate.
fn opens_websocket(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_WEBSOCKET_KEY) || headers.contains_key(UPGRADE)
}

/// Whether a browser says that a page of another site had it send this. A program says nothing of the kind.
pub(crate) fn comes_from_another_site(headers: &HeaderMap, base_url: &Url) -> bool {
    let own = base_url.origin().ascii_serialization();
    let is_elsewhere = headers.get_all(ORIGIN).iter().any(|origin| origin.as_bytes() != own.as_bytes());
    let is_cross_site = headers
        .get_all(SEC_FETCH_SITE)
        .iter()
        .any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"));
    is_elsewhere || is_cross_site
}
