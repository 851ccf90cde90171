//! One server for one data directory, and for one database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::error::OpenError;

/// The lock's name, beside the database.
pub(super) const LOCK_FILE: &str = "countersign.lock";

/// The longest content of a lock file: no process id is longer.
const LONGEST: u64 = 16;

/// The right to write in a directory; given back when it is dropped, and by the system when the process dies.
///
/// The operating system's lock on the file decides. The process id in it is only for the sentence that the second
/// process prints, and a file that a dead process left behind is no obstacle.
///
/// The database has a lock of its own: a hard link, or a file that is mounted into two containers, has other directories,
/// and `SQLite` would write a log in each of them.
#[derive(Debug)]
pub(super) struct Lock {
    dir: File,
    database: Option<File>,
}

impl Drop for Lock {
    /// Gives the lock back by name. Closing the file would do, but for a child process that is just being started: until
    /// it has become another program, it has the file open, too.
    fn drop(&mut self) {
        // The files are closed in any case.
        let _ = self.dir.unlock();
        let _ = self.database.as_ref().map(File::unlock);
    }
}

impl Lock {
    /// Takes the lock on `dir`, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let files = |error| OpenError::Files { doing: "locked", path: path.clone(), error };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // A link would have another file written to.
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        }
        let mut file = options
            .open(&path)
            .map_err(|error| if path.is_symlink() { not_a_lock(&path) } else { files(error) })?;
        if !is_a_lock(&file).map_err(files)? {
            return Err(not_a_lock(&path));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(files(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(files)?;
        writeln!(file, "{}", std::process::id()).map_err(files)?;
        Ok(Self { dir: file, database: None })
    }

    /// Takes the lock on the database itself, too. It comes before the first connection: closing a file, as happens when
    /// this fails, gives up all of this process's other locks on it.
    ///
    /// It is no obstacle for programs that only read: `SQLite` does not look at locks of this kind.
    pub(super) fn take_database(&mut self, path: &Path) -> Result<(), OpenError> {
        let files = |error| OpenError::Files { doing: "locked", path: path.to_owned(), error };
        let file = File::open(path).map_err(files)?;
        match file.try_lock() {
            Ok(()) => self.database = Some(file),
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUseElsewhere(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(files(error)),
        }
        Ok(())
    }
}

/// Whether this is a file as this program leaves it, and no other name of another one.
fn is_a_lock(file: &File) -> std::io::Result<bool> {
    let metadata = file.metadata()?;
    #[cfg(unix)]
    let has_other_names = std::os::unix::fs::MetadataExt::nlink(&metadata) != 1;
    #[cfg(not(unix))]
    let has_other_names = false;
    Ok(metadata.is_file() && metadata.len() <= LONGEST && !has_other_names)
}

fn not_a_lock(path: &Path) -> OpenError {
    let error = std::io::Error::other(
        "it is a link, or not a lock; remove it, and nothing is written to what it leads to",
    );
    OpenError::Files { doing: "locked", path: path.to_owned(), error }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
