//! The callers of the private API, by name: what each may do.
//!
//! ```text
//! credential ──Callers::find──▶ NamedCaller ──Grant──▶ may it ask for this? (guard)  may it have this token? (permit)
//! ```

pub(crate) mod edit;
mod file;
mod grant;
pub(crate) mod jwt;
mod pattern;
mod scope;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use countersign_core::{CallerName, Clock, from_millis, to_millis};
use countersign_tls::small_file;
use jiff::Timestamp;

use crate::file_version::FileVersion;
use crate::limiter::RateLimiter;
use crate::secret::{SecretFile, warn_of_exposure};

pub use self::edit::{CallersFile, CallersFileError};
pub use self::file::{
    CallerRule, CallersError, CertificateName, MAX_CALLERS, MAX_FILE_BYTES, MAX_SECRETS, NotACertificateName,
    SecretHash, new_secret, parse,
};
pub(crate) use self::grant::{Grant, NotAllowed};
pub use self::jwt::{
    HttpsUrl, ISSUER_AUTHORITIES, ISSUER_KEYS, IssuerUrl, JwtRule, NotAnHttpsUrl, judge_jwt,
};
pub(crate) use self::jwt::{Issuers, JwtFault, RefreshCounts};
pub use self::pattern::{AudiencePattern, PatternError};
pub use self::scope::{NotAScope, Scope};

/// The callers that a file names. It is read again when it changes.
pub struct Callers {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    in_use: RwLock<Arc<Vec<Arc<NamedCaller>>>>,
    issuers: Issuers,
    /// The file as it was read last.
    seen: Mutex<Option<FileVersion>>,
    /// Why that could not be used. It may pass, as when there were too many open files, so it is tried again.
    fault: Mutex<Option<String>>,
}

/// A caller, and how much it asked for lately.
#[derive(Debug)]
pub(crate) struct NamedCaller {
    pub(crate) rule: CallerRule,
    rate: Option<RateLimiter>,
    /// When it showed its credential last, in milliseconds; 0: not since this server was started.
    seen: AtomicI64,
}

impl NamedCaller {
    /// When it showed its credential last, since this server was started.
    pub(crate) fn last_seen(&self) -> Option<Timestamp> {
        Some(self.seen.load(Ordering::Relaxed)).filter(|millis| *millis != 0).map(from_millis)
    }
}

impl Callers {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it cannot be used; the sentence goes on from the file's name.
    pub fn load(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let seen = FileVersion::at(path);
        let rules = read(path)?;
        let callers = Self {
            path: path.to_owned(),
            issuers: Issuers::new(Arc::clone(&clock)),
            clock,
            in_use: RwLock::default(),
            seen: Mutex::new(seen),
            fault: Mutex::default(),
        };
        callers.put_to_use(rules);
        Ok(callers)
    }

    /// Where they are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All of them, in the order of the file.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<NamedCaller>>> {
        Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose secret this is. Each one is looked at, so that the time it takes tells nothing.
    pub(crate) fn find(&self, secret: &[u8]) -> Option<Arc<NamedCaller>> {
        let shown = SecretHash::of(secret);
        let callers = self.all();
        let mut found = None;
        for caller in callers.iter() {
            for hash in &caller.rule.secrets {
                if hash.is(&shown) {
                    found = Some(caller);
                }
            }
        }
        let found = found?;
        found.seen.store(to_millis(self.clock.now()), Ordering::Relaxed);
        Some(Arc::clone(found))
    }

    /// Whose client certificate has one of these names.
    pub(crate) fn find_by_certificate(&self, names: &[String]) -> Option<Arc<NamedCaller>> {
        let callers = self.all();
        let is_named = |caller: &&Arc<NamedCaller>| {
            caller.rule.certificates.iter().any(|name| names.iter().any(|shown| shown == name.as_str()))
        };
        let mut found = callers.iter().filter(is_named);
        // A certificate with the names of two callers is neither's.
        let (Some(found), None) = (found.next(), found.next()) else { return None };
        found.seen.store(to_millis(self.clock.now()), Ordering::Relaxed);
        Some(Arc::clone(found))
    }

    /// Whose JWT this is, and until when it is good. `None`: it is not a JWT of an issuer that the file names. By a clock that is
    /// not trusted, none is good, and none has expired.
    pub(crate) fn find_by_jwt(
        &self,
        shown: &[u8],
        trusts_clock: impl FnOnce() -> bool,
    ) -> Option<Result<(Arc<NamedCaller>, Timestamp), JwtFault>> {
        let now = self.clock.now();
        let found = self.issuers.find_caller(shown, &self.all(), now)?;
        let goes_by_the_clock = matches!(found, Ok(_) | Err(JwtFault::Expired | JwtFault::NotYet));
        if goes_by_the_clock && !trusts_clock() {
            return Some(Err(JwtFault::Clock));
        }
        if let Ok((caller, _)) = &found {
            caller.seen.store(to_millis(now), Ordering::Relaxed);
        }
        Some(found)
    }

