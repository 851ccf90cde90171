use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::*;
use crate::handshake::{Attempt, Refusal, StatedAudience, Verdict};
use crate::{
    EndResult, Ending, EndingQuery, Endings, KeyChange, ManualClock, NewToken, OsEntropy, Policy, SETTLING,
    SeenNode, StoreStats, StoredRing, TokenId, TokenStore, TokenText, after,
};

/// As much of a store as the nodes need; the real ones have a suite of tests of their own.
#[derive(Debug)]
struct NodeStore {
    is_shared: bool,
    is_away: AtomicBool,
    ring: StdMutex<Option<StoredRing>>,
    nodes: StdMutex<HashMap<String, Node>>,
    check_ins: AtomicUsize,
    /// How often the ring was read, and what each reading takes one of.
    readings: AtomicUsize,
    may_read: Semaphore,
}

impl NodeStore {
    fn new(is_shared: bool) -> Arc<Self> {
        Arc::new(Self {
            is_shared,
            is_away: AtomicBool::new(false),
            ring: StdMutex::default(),
            nodes: StdMutex::default(),
            check_ins: AtomicUsize::new(0),
            readings: AtomicUsize::new(0),
            may_read: Semaphore::new(1000),
        })
    }

    fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        if self.is_away.load(Ordering::SeqCst) { Err(StoreError::unavailable("away")) } else { Ok(answer) }
    }

    fn is_of_ring(&self, version: u64) -> Result<(), StoreError> {
        let stored = self.ring.lock().unwrap().as_ref().map_or(0, |ring| ring.version);
        if version == stored { Ok(()) } else { Err(StoreError::OtherRing) }
    }

    fn list(&self, now: Timestamp) -> NodeList {
        let seen =
            |node: &Node| SeenNode { node: node.clone(), at: node.clock, live: node.serving, schema: 1 };
        NodeList { now, nodes: self.nodes.lock().unwrap().values().map(seen).collect() }
    }

    fn node(&self, host: &str) -> Node {
        self.nodes.lock().unwrap().values().find(|node| node.host == host).unwrap().clone()
    }
}

#[async_trait]
impl TokenStore for NodeStore {
    async fn end(&self, _: TokenId, _: Timestamp, _: Ending) -> Result<EndResult, StoreError> {
        self.answer(EndResult::Recorded)
    }

    async fn look_up(&self, _: TokenId, _: Timestamp) -> Result<EndResult, StoreError> {
        self.answer(EndResult::Recorded)
    }

    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        self.is_of_ring(ring)?;
        self.end(id, expires, ending).await
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.readings.fetch_add(1, Ordering::SeqCst);
        self.may_read.acquire().await.unwrap().forget();
        self.answer(self.ring.lock().unwrap().clone())
    }

    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        let is_there = self.is_of_ring(from).is_ok();
        if is_there {
            *self.ring.lock().unwrap() = Some(ring.clone());
        }
        self.answer(is_there)
    }

    async fn endings(&self, _: &EndingQuery) -> Result<Endings, StoreError> {
        self.answer(Endings::default())
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        self.answer(to)
    }

    async fn purge(&self, _: Timestamp) -> Result<u64, StoreError> {
        self.answer(0)
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Err(StoreError::Busy)
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.answer(())
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        self.answer(())?;
        self.check_ins.fetch_add(1, Ordering::SeqCst);
        self.nodes.lock().unwrap().insert(node.id.to_string(), node.clone());
        Ok(self.list(node.clock))
    }

    async fn node_list(&self, now: Timestamp) -> Result<NodeList, StoreError> {
        self.answer(self.list(now))
    }

    async fn close(&self) {}
}

fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn new_file() -> KeyRing {
    KeyRing::generate(noon(), &OsEntropy).unwrap()
}

fn only_key(ring: &KeyRing) -> KeyId {
    assert_eq!(ring.keys().len(), 1);
    ring.keys()[0].id()
}

