//! Authorizes callers of the private API and of the operators' page.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::{Host, Url};

use crate::App;
use crate::arrival::{Arrival, ClientCertificate, Peer};
use crate::bearer::{shown_by_browser, shown_by_program};
use crate::caller::Caller;
use crate::callers::jwt::MIN_REFRESH_INTERVAL;
use crate::callers::{Grant, JwtFault};
use crate::problem::{Problem, with_allow, with_challenge, with_retry_after};
use crate::routes::Needs;

/// With which browsers say how a request's page and its target are related (W3C Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Lets a request to the API pass if [`check`] does, and notes what its caller may do.
pub(crate) async fn admit(
    State((app, needs)): State<(Arc<App>, Needs)>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrival = Arrival::of(request.extensions());
    if let Some(fetch) = keys_for_call(&app, request.headers(), &arrival) {
        fetch.await;
    }
    match check(&app, &request, &arrival, needs) {
        Ok(grant) => request.extensions_mut().insert(grant),
        Err(refused) => return refused,
    };
    // An ignored parameter, such as an audience, would be lost without notice.
    let path = request.uri().path();
    // Routes that only read have a query, and answer these methods 405.
    let is_read = path.starts_with("/v1/events") || path == "/v1/summary";
    let takes_none = path.starts_with("/v1/") && !is_read;
    if takes_none
        && matches!(*request.method(), Method::POST | Method::DELETE)
        && request.uri().query().is_some_and(|query| !query.is_empty())
    {
        let detail =
            "This operation takes no query; its parameters stand in the body, as /openapi.json describes it.";
        return Problem::bad_request("query", detail).into_response();
    }
    next.run(request).await
}

/// Whether a request to the API shows the required credential, does not come from a foreign web page that a
/// person on this machine happens to look at, and may have what the route needs. Returns what the caller may do, or how the
/// request is rejected.
#[expect(clippy::result_large_err, reason = "it is the answer, and made once")]
pub(crate) fn check(
    app: &App,
    request: &Request,
    arrival: &Arrival,
    needs: Needs,
) -> Result<Grant, Response> {
    let headers = request.headers();
    // A wrong secret is rejected even with a good certificate.
    let shown =
        headers.get(AUTHORIZATION).map(|value| shown_by_program(value.as_bytes()).unwrap_or_default());
    let grant = match app.grant(shown, request.extensions().get()) {
        Ok(grant) => grant,
        Err(none) => {
            if let Some(answer) = rejected(app, request, arrival, none) {
                return Err(answer);
            }
            let detail = "Show the private API's bearer token: Authorization: Bearer …";
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "credential", detail);
            return Err(with_challenge(problem.into_response(), "Bearer realm=\"countersign\""));
        }
    };
    is_called_by_its_name(app, request, arrival).map_err(IntoResponse::into_response)?;
    // Browsers name the page's origin with every request that can change something, and pages cannot prevent it. One
    // that another program of this machine serves is foreign too.
    if headers.contains_key(ORIGIN) && !is_of_one_origin(headers) {
        return Err(foreign().into_response());
    }
    if let Err(reason) = needs.check(&grant) {
        app.events.denied(&Caller::of(arrival, headers).with(grant), &reason);
        return Err(reason.into_response());
    }
    Ok(grant)
}

/// A future that ends once the keys for a call's JWT are available or unavailable; see [`keys_to_wait_for`].
pub(crate) fn keys_for_call(
    app: &App,
    headers: &HeaderMap,
    arrival: &Arrival,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    keys_to_wait_for(app, shown_by_program(authorization(headers)), arrival)
}

