//! The key ring in a shared store: one text, encrypted as a whole.
//!
//! Neither the store nor a reader of its backup may be able to make tokens. So the ring is encrypted (AES-256-SIV) with a
//! key that is derived (HKDF-SHA-256) from a secret in the servers' key file. A thief needs both. An attacker who can only
//! write to the database cannot remove a key, restore a revoked one or reorder them, because the text is authenticated as
//! a whole.
//!
//! The version is encrypted along. A store changes it together with the watermarks that each batch of consumptions reads
//! ([`TokenStore::replace_ring`]), so a server with another version of the ring redeems nothing.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;
use hkdf::Hkdf;
use jiff::Timestamp;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Entropy, Key, KeyChange, KeyId, KeyRing, KeyRingError, StoreError, TokenStore};

/// The purpose of the derived key.
const PURPOSE: &[u8] = b"countersign: the key ring in a shared store";

/// How often a change is tried again that another server's change got ahead of.
const ROUNDS: usize = 8;

/// A ring as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRing {
    /// A random number other than 0, another one after each change. A count would come again when an older state of the
    /// database is restored.
    pub version: u64,
    /// The key of the servers' key file that unlocks it.
    pub unlocked_by: KeyId,
    /// The ring, encrypted.
    pub sealed: Vec<u8>,
}

/// A change of the ring in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingChange {
    /// Of its keys.
    Keys(KeyChange),
    /// The ring is locked anew: only the newest key of the key file unlocks it from now on.
    Rewrap,
}

/// A change that was made.
#[derive(Clone, Debug)]
pub struct ChangedRing {
    /// The ring before.
    pub before: KeyRing,
    /// And after.
    pub after: KeyRing,
}

/// Why the ring in the store cannot be used or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The key file does not have what unlocks it.
    #[error(
        "the key ring in the store is locked with key {0}, which the key file here does not hold; copy the key file of a \
         server that serves from this store here, with mode 0600 (nothing is lost meanwhile)"
    )]
    Locked(KeyId),
    /// The key file has a key of that name, which does not open it.
    #[error(
        "key {0} of the key file here does not open the key ring in the store: one of the two was changed. Copy the key \
         file of a server that serves from this store here; if that does not help, restore the table `ring` from a backup"
    )]
    Damaged(KeyId),
    /// A server's key file lacks the key that is to lock it.
    #[error(
        "key {key}, the newest one of the key file here, is not in the key file of {node}, which could not read the ring \
         any more; copy the key file there first"
    )]
    NotEverywhere {
        /// The key.
        key: KeyId,
        /// The server.
        node: String,
    },
    /// There is none.
    #[error("the store keeps no key ring yet; the first server that starts puts its key file's keys there")]
    None,
    /// It cannot be changed as asked.
    #[error("the key ring in the store: {0}")]
    Ring(#[from] KeyRingError),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoredRing {
    /// Encrypts a ring, as its version says, with a key of the key file.
    pub fn seal(ring: &KeyRing, with: &Key) -> Result<Self, RingError> {
        let text = ring.to_text();
        let (version, unlocked_by) = (ring.version(), with.id());
        let sealed = cipher(with)
            .and_then(|mut cipher| {
                cipher.encrypt(associated(&version.to_be_bytes(), &unlocked_by), text.as_bytes()).ok()
            })
            .ok_or(KeyRingError::Full)?;
        Ok(Self { version, unlocked_by, sealed })
    }

    /// Decrypts it with the key file's keys.
    pub fn open(&self, file: &KeyRing) -> Result<KeyRing, RingError> {
        let by = self.unlocked_by;
        let with = file.key(by).ok_or(RingError::Locked(by))?;
        let text = cipher(with)
            .and_then(|mut cipher| {
                cipher.decrypt(associated(&self.version.to_be_bytes(), &by), &self.sealed).ok()
            })
            .map(Zeroizing::new)
            .ok_or(RingError::Damaged(by))?;
        let text = std::str::from_utf8(&text).map_err(|_| RingError::Damaged(by))?;
        Ok(KeyRing::parse(text)?.at_version(self.version))
    }
}

fn cipher(with: &Key) -> Option<Aes256Siv> {
    let mut derived = Zeroizing::new([0; 64]);
    Hkdf::<Sha256>::new(None, with.secret()).expand(PURPOSE, derived.as_mut_slice()).ok()?;
    Some(Aes256Siv::new((&*derived).into()))
}

fn associated<'a>(version: &'a [u8; 8], by: &'a KeyId) -> [&'a [u8]; 3] {
    [PURPOSE, version, &by.0]
}

/// A version fits into a database's signed 64 bits, and is not 0.
fn new_version(entropy: &dyn Entropy) -> Result<u64, KeyRingError> {
    let mut random = [0; 8];
    entropy.fill(&mut random)?;
    Ok(u64::from_be_bytes(random) >> 1 | 1)
}

/// Reads the ring of a store. If it keeps none yet, puts `first` there, locked with the newest key of the key file; of
/// several servers that do so at the same time one is first, and all read the same.
pub async fn read_or_put(
    store: &dyn TokenStore,
    file: &KeyRing,
    first: &KeyRing,
    entropy: &dyn Entropy,
) -> Result<KeyRing, RingError> {
    for _ in 0..ROUNDS {
        if let Some(stored) = store.ring().await? {
            return stored.open(file);
        }
        let newest = file.keys().last().ok_or(KeyRingError::Empty)?;
        let first = first.clone().at_version(new_version(entropy)?);
        store.replace_ring(0, &StoredRing::seal(&first, newest)?).await?;
    }
    Err(StoreError::Busy.into())
}

