//! The keys that seal tokens.

mod text;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::handshake::CLOCK_SKEW;
use crate::{CHECK_IN_PERIOD, Entropy, EntropyError, REMEMBERED, after, before};

/// The most keys that a ring holds. A key leaves the ring a day after it was replaced, so only an operator who
/// rotates every half an hour reaches this limit.
pub const MAX_KEYS: usize = 64;

/// How long a new key may wait at most until it seals.
const LONGEST_WAIT: Duration = Duration::from_hours(365 * 24);

/// How long after it was stored a new key of a shared ring begins to seal: by then the nodes have read it, and none has to
/// ask for it.
pub const SETTLING: Duration = Duration::from_secs(CHECK_IN_PERIOD.as_secs() * 2);

const SECRET_BYTES: usize = 64;

/// The most revoked keys whose names a ring remembers; the oldest is forgotten first.
pub const MAX_REVOKED: usize = 1024;

/// A key's name, which every token that it sealed carries in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(pub(crate) [u8; 4]);

/// The text is not the name of a key. It is not repeated: it may be a secret that was put into the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a key is 8 hexadecimal digits in lower case")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(InvalidKeyId)
    }
}

impl TryFrom<String> for KeyId {
    type Error = InvalidKeyId;

    fn try_from(text: String) -> Result<Self, InvalidKeyId> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// One key: 512 secret bits for AES-256-SIV (RFC 5297). Wiped from memory when dropped; `Debug` leaves the secret out.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    active_from: Timestamp,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
}

impl Key {
    /// A new random key that seals from `active_from` on.
    pub fn generate(active_from: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        let mut id = [0; 4];
        entropy.fill(&mut id)?;
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        entropy.fill(secret.as_mut_slice())?;
        Ok(Self { id: KeyId(id), active_from, secret })
    }

    /// The name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// From when on it seals, unless a newer key does. It opens tokens at any time.
    pub fn active_from(&self) -> Timestamp {
        self.active_from
    }

    pub(crate) fn secret(&self) -> &[u8; SECRET_BYTES] {
        &self.secret
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("active_from", &self.active_from)
            .finish_non_exhaustive()
    }
}

/// The keys of one token server, or of all the servers that share its tokens; at least one, in the order in which they
/// were added.
///
/// There are no states to keep in step: each key has a moment from which it seals, and of those whose moment has come the
/// one that was added last seals. It is the order that counts, not the moments: a clock that was wrong when a key was made
/// cannot make an older key seal again.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<Key>,
    /// The names of keys that were taken out because they are not secret any more, oldest first.
    revoked: Vec<KeyId>,
    version: u64,
}

/// A change of a ring's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Adds a key, and drops those that are not needed any more.
    Rotate {
        /// After how long the new key begins to seal.
        activate_in: Duration,
    },
    /// Adds a key and drops none: for a key file, any of whose keys may be the one that unlocks a store's ring.
    Add,
    /// Takes a key out for good.
    Revoke {
        /// Which.
        key: KeyId,
        /// Whether a new key, which seals immediately, comes in with the same step.
        rotate: bool,
    },
}

impl KeyChange {
    /// The same change of a ring that several servers share: a new key waits for [`SETTLING`] at least, unless it takes the
    /// place of one that is revoked.
    #[must_use]
    pub fn settling(self) -> Self {
        match self {
            Self::Rotate { activate_in } => Self::Rotate { activate_in: activate_in.max(SETTLING) },
            Self::Add | Self::Revoke { .. } => self,
        }
    }
}

