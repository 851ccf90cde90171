//! The configuration file: where it is, and what is wrong with it.
//!
//! A line of it can hold a password. So an error gives the line's number, the column and the setting's name, and never a
//! value: neither the one that is wrong nor the line around it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use countersign_server::Source;
use countersign_tls::small_file;
use toml::{Spanned, Value};

use super::given::{Fault, Given};
use crate::output::Failure;
use crate::suggest::similar;

/// The machine's file. It comes first, so a working directory cannot replace it by accident.
const OF_THE_MACHINE: &str = "/etc/countersign/countersign.toml";

/// The file of the working directory, used where the machine has none.
const OF_THE_DIRECTORY: &str = "countersign.toml";

/// What is wrong with a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileError {
    line: usize,
    column: usize,
    fault: FileFault,
}

#[derive(Debug, PartialEq, Eq)]
enum FileFault {
    /// It is not TOML there.
    Syntax,
    /// The same setting stands there twice.
    Twice(String),
    /// The key, and what is wrong with it or with its value.
    Setting(String, Fault),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        match &self.fault {
            FileFault::Syntax => f.write_str(
                "this is not TOML; write a setting as `name = value` in a line of its own, with text in quotes, such as \
                 `store = \"sqlite:\"`",
            ),
            FileFault::Twice(key) => write!(f, "`{key}` is set a second time; remove one of the two"),
            FileFault::Setting(key, Fault::Unknown) => {
                write!(f, "there is no setting `{key}`; ")?;
                match similar(key, Given::names().iter().map(String::as_str)) {
                    Some(similar) => write!(f, "did you mean `{similar}`?"),
                    None => f.write_str("`countersign serve --help` lists them all, with _ for each -"),
                }
            }
            FileFault::Setting(key, Fault::Value { help, reason }) => {
                write!(f, "`{key}` does not take this value")?;
                reason.iter().try_for_each(|reason| write!(f, ": {reason}"))?;
                write!(f, ". {key}: {help}")
            }
        }
    }
}

/// The configuration file to use: the one that is named, or else the machine's, or else the working directory's.
///
/// # Errors
///
/// If a file is there and cannot be looked at: settings that were made must not be passed over in silence.
pub(super) fn find(named: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    if named.is_some() {
        return Ok(named);
    }
    let machine =
        if is_there(Path::new(OF_THE_MACHINE))? { Some(PathBuf::from(OF_THE_MACHINE)) } else { None };
    let directory = is_there(Path::new(OF_THE_DIRECTORY))?.then(|| PathBuf::from(OF_THE_DIRECTORY));
    if let (Some(_), Some(passed_over)) = (&machine, &directory) {
        crate::output::note(format!(
            "the settings of this machine, {OF_THE_MACHINE}, are used, and {} is not read; name it with --config to use it",
            passed_over.display()
        ));
    }
    Ok(machine.or(directory))
}

/// Whether something stands at a path, also a link that leads nowhere.
fn is_there(path: &Path) -> Result<bool, Failure> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(false)
        }
        Err(error) => Err(Failure::usage(format!(
            "cannot tell whether there is a configuration file {}: {error}; let this user enter its directory, or name \
             the file to use with --config (/dev/null for none)",
            path.display()
        ))),
    }
}

/// Reads a configuration file.
pub(super) fn read(path: &Path) -> Result<Given, Failure> {
    let text = small_file::read_text(path, small_file::MAX_SETTINGS_BYTES).map_err(|error| {
        Failure::usage(format!("cannot read the configuration file {}: {error}", path.display()))
    })?;
    parse(&text).map_err(|error| Failure::usage(format!("configuration file {}, {error}", path.display())))
}

/// Reads the text of a configuration file. Reports the first of several faults.
pub(super) fn parse(text: &str) -> Result<Given, FileError> {
    let table: BTreeMap<Spanned<String>, Spanned<Value>> =
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let span = error.span().unwrap_or_default();
            let key = text.get(span.clone()).filter(|key| Given::names().iter().any(|name| name == key));
            let fault = match key {
                Some(key) if error.message().starts_with("duplicate key") => FileFault::Twice(key.to_owned()),
                _ => FileFault::Syntax,
            };
            FileError::new(text, span.start, fault)
        })?;
    let mut in_order: Vec<_> = table.iter().collect();
    in_order.sort_by_key(|(key, _)| key.span().start);
    let mut given = Given::default();
    for (key, value) in in_order {
        given.add(key.get_ref(), value.get_ref(), Source::File).map_err(|fault| {
            let at = if fault == Fault::Unknown { key.span() } else { value.span() };
            FileError::new(text, at.start, FileFault::Setting(key.get_ref().clone(), fault))
        })?;
    }
    Ok(given)
}

