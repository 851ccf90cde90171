//! The servers on one store, as each describes itself.
//!
//! A server is a *node* of its store. It reports itself there periodically
//! ([`TokenStore::check_in`](crate::TokenStore::check_in)), so that operators can compare the nodes. No answer to a
//! tracker depends on it.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Entropy, EntropyError, KeyId, KeyRing, MAX_LIFETIME};

/// How often a node of a shared store checks in.
pub const CHECK_IN_PERIOD: Duration = Duration::from_secs(5);

/// For how long after it checked in a node counts as alive, by the store's clock.
pub const LIVE: Duration = Duration::from_secs(30);

/// For how long a node that is gone is remembered: until the last token that it can have issued has expired.
pub const REMEMBERED: Duration = Duration::from_secs(MAX_LIFETIME.as_secs() + 3600);

/// The name of one run of a server, made at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NodeId([u8; 8]);

impl NodeId {
    /// A new random name.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut id = [0; 8];
        entropy.fill(&mut id)?;
        Ok(Self(id))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for NodeId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a node's id is 16 hexadecimal digits in lower case")
    }
}

/// What a node says of itself when it checks in. There is no secret in it.
///
/// A store keeps it as text: a later version may add members, and an earlier one passes over those it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, for programs.
    pub id: NodeId,
    /// The name of its machine, for people.
    pub host: String,
    /// Where its private API listens.
    pub private_url: String,
    /// The version of the program.
    pub version: String,
    /// Whether it answers trackers; a node that stops in order says that it does not any more.
    pub serving: bool,
    /// What its own clock showed.
    pub clock: Timestamp,
    /// The keys it has in use, oldest first.
    pub keys: Vec<HeldKey>,
    /// The key that it seals with.
    pub sealing: Option<KeyId>,
    /// The keys of its key file, which unlock the ring in a shared store.
    #[serde(default)]
    pub unlocks: Vec<KeyId>,
    /// The fence that it has told the operator of, or need not.
    #[serde(default)]
    pub fence: Option<Timestamp>,
}

/// A key that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKey {
    /// Which.
    pub id: KeyId,
    /// From when on it may seal.
    pub active_from: Timestamp,
}

impl Node {
    /// Its name in a sentence.
    pub fn label(&self) -> String {
        format!("{} ({})", self.host, self.private_url)
    }

    /// As text, for a store.
    pub fn to_text(&self) -> String {
        // Numbers, strings and lists of them: nothing that JSON could not say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what [`to_text`](Self::to_text) wrote; `None` if it is not that.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// A node as the store remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenNode {
    /// What it said of itself.
    pub node: Node,
    /// When, by the store's clock.
    pub at: Timestamp,
    /// Whether it serves, as far as the store can tell: it said so less than [`LIVE`] ago, and nothing since.
    pub live: bool,
    /// The newest schema of the store that it knows.
    pub schema: u32,
}

/// Who has checked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeList {
    /// The store's clock.
    pub now: Timestamp,
    /// Every node that has checked in within [`REMEMBERED`], in the order of their ids.
    pub nodes: Vec<SeenNode>,
}

impl NodeList {
    /// The nodes that serve.
    pub fn live(&self) -> impl Iterator<Item = &SeenNode> {
        self.nodes.iter().filter(|seen| seen.live)
    }

    /// The keys that nodes sealed with last and that `ring` neither holds nor has revoked, each with such a node: with the
    /// right key file there are none.
    pub fn lacking(&self, ring: &KeyRing) -> Vec<(KeyId, &SeenNode)> {
        let mut lacking: Vec<(KeyId, &SeenNode)> = Vec::new();
        for seen in &self.nodes {
            let Some(key) = seen.node.sealing else { continue };
            let known = ring.holds(key) || ring.revoked().contains(&key);
            if !known && !lacking.iter().any(|(other, _)| *other == key) {
                lacking.push((key, seen));
            }
        }
        lacking
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyChange, OsEntropy, SequenceEntropy};

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    fn node(ring: &KeyRing) -> Node {
        let held = |key: &crate::Key| HeldKey { id: key.id(), active_from: key.active_from() };
        Node {
            id: NodeId::generate(&OsEntropy).unwrap(),
            host: "alpha".to_owned(),
            private_url: "http://127.0.0.1:8087".to_owned(),
            version: "0.1.0".to_owned(),
            serving: true,
            clock: noon(),
            keys: ring.keys().iter().map(held).collect(),
            sealing: ring.sealing_key(noon()).map(crate::Key::id),
            unlocks: Vec::new(),
            fence: None,
        }
    }

    #[test]
    fn nodes_and_keys_are_remembered_longer_than_any_token_lives() {
        assert_eq!(REMEMBERED, MAX_LIFETIME + Duration::from_hours(1));
    }

    #[test]
    fn key_of_another_file_is_reported_missing() {
        let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
        let other = KeyRing::generate(noon(), &OsEntropy).unwrap();
        let seen = |node: Node| SeenNode { node, at: noon(), live: false, schema: 1 };
        let nodes = [&ring, &other, &other].map(|ring| seen(node(ring)));
        let node_list = NodeList { now: noon(), nodes: nodes.to_vec() };
        let lacking = |ring: &KeyRing| -> Vec<KeyId> {
            node_list.lacking(ring).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(lacking(&ring), [other.keys()[0].id()]);
        let first = ring.keys()[0].id();
        let revoke = KeyChange::Revoke { key: first, rotate: true };
        ring.change(revoke, noon(), &OsEntropy).unwrap();
        assert_eq!(lacking(&ring), [other.keys()[0].id()], "a revoked key is not lacking");
    }

    #[test]
    fn text_round_trips_with_unknown_members() {
        let mut node = node(&KeyRing::generate(noon(), &OsEntropy).unwrap());
        node.unlocks = vec![node.keys[0].id];
        let text = node.to_text();
        assert_eq!(Node::from_text(&text).as_ref(), Some(&node));
        let later = text.replacen('{', "{\"colour\":\"red\",", 1);
        assert_eq!(Node::from_text(&later), Some(node));
        assert_eq!(Node::from_text("{}"), None);
        assert_ne!(
            NodeId::generate(&SequenceEntropy::default()).unwrap(),
            NodeId::generate(&OsEntropy).unwrap()
        );
    }
}
