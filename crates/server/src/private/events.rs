//! Events: as a list, and as a stream.

mod query;

use std::cmp::Reverse;
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
    EndedToken, Ending, EndingQuery, Event, EventCursor, EventKind, EventName, EventQuery, KindFilter,
    TokenId,
};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;

use crate::App;
use crate::caller::Caller;
use crate::callers::Grant;
use crate::events::FollowerMessage;
use crate::private::tokens::store_problem;
use crate::problem::Problem;

pub(crate) use self::query::{Asked, Place, read_query};

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
    /// Why, if it was rejected: `method`, `unknown`, `audience-missing`, `audience-unreadable`, `expired`,
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
    /// The named caller of the private API: at a handshake the one for which the token was issued, anywhere else the one that
    /// asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
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
            | EventKind::CredentialRejected
            | EventKind::CallerDenied(_) => {}
        }
        Self {
            id: event.id.to_string(),
            at: event.at,
            kind: event.kind.label(),
            reason: event.kind.reason(),
            token: event.token.map(|id| id.to_string()),
            audience: event.audience.clone(),
            peer: event.peer,
            user_agent: event.user_agent.as_ref().map(|note| note.as_str().to_owned()),
            request: event.request.map(|id| id.to_string()),
            caller: event.caller.as_ref().map(ToString::to_string),
            count: event.count,
            first,
            stated,
            key,
            fence,
        }
    }
}

/// A part of a list, and where the next part begins.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) events: Vec<Event>,
    pub(crate) next: Option<Place>,
}

/// Lists what happened, newest first. A redemption or revocation comes from the token's record, with its time and address. A
/// page has fewer than asked for, perhaps none, where more would be longer than 512 KiB, or where 200,000 tokens were looked
/// at; `next` goes on. A token that was redeemed after 200,000 that were issued later may be out of order or missing then; it
/// is found by its `id`.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        ("kind" = Option<String>, Query, description = "only these kinds, separated by commas"),
        ("since" = Option<String>, Query, format = DateTime, description = "not older than this moment (RFC 3339)"),
        ("until" = Option<String>, Query, format = DateTime, description = "older than this moment (RFC 3339)"),
        ("id" = Option<String>, Query, description = "only what has this id: that of the event, of its token or of its request"),
        ("peer" = Option<String>, Query, description = "only what this address asked for"),
        ("text" = Option<String>, Query, min_length = 1, max_length = 256, description = "only what has this text in a tracker's URL, a user agent, or the name of a caller or a key, without regard to case"),
        ("tracker" = Option<String>, Query, description = "only what was done with tokens that are bound to this tracker, or to none (`unbound`); redemptions and revocations in a list have none"),
        ("caller" = Option<String>, Query, description = "only what has this caller, or is about a token without one (`default`); redemptions and revocations in a list have none"),
        ("after" = Option<String>, Query, description = "go on after the page whose `next` this is"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "how many at most, 100 when left out")
    ),
    responses((status = 200, body = EventsDocument), (status = 400, body = Problem))
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Json<EventsDocument>, Problem> {
    let asked = read_query(query.as_deref().unwrap_or_default(), DEFAULT_EVENTS)?;
    let found = find(&app, &asked).await?;
    Ok(Json(page(&found, asked.below)))
}

/// As many of the events as fit. Strangers have a say in how long one is.
fn page(found: &Found, below: Option<TokenId>) -> EventsDocument {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    let mut last = None;
    for event in &found.events {
        let document = EventDocument::from(event);
        // What is written is never rejected.
        bytes += serde_json::to_vec(&document).map_or(0, |written| written.len() + 1);
        if bytes > MAX_PAGE_BYTES && last.is_some() {
            return EventsDocument { events: documents, next: Some(Place { after: last, below }.text()) };
        }
        documents.push(document);
        last = Some(cursor(event));
    }
    EventsDocument { events: documents, next: found.next.map(Place::text) }
}

fn cursor(event: &Event) -> EventCursor {
    EventCursor { at: event.at, id: event.id }
}

/// What was written as events, and what is on record of how tokens' lives ended.
pub(crate) async fn find(app: &App, asked: &Asked) -> Result<Found, Problem> {
    let query = &asked.events;
    // What was written since this token was issued belongs to the same part of the list.
    let line = |below: TokenId| EventCursor { at: below.created(), id: below.into() };
    let (mut events, mut below) = (Vec::new(), None);
    if let Some(wanted) = endings_of(asked) {
        let endings = app.tokens.store().endings(&wanted).await.map_err(|error| store_problem(&error))?;
        events.extend(endings.found.into_iter().map(on_record));
        below = endings.below;
    }
    if query.kinds.is_empty() || query.kinds.iter().any(|kind| !kind.is_an_ending()) {
        let mut wanted = query.clone();
        wanted.after = wanted.after.into_iter().chain(asked.below.map(line)).min();
        app.events.catch_up().await;
        let written = app.events.store().events(&wanted).await.map_err(|error| store_problem(&error))?;
        events.extend(written);
    }
    let is_full = events.len() >= query.limit;
    if let Some(below) = below.filter(|_| !is_full) {
        events.retain(|event| event.kind.filter().is_an_ending() || cursor(event) >= line(below));
    }
    events.sort_by_key(|event| Reverse(cursor(event)));
    events.truncate(query.limit);
    let next = if is_full {
        events.last().map(|last| Place { after: Some(cursor(last)), below: asked.below })
    } else {
        below.map(|below| Place { after: None, below: Some(below) })
    };
    Ok(Found { events, next })
}