impl FileError {
    /// A fault at a byte of the text. Lines and columns are counted from 1.
    fn new(text: &str, at: usize, fault: FileFault) -> Self {
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        Self { line, column, fault }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn configuration_fault_is_named_with_its_place() {
        for (text, says) in [
            (
                "\nstroe = \"postgres://cs:hunter2@db/x\"",
                "line 2, column 1: there is no setting `stroe`; did you mean `store`?",
            ),
            (
                "colour = 'red'",
                "line 1, column 1: there is no setting `colour`; `countersign serve --help` lists",
            ),
            ("issuer = 'a'\nissuer = 'b'", "line 2, column 1: `issuer` is set a second time"),
            ("issuer = 'a'\n  store = postgres://cs:hunter2@db/x", "line 2"),
            ("store postgres://cs:hunter2@db/x", "this is not TOML; write a setting as `name = value`"),
            (
                "token_lifetime = 5",
                "`token_lifetime` does not take this value. token_lifetime: How long a token lives, such as 90s",
            ),
            ("spent_status = 'gone'", "`spent_status` does not take this value"),
            ("trusted_proxies = [\n  'here',\n]", "`trusted_proxies` does not take this value"),
            (
                "trusted_proxies = [\n  5,\n]",
                "line 1, column 19: `trusted_proxies` does not take this value. ",
            ),
            ("\"issuer\" = 5", "`issuer` does not take this value. issuer: The issuer's name"),
            (
                "token_lifetime = '5'",
                "`token_lifetime` does not take this value: write a number and its unit, such as 90s, 5m or 24h. ",
            ),
            ("[server]\nissuer = 'a'", "there is no setting `server`"),
            ("server.issuer = 'a'", "there is no setting `server`"),
        ] {
            let error = error(text);
            assert!(error.contains(says), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    proptest! {
        /// A secret in each setting, in each form in which people get a line wrong.
        #[test]
        fn no_error_quotes_a_value(
            setting in 0_usize..64,
            form in 0_usize..16,
            noise in "[ \"'=#\\[\\]{}\\\\,.:@/\n-]{0,3}",
            at in 0_usize..80,
        ) {
            const SECRET: &str = "hUnter2sEcret";
            let names = Given::names();
            let name = names.get(setting % names.len()).map_or("store", String::as_str);
            let value = format!("postgres://cs:{SECRET}@db.example/x");
            let forms = [
                format!("{name} = \"{value}\""),
                format!("{name} = '{SECRET}'"),
                format!("{name} = {value}"),
                format!("{name} = {SECRET}"),
                format!("{name}: {value}"),
                format!("{name} \"{value}\""),
                format!("{name}x = \"{value}\""),
                format!("{name} = \"{value}"),
                format!("{name} = \"\"\"\n{SECRET} = 1\n\"\"\""),
                format!("{name} = [\"{SECRET}\"]"),
                format!("{name} = {{ a = \"{SECRET}\" }}"),
                format!("{name} = \"\\{SECRET}\""),
                format!("[{name}]\na = \"{SECRET}\""),
                format!("{name} = \"{value}\"\n{name} = \"{value}\""),
                format!("{name} = '{value}' '{SECRET}'"),
                format!("{name} = \"a\" # {SECRET}\n= {SECRET}"),
            ];
            let mut text = forms.get(form).cloned().unwrap_or_default();
            let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            // Noise inside the secret would hide it from this test.
            let start = text.find(SECRET).unwrap_or(0);
            if !(start + 1..start + SECRET.len()).contains(&at) {
                text.insert_str(at, &noise);
            }
            if let Err(error) = crate::settings::check(&text) {
                prop_assert!(!error.contains("hUnter2") && !error.contains("sEcret"), "{text}\n{error}");
            }
        }
    }
}
