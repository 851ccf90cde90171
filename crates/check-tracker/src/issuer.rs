//! An issuer that says what it is told to, and remembers what it was asked.

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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::CheckError;
use crate::check::Reply;
use crate::question::{Question, is_handshake};
use crate::scene::Heard;

/// How long a [`Reply::LongBody`] is, in bytes: more than the buffers on the way hold.
pub(crate) const LONG_BODY: usize = 64 * 1024 * 1024;

/// The longest question that is read, in bytes.
const MAX_QUESTION: usize = 64 * 1024;

/// How long a tracker may take to send the head of a question.
const SLOWEST_HEAD: Duration = Duration::from_mins(1);

/// What is shorter, in characters, was not made up to be a token.
const SHORTEST_TOKEN: usize = 16;

/// Where a redirect leads.
const ELSEWHERE: &str = "/elsewhere";

/// The issuer of the checks: it says yes only to the tokens of the check under way, and only when that has it do so.
pub struct Issuer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Counts the steps; those who wait in silence wait for the next one.
    steps: watch::Sender<u64>,
    server: JoinHandle<()>,
}

/// What it answers now, and what it was asked.
#[derive(Default)]
struct State {
    token: String,
    replies: &'static [Reply],
    posts: usize,
    heard: Heard,
    /// Tokens of earlier steps: who asks for one now is late.
    past: Vec<String>,
}

impl Issuer {
    /// Starts one. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// [`CheckError::NotPrivate`] unless the address is a loopback or a private one, [`CheckError::Listen`] if it is taken.
    pub async fn listen(address: SocketAddr) -> Result<Self, CheckError> {
        if !is_private(address.ip()) {
            return Err(CheckError::NotPrivate(address));
        }
        let cannot = |reason| CheckError::Listen { address, reason };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let (steps, step) = watch::channel(0);
        let state = Arc::new(Mutex::new(State::default()));
        let server = tokio::spawn(serve(listener, Arc::clone(&state), step));
        Ok(Self { address, state, steps, server })
    }

    /// What the tracker must be configured with: `%s` is where the token goes.
    pub fn auth_server(&self) -> String {
        format!("http://{}/token/%s/+bugtracker-handshake", self.address)
    }

    /// From now on this token is good for these replies.
    pub(crate) fn begin(&self, token: &str, replies: &'static [Reply]) {
        let mut state = lock(&self.state);
        let before = std::mem::replace(&mut state.token, token.to_owned());
        state.past.push(before);
        // A text that is no token may be a part of any URL.
        state.past.retain(|past| past.len() >= SHORTEST_TOKEN && past != token);
        (state.replies, state.posts, state.heard) = (replies, 0, Heard::default());
    }

    /// The step is over: returns what was heard, and lets go of those who were kept waiting.
    pub(crate) fn end(&self) -> Heard {
        let heard = std::mem::take(&mut lock(&self.state).heard);
        self.steps.send_modify(|step| *step += 1);
        heard
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Whether only this machine and its own network can reach the address.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// A panic elsewhere leaves the state as good as it was: every change is one assignment.
fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>, step: watch::Receiver<u64>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, Arc::clone(&state), step.clone()))),
            // Out of file handles, for example: those in use come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn converse(stream: TcpStream, state: Arc<Mutex<State>>, step: watch::Receiver<u64>) {
    let service = service_fn(|request| answer(request, Arc::clone(&state), step.clone()));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if conversation.is_err_and(|error| error.is_parse()) {
        lock(&state).heard.garbled += 1;
    }
}

type Answer = Response<Either<Full<Bytes>, LongBody>>;

/// An error closes the connection.
async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    mut step: watch::Receiver<u64>,
) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_QUESTION).collect().await.map_err(io::Error::other)?.to_bytes();
    let question = Question { method: head.method, uri: head.uri, headers: head.headers, body };
    step.mark_unchanged();
    let (reply, token) = {
        let mut state = lock(&state);
        (state.hear(question), state.token.clone())
    };
    let status = match reply {
        Reply::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
        Reply::Silent => {
            // Also if there is no next step any more.
            let _ = step.changed().await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Reply::LongBody => 200,
        Reply::Status(status) | Reply::Redirect(status) => status,
    };
    let body = match reply {
        Reply::LongBody => Either::Right(LongBody { left: LONG_BODY, token: token.clone(), state }),
        _ => Either::Left(Full::new(Bytes::from_static(b"This is the issuer of the checks.\n"))),
    };
    // JSON is the only kind of body that a tracker may want to read.
    let kind = if reply == Reply::LongBody { "application/json" } else { "text/plain" };
    let mut response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    if matches!(reply, Reply::Redirect(_)) {
        response = response.header(LOCATION, format!("{ELSEWHERE}/{token}"));
    }
    response.body(body).map_err(io::Error::other)
}

impl State {
    /// Takes a question down, and says what to answer.
    fn hear(&mut self, question: Question) -> Reply {
        const NOT_FOUND: Reply = Reply::Status(StatusCode::NOT_FOUND.as_u16());
        let path = question.uri.path();
        if self.past.iter().any(|token| question.uri.to_string().contains(token)) {
            return NOT_FOUND;
        }
        let reply = if path.starts_with(ELSEWHERE) {
            crate::check::YES
        } else if self.token.is_empty() || !is_handshake(path, &self.token) {
            NOT_FOUND
        } else if question.method == Method::POST {
            self.posts += 1;
            self.replies.get(self.posts - 1).or(self.replies.last()).copied().unwrap_or(NOT_FOUND)
        } else {
            Reply::Status(StatusCode::METHOD_NOT_ALLOWED.as_u16())
        };
        self.heard.questions.push(question);
        reply
    }
}

/// Blanks, in JSON as good as nothing, and a note when the last one is taken.
struct LongBody {
    left: usize,
    token: String,
    state: Arc<Mutex<State>>,
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
                state.heard.read_all = true;
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
    async fn the_issuer_stays_private() {
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
