//! A Bugzilla that behaves, and one that misbehaves in each way.

use crate::support::{Stub, TOKEN, answer, failure, run};
use countersign_login::{LoginError, Tracker};

const XML: &str = "Content-Type: text/xml";
const COOKIES: [&str; 2] = [
    "Set-Cookie: Bugzilla_login=7; path=/; HttpOnly",
    "Set-Cookie: Bugzilla_logincookie=5e551on; path=/; HttpOnly",
];
const USER: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><methodResponse><params><param><value><struct><member>\
    <name>user_id</name><value><int>7</int></value></member></struct></value></param></params></methodResponse>";

fn fault(code: &str, text: &str) -> String {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><methodResponse><fault><value><struct>\
         <member><name>faultCode</name><value>{code}</value></member>\
         <member><name>faultString</name><value><string>{text}</string></value></member>\
         </struct></value></fault></methodResponse>"
    );
    answer("200 OK", &[XML], &document)
}

/// A Bugzilla that has the extension, and meets a token with this.
async fn bugzilla(to_token: String) -> Stub {
    Stub::start(move |request| {
        assert!(request.starts_with("POST /project/xmlrpc.cgi "), "{request}");
        assert!(request.contains("<methodName>Launchpad.login</methodName>"), "{request}");
        if request.contains("<name>token</name>") {
            assert!(request.contains(&format!("<value><string>{TOKEN}</string></value>")), "{request}");
            to_token.clone()
        } else {
            fault("<int>10701</int>", "Launchpad.login needs a login token of letters and digits.")
        }
    })
    .await
}

async fn refused(code: u32, text: &str) -> LoginError {
    let stub = bugzilla(fault(&format!("<int>{code}</int>"), text)).await;
    run(&stub.login(Tracker::Bugzilla)).await.unwrap_err()
}

/// A Bugzilla that answers everything with this; it never gets to see a token.
async fn broken(to_call: String) -> String {
    let stub = Stub::start(move |_| to_call.clone()).await;
    let sentence = failure(&stub.login(Tracker::Bugzilla)).await;
    assert!(!stub.has_seen_the_token());
    sentence
}