/// A future that ends once the keys for a JWT are available or unavailable; `None` if there is nothing to wait for, as when the
/// request has no JWT of an issuer that the callers file names. An address that had too many refusals is answered at once: it
/// takes no place, and a good token whose key is known is still accepted.
fn keys_to_wait_for(
    app: &App,
    shown: Option<&[u8]>,
    arrival: &Arrival,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let issuers = app.callers.as_ref()?.issuers();
    if issuers.is_empty() {
        return None;
    }
    let fetch = issuers.fetch_for(shown?, app.tokens.clock().now())?;
    if app.limiter.is_over(arrival.peer) {
        return None;
    }
    // Boxed, as it is rare: it would be a part of the future of every request.
    Some(Box::pin(fetch))
}

/// Lets a request to the page pass. A browser shows the credential as a password, and the page is used by itself alone:
/// not even another page of this machine may do so.
pub(crate) async fn admit_to_page(
    State((app, needs)): State<(Arc<App>, Needs)>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrival = Arrival::of(request.extensions());
    let headers = request.headers();
    let password = shown_by_browser(authorization(headers));
    let shown =
        password.as_ref().map_or_else(|| shown_by_program(authorization(headers)), |secret| Some(secret));
    if let Some(fetch) = keys_to_wait_for(&app, shown, &arrival) {
        fetch.await;
    }
    let shown = shown.or_else(|| headers.contains_key(AUTHORIZATION).then_some(&[][..]));
    let grant = match app.grant(shown, request.extensions().get()) {
        Ok(grant) => grant,
        Err(none) => {
            if let Some(answer) = rejected(&app, &request, &arrival, none) {
                return answer;
            }
            let detail = "The password is the private API's bearer secret; any name will do.\n";
            let challenge = "Basic realm=\"countersign\", charset=\"UTF-8\"";
            return with_challenge((StatusCode::UNAUTHORIZED, detail).into_response(), challenge);
        }
    };
    if let Err(problem) = is_called_by_its_name(&app, &request, &arrival) {
        return problem.into_response();
    }
    // The page is at the root, and takes nothing there: what is sent to it was meant for the API.
    if request.uri().path() == "/" && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let text = "Here is the operators' page. XML-RPC calls go to /bugs, JSON to /v1/tokens.\n";
        return with_allow((StatusCode::METHOD_NOT_ALLOWED, text).into_response(), "GET, HEAD");
    }
    if !is_from_the_page_itself(request.method(), headers) {
        return foreign().into_response();
    }
    if let Err(not_allowed) = needs.check(&grant) {
        app.events.denied(&Caller::of(&arrival, headers).with(grant), &not_allowed);
        return not_allowed.into_response();
    }
    request.extensions_mut().insert(grant);
    next.run(request).await
}

/// Why a request has no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoGrant {
    /// It shows nothing.
    Nothing,
    Secret,
    Certificate,
    Jwt(JwtFault),
}

/// Counts a wrong credential; returns the answer if its address has shown too many, or if the credential cannot be
/// judged now. A request without one is no guess: browsers ask that way first.
fn rejected(app: &App, request: &Request, arrival: &Arrival, none: NoGrant) -> Option<Response> {
    let reason = match none {
        NoGrant::Nothing => return None,
        NoGrant::Secret => "it is not a caller's secret".to_owned(),
        NoGrant::Certificate => "its client certificate is no caller's".to_owned(),
        NoGrant::Jwt(fault) => {
            app.events.tally().jwt_rejected(fault);
            fault.to_string()
        }
    };
    // It may be good.
    let is_unknown = matches!(none, NoGrant::Jwt(JwtFault::NoKeys | JwtFault::Clock));
    if !is_unknown {
        app.events.credential_rejected(&Caller::of(arrival, request.headers()), reason);
    }
    let counted = app.limiter.count(arrival.peer);
    if none == NoGrant::Jwt(JwtFault::Clock) {
        let why = app.tokens.clock_trouble().map_or_else(String::new, |trouble| format!(": {trouble}"));
        let detail = format!(
            "This server cannot tell whether the token has expired{why}. Show a secret, or try again."
        );
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "clock", detail);
        return Some(problem.into_response());
    }
    if is_unknown {
        let detail = "The keys of the token's issuer cannot be fetched, so that nobody can say whether the token is good; \
                      try again later. `countersign doctor` and the server's log say why.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "issuer-unavailable", detail);
        let wait = counted.err().unwrap_or(MIN_REFRESH_INTERVAL);
        return Some(with_retry_after(problem.into_response(), wait));
    }
    let wait = counted.err()?;
    let detail = "Too many wrong secrets from this address; try again later, or show the right one.";
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-refusals", detail);
    Some(with_retry_after(problem.into_response(), wait))
}

