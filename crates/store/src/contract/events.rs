//! What every store of events has to do: the sentences of [`EventStore`]'s documentation as tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Denial, Entropy, Event, EventCursor, EventId, EventKind, EventName, EventQuery, EventStore, FirstUse,
    KindFilter, Known, MAX_KEPT, NameFilter, Note, Reason, RequestId, SequenceEntropy, StoreError, TokenId,
    after,
};
use jiff::Timestamp;

use super::fixture::beginning;

/// A place for one store of events.
#[async_trait]
pub trait EventSubject: Send + Sync {
    /// Opens the store that is in this place. The one before has been closed or dropped.
    async fn open(&self) -> Arc<dyn EventStore>;

    /// Whether the events are still there when the store is opened again.
    fn is_durable(&self) -> bool;
}

/// Makes a test of each case of the contract, for the [`EventSubject`] that the expression gives anew each time.
#[macro_export]
macro_rules! event_contract_tests {
    ($subject:expr) => {
        $crate::event_contract_tests! { @each $subject;
            events_round_trip,
            event_is_stored_once,
            events_are_listed_a_page_at_a_time,
            events_are_listed_by_query,
            event_is_found_by_each_filter,
            old_events_are_purged,
            many_events_of_one_kind_keep_the_others,
            known_state_is_kept_beside_the_events,
            activity_is_stored_by_name,
            closed_event_store_is_unavailable,
        }
    };
    (@each $subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::events::$case(&$subject).await;
            }
        )*
    };
}

pub use crate::event_contract_tests;

fn everything() -> EventQuery {
    EventQuery::newest(1000)
}

/// A plain event at a moment.
fn event(at: Timestamp, kind: EventKind, entropy: &dyn Entropy) -> Event {
    let id = EventId::generate(at, entropy).expect("a counter never runs dry");
    Event::new(id, at, kind)
}

fn unknown() -> EventKind {
    EventKind::Refused(Reason::Unknown)
}

/// One of each kind, oldest first, a second apart.
fn one_of_each() -> Vec<Event> {
    let entropy = SequenceEntropy::default();
    let mut at = beginning();
    let mut kinds = vec![
        EventKind::Issued,
        EventKind::Replay(Some(FirstUse { at: beginning(), by: Some([198, 51, 100, 7].into()) })),
        EventKind::Replay(Some(FirstUse { at: beginning(), by: None })),
        EventKind::Replay(None),
        EventKind::Relay { stated: Note::clean(b"https://other.example/") },
        EventKind::Relay { stated: None },
        EventKind::KeyRotated { key: "00c0ffee".parse().expect("a key's name") },
        EventKind::KeyRevoked { key: "deadbeef".parse().expect("a key's name") },
        EventKind::FenceMoved { fence: beginning() },
        EventKind::CredentialRejected,
    ];
    kinds.extend(Denial::ALL.iter().map(|&denial| EventKind::CallerDenied(denial)));
    kinds.extend(Reason::ALL.iter().map(|&reason| EventKind::Refused(reason)));
    let mut next = || {
        at = after(at, Duration::from_secs(1));
        at
    };
    let mut events: Vec<Event> = kinds.into_iter().map(|kind| event(next(), kind, &entropy)).collect();
    let mut full = event(next(), unknown(), &entropy);
    full.token = Some(TokenId::generate(beginning(), &entropy).expect("a counter never runs dry"));
    full.audience = Some("https://trac.example.org/".to_owned());
    full.peer = Some("2001:db8::7".parse().expect("an address"));
    full.user_agent = Note::clean(b"curl/8.5 '; DROP TABLE events; --");
    full.request = Some(RequestId(u64::MAX));
    full.caller = "worker-eu".parse().ok();
    full.count = 12_345;
    events.push(full);
    events
}

