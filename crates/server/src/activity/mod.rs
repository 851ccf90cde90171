//! What each tracker and each caller did lately: tokens issued, handshakes by how they were answered, and how long those took.
//!
//! ```text
//! handler ──▶ the rows of the token's tracker and of its caller     (atomic counters)
//!                  └── once a second, what came on top ──▶ slots of time
//! ```
//!
//! A row is made for a name in an authentic token alone, so a client that only guesses can make none. There are at most
//! [`MAX_PARTIES`] of trackers and as many of callers; what comes beyond them is counted together. It is what this server did, not
//! what its neighbours on the same store did. Once a minute, what has changed is kept beside the events, so that the numbers go on after
//! a restart.

mod row;
mod table;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use countersign_core::{Audience, CallerName, LoginToken, from_millis, to_millis};
use jiff::Timestamp;

use crate::callers::MAX_CALLERS;
use crate::handshake_outcome::HandshakeOutcome;
use crate::history::Range;
use crate::sum::Sum;

use self::row::{KeptRow, Row};
use self::table::Table;

pub(crate) use self::row::{RANGES, range};

/// How many trackers are told apart, and how many callers.
pub const MAX_PARTIES: usize = MAX_CALLERS;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Activity {
    /// Since when it is counted, in milliseconds.
    since: AtomicI64,
    trackers: Table,
    callers: Table,
    /// Handshakes that belong to no tracker and no caller: those without an authentic token.
    unattributed: Row,
}

/// By what rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By the audience that a token is bound to.
    Tracker,
    /// By the caller of the private API for which it was issued.
    Caller,
}

/// Of whom a row tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Party {
    /// A tracker's base URL, or a caller's name.
    Named(Arc<str>),
    /// Tokens that are not bound, or that the caller `default` got.
    Nameless,
    /// All that there was no room for.
    Other,
    /// Handshakes without an authentic token.
    Unattributed,
}

/// What one of them did.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) party: Party,
    /// When a handshake was answered 200 last, as far back as is known.
    pub(crate) last_good: Option<Timestamp>,
    pub(crate) sum: Sum,
}

/// The name of the row without a tracker and without a caller.
const UNATTRIBUTED: &str = "unattributed";

/// Under which name it is kept since when there are numbers.
const SINCE: &str = "since";

/// The name of [`Party::Other`] where rows are kept: a caller may be called `other`, but never this.
const KEPT_OTHER: &str = "*";

/// Under which name a row is kept.
fn kept_name(by: By, party: &Party) -> String {
    let name = if *party == Party::Other { KEPT_OTHER } else { party.name(by) };
    format!("{} {name}", by.label())
}

impl By {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Tracker, Self::Caller];

    /// It in a word. Stable.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::Caller => "caller",
        }
    }

    /// The one that this label means.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.label() == label)
    }
}

impl Party {
    /// Its name. No tracker has one of the words for those without a name, since it is a URL.
    pub(crate) fn name(&self, by: By) -> &str {
        match (self, by) {
            (Self::Named(name), _) => name,
            (Self::Nameless, By::Tracker) => countersign_core::UNBOUND,
            (Self::Nameless, By::Caller) => countersign_core::DEFAULT_CALLER,
            (Self::Other, _) => "other",
            (Self::Unattributed, _) => UNATTRIBUTED,
        }
    }

    /// The one that is kept under this name.
    fn of_kept_name(by: By, name: &str) -> Self {
        match name {
            KEPT_OTHER => Self::Other,
            _ if name == Self::Nameless.name(by) => Self::Nameless,
            _ => Self::Named(name.into()),
        }
    }
}

impl Activity {
    /// Nothing yet.
    pub(crate) fn new(since: Timestamp) -> Self {
        Self {
            since: AtomicI64::new(to_millis(since)),
            trackers: Table::new(MAX_PARTIES),
            callers: Table::new(MAX_PARTIES),
            unattributed: Row::default(),
        }
    }

    /// A token was issued.
    pub(crate) fn issued(&self, token: &LoginToken) {
        self.of(token, Row::issued);
    }

    /// A handshake was answered, with this token if it was an authentic one.
    pub(crate) fn handshake(
        &self,
        token: Option<&LoginToken>,
        outcome: HandshakeOutcome<'_>,
        took: Duration,
    ) {
        match token {
            Some(token) => self.of(token, |row| row.handshake(outcome, took)),
            None => self.unattributed.handshake(outcome, took),
        }
    }

