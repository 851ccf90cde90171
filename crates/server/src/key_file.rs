//! The key ring on disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_core::{Entropy, KeyChange, KeyRing, KeyRingError};
use countersign_tls::small_file;
use jiff::Timestamp;

use crate::file_version::FileVersion;
use crate::replace::{self, LOCK_PATIENCE};
use crate::secret::{Exposure, exposure_of_open};

/// A file far longer than this is not a key ring; 64 keys take less than 10 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A key ring kept in a file that only its owner can read.
///
/// The file is never written in place: a new version is made beside it, synced and renamed, so that a crash at any
/// moment leaves a whole ring.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    versions: Mutex<Versions>,
    /// Held by who changes the keys, in this file or in a shared store, until everything that follows from it is done.
    turn: tokio::sync::Mutex<()>,
}

/// What has been read of the file.
#[derive(Debug, Default)]
struct Versions {
    /// The version that is in use.
    used: Option<FileVersion>,
    /// The one that was found last, if it could not be used; it is complained about once.
    useless: RejectedFile,
}

/// Why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Others can read it, so its keys are not secrets any more.
    #[error(
        "the key ring {} {exposure}, and whoever reads it can make tokens; {}. If somebody may have read it, go on with \
         \"After a theft\" of docs/keys.md", path.display(), exposure.remedy(path, false)
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who can.
        exposure: Exposure,
    },
    /// It is something else than a file, or far too long.
    #[error("the key ring {} is not a plain file of a reasonable length", .0.display())]
    NotAFile(PathBuf),
    /// Another process holds its lock.
    #[error(
        "another process holds the lock on the directory of the key ring {}, and has for {} seconds; nothing was changed. \
         See what it is with `lslocks`, and try again", .0.display(), LOCK_PATIENCE.as_secs()
    )]
    Locked(PathBuf),
    /// Its content is not a key ring, or cannot be changed as asked.
    #[error("the key ring {}: {error}", path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: KeyRingError,
    },
    /// The operating system refused.
    #[error("cannot {action} the key ring {}: {error}{}", path.display(), where_to_change(error, action))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl KeyFileError {
    /// What is wrong, to go on from the file's name.
    pub(crate) fn beside_its_name(&self) -> String {
        match self {
            Self::Exposed { exposure, .. } => exposure.to_string(),
            Self::NotAFile(_) => "is not a plain file of a reasonable length".to_owned(),
            Self::Locked(_) => "is locked by another process".to_owned(),
            Self::Ring { error, .. } => format!("cannot be used: {error}"),
            Self::Io { action, error, .. } => {
                format!("cannot be {}: {error}", if *action == "write" { "written" } else { action })
            }
        }
    }
}

/// Advice for a file that this process may read and not replace.
fn where_to_change(error: &io::Error, action: &str) -> &'static str {
    let is_kept_from =
        matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied);
    if is_kept_from && action == "write" {
        "; if it comes from elsewhere, as a Secret or a credential does, change it there with the same command and \
         `--offline --key-ring FILE`, and bring it here"
    } else {
        ""
    }
}

/// What could not be used.
#[derive(Debug, Default, PartialEq)]
enum RejectedFile {
    #[default]
    Nothing,
    /// There was no file.
    NoFile,
    File(FileVersion),
}

impl KeyFile {
    /// The key file at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, versions: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the lock on the keys, and holds it.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Reads the ring.
    pub fn load(&self) -> Result<KeyRing, KeyFileError> {
        self.read().map(|(ring, _)| ring)
    }

