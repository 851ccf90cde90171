//! Which files are secret: one list, for `serve` and for `doctor`.

use std::path::{Path, PathBuf};

use countersign_server::{CALLERS_FILE, CallersFile, DATABASE, SecretFile, caller_files, warn_of_exposure};

use crate::settings::Resolved;

/// What the key ring is called among the secrets.
pub(crate) const KEY_RING: &str = "the key ring";

/// Every secret that the configuration names.
pub(crate) fn secrets(settings: &Resolved) -> Vec<SecretFile> {
    let mut secrets = Vec::new();
    let mut add = |what, path: &Path, is_made_later| {
        secrets.push(SecretFile { what, path: path.to_owned(), is_made_later, is_public: false });
    };
    add(KEY_RING, &settings.key_ring, false);
    if let Some(path) = &settings.private_bearer_file {
        add("the bearer secret", path, false);
    }
    if let Some(path) = &settings.callers_file {
        add(CALLERS_FILE, path, false);
    }
    if let Some(path) = &settings.store.postgres.password_file {
        add("the database's password", path, false);
    }
    if let Some((_, path)) = &settings.alarms {
        add("the alarm secret", path, false);
    }
    for tls in [&settings.public.tls, &settings.private.tls].into_iter().flatten() {
        add("the TLS key", &tls.key, false);
    }
    if let Some(path) = settings.store.url.database(&settings.store.data_dir) {
        add(DATABASE, &path, true);
    }
    secrets
}

/// The files that the callers file names, as it is now.
pub(crate) fn issuer_files(settings: &Resolved) -> Vec<SecretFile> {
    let Some(path) = &settings.callers_file else { return Vec::new() };
    let callers = CallersFile::new(path.clone()).callers().unwrap_or_default();
    caller_files(path, &callers).into_iter().filter(|file| file.what != CALLERS_FILE).collect()
}

/// The directories that the store and the keys are in, with what they are.
pub(crate) fn directories(settings: &Resolved) -> Vec<(&'static str, PathBuf)> {
    let mut directories = vec![("the data directory", settings.data_dir.clone())];
    let database = settings.store.url.database(&settings.store.data_dir);
    if let Some(place) = database.as_deref().and_then(Path::parent)
        && !is_same(place, &settings.data_dir)
    {
        directories.push(("the database's directory", place.to_owned()));
    }
    directories
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    real(one).is_some() && real(one) == real(other)
}

/// Says at the start which secrets others can read. The key ring is refused by itself.
pub(crate) fn warn(settings: &Resolved) {
    let mut files = secrets(settings);
    files.retain(|secret| secret.what != KEY_RING);
    files.extend(issuer_files(settings));
    warn_of_exposure(&files);
}
