//! Several servers on one store: the key ring that they share, and checking in.
//!
//! The store keeps the ring, and each node has a copy in use. A node may issue with an old copy. But it sends the ring's
//! version with each consumption, and the store refuses a version that is not its own. So a node need not be told that
//! the ring has changed: it notices before it can do harm, reads the ring and decides again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::LoginTokenSet;
use crate::node::{HeldKey, Node, NodeId, NodeList};
use crate::seal::key_of;
use crate::{ChangedRing, Key, KeyId, KeyRing, RingChange, RingError, StoreError, change_ring, read_or_put};

/// The least time between two readings of the ring because of a token with an unknown key: anybody can make
/// such a text up.
const PAUSE: Duration = Duration::from_millis(100);

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

/// What a check-in has changed or found, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckInFinding {
    /// Another key seals from now on.
    Seals(KeyId),
    /// Another server has revoked a key.
    Revoked(KeyId),
    /// A key that was revoked is back in the store's ring: an older state of the database was restored.
    Returned(KeyId),
    /// The ring in the store cannot be read; no token can be redeemed here until that is mended.
    Unreadable(RingError),
    /// Tokens that an earlier server issued are rejected, because the key file lacks the key that sealed them.
    MissingKey {
        /// The key.
        key: KeyId,
        /// Whose it was.
        node: String,
    },
}

/// What this node knows of the others and of the store's ring.
#[derive(Debug)]
pub(super) struct Membership {
    /// The keys of the key file, which unlock the ring in a shared store.
    file: RwLock<Arc<KeyRing>>,
    /// Which of them did so last.
    unlocked_by: RwLock<Option<KeyId>>,
    node_list: RwLock<Option<Arc<NodeList>>>,
    me: OnceLock<NodeId>,
    /// Held while checking in, so that what this node says of itself never goes back.
    member: Mutex<Option<OwnNode>>,
    /// How many readings of the store's ring have begun.
    readings: AtomicU64,
    /// Held while the ring is read or changed, so that what is put to use never goes back.
    last: Mutex<RingRead>,
    /// The ring that the operator was told of.
    told: RwLock<Option<Arc<KeyRing>>>,
    /// Why the ring cannot be read, if it cannot.
    trouble: RwLock<Option<RingError>>,
    /// The fence that the operator has been told of, or need not be.
    told_fence: RwLock<Option<Timestamp>>,
}

/// A reading of the store's ring that has ended.
#[derive(Debug)]
struct RingRead {
    number: u64,
    began: Option<Instant>,
    outcome: Result<(), RingError>,
}

#[derive(Debug)]
struct OwnNode {
    facts: NodeFacts,
    sealing: Option<KeyId>,
}

impl Membership {
    pub(super) fn new(file: Arc<KeyRing>) -> Self {
        Self {
            file: RwLock::new(file),
            unlocked_by: RwLock::default(),
            node_list: RwLock::default(),
            me: OnceLock::new(),
            member: Mutex::default(),
            readings: AtomicU64::new(0),
            last: Mutex::new(RingRead { number: 0, began: None, outcome: Ok(()) }),
            told: RwLock::default(),
            trouble: RwLock::default(),
            told_fence: RwLock::default(),
        }
    }

