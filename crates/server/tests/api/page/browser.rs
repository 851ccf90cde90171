//! What the page permits a browser, and what an open page receives.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_server::limits::MAX_VIEWERS;
use data_encoding::BASE64;
use http_body_util::BodyExt;

use super::{HOST, ORIGIN, get, page, send_form, server};
use crate::fixture::{FORM, Fixture, Options, TRAC, handshake_path, post};

#[tokio::test(start_paused = true)]
async fn untrusted_text_is_escaped() {
    let server = server();
    let token = server.token_for(TRAC);
    let markup = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";
    let request = post(&handshake_path(&token))
        .header("content-type", FORM)
        .header("user-agent", markup)
        .body(Body::from("audience=https://evil.example/%3Cscript%3Ealert(3)%3C/script%3E\"'"))
        .unwrap();
    assert_eq!(server.public(request).await.status, StatusCode::FORBIDDEN);
    let page = page(&server, "/").await;
    assert!(page.contains("<strong>relay</strong>"), "{page}");
    assert!(
        page.contains("&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;&#60;img src=x"),
        "{page}"
    );
    assert!(!page.contains("<img") && !page.contains("alert(1)</script>") && !page.contains("\"'"), "{page}");
    // The page's own script is the only one, and none is inline.
    assert_eq!(page.matches("<script").count(), 1);
    assert!(page.contains("<script src=\"./page/script.js\" defer></script>"));
    assert!(!page.contains("style=") && !page.contains("<style"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn page_works_below_a_path_of_a_proxy() {
    let server = server();
    let answered = send_form(&server, &server.token(), "look").await.text;
    for (html, at) in [(page(&server, "/").await, "/"), (answered, "/page/token")] {
        let here = format!("http://proxy.example/countersign{at}").parse::<url::Url>().unwrap();
        let mut linked = std::collections::BTreeSet::new();
        for attribute in [" href=\"", " src=\"", " action=\""] {
            for rest in html.split(attribute).skip(1) {
                let link = rest.split('"').next().unwrap();
                let target = here.join(link).unwrap();
                let path = target.path().strip_prefix("/countersign/");
                linked.insert(path.unwrap_or_else(|| panic!("{at}: {link} leads to {target}")).to_owned());
            }
        }
        for path in [
            "",
            "page/icon/good",
            "page/events.csv",
            "page/events.jsonl",
            "page/style.css",
            "page/script.js",
            "page/token",
            "metrics",
            "openapi.json",
        ] {
            assert!(linked.contains(path), "{at}: {path} is not among {linked:?}");
        }
    }
}

#[tokio::test]
async fn foreign_pages_cannot_use_it() {
    let server = Fixture::new();
    let token = server.token();
    let forged = |host: &str, origin: Option<&str>, site: Option<&str>| {
        let mut request = post("/page/token").header("host", host).header("content-type", FORM);
        for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request.body(Body::from(format!("token={token}&do=revoke"))).unwrap()
    };
    for (host, origin, site) in [
        (HOST, Some("https://evil.example"), Some("cross-site")),
        (HOST, Some("null"), None),
        (HOST, Some("http://127.0.0.1:9999"), Some("same-site")),
        (HOST, Some("http://localhost:8087"), None),
        (HOST, None, None),
        (HOST, Some(ORIGIN), Some("cross-site")),
        ("evil.example:8087", Some("http://evil.example:8087"), Some("same-origin")),
    ] {
        let answer = server.private(forged(host, origin, site)).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{host} {origin:?} {site:?}");
    }
    assert_eq!(server.look(&token).await["status"], "live");
    // A name that points here is nobody's way to read, either; neither the page nor the API.
    for path in ["/", "/page/live", "/v1/events", "/v1/keys", "/metrics", "/bugs"] {
        let rebound = Request::get(path).header("host", "evil.example:8087").body(Body::empty()).unwrap();
        let answer = server.private(rebound).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(answer.text.contains("foreign-host"), "{answer:?}");
    }
    for host in ["localhost:8087", "127.0.0.1", "[::1]:8087", "LOCALHOST"] {
        let request = Request::get("/").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(server.private(request).await.status, StatusCode::OK, "{host}");
    }
    let image = Request::get("/page/style.css").header("host", HOST).header("sec-fetch-site", "cross-site");
    let image = image.header("sec-fetch-mode", "no-cors").body(Body::empty()).unwrap();
    assert_eq!(server.private(image).await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.private(forged(HOST, Some(ORIGIN), Some("same-origin"))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn every_page_answer_restricts_the_browser() {
    let server = Fixture::new();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/script.js", "text/javascript; charset=utf-8"),
        ("/page/icon/good", "image/svg+xml"),
        ("/page/icon/worth-a-look", "image/svg+xml"),
        ("/page/icon/bad", "image/svg+xml"),
        ("/page/icon/lost", "image/svg+xml"),
    ] {
        let answer = server.private(get(path)).await;
        // The icon of a server that is gone has to be there when the server is not.
        let kept = if path.starts_with("/page/icon/") { "private, max-age=86400" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), kept, "{path}");
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, media_type), "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && policy.contains("base-uri 'none'"));
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn browser_sends_secret_as_basic_password() {
    let server = Fixture::with(Options { bearer: Some("s3cret-0f9e8d7c6b5a4321"), ..Options::default() });
    let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
    let with = |path: &str, shown: &str| {
        let request = Request::get(path).header("host", "tokens.example.org").header("authorization", shown);
        request.body(Body::empty()).unwrap()
    };
    for path in [
        "/",
        "/page/live",
        "/page/events.csv",
        "/page/events.jsonl",
        "/page/token",
        "/page/style.css",
        "/page/script.js",
    ] {
        let answer = server.private(get(path)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"countersign\", charset=\"UTF-8\"");
        assert_eq!(server.private(with(path, &basic("me:s3cre"))).await.status, StatusCode::UNAUTHORIZED);
    }
    for shown in [
        &basic("me:s3cret-0f9e8d7c6b5a4321"),
        &basic(":s3cret-0f9e8d7c6b5a4321"),
        "Bearer s3cret-0f9e8d7c6b5a4321",
    ] {
        assert_eq!(server.private(with("/", shown)).await.status, StatusCode::OK, "{shown}");
    }
    // A browser sends it along with whatever it is made to ask for, so that the API takes none of it.
    assert_eq!(
        server.private(with("/v1/keys", &basic("me:s3cret-0f9e8d7c6b5a4321"))).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(start_paused = true)]
async fn open_page_receives_only_changes() {
    let server = Fixture::new();
    let live = || Request::get("/page/live?kind=replay").body(Body::empty()).unwrap();
    let response = server.private_response(live()).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    let mut next = async || {
        loop {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let text = String::from_utf8(frame.to_vec()).unwrap();
            if !text.starts_with(':') && !text.starts_with("event: alive\n") {
                return text;
            }
        }
    };
    for part in ["verdict", "counts", "parties", "chart", "minutes", "events", "keys", "store"] {
        let sent = next().await;
        assert!(sent.starts_with(&format!("event: {part}\ndata: ")), "{sent}");
    }
    assert_eq!(server.app.events.counts().followers, 0, "no handshake makes an event for its sake");
    server.clock.advance(Duration::from_secs(1));
    let counts = next().await;
    assert!(counts.starts_with("event: counts\n"), "only the time has changed: {counts}");
    let token = server.token();
    server.handshake(&token).await;
    server.handshake(&token).await;
    let verdict = next().await;
    assert!(verdict.starts_with("event: verdict\n") && verdict.contains("1 replay"), "{verdict}");

    let mut others = Vec::new();
    for _ in 1..MAX_VIEWERS {
        others.push(server.private_response(live()).await);
    }
    assert_eq!(server.private_response(live()).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    others.pop();
    assert_eq!(server.private_response(live()).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn idle_page_receives_keepalives() {
    let server = Fixture::new();
    let live = Request::get("/page/live").body(Body::empty()).unwrap();
    let mut body = server.private_response(live).await.into_body();
    let mut told = 0;
    let began = tokio::time::Instant::now();
    // The clock stands, so that no piece changes.
    while told < 10 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        told += u64::from(frame.starts_with(b"event: alive\n"));
    }
    assert!(began.elapsed() <= Duration::from_secs(told * 5), "{:?}", began.elapsed());
}
