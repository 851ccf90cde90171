//! The text of a configuration file.

use std::time::Duration;

use countersign::check_configuration;
use countersign_core::{MAX_LIFETIME, Policy};
use toml::{Table, Value};

/// The least time for which records are kept after a token's expiry.
const MIN_RETENTION: Duration = Duration::from_mins(2);

/// Reads a file's text; what is fuzzed is [`check_configuration`].
pub type Read = fn(&str) -> Result<Policy, String>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, check_configuration);
}

/// An accepted file holds known settings only, each once, all in range, and means the same when it is written anew; what
/// is refused is refused with a reason.
pub fn check(input: &[u8], read: Read) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match read(text) {
        Ok(policy) => check_accepted(text, &policy, read),
        Err(reason) => assert!(!reason.trim().is_empty(), "no reason is given"),
    }
}

fn check_accepted(text: &str, policy: &Policy, read: Read) {
    let settings: Table = text.parse().expect("an accepted file is TOML");
    in_range(&settings, policy);

    let anew = toml::to_string(&settings).expect("a table can be written");
    assert_eq!(read(&anew).as_ref(), Ok(policy), "the same settings, written anew: {anew}");
    assert!(read(&format!("no_such_setting = 1\n{anew}")).is_err(), "an unknown setting is accepted");
    if !settings.is_empty() {
        assert!(read(&format!("{anew}\n{anew}")).is_err(), "a setting is accepted twice");
    }
}

fn in_range(settings: &Table, policy: &Policy) {
    let whole = |duration: Duration| duration.subsec_nanos() == 0;
    assert!(whole(policy.lifetime) && whole(policy.retention), "{policy:?}");
    assert!(policy.lifetime >= Duration::from_secs(1) && policy.lifetime <= MAX_LIFETIME, "{policy:?}");
    assert!(policy.retention >= MIN_RETENTION, "{policy:?}");
    let required = settings.get("require_audience").and_then(Value::as_bool).unwrap_or_default();
    assert_eq!(policy.require_audience, required);
    for (name, value) in settings {
        let in_range = match (name.as_str(), value) {
            ("token_lifetime" | "retention" | "store", Value::String(_))
            | ("require_audience", Value::Boolean(_)) => true,
            ("spent_status", Value::Integer(status)) => [401, 410].contains(status),
            ("refusals_per_minute", Value::Integer(number)) => u32::try_from(*number).is_ok(),
            ("public_url", Value::String(url)) => {
                // A URL may have white space in it, which is passed over.
                let graphic: String = url.chars().filter(char::is_ascii_graphic).collect();
                graphic.to_ascii_lowercase().starts_with("http") && !url.contains(['?', '#'])
            }
            ("issuer", Value::String(name)) => !name.trim().is_empty() && !name.contains('\n'),
            ("public_listen" | "private_listen", Value::String(address)) => address.contains(':'),
            ("trusted_proxies", Value::Array(networks)) => networks.iter().all(Value::is_str),
            ("forwarded_header", Value::String(header)) => {
                ["x-forwarded-for", "forwarded"].contains(&header.as_str())
            }
            ("log_format", Value::String(format)) => ["human", "json"].contains(&format.as_str()),
            // A setting that is not named above can have any value but these.
            (_, value) => !value.is_table() && !value.is_datetime(),
        };
        assert!(in_range, "{name} = {value} is accepted");
    }
}
