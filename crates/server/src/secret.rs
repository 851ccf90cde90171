//! Checks who can read a secret file: one rule for every secret and for its directory.
//!
//! A file's mode alone does not tell. Kubernetes and systemd hand secrets over as files of root that a group or one user
//! may read, and a volume with an `fsGroup` gives its files to a group that only this process is in. So the rule looks at
//! the owner, the group, everybody else, and the access control list.
//!
//! - Users other than the owner and those named have no access.
//! - The owner is the server's user, or root.
//! - A group or a user that root has named may read a file of root's, but not write it. PostgreSQL takes such keys, too.
//! - A group may use a file of the server's user if it has no other members: the user's own group of the same name, or a
//!   group that has no name on this machine and that this process is in, as an `fsGroup` is.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgroups};
use rustix::fs::{StatVfs, StatVfsMountFlags, fgetxattr, getxattr};
use rustix::io::Errno;

use crate::callers::{CALLERS_FILE, ISSUER_AUTHORITIES, ISSUER_KEYS};

/// Where Linux keeps a POSIX access control list (`acl(5)`).
pub(crate) const ACL: &str = "system.posix_acl_access";

/// No list is longer: the kernel takes 8 bytes an entry, and file systems far fewer entries than this.
pub(crate) const MAX_ACL_BYTES: usize = 64 * 1024;

/// The accounts of this machine.
const ACCOUNTS: &str = "/etc/passwd";

/// A file that only the server may use or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    /// What it holds.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it may be missing, because the server creates it, or because another check reports it.
    pub is_made_later: bool,
    /// Whether others may read it, and only not write it.
    pub is_public: bool,
}

impl SecretFile {
    /// Who else than root and `user`, whom the server runs as, has access to it.
    ///
    /// # Errors
    ///
    /// If it cannot be looked at.
    pub fn exposure(&self, user: u32) -> io::Result<Option<Exposure>> {
        match exposure_of(&self.path, user) {
            Err(error) if self.is_made_later && error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(found?.filter(|exposure| exposure.may_write || !self.is_public)),
        }
    }

    /// Advice about a possible theft meanwhile; continues the sentence that reports the mode.
    fn after_exposure(&self) -> &'static str {
        match self.what {
            // A new database would have forgotten which tokens were used.
            DATABASE => "",
            CALLERS_FILE => "; if somebody else may have written to it, look at the callers in it",
            ISSUER_KEYS | ISSUER_AUTHORITIES => {
                "; if somebody else may have written to it, get it again from the issuer"
            }
            _ => "; whoever may have read it knows it, so replace it",
        }
    }
}

/// The name of the database among the secrets.
pub const DATABASE: &str = "the database";

/// Logs who else than this process's user has access to secrets, for each one that somebody has, and what to do.
pub fn warn_of_exposure(files: &[SecretFile]) {
    let user = geteuid().as_raw();
    for file in files {
        if let Ok(Some(exposure)) = file.exposure(user) {
            let remedy = exposure.remedy(&file.path, false);
            let then = file.after_exposure();
            tracing::warn!(%remedy, "{} {} {exposure}{then}", file.what, file.path.display());
        }
    }
}

/// That others than the server have access to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    mode: u32,
    /// Who has, and may write as well.
    who: ExposedTo,
    may_write: bool,
    /// Whose it is.
    owner: u32,
    /// Whom the server runs as.
    user: u32,
    /// Whether the file system does not allow a change of the mode.
    is_read_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExposedTo {
    /// The owner is neither the server's user nor root.
    Owner,
    User(u32),
    Group(u32),
    Everybody,
}

impl Exposure {
    /// Whether others may write.
    pub fn may_write(&self) -> bool {
        self.may_write
    }