/// Every kind, and every member with and without a value.
pub async fn events_round_trip(subject: &dyn EventSubject) {
    let mut events = one_of_each();
    let store = subject.open().await;
    assert_eq!(store.events(&everything()).await, Ok(Vec::new()), "a new store is empty");
    store.append(&events).await.expect("the store answers");
    events.reverse();
    assert_eq!(store.events(&everything()).await, Ok(events.clone()));
    store.close_events().await;
    drop(store);
    if subject.is_durable() {
        assert_eq!(subject.open().await.events(&everything()).await, Ok(events));
    }
}

/// A batch whose answer was lost may be appended again.
pub async fn event_is_stored_once(subject: &dyn EventSubject) {
    let events = one_of_each();
    let store = subject.open().await;
    store.append(&[]).await.expect("nothing is no trouble");
    store.append(&events).await.expect("the store answers");
    store.append(&events).await.expect("the store answers");
    assert_eq!(store.events(&everything()).await.map(|found| found.len()), Ok(events.len()));
}

/// Nothing twice and nothing left out, also where many share a millisecond, and where the page ended at the end of a
/// token's life, whose id says another moment than that of the end.
pub async fn events_are_listed_a_page_at_a_time(subject: &dyn EventSubject) {
    let entropy = SequenceEntropy::default();
    let second = after(beginning(), Duration::from_millis(1));
    let mut events: Vec<Event> = [beginning(), beginning(), beginning(), second, second]
        .map(|at| event(at, unknown(), &entropy))
        .into();
    let store = subject.open().await;
    store.append(&events).await.expect("the store answers");
    events.sort_by_key(|event| std::cmp::Reverse(event.id));
    for limit in 1..=5 {
        let mut query = EventQuery { limit, ..everything() };
        let mut pages = Vec::new();
        loop {
            let page = store.events(&query).await.expect("the store answers");
            let Some(last) = page.last() else { break };
            query.after = Some(EventCursor { at: last.at, id: last.id });
            pages.extend(page);
        }
        assert_eq!(pages, events, "{limit} at a time");
    }
    let (first, last) = (EventId::from_bytes([0; 16]), EventId::from_bytes([0xff; 16]));
    for (at, id, left) in
        [(second, last, 5), (second, first, 3), (beginning(), last, 3), (beginning(), first, 0)]
    {
        let query = EventQuery { after: Some(EventCursor { at, id }), ..everything() };
        assert_eq!(store.events(&query).await.map(|found| found.len()), Ok(left), "after {at} {id}");
    }
}

/// By kinds, by age, and how many.
pub async fn events_are_listed_by_query(subject: &dyn EventSubject) {
    let events = one_of_each();
    let store = subject.open().await;
    store.append(&events).await.expect("the store answers");
    for kind in KindFilter::ALL {
        let found =
            store.events(&EventQuery { kinds: vec![*kind], ..everything() }).await.expect("an answer");
        let expected = events.iter().filter(|event| event.kind.filter() == *kind).count();
        assert_eq!(found.len(), expected, "{kind:?}");
        assert!(found.iter().all(|event| event.kind.filter() == *kind), "{found:?}");
    }
    let kinds = vec![KindFilter::Relay, KindFilter::FenceMoved];
    let found = store.events(&EventQuery { kinds, ..everything() }).await.map(|found| found.len());
    assert_eq!(found, Ok(3));
    let since = events.iter().rev().nth(4).expect("there are more").at;
    let found = store.events(&EventQuery { since, ..everything() }).await.map(|found| found.len());
    assert_eq!(found, Ok(5));
    let until = events.iter().rev().nth(4).expect("there are more").at;
    let found = store.events(&EventQuery { until, ..everything() }).await.map(|found| found.len());
    assert_eq!(found, Ok(events.len() - 5));
    let found = store.events(&EventQuery { limit: 2, ..everything() }).await.expect("an answer");
    assert_eq!(found.iter().collect::<Vec<_>>(), events.iter().rev().take(2).collect::<Vec<_>>());
}

