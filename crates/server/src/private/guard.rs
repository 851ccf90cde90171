//! Who may use the private API.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::{Host, Url};

use crate::App;
use crate::problem::{Problem, with_challenge};

/// Lets a request pass if it shows the credential that is asked for, and does not come from a web page of somebody
/// else that a person on this machine happens to look at.
pub(crate) async fn admit(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(bearer) = &app.bearer {
        let shown = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        if !bearer.is_shown_by(shown) {
            let detail = "Show the private API's bearer token: Authorization: Bearer …";
            let problem = Problem::new(StatusCode::UNAUTHORIZED, "credential", detail);
            return with_challenge(problem.into_response(), "Bearer realm=\"countersign\"");
        }
    }
    // Browsers name the page's origin with every request that can change something, and pages cannot prevent it.
    if let Some(origin) = request.headers().get(ORIGIN)
        && !origin.to_str().is_ok_and(is_local)
    {
        let detail = "Web pages of other sites may not use the private API.";
        return Problem::new(StatusCode::FORBIDDEN, "foreign-origin", detail).into_response();
    }
    next.run(request).await
}

/// Whether an origin is this machine by number or as `localhost`. Any other name could be made to point here.
fn is_local(origin: &str) -> bool {
    let url = Url::parse(origin).ok();
    match url.as_ref().and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn local_origins() {
        for (origin, local) in [
            ("http://localhost:8087", true),
            ("http://127.0.0.1:8087", true),
            ("http://[::1]:8087", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://192.0.2.1", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(is_local(origin), local, "{origin}");
        }
    }
}
