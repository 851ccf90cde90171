//! A Trac that behaves, and one that misbehaves in each way.

use std::sync::Mutex;

use crate::support::{NOW, Stub, TOKEN, answer, failure, impatient, run};
use countersign_login::{HttpSettings, Login, LoginError, Tracker, Zeroizing};

const TEXT: &str = "Content-Type: text/plain";
const CHALLENGE: &str = "WWW-Authenticate: LoginToken realm=\"launchpad-auth\"";
const SESSION: &str = "Set-Cookie: trac_auth=5e551on; HttpOnly; Path=/project; SameSite=Strict";

/// A Trac whose plugin answers the check as it should, and a token with this.
async fn trac(to_token: impl Into<String>) -> Stub {
    let to_token = to_token.into();
    Stub::start(move |request| {
        if request.starts_with("GET /project/launchpad-auth/check ") {
            answer(
                "401 Unauthorized",
                &[TEXT, CHALLENGE],
                "This Trac logs in whoever brings a login token.\n",
            )
        } else {
            assert!(request.starts_with(&format!("GET /project/launchpad-auth/{TOKEN} ")), "{request}");
            to_token.clone()
        }
    })
    .await
}

/// A Trac that answers everything with this; it never gets to see a token.
async fn broken(to_check: String) -> String {
    let stub = Stub::start(move |_| to_check.clone()).await;
    let sentence = failure(&stub.login(Tracker::Trac)).await;
    assert!(!stub.has_seen_the_token());
    sentence
}

async fn refused(text: &str) -> LoginError {
    let stub = trac(answer("401 Unauthorized", &[TEXT, CHALLENGE], text)).await;
    run(&stub.login(Tracker::Trac)).await.unwrap_err()
}

#[tokio::test]
async fn trac_login_returns_its_cookies() {
    let stub = trac(answer("200 OK", &[TEXT, SESSION], "Logged in as launchpad.\n")).await;
    let session = run(&stub.login(Tracker::Trac)).await.unwrap();
    assert_eq!(session.user.as_deref(), Some("launchpad"));
    assert_eq!(session.cookie_header(), "trac_auth=5e551on");
    assert_eq!(session.cookies[0].path, "/project");
    assert!(!format!("{session:?}").contains("5e551on"));
    let requests = stub.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.contains("user-agent: countersign/0.")), "{requests:?}");
}

/// Status and cookie are in the head of the answer, so that a long body, or one that breaks off, costs no token.
#[tokio::test]
async fn answer_with_complete_head_is_a_login() {
    let whole = answer("200 OK", &[TEXT, SESSION], "Logged in as launchpad.\n");
    for to_token in [
        answer("200 OK", &[SESSION], &"x".repeat(1024 * 1024)),
        whole[..whole.len() - 5].to_owned(),
        whole.replace("\r\n\r\n", "\r\n\r\n\u{feff}").replace("Content-Length: 24", "Content-Length: 27"),
    ] {
        let stub = trac(to_token).await;
        let session = run(&stub.login(Tracker::Trac)).await.unwrap();
        assert_eq!(session.cookie_header(), "trac_auth=5e551on");
        assert!(session.user.is_none_or(|user| user.starts_with("launch")));
    }
}

#[tokio::test]
async fn server_closing_idle_connections_gets_the_token() {
    let keep = |answer: String| answer.replace("Connection: close\r\n", "");
    let check = keep(answer("401 Unauthorized", &[TEXT, CHALLENGE], "This Trac logs in.\n"));
    let login = keep(answer("200 OK", &[TEXT, SESSION], "Logged in as launchpad.\n"));
    let stub =
        Stub::start(move |request| if request.contains("/check ") { check.clone() } else { login.clone() })
            .await;
    run(&stub.login(Tracker::Trac)).await.unwrap();
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn request_carries_the_trace() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (parent, told) in [(Some(PARENT), 2), (Some("what no\nheader can carry"), 0), (None, 0)] {
        let stub = trac(answer("200 OK", &[TEXT, SESSION], "Logged in as launchpad.\n")).await;
        let settings = HttpSettings { traceparent: parent, ..HttpSettings::default() };
        run(&stub.login(Tracker::Trac).http(settings)).await.unwrap();
        let header = format!("traceparent: {PARENT}\r\n");
        let requests = stub.requests();
        assert_eq!(requests.iter().filter(|request| request.contains(&header)).count(), told, "{requests:?}");
        assert!(told > 0 || !requests.concat().contains("traceparent"), "{requests:?}");
    }
}

