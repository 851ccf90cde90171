//! The queue to the one thread that writes, and how many calls share a commit.
//!
//! A commit costs one wait for the disk, whatever is in it. So calls queue, the thread takes all that wait, runs them in
//! one transaction, commits, and only then answers. While it waits for the disk the next batch gathers. An idle store's
//! batch is a single call, which waits for nobody.
//!
//! If anything in a batch fails, nothing of it is kept, everybody in it is told so, and the connection is not trusted any
//! further: the next batch begins with a new one. So the thread comes back by itself when the cause is gone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{io, thread};

use countersign_core::{Clock, End, Ending, StoreError, TokenId, to_millis};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::lock::Lock;
use super::records::{self, IdBytes, Insert, Lines, Slice};
use super::thread::Thread;
use crate::sizes::Sizes;

/// How many calls may wait; the next one is [`StoreError::Busy`].
pub(super) const QUEUE: usize = 4096;

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

/// What the thread says about itself.
#[derive(Debug)]
pub(super) struct Shared {
    /// When the last commit that wrote something succeeded, unless one failed since; [`NEVER`] then.
    pub(super) written: AtomicI64,
    pub(super) calls: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) sizes: Sizes,
    /// What the look through a large database found; nothing is written then.
    pub(super) damage: OnceLock<String>,
}

/// In place of a time: never, or not since something failed.
pub(super) const NEVER: i64 = i64::MIN;

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

/// What the queue holds.
pub(super) enum Message {
    Call(Box<dyn Job>),
    /// Take no more calls, finish those that wait, write the log back.
    Close,
}

/// What a call may do inside the batch's transaction.
pub(super) struct Batch<'c> {
    connection: &'c Connection,
    insert: Insert<'c>,
    lines: Lines,
}

impl<'c> Batch<'c> {
    pub(super) fn begin(connection: &'c Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        Ok(Self { connection, insert: Insert::prepare(connection)?, lines: Lines::read(connection)? })
    }

    pub(super) fn end(&mut self, id: TokenId, expires: Timestamp, ending: &Ending) -> rusqlite::Result<End> {
        records::end(self.connection, &mut self.insert, self.lines, id, expires, ending)
    }

    pub(super) fn move_fence(&mut self, line: i64) -> rusqlite::Result<i64> {
        self.lines.fence = records::move_fence(self.connection, line)?;
        Ok(self.lines.fence)
    }

    /// Removes some records, and moves the horizon over them.
    pub(super) fn purge_slice(
        &mut self,
        from: IdBytes,
        until: IdBytes,
        line: i64,
    ) -> rusqlite::Result<Slice> {
        let slice = records::purge_slice(self.connection, from, until, line)?;
        self.lines.horizon = slice.horizon;
        Ok(slice)
    }

    /// For everything that does not move the lines.
    pub(super) fn connection(&self) -> &Connection {
        self.connection
    }
}

/// A call: what is to be done, and who waits for it.
pub(super) trait Job: Send {
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
            sizes: Sizes::default(),
            damage: OnceLock::new(),
        });
        let thread = Thread::new(path, connect, connection, clock, Arc::clone(&shared))?;
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

    /// What the thread says, for one who has something to say to it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn counts(&self) -> WriteCounts {
        WriteCounts {
            calls: self.shared.calls.load(Ordering::Relaxed),
            commits: self.shared.commits.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed),
        }
    }

    /// How many calls wait for their turn.
    pub(super) fn waiting(&self) -> u64 {
        let waiting = self.queue().map_or(0, |queue| queue.max_capacity() - queue.capacity());
        u64::try_from(waiting).unwrap_or(u64::MAX)
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
