//! Changes the callers file, for `countersign callers`, and keeps what people wrote into it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use countersign_core::{CallerName, Entropy, EntropyError};
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
    /// What stands there is of no use; the reason goes on from the file's name.
    #[error("the callers file {} {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There would be nothing to do, or it cannot be done.
    #[error("the callers file {} would not be one any more: {reason}; nothing was changed", path.display())]
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
        let shows_jwts = |caller: &CallerRule| caller.name == *name && caller.jwt.is_some();
        self.change_secrets(name, |secrets| {
            if secrets.is_empty() && self.callers().is_ok_and(|callers| callers.iter().any(shows_jwts)) {
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
        self.change_secrets(name, |secrets| {
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
        change: impl FnOnce(&mut Array) -> Result<(), CallersFileError>,
    ) -> Result<(), CallersFileError> {
        self.change(false, |document| {
            let callers = document.get_mut("caller").and_then(Item::as_array_of_tables_mut);
            let caller =
                callers.into_iter().flat_map(ArrayOfTables::iter_mut).find(|caller| is_named(caller, name));
            let caller = caller.ok_or_else(|| self.no_such_caller(name))?;
            let secrets = caller.entry("secrets").or_insert_with(|| value(Array::new()));
            secrets.as_array_mut().map_or(Ok(()), change)
        })
    }

    /// Changes the file, unless it would not be one any more.
    fn change(
        &self,
        may_be_new: bool,
        change: impl FnOnce(&mut DocumentMut) -> Result<(), CallersFileError>,
    ) -> Result<(), CallersFileError> {
        let locked = replace::lock(&self.path).map_err(|error| self.io(error))?;
        let _locked = locked.ok_or_else(|| CallersFileError::Locked(self.path.clone()))?;
        let old = match File::open(&self.path) {
            Ok(old) => Some(old),
            Err(error) if may_be_new && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(self.unusable(format!("cannot be read: {error}"))),
        };
        let text = match old {
            Some(_) => text_of(&self.path).map_err(|reason| self.unusable(reason))?,
            None => HEAD.to_owned(),
        };
        // What cannot be read is not written either: its owner has to look at it first. A caller without a secret is being
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
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    use countersign_core::OsEntropy;
    use tempfile::TempDir;

    use super::*;
    use crate::Scope;

    fn rule(name: &str) -> CallerRule {
        CallerRule {
            name: name.parse().unwrap(),
            secrets: Vec::new(),
            certificates: Vec::new(),
            jwt: None,
            scopes: vec![Scope::Issue, Scope::Look],
            audiences: Some(vec!["https://bugs.example.org/".parse().unwrap()]),
            max_lifetime: Some(std::time::Duration::from_secs(90)),
            tokens_per_minute: std::num::NonZeroU32::new(6),
            tell_trackers: true,
        }
    }

    fn place() -> (TempDir, CallersFile) {
        let directory = TempDir::new().unwrap();
        let file = CallersFile::new(directory.path().join("callers.toml"));
        (directory, file)
    }

    fn hash(secret: &str) -> SecretHash {
        SecretHash::of(secret.as_bytes())
    }

    #[test]
    fn added_caller_is_read_as_it_was_given() {
        let (_directory, file) = place();
        let secret = file.add(&rule("worker-eu"), &OsEntropy).unwrap().unwrap();
        let other = file.add(&rule("worker-us"), &OsEntropy).unwrap().unwrap();
        let expected = |name, secret: &str| CallerRule { secrets: vec![hash(secret)], ..rule(name) };
        assert_eq!(file.callers().unwrap(), [expected("worker-eu", &secret), expected("worker-us", &other)]);
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(!text.contains(&**secret) && text.starts_with("# The callers of the private API."), "{text}");
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        let error = file.add(&rule("worker-eu"), &OsEntropy).unwrap_err().to_string();
        assert!(
            error.contains("`worker-eu` is there twice") && error.contains("nothing was changed"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
        assert_eq!(
            fs::read_dir(file.path().parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn caller_with_a_certificate_gets_a_secret_only_when_asked_for() {
        let (_directory, file) = place();
        let certificates: Vec<crate::CertificateName> = vec!["dns:Worker.example.org".parse().unwrap()];
        let caller = CallerRule { certificates: certificates.clone(), ..rule("worker") };
        assert_eq!(file.add(&caller, &OsEntropy).unwrap(), None);
        assert_eq!(file.callers().unwrap(), [caller]);
        let secret = file.rotate(&"worker".parse().unwrap(), &OsEntropy).unwrap();
        let found = &file.callers().unwrap()[0];
        assert_eq!((&found.secrets, &found.certificates), (&vec![hash(&secret)], &certificates));
    }

    #[test]
    fn caller_with_a_jwt_is_read_as_it_was_given() {
        let (_directory, file) = place();
        let jwt = JwtRule {
            issuer: "https://issuer.example/".parse().unwrap(),
            audience: "countersign".to_owned(),
            subject: "a \"quoted\" subject".to_owned(),
            claims: [("ref", "main"), ("repository_id", "7")]
                .map(|(name, text)| (name.into(), text.into()))
                .into(),
            jwks_url: Some("https://issuer.example/jwks?v=1".parse().unwrap()),
            jwks_file: None,
            ca_file: Some("/etc/ca.crt".into()),
            bearer_file: Some("/run/token".into()),
        };
        let caller = CallerRule { jwt: Some(jwt.clone()), ..rule("worker") };
        assert_eq!(file.add(&caller, &OsEntropy).unwrap(), None);
        assert_eq!(file.callers().unwrap(), std::slice::from_ref(&caller));
        let cut = fs::read_to_string(file.path()).unwrap();
        for (end, _) in cut.match_indices([',', '\n', '}']) {
            let callers = parse(&cut[..end]).unwrap_or_default();
            assert!(callers.iter().all(|found| *found == caller), "{}", &cut[..end]);
        }
        let same = CallerRule { name: "other".parse().unwrap(), ..caller };
        assert!(
            file.add(&same, &OsEntropy).unwrap_err().to_string().contains("one token could stand for both")
        );
        let file_of_keys =
            JwtRule { jwks_url: None, ca_file: None, bearer_file: None, jwks_file: Some("/k".into()), ..jwt };
        let (_directory, file) = place();
        let caller = CallerRule { jwt: Some(file_of_keys), ..rule("worker") };
        file.add(&caller, &OsEntropy).unwrap();
        assert_eq!(file.callers().unwrap(), [caller]);
    }

    #[test]
    fn caller_with_a_jwt_gets_no_secret() {
        let (_directory, file) = place();
        let jwt = JwtRule {
            issuer: "https://issuer.example/".parse().unwrap(),
            audience: "countersign".to_owned(),
            subject: "worker".to_owned(),
            claims: std::collections::BTreeMap::new(),
            jwks_url: None,
            jwks_file: None,
            ca_file: None,
            bearer_file: None,
        };
        let caller = CallerRule { jwt: Some(jwt.clone()), ..rule("worker") };
        file.add(&caller, &OsEntropy).unwrap();
        let error = file.rotate(&caller.name, &OsEntropy).unwrap_err().to_string();
        assert!(error.contains("`worker` has no secret: it shows a JWT"), "{error}");
        assert_eq!(file.callers().unwrap(), [caller]);
        let no_text = PathBuf::from(std::ffi::OsString::from_vec(b"/keys-\xff".to_vec()));
        let jwt = JwtRule { jwks_file: Some(no_text), ..jwt };
        let error =
            file.add(&CallerRule { jwt: Some(jwt), ..rule("other") }, &OsEntropy).unwrap_err().to_string();
        assert!(error.contains("`jwks_file` is a path that is not UTF-8"), "{error}");
    }

    #[test]
    fn two_secrets_are_valid_during_a_rotation() {
        let (_directory, file) = place();
        let (worker, other): (CallerName, CallerName) = ("worker".parse().unwrap(), "other".parse().unwrap());
        let first = file.add(&rule("worker"), &OsEntropy).unwrap().unwrap();
        let secrets = || file.callers().unwrap()[0].secrets.clone();
        assert!(matches!(file.finish_rotation(&worker), Err(CallersFileError::NoRotation(_))));
        let second = file.rotate(&worker, &OsEntropy).unwrap();
        assert_eq!(secrets(), [hash(&first), hash(&second)]);
        assert!(matches!(file.rotate(&worker, &OsEntropy), Err(CallersFileError::RotationUnderWay(_))));
        assert_eq!(secrets(), [hash(&first), hash(&second)]);
        file.finish_rotation(&worker).unwrap();
        assert_eq!(secrets(), [hash(&second)]);
        for missing in
            [file.rotate(&other, &OsEntropy).map(drop), file.finish_rotation(&other), file.remove(&other)]
        {
            assert!(matches!(missing, Err(CallersFileError::NoSuchCaller { .. })), "{missing:?}");
        }
        file.remove(&worker).unwrap();
        assert_eq!(file.callers().unwrap(), []);
    }

    #[test]
    fn what_people_wrote_stays() {
        let (_directory, file) = place();
        let by_hand = format!(
            "# ours\n[[caller]]\nscopes = [\"look\"] # to see\nname = 'a'\nsecrets = [\n  \"{}\", # old\n]\n",
            hash("one")
        );
        fs::write(file.path(), &by_hand).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        file.add(&rule("worker"), &OsEntropy).unwrap();
        file.rotate(&"a".parse().unwrap(), &OsEntropy).unwrap();
        file.remove(&"worker".parse().unwrap()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        for kept in ["# ours\n", "scopes = [\"look\"] # to see", "name = 'a'", "# old"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert_eq!(file.callers().unwrap()[0].secrets.len(), 2);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn broken_file_is_left_alone() {
        let (_directory, file) = place();
        let name: CallerName = "a".parse().unwrap();
        assert!(file.rotate(&name, &OsEntropy).unwrap_err().to_string().contains("cannot be read"));
        // The last one is a callers file, but not one that can be added to.
        let list =
            format!("caller = [{{ name = 'a', scopes = ['look'], secrets = ['{}'] }}]\n", hash("hUnter2"));
        for text in ["hUnter2", "caller = 5\n", "[[caller]]\nname = 'b'\nsecrets = 'hUnter2'\n", &list] {
            fs::write(file.path(), text).unwrap();
            for failed in [
                file.add(&rule("b"), &OsEntropy).map(drop),
                file.rotate(&name, &OsEntropy).map(drop),
                file.remove(&name),
            ] {
                let error = failed.unwrap_err().to_string();
                assert!(!error.contains("hUnter2"), "{error}");
            }
            assert_eq!(file.callers().is_ok(), text == list);
            assert_eq!(fs::read_to_string(file.path()).unwrap(), text);
        }
    }

    #[test]
    fn file_that_was_cut_off_has_no_caller_without_its_limits() {
        let (_directory, file) = place();
        file.add(&rule("worker"), &OsEntropy).unwrap();
        let whole = fs::read_to_string(file.path()).unwrap();
        for (end, _) in whole.match_indices('\n') {
            let callers = parse(&whole[..end]).unwrap_or_default();
            assert!(callers.iter().all(|caller| caller.audiences.is_some()), "{}", &whole[..end]);
        }
    }
}
