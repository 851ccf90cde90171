//! Writes events from the queue to the store, in batches.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use countersign_core::{Event, EventId, Known, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::{Events, Message, log};

/// How many events wait at most; further ones are lost.
pub const QUEUE: usize = 4096;

/// How many are written at a time.
const BATCH: usize = 512;

/// How long a batch gathers: a flood costs four transactions a second, and an operator waits no longer than that.
const GATHER: Duration = Duration::from_millis(250);

/// How long to wait before a store that is away is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether there is something to sum up or to complain about.
const ROUND: Duration = Duration::from_secs(5);

/// How often it is kept what trackers and callers did: a crash loses no more than that.
const KEEP: Duration = Duration::from_mins(1);

/// How long a server that stops waits for its events to be written.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a list waits for the events before it to be written.
const LIST_PATIENCE: Duration = Duration::from_secs(1);

impl Events {
    /// Writes what happens until it is closed, as [`Server::run`](crate::Server::run) has it done. To be run once.
    pub async fn write(self: Arc<Self>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(waiting) = waiting else { return };
        Writer {
            events: self,
            waiting,
            batch: Vec::new(),
            known: None,
            readers: Vec::new(),
            closing: None,
            lost_before: 0,
            activity: Arc::default(),
            // At once, so that a file that cannot be written is known before the first event.
            next_keep: Instant::now(),
        }
        .run()
        .await;
    }

    /// Waits until everything that has happened so far is in the store, so that a list has it. A store that is away is not
    /// waited for.
    pub(crate) async fn catch_up(&self) {
        let is_written = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        let (written, wait) = oneshot::channel();
        // A full queue is behind in any case.
        if is_written && self.queue.try_send(Message::Written(written)).is_ok() {
            self.hurry.notify_one();
            // Too late, or never: the list has what there is.
            let _ = tokio::time::timeout(LIST_PATIENCE, wait).await;
        }
    }

    /// Writes what still waits, and closes the store of events.
    pub(crate) async fn close(&self) {
        let (written, wait) = oneshot::channel();
        let closed = async {
            if self.queue.send(Message::Close(written)).await.is_ok() {
                // An error means that there is no writer.
                let _ = wait.await;
            }
        };
        if tokio::time::timeout(PATIENCE, closed).await.is_err() {
            tracing::warn!("the last events were not written in time and are lost");
        }
        self.store.close_events().await;
    }
}

struct Writer {
    events: Arc<Events>,
    waiting: mpsc::Receiver<Message>,
    /// The next entries to write.
    batch: Vec<Event>,
    /// The state to store after them.
    known: Option<Known>,
    /// The task that waits until it is.
    readers: Vec<oneshot::Sender<()>>,
    closing: Option<oneshot::Sender<()>>,
    /// How many had been lost when that was last complained about.
    lost_before: u64,
    /// What trackers and callers did, as far as it is not kept yet. The store reads it where it is: it can be some megabytes.
    activity: Arc<BTreeMap<String, Option<String>>>,
    next_keep: Instant,
}

impl Writer {
    async fn run(mut self) {
        let mut rounds = tokio::time::interval_at(Instant::now() + ROUND, ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut messages = Vec::new();
        while self.closing.is_none() {
            tokio::select! {
                received = self.waiting.recv_many(&mut messages, BATCH) => {
                    if received == 0 {
                        return;
                    }
                    self.take(&mut messages);
                }
                _ = rounds.tick() => {
                    self.sum_up(false);
                    self.complain(false);
                    if Instant::now() >= self.next_keep {
                        self.next_keep = Instant::now() + KEEP;
                        self.keep_activity().await;
                    }
                }
            }
            self.write().await;
            for reader in self.readers.drain(..) {
                // An error means that the waiting task is gone.
                let _ = reader.send(());
            }
            if self.closing.is_none() {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = self.events.hurry.notified() => {}
                }
            }
        }
        self.finish().await;
    }

