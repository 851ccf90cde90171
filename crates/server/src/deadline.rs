//! The deadline of a request, and whether the client causes the delay.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use countersign_core::StoreError;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout_at};

use crate::limits::REQUEST_TIMEOUT;
use crate::problem::{Problem, with_common_headers, with_retry_after};

/// By when a request is answered, counted from the arrival of its head. There is one for all that its answer takes: the
/// body, the store, and everything else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// Of a request whose head has just arrived.
    pub(crate) fn from_now() -> Self {
        Self(Instant::now() + REQUEST_TIMEOUT)
    }

    /// The answer, or that there is none in time. The client is to blame only while the server waits for its body.
    pub(crate) async fn keep(
        self,
        answering: impl Future<Output = Response>,
        awaited: BodyDemand,
    ) -> Response {
        match timeout_at(self.0, answering).await {
            Ok(answered) => answered,
            Err(_) if awaited.is_so() => with_common_headers(
                (StatusCode::REQUEST_TIMEOUT, "The request took too long.").into_response(),
            ),
            Err(_) => {
                let detail = format!(
                    "The request was not finished within {} seconds, and may yet take effect; look, or ask again.",
                    REQUEST_TIMEOUT.as_secs()
                );
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail);
                let wait = StoreError::unavailable(String::new()).retry_after();
                with_common_headers(with_retry_after(problem.into_response(), wait))
            }
        }
    }
}

/// Whether a request's handler waits for more of its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyDemand(Option<Arc<AtomicBool>>);

impl BodyDemand {
    /// Hands out a request's body in such a way that one can tell.
    pub(crate) fn watch(request: Request<Incoming>) -> (Request<Body>, Self) {
        if request.body().is_end_stream() {
            return (request.map(|_| Body::empty()), Self::default());
        }
        let awaited = Arc::<AtomicBool>::default();
        let body = |body| Body::new(IncomingBody { body, awaited: Arc::clone(&awaited) });
        (request.map(body), Self(Some(awaited)))
    }

    /// Whether it does at this moment.
    pub(crate) fn is_so(&self) -> bool {
        self.0.as_ref().is_some_and(|awaited| awaited.load(Ordering::Relaxed))
    }
}

/// A body that knows whether the server is waiting for more of it.
struct IncomingBody {
    body: Incoming,
    awaited: Arc<AtomicBool>,
}

impl hyper::body::Body for IncomingBody {
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
