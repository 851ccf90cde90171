//! The writer thread: runs a batch in one transaction, and handles a failing disk.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::{Clock, StoreError, Unusable, to_millis};
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::batch::{Batch, Connect, Job, Message, Shared};
use super::fault::{sentence, unusable};
use super::files::{Identity, ensure_log, mark_lost_log_now, wal_of};

/// How many calls share a commit at most, so that a batch stays a matter of milliseconds.
const BATCH: usize = 1024;

/// The writing side.
pub(super) struct WriterThread {
    path: PathBuf,
    /// The database that was opened, and its log. Others in their place are never written to.
    place: Identity,
    log: Identity,
    connect: Connect,
    connection: Option<Connection>,
    /// Whether something failed on this connection. It is kept until there is a new one, because the last connection
    /// that any program closes takes the log away.
    suspect: bool,
    /// The error for every call since the log was removed; only a restart helps.
    lost_log: Option<String>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    /// Whether the last batch failed; so that an outage is logged once, not with every batch.
    failing: bool,
}

impl WriterThread {
    /// Goes on with a database that is open and checked.
    pub(super) fn new(
        path: PathBuf,
        connect: Connect,
        connection: Connection,
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        Ok(Self {
            place: Identity::of(&path)?,
            log: Identity::of(&wal_of(&path))?,
            path,
            connect,
            connection: Some(connection),
            suspect: false,
            lost_log: None,
            clock,
            shared,
            failing: false,
        })
    }

    /// Runs batches until the queue is closed.
    pub(super) fn serve(mut self, mut queue: mpsc::Receiver<Message>) {
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
            Err(unusable) => self.failed(unusable.reason()),
        }
        for job in jobs {
            job.answer(outcome.clone().map_err(StoreError::Unavailable));
        }
    }

    fn succeeded(&mut self, calls: usize) {
        self.shared.counts.committed(calls);
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
        self.shared.counts.forget_written();
        self.shared.counts.failed();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(reason, "the store is not usable; no token is consumed until it is");
        }
    }

    /// Runs a batch in one transaction.
    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Unusable> {
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
        let fault = |error: rusqlite::Error| unusable(&self.path, error);
        let before = connection.total_changes();
        let mut batch = Batch::begin(connection).map_err(fault)?;
        for job in jobs {
            job.run(&mut batch).map_err(fault)?;
        }
        connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute(())).map_err(fault)?;
        if connection.total_changes() != before {
            self.shared.counts.has_written(to_millis(self.clock.now()));
        }
        Ok(())
    }

    fn reconnect(&self) -> Result<Connection, Unusable> {
        (self.connect)().map_err(|error| unusable(&self.path, error))
    }

    /// A file that was deleted can still be written to by those who have it open, and everything in it is lost when
    /// they end. `SQLite` does not look, so this does, with two `stat` calls a batch.
    fn check_place(&mut self) -> Result<(), String> {
        if let Some(reason) = &self.lost_log {
            return Err(reason.clone());
        }
        if let Some(damage) = self.shared.damage.get() {
            return Err(damage.clone());
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
        // The next start takes a missing log for a lost one, and moves the fence.
        let reason = match self.write_log_back() {
            Ok(true) if ensure_log(&self.path).is_ok() => {
                format!("{removed}; what was in it has been saved. Restart the server")
            }
            _ => {
                // Where not even this can be written, the log is still missing, which says the same.
                let _ = mark_lost_log_now(&self.path);
                format!(
                    "{removed}, and the last tokens' endings with it; restart the server, which then refuses every \
                     token issued so far, so that none can be used twice"
                )
            }
        };
        self.connection = None;
        self.lost_log.insert(reason).clone()
    }

    fn close_connection(&mut self) {
        // All of it is in the log already; the next start reads it from there if this does not work.
        match self.write_log_back() {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!("another process reads the store; its log stays until the next start");
            }
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
