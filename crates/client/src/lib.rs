//! A client of the private API of a Countersign token server, in JSON.
//!
//! [`PrivateApi`] has one method for each operation; what it returns is the server's own JSON document, as
//! `/openapi.json` of the server describes it.

use std::fmt;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

/// Where the private API is unless somebody says otherwise.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8087";

/// How long an answer may take. Statistics of a very large store take some seconds.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The private API of one server.
pub struct PrivateApi {
    server: Url,
    bearer: Option<Zeroizing<String>>,
    http: reqwest::Client,
}

impl fmt::Debug for PrivateApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateApi").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// What a new token shall be like.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    /// The base URL of the tracker that alone may redeem it.
    pub audience: Option<String>,
    /// How long it shall live, in whole seconds.
    pub ttl: Option<Duration>,
    /// A JSON object for the tracker that redeems it.
    pub claims: Option<Value>,
}

/// Why a call failed. No text carries a token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("{0:?} is not the URL of a server; give it as http://HOST:PORT")]
    Server(String),
    /// A client could not be made.
    #[error("cannot make an HTTP client: {0}")]
    Setup(String),
    /// Nobody answers there.
    #[error(
        "no Countersign server answers at {server} ({reason}); start one with `countersign serve`, or name it with \
         --server URL"
    )]
    Unreachable {
        /// Where.
        server: Url,
        /// Why.
        reason: String,
    },
    /// Something answers, but not a Countersign server's private API.
    #[error("what answers at {server} is not the private API of a Countersign server (HTTP status {status})")]
    NotCountersign {
        /// Where.
        server: Url,
        /// Its answer.
        status: StatusCode,
    },
    /// The server says no.
    #[error("{detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The reason in a word: the end of the problem's type.
        reason: String,
        /// The server's sentence.
        detail: String,
    },
}

impl PrivateApi {
    /// The private API at `server`, such as [`DEFAULT_SERVER`], with the secret that it asks for, if any.
    pub fn new(server: &str, bearer: Option<Zeroizing<String>>) -> Result<Self, ClientError> {
        let server = Url::parse(server)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| ClientError::Server(server.to_owned()))?;
        // A redirect or a proxy has no business between a command and its own server, and would get to see tokens.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| ClientError::Setup(error.to_string()))?;
        Ok(Self { server, bearer, http })
    }

    /// Issues a token.
    pub async fn new_token(&self, request: &TokenRequest) -> Result<Value, ClientError> {
        let mut body = serde_json::Map::new();
        if let Some(audience) = &request.audience {
            body.insert("audience".to_owned(), audience.as_str().into());
        }
        if let Some(ttl) = request.ttl {
            body.insert("ttl".to_owned(), ttl.as_secs().into());
        }
        if let Some(claims) = &request.claims {
            body.insert("claims".to_owned(), claims.clone());
        }
        self.call(Method::POST, &["v1", "tokens"], Some(body.into())).await
    }

    /// Shows a token.
    pub async fn token(&self, token: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "tokens", token], None).await
    }

    /// Revokes a token.
    pub async fn revoke(&self, token: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, &["v1", "tokens", token], None).await
    }

    /// Lists the keys.
    pub async fn keys(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "keys"], None).await
    }

    /// Adds a key that begins to seal after `activate_in`.
    pub async fn rotate_keys(&self, activate_in: Duration) -> Result<Value, ClientError> {
        let body = json!({ "activate_in": activate_in.as_secs() });
        self.call(Method::POST, &["v1", "keys", "rotate"], Some(body)).await
    }

    /// Tells what is in the store.
    pub async fn store_stats(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "store"], None).await
    }

    /// Removes old records.
    pub async fn purge_store(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, &["v1", "store", "purge"], None).await
    }

    /// Moves the fence to now.
    pub async fn fence_store(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, &["v1", "store", "fence"], None).await
    }

    async fn call(&self, method: Method, path: &[&str], body: Option<Value>) -> Result<Value, ClientError> {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Each part is percent-encoded: whatever is passed as a token stays one part of the path.
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer.as_str());
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let document: Option<Value> = response.json().await.ok();
        match document {
            Some(document) if status.is_success() => Ok(document),
            Some(problem) => Err(self.refusal(status, &problem)),
            None => Err(ClientError::NotCountersign { server: self.server.clone(), status }),
        }
    }

    fn refusal(&self, status: StatusCode, problem: &Value) -> ClientError {
        let member = |name| problem.get(name).and_then(Value::as_str);
        match (
            member("type").and_then(|kind| kind.strip_prefix("urn:countersign:problem:")),
            member("detail"),
        ) {
            (Some(reason), Some(detail)) => {
                ClientError::Refused { status, reason: reason.to_owned(), detail: detail.to_owned() }
            }
            _ => ClientError::NotCountersign { server: self.server.clone(), status },
        }
    }

    /// The cause alone: the error's own text has the URL in it, and the URL may have a token in it.
    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let reason = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
        ClientError::Unreachable { server: self.server.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_server_is_refused() {
        for server in ["", "localhost:8087", "ftp://127.0.0.1/", "http://"] {
            assert!(matches!(PrivateApi::new(server, None), Err(ClientError::Server(_))), "{server}");
        }
    }

    #[test]
    fn an_error_never_shows_the_token() {
        let api = PrivateApi::new("http://127.0.0.1:9/", Some("s3cret".to_owned().into())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(api.token("cs1token")).unwrap_err();
        let shown = format!("{error} {error:?} {api:?}");
        assert!(shown.contains("127.0.0.1:9"), "{shown}");
        assert!(!shown.contains("cs1token") && !shown.contains("s3cret"), "{shown}");
    }
}
