//! Who can read what is secret: one list of the files, and one rule, for `serve` and for `doctor`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::settings::Resolved;

/// A file that nobody but the server is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    rule: Rule,
}

/// How strict to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Its owner alone.
    Owner,
    /// Its owner, and, where root owns it, the group that root has chosen: so systemd hands over credentials (0440).
    OwnerOrChosenGroup,
    /// The same, and it may be missing: it is made later.
    MadeLater,
}

/// Every secret that the configuration names.
pub(crate) fn secrets(settings: &Resolved) -> Vec<Secret> {
    let mut secrets =
        vec![Secret { what: "the key ring", path: settings.key_ring.clone(), rule: Rule::Owner }];
    let mut add = |what, path: &Path, rule| secrets.push(Secret { what, path: path.to_owned(), rule });
    let named = Rule::OwnerOrChosenGroup;
    if let Some(path) = &settings.private_bearer_file {
        add("the bearer secret", path, named);
    }
    if let Some(path) = &settings.store.postgres.password_file {
        add("the database's password", path, named);
    }
    if let Some((_, path)) = &settings.alarms {
        add("the alarm secret", path, named);
    }
    for tls in [&settings.public.tls, &settings.private.tls].into_iter().flatten() {
        add("the TLS key", &tls.key, named);
    }
    if let Some(path) = settings.store.url.database(&settings.store.data_dir) {
        add("the database", &path, Rule::MadeLater);
    }
    secrets
}

impl Secret {
    /// Whether root may own it, and choose who else reads it.
    pub(crate) fn may_be_roots(&self) -> bool {
        self.rule != Rule::Owner
    }

    /// What is wrong with its mode. `Ok(None)`: nothing, or it is yet to be made.
    pub(crate) fn exposure(&self) -> io::Result<Option<String>> {
        match fs::metadata(&self.path) {
            Err(error) if self.rule == Rule::MadeLater && error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(metadata) => {
                let mode = metadata.mode() & 0o7777;
                let who = exposed(mode, metadata.uid(), self.rule);
                Ok(who.map(|who| {
                    format!("{} {} can be {who} (mode {mode:04o})", self.what, self.path.display())
                }))
            }
        }
    }
}

fn exposed(mode: u32, owner: u32, rule: Rule) -> Option<&'static str> {
    // Whoever hands a file over that nobody may write has thought of who reads it.
    let group_is_chosen = owner == 0 && mode & 0o222 == 0 && rule != Rule::Owner;
    if mode & 0o022 != 0 {
        Some("changed by other users")
    } else if mode & 0o007 != 0 || (mode & 0o070 != 0 && !group_is_chosen) {
        Some("read by other users")
    } else {
        None
    }
}

/// Says at the start which secrets others can read. The key ring is refused by itself.
pub(crate) fn warn(settings: &Resolved) {
    for secret in secrets(settings).iter().filter(|secret| secret.may_be_roots()) {
        if let Ok(Some(exposure)) = secret.exposure() {
            let remedy = format!("chmod 600 {}", secret.path.display());
            tracing::warn!(%remedy, "{exposure}; whoever may have read it knows it, so replace it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_and_a_group_that_root_chose_may_read() {
        let read = Some("read by other users");
        let changed = Some("changed by other users");
        for (mode, owner, strict, lenient) in [
            (0o600, 1000, None, None),
            (0o400, 0, None, None),
            (0o440, 0, read, None),
            (0o640, 0, read, read),
            (0o440, 1000, read, read),
            (0o640, 1000, read, read),
            (0o604, 0, read, read),
            (0o644, 1000, read, read),
            (0o660, 0, changed, changed),
            (0o602, 1000, changed, changed),
        ] {
            assert_eq!(exposed(mode, owner, Rule::Owner), strict, "{mode:o} of {owner}");
            assert_eq!(exposed(mode, owner, Rule::OwnerOrChosenGroup), lenient, "{mode:o} of {owner}");
        }
    }
}
