//! The bearer secret of the private API.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use countersign_tls::small_file;
use data_encoding::BASE64;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::file_version::FileVersion;

/// How many characters a secret has at least: as many as make it hopeless to guess if they are random.
pub const MIN_SECRET_CHARS: usize = 20;

/// How many different characters it has at least. Random ones have more, also if they are hexadecimal digits.
const MIN_DIFFERENT_CHARS: usize = 8;

/// A secret that callers of the private API show as `Authorization: Bearer …`. Its `Debug` says nothing.
pub struct Bearer {
    secret: RwLock<Zeroizing<String>>,
    /// Where it is read again when that changes, and what was there when it was read last.
    file: Option<(PathBuf, Mutex<Option<FileVersion>>)>,
}

/// A secret that can be guessed, or that no header can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must hold one line of at least {MIN_SECRET_CHARS} visible ASCII characters that nobody can guess; \
     `openssl rand -hex 32` makes one"
)]
pub struct WeakSecret;

impl Bearer {
    /// Takes the secret.
    pub fn new(secret: Zeroizing<String>) -> Result<Self, WeakSecret> {
        check(&secret)?;
        Ok(Self { secret: RwLock::new(secret), file: None })
    }

    /// The same, read again from this file when it has changed.
    #[must_use]
    pub fn kept_in(mut self, path: &Path) -> Self {
        // The file may have changed since it was read.
        self.file = Some((path.to_owned(), Mutex::new(None)));
        self
    }

    /// Rereads the file if it has changed, or `anyway`; returns whether the secret has changed. An unusable file changes
    /// nothing, and is reported once, or each time with `anyway`.
    pub(crate) fn reload_if_changed(&self, anyway: bool) -> Result<bool, String> {
        let Some((path, seen)) = &self.file else { return Ok(false) };
        let found = FileVersion::at(path);
        let seen = std::mem::replace(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner), found);
        if seen == found && !anyway {
            return Ok(false);
        }
        let secret = read(path).map_err(|error| format!("the bearer file {} {error}", path.display()))?;
        let mut current = self.secret.write().unwrap_or_else(PoisonError::into_inner);
        let is_another = *current != secret;
        *current = secret;
        Ok(is_another)
    }

    /// Why the secret in this file is unusable now, if this bearer is kept in it; the text continues from the
    /// file's name.
    pub(crate) fn trouble_of(&self, path: &Path) -> Option<String> {
        self.file.as_ref().filter(|(kept_in, _)| kept_in == path)?;
        read(path).err()
    }

    /// Whether this is the secret, in constant time.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        let secret = self.secret.read().unwrap_or_else(PoisonError::into_inner);
        bool::from(shown.ct_eq(secret.as_bytes()))
    }
}

/// The secret in the value of an `Authorization` header (RFC 6750 section 2.1).
pub(crate) fn shown_by_program(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, credentials) = authorization.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| credentials.trim_ascii())
}

/// The same of a browser, which asks its user for a name and a password and shows both (RFC 7617): the password is the
/// secret, and any name will do.
pub(crate) fn shown_by_browser(authorization: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, credentials) = authorization.split_at_checked("Basic ".len())?;
    let pair = BASE64.decode(credentials.trim_ascii()).map(Zeroizing::new).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair.get(colon + 1..)?.to_vec();
    scheme.eq_ignore_ascii_case(b"Basic ").then(|| password.into())
}

/// Reads a secret. The error's text continues from the file's name.
fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let text = small_file::read_text(path, small_file::MAX_SECRET_BYTES);
    let text = text.map_err(|error| format!("cannot be read: {error}"))?;
    let secret = Zeroizing::new(text.trim().to_owned());
    check(&secret).map_err(|error| error.to_string())?;
    Ok(secret)
}

