//! The checks of the plugin API, against a tracker that is right, and against trackers that are wrong in one way each.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_check_tracker::{API_CHECKS, CheckError, Checker, Grade, Report, Tracker};

use crate::api_stub::{self, ApiFault, BUG};
use crate::stub::Fault;
use crate::{broken, checker, complaints, issuer, stub};

use ApiFault::*;

const BOTH: [Tracker; 2] = [Tracker::Trac, Tracker::Bugzilla];

/// Each fault, and the checks that must find it: no more, and no fewer.
const FAULTS: &[(ApiFault, &[&str])] = &[
    (Nothing, &[]),
    (IsNotFound, &["api-detection"]),
    (AsksWith(401), &["api-asks-for-login", "api-asks-again"]),
    (AsksWithFault(1000), &["api-asks-for-login", "api-asks-again"]),
    (AsksNobody, &["api-asks-for-login", "api-asks-again"]),
    (ForgetsOldSessions, &["api-asks-again"]),
    (TimeIsText, &["api-time", "api-changes"]),
    (AnswersWithPage, &["api-time", "api-changes"]),
    (UnknownStatus, &["api-status"]),
    (MissingHasLink, &["api-missing-bug"]),
    (MissingIsNew, &["api-missing-bug"]),
    (CommentsWithoutTime, &["api-comments", "api-add-comment", "api-changes"]),
    (ForgetsComments, &["api-add-comment", "api-changes"]),
    (OneCommentId, &["api-add-comment", "api-changes"]),
    (CutsComments, &["api-add-comment", "api-changes"]),
    (EscapesComments, &["api-add-comment", "api-changes"]),
    (CommentsOfNobody, &["api-add-comment", "api-changes"]),
    (DatesComments, &["api-add-comment", "api-changes"]),
    (RefusesComments, &["api-add-comment", "api-changes"]),
    (HidesComments, &["api-add-comment", "api-changes"]),
    (ChangedIdsAreNumbers, &["api-changes"]),
    (NothingChanges, &["api-changes"]),
    (EverythingChanges, &["api-changes"]),
    (ForgetsLinks, &["api-link"]),
    (KeepsLinks, &["api-link"]),
];

async fn api_checker(tracker: Tracker, fault: ApiFault) -> (Checker, impl Fn() -> i32) {
    let (url, link) = api_stub::start(tracker, fault).await;
    (checker(issuer().await, tracker, &url, None, Duration::from_mins(1)).with_bug(BUG), link)
}

fn names() -> Vec<String> {
    API_CHECKS.iter().map(|check| check.name.to_owned()).collect()
}

async fn check(tracker: Tracker, fault: ApiFault) -> Report {
    api_checker(tracker, fault).await.0.run(&names(), |_| {}).await.unwrap()
}

#[tokio::test]
async fn each_api_fault_fails_only_its_checks() {
    for tracker in BOTH {
        for (fault, expected) in FAULTS {
            // A Bugzilla states the link with the bug: what is not there has none. In a Trac a login is found by the same answer.
            if [(Tracker::Bugzilla, MissingHasLink), (Tracker::Trac, IsNotFound)].contains(&(tracker, *fault))
            {
                continue;
            }
            let report = check(tracker, *fault).await;
            assert_eq!(broken(&report), *expected, "{tracker} {fault:?}\n{}", complaints(&report));
            assert_eq!(report.findings.len(), API_CHECKS.len());
        }
    }
}