/// Reads the ring of a store.
pub async fn read_ring(store: &dyn TokenStore, file: &KeyRing) -> Result<KeyRing, RingError> {
    store.ring().await?.ok_or(RingError::None)?.open(file)
}

/// Puts the key file's own keys in the place of a store's ring: for one that no file unlocks any more.
pub async fn put_ring(
    store: &dyn TokenStore,
    file: &KeyRing,
    entropy: &dyn Entropy,
) -> Result<KeyRing, RingError> {
    let from = store.ring().await?.map_or(0, |stored| stored.version);
    let ring = file.clone().at_version(new_version(entropy)?);
    let newest = file.keys().last().ok_or(KeyRingError::Empty)?;
    let is_there = store.replace_ring(from, &StoredRing::seal(&ring, newest)?).await?;
    if is_there { Ok(ring) } else { Err(StoreError::OtherRing.into()) }
}

/// Changes the ring in a store, for all servers at once and for good when this returns.
pub async fn change_ring(
    store: &dyn TokenStore,
    file: &KeyRing,
    change: RingChange,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<ChangedRing, RingError> {
    for _ in 0..ROUNDS {
        let stored = store.ring().await?.ok_or(RingError::None)?;
        let before = stored.open(file)?;
        let mut after = before.clone().at_version(new_version(entropy)?);
        let locked_with = match change {
            RingChange::Keys(change) => {
                after.change(change, now, entropy)?;
                file.key(stored.unlocked_by)
            }
            RingChange::Rewrap => file.keys().last(),
        };
        let next = StoredRing::seal(&after, locked_with.ok_or(KeyRingError::Empty)?)?;
        if store.replace_ring(stored.version, &next).await? {
            return Ok(ChangedRing { before, after });
        }
    }
    Err(StoreError::Busy.into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{OsEntropy, SequenceEntropy};

    fn ring() -> KeyRing {
        KeyRing::generate("2026-01-31T12:00:00Z".parse().unwrap(), &OsEntropy).unwrap()
    }

    fn ids(ring: &KeyRing) -> Vec<KeyId> {
        ring.keys().iter().map(Key::id).collect()
    }

    #[test]
    fn versions_differ_and_fit_a_signed_integer() {
        let (one, other) = (new_version(&OsEntropy).unwrap(), new_version(&OsEntropy).unwrap());
        assert_ne!(one, other);
        for version in [one, other] {
            assert!(version != 0 && i64::try_from(version).is_ok(), "{version}");
        }
        let smallest = SequenceEntropy::default();
        for _ in 0..4 {
            assert_ne!(new_version(&smallest).unwrap(), 0, "0 is the version of a ring in a file");
        }
    }

    #[test]
    fn ring_opens_only_with_its_key_file() {
        let (ring, file) = (ring().at_version(7), ring());
        let stored = StoredRing::seal(&ring, &file.keys()[0]).unwrap();
        let opened = stored.open(&file).unwrap();
        assert_eq!((opened.version(), ids(&opened)), (7, ids(&ring)));
        assert_eq!(opened.to_text(), ring.to_text());

        let locked = stored.open(&ring).unwrap_err();
        assert_eq!(locked, RingError::Locked(file.keys()[0].id()));
        assert!(locked.to_string().contains("copy the key file"), "{locked}");
    }

    #[test]
    fn stored_ring_reveals_no_secret_or_name() {
        let (ring, file) = (ring().at_version(1), ring());
        let stored = StoredRing::seal(&ring, &file.keys()[0]).unwrap();
        let shown = format!("{:?}{}", stored, String::from_utf8_lossy(&stored.sealed));
        assert!(!shown.contains(&ring.keys()[0].id().to_string()), "{shown}");
        let text = ring.to_text();
        let (_, secret) = text.split_once("secret = \"").unwrap();
        assert!(!shown.contains(&secret[..8]));
    }

    #[test]
    fn tampered_ring_does_not_open() {
        let (ring, file) = (ring().at_version(3), ring());
        let by = file.keys()[0].id();
        let stored = StoredRing::seal(&ring, &file.keys()[0]).unwrap();
        // As an older one that is called the present one would be.
        let renamed = StoredRing { version: 5, ..stored.clone() };
        assert_eq!(renamed.open(&file).unwrap_err(), RingError::Damaged(by));
        for at in 0..stored.sealed.len() {
            let mut changed = stored.clone();
            changed.sealed[at] ^= 1;
            assert_eq!(changed.open(&file).unwrap_err(), RingError::Damaged(by), "byte {at}");
        }
    }

    /// The key that locks the ring is not the key of the file itself, so that neither use tells anything about the other.
    #[test]
    fn derived_key_differs_from_the_file_key() {
        let file = ring();
        let key = &file.keys()[0];
        let derived = cipher(key).unwrap().encrypt([PURPOSE], b"text").unwrap();
        let direct = Aes256Siv::new(key.secret().into()).encrypt([PURPOSE], b"text").unwrap();
        assert_ne!(derived, direct);
        let mut longer = file.clone();
        let change = KeyChange::Rotate { activate_in: Duration::ZERO };
        longer.change(change, key.active_from(), &OsEntropy).unwrap();
        assert_ne!(derived, cipher(&longer.keys()[1]).unwrap().encrypt([PURPOSE], b"text").unwrap());
    }
}
