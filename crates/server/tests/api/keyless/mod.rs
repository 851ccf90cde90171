//! Callers that show a JWT of an issuer instead of a secret.

mod callers;
mod issuer_keys;
mod tokens;

use axum::body::Body;
use axum::http::Request;
use countersign_server::{Scope, SecretHash};
use countersign_testkit::{IssuerServer, SigningKey};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, Options, post};

const KUBERNETES: &str = "https://kubernetes.default.svc.cluster.local";

const WORKER: &str = "system:serviceaccount:trackers:worker";

/// What the fixture's clock shows.
const NOON: i64 = 1_769_860_800;

/// A caller that shows a JWT; `more` is further keys of its table.
fn caller(name: &str, scope: Scope, issuer: &str, subject: &str, more: &str) -> String {
    format!(
        "[[caller]]\nname = '{name}'\nscopes = ['{scope}']\n[caller.jwt]\nissuer = '{issuer}'\naudience = 'countersign'\n\
         subject = '{subject}'\n{more}\n"
    )
}

/// A caller with a secret, to look at the metrics with.
fn ops() -> String {
    let hash = SecretHash::of(b"ops-secret");
    format!("[[caller]]\nname = 'ops'\nscopes = ['events', 'admin']\nsecrets = ['{hash}']\n")
}

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": WORKER, "aud": ["countersign"], "iat": NOON, "nbf": NOON, "exp": NOON + 3600,
        "jti": "2f1c", "kubernetes.io": { "namespace": "trackers", "serviceaccount": { "name": "worker" } },
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// A server that knows the worker of an issuer, and one that has published this key.
async fn server_and_issuer(key: &SigningKey) -> (Fixture, IssuerServer) {
    let issuer = IssuerServer::start(None).await;
    issuer.publish(&[key]);
    let callers = caller("worker", Scope::Issue, issuer.url(), WORKER, "") + &ops();
    (Fixture::with(Options { callers: Some(callers), ..Options::default() }), issuer)
}

async fn show(server: &Fixture, token: &str) -> Answer {
    let request = post("/v1/tokens").header("authorization", format!("Bearer {token}"));
    server.private(request.body(Body::empty()).unwrap()).await
}

async fn metrics(server: &Fixture) -> String {
    let request = Request::get("/metrics").header("authorization", "Bearer ops-secret");
    server.private(request.body(Body::empty()).unwrap()).await.text
}

/// The reason for which the last token was rejected; each is rejected for one reason, and counted once.
async fn rejected_for(server: &Fixture, before: &str) -> String {
    let now = metrics(server).await;
    let of_jwts = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("countersign_jwts_rejected_total"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, now) = (of_jwts(before), of_jwts(&now));
    let changed: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let [changed] = *changed else { return format!("{} reasons", changed.len()) };
    changed.split('"').nth(1).unwrap().to_owned()
}

/// A server with these callers, for an issuer whose keys are in a file; and a directory that has it.
fn server_with(key: &SigningKey, callers: &[(&str, Scope, &str, &str)]) -> (Fixture, tempfile::TempDir) {
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({ "keys": [key.jwk()] }).to_string()).unwrap();
    let source = format!("jwks_file = '{}'", file.display());
    let callers: String = callers
        .iter()
        .map(|(name, scope, subject, more)| {
            caller(name, *scope, KUBERNETES, subject, &format!("{source}\n{more}"))
        })
        .collect();
    (Fixture::with(Options { callers: Some(callers + &ops()), ..Options::default() }), directory)
}

async fn server_document(server: &Fixture) -> Value {
    let request = Request::get("/v1/server").header("authorization", "Bearer ops-secret");
    server.private(request.body(Body::empty()).unwrap()).await.json()
}
