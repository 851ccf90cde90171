//! Whether a stranger could guess the cookies of a session.
//!
//! Everybody who ever had a session knows what all sessions have in common, so only what changes counts. Of that, a stranger
//! can work out what follows from the token, from the time or from a number that goes up.

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use jiff::Timestamp;
use md5::Md5;
use percent_encoding::percent_decode;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// The fewest bits that must change from session to session. A new plugin has 128; the sessions of Bugzilla itself have 59.5, and
/// nobody tries those out over a network.
const FEWEST_BITS: f64 = 56.0;

/// So many characters of a token or of a digest in a row are no coincidence.
const NO_COINCIDENCE: usize = 12;

/// The numbers that a counter of sessions is tried with.
const COUNTERS: u32 = 2000;

/// How far the clock of the tracker may be off when a digest of the time is looked for, in seconds.
const SECONDS_OFF: i64 = 5;

/// How long after the worker set out the tracker makes the session, in milliseconds, if it has the same clock.
const MILLISECONDS: i64 = 3000;

/// Names that the issuer's user may have.
const USERS: [&str; 3] = ["launchpad", "issuer", "admin"];

const SEPARATORS: [&str; 5] = ["", ":", "-", ".", "|"];

/// So many bytes of a cookie are looked at.
const LONGEST: usize = 4096;

/// What is known of a login by those who could guess its session.
pub(super) struct Login<'a> {
    pub(super) token: &'a str,
    pub(super) began: Timestamp,
    /// The value of the cookie.
    pub(super) value: &'a str,
}

/// How the values of one cookie in these logins can be guessed; `None` if there seems to be no way.
pub(super) fn how(logins: &[Login<'_>]) -> Option<String> {
    if let Some(source) = logins.iter().find_map(contains_token) {
        return Some(source);
    }
    // Looking for digests takes time; what one login has, the others have.
    if let Some(source) = logins.first().and_then(digest_of_known) {
        return Some(source);
    }
    let values: Vec<&str> = logins.iter().map(|login| login.value).collect();
    let bits = changing_bits(&values);
    (bits < FEWEST_BITS)
        .then(|| format!("no more than {} bits of it change from login to login", bits.floor()))
}

fn contains_token(login: &Login<'_>) -> Option<String> {
    let token = login.token.to_ascii_lowercase();
    let reversed: String = token.chars().rev().collect();
    for form in forms(login.value) {
        let form = form.to_ascii_lowercase();
        for (known, what) in [(&token, "a part of the token"), (&reversed, "a part of the token, reversed")] {
            if known.as_bytes().windows(NO_COINCIDENCE).any(|part| holds(&form, part)) {
                return Some(format!("it has {what} in it"));
            }
        }
        // Too short to hold so many characters: it is all that there is of the token.
        let is_piece = form.len() >= 4 && form.len() < NO_COINCIDENCE;
        if is_piece
            && (token.starts_with(&*String::from_utf8_lossy(&form))
                || token.ends_with(&*String::from_utf8_lossy(&form)))
        {
            return Some("it is the beginning or the end of the token".to_owned());
        }
    }
    None
}

/// The value as it is, and what it says where it is written in hexadecimal or base64.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let plain: Vec<u8> =
        percent_decode(value.as_bytes().get(..LONGEST).unwrap_or(value.as_bytes())).collect();
    let mut forms = vec![plain.clone()];
    for encoding in [HEXLOWER_PERMISSIVE, BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD] {
        forms.extend(encoding.decode(&plain));
    }
    forms
}

