//! A whole gate, with issuers that the test controls.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use countersign_core::{Clock, ManualClock, OsEntropy, SystemClock};
use countersign_gate::{BoundGate, Config, EventKind, EventQuery, Gate, Sessions, WhichSessions};
use countersign_server::{ActivatedSockets, Address};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
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

#[tokio::test]
async fn token_reaches_the_issuer_of_its_path_and_no_other() {
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let gate = Running::start("", &(one.table("one", "") + &two.table("two", ""))).await;
    let first = gate.log_in("/bugs/one/good1").await.cookie().unwrap();
    let second = gate.log_in("/bugs/two/good2").await.cookie().unwrap();
    assert_eq!((one.asked(), two.asked()), (vec!["good1".to_owned()], vec!["good2".to_owned()]));
    // Each has its own user, and its own rules.
    assert_eq!(gate.check(&first, "GET", "/bugs/one/1").await, allowed("one-user"));
    assert_eq!(gate.check(&first, "GET", "/bugs/two/1").await, (403, None));
    assert_eq!(gate.check(&second, "GET", "/bugs/two/1").await, allowed("two-user"));
    assert_eq!(gate.check(&second, "DELETE", "/bugs/two/1").await, (403, None));
    for path in
        ["/bugs/three/good3", "/one/good3", "/bugs/onegood3", "/bugs/one/x/good3", "/bugs/one/%2e%2e/good3"]
    {
        assert_ne!(gate.log_in(path).await.status, 200, "{path}");
    }
    assert_eq!(one.asked().len() + two.asked().len(), 2);
}

#[tokio::test]
async fn only_the_proxy_learns_the_user() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    gate.stop().await;
    let settings = "trusted_proxies = [\"192.0.2.1\"]\nanonymous = true";
    let gate = Running::start_in(directory, settings, &issuer.table("one", "")).await;
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.check("", "GET", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.metric("countersign_gate_requests_total{answer=\"not_the_proxy\"}").await, Some(2));
}

#[tokio::test]
async fn proxy_may_use_a_unix_socket() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let socket = directory.path().join("gate.sock");
    let settings =
        format!("listen = \"unix:{}\"\nsocket_mode = \"660\"\ntrusted_proxies = []", socket.display());
    let gate = Running::start_in(Arc::clone(&directory), &settings, &issuer.table("one", "")).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        read(send_on(UnixStream::connect(&socket).await.unwrap(), "GET", path, headers, "").await).await
    };
    let from = [("X-Forwarded-For", "192.0.2.7, 192.0.2.8")];
    let cookie = ask("/bugs/one/good", &from).await.cookie().unwrap();
    let headers = [("X-Original-URI", "/bugs/one/1"), ("X-Original-Method", "GET"), ("Cookie", &*cookie)];
    assert_eq!(ask("/auth", &headers).await.header("x-remote-user"), Some("one-user"));
    let listed = gate.sessions().list(gate.clock.now()).await.unwrap();
    assert_eq!(listed[0].peer.as_deref(), Some("192.0.2.8"), "the proxy's own word");
    gate.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn refusals_are_recorded_with_their_reason() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", "")).await;
    let cookie =
        gate.ask("GET", "/bugs/one/good", &[("X-Forwarded-For", "192.0.2.7")], "").await.cookie().unwrap();
    assert_eq!(gate.log_in("/bugs/one/good").await.status, 401);
    assert_eq!(gate.check(&cookie, "DELETE", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.check("__Secure-countersign_gate=x", "GET", "/bugs/one/1").await, (401, None));
    assert_eq!(gate.check("", "GET", "/bugs/one/1").await, (401, None));
    let sessions = gate.sessions();
    // Nothing waits for an event but the end of the gate.
    gate.stop().await;
    let events = sessions.events(EventQuery::default()).await.unwrap();
    let mut found: Vec<_> = events
        .iter()
        .map(|event| (&*event.kind, event.reason.as_deref(), event.address.as_deref()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("login", None, Some("192.0.2.7")),
            ("login-refused", Some("spent"), Some("127.0.0.1")),
            (
                "request-refused",
                Some("no rule of the issuer allows this method on this path"),
                Some("127.0.0.1")
            ),
            ("request-refused", Some("session_over"), Some("127.0.0.1")),
        ]
    );
}

