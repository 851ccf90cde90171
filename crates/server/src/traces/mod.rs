//! Traces: a span of each request and of its calls of the store, for an OpenTelemetry collector.
//!
//! ```text
//! listener ──▶ RequestSpans ──▶ handler ──▶ TracedStore
//!                   │               │            │        each span, when it ends
//!                   └───────────────┴────────────┴──▶ Queue ──▶ Exporter ──▶ collector
//! ```
//!
//! Where traces are off, none of this is there: a listener has no [`RequestSpans`], and the store is not wrapped. Where
//! they are on, no request waits for the collector: a full queue loses spans, and counts them.
//!
//! A span has only the template of a path and the id of a token, never text in which a stranger could have put a token.

mod collector;
mod export;
mod request;
mod store;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use countersign_core::{RequestId, TokenId, TokenStore};
use opentelemetry::propagation::{Injector, TextMapPropagator};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::export::{Counts, Exporter, Queue};
use self::store::TracedStore;

pub use self::collector::{COLLECTOR_TIMEOUT, Collector, TracesError};
pub use self::export::{SPAN_ATTEMPTS, SPAN_BATCH, SPAN_PERIOD, SPAN_QUEUE};
pub(crate) use self::request::{ListenerKind, RequestSpans};

/// How long a server that stops waits for the collector to take the last spans.
pub const SPAN_GRACE: Duration = Duration::from_secs(1);

/// What a span that tells which token it is about has the token's id as.
const TOKEN_ID: &str = "countersign.token.id";

tokio::task_local! {
    /// The span of the request that is being answered.
    static CURRENT: CurrentSpan;
}

/// Spans, on their way to a collector.
pub struct Traces {
    tracer: SdkTracer,
    collector: Collector,
    share: SampledShare,
    counts: Arc<Counts>,
    /// What is run by [`start`](Self::start).
    exporter: Mutex<Option<Exporter>>,
    closing: watch::Sender<bool>,
}

impl Traces {
    /// Spans for this collector: of this share of the requests (0 to 1), unless a caller of the private API says whether
    /// it wants them. `host` is the machine's name, which tells apart several servers.
    pub fn new(collector: Collector, share: f64, host: String) -> Result<Self, TracesError> {
        let resource = resource(host);
        let counts = Arc::<Counts>::default();
        let (spans, waiting) = mpsc::channel(SPAN_QUEUE);
        let (closing, closes) = watch::channel(false);
        let exporter = Exporter {
            collector: collector.clone(),
            client: Collector::client()?,
            resource: (&resource).into(),
            spans: waiting,
            counts: Arc::clone(&counts),
            closing: closes,
            failing: false,
        };
        let provider = SdkTracerProvider::builder()
            // Which requests have a span is decided before one is made.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_span_processor(Queue { spans, counts: Arc::clone(&counts) })
            .build();
        let scope =
            InstrumentationScope::builder("countersign").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self {
            tracer: provider.tracer_with_scope(scope),
            collector,
            share: SampledShare::of(share),
            counts,
            exporter: Mutex::new(Some(exporter)),
            closing,
        })
    }

    /// The same store, with a span of each call that a traced request makes.
    pub fn of_store(store: Arc<dyn TokenStore>) -> Arc<dyn TokenStore> {
        Arc::new(TracedStore(store))
    }

    /// Begins to export, in a task of its own. To be called once.
    pub(crate) fn start(&self) -> Option<JoinHandle<()>> {
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        exporter.map(|exporter| tokio::spawn(exporter.run()))
    }

    /// Exports what waits, but not for longer than [`SPAN_GRACE`].
    pub(crate) async fn close(&self, exporting: Option<JoinHandle<()>>) {
        self.closing.send_replace(true);
        let Some(exporting) = exporting else { return };
        let abort = exporting.abort_handle();
        if tokio::time::timeout(SPAN_GRACE, exporting).await.is_err() {
            abort.abort();
            tracing::warn!("the last spans were not exported in time and are lost");
        }
    }

    /// Where spans go.
    pub(crate) fn collector(&self) -> &Collector {
        &self.collector
    }

    /// How many spans the collector has taken, and how many were lost.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.counts.exported.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").finish_non_exhaustive()
    }
}