fn check(secret: &str) -> Result<(), WeakSecret> {
    let bytes = secret.as_bytes();
    let mut different = bytes.to_vec();
    different.sort_unstable();
    different.dedup();
    // One word over and over is as easily guessed as the word.
    let repeats =
        (1..=bytes.len() / 2).any(|length| bytes.chunks(length).all(|part| bytes.starts_with(part)));
    let fits = bytes.iter().all(u8::is_ascii_graphic)
        && bytes.len() >= MIN_SECRET_CHARS
        && different.len() >= MIN_DIFFERENT_CHARS
        && !repeats;
    fits.then_some(()).ok_or(WeakSecret)
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn only_the_whole_secret_is_accepted() {
        let bearer = Bearer::new("s3cret-0f9e8d7c6b5a4321".to_owned().into()).unwrap();
        for (shown, accepted) in [
            ("Bearer s3cret-0f9e8d7c6b5a4321", true),
            ("bearer s3cret-0f9e8d7c6b5a4321 ", true),
            ("Bearer s3cret-0f9e8d7c6b5a432", false),
            ("Bearer s3cret-0f9e8d7c6b5a43212", false),
            ("Bearer ", false),
            ("Basic s3cret-0f9e8d7c6b5a4321", false),
            ("s3cret-0f9e8d7c6b5a4321", false),
            ("", false),
        ] {
            let is_shown = shown_by_program(shown.as_bytes()).is_some_and(|secret| bearer.is(secret));
            assert_eq!(is_shown, accepted, "{shown}");
        }
        assert_eq!(format!("{bearer:?}"), "Bearer(redacted)");
    }

    #[test]
    fn browser_sends_secret_as_password() {
        let bearer = Bearer::new("s3c:ret-0f9e8d7c6b5a4321".to_owned().into()).unwrap();
        for (pair, accepted) in [
            ("anybody:s3c:ret-0f9e8d7c6b5a4321", true),
            (":s3c:ret-0f9e8d7c6b5a4321", true),
            ("s3c:ret-0f9e8d7c6b5a4321", false),
            ("anybody:s3c:ret-0f9e8d7c6b5a432", false),
            ("anybody:", false),
            ("", false),
        ] {
            let shown = format!("Basic {}", BASE64.encode(pair.as_bytes()));
            let is_shown = shown_by_browser(shown.as_bytes()).is_some_and(|secret| bearer.is(&secret));
            assert_eq!(is_shown, accepted, "{pair}");
            assert_eq!(shown_by_program(shown.as_bytes()), None, "the API knows nothing of it");
        }
        for shown in ["", "Basic", "Basic ", "Basic %%%", "Bearer s3c:ret-0f9e8d7c6b5a4321"] {
            assert!(shown_by_browser(shown.as_bytes()).is_none_or(|secret| !bearer.is(&secret)), "{shown}");
        }
    }

    #[test]
    fn guessable_secret_is_refused() {
        for (secret, fits) in [
            ("", false),
            ("s3cret", false),
            ("0123456789abcdefghi", false),
            ("0123456789abcdefghij", true),
            ("two words 0123456789abcdef", false),
            ("0123456789\tabcdefghij", false),
            ("Pässword0123456789abcdef", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("passwordpasswordpassword", false),
            ("password12password12pass", false),
            ("3f1c0d9be2a84765b0c1d2e3f4a5968778695a4b3c2d1e0f1a2b3c4d5e6f7081", true),
            ("K5oZfzN95Z9UVu1EsfQmfV", true),
        ] {
            assert_eq!(Bearer::new(secret.to_owned().into()).is_ok(), fits, "{secret}");
        }
    }

    #[test]
    fn changed_file_is_reloaded_and_bad_one_ignored() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("bearer");
        let (old, new) = ("old-0f9e8d7c6b5a4321", "new-0f9e8d7c6b5a43210");
        fs::write(&path, old).unwrap();
        let bearer = Bearer::new(old.to_owned().into()).unwrap().kept_in(&path);
        let shows = |secret: &str| bearer.is(secret.as_bytes());
        assert_eq!(bearer.reload_if_changed(false), Ok(false), "the same");
        for bad in ["", "short\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"] {
            fs::write(&path, bad).unwrap();
            let error = bearer.reload_if_changed(false).unwrap_err();
            assert!(
                error.contains("openssl rand -hex 32") && (bad.is_empty() || !error.contains(bad)),
                "{error}"
            );
            assert_eq!(bearer.reload_if_changed(false), Ok(false), "it is reported once");
            assert!(shows(old));
        }
        fs::remove_file(&path).unwrap();
        assert!(bearer.reload_if_changed(false).unwrap_err().contains("cannot be read"));
        fs::write(&path, format!("{new}\n")).unwrap();
        assert_eq!(bearer.reload_if_changed(false), Ok(true));
        assert!(shows(new) && !shows(old));
    }
}
