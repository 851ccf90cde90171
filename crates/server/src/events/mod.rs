//! Takes events from the handlers to the store, to followers and to alarms.
//!
//! ```text
//! handler ──▶ throttle ──▶ queue ──▶ writer ──▶ store      (kept for a while)
//!                  └─────▶ followers                       (told at once)
//! ```
//!
//! No request waits for any of it: a full queue loses events, and counts them. Redemptions and revocations are already in
//! the store, so they go to followers only.

mod log;
mod record;
mod throttle;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Clock, Entropy, Event, EventKind, EventQuery, EventStore, Key, KeyRing, Known, StoreError, before,
};
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};

use crate::activity::Activity;
use crate::alarms::{Alarms, Webhook};
use crate::caller::Caller;
use crate::history::History;
use crate::metrics::Counters;

use self::throttle::EventThrottle;

pub use self::throttle::KEPT_EACH_MINUTE;
pub use self::writer::QUEUE;

/// How many may follow at a time.
pub const MAX_FOLLOWERS: usize = 64;

/// How many events a follower may be behind before it misses some.
pub const MAX_BEHIND: usize = 1024;

/// For how long events are kept unless a setting says otherwise.
pub const RETENTION: Duration = Duration::from_hours(30 * 24);

/// How many wrong credentials in a minute raise an alarm: more than mistakes make.
pub const MANY_GUESSES: u32 = 10;

/// What the operator decides about events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPolicy {
    /// For how long they are kept; zero: not at all.
    pub retention: Duration,
    /// Whether each issued token is an event that is kept.
    pub record_issued: bool,
}

impl Default for EventPolicy {
    fn default() -> Self {
        Self { retention: RETENTION, record_issued: false }
    }
}

/// Receives every event. Costs little for events that no one needs.
#[derive(Debug)]
pub struct Events {
    policy: EventPolicy,
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    throttle: EventThrottle,
    queue: mpsc::Sender<Message>,
    /// A reader waits until the queue is written.
    hurry: Notify,
    /// What the writer takes when it begins.
    waiting: Mutex<Option<mpsc::Receiver<Message>>>,
    followers: broadcast::Sender<FollowerMessage>,
    counts: Counts,
    tally: Counters,
    history: History,
    activity: Activity,
    /// Why the last batch could not be written; `None` if it was.
    write_trouble: Mutex<Option<String>>,
    /// Whether the server stops.
    ended: watch::Sender<bool>,
    /// What has been told of the fence and of the keys, or need not be.
    known: Mutex<Option<Known>>,
    alarms: Option<Alarms>,
}

/// The store of events that are not kept.
#[derive(Debug)]
struct NullEventStore;

#[async_trait]
impl EventStore for NullEventStore {
    async fn append(&self, _: &[Event]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn events(&self, _: &EventQuery) -> Result<Vec<Event>, StoreError> {
        Ok(Vec::new())
    }

    async fn purge_events(&self, _: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn close_events(&self) {}
}

/// How many events went where.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
    summed_up: AtomicU64,
}

/// How many events went where, since the server was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Kept in the store.
    pub written: u64,
    /// Not kept, because too many waited, or the store was away.
    pub lost: u64,
    /// Not kept one by one, because there were too many of their kind in a minute; an event says how many.
    pub summed_up: u64,
    /// Waiting to be written now.
    pub waiting: u64,
    /// Who follows now.
    pub followers: u64,
}

/// What a follower hears.
#[derive(Clone, Debug)]
pub(crate) enum FollowerMessage {
    Event(Arc<Event>),
    /// The server stops.
    End,
}

#[derive(Debug)]
enum Message {
    Event(Event),
    /// Keep what is known, after every event before this.
    Known(Known),
    /// Say so when everything before this is written.
    Written(oneshot::Sender<()>),
    /// The same, and write no more.
    Close(oneshot::Sender<()>),
}

impl Events {
    /// Events that are kept in `store` as the policy says.
    pub fn new(
        policy: EventPolicy,
        store: Arc<dyn EventStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (history, activity) = (History::new(clock.now()), Activity::new(clock.now()));
        Self {
            policy,
            store,
            clock,
            entropy,
            throttle: EventThrottle::default(),
            queue,
            hurry: Notify::new(),
            waiting: Mutex::new(Some(waiting)),
            followers: broadcast::Sender::new(MAX_BEHIND),
            counts: Counts::default(),
            tally: Counters::new(),
            history,
            activity,
            write_trouble: Mutex::default(),
            ended: watch::Sender::new(false),
            known: Mutex::default(),
            alarms: None,
        }
    }

    /// Events that only followers receive; they are not stored.
    pub fn unkept(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let policy = EventPolicy { retention: Duration::ZERO, record_issued: false };
        Self::new(policy, Arc::new(NullEventStore), clock, entropy)
    }

    /// The same, with alarms for replays and relay attempts. `pause` is how long to wait before a delivery is tried for
    /// the second time: [`ALARM_PAUSE`](crate::limits::ALARM_PAUSE) everywhere but in a test.
    #[must_use]
    pub fn with_alarms(mut self, webhook: Webhook, pause: Duration) -> Self {
        self.alarms = Some(Alarms::new(webhook, pause));
        self
    }