fn facts(host: &str) -> NodeFacts {
    NodeFacts {
        id: NodeId::generate(&OsEntropy).unwrap(),
        host: host.to_owned(),
        private_url: "http://127.0.0.1:8087".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// A node that has not joined yet.
fn node(store: &Arc<NodeStore>, file: &KeyRing) -> LoginTokenSet {
    let clock = Arc::new(ManualClock::at(noon()));
    LoginTokenSet::new(file.clone(), store.clone(), clock, Arc::new(OsEntropy), Policy::default())
}

/// Two nodes of one store that have joined with the same key file.
async fn two(store: &Arc<NodeStore>, file: &KeyRing) -> (LoginTokenSet, LoginTokenSet) {
    let (one, other) = (node(store, file), node(store, file));
    one.join(facts("alpha")).await.unwrap();
    other.join(facts("beta")).await.unwrap();
    (one, other)
}

fn rotated(file: &KeyRing) -> KeyRing {
    let mut newer = file.clone();
    newer.change(KeyChange::Add, noon(), &OsEntropy).unwrap();
    newer
}

fn issue(set: &LoginTokenSet) -> TokenText {
    set.issue(NewToken::default()).unwrap().text
}

async fn redeem(set: &LoginTokenSet, text: &TokenText) -> Result<Verdict, StoreError> {
    let attempt = Attempt { is_post: true, audience: StatedAudience::None, retry_key: None };
    set.redeem(text.expose(), &attempt, None).await.map(|done| done.verdict).map_err(|error| error.0)
}

async fn revoke_key(set: &LoginTokenSet, key: KeyId) {
    set.change_ring(RingChange::Keys(KeyChange::Revoke { key, rotate: true })).await.unwrap();
}

#[tokio::test]
async fn first_server_stores_its_keys_and_the_next_reads_them() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = (node(&store, &file), node(&store, &file));
    assert_eq!((one.node_id(), one.node_list()), (None, None));
    let (alpha, key) = (facts("alpha"), only_key(&file));
    assert_eq!(one.join(alpha.clone()).await, Ok(vec![CheckInFinding::Seals(key)]));
    assert_eq!(one.node_id(), Some(alpha.id));
    let version = store.ring.lock().unwrap().as_ref().unwrap().version;
    assert_eq!(one.keys().version(), version);
    assert_eq!(other.join(facts("beta")).await, Ok(vec![CheckInFinding::Seals(key)]));
    assert_eq!((other.keys().version(), only_key(&other.keys())), (version, key));
    assert_eq!(other.node_list().unwrap().nodes.len(), 2);
    assert!(matches!(redeem(&other, &issue(&one)).await, Ok(Verdict::Accepted { .. })));
    let said = store.node("alpha");
    assert_eq!((said.serving, said.sealing, said.unlocks), (true, Some(key), vec![key]));
    assert_eq!((said.keys[0].id, said.keys[0].active_from), (key, noon()));
}

#[tokio::test]
async fn server_with_another_key_file_does_not_join() {
    let (store, file) = (NodeStore::new(true), new_file());
    node(&store, &file).join(facts("alpha")).await.unwrap();
    let refused = node(&store, &new_file()).join(facts("beta")).await;
    assert_eq!(refused, Err(RingError::Locked(only_key(&file))));
    assert_eq!(store.check_ins.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn change_by_another_node_is_reported_once() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = two(&store, &file).await;
    let old = only_key(&file);
    assert_eq!(other.check_in().await, Ok(Vec::new()), "nothing has changed");
    let older_ring = store.ring.lock().unwrap().clone();
    revoke_key(&one, old).await;
    let new = only_key(&one.keys());
    assert_eq!(one.check_in().await, Ok(vec![CheckInFinding::Seals(new)]), "it knows of its own change");
    let found = other.check_in().await;
    assert_eq!(found, Ok(vec![CheckInFinding::Revoked(old), CheckInFinding::Seals(new)]));
    assert_eq!(other.check_in().await, Ok(Vec::new()));
    // An older state of the database is restored.
    *store.ring.lock().unwrap() = older_ring;
    let found = other.check_in().await;
    assert_eq!(found, Ok(vec![CheckInFinding::Returned(old), CheckInFinding::Seals(old)]));
}

#[tokio::test]
async fn new_key_waits_until_every_node_has_it() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, _) = two(&store, &file).await;
    let change = RingChange::Keys(KeyChange::Rotate { activate_in: Duration::ZERO });
    let changed = one.change_ring(change).await.unwrap();
    assert_eq!(only_key(&changed.before), only_key(&file));
    assert_eq!(changed.after.keys()[1].active_from(), after(noon(), SETTLING));
    assert_eq!(one.keys().version(), changed.after.version(), "it is in use");
}