/// By any of its names, by address and by what is in its texts; a rare one among many.
pub async fn event_is_found_by_each_filter(subject: &dyn EventSubject) {
    let mut events = one_of_each();
    let full = events.last().expect("there are some").clone();
    let stated = events[4].clone();
    let key = events[6].clone();
    let entropy = SequenceEntropy::default();
    let at = after(beginning(), Duration::from_hours(1));
    // They need ids of their own.
    events.extend((0..5_000).map(|nth| event(after(at, Duration::from_millis(nth)), unknown(), &entropy)));
    let mut unbound = event(after(at, Duration::from_hours(1)), unknown(), &entropy);
    unbound.token = Some(TokenId::generate(at, &entropy).expect("a counter never runs dry"));
    events.push(unbound.clone());
    let store = subject.open().await;
    store.append(&events).await.expect("the store answers");
    let named = |name: &str| EventQuery { name: EventName::read(name), ..everything() };
    let having = |text: &str| EventQuery { text: Some(text.to_owned()), ..everything() };
    let token = full.token.expect("it has one").to_string();
    let of = |name: &str| Some(NameFilter::Named(name.to_owned()));
    let audience = full.audience.clone().expect("it has one");
    for (query, found) in [
        (EventQuery { tracker: of(&audience), ..everything() }, Some(&full)),
        (EventQuery { tracker: of(&audience[..audience.len() - 1]), ..everything() }, None),
        (EventQuery { caller: of("worker-eu"), ..everything() }, Some(&full)),
        (EventQuery { caller: of("worker"), ..everything() }, None),
        (EventQuery { tracker: of(&audience), caller: of("worker-us"), ..everything() }, None),
        (named(&full.id.to_string()), Some(&full)),
        (named(&token), Some(&full)),
        (named("ffffffffffffffff"), Some(&full)),
        (named("00000000000000ff"), None),
        (EventQuery { peer: full.peer, ..everything() }, Some(&full)),
        (EventQuery { peer: Some([198, 51, 100, 7].into()), ..everything() }, None),
        (having("CURL/8.5 '; drop"), Some(&full)),
        (having("Trac.Example.ORG"), Some(&full)),
        (having("Worker-EU"), Some(&full)),
        (having("other.example"), Some(&stated)),
        (having("c0ffee"), Some(&key)),
        (having("%"), None),
        (having("org/\ncurl"), None),
        (EventQuery { kinds: vec![KindFilter::Relay], ..having("curl") }, None),
        (EventQuery { until: full.at, ..having("curl") }, None),
    ] {
        let listed = store.events(&query).await.expect("the store answers");
        assert_eq!(listed.iter().collect::<Vec<_>>(), found.into_iter().collect::<Vec<_>>(), "{query:?}");
    }
    // One about a token without a tracker and without a caller; most events are about no token.
    for query in [
        EventQuery { tracker: Some(NameFilter::Nameless), ..everything() },
        EventQuery { caller: Some(NameFilter::Nameless), ..everything() },
    ] {
        assert_eq!(store.events(&query).await, Ok(vec![unbound.clone()]), "{query:?}");
    }
}

/// What happened before the cutoff goes, and nothing else.
pub async fn old_events_are_purged(subject: &dyn EventSubject) {
    let events = one_of_each();
    let store = subject.open().await;
    assert_eq!(store.purge_events(Timestamp::MAX).await, Ok(0), "there is nothing yet");
    store.append(&events).await.expect("the store answers");
    assert_eq!(store.purge_events(beginning()).await, Ok(0));
    let cutoff = events[4].at;
    assert_eq!(store.purge_events(cutoff).await, Ok(4));
    let found = store.events(&everything()).await.expect("an answer");
    assert_eq!(found.len(), events.len() - 4);
    assert!(found.iter().all(|event| event.at >= cutoff), "{found:?}");
}

