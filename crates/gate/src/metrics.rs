//! Counts, for a scraper. Labels are names of the configuration and of this program, so their number is bounded.

use std::collections::HashMap;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config::IssuerConfig;
use crate::health::METRICS_PREFIX;
use crate::login::LoginOutcome;

type IssuerLabel = [(&'static str, String); 1];
type LoginLabels = [(&'static str, String); 2];

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    logins: Family<LoginLabels, Counter>,
    requests: Family<[(&'static str, &'static str); 1], Counter>,
    sessions: Family<IssuerLabel, Gauge>,
    issuers: Vec<String>,
}

impl Metrics {
    pub(crate) fn new(issuers: &[IssuerConfig]) -> Self {
        let mut registry = Registry::with_prefix(METRICS_PREFIX);
        let (logins, requests, sessions) = (Family::default(), Family::default(), Family::default());
        registry.register("logins", "Logins that were tried, by issuer and outcome", Family::clone(&logins));
        registry.register(
            "requests",
            "Requests to the tracker that the proxy asked about, by answer",
            Family::clone(&requests),
        );
        registry.register("sessions", "Sessions that have not ended", Family::clone(&sessions));
        let metrics = Self {
            registry,
            logins,
            requests,
            sessions,
            issuers: issuers.iter().map(|issuer| issuer.name.clone()).collect(),
        };
        // A rate needs a counter from its start.
        for issuer in issuers {
            for outcome in LoginOutcome::ALL {
                drop(metrics.logins.get_or_create(&login_labels(&issuer.name, outcome)));
            }
        }
        metrics
    }

    pub(crate) fn login(&self, issuer: &str, outcome: LoginOutcome) {
        self.logins.get_or_create(&login_labels(issuer, outcome)).inc();
    }

    pub(crate) fn request(&self, answer: &'static str) {
        self.requests.get_or_create(&[("answer", answer)]).inc();
    }

    /// The text; sessions are left out if they cannot be read.
    pub(crate) fn text(&self, open: Option<&HashMap<String, i64>>) -> String {
        self.sessions.clear();
        if let Some(open) = open {
            for issuer in &self.issuers {
                let gauge = self.sessions.get_or_create(&[("issuer", issuer.clone())]);
                gauge.set(open.get(issuer).copied().unwrap_or_default());
            }
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn login_labels(issuer: &str, outcome: LoginOutcome) -> LoginLabels {
    [("issuer", issuer.to_owned()), ("outcome", outcome.name().to_owned())]
}
