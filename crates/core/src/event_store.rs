//! The contract of a store of events, and how it is asked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{CallerName, Event, EventId, Key, KeyId, KeyRing, KindFilter, RequestId, StoreError};

/// Keeps events.
///
/// Nothing depends on it: a handshake is answered whether or not this store can be reached. What is appended is durable
/// within seconds, not immediately.
#[async_trait]
pub trait EventStore: Send + Sync + fmt::Debug {
    /// Keeps these events. One that is kept already, by its id, is left as it is.
    async fn append(&self, events: &[Event]) -> Result<(), StoreError>;

    /// The events that a query asks for, newest first.
    async fn events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError>;

    /// Forgets the events that happened before `cutoff`; and of each kind (of refusals, of each reason) all but the
    /// newest [`kept_of`]. Returns how many that were.
    async fn purge_events(&self, cutoff: Timestamp) -> Result<u64, StoreError>;

    /// What [`remember`](Self::remember) wrote last; `None`: nothing yet.
    ///
    /// This default, and those of the next three, are for stores that end with their server: they have nothing to tell the next
    /// one.
    async fn known(&self) -> Result<Option<Known>, StoreError> {
        Ok(None)
    }

    /// Keeps what the server knows, for the next one.
    async fn remember(&self, known: &Known) -> Result<(), StoreError> {
        let _ = known;
        Ok(())
    }

    /// What [`keep_activity`](Self::keep_activity) has kept: texts by name.
    async fn activity(&self) -> Result<Vec<(String, String)>, StoreError> {
        Ok(Vec::new())
    }

    /// Keeps texts about what happened lately for the next server, each in the place of the one with the same name; `None` removes
    /// it. The caller sees to it that there are not too many. Also with none of them it fails if nothing can be written.
    async fn keep_activity(&self, changed: Arc<BTreeMap<String, Option<String>>>) -> Result<(), StoreError> {
        let _ = changed;
        Ok(())
    }

    /// Waits for what is under way and closes. Later calls fail with [`StoreError::Unavailable`].
    async fn close_events(&self);
}

/// The fence and the keys as a server saw them last. Its successor compares them, and so reports what changed while no server ran.
///
/// It is stored as text: a later version may add members, and an earlier one ignores those that it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where the fence stood.
    pub fence: Option<Timestamp>,
    /// The keys in use, oldest first.
    pub keys: Vec<KeyId>,
    /// The keys that were revoked.
    pub revoked: Vec<KeyId>,
}

impl Known {
    /// What is known of this ring, and of a fence.
    pub fn of(fence: Option<Timestamp>, ring: &KeyRing) -> Self {
        Self { fence, keys: ring.keys().iter().map(Key::id).collect(), revoked: ring.revoked().to_vec() }
    }

    /// As text, for a store.
    pub fn to_text(&self) -> String {
        // Moments and names: nothing that JSON could not say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_text`](Self::to_text) wrote; `None` if it is not that.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// How many events of a kind are kept at most. Strangers can cause the rejected ones, so that the sum is what bounds the
/// disk; and a flood of one kind never drives out the events of another.
pub fn kept_of(kind: KindFilter) -> u64 {
    match kind {
        KindFilter::Issued => MAX_KEPT_ISSUED,
        KindFilter::Consumed
        | KindFilter::Refused
        | KindFilter::Revoked
        | KindFilter::Replay
        | KindFilter::Relay
        | KindFilter::KeyRotated
        | KindFilter::KeyRevoked
        | KindFilter::FenceMoved
        | KindFilter::CredentialRejected
        | KindFilter::CallerDenied => MAX_KEPT,
    }
}

/// How many events of a kind, or refusals of a reason, are kept at most.
pub const MAX_KEPT: u64 = 50_000;

/// How many issued tokens are kept at most, where a setting asks for them.
pub const MAX_KEPT_ISSUED: u64 = 1_000_000;

/// Which events to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Of these kinds; empty for all.
    pub kinds: Vec<KindFilter>,
    /// Not older than this.
    pub since: Timestamp,
    /// Older than this.
    pub until: Timestamp,
    /// Only what goes by this name.
    pub name: Option<EventName>,
    /// Only what this address asked for.
    pub peer: Option<IpAddr>,
    /// Only what has this text, in ASCII without regard to case, in a tracker's URL, a user agent, or the name of a
    /// caller or a key.
    pub text: Option<String>,
    /// Only what was done with tokens that are bound to this tracker.
    pub tracker: Option<NameFilter>,
    /// Only what has this caller.
    pub caller: Option<NameFilter>,
    /// Only what comes after this one in the list, which begins with the newest.
    pub after: Option<EventCursor>,
    /// So many at most.
    pub limit: usize,
}

impl EventQuery {
    /// The newest so many, of all kinds.
    pub fn newest(limit: usize) -> Self {
        Self {
            kinds: Vec::new(),
            since: Timestamp::MIN,
            until: Timestamp::MAX,
            name: None,
            peer: None,
            text: None,
            tracker: None,
            caller: None,
            after: None,
            limit,
        }
    }