/// Of the kind there were too many of, the newest stay; the others all stay.
pub async fn many_events_of_one_kind_keep_the_others(subject: &dyn EventSubject) {
    let entropy = SequenceEntropy::default();
    let store = subject.open().await;
    let mut rare = vec![event(beginning(), EventKind::Replay(None), &entropy)];
    rare.push(event(beginning(), EventKind::Refused(Reason::Expired), &entropy));
    store.append(&rare).await.expect("the store answers");
    let many = usize::try_from(MAX_KEPT).expect("a moderate number") + 7;
    let flood: Vec<Event> = (0..many)
        .map(|nth| {
            let at =
                after(beginning(), Duration::from_millis(u64::try_from(nth).expect("a moderate number")));
            event(at, unknown(), &entropy)
        })
        .collect();
    for batch in flood.chunks(10_000) {
        store.append(batch).await.expect("the store answers");
    }
    assert_eq!(store.purge_events(Timestamp::MIN).await, Ok(7));
    let all = EventQuery { limit: 2 * many, ..everything() };
    let found = store.events(&all).await.expect("an answer");
    assert_eq!(found.len(), many - 7 + rare.len());
    for kept in rare.iter().chain(flood.get(7)) {
        assert!(found.contains(kept), "{kept:?}");
    }
    assert!(!found.contains(&flood[6]));
}

/// What is known last stays, even when the events are purged.
pub async fn known_state_is_kept_beside_the_events(subject: &dyn EventSubject) {
    let store = subject.open().await;
    assert_eq!(store.known().await, Ok(None));
    let key = "0123abcd".parse().expect("the name of a key");
    let first = Known { fence: Some(beginning()), keys: vec![key], revoked: Vec::new() };
    let second = Known { fence: None, keys: Vec::new(), revoked: vec![key] };
    for known in [&first, &second] {
        store.remember(known).await.expect("the store answers");
        assert_eq!(store.known().await.as_ref(), Ok(&Some(known.clone())));
    }
    store.append(&one_of_each()).await.expect("the store answers");
    store.purge_events(Timestamp::MAX).await.expect("the store answers");
    assert_eq!(store.known().await.as_ref(), Ok(&Some(second.clone())));
    store.close_events().await;
    if subject.is_durable() {
        assert_eq!(subject.open().await.known().await, Ok(Some(second)));
    }
}

/// The newest text of each name is kept, and no purge of events touches it.
pub async fn activity_is_stored_by_name(subject: &dyn EventSubject) {
    let store = subject.open().await;
    assert_eq!(store.activity().await, Ok(Vec::new()));
    let texts = |texts: &[(&str, Option<&str>)]| {
        let owned = texts.iter().map(|(name, text)| ((*name).to_owned(), text.map(str::to_owned)));
        Arc::new(owned.collect::<BTreeMap<_, _>>())
    };
    for changed in [
        texts(&[("a", Some("1")), ("b", Some("1")), ("none", None)]),
        texts(&[("a", None), ("b", Some("2")), ("c", Some("3"))]),
        texts(&[]),
    ] {
        store.keep_activity(changed).await.expect("the store answers");
    }
    store.append(&one_of_each()).await.expect("the store answers");
    store.purge_events(Timestamp::MAX).await.expect("the store answers");
    let kept = [("b", "2"), ("c", "3")].map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
    assert_eq!(store.activity().await.as_ref(), Ok(&kept));
    store.close_events().await;
    if subject.is_durable() {
        assert_eq!(subject.open().await.activity().await, Ok(kept));
    }
}

/// Nothing is kept, found or purged any more.
pub async fn closed_event_store_is_unavailable(subject: &dyn EventSubject) {
    let events = one_of_each();
    let store = subject.open().await;
    store.append(&events).await.expect("the store answers");
    store.close_events().await;
    store.close_events().await;
    assert!(matches!(store.append(&events).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.events(&everything()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.purge_events(Timestamp::MAX).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.known().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.remember(&Known::default()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.activity().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.keep_activity(Arc::default()).await, Err(StoreError::Unavailable(_))));
}
