//! The span of a request.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use countersign_core::{Note, RequestId};
use matchit::Router;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanBuilder, SpanContext, SpanKind, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::App;
use crate::arrival::Arrival;
use crate::bearer::shown_by_program;

use super::{CURRENT, CurrentSpan, OpenSpan, Traces};

/// Which listener it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerKind {
    Public,
    Private,
}

/// Makes the spans of a listener's requests.
#[derive(Debug)]
pub(crate) struct RequestSpans {
    traces: Arc<Traces>,
    app: Arc<App>,
    listener: ListenerKind,
    scheme: &'static str,
    /// The templates of the paths: a path itself may have a token in it.
    paths: Router<Arc<str>>,
}

/// The span of a request that is being answered.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    current: CurrentSpan,
    ongoing: OpenSpan,
}

impl RequestSpans {
    /// For a listener, if traces are exported.
    pub(crate) fn new(
        app: &Arc<App>,
        listener: ListenerKind,
        has_tls: bool,
        templates: &[String],
    ) -> Option<Arc<Self>> {
        let traces = app.traces.clone()?;
        let mut paths = Router::new();
        for template in templates {
            // A path without a template has none in its span.
            let _ = paths.insert(template.as_str(), Arc::from(template.as_str()));
        }
        let scheme = if has_tls { "https" } else { "http" };
        Some(Arc::new(Self { traces, app: Arc::clone(app), listener, scheme, paths }))
    }

    /// Begins the span of a request, if it is to have one.
    pub(crate) fn begin(
        &self,
        request: &Request<Body>,
        arrival: &Arrival,
        id: RequestId,
    ) -> Option<RequestSpan> {
        let parent = self.parent(request, id)?;
        let method = method(request.method());
        let route = self.paths.at(request.uri().path()).ok().map(|found| Arc::clone(found.value));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.scheme", self.scheme),
            KeyValue::new("countersign.request_id", id.to_string()),
            KeyValue::new(
                "countersign.listener",
                match self.listener {
                    ListenerKind::Public => "public",
                    ListenerKind::Private => "private",
                },
            ),
        ];
        attributes.extend(route.clone().map(|route| KeyValue::new("http.route", route)));
        if let Some(client) = self.app.proxies.client(arrival.peer, request.headers()) {
            attributes.push(KeyValue::new("client.address", client.to_string()));
        }
        let said = if method == "_OTHER" { "HTTP" } else { method };
        let name: Cow<'static, str> =
            route.map_or(Cow::Borrowed(said), |route| Cow::Owned(format!("{said} {route}")));
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_attributes(attributes);
        let tracer = self.traces.tracer.clone();
        let ongoing = OpenSpan::begin(&tracer, builder, &parent);
        Some(RequestSpan { current: CurrentSpan { tracer, context: ongoing.context.clone() }, ongoing })
    }

    /// The context that a request comes in, if it is to have a span.
    ///
    /// The listener decides. Only the issuer's own services may ask for a trace or opt out of it; otherwise a
    /// stranger could have a whole flood traced. A sampled request still continues the stranger's trace.
    fn parent(&self, request: &Request<Body>, id: RequestId) -> Option<Context> {
        let headers = request.headers();
        let trusted = remote(headers).filter(|_| self.trusts(request));
        match trusted {
            Some(parent) if parent.is_sampled() => {
                let state = trace_state(headers, &parent);
                Some(under(&parent, parent.trace_flags(), state))
            }
            Some(_) => None,
            None if !self.traces.share.takes(id) => None,
            None => {
                Some(remote(headers).map_or_else(Context::new, |parent| {
                    under(&parent, TraceFlags::SAMPLED, TraceState::NONE)
                }))
            }
        }
    }

    /// Whether a request is from one of the issuer's own services, as the guard of the private API sees it. (Who has to
    /// show a certificate has shown it by now.)
    fn trusts(&self, request: &Request<Body>) -> bool {
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| shown_by_program(value.as_bytes()));
        self.listener == ListenerKind::Private && self.app.grant(shown, request.extensions().get()).is_ok()
    }
}

impl RequestSpan {
    /// Answers the request within the span.
    pub(crate) async fn around<F: Future>(&self, answering: F) -> F::Output {
        CURRENT.scope(self.current.clone(), answering).await
    }

    /// Ends the span.
    pub(crate) fn answered(self, status: StatusCode) {
        self.ongoing.note(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.ongoing.failed(status.as_str());
        }
        self.ongoing.done();
    }
}

/// What the request's `traceparent` says (W3C Trace Context), if there is one and it is sound.
fn remote(headers: &HeaderMap) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(headers));
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

fn under(parent: &SpanContext, flags: TraceFlags, state: TraceState) -> Context {
    let parent = SpanContext::new(parent.trace_id(), parent.span_id(), flags, true, state);
    Context::new().with_remote_span_context(parent)
}

/// The `tracestate`, unless there could be a token in it.
fn trace_state(headers: &HeaderMap, parent: &SpanContext) -> TraceState {
    let text = headers.get("tracestate").map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
    let is_harmless = Note::clean(text).is_some_and(|note| note.as_str().as_bytes() == text);
    if is_harmless { parent.trace_state().clone() } else { TraceState::NONE }
}

/// A method that HTTP knows, or `_OTHER`, as the semantic conventions have it: any word can be a method.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

struct Carrier<'h>(&'h HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}
