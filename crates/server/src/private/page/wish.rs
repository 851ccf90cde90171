//! The event filter in the page's query string.

use std::time::Duration;

use countersign_core::{KindFilter, before};
use jiff::Timestamp;

use crate::history::{RANGES, Range};
use crate::private::events::{Asked, Place, read_query};

use super::EVENTS;

/// The kinds that happen all the time while all is well. They would hide the others, so they are shown only on request.
const ROUTINE: [KindFilter; 2] = [KindFilter::Issued, KindFilter::Consumed];

/// Times that can be chosen, as an address and as the page has them.
const SPANS: [(&str, &str, Duration); 3] = [
    ("1h", "the last hour", Duration::from_hours(1)),
    ("24h", "the last 24 hours", Duration::from_hours(24)),
    ("7d", "the last 7 days", Duration::from_hours(7 * 24)),
];

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// The parameters, but for the place in the list.
    pairs: Vec<(String, String)>,
    after: Option<String>,
    /// What is wrong with a parameter. It is not among the others, so that the page does not repeat it: somebody may have
    /// pasted a token.
    wrong: Option<String>,
}

/// A choice among others.
pub(super) struct Choice {
    pub(super) value: &'static str,
    pub(super) text: &'static str,
    pub(super) chosen: bool,
}

impl Wish {
    /// Reads an address's query. Fields that were left empty count as not there.
    pub(super) fn read(query: &str) -> Self {
        let mut wish = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, value.trim()) {
                (_, "") => {}
                ("after", place) => wish.after = Some(place.to_owned()),
                (_, value) => {
                    let pairs = vec![(name.clone().into_owned(), value.to_owned())];
                    let alone = Self { pairs, ..Self::default() };
                    match alone.asked(Timestamp::UNIX_EPOCH) {
                        Ok(_) => wish.pairs.extend(alone.pairs),
                        Err(why) => wish.wrong = Some(why),
                    }
                }
            }
        }
        wish
    }

    /// What that means now; `Err` says what is wrong with it.
    pub(super) fn asked(&self, now: Timestamp) -> Result<Asked, String> {
        if let Some(why) = &self.wrong {
            return Err(why.clone());
        }
        let mut plain = form_urlencoded::Serializer::new(String::new());
        let mut since = None;
        for (name, value) in self.pairs.iter().map(|(name, value)| (&**name, &**value)) {
            let later = match name {
                "within" => {
                    let span = SPANS.iter().find(|(known, ..)| *known == value);
                    let (.., span) = span.ok_or("The times to choose from are 1h, 24h and 7d.")?;
                    Some(before(now, *span))
                }
                "range" => {
                    let names: Vec<_> = RANGES.iter().map(|range| range.name).collect();
                    if !names.contains(&value) {
                        return Err(format!("The ranges to choose from are {}.", names.join(", ")));
                    }
                    continue;
                }
                "since" => Some(moment(value)?),
                "until" => {
                    plain.append_pair(name, &moment(value)?.to_string());
                    continue;
                }
                _ => None,
            };
            if later.is_none() {
                plain.append_pair(name, value);
            }
            since = since.max(later);
        }
        if let Some(since) = since {
            plain.append_pair("since", &since.to_string());
        }
        if let Some(after) = &self.after {
            plain.append_pair("after", after);
        }
        let mut asked = read_query(&plain.finish(), EVENTS).map_err(|problem| problem.detail().to_owned())?;
        // An id finds its events of every kind.
        asked.events.kinds = if asked.events.name.is_some() { Vec::new() } else { self.kinds() };
        Ok(asked)
    }

    /// The kinds that are asked for.
    fn kinds(&self) -> Vec<KindFilter> {
        let named: Vec<_> = self
            .pairs
            .iter()
            .filter(|(name, _)| name == "kind")
            .flat_map(|(_, value)| value.split(','))
            .filter_map(|label| KindFilter::of_label(label.trim()))
            .collect();
        if !named.is_empty() {
            return named;
        }
        KindFilter::ALL.iter().copied().filter(|kind| !ROUTINE.contains(kind)).collect()
    }

    /// Each kind of event, and whether it is asked for.
    pub(super) fn boxes(&self) -> Vec<(&'static str, bool)> {
        let kinds = self.kinds();
        KindFilter::ALL.iter().map(|kind| (kind.label(), kinds.contains(kind))).collect()
    }

    /// Each span of time, and whether it is asked for.
    pub(super) fn spans(&self) -> Vec<Choice> {
        let within = self.field("within");
        let spans = SPANS.iter().map(|(value, text, _)| (*value, *text));
        [("", "any time")]
            .into_iter()
            .chain(spans)
            .map(|(value, text)| Choice { value, text, chosen: value == within })
            .collect()
    }

    /// What stands in a field of the form.
    pub(super) fn field(&self, name: &str) -> &str {
        self.pairs.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Whether any events are asked for that the page does not show by itself.
    pub(super) fn is_special(&self) -> bool {
        self.wrong.is_some() || self.pairs.iter().any(|(name, _)| name != "limit" && name != "range")
    }

    /// What the charts are to show.
    pub(super) fn range(&self) -> &'static Range {
        let [hour, ..] = &RANGES;
        RANGES.iter().find(|range| range.name == self.field("range")).unwrap_or(hour)
    }

    /// The ranges of the charts and tables, with the address of each, from wherever the page stands; it leads to the element with
    /// this id.
    pub(super) fn ranges(&self, place: &str) -> Vec<(&'static Range, String)> {
        let others = || self.pairs.iter().filter(|(name, _)| name != "range");
        let link = |range: &Range| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(others()).append_pair("range", range.name);
            format!("?{}#{place}", query.finish())
        };
        RANGES.iter().map(|range| (range, link(range))).collect()
    }

    /// The address without a filter, as far as it is not the page's own.
    pub(super) fn usual(&self) -> String {
        match self.field("range") {
            "" => String::new(),
            range => format!("?range={range}"),
        }
    }

    /// Whether it is for what comes after a place in the list.
    pub(super) fn is_first_page(&self) -> bool {
        self.after.is_none()
    }

    /// What is shown, in words.
    pub(super) fn in_words(&self) -> String {
        let named = |name: &str, before: &str| {
            let value = self.field(name);
            (!value.is_empty()).then(|| format!("{before}{value}"))
        };
        if let Some(id) = named("id", "with the id ") {
            return id;
        }
        let kinds = self.kinds();
        let labels = |wanted: bool| {
            let labels = KindFilter::ALL.iter().filter(|kind| kinds.contains(kind) == wanted);
            labels.map(|kind| kind.label()).collect::<Vec<_>>()
        };
        let (shown, hidden) = (labels(true), labels(false));
        let kinds = if hidden.is_empty() {
            "every kind".to_owned()
        } else if hidden.len() < shown.len() {
            format!("every kind but {}", hidden.join(" and "))
        } else {
            shown.join(", ")
        };
        let span = SPANS.iter().find(|(value, ..)| *value == self.field("within"));
        [
            Some(kinds),
            span.map(|(_, text, _)| format!("in {text}")),
            named("since", "since "),
            named("until", "until "),
            named("peer", "by "),
            named("tracker", "for "),
            named("caller", "of the caller "),
            named("text", "with the text "),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
    }

    /// The same without a place in the list, as an address's query.
    pub(super) fn query(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.pairs).finish()
    }

    /// The address of what comes after a place in the list, from wherever the page stands.
    pub(super) fn after(&self, place: Place) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.pairs).append_pair("after", &place.text());
        format!("?{}#events-title", query.finish())
    }

    /// The address of the newest events, from wherever the page stands.
    pub(super) fn newest(&self) -> String {
        format!("?{}#events-title", self.query())
    }
}