#[tokio::test]
async fn token_is_bound_to_the_url_by_default() {
    let stub = trac(answer("200 OK", &[SESSION], "")).await;
    let asked = Mutex::new(Vec::new());
    let login = stub.login(Tracker::Trac);
    let elsewhere = Some("https://trac.example.org/".to_owned());
    for login in [login.clone(), login.clone().audience(elsewhere), login.audience(None)] {
        let source = async |audience: Option<&str>| {
            asked.lock().unwrap().push(audience.map(str::to_owned));
            Ok::<_, std::io::Error>(Zeroizing::new(TOKEN.to_owned()))
        };
        login.run(NOW.parse().unwrap(), source).await.unwrap();
    }
    let expected = [Some(stub.url()), Some("https://trac.example.org/".to_owned()), None];
    assert_eq!(*asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn trailing_slash_of_the_url_is_ignored() {
    let stub = trac(answer("200 OK", &[SESSION], "")).await;
    let login = Login::new(Tracker::Trac, &format!("{}/", stub.url())).unwrap();
    assert_eq!(run(&login).await.unwrap().user, None);
}

#[tokio::test]
async fn refusals_are_distinguished() {
    let error =
        refused("The issuer refused this token: it was issued for another bug tracker than this one.\n")
            .await;
    assert!(matches!(&error, LoginError::Refused { audience: Some(_), .. }), "{error:?}");
    let sentence = error.to_string();
    assert!(
        sentence.contains("another bug tracker than this one)") && sentence.contains("--audience"),
        "{sentence}"
    );

    for text in [
        "The issuer could not be reached. Try again later.\n",
        "The issuer cannot answer just now (HTTP 503). Try again later.\n",
    ] {
        assert!(matches!(refused(text).await, LoginError::IssuerUnreachable { .. }), "{text}");
    }
    for text in [
        "Login by token is not configured here. Its administrator finds the reason in the log of this Trac.\n",
        "The issuer refused this token: HTTP 302 is neither a yes nor a known no. [launchpad] auth_server may name the \
         wrong URL.\n",
    ] {
        assert!(matches!(refused(text).await, LoginError::NotConfigured { .. }), "{text}");
    }
    for text in [
        "The web server has already logged you in as somebody else. Come without a password.\n",
        "That is not a login token: a token is 1 to 4096 letters and digits.\n",
    ] {
        assert!(matches!(refused(text).await, LoginError::Unexpected { .. }), "{text}");
    }
    assert!(matches!(refused("Go away").await, LoginError::Refused { .. }));
}

#[tokio::test]
async fn refused_unbound_token_blames_no_audience() {
    let stub = trac(answer("401 Unauthorized", &[TEXT], "The issuer refused this token: used.\n")).await;
    let sentence = failure(&stub.login(Tracker::Trac).audience(None)).await;
    assert!(sentence.contains("for no tracker in particular"), "{sentence}");
}

#[tokio::test]
async fn echoed_token_is_kept_out_of_the_error() {
    let error = refused(&format!("Who is {TOKEN}?\u{1b}[2J")).await;
    assert!(error.to_string().contains("Who is [token]? [2J"), "{error}");
    let stub = trac(answer("500 No", &[TEXT], &format!("at /launchpad-auth/{TOKEN}"))).await;
    assert!(failure(&stub.login(Tracker::Trac)).await.contains("HTTP status 500"));
    // Nor by a redirect, which is not followed.
    let stub = trac(answer("302 Found", &[&format!("Location: /project/{TOKEN}")], "")).await;
    assert!(failure(&stub.login(Tracker::Trac)).await.contains("HTTP status 302"));
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn missing_cookie_is_no_session() {
    for cookie in [
        "X: y",
        "Set-Cookie: trac_session=a",
        "Set-Cookie: trac_auth=; Max-Age=0",
        "Set-Cookie: trac_auth=a; Domain=example.org",
    ] {
        let stub = trac(answer("200 OK", &[TEXT, cookie], "Logged in as launchpad.\n")).await;
        let sentence = failure(&stub.login(Tracker::Trac)).await;
        assert!(sentence.contains("did not set the cookie trac_auth"), "{cookie}: {sentence}");
    }
}

#[tokio::test]
async fn generic_tracker_may_name_its_session_cookie() {
    let stub =
        trac(answer("200 OK", &[TEXT, "Set-Cookie: launchpad_session=a"], "Logged in as launchpad.\n")).await;
    let session = run(&stub.login(Tracker::Trac)).await.unwrap();
    assert_eq!(session.cookie_header(), "launchpad_session=a");
}

#[tokio::test]
async fn missing_plugin_uses_no_token() {
    let sentence = broken(answer("404 Not Found", &[], "")).await;
    assert!(sentence.contains("install and enable countersign_trac"), "{sentence}");
    let sentence = broken(answer("200 OK", &[SESSION], "<html>")).await;
    assert!(sentence.contains("with 200"), "{sentence}");
    let sentence = broken(answer("503 Busy", &[], "")).await;
    assert!(sentence.contains("HTTP status 503, not 401"), "{sentence}");
    let sentence = broken(answer("401 Unauthorized", &["WWW-Authenticate: Basic realm=\"trac\""], "")).await;
    assert!(sentence.contains("asks for a password") && sentence.contains("/launchpad-auth/"), "{sentence}");
}

#[tokio::test]
async fn redirect_is_named_and_not_followed() {
    let to = "Location: https://trac.example.org/p/launchpad-auth/check";
    let sentence = broken(answer("301 Moved", &[to], "")).await;
    assert!(sentence.contains("redirects to https://trac.example.org/p;"), "{sentence}");
    let sentence = broken(answer("302 Found", &["Location: https://["], "")).await;
    assert!(sentence.contains("redirects to what is not a URL"), "{sentence}");
}

#[tokio::test]
async fn silent_and_garbled_answers_are_reported() {
    for nonsense in
        [String::new(), "SSH-2.0-OpenSSH\r\n".to_owned(), answer("401 No", &[], &"x".repeat(100_000))]
    {
        let sentence = broken(nonsense).await;
        assert!(sentence.starts_with("the tracker does not answer ("), "{sentence}");
    }
    let stub = trac("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nLogged").await;
    let sentence = failure(&stub.login(Tracker::Trac).http(impatient())).await;
    assert!(sentence.contains("gave no answer to the token ("), "{sentence}");

    let closed = Login::new(Tracker::Trac, "http://127.0.0.1:1/").unwrap();
    assert!(failure(&closed).await.contains("refused"));
}

#[tokio::test]
async fn missing_answer_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sentence = failure(&Login::new(Tracker::Trac, &url).unwrap().http(impatient())).await;
    assert!(sentence.contains("nothing within 0.2 s"), "{sentence}");
}

#[tokio::test]
async fn token_is_never_sent_over_plain_http() {
    for url in
        ["http://trac.example.org/", "http://192.0.2.1/", "http://localhost.example.org/", "http://[::2]/"]
    {
        let login = Login::new(Tracker::Trac, url).unwrap();
        let error = run(&login).await.unwrap_err();
        assert!(matches!(error, LoginError::PlainHttp) && error.is_usage(), "{url}: {error:?}");
    }
    // Behind a proxy, this machine's own address may be any machine's.
    let stub = trac(answer("200 OK", &[SESSION], "")).await;
    let proxied = HttpSettings { proxy: Some("http://127.0.0.1:1"), ..HttpSettings::default() };
    let login = stub.login(Tracker::Trac).http(proxied);
    assert!(matches!(run(&login).await, Err(LoginError::PlainHttp)));
}

#[tokio::test]
async fn proxy_is_used_with_connect() {
    let proxy = Stub::start(|_| answer("403 Forbidden", &[], "")).await;
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let settings = HttpSettings { proxy: Some(&address), allow_http: true, ..HttpSettings::default() };
    let sentence =
        failure(&Login::new(Tracker::Trac, "http://trac.example.org/").unwrap().http(settings)).await;
    assert!(sentence.starts_with("the tracker does not answer ("), "{sentence}");
    assert!(proxy.requests()[0].starts_with("CONNECT trac.example.org:80 "), "{:?}", proxy.requests());

    for proxy in ["", "proxy:3128", "https://p/", "http://u:p@p/", "http://p/x", "http://p/?x"] {
        let settings = HttpSettings { proxy: Some(proxy), allow_http: true, ..HttpSettings::default() };
        let login = Login::new(Tracker::Trac, "http://127.0.0.1/").unwrap().http(settings);
        assert!(matches!(run(&login).await, Err(LoginError::Proxy)), "{proxy:?}");
    }
}

#[tokio::test]
async fn malformed_token_is_not_brought() {
    let stub = trac(answer("200 OK", &[SESSION], "")).await;
    for text in ["", "../+index", "a b", "tokén", &"a".repeat(5000)] {
        let source = async |_: Option<&str>| Ok::<_, std::io::Error>(Zeroizing::new(text.to_owned()));
        let error = stub.login(Tracker::Trac).run(NOW.parse().unwrap(), source).await.unwrap_err();
        assert!(matches!(error, LoginError::TokenText), "{text}: {error}");
    }
    let source = async |_: Option<&str>| Err::<Zeroizing<String>, _>("the issuer is away");
    let error = stub.login(Tracker::Trac).run(NOW.parse().unwrap(), source).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no token to log in with: the issuer is away");
    assert!(stub.requests().iter().all(|request| request.contains("/check ")));
}

#[test]
fn invalid_audiences_are_rejected() {
    for url in [
        "",
        "trac.example.org",
        "ftp://trac.example.org/",
        "https://user:s3cret@trac.example.org/",
        "https://trac.example.org/?a",
        "https://trac.example.org/#a",
    ] {
        let error = Login::new(Tracker::Trac, url).unwrap_err();
        assert!(matches!(error, LoginError::Address), "{url}");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
}
