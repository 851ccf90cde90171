//! What it finds out between a stub of a tracker and a stub of a server.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::stub_tracker::{Request, StubTracker, plain};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    command: SyncCheckCommand,
}

async fn see_with(both: &StubTracker, arguments: &[&str]) -> Result<SyncReport, Failure> {
    let (kind, rest) = arguments.split_first().unwrap();
    let line = ["sync-check", kind, &both.url, "--server", &both.url];
    see(&Line::try_parse_from(line.iter().chain(rest)).unwrap().command).await
}

/// An answer to a call: a value, in XML.
fn returned(value: &str) -> String {
    let body =
        format!("<methodResponse><params><param><value>{value}</value></param></params></methodResponse>");
    plain("200 OK", "Content-Type: text/xml\r\n", &body)
}

fn array(values: &[&str]) -> String {
    let values: String = values.iter().map(|value| format!("<value>{value}</value>")).collect();
    format!("<array><data>{values}</data></array>")
}

fn structure(members: &[(&str, &str)]) -> String {
    let member =
        |(name, value): &(&str, &str)| format!("<member><name>{name}</name><value>{value}</value></member>");
    format!("<struct>{}</struct>", members.iter().map(member).collect::<String>())
}

fn fault(code: i32) -> String {
    let fault = structure(&[("faultCode", &format!("<int>{code}</int>")), ("faultString", "No.")]);
    let body = format!("<methodResponse><fault><value>{fault}</value></fault></methodResponse>");
    plain("200 OK", "Content-Type: text/xml\r\n", &body)
}

fn forbidden() -> String {
    plain("403 Forbidden", "Content-Type: text/plain\r\n", "Log in first.\n")
}

fn trac_result(value: &str) -> String {
    returned(&array(&["<int>0</int>", value]))
}

/// A Trac with the ticket 7. It gets its comment 7:2 when somebody adds one.
fn trac(request: &Request) -> String {
    let now = SystemClock.now().as_second();
    if request.target == "/launchpad-auth/cs1token" {
        return plain(
            "200 OK",
            "Content-Type: text/plain\r\nSet-Cookie: trac_auth=5e551on; Path=/\r\n",
            "Logged in as launchpad.\n",
        );
    }
    let Some(method) = request.method() else { return plain("401 Unauthorized", "", "") };
    if !request.has_session {
        return forbidden();
    }
    let comments = if request.has_comment { array(&["7:1", "7:2"]) } else { array(&["7:1"]) };
    let comment = |id, text| {
        structure(&[
            ("id", id),
            ("user", "Alice &lt;a@example.org&gt;"),
            ("comment", text),
            ("timestamp", "<int>1791000000</int>"),
        ])
    };
    match method {
        "launchpad.time_snapshot" => returned(&array(&["UTC", "<int>0</int>", &format!("<int>{now}</int>")])),
        "launchpad.bug_info" => trac_result(&array(&[&structure(&[
            ("id", "7"),
            ("status", "new"),
            ("resolution", "<string/>"),
            ("comments", &comments),
        ])])),
        "launchpad.get_comments" => trac_result(&array(&[
            &comment("7:1", "Oiled it.\u{1b}[31m\n  Really."),
            &comment("7:2", &TEXT.replace('"', "&quot;")),
        ])),
        "launchpad.add_comment" => trac_result("7:2"),
        "launchpad.get_launchpad_bug" => trac_result("<int>4711</int>"),
        "launchpad.set_launchpad_bug" => returned(&array(&["<int>0</int>"])),
        other => panic!("{other}"),
    }
}

