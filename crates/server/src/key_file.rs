//! The key ring on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use countersign_core::{Entropy, KeyId, KeyRing, KeyRingError};
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::watched::Version;

/// A file far longer than this is not a key ring; 64 keys take less than 10 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A key ring kept in a file that only its owner can read.
///
/// The file is never written in place: a new version is made beside it, synced and renamed, so that a crash at any
/// moment leaves a whole ring.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    seen: Mutex<Option<Version>>,
}

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others can read it, so its keys are not secrets any more.
    #[error(
        "the key ring {} can be read by other users (mode {mode:04o}), and whoever reads it can make tokens; \
         run `chmod 600 {0}`, and if anybody may have read it, replace it", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is something else than a file, or far too long.
    #[error("the key ring {} is not a plain file of a reasonable length", .0.display())]
    NotAFile(PathBuf),
    /// Its content is not a key ring, or cannot be changed as asked.
    #[error("the key ring {}: {error}", path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeyRingError,
    },
    /// The operating system refused.
    #[error("cannot {action} the key ring {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl KeyFile {
    /// The key file at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::new(None) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the ring.
    pub fn load(&self) -> Result<KeyRing, KeyFileError> {
        let mut file = File::open(&self.path).map_err(|error| self.io("read", error))?;
        let metadata = file.metadata().map_err(|error| self.io("read", error))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(KeyFileError::NotAFile(self.path.clone()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: self.path.clone(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(|error| self.io("read", error))?;
        let ring = KeyRing::parse(&text).map_err(|error| self.ring(error))?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Version::of(&metadata));
        Ok(ring)
    }

    /// Reads the ring; if there is no file, makes one with a new key. Returns whether it did.
    pub fn load_or_create(
        &self,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(KeyRing, bool), KeyFileError> {
        match self.load() {
            Err(KeyFileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded.map(|ring| (ring, false)),
        }
        self.create(now, entropy)
    }

    /// Makes a ring with a new key; if there is a file already, reads that. Returns whether it made one.
    fn create(&self, now: Timestamp, entropy: &dyn Entropy) -> Result<(KeyRing, bool), KeyFileError> {
        let ring = KeyRing::generate(now, entropy).map_err(|error| self.ring(error.into()))?;
        let made = self.write_beside(&ring, None)?;
        // A link, unlike a rename, fails if another process was faster: then its ring is the one.
        let linked = fs::hard_link(&made, &self.path);
        fs::remove_file(&made).map_err(|error| self.io("create", error))?;
        match linked {
            Ok(()) => {
                self.sync_directory()?;
                self.load().map(|ring| (ring, true))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.load().map(|ring| (ring, false))
            }
            Err(error) => Err(self.io("create", error)),
        }
    }

    /// Adds a key that seals from `active_from` on, drops keys that are not needed any more and not among `keep`, and
    /// returns the ring as it then stands on disk. Several processes may do so at the same time.
    pub fn rotate(
        &self,
        now: Timestamp,
        active_from: Timestamp,
        keep: &[KeyId],
        entropy: &dyn Entropy,
    ) -> Result<KeyRing, KeyFileError> {
        self.change(|ring| ring.rotate(now, active_from, keep, entropy).map(drop))
    }

    /// Takes a key out for good, and returns the ring as it then stands on disk. With `replacement`, a new key that seals
    /// from `now` on comes in with the same step.
    pub fn revoke(
        &self,
        key: KeyId,
        replacement: bool,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<KeyRing, KeyFileError> {
        self.change(|ring| {
            if !ring.holds(key) {
                return Err(KeyRingError::Missing(key));
            }
            if replacement {
                ring.rotate(now, now, &[key], entropy)?;
            }
            ring.revoke(key)
        })
    }

    /// Replaces the ring by what `change` makes of it, while nobody else changes it.
    fn change(
        &self,
        change: impl FnOnce(&mut KeyRing) -> Result<(), KeyRingError>,
    ) -> Result<KeyRing, KeyFileError> {
        let directory = File::open(self.directory()).map_err(|error| self.io("lock", error))?;
        directory.lock().map_err(|error| self.io("lock", error))?;
        let mut ring = self.load()?;
        change(&mut ring).map_err(|error| self.ring(error))?;
        let owner = fs::metadata(&self.path).map_err(|error| self.io("replace", error))?.uid();
        let made = self.write_beside(&ring, Some(owner))?;
        fs::rename(&made, &self.path).map_err(|error| self.io("replace", error))?;
        self.sync_directory()?;
        self.load()
    }

    /// Reads the ring if the file is not the version that was read last; `None` if it is.
    pub fn reload_if_changed(&self) -> Option<Result<KeyRing, KeyFileError>> {
        let found = Version::at(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if found == *seen {
            return None;
        }
        // A version that cannot be used is complained about once, not every time somebody looks.
        *seen = found;
        drop(seen);
        Some(self.load())
    }

    /// Writes the ring to a new file, which belongs to `owner`, or else to whoever runs this.
    fn write_beside(&self, ring: &KeyRing, owner: Option<u32>) -> Result<PathBuf, KeyFileError> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let beside = self.path.with_file_name(name);
        let write = || -> io::Result<()> {
            // What a crashed process of the same id may have left.
            let _ = fs::remove_file(&beside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            // When root changes the ring of the server's user, that user has to be able to read it afterwards.
            if owner.is_some_and(|owner| file.metadata().is_ok_and(|mine| mine.uid() != owner)) {
                fchown(&file, owner, None)?;
            }
            file.write_all(ring.to_text().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|error| self.io("write", error))?;
        Ok(beside)
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    fn sync_directory(&self) -> Result<(), KeyFileError> {
        File::open(self.directory())
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.io("write", error))
    }

    fn io(&self, action: &'static str, error: io::Error) -> KeyFileError {
        KeyFileError::Io { action, path: self.path.clone(), error }
    }

    fn ring(&self, error: KeyRingError) -> KeyFileError {
        KeyFileError::Ring { path: self.path.clone(), error }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use countersign_core::{OsEntropy, SequenceEntropy};
    use tempfile::TempDir;

    use super::*;

    fn noon() -> Timestamp {
        "2026-01-31T12:00:00Z".parse().unwrap()
    }

    fn key_file() -> (TempDir, KeyFile) {
        let directory = TempDir::new().unwrap();
        let file = KeyFile::new(directory.path().join("key-ring.toml"));
        (directory, file)
    }

    fn ids(ring: &KeyRing) -> Vec<String> {
        ring.keys().iter().map(|key| key.id().to_string()).collect()
    }

    #[test]
    fn it_is_made_once_and_only_for_its_owner() {
        let (directory, file) = key_file();
        let (made, new) = file.load_or_create(noon(), &OsEntropy).unwrap();
        assert!(new);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        let (again, new) = file.load_or_create(noon(), &OsEntropy).unwrap();
        assert!(!new);
        assert_eq!(ids(&made), ids(&again));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn rotation_replaces_the_file_and_others_notice() {
        let (directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        let reader = KeyFile::new(file.path().to_owned());
        reader.load().unwrap();
        assert!(reader.reload_if_changed().is_none());
        let rotated = file.rotate(noon(), noon(), &[], &OsEntropy).unwrap();
        assert_eq!(rotated.keys().len(), 2);
        assert_eq!(ids(&reader.reload_if_changed().unwrap().unwrap()), ids(&rotated));
        assert!(reader.reload_if_changed().is_none());
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_revoked_key_is_not_in_the_file_any_more() {
        let (_directory, file) = key_file();
        let (ring, _) = file.load_or_create(noon(), &OsEntropy).unwrap();
        let first = ring.keys()[0].id();
        let alone = file.revoke(first, false, noon(), &OsEntropy).unwrap_err().to_string();
        assert!(alone.contains("no key"), "{alone}");
        let ring = file.revoke(first, true, noon(), &OsEntropy).unwrap();
        assert_eq!((ring.keys().len(), ring.revoked()), (1, &[first][..]));
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.matches("secret = ").count(), 1, "its secret is gone");
        let gone = file.revoke(first, true, noon(), &OsEntropy).unwrap_err().to_string();
        assert!(gone.contains(&format!("no key {first}")), "{gone}");
    }

    #[test]
    fn rotations_at_the_same_time_are_all_kept() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| file.rotate(noon(), noon(), &[], &OsEntropy).unwrap());
            }
        });
        assert_eq!(file.load().unwrap().keys().len(), 9);
    }

    #[test]
    fn a_ring_that_others_may_read_from_now_on_is_reported() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        let error = file.reload_if_changed().unwrap().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_bad_version_is_reported_once() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        fs::write(file.path(), "version = 1\n").unwrap();
        assert!(file.reload_if_changed().unwrap().unwrap_err().to_string().contains("no key"));
        assert!(file.reload_if_changed().is_none());
        fs::remove_file(file.path()).unwrap();
        let gone = file.reload_if_changed().unwrap().unwrap_err().to_string();
        assert!(gone.contains("cannot read"), "{gone}");
        assert!(file.reload_if_changed().is_none());
    }

    #[test]
    fn what_is_no_key_file_is_refused() {
        let (directory, _) = key_file();
        let error = KeyFile::new(directory.path().to_owned()).load().unwrap_err();
        assert!(matches!(error, KeyFileError::NotAFile(_)), "{error}");
        let nowhere = KeyFile::new(directory.path().join("missing/key-ring.toml"));
        let error = nowhere.load_or_create(noon(), &SequenceEntropy::default()).unwrap_err().to_string();
        assert!(error.contains("missing/key-ring.toml"), "{error}");
    }
}