fn digest_of_known(login: &Login<'_>) -> Option<String> {
    let forms = forms(login.value);
    let plain = String::from_utf8_lossy(forms.first()?).into_owned();
    let lower = plain.to_ascii_lowercase();
    if plain.len() < NO_COINCIDENCE {
        return None;
    }
    let finds = |text: &str| {
        digests(text.as_bytes()).into_iter().find_map(|(name, digest)| {
            // Shortened, a digest loses its end or its beginning.
            let hex_of =
                |part: Option<&[u8]>| part.is_some_and(|part| lower.contains(&HEXLOWER.encode(part)));
            let half = NO_COINCIDENCE / 2;
            let found = hex_of(digest.get(..half))
                || hex_of(digest.get(digest.len().saturating_sub(half)..))
                || [BASE64, BASE64URL].iter().any(|base64| {
                    // Nine bytes are twelve characters.
                    digest.get(..9).is_some_and(|part| plain.contains(&base64.encode(part)))
                });
            found.then_some(name)
        })
    };
    for (text, what) in known_texts(login) {
        if let Some(name) = finds(&text) {
            return Some(format!("it is the {name} of {what}"));
        }
    }
    None
}

/// What a careless program makes a digest of, with its name.
fn known_texts(login: &Login<'_>) -> impl Iterator<Item = (String, &'static str)> {
    let token = login.token.to_owned();
    let reversed: String = token.chars().rev().collect();
    let second = login.began.as_second();
    let seconds = (second - SECONDS_OFF)..=(second + SECONDS_OFF);
    let milliseconds = login.began.as_millisecond()..=(login.began.as_millisecond() + MILLISECONDS);
    let texts = [(token.clone(), "the token"), (reversed, "the token, reversed")];
    let users = USERS.map(|user| (user.to_owned(), "the user's name"));
    let pairs = USERS.into_iter().flat_map(|user| SEPARATORS.map(|separator| (user, separator)));
    let users_of_token = pairs.clone().flat_map(move |(user, separator)| {
        [format!("{token}{separator}{user}"), format!("{user}{separator}{token}")]
            .map(|text| (text, "the token and the user's name"))
    });
    let times_of_users = seconds.clone().flat_map(move |time| {
        pairs.clone().flat_map(move |(user, separator)| {
            [format!("{user}{separator}{time}"), format!("{time}{separator}{user}")]
                .map(|text| (text, "the user's name and the time"))
        })
    });
    let times = seconds.chain(milliseconds).map(|time| (time.to_string(), "the time"));
    let counters = (0..COUNTERS).map(|number| (number.to_string(), "a number that goes up"));
    texts.into_iter().chain(users).chain(users_of_token).chain(times_of_users).chain(times).chain(counters)
}

