use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{MAX_LIFETIME, OsEntropy, SequenceEntropy, from_millis};

fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn ring() -> KeyRing {
    KeyRing::generate(noon(), &SequenceEntropy::default()).unwrap()
}

fn token(audience: Option<&str>, claims: &str) -> LoginToken {
    LoginToken {
        id: TokenId::generate(noon(), &OsEntropy).unwrap(),
        lifetime: Duration::from_mins(5),
        audience: audience.map(|url| Audience::parse(url).unwrap()),
        claims: Claims::from_sealed(claims).unwrap().0,
        issued_by: None,
    }
}

fn sealed(token: &LoginToken, ring: &KeyRing) -> String {
    seal(token, ring.sealing_key(noon()).unwrap()).unwrap().into_exposed()
}

#[test]
fn token_text_is_short_and_alphanumeric() {
    let unbound = sealed(&token(None, ""), &ring());
    let bound = sealed(&token(Some("https://bugs.example.org/"), ""), &ring());
    assert_eq!((unbound.len(), bound.len()), (71, 111));
    for text in [unbound, bound] {
        assert!(text.starts_with(PREFIX) && text.bytes().all(|b| b.is_ascii_alphanumeric()), "{text}");
    }
}

#[test]
fn debug_of_a_token_is_redacted() {
    let text = seal(&token(None, ""), ring().sealing_key(noon()).unwrap()).unwrap();
    assert_eq!(format!("{text:?}"), "TokenText(redacted)");
}

#[test]
fn longest_token_fits() {
    let audience = format!("https://bugs.example.org/{}", "x".repeat(MAX_AUDIENCE_BYTES - 25));
    let claims = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_CLAIMS_BYTES - 8));
    let longest = token(Some(&audience), &claims);
    let text = sealed(&longest, &ring());
    assert!(text.len() <= MAX_TEXT_CHARS && text.len() > MAX_TEXT_CHARS - 8);
    assert_eq!(unseal(&text, &ring()), Ok(longest));
}

#[test]
fn shortest_token_names_its_key() {
    let ring = ring();
    assert_eq!(key_of(&sealed(&token(None, ""), &ring)), Some(ring.sealing_key(noon()).unwrap().id()));
    let text = |bytes: usize| format!("{PREFIX}{}", BASE32.encode(&vec![0; bytes]));
    let shortest = KEY_ID_BYTES + TAG_BYTES + HEAD_BYTES;
    assert_eq!(key_of(&text(shortest)), Some(KeyId([0; KEY_ID_BYTES])));
    assert_eq!(key_of(&text(shortest - 1)), None);
    assert_eq!(key_of(&text(MAX_TEXT_CHARS)), None, "it is too long");
}

#[test]
fn version_one_token_stays_readable() {
    // Sealed by the first release: what it wrote must be read for as long as `cs1` is understood.
    let text = "cs1aaaaaabtro54vzcutvcvok3dmtdegv4bnenyrcfidxasrrsocezifgoql5dg7q2zt6mglvfv54tl5nyflxaxkuaebet7x6q34gin527u5k3a";
    let read = unseal(text, &ring()).unwrap();
    assert_eq!(read.created(), noon());
    assert_eq!(read.audience().unwrap().as_str(), "https://bugs.example.org/");
    assert_eq!(read.expires(), noon() + Duration::from_mins(5));
}

/// How the servers before callers had names read a token's content.
fn read_by_an_earlier_version(
    content: &[u8],
) -> Option<(Option<Audience>, serde_json::Map<String, serde_json::Value>)> {
    let length = usize::from(u16::from_be_bytes(content[20..22].try_into().unwrap()));
    let audience = std::str::from_utf8(&content[22..22 + length]).ok()?;
    let claims = std::str::from_utf8(&content[22 + length..]).ok()?;
    let claims =
        if claims.is_empty() { serde_json::Map::new() } else { serde_json::from_str(claims).ok()? };
    Some(((!audience.is_empty()).then(|| Audience::from_normal_form(audience.to_owned())), claims))
}

