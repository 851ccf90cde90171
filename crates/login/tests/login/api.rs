//! The plugin API, as a tracker answers it.

use countersign_login::{ApiError, ApiFailure, Login, PluginApi, Tracker};
use jiff::Timestamp;

use crate::support::{Stub, answer, impatient, run};

const XML: &str = "Content-Type: text/xml";
const NIL: &str = "<nil/>";

fn int(number: i64) -> String {
    format!("<int>{number}</int>")
}

fn text(text: &str) -> String {
    format!("<string>{text}</string>")
}

fn date(text: &str) -> String {
    format!("<dateTime.iso8601>{text}</dateTime.iso8601>")
}

fn array(values: &[String]) -> String {
    let values: String = values.iter().map(|value| format!("<value>{value}</value>")).collect();
    format!("<array><data>{values}</data></array>")
}

fn structure(members: &[(&str, String)]) -> String {
    let member = |(name, value): &(&str, String)| {
        format!("<member><name>{name}</name><value>{value}</value></member>")
    };
    format!("<struct>{}</struct>", members.iter().map(member).collect::<String>())
}

fn returned(value: &str) -> String {
    let body =
        format!("<methodResponse><params><param><value>{value}</value></param></params></methodResponse>");
    answer("200 OK", &[XML], &body)
}

fn fault(code: i64) -> String {
    let fault = structure(&[("faultCode", int(code)), ("faultString", text("No &lt;b&gt;."))]);
    let body = format!("<methodResponse><fault><value>{fault}</value></fault></methodResponse>");
    answer("200 OK", &[XML], &body)
}

/// Without the time, with which a Trac begins every answer.
fn trac(value: &str) -> String {
    returned(&array(&[int(1_791_000_000), value.to_owned()]))
}

async fn stub(answers: impl Fn(&str) -> String + Send + Sync + 'static) -> Stub {
    Stub::start(move |request| {
        let method = request.split_once("<methodName>").map_or("", |(_, rest)| rest);
        answers(method.split_once('<').map_or(request.lines().next().unwrap(), |(method, _)| method))
    })
    .await
}

fn api(stub: &Stub, tracker: Tracker) -> PluginApi {
    stub.login(tracker).plugin_api().unwrap()
}

/// The API of a tracker that answers every call with this.
async fn always(tracker: Tracker, with: String) -> (Stub, PluginApi) {
    let stub = stub(move |_| with.clone()).await;
    let api = api(&stub, tracker);
    (stub, api)
}

