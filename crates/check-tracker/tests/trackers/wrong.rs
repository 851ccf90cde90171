//! Each wrong tracker is found out, and no tracker is blamed for what it does right.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_check_tracker::{CHECKS, Grade, Report, Tracker, Weight};

use crate::stub::Fault::{self, *};
use crate::{broken, checker, complaints, issuer, stub};

/// What takes as long as the tracker's patience is left out, where patience is not the matter.
const WITHOUT_SILENCE: &[&str] = &["issuer-silent"];

/// The fault, and exactly those checks that must find it.
const FAULTS: &[(Fault, &[&str])] = &[
    (CheckIsMissing, &["detection"]),
    (CheckIsOk, &["detection"]),
    (CheckAsksIssuer, &["detection"]),
    (CheckWantsPassword, &["detection"]),
    (TriesHeadFirst, &["asks-with-post"]),
    (AsksTwice, &["asks-once"]),
    (RemembersTokens, &["asks-every-time", "key-per-login"]),
    (TokenInQuery, &["asks-configured-url", "token-not-elsewhere", "no-redirects"]),
    (TokenInHeader, &["token-not-elsewhere"]),
    (TokenInBody, &["token-not-elsewhere"]),
    (TokenInCookie, &["token-not-elsewhere"]),
    (AnyToken, &["token-syntax"]),
    (TokenOfAnyAlphabet, &["token-syntax"]),
    (TokenWithLineEnd, &["token-syntax"]),
    (HeadIsLogin, &["looking-is-free"]),
    (NoAudience, &["audience"]),
    (OtherAudience, &["audience"]),
    (AudienceTwice, &["audience", "audience-is-configured", "key-on-retry"]),
    (AudienceAsText, &["audience", "audience-is-configured", "key-on-retry"]),
    (AudienceFromHost, &["audience-is-configured"]),
    (AudienceFromForwardedHost, &["audience-is-configured"]),
    (AudienceFromForwarded, &["audience-is-configured"]),
    (NoKey, &["idempotency-key", "key-on-retry"]),
    (ShortKey, &["idempotency-key"]),
    (OneKey, &["key-per-login"]),
    (KeyOfToken, &["key-per-login"]),
    (TokenIsKey, &["token-not-elsewhere", "key-per-login"]),
    (OtherKeyOnRetry, &["key-on-retry"]),
    (OtherAudienceOnRetry, &["key-on-retry"]),
    (NoRetry, &["lost-answer"]),
    (RetriesRefusals, &["refusal-is-final", "refusal-answer"]),
    (RetriesForever, &["stops-asking"]),
    (ReadsAll, &["short-read"]),
    (RefusesWith(403), &["refusal-answer"]),
    (DownIs(502), &["issuer-down"]),
    (FollowsRedirects, &["no-redirects"]),
    (AlsoAccepts(302), &["only-200", "no-redirects"]),
    (AlsoAccepts(401), &["asks-every-time", "only-200", "refusal-answer"]),
    (AlsoAccepts(503), &["only-200", "issuer-down"]),
    (SameSession, &["new-session"]),
    (KeepsSession, &["new-session", "no-fixation"]),
    (AdoptsSession, &["new-session", "no-fixation"]),
    (NotHttpOnly, &["cookie-http-only"]),
    (NotSecure, &["cookie-secure"]),
    (WidePath, &["cookie-scope"]),
    (NarrowPath, &["cookie-scope"]),
    (OtherPath, &["cookie-scope"]),
    (NoPath, &["cookie-scope"]),
    (WideDomain, &["cookie-scope"]),
];

/// Faults with which nothing works any more, and the check that must say why.
const FATAL: &[(Fault, &str)] = &[
    (AsksWithGet, "asks-with-post"),
    (OldSpelling, "asks-configured-url"),
    (NeverAsks, "login"),
    (NoCookie, "login"),
    (RefusesWith(200), "only-200"),
    (NoTimeout, "issuer-silent"),
    (DownIs(504), "issuer-silent"),
];