/// The resource that the spans belong to. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` change and extend it.
fn resource(host: String) -> Resource {
    let own = [
        KeyValue::new("service.name", "countersign"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("host.name", host),
    ];
    let told = Resource::builder().build();
    let is_told = |key: &Key| {
        told.get_ref(key).is_some_and(|value| {
            // The specification's default.
            !value.as_str().starts_with("unknown_service")
        })
    };
    let own: Vec<_> = own.into_iter().filter(|own| !is_told(&own.key)).collect();
    Resource::builder().with_attributes(own).build()
}

/// The default sampler.
#[derive(Clone, Copy, Debug)]
struct SampledShare {
    /// As many as there are names of requests below this, of all 2^64.
    below: u64,
    all: bool,
}

impl SampledShare {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share of all names; beyond its bounds, none or as many as there are"
    )]
    fn of(share: f64) -> Self {
        Self { below: (share * u64::MAX as f64) as u64, all: share >= 1.0 }
    }

    /// Whether a request of this name does. Clients cannot choose the names, and they are spread evenly.
    fn takes(self, RequestId(name): RequestId) -> bool {
        self.all || name < self.below
    }
}

/// The span of the request that is being answered, for its children.
#[derive(Clone, Debug)]
pub(crate) struct CurrentSpan {
    tracer: SdkTracer,
    context: Context,
}

impl CurrentSpan {
    /// Begins a span under this one.
    pub(crate) fn child(&self, name: &'static str, kind: SpanKind) -> OpenSpan {
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        OpenSpan::begin(&self.tracer, builder, &self.context)
    }

    /// Runs `work` within this span, also if it moves to a task of its own.
    pub(crate) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }
}

/// The span of the request that is being answered, if it has one.
pub(crate) fn current() -> Option<CurrentSpan> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Adds to the span of the request that is being answered, if it has one; `what` is only asked for then.
pub(crate) fn note(what: impl FnOnce() -> KeyValue) {
    let _ = CURRENT.try_with(|current| current.context.span().set_attribute(what()));
}

/// Which token a request was about.
pub(crate) fn about(token: TokenId) -> KeyValue {
    KeyValue::new(TOKEN_ID, token.to_string())
}

/// Notes that something happened to a token while a request was answered. One request may do so to many.
pub(crate) fn happened(what: &'static str, token: Option<TokenId>) {
    let _ = CURRENT.try_with(|current| {
        current.context.span().add_event(what, token.map(about).into_iter().collect());
    });
}

/// A span that has begun. If it is dropped before its end, it counts as failed.
#[derive(Debug)]
pub(crate) struct OpenSpan {
    context: Context,
    done: bool,
}

impl OpenSpan {
    fn begin(tracer: &SdkTracer, builder: SpanBuilder, parent: &Context) -> Self {
        let context = parent.with_span(tracer.build_with_context(builder, parent));
        Self { context, done: false }
    }

    /// Adds to it.
    pub(crate) fn note(&self, what: KeyValue) {
        self.context.span().set_attribute(what);
    }

    /// It comes to nothing; `why` in a word.
    pub(crate) fn failed(&self, why: impl Into<String>) {
        self.note(KeyValue::new("error.type", why.into()));
        self.context.span().set_status(Status::error(""));
    }

    /// The headers with which this server's own requests continue the trace (W3C Trace Context).
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = Headers(HeaderMap::new());
        TraceContextPropagator::new().inject_context(&self.context, &mut headers);
        headers.0
    }

    /// Ends it.
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.done {
            self.failed("cut-off");
        }
        self.context.span().end();
    }
}

struct Headers(HeaderMap);

impl Injector for Headers {
    fn set(&mut self, key: &str, value: String) {
        // An empty `tracestate` says nothing.
        if let (Ok(name), Ok(value), false) =
            (HeaderName::try_from(key), HeaderValue::try_from(&value), value.is_empty())
        {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_share_is_sampled() {
        for (share, taken, left) in [
            (0.0, None, Some(0)),
            (0.25, Some(1 << 61), Some(1 << 62 | 1 << 61)),
            (0.5, Some((1 << 63) - 1025), Some(1 << 63)),
            (1.0, Some(u64::MAX), None),
            (1.0, Some(0), None),
        ] {
            let share = SampledShare::of(share);
            assert!(taken.is_none_or(|name| share.takes(RequestId(name))), "{share:?}");
            assert!(!left.is_some_and(|name| share.takes(RequestId(name))), "{share:?}");
        }
    }
}
