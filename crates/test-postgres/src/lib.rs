//! PostgreSQL for tests.
//!
//! [`shared`] is the URL of the server that all tests of a run share: the one that `COUNTERSIGN_TEST_POSTGRES` names, as
//! `./test` does, or one that this process starts and that goes with it. [`Cluster`] is one of a test's own, to stop and
//! start; [`Pooler`] is a `PgBouncer` before one. [`Place`] is an empty schema. Both servers are started by `tests/postgres/run`,
//! which says what is missing if PostgreSQL is not installed. [`seen`], [`soon`] and [`until`] wait for an event, and say what
//! they waited for if it does not happen.

#![expect(clippy::expect_used, clippy::panic, clippy::missing_panics_doc, reason = "for tests")]

mod proxy;
mod silent;
mod wait;

pub use proxy::{Cut, Proxy};
pub use silent::{BlackHole, Silent};
pub use wait::{PATIENCE, seen, soon};

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Names a server for the tests. The user of this URL has to be a superuser.
pub const VARIABLE: &str = "COUNTERSIGN_TEST_POSTGRES";

/// The URL of the server that all tests share.
pub fn shared() -> String {
    static OWN: OnceLock<Cluster> = OnceLock::new();
    std::env::var(VARIABLE).unwrap_or_else(|_| OWN.get_or_init(|| Cluster::start(&[])).url().to_owned())
}

/// The directory with PostgreSQL's own programs, `psql` among them.
pub fn programs() -> PathBuf {
    look_for("run").unwrap_or_else(|missing| panic!("{missing}"))
}

/// Whether PostgreSQL is here; otherwise, how it gets here.
pub fn is_here() -> Result<(), String> {
    look_for("run").map(drop)
}

/// Whether `PgBouncer` is here; otherwise, how it gets here.
pub fn pooler_is_here() -> Result<(), String> {
    look_for("pooler").map(drop)
}

/// Where the programs of a script are, or what it says if they are not here.
fn look_for(name: &str) -> Result<PathBuf, String> {
    let output =
        Command::new(script(name)).arg("--where").output().expect("bash and tests/postgres are there");
    if output.status.success() {
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end()))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/postgres").join(name)
}

/// A server of one's own, which is removed when this is dropped, or its process ends.
#[derive(Debug)]
pub struct Cluster {
    url: String,
    script: Mutex<Script>,
}

#[derive(Debug)]
struct Script {
    child: Child,
    /// `None` only while it is dropped.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts a server, with these options of `tests/postgres/run`.
    pub fn start(options: &[&str]) -> Self {
        let mut command = Command::new(script("run"));
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash and tests/postgres/run are there");
        let commands = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let mut url = String::new();
        answers.read_line(&mut url).expect("the script can be read");
        // The script has said why on standard error.
        assert!(url.starts_with("postgres://"), "PostgreSQL could not be started; the reason is above");
        Self { url: url.trim_end().to_owned(), script: Mutex::new(Script { child, commands, answers }) }
    }

    /// Starts a standby of that server, which follows it.
    pub fn standby_of(primary: &Self) -> Self {
        Self::start(&["--standby-of", primary.url()])
    }