fn bugzilla(request: &Request) -> String {
    let now = SystemClock.now().strftime("%Y%m%dT%H:%M:%S").to_string();
    let comment = structure(&[
        ("id", "<int>12</int>"),
        ("author", "alice@example.org"),
        ("text", "Oiled it."),
        ("time", "<dateTime.iso8601>20261123T21:59:58</dateTime.iso8601>"),
    ]);
    match request.method().unwrap() {
        "Launchpad.login" if !request.body.contains("cs1token") => fault(10701),
        "Launchpad.login" => plain(
            "200 OK",
            "Content-Type: text/xml\r\nSet-Cookie: Bugzilla_login=7\r\nSet-Cookie: Bugzilla_logincookie=5e551on\r\n",
            returned(&structure(&[("user_id", "<int>7</int>")])).split_once("\r\n\r\n").unwrap().1,
        ),
        "Launchpad.plugin_version" => returned("1"),
        "Launchpad.time" => {
            returned(&structure(&[("utc_time", &format!("<dateTime.iso8601>{now}</dateTime.iso8601>"))]))
        }
        "Launchpad.get_bugs" => {
            let bug = structure(&[
                ("id", "<int>7</int>"),
                ("status", "CONFIRMED"),
                ("resolution", ""),
                ("priority", "---"),
                ("severity", "normal"),
                ("product", "TestProduct"),
            ]);
            returned(&structure(&[("bugs", &array(&[&bug]))]))
        }
        "Launchpad.comments" => returned(&structure(&[("bugs", &structure(&[("7", &array(&[&comment]))]))])),
        _ if !request.has_session => fault(410),
        "Launchpad.add_comment" => returned(&structure(&[("comment_id", "<int>13</int>")])),
        "Launchpad.set_link" => returned(&structure(&[])),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn trac_is_read_as_launchpad_reads_it() {
    let both = StubTracker::start(trac);
    let sight = see_with(&both, &["trac", "7"]).await.unwrap();
    assert_eq!(
        sight.lines(),
        format!(
            "login     logged in to {}/ as user launchpad\n\
             clock     agrees with this machine's\n\
             bug       7: new\n\
             comments  1\n  7:1  2026-10-03T04:00:00Z  Alice <a@example.org>: Oiled it. [31m Really.\n\
             link      to Launchpad's bug 4711\n\
             a login   asked for, by Launchpad's rules\n\
             comment   could be added; --write adds one",
            both.url
        )
    );
    assert_eq!((sight.problems(), both.count("launchpad.add_comment")), (0, 0));
    let set = both.calls("launchpad.set_launchpad_bug");
    assert!(set.len() == 2 && set.iter().all(|call| call.contains("4711")), "the link stays: {set:?}");
}

#[tokio::test]
async fn comment_id_is_reported_after_writing() {
    let both = StubTracker::start(trac);
    let sight = see_with(&both, &["trac", "7", "--write"]).await.unwrap();
    assert!(sight.lines().ends_with("\ncomment   added, as 7:2"), "{}", sight.lines());
    let document = sight.document();
    assert_eq!(document["comment_added"], "7:2");
    assert_eq!(document["bug"]["launchpad_bug"], 4711);
    assert_eq!((&document["problems"], &document["seconds_ahead"]), (&json!([]), &json!(0.0)));
    assert_eq!(document["comments"][0]["text"], "Oiled it.\u{1b}[31m\n  Really.");
}

#[tokio::test]
async fn bugzilla_is_read_as_launchpad_reads_it() {
    let both = StubTracker::start(bugzilla);
    let sight = see_with(&both, &["bugzilla", "7"]).await.unwrap();
    assert!(
        sight.lines().ends_with(
            "\nbug       7: CONFIRMED (Launchpad does not know this status, and takes it for unknown)\n\
             comments  1\n  12  2026-11-23T21:59:58Z  alice@example.org: Oiled it.\n\
             link      none\n\
             a login   asked for, by Launchpad's rules\n\
             comment   could be added; --write adds one"
        ),
        "{}",
        sight.lines()
    );
    assert_eq!(sight.problems(), 0);
    // The stub does not list what is added.
    let sight = see_with(&both, &["bugzilla", "7", "--write"]).await.unwrap();
    let said =
        "comment   FAILED: added, as 13, but it cannot be read: the bug does not list it with its text";
    assert!(sight.lines().contains(said), "{}", sight.lines());
    assert_eq!(sight.document()["problems"][0]["step"], "comment");
}

/// The only line that fails, of a tracker that answers this to some request, and otherwise as it should.
async fn only_failure(
    arguments: &[&str],
    otherwise: fn(&Request) -> String,
    wrong: impl Fn(&Request) -> Option<String> + Send + 'static,
) -> String {
    let both = StubTracker::start(move |request| wrong(request).unwrap_or_else(|| otherwise(request)));
    let sight = see_with(&both, arguments).await.unwrap();
    let lines = sight.lines();
    let failed: Vec<&str> = lines.lines().filter(|line| line.contains("FAILED: ")).collect();
    assert_eq!((failed.len(), sight.problems()), (1, 1), "{lines}");
    failed[0].to_owned()
}

#[tokio::test]
async fn every_failure_has_a_remedy() {
    let trac_failure = async |method: &'static str, with: String| {
        only_failure(&["trac", "7"], trac, move |request| {
            (request.method() == Some(method) && request.has_session).then(|| with.clone())
        })
        .await
    };
    for (method, with, expected) in [
        (
            "launchpad.time_snapshot",
            returned(&array(&["UTC", "<int>0</int>", "<int>1791000000</int>"])),
            "behind this machine's, and Launchpad accepts ten minutes; set both clocks by NTP",
        ),
        (
            "launchpad.time_snapshot",
            returned(&array(&["UTC", "<int>0</int>", "<int>32503680000</int>"])),
            "ahead of this machine's, and Launchpad accepts ten minutes; set both clocks by NTP",
        ),
        ("launchpad.time_snapshot", fault(-32601), "install the plugin countersign_trac"),
        ("launchpad.bug_info", trac_result(&array(&[])), "there is no bug 7"),
        ("launchpad.bug_info", forbidden(), "see that its user has the permissions LAUNCHPAD_RPC"),
        ("launchpad.get_comments", trac_result(&array(&[])), "update the tracker's plugin"),
        ("launchpad.get_launchpad_bug", fault(1004), "fault 1004"),
    ] {
        let line = trac_failure(method, with).await;
        assert!(line.contains(expected), "{line}");
    }
    let refuses = |method: &'static str| {
        move |request: &Request| {
            (request.method() == Some(method) && request.has_session).then(|| fault(1002))
        }
    };
    let line = only_failure(&["trac", "7", "--write"], trac, refuses("launchpad.set_launchpad_bug")).await;
    assert!(line.starts_with("link      FAILED: to Launchpad's bug 4711, and cannot be set: "), "{line}");
    let both = StubTracker::start(move |request| {
        refuses("launchpad.set_launchpad_bug")(request).unwrap_or_else(|| trac(request))
    });
    let sight = see_with(&both, &["trac", "7"]).await.unwrap();
    assert!(sight.lines().contains("\ncomment   FAILED: could not be added, for the reason of the link"));
    assert_eq!(sight.document()["comment_can_be_added"], false);
    let line = only_failure(&["trac", "7", "--write"], trac, refuses("launchpad.add_comment")).await;
    assert!(line.starts_with("comment   FAILED: launchpad.add_comment answers with fault 1002"), "{line}");
}

