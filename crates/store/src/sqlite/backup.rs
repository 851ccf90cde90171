//! A copy of a store that is in use.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::files::{beside, make_file, sync_dir};
use super::schema::{Access, check, connect};
use super::{connect_to_read, fault};
use crate::error::BackupError;

/// Copies the store at `path` into the new file `to`, mode 0600: one consistent state, on disk when this returns. Works
/// also while a server, this process or another, is using the store. Takes about five seconds for each gigabyte.
///
/// The copy is marked: the first server that opens it moves its fence to that moment. See [Backups](super#backups).
pub fn backup(path: &Path, to: &Path) -> Result<(), BackupError> {
    let source = connect_to_read(path)?;
    let to = &*std::path::absolute(to).map_err(|error| BackupError::Files { path: to.to_owned(), error })?;
    // Until the copy is complete and marked, there is only an empty file under its name, which no one can mistake for
    // a store with records.
    match make_file(to) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(BackupError::Exists(to.to_owned()));
        }
        Err(error) => return Err(BackupError::Files { path: to.to_owned(), error }),
    }
    let part = beside(to, ".part");
    let copied = copy(&source, &part, to);
    if copied.is_err() {
        // A file that cannot be removed is left for the operator; the error names it.
        let _ = fs::remove_file(&part);
        let _ = fs::remove_file(to);
    }
    copied
}

fn copy(source: &rusqlite::Connection, part: &Path, to: &Path) -> Result<(), BackupError> {
    let files = |error| BackupError::Files { path: part.to_owned(), error };
    let failed = |error: rusqlite::Error| BackupError::Copy(fault::sentence(part, &error));
    let name = part.to_str().ok_or_else(|| BackupError::Name(part.to_owned()))?;
    // Left by a backup that was cut short.
    match fs::remove_file(part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(files(error)),
        _ => {}
    }
    make_file(part).map_err(files)?;
    source.execute("VACUUM INTO ?", (name,)).map_err(failed)?;
    let copy = connect(part, Access::Write).map_err(failed)?;
    copy.execute("UPDATE store SET is_backup = 1", ()).map_err(failed)?;
    check(&copy, part)?;
    copy.close().map_err(|(_, error)| failed(error))?;
    File::open(part).and_then(|file| file.sync_all()).map_err(files)?;
    fs::rename(part, to).map_err(files)?;
    sync_dir(to).map_err(files)
}
