//! Finds the password for the database.

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use countersign_tls::small_file;

use super::fault::Failure;
use super::hosts::Host;

/// The longest password file of libpq, in bytes.
const MAX_PASSFILE_BYTES: u64 = 1024 * 1024;

/// Every place where a password may be, but for the URL itself. Each is looked at for each connection, so that the
/// password can be changed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Passwords {
    /// The file of `store_password_file`; its first line is the password.
    pub(super) file: Option<PathBuf>,
    /// The password in the URL.
    pub(super) in_url: Option<Vec<u8>>,
    /// The variable `PGPASSWORD`.
    pub(super) variable: Option<OsString>,
    /// The password file of libpq.
    pub(super) passfile: Option<PathBuf>,
}

/// A password, if there is one.
pub(super) struct FoundPassword {
    pub(super) password: Option<Vec<u8>>,
    /// Where it is, or which place was passed over, and why; empty if there is nothing to say.
    pub(super) says: String,
}

/// The server that it is for.
pub(super) struct PasswordQuery<'a> {
    pub(super) host: &'a Host,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
}

impl Passwords {
    /// The password for a server. An error means that the operator has named a file that cannot be read.
    pub(super) fn find(&self, wanted: &PasswordQuery<'_>) -> Result<FoundPassword, Failure> {
        let found = |password, says| Ok(FoundPassword { password: Some(password), says });
        if let Some(path) = &self.file {
            return found(first_line(path)?, format!("in {}", path.display()));
        }
        if let Some(password) = &self.in_url {
            return found(password.clone(), "in the store's URL".to_owned());
        }
        if let Some(password) = &self.variable {
            return found(password.as_encoded_bytes().to_vec(), "in the variable PGPASSWORD".to_owned());
        }
        let Some(path) = &self.passfile else {
            return Ok(FoundPassword { password: None, says: String::new() });
        };
        let path_shown = path.display();
        let (password, says) = match read(path) {
            Ok(Some(text)) => match entry(&text, wanted) {
                Some(password) => (Some(password), format!("in {path_shown}")),
                None => (None, format!("{path_shown} has no line that fits")),
            },
            Ok(None) => (None, String::new()),
            Err(reason) => (None, format!("{path_shown} was passed over, because {reason}")),
        };
        Ok(FoundPassword { password, says })
    }
}

impl Passwords {
    /// The password file of libpq, if it would count and was passed over, and why.
    pub(super) fn passed_over(&self) -> Option<(&Path, String)> {
        let is_said = self.file.is_some() || self.in_url.is_some() || self.variable.is_some();
        let path = self.passfile.as_deref().filter(|_| !is_said)?;
        Some((path, read(path).err()?))
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("file", &self.file)
            .field("passfile", &self.passfile)
            .finish_non_exhaustive()
    }
}

fn first_line(path: &Path) -> Result<Vec<u8>, Failure> {
    let text =
        small_file::read_text(path, small_file::MAX_SECRET_BYTES).map_err(|error| Failure::Unreachable {
            reason: format!("the password of the store cannot be read from {}: {error}", path.display()),
        })?;
    Ok(text.lines().next().unwrap_or_default().into())
}

/// The text of a password file; `None`: there is none. As libpq, takes only a file that its owner alone can read.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    if !metadata.is_file() {
        return Err("it is no plain file".to_owned());
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!("others can read it (mode {mode:04o}): run chmod 600"));
        }
    }
    small_file::read(path, MAX_PASSFILE_BYTES)
        .map(|text| Some(text.to_vec()))
        .map_err(|error| error.to_string())
}

/// The password of the first line that fits: `host:port:database:user:password`, where `*` is any, and a `\` makes the next
/// character one of the field. As for libpq, a `:` in a field need not be escaped, but in the password ends it.
fn entry(text: &[u8], wanted: &PasswordQuery<'_>) -> Option<Vec<u8>> {
    let (host, port) = (wanted.host.name_for_password(), wanted.host.port.to_string());
    let asked = [&host, &port, wanted.database, wanted.user];
    let fits = |line: &[u8]| {
        if line.starts_with(b"#") {
            return None;
        }
        let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
        for asked in asked {
            rest = rest.strip_prefix(b"*:").or_else(|| after_field(rest, asked.as_bytes()))?;
        }
        Some(password(rest))
    };
    let password = text.split(|byte| *byte == b'\n').find_map(fits);
    password.filter(|password| !password.is_empty())
}

/// What comes after the first field and its `:`, if it is the one that is asked for.
fn after_field<'a>(line: &'a [u8], asked: &[u8]) -> Option<&'a [u8]> {
    let (mut rest, mut asked) = (line, asked.iter());
    loop {
        let (mut byte, mut after) = rest.split_first()?;
        if *byte == b':' && asked.as_slice().is_empty() {
            return Some(after);
        }
        if *byte == b'\\' {
            (byte, after) = after.split_first()?;
        }
        if asked.next() != Some(byte) {
            return None;
        }
        rest = after;
    }
}

