//! Each route against each scope.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::seal::unseal;
use countersign_server::routes::{Needs, private_routes};
use countersign_server::{Scope, SecretHash};

use super::{call, one_for_each_scope, send, server};
use crate::fixture::{Fixture, Options, post};

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