async fn check(fault: Fault, only: &[&str], timeout: Duration) -> Report {
    let issuer = issuer().await;
    // Whether a cookie is Secure matters only to a tracker that calls itself an https one.
    let audience = (fault == NotSecure).then_some("https://trac.example.org/trac");
    let url = stub::start(issuer.auth_server(), audience, fault).await;
    let checker = checker(issuer, Tracker::Trac, &url, audience, timeout);
    checker.reach().await.unwrap();
    let only: Vec<String> = only.iter().copied().map(str::to_owned).collect();
    checker.run(&only, |_| {}).await.unwrap()
}

#[tokio::test]
async fn each_fault_is_found_by_its_checks_and_by_no_other() {
    let only: Vec<&str> =
        CHECKS.iter().map(|check| check.name).filter(|name| !WITHOUT_SILENCE.contains(name)).collect();
    for (fault, expected) in FAULTS {
        let report = check(*fault, &only, Duration::from_mins(1)).await;
        assert_eq!(broken(&report), *expected, "{fault:?}\n{}", complaints(&report));
        let advice: Vec<_> =
            report.findings.iter().filter(|finding| finding.result == Grade::Advice).collect();
        assert_eq!(report.passed(), advice.len() == expected.len(), "{fault:?}");
    }
}

#[tokio::test]
async fn what_breaks_everything_is_named() {
    for (fault, name) in FATAL {
        // The tracker without patience is the one that is waited for.
        let timeout = if *fault == NoTimeout { Duration::from_millis(300) } else { Duration::from_mins(1) };
        let report = check(*fault, &[name], timeout).await;
        assert_eq!(broken(&report), [*name], "{fault:?}\n{}", complaints(&report));
    }
}

#[tokio::test]
async fn no_wrong_status_passes_for_200() {
    for status in [201, 202, 203, 204, 206, 302, 401, 403, 404, 405, 410, 429, 500, 503] {
        let report = check(AlsoAccepts(status), &["only-200"], Duration::from_mins(1)).await;
        assert_eq!(broken(&report), ["only-200"], "{status}");
        assert!(complaints(&report).contains(&status.to_string()), "{}", complaints(&report));
    }
}

async fn assert_that_a_right_tracker_passes(audience: Option<&str>) {
    let issuer = issuer().await;
    let url = stub::start(issuer.auth_server(), audience, Nothing).await;
    let checker = checker(issuer, Tracker::Trac, &url, audience, Duration::from_mins(1));
    checker.reach().await.unwrap();
    let report = checker.run(&[], |_| {}).await.unwrap();
    assert_eq!(complaints(&report), "");
    assert_eq!(report.findings.len(), CHECKS.len());
    assert!(report.passed());
}

#[tokio::test]
async fn a_right_tracker_passes_every_check() {
    assert_that_a_right_tracker_passes(None).await;
}

#[tokio::test]
async fn a_right_https_tracker_passes_every_check() {
    assert_that_a_right_tracker_passes(Some("https://trac.example.org/trac")).await;
}

#[test]
fn every_check_has_a_tracker_that_breaks_it() {
    let found = FAULTS.iter().flat_map(|(_, names)| names.iter().copied());
    let found: BTreeSet<&str> = found.chain(FATAL.iter().map(|(_, name)| *name)).collect();
    let checks: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(found, checks);
}

#[tokio::test]
async fn advice_is_no_failure() {
    let report = check(NoRetry, &["lost-answer"], Duration::from_mins(1)).await;
    assert!(report.passed());
    assert_eq!(report.count(Grade::Advice), 1);
    let should = CHECKS.iter().filter(|check| check.weight == Weight::Should).map(|check| check.name);
    assert_eq!(should.collect::<Vec<_>>(), ["lost-answer", "short-read"]);
}