    /// Whether it asks for this kind.
    pub fn wants(&self, kind: KindFilter) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether it asks for this event.
    pub fn covers(&self, event: &Event) -> bool {
        let cursor = EventCursor { at: event.at, id: event.id };
        self.wants(event.kind.filter())
            && event.at >= self.since
            && event.at < self.until
            && self.name.is_none_or(|name| name.is_of(event))
            && self.peer.is_none_or(|peer| event.peer == Some(peer))
            && self.text.as_ref().is_none_or(|text| event.contains(text))
            && self.tracker.as_ref().is_none_or(|tracker| tracker.is(event.audience.as_deref(), event))
            && self
                .caller
                .as_ref()
                .is_none_or(|caller| caller.is(event.caller.as_ref().map(CallerName::as_str), event))
            && self.after.is_none_or(|after| cursor < after)
    }
}

/// Which tracker, or which caller, an event is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameFilter {
    /// This one: a tracker's base URL in normal form, or a caller's name.
    Named(String),
    /// None, with a token: one that is not bound, or that the caller without a name got.
    Nameless,
}

impl NameFilter {
    fn is(&self, name: Option<&str>, event: &Event) -> bool {
        match self {
            Self::Named(wanted) => name == Some(wanted),
            Self::Nameless => name.is_none() && event.token.is_some(),
        }
    }
}

/// The id to look for among the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventName {
    /// The event's own id, or that of its token.
    Id(EventId),
    /// The request that it happened in.
    Request(RequestId),
}

impl EventName {
    /// Reads a UUID, or the 16 hexadecimal digits of a request.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return u64::from_str_radix(text, 16).ok().map(|id| Self::Request(RequestId(id)));
        }
        let id = text.parse::<uuid::Uuid>().ok()?;
        Some(Self::Id(EventId::from_bytes(id.into_bytes())))
    }

    fn is_of(self, event: &Event) -> bool {
        match self {
            Self::Id(id) => event.id == id || event.token.map(EventId::from) == Some(id),
            Self::Request(request) => event.request == Some(request),
        }
    }
}

