//! Replaces a secret file by rename, so that a crash at any moment leaves the old or the new file, complete.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{XattrFlags, fsetxattr};

use crate::secret::{ACL, access_list};

/// How long a change waits for another process that holds the lock.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Keeps other processes from changing files in the directory of this one until what this returns is dropped; `None` if
/// another process holds the lock for too long.
pub(crate) fn lock(path: &Path) -> io::Result<Option<File>> {
    let directory = File::open(directory(path))?;
    // The system has no lock that is waited for so long and no longer. The thread may stay behind; it lets go of a lock
    // that comes too late.
    let (locked, lock) = mpsc::sync_channel(0);
    std::thread::spawn(move || {
        let outcome = directory.lock().map(|()| directory);
        let _ = locked.send(outcome);
    });
    lock.recv_timeout(LOCK_PATIENCE).ok().transpose()
}

/// Writes a new file beside this one, with the access rights of the `old` one.
pub(crate) fn write_beside(path: &Path, content: &[u8], old: Option<&File>) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let beside = path.with_file_name(name);
    // A crashed process of the same id may have left such a file.
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    if let Some(old) = old {
        give_like(old, &file)?;
    }
    file.write_all(content)?;
    file.sync_all()?;
    Ok(beside)
}

/// Has a rename in the directory of this file last.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path)).and_then(|directory| directory.sync_all())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gives a new file of ours to whom an older one belongs: when root changes the ring of the server's user, that user has to
/// be able to read it afterwards, in the same way as before.
fn give_like(old: &File, new: &File) -> io::Result<()> {
    let (before, mine) = (old.metadata()?, new.metadata()?);
    if mine.uid() != before.uid() {
        fchown(new, Some(before.uid()), None)?;
    }
    let list = access_list(old)?;
    let lets_others_in = before.mode() & 0o077 != 0;
    // The server's own user already has access, and could not give a file to a group that it is not in.
    if lets_others_in && (mine.gid() == before.gid() || fchown(new, None, Some(before.gid())).is_ok()) {
        new.set_permissions(Permissions::from_mode(before.mode() & 0o660))?;
        if !list.is_empty() {
            fsetxattr(new, ACL, &list, XattrFlags::empty())?;
        }
    }
    Ok(())
}
