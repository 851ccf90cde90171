//! Exports ended spans to the collector in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use countersign_http_client::HttpClient;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::collector::{Collector, ExportError};

/// How many spans wait at most; further ones are lost, and counted.
pub const SPAN_QUEUE: usize = 8192;

/// How many spans are sent at a time at most.
pub const SPAN_BATCH: usize = 1024;

/// How long a span waits for others at most, before they are sent.
pub const SPAN_PERIOD: Duration = Duration::from_secs(1);

/// How often a batch is tried before it is lost.
pub const SPAN_ATTEMPTS: u32 = 3;

/// How long to wait before the second attempt; before each further one, twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes spans as they end, and never waits.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) spans: mpsc::Sender<SpanData>,
    pub(super) counts: Arc<Counts>,
}

/// How many spans went where.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) exported: AtomicU64,
    pub(super) lost: AtomicU64,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what the queue holds.
pub(super) struct Exporter {
    pub(super) collector: Collector,
    pub(super) client: HttpClient,
    pub(super) resource: ResourceAttributesWithSchema,
    pub(super) spans: mpsc::Receiver<SpanData>,
    pub(super) counts: Arc<Counts>,
    /// Whether the server stops.
    pub(super) closing: watch::Receiver<bool>,
    /// Whether the last batch was not taken, which has been said.
    pub(super) failing: bool,
}

impl Exporter {
    /// Sends batches until the server stops, and then what is left.
    pub(super) async fn run(mut self) {
        loop {
            let batch = self.batch().await;
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// Waits for spans. None come any more when it is empty.
    async fn batch(&mut self) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut due = None;
        while batch.len() < SPAN_BATCH {
            let room = SPAN_BATCH - batch.len();
            let came = tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing), if !self.spans.is_closed() => {
                    // What waits can still be taken out.
                    self.spans.close();
                    continue;
                }
                came = self.spans.recv_many(&mut batch, room) => came,
                () = until(due) => 0,
            };
            if came == 0 {
                break;
            }
            due = due.or_else(|| Some(Instant::now() + SPAN_PERIOD));
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let mut attempt = 1;
        let refused = loop {
            match self.collector.post(&self.client, body.clone()).await {
                Ok(refused) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(host = self.collector.host(), "spans are exported again");
                    }
                    break refused.min(count);
                }
                Err(ExportError::Never(reason)) => {
                    self.complain(&reason);
                    break count;
                }
                Err(ExportError::NotNow(reason)) => {
                    self.complain(&reason);
                    if attempt == SPAN_ATTEMPTS || !self.pause(PAUSE * 2_u32.pow(attempt - 1)).await {
                        break count;
                    }
                    attempt += 1;
                }
            }
        };
        self.counts.exported.fetch_add(count - refused, Ordering::Relaxed);
        self.counts.lost.fetch_add(refused, Ordering::Relaxed);
    }

    /// Says once that spans are not taken.
    fn complain(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                host = self.collector.host(),
                reason,
                "the collector does not take spans; retrying, and spans that do not fit into the queue are lost"
            );
        }
    }

    /// Waits, unless the server stops.
    async fn pause(&mut self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.closing.wait_for(|closing| *closing)).await.is_err()
    }
}

/// Waits until then, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
