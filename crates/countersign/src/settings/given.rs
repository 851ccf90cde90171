//! The settings that were given, by name, from all sources: as the texts that clap reads.
//!
//! Flags and variables are texts already, and a value of the file becomes the text that its flag would have. So one
//! parser decides what a setting takes, wherever the value comes from.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use countersign_server::{Setting, Source};
use toml::Value;

use super::Settings;
use crate::output::Failure;

/// What was given, and where. `Debug` shows the names alone, because a value can be a secret.
#[derive(Clone, Default)]
pub(crate) struct Given(BTreeMap<String, (Source, Vec<OsString>)>);

/// Why a value is no value of a setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no setting of that name.
    Unknown,
    /// The setting does not take such a value. `help` says which it takes, `reason` what is wrong, where that is known.
    Value { help: String, reason: Option<String> },
}

impl Given {
    /// The names of all settings.
    pub(super) fn names() -> Vec<String> {
        definition().get_arguments().map(|arg| arg.get_id().to_string()).collect()
    }

    /// A setting that another command has as a flag of its own.
    pub(crate) fn flag(mut self, name: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        if let Some(value) = value {
            self.0.insert(name.to_owned(), (Source::Flag, vec![value.as_ref().to_owned()]));
        }
        self
    }

    /// Adds a setting with a value of the kind that it has in the configuration file.
    pub(super) fn add(&mut self, name: &str, value: &Value, source: Source) -> Result<(), Fault> {
        let definition = definition();
        let arg = definition.get_arguments().find(|arg| arg.get_id() == name).ok_or(Fault::Unknown)?;
        let fault = |reason| {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Fault::Value { help, reason }
        };
        let texts: Vec<OsString> = texts(arg, value).ok_or_else(|| fault(None))?;
        let one = Self(BTreeMap::from([(name.to_owned(), (source, texts))]));
        // A number's parser may quote the number; a text's parser quotes nothing.
        one.parse().map_err(|error| {
            let reason = std::error::Error::source(&error).filter(|_| !is_number(arg));
            fault(reason.map(ToString::to_string))
        })?;
        self.0.extend(one.0);
        Ok(())
    }

    /// The settings that a server says are in force.
    pub(super) fn in_force(said: &[Setting]) -> Result<Self, Failure> {
        let mut given = Self::default();
        for Setting { name, value, source } in said {
            let Some(value) = value else { continue };
            let not_understood =
                || Failure::failed(format!("`{name}` has a value that this version does not know"));
            let value = Value::try_from(value).map_err(|_| not_understood())?;
            given.add(name, &value, *source).map_err(|_| not_understood())?;
        }
        Ok(given)
    }

    /// These settings, except where `over` says something.
    pub(super) fn overlaid_with(mut self, over: Self) -> Self {
        self.0.extend(over.0);
        self
    }

    /// Where a setting was given.
    pub(super) fn source(&self, name: &str) -> Source {
        self.0.get(name).map_or(Source::Default, |(source, _)| *source)
    }

    /// The path that was given for a setting.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.0.get(name)?.1.first().map(Path::new)
    }

    /// All settings, with the defaults of those that were not given.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        // Each was read by itself before, with its place; what is wrong here is another command's flag.
        self.parse().map_err(|_| {
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            Failure::usage(format!(
                "one of these settings has a value that cannot be used: {}",
                names.join(", ")
            ))
        })
    }

    fn parse(&self) -> Result<Settings, clap::Error> {
        let flags = self.0.iter().flat_map(|(name, (_, texts))| {
            texts.iter().map(move |text| {
                let mut flag = OsString::from(format!("--{}=", name.replace('_', "-")));
                flag.push(text);
                flag
            })
        });
        Settings::from_arg_matches(&definition().try_get_matches_from(flags)?)
    }
}

/// Which variables and flags were given, as clap has found them.
impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = Self::names().into_iter().filter_map(|name| {
            let source = match matches.value_source(&name)? {
                ValueSource::CommandLine => Source::Flag,
                ValueSource::EnvVariable => Source::Variable,
                _ => return None,
            };
            let texts = matches.get_raw(&name)?.map(OsStr::to_owned).collect();
            Some((name, (source, texts)))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        // `--help` is as short as `-h`; the sample file has the rest.
        Settings::augment_args(command).mut_args(|arg| arg.long_help(Resettable::Reset))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The flags of the settings alone, for values from anywhere; variables have been looked at.
pub(super) fn definition() -> Command {
    let flags = Settings::augment_args(Command::new("settings").no_binary_name(true).disable_help_flag(true));
    flags.mut_args(|arg| arg.env(Resettable::Reset))
}

/// Whether a setting is written without quotes in the file.
pub(super) fn is_bare(arg: &Arg) -> bool {
    is_number(arg) || arg.get_value_parser().type_id() == TypeId::of::<bool>()
}

fn is_number(arg: &Arg) -> bool {
    let kind = arg.get_value_parser().type_id();
    [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<f64>()]
        .iter()
        .any(|number| kind == *number)
}

/// The texts of a value; `None` if it is of another kind than the setting.
fn texts(arg: &Arg, value: &Value) -> Option<Vec<OsString>> {
    let text = match value {
        Value::Array(values) if arg.get_value_delimiter().is_some() => {
            return values.iter().map(|value| Some(value.as_str()?.into())).collect();
        }
        Value::String(text) if !is_bare(arg) && arg.get_value_delimiter().is_none() => text.clone(),
        Value::Integer(number) if is_number(arg) => number.to_string(),
        Value::Float(number) if is_number(arg) => number.to_string(),
        Value::Boolean(value) if is_bare(arg) && !is_number(arg) => value.to_string(),
        _ => return None,
    };
    Some(vec![text.into()])
}
