//! The clients of a trial: trackers and the issuer, each on its own connection.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::TrialError;
use crate::history::{Key, ObservedStatus};

/// An answer that takes longer than this counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// The tracker that bound tokens are for.
const OWN_AUDIENCE: &str = "https://own.example/";

/// Where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its public API.
    pub public: SocketAddr,
    /// Its private API.
    pub private: SocketAddr,
}

impl Target {
    /// From the URLs that a server says it listens on.
    pub fn from_urls(public: &str, private: &str) -> Option<Self> {
        let address = |url: &str| url.strip_prefix("http://")?.trim_end_matches('/').parse().ok();
        Some(Self { public: address(public)?, private: address(private)? })
    }
}

/// No answer came; the request may or may not have been carried out. Says why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lost(String);

impl Lost {
    /// For this reason.
    pub(crate) fn because(reason: String) -> Self {
        Self(reason)
    }
}

/// One connection, kept alive over many requests. Never opened again by itself: what is lost is seen to be lost.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    async fn open(to: SocketAddr) -> Result<Self, Lost> {
        let lost = |error: &dyn fmt::Display| Lost(format!("cannot connect: {error}"));
        let stream = TcpStream::connect(to).await.map_err(|error| lost(&error))?;
        stream.set_nodelay(true).map_err(|error| lost(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        // The outcome goes to the task that waits for the answer.
        tokio::spawn(async move { drop(connection.await) });
        let host = HeaderValue::from_str(&to.to_string()).map_err(|error| lost(&error))?;
        Ok(Self { sender, host })
    }

    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        extra: &[(&str, &str)],
        body: String,
    ) -> Result<Reply, Lost> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.host);
        request = request.header(ACCEPT, "application/json");
        for (name, value) in extra {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).map_err(|error| Lost(error.to_string()))?;
        let answer = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Reply { status: head.status, body })
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answered) => answered.map_err(|error| Lost(error.to_string())),
            Err(_) => Err(Lost(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

struct Reply {
    status: StatusCode,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// The answer to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeResponse {
    /// 200, with this body.
    Accepted(Bytes),
    /// 401: the token is spent, for this reason; the last word of the problem's type.
    Spent(String),
    /// 403: the token is bound to another tracker.
    Forbidden,
    /// 405: not with this method.
    NotAllowed,
    /// "Ask again": 408, 429 or 503.
    Later(StatusCode),
    /// Anything else; no trial expects it.
    Other(StatusCode),
}

impl fmt::Display for HandshakeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(_) => f.write_str("200"),
            Self::Spent(reason) => write!(f, "401 ({reason})"),
            Self::Forbidden => f.write_str("403"),
            Self::NotAllowed => f.write_str("405"),
            Self::Later(status) | Self::Other(status) => write!(f, "{status}"),
        }
    }
}

/// A caller of the public API.
pub struct Tracker(Connection);

impl Tracker {
    /// Connects.
    pub async fn connect(target: Target) -> Result<Self, Lost> {
        Self::connect_to(target.public).await
    }

    /// Connects to this very address, which may be that of something in between.
    pub async fn connect_to(address: SocketAddr) -> Result<Self, Lost> {
        Connection::open(address).await.map(Self)
    }

    /// POSTs the handshake, as the tracker that bound tokens are for.
    pub async fn redeem(&mut self, token: &str, key: Option<Key>) -> Result<HandshakeResponse, Lost> {
        self.handshake(Method::POST, token, key, OWN_AUDIENCE).await
    }

    /// POSTs the handshake, as a tracker that no token is for.
    pub async fn trespass(&mut self, token: &str) -> Result<HandshakeResponse, Lost> {
        self.handshake(Method::POST, token, None, "https://other.example/").await
    }

    /// Whether the server says that it is ready.
    pub async fn is_ready(&mut self) -> Result<bool, Lost> {
        let reply = self.0.ask(Method::GET, "/readyz", &[], String::new()).await?;
        Ok(reply.status == StatusCode::OK)
    }

    /// GETs the handshake URL, as a curious browser.
    pub async fn get(&mut self, token: &str) -> Result<HandshakeResponse, Lost> {
        self.handshake(Method::GET, token, None, OWN_AUDIENCE).await
    }

    async fn handshake(
        &mut self,
        method: Method,
        token: &str,
        key: Option<Key>,
        audience: &str,
    ) -> Result<HandshakeResponse, Lost> {
        let path = format!("/token/{token}/+bugtracker-handshake");
        let key = key.map(|key| format!("trial-{key}"));
        let mut headers = vec![(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded")];
        headers.extend(key.iter().map(|key| ("idempotency-key", key.as_str())));
        let reply = self.0.ask(method, &path, &headers, format!("audience={audience}")).await?;
        Ok(match reply.status {
            StatusCode::OK => HandshakeResponse::Accepted(reply.body),
            StatusCode::UNAUTHORIZED => HandshakeResponse::Spent(reason(&reply.json())),
            StatusCode::FORBIDDEN => HandshakeResponse::Forbidden,
            StatusCode::METHOD_NOT_ALLOWED => HandshakeResponse::NotAllowed,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                HandshakeResponse::Later(reply.status)
            }
            other => HandshakeResponse::Other(other),
        })
    }
}

fn reason(problem: &Value) -> String {
    let kind = problem.get("type").and_then(Value::as_str).unwrap_or_default();
    kind.strip_prefix("urn:countersign:problem:").unwrap_or("no reason given").to_owned()
}

/// A token as it was issued. Its text stays out of `Debug`.
#[derive(Clone)]
pub struct Issued {
    /// What redeems it.
    pub text: String,
    /// What it is called.
    pub id: Uuid,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issued").field(&self.id).finish()
    }
}

