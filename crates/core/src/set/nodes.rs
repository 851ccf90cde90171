//! Several servers on one store: checking in, and agreeing on the key that seals.
//!
//! A node says in the store which keys it holds and which one it seals with, and reads what the others say. It writes
//! first and reads afterwards, in both directions: before it seals with another key it says so, and then looks whether
//! every neighbour holds that key; a node that starts says which keys it holds, and then looks with which the others
//! seal. So whoever of two comes second sees the other, and either the key waits or the node does not start.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::LoginTokenSet;
use crate::node::{HeldKey, LIVE, Node, NodeId, REMEMBERED, Roll, SealedKey, SeenNode};
use crate::seal::key_of;
use crate::{KeyId, KeyRing, KeyRingError, StoreError, after, from_millis, to_millis};

/// How often a check-in is repeated at once, if what it finds lets the node seal with another key.
const ROUNDS: usize = 3;

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name, for programs.
    pub id: NodeId,
    /// The name of its machine, for people.
    pub host: String,
    /// Where its private API listens.
    pub private_url: String,
    /// The version of the program.
    pub version: String,
}

/// Why a node may not serve beside the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// A server that serves now seals with a key that this one lacks.
    #[error(
        "the key ring lacks key {key}, with which {node} seals tokens that would be refused here; copy the key ring of \
         that server here"
    )]
    Lacking {
        /// The key.
        key: KeyId,
        /// Whose it is.
        node: String,
    },
    /// A server that serves now has no key of this one's ring.
    #[error(
        "{node} serves from the same store and has none of this server's keys, so each would refuse the other's tokens; \
         copy the key ring of that server here"
    )]
    Stranger {
        /// The other.
        node: String,
    },
    /// The store cannot be asked who serves.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a check-in has changed or found, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Another key seals from now on.
    Seals(KeyId),
    /// Another node has revoked a key; this one does not use it any more.
    Revoked {
        /// The key.
        key: KeyId,
        /// Who.
        node: String,
    },
    /// The same, but it is the only key that this one has, so that it stays in use.
    OnlyKeyRevoked {
        /// The key.
        key: KeyId,
        /// Who.
        node: String,
    },
    /// Tokens that an earlier server issued are refused, because this ring lacks the key that sealed them.
    Lacks {
        /// The key.
        key: KeyId,
        /// Whose it was.
        node: String,
        /// Whether that node serves now.
        live: bool,
    },
}

/// What this node knows of the others.
#[derive(Debug)]
pub(super) struct Nodes {
    /// The key that was agreed upon, see [`pack`]; 0 while the ring alone decides.
    agreed: AtomicU64,
    /// Until when, in milliseconds, no neighbour can have begun to seal with a key that this node has not heard of.
    up_to_date_until: AtomicI64,
    roll: RwLock<Option<Arc<Roll>>>,
    me: OnceLock<NodeId>,
    /// The keys that neighbours seal with and this node lacks, because it had lost the store while the others went on.
    lacks: RwLock<Vec<KeyId>>,
    /// Held while checking in, so that what this node says of itself never goes back.
    member: Mutex<Option<Member>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            agreed: AtomicU64::new(0),
            up_to_date_until: AtomicI64::new(i64::MAX),
            roll: RwLock::default(),
            me: OnceLock::new(),
            lacks: RwLock::default(),
            member: Mutex::default(),
        }
    }
}

#[derive(Debug)]
struct Member {
    facts: NodeFacts,
    sealing: Option<KeyId>,
    sealed: Vec<SealedKey>,
}

impl Member {
    /// What this node says of itself when it seals with `sealing`, or is about to.
    fn node(&self, ring: &KeyRing, now: Timestamp, sealing: Option<KeyId>, serving: bool) -> Node {
        let mut sealed: Vec<SealedKey> = self.sealed.clone();
        sealed
            .extend(self.sealing.filter(|old| Some(*old) != sealing).map(|id| SealedKey { id, until: now }));
        Node {
            id: self.facts.id,
            host: self.facts.host.clone(),
            private_url: self.facts.private_url.clone(),
            version: self.facts.version.clone(),
            serving,
            clock: now,
            keys: ring
                .keys()
                .iter()
                .map(|key| HeldKey { id: key.id(), active_from: key.active_from() })
                .collect(),
            sealing,
            sealed,
            revoked: ring.revoked().to_vec(),
        }
    }

