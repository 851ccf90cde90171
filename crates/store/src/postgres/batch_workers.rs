//! The queue of calls, and the workers that send them to the database in batches.
//!
//! A commit costs one wait for the database's disk, however many calls are in it. So calls queue. Each worker takes all
//! that wait, sends them in one statement, and only then takes more. When the store is idle, a batch is one call and
//! is sent immediately.

use std::sync::Arc;

use countersign_core::{EndResult, Ending, StoreError};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::StoreInner;
use super::batch::QueuedCall;
use super::rows::TokenKey;
use crate::error::closed;

/// How many calls may wait; the next one is [`StoreError::Busy`].
pub(super) const QUEUE: usize = 4096;

/// How many calls travel together at most, so that a batch stays a matter of milliseconds.
pub const BATCH: usize = 1024;

/// How many batches of a node are under way at the same time.
pub const BATCH_WORKERS: usize = 3;

/// The calling side.
#[derive(Debug)]
pub(super) struct BatchWorkers {
    queue: std::sync::Mutex<Option<mpsc::Sender<QueuedCall>>>,
    /// The workers keep the other end until they are done with everything.
    done: watch::Receiver<()>,
}

impl BatchWorkers {
    pub(super) fn start(core: &Arc<StoreInner>, batch_workers: usize, queue: usize) -> Self {
        let (sender, receiver) = mpsc::channel(queue);
        let receiver = Arc::new(Mutex::new(receiver));
        let (done_sender, done) = watch::channel(());
        let done_sender = Arc::new(done_sender);
        for _ in 0..batch_workers {
            tokio::spawn(batch_worker(Arc::clone(core), Arc::clone(&receiver), Arc::clone(&done_sender)));
        }
        Self { queue: std::sync::Mutex::new(Some(sender)), done }
    }

    /// Ends a token's life in the next batch. [`StoreError::Busy`] at once if the queue is full.
    pub(super) async fn end(&self, token: TokenKey, ending: Ending) -> Result<EndResult, StoreError> {
        let (reply, answer) = oneshot::channel();
        let item = QueuedCall { token, ending, reply };
        self.sender()?.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// How many more calls may wait.
    pub(super) fn room(&self) -> usize {
        self.sender().map_or(0, |sender| sender.capacity())
    }

    /// Takes no more calls, and waits for those that are there.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        // Nothing is ever sent: this waits until the workers let go of their end.
        let _ = self.done.clone().changed().await;
    }

    fn sender(&self) -> Result<mpsc::Sender<QueuedCall>, StoreError> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone().ok_or_else(closed)
    }
}

async fn batch_worker(
    core: Arc<StoreInner>,
    queue: Arc<Mutex<mpsc::Receiver<QueuedCall>>>,
    done: Arc<watch::Sender<()>>,
) {
    let mut items = Vec::new();
    while queue.lock().await.recv_many(&mut items, BATCH).await > 0 {
        // A call whose caller has disconnected is skipped.
        let batch: Vec<QueuedCall> = items.drain(..).filter(|item| !item.reply.is_closed()).collect();
        if !batch.is_empty() {
            core.run(batch).await;
        }
    }
    drop(done);
}
