//! Several servers on one store: a key that was revoked redeems nothing on any of them, and no live token is rejected,
//! whatever the order of changes, restarts and cut lines.

mod key_file;
mod model;
mod revoking;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::{Clock, ManualClock, NodeFacts, NodeId, OsEntropy, StoreError, TokenStore};
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreCall, StoreHook};
use serde_json::{Value, json};

use crate::fixture::{Answer, Fixture, JSON, Options, post};

/// A way to the store that can be cut.
#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    readings: AtomicUsize,
}

impl Line {
    fn to(store: &Arc<dyn TokenStore>) -> Arc<Hooked<Self>> {
        Hooked::new(Arc::clone(store), Self::default())
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl StoreHook for Line {
    async fn before(&self, call: StoreCall) -> Result<(), StoreError> {
        if call == StoreCall::Ring {
            self.readings.fetch_add(1, Ordering::SeqCst);
        }
        if self.is_cut() { Err(StoreError::unavailable("the line is cut")) } else { Ok(()) }
    }
}

fn shared_store() -> Arc<dyn TokenStore> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
    Arc::new(MemoryStore::shared(&clock))
}

pub(crate) fn facts(host: &str) -> NodeFacts {
    NodeFacts {
        id: NodeId::generate(&OsEntropy).unwrap(),
        host: host.to_owned(),
        private_url: "http://127.0.0.1:8087".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// A server that has not joined yet, and its line.
fn server(store: &Arc<dyn TokenStore>) -> (Fixture, Arc<Hooked<Line>>) {
    let line = Line::to(store);
    (Fixture::with(Options { store: Some(line.clone()), ..Options::default() }), line)
}

/// Two servers with the same key file; the second one's line.
async fn two() -> (Fixture, Fixture, Arc<Hooked<Line>>) {
    let store = shared_store();
    let ((one, _), (other, line)) = (server(&store), server(&store));
    hand_over(&one, &other).await;
    one.app.tokens.join(facts("alpha")).await.unwrap();
    other.app.tokens.join(facts("beta")).await.unwrap();
    (one, other, line)
}

/// Copies the key file, and has it taken up.
async fn hand_over(from: &Fixture, to: &Fixture) {
    // Replaced by rename, so that it is another file.
    let beside = to.app.key_file.path().with_extension("copy");
    fs::copy(from.app.key_file.path(), &beside).unwrap();
    fs::rename(beside, to.app.key_file.path()).unwrap();
    to.app.reload_keys(false).await;
}

async fn keys(server: &Fixture) -> Vec<Value> {
    let answer = server.private(Request::get("/v1/keys").body(Body::empty()).unwrap()).await;
    answer.json()["keys"].as_array().unwrap().clone()
}

async fn sealing(server: &Fixture) -> String {
    let keys = keys(server).await;
    let sealing: Vec<&Value> = keys.iter().filter(|key| key["sealing"] == true).collect();
    assert_eq!(sealing.len(), 1, "{keys:?}");
    sealing[0]["id"].as_str().unwrap().to_owned()
}

fn request(path: &str, body: &Value) -> Request<Body> {
    post(path).header("content-type", JSON).body(Body::from(body.to_string())).unwrap()
}

async fn change(server: &Fixture, path: &str, body: Value) -> Answer {
    server.private(request(path, &body)).await
}

async fn rotate(server: &Fixture) -> String {
    let answer = change(server, "/v1/keys/rotate", json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let keys = answer.json()["keys"].as_array().unwrap().clone();
    keys.last().unwrap()["id"].as_str().unwrap().to_owned()
}

async fn revoke(server: &Fixture, id: &str, rotate: bool) {
    let answer = change(server, "/v1/keys/revoke", json!({ "id": id, "rotate": rotate })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

async fn status(server: &Fixture, token: &str) -> StatusCode {
    server.handshake(token).await.status
}

#[tokio::test]
async fn nodes_are_listed() {
    let (one, _other, _) = two().await;
    let answer = one.private(Request::get("/v1/nodes").body(Body::empty()).unwrap()).await.json();
    let nodes = answer["nodes"].as_array().unwrap();
    let mut hosts: Vec<&str> = nodes.iter().map(|node| node["host"].as_str().unwrap()).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["alpha", "beta"]);
    assert!(nodes.iter().any(|node| node["id"] == answer["this"]));
    for node in nodes {
        assert_eq!((&node["live"], &node["version"]), (&json!(true), &json!("0.1.0")), "{node}");
        assert_eq!(node["keys"], json!([node["sealing"]]));
    }
}
