//! An issuer with scripted answers, which records the requests it receives.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::CheckError;
use crate::issuer_request::{IssuerRequest, is_handshake};
use crate::observation::IssuerLog;
use crate::pace::{Pace, SharedPace, carry};
use crate::step::{IssuerScheme, Part, Reply};
use crate::tls::self_signed;

/// How long a [`Reply::LongBody`] is, in bytes: more than the buffers on the way hold.
pub(crate) const LONG_BODY: usize = 64 * 1024 * 1024;

/// How many bytes of headers a slow answer has: at five a second, more than anybody waits for.
const PADDING: usize = 4000;

/// The longest question that is read, in bytes.
const MAX_QUESTION: usize = 64 * 1024;

/// How long a tracker may take to send the head of a question.
const SLOWEST_HEAD: Duration = Duration::from_mins(1);

/// Shorter texts, in characters, are not taken for tokens.
const SHORTEST_TOKEN: usize = 16;

/// Where a redirect leads.
const ELSEWHERE: &str = "/elsewhere";

/// The issuer of the checks: it says yes only to the tokens of the check under way, and only when that has it do so.
pub struct Issuer {
    address: SocketAddr,
    over: IssuerScheme,
    decoys: Decoys,
    state: Arc<Mutex<IssuerState>>,
    /// Counts the steps; those who wait in silence wait for the next one.
    steps: watch::Sender<u64>,
    servers: Vec<JoinHandle<()>>,
}

/// Where another issuer listens, which says yes to everything and must never be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoys {
    /// On another host with the issuer's own port, where this machine allows that: also a tracker that takes nothing but the
    /// name of the host from a request comes here.
    pub(crate) host: SocketAddr,
    /// On the issuer's host with another port.
    pub(crate) port: SocketAddr,
}

/// What it answers now, and what it was asked.
#[derive(Default)]
struct IssuerState {
    token: String,
    replies: &'static [Reply],
    posts: usize,
    issuer_log: IssuerLog,
    /// Tokens of earlier steps: who asks for one now is late.
    past: Vec<String>,
}

impl Issuer {
    /// Starts one that speaks plain HTTP. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`CheckError::NotPrivate`] unless the address is a loopback or a private one, [`CheckError::Listen`] if it is taken.
    pub async fn listen(address: SocketAddr) -> Result<Self, CheckError> {
        Self::start(address, None).await
    }

    /// Starts one that speaks HTTPS, with a certificate that it has signed itself: a tracker must not ask it anything.
    ///
    /// # Errors
    ///
    /// Those of [`Self::listen`], and [`CheckError::Certificate`] or [`CheckError::Tls`] if there can be no certificate.
    pub async fn listen_self_signed(address: SocketAddr) -> Result<Self, CheckError> {
        Self::start(address, Some(self_signed(address.ip())?)).await
    }

    async fn start(address: SocketAddr, tls: Option<TlsAcceptor>) -> Result<Self, CheckError> {
        if !is_private(address.ip()) {
            return Err(CheckError::NotPrivate(address));
        }
        let (address, listener) = bind(address).await?;
        let any_port = SocketAddr::new(address.ip(), 0);
        let (port, port_listener) = bind(any_port).await?;
        let elsewhere = if address.ip() == IpAddr::from([127, 0, 0, 1]) {
            bind(SocketAddr::from(([127, 0, 0, 2], address.port()))).await.ok()
        } else {
            None
        };
        let (host, host_listener) = match elsewhere {
            Some(bound) => bound,
            None => bind(any_port).await?,
        };
        let (steps, step) = watch::channel(0);
        let state = Arc::new(Mutex::new(IssuerState::default()));
        let over = if tls.is_some() { IssuerScheme::SelfSigned } else { IssuerScheme::Http };
        let serve = |listener, role| {
            tokio::spawn(serve(
                listener,
                ListenerContext { role, state: Arc::clone(&state), step: step.clone() },
            ))
        };
        let servers = vec![
            serve(listener, Role::Issuer(tls)),
            serve(host_listener, Role::Decoy),
            serve(port_listener, Role::Decoy),
        ];
        Ok(Self { address, over, decoys: Decoys { host, port }, state, steps, servers })
    }

