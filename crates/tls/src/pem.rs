//! PEM (RFC 7468): text with sections between `-----BEGIN …-----` and `-----END …-----`.

use std::io::ErrorKind;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::small_file;

const BEGIN: &[u8] = b"-----BEGIN ";

/// Why a PEM text cannot be used. It describes the fault and never quotes the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is no certificate.
    #[error("it holds no certificate; a PEM certificate begins with the line -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// There is no private key.
    #[error("it holds no private key; a PEM key begins with a line such as -----BEGIN PRIVATE KEY-----")]
    NoKey,
    /// The key is protected by a passphrase, and the program has no way to ask for it.
    #[error(
        "its private key is encrypted with a passphrase; decrypt it into a file that only the server's user can read: \
         `openssl pkey -in ENCRYPTED -out PLAIN`"
    )]
    Encrypted,
    /// The line ends are gone, as when a variable was pasted into a file.
    #[error(
        "its lines are joined: each -----BEGIN and each -----END must stand in a line of its own; restore the line ends \
         (a literal \\n is none)"
    )]
    JoinedLines,
    /// A section does not end.
    #[error("a section of it has no -----END line, so it is cut off; copy the whole file again")]
    CutOff,
    /// Not Base64.
    #[error("a section of it is not valid Base64; copy the whole file again")]
    NotBase64,
    /// Far longer than any such file.
    #[error("it is longer than 4 MiB, which no such file is")]
    TooLong,
    /// A certificate that cannot vouch for others.
    #[error("a certificate in it cannot be used as an authority: {0}")]
    Authority(String),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Io(String),
}

/// Reads a file that may hold a private key. What was read is wiped from memory when it is dropped.
///
/// # Errors
///
/// If it cannot be read or is longer than 4 MiB.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PemError> {
    small_file::read(path, small_file::MAX_PEM_BYTES).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => PemError::TooLong,
        _ => PemError::Io(error.to_string()),
    })
}

/// Every certificate in a PEM text, in its order; at least one.
///
/// # Errors
///
/// If there is none, or a section is broken.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err(fault(pem, PemError::NoCertificate)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(describe(pem, &error, PemError::NoCertificate)),
    }
}

/// The first private key in a PEM text: PKCS #8, PKCS #1 or SEC 1.
///
/// # Errors
///
/// If there is none, it is encrypted, or a section is broken.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| describe(pem, &error, PemError::NoKey))
}

/// What is wrong, in words of our own: the parser's error quotes the text.
fn describe(pem: &[u8], error: &pem::Error, none: PemError) -> PemError {
    let otherwise = match error {
        pem::Error::MissingSectionEnd { .. } => PemError::CutOff,
        pem::Error::IllegalSectionStart { .. } => PemError::JoinedLines,
        pem::Error::SectionTooLarge => PemError::TooLong,
        pem::Error::NoItemsFound => none,
        // The type may get new variants; they are not quoted either.
        _ => PemError::NotBase64,
    };
    fault(pem, otherwise)
}

/// A more helpful fault than `otherwise`, if the text shows one.
fn fault(pem: &[u8], otherwise: PemError) -> PemError {
    let contains = |part: &[u8]| pem.windows(part.len()).any(|window| window == part);
    let begins = pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
    let lines_that_begin =
        pem.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| is_begin_line(line)).count();
    if contains(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(b"Proc-Type: 4,ENCRYPTED") {
        PemError::Encrypted
    } else if begins > lines_that_begin {
        PemError::JoinedLines
    } else {
        otherwise
    }
}

/// Whether a line is `-----BEGIN …-----` and nothing else.
fn is_begin_line(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let label = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(b"-----"));
    label.is_some_and(|label| label.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b' '))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key that is one only by its form. Its Base64 has a word that can be looked for.
    const KEY: &str =
        "-----BEGIN PRIVATE KEY-----\nAAAAsEcretKeyMaterialsEcretKeyMaterialAA\n-----END PRIVATE KEY-----\n";

    fn key_error(pem: &str) -> PemError {
        private_key(pem.as_bytes()).unwrap_err()
    }

    #[test]
    fn every_key_format_is_read() {
        assert!(private_key(KEY.as_bytes()).is_ok());
        assert!(private_key(KEY.replace('\n', "\r\n").as_bytes()).is_ok());
        assert!(private_key(format!("a note\n{KEY}").as_bytes()).is_ok());
    }

    #[test]
    fn each_unusable_pem_file_is_named() {
        for (pem, fault) in [
            (KEY.replace('\n', "\\n"), PemError::JoinedLines),
            (KEY.replace('\n', " "), PemError::JoinedLines),
            (KEY.replace('\n', ""), PemError::JoinedLines),
            (KEY.replace("-----END PRIVATE KEY-----\n", ""), PemError::CutOff),
            (KEY.replace("AAAAs", "AA-As"), PemError::NotBase64),
            (KEY.replace("PRIVATE", "ENCRYPTED PRIVATE"), PemError::Encrypted),
            (KEY.replace("AAAAs", "Proc-Type: 4,ENCRYPTED\n\nAAAAs"), PemError::Encrypted),
            (KEY.replace("PRIVATE KEY", "CERTIFICATE"), PemError::NoKey),
            (String::new(), PemError::NoKey),
        ] {
            assert_eq!(key_error(&pem), fault, "{pem}");
        }
        assert_eq!(certificates(KEY.as_bytes()), Err(PemError::NoCertificate));
        assert_eq!(certificates(b""), Err(PemError::NoCertificate));
        let broken = KEY.replace("PRIVATE KEY", "CERTIFICATE");
        assert!(matches!(crate::authorities(broken.as_bytes()), Err(PemError::Authority(_))));
    }

    #[test]
    fn missing_file_is_reported() {
        assert!(matches!(read(Path::new("/does/not/exist")), Err(PemError::Io(_))));
    }

    proptest! {
        /// For every kind of damage: a file cut, joined, doubled, or with bytes replaced.
        #[test]
        fn no_error_quotes_the_key(
            cut in 0..KEY.len(),
            separator in "[ \\\\n\t\r\n-]{0,3}",
            at in 0..KEY.len(),
            inserted in "[ -~\n]{0,4}",
        ) {
            let joined = KEY.replace('\n', &separator);
            let mut changed = joined.clone();
            changed.insert_str(at.min(joined.len()), &inserted);
            let tail = KEY.get(cut..).unwrap_or_default();
            for pem in [joined.as_str(), &changed, tail, &format!("{tail}{joined}")] {
                let errors = [
                    private_key(pem.as_bytes()).err(),
                    certificates(pem.as_bytes()).err(),
                    crate::authorities(pem.as_bytes()).err(),
                ];
                for error in errors.into_iter().flatten() {
                    for text in [error.to_string(), format!("{error:?}")] {
                        // The parser would print bytes as numbers: 115, 69 is "sE".
                        prop_assert!(!text.contains("sEcret") && !text.contains("115, 69"), "{text}");
                    }
                }
            }
        }
    }
}