    /// Begins to fetch the keys of the issuers that have become old, or those of all; waits for none.
    pub fn refresh_issuers(&self, all: bool) {
        self.issuers.refresh(all);
    }

    /// The issuers of JWTs that the file names.
    pub(crate) fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whether this is still what the file says of a caller: not once it was removed, or has other rights.
    pub(crate) fn is_in_force(&self, caller: &NamedCaller) -> bool {
        self.all().iter().any(|now| now.rule == caller.rule)
    }

    /// Reads the file again if it is another than last time, or `anyway`; what has changed, if anything has. What cannot be
    /// used changes nothing, and is reported once, or each time it is read anyway.
    pub fn reload_if_changed(&self, anyway: bool) -> Result<Option<CallersChange>, String> {
        let found = FileVersion::at(&self.path);
        let seen = std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), found);
        let before = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        if seen == found && !anyway && before.is_none() {
            return Ok(None);
        }
        let rules = match read(&self.path) {
            Ok(rules) => rules,
            Err(error) => {
                let fault = format!("the callers file {} {error}", self.path.display());
                let is_known = seen == found && !anyway && before.as_ref() == Some(&fault);
                *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.clone());
                return if is_known { Ok(None) } else { Err(fault) };
            }
        };
        warn_of_exposure(&files(&self.path, &rules));
        let before = self.all();
        if before.iter().map(|caller| &caller.rule).eq(&rules) {
            return Ok(None);
        }
        let names = |rules: &mut dyn Iterator<Item = &CallerRule>| {
            rules.map(|rule| rule.name.clone()).collect::<Vec<_>>()
        };
        let (old, new) = (names(&mut before.iter().map(|caller| &caller.rule)), names(&mut rules.iter()));
        let changed = rules.iter().filter(|rule| {
            before.iter().any(|caller| caller.rule.name == rule.name && caller.rule != **rule)
        });
        let changed = changed.map(|rule| rule.name.clone()).collect();
        self.put_to_use(rules);
        Ok(Some(CallersChange {
            added: new.iter().filter(|name| !old.contains(name)).cloned().collect(),
            removed: old.iter().filter(|name| !new.contains(name)).cloned().collect(),
            changed,
        }))
    }

    /// Why the file could not be put to use now; goes on from its name.
    pub(crate) fn trouble(&self) -> Option<String> {
        read(&self.path).err()
    }

    fn put_to_use(&self, rules: Vec<CallerRule>) {
        self.issuers.put_to_use(&rules);
        let before = self.all();
        let callers = rules.into_iter().map(|rule| {
            let same = before.iter().find(|caller| caller.rule.name == rule.name);
            // A change of something else resets no caller's rate limit.
            let rate = same
                .filter(|same| same.rule.tokens_per_minute == rule.tokens_per_minute)
                .and_then(|same| same.rate.clone());
            let rate = rate.or_else(|| {
                rule.tokens_per_minute.map(|per_minute| RateLimiter::new(per_minute, Arc::clone(&self.clock)))
            });
            let seen = same.map_or(0, |same| same.seen.load(Ordering::Relaxed));
            Arc::new(NamedCaller { rule, rate, seen: AtomicI64::new(seen) })
        });
        let callers = Arc::new(callers.collect());
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = callers;
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callers").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What has changed in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallersChange {
    /// Those that are new.
    pub added: Vec<CallerName>,
    /// Those that are gone.
    pub removed: Vec<CallerName>,
    /// Those with other secrets or rights.
    pub changed: Vec<CallerName>,
}

/// The name of the callers file among the secrets. It holds hashes of secrets that cannot be guessed; but who writes it
/// decides who may call.
pub const CALLERS_FILE: &str = "the callers file";

