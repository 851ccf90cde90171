//! The one thread that writes, and how many calls share a commit.
//!
//! A commit costs one wait for the disk, whatever is in it. So calls queue, the thread takes all that wait, runs them in
//! one transaction, commits, and only then answers. While it waits for the disk the next batch gathers. An idle store's
//! batch is a single call, which waits for nobody.
//!
//! If anything in a batch fails, nothing of it is kept, everybody in it is told so, and the connection is not trusted any
//! further: the next batch begins with a new one. So the thread comes back by itself when the cause is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::{io, thread};

use countersign_core::{Clock, End, Ending, StoreError, TokenId, to_millis};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::sentence;
use super::files::{Identity, wal_of};
use super::lock::Lock;
use super::records::{self, Lines};

/// How many calls may wait; the next one is [`StoreError::Busy`].
pub(super) const QUEUE: usize = 4096;

/// How many calls share a commit at most, so that a batch stays a matter of milliseconds.
const BATCH: usize = 1024;

/// Opens the writing connection, again and again if need be.
pub(super) type Connect = Box<dyn Fn() -> rusqlite::Result<Connection> + Send>;

/// The calling side.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    /// The thread keeps the other end until it is done with everything.
    done: watch::Receiver<()>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// When the last commit that wrote something succeeded, unless one failed since; [`NEVER`] then.
    written: AtomicI64,
    calls: AtomicU64,
    commits: AtomicU64,
    failures: AtomicU64,
}

const NEVER: i64 = i64::MIN;

/// How much the writer has done since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteCounts {
    /// Calls answered after a commit.
    pub calls: u64,
    /// Commits: under load, fewer than calls.
    pub commits: u64,
    /// Batches that failed as a whole.
    pub failures: u64,
}

enum Message {
    Call(Box<dyn Job>),
    /// Take no more calls, finish those that wait, write the log back.
    Close,
}

/// What a call may do inside the batch's transaction.
pub(super) struct Batch<'c> {
    connection: &'c Connection,
    lines: Lines,
}

impl Batch<'_> {
    pub(super) fn end(&self, id: TokenId, expires: Timestamp, ending: &Ending) -> rusqlite::Result<End> {
        records::end(self.connection, self.lines, id, expires, ending)
    }

    pub(super) fn move_fence(&mut self, line: i64) -> rusqlite::Result<i64> {
        self.lines.fence = records::move_fence(self.connection, line)?;
        Ok(self.lines.fence)
    }

    pub(super) fn move_horizon(&mut self, line: i64) -> rusqlite::Result<i64> {
        self.lines.horizon = records::move_horizon(self.connection, line)?;
        Ok(self.lines.horizon)
    }

    /// For everything that does not move the lines.
    pub(super) fn connection(&self) -> &Connection {
        self.connection
    }
}

/// A call: what is to be done, and who waits for it.
trait Job: Send {
    /// Whether anybody still waits. Who has gone away before the turn came wants nothing any more.
    fn is_wanted(&self) -> bool;
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Call<F, T> {
    work: F,
    result: Option<T>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn is_wanted(&self) -> bool {
        !self.caller.is_closed()
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.work)(batch)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, caller, .. } = *self;
        // An error means that the caller has gone away.
        let _ = caller.send(outcome.and_then(|()| result.ok_or_else(stopped)));
    }
}

impl Writer {
    /// Starts the thread. It keeps `lock` until it ends, after the connection is closed.
    pub(super) fn start(
        path: PathBuf,
        connect: Connect,
        connection: Connection,
        lock: Lock,
        clock: Arc<dyn Clock>,
        queue: usize,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(queue);
        let (done_sender, done) = watch::channel(());
        let shared = Arc::new(Shared {
            written: AtomicI64::new(NEVER),
            calls: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let thread = Thread {
            place: Identity::of(&path)?,
            log: Identity::of(&wal_of(&path))?,
            path,
            connect,
            connection: Some(connection),
            suspect: false,
            lost_log: None,
            clock,
            shared: Arc::clone(&shared),
            failing: false,
        };
        let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            thread.serve(receiver);
            drop(lock);
            drop(done_sender);
        })?;
        Ok(Self { queue: Some(sender), thread: Some(thread), done, shared })
    }

