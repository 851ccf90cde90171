//! The parts of the page that change, each as HTML. The templates escape every value.

use std::fmt::Write as _;

use askama::Template;
use countersign_core::seal::seems_to_have_token;
use countersign_core::{Event, EventId, EventKind, KindFilter, Reason};
use jiff::Timestamp;

use super::chart::{Chart, chart};
use super::parties::Parties;
use super::state::{KeyState, PageState};
use super::verdict::Verdict;
use super::wish::Wish;

/// The pieces, each with the `id` of the element that it is in.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Vec<(&'static str, String)>);

/// The title and the icon, which a browser shows of a page in the background.
pub(super) struct Label {
    pub(super) headline: String,
    pub(super) level: &'static str,
}

impl Parts {
    /// Renders them all.
    pub(super) fn of(state: &PageState, wish: &Wish) -> (Self, Label) {
        let verdict = Verdict::of(state);
        let chart = chart(state.range, &state.slots, state.started);
        let parts = Self(vec![
            ("verdict", html(&verdict)),
            ("counts", html(&Counts::of(state))),
            ("parties", html(&Parties::of(state))),
            ("chart", html(&ChartPart(&chart))),
            ("minutes", html(&Minutes(&chart))),
            ("events", html(&Events::of(state, wish))),
            ("keys", html(&Keys::of(state))),
            ("store", html(&Store::of(state))),
        ]);
        (parts, Label { level: verdict.level.name(), headline: verdict.headline })
    }

    /// The HTML of one.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| *known == name).map_or("", |(_, html)| html)
    }

    /// Those that are not the same in `others`.
    pub(super) fn differing_from(&self, others: &Self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0
            .iter()
            .filter(|(name, html)| others.get(name) != html)
            .map(|(name, html)| (*name, html.as_str()))
    }
}

fn html(part: &impl Template) -> String {
    // Writing to memory does not fail.
    part.render().unwrap_or_default()
}

/// A moment, for people and for programs.
#[derive(Clone)]
pub(super) struct DisplayTime {
    pub(super) text: String,
    pub(super) machine: String,
}

pub(super) fn moment(time: Timestamp) -> DisplayTime {
    DisplayTime { text: time.strftime("%Y-%m-%d %H:%M:%S").to_string(), machine: time.to_string() }
}

/// How long ago, in the largest unit of which there are two. It is not to change with every second.
fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs();
    if seconds < 0 {
        return "in the future".to_owned();
    }
    let (count, unit) = [(86_400, "days"), (3_600, "hours"), (60, "minutes")]
        .into_iter()
        .map(|(length, unit)| (seconds / length, unit))
        .find(|(count, _)| *count >= 2)
        .unwrap_or_default();
    if count == 0 { "just now".to_owned() } else { format!("{count} {unit} ago") }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            // Narrow, and no place to break a line.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// So many of something.
pub(super) fn times(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {many}", grouped(count)) }
}

/// The totals since the start.
#[derive(Template)]
#[template(path = "counts.html")]
struct Counts {
    now: DisplayTime,
    started: DisplayTime,
    up: String,
    tiles: Vec<Tile>,
    /// Refusals that are nothing to be alarmed about, by reason.
    reasons: Vec<(&'static str, String)>,
}

/// A number and what it counts.
struct Tile {
    name: &'static str,
    count: String,
    class: &'static str,
    /// Where the events are that it counts, if there are any.
    link: Option<String>,
}

impl Counts {
    fn of(state: &PageState) -> Self {
        let totals = &state.totals;
        let tiles = [
            ("issued", totals.issued, "", None),
            ("consumed", totals.good(), "", Some(KindFilter::Consumed)),
            ("revoked", state.revoked, "", Some(KindFilter::Revoked)),
            ("refused", totals.refused(), "", Some(KindFilter::Refused)),
            ("replays", totals.replays(), "alarming", Some(KindFilter::Replay)),
            ("relay attempts", totals.relays(), "alarming", Some(KindFilter::Relay)),
            ("unanswered", totals.unanswered(), "worth-a-look", None),
        ];
        Self {
            now: moment(state.now),
            started: moment(state.started),
            up: age(state.now, state.started),
            tiles: tiles
                .into_iter()
                .map(|(name, count, class, kind)| Tile {
                    name,
                    count: grouped(count),
                    class: if count == 0 { "" } else { class },
                    link: kind.filter(|_| count > 0).map(events_of),
                })
                .collect(),
            reasons: Reason::ALL
                .iter()
                .map(|&reason| (in_words(reason), grouped(totals.of(reason.label()))))
                .collect(),
        }
    }
}

/// A reason for a refusal, where no event's label stands beside it: `revoked` is also what a tile counts.
fn in_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Method => "not a POST",
        Reason::Unknown => "unknown token",
        Reason::AudienceMissing => "no tracker stated",
        Reason::AudienceUnreadable => "tracker unreadable",
        Reason::Expired => "expired",
        Reason::FromTheFuture => "from the future",
        Reason::Fenced => "behind the fence",
        Reason::Revoked => "after its revocation",
    }
}