    fn seal_with(&mut self, key: KeyId, now: Timestamp) {
        self.sealed.retain(|sealed| sealed.id != key && after(sealed.until, REMEMBERED) >= now);
        if let Some(old) = self.sealing.replace(key).filter(|old| *old != key) {
            self.sealed.push(SealedKey { id: old, until: now });
        }
    }
}

impl Nodes {
    /// The key that was agreed upon, if any.
    pub(super) fn agreed(&self) -> Option<KeyId> {
        unpack(self.agreed.load(Ordering::Acquire))
    }

    fn last_roll(&self) -> Option<Arc<Roll>> {
        self.roll.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, roll: &Arc<Roll>, asked: Timestamp, shared: bool) {
        let until = if shared { to_millis(after(asked, LIVE)) } else { i64::MAX };
        self.up_to_date_until.store(until, Ordering::Release);
        *self.roll.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(roll));
    }
}

impl LoginTokenSet {
    /// Begins to serve: checks in at the store, unless that could make this server or another one refuse a live token.
    /// Call it before the first request. The news are what earlier servers' tokens are refused for.
    ///
    /// # Errors
    ///
    /// If this node must not serve; or if a shared store cannot be asked. With a store of its own that cannot be
    /// written to, the server comes up and is not ready.
    pub async fn join(&self, facts: NodeFacts) -> Result<Vec<News>, JoinError> {
        let mut place = self.nodes.member.lock().await;
        let (ring, now) = (self.keys(), self.clock.now());
        let member = place.insert(Member { facts, sealing: None, sealed: Vec::new() });
        let me = *self.nodes.me.get_or_init(|| member.facts.id);
        if !self.store.is_shared() {
            let news =
                self.store.roll(now).await.map(|roll| missed(&roll, Some(me), &ring)).unwrap_or_default();
            let _ = self.agree(member).await;
            return Ok(news);
        }
        // A look first: who must not serve shall not make the others wait for it.
        let roll = self.store.roll(now).await?;
        refuse_strangers(&roll, me, &ring)?;
        let news = missed(&roll, Some(me), &ring);
        let roll = self.store.check_in(&member.node(&ring, now, None, true)).await?;
        if let Err(refused) = refuse_strangers(&roll, me, &ring) {
            // If this cannot be said, the others wait for this node a few seconds longer.
            let _ = self.store.check_in(&member.node(&ring, now, None, false)).await;
            return Err(refused);
        }
        self.nodes.learn(&Arc::new(roll), now, true);
        self.agree(member).await?;
        Ok(news)
    }

    /// Says that this node serves, and takes up the newest key that all its neighbours hold. To be called every
    /// [`CHECK_IN_PERIOD`](crate::CHECK_IN_PERIOD) if the store is shared, and when the ring has changed.
    ///
    /// # Errors
    ///
    /// If the store does not answer, everything stays as it was.
    pub async fn check_in(&self) -> Result<Vec<News>, StoreError> {
        match self.nodes.member.lock().await.as_mut() {
            Some(member) => self.agree(member).await,
            None => Ok(Vec::new()),
        }
    }

