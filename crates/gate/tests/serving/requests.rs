//! The proxy's questions: who is logged in, and what the user may do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use countersign_core::Clock;
use countersign_gate::{EventKind, EventQuery};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::{Issuer, Running, allowed, read, send_on};

#[tokio::test]
async fn only_the_proxy_learns_the_user() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    gate.stop().await;
    let settings = "trusted_proxies = [\"192.0.2.1\"]\nanonymous = true";
    let gate = Running::start_in(directory, settings, &issuer.table("one", "")).await;
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.check("", "GET", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.metric("countersign_gate_requests_total{answer=\"not_the_proxy\"}").await, Some(2));
}

#[tokio::test]
async fn proxy_may_use_a_unix_socket() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let socket = directory.path().join("gate.sock");
    let settings =
        format!("listen = \"unix:{}\"\nsocket_mode = \"660\"\ntrusted_proxies = []", socket.display());
    let gate = Running::start_in(Arc::clone(&directory), &settings, &issuer.table("one", "")).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o660);
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        read(send_on(UnixStream::connect(&socket).await.unwrap(), "GET", path, headers, "").await).await
    };
    let from = [("X-Forwarded-For", "192.0.2.7, 192.0.2.8")];
    let cookie = ask("/bugs/one/good", &from).await.cookie().unwrap();
    let headers = [("X-Original-URI", "/bugs/one/1"), ("X-Original-Method", "GET"), ("Cookie", &*cookie)];
    assert_eq!(ask("/auth", &headers).await.header("x-remote-user"), Some("one-user"));
    let listed = gate.sessions().list(gate.clock.now()).await.unwrap();
    assert_eq!(listed[0].peer.as_deref(), Some("192.0.2.8"), "the proxy's own word");
    gate.stop().await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn refusals_are_recorded_with_their_reason() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let gate = Running::start_in(Arc::clone(&directory), "", &issuer.table("one", "")).await;
    let cookie =
        gate.ask("GET", "/bugs/one/good", &[("X-Forwarded-For", "192.0.2.7")], "").await.cookie().unwrap();
    assert_eq!(gate.log_in("/bugs/one/good").await.status, 401);
    assert_eq!(gate.check(&cookie, "DELETE", "/bugs/one/1").await, (403, None));
    assert_eq!(gate.check("__Secure-countersign_gate=x", "GET", "/bugs/one/1").await, (401, None));
    assert_eq!(gate.check("", "GET", "/bugs/one/1").await, (401, None));
    let sessions = gate.sessions();
    // Nothing waits for an event but the end of the gate.
    gate.stop().await;
    let events = sessions.events(EventQuery::default()).await.unwrap();
    let mut found: Vec<_> = events
        .iter()
        .map(|event| (&*event.kind, event.reason.as_deref(), event.address.as_deref()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("login", None, Some("192.0.2.7")),
            ("login-refused", Some("spent"), Some("127.0.0.1")),
            (
                "request-refused",
                Some("no rule of the issuer allows this method on this path"),
                Some("127.0.0.1")
            ),
            ("request-refused", Some("session_over"), Some("127.0.0.1")),
        ]
    );
}

#[tokio::test]
async fn request_without_headers_of_the_proxy_is_an_error() {
    let issuer = Issuer::start().await;
    let gate = Running::start("anonymous = true", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    let (uri, method, cookie) =
        (("X-Original-URI", "/bugs/one/1"), ("X-Original-Method", "GET"), ("Cookie", &*cookie));
    for headers in [
        vec![cookie],
        vec![],
        vec![cookie, uri],
        vec![cookie, method],
        vec![cookie, uri, method, method],
        vec![cookie, uri, uri, method],
        vec![cookie, ("X-Forwarded-Uri", "/bugs/one/1"), ("X-Forwarded-Method", "GET")],
    ] {
        let answer = gate.ask("GET", "/auth", &headers, "").await;
        assert_eq!((answer.status, answer.header("x-remote-user")), (500, None), "{headers:?}");
    }
    // The subrequest's own method is not the request's.
    let answer = gate.ask("POST", "/auth", &[cookie, uri, method], "").await;
    assert_eq!((answer.status, answer.header("x-remote-user")), (204, Some("one-user")));
    for name in ["X-Remote-User", "x_remote_user", "X_REMOTE-USER", "x.remote-user", "X~Remote!User"] {
        for headers in [vec![cookie, uri, method, (name, "admin")], vec![uri, method, (name, "")]] {
            let answer = gate.ask("GET", "/auth", &headers, "").await;
            assert_eq!((answer.status, answer.header("x-remote-user")), (403, None), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn websocket_of_another_site_is_forbidden() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let answer = gate.log_in("/bugs/one/good").await;
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    let cookie = answer.cookie().unwrap();
    let own = "https://bugs.example.org";
    let other = "https://evil.example.org";
    for (name, value, origin, expected) in [
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", own, 204),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", other, 403),
        ("Upgrade", "websocket", other, 403),
        ("X-Other", "", other, 204),
    ] {
        let headers = [
            ("X-Original-URI", "/bugs/one/1"),
            ("X-Original-Method", "GET"),
            ("Cookie", &cookie),
            ("Origin", origin),
            (name, value),
        ];
        assert_eq!(gate.ask("GET", "/auth", &headers, "").await.status, expected, "{name} {origin}");
    }
}

#[tokio::test]
async fn request_with_removed_user_header_is_forbidden() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    for (named, status) in [
        ("X-Remote-User", 403),
        ("te , x_remote.USER", 403),
        ("X-Remote-User2", 204),
        ("keep-alive, TE", 204),
    ] {
        let headers = [
            ("X-Original-URI", "/bugs/one/1"),
            ("X-Original-Method", "GET"),
            ("Cookie", &*cookie),
            ("Connection", named),
        ];
        assert_eq!(gate.ask("GET", "/auth", &headers, "").await.status, status, "{named}");
    }
}

#[tokio::test]
async fn many_refusals_displace_no_other_reason() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    for _ in 0..21 {
        assert_eq!(gate.check(&cookie, "DELETE", "/bugs/one/1").await, (403, None));
    }
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one//1").await, (403, None));
    let sessions = gate.sessions();
    gate.stop().await;
    let query = EventQuery { kinds: vec![EventKind::RequestRefused], ..EventQuery::default() };
    let events = sessions.events(query).await.unwrap();
    let of = |reason: &str| events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count();
    assert_eq!(of("no rule of the issuer allows this method on this path"), 20);
    assert_eq!(of("its path can be read in two ways"), 1);
}
