//! Detects that a file has changed since it was read.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    inode: u64,
    /// A file that others may read from now on is not what it was.
    mode: u32,
    length: u64,
    modified: (i64, i64),
    /// When its owner, mode or name changed last: a file that could not be read may be readable now.
    changed: (i64, i64),
}

impl FileVersion {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            mode: metadata.mode(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The version that stands at a path now; `None` if nothing does.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn changed_mode_counts_as_changed_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let repair = || fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
        repair();
        let before = FileVersion::at(file.path());
        // Mode and content are the same again; only the time of the change tells. Its clock ticks every few milliseconds.
        while FileVersion::at(file.path()) == before {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
            repair();
        }
    }
}