fn digests(text: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    [
        ("MD5", Md5::digest(text).to_vec()),
        ("SHA-1", Sha1::digest(text).to_vec()),
        ("SHA-256", Sha256::digest(text).to_vec()),
        ("SHA-512", Sha512::digest(text).to_vec()),
    ]
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// How many bits change between the values, at most: places where all are the same say nothing.
fn changing_bits(values: &[&str]) -> f64 {
    let from_left = places(values, |value, place| value.get(place).copied());
    let from_right = places(values, |value, place| {
        value.len().checked_sub(place + 1).and_then(|at| value.get(at)).copied()
    });
    bits(&from_left).min(bits(&from_right))
}

/// The characters at each place where they are not all the same.
fn places(values: &[&str], at: impl Fn(&[u8], usize) -> Option<u8>) -> Vec<Vec<u8>> {
    let longest = values.iter().map(|value| value.len()).max().unwrap_or(0).min(LONGEST);
    let column = |place| values.iter().map(|value| at(value.as_bytes(), place)).collect::<Vec<_>>();
    let changes = |column: &Vec<Option<u8>>| column.windows(2).any(|pair| matches!(pair, [a, b] if a != b));
    (0..longest).map(column).filter(changes).map(|column| column.into_iter().flatten().collect()).collect()
}

fn bits(places: &[Vec<u8>]) -> f64 {
    let seen = || places.iter().flatten().copied();
    let is_hex = |lower: bool| {
        seen().all(|c| {
            c.is_ascii_digit() || if lower { matches!(c, b'a'..=b'f') } else { matches!(c, b'A'..=b'F') }
        })
    };
    let alphabet: u8 = if seen().all(|c| c.is_ascii_digit()) {
        10
    } else if is_hex(true) || is_hex(false) {
        16
    } else if seen().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
        || seen().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
    {
        36
    } else if seen().all(|c| c.is_ascii_alphanumeric()) {
        62
    } else {
        64
    };
    let places = u32::try_from(places.len()).unwrap_or(u32::MAX);
    f64::from(places) * f64::from(alphabet).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "cs1abcdefghijklmnopqrstuvwxyz234567";

    fn guessed(values: &[String]) -> Option<String> {
        let logins: Vec<Login<'_>> = values
            .iter()
            .map(|value| Login { token: TOKEN, began: Timestamp::from_second(1_800_000_000).unwrap(), value })
            .collect();
        how(&logins)
    }

    fn numbered(value: impl Fn(u64) -> String) -> Vec<String> {
        (1..=8).map(value).collect()
    }

    fn random(number: u64) -> String {
        HEXLOWER.encode(&Sha256::digest(format!("a secret, and {number}")))
    }

    #[test]
    fn random_values_are_not_guessed() {
        let decimal = |number: u64| {
            let digest = Sha256::digest(number.to_string() + "?");
            u128::from_be_bytes(digest[..16].try_into().unwrap()).to_string()
        };
        for value in [
            &random as &dyn Fn(u64) -> String,
            &|number| random(number)[..14].to_owned(),
            &|number| format!("launchpad-{}", &random(number)[..32]),
            &|number| BASE64.encode(&Sha256::digest(format!("another secret, and {number}"))),
            &|number| format!("{number}.{}", random(number)),
            &decimal,
        ] {
            assert_eq!(guessed(&numbered(value)), None);
        }
    }

    #[test]
    fn few_changing_bits_are_found() {
        for value in [
            &(|number: u64| number.to_string()) as &dyn Fn(u64) -> String,
            &|number| format!("5e551on{number:020}"),
            &|number| format!("{}{}", random(0), &random(number)[..4]),
            &|number| (1_800_000_000_000_000 + number * 7919).to_string(),
            &|number| format!("{:x}-cafe", 1_800_000_000_000_000 + number * 7919),
            &|number| BASE64.encode(format!("{{\"user\": \"launchpad\", \"session\": {number}}}").as_bytes()),
        ] {
            let values = numbered(value);
            assert!(guessed(&values).is_some_and(|how| how.contains("bits of it change")), "{values:?}");
        }
    }

    #[test]
    fn digests_of_the_token_are_found() {
        for value in [
            TOKEN.to_owned(),
            TOKEN[..16].to_owned(),
            TOKEN[20..].to_uppercase(),
            TOKEN[..8].to_owned(),
            TOKEN.chars().rev().collect(),
            BASE64.encode(TOKEN.as_bytes()),
            HEXLOWER.encode(TOKEN.as_bytes()),
            HEXLOWER.encode(&Md5::digest(TOKEN)),
            HEXLOWER.encode(&Sha1::digest(TOKEN)).to_uppercase(),
            HEXLOWER.encode(&Sha256::digest(TOKEN))[..20].to_owned(),
            BASE64URL_NOPAD.encode(&Sha512::digest(TOKEN)),
            HEXLOWER.encode(&Sha256::digest(format!("{TOKEN}:launchpad"))),
        ] {
            let how = guessed(std::slice::from_ref(&value));
            assert!(how.as_ref().is_some_and(|how| how.contains("token")), "{value}: {how:?}");
        }
    }

    #[test]
    fn digests_of_numbers_and_times_are_found() {
        for (text, what) in [
            ("17", "a number that goes up"),
            ("1800000001", "the time"),
            ("1800000000250", "the time"),
            ("launchpad-1800000002", "the user's name and the time"),
            ("launchpad", "the user's name"),
        ] {
            let how = guessed(&[HEXLOWER.encode(&Md5::digest(text))]);
            assert_eq!(how, Some(format!("it is the MD5 of {what}")));
        }
    }
}
