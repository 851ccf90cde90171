//! Events, as a list and as they happen.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use countersign_core::{
    Ended, Ending, EndingQuery, Event, EventCursor, EventId, EventKind, EventQuery, KindFilter, from_millis,
    to_millis,
};
use futures_util::Stream;
use futures_util::stream::unfold;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

use crate::App;
use crate::events::News;
use crate::private::tokens::store_problem;
use crate::problem::Problem;

/// How many events an answer has unless the request says otherwise.
pub(crate) const DEFAULT_EVENTS: usize = 100;

/// How many events an answer has at most.
pub const MAX_EVENTS: usize = 1000;

/// How long an answer gets at most, in bytes; what does not fit is on the next page. One event always fits.
pub const MAX_PAGE_BYTES: usize = 512 * 1024;

/// How often a stream without events says that it still lives.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventsDocument {
    /// Newest first.
    events: Vec<EventDocument>,
    /// What to give as `after` to go on with older ones; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventDocument {
    /// Its name. A redemption and a revocation go by the id of their token.
    id: String,
    /// When (RFC 3339).
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `issued`, `consumed`, `refused`, `revoked`, `replay`, `relay`, `key-rotated`, `key-revoked` or
    /// `fence-moved`, or `credential-rejected`.
    kind: &'static str,
    /// Why, if it was refused: `method`, `unknown`, `audience-missing`, `audience-unreadable`, `expired`,
    /// `from-the-future`, `fenced` or `revoked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The id of the token. Not a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The tracker that the token is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    /// The address of who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    peer: Option<IpAddr>,
    /// What the asking program says it is, cleaned and shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    /// The request, as its answer's `X-Request-Id` named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// More than 1: it stands for so many events of its kind, too many in a minute to be kept one by one.
    count: u64,
    /// At a replay: the use that was repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<FirstUseDocument>,
    /// At a relay attempt: the tracker that was stated instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    stated: Option<String>,
    /// The newest key, or the one that was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Where the fence was moved to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    fence: Option<Timestamp>,
}

/// The use that a replay repeats.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FirstUseDocument {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    peer: Option<IpAddr>,
}

impl From<&Event> for EventDocument {
    fn from(event: &Event) -> Self {
        let (mut first, mut stated, mut key, mut fence) = (None, None, None, None);
        match &event.kind {
            EventKind::Replay(use_before) => {
                first = use_before.map(|first| FirstUseDocument { at: first.at, peer: first.by });
            }
            EventKind::Relay { stated: tracker } => {
                stated = tracker.as_ref().map(|note| note.as_str().to_owned());
            }
            EventKind::KeyRotated { key: id } | EventKind::KeyRevoked { key: id } => {
                key = Some(id.to_string());
            }
            EventKind::FenceMoved { fence: line } => fence = Some(*line),
            EventKind::Issued
            | EventKind::Consumed
            | EventKind::Refused(_)
            | EventKind::Revoked
            | EventKind::CredentialRejected => {}
        }
        Self {
            id: event.id.to_string(),
            at: event.at,
            kind: event.kind.label(),
            reason: event.kind.reason().map(countersign_core::Reason::label),
            token: event.token.map(|id| id.to_string()),
            audience: event.audience.clone(),
            peer: event.peer,
            user_agent: event.user_agent.as_ref().map(|note| note.as_str().to_owned()),
            request: event.request.map(|id| id.to_string()),
            count: event.count,
            first,
            stated,
            key,
            fence,
        }
    }
}

/// Lists what happened, newest first. What a token's record has is told of a redemption or a revocation: when, and by
/// which address. A page has fewer than asked for where more would be longer than 512 KiB; `next` goes on.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("kind" = Option<String>, Query, description = "only these kinds, separated by commas"),
        ("since" = Option<String>, Query, format = DateTime, description = "not older than this moment (RFC 3339)"),
        ("after" = Option<String>, Query, description = "go on after the page whose `next` this is"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "how many at most, 100 when left out")
    ),
    responses((status = 200, body = EventsDocument), (status = 400, body = Problem), (status = 503, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<EventsDocument>, Problem> {
    let query = read_query(query.as_deref().unwrap_or_default(), DEFAULT_EVENTS)?;
    let events = find(&app, &query).await?;
    Ok(Json(page(&events, query.limit)))
}

/// As many of the events as fit. Strangers have a say in how long one is.
fn page(events: &[Event], limit: usize) -> EventsDocument {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    let mut last = None;
    for event in events {
        let document = EventDocument::from(event);
        // What is written is never refused.
        bytes += serde_json::to_vec(&document).map_or(0, |written| written.len() + 1);
        if bytes > MAX_PAGE_BYTES && last.is_some() {
            return EventsDocument { events: documents, next: last.map(cursor_text) };
        }
        documents.push(document);
        last = Some(event);
    }
    let is_full = events.len() >= limit;
    EventsDocument { events: documents, next: last.filter(|_| is_full).map(cursor_text) }
}

/// What was written as events, and what is on record of how tokens' lives ended.
pub(crate) async fn find(app: &App, query: &EventQuery) -> Result<Vec<Event>, Problem> {
    let (consumed, revoked) = (query.wants(KindFilter::Consumed), query.wants(KindFilter::Revoked));
    let mut found = Vec::new();
    if query.kinds.is_empty() || query.kinds.iter().any(|kind| !kind.is_an_ending()) {
        found = app.events.store().events(query).await.map_err(|error| store_problem(&error))?;
    }
    if consumed || revoked {
        let &EventQuery { since, after, limit, .. } = query;
        let endings = EndingQuery { consumed, revoked, since, after, limit };
        let endings = app.tokens.store().endings(&endings).await.map_err(|error| store_problem(&error))?;
        found.extend(endings.into_iter().map(on_record));
    }
    found.sort_by_key(|event| Reverse(EventCursor { at: event.at, id: event.id }));
    found.truncate(query.limit);
    Ok(found)
}

/// The end of a token's life as an event.
fn on_record(ended: Ended) -> Event {
    let (kind, at, peer) = match ended.ending {
        Ending::Consumed(consumption) => (EventKind::Consumed, consumption.at, consumption.by),
        Ending::Revoked { at } => (EventKind::Revoked, at, None),
    };
    Event {
        id: ended.id.into(),
        at,
        kind,
        token: Some(ended.id),
        audience: None,
        peer,
        user_agent: None,
        request: None,
        count: 1,
    }
}

/// Tells what happens as it happens, as server-sent events (WHATWG HTML, section 9.2): the kind as the event's name, and
/// in `data` the same document as in the list. `missed` says how many were missed by a reader that is too slow. Of
/// refusals that come too fast, only so many a minute are told one by one.
#[utoipa::path(
    get, path = "/v1/events/stream", tag = "events",
    params(("kind" = Option<String>, Query, description = "only these kinds, separated by commas")),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventDocument),
        (status = 400, body = Problem), (status = 503, body = Problem)
    )
)]
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, Problem> {
    let query = read_query(query.as_deref().unwrap_or_default(), DEFAULT_EVENTS)?;
    let news = app.events.follow().ok_or_else(|| {
        let detail = "Too many follow the events already; try again when one of them has stopped.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-followers", detail)
    })?;
    Ok(unbuffered(told(news, query)))
}

