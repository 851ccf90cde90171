//! Alarms: posts to a webhook at once when a token is replayed or relayed, when the fence moves, or after many wrong
//! credentials.
//!
//! A task of its own delivers events, a few at a time, and tries again until the receiver takes one or it is given up. No
//! handshake waits for it, and nothing that is sent has a token in it.

mod queue;
mod webhook;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use countersign_core::{Clock, Entropy, Event};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::private::events::EventDocument;
use crate::traces::{self, CurrentSpan, OpenSpan};

use self::queue::{Alarm, AlarmQueue};

pub use self::queue::{ALARM_DELIVERIES, ALARM_QUEUE};
pub use self::webhook::{ALARM_TIMEOUT, Webhook, WebhookError};

/// How often one alarm is tried before it is given up.
pub const ALARM_ATTEMPTS: u32 = 8;

/// How long to wait after the first attempt. It doubles with each further one, so that the last comes after two minutes;
/// and it is cut by a random half, so that many servers do not come back to a receiver at the same moment.
pub const ALARM_PAUSE: Duration = Duration::from_secs(1);

/// Where alarms go on their way.
#[derive(Debug)]
pub(crate) struct Alarms {
    waiting: Mutex<AlarmQueue>,
    raised: Notify,
    /// What the worker takes when it begins.
    receiver: Mutex<Option<Webhook>>,
    pause: Duration,
    pub(crate) delivered: Counter,
    pub(crate) failed: Counter,
}

impl Alarms {
    /// Alarms to this receiver; `pause` is [`ALARM_PAUSE`], or less in a test.
    pub(crate) fn new(webhook: Webhook, pause: Duration) -> Self {
        Self {
            waiting: Mutex::default(),
            raised: Notify::new(),
            receiver: Mutex::new(Some(webhook)),
            pause,
            delivered: Counter::default(),
            failed: Counter::default(),
        }
    }

    /// Raises an alarm, if the event is one to be alarmed about.
    pub(crate) fn raise(&self, event: &Event) {
        if self.those_waiting().raise(event, traces::current(), Instant::now()) {
            self.raised.notify_one();
        }
    }

    /// The number of alarms still to deliver.
    pub(crate) fn waiting(&self) -> usize {
        self.those_waiting().len()
    }

    fn those_waiting(&self) -> MutexGuard<'_, AlarmQueue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers what comes, for ever. To be run once.
    pub(crate) async fn deliver(&self, clock: &dyn Clock, entropy: &dyn Entropy) {
        let Some(webhook) = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let mut under_way = FuturesUnordered::new();
        let mut failing = false;
        loop {
            let next_due = {
                let mut waiting = self.those_waiting();
                while let Some(alarm) = waiting.take(Instant::now()) {
                    under_way.push(attempt(alarm, &webhook, clock));
                }
                waiting.next_due()
            };
            tokio::select! {
                Some((alarm, delivered)) = under_way.next() => {
                    self.settle(alarm, delivered, &webhook, entropy, &mut failing);
                }
                () = self.raised.notified() => {}
                () = until(next_due) => {}
            }
        }
    }

    /// The result of an attempt.
    fn settle(
        &self,
        mut alarm: Alarm,
        delivered: Result<(), String>,
        webhook: &Webhook,
        entropy: &dyn Entropy,
        failing: &mut bool,
    ) {
        let (host, event) = (webhook.host(), alarm.event.id.to_string());
        match delivered {
            Ok(()) => {
                self.those_waiting().done(&alarm);
                self.delivered.inc();
                if std::mem::take(failing) {
                    tracing::info!(host, "alarms are delivered again");
                }
            }
            Err(reason) if alarm.attempts >= ALARM_ATTEMPTS => {
                self.those_waiting().done(&alarm);
                self.failed.inc();
                tracing::error!(host, reason, event, "an alarm was dropped after the last retry");
            }
            Err(reason) => {
                let doubled = 2_u32.saturating_pow(alarm.attempts.saturating_sub(1));
                alarm.due = Instant::now() + jittered(self.pause.saturating_mul(doubled), entropy);
                self.those_waiting().put_back(alarm);
                if !std::mem::replace(failing, true) {
                    tracing::warn!(host, reason, event, "an alarm was not delivered; retrying");
                }
            }
        }
    }
}

/// Tries to deliver an alarm.
async fn attempt(mut alarm: Alarm, webhook: &Webhook, clock: &dyn Clock) -> (Alarm, Result<(), String>) {
    alarm.attempts += 1;
    let event = &alarm.event;
    let body = json!({
        "type": format!("countersign.{}", event.kind.label()),
        "timestamp": event.at,
        "data": EventDocument::from(event),
    });
    let span = alarm.raised.as_ref().map(|raised| delivery(raised, webhook, alarm.attempts));
    let more = span.as_ref().map_or_else(HeaderMap::new, OpenSpan::headers);
    let delivered = webhook.deliver(&event.id.to_string(), clock.now(), &body.to_string(), more).await;
    if let Some(span) = span {
        if delivered.is_err() {
            span.failed("not-delivered");
        }
        span.done();
    }
    (alarm, delivered)
}

/// Waits for a moment; for ever, if there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The span of one attempt. It tells the receiver's host and no more: the URL often is a secret.
fn delivery(raised: &CurrentSpan, webhook: &Webhook, attempt: u32) -> OpenSpan {
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