    /// What to do about the file or directory at this place.
    pub fn remedy(&self, path: &Path, is_directory: bool) -> String {
        let shown = path.display();
        let mode = if is_directory { 700 } else { 600 };
        if self.is_read_only {
            return "its file system is read-only, so set the mode where the file comes from: for a Kubernetes Secret, \
                    defaultMode: 0440 together with an fsGroup"
                .to_owned();
        }
        let (owner, user) = (self.owner, self.user);
        if is_directory && self.who == ExposedTo::Everybody {
            // A group may be there on purpose, and the server get in by it, as by an fsGroup.
            return format!("run `chmod o-rwx {shown}`");
        }
        if owner == 0 && user == 0 {
            return format!(
                "run `chmod {mode} {shown}`; if the server runs as another user than root, `chown USER {shown}` comes first"
            );
        }
        if owner == user || user == 0 {
            return format!("run `chmod {mode} {shown}`");
        }
        // The mode alone would lock the server out.
        format!("give it to the server's user alone: `chown {user} {shown}`, then `chmod {mode} {shown}`")
    }
}

impl fmt::Display for Exposure {
    /// Goes on from the name of what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.may_write { "changed" } else { "read" };
        match self.who {
            ExposedTo::Everybody => write!(f, "can be {done} by other users (mode {:04o})", self.mode),
            ExposedTo::Group(group) => {
                write!(f, "can be {done} by the group {} (mode {:04o})", name_of_group(group), self.mode)
            }
            ExposedTo::User(user) => {
                write!(f, "can be {done} by the user {}, as its access control list says", name_of_user(user))
            }
            ExposedTo::Owner => {
                write!(f, "belongs to the user {}, who is not the server's", name_of_user(self.owner))
            }
        }
    }
}

/// The users other than root and `user` (the server's) that have access to this path; links are followed.
///
/// # Errors
///
/// If it cannot be looked at.
pub fn exposure_of(path: &Path, user: u32) -> io::Result<Option<Exposure>> {
    let metadata = fs::metadata(path)?;
    let list = read_list(|list| getxattr(path, ACL, list))?;
    Ok(judge(FileMode::of(&metadata), &list, is_read_only(rustix::fs::statvfs(path)), user))
}

/// The same of an open file that this process has a secret from: what is judged is what is read.
///
/// # Errors
///
/// If it cannot be looked at.
pub fn exposure_of_open(file: &File, metadata: &Metadata) -> io::Result<Option<Exposure>> {
    let is_read_only = is_read_only(rustix::fs::fstatvfs(file));
    Ok(judge(FileMode::of(metadata), &access_list(file)?, is_read_only, geteuid().as_raw()))
}

/// The access control list of an open file, as the kernel has it; empty if there is none.
pub(crate) fn access_list(file: &File) -> io::Result<Vec<u8>> {
    read_list(|list| fgetxattr(file, ACL, list))
}

/// A file without a list, or on a file system that knows none, has an empty one.
fn read_list(read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut list = vec![0; MAX_ACL_BYTES];
    let length = match read(&mut list) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    list.truncate(length);
    Ok(list)
}

fn is_read_only(system: rustix::io::Result<StatVfs>) -> bool {
    system.is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// What decides.
#[derive(Clone, Copy)]
struct FileMode {
    mode: u32,
    owner: u32,
    group: u32,
}

impl FileMode {
    fn of(metadata: &Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: metadata.uid(), group: metadata.gid() }
    }
}

/// Access that a file grants to others than its owner.
struct AccessGrant {
    who: ExposedTo,
    bits: u32,
}

/// The bit of a mode.
const WRITE: u32 = 2;

fn judge(facts: FileMode, list: &[u8], is_read_only: bool, user: u32) -> Option<Exposure> {
    let FileMode { mode, owner, group } = facts;
    let found = |who, may_write| Some(Exposure { mode, who, may_write, owner, user, is_read_only });
    let openings = openings(mode, group, list);
    let by_others =
        || openings.iter().filter(|opening| opening.bits != 0 && !is_let_in(opening, owner, user));
    // Write access is the worst exposure.
    if let Some(worst) = by_others().find(|opening| opening.bits & WRITE != 0).or_else(|| by_others().next())
    {
        return found(worst.who, worst.bits & WRITE != 0);
    }
    // Root may look after anybody's files; for others only a file that lets more in than its owner can be read at all.
    let is_foreign = user != 0 && owner != 0 && owner != user;
    if is_foreign && openings.iter().any(|opening| opening.bits != 0) {
        return found(ExposedTo::Owner, true);
    }
    None
}