fn last(stub: &Stub) -> String {
    let request = stub.requests().pop().unwrap();
    request.split_once("<params>").unwrap().1.to_owned()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The closed ticket 7 of a Trac, with two comments.
fn ticket() -> String {
    array(&[structure(&[
        ("id", text("7")),
        ("status", text("closed")),
        ("resolution", text("fixed")),
        ("comments", array(&[text("7:1"), text("7:2")])),
    ])])
}

fn comment(id: &str, words: &str) -> String {
    structure(&[
        ("id", text(id)),
        ("type", text("comment")),
        ("user", text("Alice Doe &lt;alice@example.org&gt;")),
        ("comment", text(words)),
        ("timestamp", int(1_791_000_001)),
    ])
}

#[tokio::test]
async fn trac_login_makes_the_expected_requests() {
    let stub = stub(|method| match method {
        "launchpad.time_snapshot" => {
            returned(&array(&[text("CET"), int(1_791_003_600), "<double>1791000000.5</double>".to_owned()]))
        }
        "launchpad.bug_info" => trac(&ticket()),
        "launchpad.get_comments" => trac(&array(&[comment("7:2", "Oiled it."), comment("7:1", "Déjà vu?")])),
        "launchpad.add_comment" => trac(&text("7:3")),
        "launchpad.get_launchpad_bug" => trac(&int(4711)),
        "launchpad.set_launchpad_bug" => returned(&array(&[int(1)])),
        "GET /project/launchpad-auth/check HTTP/1.1" => answer("401 Unauthorized", &[], ""),
        other => panic!("{other}"),
    })
    .await;
    let api = api(&stub, Tracker::Trac);
    api.find().await.unwrap();
    assert_eq!(api.time().await.unwrap().as_millisecond(), 1_791_000_000_500);
    let bug = api.bug("7").await.unwrap().unwrap();
    assert_eq!((&*bug.id, &*bug.status, &*bug.resolution), ("7", "closed", "fixed"));
    assert!(last(&stub).starts_with("<param><value><i4>2</i4></value></param>"), "{}", last(&stub));
    let comments = api.comments(&bug).await.unwrap();
    assert_eq!(comments.iter().map(|comment| &*comment.text).collect::<Vec<_>>(), ["Déjà vu?", "Oiled it."]);
    assert_eq!((&*comments[1].id, comments[1].time), ("7:2", at(1_791_000_001)));
    assert_eq!(comments[1].author, "Alice Doe <alice@example.org>");
    assert_eq!(api.add_comment(&bug, "<&>").await.unwrap(), "7:3");
    assert!(last(&stub).contains("<string>7</string>") && last(&stub).contains("&lt;&amp;&gt;"));
    assert_eq!(api.link("7").await.unwrap(), Some(4711));
    api.set_link(&bug, None).await.unwrap();
    assert!(last(&stub).contains("<i4>0</i4>"), "{}", last(&stub));
    assert_eq!(api.changed_since(&["7", "8"], at(1_791_000_000)).await.unwrap(), ["7"]);
    assert!(
        last(&stub).contains("<i4>0</i4>") && last(&stub).contains("<i4>1791000000</i4>"),
        "{}",
        last(&stub)
    );
    assert!(stub.requests().iter().skip(1).all(|request| request.starts_with("POST /project/xmlrpc HTTP")));
}

/// Bug 7 of a Bugzilla, whose alias is door.
fn bug() -> Vec<(&'static str, String)> {
    vec![
        ("id", int(7)),
        ("alias", array(&[text("door")])),
        ("status", text("NEW")),
        ("resolution", text("")),
        ("priority", text("---")),
        ("severity", text("normal")),
        ("product", text("TestProduct")),
        ("internals", structure(&[("launchpad_id", int(4711))])),
    ]
}

fn bugs(bug: &[(&str, String)]) -> String {
    structure(&[("bugs", array(&[structure(bug)]))])
}

fn bugzilla_comment() -> Vec<(&'static str, String)> {
    vec![
        ("id", int(12)),
        ("author", text("admin@example.org")),
        ("text", text("Déjà vu?")),
        ("time", date("20261123T21:59:58")),
    ]
}

fn comments(comment: &[(&str, String)]) -> String {
    structure(&[("bugs", structure(&[("7", array(&[structure(comment)]))]))])
}

#[tokio::test]
async fn bugzilla_login_makes_the_expected_requests() {
    let stub = stub(|method| {
        returned(&match method {
            "Launchpad.plugin_version" => text("1"),
            "Launchpad.time" => structure(&[("utc_time", date("20261123T21:59:59"))]),
            "Launchpad.get_bugs" => bugs(&bug()),
            "Launchpad.comments" => comments(&bugzilla_comment()),
            "Launchpad.add_comment" => structure(&[("comment_id", int(13))]),
            "Launchpad.set_link" => structure(&[]),
            other => panic!("{other}"),
        })
    })
    .await;
    let api = api(&stub, Tracker::Bugzilla);
    api.find().await.unwrap();
    assert_eq!(api.time().await.unwrap(), "2026-11-23T21:59:59Z".parse().unwrap());
    let bug = api.bug("door").await.unwrap().unwrap();
    assert_eq!((&*bug.id, &*bug.status, &*bug.resolution), ("door", "NEW", ""));
    assert!(last(&stub).contains("<string>door</string>"), "{}", last(&stub));
    let [comment] = &api.comments(&bug).await.unwrap()[..] else { panic!("not one") };
    assert_eq!((&*comment.id, &*comment.author, &*comment.text), ("12", "admin@example.org", "Déjà vu?"));
    assert_eq!(comment.time, "2026-11-23T21:59:58Z".parse().unwrap());
    assert_eq!(api.add_comment(&bug, "Hello").await.unwrap(), "13");
    assert!(last(&stub).contains("<i4>7</i4>"), "{}", last(&stub));
    assert_eq!(api.link("7").await.unwrap(), Some(4711));
    api.set_link(&bug, Some(4712)).await.unwrap();
    assert!(last(&stub).contains("<i4>4712</i4>"), "{}", last(&stub));
    let error = api.changed_since(&["7"], at(1_791_000_000)).await.unwrap_err();
    assert!(error.seen().ends_with("result.bugs[0].id is an integer, not a string"), "{error}");
    assert!(
        last(&stub).contains("<dateTime.iso8601>20261003T04:00:00</dateTime.iso8601>"),
        "{}",
        last(&stub)
    );
}

#[tokio::test]
async fn session_is_sent_with_every_call() {
    let stub = Stub::start(|request| match request.lines().next().unwrap() {
        "GET /project/launchpad-auth/check HTTP/1.1" => answer("401 Unauthorized", &[], ""),
        "POST /project/xmlrpc HTTP/1.1" => trac(&int(0)),
        _ => answer(
            "200 OK",
            &["Set-Cookie: trac_auth=5e551on; Path=/project", "Set-Cookie: other=x; Path=/other"],
            "",
        ),
    })
    .await;
    let session = run(&stub.login(Tracker::Trac)).await.unwrap();
    let mut api = api(&stub, Tracker::Trac);
    api.use_session(&session).unwrap();
    assert_eq!(api.link("7").await.unwrap(), None);
    let request = stub.requests().pop().unwrap();
    assert!(request.contains("cookie: trac_auth=5e551on\r\n"), "{request}");

    let elsewhere = Login::new(Tracker::Trac, &stub.url().replace("project", "wiki")).unwrap();
    let error = elsewhere.plugin_api().unwrap().use_session(&session).unwrap_err();
    assert!(matches!(error.trouble, ApiFailure::CookiesElsewhere { .. }), "{error}");
}

#[tokio::test]
async fn missing_bug_is_none() {
    let missing = structure(&[("id", text("99")), ("status", text("missing"))]);
    for with in [array(&[missing]), array(&[]), ticket()] {
        let (_stub, api) = always(Tracker::Trac, trac(&with)).await;
        assert_eq!(api.bug("99").await.unwrap(), None, "{with}");
    }
    for with in [structure(&[("bugs", array(&[]))]), bugs(&bug())] {
        let (_stub, api) = always(Tracker::Bugzilla, returned(&with)).await;
        assert_eq!(api.bug("99").await.unwrap(), None, "{with}");
        assert!(matches!(api.link("99").await.unwrap_err().trouble, ApiFailure::NoSuchBug { .. }));
    }
}

/// What is said of an answer that cannot be used.
async fn unusable<T: std::fmt::Debug>(
    tracker: Tracker,
    with: String,
    call: impl AsyncFn(PluginApi) -> Result<T, ApiError>,
) -> String {
    let (_stub, api) = always(tracker, with).await;
    let error = call(api).await.unwrap_err();
    assert_eq!(error.remedy(), "update the tracker's plugin");
    let seen = error.seen();
    let (what, found) = seen.split_once(": ").unwrap();
    assert!(what.starts_with("Launchpad cannot use the answer to "), "{seen}");
    found.to_owned()
}

#[tokio::test]
async fn unusable_trac_answers_are_reported() {
    let tracker = Tracker::Trac;
    for (with, expected) in [
        (int(5), "result is an integer, not an array"),
        (array(&[text("UTC"), int(1)]), "result has 2 items, not 3"),
        (array(&[text("UTC"), int(1), date("20261123T21:59:59")]), "result[2] is a date, not a number"),
        (
            array(&[text("UTC"), int(1), "<double>1e300</double>".to_owned()]),
            "result[2] is not a time in seconds since 1970",
        ),
    ] {
        assert_eq!(unusable(tracker, returned(&with), async |api| api.time().await).await, expected);
    }
    for (member, value, expected) in [
        ("id", text("seven"), "result[1][0].id is not a number"),
        ("status", NIL.to_owned(), "result[1][0].status is nil, not a string"),
        ("comments", array(&[int(3)]), "result[1][0].comments[0] is an integer, not a string"),
        ("resolution", int(3), "result[1][0].resolution is an integer, not a string"),
    ] {
        let mut bug = vec![
            ("id", text("7")),
            ("status", text("new")),
            ("resolution", text("")),
            ("comments", array(&[])),
        ];
        bug.iter_mut().find(|(name, _)| *name == member).unwrap().1 = value;
        let with = trac(&array(&[structure(&bug)]));
        assert_eq!(unusable(tracker, with, async |api| api.bug("7").await).await, expected);
    }
    let numbers = trac(&array(&[structure(&[("id", int(7))])]));
    assert_eq!(
        unusable(tracker, numbers, async |api| api.changed_since(&["7"], at(0)).await).await,
        "result[1][0].id is an integer, not a string"
    );
    assert_eq!(
        unusable(tracker, trac(&int(1 << 31)), async |api| api.link("7").await).await,
        "result[1] is too large for an integer of XML-RPC"
    );
    assert_eq!(
        unusable(tracker, trac(&text("")), async |api| api.link("7").await).await,
        "result[1] is a string, not an integer"
    );
}

#[tokio::test]
async fn listed_but_missing_trac_comments_are_reported() {
    for (given, expected) in [
        (array(&[comment("7:1", "x")]), "result has no comment \"7:2\", which is listed with the bug"),
        (
            array(&[structure(&[("id", text("7:1")), ("type", text("missing"))])]),
            "result[1][0] has no member user",
        ),
    ] {
        let stub = stub(move |method| match method {
            "launchpad.bug_info" => trac(&ticket()),
            _ => trac(&given),
        })
        .await;
        let api = api(&stub, Tracker::Trac);
        let bug = api.bug("7").await.unwrap().unwrap();
        let seen = api.comments(&bug).await.unwrap_err().seen();
        assert_eq!(seen, format!("Launchpad cannot use the answer to launchpad.get_comments: {expected}"));
        let seen = api.add_comment(&bug, "x").await.unwrap_err().seen();
        assert!(seen.ends_with("result[1] is an array, not a string"), "{seen}");
    }
}

#[tokio::test]
async fn unusable_bugzilla_answers_are_reported() {
    let tracker = Tracker::Bugzilla;
    for (time, expected) in [
        (date("2026-11-23T21:59:59Z"), "result.utc_time is not a date like 20261130T05:16:23"),
        (date("20261123T21:59:59Z"), "result.utc_time is not a date like 20261130T05:16:23"),
        (date("20261123T21:59:5"), "result.utc_time is not a date like 20261130T05:16:23"),
        (text("20261123T21:59:59"), "result.utc_time is a string, not a date"),
    ] {
        let with = returned(&structure(&[("utc_time", time)]));
        assert_eq!(unusable(tracker, with, async |api| api.time().await).await, expected);
    }
    for (member, value, expected) in [
        ("id", text("7"), "result.bugs[0].id is a string, not an integer"),
        ("status", NIL.to_owned(), "result.bugs[0].status is nil, not a string"),
        ("priority", int(1), "result.bugs[0].priority is an integer, not a string"),
        ("internals", array(&[]), "result.bugs[0].internals is an array, not a struct"),
        ("alias", int(1), "result.bugs[0].alias is an integer, not an array"),
    ] {
        let mut bug = bug();
        bug.iter_mut().find(|(name, _)| *name == member).unwrap().1 = value;
        let with = returned(&bugs(&bug));
        assert_eq!(unusable(tracker, with, async |api| api.bug("7").await).await, expected);
    }
    let without = &bug()[..6];
    assert_eq!(
        unusable(tracker, returned(&bugs(without)), async |api| api.bug("7").await).await,
        "result.bugs[0] has no member product"
    );
    for (member, value, expected) in [
        ("id", text("12"), "result.bugs.7[0].id is a string, not an integer"),
        ("time", text("now"), "result.bugs.7[0].time is a string, not a date"),
        ("author", NIL.to_owned(), "result.bugs.7[0].author is nil, not a string"),
    ] {
        let mut comment = bugzilla_comment();
        comment.iter_mut().find(|(name, _)| *name == member).unwrap().1 = value;
        let stub = stub(move |method| {
            returned(&if method == "Launchpad.get_bugs" { bugs(&bug()) } else { comments(&comment) })
        })
        .await;
        let api = api(&stub, tracker);
        let bug = api.bug("7").await.unwrap().unwrap();
        let seen = api.comments(&bug).await.unwrap_err().seen();
        assert!(seen.ends_with(expected), "{seen}");
    }
}

#[tokio::test]
async fn missing_result_is_explained() {
    let page = |status: &str| answer(status, &["Content-Type: text/html"], "<p>Sorry</p>");
    let plain = |status: &str| answer(status, &["Content-Type: text/plain"], "You lack a permission.\n");
    for (tracker, with, seen, remedy) in [
        (
            Tracker::Trac,
            plain("403 Forbidden"),
            "launchpad.get_launchpad_bug asks for a login (the tracker says: You lack a permission)",
            "LAUNCHPAD_RPC",
        ),
        (
            Tracker::Trac,
            page("404 Not Found"),
            "there is no method launchpad.get_launchpad_bug (HTTP status 404)",
            "install",
        ),
        (
            Tracker::Trac,
            fault(-32601),
            "there is no method launchpad.get_launchpad_bug (fault -32601)",
            "install",
        ),
        (Tracker::Trac, fault(1001), "does not know the bug (the tracker says: No <b>)", "name another bug"),
        (Tracker::Trac, fault(1002), "answers with fault 1002 (the tracker says: No <b>)", "TICKET_APPEND"),
        (Tracker::Trac, page("500 Oops"), "answers with HTTP status 500", "look into the log"),
        (
            Tracker::Trac,
            page("200 OK"),
            "answers with something else than XML-RPC",
            "a page that a web server",
        ),
        (
            Tracker::Trac,
            answer("401 No", &["WWW-Authenticate: Basic realm=x"], ""),
            "the web server asks for a password before launchpad.get_launchpad_bug is reached",
            "exempt /xmlrpc from that",
        ),
        (
            Tracker::Trac,
            answer("301 Moved", &["Location: https://trac.example.org/xmlrpc"], ""),
            "is redirected to https://trac.example.org/xmlrpc",
            "give the URL where the tracker is",
        ),
        (
            Tracker::Trac,
            trac(&int(7))[..150].to_owned(),
            "the answer to launchpad.get_launchpad_bug is not whole (",
            "--timeout",
        ),
        (
            Tracker::Bugzilla,
            fault(410),
            "Launchpad.get_bugs asks for a login (the tracker says: No <b>)",
            "launchpad_user",
        ),
        (Tracker::Bugzilla, page("403 Forbidden"), "answers with HTTP status 403", "launchpad_user"),
        (Tracker::Bugzilla, fault(102), "does not know the bug", "let the issuer's user see this one"),
        (Tracker::Bugzilla, fault(32000), "answers with fault 32000", "look into the log"),
    ] {
        let (_stub, api) = always(tracker, with).await;
        let error = api.link("7").await.unwrap_err();
        assert!(error.seen().contains(seen), "{error}");
        assert!(error.to_string().contains(remedy), "{error}");
    }
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let api = Login::new(Tracker::Trac, &url).unwrap().http(impatient()).plugin_api().unwrap();
    let error = api.time().await.unwrap_err();
    assert!(
        error.seen().starts_with("there is no answer to launchpad.time_snapshot (nothing within 0.2 s"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_plugin_is_reported() {
    for (with, expected) in [
        (answer("200 OK", &[], ""), "there is no method launchpad-auth/check (HTTP status 200, not 401)"),
        (
            answer("401 No", &["WWW-Authenticate: Basic realm=x"], ""),
            "the web server asks for a password before launchpad-auth/check is reached",
        ),
    ] {
        let (_stub, api) = always(Tracker::Trac, with).await;
        assert_eq!(api.find().await.unwrap_err().seen(), expected);
    }
    let (_stub, api) = always(Tracker::Bugzilla, fault(-32601)).await;
    assert!(matches!(api.find().await.unwrap_err().trouble, ApiFailure::NoMethod { .. }));
}

#[tokio::test]
async fn statuses_unknown_to_launchpad_are_reported() {
    for (tracker, status, resolution, is_known) in [
        (Tracker::Trac, "new", "", true),
        (Tracker::Trac, "closed", "fixed", true),
        (Tracker::Trac, "closed", "--", true),
        (Tracker::Trac, "closed", "postponed", false),
        (Tracker::Trac, "triaged", "", false),
        (Tracker::Bugzilla, "NEW", "", true),
        (Tracker::Bugzilla, "CONFIRMED", "", false),
        (Tracker::Bugzilla, "RESOLVED", "FIXED", true),
        (Tracker::Bugzilla, "RESOLVED", "", false),
        (Tracker::Bugzilla, "RESOLVED", "MOVED", false),
    ] {
        let states = [("status", text(status)), ("resolution", text(resolution))];
        let with = if tracker == Tracker::Trac {
            let bug = structure(&[&states[..], &[("id", text("7")), ("comments", array(&[]))]].concat());
            trac(&array(&[bug]))
        } else {
            let fields = [("priority", text("P1")), ("severity", text("minor")), ("product", text("Door"))];
            let bug = structure(&[&states[..], &[("id", int(7))], &fields].concat());
            returned(&structure(&[("bugs", array(&[bug]))]))
        };
        let bug = always(tracker, with).await.1.bug("7").await.unwrap().unwrap();
        assert_eq!(bug.is_known_to_launchpad, is_known, "{tracker} {status} {resolution}");
    }
}
