//! Logins: which issuer is asked, how many may wait, and how often an address may try.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Clock;
use countersign_gate::EventQuery;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{Issuer, Running, allowed, read, send_on};

#[tokio::test]
async fn token_reaches_the_issuer_of_its_path_and_no_other() {
    let (one, two) = (Issuer::start().await, Issuer::start().await);
    let gate = Running::start("", &(one.table("one", "") + &two.table("two", ""))).await;
    let first = gate.log_in("/bugs/one/good1").await.cookie().unwrap();
    let second = gate.log_in("/bugs/two/good2").await.cookie().unwrap();
    assert_eq!((one.asked(), two.asked()), (vec!["good1".to_owned()], vec!["good2".to_owned()]));
    // Each has its own user, and its own rules.
    assert_eq!(gate.check(&first, "GET", "/bugs/one/1").await, allowed("one-user"));
    assert_eq!(gate.check(&first, "GET", "/bugs/two/1").await, (403, None));
    assert_eq!(gate.check(&second, "GET", "/bugs/two/1").await, allowed("two-user"));
    assert_eq!(gate.check(&second, "DELETE", "/bugs/two/1").await, (403, None));
    for path in
        ["/bugs/three/good3", "/one/good3", "/bugs/onegood3", "/bugs/one/x/good3", "/bugs/one/%2e%2e/good3"]
    {
        assert_ne!(gate.log_in(path).await.status, 200, "{path}");
    }
    assert_eq!(one.asked().len() + two.asked().len(), 2);
}

#[tokio::test]
async fn address_over_the_limit_has_to_wait() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 2", &issuer.table("one", "")).await;
    let from = |client: &'static str| [("X-Forwarded-For", client)];
    for expected in [401, 401, 429] {
        let answer = gate.ask("GET", "/bugs/one/bad", &from("192.0.2.1"), "").await;
        assert_eq!(answer.status, expected, "{}", answer.body);
        assert_eq!(answer.header("retry-after").is_some(), expected == 429);
    }
    assert_eq!(issuer.asked().len(), 2, "the issuer is not asked any more");
    assert_eq!(
        gate.ask("GET", "/bugs/one/good1", &from("192.0.2.2"), "").await.status,
        200,
        "another address"
    );
    assert_eq!(
        gate.ask("GET", "/bugs/one/check", &from("192.0.2.1"), "").await.status,
        401,
        "detection works"
    );
    gate.clock.advance(Duration::from_mins(1));
    assert_eq!(gate.ask("GET", "/bugs/one/good2", &from("192.0.2.1"), "").await.status, 200);
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"too_many\"}";
    assert_eq!(gate.metric(counted).await, Some(1));
}

#[tokio::test]
async fn login_completes_despite_disconnect_or_shutdown() {
    let issuer = Issuer::start().await;
    issuer.let_go.forget_permits(1000);
    let gate = Running::start("", &issuer.table("one", "")).await;
    let gone = gate.send("GET", "/bugs/one/good1", &[], "").await;
    issuer.waiting.acquire().await.unwrap().forget();
    drop(gone);
    let waits = gate.send("GET", "/bugs/one/good2", &[], "").await;
    issuer.waiting.acquire().await.unwrap().forget();
    let (sessions, now) = (gate.sessions(), gate.clock.now());
    let stopping = tokio::spawn(gate.stop());
    issuer.let_go.add_permits(2);
    assert_eq!(read(waits).await.status, 200);
    stopping.await.unwrap();
    assert_eq!(sessions.list(now).await.unwrap().len(), 2);
}

#[tokio::test]
async fn slow_logins_do_not_block_the_proxy() {
    let issuer = Issuer::start().await;
    let gate = Running::start("logins_per_minute = 0", &issuer.table("one", "timeout = \"60s\"")).await;
    let cookie = gate.log_in("/bugs/one/good").await.cookie().unwrap();
    issuer.let_go.forget_permits(1000);
    issuer.waiting.acquire().await.unwrap().forget();
    let mut slow = Vec::new();
    for place in 0..128 {
        slow.push(gate.send("GET", &format!("/bugs/one/good{place}"), &[], "").await);
    }
    issuer.waiting.acquire_many(128).await.unwrap().forget();
    let answer = gate.log_in("/bugs/one/more").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let document = gate.ask("POST", "/bugs/one", &[("X-Forwarded-For", "192.0.2.9")], "{}").await;
    assert_eq!(document.status, 503);
    assert_eq!(gate.ask("GET", "/elsewhere", &[], "").await.status, 404, "it is no login");
    let counted = "countersign_gate_logins_total{issuer=\"one\",outcome=\"full\"}";
    assert_eq!(gate.metric(counted).await, Some(2));
    assert_eq!(gate.check(&cookie, "GET", "/bugs/one/1").await, allowed("one-user"));
    issuer.let_go.add_permits(1000);
    for stream in slow {
        assert_eq!(read(stream).await.status, 200);
    }
    assert_eq!(gate.log_in("/bugs/one/good").await.status, 401, "there is room again");
    let sessions = gate.sessions();
    gate.stop().await;
    let events = sessions.events(EventQuery::default()).await.unwrap();
    let full = events.iter().filter(|event| event.reason.as_deref() == Some("full"));
    let mut full: Vec<_> =
        full.map(|event| (&*event.kind, event.issuer.as_deref(), event.address.as_deref())).collect();
    full.sort_unstable();
    let refused = |address| ("login-refused", Some("one"), Some(address));
    assert_eq!(full, [refused("127.0.0.1"), refused("192.0.2.9")]);
}

#[tokio::test(start_paused = true)]
async fn login_without_its_body_times_out() {
    let issuer = Issuer::start().await;
    let gate = Running::start("", &issuer.table("one", "")).await;
    let head = "POST /bugs/one HTTP/1.1\r\nHost: bugs.example.org\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 20\r\n\r\n";
    let began = tokio::time::Instant::now();
    let mut stream = gate.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read(stream).await.status, 408);
    assert_eq!(began.elapsed().as_secs(), 10);
    for (content_type, status) in [("application/json", 422), ("text/plain", 415)] {
        let answer = gate.ask("POST", "/bugs/one", &[("Content-Type", content_type)], "{}").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    for (outcome, times) in [("late", 1), ("malformed", 2)] {
        let counted = format!("countersign_gate_logins_total{{issuer=\"one\",outcome=\"{outcome}\"}}");
        assert_eq!(gate.metric(&counted).await, Some(times), "{outcome}");
    }
}

#[tokio::test]
async fn logins_without_address_share_one_limit() {
    let issuer = Issuer::start().await;
    let directory = Arc::new(TempDir::new().unwrap());
    let socket = directory.path().join("gate.sock");
    let settings = format!("listen = \"unix:{}\"\nlogins_per_minute = 2", socket.display());
    let gate = Running::start_in(Arc::clone(&directory), &settings, &issuer.table("one", "")).await;
    for (headers, expected) in [
        (&[][..], 401),
        (&[("X-Forwarded-For", "unknown")], 401),
        (&[], 429),
        (&[("X-Forwarded-For", "192.0.2.7")], 401),
    ] {
        let stream = UnixStream::connect(&socket).await.unwrap();
        let answer = read(send_on(stream, "GET", "/bugs/one/bad", headers, "").await).await;
        assert_eq!(answer.status, expected, "{headers:?}");
    }
    gate.stop().await;
}
