//! Each wrong tracker is found out, and no tracker is blamed for what it does right.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_check_tracker::{CHECKS, Grade, Report, Tracker, Weight};

use crate::stub::Fault::{self, *};
use crate::stub::{Place, Source};
use crate::{broken, checker, complaints, issuer, stub};

/// Leaves out the checks that wait for the tracker's timeout, for faults that have nothing to do with it.
const WITHOUT_SILENCE: &[&str] = &["issuer-silent", "issuer-slow", "verifies-certificate"];

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
    (TokenInCookie, &["token-not-elsewhere", "session-unguessable"]),
    (AnyToken, &["token-syntax"]),
    (TokenOfAnyAlphabet, &["token-syntax"]),
    (TokenWithLineEnd, &["token-syntax"]),
    (HeadIsLogin, &["looking-is-free"]),
    (PostIsLogin, &["looking-is-free"]),
    (PrefetchIsLogin, &["looking-is-free"]),
    (NoAudience, &["audience"]),
    (OtherAudience, &["audience"]),
    (AudienceTwice, &["audience", "audience-is-configured", "key-on-retry"]),
    (AudienceAsText, &["audience", "audience-is-configured", "key-on-retry"]),
    (AudienceFrom(Place::Host("host")), &["audience-is-configured"]),
    (AudienceFrom(Place::Host("x-forwarded-host")), &["audience-is-configured"]),
    (AudienceFrom(Place::Cookie("audience")), &["audience-is-configured"]),
    (IssuerFrom(Place::Host("host")), &["issuer-is-configured"]),
    (IssuerFrom(Place::Cookie("auth_server")), &["issuer-is-configured"]),
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
    (SameSession, &["session-unguessable", "new-session"]),
    (SessionWithRefusal, &["no-session-on-refusal"]),
    (SessionWithCheck, &["no-session-on-refusal"]),
    (SessionFrom(Source::Md5OfToken), &["session-unguessable"]),
    (SessionFrom(Source::TwoDigits), &["session-unguessable"]),
    (
        ReadsTheBodyForAYes,
        &["asks-every-time", "only-200", "no-redirects", "refusal-answer", "issuer-down", "short-read"],
    ),
    (TakesAnyTextFor200, &["only-200"]),
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
    (LimitsEachWait, "issuer-slow"),
    (ReadsAll, "issuer-slow"),
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
async fn each_fault_fails_only_its_checks() {
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
async fn fatal_fault_is_named() {
    for (fault, name) in FATAL {
        // The tracker without patience is the one that is waited for.
        let is_patient = matches!(fault, NoTimeout | LimitsEachWait | ReadsAll);
        let timeout = if is_patient { Duration::from_millis(300) } else { Duration::from_mins(1) };
        let report = check(*fault, &[name], timeout).await;
        assert_eq!(broken(&report), [*name], "{fault:?}\n{}", complaints(&report));
    }
}

#[tokio::test]
async fn only_200_passes_for_acceptance() {
    for status in [201, 202, 203, 204, 206, 302, 401, 403, 404, 405, 410, 429, 500, 503] {
        let report = check(AlsoAccepts(status), &["only-200"], Duration::from_mins(1)).await;
        assert_eq!(broken(&report), ["only-200"], "{status}");
        assert!(complaints(&report).contains(&status.to_string()), "{}", complaints(&report));
    }
}

/// The places in a request that say where something is, but for those of [`FAULTS`].
const PLACES: &[Place] = &[
    Place::Host("host"),
    Place::Host("x-forwarded-host"),
    Place::Host("x-forwarded-server"),
    Place::Host("x-original-host"),
    Place::Host("x-host"),
    Place::Host("x-http-host-override"),
    Place::Port("x-forwarded-port"),
    Place::Url("referer"),
    Place::Url("origin"),
    Place::Url("x-original-url"),
    Place::Forwarded,
    Place::Cookie("issuer"),
    Place::Cookie("launchpad_auth_server"),
    Place::Query("handshake_url"),
    Place::Query("auth_server"),
];

#[tokio::test]
async fn issuer_that_the_request_names_is_found() {
    for place in PLACES {
        let report = check(IssuerFrom(*place), &["issuer-is-configured"], Duration::from_mins(1)).await;
        let said = complaints(&report);
        assert!(
            said.contains(" named, believed it, and let the worker in. Anybody is logged in"),
            "{place:?}: {said}"
        );
    }
    for name in ["host", "x-forwarded-host"] {
        let report = check(IssuerHostFrom(name), &["issuer-is-configured"], Duration::from_mins(1)).await;
        assert_eq!(broken(&report), ["issuer-is-configured"], "{name}");
    }
}

#[tokio::test]
async fn audience_that_the_request_names_is_found() {
    let own = [Place::Cookie("base_url"), Place::Query("audience"), Place::Query("url")];
    for place in
        PLACES.iter().filter(|place| !matches!(place, Place::Cookie(_) | Place::Query(_))).chain(&own)
    {
        let report = check(AudienceFrom(*place), &["audience-is-configured"], Duration::from_mins(1)).await;
        assert_eq!(broken(&report), ["audience-is-configured"], "{place:?}");
    }
}

#[tokio::test]
async fn sessions_that_can_be_guessed_are_found() {
    for (source, how) in [
        (Source::TokenStart, "a part of the token in it"),
        (Source::TokenEnd, "a part of the token in it"),
        (Source::Md5OfToken, "the MD5 of the token"),
        (Source::Sha1OfToken, "the SHA-1 of the token"),
        (Source::Base64OfSha256OfToken, "the SHA-256 of the token"),
        (Source::SecretDigestOfToken, "the same token had the same session twice"),
        (Source::Counter, "bits of it change"),
        (Source::Md5OfCounter, "the MD5 of a number that goes up"),
        (Source::PaddedCounter, "bits of it change"),
        (Source::Md5OfUser, "the MD5 of the user's name"),
        (Source::Time, "bits of it change"),
        (Source::Sha256OfTime, "the SHA-256 of the time"),
        (Source::TwoDigits, "bits of it change"),
        (Source::FewBits, "no more than 52 bits of it change"),
    ] {
        let report = check(SessionFrom(source), &["session-unguessable"], Duration::from_mins(1)).await;
        assert!(complaints(&report).contains(how), "{source:?}: {}", complaints(&report));
    }
}

/// A tracker that has a limit of time must be seen to keep it.
#[tokio::test]
async fn dripping_answer_times_out_as_a_whole() {
    for (fault, expected) in [
        (Nothing, ""),
        (BelievesPartOfAHead, "After headers that drip it let the worker in."),
        (LimitsEachWait, "After a status line that drips it did not answer within"),
    ] {
        let issuer = issuer().await;
        let url = stub::start_patient(issuer.auth_server(), None, fault, Duration::from_secs(1)).await;
        let checker = checker(issuer, Tracker::Trac, &url, None, Duration::from_secs(10));
        let report = checker.run(&["issuer-slow".to_owned()], |_| {}).await.unwrap();
        let said = complaints(&report);
        assert!(
            if expected.is_empty() { said.is_empty() } else { said.contains(expected) },
            "{fault:?}: {said}"
        );
    }
}

async fn assert_that_a_right_tracker_passes(audience: Option<&str>) {
    let issuer = issuer().await;
    let url = stub::start(issuer.auth_server(), audience, Nothing).await;
    let checker = checker(issuer, Tracker::Trac, &url, audience, Duration::from_mins(1));
    checker.reach().await.unwrap();
    let report = checker.run(&[], |_| {}).await.unwrap();
    assert_eq!(complaints(&report), "");
    assert_eq!(report.findings.len(), CHECKS.len() - 1, "all but that of the certificate");
    assert!(report.passed());
}

#[tokio::test]
async fn correct_tracker_passes_every_check() {
    assert_that_a_right_tracker_passes(None).await;
}

#[tokio::test]
async fn correct_https_tracker_passes_every_check() {
    assert_that_a_right_tracker_passes(Some("https://trac.example.org/trac")).await;
}

#[test]
fn every_check_fails_for_some_tracker() {
    let found = FAULTS.iter().flat_map(|(_, names)| names.iter().copied());
    let found = found.chain(FATAL.iter().map(|(_, name)| *name));
    let found: BTreeSet<&str> = found.chain([crate::certificate::CHECK]).collect();
    let checks: BTreeSet<&str> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(found, checks);
}

#[tokio::test]
async fn advice_keeps_exit_code_zero() {
    let report = check(NoRetry, &["lost-answer"], Duration::from_mins(1)).await;
    assert!(report.passed());
    assert_eq!(report.count(Grade::Advice), 1);
    let should = CHECKS.iter().filter(|check| check.weight == Weight::Should).map(|check| check.name);
    assert_eq!(should.collect::<Vec<_>>(), ["lost-answer", "short-read"]);
}
