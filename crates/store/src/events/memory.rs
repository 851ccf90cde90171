//! A store of events in memory; lost when the process ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use countersign_core::{
    Event, EventCursor, EventId, EventQuery, EventStore, KindFilter, Known, StoreError, kept_of,
};
use jiff::Timestamp;

use crate::error::closed;

/// Keeps events in this process's memory, as [`MemoryStore`](crate::memory::MemoryStore) keeps endings.
#[derive(Debug, Default)]
pub struct MemoryEvents {
    state: Mutex<EventLog>,
}

#[derive(Debug, Default)]
struct EventLog {
    events: BTreeMap<EventId, Event>,
    known: Option<Known>,
    activity: BTreeMap<String, String>,
    closed: bool,
}

impl MemoryEvents {
    fn state(&self) -> Result<MutexGuard<'_, EventLog>, StoreError> {
        // Every change of the state is a single step, so a panic elsewhere cannot have left it half done.
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed { Err(closed()) } else { Ok(state) }
    }
}

#[async_trait]
impl EventStore for MemoryEvents {
    async fn append(&self, events: &[Event]) -> Result<(), StoreError> {
        let mut state = self.state()?;
        for event in events {
            state.events.entry(event.id).or_insert_with(|| event.clone());
        }
        Ok(())
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        let state = self.state()?;
        let mut found: Vec<Event> =
            state.events.values().filter(|event| query.covers(event)).cloned().collect();
        found.sort_by_key(|event| std::cmp::Reverse(EventCursor { at: event.at, id: event.id }));
        found.truncate(query.limit);
        Ok(found)
    }

    async fn purge_events(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        let mut state = self.state()?;
        let before = state.events.len();
        let mut kept: HashMap<(KindFilter, Option<&str>), u64> = HashMap::new();
        let mut gone = Vec::new();
        for event in state.events.values().rev() {
            let of_its_kind = kept.entry((event.kind.filter(), event.kind.reason())).or_default();
            if event.at < cutoff || *of_its_kind >= kept_of(event.kind.filter()) {
                gone.push(event.id);
            } else {
                *of_its_kind += 1;
            }
        }
        for id in gone {
            state.events.remove(&id);
        }
        Ok(u64::try_from(before - state.events.len()).unwrap_or(u64::MAX))
    }

    async fn known(&self) -> Result<Option<Known>, StoreError> {
        Ok(self.state()?.known.clone())
    }

    async fn remember(&self, known: &Known) -> Result<(), StoreError> {
        self.state()?.known = Some(known.clone());
        Ok(())
    }

    async fn activity(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(self.state()?.activity.clone().into_iter().collect())
    }

    async fn keep_activity(&self, changed: Arc<BTreeMap<String, Option<String>>>) -> Result<(), StoreError> {
        let mut state = self.state()?;
        for (name, text) in &*changed {
            match text {
                Some(text) => state.activity.insert(name.clone(), text.clone()),
                None => state.activity.remove(name),
            };
        }
        Ok(())
    }

    async fn close_events(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    }
}
