//! Changes the callers file, for `countersign callers`, and keeps what people wrote into it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_core::{CallerName, Entropy, EntropyError};
use countersign_tls::small_file;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, Value, value};
use zeroize::Zeroizing;

use crate::replace;

use super::{CallerRule, JwtRule, MAX_SECRETS, SecretHash, new_secret, parse, text_of};

const HEAD: &str = "\
# The callers of the private API. `countersign callers` adds and removes them; a running server takes up a change within two
# seconds. Secrets are 256 random bits, and only their SHA-256 is here.
";

/// The callers file on disk.
#[derive(Debug)]
pub struct CallersFile {
    path: PathBuf,
}

/// Why the callers file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum CallersFileError {
    /// The file's content cannot be used; the reason continues a sentence that begins with the file's name.
    #[error("the callers file {} {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There would be nothing to do, or it cannot be done.
    #[error("the change would make the callers file {} invalid: {reason}; nothing was changed", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What would be wrong.
        reason: String,
    },
    /// There is no such caller.
    #[error("the callers file {} has no caller `{name}`; `countersign callers list` shows them", path.display())]
    NoSuchCaller {
        /// The file.
        path: PathBuf,
        /// Who is not there.
        name: CallerName,
    },
    /// A rotation is under way, and another one would cut off those who have not changed over.
    #[error(
        "`{0}` has two secrets already: `countersign callers rotate {0} --finish` ends the rotation that is under way, and \
         the older secret with it; nothing was changed"
    )]
    RotationUnderWay(CallerName),
    /// It has one secret, which is in use.
    #[error("`{0}` has one secret, so there is no rotation to finish; nothing was changed")]
    NoRotation(CallerName),
    /// It shows JWTs, and would be given another way in.
    #[error(
        "`{0}` has no secret: it shows a JWT of its issuer, who changes the keys; to give it a secret, remove it and add it \
         again; nothing was changed"
    )]
    NoSecret(CallerName),
    /// Another process changes files there.
    #[error("another process holds the lock on the directory of {}; nothing was changed, try again", .0.display())]
    Locked(PathBuf),
    /// The operating system refused.
    #[error("cannot write the callers file {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl CallersFile {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The callers.
    pub fn callers(&self) -> Result<Vec<CallerRule>, CallersFileError> {
        let text = text_of(&self.path).map_err(|reason| self.unusable(reason))?;
        parse(&text).map_err(|error| self.unusable(format!("cannot be used: {error}")))
    }

    /// Adds a caller, whose secrets are not looked at, and returns its secret; a caller that is known by certificates or JWTs gets none.
    /// Makes the file if there is none.
    pub fn add(
        &self,
        caller: &CallerRule,
        entropy: &dyn Entropy,
    ) -> Result<Option<Zeroizing<String>>, CallersFileError> {
        let has_another = !caller.certificates.is_empty() || caller.jwt.is_some();
        let secret = if has_another { None } else { Some(new_secret(entropy)?) };
        let table = table_of(caller, secret.as_deref().map(String::as_str))
            .map_err(|reason| CallersFileError::Refused { path: self.path.clone(), reason })?;
        self.change(true, |document| {
            let callers =
                document.entry("caller").or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
            callers.as_array_of_tables_mut().ok_or_else(|| self.not_tables())?.push(table);
            Ok(())
        })?;
        Ok(secret)
    }

    /// Gives a caller another secret, and returns it. The one before stays valid until the rotation is
    /// [finished](Self::finish_rotation).
    pub fn rotate(
        &self,
        name: &CallerName,
        entropy: &dyn Entropy,
    ) -> Result<Zeroizing<String>, CallersFileError> {
        let secret = new_secret(entropy)?;
        self.change_secrets(name, |secrets, shows_jwts| {
            if secrets.is_empty() && shows_jwts {
                return Err(CallersFileError::NoSecret(name.clone()));
            }
            if secrets.len() >= MAX_SECRETS {
                return Err(CallersFileError::RotationUnderWay(name.clone()));
            }
            secrets.push(SecretHash::of(secret.as_bytes()).to_string());
            Ok(())
        })?;
        Ok(secret)
    }

    /// Takes the older secret of a caller away.
    pub fn finish_rotation(&self, name: &CallerName) -> Result<(), CallersFileError> {
        self.change_secrets(name, |secrets, _| {
            if secrets.len() < MAX_SECRETS {
                return Err(CallersFileError::NoRotation(name.clone()));
            }
            secrets.remove(0);
            Ok(())
        })
    }

    /// Removes a caller.
    pub fn remove(&self, name: &CallerName) -> Result<(), CallersFileError> {
        self.change(false, |document| {
            let callers = document.get_mut("caller").and_then(Item::as_array_of_tables_mut);
            let place = callers.and_then(|callers| {
                let place = callers.iter().position(|caller| is_named(caller, name))?;
                callers.remove(place);
                Some(())
            });
            place.ok_or_else(|| self.no_such_caller(name))
        })
    }

    fn change_secrets(
        &self,
        name: &CallerName,
        change: impl FnOnce(&mut Array, bool) -> Result<(), CallersFileError>,
    ) -> Result<(), CallersFileError> {
        self.change(false, |document| {
            let callers = document.get_mut("caller").and_then(Item::as_array_of_tables_mut);
            let caller =
                callers.into_iter().flat_map(ArrayOfTables::iter_mut).find(|caller| is_named(caller, name));
            let caller = caller.ok_or_else(|| self.no_such_caller(name))?;
            let shows_jwts = caller.contains_key("jwt");
            let secrets = caller.entry("secrets").or_insert_with(|| value(Array::new()));
            secrets.as_array_mut().map_or(Ok(()), |secrets| change(secrets, shows_jwts))
        })
    }

    /// Changes the file, unless that would make it invalid.
    fn change(
        &self,
        may_be_new: bool,
        change: impl FnOnce(&mut DocumentMut) -> Result<(), CallersFileError>,
    ) -> Result<(), CallersFileError> {
        let locked = replace::lock(&self.path).map_err(|error| self.io(error))?;
        let _locked = locked.ok_or_else(|| CallersFileError::Locked(self.path.clone()))?;
        let old = match small_file::open(&self.path) {
            Ok(old) => Some(old),
            Err(error) if may_be_new && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.unusable(format!("cannot be read: {error}"))),
        };
        let text = match old {
            Some(_) => text_of(&self.path).map_err(|reason| self.unusable(reason))?,
            None => HEAD.to_owned(),
        };
        // A file that cannot be read is not written either: its owner has to look at it first. A caller without a secret is being
        // given one.
        let mut document: DocumentMut =
            text.parse().map_err(|_| self.unusable("cannot be used: it is not TOML".to_owned()))?;
        if document.get("caller").is_some_and(|callers| !callers.is_array_of_tables()) {
            return Err(self.not_tables());
        }
        // Comments alone would go behind what is added.
        let head = if document.is_empty() {
            document = DocumentMut::new();
            text
        } else {
            String::new()
        };
        change(&mut document)?;
        let text = format!("{head}{document}");
        parse(&text).map_err(|error| CallersFileError::Refused {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        let made = replace::write_beside(&self.path, text.as_bytes(), old.as_ref())
            .map_err(|error| self.io(error))?;
        fs::rename(&made, &self.path)
            .and_then(|()| replace::sync_directory(&self.path))
            .map_err(|error| self.io(error))
    }

    fn not_tables(&self) -> CallersFileError {
        self.unusable(
            "cannot be changed: it has its callers in one list; begin each with [[caller]]".to_owned(),
        )
    }

    fn no_such_caller(&self, name: &CallerName) -> CallersFileError {
        CallersFileError::NoSuchCaller { path: self.path.clone(), name: name.clone() }
    }

    fn unusable(&self, reason: String) -> CallersFileError {
        CallersFileError::Unusable { path: self.path.clone(), reason }
    }

    fn io(&self, error: io::Error) -> CallersFileError {
        CallersFileError::Io { path: self.path.clone(), error }
    }
}

