//! Callers with names: each route against each scope, and what a caller may have tokens for.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::seal::unseal;
use countersign_server::routes::{Needs, private_routes};
use countersign_server::{ClientCertificate, Scope, SecretHash};
use countersign_testkit::seen;
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, JSON, Options, TRAC, post};

/// A caller of the file; its secret is its name with `-secret` behind.
pub(crate) fn caller(name: &str, scopes: &[Scope], more: &str) -> String {
    let hash = SecretHash::of(format!("{name}-secret").as_bytes());
    let scopes: Vec<_> = scopes.iter().map(|scope| format!("'{scope}'")).collect();
    format!("[[caller]]\nname = '{name}'\nsecrets = ['{hash}']\nscopes = [{}]\n{more}\n", scopes.join(", "))
}

fn server(callers: String) -> Fixture {
    Fixture::with(Options { callers: Some(callers), ..Options::default() })
}

pub(crate) async fn send(
    server: &Fixture,
    name: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = if name.is_empty() {
        request
    } else {
        request.header("authorization", format!("Bearer {name}-secret"))
    };
    let request = match body {
        Some(body) => request.header("content-type", JSON).body(Body::from(body.to_string())),
        None => request.body(Body::empty()),
    };
    server.private(request.unwrap()).await
}

async fn call(server: &Fixture, name: &str, path: &str, method: &str, argument: Option<&str>) -> String {
    let parameters =
        argument.map_or_else(String::new, |text| format!("<param><value>{text}</value></param>"));
    let body =
        format!("<methodCall><methodName>{method}</methodName><params>{parameters}</params></methodCall>");
    let request = post(path)
        .header("content-type", "text/xml")
        .header("authorization", format!("Bearer {name}-secret"));
    let answer = server.private(request.body(Body::from(body)).unwrap()).await;
    assert_eq!(answer.status, StatusCode::OK, "a fault is an answer like any other: {answer:?}");
    answer.text
}

/// One caller for each scope, which has that scope alone.
fn one_for_each_scope() -> String {
    Scope::ALL.iter().map(|scope| caller(scope.label(), &[*scope], "")).collect()
}

/// A path of a template.
fn path_of(template: &str, token: &str) -> String {
    template.replace("{token}", token).replace("{state}", "good")
}

