#![doc = include_str!("../README.md")]
//!
//! A client of the private API of a Countersign token server, in JSON.
//!
//! [`PrivateApi`] has one method for each operation; what it returns is the server's own JSON document, as
//! `/openapi.json` of the server describes it.

mod error;
mod follow;
mod trace;
mod transport;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use countersign_tls::small_file;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};
use url::{Position, Url};
use zeroize::Zeroizing;

pub use crate::transport::{Probe, probe, probe_socket};
use crate::transport::{Transport, TransportError};

pub use crate::error::ClientError;
use crate::error::shown;
pub use crate::follow::{EventStream, StreamItem};
pub use crate::trace::Trace;

/// The default URL of the private API.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8087";

/// The private API of one server.
pub struct PrivateApi {
    /// As the caller named it.
    server: String,
    base: Url,
    bearer: Option<Bearer>,
    transport: Transport,
    trace: Option<Trace>,
}

/// The credentials that a server may ask for, and the authorities that vouch for the server. By default there are no
/// credentials, and the machine's authorities are trusted.
#[derive(Default)]
pub struct Credentials {
    /// The secret or token that the server asks for.
    pub bearer: Option<Bearer>,
    /// PEM: the authorities of the server's certificate, in place of those that this machine trusts.
    pub server_authorities: Option<Vec<u8>>,
    /// PEM: the certificate that the server asks for, and its private key.
    pub identity: Option<Zeroizing<Vec<u8>>>,
}

/// A secret, or a token that a platform gave to this process. Its `Debug` says nothing of it.
#[derive(Clone)]
pub enum Bearer {
    /// The secret itself.
    Secret(Zeroizing<String>),
    /// The file in which it stands alone. It is read for each request: platforms replace their tokens while programs run.
    File(PathBuf),
}

impl Bearer {
    fn read(&self) -> Result<Zeroizing<String>, ClientError> {
        match self {
            Self::Secret(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let text = small_file::read_text(path, small_file::MAX_SECRET_BYTES);
                let text = text.map_err(|error| ClientError::BearerFile { path: path.clone(), error })?;
                let secret = text.trim();
                if secret.is_empty() {
                    // As while it is being replaced. Sent, it would count as a wrong secret.
                    let error = std::io::Error::other("it is empty");
                    return Err(ClientError::BearerFile { path: path.clone(), error });
                }
                Ok(Zeroizing::new(secret.to_owned()))
            }
        }
    }
}

impl From<String> for Bearer {
    fn from(secret: String) -> Self {
        Self::Secret(secret.into())
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(redacted)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

impl fmt::Debug for PrivateApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateApi").field("server", &self.server).finish_non_exhaustive()
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

/// Which events to list or to follow.
#[derive(Clone, Debug, Default)]
pub struct EventsRequest {
    /// Their kinds, as the server calls them; empty for all.
    pub kinds: Vec<String>,
    /// Not older than this moment, as in RFC 3339.
    pub since: Option<String>,
    /// Older than this moment.
    pub until: Option<String>,
    /// Of this id: an event's, a token's or a request's.
    pub id: Option<String>,
    /// Of this address.
    pub peer: Option<String>,
    /// With this text in them.
    pub text: Option<String>,
    /// With a token that is bound to this tracker; `unbound` for none.
    pub tracker: Option<String>,
    /// Of this caller; `default` for the one without a name.
    pub caller: Option<String>,
    /// How many at most.
    pub limit: Option<usize>,
    /// What the page before this one had as its `next`.
    pub after: Option<String>,
}

impl EventsRequest {
    /// As a query; a stream knows neither times nor pages.
    fn query(&self, listed: bool) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.kinds.is_empty() {
            query.append_pair("kind", &self.kinds.join(","));
        }
        let limit = self.limit.map(|limit| limit.to_string());
        let always = [
            ("id", &self.id),
            ("peer", &self.peer),
            ("text", &self.text),
            ("tracker", &self.tracker),
            ("caller", &self.caller),
        ];
        let in_a_list =
            [("since", &self.since), ("until", &self.until), ("limit", &limit), ("after", &self.after)];
        for (name, value) in always.into_iter().chain(in_a_list.into_iter().filter(|_| listed)) {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

impl PrivateApi {
    /// The private API at `server`: an `http` or `https` URL such as [`DEFAULT_SERVER`], or `unix:PATH`.
    pub fn new(server: &str, credentials: Credentials) -> Result<Self, ClientError> {
        let wrong = || ClientError::Server(shown(server));
        let (base, transport) = match server.strip_prefix("unix:") {
            Some("") => return Err(wrong()),
            Some(path) => {
                (Url::parse("http://localhost").map_err(|_| wrong())?, Transport::Unix(path.into()))
            }
            None => {
                let url = Url::parse(server).map_err(|_| wrong())?;
                let has_a_user = !url.username().is_empty() || url.password().is_some();
                let has_a_query = url.query().is_some() || url.fragment().is_some();
                let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
                if !is_http || has_a_user || has_a_query {
                    return Err(wrong());
                }
                let transport = Transport::to_url(&url, &credentials).map_err(ClientError::Tls)?;
                (url, transport)
            }
        };
        Ok(Self { server: server.to_owned(), base, bearer: credentials.bearer, transport, trace: None })
    }

    /// Makes every call a part of this trace.
    #[must_use]
    pub fn in_trace(mut self, trace: Option<Trace>) -> Self {
        self.trace = trace;
        self
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
        self.call(Method::POST, &["v1", "tokens"], Some(body.into()), "token_id").await
    }

    /// Shows a token.
    pub async fn token(&self, token: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "tokens", token], None, "token_id").await
    }

    /// Revokes a token.
    pub async fn revoke(&self, token: &str) -> Result<Value, ClientError> {
        self.call(Method::DELETE, &["v1", "tokens", token], None, "revoked").await
    }

    /// Lists the keys.
    pub async fn keys(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "keys"], None, "keys").await
    }