impl App {
    /// The rights of the caller with this secret or JWT or, without one, with a certificate of these names. An error if a
    /// credential is required and this one is invalid.
    pub(crate) fn grant(
        &self,
        shown: Option<&[u8]>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Grant, NoGrant> {
        if !self.asks_for_credential() {
            return Ok(Grant::Everything);
        }
        let Some(shown) = shown else {
            let Some(ClientCertificate(names)) = certificate else { return Err(NoGrant::Nothing) };
            let found = self.callers.as_ref().and_then(|callers| callers.find_by_certificate(names));
            return found.map(|caller| Grant::Named(caller, None)).ok_or(NoGrant::Certificate);
        };
        // Both are looked at, so that the time it takes does not tell which one it is. A name stands for less.
        let named = self.callers.as_ref().and_then(|callers| callers.find(shown));
        let is_default = self.bearer.as_ref().is_some_and(|bearer| bearer.is(shown));
        if let Some(caller) = named {
            return Ok(Grant::Named(caller, None));
        }
        if is_default {
            return Ok(Grant::Everything);
        }
        let trusts_clock = || self.tokens.clock_trouble().is_none();
        match self.callers.as_ref().and_then(|callers| callers.find_by_jwt(shown, trusts_clock)) {
            Some(Ok((caller, until))) => Ok(Grant::Named(caller, Some(until))),
            Some(Err(fault)) => Err(NoGrant::Jwt(fault)),
            None => Err(NoGrant::Secret),
        }
    }

    /// Whether a grant still is what the callers file says, for an answer without an end.
    pub(crate) fn is_in_force(&self, grant: &Grant) -> bool {
        match grant {
            Grant::Nothing => false,
            Grant::Everything => true,
            Grant::Named(caller, until) => {
                let is_before =
                    |until| self.tokens.clock_trouble().is_none() && self.tokens.clock().now() < until;
                let has_time = until.is_none_or(is_before);
                has_time && self.callers.as_ref().is_some_and(|callers| callers.is_in_force(caller))
            }
        }
    }

    /// Counts a client certificate that is not taken, as a wrong bearer is counted. There is no answer that could be
    /// withheld: the connection ends.
    pub(crate) fn certificate_rejected(&self, Peer(peer): Peer, reason: impl Display) {
        self.events.credential_rejected(&Caller::from_address(peer), reason);
        let _ = self.limiter.count(peer);
    }
}

fn authorization(headers: &HeaderMap) -> &[u8] {
    headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default()
}

fn foreign() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-origin",
        "Web pages of other sites may not use the private API.",
    )
}

/// Whether a request is addressed to this machine. A foreign web page can let its own name point here, and then
/// its requests are of its own origin for a browser (DNS rebinding); only the name that they are addressed to shows it.
/// Where a bearer is required, such a page has none. Remote callers without one must use TLS, which
/// checks the name itself; and to a Unix socket no browser connects.
fn is_called_by_its_name(app: &App, request: &Request, arrival: &Arrival) -> Result<(), Problem> {
    let from_here = arrival.peer.is_some_and(|peer| peer.is_loopback());
    let Some(host) = request.headers().get(HOST).filter(|_| from_here && !app.asks_for_credential()) else {
        return Ok(());
    };
    let is_ours = host.to_str().is_ok_and(is_local_or_a_number);
    if is_ours {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "foreign-host",
        "Without a bearer secret, the private API answers only to localhost and to numbers such as 127.0.0.1, so that no \
         web page can reach it under a name of its own. Use one of those, or set callers_file or private_bearer_file.",
    ))
}

