//! A whole gate, with issuers that the test controls.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

mod logins;
mod requests;
mod sessions;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use countersign_core::{Clock, ManualClock, OsEntropy, SystemClock};
use countersign_gate::{BoundGate, Config, Gate, Sessions};
use countersign_server::{ActivatedSockets, Address};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// An issuer that accepts each token whose name begins with `good` once, when it is let.
#[derive(Clone)]
struct Issuer {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    /// Each question takes one of these.
    let_go: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            let_go: Arc::new(Semaphore::new(1000)),
            waiting: Arc::new(Semaphore::new(0)),
        };
        let handshake = post(|State(issuer): State<Issuer>, Path(token): Path<String>| async move {
            issuer.waiting.add_permits(1);
            issuer.let_go.acquire().await.unwrap().forget();
            let mut asked = issuer.asked.lock().unwrap();
            let is_first = !asked.contains(&token);
            asked.push(token.clone());
            if !token.starts_with("good") {
                StatusCode::NOT_FOUND
            } else if is_first {
                StatusCode::OK
            } else {
                StatusCode::UNAUTHORIZED
            }
        });
        let router =
            Router::new().route("/token/{token}/+bugtracker-handshake", handshake).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn table(&self, name: &str, more: &str) -> String {
        format!(
            "[[issuer]]\nname = \"{name}\"\nurl = \"{}\"\nuser = \"{name}-user\"\nlogin_path = \"/{name}\"\n\
             allow = [{{ methods = [\"GET\", \"POST\"], paths = [\"/{name}/**\"] }}]\n{more}\n",
            self.url
        )
    }
}

struct Running {
    address: Address,
    clock: Arc<ManualClock>,
    directory: Arc<TempDir>,
    stop: Option<oneshot::Sender<()>>,
    ended: tokio::task::JoinHandle<()>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn cookie(&self) -> Option<String> {
        Some(self.header("set-cookie")?.split(';').next()?.to_owned())
    }
}

impl Running {
    async fn start(settings: &str, issuers: &str) -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), settings, issuers).await
    }

    async fn start_in(directory: Arc<TempDir>, settings: &str, issuers: &str) -> Self {
        let listen = if settings.contains("listen =") { "" } else { "listen = \"127.0.0.1:0\"\n" };
        let text = format!(
            "{listen}base_url = \"https://bugs.example.org/bugs/\"\ndata_dir = \"{}\"\n\
             proxy = \"nginx\"\n{settings}\n{issuers}",
            directory.path().join("data").display()
        );
        let clock = Arc::new(ManualClock::at(SystemClock.now()));
        let gate =
            Gate::open(Config::parse(&text).unwrap(), Arc::<ManualClock>::clone(&clock), Arc::new(OsEntropy));
        let bound = BoundGate::bind(gate.unwrap(), &mut ActivatedSockets::nothing()).await.unwrap();
        let address = bound.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(bound.run(async {
            let _ = stopped.await;
        }));
        Self { address, clock, directory, stop: Some(stop), ended }
    }

    fn sessions(&self) -> Sessions {
        Sessions::open(&self.directory.path().join("data")).unwrap()
    }

    /// By TCP.
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.to_string()).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        send_on(self.connect().await, method, path, headers, body).await
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        read(self.send(method, path, headers, body).await).await
    }

    async fn log_in(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    /// What the proxy is told about a request.
    async fn check(&self, cookie: &str, method: &str, uri: &str) -> (u16, Option<String>) {
        let headers = [("X-Original-URI", uri), ("X-Original-Method", method), ("Cookie", cookie)];
        let answer = self.ask("GET", "/auth", &headers, "").await;
        (answer.status, answer.header("x-remote-user").map(str::to_owned))
    }

    async fn metric(&self, line: &str) -> Option<u64> {
        let text = self.ask("GET", "/metrics", &[], "").await.body;
        let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value?.parse().ok()
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended.await.unwrap();
    }
}

async fn send_on<S: AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> S {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: bugs.example.org\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read<S: AsyncRead + Unpin>(mut stream: S) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn allowed(user: &str) -> (u16, Option<String>) {
    (204, Some(user.to_owned()))
}
