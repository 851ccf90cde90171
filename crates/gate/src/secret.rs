//! The secret that signs the session cookies: made once, and shared by all gates on one data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cookie::Key;
use countersign_core::Entropy;
use countersign_server::{Exposure, exposure_of_open};
use countersign_tls::small_file;
use data_encoding::HEXLOWER_PERMISSIVE;
use zeroize::Zeroizing;

/// How many random bytes it has.
const BYTES: usize = 64;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// A file cannot be used.
    #[error("cannot use {path}: {error}; let this user read and write the directory, or set another data_dir", path = .path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file does not hold a secret.
    #[error(
        "{path} does not hold {BYTES} bytes in hexadecimal; remove it, and the gate makes a new one, which ends all sessions",
        path = .0.display()
    )]
    Malformed(PathBuf),
    /// Others can read it, and so be anybody.
    #[error("{path} {found}, who could open sessions by it: {remedy}, and remove the file, so that a new one is made", path = .path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// By whom.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// Others can read the sessions, or change them.
    #[error("{path} {found}: {remedy}{then}", path = .path.display())]
    ExposedSessions {
        /// Which.
        path: PathBuf,
        /// By whom.
        found: String,
        /// What to do.
        remedy: String,
        /// And what about the sessions.
        then: &'static str,
    },
    /// Others can put files of theirs in the place of the gate's.
    #[error("data_dir {path} {found}, who could put files of theirs in the place of the gate's: {remedy}", path = .path.display())]
    OpenDirectory {
        /// Which.
        path: PathBuf,
        /// By whom.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The directory is on another machine.
    #[error(
        "data_dir {path} is on a network file system ({kind}), where gates of several machines would not see each other's changes, \
         so that a session that was ended could go on: set data_dir to a directory of this machine; docs/gate.md, \"Two machines\", says how \
         several machines have a gate", path = .path.display()
    )]
    NetworkFileSystem {
        /// Which.
        path: PathBuf,
        /// Its name.
        kind: &'static str,
    },
    /// No gate has made it.
    #[error("there is no {path}: no gate has begun to use this data_dir; start one, or name the configuration of the one that \
             runs with --config", path = .0.display())]
    Missing(PathBuf),
    /// There was no randomness to make it of.
    #[error(transparent)]
    NoRandomness(#[from] countersign_core::EntropyError),
}

/// Makes the directory for its owner only. In one that is there already, others may look, but not put files in the place of the
/// gate's.
pub(crate) fn make_directory(path: &Path) -> Result<(), SecretError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(files(path))?;
    check_file_system(path)?;
    let directory = File::open(path).map_err(files(path))?;
    match exposure(path, &directory)?.filter(Exposure::may_write) {
        None => Ok(()),
        Some(exposure) => Err(SecretError::OpenDirectory {
            path: path.to_owned(),
            found: exposure.to_string(),
            remedy: exposure.remedy(path, true),
        }),
    }
}

/// Fails if the directory, should it be there, is on a network file system. `SQLite` lets several processes write to one file by
/// memory that they share, which those of two machines do not. Where it cannot be looked at, opening it says so.
pub(crate) fn check_file_system(path: &Path) -> Result<(), SecretError> {
    match kind_of_file_system(path).and_then(network_file_system) {
        None => Ok(()),
        Some(kind) => Err(SecretError::NetworkFileSystem { path: path.to_owned(), kind }),
    }
}

#[cfg(target_os = "linux")]
fn kind_of_file_system(path: &Path) -> Option<u64> {
    u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()
}

/// Elsewhere the numbers are others.
#[cfg(not(target_os = "linux"))]
fn kind_of_file_system(_: &Path) -> Option<u64> {
    None
}

/// Which network file system this is, by its number in `statfs(2)`; `None` for one of this machine, and for what cannot be told,
/// such as one of FUSE.
fn network_file_system(number: u64) -> Option<&'static str> {
    Some(match number {
        0x6969 => "NFS",
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => "SMB",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        _ => return None,
    })
}

/// Makes the empty file of the sessions for its owner only, unless there is one. Others must not be able to change it.
pub(crate) fn make_sessions_file(path: &Path) -> Result<(), SecretError> {
    let made = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    check_sessions_exposure(path, &made.map_err(files(path))?)
}

/// The same of a file that must be there.
pub(crate) fn check_sessions_file(path: &Path) -> Result<(), SecretError> {
    match small_file::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SecretError::Missing(path.to_owned())),
        opened => check_sessions_exposure(path, &opened.map_err(files(path))?),
    }
}

/// Reads the secret, or makes it.
pub(crate) fn read_or_make(path: &Path, entropy: &dyn Entropy) -> Result<Key, SecretError> {
    if !path.exists() {
        make(path, entropy)?;
    }
    let file = small_file::open(path).map_err(files(path))?;
    check_exposure(path, &file)?;
    let text = small_file::read_open(&file, small_file::MAX_SECRET_BYTES);
    let text = text.and_then(|bytes| small_file::text(&bytes)).map_err(files(path))?;
    let bytes = HEXLOWER_PERMISSIVE.decode(text.trim().as_bytes()).map(Zeroizing::new).ok();
    let bytes = bytes.filter(|bytes| bytes.len() == BYTES);
    let bytes = bytes.ok_or_else(|| SecretError::Malformed(path.to_owned()))?;
    Ok(Key::from(&bytes))
}

