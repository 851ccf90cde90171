//! Changes whose caller hangs up while the store has not answered yet.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::Request;
use countersign_testkit::{StoreCall, StoreHook, seen};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::fixture::{FORM, Fixture, Options, hooked, post};

/// A store that changes at once, and says so when it is let.
#[derive(Debug)]
struct Held {
    reached: Semaphore,
    free: Semaphore,
}

#[async_trait]
impl StoreHook for Held {
    async fn after(&self, call: StoreCall) {
        if matches!(call, StoreCall::End | StoreCall::MoveFence | StoreCall::Purge) {
            self.reached.add_permits(1);
            self.free.acquire().await.unwrap().forget();
        }
    }
}

async fn get(server: &Fixture, path: &str) -> String {
    server.private(Request::get(path).body(Body::empty()).unwrap()).await.text
}

#[tokio::test]
async fn change_is_counted_when_its_caller_disconnects() {
    let held = hooked(Held { reached: Semaphore::new(0), free: Semaphore::new(0) });
    let server = Fixture::with(Options { store: Some(held.clone()), ..Options::default() });
    tokio::spawn(Arc::clone(&server.app.events).write());
    let by_xmlrpc = format!(
        "<methodCall><methodName>revokeLoginToken</methodName><params><param><value>{}</value></param></params></methodCall>",
        server.token()
    );
    let in_a_multicall = format!(
        "<methodCall><methodName>system.multicall</methodName><params><param><value><array><data><value><struct>\
         <member><name>methodName</name><value>revokeLoginToken</value></member><member><name>params</name><value>\
         <array><data><value>{}</value></data></array></value></member></struct></value></data></array></value></param>\
         </params></methodCall>",
        server.token()
    );
    let page = post("/page/token").header("host", "127.0.0.1:1").header("origin", "http://127.0.0.1:1");
    let page =
        page.header("content-type", FORM).body(Body::from(format!("do=revoke&token={}", server.token())));
    let xmlrpc =
        |body: String| post("/bugs").header("content-type", "text/xml").body(Body::from(body)).unwrap();
    let changes = [
        Request::delete(format!("/v1/tokens/{}", server.token())).body(Body::empty()).unwrap(),
        xmlrpc(by_xmlrpc),
        xmlrpc(in_a_multicall),
        page.unwrap(),
        post("/v1/store/purge").body(Body::empty()).unwrap(),
        post("/v1/store/fence").body(Body::empty()).unwrap(),
    ];
    let count = changes.len();
    for change in changes {
        tokio::select! {
            biased;
            reached = held.reached.acquire() => reached.unwrap().forget(),
            _ = server.private(change) => panic!("it was answered before the store said anything"),
        }
        // Here the request's future is dropped, as when the caller hangs up.
    }
    assert!(get(&server, "/metrics").await.contains("countersign_tokens_revoked_total 0\n"));
    held.free.add_permits(count);
    seen("each change is counted and told", async || {
        let metrics = get(&server, "/metrics").await;
        let events: Value = serde_json::from_str(&get(&server, "/v1/events?kind=fence-moved").await).unwrap();
        let is_told = events["events"].as_array().unwrap().len() == 1;
        (metrics.contains("countersign_tokens_revoked_total 4\n") && is_told).then_some(())
    })
    .await;
}
