//! Gauges, read when they are scraped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use countersign_core::{BATCH_SIZES, Key};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::callers::{Issuers, RefreshCounts};
use crate::{App, Callers};

use super::{count, parties, process};

/// Everything that is looked up and not counted.
pub(super) fn registry(app: &App) -> Registry {
    let mut gauges = Gauges(Registry::default());
    gauges.build();
    gauges.keys(app);
    gauges.clock(app);
    gauges.store(app);
    gauges.events(app);
    parties::register(&mut gauges.0, app);
    gauges.traces(app);
    gauges.issuers(app);
    gauges.process();
    gauges.0
}

struct Gauges(Registry);

impl Gauges {
    fn put<M>(&mut self, name: &str, help: &str, metric: M)
    where
        M: EncodeMetric + Send + Sync + fmt::Debug + 'static,
    {
        self.0.register(name, help, metric);
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.put(name, help, ConstCounter::new(count));
    }

    /// A number that goes up and down. Beyond what Prometheus can tell apart it makes no difference.
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.put(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn build(&mut self) {
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        self.put("countersign_build", "The version of the program", Info::new(labels));
    }

    fn keys(&mut self, app: &App) {
        let ring = app.tokens.keys();
        self.gauge("countersign_keys", "Keys in the ring", count(ring.keys().len()));
        if let Some(key) = ring.sealing_key(app.tokens.clock().now()).map(Key::active_from) {
            self.put(
                "countersign_sealing_key_active_from_timestamp_seconds",
                "From when on the key that seals now has been allowed to, in seconds since 1970",
                ConstGauge::new(key.as_second()),
            );
        }
    }

    fn clock(&mut self, app: &App) {
        self.gauge(
            "countersign_clock_wrong",
            "Whether this server issues no tokens, or redeems none either, because its clock is wrong",
            u64::from(app.tokens.clock_trouble().is_some()),
        );
        self.put(
            "countersign_clock_offset_seconds",
            "How far this server's clock is ahead of the store's; 0 where the store has none",
            ConstGauge::new(app.tokens.clock_offset().unwrap_or_default().as_secs()),
        );
    }

    fn store(&mut self, app: &App) {
        let Some(counts) = app.tokens.store().counts() else { return };
        self.counter("countersign_store_calls", "Writes that the store has committed", counts.calls);
        self.counter(
            "countersign_store_commits",
            "Commits: under load, many writes share one",
            counts.commits,
        );
        self.put(
            "countersign_store_batch_size",
            "How many writes shared a commit",
            BatchSizes { calls: counts.calls, batches: counts.batches },
        );
        self.counter("countersign_store_failures", "Batches of writes that failed", counts.failures);
        self.gauge("countersign_store_queue_depth", "Writes that wait for their turn", counts.waiting);
    }

    fn events(&mut self, app: &App) {
        let counts = app.events.counts();
        self.counter("countersign_events_written", "Events kept", counts.written);
        self.counter("countersign_events_lost", "Events lost, because too many waited", counts.lost);
        self.counter(
            "countersign_events_summed_up",
            "Refusals of which an event tells only how many there were",
            counts.summed_up,
        );
        self.gauge("countersign_events_queue_depth", "Events that wait to be kept", counts.waiting);
        let alarms = app.events.alarms();
        let (delivered, failed) =
            alarms.map_or((0, 0), |alarms| (alarms.delivered.get(), alarms.failed.get()));
        self.counter("countersign_alarms_delivered", "Alarms that the receiver took", delivered);
        self.counter("countersign_alarms_failed", "Alarms given up, or lost because too many waited", failed);
        self.gauge(
            "countersign_alarms_queue_depth",
            "Alarms that wait to be delivered",
            alarms.map_or(0, |alarms| count(alarms.waiting())),
        );
        self.gauge("countersign_events_followers", "Who follows events now", counts.followers);
    }

    fn traces(&mut self, app: &App) {
        let (exported, lost) = app.traces.as_ref().map_or((0, 0), |traces| traces.counts());
        self.counter("countersign_spans_exported", "Spans that the collector of traces took", exported);
        self.counter(
            "countersign_spans_lost",
            "Spans lost, because too many waited or the collector did not take them",
            lost,
        );
    }

    fn issuers(&mut self, app: &App) {
        let issuers = app.callers.as_ref().map(Callers::issuers);
        let read = |counter: fn(&RefreshCounts) -> &AtomicU64| {
            issuers.map_or(0, |issuers| counter(issuers.counts()).load(Ordering::Relaxed))
        };
        self.counter(
            "countersign_jwks_refreshes",
            "Times that the keys of an issuer of JWTs were fetched",
            read(|counts| &counts.succeeded),
        );
        self.counter(
            "countersign_jwks_refresh_failures",
            "Times that the keys of an issuer of JWTs could not be fetched",
            read(|counts| &counts.failed),
        );
        let states = issuers.map(Issuers::states).unwrap_or_default();
        self.gauge(
            "countersign_jwks_issuers_without_keys",
            "Issuers of JWTs whose tokens are not accepted, because their keys cannot be fetched",
            count(states.iter().filter(|state| state.keys == 0).count()),
        );
        self.gauge(
            "countersign_jwks_age_seconds",
            "How old the oldest keys of an issuer are that are in use; they are fetched every five minutes",
            states.iter().filter_map(|state| state.age).max().unwrap_or_default().as_secs(),
        );
    }

    fn process(&mut self) {
        let process = process::look();
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", process.resident_bytes),
            ("process_open_fds", "Open file descriptors", process.open_files),
            ("process_max_fds", "File descriptors that the process may open", process.max_files),
        ] {
            if let Some(value) = value {
                self.gauge(name, help, value);
            }
        }
        if let Some(seconds) = process.cpu_seconds {
            self.put("process_cpu_seconds", "Processor time, user and system", ConstCounter::new(seconds));
        }
    }
}

/// A histogram that the store has counted.
#[derive(Debug)]
struct BatchSizes {
    /// In all batches together.
    calls: u64,
    batches: [u64; BATCH_SIZES.len() + 1],
}

impl EncodeMetric for BatchSizes {
    #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 writes it makes no difference")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        // The last class has no end.
        let ends = BATCH_SIZES.iter().map(|&size| size as f64).chain([f64::INFINITY]);
        let classes: Vec<_> = ends.zip(self.batches).collect();
        let count = self.batches.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(self.calls as f64, count, &classes, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
