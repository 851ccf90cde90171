//! The same protocol over Bugzilla's XML-RPC.

use std::time::Duration;

use countersign_check_tracker::Tracker;

use crate::stub::Fault;
use crate::{broken, checker, complaints, issuer, stub};

async fn broken_by(fault: Fault) -> (Vec<&'static str>, String) {
    let issuer = issuer().await;
    let url = stub::start(issuer.auth_server(), None, fault).await;
    let checker = checker(issuer, Tracker::Bugzilla, &url, None, Duration::from_mins(1));
    checker.reach().await.unwrap();
    let report = checker.run(&[], |_| {}).await.unwrap();
    (broken(&report), complaints(&report))
}

#[tokio::test]
async fn correct_bugzilla_passes_every_check() {
    assert_eq!(broken_by(Fault::Nothing).await, (vec![], String::new()));
}

#[tokio::test]
async fn xmlrpc_fault_is_the_only_refusal() {
    let (broken, complaints) = broken_by(Fault::RefusesWith(403)).await;
    assert_eq!(broken, ["refusal-answer"], "{complaints}");
    assert!(complaints.contains("After 401 it answered with HTTP status 403."), "{complaints}");
}

#[tokio::test]
async fn bugzilla_without_the_extension_is_reported() {
    let issuer = issuer().await;
    let url = stub::start(issuer.auth_server(), None, Fault::CheckIsMissing).await;
    let checker = checker(issuer, Tracker::Bugzilla, &url, None, Duration::from_mins(1));
    let report = checker.run(&["detection".to_owned()], |_| {}).await.unwrap();
    assert!(complaints(&report).contains("It has no method Launchpad.login."), "{}", complaints(&report));
}
