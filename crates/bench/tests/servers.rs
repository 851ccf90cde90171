//! Every workload, against the real server and against servers that are wrong.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, get, post};
use countersign_bench::{BenchError, Limit, Options, Plan, Report, Rounds, SystemStopwatch, Workload, run};
use countersign_core::{Clock, Policy, SystemClock};
use countersign_server::{Address, App, ListenerConfig, RefusalLimiter, Server, SpentStatus};
use countersign_testkit::app;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

/// How many rounds are asked for.
const COUNT: u64 = 40;

/// A running server; it ends with this.
struct Running {
    private: String,
    public: String,
    _runtime: tokio::runtime::Runtime,
    _data: tempfile::TempDir,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The real server, on free ports and a store in memory.
fn real(policy: Policy, spent_status: SpentStatus, refusals_per_minute: u32) -> Running {
    let runtime = runtime();
    let data = tempfile::tempdir().unwrap();
    let (public, private) = runtime.block_on(async {
        let door = || ListenerConfig { address: Address::Tcp(([127, 0, 0, 1], 0).into()), tls: None };
        let server = Server::bind(door(), door(), false).await.unwrap();
        let urls = (server.public_url().unwrap(), server.private_url().unwrap());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let app = App {
            spent_status,
            limiter: RefusalLimiter::new(refusals_per_minute, Arc::clone(&clock)),
            ..app(clock).policy(policy).public_url(&urls.0).build()
        };
        tokio::spawn(server.run(Arc::new(app), Arc::new(Notify::new()), std::future::pending()));
        urls
    });
    Running { private, public, _runtime: runtime, _data: data }
}

/// A server of these routes, which has both listeners in one.
fn routed(router: Router) -> Running {
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = url(listener.local_addr().unwrap());
    runtime.spawn(async move { axum::serve(listener, router).await });
    Running { private: url.clone(), public: url, _runtime: runtime, _data: tempfile::tempdir().unwrap() }
}

/// A server that reads something, says this, and closes the connection.
fn blunt(words: &'static [u8]) -> Running {
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = url(listener.local_addr().unwrap());
    runtime.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                if stream.read(&mut [0; 4096]).await.is_ok() {
                    let _ = stream.write_all(words).await;
                }
            });
        }
    });
    Running { private: url.clone(), public: url, _runtime: runtime, _data: tempfile::tempdir().unwrap() }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn options(workload: Workload, server: &Running) -> Options {
    Options {
        workload,
        private: server.private.clone(),
        public: None,
        bearer: None,
        audience: None,
        allow_remote: false,
        connections: 3,
        plan: Plan { rate: None, warmup: Duration::ZERO, limit: Limit::Count(COUNT) },
    }
}

/// The same without asking the server where its public listener is.
fn told(workload: Workload, server: &Running) -> Options {
    Options { public: Some(server.public.clone()), ..options(workload, server) }
}

fn bench(options: &Options) -> Result<Report, BenchError> {
    let (_stop, stopped) = watch::channel(false);
    run(options, SystemStopwatch::start(), stopped, |_| {})
}

fn errors<const N: usize>(errors: [(&str, u64); N]) -> BTreeMap<String, u64> {
    errors.map(|(kind, count)| (kind.to_owned(), count)).into()
}

const ISSUED: &str = "<methodResponse><params><param><value><string>abcdefghij0123456789</string></value></param>\
                      </params></methodResponse>";

#[test]
fn every_workload_accepts_a_correct_server() {
    for spent in [SpentStatus::Unauthorized, SpentStatus::Gone] {
        let server = real(Policy::default(), spent, 0);
        for workload in Workload::ALL {
            let report = bench(&options(workload, &server)).unwrap();
            assert_eq!(report.errors, errors([]), "{report}");
            assert_eq!((report.rounds.count(), report.unsent), (COUNT, 0), "{report}");
            assert_eq!(report.public, server.public, "the server says where it is");
            assert!(report.latency_ms.p50 <= report.latency_ms.p99, "{report}");
            assert!(report.latency_ms.p99 <= report.latency_ms.max, "{report}");
        }
    }
}

#[test]
fn handshake_is_reported_by_its_parts() {
    let server = real(Policy::default(), SpentStatus::Unauthorized, 0);
    let report = bench(&options(Workload::Handshake, &server)).unwrap();
    let parts: Vec<_> = report.parts.iter().map(|(name, part)| (*name, part.requests)).collect();
    assert_eq!(parts, [("issue", COUNT), ("redeem", COUNT)]);
    assert!(bench(&options(Workload::Issue, &server)).unwrap().parts.is_empty());
}