/// A moment as a program writes it, or as a browser's field for one does: without a zone, and meant as UTC, which all the
/// page's times are.
fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .or_else(|_| format!("{text}Z").parse())
        .map_err(|_| "From and until are moments such as 2026-01-31T12:00, in UTC.".to_owned())
}

#[cfg(test)]
mod tests {
    use countersign_core::{EventQuery, from_millis};

    use super::*;

    const NOW: i64 = 1_769_860_800_000;

    fn asked(query: &str) -> EventQuery {
        Wish::read(query).asked(from_millis(NOW)).unwrap().events
    }

    #[test]
    fn routine_events_are_hidden_by_default() {
        let kinds = |query: &str| asked(query).kinds;
        let usual = kinds("");
        assert!(usual.contains(&KindFilter::Replay) && !usual.contains(&KindFilter::Consumed), "{usual:?}");
        assert_eq!(kinds("kind=consumed"), [KindFilter::Consumed]);
        assert_eq!(kinds("id=019c0e3a-5d1c-7c55-9d2c-2f2d8c1f8a11&kind=replay"), [], "every kind");
        assert_eq!(kinds("id=+&peer=&text=&within="), usual, "a field that was left empty is none");
    }

    #[test]
    fn times_of_browser_forms_are_parsed() {
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(asked("since=2026-01-31T11:00").since, moment("2026-01-31T11:00:00Z"));
        assert_eq!(asked("until=2026-01-31T11:00:30").until, moment("2026-01-31T11:00:30Z"));
        assert_eq!(asked("since=2026-01-31T12:00:00%2B01:00").since, moment("2026-01-31T11:00:00Z"));
        assert_eq!(asked("within=1h").since, moment("2026-01-31T11:00:00Z"));
        assert_eq!(asked("within=1h&since=2026-01-31T11:30").since, moment("2026-01-31T11:30:00Z"));
        for wrong in [
            "since=yesterday",
            "within=2h",
            "peer=me",
            "id=cs1abc",
            "after=x",
            "colour=red",
            "range=2h",
            "tracker=me",
            "caller=No",
        ] {
            assert!(Wish::read(wrong).asked(from_millis(NOW)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn charts_have_a_text_alternative() {
        for (query, words) in [
            ("", "every kind but issued and consumed"),
            ("kind=replay,relay&within=1h", "replay, relay, in the last hour"),
            ("kind=replay&peer=192.0.2.7&text=curl", "replay, by 192.0.2.7, with the text curl"),
            (
                "kind=replay&tracker=https://a.example/&caller=ci",
                "replay, for https://a.example/, of the caller ci",
            ),
            ("kind=replay&id=00000000000000ff", "with the id 00000000000000ff"),
        ] {
            assert_eq!(Wish::read(query).in_words(), words, "{query}");
        }
    }
}