/// Which of the ends of tokens' lives are asked for, if any. Their records have no texts, no tracker, no caller and no request.
fn endings_of(Asked { events: query, below }: &Asked) -> Option<EndingQuery> {
    let (consumed, revoked) = (query.wants(KindFilter::Consumed), query.wants(KindFilter::Revoked));
    let id = match query.name {
        Some(EventName::Request(_)) => return None,
        Some(EventName::Id(id)) => Some(TokenId::from_bytes(*id.as_bytes())),
        None => None,
    };
    if query.text.is_some() || query.tracker.is_some() || query.caller.is_some() || !(consumed || revoked) {
        return None;
    }
    let &EventQuery { since, until, peer, after, limit, .. } = query;
    Some(EndingQuery {
        consumed,
        revoked,
        since,
        until,
        id,
        by: peer,
        after,
        below: *below,
        ..EndingQuery::newest(limit)
    })
}

/// The end of a token's life as an event.
fn on_record(ended: EndedToken) -> Event {
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
        caller: None,
        count: 1,
    }
}

/// Tells what happens as it happens, as server-sent events (WHATWG HTML, section 9.2): the kind as the event's name,
/// and in `data` the same document as in the list. `missed` says how many were missed by a reader that is too slow. Of
/// frequent refusals, only a limited number per minute are sent one by one.
#[utoipa::path(
    get, path = "/v1/events/stream", tag = "events",
    params(
        ("kind" = Option<String>, Query, description = "only these kinds, separated by commas"),
        ("id" = Option<String>, Query, description = "only what has this id: that of the event, of its token or of its request"),
        ("peer" = Option<String>, Query, description = "only what this address asked for"),
        ("text" = Option<String>, Query, min_length = 1, max_length = 256, description = "only what has this text in a tracker's URL, a user agent, or the name of a caller or a key, without regard to case"),
        ("tracker" = Option<String>, Query, description = "only what was done with tokens that are bound to this tracker, or to none (`unbound`); redemptions and revocations in a list have none"),
        ("caller" = Option<String>, Query, description = "only what has this caller, or is about a token without one (`default`); redemptions and revocations in a list have none")
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventDocument),
        (status = 400, body = Problem)
    )
)]
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, Problem> {
    let query = read_query(query.as_deref().unwrap_or_default(), DEFAULT_EVENTS)?;
    let messages = app.events.follow().ok_or_else(|| {
        let detail = "Too many follow the events already; try again when one of them has stopped.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-followers", detail)
    })?;
    // What happens from here on is asked for, whenever that is.
    let query = EventQuery { since: Timestamp::MIN, until: Timestamp::MAX, after: None, ..query.events };
    Ok(unbuffered(told(app, caller.grant, messages, query)))
}

/// An answer without an end, which shows from time to time that it lives. nginx would keep it until it has some kilobytes.
pub(crate) fn unbuffered<S>(told: S) -> impl IntoResponse
where
    S: Stream<Item = Result<sse::Event, Infallible>> + Send + 'static,
{
    let stream = Sse::new(told).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE));
    ([(HeaderName::from_static("x-accel-buffering"), "no")], stream)
}

/// What a follower is sent. Begins with a comment, so that it knows that it hears everything from here on. Ends when
/// the callers file says something else of the caller, or its JWT has expired: then it has to show again what it may
/// do. That is looked at before each event, and as often as the stream shows that it lives.
fn told(
    app: Arc<App>,
    grant: Grant,
    messages: Receiver<FollowerMessage>,
    query: EventQuery,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let (looks, sees) = ((Arc::clone(&app), grant.clone()), grant);
    let ends = async move {
        let (app, grant) = looks;
        while app.is_in_force(&grant) {
            tokio::time::sleep(SIGN_OF_LIFE).await;
        }
    };
    let told = every(messages, query).take_while(move |_| std::future::ready(app.is_in_force(&sees)));
    told.take_until(ends)
}

fn every(
    messages: Receiver<FollowerMessage>,
    query: EventQuery,
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    unfold((messages, query, true), |(mut messages, query, begins)| async move {
        if begins {
            return Some((Ok(sse::Event::default().comment("following")), (messages, query, false)));
        }
        loop {
            let told = match messages.recv().await {
                Ok(FollowerMessage::Event(event)) if query.covers(&event) => sse::Event::default()
                    .id(event.id.to_string())
                    .event(event.kind.label())
                    .json_data(EventDocument::from(&*event))
                    .unwrap_or_default(),
                Ok(FollowerMessage::Event(_)) => continue,
                Err(RecvError::Lagged(missed)) => {
                    sse::Event::default().event("missed").data(missed.to_string())
                }
                Ok(FollowerMessage::End) | Err(RecvError::Closed) => return None,
            };
            return Some((Ok(told), (messages, query, false)));
        }
    })
}