#[tokio::test]
async fn bugzilla_login_returns_its_cookies() {
    let stub = bugzilla(answer("200 OK", &[XML, COOKIES[0], COOKIES[1]], USER)).await;
    let session = run(&stub.login(Tracker::Bugzilla)).await.unwrap();
    assert_eq!(session.user.as_deref(), Some("7"));
    assert_eq!(session.cookie_header(), "Bugzilla_login=7; Bugzilla_logincookie=5e551on");
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn readable_answer_is_a_login() {
    let more = USER.replace("<struct>", "<struct><member><name>login</name><value><nil/></value></member>");
    let two = USER.replace("</param>", "</param><param><value>more</value></param>");
    let latin = USER.replace("UTF-8", "ISO-8859-1");
    for body in [format!("\u{feff}{USER}"), more, two, latin] {
        let stub = bugzilla(answer("200 OK", &[XML, COOKIES[0], COOKIES[1]], &body)).await;
        let session = run(&stub.login(Tracker::Bugzilla)).await.unwrap();
        assert_eq!(session.user.as_deref(), Some("7"), "{body}");
    }
}

#[tokio::test]
async fn truncated_answer_counts_as_lost() {
    let whole = answer("200 OK", &[XML, COOKIES[0], COOKIES[1]], USER);
    let stub = bugzilla(whole[..whole.len() - 20].to_owned()).await;
    let error = run(&stub.login(Tracker::Bugzilla)).await.unwrap_err();
    assert!(matches!(error, LoginError::AnswerLost { .. }), "{error:?}");
}

#[tokio::test]
async fn faults_of_the_extension_are_distinguished() {
    let error = refused(10702, "The issuer refused this\n login token.").await;
    assert!(matches!(error, LoginError::Refused { .. }), "{error:?}");
    assert!(
        error.to_string().contains("(the tracker says: The issuer refused this login token);"),
        "{error}"
    );
    assert!(matches!(refused(10703, "").await, LoginError::IssuerUnreachable { .. }));
    assert!(matches!(refused(10704, "").await, LoginError::NotConfigured { .. }));
    assert!(matches!(refused(10705, "").await, LoginError::UserUnavailable { .. }));
    let error = refused(32000, &format!("DBI failed for {TOKEN}")).await.to_string();
    assert!(error.contains("fault 32000 (the tracker says: DBI failed for [token])"), "{error}");
    assert!(refused(10701, "").await.to_string().contains("fault 10701;"));
}

#[tokio::test]
async fn session_needs_both_cookies() {
    for (only, missing) in
        [(COOKIES[0], "Bugzilla_logincookie,"), (COOKIES[1], "Bugzilla_login,"), (XML, "Bugzilla_login,")]
    {
        let stub = bugzilla(answer("200 OK", &[only], USER)).await;
        let sentence = failure(&stub.login(Tracker::Bugzilla)).await;
        assert!(sentence.contains(&format!("did not set the cookie {missing}")), "{sentence}");
    }
}

#[tokio::test]
async fn unusable_answers_to_a_token_are_reported() {
    for (to_token, words) in [
        (answer("500 Oops", &[], TOKEN), "HTTP status 500"),
        (answer("302 Found", &[&format!("Location: /{TOKEN}")], ""), "HTTP status 302"),
        (answer("200 OK", &[XML, COOKIES[0], COOKIES[1]], TOKEN), "something else than XML-RPC"),
    ] {
        let stub = bugzilla(to_token).await;
        let sentence = failure(&stub.login(Tracker::Bugzilla)).await;
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[tokio::test]
async fn no_token_is_used_without_the_extension() {
    for code in ["<int>-32601</int>", "<string>Client</string>"] {
        let sentence = broken(fault(code, "There is no method named 'Launchpad.login'.")).await;
        assert!(sentence.contains("install the extension Launchpad"), "{code}: {sentence}");
    }
    let sentence = broken(answer("404 Not Found", &[], "")).await;
    assert!(sentence.contains("SOAP::Lite and XMLRPC::Lite"), "{sentence}");
}

#[tokio::test]
async fn foreign_page_gets_no_token() {
    for (to_call, words) in [
        (
            answer(
                "200 OK",
                &["Content-Type: text/html"],
                "<html><body>XML-RPC is not available</body></html>",
            ),
            "without SOAP::Lite",
        ),
        (answer("200 OK", &[XML], USER), "lets everybody in"),
        (answer("500 Oops", &[], ""), "HTTP status 500, not 200"),
        (answer("401 Unauthorized", &["WWW-Authenticate: Basic"], ""), "must exempt /xmlrpc.cgi"),
        (
            fault("<int>410</int>", "You must log in before using this part of Bugzilla."),
            "fault 410, You must log in",
        ),
        (fault("<int>0</int>", "ok"), "fault 0, ok"),
    ] {
        let sentence = broken(to_call).await;
        assert!(
            sentence.contains(words)
                && sentence.contains("No token was sent") | sentence.contains("no token was sent"),
            "{sentence}"
        );
    }
    let sentence =
        broken(answer("301 Moved", &["Location: https://bugs.example.org/b/xmlrpc.cgi"], "")).await;
    assert!(sentence.contains("redirects to https://bugs.example.org/b;"), "{sentence}");
}

#[tokio::test]
async fn older_extension_is_recognized_by_its_fault() {
    for code in ["<int>10001</int>", "<int>-32000</int>", "<int>32000</int>"] {
        let probe = fault(code, "?");
        let stub = Stub::start(move |request| {
            if request.contains(TOKEN) {
                answer("200 OK", &[COOKIES[0], COOKIES[1]], USER)
            } else {
                probe.clone()
            }
        })
        .await;
        assert!(run(&stub.login(Tracker::Bugzilla).audience(None)).await.is_ok(), "{code}");
    }
}
