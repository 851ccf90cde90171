//! The queue to the one writer thread, whose batches share a commit.
//!
//! A commit costs one wait for the disk, however many calls are in it. So calls queue. The thread takes all that wait,
//! runs them in one transaction, commits, and only then answers. While it waits for the disk, the next batch gathers.
//! When the store is idle, a batch is one call and starts immediately.
//!
//! If anything in a batch fails, nothing of it is kept, every call in it fails, and the next batch opens a new
//! connection. So the thread recovers by itself when the cause is gone.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{io, thread};

use countersign_core::{Clock, StoreCounts, StoreError, to_millis};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, watch};

use super::batch::{Batch, Connect, Message, Shared, call_message, stopped};
use super::lock::Lock;
use super::thread::WriterThread;
use crate::error::closed;

/// How many calls may wait; the next one is [`StoreError::Busy`].
pub(super) const QUEUE: usize = 4096;

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
        let shared = Arc::new(Shared::default());
        let thread = WriterThread::new(path, connect, connection, clock, Arc::clone(&shared))?;
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
        self.shared.counts.has_just_written(to_millis(now))
    }

    /// What the thread says, for one who has something to say to it.
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// How much was written since it was started.
    pub(super) fn counts(&self) -> StoreCounts {
        self.shared.counts.read(self.queue().map_or(0, |queue| queue.max_capacity() - queue.capacity()))
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
