//! Decides whether this machine's clock can be trusted.
//!
//! A machine's wall clock is compared with the clock of a shared store, with the machine's own steady clock, which nobody
//! sets, and with the dates in the store. Almost no request waits for this: [`LoginTokenSet::keep_time`] asks the store every
//! few seconds, and in between the steady clock tells what the store's clock must show.
//!
//! - With a shared store: a clock that differs from the store's by more than [`CLOCK_SKEW`] is not used. The node neither
//!   issues nor redeems nor purges until the two agree.
//! - A token is never created before a watermark that would reject it, so that a token issued after a fence is good at
//!   once.
//! - Records are purged only by a clock that has run steadily for [`STEADY`], so there is time to correct it before
//!   anything is forgotten.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::LoginTokenSet;
use crate::handshake::CLOCK_SKEW;
use crate::{Clock, Horizon, StoreError, StoreTimes, TokenStore, after, before};

/// How long a clock must run without a step before records are purged by it.
pub const STEADY: Duration = Duration::from_mins(5);

/// An answer of the store that took longer than this tells nothing about its clock, which may have been read at any moment
/// in between; the steady clock goes on from an earlier answer.
const SLOW: Duration = Duration::from_secs(CLOCK_SKEW.as_secs() / 3);

const SET_IT_RIGHT: &str = "set it right, and keep it right (chrony, systemd-timesyncd)";

/// Why a clock is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// It is not the store's.
    #[error(
        "this machine's clock is {} s {} the store's; {SET_IT_RIGHT}",
        .0.abs().as_secs(), if .0.is_negative() { "behind" } else { "ahead of" }
    )]
    Apart(SignedDuration),
    /// Every token that is made now would be rejected.
    #[error(
        "this machine's clock is behind the store, which takes no token that was made before {0}; {SET_IT_RIGHT}. If it \
         is right, the store was used under a wrong clock: begin with a new store and a new key ring, as docs/backups.md \
         says"
    )]
    BehindWatermark(Timestamp),
    /// The store has records that are younger than the present.
    #[error(
        "this machine's clock is behind the store's newest record, of a token made at {0}; {SET_IT_RIGHT}. If it is \
         right, the store was used under a wrong clock: docs/backups.md says what to do"
    )]
    BehindRecords(Timestamp),
    /// It was set while the server ran.
    #[error(
        "this machine's clock was set {} s {}; nothing is purged until it has gone on steadily for {} s",
        .0.abs().as_secs(), if .0.is_negative() { "back" } else { "ahead" }, STEADY.as_secs()
    )]
    Set(SignedDuration),
    /// The server has just started.
    #[error("nothing is purged until the clock has gone on steadily for {} s", STEADY.as_secs())]
    New,
}

/// Whether two clocks are further apart than is tolerated, and how far.
pub fn apart(one: Timestamp, other: Timestamp) -> Option<SignedDuration> {
    let by = one.duration_since(other);
    (by.unsigned_abs() > CLOCK_SKEW).then_some(by)
}

/// Moves the fence, so that every token that any node has issued so far is rejected. Returns where it stands.
///
/// The fence is then as far ahead of the store's clock as a node's clock may be.
///
/// # Errors
///
/// If the store fails; or if it has no clock of its own, and this one is behind its records: tokens may have been made
/// beyond any fence that this clock could set.
pub async fn move_fence_now(store: &dyn TokenStore, clock: &dyn Clock) -> Result<Timestamp, StoreError> {
    let times = store.times().await?;
    let now = match times.clock {
        Some(theirs) => theirs,
        None => not_behind(&times, clock.now())?,
    };
    // A clock may be ahead by exactly that much, and a token created at the fence is not behind it.
    store.move_fence(after(now, CLOCK_SKEW + Duration::from_millis(1))).await
}

/// Forgets the tokens that expired longer ago than `retention`, by this clock and by the store's own. Returns how many.
///
/// # Errors
///
/// If the store fails, or if the clock cannot be right.
pub async fn purge_now(
    store: &dyn TokenStore,
    clock: &dyn Clock,
    retention: Duration,
) -> Result<u64, StoreError> {
    let times = store.times().await?;
    let now = clock.now();
    let now = match times.clock {
        Some(theirs) => match apart(now, theirs) {
            Some(by) => return Err(ClockError::Apart(by).into()),
            None => now.min(theirs),
        },
        None => not_behind(&times, now)?,
    };
    store.purge(before(now, retention)).await
}

