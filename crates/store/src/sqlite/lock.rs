//! One server for one data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::OpenError;

/// The lock's name, beside the database.
pub(super) const LOCK_FILE: &str = "countersign.lock";

/// The right to write in a directory; given back when it is dropped, and by the system when the process dies.
///
/// The operating system's lock on the file decides. The process id in it is only for the sentence that the second
/// process prints, and a file that a dead process left behind is no obstacle.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    /// Gives the lock back by name. Closing the file would do, but for a child process that is just being started: until
    /// it has become another program, it has the file open, too.
    fn drop(&mut self) {
        // The file is closed in any case.
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// Takes the lock on `dir`, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let files = |error| OpenError::Files { doing: "locked", path: path.clone(), error };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(files)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { dir: dir.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(files(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(files)?;
        writeln!(file, "{}", std::process::id()).map_err(files)?;
        Ok(Self(file))
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    // No process id is longer than this, whoever wrote the file.
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// How to call the process that has the lock.
pub(crate) fn process_name(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this very process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}
