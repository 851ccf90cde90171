//! The short texts that name something: a bug tracker, a store, a place to listen.

use std::path::Path;

use countersign_core::{Audience, AudienceError, MAX_AUDIENCE_BYTES};
use countersign_server::Address;
use countersign_store::place::StoreUrl;

/// Reads an audience; what is fuzzed is [`Audience::parse`].
pub type ParseAudience = fn(&str) -> Result<Audience, AudienceError>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, Audience::parse);
}

/// A tracker's URL has one normal form, an address is read again as it is shown, and a store is the one in its URL.
pub fn check(input: &[u8], parse: ParseAudience) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    check_audience(text, parse);
    check_address(text);
    check_store(text);
}

fn check_audience(text: &str, parse: ParseAudience) {
    let Ok(audience) = parse(text) else { return };
    let normal = audience.as_str();
    assert_eq!(parse(normal).as_ref(), Ok(&audience), "normalising twice changes something");
    assert!(normal.len() <= MAX_AUDIENCE_BYTES, "{} bytes: {normal}", normal.len());
    let rest = normal.strip_prefix("https://").or(normal.strip_prefix("http://"));
    let (host, path) = rest.and_then(|rest| rest.split_once('/')).expect("a scheme, a host and a path");
    assert!(!host.is_empty() && !host.contains('@'), "{normal}");
    assert!(!path.ends_with('/') && !path.contains(['?', '#']), "{normal}");
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal:?}");
}

fn check_address(text: &str) {
    let Ok(address) = text.parse::<Address>() else { return };
    let shown = address.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&address), "{text:?} is shown as {shown:?}");
}

fn check_store(text: &str) {
    let data_dir = Path::new("/data");
    match text.parse::<StoreUrl>() {
        Ok(url @ StoreUrl::Sqlite(_)) => {
            let file = url.database(data_dir).expect("a file");
            let rest = text.strip_prefix("sqlite:").unwrap_or_default();
            let named = Path::new(rest.strip_prefix("//").unwrap_or(rest));
            if named.as_os_str().is_empty() {
                assert!(file.starts_with(data_dir), "{text:?} is {}", file.display());
            } else if named.symlink_metadata().is_err() {
                // A name that is no link stays as it is.
                assert_eq!(file.file_name(), named.file_name(), "{text:?} is {}", file.display());
            }
        }
        Ok(StoreUrl::Postgres(url)) => {
            // The printed form has no password and names the same place when it is read again.
            let shown = url.to_string();
            if let Ok(again) = shown.parse::<StoreUrl>() {
                assert_eq!(again.to_string(), shown, "{text:?} is shown as {shown:?}");
            }
        }
        Ok(StoreUrl::Memory) => assert_eq!(text, "memory:"),
        Err(_) => {}
    }
}
