//! The state that the page shows.

use std::time::Duration;

use countersign_core::{EventQuery, Key, KindFilter, StoreCounts, before};
use jiff::Timestamp;
use tokio::time::timeout;

use crate::activity::{self, By, Line};
use crate::history::Range;
use crate::metrics::count;
use crate::private::events::{Found, MAX_EVENTS, find};
use crate::sum::{Sum, saturating_sum};

use super::parts::times;
use super::store_status::StoreStatus;
use super::wish::Wish;
use super::{PATIENCE, Page};

/// How long ago a token must have been issued before it is odd that nobody shows it: two of the parts that an hour is counted
/// in. The part that this moment falls into counts as a whole, so that it is five to ten minutes.
const TIME_TO_SHOW: Duration = Duration::from_mins(10);

/// Everything that the page tells.
pub(super) struct PageState {
    pub(super) now: Timestamp,
    pub(super) started: Timestamp,
    pub(super) node: String,
    /// Whether there may be other servers on the store.
    pub(super) shared: bool,
    /// Since the start.
    pub(super) totals: Sum,
    pub(super) revoked: u64,
    /// The last hour.
    pub(super) minutes: Vec<Sum>,
    /// What the charts show.
    pub(super) range: &'static Range,
    pub(super) slots: Vec<(Timestamp, Sum)>,
    /// What each tracker and each caller did in that range, and since when that counts.
    pub(super) parties: [(By, Vec<Line>); 2],
    pub(super) parties_since: Timestamp,
    /// The same of the last hour.
    pub(super) hour: [(By, Vec<Line>); 2],
    pub(super) hour_since: Timestamp,
    /// What each tracker did in an hour up to some minutes ago.
    pub(super) tracker_had_time: Vec<Line>,
    /// `Err` says why there are none to show.
    pub(super) events: Result<Found, String>,
    /// In the last hour: how often the fence was moved, and how many wrong credentials the private API was sent.
    pub(super) fence_moves: Recent,
    pub(super) guesses: Recent,
    /// Requests that were denied to named callers.
    pub(super) denials: Recent,
    pub(super) events_lost: u64,
    /// Why they cannot be kept now.
    pub(super) events_trouble: Option<String>,
    /// How many purges have failed since the last one that did not.
    pub(super) failing_purges: u64,
    /// Delivered, given up, and waiting; `None` if there is no receiver of alarms.
    pub(super) alarms: Option<(u64, u64, u64)>,
    pub(super) keys: Vec<KeyState>,
    pub(super) store_status: StoreStatus,
    pub(super) counts: Option<StoreCounts>,
    /// The other servers on the store that serve now.
    pub(super) neighbours: Vec<String>,
}

/// How often something happened lately.
#[derive(Clone, Copy)]
pub(super) struct Recent {
    pub(super) count: u64,
    /// Older events were not counted.
    may_be_more: bool,
}

impl Recent {
    /// So many of them.
    pub(super) fn times(self, one: &str, many: &str) -> String {
        let before = if self.may_be_more { "At least " } else { "" };
        format!("{before}{}", times(self.count, one, many))
    }
}

/// A key.
pub(super) struct KeyState {
    pub(super) id: String,
    pub(super) active_from: Timestamp,
    pub(super) sealing: bool,
}

impl Page {
    /// Looks at everything.
    pub(super) async fn state(&self, wish: &Wish) -> PageState {
        let app = &self.app;
        let clock = app.tokens.clock();
        let asked_at = clock.now();
        let events = match wish.asked(asked_at) {
            Ok(asked) => match timeout(PATIENCE, find(app, &asked)).await {
                Ok(found) => {
                    found.map_err(|problem| format!("The events cannot be read. {}", problem.detail()))
                }
                Err(_) => Err("The events cannot be read. The store has not answered yet.".to_owned()),
            },
            Err(wrong) => Err(wrong),
        };
        let (fence_moves, guesses, denials, events_trouble) = tokio::join!(
            self.recent(KindFilter::FenceMoved, asked_at),
            self.recent(KindFilter::CredentialRejected, asked_at),
            self.recent(KindFilter::CallerDenied, asked_at),
            timeout(PATIENCE, app.events.trouble())
        );
        let store_status = self.store_watch.look(&self.app, asked_at).await;
        // Now that all have answered who take their time.
        app.events.look_at_handshakes();
        let now = clock.now();
        let ring = app.tokens.keys();
        let sealing = ring.sealing_key(now).map(Key::id);
        let keys = ring.keys().iter().rev().map(|key| KeyState {
            id: key.id().to_string(),
            active_from: key.active_from(),
            sealing: Some(key.id()) == sealing,
        });
        let me = app.tokens.node_id();
        let node_list = app.tokens.node_list().filter(|_| app.tokens.store().is_shared());
        let seen = node_list.iter().flat_map(|node_list| &node_list.nodes);
        let others = seen.filter(|seen| seen.live && Some(seen.node.id) != me);
        let activity = app.events.activity();
        let [hour, ..] = &activity::RANGES;
        let coarse = activity::range(wish.range().name).unwrap_or(hour);
        let lines = |range| By::ALL.map(|by| (by, activity.lines(by, range, now)));
        PageState {
            now,
            started: app.events.history().started(),
            node: app.label(),
            shared: app.tokens.store().is_shared(),
            totals: app.events.tally().totals(),
            revoked: app.events.tally().revoked.get(),
            minutes: app.events.history().minutes(now),
            range: wish.range(),
            slots: app.events.history().slots(wish.range(), now),
            parties: lines(coarse),
            parties_since: activity.since(coarse, now),
            hour: lines(hour),
            hour_since: activity.since(hour, now),
            tracker_had_time: activity.lines(By::Tracker, hour, before(now, TIME_TO_SHOW)),
            events,
            fence_moves,
            guesses,
            denials,
            events_lost: app.events.counts().lost,
            // A disk that hangs is seen by the list of events.
            events_trouble: events_trouble.ok().flatten(),
            failing_purges: app.events.tally().failing_purges(),
            alarms: app
                .events
                .alarms()
                .map(|alarms| (alarms.delivered.get(), alarms.failed.get(), count(alarms.waiting()))),
            keys: keys.collect(),
            store_status,
            counts: app.tokens.store().counts(),
            neighbours: others.map(|seen| seen.node.label()).collect(),
        }
    }

    /// How often this happened in the last hour, as far as that was kept. Each kind is asked for by itself: wrong
    /// credentials, which come by the thousand when somebody guesses, are not to hide a moved fence.
    async fn recent(&self, kind: KindFilter, now: Timestamp) -> Recent {
        let wanted = EventQuery {
            kinds: vec![kind],
            since: before(now, Duration::from_hours(1)),
            ..EventQuery::newest(MAX_EVENTS)
        };
        let found = timeout(PATIENCE, self.app.events.store().events(&wanted)).await;
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        Recent {
            count: saturating_sum(found.iter().map(|event| event.count)),
            may_be_more: found.len() >= MAX_EVENTS,
        }
    }
}
