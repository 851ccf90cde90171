//! The deadline of a request, and whether the client causes the delay.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Extensions, Request};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use crate::limits::REQUEST_TIMEOUT;

/// By when a request is answered, counted from the arrival of its head. There is one for all that its answer takes: the
/// body, the store, and whatever else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// Of a request whose head has just arrived.
    pub(crate) fn from_now() -> Self {
        Self(Instant::now() + REQUEST_TIMEOUT)
    }

    /// The one that the listener gave to a request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_else(Self::from_now)
    }
}

/// Whether a request's handler waits for more of its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaited(Option<Arc<AtomicBool>>);

impl Awaited {
    /// Hands out a request's body in such a way that one can tell.
    pub(crate) fn watch(request: Request<Incoming>) -> (Request<Body>, Self) {
        if request.body().is_end_stream() {
            return (request.map(|_| Body::empty()), Self::default());
        }
        let awaited = Arc::<AtomicBool>::default();
        let body = |body| Body::new(Arriving { body, awaited: Arc::clone(&awaited) });
        (request.map(body), Self(Some(awaited)))
    }

    /// Whether it does at this moment.
    pub(crate) fn is_so(&self) -> bool {
        self.0.as_ref().is_some_and(|awaited| awaited.load(Ordering::Relaxed))
    }
}

/// A body that says whether somebody waits for more of it.
struct Arriving {
    body: Incoming,
    awaited: Arc<AtomicBool>,
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.awaited.store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
