//! Which files are secret: one list, for `serve` and for `doctor`.

use std::path::{Path, PathBuf};

use countersign_server::{CallersFile, ISSUER_AUTHORITIES, ISSUER_KEYS, SecretFile};

use crate::settings::Resolved;

/// What the key ring and the database are called among the secrets.
pub(crate) const KEY_RING: &str = "the key ring";
pub(crate) const DATABASE: &str = "the database";

/// And the callers file. Its hashes of random secrets reveal nothing, but write access to it decides who may call.
pub(crate) const CALLERS: &str = "the callers file";

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
        add(CALLERS, path, false);
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
    let callers = settings.callers_file.clone().and_then(|path| CallersFile::new(path).callers().ok());
    let jwts = callers.iter().flatten().filter_map(|caller| caller.jwt.as_ref());
    let mut files: Vec<SecretFile> = Vec::new();
    for file in jwts.flat_map(countersign_server::JwtRule::files) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
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
    let user = rustix::process::geteuid().as_raw();
    let files = secrets(settings).into_iter().chain(issuer_files(settings));
    for secret in files.filter(|secret| secret.what != KEY_RING) {
        if let Ok(Some(exposure)) = secret.exposure(user) {
            let remedy = exposure.remedy(&secret.path, false);
            let file = secret.path.display();
            // A new database would have forgotten which tokens were used.
            let then = match secret.what {
                DATABASE => "",
                CALLERS => "; if somebody else may have written to it, look at the callers in it",
                ISSUER_KEYS | ISSUER_AUTHORITIES => {
                    "; if somebody else may have written to it, get it again from the issuer"
                }
                _ => "; whoever may have read it knows it, so replace it",
            };
            tracing::warn!(%remedy, "{} {file} {exposure}{then}", secret.what);
        }
    }
}