#[tokio::test]
async fn revoked_key_redeems_nothing_on_the_other_node() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = two(&store, &file).await;
    let stolen = issue(&one);
    revoke_key(&one, only_key(&file)).await;
    assert_eq!(redeem(&other, &stolen).await, Ok(Verdict::Rejected(Refusal::NotOurs)));
    let readings = store.readings.load(Ordering::SeqCst);
    assert_eq!(redeem(&other, &stolen).await, Ok(Verdict::Rejected(Refusal::NotOurs)));
    assert_eq!(store.readings.load(Ordering::SeqCst), readings, "a revoked key is known");
}

#[tokio::test]
async fn unreadable_ring_is_reported_once_until_it_is_mended() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, _) = two(&store, &file).await;
    let text = issue(&one);
    let (good, foreign) = (store.ring.lock().unwrap().clone(), new_file());
    let locked = RingError::Locked(only_key(&foreign));
    let version = good.as_ref().unwrap().version;
    // Locked anew by somebody else, with the same version or another one.
    for version in [version, version + 2] {
        let ring = KeyRing::clone(&one.keys()).at_version(version);
        *store.ring.lock().unwrap() = Some(StoredRing::seal(&ring, &foreign.keys()[0]).unwrap());
        assert_eq!(one.check_in().await, Ok(vec![CheckInFinding::Unreadable(locked.clone())]));
        assert_eq!(one.check_in().await, Ok(Vec::new()));
        assert_eq!(one.ready().await, Err(StoreError::unavailable(locked.to_string())));
        *store.ring.lock().unwrap() = good.clone();
        assert_eq!(one.check_in().await, Ok(Vec::new()));
        assert_eq!(one.ready().await, Ok(()));
    }
    assert!(matches!(redeem(&one, &text).await, Ok(Verdict::Accepted { .. })));
    store.is_away.store(true, Ordering::SeqCst);
    let away = StoreError::unavailable("away");
    assert_eq!(one.check_in().await, Err(away.clone()));
    assert_eq!(one.ready().await, Err(away.clone()));
    store.is_away.store(false, Ordering::SeqCst);
    assert_eq!(one.ready().await, Ok(()), "a store that was away is no trouble with the ring");
}

#[tokio::test]
async fn node_that_leaves_is_listed_as_gone() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, _) = two(&store, &file).await;
    one.leave().await.unwrap();
    let said = store.node("alpha");
    assert_eq!((said.serving, said.unlocks), (false, Vec::new()));
    let check_ins = store.check_ins.load(Ordering::SeqCst);
    one.leave().await.unwrap();
    assert_eq!(one.check_in().await, Ok(Vec::new()));
    assert_eq!(store.check_ins.load(Ordering::SeqCst), check_ins, "it has left once and for all");
}

/// Anybody can make a text up that names an unknown key.
#[tokio::test(start_paused = true)]
async fn unknown_keys_reread_the_ring_at_a_bounded_rate() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, _) = two(&store, &file).await;
    let foreign = node(&NodeStore::new(false), &new_file());
    let readings = || store.readings.load(Ordering::SeqCst);
    let (before, began) = (readings(), Instant::now());
    for _ in 0..3 {
        assert_eq!(redeem(&one, &issue(&foreign)).await, Ok(Verdict::Rejected(Refusal::NotOurs)));
    }
    assert_eq!(readings() - before, 3);
    assert!((PAUSE * 2..PAUSE * 3).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(matches!(redeem(&one, &issue(&one)).await, Ok(Verdict::Accepted { .. })));
    assert_eq!(readings() - before, 3, "its own key is known");
    let alone = NodeStore::new(false);
    let set = node(&alone, &file);
    assert_eq!(redeem(&set, &issue(&foreign)).await, Ok(Verdict::Rejected(Refusal::NotOurs)));
    assert_eq!(alone.readings.load(Ordering::SeqCst), 0, "its ring is the key file");
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_share_one_reading_of_the_ring() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, _) = two(&store, &file).await;
    let foreign = issue(&node(&NodeStore::new(false), &new_file()));
    let before = store.readings.load(Ordering::SeqCst);
    store.may_read.forget_permits(1000);
    let ask = || redeem(&one, &foreign);
    let let_go = async {
        // Polled last: each of the others waits by now.
        store.may_read.add_permits(1000);
    };
    let (a, b, c, d, ()) = tokio::join!(ask(), ask(), ask(), ask(), let_go);
    for verdict in [a, b, c, d] {
        assert_eq!(verdict, Ok(Verdict::Rejected(Refusal::NotOurs)));
    }
    assert_eq!(
        store.readings.load(Ordering::SeqCst) - before,
        2,
        "the first one's, and one that began later"
    );
}