    /// Adds a key that begins to seal after `activate_in`.
    pub async fn rotate_keys(&self, activate_in: Duration) -> Result<Value, ClientError> {
        let body = json!({ "activate_in": activate_in.as_secs() });
        self.call(Method::POST, &["v1", "keys", "rotate"], Some(body), "keys").await
    }

    /// Takes a key out of the ring for good; with `rotate`, a new one comes in with the same step.
    pub async fn revoke_key(&self, id: &str, rotate: bool) -> Result<Value, ClientError> {
        let body = json!({ "id": id, "rotate": rotate });
        self.call(Method::POST, &["v1", "keys", "revoke"], Some(body), "keys").await
    }

    /// Locks the ring in a shared store with the newest key of the server's key file.
    pub async fn rewrap_keys(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, &["v1", "keys", "rewrap"], Some(json!({})), "keys").await
    }

    /// Tells which servers serve from the store.
    pub async fn nodes(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "nodes"], None, "nodes").await
    }

    /// Tells how the server stands: what it was told, what it uses, and what keeps it from serving.
    pub async fn server(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "server"], None, "settings").await
    }

    /// Tells what is in the store.
    pub async fn store_stats(&self) -> Result<Value, ClientError> {
        self.call(Method::GET, &["v1", "store"], None, "kind").await
    }

    /// Removes old records.
    pub async fn purge_store(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, &["v1", "store", "purge"], None, "purged").await
    }

    /// Moves the fence over every token issued so far.
    pub async fn fence_store(&self) -> Result<Value, ClientError> {
        self.call(Method::POST, &["v1", "store", "fence"], None, "fence").await
    }

    /// Lists events, newest first.
    pub async fn events(&self, request: &EventsRequest) -> Result<Value, ClientError> {
        let query = request.query(true);
        self.call_with(Method::GET, &["v1", "events"], Some(&query), None, "events").await
    }

    /// Sums up what one server did for each `tracker` or each `caller` in a range: `1h`, `6h`, `24h` or `7d`.
    pub async fn summary(&self, by: &str, range: &str) -> Result<Value, ClientError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("by", by)
            .append_pair("range", range)
            .finish();
        self.call_with(Method::GET, &["v1", "summary"], Some(&query), None, "rows").await
    }

    /// Follows the events of the request's kinds as they happen, from now on.
    pub async fn follow_events(&self, request: &EventsRequest) -> Result<EventStream, ClientError> {
        let query = request.query(false);
        let request = self.request(Method::GET, &["v1", "events", "stream"], Some(&query), None)?;
        let response =
            Box::pin(self.transport.open(request)).await.map_err(|trouble| self.trouble(trouble))?;
        let status = response.status();
        if status.is_success() {
            return Ok(EventStream::new(response, self.server.clone()));
        }
        let answer = transport::read(response).await.map_err(|trouble| self.trouble(trouble))?;
        match serde_json::from_slice::<Value>(&answer) {
            Ok(problem) => Err(self.refusal(status, &problem)),
            Err(_) => Err(ClientError::NotCountersign { server: self.server.clone(), status }),
        }
    }

    /// Calls an operation whose answer has the member `expected`; an answer without it is not this API's.
    async fn call(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
        expected: &str,
    ) -> Result<Value, ClientError> {
        self.call_with(method, path, None, body, expected).await
    }

    async fn call_with(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<Value>,
        expected: &str,
    ) -> Result<Value, ClientError> {
        let request = self.request(method, path, query, body)?;
        let (status, answer) = self.transport.send(request).await.map_err(|trouble| self.trouble(trouble))?;
        match serde_json::from_slice::<Value>(&answer) {
            Ok(document) if status.is_success() && document.get(expected).is_some() => Ok(document),
            Ok(problem) => Err(self.refusal(status, &problem)),
            Err(_) => Err(ClientError::NotCountersign { server: self.server.clone(), status }),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &[&str],
        query: Option<&str>,
        body: Option<Value>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            // Each part is percent-encoded, so a token stays one part of the path even if it contains a slash.
            segments.pop_if_empty().extend(path);
        }
        url.set_query(query);
        let target = url[Position::BeforePath..].to_owned();
        let mut request = Request::builder().method(method).uri(target).header(ACCEPT, "application/json");
        request = request.header(HOST, url.authority());
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {}", bearer.read()?.as_str()));
        }
        for (name, value) in self.trace.iter().flat_map(Trace::headers) {
            request = request.header(name, value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        // The builder refuses a credential that no header can carry; its own words could quote it.
        request.body(Full::new(body)).map_err(|_| ClientError::Credential)
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

    fn trouble(&self, trouble: TransportError) -> ClientError {
        let server = self.server.clone();
        match trouble {
            TransportError::Unreachable(reason) => ClientError::Unreachable { server, reason },
            TransportError::Tls(reason) => ClientError::Tls(reason),
            TransportError::NoAnswer(reason) => ClientError::NoAnswer { server, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn invalid_server_address_is_refused() {
        for server in ["", "localhost:8087", "ftp://127.0.0.1/", "http://", "unix:"] {
            assert!(
                matches!(PrivateApi::new(server, Credentials::default()), Err(ClientError::Server(_))),
                "{server}"
            );
        }
    }

    #[test]
    fn password_in_the_address_is_refused_and_not_shown() {
        for server in [
            "http://ops:s3cret@127.0.0.1:9/",
            "https://s3cret@127.0.0.1:9/",
            "http://127.0.0.1:9/?key=s3cret",
            "http://127.0.0.1:9/#s3cret",
            "ftp://ops:s3cret@127.0.0.1/",
            "ops:s3cret@127.0.0.1",
            "http://ops:s3cret@[::1",
        ] {
            let error = PrivateApi::new(server, Credentials::default()).unwrap_err();
            assert!(matches!(error, ClientError::Server(_)), "{server}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn bearer_file_is_read_for_each_request() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("token");
        let credentials = Credentials { bearer: Some(Bearer::File(path.clone())), ..Credentials::default() };
        let api = PrivateApi::new("http://127.0.0.1:9/", credentials).unwrap();
        let sends = || {
            api.request(Method::GET, &["v1", "keys"], None, None)
                .map(|request| request.headers()[AUTHORIZATION].clone())
        };
        assert!(matches!(sends(), Err(ClientError::BearerFile { .. })));
        for token in ["one", "two"] {
            fs::write(&path, format!("{token}\n")).unwrap();
            assert_eq!(sends().unwrap(), format!("Bearer {token}"));
        }
    }

    #[test]
    fn error_never_shows_the_token() {
        let credentials = Credentials {
            bearer: Some(Bearer::Secret("s3cret".to_owned().into())),
            ..Credentials::default()
        };
        let api = PrivateApi::new("http://127.0.0.1:9/", credentials).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(api.token("cs1token")).unwrap_err();
        let shown = format!("{error} {error:?} {api:?}");
        assert!(shown.contains("127.0.0.1:9"), "{shown}");
        assert!(!shown.contains("cs1token") && !shown.contains("s3cret"), "{shown}");
    }
}