/// The callers file at this path, and the files that these callers name, each once.
pub fn files(path: &Path, callers: &[CallerRule]) -> Vec<SecretFile> {
    let itself =
        SecretFile { what: CALLERS_FILE, path: path.to_owned(), is_made_later: false, is_public: false };
    let mut files = vec![itself];
    for file in callers.iter().filter_map(|caller| caller.jwt.as_ref()).flat_map(JwtRule::files) {
        if !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

/// Reads the file. The error goes on from its name, and quotes nothing of it.
fn read(path: &Path) -> Result<Vec<CallerRule>, String> {
    let text = text_of(path)?;
    parse(&text).map_err(|error| format!("cannot be used: {error}"))
}

fn text_of(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::InvalidData => "cannot be used: it is not text in UTF-8".to_owned(),
        std::io::ErrorKind::FileTooLarge => format!("is longer than {MAX_FILE_BYTES} bytes"),
        _ => format!("cannot be read: {error}"),
    };
    small_file::read_text(path, MAX_FILE_BYTES).map(|text| text.to_string()).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use countersign_core::ManualClock;
    use tempfile::TempDir;

    use super::*;

    fn text(name: &str, secret: &str, more: &str) -> String {
        let hash = SecretHash::of(secret.as_bytes());
        format!("[[caller]]\nname = \"{name}\"\nsecrets = [\"{hash}\"]\nscopes = [\"issue\"]\n{more}\n")
    }

    fn names(names: &[&str]) -> Vec<CallerName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn changed_file_is_reloaded_and_broken_one_ignored() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("callers.toml");
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        assert!(Callers::load(&path, clock.clone()).unwrap_err().contains("cannot be read"));
        fs::write(&path, text("worker", "one", "")).unwrap();
        let callers = Callers::load(&path, clock).unwrap();
        let finds = |secret: &str| {
            callers.find(secret.as_bytes()).map(|caller| caller.rule.name.to_string()).unwrap_or_default()
        };
        assert_eq!((finds("one").as_str(), finds("two").as_str(), finds("").as_str()), ("worker", "", ""));
        assert_eq!(callers.reload_if_changed(false), Ok(None), "it is the same");

        for bad in ["[[caller]]\nname = 'hUnter2'\n", "hUnter2", "\u{fffd}"] {
            fs::write(&path, bad).unwrap();
            let error = callers.reload_if_changed(false).unwrap_err();
            assert!(error.contains("callers.toml cannot be used") && !error.contains("hUnter2"), "{error}");
            assert_eq!(callers.reload_if_changed(false), Ok(None), "it is reported once");
            assert!(callers.trouble().is_some());
            assert_eq!(finds("one"), "worker", "the last good one goes on");
        }
        fs::write(&path, [0xff]).unwrap();
        assert!(callers.reload_if_changed(false).unwrap_err().contains("not text in UTF-8"));
        fs::write(&path, " ".repeat(2_000_000)).unwrap();
        assert!(callers.reload_if_changed(false).unwrap_err().contains("longer than"));
        fs::remove_file(&path).unwrap();
        assert!(callers.reload_if_changed(false).unwrap_err().contains("cannot be read"));
        assert_eq!(finds("one"), "worker");

        fs::write(&path, text("worker", "two", "") + &text("ops", "three", "")).unwrap();
        let change = CallersChange { added: names(&["ops"]), removed: vec![], changed: names(&["worker"]) };
        assert_eq!(callers.reload_if_changed(false), Ok(Some(change)));
        assert_eq!(
            (finds("one").as_str(), finds("two").as_str(), finds("three").as_str()),
            ("", "worker", "ops")
        );
        fs::write(&path, text("ops", "three", "") + "# gone\n").unwrap();
        let change = CallersChange { added: vec![], removed: names(&["worker"]), changed: vec![] };
        assert_eq!(callers.reload_if_changed(true), Ok(Some(change)));
        assert_eq!(finds("two"), "");
        assert_eq!(callers.trouble(), None);
    }

    #[test]
    fn file_is_reloaded_once_it_is_readable() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("callers.toml");
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        fs::write(&path, text("worker", "one", "")).unwrap();
        let callers = Callers::load(&path, clock).unwrap();
        fs::write(&path, text("ops", "two", "")).unwrap();
        // The file was seen, and there were too many open files to read it.
        *callers.seen.lock().unwrap() = FileVersion::at(&path);
        *callers.fault.lock().unwrap() = Some("too many open files".to_owned());
        assert!(callers.reload_if_changed(false).unwrap().is_some());
        assert_eq!(callers.find(b"one").map(|caller| caller.rule.name.to_string()), None);
    }

    #[test]
    fn reload_resets_no_rate_limit() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("callers.toml");
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        fs::write(&path, text("worker", "one", "tokens_per_minute = 2")).unwrap();
        let callers = Callers::load(&path, clock.clone()).unwrap();
        let take = |secret: &str| callers.find(secret.as_bytes()).unwrap().rate.as_ref().unwrap().take();
        assert_eq!((take("one"), take("one")), (Ok(()), Ok(())));
        assert_eq!(take("one"), Err(Duration::from_secs(30)));
        fs::write(&path, text("worker", "two", "tokens_per_minute = 2")).unwrap();
        assert!(callers.reload_if_changed(false).unwrap().is_some());
        assert_eq!(take("two"), Err(Duration::from_secs(30)), "another secret");
        assert_eq!(callers.find(b"two").unwrap().last_seen(), Some(clock.now()));
        clock.advance(Duration::from_secs(30));
        assert_eq!(take("two"), Ok(()));
        fs::write(&path, text("worker", "two", "tokens_per_minute = 3")).unwrap();
        assert!(callers.reload_if_changed(false).unwrap().is_some());
        assert_eq!(take("two"), Ok(()), "another rate");
    }

    #[test]
    fn unchanged_caller_stays_in_force() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("callers.toml");
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        fs::write(&path, text("worker", "one", "")).unwrap();
        let callers = Callers::load(&path, clock).unwrap();
        let worker = callers.find(b"one").unwrap();
        assert!(callers.is_in_force(&worker));
        fs::write(&path, text("other", "two", "") + &text("worker", "one", "")).unwrap();
        callers.reload_if_changed(false).unwrap();
        assert!(callers.is_in_force(&worker), "others may come");
        fs::write(&path, text("worker", "three", "")).unwrap();
        callers.reload_if_changed(false).unwrap();
        assert!(!callers.is_in_force(&worker), "its secret is not good any more");
    }
}
