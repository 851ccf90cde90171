//! One question to the issuer over HTTP.
//!
//! Nothing is repeated here: [`Verifier::verify`](crate::Verifier::verify) says when the question is asked again.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use countersign_http_client::{Connections, HttpClient, HttpError, Proxy, Trust, in_time, read_whole};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};

use crate::SetupError;

/// The longest body that is read, in bytes: claims have at most 1 KiB.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Asks questions.
#[derive(Clone)]
pub(crate) struct Client {
    http: HttpClient,
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
    Json(Vec<u8>),
    TooLong,
}

impl Client {
    /// A client that waits so long for each answer.
    pub(crate) fn new(trust: Trust, proxy: Option<Proxy>, timeout: Duration) -> Result<Self, SetupError> {
        let http = HttpClient::new(trust, proxy, Connections::Fresh);
        Ok(Self { http: http.map_err(|error| SetupError::Tls(error.to_string()))?, timeout })
    }

    /// Asks once.
    pub(crate) async fn ask(&self, question: &HandshakeRequest) -> Result<IssuerResponse, HttpError> {
        in_time(self.timeout, self.exchange(question)).await
    }

    async fn exchange(&self, question: &HandshakeRequest) -> Result<IssuerResponse, HttpError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(question.url.clone())
            .header(ACCEPT, "application/json, text/plain;q=0.9")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(USER_AGENT, concat!("countersign-verifier/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", &question.key)
            .body(Bytes::from(question.form.clone()))
            .map_err(|_| HttpError::url())?;
        let response = self.http.send(request).await?;
        let (head, body) = response.into_parts();
        let body = if head.status == StatusCode::OK && is_json(&head.headers) {
            match read_whole(body, MAX_BODY_BYTES).await {
                Ok(body) => Body::Json(body),
                Err(HttpError::TooLong(_)) => Body::TooLong,
                Err(error) => return Err(error),
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
pub(crate) fn trust(authorities: Option<&[u8]>) -> Result<Trust, SetupError> {
    let trust = Trust::only_or_system(authorities);
    let trust = trust.map_err(|error| SetupError::Authorities(error.to_string()))?;
    if trust.is_empty() { Err(SetupError::NoAuthorities) } else { Ok(trust) }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_by_its_media_type() {
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
    fn retry_pause_is_whole_seconds() {
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
            assert!(matches!(trust(Some(pem.as_bytes())), Err(SetupError::Authorities(_))), "{pem}");
        }
    }
}