#[test]
fn caller_is_sealed_outside_the_claims() {
    for claims in ["", "{\"project\":\"demo\"}"] {
        let unnamed = token(Some("https://bugs.example.org/"), claims);
        let named = LoginToken { issued_by: Some("worker-eu".parse().unwrap()), ..unnamed.clone() };
        let read = unseal(&sealed(&named, &ring()), &ring()).unwrap();
        assert_eq!(read, named);
        assert_eq!(read.claims(), unnamed.claims(), "no tracker is told");
        assert_eq!(read.issued_by().unwrap().as_str(), "worker-eu");
        assert_eq!(unseal(&sealed(&unnamed, &ring()), &ring()).unwrap().issued_by(), None);
    }
}

#[test]
fn older_version_opens_named_callers_tokens() {
    let unnamed = token(Some("https://bugs.example.org/"), "{\"project\":\"demo\"}");
    let named = LoginToken { issued_by: Some("worker-eu".parse().unwrap()), ..unnamed.clone() };
    let (audience, mut claims) = read_by_an_earlier_version(&write_content(&named).unwrap()).unwrap();
    assert_eq!(audience, unnamed.audience);
    assert_eq!(claims.remove(crate::ISSUED_BY).unwrap(), "worker-eu");
    assert_eq!(&claims, unnamed.claims().members());
    // A caller without a name changes nothing about a token.
    let (_, claims) = read_by_an_earlier_version(&write_content(&unnamed).unwrap()).unwrap();
    assert_eq!(&claims, unnamed.claims().members());
}

#[test]
fn claims_cannot_replace_the_caller() {
    for value in [serde_json::json!("worker-eu"), serde_json::json!(1)] {
        let members = serde_json::json!({ crate::ISSUED_BY: value }).as_object().unwrap().clone();
        assert_eq!(Claims::new(members), Err(crate::ClaimsError::Reserved));
    }
    // A claim that an earlier version sealed under that name stays a claim, unless it could be a caller's name.
    let odd = token(None, "{\"@caller\":\"Somebody Else\"}");
    let read = unseal(&sealed(&odd, &ring()), &ring()).unwrap();
    assert_eq!((read.issued_by(), read.claims().members().len()), (None, 1));
}

#[test]
fn caller_name_keeps_the_token_within_its_limit() {
    let audience = format!("https://bugs.example.org/{}", "x".repeat(MAX_AUDIENCE_BYTES - 25));
    let claims = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_CLAIMS_BYTES - 8));
    let longest =
        LoginToken { issued_by: Some("worker-eu".parse().unwrap()), ..token(Some(&audience), &claims) };
    let ring = ring();
    let key = ring.sealing_key(noon()).unwrap();
    assert!(matches!(seal(&longest, key), Err(SealError::TooLong)));
    let long =
        LoginToken { issued_by: longest.issued_by.clone(), ..token(Some("https://a.example/"), &claims) };
    assert!(seal(&long, key).unwrap().expose().len() <= MAX_TEXT_CHARS);
}

#[test]
fn numbers_in_claims_are_preserved() {
    for number in [
        "118446744073709551694",
        "1.1844674407370957e20",
        "0.1",
        "-0.0",
        "1e-7",
        "5e-324",
        "18446744073709551615",
    ] {
        let token = token(None, &format!("{{\"a\":{number}}}"));
        assert_eq!(unseal(&sealed(&token, &ring()), &ring()), Ok(token), "{number}");
    }
}