fn not_behind(times: &StoreTimes, now: Timestamp) -> Result<Timestamp, ClockError> {
    match times.newest.filter(|newest| *newest > after(now, CLOCK_SKEW)) {
        Some(newest) => Err(ClockError::BehindRecords(newest)),
        None => Ok(now),
    }
}

/// A reading of both of this machine's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ClockReading {
    now: Timestamp,
    steady: Duration,
}

impl ClockReading {
    fn of(clock: &dyn Clock) -> Self {
        Self { now: clock.now(), steady: clock.steady() }
    }

    /// How much further the wall clock has gone than the steady one.
    fn gained_since(&self, earlier: &Self) -> SignedDuration {
        let passed = self.steady.saturating_sub(earlier.steady);
        self.now.duration_since(after(earlier.now, passed))
    }
}

/// What is known about the time.
#[derive(Debug, Default)]
pub(super) struct TimeKeeper(RwLock<ClockState>);

#[derive(Debug)]
struct ClockState {
    /// Since when the two clocks have gone alike.
    alike_since: Option<ClockReading>,
    /// How far the wall clock was set then; `None` if the server began then.
    set_by: Option<SignedDuration>,
    /// What the store's clock showed, and the steady clock when that was known.
    theirs: Option<(Timestamp, Duration)>,
    /// The first moment at which a token may be created.
    first_creation: Timestamp,
    /// Where the fence stands.
    fence: Option<Timestamp>,
    /// The youngest token on record; for a store that has no clock.
    newest: Option<Timestamp>,
    /// Whether the store has been asked.
    has_asked: bool,
}

impl Default for ClockState {
    fn default() -> Self {
        Self {
            alike_since: None,
            set_by: None,
            theirs: None,
            first_creation: Timestamp::MIN,
            fence: None,
            newest: None,
            has_asked: false,
        }
    }
}

impl ClockState {
    /// What the store's clock shows by now, at least. It may be later by as long as the answer took, which is at most
    /// [`SLOW`], so this clock can look so much further ahead than it is, and never the other way round.
    fn their_present(&self, steady: Duration) -> Option<Timestamp> {
        self.theirs.map(|(theirs, known_at)| after(theirs, steady.saturating_sub(known_at)))
    }

    /// How far the wall clock is from the store's, if that is too far.
    fn apart(&self, at: ClockReading) -> Option<ClockError> {
        apart(at.now, self.their_present(at.steady)?).map(ClockError::Apart)
    }

    /// A fence that has just been moved is ahead of the store's clock, and that may be ahead of this one.
    fn behind_watermark(&self, at: ClockReading) -> Option<ClockError> {
        let present = self.their_present(at.steady).map_or(at.now, |theirs| theirs.max(at.now));
        (self.first_creation > after(present, CLOCK_SKEW * 2))
            .then_some(ClockError::BehindWatermark(self.first_creation))
    }

    fn behind_records(&self, now: Timestamp) -> Option<ClockError> {
        let newest = self.newest.filter(|_| self.theirs.is_none())?;
        (newest > after(now, CLOCK_SKEW)).then_some(ClockError::BehindRecords(newest))
    }

    /// What has happened to the clock in the last minutes.
    fn unsteady(&self, at: ClockReading) -> Option<ClockError> {
        let passed = self.alike_since.map(|since| at.steady.saturating_sub(since.steady));
        (passed.unwrap_or_default() < STEADY).then(|| self.set_by.map_or(ClockError::New, ClockError::Set))
    }

    fn observe(&mut self, at: ClockReading) {
        let Some(since) = &self.alike_since else {
            self.alike_since = Some(at);
            return;
        };
        let gained = at.gained_since(since);
        if gained.unsigned_abs() > CLOCK_SKEW {
            self.set_by = Some(gained);
            self.alike_since = Some(at);
        }
    }

    /// Takes what the store answered between two readings of the steady clock.
    fn learn(&mut self, times: &StoreTimes, asked: Duration, answered: Duration) {
        if answered.saturating_sub(asked) <= SLOW {
            self.theirs = times.clock.map(|clock| (clock, answered));
        }
        self.newest = times.newest;
        self.has_asked = true;
        self.fence = self.fence.max(Some(times.fence));
        let Horizon { created, .. } = times.horizon;
        self.first_creation =
            self.first_creation.max(times.fence).max(after(created, Duration::from_millis(1)));
    }
}

impl TimeKeeper {
    fn read(&self) -> RwLockReadGuard<'_, ClockState> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ClockState> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a token that is issued now is created: at present, but not before a watermark that would reject it.
    pub(super) fn creation(&self, clock: &dyn Clock) -> Result<Timestamp, ClockError> {
        let (known, at) = (self.read(), ClockReading::of(clock));
        match known.apart(at).or_else(|| known.behind_watermark(at)) {
            Some(trouble) => Err(trouble),
            None => Ok(at.now.max(known.first_creation)),
        }
    }

