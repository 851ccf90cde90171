//! The metrics for Prometheus: counters, and gauges that are read when they are scraped.
//!
//! Requests increase the [`Counters`]; everything else is read when it is scraped. Strangers choose the value of no
//! label, and those of trackers and callers, which an issuing caller chooses, are bounded in number.

mod callers;
mod gauges;
mod parties;
mod process;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use countersign_core::StoreError;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use self::callers::CallerCounters;
use crate::App;
use crate::accept::quality;
use crate::callers::JwtFault;
use crate::handshake_outcome::{HandshakeOutcome, OUTCOMES};
use crate::latency::LatencyCounts;
use crate::outage_log::{OutageLog, OutageNotice};
use crate::problem::Problem;
use crate::sum::Sum;

/// The media type of the answer (`OpenMetrics` 1.0), which every Prometheus since 2.5 reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The same of the older format, for a client that asks for it.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The upper ends of the classes of latencies, in seconds: from what arithmetic takes to what a disk that hangs does.
const LATENCIES: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 20.0];

/// The same for calls as JSON, of which there are fewer: each class is a series.
const JSON_LATENCIES: [f64; 6] = [0.001, 0.005, 0.025, 0.1, 1.0, 20.0];

/// A label and its value.
type Label = [(&'static str, &'static str); 1];

/// The counters that each answered request changes.
#[derive(Debug)]
pub(crate) struct Counters {
    registry: Registry,
    handshakes: Family<Label, Counter>,
    handshake_seconds: Histogram,
    /// The same for the operators' page, in finer classes.
    latencies: LatencyCounts,
    call_seconds: Histogram,
    json_seconds: Histogram,
    pub(crate) limited: Counter,
    pub(crate) turned_away: Counter,
    pub(crate) issued: Counter,
    pub(crate) revoked: Counter,
    pub(crate) credentials_rejected: Counter,
    jwts_rejected: Family<Label, Counter>,
    pub(crate) purged: Counter,
    purge_failures: Counter,
    /// How many purges have failed since the last one that did not.
    failing_purges: AtomicU64,
    store_trouble: OutageLog,
    pub(crate) callers: CallerCounters,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let handshakes = Family::<Label, Counter>::default();
        for outcome in OUTCOMES {
            let _ = handshakes.get_or_create(&[("outcome", outcome)]);
        }
        registry.register(
            "countersign_handshakes",
            "Handshakes, by how they were answered",
            handshakes.clone(),
        );
        let handshake_seconds = Histogram::new(LATENCIES);
        registry.register(
            "countersign_handshake_duration_seconds",
            "How long handshakes took, the wait for the disk included",
            handshake_seconds.clone(),
        );
        let call_seconds = Histogram::new(LATENCIES);
        registry.register(
            "countersign_xmlrpc_duration_seconds",
            "How long XML-RPC calls took",
            call_seconds.clone(),
        );
        let json_seconds = Histogram::new(JSON_LATENCIES);
        registry.register(
            "countersign_json_duration_seconds",
            "How long calls as JSON took that issue, show or revoke a token",
            json_seconds.clone(),
        );
        let jwts_rejected = Family::<Label, Counter>::default();
        for fault in JwtFault::ALL {
            let _ = jwts_rejected.get_or_create(&[("reason", fault.label())]);
        }
        registry.register(
            "countersign_jwts_rejected",
            "JWTs of issuers that the callers file names, and that were not accepted, by reason",
            jwts_rejected.clone(),
        );
        let callers = CallerCounters::default();
        callers.register(&mut registry);
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            handshakes,
            handshake_seconds,
            latencies: LatencyCounts::new(),
            call_seconds,
            json_seconds,
            limited: counter(
                "countersign_handshakes_limited",
                "Refusals withheld with 429 from addresses with too many",
            ),
            credentials_rejected: counter(
                "countersign_credentials_rejected",
                "Wrong secrets, JWTs and client certificates that the private API was shown",
            ),
            jwts_rejected,
            turned_away: counter(
                "countersign_connections_turned_away",
                "Connections to the public listener closed at once, because their address had its share of them",
            ),
            issued: counter("countersign_tokens_issued", "Tokens issued"),
            revoked: counter("countersign_tokens_revoked", "Tokens revoked while they were live"),
            purged: counter(
                "countersign_purged_records",
                "Records of tokens forgotten long after their expiry",
            ),
            purge_failures: counter("countersign_purge_failures", "Purges that the store could not do"),
            failing_purges: AtomicU64::new(0),
            store_trouble: OutageLog::default(),
            callers,
            registry,
        }
    }

    pub(crate) fn handshake(&self, outcome: HandshakeOutcome<'_>, took: Duration) {
        self.handshakes.get_or_create(&[("outcome", outcome.label())]).inc();
        self.handshake_seconds.observe(took.as_secs_f64());
        self.latencies.add(took);
        match outcome {
            HandshakeOutcome::Unanswered(error) => self.store_failed(error),
            HandshakeOutcome::Accepted => self.store_answered(),
            // Not all of these were asked of the store.
            HandshakeOutcome::Repeated | HandshakeOutcome::Rejected(_) => {}
        }
    }

    /// The store could not say whether a token is good, or would be.
    pub(crate) fn store_failed(&self, error: &StoreError) {
        match self.store_trouble.failed(Instant::now()) {
            Some(OutageNotice::Begins) => {
                tracing::warn!(%error, "the store cannot be used: handshakes are answered 503");
            }
            Some(OutageNotice::GoesOn(failures)) => {
                tracing::warn!(%error, failures, "the store still cannot be used");
            }
            None => {}
        }
    }

    /// The store could.
    pub(crate) fn store_answered(&self) {
        if let Some(failures) = self.store_trouble.succeeded(Instant::now()) {
            tracing::info!(failures, "the store can be used again");
        }
    }

    /// All that was counted of tokens and handshakes.
    pub(crate) fn totals(&self) -> Sum {
        let count = |outcome| self.handshakes.get_or_create(&[("outcome", outcome)]).get();
        Sum { issued: self.issued.get(), outcomes: OUTCOMES.map(count), latencies: self.latencies.read() }
    }

    pub(crate) fn call(&self, took: Duration) {
        self.call_seconds.observe(took.as_secs_f64());
    }

    /// A call as JSON begins; it ends when what is returned is dropped.
    pub(crate) fn json_call(&self) -> Timing<'_> {
        Timing { seconds: &self.json_seconds, started: Instant::now() }
    }

    /// A JWT of a known issuer was not accepted.
    pub(crate) fn jwt_rejected(&self, fault: JwtFault) {
        self.jwts_rejected.get_or_create(&[("reason", fault.label())]).inc();
    }

    /// A purge removed so many records, or failed.
    pub(crate) fn purged(&self, outcome: Result<u64, &StoreError>) {
        if let Ok(records) = outcome {
            self.purged.inc_by(records);
            self.failing_purges.store(0, Ordering::Relaxed);
        } else {
            self.purge_failures.inc();
            self.failing_purges.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many purges have failed since the last one that did not.
    pub(crate) fn failing_purges(&self) -> u64 {
        self.failing_purges.load(Ordering::Relaxed)
    }
}

/// How long something takes that is not over.
#[must_use]
pub(crate) struct Timing<'a> {
    seconds: &'a Histogram,
    started: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

/// `GET /metrics`, for Prometheus.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    let written = encode_registry(&mut text, &app.events.tally().registry)
        .and_then(|()| encode_registry(&mut text, &gauges::registry(&app)))
        .and_then(|()| encode_eof(&mut text));
    match written {
        Ok(()) => metrics_answer(&headers, text),
        Err(_) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The metrics cannot be written.")
                .into_response()
        }
    }
}