#[tokio::test]
async fn request_without_headers_of_the_proxy_is_an_error() {
    let issuer = Issuer::start().await;
    let gate = Running::start("anonymous = true", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    let (uri, method, cookie) =
        (("X-Original-URI", "/bugs/one/1"), ("X-Original-Method", "GET"), ("Cookie", &*cookie));
    for headers in [
        vec![cookie],
        vec![],
        vec![cookie, uri],
        vec![cookie, method],
        vec![cookie, uri, method, method],
        vec![cookie, uri, uri, method],
        vec![cookie, ("X-Forwarded-Uri", "/bugs/one/1"), ("X-Forwarded-Method", "GET")],
    ] {
        let answer = gate.ask("GET", "/auth", &headers, "").await;
        assert_eq!((answer.status, answer.header("x-remote-user")), (500, None), "{headers:?}");
    }
    // The subrequest's own method is not the request's.
    let answer = gate.ask("POST", "/auth", &[cookie, uri, method], "").await;
    assert_eq!((answer.status, answer.header("x-remote-user")), (204, Some("one-user")));
    for name in ["X-Remote-User", "x_remote_user", "X_REMOTE-USER", "x.remote-user", "X~Remote!User"] {
        for headers in [vec![cookie, uri, method, (name, "admin")], vec![uri, method, (name, "")]] {
            let answer = gate.ask("GET", "/auth", &headers, "").await;
            assert_eq!((answer.status, answer.header("x-remote-user")), (403, None), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn session_ends_by_expiry_or_removed_issuer() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let lifetime = "session_lifetime = \"1h\"";
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", lifetime)).await;
    let answer = gate.log_in("/bugs/one/good").await;
    assert!(answer.header("set-cookie").unwrap().contains("Max-Age=3600"), "{}", answer.head);
    let cookie = answer.cookie().unwrap();
    gate.clock.advance(Duration::from_secs(3599));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    gate.clock.advance(Duration::from_secs(1));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (401, None));

    let cookie = gate.log_in("/bugs/one/good2").await.cookie().unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    let unchanged = issuer.table("one", lifetime);
    gate.stop().await;
    for (tables, expected) in [
        (unchanged.clone(), allowed("one-user")),
        (unchanged.replace("one-user", "another"), (401, None)),
        (unchanged.replace("\"one\"", "\"other\""), (401, None)),
    ] {
        let gate = Running::start_in(Arc::clone(&directory), "", &tables).await;
        assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, expected, "{tables}");
        gate.stop().await;
    }
}

#[tokio::test]
async fn address_over_the_limit_has_to_wait() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 2", &issuer.table("one", "")).await;
    let from = |client: &'static str| [("X-Forwarded-For", client)];
    for expected in [401, 401, 429] {
        let answer = gate.ask("GET", "/bugs/one/bad", &from("192.0.2.1"), "").await;
        assert_eq!(answer.status, expected, "{}", answer.body);
        assert_eq!(answer.header("retry-after").is_some(), expected == 429);
    }
    assert_eq!(issuer.asked().len(), 2, "the issuer is not asked any more");
    assert_eq!(
        gate.ask("GET", "/bugs/one/good1", &from("192.0.2.2"), "").await.status,
        200,
        "another address"
    );
    assert_eq!(
        gate.ask("GET", "/bugs/one/check", &from("192.0.2.1"), "").await.status,
        401,
        "detection works"
    );
    gate.clock.advance(Duration::from_mins(1));
    assert_eq!(gate.ask("GET", "/bugs/one/good2", &from("192.0.2.1"), "").await.status, 200);
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"too_many\"}";
    assert_eq!(gate.metric(counted).await, Some(1));
}

#[tokio::test]
async fn login_completes_despite_disconnect_or_shutdown() {
    let issuer = Issuer::start().await;
    issuer.let_go.forget_permits(1000);
    let gate = Running::start("", &issuer.table("one", "")).await;
    let gone = gate.send("GET", "/bugs/one/good1", &[], "").await;
    issuer.waiting.acquire().await.unwrap().forget();
    drop(gone);
    let waits = gate.send("GET", "/bugs/one/good2", &[], "").await;
    issuer.waiting.acquire().await.unwrap().forget();
    let (sessions, now) = (gate.sessions(), gate.clock.now());
    let stopping = tokio::spawn(gate.stop());
    issuer.let_go.add_permits(2);
    assert_eq!(read(waits).await.status, 200);
    stopping.await.unwrap();
    assert_eq!(sessions.list(now).await.unwrap().len(), 2);
}

#[tokio::test]
async fn slow_logins_do_not_block_the_proxy() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 0", &issuer.table("one", "timeout = \"60s\"")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    issuer.let_go.forget_permits(1000);
    issuer.waiting.acquire().await.unwrap().forget();
    let mut slow = Vec::new();
    for place in 0..128 {
        slow.push(gate.send("GET", &format!("/bugs/one/good{place}"), &[], "").await);
    }
    issuer.waiting.acquire_many(128).await.unwrap().forget();
    let answer = gate.log_in("/bugs/one/more").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let document = gate.ask("POST", "/bugs/one", &[("X-Forwarded-For", "192.0.2.9")], "{}").await;
    assert_eq!(document.status, 503);
    assert_eq!(gate.ask("GET", "/elsewhere", &[], "").await.status, 404, "it is no login");
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"full\"}";
    assert_eq!(gate.metric(counted).await, Some(2));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    issuer.let_go.add_permits(1000);
    for stream in slow {
        assert_eq!(read(stream).await.status, 200);
    }
    assert_eq!(gate.log_in("/bugs/one/good").await.status, 401, "there is room again");
    let sessions = gate.sessions();
    gate.stop().await;
    let events = sessions.events(EventQuery::default()).await.unwrap();
    let full = events.iter().filter(|event| event.reason.as_deref() == Some("full"));
    let mut full: Vec<_> =
        full.map(|event| (&*event.kind, event.issuer.as_deref(), event.address.as_deref())).collect();
    full.sort_unstable();
    let refused = |address| ("login-refused", Some("one"), Some(address));
    assert_eq!(full, [refused("127.0.0.1"), refused("192.0.2.9")]);
}