    /// Says that this node serves no more, so that nobody waits for it.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let mut place = self.nodes.member.lock().await;
        let Some(member) = place.take() else { return Ok(()) };
        let node = member.node(&self.keys(), self.clock.now(), member.sealing, false);
        self.store.check_in(&node).await.map(drop)
    }

    /// Who had checked in when this node did last; `None` before it has.
    pub fn roll(&self) -> Option<Arc<Roll>> {
        self.nodes.last_roll()
    }

    /// This node's name; `None` before it has [joined](Self::join).
    pub fn node_id(&self) -> Option<NodeId> {
        self.nodes.me.get().copied()
    }

    /// The neighbours that a key waits for: they do not hold it, as far as this node knows.
    pub fn waits_for(&self, key: KeyId) -> Vec<String> {
        let (Some(me), Some(roll)) = (self.node_id(), self.roll()) else { return Vec::new() };
        roll.without(me, key).map(|seen| seen.node.label()).collect()
    }

    /// Puts another key ring to use, and checks in.
    ///
    /// On a shared store, a ring that lacks keys of the present one is announced first: whoever seals with one of them is
    /// seen then, and whoever is about to sees that this node lacks it. While the store is away, the new keys come in and
    /// no old one leaves.
    ///
    /// # Errors
    ///
    /// If the new ring lacks a key that a node seals with, this one included, the old ring stays in use.
    pub async fn replace_keys(&self, ring: KeyRing) -> Result<Vec<News>, JoinError> {
        let mut place = self.nodes.member.lock().await;
        let (old, now) = (self.keys(), self.clock.now());
        let Some(member) = place.as_mut().filter(|_| self.store.is_shared()) else {
            self.set_keys(ring);
            return Ok(match place.as_mut() {
                Some(member) => self.agree(member).await.unwrap_or_default(),
                None => Vec::new(),
            });
        };
        let leaves = |key: &crate::Key| !ring.holds(key.id()) && !ring.revoked().contains(&key.id());
        if old.keys().iter().any(leaves) {
            let announced = self.store.check_in(&member.node(&ring, now, member.sealing, true)).await;
            let Ok(roll) = announced else {
                self.set_keys(ring.with_keys_of(&old));
                return Ok(Vec::new());
            };
            if let Some(lacking) = roll.lacking(None, &ring).into_iter().find(|lacking| lacking.by.live) {
                let refused = JoinError::Lacking { key: lacking.key, node: lacking.by.node.label() };
                // If this cannot be said, the others wait for this node until its next check-in.
                let _ = self.agree(member).await;
                return Err(refused);
            }
        }
        self.set_keys(ring);
        Ok(self.agree(member).await.unwrap_or_default())
    }

    /// The keys that this node seals with or did so lately: no rotation may drop them.
    pub async fn keys_in_use(&self) -> Vec<KeyId> {
        let place = self.nodes.member.lock().await;
        let Some(member) = place.as_ref() else { return Vec::new() };
        member.sealed.iter().map(|sealed| sealed.id).chain(member.sealing).collect()
    }

    /// The key that seals at `now`.
    pub fn sealing_key(&self, ring: &KeyRing, now: Timestamp) -> Option<KeyId> {
        let agreed = self.nodes.agreed().filter(|key| ring.holds(*key));
        agreed.or_else(|| ring.sealing_key(now).map(crate::Key::id))
    }

    /// Whether a text may be a token that a neighbour sealed with a key that this node lacks. That is so when it names
    /// such a key; or any unknown one, and the neighbours have not been heard for so long that they may have stopped to
    /// wait for this node.
    pub(super) fn may_be_a_neighbours(&self, text: &str, ring: &KeyRing, now: Timestamp) -> bool {
        let is_late = now >= from_millis(self.nodes.up_to_date_until.load(Ordering::Acquire));
        let lacks =
            |key| is_late || self.nodes.lacks.read().unwrap_or_else(PoisonError::into_inner).contains(&key);
        key_of(text).is_some_and(|key| !ring.holds(key) && !ring.revoked().contains(&key) && lacks(key))
    }

    async fn agree(&self, member: &mut Member) -> Result<Vec<News>, StoreError> {
        let me = member.facts.id;
        let shared = self.store.is_shared();
        let mut news = Vec::new();
        for _ in 0..ROUNDS {
            let (ring, now) = (self.keys(), self.clock.now());
            let by_ring = ring.sealing_key(now).map(crate::Key::id);
            let wanted = if shared {
                let common = self.nodes.last_roll().and_then(|roll| roll.common_key(me, &ring, now));
                common.or(member.sealing.filter(|key| ring.holds(*key))).or(by_ring)
            } else {
                by_ring
            };
            let roll = Arc::new(self.store.check_in(&member.node(&ring, now, wanted, true)).await?);
            self.nodes.learn(&roll, now, shared);
            self.look_for_lacks(&roll, me, &ring, &mut news);
            let fewer = self.heed_revocations(&roll, me, &mut news);
            let common = roll.common_key(me, &ring, now);
            let Some(wanted) = wanted.filter(|_| !fewer) else { continue };
            if !shared || common.is_none_or(|common| common == wanted) {
                if member.sealing != Some(wanted) {
                    member.seal_with(wanted, now);
                    news.push(News::Seals(wanted));
                }
                if shared {
                    self.nodes.agreed.store(pack(wanted), Ordering::Release);
                }
                break;
            }
        }
        Ok(news)
    }

    /// Finds out which keys the neighbours seal with and this ring lacks, and reports what is new about it.
    fn look_for_lacks(&self, roll: &Roll, me: NodeId, ring: &KeyRing, news: &mut Vec<News>) {
        let live = missed(roll, Some(me), ring).into_iter().filter_map(|news| match news {
            News::Lacks { key, live: true, .. } => Some((key, news)),
            _ => None,
        });
        let (keys, found): (Vec<KeyId>, Vec<News>) = live.unzip();
        let mut lacks = self.nodes.lacks.write().unwrap_or_else(PoisonError::into_inner);
        news.extend(keys.iter().zip(found).filter(|(key, _)| !lacks.contains(key)).map(|(_, found)| found));
        *lacks = keys;
    }

    /// Stops using the keys that others have revoked. Returns whether there were any.
    fn heed_revocations(&self, roll: &Roll, me: NodeId, news: &mut Vec<News>) -> bool {
        let mut ring = KeyRing::clone(&self.keys());
        let mut changed = false;
        for seen in roll.others(me) {
            for key in seen.node.revoked.iter().copied() {
                let node = seen.node.label();
                match ring.revoke(key) {
                    Ok(()) => {
                        changed = true;
                        news.push(News::Revoked { key, node });
                    }
                    Err(KeyRingError::Empty) => news.push(News::OnlyKeyRevoked { key, node }),
                    // It is not there, as it should be.
                    Err(_) => {}
                }
            }
        }
        if changed {
            self.set_keys(ring);
        }
        changed
    }
}