/// A place in the list of events. The later is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventCursor {
    /// When the event happened.
    pub at: Timestamp,
    /// Which one of that moment.
    pub id: EventId,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{EventKind, Note, OsEntropy, TokenId, after, before};

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    fn event() -> Event {
        Event {
            id: EventId::generate(noon(), &OsEntropy).unwrap(),
            at: noon(),
            kind: EventKind::Replay(None),
            token: Some(TokenId::generate(noon(), &OsEntropy).unwrap()),
            audience: Some("https://trac.example/".to_owned()),
            peer: Some("192.0.2.7".parse().unwrap()),
            user_agent: Note::clean(b"curl/8"),
            request: Some(RequestId(255)),
            caller: Some("worker-eu".parse().unwrap()),
            count: 1,
        }
    }

    #[test]
    fn query_finds_only_what_it_asks_for() {
        let (event, other) = (event(), event());
        let millisecond = Duration::from_millis(1);
        let all = || EventQuery::newest(10);
        let named = |text: &str| Some(NameFilter::Named(text.to_owned()));
        let cursor = |at, id| Some(EventCursor { at, id });
        assert!(all().covers(&event));
        for (query, found) in [
            (EventQuery { kinds: vec![KindFilter::Refused, KindFilter::Replay], ..all() }, true),
            (EventQuery { kinds: vec![KindFilter::Refused], ..all() }, false),
            (EventQuery { since: noon(), ..all() }, true),
            (EventQuery { since: after(noon(), millisecond), ..all() }, false),
            (EventQuery { until: after(noon(), millisecond), ..all() }, true),
            (EventQuery { until: noon(), ..all() }, false),
            (EventQuery { name: Some(EventName::Id(event.id)), ..all() }, true),
            (EventQuery { name: Some(EventName::Id(event.token.unwrap().into())), ..all() }, true),
            (EventQuery { name: Some(EventName::Id(other.id)), ..all() }, false),
            (EventQuery { name: Some(EventName::Request(RequestId(255))), ..all() }, true),
            (EventQuery { name: Some(EventName::Request(RequestId(254))), ..all() }, false),
            (EventQuery { peer: event.peer, ..all() }, true),
            (EventQuery { peer: Some("192.0.2.8".parse().unwrap()), ..all() }, false),
            (EventQuery { text: Some("CURL".to_owned()), ..all() }, true),
            (EventQuery { text: Some("wget".to_owned()), ..all() }, false),
            (EventQuery { tracker: named("https://trac.example/"), ..all() }, true),
            (EventQuery { tracker: named("https://trac.example"), ..all() }, false),
            (EventQuery { tracker: Some(NameFilter::Nameless), ..all() }, false),
            (EventQuery { caller: named("worker-eu"), ..all() }, true),
            (EventQuery { caller: named("worker"), ..all() }, false),
            (EventQuery { caller: Some(NameFilter::Nameless), ..all() }, false),
            (EventQuery { after: cursor(after(noon(), millisecond), event.id), ..all() }, true),
            (EventQuery { after: cursor(noon(), event.id), ..all() }, false),
            (EventQuery { after: cursor(before(noon(), millisecond), event.id), ..all() }, false),
        ] {
            assert_eq!(query.covers(&event), found, "{query:?}");
        }
    }

    #[test]
    fn nameless_events_are_those_with_a_token() {
        let nameless = Event { audience: None, caller: None, ..event() };
        let without_token = Event { token: None, ..nameless.clone() };
        for query in [
            EventQuery { tracker: Some(NameFilter::Nameless), ..EventQuery::newest(1) },
            EventQuery { caller: Some(NameFilter::Nameless), ..EventQuery::newest(1) },
        ] {
            assert!(query.covers(&nameless), "{query:?}");
            assert!(!query.covers(&without_token), "{query:?}");
        }
    }

    #[test]
    fn more_issued_tokens_are_kept_than_other_events() {
        for kind in KindFilter::ALL {
            let most = if *kind == KindFilter::Issued { MAX_KEPT_ISSUED } else { MAX_KEPT };
            assert_eq!(kept_of(*kind), most);
        }
    }

    #[test]
    fn known_state_round_trips_as_text() {
        let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
        let first = ring.keys()[0].id();
        ring.change(crate::KeyChange::Revoke { key: first, rotate: true }, noon(), &OsEntropy).unwrap();
        let known = Known::of(Some(noon()), &ring);
        assert_eq!((&*known.keys, &*known.revoked), (&[ring.keys()[0].id()][..], &[first][..]));
        assert_eq!(Known::from_text(&known.to_text()), Some(known));
        assert_eq!(Known::from_text("no JSON"), None);
    }

    #[test]
    fn event_names_are_ids_or_requests() {
        let id = TokenId::generate(Timestamp::UNIX_EPOCH, &crate::SequenceEntropy::default()).unwrap();
        assert_eq!(EventName::read(&id.to_string()), Some(EventName::Id(id.into())));
        assert_eq!(EventName::read("00000000000000ff"), Some(EventName::Request(RequestId(255))));
        for text in ["", "ff", "+00000000000000f", "cs1abcdef", "00000000000000fg"] {
            assert_eq!(EventName::read(text), None, "{text}");
        }
    }

    /// A store that ends with its server.
    #[derive(Debug)]
    struct Least;

    #[async_trait]
    impl EventStore for Least {
        async fn append(&self, _: &[Event]) -> Result<(), StoreError> {
            Err(StoreError::Busy)
        }

        async fn events(&self, _: &EventQuery) -> Result<Vec<Event>, StoreError> {
            Err(StoreError::Busy)
        }

        async fn purge_events(&self, _: Timestamp) -> Result<u64, StoreError> {
            Err(StoreError::Busy)
        }

        async fn close_events(&self) {}
    }

    #[tokio::test]
    async fn store_that_ends_with_its_server_remembers_nothing() {
        assert_eq!(Least.remember(&Known::default()).await, Ok(()));
        assert_eq!(Least.known().await, Ok(None));
        let text = ("a".to_owned(), Some("b".to_owned()));
        assert_eq!(Least.keep_activity(Arc::new([text].into())).await, Ok(()));
        assert_eq!(Least.activity().await, Ok(Vec::new()));
    }
}
