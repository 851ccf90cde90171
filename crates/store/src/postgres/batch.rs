//! A batch: endings that one statement records, and their recovery when its answer is lost.
//!
//! Every row carries its batch's nonce. So the same statement can be sent again on another connection: rows of an earlier
//! attempt are in its way, and the nonce tells them from the rows of other batches, even if time, address and key are the
//! same. If the earlier attempt is still under way, the new one waits for it at the first key that it wrote.

use std::collections::HashMap;
use std::time::Duration;

use countersign_core::{EndResult, Ending, StoreError, Unusable};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::connector::take;
use super::fault::Failure;
use super::identity::DatabaseIdentity;
use super::rows::{BatchArguments, BatchColumns, LookupRow, TokenKey, unreadable, uuid};
use super::session::Session;
use super::sql::{GROUPS, Query, Table};
use super::{StoreInner, no_watermarks};

/// How long a batch is retried before its callers are told that the outcome is unknown. Less than the server waits for its store.
pub const BATCH_PATIENCE: Duration = Duration::from_secs(15);

/// How long one statement may take before another connection asks. More than the `lock_timeout` of those that have one.
pub const STATEMENT_PATIENCE: Duration = Duration::from_secs(6);

/// How long a batch may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchLimits {
    /// [`BATCH_PATIENCE`], but in a test.
    pub(super) patience: Duration,
    /// [`STATEMENT_PATIENCE`], but in a test.
    pub(super) statement: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { patience: BATCH_PATIENCE, statement: STATEMENT_PATIENCE }
    }
}

/// How long to wait after the first failed attempt; twice as long after each further one, up to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A call that waits.
#[derive(Debug)]
pub(super) struct QueuedCall {
    pub(super) token: TokenKey,
    pub(super) ending: Ending,
    pub(super) reply: oneshot::Sender<Result<EndResult, StoreError>>,
}

impl QueuedCall {
    fn answer(self, answer: Result<EndResult, StoreError>) {
        // An error means that the caller has gone away.
        let _ = self.reply.send(answer);
    }
}

impl StoreInner {
    /// Carries out all of these and answers them.
    pub(super) async fn run(&self, items: Vec<QueuedCall>) {
        let mut kinds: HashMap<(Table, i64), Vec<QueuedCall>> = HashMap::new();
        for item in items {
            kinds.entry((item.token.table(), item.token.ring)).or_default().push(item);
        }
        // Tokens live for a day at most, and key rings for long: there is hardly ever more than one kind.
        for ((table, ring), mut items) in kinds {
            while !items.is_empty() {
                items = self.run_in(table, ring, items).await;
            }
        }
    }

    /// Carries out the first call for each id, and answers the others for the same id by it where that is possible.
    /// Returns those that are left.
    async fn run_in(&self, table: Table, ring: i64, items: Vec<QueuedCall>) -> Vec<QueuedCall> {
        let mut batch = Batch::new(table, ring);
        let mut firsts: Vec<QueuedCall> = Vec::with_capacity(items.len());
        let mut others: Vec<(usize, QueuedCall)> = Vec::new();
        let mut places: HashMap<Uuid, usize> = HashMap::with_capacity(items.len());
        for item in items {
            let id = uuid(item.token.id);
            if let Some(place) = places.get(&id) {
                others.push((*place, item));
            } else {
                places.insert(id, firsts.len());
                firsts.push(item);
            }
        }
        batch.entries = firsts
            .iter()
            .map(|item| BatchEntry { token: item.token, ending: item.ending.clone(), end: None })
            .collect();
        let outcome = self.settle(&mut batch).await;
        match &outcome {
            Ok(()) => self.counts.committed(firsts.len() + others.len()),
            Err(_) => self.counts.failed(),
        }
        let mut left = Vec::new();
        for (place, item) in others {
            let first = batch.entries.get(place);
            match first.and_then(|entry| entry.end.as_ref().map(|end| (end, &entry.ending))) {
                Some((Ok(EndResult::Recorded), ending) | (Ok(EndResult::Already(ending)), _)) => {
                    item.answer(Ok(EndResult::Already(ending.clone())));
                }
                Some((Ok(EndResult::Fenced), _)) => item.answer(Ok(EndResult::Fenced)),
                Some((Ok(EndResult::Forgotten), _)) => left.push(item),
                Some((Err(error), _)) => item.answer(Err(error.clone())),
                None => item.answer(Err(lost(&outcome))),
            }
        }
        for (item, entry) in firsts.into_iter().zip(batch.entries) {
            item.answer(entry.end.unwrap_or_else(|| Err(lost(&outcome))));
        }
        left
    }

