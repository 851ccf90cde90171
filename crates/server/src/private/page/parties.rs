//! What each tracker and each caller did, as tables.

use askama::Template;
use countersign_core::{KindFilter, before};
use jiff::Timestamp;
use std::time::Duration;

use crate::activity::{By, Line, Party};
use crate::private::summary::filter_of;
use crate::sum::Sum;

use super::chart::in_words;
use super::parts::{DisplayTime, grouped, moment};
use super::state::PageState;

/// How many rows of a table the page has at most.
const MAX_SHOWN: usize = 25;

/// Both tables.
#[derive(Template)]
#[template(path = "parties.html")]
pub(super) struct Parties {
    range: &'static str,
    since: DisplayTime,
    tables: Vec<Table>,
}

struct Table {
    by: &'static str,
    rows: Vec<PartyRow>,
    /// How many there is no room for.
    more: usize,
}

struct PartyRow {
    name: String,
    /// The meaning of a row without a name.
    means: Option<&'static str>,
    last_good: Option<DisplayTime>,
    issued: String,
    good: String,
    /// Refused, replays, relay attempts.
    cells: [Cell; 3],
    p50: String,
    p99: String,
}

/// A number that should be 0.
struct Cell {
    what: &'static str,
    count: String,
    class: &'static str,
    detail: String,
    /// Where the events are that it counts.
    link: Option<String>,
}

impl Parties {
    pub(super) fn of(state: &PageState) -> Self {
        let tables = state.parties.iter().map(|(by, lines)| Table {
            by: by.label(),
            rows: lines.iter().take(MAX_SHOWN).map(|line| row(*by, line, state.parties_since)).collect(),
            more: lines.len().saturating_sub(MAX_SHOWN),
        });
        Self { range: state.range.name, since: moment(state.parties_since), tables: tables.collect() }
    }
}

fn row(by: By, Line { party, last_good, sum }: &Line, since: Timestamp) -> PartyRow {
    // Handshakes that could not be answered are no events.
    let cell = |what, count: u64, seen: u64, class, kind, detail: String| Cell {
        what,
        count: grouped(count),
        class: if count == 0 { "" } else { class },
        detail,
        link: (seen > 0).then(|| events_of(by, party, kind, since)).flatten(),
    };
    let took = |percent| sum.latencies.percentile(percent).map_or("-".to_owned(), in_words);
    PartyRow {
        name: party.name(by).to_owned(),
        means: match (party, by) {
            (Party::Named(_), _) => None,
            (Party::Nameless, By::Tracker) => Some("tokens for any tracker"),
            (Party::Nameless, By::Caller) => Some("the caller without a name"),
            (Party::Other, By::Tracker) => Some("trackers beyond those that are told apart"),
            (Party::Other, By::Caller) => Some("callers beyond those that are told apart"),
            (Party::Unattributed, _) => Some("no authentic token"),
        },
        last_good: last_good.map(moment),
        issued: grouped(sum.issued),
        good: grouped(sum.good()),
        cells: [
            cell(
                "refused",
                sum.refused().saturating_add(sum.unanswered()),
                sum.refused(),
                "",
                KindFilter::Refused,
                details(sum),
            ),
            cell("replays", sum.replays(), sum.replays(), "alarming", KindFilter::Replay, String::new()),
            cell("relay attempts", sum.relays(), sum.relays(), "alarming", KindFilter::Relay, String::new()),
        ],
        p50: took(50),
        p99: took(99),
    }
}

/// Why handshakes were refused, and how many were not answered.
fn details(sum: &Sum) -> String {
    let reasons = sum.reasons().map(|(reason, count)| format!("{reason} {}", grouped(count)));
    let unanswered = Some(sum.unanswered()).filter(|count| *count > 0);
    let unanswered = unanswered.map(|count| format!("not answered {}", grouped(count)));
    reasons.chain(unanswered).collect::<Vec<_>>().join(", ")
}

/// The address of the page with these events, from wherever the page stands.
fn events_of(by: By, party: &Party, kind: KindFilter, since: Timestamp) -> Option<String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("kind", kind.label());
    let (name, value) = filter_of(by, party)?;
    query.append_pair(name, value).append_pair("since", &counted_since(since));
    Some(format!("?{}#events-title", query.finish()))
}

/// From when on there are the events of numbers that count from a moment on: what happens is counted up to a second later.
pub(super) fn counted_since(since: Timestamp) -> String {
    before(since, Duration::from_secs(1)).strftime("%Y-%m-%dT%H:%M:%S").to_string()
}