    fn of(&self, token: &LoginToken, count: impl Fn(&Row)) {
        self.trackers.with(token.audience().map(Audience::as_str), &count);
        self.callers.with(token.issued_by().map(CallerName::as_str), &count);
    }

    /// Notes what came on top since the last look.
    pub(crate) fn look(&self, now: Timestamp) {
        self.trackers.look(now);
        self.callers.look(now);
        self.unattributed.look(now);
    }

    /// How far back the sums of a range go.
    pub(crate) fn since(&self, range: &Range, now: Timestamp) -> Timestamp {
        from_millis(self.since.load(Ordering::Relaxed)).max(range.since(now))
    }

    /// What each did in a range, up to the last look: those with something alarming first, then those with refusals, then those
    /// with the most handshakes; and at the end the rows without a tracker or caller.
    pub(crate) fn lines(&self, by: By, range: &'static Range, now: Timestamp) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut add = |party: Party, row: &Row| {
            let (last_good, sum) = row.read(range, now);
            if matches!(party, Party::Named(_)) || last_good.is_some() || !sum.is_empty() {
                lines.push(Line { party, last_good, sum });
            }
        };
        self.table(by).each(&mut add);
        add(Party::Unattributed, &self.unattributed);
        lines.sort_by_cached_key(|line| {
            let sum = &line.sum;
            let is_rest = matches!(line.party, Party::Other | Party::Unattributed);
            (is_rest, Reverse((sum.alarming(), sum.refused(), sum.handshakes())), line.party.clone())
        });
        lines
    }

    /// The counts of each since this process was started, for metrics; also those of which only the last success is known.
    pub(crate) fn totals(&self, by: By) -> Vec<Line> {
        let mut lines = Vec::new();
        self.table(by).each(|party, row| {
            let (last_good, sum) = row.totals();
            if last_good.is_some() || !sum.is_empty() {
                lines.push(Line { party, last_good, sum });
            }
        });
        lines
    }

    /// What is to be kept for the next server: texts by name, as far as they are new since this was asked for last. `None` is to be
    /// forgotten.
    pub(crate) fn changed(&self) -> BTreeMap<String, Option<String>> {
        let mut changed = BTreeMap::new();
        for by in By::ALL {
            let table = self.table(by);
            for name in table.take_gone() {
                changed.insert(kept_name(by, &Party::Named(name)), None);
            }
            table.each(|party, row| {
                if let Some(text) = row.changed() {
                    changed.insert(kept_name(by, &party), Some(text));
                }
            });
        }
        if let Some(text) = self.unattributed.changed() {
            changed.insert(UNATTRIBUTED.to_owned(), Some(text));
        }
        if !changed.is_empty() {
            changed.insert(SINCE.to_owned(), Some(self.since.load(Ordering::Relaxed).to_string()));
        }
        changed
    }

    /// Goes on from what the server before this one kept. What cannot be read is as good as none. Should there be more names than
    /// there is room for, those stay of which something happened last.
    pub(crate) fn restore(&self, kept: &[(String, String)]) {
        let mut rows = Vec::new();
        for (name, text) in kept {
            match (&**name, name.split_once(' ')) {
                (SINCE, _) => {
                    if let Ok(since) = text.parse() {
                        self.since.fetch_min(since, Ordering::Relaxed);
                    }
                }
                (UNATTRIBUTED, _) => {
                    if let Some(row) = KeptRow::read(text) {
                        self.unattributed.restore(row);
                    }
                }
                (_, Some((label, name))) => {
                    if let (Some(by), Some(row)) = (By::of_label(label), KeptRow::read(text)) {
                        rows.push((by, Party::of_kept_name(by, name), row));
                    }
                }
                _ => {}
            }
        }
        rows.sort_by_cached_key(|(_, _, row)| Reverse(row.latest()));
        for (by, party, row) in rows {
            self.table(by).restore(party, row);
        }
    }

    fn table(&self, by: By) -> &Table {
        match by {
            By::Tracker => &self.trackers,
            By::Caller => &self.callers,
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::{Clock, ManualClock};

    use super::*;

    const NOW: i64 = 1_767_225_600_000;

    fn clock() -> ManualClock {
        ManualClock::at(from_millis(NOW))
    }

    fn good(activity: &Activity, tracker: &str) {
        count(activity, tracker, HandshakeOutcome::Accepted);
    }

    fn count(activity: &Activity, tracker: &str, outcome: HandshakeOutcome<'_>) {
        activity.trackers.with(Some(tracker), |row| row.handshake(outcome, Duration::from_millis(3)));
    }

    fn line(activity: &Activity, range: &'static Range, clock: &ManualClock, name: &str) -> Option<Line> {
        activity
            .lines(By::Tracker, range, clock.now())
            .into_iter()
            .find(|line| line.party.name(By::Tracker) == name)
    }

    #[test]
    fn next_server_continues_from_the_stored_counters() {
        let clock = clock();
        let first = Activity::new(clock.now());
        good(&first, "https://a.example/");
        count(&first, "https://a.example/", HandshakeOutcome::Rejected("replay"));
        first.unattributed.handshake(HandshakeOutcome::Rejected("unknown"), Duration::ZERO);
        first.trackers.with(None, Row::issued);
        first.callers.with(Some("eu"), Row::issued);
        first.look(clock.now());
        let mut kept = first.changed();
        assert_eq!(first.changed(), BTreeMap::new(), "nothing is new");
        clock.advance(Duration::from_mins(20));
        count(&first, "https://a.example/", HandshakeOutcome::Rejected("replay"));
        first.look(clock.now());
        let more = first.changed();
        assert_eq!(more.keys().collect::<Vec<_>>(), ["since", "tracker https://a.example/"]);
        kept.extend(more);

        let kept: Vec<_> = kept.into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        clock.advance(Duration::from_mins(20));
        let second = Activity::new(clock.now());
        second.restore(&kept);
        second.restore(&[("tracker https://b.example/".to_owned(), "nonsense".to_owned())]);
        second.look(clock.now());
        let [hour, .., week] = &RANGES;
        for range in [hour, week] {
            for by in By::ALL {
                let shown = |activity: &Activity| {
                    let lines = activity.lines(by, range, clock.now());
                    let known = lines.into_iter().filter(|line| line.party.name(by) != "https://b.example/");
                    known.map(|line| (line.party, line.last_good, line.sum)).collect::<Vec<_>>()
                };
                assert_eq!(shown(&second), shown(&first), "{by:?} {range:?}");
            }
            assert_eq!(second.since(range, clock.now()), first.since(range, clock.now()));
        }
        let totals = second.totals(By::Tracker);
        let totals: Vec<_> = totals.iter().map(|line| (line.sum.is_empty(), line.last_good)).collect();
        assert_eq!(totals, [(true, Some(from_millis(NOW)))], "counters begin with the process");
        good(&second, "https://a.example/");
        second.look(clock.now());
        let line = line(&second, hour, &clock, "https://a.example/").unwrap();
        assert_eq!((line.sum.good(), line.sum.replays(), line.last_good), (2, 2, Some(clock.now())));
    }

    #[test]
    fn least_used_name_is_merged_first() {
        let clock = clock();
        let activity = Activity { trackers: Table::new(2), ..Activity::new(clock.now()) };
        let [hour, .., week] = &RANGES;
        good(&activity, "a");
        activity.look(clock.now());
        clock.advance(Duration::from_hours(10 * 24));
        activity.look(clock.now());
        let last = line(&activity, week, &clock, "a").unwrap();
        assert_eq!((last.sum.handshakes(), last.last_good), (0, Some(from_millis(NOW))), "there is room");
        good(&activity, "b");
        good(&activity, "c");
        activity.look(clock.now());
        assert_eq!(line(&activity, hour, &clock, "c").map(|line| line.sum), None);
        assert_eq!(line(&activity, hour, &clock, "other").unwrap().sum.good(), 1);
        assert_eq!(activity.changed().get("tracker a"), Some(&None), "nothing of it is kept");
        good(&activity, "c");
        activity.look(clock.now());
        assert_eq!(line(&activity, hour, &clock, "c").unwrap().sum.good(), 1);
        assert!(line(&activity, hour, &clock, "b").is_some() && line(&activity, hour, &clock, "a").is_none());
    }

    #[test]
    fn latest_of_too_many_kept_rows_stay() {
        let clock = clock();
        let first = Activity::new(clock.now());
        // By name, the latest would come last.
        for name in ["a", "b", "c", "d"] {
            clock.advance(Duration::from_hours(24));
            count(&first, name, HandshakeOutcome::Rejected("replay"));
            first.look(clock.now());
        }
        clock.advance(Duration::from_hours(24));
        good(&first, "b");
        first.look(clock.now());
        let kept: Vec<_> =
            first.changed().into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        let second = Activity { trackers: Table::new(2), ..Activity::new(clock.now()) };
        second.restore(&kept);
        let mut names: Vec<_> = second.lines(By::Tracker, &RANGES[3], clock.now());
        names.sort_by_key(|line| line.party.clone());
        let names: Vec<_> = names.iter().map(|line| line.party.name(By::Tracker)).collect();
        assert_eq!(names, ["b", "d"]);
        let changed = second.changed();
        for name in ["a", "c"] {
            assert_eq!(changed.get(&format!("tracker {name}")), Some(&None), "nothing of it is kept");
        }
    }

    #[test]
    fn handshakes_on_many_threads_are_all_counted() {
        let clock = clock();
        let activity = Activity { trackers: Table::new(8), ..Activity::new(clock.now()) };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4_000).for_each(|nth| good(&activity, &format!("t{}", nth % 16))));
            }
        });
        activity.look(clock.now());
        let lines = activity.lines(By::Tracker, &RANGES[0], clock.now());
        assert_eq!(lines.len(), 9, "eight, and all others: {lines:?}");
        assert_eq!(lines.iter().map(|line| line.sum.good()).sum::<u64>(), 16_000);
    }

    #[test]
    fn memory_limit_matches_the_documentation() {
        let slots: usize = RANGES.iter().map(|range| range.slots).sum();
        let bytes = slots * (size_of::<Sum>() + size_of::<(i64, Box<Sum>)>()) + size_of::<Row>();
        let all = 2 * (MAX_PARTIES + 2) * bytes;
        assert!(all <= 24_000_000, "docs/limits.md says 24 MB, not {all} bytes");
    }

    #[test]
    fn clock_step_leaves_no_future_minutes() {
        let clock = clock();
        let activity = Activity::new(clock.now());
        good(&activity, "a");
        activity.look(clock.now());
        clock.set(from_millis(NOW + 9 * 86_400_000));
        good(&activity, "a");
        activity.look(clock.now());
        clock.set(from_millis(NOW + 60_000));
        activity.look(clock.now());
        for range in &RANGES {
            let line = line(&activity, range, &clock, "a").unwrap();
            assert_eq!((line.sum.good(), line.last_good), (2, Some(clock.now())), "{range:?}");
        }
    }

    #[test]
    fn late_readers_miss_no_increase() {
        let clock = clock();
        let activity = Activity::new(clock.now());
        let (early, [hour, ..]) = (clock.now(), &RANGES);
        clock.advance(Duration::from_mins(5));
        good(&activity, "a");
        activity.look(clock.now());
        activity.lines(By::Tracker, hour, early);
        assert_eq!(line(&activity, hour, &clock, "a").unwrap().sum.good(), 1, "who reads changes nothing");
        activity.look(early);
        assert_eq!(line(&activity, hour, &clock, "a").unwrap().sum.good(), 1, "two may look at once");
    }

    #[test]
    fn caller_named_other_is_kept_beside_the_rest() {
        let clock = clock();
        let first = Activity { callers: Table::new(1), ..Activity::new(clock.now()) };
        for (name, times) in [(Some("other"), 1), (Some("b"), 2), (None, 3)] {
            (0..times).for_each(|_| first.callers.with(name, Row::issued));
        }
        first.look(clock.now());
        let kept: Vec<_> =
            first.changed().into_iter().filter_map(|(name, text)| Some((name, text?))).collect();
        let second = Activity::new(clock.now());
        second.restore(&kept);
        let mut issued = second.lines(By::Caller, &RANGES[0], clock.now());
        issued.sort_by_key(|line| line.sum.issued);
        let issued: Vec<_> = issued.into_iter().map(|line| line.party).collect();
        assert_eq!(issued, [Party::Named("other".into()), Party::Other, Party::Nameless]);
    }

    #[test]
    fn extreme_numbers_do_not_overflow() {
        let clock = clock();
        let activity = Activity::new(clock.now());
        let slot = |slot: i64| {
            let many = u64::MAX;
            format!(
                r#"{{"slot":{slot},"issued":{many},"outcomes":{{"accepted":{many},"repeated":{many},"replay":{many},"audience-mismatch":{many},"busy":{many},"clock":{many},"expired":{many},"revoked":{many}}},"latencies":{{"3":{many}}}}}"#
            )
        };
        let slots = [i64::MAX, NOW / 300_000, i64::MIN].map(slot).join(",");
        let text = format!(r#"{{"last_good":null,"slots":{{"5":[{slots}]}}}}"#);
        activity.restore(&[("tracker a".to_owned(), text)]);
        activity.look(clock.now());
        let sum = line(&activity, &RANGES[0], &clock, "a").unwrap().sum;
        assert_eq!(
            (sum.good(), sum.alarming(), sum.refused(), sum.unanswered()),
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX)
        );
        assert!(sum.latencies.percentile(50).is_some());
    }
}
