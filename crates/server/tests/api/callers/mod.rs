//! Callers with names, and the credentials that they show.

mod limits;
mod records;
mod scopes;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_server::{ClientCertificate, Scope, SecretHash};
use serde_json::Value;

use crate::fixture::{Answer, Fixture, JSON, Options, post};

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
async fn certificate_without_a_caller_is_counted() {
    let server = server(caller("events", &[Scope::Events], ""));
    let mut request = Request::get("/v1/events").body(Body::empty()).unwrap();
    request.extensions_mut().insert(ClientCertificate(["dns:removed".to_owned()].into()));
    assert_eq!(server.private(request).await.status, StatusCode::UNAUTHORIZED);
    let metrics = send(&server, "events", "GET", "/metrics", None).await;
    assert!(metrics.text.contains("countersign_credentials_rejected_total 1\n"), "{}", metrics.text);
}