fn is_named(caller: &Table, name: &CallerName) -> bool {
    caller.get("name").and_then(Item::as_str) == Some(name.as_str())
}

fn table_of(caller: &CallerRule, secret: Option<&str>) -> Result<Table, String> {
    let list = |items: &mut dyn Iterator<Item = String>| value(items.collect::<Array>());
    let mut table = Table::new();
    table.insert("name", value(caller.name.as_str()));
    table.insert("scopes", list(&mut caller.scopes.iter().map(ToString::to_string)));
    if let Some(patterns) = &caller.audiences {
        table.insert("audiences", list(&mut patterns.iter().map(ToString::to_string)));
    }
    if let Some(longest) = caller.max_lifetime {
        table.insert("max_lifetime", value(format!("{}s", longest.as_secs())));
    }
    if let Some(rate) = caller.tokens_per_minute {
        table.insert("tokens_per_minute", value(i64::from(rate.get())));
    }
    if caller.tell_trackers {
        table.insert("tell_trackers", value(true));
    }
    // Last, so that a file that was cut off has no caller without its limits: one without a credential is refused.
    if let Some(secret) = secret {
        table.insert("secrets", list(&mut std::iter::once(SecretHash::of(secret.as_bytes()).to_string())));
    }
    if !caller.certificates.is_empty() {
        let names = caller.certificates.iter().map(|name| name.as_str().to_owned());
        table.insert("certificates", list(&mut names.into_iter()));
    }
    if let Some(jwt) = &caller.jwt {
        table.insert("jwt", value(jwt_of(jwt)?));
    }
    table.decor_mut().set_prefix("\n");
    Ok(table)
}

/// On one line, so that a file that was cut off has no caller with a part of it.
fn jwt_of(jwt: &JwtRule) -> Result<InlineTable, String> {
    let mut table = InlineTable::new();
    table.insert("issuer", jwt.issuer.as_str().into());
    table.insert("audience", jwt.audience.as_str().into());
    table.insert("subject", jwt.subject.as_str().into());
    if !jwt.claims.is_empty() {
        let claims = jwt.claims.iter().map(|(name, wanted)| (name.as_str(), wanted.as_str()));
        table.insert("claims", Value::InlineTable(claims.collect()));
    }
    if let Some(url) = &jwt.jwks_url {
        table.insert("jwks_url", url.url().as_str().into());
    }
    let files = [("jwks_file", &jwt.jwks_file), ("ca_file", &jwt.ca_file), ("bearer_file", &jwt.bearer_file)];
    for (key, path) in files {
        if let Some(path) = path {
            let path = path.to_str().ok_or_else(|| format!("`{key}` is a path that is not UTF-8"))?;
            table.insert(key, path.into());
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests;
