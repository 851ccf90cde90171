//! Checks a large database for damage without delaying the start.
//!
//! `quick_check` reads the whole file: some two seconds for each gigabyte. A small file is checked before the first
//! answer; a large one by a thread of its own, while the store is in use. If that finds damage, nothing is written any
//! more, so that no token is accepted that a lost record would have rejected.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rusqlite::InterruptHandle;

use super::batch::Shared;
use super::fault::while_opening;
use super::schema::{Access, check, connect};
use crate::error::OpenError;

/// The largest database that is looked through before the store is opened, in bytes. That takes some 70 ms.
pub(super) const CHECKED_AT_ONCE: u64 = 32 * 1024 * 1024;

/// The thread that looks, if there is one. Dropping it cuts it short.
pub(super) struct Checkup {
    interrupt: InterruptHandle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Checkup {
    /// Starts to look through the database at `path`, and tells the writer what is found.
    pub(super) fn start(path: PathBuf, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let connection = connect(&path, Access::Read).map_err(|error| while_opening(&path, &error))?;
        let interrupt = connection.get_interrupt_handle();
        let thread_path = path.clone();
        let look = move || match check(&connection, &thread_path) {
            Ok(()) => tracing::debug!(database = %thread_path.display(), "looked through: no damage"),
            Err(damage @ OpenError::Damaged { .. }) => {
                tracing::error!(%damage, "no token is consumed any more");
                // Nothing else sets it.
                let _ = shared.damage.set(damage.to_string());
            }
            // Cut short, or the disk fails, which the writer notices, too.
            Err(error) => tracing::info!(%error, "the check for damage was interrupted"),
        };
        let thread = thread::Builder::new()
            .name("store-checkup".to_owned())
            .spawn(look)
            .map_err(|error| OpenError::Files { doing: "checked", path, error })?;
        Ok(Self { interrupt, thread: Mutex::new(Some(thread)) })
    }

    /// Cuts it short, and waits until its connection is closed: a matter of microseconds.
    pub(super) fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.interrupt.interrupt();
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }

    /// Waits until it is done by itself.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        self.thread.lock().unwrap().take().unwrap().join().unwrap();
    }
}

impl Drop for Checkup {
    fn drop(&mut self) {
        self.stop();
    }
}
