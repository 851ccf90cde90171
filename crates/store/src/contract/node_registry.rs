//! The nodes that use the store.

use std::time::Duration;

use countersign_core::{
    Clock, Entropy, HeldKey, KeyRing, LIVE, Node, NodeId, NodeList, REMEMBERED, StoreError, after,
};

use super::Subject;
use super::fixture::{Fixture, beginning};

impl Fixture {
    fn node(&self, host: &str) -> Node {
        let entropy: &dyn Entropy = &countersign_core::OsEntropy;
        let ring = KeyRing::generate(beginning(), entropy).expect("there is randomness");
        let keys: Vec<HeldKey> =
            ring.keys().iter().map(|key| HeldKey { id: key.id(), active_from: key.active_from() }).collect();
        Node {
            id: NodeId::generate(entropy).expect("there is randomness"),
            host: host.to_owned(),
            private_url: "http://127.0.0.1:8087".to_owned(),
            version: "1.2.3".to_owned(),
            serving: true,
            clock: self.clock.now(),
            sealing: keys.first().map(|key| key.id),
            keys,
            unlocks: Vec::new(),
            fence: None,
        }
    }

    async fn check_in(&self, node: &Node) -> NodeList {
        self.store.check_in(node).await.expect("the store answers")
    }

    async fn node_list(&self) -> NodeList {
        self.store.node_list(self.clock.now()).await.expect("the store answers")
    }
}

/// The nodes of a list, and whether they serve.
fn names(node_list: &NodeList) -> Vec<(&str, bool)> {
    let mut names: Vec<_> = node_list.nodes.iter().map(|seen| (&*seen.node.host, seen.live)).collect();
    names.sort_unstable();
    names
}

/// What a node says of itself comes back as it said it last, with the store's schema, and looking writes nothing.
pub async fn node_that_checks_in_is_listed(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    assert_eq!(f.node_list().await.nodes, []);
    let mut node = f.node("alpha");
    f.check_in(&node).await;
    node.serving = false;
    let node_list = f.check_in(&node).await;
    assert_eq!(names(&node_list), [("alpha", false)]);
    node.serving = true;
    node.unlocks = node.keys.iter().map(|key| key.id).collect();
    let node_list = f.check_in(&node).await;
    assert_eq!(names(&node_list), [("alpha", true)]);
    assert_eq!(node_list.nodes[0].node, node);
    let stats = f.store.stats().await.expect("the store answers");
    assert_eq!(node_list.nodes[0].schema, stats.schema);
    assert_eq!(f.node_list().await.nodes[0].node, node);
}

/// In a shared store, each node learns of the others; elsewhere, the earlier node is gone.
pub async fn nodes_see_each_other(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let (alpha, beta) = (f.node("alpha"), f.node("beta"));
    f.check_in(&alpha).await;
    let shared = f.store.is_shared();
    assert_eq!(names(&f.check_in(&beta).await), [("alpha", shared), ("beta", true)]);
    f.check_in(&Node { serving: false, ..alpha.clone() }).await;
    assert_eq!(names(&f.check_in(&beta).await), [("alpha", false), ("beta", true)]);
}

/// Of two nodes that check in at the same time, at least one learns of the other.
pub async fn nodes_that_check_in_together_see_each_other(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    for _ in 0..20 {
        let (alpha, beta) = (f.node("alpha"), f.node("beta"));
        let (one, other) = tokio::join!(
            {
                let (store, node) = (f.store.clone(), alpha.clone());
                tokio::spawn(async move { store.check_in(&node).await })
            },
            {
                let (store, node) = (f.store.clone(), beta.clone());
                tokio::spawn(async move { store.check_in(&node).await })
            }
        );
        let node_list = |answer: Result<Result<NodeList, StoreError>, _>| {
            answer.map_err(|_| ()).expect("the task ends").expect("the store answers")
        };
        let knows =
            |node_list: &NodeList, node: &Node| node_list.nodes.iter().any(|seen| seen.node.id == node.id);
        let (one, other) = (node_list(one), node_list(other));
        assert!(knows(&one, &alpha) && knows(&other, &beta), "each is told of itself");
        assert!(knows(&one, &beta) || knows(&other, &alpha));
    }
}

/// A node that is silent is not live any more, is remembered as long as tokens of it may be alive, and then forgotten.
///
/// A store with a clock of its own cannot be made to wait; it joins by [`Subject::goes_by_its_own_clock`].
pub async fn silent_node_is_listed_for_a_day(subject: &dyn Subject) {
    if subject.goes_by_its_own_clock() {
        return;
    }
    let f = Fixture::new(subject).await;
    f.check_in(&f.node("alpha")).await;
    f.clock.advance(LIVE);
    assert_eq!(names(&f.check_in(&f.node("beta")).await), [("alpha", false), ("beta", true)]);
    f.clock.set(after(beginning(), REMEMBERED));
    assert_eq!(names(&f.node_list().await).len(), 2);
    f.clock.advance(Duration::from_millis(1));
    assert_eq!(names(&f.node_list().await).len(), 1, "alpha is forgotten");
    f.check_in(&f.node("gamma")).await;
    f.clock.set(beginning());
    assert_eq!(names(&f.node_list().await).len(), 2, "for good");
}

/// A durable store remembers who served from it.
pub async fn reopening_finds_the_nodes(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    f.check_in(&f.node("alpha")).await;
    let f = f.open_again(subject).await;
    assert_eq!(f.node_list().await.nodes.len(), usize::from(subject.is_durable()));
    f.store.close().await;
    assert!(matches!(f.store.check_in(&f.node("beta")).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(f.store.node_list(beginning()).await, Err(StoreError::Unavailable(_))));
}
