//! The settings as they were given, for reports: without secrets, and with absolute paths.

use std::path::{Path, PathBuf};

use clap::Arg;
use countersign_server::{Setting, Source, absolute};
use countersign_store::place::StoreUrl;
use countersign_store::postgres::LibpqEnvironment;
use serde_json::Value;
use url::Url;

use super::given::{Given, definition};
use super::{Resolved, Settings, libpq_environment};
use crate::output::Failure;

/// Every setting. A setting that was not given has its default and no value.
pub(super) fn settings(
    settings: &Settings,
    given: &Given,
    libpq: &LibpqEnvironment,
) -> Result<Vec<Setting>, Failure> {
    let values = serde_json::to_value(settings).map_err(Failure::usage)?;
    let said = definition()
        .get_arguments()
        .map(|arg| {
            let name = arg.get_id().as_str();
            let source = given.source(name);
            let value = values.get(name).filter(|_| source != Source::Default);
            Setting { name: name.to_owned(), value: value.and_then(|value| shown(arg, value, libpq)), source }
        })
        .collect();
    Ok(said)
}

/// A value without what is secret in it. Of a URL, all but scheme, host and port can be a secret.
fn shown(arg: &Arg, value: &Value, libpq: &LibpqEnvironment) -> Option<Value> {
    let Value::String(text) = value else { return Some(value.clone()) };
    let text = match (arg.get_id().as_str(), value_name(arg)) {
        ("store", _) => match StoreUrl::read(text, libpq).ok()? {
            StoreUrl::Sqlite(Some(path)) => StoreUrl::Sqlite(Some(absolute(&path))).to_string(),
            url => url.to_string(),
        },
        // Every token's URL begins with it.
        ("public_url", _) => text.clone(),
        (_, "URL") => text.parse::<Url>().ok()?.origin().ascii_serialization(),
        (_, "FILE" | "DIR") => absolute(Path::new(text)).display().to_string(),
        _ => match text.strip_prefix("unix:") {
            Some(path) => format!("unix:{}", absolute(Path::new(path)).display()),
            None => text.clone(),
        },
    };
    Some(Value::String(text))
}

/// What the help calls a setting's value.
fn value_name(arg: &Arg) -> &str {
    arg.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str())
}

/// Gives the place of something that was not set: the default depends on the directory that the server was started in.
pub(super) fn name_places(said: &mut [Setting], places: &[(&str, &Path)]) {
    for (name, path) in places {
        for setting in said.iter_mut().filter(|setting| setting.name == *name) {
            setting.value = Some(absolute(path).display().to_string().into());
        }
    }
}

/// Where a setting was given, so that it can be changed there.
pub(crate) fn giver(resolved: &Resolved, name: &str) -> String {
    let setting = resolved.said.iter().find(|setting| setting.name == name);
    match setting.map_or(Source::Default, |setting| setting.source) {
        Source::Flag => format!("the flag --{}", name.replace('_', "-")),
        Source::Variable => format!("the variable COUNTERSIGN_{}", name.to_uppercase()),
        Source::File | Source::Default => match &resolved.config_file {
            Some(file) => format!("`{name}` in {}", file.display()),
            None => format!("`{name}`"),
        },
    }
}

/// The server's behaviour that follows from the settings that it reports.
///
/// # Errors
///
/// If this version does not understand them.
pub(crate) fn resolve(said: &[Setting], config_file: Option<PathBuf>) -> Result<Resolved, Failure> {
    let resolved = Given::in_force(said)?.resolve(&libpq_environment())?;
    Ok(Resolved { said: said.to_vec(), config_file, ..resolved })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_hides_secrets_and_can_be_resolved() {
        let text = "
            store = 'postgres://anna:hUnter2@db.example/x?sslmode=require'
            alarm_webhook = 'https://alarms.example/hUnter2'
            alarm_secret_file = 'secret'
            traces = 'https://traces.example/hUnter2'
            public_listen = 'unix:public.sock'
            public_url = 'https://lp.example.org/prefix'
            token_lifetime = '90s'
            trusted_proxies = ['10.0.0.0/8']
            spent_status = 410
        ";
        let resolved =
            super::super::file::parse(text).unwrap().resolve(&LibpqEnvironment::default()).unwrap();
        let shown = serde_json::to_string(&resolved.said).unwrap();
        assert!(!shown.contains("hUnter2") && shown.contains("https://alarms.example\""), "{shown}");
        let again = resolve(&resolved.said, None).unwrap();
        assert_eq!((again.policy, again.proxies.networks.len()), (resolved.policy, 1));
        assert_eq!(again.public_url, resolved.public_url);
        assert_eq!(again.data_dir, absolute(Path::new("countersign-data")));
        assert!(again.private.address == resolved.private.address && again.alarms.is_some());
        let lifetime = resolved.said.iter().find(|setting| setting.name == "token_lifetime").unwrap();
        assert_eq!(lifetime.source, Source::File);
        let issuer = resolved.said.iter().find(|setting| setting.name == "issuer").unwrap();
        assert_eq!((issuer.source, &issuer.value), (Source::Default, &None));
        assert!(shown.contains(&absolute(Path::new("public.sock")).display().to_string()), "{shown}");
    }
}
