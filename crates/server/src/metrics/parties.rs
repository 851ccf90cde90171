//! What each tracker and each named caller did, read when it is scraped.
//!
//! Their names come from authentic tokens, and there is a bound on both ([`MAX_PARTIES`](crate::activity::MAX_PARTIES)).

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::App;
use crate::activity::{By, Line, Party, RANGES};

/// The series that are there from a party's first handshake: a rate does not see what a series begins with.
const AT_ONCE: [&str; 3] = ["accepted", "replay", "audience-mismatch"];

type Labels = Vec<(&'static str, String)>;

#[derive(Default)]
struct Families {
    issued: Family<Labels, Counter>,
    handshakes: Family<Labels, Counter>,
    last_good: Family<Labels, Gauge>,
    seconds: Family<Labels, Gauge<f64, AtomicU64>>,
}

/// Registers all of it.
pub(super) fn register(registry: &mut Registry, app: &App) {
    let trackers = Families::of(By::Tracker, app);
    registry.register(
        "countersign_tracker_tokens_issued",
        "Tokens issued, by the tracker that they are bound to",
        trackers.issued,
    );
    registry.register(
        "countersign_tracker_handshakes",
        "Handshakes, by the tracker that the token is bound to and by how they were answered",
        trackers.handshakes,
    );
    registry.register(
        "countersign_tracker_last_good_timestamp_seconds",
        "When a handshake with a token for this tracker was answered 200 last, in seconds since 1970",
        trackers.last_good,
    );
    registry.register(
        "countersign_tracker_handshake_seconds",
        "Within what time so many of the last hour's handshakes with tokens for this tracker were answered",
        trackers.seconds,
    );
    let callers = Families::of(By::Caller, app);
    registry.register("countersign_caller_tokens_issued", "Tokens issued, by named caller", callers.issued);
    registry.register(
        "countersign_caller_handshakes",
        "Handshakes with tokens of named callers, by how they were answered",
        callers.handshakes,
    );
    registry.register(
        "countersign_caller_last_good_timestamp_seconds",
        "When a handshake with a token of this caller was answered 200 last, in seconds since 1970",
        callers.last_good,
    );
    registry.register(
        "countersign_caller_handshake_seconds",
        "Within what time so many of the last hour's handshakes with tokens of this caller were answered",
        callers.seconds,
    );
}

impl Families {
    fn of(by: By, app: &App) -> Self {
        let families = Self::default();
        let activity = app.events.activity();
        // The caller without a name has no series: what is left of all is its.
        let has_series = |line: &Line| {
            line.party != Party::Unattributed && (by, &line.party) != (By::Caller, &Party::Nameless)
        };
        for line in activity.totals(by).iter().filter(|line| has_series(line)) {
            let party = (by.label(), line.party.name(by).to_owned());
            let alone = vec![party.clone()];
            // A caller may be named `other`; then it shares that series.
            families.issued.get_or_create(&alone).inc_by(line.sum.issued);
            for (outcome, count) in line.sum.outcomes() {
                if count > 0 || AT_ONCE.contains(&outcome) {
                    let labels = vec![party.clone(), ("outcome", outcome.to_owned())];
                    families.handshakes.get_or_create(&labels).inc_by(count);
                }
            }
            if let Some(last) = line.last_good {
                let gauge = families.last_good.get_or_create(&alone);
                gauge.set(gauge.get().max(last.as_second()));
            }
        }
        let [hour, ..] = &RANGES;
        for line in activity.lines(by, hour, app.tokens.clock().now()).iter().filter(|line| has_series(line))
        {
            for percent in [50, 99] {
                if let Some(took) = line.sum.latencies.percentile(percent) {
                    // `quantile` is reserved for the type `summary`.
                    let labels = vec![
                        (by.label(), line.party.name(by).to_owned()),
                        ("percentile", percent.to_string()),
                    ];
                    families.seconds.get_or_create(&labels).set(took.as_secs_f64());
                }
            }
        }
        families
    }
}