/// Whether a request comes from the page that it goes to, or from a person who opens it.
fn is_from_the_page_itself(method: &Method, headers: &HeaderMap) -> bool {
    if method != Method::GET && method != Method::HEAD && !is_of_one_origin(headers) {
        return false;
    }
    match text(headers, &SEC_FETCH_SITE) {
        None | Some("same-origin" | "none") => true,
        // A link to it may be anywhere.
        Some(_) => method == Method::GET && text(headers, &SEC_FETCH_MODE) == Some("navigate"),
    }
}

/// Whether a request says that the page which makes it comes from the very host and port that it goes to.
fn is_of_one_origin(headers: &HeaderMap) -> bool {
    let origin = text(headers, &ORIGIN).and_then(|origin| origin.split_once("://"));
    origin.is_some_and(|(_, host)| text(headers, &HOST) == Some(host))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a `Host` is `localhost` or any number: a number is not looked up, so that it cannot point elsewhere.
fn is_local_or_a_number(host: &str) -> bool {
    // Nearly every request spells it so, and reading it as a URL is a sixth of what issuing a token takes.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if name == "localhost" || name.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    match Url::parse(&format!("http://{host}")).ok().as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(_) | Host::Ipv6(_)) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_one_host_and_port() {
        for (origin, host, one) in [
            ("http://localhost:8087", "localhost:8087", true),
            ("http://[::1]:8087", "[::1]:8087", true),
            ("http://localhost:3000", "localhost:8087", false),
            ("http://127.0.0.1:8087", "localhost:8087", false),
            ("https://evil.example", "localhost:8087", false),
            ("null", "localhost:8087", false),
            ("", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            assert!(!is_of_one_origin(&headers), "{origin} without a host");
            headers.insert(HOST, HeaderValue::from_static(host));
            assert_eq!(is_of_one_origin(&headers), one, "{origin} at {host}");
        }
    }

    #[test]
    fn only_numbers_and_localhost_are_safe_hosts() {
        for (host, is_one) in [
            ("localhost", true),
            ("localhost:8087", true),
            ("LOCALHOST:8087", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8087", true),
            ("127.1:8087", true),
            ("192.0.2.1", true),
            ("[::1]", true),
            ("[::1]:8087", true),
            ("evil.example", false),
            ("evil.example:8087", false),
            ("localhost.evil.example", false),
            ("evil.example:127.0.0.1", false),
            ("localhost:x", false),
            ("127.0.0.1.evil.example:8087", false),
            ("", false),
            (":8087", false),
        ] {
            assert_eq!(is_local_or_a_number(host), is_one, "{host}");
        }
    }

    #[test]
    fn only_same_origin_requests_use_the_page() {
        let (get, post) = (Method::GET, Method::POST);
        let host = ("host", "127.0.0.1:8087");
        let own = ("origin", "http://127.0.0.1:8087");
        for (method, more, admitted) in [
            (&get, vec![], true),
            (&get, vec![("sec-fetch-site", "none")], true),
            (&get, vec![("sec-fetch-site", "same-origin")], true),
            (&get, vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], true),
            (&get, vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], false),
            (&get, vec![("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")], false),
            (&post, vec![], false),
            (&post, vec![own], true),
            (&post, vec![own, ("sec-fetch-site", "same-origin"), ("sec-fetch-mode", "navigate")], true),
            (&post, vec![own, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], false),
            (&post, vec![("origin", "null")], false),
            (&post, vec![("origin", "http://127.0.0.1:9999")], false),
            (&post, vec![("origin", "http://localhost:8087")], false),
            (&post, vec![("origin", "https://evil.example")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in more.iter().chain([&host]) {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_from_the_page_itself(method, &headers), admitted, "{method} {more:?}");
        }
        assert!(!is_from_the_page_itself(&post, &HeaderMap::new()), "no host, and no origin either");
    }
}