#[tokio::test(start_paused = true)]
async fn login_without_its_body_times_out() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let head = "POST /bugs/one HTTP/1.1\r\nHost: bugs.example.org\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 20\r\n\r\n";
    let began = tokio::time::Instant::now();
    let mut stream = gate.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read(stream).await.status, 408);
    assert_eq!(began.elapsed().as_secs(), 10);
    for (content_type, status) in [("application/json", 422), ("text/plain", 415)] {
        let answer = gate.ask("POST", "/bugs/one", &[("Content-Type", content_type)], "{}").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    for (outcome, times) in [("late", 1), ("malformed", 2)] {
        let counted = format!("countersign_gate_logins_total{{issuer=\"one\",outcome=\"{outcome}\"}}");
        assert_eq!(gate.metric(&counted).await, Some(times), "{outcome}");
    }
}

#[tokio::test]
async fn websocket_of_another_site_is_forbidden() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let answer = gate.log_in("/bugs/one/good").await;
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let cookie = answer.cookie().unwrap();
    let own = "https://bugs.example.org";
    let other = "https://evil.example.org";
    for (name, value, origin, expected) in [
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", own, 204),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", other, 403),
        ("Upgrade", "websocket", other, 403),
        ("X-Other", "", other, 204),
    ] {
        let headers = [
            ("X-Original-URI", "/bugs/one/1"),
            ("X-Original-Method", "GET"),
            ("Cookie", &cookie),
            ("Origin", origin),
            (name, value),
        ];
        assert_eq!(gate.ask("GET", "/auth", &headers, "").await.status, expected, "{name} {origin}");
    }
}

