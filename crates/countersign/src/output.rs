//! The output and the exit code of a command.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// It was used rightly, and could not be done: exit code 1.
    pub(crate) fn failed(sentence: impl Display) -> Self {
        Self { sentence: sentence.to_string(), code: 1 }
    }

    /// It was used wrongly: exit code 2, as `clap` does it.
    pub(crate) fn usage(sentence: impl Display) -> Self {
        Self { sentence: sentence.to_string(), code: 2 }
    }

    /// The sentence alone.
    pub(crate) fn into_sentence(self) -> String {
        self.sentence
    }

    /// Says so on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let _ = writeln!(io::stderr(), "countersign: {}", self.sentence);
        ExitCode::from(self.code)
    }
}

/// Says something on standard error that is not a failure.
pub(crate) fn note(sentence: impl Display) {
    let _ = writeln!(io::stderr(), "countersign: {sentence}");
}

/// Prints lines to standard output.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    print_while_read(text).map(drop)
}

/// Prints lines to standard output. Returns whether the reader is still there: a command that prints without end
/// stops when it has gone.
pub(crate) fn print_while_read(text: impl Display) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        // The reader closed the pipe, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints a document as it is, for a script.
pub(crate) fn print_json(document: &Value) -> Result<(), Failure> {
    print(format!("{document:#}"))
}

/// Prints some members of a document, one a line, for a person.
pub(crate) fn print_members(document: &Value, names: &[&str]) -> Result<(), Failure> {
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = names
        .iter()
        .map(|name| format!("{:width$}  {}", name.replace('_', " "), member(document, name)))
        .collect();
    print(lines.join("\n"))
}

/// A member as text: strings bare, nothing as a dash.
pub(crate) fn member(document: &Value, name: &str) -> String {
    match document.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(members)) if members.is_empty() => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}