#[tokio::test]
async fn tracker_that_asks_no_login_is_reported() {
    for (kind, otherwise, method, with, expected) in [
        (
            "trac",
            trac as fn(&Request) -> String,
            "launchpad.set_launchpad_bug",
            fault(403),
            "logs in on HTTP status 403 only",
        ),
        (
            "trac",
            trac,
            "launchpad.set_launchpad_bug",
            trac_result("<int>0</int>"),
            "anybody can change links",
        ),
        ("bugzilla", bugzilla, "Launchpad.set_link", fault(32000), "logs in on fault 410 only"),
        ("bugzilla", bugzilla, "Launchpad.get_bugs", fault(410), "Launchpad reads without a session"),
        (
            "bugzilla",
            bugzilla,
            "Launchpad.get_bugs",
            returned(&structure(&[("bugs", &array(&[]))])),
            "not everybody may see the bug",
        ),
    ] {
        let line = only_failure(&[kind, "7"], otherwise, move |request| {
            (request.method() == Some(method) && !request.has_session).then(|| with.clone())
        })
        .await;
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test]
async fn no_token_is_used_without_a_plugin() {
    for (kind, answer) in [("trac", plain("404 Not Found", "", "")), ("bugzilla", fault(-32601))] {
        let both = StubTracker::start(move |_| answer.clone());
        let failure = see_with(&both, &[kind, "7"]).await.err().unwrap();
        let text = format!("{failure:?}");
        assert!(text.contains("there is no method") && text.contains("No token was used"), "{text}");
        assert!(text.contains("code: 1"), "{text}");
        assert_eq!(both.count("/v1/tokens"), 0);
    }
}

#[tokio::test]
async fn wrong_usage_is_code_2() {
    let both = StubTracker::start(trac);
    for arguments in
        [&["trac", "door"][..], &["trac", "7", "--timeout", "0s"], &["trac", "7", "--proxy", "x"]]
    {
        let failure = see_with(&both, arguments).await.err().unwrap();
        assert!(format!("{failure:?}").contains("code: 2"), "{failure:?}");
    }
    assert_eq!(both.count(""), 0);
}
