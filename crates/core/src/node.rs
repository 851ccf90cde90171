//! The servers that serve from one store: who they are, and which keys they have.
//!
//! A server is a *node* of its store. Nodes with one store share the key ring as well, and each has a copy of it that
//! somebody has to hand around. So that the order of that never matters, nodes tell each other through the store which
//! keys they hold ([`TokenStore::check_in`](crate::TokenStore::check_in)), and a new key seals only once they all hold
//! it. The rules are the methods of [`Roll`]; `set/nodes.rs` follows them.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Entropy, EntropyError, KeyId, KeyRing, MAX_LIFETIME, after};

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
    /// The key that it seals with, or is about to; `None` while it has not found out which.
    pub sealing: Option<KeyId>,
    /// The keys that it sealed with before, and tokens of which may still be alive.
    pub sealed: Vec<SealedKey>,
    /// The keys that its ring has revoked.
    pub revoked: Vec<KeyId>,
}

/// A key that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKey {
    /// Which.
    pub id: KeyId,
    /// From when on it may seal.
    pub active_from: Timestamp,
}

/// A key that a node sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    /// Which.
    pub id: KeyId,
    /// Until when.
    pub until: Timestamp,
}

impl Node {
    /// What a node is called in a sentence.
    pub fn label(&self) -> String {
        format!("{} ({})", self.host, self.private_url)
    }

    /// Whether it holds a key.
    pub fn holds(&self, key: KeyId) -> bool {
        self.keys.iter().any(|held| held.id == key)
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
pub struct Roll {
    /// The store's clock.
    pub now: Timestamp,
    /// Every node that has checked in within [`REMEMBERED`], in the order of their ids.
    pub nodes: Vec<SeenNode>,
}

/// A key that tokens of a node may be sealed with, and that a ring lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking<'r> {
    /// The key.
    pub key: KeyId,
    /// The node that sealed with it.
    pub by: &'r SeenNode,
}

impl Roll {
    /// The nodes beside `me`.
    pub fn others(&self, me: NodeId) -> impl Iterator<Item = &SeenNode> {
        self.nodes.iter().filter(move |seen| seen.node.id != me)
    }

    /// Those of them that serve.
    pub fn neighbours(&self, me: NodeId) -> impl Iterator<Item = &SeenNode> {
        self.others(me).filter(|seen| seen.live)
    }

    /// The neighbours that do not hold a key.
    pub fn without(&self, me: NodeId, key: KeyId) -> impl Iterator<Item = &SeenNode> {
        self.neighbours(me).filter(move |seen| !seen.node.holds(key))
    }

    /// The key that `me` may seal with: the newest whose moment has come and that every neighbour holds.
    pub fn common_key(&self, me: NodeId, ring: &KeyRing, now: Timestamp) -> Option<KeyId> {
        let come = ring.keys().iter().rev().filter(|key| key.active_from() <= now);
        come.map(crate::Key::id).find(|key| self.without(me, *key).next().is_none())
    }

    /// The keys that nodes other than `me` seal with, or did so recently that tokens of theirs may be alive, and that
    /// `ring` neither holds nor has revoked.
    pub fn lacking(&self, me: Option<NodeId>, ring: &KeyRing) -> Vec<Lacking<'_>> {
        let alive = |until: Timestamp| after(until, REMEMBERED) >= self.now;
        let mut lacking = Vec::new();
        for by in self.nodes.iter().filter(|seen| Some(seen.node.id) != me) {
            let current = by.node.sealing.filter(|_| alive(by.at));
            let earlier = by.node.sealed.iter().filter(|sealed| alive(sealed.until)).map(|sealed| sealed.id);
            for key in current.into_iter().chain(earlier) {
                let known = ring.holds(key) || ring.revoked().contains(&key) || self.has_revoked(key);
                if !known && !lacking.iter().any(|other: &Lacking<'_>| other.key == key && other.by.live) {
                    lacking.retain(|other| other.key != key);
                    lacking.push(Lacking { key, by });
                }
            }
        }
        lacking
    }

