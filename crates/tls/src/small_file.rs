//! Reads the small files that a program is set up with: settings, secrets, certificates.
//!
//! A FIFO in the place of one would make the program wait for a writer, and `/dev/zero` would fill its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

/// The longest file with a secret, in bytes: a JWT with all the groups of its subject is far shorter.
pub const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The longest PEM file, in bytes. All authorities of a Debian machine together take 220 KB.
pub const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;

/// The longest configuration file, in bytes.
pub const MAX_SETTINGS_BYTES: u64 = 1024 * 1024;

/// Where the streams are that whoever started this program handed over: `/dev/stdin`, and `<(…)` of a shell.
const HANDED_OVER: [&str; 4] = ["/dev/stdin", "/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"];

/// Opens a file for reading, without ever waiting for a writer. A FIFO is refused, unless whoever started this program
/// handed it over: that one has a writer.
///
/// # Errors
///
/// If it cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    if !is_handed_over(path) {
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        // Otherwise opening it would wait, before anything can be known of it.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let file = options.open(path)?;
        return if file.metadata()?.file_type().is_fifo() {
            Err(io::Error::other("it is a FIFO; name a regular file"))
        } else {
            Ok(file)
        };
    }
    options.open(path)
}

#[cfg(unix)]
fn is_handed_over(path: &Path) -> bool {
    path.to_str().is_some_and(|path| HANDED_OVER.iter().any(|place| path.starts_with(place)))
}

/// Reads a file of at most so many bytes. They are wiped from memory when they are dropped.
///
/// # Errors
///
/// If it cannot be read, or is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    read_open(&open(path)?, most)
}

/// The same of a file that is open.
///
/// # Errors
///
/// Those of [`read`].
pub fn read_open(file: &File, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // With room for all of it, nothing of it is left behind in memory where it stood before.
    let length = usize::try_from(file.metadata()?.len().min(most)).unwrap_or_default();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.saturating_add(1)));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// Reads a file of text of at most so many bytes.
///
/// # Errors
///
/// Those of [`read`], and [`io::ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    text(&read(path, most)?)
}

/// The text in the bytes of a file.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if it is not UTF-8; nothing is quoted.
pub fn text(bytes: &[u8]) -> io::Result<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not text in UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn endless_file_is_refused() {
        let error = read(Path::new("/dev/zero"), 1000).unwrap_err();
        assert_eq!(error.to_string(), "it is longer than 1000 bytes");
    }

    #[test]
    fn longest_file_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'a'; 1000]).unwrap();
        assert_eq!(read_text(file.path(), 1000).unwrap().len(), 1000);
        assert!(read_text(file.path(), 999).is_err());
        assert_eq!(read(Path::new("/dev/null"), 0).unwrap().len(), 0);
    }

    #[test]
    fn fifo_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert_eq!(open(&path).unwrap_err().to_string(), "it is a FIFO; name a regular file");
    }

    /// As a shell does for `--private-bearer-file <(pass show countersign)`.
    #[test]
    fn pipe_that_is_handed_over_is_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let read = std::thread::spawn(move || read_text(Path::new(&path), 100).map(|text| text.to_string()));
        writer.write_all(b"a secret\n").unwrap();
        drop(writer);
        assert_eq!(read.join().unwrap().unwrap(), "a secret\n");
    }

    #[test]
    fn error_about_bytes_quotes_none() {
        let error = text(b"s3cret\xff").unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::InvalidData, "it is not text in UTF-8")
        );
    }
}