#[tokio::test]
async fn unreadable_sessions_reject_every_request() {
    let issuer = Issuer::start().await;
    let gate = Running::start("anonymous = true", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good1").await.cookie().unwrap();
    assert_eq!(gate.ask("GET", "/healthz", &[], "").await.status, 200);
    let file = gate.directory.path().join("data/gate-sessions.db");
    rusqlite::Connection::open(file).unwrap().execute("ALTER TABLE sessions RENAME TO gone", []).unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (503, None));
    assert_eq!(gate.ask("GET", "/healthz", &[], "").await.status, 503);
    let answer = gate.log_in("/bugs/one/good2").await;
    assert_eq!((answer.status, answer.cookie()), (401, None));
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"not_kept\"}";
    assert_eq!(gate.metric(counted).await, Some(1));
}

/// As with a full disk. The sessions that there are go on, so the status stays: a proxy would take the gate for dead.
#[tokio::test]
async fn health_says_that_sessions_cannot_be_written() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let health = || gate.ask("GET", "/healthz", &[], "");
    assert_eq!(health().await.body, "The gate works.\n");
    let writer = rusqlite::Connection::open(gate.directory.path().join("data/gate-sessions.db")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    let hindered = health().await;
    assert_eq!(hindered.status, 200);
    assert!(hindered.body.contains("no session can be made or ended"), "{}", hindered.body);
    writer.execute_batch("ROLLBACK").unwrap();
    assert_eq!(health().await.body, "The gate works.\n");
}

#[tokio::test]
async fn sessions_of_an_issuer_are_bounded() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 0", &issuer.table("one", "max_sessions = 2")).await;
    let mut cookies = Vec::new();
    for number in 0..4 {
        cookies.push(gate.log_in(&format!("/bugs/one/good{number}")).await.cookie().unwrap());
    }
    let mut answers = Vec::new();
    for cookie in &cookies {
        answers.push(gate.check(cookie, "GET", "/bugs/one/1").await.0);
    }
    assert_eq!(answers, [401, 401, 204, 204]);
    assert_eq!(gate.metric("countersign_gate_sessions{issuer=\"one\"}").await, Some(2));
    assert_eq!(gate.sessions().end(WhichSessions::All, gate.clock.now()).await.unwrap().number, 2);
    assert_eq!(gate.check(&cookies[3], "GET", "/bugs/one/1").await.0, 401);
}

#[tokio::test]
async fn request_with_removed_user_header_is_forbidden() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    for (named, status) in [
        ("X-Remote-User", 403),
        ("te , x_remote.USER", 403),
        ("X-Remote-User2", 204),
        ("keep-alive, TE", 204),
    ] {
        let headers = [
            ("X-Original-URI", "/bugs/one/1"),
            ("X-Original-Method", "GET"),
            ("Cookie", &*cookie),
            ("Connection", named),
        ];
        assert_eq!(gate.ask("GET", "/auth", &headers, "").await.status, status, "{named}");
    }
}

#[tokio::test]
async fn logins_without_address_share_one_limit() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let socket = directory.path().join("gate.sock");
    let settings = format!("listen = \"unix:{}\"\nlogins_per_minute = 2", socket.display());
    let gate = Running::start_in(Arc::clone(&directory), &settings, &issuer.table("one", "")).await;
    for (headers, expected) in [
        (&[][..], 401),
        (&[("X-Forwarded-For", "unknown")], 401),
        (&[], 429),
        (&[("X-Forwarded-For", "192.0.2.7")], 401),
    ] {
        let stream = UnixStream::connect(&socket).await.unwrap();
        let answer = read(send_on(stream, "GET", "/bugs/one/bad", headers, "").await).await;
        assert_eq!(answer.status, expected, "{headers:?}");
    }
    gate.stop().await;
}

#[tokio::test]
async fn many_refusals_displace_no_other_reason() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    for _ in 0..21 {
        assert_eq!(gate.check(&cookie, "DELETE", "/bugs/one/1").await, (403, None));
    }
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one//1").await, (403, None));
    let sessions = gate.sessions();
    gate.stop().await;
    let query = EventQuery { kinds: vec![EventKind::RequestRefused], ..EventQuery::default() };
    let events = sessions.events(query).await.unwrap();
    let of = |reason: &str| events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
    assert_eq!(of("no rule of the issuer allows this method on this path"), 20);
    assert_eq!(of("its path can be read in two ways"), 1);
}