    /// Learns what the server before this one knew. An error means that this one begins as if there had been none.
    pub(crate) async fn learn_known(&self) -> Result<(), StoreError> {
        let known = self.store.known().await?;
        *self.known() = known;
        let activity = self.store.activity().await?;
        if self.keeps() {
            self.activity.restore(&activity);
        } else if !activity.is_empty() {
            // A later server that keeps them again must not take them for numbers without a gap.
            let gone = activity.into_iter().map(|(name, _)| (name, None)).collect();
            self.store.keep_activity(Arc::new(gone)).await?;
        }
        Ok(())
    }

    /// Makes events of what has changed in the keys: since the last look, or, before the first one, since `old`.
    pub(crate) fn look_at_keys(&self, old: &KeyRing, new: &KeyRing, caller: &Caller) {
        let before = {
            let mut known = self.known();
            let before = known.take().unwrap_or_else(|| Known::of(None, old));
            *known = Some(Known::of(before.fence, new));
            before
        };
        let newest = new.keys().last().map(Key::id).filter(|key| !before.keys.contains(key));
        let rotated = newest.map(|key| EventKind::KeyRotated { key });
        let revoked = new.revoked().iter().filter(|key| !before.revoked.contains(key));
        let revoked = revoked.map(|&key| EventKind::KeyRevoked { key });
        let mut changed = before != Known::of(before.fence, new);
        for kind in rotated.into_iter().chain(revoked) {
            self.happened(self.clock.now(), kind, None, caller, true);
            changed = true;
        }
        if changed {
            self.keep_known();
        }
    }

    /// The fence was moved.
    pub(crate) fn fence_moved(&self, fence: Timestamp, caller: &Caller) {
        self.happened(self.clock.now(), EventKind::FenceMoved { fence }, None, caller, true);
        self.note_fence(fence);
    }

    /// Notes where the fence stands, of which the operator has been told or need not be.
    pub(crate) fn note_fence(&self, fence: Timestamp) {
        self.known().get_or_insert_default().fence = Some(fence);
        self.keep_known();
    }

    /// Of which fence the operator was told last, as far as that is known.
    pub(crate) fn known_fence(&self) -> Option<Timestamp> {
        self.known().as_ref().and_then(|known| known.fence)
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it kept for the next server. Where the queue is full, the next server tells once more of what has been told.
    fn keep_known(&self) {
        if let Some(known) = self.known().clone() {
            let _ = self.queue.try_send(Message::Known(known));
        }
    }

    /// Whether events are kept at all.
    pub(crate) fn keeps(&self) -> bool {
        !self.policy.retention.is_zero()
    }

    fn is_followed(&self) -> bool {
        self.followers.receiver_count() > 0
    }

    /// Hears everything from now on; `None` if too many do already.
    pub(crate) fn follow(&self) -> Option<broadcast::Receiver<FollowerMessage>> {
        (self.followers.receiver_count() < MAX_FOLLOWERS).then(|| self.followers.subscribe())
    }

    /// Lets the followers go, so that a server which stops need not wait for them.
    pub fn end_following(&self) {
        // An error means that there is none.
        let _ = self.followers.send(FollowerMessage::End);
        self.ended.send_replace(true);
    }

    /// Resolves when the server stops.
    pub(crate) async fn ended(&self) {
        // An error means that there is no server any more.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Notes how many handshakes there have been by now.
    pub(crate) fn look_at_handshakes(&self) {
        let now = self.clock.now();
        self.history.look(now, &self.tally.totals());
        self.activity.look(now);
    }

    /// What each tracker and each caller did lately.
    pub(crate) fn activity(&self) -> &Activity {
        &self.activity
    }

    /// How many handshakes there were in each minute.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Delivers alarms, if configured. [`Server::run`](crate::Server::run) runs it, once.
    pub async fn deliver_alarms(self: Arc<Self>) {
        if let Some(alarms) = &self.alarms {
            alarms.deliver(&*self.clock, &*self.entropy).await;
        }
    }

    /// Where alarms go, if anywhere.
    pub(crate) fn alarms(&self) -> Option<&Alarms> {
        self.alarms.as_ref()
    }

    /// What is counted.
    pub(crate) fn tally(&self) -> &Counters {
        &self.tally
    }

    /// Where they are kept.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// Why events cannot be kept now, if that is so: what the last write said, or what reading says.
    pub(crate) async fn trouble(&self) -> Option<String> {
        let write_trouble = self.write_trouble().clone();
        if write_trouble.is_some() {
            return write_trouble;
        }
        self.store.known().await.err().map(|error| error.reason())
    }

    /// Notes how a write ended. Returns whether that is news.
    fn note_write(&self, trouble: Option<String>) -> bool {
        let is_failing = trouble.is_some();
        std::mem::replace(&mut *self.write_trouble(), trouble).is_some() != is_failing
    }

    fn write_trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.write_trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many went where.
    pub fn counts(&self) -> EventCounts {
        let waiting = self.queue.max_capacity() - self.queue.capacity();
        EventCounts {
            written: self.counts.written.load(Ordering::Relaxed),
            lost: self.counts.lost.load(Ordering::Relaxed),
            summed_up: self.counts.summed_up.load(Ordering::Relaxed),
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            followers: u64::try_from(self.followers.receiver_count()).unwrap_or(u64::MAX),
        }
    }

    /// Forgets those that have been kept long enough, and the oldest of a kind that there are too many of.
    pub(crate) async fn purge(&self) -> Result<u64, StoreError> {
        self.store.purge_events(before(self.clock.now(), self.policy.retention)).await
    }
}