#[tokio::test]
async fn new_key_file_keeps_the_key_that_unlocks_the_ring() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = two(&store, &file).await;
    let old = only_key(&file);
    assert_eq!(one.use_file(rotated(&file)), None, "it has the key");
    assert_eq!(one.use_file(new_file()), Some(old));
    assert_eq!(one.use_file(new_file()), Some(old), "it is still kept");
    revoke_key(&other, old).await;
    assert!(one.check_in().await.is_ok_and(|found| found.contains(&CheckInFinding::Revoked(old))));
    let alone = node(&NodeStore::new(false), &file);
    let next = new_file();
    assert_eq!(alone.use_file(next.clone()), None);
    assert_eq!(only_key(&alone.keys()), only_key(&next));
}

#[tokio::test]
async fn ring_is_locked_anew_only_with_a_key_that_all_have() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = two(&store, &file).await;
    let newer = rotated(&file);
    let newest = newer.keys()[1].id();
    one.use_file(newer.clone());
    let refused = one.change_ring(RingChange::Rewrap).await.unwrap_err();
    let beta = "beta (http://127.0.0.1:8087)".to_owned();
    assert_eq!(refused, RingError::NotEverywhere { key: newest, node: beta });
    other.use_file(newer);
    other.check_in().await.unwrap();
    one.change_ring(RingChange::Rewrap).await.unwrap();
    assert_eq!(store.ring.lock().unwrap().as_ref().unwrap().unlocked_by, newest);
    assert_eq!(only_key(&one.keys()), only_key(&file), "the keys are the same");
    assert_eq!(one.use_file(file.clone()), Some(newest), "the new key is needed from now on");

    // A node that has left needs no key.
    let again = rotated(&rotated(&file));
    one.use_file(again.clone());
    other.leave().await.unwrap();
    one.change_ring(RingChange::Rewrap).await.unwrap();
    assert_eq!(store.ring.lock().unwrap().as_ref().unwrap().unlocked_by, again.keys()[2].id());
}

#[tokio::test]
async fn fence_is_told_by_one_node_of_the_store() {
    let (store, file) = (NodeStore::new(true), new_file());
    let (one, other) = two(&store, &file).await;
    let fence = noon();
    one.note_told_fence(fence);
    assert_eq!(one.known_fence(), Some(fence));
    one.check_in().await.unwrap();
    assert!(!one.is_told_elsewhere(fence), "it is this node that has told");
    assert!(!other.is_told_elsewhere(fence), "it has not heard yet");
    other.check_in().await.unwrap();
    assert!(other.is_told_elsewhere(fence));
    assert!(!other.is_told_elsewhere(after(fence, Duration::from_millis(1))), "that is another one");
    let alone = NodeStore::new(false);
    let (set, another) = (node(&alone, &file), node(&alone, &file));
    another.join(facts("before")).await.unwrap();
    another.note_told_fence(fence);
    another.check_in().await.unwrap();
    set.join(facts("alone")).await.unwrap();
    assert!(!set.is_told_elsewhere(fence), "the store is not shared");
}

#[tokio::test]
async fn key_that_the_last_server_used_is_reported_missing() {
    let (store, file) = (NodeStore::new(false), new_file());
    let before = node(&store, &file);
    assert_eq!(before.join(facts("alpha")).await, Ok(vec![CheckInFinding::Seals(only_key(&file))]));
    before.leave().await.unwrap();
    assert!(store.node("alpha").unlocks.is_empty(), "its key file unlocks no ring");
    let wrong = new_file();
    let found = node(&store, &wrong).join(facts("beta")).await.unwrap();
    let missing =
        CheckInFinding::MissingKey { key: only_key(&file), node: "alpha (http://127.0.0.1:8087)".to_owned() };
    assert_eq!(found, [missing, CheckInFinding::Seals(only_key(&wrong))]);
    store.is_away.store(true, Ordering::SeqCst);
    assert_eq!(
        node(&store, &file).join(facts("gamma")).await,
        Ok(Vec::new()),
        "it comes up, and is not ready"
    );
}