    fn file(&self) -> Arc<KeyRing> {
        Arc::clone(&self.file.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OwnNode {
    /// What this node says of itself.
    fn node(
        &self,
        ring: &KeyRing,
        file: Option<&KeyRing>,
        fence: Option<Timestamp>,
        now: Timestamp,
        serving: bool,
    ) -> Node {
        let held = |key: &Key| HeldKey { id: key.id(), active_from: key.active_from() };
        Node {
            id: self.facts.id,
            host: self.facts.host.clone(),
            private_url: self.facts.private_url.clone(),
            version: self.facts.version.clone(),
            serving,
            clock: now,
            keys: ring.keys().iter().map(held).collect(),
            sealing: ring.sealing_key(now).map(Key::id),
            unlocks: file.map(|file| file.keys().iter().map(Key::id).collect()).unwrap_or_default(),
            fence,
        }
    }
}

impl LoginTokenSet {
    /// Begins to serve: reads the ring of a shared store, which becomes that of the key file if there is none yet, and
    /// checks in. Call it before the first request.
    ///
    /// # Errors
    ///
    /// If a shared store cannot be asked, or its ring cannot be read. With a store of its own that cannot be written to, the
    /// server comes up and is not ready.
    pub async fn join(&self, facts: NodeFacts) -> Result<Vec<CheckInFinding>, RingError> {
        let mut place = self.nodes.member.lock().await;
        self.nodes.me.get_or_init(|| facts.id);
        let member = place.insert(OwnNode { facts, sealing: None });
        if self.store.is_shared() {
            let _reading = self.nodes.last.lock().await;
            let file = self.nodes.file();
            read_or_put(&*self.store, &file, &file, &*self.entropy).await?;
            self.open_ring(&file).await?;
            self.tell_of_ring();
            return Ok(self.say(member).await?);
        }
        let ring = self.keys();
        let before = self.store.node_list(self.clock.now()).await;
        let lacks = |node_list: &NodeList| -> Vec<CheckInFinding> {
            let lacking = node_list.lacking(&ring).into_iter();
            lacking.map(|(key, by)| CheckInFinding::MissingKey { key, node: by.node.label() }).collect()
        };
        let mut news = before.as_ref().map(lacks).unwrap_or_default();
        news.extend(self.say(member).await.unwrap_or_default());
        Ok(news)
    }

    /// Reads the ring of a shared store, and says that this node serves. To be called every
    /// [`CHECK_IN_PERIOD`](crate::CHECK_IN_PERIOD) if the store is shared, and when the ring has changed.
    ///
    /// # Errors
    ///
    /// If the store does not answer, everything stays as it was.
    pub async fn check_in(&self) -> Result<Vec<CheckInFinding>, StoreError> {
        let mut place = self.nodes.member.lock().await;
        let Some(member) = place.as_mut() else { return Ok(Vec::new()) };
        let mut news = Vec::new();
        if self.store.is_shared() {
            let before = self.trouble();
            match self.read_again(false).await {
                Ok(()) => {}
                Err(RingError::Store(error)) => return Err(error),
                Err(error) if before.as_ref() == Some(&error) => {}
                Err(error) => news.push(CheckInFinding::Unreadable(error)),
            }
            news.extend(self.tell_of_ring());
        }
        news.extend(self.say(member).await?);
        Ok(news)
    }

    /// Says that this node serves no more.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let mut place = self.nodes.member.lock().await;
        let Some(member) = place.take() else { return Ok(()) };
        let node = member.node(&self.keys(), None, self.told_fence(), self.clock.now(), false);
        self.store.check_in(&node).await.map(drop)
    }

    /// Who had checked in when this node did last; `None` before it has.
    pub fn node_list(&self) -> Option<Arc<NodeList>> {
        self.nodes.node_list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the operator has been told where the fence stands, or need not be. The other nodes hear it when this one
    /// checks in.
    pub fn note_told_fence(&self, fence: Timestamp) {
        self.time.learn_fence(fence);
        *self.nodes.told_fence.write().unwrap_or_else(PoisonError::into_inner) = Some(fence);
    }

    fn told_fence(&self) -> Option<Timestamp> {
        *self.nodes.told_fence.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another node of a shared store has told of this fence, as far as was known when this one checked in.
    pub fn is_told_elsewhere(&self, fence: Timestamp) -> bool {
        let me = self.node_id();
        self.store.is_shared()
            && self.node_list().is_some_and(|node_list| {
                node_list.nodes.iter().any(|seen| Some(seen.node.id) != me && seen.node.fence >= Some(fence))
            })
    }

    /// This node's name; `None` before it has [joined](Self::join).
    pub fn node_id(&self) -> Option<NodeId> {
        self.nodes.me.get().copied()
    }

    /// Succeeds if a token could be consumed now.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await?;
        self.trouble().map_or(Ok(()), |error| Err(unreadable(error)))
    }

    /// Puts another key file to use: its keys, or what they unlock. A key that unlocks the store's ring and that the file
    /// lacks stays in memory; its name is returned.
    pub fn use_file(&self, file: KeyRing) -> Option<KeyId> {
        if !self.store.is_shared() {
            self.set_keys(Arc::new(file));
            return None;
        }
        let mut place = self.nodes.file.write().unwrap_or_else(PoisonError::into_inner);
        let needed = *self.nodes.unlocked_by.read().unwrap_or_else(PoisonError::into_inner);
        let lacks = needed.filter(|key| !file.holds(*key) && place.holds(*key));
        *place = Arc::new(match lacks {
            Some(key) => file.with_key_of(&place, key),
            None => file,
        });
        lacks
    }

    /// Changes the ring of a shared store, for all nodes at once. A new key seals after
    /// [`SETTLING`](crate::SETTLING), unless it takes the
    /// place of one that is revoked.
    ///
    /// # Errors
    ///
    /// If the store does not answer, the change may or may not have been made.
    pub async fn change_ring(&self, change: RingChange) -> Result<ChangedRing, RingError> {
        let change = match change {
            RingChange::Keys(change) => RingChange::Keys(change.settling()),
            RingChange::Rewrap => {
                self.must_be_everywhere().await?;
                change
            }
        };
        let _reading = self.nodes.last.lock().await;
        let (file, now) = (self.nodes.file(), self.clock.now());
        let changed = change_ring(&*self.store, &file, change, now, &*self.entropy).await?;
        self.set_keys(Arc::new(changed.after.clone()));
        if let Some(newest) = file.keys().last().filter(|_| change == RingChange::Rewrap) {
            self.note_unlocked_by(newest.id());
        }
        self.tell_of_ring();
        Ok(changed)
    }

    /// Refuses to lock the ring with a key that a node's key file lacks.
    async fn must_be_everywhere(&self) -> Result<(), RingError> {
        let Some(newest) = self.nodes.file().keys().last().map(Key::id) else { return Ok(()) };
        let node_list = self.store.node_list(self.clock.now()).await?;
        let lacks = |node: &Node| Some(node.id) != self.node_id() && !node.unlocks.contains(&newest);
        match node_list.live().find(|seen| lacks(&seen.node)) {
            Some(seen) => Err(RingError::NotEverywhere { key: newest, node: seen.node.label() }),
            None => Ok(()),
        }
    }

    /// The ring to open this text with. A key that is not known here may be new, so the ring is read again before anything
    /// is said.
    pub(super) async fn ring_for(&self, text: &str) -> Result<Arc<KeyRing>, StoreError> {
        let ring = self.keys();
        let is_unknown = |key| !ring.holds(key) && !ring.revoked().contains(&key);
        if self.store.is_shared() && key_of(text).is_some_and(is_unknown) {
            Box::pin(self.read_again(true)).await.map_err(unreadable)?;
            return Ok(self.keys());
        }
        Ok(ring)
    }

    /// Reads the ring again, because the store has another one than `version`.
    pub(super) async fn read_beyond(&self, version: u64) -> Result<(), StoreError> {
        if self.keys().version() == version {
            Box::pin(self.read_again(false)).await.map_err(unreadable)?;
        }
        Ok(())
    }

    /// Reads the ring, or waits for another task's reading that began after this call. With `paced`, not more often than
    /// every [`PAUSE`].
    async fn read_again(&self, paced: bool) -> Result<(), RingError> {
        let before = self.nodes.readings.load(Ordering::Acquire);
        let mut last = self.nodes.last.lock().await;
        if last.number > before {
            return last.outcome.clone();
        }
        if let Some(began) = last.began.filter(|_| paced) {
            tokio::time::sleep_until(began + PAUSE).await;
        }
        let number = self.nodes.readings.fetch_add(1, Ordering::AcqRel) + 1;
        let began = Some(Instant::now());
        let file = self.nodes.file();
        let outcome = self.open_ring(&file).await;
        let trouble = outcome.clone().err().filter(|error| !matches!(error, RingError::Store(_)));
        *self.nodes.trouble.write().unwrap_or_else(PoisonError::into_inner) = trouble;
        *last = RingRead { number, began, outcome: outcome.clone() };
        outcome
    }

    async fn open_ring(&self, file: &KeyRing) -> Result<(), RingError> {
        let stored = self.store.ring().await?.ok_or(RingError::None)?;
        // Unlocking takes longer than comparing.
        if stored.version != self.keys().version() {
            self.set_keys(Arc::new(stored.open(file)?));
        } else if !file.holds(stored.unlocked_by) {
            return Err(RingError::Locked(stored.unlocked_by));
        }
        self.note_unlocked_by(stored.unlocked_by);
        Ok(())
    }

    fn note_unlocked_by(&self, key: KeyId) {
        *self.nodes.unlocked_by.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    fn trouble(&self) -> Option<RingError> {
        self.nodes.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The changes of the ring in use that the operator has not been told of.
    fn tell_of_ring(&self) -> Vec<CheckInFinding> {
        let ring = self.keys();
        let mut told = self.nodes.told.write().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = told.replace(Arc::clone(&ring)) else { return Vec::new() };
        let revoked = ring.revoked().iter().filter(|key| !before.revoked().contains(key));
        let returned = ring.keys().iter().map(Key::id).filter(|key| before.revoked().contains(key));
        revoked.copied().map(CheckInFinding::Revoked).chain(returned.map(CheckInFinding::Returned)).collect()
    }

    async fn say(&self, member: &mut OwnNode) -> Result<Vec<CheckInFinding>, StoreError> {
        let (ring, now) = (self.keys(), self.clock.now());
        let file = self.store.is_shared().then(|| self.nodes.file());
        let node = member.node(&ring, file.as_deref(), self.told_fence(), now, true);
        let sealing = node.sealing;
        let node_list = self.store.check_in(&node).await?;
        *self.nodes.node_list.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(node_list));
        let before = std::mem::replace(&mut member.sealing, sealing);
        Ok(sealing.filter(|key| before != Some(*key)).map(CheckInFinding::Seals).into_iter().collect())
    }
}

/// The same error for callers that only know of a store.
fn unreadable(error: RingError) -> StoreError {
    match error {
        RingError::Store(error) => error,
        other => StoreError::unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