/// The address of the page with the events of this kind, from wherever the page stands.
pub(super) fn events_of(kind: KindFilter) -> String {
    format!("?kind={}#events-title", kind.label())
}

/// The chart.
#[derive(Template)]
#[template(path = "chart.html")]
struct ChartPart<'a>(&'a Chart);

/// The chart as a table.
#[derive(Template)]
#[template(path = "minutes.html")]
struct Minutes<'a>(&'a Chart);

/// What happened.
#[derive(Template)]
#[template(path = "events.html")]
struct Events {
    rows: Vec<EventRow>,
    /// Why there are none to show.
    trouble: Option<String>,
    /// Where the newest ones are, if these are not.
    newest: Option<String>,
    /// Where the list goes on.
    older: Option<String>,
}

struct EventRow {
    at: DisplayTime,
    /// Where it is alone.
    link: String,
    kind: String,
    class: &'static str,
    facts: Vec<Fact>,
}

/// Something that belongs to an event.
struct Fact {
    name: &'static str,
    text: String,
    /// Where everything is that has the same.
    link: Option<String>,
}

impl Events {
    fn of(state: &PageState, wish: &Wish) -> Self {
        let (rows, trouble, next) = match &state.events {
            Ok(found) => (found.events.iter().map(row).collect(), None, found.next),
            Err(why) => (Vec::new(), Some(why.clone()), None),
        };
        Self {
            rows,
            trouble,
            newest: (!wish.is_first_page()).then(|| wish.newest()),
            older: next.map(|place| wish.after(place)),
        }
    }
}

fn row(event: &Event) -> EventRow {
    let mut kind = event.kind.label().to_owned();
    if let Some(reason) = event.kind.reason() {
        let _ = write!(kind, ": {reason}");
    }
    if event.count > 1 {
        let _ = write!(kind, " ({} of them)", grouped(event.count));
    }
    let class = match event.kind {
        EventKind::Replay(_) | EventKind::Relay { .. } | EventKind::CredentialRejected => "alarming",
        EventKind::Consumed => "accepted",
        EventKind::Refused(_) | EventKind::CallerDenied(_) => "refused",
        _ => "",
    };
    let (mut first, mut stated, mut key, mut fence) = (None, None, None, None);
    match &event.kind {
        EventKind::Replay(Some(use_before)) => {
            let by = use_before.by.map(|peer| format!(" by {peer}")).unwrap_or_default();
            first = Some(format!("{}{by}", moment(use_before.at).text));
        }
        EventKind::Relay { stated: Some(note) } => stated = Some(note.as_str().to_owned()),
        EventKind::KeyRotated { key: id } | EventKind::KeyRevoked { key: id } => key = Some(id.to_string()),
        EventKind::FenceMoved { fence: line } => fence = Some(moment(*line).text),
        _ => {}
    }
    let plain = |name, text: Option<String>| text.map(|text| Fact { name, text, link: None });
    let found = |name, by, text: Option<String>| {
        // No address may have what looks like a token.
        text.map(|text| Fact {
            name,
            link: (!seems_to_have_token(&text)).then(|| events_with(by, &text)),
            text,
        })
    };
    // The end of a token's life goes by the token's id.
    let id = (event.token.map(EventId::from) != Some(event.id)).then(|| event.id.to_string());
    let agent = event.user_agent.as_ref().map(|note| note.as_str().to_owned());
    let facts = [
        found("by", "peer", event.peer.map(|peer| peer.to_string())),
        plain("first used", first),
        found("for", "tracker", event.audience.clone()),
        found("caller", "caller", event.caller.as_ref().map(ToString::to_string)),
        plain("shown by", stated),
        plain("agent", agent),
        plain("key", key),
        plain("fence", fence),
        found("token", "id", event.token.map(|id| id.to_string())),
        plain("request", event.request.map(|id| id.to_string())),
        plain("event", id),
    ];
    let facts = facts.into_iter().flatten().collect();
    let link = events_with("id", &event.id.to_string());
    EventRow { at: moment(event.at), link, kind, class, facts }
}