    /// Whether any node has revoked a key.
    pub fn has_revoked(&self, key: KeyId) -> bool {
        self.nodes.iter().any(|seen| seen.node.revoked.contains(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OsEntropy, SequenceEntropy, before};

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    fn node(keys: &[KeyId], sealing: Option<KeyId>) -> Node {
        Node {
            id: NodeId::generate(&OsEntropy).unwrap(),
            host: "alpha".to_owned(),
            private_url: "http://127.0.0.1:8087".to_owned(),
            version: "0.1.0".to_owned(),
            serving: true,
            clock: noon(),
            keys: keys.iter().map(|id| HeldKey { id: *id, active_from: noon() }).collect(),
            sealing,
            sealed: Vec::new(),
            revoked: Vec::new(),
        }
    }

    fn roll(nodes: impl IntoIterator<Item = Node>) -> Roll {
        let seen = |node| SeenNode { node, at: noon(), live: true, schema: 1 };
        Roll { now: noon(), nodes: nodes.into_iter().map(seen).collect() }
    }

    /// A ring of two keys, both of whose moments have come.
    fn ring() -> (KeyRing, KeyId, KeyId) {
        let mut ring = KeyRing::generate(before(noon(), Duration::from_mins(9)), &OsEntropy).unwrap();
        let old = ring.keys()[0].id();
        let new = ring.rotate(noon(), noon(), &[], &OsEntropy).unwrap();
        (ring, old, new)
    }

    #[test]
    fn a_new_key_seals_once_every_neighbour_holds_it() {
        let (ring, old, new) = ring();
        let me = node(&[old, new], Some(old));
        let (has, lacks) = (node(&[old, new], Some(old)), node(&[old], Some(old)));
        let common = |nodes: &[&Node]| roll(nodes.iter().copied().cloned()).common_key(me.id, &ring, noon());
        assert_eq!(common(&[&me]), Some(new), "alone");
        assert_eq!(common(&[&me, &has]), Some(new));
        assert_eq!(common(&[&me, &has, &lacks]), Some(old));
        assert_eq!(common(&[&node(&[], None)]), None);
        let mut gone = roll([lacks]);
        gone.nodes[0].live = false;
        assert_eq!(gone.common_key(me.id, &ring, noon()), Some(new), "nobody waits for who is gone");
        assert_eq!(gone.common_key(me.id, &ring, before(noon(), Duration::from_mins(1))), Some(old));
    }

    #[test]
    fn keys_that_others_sealed_with_are_missed_as_long_as_their_tokens_may_live() {
        let (mut ring, old, new) = ring();
        let stranger = KeyRing::generate(noon(), &OsEntropy).unwrap().keys()[0].id();
        let me = NodeId::generate(&OsEntropy).unwrap();
        let lacking = |roll: &Roll, ring: &KeyRing| -> Vec<KeyId> {
            roll.lacking(Some(me), ring).iter().map(|lacking| lacking.key).collect()
        };
        let mut other = node(&[old, stranger], Some(old));
        assert_eq!(lacking(&roll([other.clone()]), &ring), [], "held, and never used");
        other.sealing = Some(stranger);
        assert_eq!(lacking(&roll([other.clone(), other.clone()]), &ring), [stranger]);
        other.sealing = Some(new);
        other.sealed = vec![SealedKey { id: stranger, until: noon() }];
        let mut later = roll([other.clone()]);
        assert_eq!(lacking(&later, &ring), [stranger]);
        later.now = after(noon(), REMEMBERED + Duration::from_millis(1));
        assert_eq!(lacking(&later, &ring), []);

        let mut revoking = roll([other.clone()]);
        revoking.nodes[0].node.revoked = vec![stranger];
        assert_eq!(lacking(&revoking, &ring), [], "a revoked key is missed by nobody");
        other.sealing = Some(old);
        other.sealed.clear();
        ring.revoke(old).unwrap();
        assert_eq!(lacking(&roll([other]), &ring), []);
    }

    #[test]
    fn text_round_trips_and_tolerates_what_later_versions_add() {
        let (_, old, new) = ring();
        let mut node = node(&[old, new], Some(new));
        node.sealed = vec![SealedKey { id: old, until: noon() }];
        node.revoked = vec![old];
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