/// Two gates may start at once: whichever comes second uses what the first has made.
fn make(path: &Path, entropy: &dyn Entropy) -> Result<(), SecretError> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    entropy.fill(bytes.as_mut_slice())?;
    let text = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(bytes.as_slice()) + "\n");
    let draft = path.with_extension(format!("new.{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    // A process of the same number may have been killed at this very moment.
    let _ = fs::remove_file(&draft);
    let made = write();
    let _ = fs::remove_file(&draft);
    made.map_err(files(path))
}

fn check_exposure(path: &Path, file: &File) -> Result<(), SecretError> {
    match exposure(path, file)? {
        None => Ok(()),
        Some(exposure) => Err(SecretError::Exposed {
            path: path.to_owned(),
            found: exposure.to_string(),
            remedy: exposure.remedy(path, false),
        }),
    }
}

/// A hash opens no session. But write access is enough to revive a session that was ended, or to remove events.
fn check_sessions_exposure(path: &Path, file: &File) -> Result<(), SecretError> {
    match exposure(path, file)? {
        None => Ok(()),
        Some(exposure) => Err(SecretError::ExposedSessions {
            path: path.to_owned(),
            found: exposure.to_string(),
            remedy: exposure.remedy(path, false),
            then: if exposure.may_write() { WRITTEN_SESSIONS } else { "" },
        }),
    }
}

/// What to do where others could write to the file of the sessions.
pub const WRITTEN_SESSIONS: &str =
    "; if somebody else may have written to it, end all sessions: `countersign gate sessions end --all`";

fn exposure(path: &Path, file: &File) -> Result<Option<Exposure>, SecretError> {
    file.metadata().and_then(|metadata| exposure_of_open(file, &metadata)).map_err(files(path))
}

fn files(path: &Path) -> impl Fn(io::Error) -> SecretError {
    move |error| SecretError::Files { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use countersign_core::SequenceEntropy;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn secret_is_created_once_and_private() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("secret");
        let entropy = SequenceEntropy::default();
        let first = read_or_make(&path, &entropy).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no draft is left");
        let again = read_or_make(&path, &entropy).unwrap();
        assert_eq!(first.master(), again.master());
        make(&path, &entropy).unwrap();
        assert_eq!(first.master(), read_or_make(&path, &entropy).unwrap().master(), "the first one stays");
    }

    #[test]
    fn directory_that_others_can_write_to_is_rejected() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("data");
        make_directory(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for (mode, is_good) in [(0o755, true), (0o777, false), (0o1777, false), (0o700, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let made = make_directory(&path);
            assert_eq!(made.is_ok(), is_good, "{mode:o}");
            if let Err(error) = made {
                assert!(error.to_string().contains("can be changed by other users"), "{error}");
                assert!(error.to_string().contains("chmod o-rwx"), "{error}");
            }
        }
    }

    #[test]
    fn sessions_that_others_can_use_are_rejected() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("gate-sessions.db");
        make_sessions_file(&path).unwrap();
        check_sessions_file(&path).unwrap();
        for (mode, done, ends_all) in [(0o604, "read", false), (0o606, "changed", true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for error in [make_sessions_file(&path).unwrap_err(), check_sessions_file(&path).unwrap_err()] {
                let error = error.to_string();
                assert!(error.contains(&format!("can be {done} by other users")), "{error}");
                assert!(error.contains("chmod 600") && !error.contains("remove"), "{error}");
                assert_eq!(error.contains("sessions end --all"), ends_all, "{error}");
            }
        }
    }

    #[test]
    fn network_file_system_is_told_from_a_local_one() {
        let directory = TempDir::new().unwrap();
        check_file_system(directory.path()).unwrap();
        check_file_system(&directory.path().join("missing")).unwrap();
        // What `stat --file-system --format=%t` prints: ext, btrfs, xfs, tmpfs, overlay.
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(network_file_system(local), None, "{local:x}");
        }
        assert_eq!(network_file_system(0x6969), Some("NFS"));
    }

    #[test]
    fn secret_that_others_can_read_is_rejected() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("secret");
        read_or_make(&path, &SequenceEntropy::default()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_or_make(&path, &SequenceEntropy::default()).unwrap_err().to_string();
        assert!(error.contains("can be read by other users (mode 0644)"), "{error}");
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "00", "hunter2hunter2", &"0".repeat(127), &"0".repeat(130)] {
            fs::write(&path, text).unwrap();
            let error = read_or_make(&path, &SequenceEntropy::default()).unwrap_err();
            assert!(matches!(error, SecretError::Malformed(_)), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
