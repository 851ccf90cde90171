//! Alarms: somebody is told at once when a token is replayed or relayed.
//!
//! An event is handed to a queue and delivered by a task of its own, one at a time, again and again until the receiver
//! takes it or it is given up. No handshake waits for it, and nothing that is sent has a token in it.

mod webhook;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use countersign_core::{Clock, Entropy, Event, KindFilter};
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::mpsc;

use crate::private::events::EventDocument;
use crate::traces::{self, Current, Ongoing};

pub use self::webhook::{ALARM_TIMEOUT, Webhook, WebhookError};

/// How many alarms wait at most; further ones are lost, and counted.
pub const ALARM_QUEUE: usize = 256;

/// How often one alarm is tried before it is given up.
pub const ALARM_ATTEMPTS: u32 = 8;

/// How long to wait after the first attempt. It doubles with each further one, so that the last comes after two minutes;
/// and it is cut by a random half, so that many servers do not come back to a receiver at the same moment.
pub const ALARM_PAUSE: Duration = Duration::from_secs(1);

/// Where alarms go on their way.
#[derive(Debug)]
pub(crate) struct Alarms {
    queue: mpsc::Sender<Alarm>,
    /// What the worker takes when it begins.
    waiting: Mutex<Option<(Webhook, mpsc::Receiver<Alarm>)>>,
    pause: Duration,
    pub(crate) delivered: Counter,
    pub(crate) failed: Counter,
}

/// An alarm that is to be delivered.
#[derive(Debug)]
struct Alarm {
    event: Arc<Event>,
    /// The span of the request that raised it.
    raised: Option<Current>,
}

impl Alarms {
    /// Alarms to this receiver; `pause` is [`ALARM_PAUSE`], or less in a test.
    pub(crate) fn new(webhook: Webhook, pause: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(ALARM_QUEUE);
        let waiting = Mutex::new(Some((webhook, waiting)));
        Self { queue, waiting, pause, delivered: Counter::default(), failed: Counter::default() }
    }

    /// Raises an alarm, if the event is one to be alarmed about.
    pub(crate) fn raise(&self, event: &Event) {
        let is_alarming = matches!(event.kind.filter(), KindFilter::Replay | KindFilter::Relay);
        if !is_alarming {
            return;
        }
        let alarm = Alarm { event: Arc::new(event.clone()), raised: traces::current() };
        if self.queue.try_send(alarm).is_err() {
            self.failed.inc();
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Delivers what comes, for ever. To be run once.
    pub(crate) async fn deliver(&self, clock: &dyn Clock, entropy: &dyn Entropy) {
        let taken = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((webhook, mut waiting)) = taken else { return };
        let mut failing = false;
        while let Some(Alarm { event, raised }) = waiting.recv().await {
            let id = event.id.to_string();
            let body = json!({
                "type": format!("countersign.{}", event.kind.label()),
                "timestamp": event.at,
                "data": EventDocument::from(&*event),
            });
            let body = body.to_string();
            let mut attempt = 1;
            loop {
                let span = raised.as_ref().map(|raised| delivery(raised, &webhook, attempt));
                let more = span.as_ref().map_or_else(HeaderMap::new, Ongoing::headers);
                let delivered = webhook.deliver(&id, clock.now(), &body, more).await;
                if let Some(span) = span {
                    if delivered.is_err() {
                        span.failed("not-delivered");
                    }
                    span.done();
                }
                match delivered {
                    Ok(()) => {
                        self.delivered.inc();
                        if std::mem::take(&mut failing) {
                            tracing::info!(host = webhook.host(), "alarms are delivered again");
                        }
                        break;
                    }
                    Err(reason) if attempt == ALARM_ATTEMPTS => {
                        self.failed.inc();
                        tracing::error!(host = webhook.host(), reason, event = id, "an alarm was given up");
                        break;
                    }
                    Err(reason) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(
                                host = webhook.host(),
                                reason,
                                event = id,
                                "an alarm was not delivered; trying again"
                            );
                        }
                    }
                }
                tokio::time::sleep(jittered(self.pause * 2_u32.pow(attempt - 1), entropy)).await;
                attempt += 1;
            }
        }
    }
}

/// The span of one attempt. It tells the receiver's host and no more: the URL often is a secret.
fn delivery(raised: &Current, webhook: &Webhook, attempt: u32) -> Ongoing {
    let span = raised.child("POST", SpanKind::Client);
    span.note(KeyValue::new("http.request.method", "POST"));
    span.note(KeyValue::new("server.address", webhook.host().to_owned()));
    if attempt > 1 {
        span.note(KeyValue::new("http.request.resend_count", i64::from(attempt - 1)));
    }
    span
}

/// Between a half of it and all of it.
fn jittered(pause: Duration, entropy: &dyn Entropy) -> Duration {
    let mut bytes = [0; 1];
    // Without randomness, all of it.
    let part = entropy.fill(&mut bytes).map_or(0, |()| u32::from(u8::from_be_bytes(bytes)));
    pause.saturating_sub(pause / 512 * part)
}
