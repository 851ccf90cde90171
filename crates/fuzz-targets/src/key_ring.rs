//! The text of a key ring.

use countersign_core::seal::{seal, unseal};
use countersign_core::{KeyRing, KeyRingError, LoginToken, MAX_KEYS};
use jiff::Timestamp;

use crate::noon;

/// A secret is 88 characters of Base64; a run that is not much shorter may be one with a slip in it.
const LIKE_A_SECRET: usize = 80;

/// The length of a piece of a secret that counts as a leak.
const TELLING: usize = 20;

/// Reads a ring; what is fuzzed is [`KeyRing::parse`].
pub type Parse = fn(&str) -> Result<KeyRing, KeyRingError>;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, KeyRing::parse);
}

/// A ring that is read can be used, and is written as it was; a refusal gives no secret away.
pub fn check(input: &[u8], parse: Parse) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match parse(text) {
        Ok(ring) => {
            hides_secrets(text, &format!("{ring:?}"));
            check_ring(&ring, parse);
        }
        Err(error) => {
            hides_secrets(text, &error.to_string());
            hides_secrets(text, &format!("{error:?}"));
        }
    }
}

fn check_ring(ring: &KeyRing, parse: Parse) {
    let keys = ring.keys();
    assert!((1..=MAX_KEYS).contains(&keys.len()), "{} keys", keys.len());

    let written = ring.to_text();
    let again = parse(&written).expect("what was written can be read");
    assert_eq!(*again.to_text(), *written, "writing changes the ring");

    let token = any_token();
    for now in [Timestamp::MIN, noon(), Timestamp::MAX] {
        let key = ring.sealing_key(now).expect("a key at any time");
        let text = seal(&token, key).expect("sealed").into_exposed();
        assert_eq!(unseal(&text, ring).as_ref(), Ok(&token), "the ring does not open what it sealed");
        assert_eq!(unseal(&text, &again).as_ref(), Ok(&token), "the ring is another one after writing");
    }
}

/// A token out of another ring: only a set can make one.
fn any_token() -> LoginToken {
    const SEALED: &str = "cs1aaaaaabtro54vzcutvcvok3dmtdegv4bnenyrcfidxasrrsocezifgoql5dg7q2zt6mglvfv54tl5nyflxaxkuaebet7x6q34gin527u5k3a";
    unseal(SEALED, &crate::ring()).expect("a token of the fixed ring")
}

fn hides_secrets(text: &str, said: &str) {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    for secret in text.split(|c| !is_base64(c)).filter(|run| run.len() >= LIKE_A_SECRET) {
        for start in 0..=secret.len() - TELLING {
            let part = secret.get(start..start + TELLING).unwrap_or_default();
            assert!(!said.contains(part), "a secret is told: {said}");
        }
    }
}
