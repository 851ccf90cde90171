//! Sends spans to a collector by OTLP over HTTP, as protobuf.

use std::fmt;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{Request, StatusCode, Uri};
use bytes::Bytes;
use countersign_http_client::{Connections, HttpClient, HttpError, Trust, in_time, read_whole};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use url::Url;

use crate::AGENT;

/// How long a collector may take for its answer.
pub const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a collector takes spans, below its base URL (OTLP 1.x, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

/// The longest answer that is read, in bytes. It says how many spans were refused, and why.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A collector of traces. Its `Debug` tells only the host: a URL may have a secret in it.
#[derive(Clone)]
pub struct Collector {
    uri: Uri,
    host: String,
}

/// Why spans cannot be exported as asked. No text repeats the URL.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The URL will not do.
    #[error(
        "traces must be the base URL of an OpenTelemetry collector that takes OTLP over HTTP, such as \
         http://127.0.0.1:4318, without a user name, a query or a fragment"
    )]
    Url,
    /// TLS cannot be set up.
    #[error("traces cannot be exported: {0}")]
    Tls(String),
}

/// Why a collector did not take spans.
#[derive(Debug)]
pub(super) enum ExportError {
    /// It may take them later.
    NotNow(String),
    /// It never will.
    Never(String),
}

impl Collector {
    /// The collector with this base URL. One that ends in `/v1/traces` already is taken as it is.
    pub fn at(base: &Url) -> Result<Self, TracesError> {
        let is_sound = matches!(base.scheme(), "http" | "https")
            && base.query().is_none()
            && base.fragment().is_none()
            && base.username().is_empty()
            && base.password().is_none();
        let host = base.host_str().filter(|_| is_sound).ok_or(TracesError::Url)?.to_owned();
        let text = base.as_str().trim_end_matches('/');
        let uri = format!("{}{PATH}", text.strip_suffix(PATH).unwrap_or(text));
        Ok(Self { uri: uri.parse().map_err(|_| TracesError::Url)?, host })
    }

    /// Asks whether it takes spans, by sending none.
    ///
    /// # Errors
    ///
    /// Why not, for a person.
    pub async fn probe(&self) -> Result<(), String> {
        let client = Self::client().map_err(|error| error.to_string())?;
        match self.post(&client, Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(ExportError::NotNow(reason) | ExportError::Never(reason)) => Err(reason),
        }
    }

    /// Its host, which the log may tell.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn client() -> Result<HttpClient, TracesError> {
        let client = HttpClient::new(Trust::system(), None, Connections::Kept);
        client.map_err(|error| TracesError::Tls(error.to_string()))
    }

    /// Posts an `ExportTraceServiceRequest`. Returns how many of its spans the collector refused.
    pub(super) async fn post(&self, client: &HttpClient, body: Bytes) -> Result<u64, ExportError> {
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, AGENT)
            .body(body)
            .map_err(|error| ExportError::Never(error.to_string()))?;
        let answered = in_time(COLLECTOR_TIMEOUT, ask(client, request)).await;
        let (status, answer) = answered.map_err(|error| ExportError::NotNow(error.to_string()))?;
        if !status.is_success() {
            let reason = format!("it answers {status}");
            // Those that the specification calls retryable.
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => ExportError::NotNow(reason),
                _ => ExportError::Never(reason),
            });
        }
        let answer = answer.and_then(|answer| ExportTraceServiceResponse::decode(&*answer).ok());
        let refused = answer.and_then(|answer| answer.partial_success).map_or(0, |part| part.rejected_spans);
        Ok(u64::try_from(refused).unwrap_or(0))
    }
}

/// Sends a request. The answer's body is read in any case, so that the connection can be used again.
async fn ask(
    client: &HttpClient,
    request: Request<Bytes>,
) -> Result<(StatusCode, Option<Vec<u8>>), HttpError> {
    let (head, body) = client.send(request).await?.into_parts();
    Ok((head.status, read_whole(body, MAX_ANSWER_BYTES).await.ok()))
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("host", &self.host).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_go_below_the_base_url() {
        for (base, uri) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://127.0.0.1:4318/", Some("http://127.0.0.1:4318/v1/traces")),
            ("https://otel.example.org/in", Some("https://otel.example.org/in/v1/traces")),
            ("https://otel.example.org/in/v1/traces", Some("https://otel.example.org/in/v1/traces")),
            ("http://[::1]:4318", Some("http://[::1]:4318/v1/traces")),
            ("grpc://127.0.0.1:4317", None),
            ("http://anna@otel.example.org", None),
            ("http://:s3cret@otel.example.org", None),
            ("http://otel.example.org/?key=s3cret", None),
            ("http://otel.example.org/#s3cret", None),
            ("unix:/run/otel", None),
        ] {
            let collector = Collector::at(&base.parse().unwrap());
            assert_eq!(collector.as_ref().ok().map(|c| c.uri.to_string()).as_deref(), uri, "{base}");
            assert!(!format!("{collector:?}").contains("s3cret"));
            assert!(!format!("{collector:?}").contains("v1/traces"));
        }
    }
}