/// Whether that access is meant to be.
fn is_let_in(opening: &AccessGrant, owner: u32, user: u32) -> bool {
    let is_chosen_by_root = owner == 0 && opening.bits & WRITE == 0;
    match opening.who {
        ExposedTo::Everybody => false,
        ExposedTo::Owner => true,
        ExposedTo::User(named) => named == 0 || named == owner || named == user || is_chosen_by_root,
        ExposedTo::Group(group) => is_chosen_by_root || is_of_one(group, owner, user),
    }
}

/// The access of the group, of others, and of the users and groups in the access control list (`acl(5)`): with a list, the
/// group's bits of the mode are the most that anybody gets whom the list names.
fn openings(mode: u32, group: u32, list: &[u8]) -> Vec<AccessGrant> {
    const USER: u16 = 0x02;
    const GROUP_OBJECT: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const HEAD: usize = 4;
    const ENTRY: usize = 8;
    let mask = mode >> 3 & 0o7;
    let mut openings = vec![AccessGrant { who: ExposedTo::Everybody, bits: mode & 0o7 }];
    if list.len() < HEAD {
        openings.push(AccessGrant { who: ExposedTo::Group(group), bits: mask });
        return openings;
    }
    for entry in list.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY) {
        let (Some((tag, rest)), Some((_, id))) = (entry.split_first_chunk(), entry.split_last_chunk()) else {
            continue;
        };
        let bits = rest.first_chunk().map_or(0, |bits| u32::from(u16::from_le_bytes(*bits))) & mask;
        let id = u32::from_le_bytes(*id);
        let who = match u16::from_le_bytes(*tag) {
            USER => ExposedTo::User(id),
            GROUP => ExposedTo::Group(id),
            GROUP_OBJECT => ExposedTo::Group(group),
            // The owner, the mask, and everybody else, whose bits are the mode's.
            _ => continue,
        };
        openings.push(AccessGrant { who, bits });
    }
    openings
}

/// Whether the owner of a file is the only member of this group.
fn is_of_one(group: u32, owner: u32, user: u32) -> bool {
    match group_of(group) {
        Ok(Some(named)) => {
            let Ok(Some(owner_is)) = User::from_uid(Uid::from_raw(owner)) else { return false };
            named.name == owner_is.name
                && named.mem.iter().all(|member| *member == owner_is.name)
                && !is_main_group_of_others(group, owner)
        }
        // A process gets into a group without a name only when root puts it there. Of another process it cannot be told.
        Ok(None) => geteuid().is_root() || geteuid().as_raw() != user || is_mine(group),
        Err(_) => false,
    }
}

/// The group of this number. A machine without a list of groups says so with one of these errors (`getgrgid(3)`), as an image
/// does that holds one program.
fn group_of(number: u32) -> nix::Result<Option<Group>> {
    match Group::from_gid(Gid::from_raw(number)) {
        Err(nix::Error::ENOENT | nix::Error::ESRCH | nix::Error::EBADF | nix::Error::EPERM) => Ok(None),
        found => found,
    }
}

fn is_mine(group: u32) -> bool {
    let group = Gid::from_raw(group);
    getegid() == group || getgroups().is_ok_and(|groups| groups.contains(&group))
}

/// Whether a group is the main one of another account of this machine: it is not listed as a member then.
fn is_main_group_of_others(group: u32, owner: u32) -> bool {
    let accounts = fs::read_to_string(ACCOUNTS).unwrap_or_default();
    accounts.lines().any(|line| {
        let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
        matches!((fields.next(), fields.next()), (Some(Ok(user)), Some(Ok(main))) if main == group && user != owner)
    })
}

fn name_of_group(group: u32) -> String {
    let named = group_of(group).ok().flatten();
    named.map_or_else(|| group.to_string(), |group| group.name)
}