    fn read(&self) -> Result<(KeyRing, FileVersion), KeyFileError> {
        let file = small_file::open(&self.path).map_err(|error| self.io("read", error))?;
        let metadata = file.metadata().map_err(|error| self.io("read", error))?;
        if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
            return Err(KeyFileError::NotAFile(self.path.clone()));
        }
        let exposure = exposure_of_open(&file, &metadata).map_err(|error| self.io("look at", error))?;
        if let Some(exposure) = exposure {
            return Err(KeyFileError::Exposed { path: self.path.clone(), exposure });
        }
        let text = small_file::read_open(&file, MAX_FILE_BYTES).and_then(|bytes| small_file::text(&bytes));
        let text = text.map_err(|error| self.io("read", error))?;
        let ring = KeyRing::parse(&text).map_err(|error| self.ring(error))?;
        Ok((ring, FileVersion::of(&metadata)))
    }

    /// Reads the ring, to put it to use; if there is no file, makes one with a new key. Returns whether it did.
    pub fn load_or_create(
        &self,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(KeyRing, bool), KeyFileError> {
        let made = match self.read() {
            Err(KeyFileError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                self.create(now, entropy)?
            }
            Err(error) => return Err(error),
            Ok(_) => false,
        };
        let (ring, version) = self.read()?;
        self.versions().used = Some(version);
        Ok((ring, made))
    }

    /// Makes a ring with a new key, unless another process is faster. Returns whether it did.
    fn create(&self, now: Timestamp, entropy: &dyn Entropy) -> Result<bool, KeyFileError> {
        let ring = KeyRing::generate(now, entropy).map_err(|error| self.ring(error.into()))?;
        self.save_new(&ring).map_err(|error| self.io("create", error))
    }

    /// Writes a ring where there is no file. Returns whether there was none.
    pub fn save_new(&self, ring: &KeyRing) -> io::Result<bool> {
        let made = self.write_beside(ring, None)?;
        // A link, unlike a rename, fails if another process was faster: then its ring is the one.
        let linked = fs::hard_link(&made, &self.path);
        fs::remove_file(&made)?;
        match linked {
            Ok(()) => self.sync_directory().map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does what [`save_new`](Self::save_new) does under another name, and removes it again: whether the ring can be written
    /// there, for those who will have to.
    pub fn rehearse_save_new(&self, ring: &KeyRing) -> io::Result<()> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".trial-{}", std::process::id()));
        let trial = Self::new(self.path.with_file_name(name));
        // A crashed process of the same id may have left such a file.
        let _ = fs::remove_file(&trial.path);
        trial.save_new(ring)?;
        fs::remove_file(&trial.path)
    }

    /// Changes the ring on disk, and passes it to `take_up` as it then stands there. Several processes may do so at the
    /// same time; what they make of it is put to use in the same order.
    pub fn change(
        &self,
        change: KeyChange,
        now: Timestamp,
        entropy: &dyn Entropy,
        take_up: impl FnOnce(KeyRing),
    ) -> Result<(), KeyFileError> {
        let mut versions = self.versions();
        let _locked = self.lock()?;
        let (mut ring, _) = self.read()?;
        ring.change(change, now, entropy).map_err(|error| self.ring(error))?;
        let old = File::open(&self.path).map_err(|error| self.io("replace", error))?;
        let made = self.write_beside(&ring, Some(&old)).map_err(|error| self.io("write", error))?;
        fs::rename(&made, &self.path).map_err(|error| self.io("replace", error))?;
        self.sync_directory().map_err(|error| self.io("write", error))?;
        let (ring, version) = self.read()?;
        take_up(ring);
        versions.used = Some(version);
        Ok(())
    }

    /// Passes the ring to `take_up` if the file is not the version that is in use, and without a look at that if `anyway`.
    /// Returns whether it is another version. One that cannot be used is an error once, or whenever it is asked for `anyway`.
    pub fn take_up_if_changed(
        &self,
        anyway: bool,
        take_up: impl FnOnce(KeyRing),
    ) -> Result<bool, KeyFileError> {
        let mut versions = self.versions();
        let found = FileVersion::at(&self.path);
        let useless = found.map_or(RejectedFile::NoFile, RejectedFile::File);
        if !anyway && (found == versions.used || versions.useless == useless) {
            return Ok(false);
        }
        match self.read() {
            Ok((ring, version)) => {
                take_up(ring);
                let is_another = versions.used != Some(version);
                *versions = Versions { used: Some(version), useless: RejectedFile::Nothing };
                Ok(is_another)
            }
            Err(error) => {
                versions.useless = useless;
                Err(error)
            }
        }
    }

    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps other processes from changing the file until what this returns is dropped.
    fn lock(&self) -> Result<File, KeyFileError> {
        match replace::lock(&self.path) {
            Ok(Some(locked)) => Ok(locked),
            Ok(None) => Err(KeyFileError::Locked(self.path.clone())),
            Err(error) => Err(self.io("lock", error)),
        }
    }

    /// Writes the ring to a new file with the access rights of the `old` one.
    fn write_beside(&self, ring: &KeyRing, old: Option<&File>) -> io::Result<PathBuf> {
        replace::write_beside(&self.path, ring.to_text().as_bytes(), old)
    }

    fn sync_directory(&self) -> io::Result<()> {
        replace::sync_directory(&self.path)
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
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

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
    fn key_file_is_created_once_and_private() {
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
    fn file_readable_by_others_is_refused() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        for mode in [0o644, 0o604, 0o662, 0o601] {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let error = file.load().unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    fn rotate(file: &KeyFile) -> KeyRing {
        let mut after = None;
        let change = KeyChange::Rotate { activate_in: Duration::ZERO };
        file.change(change, noon(), &OsEntropy, |ring| after = Some(ring)).unwrap();
        after.unwrap()
    }

    /// The ring that is taken up, if one is.
    fn reload(file: &KeyFile, anyway: bool) -> Result<Option<KeyRing>, KeyFileError> {
        let mut taken = None;
        let changed = file.take_up_if_changed(anyway, |ring| taken = Some(ring))?;
        assert!(taken.is_some() || !changed);
        Ok(taken)
    }

    #[test]
    fn fifo_is_refused_at_once() {
        let (_directory, file) = key_file();
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, file.path(), fifo, mode, 0).unwrap();
        let error = file.load().unwrap_err().to_string();
        assert!(error.contains("it is a FIFO"), "{error}");
    }

    /// An operator who reads of a change would look for who has rotated a key.
    #[test]
    fn file_that_is_read_anyway_has_not_changed() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        assert!(!file.take_up_if_changed(true, drop).unwrap());
        rotate(&KeyFile::new(file.path().to_owned()));
        assert!(file.take_up_if_changed(true, drop).unwrap());
        assert!(!file.take_up_if_changed(true, drop).unwrap());
    }

    #[test]
    fn rotation_replaces_the_file_and_is_noticed() {
        let (directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        let reader = KeyFile::new(file.path().to_owned());
        reader.load_or_create(noon(), &OsEntropy).unwrap();
        assert!(reload(&reader, false).unwrap().is_none());
        let rotated = rotate(&file);
        assert_eq!(rotated.keys().len(), 2);
        assert!(reload(&file, false).unwrap().is_none(), "its own change is in use");
        assert_eq!(ids(&reload(&reader, false).unwrap().unwrap()), ids(&rotated));
        assert!(reload(&reader, false).unwrap().is_none());
        assert_eq!(ids(&reload(&reader, true).unwrap().unwrap()), ids(&rotated), "when it is asked for");
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn inspecting_the_file_takes_no_lock() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        let rotated = rotate(&KeyFile::new(file.path().to_owned()));
        file.load().unwrap();
        assert_eq!(ids(&reload(&file, false).unwrap().unwrap()), ids(&rotated));
    }

    #[test]
    fn revoked_key_is_removed_from_the_file() {
        let (_directory, file) = key_file();
        let (ring, _) = file.load_or_create(noon(), &OsEntropy).unwrap();
        let key = ring.keys()[0].id();
        let revoke = |rotate| {
            let mut after = None;
            let change = KeyChange::Revoke { key, rotate };
            file.change(change, noon(), &OsEntropy, |ring| after = Some(ring)).map(|()| after.unwrap())
        };
        let alone = revoke(false).unwrap_err().to_string();
        assert!(alone.contains("is the one that seals"), "{alone}");
        let ring = revoke(true).unwrap();
        assert_eq!((ring.keys().len(), ring.revoked()), (1, &[key][..]));
        let text = fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.matches("secret = ").count(), 1, "its secret is gone");
        let gone = revoke(true).unwrap_err().to_string();
        assert!(gone.contains(&format!("no key {key}")), "{gone}");
    }

    #[test]
    fn concurrent_rotations_are_all_kept() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| rotate(&KeyFile::new(file.path().to_owned())));
            }
        });
        assert_eq!(file.load().unwrap().keys().len(), 9);
    }

    #[test]
    fn locked_file_times_out() {
        let (directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        let other = File::open(directory.path()).unwrap();
        other.lock().unwrap();
        let change = KeyChange::Rotate { activate_in: Duration::ZERO };
        let refused = file.change(change, noon(), &OsEntropy, |_| panic!("nothing was changed")).unwrap_err();
        assert!(matches!(refused, KeyFileError::Locked(_)), "{refused}");
        assert!(refused.to_string().contains("lslocks"), "{refused}");
        assert!(reload(&file, true).unwrap().is_some(), "reading goes on");
        drop(other);
        assert_eq!(rotate(&file).keys().len(), 2, "who gave up holds no lock");
    }

    #[test]
    fn ring_becoming_readable_is_reported() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
        let error = reload(&file, false).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn bad_version_is_reported_once_unless_asked_for() {
        let (_directory, file) = key_file();
        file.load_or_create(noon(), &OsEntropy).unwrap();
        fs::write(file.path(), "version = 1\n").unwrap();
        assert!(reload(&file, false).unwrap_err().to_string().contains("no key"));
        assert!(reload(&file, false).unwrap().is_none());
        assert!(reload(&file, true).is_err());
        fs::remove_file(file.path()).unwrap();
        let gone = reload(&file, false).unwrap_err().to_string();
        assert!(gone.contains("cannot read"), "{gone}");
        assert!(reload(&file, false).unwrap().is_none());
    }

    #[test]
    fn invalid_key_file_is_refused() {
        let (directory, _) = key_file();
        let error = KeyFile::new(directory.path().to_owned()).load().unwrap_err();
        assert!(matches!(error, KeyFileError::NotAFile(_)), "{error}");
        let nowhere = KeyFile::new(directory.path().join("missing/key-ring.toml"));
        let error = nowhere.load_or_create(noon(), &SequenceEntropy::default()).unwrap_err().to_string();
        assert!(error.contains("missing/key-ring.toml"), "{error}");
    }
}
