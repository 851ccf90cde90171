//! A JWT, and the keys of its issuer.

use countersign_server::limits::{JWT_CLOCK_SKEW, MAX_JWT_BYTES, MAX_JWT_LIFETIME};
use countersign_server::{JwtRule, judge_jwt};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde_json::Value;

use crate::noon;

/// Says until when a token is good; what is fuzzed is [`judge_jwt`].
pub type Judge = fn(&JwtRule, &[u8], &[u8], Timestamp) -> Result<Timestamp, String>;

/// A word of at least so many letters and digits could be a part of a token.
const LIKE_A_SECRET: usize = 33;

/// See [`check`].
pub fn target(input: &[u8]) {
    check(input, judge_jwt);
}

/// The input is a JWKS document, a line end, and a token. An accepted token is signed by a key that is no shared secret, is for
/// the caller, and is valid at noon for a bounded time. A refusal has a reason that quotes nothing.
pub fn check(input: &[u8], judge: Judge) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (keys, token) = input.split_at(end);
    let token = token.trim_ascii();
    let until = match judge(&rule(), keys, token, noon()) {
        Ok(until) => until,
        Err(reason) => {
            assert!(!reason.trim().is_empty(), "no reason is given");
            let text = String::from_utf8_lossy(input);
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| word.len() >= LIKE_A_SECRET) {
                assert!(!reason.contains(&word[..LIKE_A_SECRET]), "a part of the input is told: {reason}");
            }
            return;
        }
    };
    assert!(token.len() <= MAX_JWT_BYTES, "a token of {} bytes", token.len());
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    assert!(parts.len() == 3 && !parts[2].is_empty(), "a token without a signature");
    let part = |nth: usize| -> Value {
        let bytes = BASE64URL_NOPAD.decode(parts[nth]).expect("Base64");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let (header, claims) = (part(0), part(1));
    let algorithm = header["alg"].as_str().expect("an algorithm").to_owned();
    let is_asymmetric = ["RS", "PS", "ES", "Ed"].iter().any(|kind| algorithm.starts_with(kind));
    assert!(is_asymmetric, "a token with the algorithm {algorithm}");
    assert_eq!(claims["iss"], rule().issuer.as_str(), "another issuer");
    assert_eq!(claims["sub"], rule().subject, "another subject");
    let audience = &claims["aud"];
    let is_ours = |audience: &Value| audience == rule().audience.as_str();
    assert!(
        is_ours(audience) || audience.as_array().is_some_and(|all| all.iter().any(is_ours)),
        "another audience"
    );
    let left = until.duration_since(noon()).unsigned_abs();
    assert!(until > noon() && left <= MAX_JWT_LIFETIME + 2 * JWT_CLOCK_SKEW, "it is good for {left:?}");
}

/// The caller of every run.
fn rule() -> JwtRule {
    JwtRule {
        issuer: "https://issuer.example".parse().expect("a URL"),
        audience: "countersign".to_owned(),
        subject: "worker".to_owned(),
        claims: [("ref".to_owned(), "main".to_owned())].into(),
        jwks_url: None,
        jwks_file: None,
        ca_file: None,
        bearer_file: None,
    }
}
