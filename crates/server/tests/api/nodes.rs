//! Several servers on one store: a key that was revoked redeems nothing on any of them, and no live token is rejected,
//! whatever the order of changes, restarts and cut lines.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_core::handshake::{Attempt, Refusal, StatedAudience, Verdict};
use countersign_core::{
    CHECK_IN_PERIOD, CheckInFinding, Clock, EndResult, Ending, Key, KeyChange, KeyId, KeyRing, LoginTokenSet,
    ManualClock, NewToken, NodeFacts, NodeId, OsEntropy, Policy, RetryKeyHash, RingChange, RingError,
    SETTLING, StoreError, TokenId, TokenStore, change_ring, read_ring,
};
use countersign_server::KeyFile;
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreCall, StoreHook, seen};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;
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

fn advance(servers: [&Fixture; 2], by: Duration) {
    for server in servers {
        server.clock.advance(by);
    }
}

#[tokio::test]
async fn new_key_seals_everywhere_after_settling() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let new = rotate(&one).await;
    assert_eq!(sealing(&one).await, old);
    assert_eq!(keys(&one).await[1]["waits_for"], json!([]));
    other.app.check_in().await;
    assert_eq!(sealing(&other).await, old);
    advance([&one, &other], SETTLING);
    assert_eq!((sealing(&one).await, sealing(&other).await), (new.clone(), new));
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn revoked_key_is_refused_everywhere_at_once() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let (stolen, elsewhere) = (one.token(), other.token());
    let answer = change(&one, "/v1/keys/revoke", json!({ "id": old })).await;
    assert_eq!(
        (answer.status, &answer.json()["type"]),
        (StatusCode::CONFLICT, &json!("urn:countersign:problem:key-seals"))
    );
    assert_eq!(status(&one, &one.token()).await, StatusCode::OK, "it is still there");

    revoke(&one, &old, true).await;
    // Beta has not checked in since, and still seals with the old key.
    let late = other.token();
    for token in [&stolen, &elsewhere, &late] {
        assert_eq!(status(&other, token).await, StatusCode::NOT_FOUND);
        assert_eq!(status(&one, token).await, StatusCode::NOT_FOUND);
    }
    assert_ne!(sealing(&other).await, old, "it has found out");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);

    let again = change(&one, "/v1/keys/revoke", json!({ "id": old })).await;
    assert_eq!(again.status, StatusCode::CONFLICT, "{again:?}");
    assert!(again.text.contains("keys list"), "{again:?}");
    let nonsense = change(&one, "/v1/keys/revoke", json!({ "id": "stolen" })).await;
    assert_eq!(nonsense.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn revoked_key_never_returns() {
    let (one, other, _) = two().await;
    let old = sealing(&one).await;
    let (used, live) = (one.token(), one.token());
    let attempt = |token: &str| {
        let path = crate::fixture::handshake_path(token);
        post(&path).header("idempotency-key", "the same").body(Body::empty()).unwrap()
    };
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::OK);
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::OK, "the answer was lost");
    revoke(&one, &old, true).await;
    assert_eq!(other.public(attempt(&used)).await.status, StatusCode::NOT_FOUND);
    let show = Request::get(format!("/v1/tokens/{live}")).body(Body::empty()).unwrap();
    assert_eq!(other.private(show).await.status, StatusCode::NOT_FOUND);
    let take_back = Request::delete(format!("/v1/tokens/{live}")).body(Body::empty()).unwrap();
    assert_eq!(other.private(take_back).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn revocation_holds_right_after_an_outage() {
    let (one, other, line) = two().await;
    let old = sealing(&one).await;
    let stolen = other.token();
    line.set_cut(true);
    revoke(&one, &old, true).await;
    assert_eq!(status(&other, &stolen).await, StatusCode::SERVICE_UNAVAILABLE);
    let issued = other.token();
    assert_eq!(status(&one, &issued).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&other, &one.token()).await, StatusCode::SERVICE_UNAVAILABLE, "it cannot know the key");
    line.set_cut(false);
    assert_eq!(status(&other, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn revoked_key_stays_revoked_after_a_restart() {
    let store = shared_store();
    let ((one, _), (other, _)) = (server(&store), server(&store));
    hand_over(&one, &other).await;
    one.app.tokens.join(facts("alpha")).await.unwrap();
    other.app.tokens.join(facts("beta")).await.unwrap();
    let old = sealing(&one).await;
    let stolen = one.token();
    revoke(&one, &old, true).await;
    other.app.tokens.leave().await.unwrap();
    // With the key file of before, in which the key still is.
    assert!(fs::read_to_string(other.app.key_file.path()).unwrap().contains(&old));
    let (again, _) = server(&store);
    hand_over(&other, &again).await;
    again.app.tokens.join(facts("beta")).await.unwrap();
    assert_eq!(status(&again, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&again, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn unknown_key_is_looked_up_before_refusing() {
    let (one, other, line) = two().await;
    revoke(&one, &sealing(&one).await, true).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    // What no server has sealed stays unknown, and is 404.
    let (elsewhere, _) = server(&shared_store());
    let unknown = elsewhere.token();
    assert_eq!(status(&other, &unknown).await, StatusCode::NOT_FOUND);
    line.set_cut(true);
    assert_eq!(status(&other, &unknown).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(&other, "cs1nonsense").await, StatusCode::NOT_FOUND);
    line.set_cut(false);
    assert_eq!(status(&other, &unknown).await, StatusCode::NOT_FOUND);
}

/// Anybody can write the name of a key that is not there; the store must not have to pay for it.
#[tokio::test(start_paused = true)]
async fn invented_keys_cause_few_reads() {
    let (_one, other, line) = two().await;
    let (elsewhere, _) = server(&shared_store());
    let other = Arc::new(other);
    let before = line.readings.load(Ordering::SeqCst);
    let began = tokio::time::Instant::now();
    let callers = (0..50).map(|_| {
        let (other, token) = (Arc::clone(&other), elsewhere.token());
        tokio::spawn(async move {
            for _ in 0..20 {
                assert_eq!(status(&other, &token).await, StatusCode::NOT_FOUND);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let readings = line.readings.load(Ordering::SeqCst) - before;
    let most = usize::try_from(began.elapsed().as_millis() / 100).unwrap() + 2;
    assert!(readings <= most, "{readings} readings in {:?} for 1000 requests", began.elapsed());
}

#[tokio::test]
async fn wrong_key_file_is_refused_without_loss() {
    let store = shared_store();
    let ((one, _), (stranger, _)) = (server(&store), server(&store));
    one.app.tokens.join(facts("alpha")).await.unwrap();
    let refused = stranger.app.tokens.join(facts("beta")).await.unwrap_err();
    assert!(matches!(refused, RingError::Locked(_)), "{refused}");
    assert!(refused.to_string().contains("copy the key file of a server"), "{refused}");
    hand_over(&one, &stranger).await;
    stranger.app.tokens.join(facts("beta")).await.unwrap();
    assert_eq!(status(&stranger, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn servers_that_start_at_once_agree_on_one_ring() {
    for _ in 0..20 {
        let store = shared_store();
        let ((one, _), (other, _)) = (server(&store), server(&store));
        let (first, second) =
            tokio::join!(one.app.tokens.join(facts("alpha")), other.app.tokens.join(facts("beta")));
        assert!(first.is_ok() != second.is_ok(), "{first:?}, {second:?}");
        hand_over(if first.is_ok() { &one } else { &other }, if first.is_ok() { &other } else { &one }).await;
        for (server, host) in [(&one, "alpha"), (&other, "beta")] {
            server.app.tokens.join(facts(host)).await.unwrap();
        }
        assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    }
}

/// After a theft of the file: a new key in it, the file handed around, the ring locked with it.
#[tokio::test]
async fn file_key_is_replaced_without_interruption() {
    let (one, other, _) = two().await;
    let thief = fs::read_to_string(one.app.key_file.path()).unwrap();
    let thief = KeyRing::parse(&thief).unwrap();
    let file = KeyFile::new(one.app.key_file.path().to_owned());
    file.change(KeyChange::Add, one.clock.now(), &OsEntropy, drop).unwrap();
    one.app.reload_keys(false).await;
    let before = keys(&one).await;
    let early = change(&one, "/v1/keys/rewrap", json!({})).await;
    assert_eq!(early.status, StatusCode::CONFLICT, "{early:?}");
    assert!(early.text.contains("beta") && early.text.contains("copy the key file there first"), "{early:?}");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);

    hand_over(&one, &other).await;
    let rewrapped = change(&one, "/v1/keys/rewrap", json!({})).await;
    assert_eq!(rewrapped.status, StatusCode::OK, "{rewrapped:?}");
    assert_eq!(keys(&one).await, before, "the keys are the same");
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    assert_eq!(status(&one, &other.token()).await, StatusCode::OK);
    let store = one.app.tokens.store();
    assert!(matches!(read_ring(&**store, &thief).await, Err(RingError::Locked(_))));
    // The old file again, by mistake: what unlocks the ring stays in memory.
    fs::write(other.app.key_file.path(), thief.to_text().as_bytes()).unwrap();
    other.app.reload_keys(true).await;
    rotate(&one).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
}

#[tokio::test]
async fn server_that_cannot_read_the_ring_is_not_ready_until_it_has_the_file() {
    let (one, other, line) = two().await;
    // Beta does not hear of the new file, nor is it heard of.
    line.set_cut(true);
    other.app.tokens.leave().await.unwrap_err();
    let file = KeyFile::new(one.app.key_file.path().to_owned());
    file.change(KeyChange::Add, one.clock.now(), &OsEntropy, drop).unwrap();
    one.app.reload_keys(false).await;
    let store = one.app.tokens.store();
    let rewrap = RingChange::Rewrap;
    change_ring(&**store, &file.load().unwrap(), rewrap, one.clock.now(), &OsEntropy).await.unwrap();
    line.set_cut(false);
    assert_eq!(status(&other, &one.token()).await, StatusCode::SERVICE_UNAVAILABLE);
    let ready = || other.public(Request::get("/readyz").body(Body::empty()).unwrap());
    assert_eq!(ready().await.status, StatusCode::SERVICE_UNAVAILABLE);
    hand_over(&one, &other).await;
    assert_eq!(status(&other, &one.token()).await, StatusCode::OK);
    other.app.tokens.join(facts("beta")).await.unwrap();
    other.app.check_in().await;
    assert_eq!(ready().await.status, StatusCode::OK);
}

#[tokio::test]
async fn relocking_a_file_ring_is_refused() {
    let answer = change(&Fixture::new(), "/v1/keys/rewrap", json!({})).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert!(answer.text.contains("in the key file"), "{answer:?}");
}

#[tokio::test]
async fn only_key_is_revoked_together_with_a_new_one() {
    let server = Fixture::new();
    let (old, stolen) = (sealing(&server).await, server.token());
    revoke(&server, &old, true).await;
    assert_ne!(sealing(&server).await, old);
    assert_eq!(status(&server, &stolen).await, StatusCode::NOT_FOUND);
    assert_eq!(status(&server, &server.token()).await, StatusCode::OK);
}

/// The events on record, as the private API shows them.
async fn events(server: &Fixture) -> String {
    server.private(Request::get("/v1/events").body(Body::empty()).unwrap()).await.text
}

/// A caller that asks and is gone before the answer.
async fn ask_and_hang_up(server: &Fixture, path: &str, body: &Value) {
    let asked = server.private(request(path, body));
    tokio::pin!(asked);
    // As far as the request is read and the change begins.
    let hung_up = tokio::time::timeout(Duration::from_millis(1), &mut asked).await;
    assert!(hung_up.is_err(), "the caller was not fast enough: {hung_up:?}");
}

#[tokio::test]
async fn change_completes_when_its_caller_disconnects() {
    let server = Fixture::new();
    tokio::spawn(Arc::clone(&server.app.events).write());
    let stolen = server.token();
    let old = sealing(&server).await;
    let directory = fs::File::open(server.app.key_file.path().parent().unwrap()).unwrap();
    directory.lock().unwrap();
    ask_and_hang_up(&server, "/v1/keys/revoke", &json!({ "id": old, "rotate": true })).await;
    assert_eq!(sealing(&server).await, old);
    drop(directory);
    seen("another key seals", async || (sealing(&server).await != old).then_some(())).await;
    assert_eq!(status(&server, &stolen).await, StatusCode::NOT_FOUND);
    for kind in ["key-rotated", "key-revoked"] {
        seen(kind, async || events(&server).await.contains(kind).then_some(())).await;
    }
    let on_disk = fs::read_to_string(server.app.key_file.path()).unwrap();
    assert!(on_disk.contains(&format!("revoked = [\"{old}\"]")), "{old}");
}

#[tokio::test]
async fn locked_key_file_is_reported_and_unchanged() {
    let server = Fixture::new();
    let directory = fs::File::open(server.app.key_file.path().parent().unwrap()).unwrap();
    directory.lock().unwrap();
    let before = keys(&server).await;
    let answer = change(&server, "/v1/keys/rotate", json!({})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.text.contains("holds the lock"), "{answer:?}");
    assert_eq!(keys(&server).await, before);
    drop(directory);
    rotate(&server).await;
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

/// What may happen to three servers on one store.
#[derive(Clone, Debug)]
enum Step {
    /// A new key.
    Rotate(usize),
    /// One of the keys is revoked, perhaps replaced.
    Revoke { node: usize, key: Index, rotate: bool },
    /// Everybody checks in, and time passes.
    Tick,
    /// One cannot reach the store, or can again.
    Cut(usize),
    /// One stops, in order or not.
    Stop { node: usize, orderly: bool },
    /// One starts, with the file that they all had in the beginning.
    Start(usize),
    /// One issues a token.
    Issue(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..3_usize;
    prop_oneof![
        node.clone().prop_map(Step::Rotate),
        (node.clone(), any::<Index>(), any::<bool>()).prop_map(|(node, key, rotate)| Step::Revoke {
            node,
            key,
            rotate
        }),
        Just(Step::Tick),
        node.clone().prop_map(Step::Cut),
        (node.clone(), any::<bool>()).prop_map(|(node, orderly)| Step::Stop { node, orderly }),
        node.clone().prop_map(Step::Start),
        node.clone().prop_map(Step::Issue),
        node.prop_map(Step::Issue),
    ]
}

/// Three servers, the file that each of them has, and the tokens that were issued, with their keys.
struct World {
    clock: Arc<ManualClock>,
    store: Arc<dyn TokenStore>,
    file: KeyRing,
    nodes: Vec<Option<LoginTokenSet>>,
    lines: Vec<Arc<Hooked<Line>>>,
    tokens: Vec<(String, KeyId)>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        let as_clock: Arc<dyn Clock> = clock.clone();
        let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::shared(&as_clock));
        let file = KeyRing::generate(clock.now(), &OsEntropy).unwrap();
        let lines = (0..3).map(|_| Line::to(&store)).collect();
        let mut world = Self { clock, store, file, nodes: vec![None, None, None], lines, tokens: Vec::new() };
        for node in 0..3 {
            world.take(Step::Start(node)).await;
        }
        world
    }

    /// The truth: the ring that is in the store.
    async fn ring(&self) -> KeyRing {
        read_ring(&*self.store, &self.file).await.unwrap()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Rotate(node) => {
                let change = RingChange::Keys(KeyChange::Rotate { activate_in: Duration::ZERO });
                self.change(node, change).await;
            }
            Step::Revoke { node, key, rotate } => {
                let before = self.ring().await;
                let now = self.clock.now();
                let key = key.get(before.keys()).id();
                let place = |key: KeyId| before.keys().iter().position(|other| other.id() == key);
                if self.change(node, RingChange::Keys(KeyChange::Revoke { key, rotate })).await {
                    let sealing = self.ring().await.sealing_key(now).map(Key::id).unwrap();
                    let sealed = before.sealing_key(now).map(Key::id).unwrap();
                    // A key that is not older than the one that sealed before.
                    assert!(
                        place(sealing).is_none_or(|new| Some(new) >= place(sealed)),
                        "an older key seals"
                    );
                }
            }
            Step::Tick => {
                self.clock.advance(CHECK_IN_PERIOD);
                for (node, line) in self.nodes.iter().zip(&self.lines) {
                    if let Some(node) = node {
                        assert_eq!(node.check_in().await.is_ok(), !line.is_cut());
                    }
                }
            }
            Step::Cut(node) => self.lines[node].set_cut(!self.lines[node].is_cut()),
            Step::Stop { node, orderly } => {
                if let (Some(set), true) = (self.nodes[node].take(), orderly) {
                    let _ = set.leave().await;
                }
            }
            Step::Start(node) => self.start(node).await,
            Step::Issue(node) => {
                if let Some(set) = &self.nodes[node] {
                    let key = set.keys().sealing_key(self.clock.now()).map(Key::id).unwrap();
                    self.tokens.push((set.issue(NewToken::default()).unwrap().text.into_exposed(), key));
                }
            }
        }
    }

    async fn change(&self, node: usize, change: RingChange) -> bool {
        let Some(set) = &self.nodes[node] else { return false };
        match set.change_ring(change).await {
            Ok(_) => true,
            Err(RingError::Store(_)) if self.lines[node].is_cut() => false,
            // It is full, or no key would be left to seal.
            Err(RingError::Ring(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn start(&mut self, node: usize) {
        if self.nodes[node].is_some() {
            return;
        }
        let (file, line) = (self.file.clone(), self.lines[node].clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let set = LoginTokenSet::new(file, line, clock, Arc::new(OsEntropy), Policy::default());
        match set.join(facts(&node.to_string())).await {
            Ok(findings) => {
                assert!(
                    findings.iter().all(|finding| matches!(finding, CheckInFinding::Seals(_))),
                    "{findings:?}"
                );
                self.nodes[node] = Some(set);
            }
            Err(error) => assert!(self.lines[node].is_cut(), "{error}"),
        }
    }

    /// Shows every token to everybody, with the key that gets a lost answer again.
    async fn check(&self) {
        let attempt = Attempt {
            is_post: true,
            audience: StatedAudience::None,
            retry_key: Some(RetryKeyHash::of(b"the same")),
        };
        let ring = self.ring().await;
        for (token, key) in &self.tokens {
            for (place, (node, line)) in self.nodes.iter().zip(&self.lines).enumerate() {
                let Some(node) = node else { continue };
                let redeemed = node.redeem(token, &attempt, None).await.map(|redeemed| redeemed.verdict);
                match redeemed {
                    Err(_) => assert!(line.is_cut(), "node {place} does not answer"),
                    Ok(verdict) if ring.holds(*key) => assert_ne!(
                        verdict,
                        Verdict::Rejected(Refusal::NotOurs),
                        "node {place} does not know a live token of {key}"
                    ),
                    Ok(verdict) => {
                        let accepted = matches!(verdict, Verdict::Accepted { .. });
                        assert!(!accepted, "node {place} accepts a token of {key}, which was revoked");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_order_of_events_respects_revocation(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        // Paused: the time between two readings of the ring passes at once.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.take(step).await;
                world.check().await;
            }
        });
    }
}

/// A store that does not look at the ring is found out by the same checks.
#[tokio::test]
async fn model_accepts_a_revoked_key_without_the_ring_check() {
    #[derive(Debug)]
    struct Careless;

    #[async_trait]
    impl StoreHook for Careless {
        async fn end(
            &self,
            store: &dyn TokenStore,
            id: TokenId,
            expires: Timestamp,
            ending: Ending,
            _: Option<u64>,
        ) -> Result<EndResult, StoreError> {
            let there = store.ring().await?.map_or(0, |ring| ring.version);
            store.end_with_ring(id, expires, ending, there).await
        }
    }

    let world = World::new().await;
    let clock: Arc<dyn Clock> = world.clock.clone();
    let careless = Hooked::new(Arc::clone(&world.store), Careless);
    let careless =
        LoginTokenSet::new(world.file.clone(), careless, clock, Arc::new(OsEntropy), Policy::default());
    careless.join(facts("careless")).await.unwrap();
    let stolen = careless.issue(NewToken::default()).unwrap().text.into_exposed();
    let key = world.file.keys()[0].id();
    assert!(world.change(0, RingChange::Keys(KeyChange::Revoke { key, rotate: true })).await);
    let attempt = Attempt { is_post: true, audience: StatedAudience::None, retry_key: None };
    let verdict = careless.redeem(&stolen, &attempt, None).await.unwrap().verdict;
    assert!(matches!(verdict, Verdict::Accepted { .. }), "{verdict:?}");
}