/// The address of the page with the events of this id, of every kind, relative to the present page.
fn events_with(name: &str, value: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if name != "id" {
        for kind in KindFilter::ALL {
            query.append_pair("kind", kind.label());
        }
    }
    format!("?{}#events-title", query.append_pair(name, value).finish())
}

/// The key ring.
#[derive(Template)]
#[template(path = "keys.html")]
struct Keys {
    rows: Vec<KeyRow>,
}

struct KeyRow {
    id: String,
    since: DisplayTime,
    age: String,
    role: String,
}

impl Keys {
    fn of(state: &PageState) -> Self {
        let row = |key: &KeyState| KeyRow {
            id: key.id.clone(),
            since: moment(key.active_from),
            age: age(state.now, key.active_from),
            role: if key.sealing {
                "seals and opens".to_owned()
            } else if key.active_from > state.now {
                "will seal".to_owned()
            } else {
                "opens".to_owned()
            },
        };
        Self { rows: state.keys.iter().map(row).collect() }
    }
}

/// The store.
#[derive(Template)]
#[template(path = "store.html")]
struct Store {
    facts: Vec<(&'static str, String)>,
    /// The other servers on it.
    neighbours: Vec<String>,
}

impl Store {
    fn of(state: &PageState) -> Self {
        let ready = match &state.store_status.ready {
            Ok(()) => "takes tokens".to_owned(),
            Err(why) => why.to_string(),
        };
        let mut facts = vec![("state", ready)];
        if let Some(count) = &state.store_status.count {
            facts.extend([
                ("kind", count.stats.kind.to_owned()),
                (
                    "records",
                    format!(
                        "{} consumed, {} revoked",
                        grouped(count.stats.consumed),
                        grouped(count.stats.revoked)
                    ),
                ),
            ]);
            facts.extend(state.store_status.counted_long_ago().map(|counted| {
                ("counted", format!("{}; what this server has added since is in it", moment(counted).text))
            }));
            facts.extend([("refuses tokens from before", moment(count.stats.fence).text)]);
            facts.extend(
                count.stats.bytes.map(|bytes| ("on disk", format!("{} KiB", grouped(bytes.div_ceil(1024))))),
            );
        }
        if let Some(counts) = state.counts {
            let writes = format!("{} in {} commits", grouped(counts.calls), grouped(counts.commits));
            facts.extend([
                ("writes", writes),
                ("failed batches", grouped(counts.failures)),
                ("waiting", grouped(counts.waiting)),
            ]);
        }
        facts.push((
            "alarms",
            match state.alarms {
                None => "nobody is told (alarm_webhook is not set)".to_owned(),
                Some((delivered, failed, waiting)) => format!(
                    "{} delivered, {} given up, {} waiting",
                    grouped(delivered),
                    grouped(failed),
                    grouped(waiting)
                ),
            },
        ));
        Self { facts, neighbours: state.neighbours.clone() }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::from_millis;

    use super::*;

    #[test]
    fn ages_and_numbers_are_rounded() {
        let now = from_millis(1_767_225_600_000);
        for (seconds, text) in [
            (0, "just now"),
            (119, "just now"),
            (120, "2 minutes ago"),
            (7_200, "2 hours ago"),
            (172_799, "47 hours ago"),
            (172_800, "2 days ago"),
            (-1, "in the future"),
        ] {
            assert_eq!(age(now, from_millis(1_767_225_600_000 - 1000 * seconds)), text);
        }
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number), text.replace(' ', "\u{202f}"));
        }
    }
}