    /// What the tracker must be configured with: `%s` is where the token goes.
    pub fn auth_server(&self) -> String {
        let scheme = match self.over {
            IssuerScheme::Http => "http",
            IssuerScheme::SelfSigned => "https",
        };
        format!("{scheme}://{}/token/%s/+bugtracker-handshake", self.address)
    }

    pub(crate) fn over(&self) -> IssuerScheme {
        self.over
    }

    pub(crate) fn decoys(&self) -> Decoys {
        self.decoys
    }

    /// From now on this token is good for these replies.
    pub(crate) fn begin(&self, token: &str, replies: &'static [Reply]) {
        let mut state = lock(&self.state);
        let before = std::mem::replace(&mut state.token, token.to_owned());
        state.past.push(before);
        // A text that is no token may be a part of any URL.
        state.past.retain(|past| past.len() >= SHORTEST_TOKEN && past != token);
        (state.replies, state.posts, state.issuer_log) = (replies, 0, IssuerLog::default());
    }

    /// The step is over: returns what was heard, and lets go of those who were kept waiting.
    pub(crate) fn end(&self) -> IssuerLog {
        let issuer_log = std::mem::take(&mut lock(&self.state).issuer_log);
        self.steps.send_modify(|step| *step += 1);
        issuer_log
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

async fn bind(address: SocketAddr) -> Result<(SocketAddr, TcpListener), CheckError> {
    let cannot = |reason| CheckError::Listen { address, reason };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    Ok((listener.local_addr().map_err(cannot)?, listener))
}

/// Whether only this machine and its own network can reach the address.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// A panic elsewhere leaves the state as good as it was: every change is one assignment.
fn lock<T>(state: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is behind a listener.
#[derive(Clone)]
struct ListenerContext {
    role: Role,
    state: Arc<Mutex<IssuerState>>,
    step: watch::Receiver<u64>,
}

#[derive(Clone)]
enum Role {
    /// The issuer that the tracker is configured with, with TLS or without.
    Issuer(Option<TlsAcceptor>),
    /// The issuer that the tracker must never ask.
    Decoy,
}

async fn serve(listener: TcpListener, door: ListenerContext) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(enter(stream, door.clone()))),
            // Out of file handles, for example: those in use come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn enter(stream: TcpStream, door: ListenerContext) {
    // A byte at a time means that each is sent by itself.
    let _ = stream.set_nodelay(true);
    lock(&door.state).issuer_log.note_caller(&door.role);
    match door.role.clone() {
        Role::Issuer(Some(tls)) => {
            // A tracker that hangs up here has looked at the certificate.
            if let Ok(stream) = tls.accept(stream).await {
                serve_http(stream, door).await;
            }
        }
        Role::Issuer(None) | Role::Decoy => serve_http(stream, door).await,
    }
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, door: ListenerContext) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let pace = SharedPace::default();
    let carried = tokio::spawn(carry(stream, theirs, Arc::clone(&pace), door.step.clone()));
    let service = service_fn(|request| answer(request, door.clone(), Arc::clone(&pace)));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEAD)
        .serve_connection(TokioIo::new(ours), service)
        .await;
    if conversation.is_err_and(|error| error.is_parse()) {
        lock(&door.state).issuer_log.garbled += 1;
    }
    let _ = carried.await;
}

type TrackerResponse = Response<Either<Full<Bytes>, LongBody>>;