fn password(rest: &[u8]) -> Vec<u8> {
    let mut password = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            // The last one stands for itself.
            b'\\' => password.push(*bytes.next().unwrap_or(byte)),
            byte => password.push(*byte),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio_postgres::config::Host as Name;

    use super::*;

    fn host(name: &str, port: u16) -> Host {
        let name = if name.starts_with('/') { Name::Unix(name.into()) } else { Name::Tcp(name.to_owned()) };
        Host { name: Some(name), address: None, port }
    }

    fn of(text: &str, host: &Host) -> Option<String> {
        let wanted = PasswordQuery { host, user: "an:na", database: "tokens" };
        entry(text.as_bytes(), &wanted).map(|password| String::from_utf8(password).unwrap())
    }

    #[test]
    fn first_matching_line_has_the_password() {
        let db = host("db", 5433);
        for (text, password) in [
            ("db:5433:tokens:an\\:na:secret", Some("secret")),
            ("*:*:*:*:secret\nother", Some("secret")),
            ("# *:*:*:*:no\ndb:*:*:*:secret\r\n*:*:*:*:no", Some("secret")),
            ("db:5433:tokens:*:s\\:e\\\\cret", Some("s:e\\cret")),
            ("db:5433:tokens:*:sec:ret", Some("sec")),
            ("db:*:*:an:na:secret", Some("secret")),
            ("db:*:*:*:secret\\", Some("secret\\")),
            ("db:5432:*:*:no\nd:*:*:*:no\ndbx:*:*:*:no\n*:*:other:*:no\n*:*:*:an:no", None),
            ("db:5433:tokens:*:\n*:*:*:*:no", None),
            ("db:5433:tokens", None),
            ("*:*:*:*", None),
            ("", None),
        ] {
            assert_eq!(of(text, &db).as_deref(), password, "{text}");
        }
        assert_eq!(of("localhost:*:*:*:here", &host("/run/postgresql", 5432)).as_deref(), Some("here"));
        assert_eq!(of("/srv:*:*:*:here", &host("/srv", 5432)).as_deref(), Some("here"));
        let address = Host { name: None, address: Some([192, 0, 2, 1].into()), port: 1 };
        assert_eq!(of("192.0.2.1:1:*:*:here", &address).as_deref(), Some("here"));
    }

    #[test]
    fn earlier_password_source_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (file, passfile) = (dir.path().join("password"), dir.path().join("pgpass"));
        std::fs::write(&file, "one\n").unwrap();
        std::fs::write(&passfile, "*:*:*:*:four\n").unwrap();
        std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut passwords = Passwords {
            file: Some(file),
            in_url: Some(b"two".to_vec()),
            variable: Some("three".into()),
            passfile: Some(dir.path().to_owned()),
        };
        assert_eq!(passwords.passed_over(), None, "it would not count anyway");
        passwords.passfile = Some(passfile.clone());
        let host = host("db", 5432);
        let found = |passwords: &Passwords| {
            let found = passwords.find(&PasswordQuery { host: &host, user: "a", database: "b" }).unwrap();
            (found.password.map(|password| String::from_utf8(password).unwrap()), found.says)
        };
        assert_eq!(found(&passwords).0.as_deref(), Some("one"));
        passwords.file = None;
        assert_eq!(found(&passwords), (Some("two".to_owned()), "in the store's URL".to_owned()));
        passwords.in_url = None;
        assert_eq!(found(&passwords), (Some("three".to_owned()), "in the variable PGPASSWORD".to_owned()));
        passwords.variable = None;
        assert_eq!(found(&passwords).0.as_deref(), Some("four"));
        assert_eq!(passwords.passed_over(), None);
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(mode)).unwrap();
            let (password, says) = found(&passwords);
            assert!(password.is_none() && says.contains("chmod 600"), "{mode:o}: {says}");
            let (path, reason) = passwords.passed_over().unwrap();
            assert!(path == passfile && reason.contains(&format!("mode {mode:04o}")), "{reason}");
        }
        passwords.passfile = Some(dir.path().to_owned());
        assert!(found(&passwords).1.contains("no plain file"));
        passwords.passfile = Some(dir.path().join("missing"));
        assert_eq!(found(&passwords), (None, String::new()), "there need not be one");
    }

    #[test]
    fn debug_shows_no_password() {
        let passwords = Passwords {
            file: None,
            in_url: Some(b"hunter2".to_vec()),
            variable: Some("hunter2".into()),
            passfile: None,
        };
        let shown = format!("{passwords:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