    /// The present, if this clock may be used beside the store's.
    pub(super) fn present(&self, clock: &dyn Clock) -> Result<Timestamp, ClockError> {
        let at = ClockReading::of(clock);
        self.read().apart(at).map_or(Ok(at.now), Err)
    }

    /// The latest moment at which a token can have been created, by a node whose clock is near enough to the store's.
    pub(super) fn latest_creation(&self, clock: &dyn Clock) -> Timestamp {
        let known = self.read();
        let theirs = known.their_present(clock.steady()).map(|theirs| after(theirs, CLOCK_SKEW));
        theirs.map_or(known.first_creation, |theirs| theirs.max(known.first_creation))
    }

    pub(super) fn learn_fence(&self, fence: Timestamp) {
        let mut known = self.write();
        known.first_creation = known.first_creation.max(fence);
        known.fence = known.fence.max(Some(fence));
    }
}

impl LoginTokenSet {
    /// Compares the clocks, those of a shared store included. To be called before the first request, and every
    /// [`CHECK_IN_PERIOD`](crate::CHECK_IN_PERIOD).
    ///
    /// # Errors
    ///
    /// If the store does not answer, the steady clock tells what the store's clock must show.
    pub async fn keep_time(&self) -> Result<(), StoreError> {
        self.time.write().observe(ClockReading::of(&*self.clock));
        // Only this server moves the watermarks of a store that is not shared.
        if self.store.is_shared() || !self.time.read().has_asked {
            self.ask_for_times().await?;
        }
        Ok(())
    }

    /// Learns where the store's watermarks are, and what its clock shows.
    pub(super) async fn ask_for_times(&self) -> Result<(), StoreError> {
        let asked = self.clock.steady();
        let times = self.store.times().await?;
        self.time.write().learn(&times, asked, self.clock.steady());
        Ok(())
    }

    /// Where the fence stood when the store was asked last; `None` before that.
    pub fn known_fence(&self) -> Option<Timestamp> {
        self.time.read().fence
    }

    /// Why this node cannot issue, if its clock is the reason. Nor can it redeem then, unless that is
    /// [`ClockError::BehindWatermark`].
    pub fn clock_trouble(&self) -> Option<ClockError> {
        let (known, at) = (self.time.read(), ClockReading::of(&*self.clock));
        known.apart(at).or_else(|| known.behind_watermark(at))
    }

    /// What is wrong with the clock, although the node serves.
    pub fn clock_warning(&self) -> Option<ClockError> {
        let (known, at) = (self.time.read(), ClockReading::of(&*self.clock));
        known.behind_records(at.now).or_else(|| known.unsteady(at).filter(|why| *why != ClockError::New))
    }

    /// How far this machine's clock is from the store's, as far as is known.
    pub fn clock_offset(&self) -> Option<SignedDuration> {
        let at = ClockReading::of(&*self.clock);
        Some(at.now.duration_since(self.time.read().their_present(at.steady)?))
    }

    /// Why nothing may be purged now without being asked for, if that is so.
    pub fn purge_waits(&self) -> Option<ClockError> {
        let at = ClockReading::of(&*self.clock);
        self.time.write().observe(at);
        let known = self.time.read();
        known.apart(at).or_else(|| known.behind_records(at.now)).or_else(|| known.unsteady(at))
    }

    /// Forgets the tokens that expired longer ago than the policy keeps them. Returns how many were forgotten.
    ///
    /// # Errors
    ///
    /// If the store fails, or if this machine's clock is not to be trusted.
    pub async fn purge(&self) -> Result<u64, StoreError> {
        let at = ClockReading::of(&*self.clock);
        self.time.write().observe(at);
        self.ask_for_times().await?;
        let set = {
            let known = self.time.read();
            // A store's own clock has just vouched for this one.
            known.unsteady(at).filter(|why| known.theirs.is_none() && *why != ClockError::New)
        };
        match set {
            Some(trouble) => Err(trouble.into()),
            None => purge_now(&*self.store, &*self.clock, self.policy.retention).await,
        }
    }

    /// Moves the fence, so that every token that any node has issued so far is rejected. Returns where it stands.
    ///
    /// # Errors
    ///
    /// As [`move_fence_now`].
    pub async fn fence(&self) -> Result<Timestamp, StoreError> {
        let fence = move_fence_now(&*self.store, &*self.clock).await?;
        self.time.learn_fence(fence);
        Ok(fence)
    }
}