/// An error closes the connection.
async fn answer(
    request: Request<Incoming>,
    mut door: ListenerContext,
    pace: SharedPace,
) -> io::Result<TrackerResponse> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_QUESTION).collect().await.map_err(io::Error::other)?.to_bytes();
    if matches!(door.role, Role::Decoy) {
        return Ok(Response::new(Either::Left(Full::from("This is an issuer that nobody configured.\n"))));
    }
    let question = IssuerRequest { method: head.method, uri: head.uri, headers: head.headers, body };
    door.step.mark_unchanged();
    let (reply, token) = {
        let mut state = lock(&door.state);
        (state.hear(question), state.token.clone())
    };
    let (status, speed) = match reply {
        Reply::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
        Reply::Silent => {
            // Also if there is no next step any more.
            let _ = door.step.changed().await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Reply::LongBody => (200, Pace::AtOnce),
        Reply::Drip(part) => (200, Pace::Drip(part)),
        Reply::Continue => (200, Pace::Continue),
        Reply::Raw(text) => (200, Pace::Raw(text)),
        Reply::Status(status) | Reply::Redirect(status) => (status, Pace::AtOnce),
    };
    *lock(&pace) = speed;
    let is_long = matches!(reply, Reply::LongBody | Reply::Drip(Part::Body));
    let body = match status {
        _ if is_long => Either::Right(LongBody { left: LONG_BODY, token: token.clone(), state: door.state }),
        200 => Either::Left(Full::from("This is the issuer of the checks.\n")),
        // The text of an acceptance, under another status.
        _ => Either::Left(Full::from("Handshake token validated.\n")),
    };
    // JSON is the only kind of body that a tracker may want to read.
    let kind = if is_long { "application/json" } else { "text/plain" };
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    if matches!(reply, Reply::Redirect(_)) {
        response = response.header(LOCATION, format!("{ELSEWHERE}/{token}"));
    }
    if matches!(reply, Reply::Drip(_)) {
        response = response.header("x-padding", "a".repeat(PADDING));
    }
    response.body(body).map_err(io::Error::other)
}

impl IssuerState {
    /// Takes a question down, and says what to answer.
    fn hear(&mut self, question: IssuerRequest) -> Reply {
        const NOT_FOUND: Reply = Reply::Status(StatusCode::NOT_FOUND.as_u16());
        let path = question.uri.path();
        if self.past.iter().any(|token| question.uri.to_string().contains(token)) {
            return NOT_FOUND;
        }
        let reply = if path.starts_with(ELSEWHERE) {
            crate::step::YES
        } else if self.token.is_empty() || !is_handshake(path, &self.token) {
            NOT_FOUND
        } else if question.method == Method::POST {
            self.posts += 1;
            self.replies.get(self.posts - 1).or(self.replies.last()).copied().unwrap_or(NOT_FOUND)
        } else {
            Reply::Status(StatusCode::METHOD_NOT_ALLOWED.as_u16())
        };
        self.issuer_log.questions.push(question);
        reply
    }
}

impl IssuerLog {
    fn note_caller(&mut self, role: &Role) {
        match role {
            Role::Issuer(_) => self.callers += 1,
            Role::Decoy => self.misled += 1,
        }
    }
}

/// Blanks, in JSON as good as nothing, and a note when the last one is taken.
struct LongBody {
    left: usize,
    token: String,
    state: Arc<Mutex<IssuerState>>,
}

impl Body for LongBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const PIECE: &[u8] = &[b' '; 64 * 1024];
        if self.left == 0 {
            let mut state = lock(&self.state);
            if state.token == self.token {
                state.issuer_log.read_all = true;
            }
            return Poll::Ready(None);
        }
        self.left = self.left.saturating_sub(PIECE.len());
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(PIECE)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn issuer_stays_private() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[2001:db8::1]:0"] {
            let refused = Issuer::listen(address.parse().unwrap()).await.unwrap_err();
            assert!(matches!(refused, CheckError::NotPrivate(_)), "{address}: {refused}");
        }
        let issuer = Issuer::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = issuer.auth_server();
        assert!(
            url.starts_with("http://127.0.0.1:") && url.ends_with("/token/%s/+bugtracker-handshake"),
            "{url}"
        );
        let taken = Issuer::listen(issuer.address).await.unwrap_err();
        assert!(taken.to_string().contains("cannot listen on 127.0.0.1:"), "{taken}");
    }
}