/// An answer without an end, which shows from time to time that it lives. nginx would keep it until it has some kilobytes.
pub(crate) fn unbuffered<S>(told: S) -> impl IntoResponse
where
    S: Stream<Item = Result<sse::Event, Infallible>> + Send + 'static,
{
    let stream = Sse::new(told).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE));
    ([(HeaderName::from_static("x-accel-buffering"), "no")], stream)
}

/// What a follower is sent. Begins with a comment, so that it knows that it hears everything from here on.
fn told(news: Receiver<News>, query: EventQuery) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    unfold((news, query, true), |(mut news, query, begins)| async move {
        if begins {
            return Some((Ok(sse::Event::default().comment("following")), (news, query, false)));
        }
        loop {
            let told = match news.recv().await {
                Ok(News::Event(event)) if query.wants(event.kind.filter()) => sse::Event::default()
                    .id(event.id.to_string())
                    .event(event.kind.label())
                    .json_data(EventDocument::from(&*event))
                    .unwrap_or_default(),
                Ok(News::Event(_)) => continue,
                Err(RecvError::Lagged(missed)) => {
                    sse::Event::default().event("missed").data(missed.to_string())
                }
                Ok(News::End) | Err(RecvError::Closed) => return None,
            };
            return Some((Ok(told), (news, query, false)));
        }
    })
}

/// Reads what a list is asked for; `limit` is how many there are unless it says otherwise.
pub(crate) fn read_query(text: &str, limit: usize) -> Result<EventQuery, Problem> {
    let mut query = EventQuery { kinds: Vec::new(), since: Timestamp::MIN, after: None, limit };
    let mut named = HashSet::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let wrong = |detail: String| Problem::bad_request("query", detail);
        // The page's form sends a kind for each box.
        if name != "kind" && !named.insert(name.clone().into_owned()) {
            return Err(wrong("A parameter is there twice; only kind may be.".to_owned()));
        }
        match &*name {
            "kind" => {
                for label in value.split(',').map(str::trim).filter(|label| !label.is_empty()) {
                    query.kinds.push(KindFilter::of_label(label).ok_or_else(|| {
                        let known: Vec<_> = KindFilter::ALL.iter().map(|kind| kind.label()).collect();
                        wrong(format!("There is no such kind of event; the kinds are {}.", known.join(", ")))
                    })?);
                }
                // No kind is not every kind.
                if query.kinds.is_empty() {
                    return Err(wrong("kind is empty; leave it out for all kinds.".to_owned()));
                }
            }
            "since" => {
                query.since = value.parse().map_err(|_| {
                    wrong("since must be a moment as in RFC 3339, such as 2026-01-31T12:00:00Z.".to_owned())
                })?;
            }
            "after" => {
                let cursor = read_cursor(&value)
                    .ok_or_else(|| wrong("after must be what an answer has as its `next`.".to_owned()))?;
                query.after = Some(cursor);
            }
            "limit" => {
                query.limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MAX_EVENTS).contains(limit))
                    .ok_or_else(|| wrong(format!("limit must be a number from 1 to {MAX_EVENTS}.")))?;
            }
            _ => {
                return Err(wrong("The parameters are kind, since, after and limit.".to_owned()));
            }
        }
    }
    Ok(query)
}

/// Where a list ends, for the one that goes on.
pub(crate) fn cursor_text(event: &Event) -> String {
    format!("{}-{:032x}", to_millis(event.at), u128::from_be_bytes(*event.id.as_bytes()))
}

fn read_cursor(text: &str) -> Option<EventCursor> {
    let (millis, id) = text.rsplit_once('-')?;
    let (millis, id) = (millis.parse().ok()?, u128::from_str_radix(id, 16).ok()?);
    Some(EventCursor { at: from_millis(millis), id: EventId::from_bytes(id.to_be_bytes()) })
}
