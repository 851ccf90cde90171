//! Turns database errors into sentences that say what the operator can do.

use std::path::Path;

use countersign_core::Unusable;
use rusqlite::{Error, ErrorCode};

use crate::error::OpenError;

/// A sentence about a failed write or read: the cause, and the remedy.
pub(crate) fn sentence(path: &Path, error: &Error) -> String {
    let file = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("the disk that holds {file} is full; make room, and it goes on by itself")
        }
        Some(ErrorCode::ReadOnly) => format!(
            "{file} cannot be written ({error}); make the file system, the file and its directory writable for this \
             user, and it goes on by itself"
        ),
        Some(ErrorCode::SystemIoFailure) => format!(
            "reading or writing {file} failed ({error}); check the disk and its limits, and it goes on by itself"
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => format!(
            "{file} cannot be opened ({error}); check that it and its directory are there and belong to this user"
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program keeps {file} locked; close it, and it goes on by itself")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => format!(
            "{file} is damaged ({error}); stop the server and put a backup in its place, or move it away together \
             with its -wal and -shm files"
        ),
        _ => format!("{file} does not work as it should: {error}"),
    }
}

/// The same, with its cause.
pub(crate) fn unusable(path: &Path, error: Error) -> Unusable {
    Unusable::because(sentence(path, &error), error)
}

/// The same for a store that is being opened.
pub(super) fn while_opening(path: &Path, error: &Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            OpenError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        _ => OpenError::Unusable(sentence(path, error)),
    }
}