/// Each new route must be added here with its scope.
#[test]
fn each_route_has_its_scope() {
    let table: Vec<String> = private_routes()
        .iter()
        .map(|route| {
            let needs = match route.needs {
                Needs::Nothing => "-",
                Needs::Caller => "any caller",
                Needs::Scope(scope) => scope.label(),
            };
            format!("{} {}: {needs}", route.method, route.path)
        })
        .collect();
    assert_eq!(
        table,
        [
            "* /bugs: any caller",
            "* /bugs/: any caller",
            "POST /v1/tokens: issue",
            "GET /v1/tokens/{token}: look",
            "DELETE /v1/tokens/{token}: revoke",
            "GET /v1/keys: admin",
            "POST /v1/keys/rotate: admin",
            "POST /v1/keys/revoke: admin",
            "POST /v1/keys/rewrap: admin",
            "GET /v1/server: admin",
            "GET /v1/nodes: admin",
            "GET /v1/store: admin",
            "POST /v1/store/purge: admin",
            "POST /v1/store/fence: admin",
            "GET /v1/events: events",
            "GET /v1/events/stream: events",
            "GET /v1/summary: events",
            "GET /openapi.json: any caller",
            "GET /metrics: events",
            "GET /: admin",
            "GET /page/token: admin",
            "POST /page/token: admin",
            "GET /page/live: admin",
            "GET /page/events.jsonl: admin",
            "GET /page/events.csv: admin",
            "GET /page/style.css: admin",
            "GET /page/script.js: admin",
            "GET /page/icon/{state}: admin",
            "GET /healthz: -",
            "GET /readyz: -",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn each_route_is_closed_to_each_other_scope() {
    for route in private_routes() {
        // The page is in a browser, whose form says where it comes from.
        let path = path_of(&route.path, "cs1nothing");
        let method = if route.method == "*" { "POST" } else { route.method };
        let request = |secret: Option<&str>| {
            let request = Request::builder().method(method).uri(&path).header("host", "127.0.0.1:8087");
            let request = request.header("origin", "http://127.0.0.1:8087");
            match secret {
                Some(name) => request.header("authorization", format!("Bearer {name}-secret")),
                None => request,
            }
            .body(Body::empty())
            .unwrap()
        };
        let server = server(one_for_each_scope());
        let none = server.private_response(request(None)).await.status();
        let wrong = server.private_response(request(Some("other"))).await.status();
        let open = route.needs == Needs::Nothing;
        assert_eq!(none == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {none}");
        assert_eq!(wrong == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {wrong}");
        for scope in Scope::ALL {
            let response = server.private_response(request(Some(scope.label()))).await;
            let status = response.status();
            let is_meant = match route.needs {
                Needs::Nothing | Needs::Caller => true,
                Needs::Scope(needed) => needed == scope,
            };
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} {scope}");
            assert_eq!(status == StatusCode::FORBIDDEN, !is_meant, "{method} {path} {scope}: {status}");
            if let (Needs::Scope(needed), false) = (route.needs, is_meant) {
                let problem = crate::fixture::read(response).await;
                assert_eq!(problem.json()["type"], "urn:countersign:problem:scope");
                let detail = problem.json()["detail"].as_str().unwrap().to_owned();
                assert!(detail.contains(&format!("`{needed}`")), "{detail}");
            }
        }
    }
}

#[tokio::test]
async fn each_xmlrpc_method_is_closed_to_each_other_scope() {
    let server = server(one_for_each_scope());
    let token = server.token();
    for (method, argument, needed) in [
        ("newBugTrackerToken", None, Some(Scope::Issue)),
        ("getLoginToken", Some(&*token), Some(Scope::Look)),
        ("revokeLoginToken", Some(&*token), Some(Scope::Revoke)),
        ("system.listMethods", None, None),
    ] {
        for path in ["/bugs", "/bugs/"] {
            for scope in Scope::ALL {
                let answer = call(&server, scope.label(), path, method, argument).await;
                let is_meant = needed.is_none_or(|needed| needed == scope);
                assert_eq!(!answer.contains("<fault>"), is_meant, "{method} {scope}: {answer}");
                if let (Some(needed), false) = (needed, is_meant) {
                    assert!(answer.contains(&format!("scope `{needed}`")), "{answer}");
                }
            }
        }
    }
    let each = "<array><data><value><struct><member><name>methodName</name><value>newBugTrackerToken</value></member>\
                <member><name>params</name><value><array><data/></array></value></member></struct></value></data></array>";
    assert!(call(&server, "look", "/bugs", "system.multicall", Some(each)).await.contains("scope `issue`"));
    let listed = call(&server, "issue", "/bugs", "system.listMethods", None).await;
    let methods = listed.matches("LoginToken").count() + listed.matches("BugTrackerToken").count();
    assert_eq!(methods, 3, "a new method belongs into this test: {listed}");
}

#[tokio::test]
async fn unknown_path_needs_a_caller_and_is_not_found() {
    let server = server(one_for_each_scope());
    assert_eq!(send(&server, "", "GET", "/v2/keys", None).await.status, StatusCode::UNAUTHORIZED);
    for scope in Scope::ALL {
        assert_eq!(send(&server, scope.label(), "GET", "/v2/keys", None).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn single_secret_has_all_scopes() {
    let secret = "s3cret-0f9e8d7c6b5a4321";
    for callers in [None, Some(one_for_each_scope())] {
        let server = Fixture::with(Options { bearer: Some(secret), callers, ..Options::default() });
        for path in ["/v1/keys", "/v1/events", "/metrics", "/"] {
            let request = Request::get(path).header("authorization", format!("Bearer {secret}"));
            let answer = server.private(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}");
        }
        let request = post("/v1/tokens").header("authorization", format!("Bearer {secret}"));
        let issued = server.private(request.body(Body::empty()).unwrap()).await.json();
        let token = unseal(issued["token_id"].as_str().unwrap(), &server.app.tokens.keys()).unwrap();
        assert_eq!(token.issued_by(), None);
    }
}

#[tokio::test]
async fn browser_sends_callers_secret_as_password() {
    let server = server(caller("ops", &[Scope::Admin], "") + &caller("worker", &[Scope::Issue], ""));
    let page = async |password: &str| {
        let basic = data_encoding::BASE64.encode(format!("anna:{password}").as_bytes());
        let request = Request::get("/").header("authorization", format!("Basic {basic}"));
        server.private(request.body(Body::empty()).unwrap()).await.status
    };
    assert_eq!(page("ops-secret").await, StatusCode::OK);
    assert_eq!(page("worker-secret").await, StatusCode::FORBIDDEN);
    assert_eq!(page("other-secret").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn wrong_secret_is_counted_and_limited() {
    let options =
        Options { callers: Some(one_for_each_scope()), refusals_per_minute: 2, ..Options::default() };
    let server = Fixture::with(options);
    for name in ["issue", "nobody"] {
        let request = Request::get("/v1/events").header("authorization", format!("Bearer {name}"));
        let answer = server.private(request.body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status, answer.json()["type"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("urn:countersign:problem:credential"))
        );
        assert!(!answer.text.contains(name), "{answer:?}");
    }
    assert_eq!(send(&server, "other", "GET", "/v1/events", None).await.status, StatusCode::TOO_MANY_REQUESTS);
    let metrics = send(&server, "events", "GET", "/metrics", None).await;
    assert_eq!(metrics.status, StatusCode::OK, "the right one is let in from the same address");
    assert!(metrics.text.contains("countersign_credentials_rejected_total 3\n"), "{}", metrics.text);
    assert_eq!(
        send(&server, "", "GET", "/v1/events", None).await.status,
        StatusCode::UNAUTHORIZED,
        "none is no guess"
    );
}

#[tokio::test]
async fn caller_gets_tokens_only_for_its_trackers() {
    let bound = "audiences = ['https://trac.example.org/', 'https://bugs.example.org/projects/*']";
    let server = server(caller("worker", &[Scope::Issue], bound));
    for (audience, allowed) in [
        (json!("https://TRAC.example.org:443"), true),
        (json!("https://bugs.example.org/projects/a"), true),
        (json!("https://bugs.example.org/projectsevil"), false),
        (json!("https://bugs.example.org/projects/%2e%2e/admin"), false),
        (json!("https://trac.example.org/a"), false),
        (json!("http://trac.example.org/"), false),
    ] {
        let body = json!({ "audience": audience });
        let answer = send(&server, "worker", "POST", "/v1/tokens", Some(body)).await;
        let status = if allowed { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
        assert_eq!(answer.status, status, "{audience}: {answer:?}");
        if !allowed {
            assert_eq!(answer.json()["type"], "urn:countersign:problem:caller-audience");
            let fault = call(&server, "worker", "/bugs", "newBugTrackerToken", audience.as_str()).await;
            assert!(fault.contains("<fault>") && fault.contains("may not have tokens for"), "{fault}");
        }
    }
    let unbound = send(&server, "worker", "POST", "/v1/tokens", None).await;
    assert_eq!(
        (unbound.status, unbound.json()["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("urn:countersign:problem:caller-audience"))
    );
    assert!(call(&server, "worker", "/bugs", "newBugTrackerToken", None).await.contains("has to name one"));
}

#[tokio::test]
async fn certificate_without_a_caller_is_counted() {
    let server = server(caller("events", &[Scope::Events], ""));
    let mut request = Request::get("/v1/events").body(Body::empty()).unwrap();
    request.extensions_mut().insert(ClientCertificate(["dns:removed".to_owned()].into()));
    assert_eq!(server.private(request).await.status, StatusCode::UNAUTHORIZED);
    let metrics = send(&server, "events", "GET", "/metrics", None).await;
    assert!(metrics.text.contains("countersign_credentials_rejected_total 1\n"), "{}", metrics.text);
}

/// As when an operator moves from one secret for all to names.
#[tokio::test]
async fn named_callers_secret_has_only_its_scopes() {
    const SECRET: &str = "fQ9wzL2kT7sVb4XnRp8cYd3mHj6gUa5e";
    let hash = SecretHash::of(SECRET.as_bytes());
    let callers = format!("[[caller]]\nname = 'a'\nsecrets = ['{hash}']\nscopes = ['look']\n");
    let server =
        Fixture::with(Options { callers: Some(callers), bearer: Some(SECRET), ..Options::default() });
    let request = Request::get("/v1/keys").header("authorization", format!("Bearer {SECRET}"));
    let answer = server.private(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
}

#[tokio::test]
async fn caller_with_one_tracker_gets_bound_tokens() {
    let one = format!("audiences = ['{TRAC}']");
    let part = "audiences = ['https://trac.example.org/*']";
    let policy = countersign_core::Policy { require_audience: true, ..Default::default() };
    let callers = caller("one", &[Scope::Issue], &one)
        + &caller("part", &[Scope::Issue], part)
        + &caller("any", &[Scope::Issue], "");
    let server = Fixture::with(Options { callers: Some(callers), policy, ..Options::default() });
    let answer = call(&server, "one", "/bugs", "newBugTrackerToken", None).await;
    let token = answer.split("<string>").nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(unseal(token, &server.app.tokens.keys()).unwrap().audience().unwrap().as_str(), TRAC);
    let issued = send(&server, "one", "POST", "/v1/tokens", None).await.json();
    assert_eq!(issued["audience"], TRAC);
    assert!(
        call(&server, "part", "/bugs", "newBugTrackerToken", None).await.contains("has to name one"),
        "which of them?"
    );
    assert_eq!(
        send(&server, "any", "POST", "/v1/tokens", None).await.json()["type"],
        "urn:countersign:problem:audience-required"
    );
}

#[tokio::test]
async fn caller_limits_lifetime_and_rate() {
    let server = server(caller("worker", &[Scope::Issue], "max_lifetime = '60s'\ntokens_per_minute = 3"));
    let issue = async |body: Value| send(&server, "worker", "POST", "/v1/tokens", Some(body)).await;
    assert_eq!(issue(json!({})).await.json()["date_expires"], "2026-01-31T12:01:00Z", "not five minutes");
    assert_eq!(issue(json!({ "ttl": 7 })).await.json()["date_expires"], "2026-01-31T12:00:07Z");
    let long = issue(json!({ "ttl": 61 })).await;
    assert_eq!(
        (long.status, long.json()["type"].as_str()),
        (StatusCode::FORBIDDEN, Some("urn:countersign:problem:caller-lifetime"))
    );
    assert_eq!(issue(json!({})).await.status, StatusCode::CREATED, "what was refused is not counted");
    let many = issue(json!({})).await;
    assert_eq!((many.status, many.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "20"));
    assert_eq!(many.json()["type"], "urn:countersign:problem:caller-rate");
    assert!(
        call(&server, "worker", "/bugs", "newBugTrackerToken", None)
            .await
            .contains("as many tokens as it may")
    );
    server.clock.advance(Duration::from_secs(20));
    assert_eq!(issue(json!({})).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn tracker_learns_the_caller_only_when_configured() {
    let callers =
        caller("told", &[Scope::Issue], "tell_trackers = true") + &caller("quiet", &[Scope::Issue], "");
    let server = server(callers);
    for (name, claims) in [("told", json!({ "a": 1, "caller": "told" })), ("quiet", json!({ "a": 1 }))] {
        let body = json!({ "claims": { "a": 1 } });
        let token = send(&server, name, "POST", "/v1/tokens", Some(body)).await.json()["token_id"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(unseal(&token, &server.app.tokens.keys()).unwrap().issued_by().unwrap().as_str(), name);
        let request = post(&crate::fixture::handshake_path(&token)).header("accept", JSON);
        let answer = server.public(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.json()["claims"], claims);
        for forged in ["caller", "@caller"] {
            let body = json!({ "claims": { forged: "ops" } });
            let answer = send(&server, name, "POST", "/v1/tokens", Some(body)).await;
            assert_eq!(
                (answer.status, answer.json()["type"].as_str()),
                (StatusCode::BAD_REQUEST, Some("urn:countersign:problem:claims"))
            );
        }
    }
}

#[tokio::test]
async fn events_name_the_caller() {
    let callers =
        caller("worker-eu", &[Scope::Issue], "") + &caller("ops", &[Scope::Admin, Scope::Events], "");
    let event_policy = countersign_server::EventPolicy { record_issued: true, ..Default::default() };
    let server = Fixture::with(Options { callers: Some(callers), event_policy, ..Options::default() });
    tokio::spawn(std::sync::Arc::clone(&server.app.events).write());
    let token = send(&server, "worker-eu", "POST", "/v1/tokens", None).await.json()["token_id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(server.handshake(&token).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(send(&server, "ops", "POST", "/v1/store/fence", None).await.status, StatusCode::OK);
    let unnamed = server.token();
    assert_eq!(server.handshake(&unnamed).await.status, StatusCode::OK);
    assert_eq!(server.handshake(&unnamed).await.status, StatusCode::UNAUTHORIZED);
    let listed = send(&server, "ops", "GET", "/v1/events?kind=issued,replay,fence-moved", None).await.json();
    let mut found: Vec<_> = listed["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["kind"].as_str().unwrap(), event["caller"].as_str().unwrap_or("-")))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [("fence-moved", "ops"), ("issued", "worker-eu"), ("replay", "-"), ("replay", "worker-eu")]
    );
    let metrics = send(&server, "ops", "GET", "/metrics", None).await.text;
    assert_eq!(send(&server, "worker-eu", "GET", "/metrics", None).await.status, StatusCode::FORBIDDEN);
    for series in [
        "countersign_caller_tokens_issued_total{caller=\"worker-eu\"} 1\n",
        "countersign_caller_handshakes_total{caller=\"worker-eu\",outcome=\"accepted\"} 1\n",
        "countersign_caller_handshakes_total{caller=\"worker-eu\",outcome=\"replay\"} 1\n",
    ] {
        assert!(metrics.contains(series), "{series}{metrics}");
    }
    let metrics = send(&server, "ops", "GET", "/metrics", None).await.text;
    let denied = "countersign_caller_requests_denied_total{caller=\"worker-eu\",problem=\"scope\"} 1\n";
    assert!(metrics.contains(denied), "{metrics}");
    let request = Request::get("/?kind=replay").header("authorization", "Bearer ops-secret");
    let page = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(page.contains("worker-eu"), "{page}");
    let request = Request::get("/page/events.csv?kind=replay").header("authorization", "Bearer ops-secret");
    let csv = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(csv.lines().any(|line| line.ends_with(",worker-eu")), "{csv}");
    let of_one = send(&server, "ops", "GET", "/v1/events?kind=replay&text=worker-eu", None).await.json();
    assert_eq!(of_one["events"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn denied_requests_are_events() {
    let more = "audiences = ['https://trac.example.org/']\nmax_lifetime = '60s'\ntokens_per_minute = 1";
    let callers = caller("worker-eu", &[Scope::Issue], more)
        + &caller("ops", &[Scope::Admin, Scope::Events], "")
        + &caller("metrics", &[Scope::Events], "");
    let server = server(callers);
    tokio::spawn(std::sync::Arc::clone(&server.app.events).write());
    let agent = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("user-agent", "worker/1");
        request.header("authorization", "Bearer worker-eu-secret").body(Body::empty()).unwrap()
    };
    assert_eq!(server.private(agent("POST", "/v1/store/fence")).await.status, StatusCode::FORBIDDEN);
    // The page, and a method of XML-RPC, are denied in places of their own.
    assert_eq!(server.private(agent("GET", "/")).await.status, StatusCode::FORBIDDEN);
    call(&server, "worker-eu", "/bugs", "revokeLoginToken", Some("cs1nonsense")).await;
    for body in [
        json!({ "audience": "https://other.example/" }),
        json!({ "ttl": 3600 }),
        json!({ "claims": { "caller": "ops" } }),
        json!({}),
        json!({}),
    ] {
        send(&server, "worker-eu", "POST", "/v1/tokens", Some(body)).await;
    }
    let list = "/v1/events?kind=caller-denied";
    let listed = seen("all are written", async || {
        let listed = send(&server, "metrics", "GET", list, None).await.json()["events"].clone();
        let listed = listed.as_array().unwrap().clone();
        (listed.len() == 7).then_some(listed)
    })
    .await;
    let mut reasons: Vec<_> = listed.iter().map(|event| event["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["caller-audience", "caller-lifetime", "caller-rate", "claims", "scope", "scope", "scope"]
    );
    for event in &listed {
        assert_eq!((&event["caller"], &event["peer"]), (&"worker-eu".into(), &"127.0.0.1".into()), "{event}");
    }
    assert_eq!(listed.iter().filter(|event| event["user_agent"] == "worker/1").count(), 2);
    let of_another = send(&server, "metrics", "GET", &format!("{list}&caller=ops"), None).await.json();
    assert_eq!(of_another["events"], json!([]));
    let request = Request::get("/").header("authorization", "Bearer ops-secret");
    let page = server.private(request.body(Body::empty()).unwrap()).await.text;
    assert!(page.contains("7 requests denied to callers in the last hour"), "{page}");
    assert!(page.contains("?kind=caller-denied&#38;within=1h#events-title"), "{page}");
}

#[tokio::test]
async fn stream_ends_when_its_caller_is_removed() {
    use http_body_util::BodyExt;
    let server = server(caller("ops", &[Scope::Events], ""));
    let request =
        Request::get("/v1/events/stream?kind=consumed").header("authorization", "Bearer ops-secret");
    let mut body = server.private_response(request.body(Body::empty()).unwrap()).await.into_body();
    let mut next = async || match body.frame().await {
        Some(frame) => String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap(),
        None => "the end".to_owned(),
    };
    assert_eq!(next().await, ": following\n\n");
    assert_eq!(server.handshake(&server.token()).await.status, StatusCode::OK);
    assert!(next().await.contains("consumed"));
    server.change_callers(&caller("other", &[Scope::Events], ""));
    assert_eq!(server.handshake(&server.token()).await.status, StatusCode::OK);
    assert_eq!(next().await, "the end");
}

#[tokio::test]
async fn server_lists_callers_without_secrets() {
    let server =
        server(caller("ops", &[Scope::Admin], "") + &caller("worker", &[Scope::Issue, Scope::Look], ""));
    let document = send(&server, "ops", "GET", "/v1/server", None).await.json();
    assert_eq!(
        document["callers"],
        json!([
            { "name": "ops", "scopes": ["admin"], "secrets": 1, "last_seen": "2026-01-31T12:00:00Z" },
            { "name": "worker", "scopes": ["issue", "look"], "secrets": 1 },
        ])
    );
}
