//! What comes before the checks, and what they look like.

use std::time::Duration;

use countersign_check_tracker::{CheckError, Subject, Tracker};
use tokio::net::TcpListener;

use crate::stub::Fault;
use crate::{checker, issuer, stub};

#[tokio::test]
async fn missing_tracker_is_reported() {
    // Bound and closed again, so that nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let checker =
        checker(issuer().await, Tracker::Trac, &format!("http://{address}"), None, Duration::from_mins(1));
    let error = checker.reach().await.unwrap_err();
    assert!(matches!(error, CheckError::NoTracker { .. }), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn tracker_of_another_issuer_fails_with_the_reason() {
    let (ours, other) = (issuer().await, issuer().await);
    let auth_server = ours.auth_server();
    let url = stub::start(other.auth_server(), None, Fault::Nothing).await;
    let checker = checker(ours, Tracker::Trac, &url, None, Duration::from_mins(1));
    let error = checker.reach().await.unwrap_err().to_string();
    assert!(error.contains("refused a token, and did not ask the issuer of these checks"), "{error}");
    assert!(error.contains(&format!("configure it with auth_server = {auth_server}")), "{error}");
}

#[tokio::test]
async fn tracker_without_the_plugin_fails_with_the_reason() {
    let ours = issuer().await;
    let url = stub::start(ours.auth_server(), None, Fault::Nothing).await;
    let checker = checker(ours, Tracker::Trac, &url.replace("/trac", "/wiki"), None, Duration::from_mins(1));
    let error = checker.reach().await.unwrap_err().to_string();
    assert!(error.contains("met a token with HTTP status 404"), "{error}");
}

#[tokio::test]
async fn findings_are_printed() {
    let ours = issuer().await;
    let url = stub::start(ours.auth_server(), None, Fault::WidePath).await;
    let checker = checker(ours, Tracker::Trac, &url, None, Duration::from_mins(1));
    let mut lines = Vec::new();
    let only = ["cookie-scope", "audience", "asks-once"].map(str::to_owned);
    let report = checker.run(&only, |finding| lines.push(finding.to_string())).await.unwrap();
    assert_eq!(
        lines,
        [
            "pass    asks-once               It asked one question.".to_owned(),
            format!("pass    audience                It states {url}."),
            "FAIL    cookie-scope            The cookie trac_auth has the path /, which is wider than the tracker's, \
             /trac. Other programs on the same host get the session, or the tracker's own pages do not. Set the session cookie for the tracker's own path and host: neither for more, nor for \
             launchpad-auth alone."
                .to_owned(),
        ]
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        (&json["tracker"], &json["kind"], &json["audience"]),
        (&url.clone().into(), &"trac".into(), &url.into())
    );
    assert_eq!(json["findings"][2]["result"], "fail");
    assert_eq!(json["findings"][0]["check"], "asks-once");
}

#[tokio::test]
async fn unknown_check_is_a_usage_error() {
    let checker = checker(issuer().await, Tracker::Trac, "http://127.0.0.1:1/", None, Duration::from_mins(1));
    let error = checker.run(&["spelling".to_owned()], |_| {}).await.unwrap_err();
    assert!(error.is_usage());
    assert!(
        error
            .to_string()
            .starts_with("there is no check \"spelling\" to make here; there are detection, login, "),
        "{error}"
    );
}

#[test]
fn invalid_tracker_url_is_refused() {
    for (url, audience, expected) in [
        ("trac.example.org", None, "the tracker's URL is not an absolute URL"),
        ("https://user:secret@trac.example.org/", None, "the tracker's URL must not carry a user name"),
        ("https://trac.example.org/", Some("trac"), "the audience is not an absolute URL"),
    ] {
        let error = Subject::new(Tracker::Trac, url, audience).unwrap_err();
        assert!(error.is_usage() && error.to_string().starts_with(expected), "{error}");
        assert!(!error.to_string().contains("secret"));
    }
}