/// Refuses a ring with which this node or a neighbour would refuse live tokens.
fn refuse_strangers(roll: &Roll, me: NodeId, ring: &KeyRing) -> Result<(), JoinError> {
    if let Some(lacking) = roll.lacking(Some(me), ring).into_iter().find(|lacking| lacking.by.live) {
        return Err(JoinError::Lacking { key: lacking.key, node: lacking.by.node.label() });
    }
    let is_stranger = |seen: &&SeenNode| ring.keys().iter().all(|key| !seen.node.holds(key.id()));
    match roll.neighbours(me).find(is_stranger) {
        Some(stranger) => Err(JoinError::Stranger { node: stranger.node.label() }),
        None => Ok(()),
    }
}

fn missed(roll: &Roll, me: Option<NodeId>, ring: &KeyRing) -> Vec<News> {
    let news = |lacking: crate::Lacking<'_>| News::Lacks {
        key: lacking.key,
        node: lacking.by.node.label(),
        live: lacking.by.live,
    };
    roll.lacking(me, ring).into_iter().map(news).collect()
}

/// A key's name as a number other than 0.
fn pack(key: KeyId) -> u64 {
    1 << 32 | u64::from(u32::from_be_bytes(key.0))
}

fn unpack(packed: u64) -> Option<KeyId> {
    (packed != 0)
        .then(|| KeyId(u32::try_from(packed & u64::from(u32::MAX)).unwrap_or_default().to_be_bytes()))
}