    /// Runs `work` in the next batch, and returns what it returned once that is committed. [`StoreError::Busy`] at once
    /// if the queue is full.
    pub(super) async fn call<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (message, answer) = call_message(work);
        self.queue()?.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// The same for work in the background: waits for its place in the queue.
    pub(super) async fn call_in_turn<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (message, answer) = call_message(work);
        self.queue()?.send(message).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Whether something was written and committed less than a second ago, nothing has failed since, and there is
    /// room in the queue.
    pub(super) fn has_just_written(&self, now: Timestamp) -> bool {
        if !self.queue().is_ok_and(|queue| !queue.is_closed() && queue.capacity() > 0) {
            return false;
        }
        match self.shared.written.load(Ordering::Acquire) {
            NEVER => false,
            // A clock that stepped back says nothing about how long ago it was.
            written => (0..1000).contains(&(to_millis(now).saturating_sub(written))),
        }
    }

    pub(super) fn counts(&self) -> WriteCounts {
        WriteCounts {
            calls: self.shared.calls.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
        }
    }

    /// Finishes what is queued, writes the log back and ends the thread.
    pub(super) async fn close(&self) {
        if let Ok(queue) = self.queue() {
            // An error means that it is closed, or being closed.
            let _ = queue.send(Message::Close).await;
        }
        // Nothing is ever sent: this waits until the thread lets go of its end.
        let _ = self.done.clone().changed().await;
    }

    fn queue(&self) -> Result<&mpsc::Sender<Message>, StoreError> {
        self.queue.as_ref().ok_or_else(closed)
    }
}

impl Drop for Writer {
    /// Ends the thread after the batch it is at, without writing the log back; like a crash, but for the lock, which is
    /// free when this returns.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

fn call_message<F, T>(work: F) -> (Message, oneshot::Receiver<Result<T, StoreError>>)
where
    F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    let (caller, answer) = oneshot::channel();
    (Message::Call(Box::new(Call { work, result: None, caller })), answer)
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("it has been closed".to_owned())
}

fn stopped() -> StoreError {
    StoreError::Unavailable("its writing thread has stopped; restart the server".to_owned())
}

/// The writing side.
struct Thread {
    path: PathBuf,
    /// The database that was opened, and its log. Others in their place are never written to.
    place: Identity,
    log: Identity,
    connect: Connect,
    connection: Option<Connection>,
    /// Whether something failed on this connection. It is kept until there is a new one, because the last connection
    /// that any program closes takes the log away.
    suspect: bool,
    /// What to say since the log was removed; that needs a restart.
    lost_log: Option<String>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    /// Whether the last batch failed; so that an outage is logged once, not with every batch.
    failing: bool,
}

impl Thread {
    fn serve(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut messages = Vec::with_capacity(BATCH);
        let mut closing = false;
        while queue.blocking_recv_many(&mut messages, BATCH) > 0 {
            let mut jobs = Vec::with_capacity(messages.len());
            for message in messages.drain(..) {
                match message {
                    Message::Call(job) if job.is_wanted() => jobs.push(job),
                    Message::Call(_) => {}
                    Message::Close => {
                        queue.close();
                        closing = true;
                    }
                }
            }
            if !jobs.is_empty() {
                self.run_batch(jobs);
            }
        }
        if closing {
            self.close_connection();
        }
    }

    fn run_batch(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let outcome = self.transact(&mut jobs);
        match &outcome {
            Ok(()) => self.succeeded(jobs.len()),
            Err(reason) => self.failed(reason),
        }
        for job in jobs {
            job.answer(outcome.clone().map_err(StoreError::Unavailable));
        }
    }