#[test]
fn open_loop_sends_every_request_of_its_timetable() {
    let server = real(Policy::default(), SpentStatus::Unauthorized, 0);
    let plan = Plan { rate: Some(2000.0), ..options(Workload::Handshake, &server).plan };
    let report = bench(&Options { plan, ..options(Workload::Handshake, &server) }).unwrap();
    assert_eq!((report.rounds.count(), report.wrong(), report.rate), (COUNT, 0, Some(2000.0)), "{report}");
}

#[test]
fn bound_tokens_are_redeemed_by_their_tracker() {
    let policy = Policy { require_audience: true, ..Policy::default() };
    let server = real(policy, SpentStatus::Unauthorized, 0);
    let audience = Some("https://trac.example.org/a&b".to_owned());
    let report = bench(&Options { audience, ..options(Workload::Handshake, &server) }).unwrap();
    assert_eq!((report.rounds.count(), report.wrong()), (COUNT, 0), "{report}");
    let report = bench(&told(Workload::Handshake, &server)).unwrap();
    assert_eq!(report.errors, errors([("issue: fault -32602", COUNT)]), "{report}");
    assert!(report.to_string().contains("--audience"), "{report}");
}

#[test]
fn limit_on_refusals_is_explained() {
    let server = real(Policy::default(), SpentStatus::Unauthorized, 1);
    let report = bench(&options(Workload::Forged, &server)).unwrap();
    assert_eq!((report.rounds.count(), report.wrong()), (1, COUNT - 1), "{report}");
    assert_eq!(report.errors, errors([("forged: status 429", COUNT - 1)]));
    assert!(report.to_string().contains("--refusals-per-minute 0"), "{report}");
}

#[test]
fn server_that_accepts_everything_is_reported() {
    let router = Router::new()
        .route("/bugs", post(async || ISSUED))
        .route("/token/{token}/{view}", any(async || "Handshake token validated."));
    let server = routed(router);
    for (workload, kind) in
        [(Workload::Replay, "replay: status 200"), (Workload::Forged, "forged: status 200")]
    {
        let report = bench(&told(workload, &server)).unwrap();
        assert_eq!(report.errors, errors([(kind, COUNT)]), "{report}");
        assert_eq!(report.rounds.count(), 0);
        assert!(report.examples.iter().any(|example| example.contains("Handshake token validated.")));
    }
}

#[test]
fn server_that_refuses_its_own_tokens_is_reported() {
    let server = routed(Router::new().route("/bugs", post(async || ISSUED)));
    let report = bench(&told(Workload::Handshake, &server)).unwrap();
    assert_eq!(report.errors, errors([("redeem: status 404", COUNT)]), "{report}");
    let report = bench(&told(Workload::Health, &server)).unwrap();
    assert_eq!(report.errors, errors([("health: status 404", COUNT)]), "{report}");
}

#[test]
fn right_status_with_wrong_text_is_an_error() {
    let router = Router::new()
        .route("/bugs", post(async || ISSUED))
        .route("/token/{token}/{view}", any(async || "<html>Welcome abcdefghij0123456789"));
    let server = routed(router);
    let report = bench(&told(Workload::Handshake, &server)).unwrap();
    assert_eq!(report.errors, errors([("redeem: wrong body", COUNT)]), "{report}");
    assert!(!report.to_string().contains("abcdefghij0123456789"), "no token is shown: {report}");

    let server = routed(Router::new().route("/bugs", post(async || "<html>")));
    let report = bench(&told(Workload::Issue, &server)).unwrap();
    assert_eq!(report.errors, errors([("issue: wrong body", COUNT)]), "{report}");
}

#[test]
fn busy_answer_is_an_error() {
    let busy = async || (StatusCode::SERVICE_UNAVAILABLE, "Later, abcdefghij0123456789.");
    let report = bench(&told(Workload::Health, &routed(Router::new().route("/healthz", get(busy))))).unwrap();
    assert_eq!(report.errors, errors([("health: status 503", COUNT)]), "{report}");
    assert_eq!(report.examples[0], "health: status 503 (Later, …)");
}

