//! The rows of the trackers, or of the callers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::Party;
use super::row::{KeptRow, Row};

type Rows = HashMap<Arc<str>, Arc<Row>>;

/// A bounded number of rows. A handshake finds its row without a lock; only the first one of a name takes one.
#[derive(Debug)]
pub(super) struct Table {
    named: ArcSwap<Rows>,
    changing: Mutex<()>,
    nameless: Row,
    other: Row,
    most: usize,
    /// Names that made room for others, and of which nothing is to be kept any more.
    gone: Mutex<Vec<Arc<str>>>,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self {
            named: ArcSwap::default(),
            changing: Mutex::default(),
            nameless: Row::default(),
            other: Row::default(),
            most,
            gone: Mutex::default(),
        }
    }

    /// Counts in the row of this name.
    pub(super) fn with(&self, name: Option<&str>, count: impl FnOnce(&Row)) {
        let Some(name) = name else { return count(&self.nameless) };
        let named = self.named.load();
        if let Some(row) = named.get(name) {
            return count(row);
        }
        let has_room = named.len() < self.most;
        drop(named);
        match has_room.then(|| self.add(name)).flatten() {
            Some(row) => count(&row),
            None => count(&self.other),
        }
    }

    /// The row of a name that had none a moment ago; `None` if there is no room for it.
    fn add(&self, name: &str) -> Option<Arc<Row>> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Rows::clone(&self.named.load());
        if let Some(row) = rows.get(name) {
            return Some(Arc::clone(row));
        }
        if rows.len() >= self.most {
            return None;
        }
        let row = Arc::<Row>::default();
        rows.insert(name.into(), Arc::clone(&row));
        self.named.store(Arc::new(rows));
        Some(row)
    }

    /// Looks at every row. A name of which no range has anything any more makes room for others where there is none left; one
    /// that a range still shows never does.
    pub(super) fn look(&self, now: Timestamp) {
        self.nameless.look(now);
        self.other.look(now);
        let rows = self.named.load_full();
        let idle: Vec<_> =
            rows.iter().filter(|(_, row)| !row.look(now)).map(|(name, _)| Arc::clone(name)).collect();
        if rows.len() >= self.most && !idle.is_empty() {
            let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let mut rows = Rows::clone(&self.named.load());
            // Something may have been counted since.
            let gone: Vec<_> =
                idle.into_iter().filter(|name| rows.get(name).is_some_and(|row| !row.look(now))).collect();
            rows.retain(|name, _| !gone.contains(name));
            self.named.store(Arc::new(rows));
            self.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
        }
    }

    /// The names that have made room since this was asked for last.
    pub(super) fn take_gone(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on from a row that was kept. A name for which there is no room is not kept any longer.
    pub(super) fn restore(&self, party: Party, kept: KeptRow) {
        match party {
            Party::Nameless => self.nameless.restore(kept),
            Party::Other => self.other.restore(kept),
            Party::Named(name) => match self.add(&name) {
                Some(row) => row.restore(kept),
                None => self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(name),
            },
            Party::Unattributed => {}
        }
    }

    /// Shows every row.
    pub(super) fn each(&self, mut show: impl FnMut(Party, &Row)) {
        for (name, row) in self.named.load().iter() {
            show(Party::Named(Arc::clone(name)), row);
        }
        show(Party::Nameless, &self.nameless);
        show(Party::Other, &self.other);
    }
}