/// Why a text is not a key ring, or why a ring cannot be changed as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRingError {
    /// The text is not of the ring's format. What is quoted of it is never a key.
    #[error("{0}")]
    Format(String),
    /// There is no key in it.
    #[error("it holds no key; a new ring is made when the file does not exist")]
    Empty,
    /// Two keys have the same id.
    #[error("it has key {0} twice; remove one of the two")]
    Duplicate(KeyId),
    /// A key stands in it and is revoked in it.
    #[error("it has key {0} although that is revoked; remove the key, and copy no older ring into this one")]
    Revoked(KeyId),
    /// There is no such key.
    #[error("it holds no key {0}; `countersign keys list` shows those that it holds")]
    Missing(KeyId),
    /// The key seals, and there is no newer one to take its place.
    #[error(
        "key {0} is the one that seals; to replace it in the same step, add --rotate (`\"rotate\": true`)"
    )]
    Seals(KeyId),
    /// It would hold more than [`MAX_KEYS`].
    #[error(
        "it would hold more than {MAX_KEYS} keys; keys leave the ring a day after they were replaced, so rotate later"
    )]
    Full,
    /// The new key would begin to seal later than in a year.
    #[error("a new key begins to seal within a year; rotate when it is needed")]
    TooLate,
    /// No randomness for a new key.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl KeyRing {
    /// A ring with one new key, which seals from `now` on.
    pub fn generate(now: Timestamp, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Ok(Self { keys: vec![Key::generate(now, entropy)?], revoked: Vec::new(), version: 0 })
    }

    /// The keys, oldest first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Which version it is of the ring that a shared store keeps ([`StoredRing`](crate::StoredRing)); 0 for a ring in a
    /// file.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The same keys, as this version of a store's ring.
    #[must_use]
    pub fn at_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// The key that seals at `now`: the newest whose moment has come. If the clock stands before them all, the oldest.
    pub fn sealing_key(&self, now: Timestamp) -> Option<&Key> {
        self.keys.iter().rev().find(|key| key.active_from <= now).or(self.keys.first())
    }

    pub(crate) fn key(&self, id: KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Whether it holds a key.
    pub fn holds(&self, id: KeyId) -> bool {
        self.key(id).is_some()
    }

    /// The keys that were revoked, oldest revocation first.
    pub fn revoked(&self) -> &[KeyId] {
        &self.revoked
    }

    /// Makes a change. If it is rejected, the ring stays as it was.
    pub fn change(
        &mut self,
        change: KeyChange,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(), KeyRingError> {
        let mut changed = self.clone();
        match change {
            KeyChange::Rotate { activate_in } if activate_in > LONGEST_WAIT => {
                return Err(KeyRingError::TooLate);
            }
            KeyChange::Rotate { activate_in } => {
                changed.drop_unneeded(now);
                changed.add(after(now, activate_in), entropy)?;
            }
            KeyChange::Add => drop(changed.add(now, entropy)?),
            KeyChange::Revoke { key, rotate } => changed.revoke(key, rotate, now, entropy)?,
        }
        *self = changed;
        Ok(())
    }

    /// Takes a key out and remembers that it must not come back: every token that it sealed is from then on not one of
    /// this server's.
    ///
    /// If it is the one that seals, a newer key takes its place immediately, never an older one: who stole a key may have
    /// stolen those before it as well. The heir's moment is put back by [`CLOCK_SKEW`], so that it has come by the clock
    /// of every server.
    fn revoke(
        &mut self,
        id: KeyId,
        rotate: bool,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(), KeyRingError> {
        let at = self.keys.iter().position(|key| key.id == id).ok_or(KeyRingError::Missing(id))?;
        let everywhere = before(now, CLOCK_SKEW);
        let revoked = self.keys.remove(at);
        self.revoked.push(id);
        let too_many = self.revoked.len().saturating_sub(MAX_REVOKED);
        self.revoked.drain(..too_many);
        if rotate {
            self.drop_unneeded(now);
            return self.add(everywhere, entropy).map(drop);
        }
        let newer = self.keys.get_mut(at..).unwrap_or_default();
        let may_seal = revoked.active_from <= after(now, CLOCK_SKEW)
            && newer.iter().all(|key| key.active_from > everywhere);
        if may_seal {
            let come = newer.iter().rposition(|key| key.active_from <= now).unwrap_or(0);
            let heir = newer.get_mut(come).ok_or(KeyRingError::Seals(id))?;
            heir.active_from = heir.active_from.min(everywhere);
        }
        if self.keys.is_empty() { Err(KeyRingError::Empty) } else { Ok(()) }
    }

    /// The same ring, and this key of another one if it lacks it, as the oldest.
    #[must_use]
    pub(crate) fn with_key_of(mut self, other: &Self, id: KeyId) -> Self {
        if let Some(key) = other.key(id).filter(|_| !self.holds(id)) {
            self.keys.insert(0, key.clone());
        }
        self
    }

    /// Drops the keys that no live token can need any more: those whose successor has been sealing for longer than a token
    /// may live.
    fn drop_unneeded(&mut self, now: Timestamp) {
        let successors: Vec<Timestamp> = self.keys.iter().skip(1).map(Key::active_from).collect();
        let mut successors = successors.into_iter();
        self.keys.retain(|_| successors.next().is_none_or(|since| after(since, REMEMBERED) >= now));
    }

    /// Adds a new key that seals from `active_from` on.
    fn add(&mut self, active_from: Timestamp, entropy: &dyn Entropy) -> Result<KeyId, KeyRingError> {
        if self.keys.len() >= MAX_KEYS {
            return Err(KeyRingError::Full);
        }
        let mut key = Key::generate(active_from, entropy)?;
        while self.holds(key.id) || self.revoked.contains(&key.id) {
            key = Key::generate(active_from, entropy)?;
        }
        let id = key.id;
        self.keys.push(key);
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