#[test]
fn cut_connections_and_garbage_are_errors() {
    for (words, kind) in [
        (&b""[..], "health: connection closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "health: connection closed"),
        (b"SSH-2.0-OpenSSH_10.0\r\n", "health: not HTTP"),
    ] {
        let report = bench(&told(Workload::Health, &blunt(words))).unwrap();
        assert_eq!(report.errors, errors([(kind, COUNT)]), "{report}");
    }
}

#[test]
fn closing_after_every_answer_is_allowed() {
    let report = bench(&told(Workload::Health, &blunt(b"HTTP/1.0 200 OK\r\n\r\nalive\n"))).unwrap();
    assert_eq!((report.rounds.count(), report.wrong()), (COUNT, 0), "{report}");
}

#[test]
fn missing_first_answer_is_explained() {
    let nobody = blunt(b"");
    let gone = Options { private: "http://127.0.0.1:1".into(), ..options(Workload::Handshake, &nobody) };
    let error = bench(&gone).unwrap_err();
    assert!(!error.is_usage());
    assert!(error.to_string().contains("start the server with `countersign serve`"), "{error}");

    let hidden = routed(Router::new().route("/bugs", post(async |body: String| described(&body))));
    let error = bench(&options(Workload::Handshake, &hidden)).unwrap_err().to_string();
    assert!(error.contains("--public") && !error.contains("abcdefghij"), "{error}");
}

/// What a server behind a proxy says of its tokens.
fn described(call: &str) -> String {
    if call.contains("newBugTrackerToken") {
        return ISSUED.to_owned();
    }
    ISSUED.replace(
        "<string>abcdefghij0123456789</string>",
        "<struct><member><name>handshake_url</name><value><string>\
         https://lp.example.org/token/abcdefghij0123456789/+bugtracker-handshake</string></value></member></struct>",
    )
}

#[test]
fn stopped_run_ends_early_and_reports() {
    let server = real(Policy::default(), SpentStatus::Unauthorized, 0);
    let (stop, stopped) = watch::channel(false);
    let plan = Plan { rate: Some(0.001), warmup: Duration::ZERO, limit: Limit::Count(COUNT) };
    let options = Options { plan, ..options(Workload::Issue, &server) };
    let report = run(&options, SystemStopwatch::start(), stopped, move |progress| {
        if progress.rounds == 1 {
            stop.send_replace(true);
        }
    });
    assert_eq!(report.unwrap().rounds.count(), 1, "the second is due in 1000 s");
}

#[test]
fn processor_time_comes_from_the_servers_metrics() {
    for (after, expected) in [("3.5", Some(50_000.0)), ("1.6", None), ("0", None), ("much", None)] {
        let said = Arc::new(AtomicBool::new(false));
        let metrics = get(async move || {
            let seconds = if said.swap(true, Ordering::Relaxed) { after } else { "1.5" };
            format!("process_cpu_seconds 7\nprocess_cpu_seconds_total {seconds}\n")
        });
        let server = routed(Router::new().route("/healthz", get(async || "")).route("/metrics", metrics));
        let report = bench(&told(Workload::Health, &server)).unwrap();
        let Rounds::Requests { requests, server_cpu_us_per_request, .. } = report.rounds else {
            panic!("{report}");
        };
        assert_eq!((requests, server_cpu_us_per_request), (COUNT, expected), "{report}");
        assert_eq!(
            report.to_string().contains("server CPU   50000.0 µs for each request"),
            expected.is_some()
        );
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let server = blunt(b"");
    let good = told(Workload::Health, &server);
    let plan = |plan: Plan| Options { plan, ..good.clone() };
    for bad in [
        Options { connections: 0, ..good.clone() },
        plan(Plan { limit: Limit::Count(0), ..good.plan }),
        plan(Plan { limit: Limit::Time(Duration::ZERO), ..good.plan }),
        plan(Plan { limit: Limit::Time(Duration::from_hours(25)), ..good.plan }),
        plan(Plan { rate: Some(0.0), ..good.plan }),
        plan(Plan { rate: Some(f64::NAN), ..good.plan }),
        plan(Plan { warmup: Duration::from_hours(25), ..good.plan }),
        Options { private: "http://192.0.2.1:8087".into(), ..good.clone() },
    ] {
        assert!(bench(&bad).unwrap_err().is_usage());
    }
}

#[test]
fn json_report_has_the_documented_fields() {
    let server = real(Policy::default(), SpentStatus::Unauthorized, 0);
    let report = serde_json::to_value(bench(&options(Workload::Handshake, &server)).unwrap()).unwrap();
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(&report),
        [
            "connections",
            "errors",
            "examples",
            "handshakes",
            "handshakes_per_second",
            "hints",
            "latency_ms",
            "parts",
            "private",
            "public",
            "rate",
            "seconds",
            "server_cpu_us_per_handshake",
            "unsent",
            "warmup_seconds",
            "workload"
        ]
    );
    assert_eq!(names(&report["latency_ms"]), ["max", "mean", "p50", "p90", "p99", "p99.9"]);
    assert_eq!(names(&report["parts"]), ["issue", "redeem"]);
    assert_eq!(names(&report["parts"]["issue"]), ["latency_ms", "requests"]);
    assert_eq!(report["workload"], "handshake");
    assert_eq!(report["rate"], serde_json::Value::Null);
    assert_eq!(report["handshakes"], COUNT);
}
