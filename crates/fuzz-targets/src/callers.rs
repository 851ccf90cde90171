//! The text of a callers file.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::{Audience, MAX_LIFETIME};
use countersign_server::limits::{MAX_CALLERS, MAX_SECRETS};
use countersign_server::{AudiencePattern, CallerRule, CallersError, parse_callers};
use url::Url;

/// Reads a file's text; what is fuzzed is [`parse_callers`].
pub type Read = fn(&str) -> Result<Vec<CallerRule>, CallersError>;

/// A word of at least so many letters and digits is taken for a secret. A caller's name, which may be told, is shorter.
const LIKE_A_SECRET: usize = 33;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, parse_callers);
}

/// An accepted file names each caller and each secret once, and no pattern covers a tracker elsewhere; what is refused is
/// refused with a reason that quotes nothing long.
pub fn check(input: &[u8], read: Read) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match read(text) {
        Ok(callers) => check_accepted(&callers),
        Err(reason) => {
            let reason = reason.to_string();
            assert!(!reason.trim().is_empty(), "no reason is given");
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            for secret in words.filter(|word| word.len() >= LIKE_A_SECRET) {
                assert!(!reason.contains(&secret[..LIKE_A_SECRET]), "a secret is told: {reason}");
            }
        }
    }
}

fn check_accepted(callers: &[CallerRule]) {
    assert!(callers.len() <= MAX_CALLERS, "{} callers", callers.len());
    let names: BTreeSet<_> = callers.iter().map(|caller| &caller.name).collect();
    assert_eq!(names.len(), callers.len(), "a caller is there twice");
    let secrets: Vec<_> =
        callers.iter().flat_map(|caller| &caller.secrets).map(ToString::to_string).collect();
    assert_eq!(secrets.iter().collect::<BTreeSet<_>>().len(), secrets.len(), "a secret is there twice");
    for caller in callers {
        assert!(caller.secrets.len() <= MAX_SECRETS, "{} secrets", caller.secrets.len());
        let has_another = !caller.certificates.is_empty() || caller.jwt.is_some();
        assert!(has_another || !caller.secrets.is_empty(), "no credential");
        assert!(!caller.scopes.is_empty(), "no scopes");
        if let Some(longest) = caller.max_lifetime {
            assert!(longest >= Duration::from_secs(1) && longest <= MAX_LIFETIME, "{longest:?}");
        }
        if let Some(patterns) = &caller.audiences {
            assert!(!patterns.is_empty(), "an empty list of audiences");
            patterns.iter().for_each(check_pattern);
        }
    }
}

/// Tries spellings that could carry a pattern beyond itself.
fn check_pattern(pattern: &AudiencePattern) {
    let shown = pattern.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(pattern), "{shown} is another one when it is read again");
    let base = shown.strip_suffix("/*").unwrap_or(&shown);
    let home = Url::parse(base).expect("a pattern's base is a URL");
    let (origin, path) = (home.origin(), home.path().trim_end_matches('/'));
    let cut = base.trim_end_matches('/');
    for wanted in [
        format!("{cut}evil"),
        format!("{cut}.evil.example/"),
        format!("{cut}@evil.example/"),
        format!("{cut}:8/"),
        format!("{cut}/../evil"),
        format!("{cut}/%2e%2e/evil"),
        format!("{cut}\\..\\..\\evil"),
        format!("{cut}%2fevil"),
        format!("https://evil.example/{cut}"),
    ] {
        let Ok(audience) = Audience::parse(&wanted) else { continue };
        if pattern.covers(&audience) {
            let found = Url::parse(audience.as_str()).expect("an audience is a URL");
            let below = found.path().strip_prefix(path);
            let is_below = below.is_some_and(|below| below.is_empty() || below.starts_with('/'));
            assert!(found.origin() == origin && is_below, "{shown} covers {audience}");
        }
    }
    if let Some(only) = pattern.only() {
        assert!(pattern.covers(only), "{shown} does not cover itself");
    }
}
