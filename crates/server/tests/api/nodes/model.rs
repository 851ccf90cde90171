//! Random orders of changes, restarts and cut lines on three servers, checked against the ring that is in the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::handshake::{Attempt, Refusal, StatedAudience, Verdict};
use countersign_core::{
    CHECK_IN_PERIOD, CheckInFinding, Clock, EndResult, Ending, Key, KeyChange, KeyId, KeyRing, LoginTokenSet,
    ManualClock, NewToken, OsEntropy, Policy, RetryKeyHash, RingChange, RingError, StoreError, TokenId,
    TokenStore, read_ring,
};
use countersign_store::memory::MemoryStore;
use countersign_testkit::{Hooked, StoreHook};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Line, facts};

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
