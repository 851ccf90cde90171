//! The checks against trackers that are right, and against trackers that are wrong in one way each.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

#[cfg(test)]
mod api;
#[cfg(test)]
mod api_stub;
mod bugzilla;
mod certificate;
mod documents;
mod example;
mod handshake;
mod running;
mod stub;
mod wrong;

use std::sync::Arc;
use std::time::Duration;

use countersign_check_tracker::{Checker, Grade, Issuer, Report, Subject, Tracker};
use countersign_core::{SequenceEntropy, SystemClock};

/// An issuer on a free port.
async fn issuer() -> Issuer {
    Issuer::listen("127.0.0.1:0".parse().unwrap()).await.unwrap()
}

fn checker(
    issuer: Issuer,
    tracker: Tracker,
    url: &str,
    audience: Option<&str>,
    timeout: Duration,
) -> Checker {
    let subject = Subject::new(tracker, url, audience).unwrap().timeout(timeout);
    Checker::new(issuer, subject, Arc::new(SystemClock), Arc::new(SequenceEntropy::default())).unwrap()
}

/// Every line that is not a pass, for a message.
fn complaints(report: &Report) -> String {
    let wrong = report.findings.iter().filter(|finding| finding.result != Grade::Pass);
    wrong.map(|finding| format!("{finding}\n")).collect()
}

/// The names of the checks that came to something else than a pass.
fn broken(report: &Report) -> Vec<&'static str> {
    let wrong = report.findings.iter().filter(|finding| finding.result != Grade::Pass);
    wrong.map(|finding| finding.check).collect()
}
