//! The server as a process of its own, in a place of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use rlimit::Resource;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::http::{Answer, Wire, seen, soon};
use crate::shim::{Dial, Shim};

/// Where a server, and the next one after it, keep their files.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
    pub(crate) shim: Shim,
}

/// With these arguments one address may have all connections.
pub(crate) const FOR_MANY: &[&str] = &["--trusted-proxies", "127.0.0.1/32"];

/// How a server is started.
#[derive(Debug, Default)]
pub(crate) struct Launch<'a> {
    /// What a shell does before it becomes the server.
    pub(crate) before: &'a str,
    pub(crate) arguments: &'a [&'a str],
    pub(crate) log_level: &'a str,
    /// Where its log goes instead of the place's log file.
    pub(crate) stderr: Option<Stdio>,
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let shim = Shim::new(&data, directory.path().join("shim"));
        Self { directory, shim }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data().join("countersign.db")
    }

    /// What events take on disk, with their log.
    pub(crate) fn bytes_of_events(&self) -> u64 {
        let size = |name| self.data().join(name).metadata().map_or(0, |metadata| metadata.len());
        size("countersign-events.db") + size("countersign-events.db-wal")
    }

    pub(crate) fn key_ring(&self) -> PathBuf {
        self.data().join("key-ring.toml")
    }

    /// What servers have logged here.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Forgets what was logged so far.
    pub(crate) fn clear_log(&self) {
        fs::write(self.directory.path().join("log"), "").unwrap();
    }

    /// Waits until `text` stands in the log, and returns its line.
    pub(crate) async fn logged(&self, text: &str) -> String {
        seen(&format!("{text:?} in the log"), async || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    /// Starts a server that stays.
    pub(crate) async fn start(&self) -> Server {
        self.start_with(Launch::default()).await
    }

    /// The same, and however many refusals there are, they stay what they are.
    pub(crate) async fn start_unlimited(&self) -> Server {
        self.start_with(Launch { arguments: &["--refusals-per-minute", "0"], ..Launch::default() }).await
    }

    /// The same, and this machine may have all connections.
    pub(crate) async fn start_for_many(&self) -> Server {
        self.start_with(Launch { arguments: FOR_MANY, ..Launch::default() }).await
    }

    pub(crate) async fn start_with(&self, launch: Launch<'_>) -> Server {
        self.try_start(launch).await.unwrap_or_else(|_| panic!("it did not start: {}", self.log()))
    }

    /// Starts a server that cannot start. Returns the sentence with which it ends.
    pub(crate) async fn refused(&self) -> String {
        self.clear_log();
        let ended = self.try_start(Launch::default()).await.expect_err("it does not start");
        assert_eq!(ended.code(), Some(1), "{}", self.log());
        let log = self.log();
        let mut sentences = log.lines().filter_map(|line| line.strip_prefix("countersign: "));
        let sentence = sentences.next().unwrap_or_else(|| panic!("no sentence in {log}"));
        assert_eq!(sentences.next(), None, "one sentence");
        sentence.to_owned()
    }

    /// What `doctor` finds beside a server, of which it is to find errors. It runs without the shim.
    pub(crate) async fn doctor(&self, server: &Server) -> String {
        let asked = format!("http://{}", server.private);
        let doctor = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["doctor", "--config", "/dev/null", "--server", &asked])
            .env_clear()
            .current_dir(self.directory.path())
            .output();
        let ended = soon("the doctor", doctor).await.unwrap();
        let found = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{found}");
        found
    }

    async fn try_start(&self, launch: Launch<'_>) -> Result<Server, ExitStatus> {
        let Launch { before, arguments, log_level, stderr } = launch;
        let log = self.directory.path().join("log");
        let log = || Stdio::from(File::options().create(true).append(true).open(log).unwrap());
        let mut command = Command::new("sh");
        // The server must not see the variables that are meant for the tests.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("COUNTERSIGN_"))
        {
            command.env_remove(name);
        }
        // The shell itself goes without the shim.
        let preload: Vec<String> = self
            .shim
            .variables()
            .iter()
            .map(|(name, value)| format!("{name}='{}'", value.display()))
            .collect();
        command
            .arg("-c")
            .arg(format!("{before}\nexec env {} \"$@\"", preload.join(" ")))
            .args(["sh", env!("CARGO_BIN_EXE_countersign"), "serve", "--data-dir"])
            .arg(self.data())
            .args(["--public-listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0"])
            .args(arguments)
            .env("COUNTERSIGN_CONFIG", "/dev/null")
            .env("RUST_LOG", if log_level.is_empty() { "info" } else { log_level })
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.unwrap_or_else(log))
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = async |name: &str| -> Option<SocketAddr> {
            let line = lines.next_line().await.unwrap()?;
            line.strip_prefix(name)?.strip_prefix(" http://")?.parse().ok()
        };
        let addresses = soon("start", async { Some((address("public").await?, address("private").await?)) });
        match addresses.await {
            Some((public, private)) => Ok(Server { child, public, private }),
            None => Err(soon("the end", child.wait()).await.unwrap()),
        }
    }
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        self.signal(libc::SIGTERM);
        let status = soon("the end", self.child.wait()).await.unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn signal(&self, signal: i32) {
        let sent = std::process::Command::new("sh")
            .args(["-c", "kill -$1 $2", "sh", &signal.to_string(), &self.pid().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Limits what the running process may have; 0 for as much as before.
    pub(crate) fn limit(&self, resource: Resource, soft: u64) {
        let pid = i32::try_from(self.pid()).unwrap();
        let (mut old, mut hard) = (0, 0);
        rlimit::prlimit(pid, resource, None, Some((&mut old, &mut hard))).unwrap();
        let soft = if soft == 0 { hard } else { soft };
        rlimit::prlimit(pid, resource, Some((soft, hard)), None).unwrap();
    }

    /// Issues a token.
    pub(crate) async fn token(&self) -> String {
        self.tokens(1).await.remove(0)
    }

    pub(crate) async fn tokens(&self, count: usize) -> Vec<String> {
        let mut wire = Wire::open(self.private).await;
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            let answer = wire.ask("POST", "/v1/tokens", "").await;
            assert_eq!(answer.status, 201, "{answer:?}");
            tokens.push(answer.json()["token_id"].as_str().unwrap().to_owned());
        }
        tokens
    }

    pub(crate) async fn handshake(&self, token: &str) -> Answer {
        Wire::open(self.public).await.ask("POST", &path(token), "").await
    }

    /// A handshake as one that may be asked again.
    pub(crate) async fn handshake_with_key(&self, token: &str) -> Answer {
        let key = "Idempotency-Key: 5e1f\r\n";
        Wire::open(self.public).await.ask("POST", &path(token), key).await
    }

    pub(crate) async fn get(&self, address: SocketAddr, path: &str) -> Answer {
        Wire::open(address).await.ask("GET", path, "").await
    }

    pub(crate) async fn private(&self, method: &str, path: &str) -> Answer {
        Wire::open(self.private).await.ask(method, path, "").await
    }

    /// A line of `/proc/PID/status`, in KiB.
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// How many sockets it has.
    pub(crate) fn sockets(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// Where a token is redeemed.
pub(crate) fn path(token: &str) -> String {
    format!("/token/{token}/+bugtracker-handshake")
}

/// Asserts that a server fails closed: no token is consumed, everything that needs no store goes on.
pub(crate) async fn assert_fails_closed(server: &Server, token: &str) {
    let answer = server.handshake_with_key(token).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    assert_eq!(server.handshake("cs1forged").await.status, 404, "arithmetic needs no store");
    assert_eq!(server.get(server.public, "/readyz").await.status, 503);
    assert_eq!(server.get(server.public, "/healthz").await.status, 200);
    server.token().await;
}

/// Asserts that it has come back, and that nothing is lost that was answered.
pub(crate) async fn assert_is_back(server: &Server, used: &[String], unanswered: &[String]) {
    assert_eq!(server.get(server.public, "/readyz").await.status, 200);
    for token in used {
        assert_eq!(server.handshake(token).await.status, 401, "it was answered 200 before");
    }
    for token in unanswered {
        assert_eq!(server.handshake_with_key(token).await.status, 200, "the one who asked may ask again");
        assert_eq!(server.handshake(token).await.status, 401);
    }
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
}

/// Turns a dial of the shim, and back when it is dropped.
#[derive(Debug)]
pub(crate) struct Turned<'a>(&'a Shim, Dial);

impl<'a> Turned<'a> {
    pub(crate) fn to(shim: &'a Shim, dial: Dial, value: impl Into<i64>) -> Self {
        shim.set(dial, value.into());
        Self(shim, dial)
    }
}

impl Drop for Turned<'_> {
    fn drop(&mut self) {
        self.0.set(self.1, 0);
    }
}