/// Faults with which little works any more, and the sentence that must say why.
#[tokio::test]
async fn broken_api_is_named() {
    for (tracker, fault, expected) in [
        (
            Tracker::Trac,
            IsNotFound,
            "api-detection           There is no method launchpad-auth/check (HTTP status 404, not 401).",
        ),
        (
            Tracker::Trac,
            IsNotFound,
            "api-time                It cannot be tried without a login; see api-login.",
        ),
        (Tracker::Trac, NoStatus, "api-link                It cannot be tried without a bug; see api-bug."),
        (
            Tracker::Trac,
            DoesNotKnowItsSession,
            "api-login               It does not take the session that it has opened",
        ),
        (
            Tracker::Bugzilla,
            DoesNotKnowItsSession,
            "api-login               It does not take the session that it has opened",
        ),
        (
            Tracker::Bugzilla,
            ShowsNothingToStrangers,
            "api-reading             Without a session Launchpad.get_bugs asks for a login (the tracker says: No).",
        ),
        (Tracker::Trac, SessionIsElsewhere, "The worker cannot log in: the cookies of the login are not for"),
        (
            Tracker::Bugzilla,
            SessionIsElsewhere,
            "The worker cannot log in: the cookies of the login are not for",
        ),
        (Tracker::Trac, RefusesLogins, "The worker cannot log in: the token was refused"),
        (Tracker::Bugzilla, RefusesLogins, "The worker cannot log in: the token was refused"),
        (Tracker::Trac, LocalTime, "api-time                Its clock is off by 3"),
        (Tracker::Bugzilla, LocalTime, "api-time                Its clock is off by 3"),
        (Tracker::Trac, NoStatus, "launchpad.bug_info: result[1][0] has no member status."),
        (Tracker::Bugzilla, NoStatus, "Launchpad.get_bugs: result.bugs[0] has no member status."),
        (Tracker::Bugzilla, IdIsNumber, "result.bugs[0].id is a string, not an integer."),
        (Tracker::Trac, MissingIsFault, "api-missing-bug         Launchpad.bug_info does not know the bug"),
        (
            Tracker::Bugzilla,
            MissingIsFault,
            "api-missing-bug         Launchpad.get_bugs does not know the bug",
        ),
    ] {
        let report = check(tracker, fault).await;
        assert!(complaints(&report).contains(expected), "{tracker} {fault:?}\n{}", complaints(&report));
        assert!(!report.passed());
    }
}

#[tokio::test]
async fn link_is_put_back() {
    for tracker in BOTH {
        let (checker, link) = api_checker(tracker, Nothing).await;
        checker.run(&["api-link".to_owned()], |_| {}).await.unwrap();
        assert_eq!(link(), 4711);
    }
}

#[tokio::test]
async fn unusable_for_launchpad_is_reported() {
    let report = check(Tracker::Trac, ForgetsOldSessions).await;
    assert_eq!(
        complaints(&report),
        "FAIL    api-asks-again          With a session that it does not know launchpad.add_comment answers with HTTP \
         status 400, and Launchpad waits for HTTP status 403. Launchpad does not log in again, and all of its calls fail until it \
         starts anew. Answer the same where the session is over or unknown.\n"
    );
    let report = check(Tracker::Bugzilla, UnknownStatus).await;
    assert!(report.passed() && report.count(Grade::Advice) == 1, "{}", complaints(&report));
    assert!(complaints(&report).contains("Launchpad does not know what CONFIRMED means."));
}

#[tokio::test]
async fn each_check_runs_alone() {
    for tracker in BOTH {
        for name in names() {
            let (checker, _) = api_checker(tracker, Nothing).await;
            let report = checker.run(&[name], |_| {}).await.unwrap();
            assert_eq!((report.findings.len(), complaints(&report)), (1, String::new()));
        }
    }
}

#[tokio::test]
async fn api_is_not_checked_without_a_bug() {
    let issuer = issuer().await;
    let url = stub::start(issuer.auth_server(), None, Fault::Nothing).await;
    let checker = checker(issuer, Tracker::Trac, &url, None, Duration::from_mins(1));
    let error = checker.run(&["api-time".to_owned()], |_| {}).await.unwrap_err();
    assert!(matches!(error, CheckError::NoSuchCheck { .. }), "{error}");
}

#[test]
fn every_api_check_fails_for_some_tracker() {
    let found = FAULTS.iter().flat_map(|(_, names)| names.iter().copied());
    let found: BTreeSet<&str> = found.chain(["api-login", "api-bug", "api-reading"]).collect();
    assert_eq!(found, API_CHECKS.iter().map(|check| check.name).collect());
}