    fn take(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            match message {
                Message::Event(event) => self.batch.push(event),
                Message::Known(known) => self.known = Some(known),
                Message::Written(reader) => self.readers.push(reader),
                Message::Close(written) => self.closing = Some(written),
            }
        }
    }

    /// Writes the batch. While the store is away it is tried again, and what comes meanwhile waits in the queue.
    async fn write(&mut self) {
        while !self.batch.is_empty() || self.known.is_some() {
            let mut written = self.events.store.append(&self.batch).await;
            if let (Ok(()), Some(known)) = (&written, &self.known) {
                written = self.events.store.remember(known).await;
            }
            match written {
                Ok(()) => {
                    let count = u64::try_from(self.batch.len()).unwrap_or(0);
                    self.events.counts.written.fetch_add(count, Ordering::Relaxed);
                    self.batch.clear();
                    self.known = None;
                    self.note(None);
                }
                Err(error) => {
                    self.note(Some(&error));
                    if self.closing.is_some() {
                        self.events.lose(u64::try_from(self.batch.len()).unwrap_or(0));
                        self.batch.clear();
                        self.known = None;
                        return;
                    }
                    self.pause().await;
                }
            }
        }
    }

    /// Notes how a write ended, and logs it if that is news.
    fn note(&self, error: Option<&StoreError>) {
        if !self.events.note_write(error.map(StoreError::reason)) {
            return;
        }
        match error {
            None => tracing::info!("events are written again"),
            Some(error) => tracing::error!(
                %error,
                "events cannot be written; handshakes continue, and events that do not fit into the queue are lost"
            ),
        }
    }

    /// Waits before the store is tried again, but not when the server stops meanwhile.
    async fn pause(&mut self) {
        let until = Instant::now() + PAUSE;
        self.complain(false);
        // This runs only for a full queue, to find out whether it is being closed; its events stay.
        while Instant::now() < until && self.closing.is_none() {
            if self.batch.len() < BATCH {
                match tokio::time::timeout_at(until, self.waiting.recv()).await {
                    Ok(Some(message)) => self.take(&mut vec![message]),
                    Ok(None) | Err(_) => return,
                }
            } else {
                tokio::time::sleep_until(until).await;
            }
        }
    }

    /// Makes events of what was too much to be kept one by one.
    fn sum_up(&mut self, at_the_end: bool) {
        let events = &self.events;
        let now = events.clock.now();
        for (kind, count) in events.throttle.sum_up(now, at_the_end) {
            let Ok(id) = EventId::generate(now, &*events.entropy) else { return };
            let event = Event { count, ..Event::new(id, now, kind) };
            events.tell(event, true);
        }
    }

    /// Logs what is said in sums alone: refusals that came too fast for a line of their own, and events that are lost.
    fn complain(&mut self, at_the_end: bool) {
        for (kind, count) in self.events.throttle.unlogged(self.events.clock.now(), at_the_end) {
            log::sum(&kind, count);
        }
        let lost = self.events.counts().lost;
        let more = lost - self.lost_before;
        if more > 0 {
            tracing::warn!(
                more,
                "events were lost, because they could not be written, or not as fast as they came"
            );
            self.lost_before = lost;
        }
    }

    /// Stores the counters of trackers and callers for the next server. After a failure, the next write includes them. With
    /// nothing new it tries whether it could write.
    async fn keep_activity(&mut self) {
        if !self.events.keeps() {
            return;
        }
        let events = Arc::clone(&self.events);
        // Some megabytes of text where there are many names.
        if let Ok(changed) = tokio::task::spawn_blocking(move || events.activity().changed()).await {
            Arc::make_mut(&mut self.activity).extend(changed);
        }
        let kept = self.events.store.keep_activity(Arc::clone(&self.activity)).await;
        if kept.is_ok() {
            self.activity = Arc::default();
        }
        self.note(kept.as_ref().err());
    }

    async fn finish(mut self) {
        self.sum_up(true);
        self.waiting.close();
        let mut messages = Vec::new();
        while self.waiting.recv_many(&mut messages, BATCH).await > 0 {
            self.take(&mut messages);
            self.write().await;
        }
        self.complain(true);
        self.events.look_at_handshakes();
        self.keep_activity().await;
        if let Some(written) = self.closing.take() {
            // An error means that the waiting task is gone.
            let _ = written.send(());
        }
    }
}