#[test]
fn flipped_bits_and_cut_tokens_are_refused() {
    let ring = ring();
    let text = sealed(&token(Some("https://bugs.example.org/"), "{\"a\":1}"), &ring);
    let bytes = BASE32.decode(&text.as_bytes()[PREFIX.len()..]).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            unseal(&format!("{PREFIX}{}", BASE32.encode(&changed)), &ring),
            Err(UnsealError),
            "bit {bit}"
        );
    }
    for end in 0..text.len() {
        assert_eq!(unseal(&text[..end], &ring), Err(UnsealError), "cut at {end}");
    }
    for longer in [format!("{text}a"), format!("{text}aaaaaaaa"), format!(" {text}"), format!("{text}\n")] {
        assert_eq!(unseal(&longer, &ring), Err(UnsealError));
    }
    assert_eq!(unseal(&text.to_uppercase(), &ring), Err(UnsealError), "a token has one spelling");
}

#[test]
fn only_the_key_that_sealed_it_opens_it() {
    let text = sealed(&token(None, ""), &ring());
    // Another server's ring, whose key even has the same id.
    let other = ring().to_text().replace("secret = \"AAAA", "secret = \"AAAB");
    let other = KeyRing::parse(&other).unwrap();
    assert_eq!(other.keys()[0].id(), ring().keys()[0].id());
    assert_eq!(unseal(&text, &other), Err(UnsealError));
    assert_eq!(unseal(&text, &KeyRing::generate(noon(), &OsEntropy).unwrap()), Err(UnsealError));
}

#[test]
fn tokens_outlive_the_rotation_of_their_key() {
    let mut ring = ring();
    let text = sealed(&token(None, ""), &ring);
    let rotate = crate::KeyChange::Rotate { activate_in: Duration::ZERO };
    ring.change(rotate, noon(), &OsEntropy).unwrap();
    assert!(unseal(&text, &ring).is_ok());
    assert!(unseal(&sealed(&token(None, ""), &ring), &ring).is_ok());
}

proptest! {
    #[test]
    fn sealing_round_trips(
        millis in 0_i64..4_000_000_000_000,
        lifetime in 1..=MAX_LIFETIME.as_secs(),
        path in proptest::option::of("[a-z0-9/]{0,200}"),
        claim in proptest::option::of("\\PC{0,200}"),
        named in any::<bool>(),
        random in any::<[u8; 16]>(),
    ) {
        let mut id = random;
        id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        let claims = claim.map(|text| serde_json::json!({ "claim": text }).as_object().unwrap().clone());
        let token = LoginToken {
            id: TokenId::from_bytes(id),
            lifetime: Duration::from_secs(lifetime),
            audience: path.map(|path| Audience::parse(&format!("https://bugs.example.org/{path}")).unwrap()),
            claims: Claims::new(claims.unwrap_or_default()).unwrap(),
            issued_by: named.then(|| "worker-eu".parse().unwrap()),
        };
        prop_assert_eq!(token.created(), from_millis(millis));
        let ring = ring();
        prop_assert_eq!(unseal(&sealed(&token, &ring), &ring), Ok(token));
    }

    #[test]
    fn any_text_is_read_without_panic(text in ".*") {
        prop_assert_eq!(unseal(&text, &ring()), Err(UnsealError));
    }

    #[test]
    fn random_text_of_valid_letters_is_refused(text in "cs1aaaa[a-z2-7]{0,300}") {
        prop_assert_eq!(unseal(&text, &ring()), Err(UnsealError));
    }

    #[test]
    fn any_content_is_read_without_panic(content in any::<Vec<u8>>()) {
        let _ = read_content(&content);
    }
}

#[test]
fn token_is_recognized_in_a_text() {
    let token = format!("{PREFIX}{}", "abc234".repeat(20));
    let url = format!("https://lp.example.org/token/{token}/+bugtracker-handshake");
    for text in [&token, &url, &token[..36], &token.to_ascii_uppercase(), &format!("cs1 {token}")] {
        assert!(seems_to_have_token(text), "{text}");
    }
    for text in [
        "",
        "cs1",
        "cs1agent/1.6",
        "trac/1.6",
        "https://cs1.example.org/a/long/path/to/a/tracker",
        "\u{e9}cs1\u{e9}",
    ] {
        assert!(!seems_to_have_token(text), "{text}");
    }
}
