//! The real server as a process of its own: started, killed, started again.

use std::env;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::TrialError;
use crate::client::Target;

/// The variable that names the server's binary.
pub const BIN_VARIABLE: &str = "COUNTERSIGN_BIN";

/// How long a server may take to start or to stop.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where the servers' standard error goes, beside the data directory.
const LOG: &str = "server.log";

/// Finds the server's binary: where [`BIN_VARIABLE`] says, or beside this program or its test directory.
pub fn find_binary() -> Result<PathBuf, TrialError> {
    if let Some(path) = env::var_os(BIN_VARIABLE) {
        let path = PathBuf::from(path);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(TrialError::Setup(format!(
                "{BIN_VARIABLE} names {}, which is not a file; build the server with `cargo build -p countersign`",
                path.display()
            )))
        };
    }
    let me = env::current_exe()?;
    let mut dir = me.parent().unwrap_or(Path::new("."));
    if dir.ends_with("deps") {
        dir = dir.parent().unwrap_or(dir);
    }
    let path = dir.join(format!("countersign{}", env::consts::EXE_SUFFIX));
    if path.is_file() {
        return Ok(path);
    }
    let release = if dir.ends_with("release") { " --release" } else { "" };
    Err(TrialError::Setup(format!(
        "there is no server to try at {}; build it with `cargo build -p countersign{release}`, or name one with \
         {BIN_VARIABLE}",
        path.display()
    )))
}

/// How servers are started: which binary, and on which directory.
#[derive(Clone, Debug)]
pub struct Launch {
    binary: PathBuf,
    place: PathBuf,
    /// The store's URL; `None` for the one in the data directory.
    store: Option<String>,
    /// What shows it another time of day.
    clock: Option<FakeClock>,
}

/// Another time of day for processes that are started with it, which can be set while they run. Their steady clock stays
/// what it is.
#[derive(Clone, Debug)]
pub struct FakeClock {
    library: String,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is kept in a file below `place`. Brings `libfaketime` where it is not installed.
    pub fn new(place: &Path) -> Result<Self, TrialError> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/faketime/run");
        let found = std::process::Command::new(script).arg("--where").output()?;
        if !found.status.success() {
            return Err(TrialError::Setup(String::from_utf8_lossy(&found.stderr).trim().to_owned()));
        }
        let library = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        Ok(Self { library, file: place.join("clock") })
    }

    /// Sets it so far ahead or back, as `+3d` or `-25`.
    pub fn set(&self, offset: &str) -> Result<(), TrialError> {
        let next = self.file.with_extension("next");
        fs::write(&next, offset)?;
        Ok(fs::rename(next, &self.file)?)
    }

    fn variables(&self) -> [(&'static str, OsString); 5] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}

impl Launch {
    /// Servers that keep their data below `place`, which exists.
    pub fn new(binary: PathBuf, place: &Path) -> Self {
        Self { binary, place: place.to_owned(), store: None, clock: None }
    }

    /// The same, with the store at this URL.
    #[must_use]
    pub fn on(self, store: &str) -> Self {
        Self { store: Some(store.to_owned()), ..self }
    }

    /// The same, with this clock.
    #[must_use]
    pub fn with(self, clock: &FakeClock) -> Self {
        Self { clock: Some(clock.clone()), ..self }
    }

    /// Runs a command on the same data; what it prints.
    pub async fn run(&self, command: &[&str]) -> Result<String, TrialError> {
        let ended = Command::new(&self.binary)
            .args(command)
            .arg("--data-dir")
            .arg(self.data_dir())
            .envs(self.clock.iter().flat_map(FakeClock::variables))
            .env("COUNTERSIGN_STORE", self.store.as_deref().unwrap_or("sqlite:"))
            .current_dir(&self.place)
            .stdin(Stdio::null())
            .output()
            .await?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            return Err(TrialError::Setup(format!("{} failed: {said}", command.join(" "))));
        }
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Their data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.place.join("data")
    }

    /// The database in it.
    pub fn database(&self) -> PathBuf {
        self.data_dir().join(countersign_store::sqlite::FILE_NAME)
    }

    /// Starts a server and waits until it is ready.
    pub async fn start(&self) -> Result<ServerProcess, TrialError> {
        let (child, stdout) = self.spawn()?;
        match timeout(DEADLINE, read_addresses(stdout)).await {
            Ok(Some(target)) => Ok(ServerProcess { child, target }),
            Ok(None) => Err(TrialError::Setup(format!("the server did not start; it says: {}", self.log()))),
            Err(_) => Err(TrialError::Setup(format!(
                "the server was not ready within {} s; it says: {}",
                DEADLINE.as_secs(),
                self.log()
            ))),
        }
    }

    /// Starts a server and kills it after so many turns of an empty loop, ready or not.
    pub async fn start_and_kill(&self, spins: u32) -> Result<(), TrialError> {
        let (mut child, _stdout) = self.spawn()?;
        spin(spins);
        child.kill().await?;
        Ok(())
    }

    fn spawn(&self) -> Result<(Child, ChildStdout), TrialError> {
        let log = OpenOptions::new().create(true).append(true).open(self.place.join(LOG))?;
        let mut child = Command::new(&self.binary)
            .arg("serve")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--public-listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0"])
            // A refusal has to come from the record, not from the clock or the limiter.
            .args(["--token-lifetime", "24h", "--refusals-per-minute", "0"])
            .envs(self.clock.iter().flat_map(FakeClock::variables))
            .env("RUST_LOG", "error")
            .env("COUNTERSIGN_STORE", self.store.as_deref().unwrap_or("sqlite:"))
            .current_dir(&self.place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| TrialError::setup("cannot run the server's binary", error))?;
        let stdout = child.stdout.take().ok_or_else(|| TrialError::Setup("no standard output".to_owned()))?;
        Ok((child, stdout))
    }

    /// The end of what servers have written to standard error.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.place.join(LOG)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join(" / ");
        if end.is_empty() { "nothing".to_owned() } else { end }
    }
}

/// A running server. Killed when it is dropped.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    target: Target,
}

impl ServerProcess {
    /// Where it listens.
    pub fn target(&self) -> Target {
        self.target
    }

    fn is_alive(&mut self) -> Result<(), TrialError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(TrialError::Setup(format!("the server ended by itself ({status})"))),
        }
    }

    /// `kill -9`. Nothing of it runs any more when this returns.
    pub async fn kill(mut self) -> Result<(), TrialError> {
        self.is_alive()?;
        self.child.kill().await?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    pub async fn stop(mut self) -> Result<ExitStatus, TrialError> {
        self.is_alive()?;
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|error| TrialError::setup("cannot stop it", error))?;
        }
        match timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => Err(TrialError::Setup(format!(
                "the server did not stop within {} s of SIGTERM",
                DEADLINE.as_secs()
            ))),
        }
    }
}

/// Waits for so many turns of an empty loop: a part of a millisecond, to hit a moment between two events.
pub(crate) fn spin(turns: u32) {
    for _ in 0..turns {
        std::hint::spin_loop();
    }
}

/// Reads the two lines that a server prints when it is ready. `None`: it ended without.
async fn read_addresses(stdout: ChildStdout) -> Option<Target> {
    let mut lines = BufReader::new(stdout).lines();
    let public = lines.next_line().await.ok()??;
    let private = lines.next_line().await.ok()??;
    Target::from_urls(public.strip_prefix("public ")?, private.strip_prefix("private ")?)
}