/// Metrics in the format that the scraper prefers; `text` is `OpenMetrics`.
pub fn metrics_answer(headers: &HeaderMap, text: String) -> Response {
    let is_older = quality(headers, &["text/plain"]) > quality(headers, &["application/openmetrics-text"]);
    if is_older {
        ([(CONTENT_TYPE, PROMETHEUS_TEXT)], text::from_open_metrics(&text)).into_response()
    } else {
        ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response()
    }
}

/// A number of things, as a metric.
pub(crate) fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use countersign_core::Consumption;
    use countersign_core::handshake::{Refusal, UnreadableAudience};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn every_outcome_counter_starts_at_zero() {
        assert!(countersign_core::Reason::ALL.iter().all(|reason| OUTCOMES.contains(&reason.label())));
        let first = Consumption { at: Timestamp::UNIX_EPOCH, by: None, retry_key: None };
        let refusals = [
            Refusal::NotPost,
            Refusal::NotOurs,
            Refusal::AudienceMissing,
            Refusal::AudienceUnreadable(UnreadableAudience::Twice),
            Refusal::AudienceMismatch,
            Refusal::Expired,
            Refusal::FromTheFuture,
            Refusal::Fenced,
            Refusal::Revoked,
            Refusal::Replay(first),
        ];
        let away = StoreError::unavailable(String::new());
        let wrong = StoreError::Clock(countersign_core::ClockError::New);
        let outcomes = refusals.iter().map(|refusal| HandshakeOutcome::Rejected(refusal.label())).chain([
            HandshakeOutcome::Accepted,
            HandshakeOutcome::Repeated,
            HandshakeOutcome::Unanswered(&StoreError::Busy),
            HandshakeOutcome::Unanswered(&StoreError::OtherRing),
            HandshakeOutcome::Unanswered(&away),
            HandshakeOutcome::Unanswered(&wrong),
        ]);
        for outcome in outcomes {
            assert_eq!(OUTCOMES.get(outcome.place()), Some(&outcome.label()), "{outcome:?}");
        }
    }
}