    /// Sends the batch until each of its entries has an answer, or time is up.
    async fn settle(&self, batch: &mut Batch) -> Result<(), Unusable> {
        if let Some(reason) = self.health.away() {
            return Err(reason.into());
        }
        let mut random = [0; 8];
        self.entropy.fill(&mut random).map_err(|error| error.to_string())?;
        batch.nonce = i64::from_be_bytes(random);
        let deadline = Instant::now() + self.limits.patience;
        let mut pause = PAUSES.0;
        loop {
            let failure = match self.attempt(batch, deadline).await {
                Ok(true) => return Ok(()),
                // A conflicting row is gone, or a watermark is being moved: look again.
                Ok(false) => None,
                Err(failure) => Some(failure),
            };
            if let Some(failure) = &failure {
                self.note(failure);
                batch.is_uncertain |= matches!(failure, Failure::Lost { .. });
                // Made wrong on purpose, to see that the tests would find it out.
                #[cfg(test)]
                if self.guesses.load(std::sync::atomic::Ordering::Relaxed) && batch.is_uncertain {
                    batch.entries.iter_mut().for_each(|entry| entry.end = Some(Ok(EndResult::Recorded)));
                    return Ok(());
                }
                // Nothing was kept, and asking again would not change that.
                if !batch.is_uncertain && !failure.is_contention() && !failure.is_locked() {
                    return Err(failure.clone().into());
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(
                    failure.map_or_else(|| "it is in a state of change".to_owned().into(), Unusable::from)
                );
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sends it once. Returns whether every entry has an answer now; those that have keep it.
    async fn attempt(&self, batch: &mut Batch, deadline: Instant) -> Result<bool, Failure> {
        let mut session = take(&self.writers, deadline, &self.place).await?;
        let limit = deadline.min(Instant::now() + self.limits.statement);
        let known = self.identity.known();
        match timeout_at(limit, batch.send(&mut session, &known)).await {
            // The record is missing although it could be there: this may be another database than before.
            Ok(Ok(false)) => {
                let limit = deadline.min(Instant::now() + self.limits.statement);
                let recognized = timeout_at(limit, Box::pin(self.recognize(&mut session))).await;
                recognized.unwrap_or_else(|_| Err(session.gave_no_answer())).map(|()| false)
            }
            Ok(answer) => answer,
            Err(_) => Err(session.gave_no_answer()),
        }
    }
}

fn lost(outcome: &Result<(), Unusable>) -> StoreError {
    let unusable = outcome.as_ref().err().cloned();
    unusable.map_or_else(|| StoreError::unavailable("it gave no answer"), StoreError::Unavailable)
}

/// Endings that go into one table, of tokens that were opened with one key ring; each with an id of its own.
#[derive(Debug)]
struct Batch {
    table: Table,
    ring: i64,
    nonce: i64,
    entries: Vec<BatchEntry>,
    /// Whether an attempt has been sent whose answer is not known.
    is_uncertain: bool,
    attempts: i64,
}

#[derive(Debug)]
struct BatchEntry {
    token: TokenKey,
    ending: Ending,
    /// The answer: an end, or that the key ring is another one.
    end: Option<Result<EndResult, StoreError>>,
}

impl Batch {
    fn new(table: Table, ring: i64) -> Self {
        Self { table, ring, nonce: 0, entries: Vec::new(), is_uncertain: false, attempts: 0 }
    }

    /// Inserts, and if that does not answer everything, looks.
    async fn send(&mut self, session: &mut Session, known: &DatabaseIdentity) -> Result<bool, Failure> {
        if self.insert(session, known).await? {
            return Ok(true);
        }
        Box::pin(self.look(session)).await
    }

    /// Records those that have no answer yet. The database decides about each row; what it returns is what this statement
    /// has written and committed.
    async fn insert(&mut self, session: &mut Session, known: &DatabaseIdentity) -> Result<bool, Failure> {
        // In the same order on every node: two batches wait for each other in one direction only.
        let mut open: Vec<&mut BatchEntry> =
            self.entries.iter_mut().filter(|entry| entry.end.is_none()).collect();
        open.sort_unstable_by_key(|entry| entry.token.id);
        let mut columns = BatchColumns::default();
        for entry in &open {
            columns.push(entry.token, &entry.ending);
        }
        // Another one in each attempt: it may be that others hold all of a group.
        self.attempts = self.attempts.wrapping_add(1);
        let group =
            i16::try_from(self.nonce.wrapping_add(self.attempts).rem_euclid(GROUPS.into())).unwrap_or(0);
        let arguments =
            BatchArguments { nonce: self.nonce, group, known, ring: self.ring, columns: &columns };
        let recorded = session.record(self.table, &arguments).await?;
        let missing = open.len() - recorded.len().min(open.len());
        for id in &recorded {
            if let Ok(n) = columns.ids.binary_search(id)
                && let Some(entry) = open.get_mut(n)
            {
                entry.end = Some(Ok(EndResult::Recorded));
            }
        }
        Ok(missing == 0)
    }

    /// Finds out about the rest, as it stands after the insert.
    async fn look(&mut self, session: &mut Session) -> Result<bool, Failure> {
        let mut open: HashMap<Uuid, &mut BatchEntry> = HashMap::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.end.is_none()) {
            open.insert(uuid(entry.token.id), entry);
        }
        let ids: Vec<Uuid> = open.keys().copied().collect();
        let rows = session.query(Query::Look(self.table), &[&ids]).await?;
        if rows.is_empty() && !ids.is_empty() {
            return Err(no_watermarks(session.place()));
        }
        for row in &rows {
            let seen = LookupRow::read(row).map_err(|error| unreadable(&error, session.place()))?;
            let Some(entry) = open.get_mut(&seen.id) else { continue };
            entry.end = match seen.record {
                Some((_, nonce)) if nonce == self.nonce => Some(Ok(EndResult::Recorded)),
                _ if seen.ring != self.ring => Some(Err(StoreError::OtherRing)),
                Some((ending, _)) => Some(Ok(EndResult::Already(ending))),
                None => {
                    Some(Ok(entry.token.judge(seen.watermarks))).filter(|end| *end != Ok(EndResult::Recorded))
                }
            };
        }
        Ok(self.entries.iter().all(|entry| entry.end.is_some()))
    }
}