    fn succeeded(&mut self, calls: usize) {
        self.shared.calls.fetch_add(u64::try_from(calls).unwrap_or(0), Ordering::Relaxed);
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if std::mem::take(&mut self.failing) {
            tracing::info!(database = %self.path.display(), "the store is usable again");
        }
    }

    fn failed(&mut self, reason: &str) {
        // A failed commit can leave its transaction open. Where it cannot be rolled back, closing does it.
        let is_clean = |connection: &Connection| {
            connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok()
        };
        self.connection = self.connection.take().filter(is_clean);
        self.suspect = true;
        self.shared.written.store(NEVER, Ordering::Release);
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(reason, "the store is not usable; no token is consumed until it is");
        }
    }

    /// Runs a batch in one transaction.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), String> {
        self.check_place()?;
        let connection = match self.connection.take() {
            Some(connection) if !self.suspect => connection,
            old => {
                let new = self.reconnect();
                self.connection = old;
                new?
            }
        };
        self.suspect = false;
        let connection = &*self.connection.insert(connection);
        let fault = |error: rusqlite::Error| sentence(&self.path, &error);
        let before = connection.total_changes();
        connection
            .prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute(()))
            .map_err(fault)?;
        let mut batch = Batch { connection, lines: Lines::read(connection).map_err(fault)? };
        for job in jobs {
            job.run(&mut batch).map_err(fault)?;
        }
        connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(())).map_err(fault)?;
        if connection.total_changes() != before {
            self.shared.written.store(to_millis(self.clock.now()), Ordering::Release);
        }
        Ok(())
    }

    fn reconnect(&self) -> Result<Connection, String> {
        (self.connect)().map_err(|error| sentence(&self.path, &error))
    }

    /// A file that was deleted can still be written to by those who have it open, and everything in it is lost when
    /// they end. `SQLite` does not look, so this does, with two `stat` calls a batch.
    fn check_place(&mut self) -> Result<(), String> {
        if let Some(reason) = &self.lost_log {
            return Err(reason.clone());
        }
        let path = self.path.display();
        match Identity::of(&self.path) {
            Ok(place) if place == self.place => {}
            Ok(_) => {
                return Err(format!(
                    "{path} was replaced while it was in use; restart the server to use the file that is there now"
                ));
            }
            Err(error) => {
                return Err(format!(
                    "{path} is not there any more ({error}); put it back, or restart the server to begin with an \
                     empty store, which refuses the tokens issued so far"
                ));
            }
        }
        if Identity::of(&wal_of(&self.path)).is_ok_and(|log| log == self.log) {
            return Ok(());
        }
        Err(self.save_lost_log())
    }

    /// The log was removed, and with it, for whoever opens the database next, everything that is only in there. This
    /// connection still has it, so it writes it back now.
    fn save_lost_log(&mut self) -> String {
        let removed = format!("the file {}-wal was removed while it was in use", self.path.display());
        let reason = match self.write_log_back() {
            Ok(true) => format!("{removed}; what was in it has been saved. Restart the server"),
            Ok(false) | Err(_) => format!(
                "{removed}, and the last tokens' endings with it; restart the server and move the fence, so that no \
                 token can be used twice"
            ),
        };
        self.connection = None;
        self.lost_log.insert(reason).clone()
    }

    fn close_connection(&mut self) {
        // All of it is in the log already; the next start reads it from there if this does not work.
        match self.write_log_back() {
            Ok(true) => {}
            Ok(false) => tracing::info!("somebody reads the store; its log stays until the next start"),
            Err(error) => {
                let reason = sentence(&self.path, &error);
                tracing::warn!(reason, "the store's log could not be written back");
            }
        }
        self.connection = None;
    }

    /// Returns whether all of the log is in the database now.
    fn write_log_back(&self) -> rusqlite::Result<bool> {
        let Some(connection) = &self.connection else {
            return Ok(false);
        };
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| Ok(!row.get::<_, bool>(0)?))
    }
}
