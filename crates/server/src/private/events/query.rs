//! What a list of events is asked for, as the query of a URL says it.

use std::collections::HashSet;
use std::net::IpAddr;

use countersign_core::seal::seems_to_have_token;
use countersign_core::{
    Audience, CallerName, DEFAULT_CALLER, EventCursor, EventId, EventName, EventQuery, KindFilter,
    MAX_NOTE_CHARS, NameFilter, TokenId, UNBOUND, from_millis, to_millis,
};
use jiff::Timestamp;

use crate::problem::Problem;

use super::MAX_EVENTS;

/// What a list is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) events: EventQuery,
    /// See [`Place`].
    pub(super) below: Option<TokenId>,
}

impl Asked {
    /// The same, from there on.
    pub(crate) fn going_on(self, place: Place) -> Self {
        let events = EventQuery { after: place.after, ..self.events };
        Self { events, below: place.below }
    }
}

/// A place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// What was listed last; `None`: nothing of the redemptions and revocations that are left.
    pub(super) after: Option<EventCursor>,
    /// The redemptions and revocations of tokens that were issued no earlier than this one have been listed, and so has
    /// everything else since then.
    pub(super) below: Option<TokenId>,
}

/// Reads what a list is asked for; `limit` is how many there are unless it says otherwise.
pub(crate) fn read_query(text: &str, limit: usize) -> Result<Asked, Problem> {
    let mut asked = Asked { events: EventQuery::newest(limit), below: None };
    let query = &mut asked.events;
    let mut named = HashSet::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let wrong = |detail: &str| Problem::bad_request("query", detail.to_owned());
        // The page's form sends a kind for each box.
        if name != "kind" && !named.insert(name.clone().into_owned()) {
            return Err(wrong("A parameter is there twice; only kind may be."));
        }
        let moment = || {
            value.parse::<Timestamp>().map_err(|_| {
                wrong(&format!("{name} must be a moment as in RFC 3339, such as 2026-01-31T12:00:00Z."))
            })
        };
        match &*name {
            "kind" => {
                for label in value.split(',').map(str::trim).filter(|label| !label.is_empty()) {
                    query.kinds.push(KindFilter::of_label(label).ok_or_else(|| {
                        let known: Vec<_> = KindFilter::ALL.iter().map(|kind| kind.label()).collect();
                        wrong(&format!("There is no such kind of event; the kinds are {}.", known.join(", ")))
                    })?);
                }
                // No kind is not every kind.
                if query.kinds.is_empty() {
                    return Err(wrong("kind is empty; leave it out for all kinds."));
                }
            }
            "since" => query.since = moment()?,
            "until" => query.until = moment()?,
            "id" => {
                query.name = Some(EventName::read(value.trim()).ok_or_else(|| {
                    wrong(
                        "id must be that of an event or a token, such as 019c0e3a-5d1c-7c55-9d2c-2f2d8c1f8a11, or that of \
                         a request: 16 hexadecimal digits.",
                    )
                })?);
            }
            "peer" => {
                let peer: IpAddr = value
                    .trim()
                    .parse()
                    .map_err(|_| wrong("peer must be an IP address, such as 192.0.2.7 or 2001:db8::7."))?;
                query.peer = Some(peer.to_canonical());
            }
            "text" => {
                if value.is_empty() || value.chars().count() > MAX_NOTE_CHARS {
                    return Err(wrong(&format!("text must have from 1 to {MAX_NOTE_CHARS} characters.")));
                }
                // An address is no place for it, and no event has it.
                if seems_to_have_token(&value) {
                    return Err(wrong("text has a token in it; look for the token's id instead."));
                }
                query.text = Some(value.into_owned());
            }
            "tracker" => {
                // An address is no place for it.
                if seems_to_have_token(&value) {
                    return Err(wrong("tracker has a token in it; give the base URL of the tracker."));
                }
                query.tracker = Some(match &*value {
                    UNBOUND => NameFilter::Nameless,
                    url => {
                        let tracker = Audience::parse(url).map_err(|_| {
                            wrong("tracker must be the base URL of a tracker, such as https://trac.example.org/, or unbound.")
                        })?;
                        NameFilter::Named(tracker.as_str().to_owned())
                    }
                });
            }
            "caller" => {
                query.caller = Some(match &*value {
                    DEFAULT_CALLER => NameFilter::Nameless,
                    name => {
                        let name: CallerName = name.parse().map_err(|_| {
                            wrong(
                                "caller must be the name of a caller, or default for the one without a name.",
                            )
                        })?;
                        NameFilter::Named(name.to_string())
                    }
                });
            }
            "after" => {
                let place = Place::read(&value)
                    .ok_or_else(|| wrong("after must be what an answer has as its `next`."))?;
                query.after = place.after;
                asked.below = place.below;
            }
            "limit" => {
                query.limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_EVENTS).contains(limit))
                    .ok_or_else(|| wrong(&format!("limit must be a number from 1 to {MAX_EVENTS}.")))?;
            }
            _ => {
                return Err(wrong(
                    "The parameters are kind, since, until, id, peer, text, tracker, caller, after and limit.",
                ));
            }
        }
    }
    Ok(asked)
}

/// What comes before the id of a token, where there is nothing else.
const BELOW: &str = "below-";

impl Place {
    /// As an answer has it: the moment and the id of an event, the id of a token, or both.
    pub(crate) fn text(self) -> String {
        let number = |bytes: &[u8; 16]| u128::from_be_bytes(*bytes);
        let below = self.below.map(|below| format!("{BELOW}{:032x}", number(below.as_bytes())));
        let after =
            self.after.map(|after| format!("{}-{:032x}", to_millis(after.at), number(after.id.as_bytes())));
        after.into_iter().chain(below).collect::<Vec<_>>().join("-")
    }

    fn read(text: &str) -> Option<Self> {
        let id = |digits: &str| u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes);
        let (after, below) = match text.split_once(BELOW) {
            Some((after, below)) => (after.strip_suffix('-').unwrap_or(after), Some(below)),
            None => (text, None),
        };
        let below = match below {
            Some(below) => Some(TokenId::from_bytes(id(below)?)),
            None => None,
        };
        if after.is_empty() {
            return below.map(|below| Self { after: None, below: Some(below) });
        }
        let (millis, event) = after.rsplit_once('-')?;
        let after =
            EventCursor { at: from_millis(millis.parse().ok()?), id: EventId::from_bytes(id(event)?) };
        Some(Self { after: Some(after), below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_cursor_round_trips() {
        let (id, token) = (EventId::from_bytes([7; 16]), TokenId::from_bytes([0xfe; 16]));
        let after = EventCursor { at: from_millis(-5), id };
        for place in [
            Place { after: Some(after), below: None },
            Place { after: Some(after), below: Some(token) },
            Place { after: None, below: Some(token) },
        ] {
            assert_eq!(Place::read(&place.text()), Some(place), "{}", place.text());
        }
        for text in ["", "1", "-", "below-", "x-1", "1-x", "1-1-below-x", "below-g"] {
            assert_eq!(Place::read(text), None, "{text}");
        }
    }
}
