//! Streams each part of the page again when it changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::Event;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::callers::Grant;
use crate::private::events::unbuffered;
use crate::problem::Problem;

use super::Page;
use super::parts::Parts;
use super::wish::Wish;

/// How many may have the page open, with news coming in.
pub const MAX_VIEWERS: usize = 16;

/// How long an open page rests between two looks.
const REST: Duration = Duration::from_secs(2);

/// How often an open page hears something, so that it notices when the server is gone: half as long as its script waits,
/// and less, because a look may take [`PATIENCE`](super::PATIENCE) four times.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How many times as long it rests as a look takes: with every viewer there may be, looking takes a third of one
/// processor at most, however large the store is.
const REST_RATIO: u32 = 50;

/// A browser that has the page open.
struct Viewer {
    page: Arc<Page>,
    wish: Wish,
    grant: Grant,
    /// The parts that the browser has.
    shown: Parts,
    waiting: VecDeque<Event>,
    /// When to look again.
    next_look: Instant,
    _room: OwnedSemaphorePermit,
}

/// `GET /page/live`: server-sent events, named like the pieces, with their HTML; and `alive`, which has nothing to tell.
pub(crate) async fn live(
    State(page): State<Arc<Page>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<impl IntoResponse, Problem> {
    let wish = Wish::read(query.as_deref().unwrap_or_default());
    let room = Arc::clone(&page.viewers).try_acquire_owned().map_err(|_| {
        let detail = "Too many have the page open already; close one.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-viewers", detail)
    })?;
    let viewer = Viewer {
        page,
        wish,
        grant: caller.grant,
        shown: Parts::default(),
        waiting: VecDeque::new(),
        next_look: Instant::now(),
        _room: room,
    };
    let told = unfold(viewer, |mut viewer| async move { Some((Ok(viewer.next().await?), viewer)) });
    Ok(unbuffered(told))
}

impl Viewer {
    /// What to send next; `None` when the server stops, or the viewer may not look any more.
    async fn next(&mut self) -> Option<Event> {
        while self.waiting.is_empty() {
            let page = Arc::clone(&self.page);
            let rest = self.next_look.saturating_duration_since(Instant::now());
            tokio::select! {
                () = page.app.events.ended() => return None,
                () = tokio::time::sleep(rest.min(SIGN_OF_LIFE)) => {}
            }
            if rest > SIGN_OF_LIFE {
                return Some(Event::default().event("alive").data(""));
            }
            if !page.app.is_in_force(&self.grant) {
                return None;
            }
            let began = Instant::now();
            let (parts, _) = Parts::of(&page.state(&self.wish).await, &self.wish);
            for (name, html) in parts.differing_from(&self.shown) {
                self.waiting.push_back(Event::default().event(name).data(html));
            }
            self.shown = parts;
            self.next_look = Instant::now() + REST.max(began.elapsed() * REST_RATIO);
            if self.waiting.is_empty() {
                return Some(Event::default().event("alive").data(""));
            }
        }
        self.waiting.pop_front()
    }
}