fn name_of_user(user: u32) -> String {
    let named = User::from_uid(Uid::from_raw(user)).ok().flatten();
    named.map_or_else(|| user.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accounts that every Linux has: number 1 with a group of its own, and a group 100 of other people. Nobody has the
    /// last number.
    const SERVER: u32 = 1;
    const PEOPLE: u32 = 100;
    const UNNAMED: u32 = 54321;

    fn found(mode: u32, owner: u32, group: u32) -> Option<String> {
        let facts = FileMode { mode, owner, group };
        judge(facts, &[], false, SERVER).map(|exposure| exposure.to_string())
    }

    #[test]
    fn secret_is_judged_by_who_can_read_it() {
        for (mode, owner, group) in [
            (0o600, SERVER, PEOPLE),
            (0o400, SERVER, PEOPLE),
            // The user's own group, and an fsGroup.
            (0o660, SERVER, SERVER),
            (0o660, SERVER, UNNAMED),
            (0o440, SERVER, UNNAMED),
            // Root has chosen who reads: a Kubernetes Secret, a credential of systemd's, Debian's ssl-cert.
            (0o440, 0, UNNAMED),
            (0o640, 0, PEOPLE),
            (0o400, 0, 0),
        ] {
            assert_eq!(found(mode, owner, group), None, "{mode:o} of {owner}:{group}");
        }
        for (mode, owner, group, says) in [
            (0o644, SERVER, SERVER, "can be read by other users (mode 0644)"),
            (0o604, 0, 0, "can be read by other users (mode 0604)"),
            (0o444, 0, UNNAMED, "can be read by other users (mode 0444)"),
            (0o601, SERVER, SERVER, "can be read by other users (mode 0601)"),
            (0o666, SERVER, UNNAMED, "can be changed by other users (mode 0666)"),
            (0o640, SERVER, PEOPLE, "can be read by the group users (mode 0640)"),
            (0o660, SERVER, PEOPLE, "can be changed by the group users (mode 0660)"),
            (0o662, SERVER, PEOPLE, "can be changed by other users (mode 0662)"),
            (0o660, 0, PEOPLE, "can be changed by the group users (mode 0660)"),
            (0o640, UNNAMED, UNNAMED, "belongs to the user 54321, who is not the server's"),
        ] {
            assert_eq!(found(mode, owner, group).as_deref(), Some(says), "{mode:o} of {owner}:{group}");
        }
    }

    /// Lists as the kernel has them: version 2, then tag, bits and number of each entry.
    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, bits, id) in entries {
            list.extend([tag.to_le_bytes(), bits.to_le_bytes()].concat());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn access_control_list_is_read() {
        const NOBODY: u32 = u32::MAX;
        let found = |mode, owner, named: (u16, u16, u32)| {
            let list = list(&[(1, 6, NOBODY), named, (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]);
            let facts = FileMode { mode, owner, group: PEOPLE };
            judge(facts, &list, false, SERVER).map(|exposure| exposure.to_string())
        };
        // As systemd does it: root's file, which one user may read. The mode shows the mask as the group's.
        assert_eq!(found(0o440, 0, (2, 4, SERVER)), None);
        assert_eq!(found(0o640, SERVER, (2, 4, SERVER)), None);
        assert_eq!(found(0o600, SERVER, (2, 4, UNNAMED)), None, "the mask keeps it out");
        let user = found(0o640, SERVER, (2, 6, UNNAMED));
        assert_eq!(user.as_deref(), Some("can be read by the user 54321, as its access control list says"));
        let group = found(0o660, SERVER, (8, 6, PEOPLE));
        assert_eq!(group.as_deref(), Some("can be changed by the group users (mode 0660)"));
        let root = found(0o660, 0, (2, 6, UNNAMED));
        assert_eq!(
            root.as_deref(),
            Some("can be changed by the user 54321, as its access control list says")
        );
    }

    #[test]
    fn remedy_keeps_the_servers_access() {
        let remedy = |owner, user, is_read_only| {
            let facts = FileMode { mode: 0o644, owner, group: PEOPLE };
            judge(facts, &[], is_read_only, user).unwrap().remedy(Path::new("ring"), false)
        };
        assert_eq!(remedy(SERVER, SERVER, false), "run `chmod 600 ring`");
        assert_eq!(remedy(SERVER, 0, false), "run `chmod 600 ring`");
        assert!(remedy(0, SERVER, false).contains("`chown 1 ring`, then `chmod 600 ring`"));
        assert!(remedy(0, 0, false).contains("as another user than root, `chown USER ring` comes first"));
        assert!(remedy(0, SERVER, true).contains("defaultMode: 0440 together with an fsGroup"));
    }
}