    /// Its URL, for a superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets no commit of this primary return before its standby has it.
    pub async fn wait_for_standby(&self) {
        run(&self.url, "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        run(&self.url, "SELECT pg_reload_conf()").await;
        until(&self.url, "SELECT sync_state FROM pg_stat_replication", "sync").await;
    }

    /// Lets this standby fall behind its primary, from now on.
    pub async fn stop_following(&self) {
        run(&self.url, "ALTER SYSTEM SET primary_conninfo = ''").await;
        run(&self.url, "SELECT pg_reload_conf()").await;
        until(&self.url, "SELECT count(*) FROM pg_stat_wal_receiver", "0").await;
    }

    /// Lets this standby take over.
    pub fn promote(&self) {
        self.tell("promote");
    }

    /// Shuts it down; what is under way is cut off.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// Ends it as a power cut of its machine would, but for the disk.
    pub fn crash(&self) {
        self.tell("crash");
    }

    /// Stops all its processes where they are: what is sent to it arrives, and nothing comes back.
    pub fn freeze(&self) {
        self.tell("freeze");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.tell("thaw");
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.tell("start");
    }

    fn tell(&self, what: &str) {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        let commands = script.commands.as_mut().expect("it is open until it is dropped");
        writeln!(commands, "{what}").expect("the script listens");
        let mut answer = String::new();
        script.answers.read_line(&mut answer).expect("the script can be read");
        assert_eq!(answer, "done\n", "PostgreSQL would not {what}; the reason is above");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = self.script.get_mut().unwrap_or_else(PoisonError::into_inner);
        script.commands = None;
        let _ = script.child.wait();
    }
}

/// A `PgBouncer` before a server, which goes when this is dropped, or its process ends.
#[derive(Debug)]
pub struct Pooler {
    url: String,
    child: Child,
}

impl Pooler {
    /// Starts one before the server of this URL, with these settings, such as `pool_mode=transaction`.
    pub fn start(url: &str, settings: &[&str]) -> Self {
        let mut command = Command::new(script("pooler"));
        command.arg(url).args(settings).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("bash and tests/postgres/pooler are there");
        let mut line = String::new();
        let answer = child.stdout.take().expect("it is a pipe");
        BufReader::new(answer).read_line(&mut line).expect("the script can be read");
        // The script has said why on standard error.
        assert!(line.starts_with("postgres://"), "PgBouncer could not be started; the reason is above");
        Self { url: line.trim_end().to_owned(), child }
    }

    /// The URL of the database through it.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A connection for a test's own statements.
pub async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("the server takes connections");
    tokio::spawn(connection);
    client
}

/// Runs statements; the first column of what they returned.
pub async fn run(url: &str, statements: &str) -> Vec<String> {
    let messages = connect(url).await.simple_query(statements).await;
    let messages = messages.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    let values = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    values.collect()
}

/// Runs statements again and again until they return one row with this in its first column.
pub async fn until(url: &str, statements: &str, expected: &str) {
    let what = format!("{statements}: {expected}");
    seen(&what, async || (run(url, statements).await == [expected]).then_some(())).await;
}

/// A name that nothing else on the server has, for a schema, a database or a role.
pub fn new_name() -> String {
    format!("test_{}", uuid::Uuid::new_v4().simple())
}

/// An empty schema in the shared server, or rather the name for one. It goes when this is dropped.
#[derive(Debug)]
pub struct Place {
    url: String,
    schema: String,
}

impl Place {
    /// A place in the shared server.
    pub fn new() -> Self {
        Self::at(&shared())
    }

    /// A place in this server.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), schema: new_name() }
    }

    /// The server's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The schema's name.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Runs statements in which `{s}` is the schema; the first column of what they returned.
    pub async fn run(&self, statements: &str) -> Vec<String> {
        run(&self.url, &statements.replace("{s}", &self.schema)).await
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A server of the run's own goes as a whole.
        if std::env::var_os(VARIABLE).is_none() {
            return;
        }
        let (url, drop) = (self.url.clone(), format!("DROP SCHEMA IF EXISTS {} CASCADE", self.schema));
        // A test's runtime cannot be waited on here.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            let dropping = async {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.ok()?;
                tokio::spawn(connection);
                // Neither a synchronous standby that is gone nor a session that was left open is waited for.
                let settings = "SET client_min_messages = warning; SET synchronous_commit = local; \
                                SET lock_timeout = '10s'";
                client.batch_execute(&format!("{settings}; {drop}")).await.ok()
            };
            // Nor a server that a test has frozen, if it ended before it could thaw it.
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), dropping).await.ok() })
        });
        let _ = dropped.join();
    }
}