/// How a token stands, as the private API says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenStatus {
    /// The status; `None` for one that no trial expects, such as `expired`.
    pub sight: Option<ObservedStatus>,
    /// The status as it was said.
    pub status: String,
    /// When it was consumed.
    pub consumed: Option<Timestamp>,
}

/// A caller of the private API.
pub struct Issuer(Connection);

impl Issuer {
    /// Connects.
    pub async fn connect(target: Target) -> Result<Self, Lost> {
        Connection::open(target.private).await.map(Self)
    }

    /// Issues a token, for one tracker or, unbound, for any.
    pub async fn issue(&mut self, bound: bool) -> Result<Issued, TrialError> {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        let wanted = if bound { json!({ "audience": OWN_AUDIENCE }) } else { json!({}) };
        let reply = self.0.ask(Method::POST, "/v1/tokens", &json, wanted.to_string()).await;
        let reply = reply.map_err(|error| TrialError::setup("cannot issue a token", error))?;
        let document = reply.json();
        let member = |name| document.get(name).and_then(Value::as_str).map(str::to_owned);
        match (member("token_id"), member("id").and_then(|id| id.parse().ok())) {
            (Some(text), Some(id)) if reply.status == StatusCode::CREATED => Ok(Issued { text, id }),
            _ => {
                Err(TrialError::Setup(format!("the server does not issue tokens: it says {}", reply.status)))
            }
        }
    }

    /// Issues so many bound ones.
    pub async fn issue_many(&mut self, count: usize) -> Result<Vec<Issued>, TrialError> {
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            tokens.push(self.issue(true).await?);
        }
        Ok(tokens)
    }

    /// POSTs nothing to a path; the status of the answer.
    pub async fn post(&mut self, path: &str) -> Result<u16, Lost> {
        Ok(self.0.ask(Method::POST, path, &[], String::new()).await?.status.as_u16())
    }

    /// Takes a token back. `Ok(None)`: the server could not say.
    pub async fn revoke(&mut self, token: &str) -> Result<Option<bool>, Lost> {
        let reply = self.0.ask(Method::DELETE, &format!("/v1/tokens/{token}"), &[], String::new()).await?;
        Ok(reply.json().get("revoked").and_then(Value::as_bool))
    }

    /// How many handshakes the server has counted with this outcome.
    pub async fn counted(&mut self, outcome: &str) -> Result<u64, TrialError> {
        let reply = self.0.ask(Method::GET, "/metrics", &[], String::new()).await?;
        let text = String::from_utf8_lossy(&reply.body);
        let line = format!("countersign_handshakes_total{{outcome=\"{outcome}\"}} ");
        let count = text.lines().find_map(|found| found.strip_prefix(&line)?.parse().ok());
        count.ok_or_else(|| TrialError::Setup(format!("/metrics has no count of {outcome}")))
    }

    /// The key that seals.
    pub async fn sealing_key(&mut self) -> Result<String, TrialError> {
        let reply = self.0.ask(Method::GET, "/v1/keys", &[], String::new()).await?;
        let document = reply.json();
        let keys = document.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let seals = |key: &&Value| key.get("sealing") == Some(&Value::Bool(true));
        let id = keys.iter().find(seals).and_then(|key| key.get("id")?.as_str());
        id.map(str::to_owned).ok_or_else(|| TrialError::Setup("/v1/keys names no key that seals".to_owned()))
    }

    /// Revokes the key that seals, for a new one. `false`: the server could not say. A key that is gone has been revoked.
    pub async fn revoke_key(&mut self, key: &str) -> Result<bool, TrialError> {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        let body = json!({ "id": key, "rotate": true }).to_string();
        let reply = self.0.ask(Method::POST, "/v1/keys/revoke", &json, body).await?;
        Ok(matches!(reply.status, StatusCode::OK | StatusCode::CONFLICT))
    }

    /// How many tokens are on record as consumed.
    pub async fn consumed(&mut self) -> Result<u64, TrialError> {
        let reply = self.0.ask(Method::GET, "/v1/store", &[], String::new()).await?;
        let count = reply.json().get("consumed").and_then(Value::as_u64);
        count.ok_or_else(|| TrialError::Setup(format!("/v1/store does not say: {}", reply.status)))
    }

    /// Looks how a token stands. `Ok(None)`: the server could not say.
    pub async fn look(&mut self, token: &str) -> Result<Option<TokenStatus>, Lost> {
        let reply = self.0.ask(Method::GET, &format!("/v1/tokens/{token}"), &[], String::new()).await?;
        if reply.status != StatusCode::OK {
            return Ok(None);
        }
        let document = reply.json();
        let status = document.get("status").and_then(Value::as_str).unwrap_or_default().to_owned();
        let sight = match status.as_str() {
            "live" => Some(ObservedStatus::Live),
            "consumed" => Some(ObservedStatus::Consumed),
            "revoked" => Some(ObservedStatus::Revoked),
            _ => None,
        };
        let consumed =
            document.get("date_consumed").and_then(Value::as_str).and_then(|date| date.parse().ok());
        Ok(Some(TokenStatus { sight, status, consumed }))
    }
}

/// When the token was consumed, as the body of a 200 says it.
pub fn date_consumed(body: &[u8]) -> Option<Timestamp> {
    let document: Value = serde_json::from_slice(body).ok()?;
    document.get("date_consumed")?.as_str()?.parse().ok()
}
