//! The Netscape cookie file, which curl, wget and Python's `http.cookiejar` read.
//!
//! Seven fields, separated by tabs: domain, whether hosts below it are included, path, whether TLS is required, when
//! it ends in seconds since 1970 (0: with the session), name, value. Source: curl's page "HTTP Cookies".

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::Session;

/// The first line, by which programs know the format.
const MAGIC: &str = "# Netscape HTTP Cookie File";

/// The same of the first programs that had it.
const OLD_MAGIC: &str = "# HTTP Cookie File";

/// Why a cookie jar is not written.
#[derive(Debug, thiserror::Error)]
pub enum CookieJarError {
    /// There is something that must not be lost.
    #[error("{0} exists and is not a cookie jar, so it is left alone; name another file")]
    NotACookieJar(String),
    /// The system says no.
    #[error("cannot write the cookie jar {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        reason: io::Error,
    },
}

impl Session {
    /// The session as the text of a cookie jar.
    pub fn cookie_jar(&self) -> String {
        let mut jar = format!("{MAGIC}\n# {} {}, written by countersign login\n\n", self.tracker, self.url);
        for cookie in &self.cookies {
            let http_only = if cookie.http_only { "#HttpOnly_" } else { "" };
            let (dot, below) = if cookie.host_only { ("", "FALSE") } else { (".", "TRUE") };
            let secure = if cookie.secure { "TRUE" } else { "FALSE" };
            let expires = cookie.expires.map_or(0, jiff::Timestamp::as_second);
            // An IPv6 address has no brackets there.
            let domain = cookie.domain.trim_matches(['[', ']']);
            // Writing to a String cannot fail.
            let _ = writeln!(
                jar,
                "{http_only}{dot}{domain}\t{below}\t{}\t{secure}\t{expires}\t{}\t{}",
                cookie.path, cookie.name, cookie.value
            );
        }
        jar
    }

    /// Writes the session to a cookie jar that only its owner can read.
    ///
    /// A cookie jar that is there already is replaced, as a whole or not at all. See [`check_cookie_jar`].
    pub fn write_cookie_jar(&self, path: &Path) -> Result<(), CookieJarError> {
        check_cookie_jar(path)?;
        self.replace(path).map_err(|reason| io_error(path, reason))
    }

    /// Temporary files are made with mode 0600, and a rename keeps it.
    fn replace(&self, path: &Path) -> io::Result<()> {
        let mut file = NamedTempFile::new_in(directory(path))?;
        file.write_all(self.cookie_jar().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

/// Whether a cookie jar may be written there: nothing is there yet, or an empty file, or another cookie jar. To be asked
/// before a token is spent on a session that could not be kept.
pub fn check_cookie_jar(path: &Path) -> Result<(), CookieJarError> {
    let not_a_jar = || CookieJarError::NotACookieJar(path.display().to_string());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let metadata = fs::metadata(directory(path)).map_err(|reason| io_error(path, reason))?;
            if metadata.is_dir() { Ok(()) } else { Err(io_error(path, ErrorKind::NotADirectory.into())) }
        }
        Err(reason) => Err(io_error(path, reason)),
        // A link is not followed: another user may have chosen its target.
        Ok(metadata) if !metadata.is_file() => Err(not_a_jar()),
        Ok(metadata) if metadata.len() == 0 => Ok(()),
        Ok(_) => {
            let mut start = Vec::new();
            let file = File::open(path).map_err(|reason| io_error(path, reason))?;
            file.take(64).read_to_end(&mut start).map_err(|reason| io_error(path, reason))?;
            let is_jar = [MAGIC, OLD_MAGIC].iter().any(|magic| {
                start
                    .strip_prefix(magic.as_bytes())
                    .is_some_and(|rest| matches!(rest, [] | [b'\n' | b'\r', ..]))
            });
            if is_jar { Ok(()) } else { Err(not_a_jar()) }
        }
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn io_error(path: &Path, reason: io::Error) -> CookieJarError {
    CookieJarError::Io { path: path.display().to_string(), reason }
}
