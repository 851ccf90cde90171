//! The database's files: made for their owner only, and known again by their identity.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The place that a path leads to, absolute: a symlink is followed here, once. `SQLite` follows it, too, and puts the log
/// beside the database itself; so everything else has to be there as well.
///
/// # Errors
///
/// If it is a symlink that leads nowhere, or cannot be followed.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(_) => fs::canonicalize(path),
        // `SQLite` would read a name that begins with `file:` as a URI; and the working directory may change.
        Err(_) => std::path::absolute(path),
    }
}

/// Makes `dir` and what is missing above it, for its owner only. One that exists is left as it is.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes an empty file for its owner only; it must not exist yet. `SQLite` gives its `-wal` and `-shm` files the same
/// mode.
pub(crate) fn make_file(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.sync_all()?;
    sync_dir(path)
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    // Elsewhere a directory cannot be opened as a file, and names are durable without.
    if cfg!(unix) { File::open(dir_of(path))?.sync_all() } else { Ok(()) }
}

/// The directory that `path` is in.
pub(super) fn dir_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// `path` with `suffix` behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// The write-ahead log of a database.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// The mark that a database has lost its log, from when that is seen until the fence has been moved.
pub(super) fn lost_log_mark(path: &Path) -> PathBuf {
    beside(path, "-log-lost")
}

/// Marks a database whose log is missing: answers that were given may have stood in it. A database that has ever been
/// opened has a log, if an empty one, because this store never removes it; and `SQLite` makes a new one in silence. So
/// this comes before every connection, and the mark stays until the fence is moved.
///
/// Returns whether the database is marked.
pub(super) fn mark_lost_log(path: &Path) -> io::Result<bool> {
    let mark = lost_log_mark(path);
    if mark.try_exists()? {
        return Ok(true);
    }
    // The header is read only where it matters: closing a file gives up all of this process's locks on it.
    if wal_of(path).try_exists()? || write_version(path)? != Some(WITH_LOG) {
        return Ok(false);
    }
    mark_lost_log_now(path).map(|()| true)
}

/// Marks a database whose log is known to be lost.
pub(super) fn mark_lost_log_now(path: &Path) -> io::Result<()> {
    make_file_if_missing(&lost_log_mark(path))
}

/// Makes an empty log for a database that has everything in itself, so that none is missed.
pub(super) fn ensure_log(path: &Path) -> io::Result<()> {
    make_file_if_missing(&wal_of(path))
}

fn make_file_if_missing(path: &Path) -> io::Result<()> {
    match make_file(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Takes the mark away, after the fence has been moved.
pub(super) fn unmark_lost_log(path: &Path) -> io::Result<()> {
    match fs::remove_file(lost_log_mark(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_dir(path),
    }
}

/// The header's "file format write version" (`SQLite` file format, section 1.3): without a log.
const WITHOUT_LOG: u8 = 1;
/// With one.
const WITH_LOG: u8 = 2;

fn write_version(path: &Path) -> io::Result<Option<u8>> {
    const WRITE_VERSION: usize = 18;
    let mut header = Vec::with_capacity(100);
    File::open(path)?.take(100).read_to_end(&mut header)?;
    Ok(header.get(WRITE_VERSION).copied())
}

/// Removes the write-ahead log of a database that was there before, if a backup was put in the database's place and the
/// log forgotten: `SQLite` would mix the two. A backup's header says that no log belongs to it.
///
/// Only for a database that no connection of this process has open: closing a file gives up all of `SQLite`'s locks on it.
pub(super) fn remove_stale_wal(path: &Path) -> io::Result<bool> {
    let wal = wal_of(path);
    if write_version(path)? != Some(WITHOUT_LOG) || !wal.exists() {
        return Ok(false);
    }
    fs::remove_file(wal)?;
    match fs::remove_file(beside(path, "-shm")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Which file a path leads to, so that it is noticed when it leads to another one or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    #[cfg(unix)]
    device: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Identity {
    /// Of the file at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Ok(Self { device: metadata.dev(), inode: metadata.ino() })
        }
        #[cfg(not(unix))]
        {
            drop(metadata);
            Ok(Self {})
        }
    }
}
