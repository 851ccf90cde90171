use std::time::Duration;

use data_encoding::BASE64;

use super::*;
use crate::{OsEntropy, SequenceEntropy};

fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn rotate(ring: &mut KeyRing, now: Timestamp, activate_in: Duration) -> KeyId {
    ring.change(KeyChange::Rotate { activate_in }, now, &OsEntropy).unwrap();
    ring.keys().last().unwrap().id
}

fn revoke(ring: &mut KeyRing, key: KeyId, rotate: bool, now: Timestamp) -> Result<(), KeyRingError> {
    ring.change(KeyChange::Revoke { key, rotate }, now, &OsEntropy)
}

fn sealing(ring: &KeyRing, now: Timestamp) -> KeyId {
    ring.sealing_key(now).unwrap().id
}

#[test]
fn key_waits_at_most_a_year() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let year = Duration::from_hours(8760);
    for (activate_in, refused) in [(year, false), (year + Duration::from_secs(1), true)] {
        let changed = ring.change(KeyChange::Rotate { activate_in }, noon(), &OsEntropy);
        assert_eq!(matches!(changed, Err(KeyRingError::TooLate)), refused, "{activate_in:?}");
    }
    assert_eq!(ring.keys().len(), 2);
}

#[test]
fn newest_active_key_seals() {
    let mut ring = KeyRing::generate(noon(), &SequenceEntropy::default()).unwrap();
    let first = ring.keys()[0].id;
    let ten_minutes = Duration::from_mins(10);
    let second = rotate(&mut ring, noon(), ten_minutes);
    assert_eq!(sealing(&ring, noon()), first);
    assert_eq!(sealing(&ring, noon() + ten_minutes), second);
    let before_all = noon() - Duration::from_hours(1);
    assert_eq!(sealing(&ring, before_all), first, "a clock that stepped back still issues");
    // A key that is added now is newer than one that was added for later.
    let third = rotate(&mut ring, noon(), Duration::ZERO);
    let again = KeyRing::parse(&ring.to_text()).unwrap();
    for ring in [ring, again] {
        assert_eq!(sealing(&ring, noon()), third);
        assert_eq!(sealing(&ring, noon() + ten_minutes), third);
    }
}

#[test]
fn replaced_key_stays_as_long_as_its_tokens() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let first = ring.keys()[0].id;
    rotate(&mut ring, noon(), Duration::ZERO);
    rotate(&mut ring, noon() + REMEMBERED, Duration::ZERO);
    assert!(ring.holds(first));
    rotate(&mut ring, noon() + REMEMBERED + Duration::from_secs(1), Duration::ZERO);
    assert!(!ring.holds(first));
    assert_eq!(ring.keys().len(), 3);
}

#[test]
fn revoked_key_stays_removed() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let first = ring.keys()[0].id;
    assert_eq!(revoke(&mut ring, first, false, noon()), Err(KeyRingError::Seals(first)));
    let second = rotate(&mut ring, noon(), Duration::ZERO);
    let before = ring.to_text();
    revoke(&mut ring, first, false, noon()).unwrap();
    assert_eq!(revoke(&mut ring, first, false, noon()), Err(KeyRingError::Missing(first)));
    let again = KeyRing::parse(&ring.to_text()).unwrap();
    assert_eq!((again.keys().len(), again.keys()[0].id, again.revoked()), (1, second, &[first][..]));
    let mended = before.replace("version = 1\n", &format!("version = 1\nrevoked = [\"{first}\"]\n"));
    assert_eq!(KeyRing::parse(&mended).unwrap_err(), KeyRingError::Revoked(first));
    let secret = BASE64.encode(&[7; 64]);
    let misplaced = before.replace("version = 1\n", &format!("version = 1\nrevoked = [\"{secret}\"]\n"));
    let error = KeyRing::parse(&misplaced).unwrap_err().to_string();
    assert!(error.contains("8 hexadecimal") && !error.contains(&secret[..16]), "{error}");
    for _ in 0..MAX_REVOKED {
        let id = sealing(&ring, noon());
        revoke(&mut ring, id, true, noon()).unwrap();
    }
    assert_eq!((ring.revoked().len(), ring.keys().len()), (MAX_REVOKED, 1));
    assert!(!ring.revoked().contains(&first), "the oldest is forgotten first");
}

/// The steps after a theft, in any order: never does a key seal that is older than the one just revoked.
#[test]
fn revoking_never_makes_older_key_seal() {
    let minute = Duration::from_mins(1);
    let mut three = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let oldest = three.keys()[0].id;
    let middle = rotate(&mut three, noon() + minute, Duration::ZERO);
    let newest = rotate(&mut three, noon() + 2 * minute, Duration::ZERO);
    let now = noon() + 3 * minute;
    // Another server's clock may be behind, as far as it is tolerated.
    let clocks = [now, before(now, CLOCK_SKEW)];
    for order in [[newest, middle, oldest], [middle, newest, oldest], [oldest, newest, middle]] {
        let mut ring = three.clone();
        for key in order {
            let rotates = sealing(&ring, now) == key;
            revoke(&mut ring, key, rotates, now).unwrap();
            for clock in clocks {
                let seals = sealing(&ring, clock);
                assert!(seals == newest || ![oldest, middle, newest].contains(&seals), "{order:?}");
            }
        }
        assert_eq!(ring.keys().len(), 1);
    }
}

#[test]
fn waiting_key_replaces_revoked_one_at_once() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let stolen = ring.keys()[0].id;
    let hour = Duration::from_hours(1);
    let waiting = rotate(&mut ring, noon(), hour);
    let mut other = ring.clone();
    revoke(&mut ring, stolen, false, noon()).unwrap();
    assert_eq!(sealing(&ring, before(noon(), CLOCK_SKEW)), waiting);
    // Or the one that waits is revoked first.
    revoke(&mut other, waiting, false, noon()).unwrap();
    assert_eq!(sealing(&other, noon() + hour), stolen);
    assert_eq!(revoke(&mut other, stolen, false, noon()), Err(KeyRingError::Seals(stolen)));
    revoke(&mut other, stolen, true, noon()).unwrap();
    assert!(![stolen, waiting].contains(&sealing(&other, noon())));
}

#[test]
fn waiting_key_seals_before_an_older_one() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let minute = Duration::from_mins(1);
    let stolen = rotate(&mut ring, noon() + minute, Duration::ZERO);
    let waiting = rotate(&mut ring, noon() + minute, Duration::from_hours(1));
    let now = noon() + 2 * minute;
    revoke(&mut ring, stolen, false, now).unwrap();
    for clock in [now, before(now, CLOCK_SKEW)] {
        assert_eq!(sealing(&ring, clock), waiting, "not the oldest");
    }
}

#[test]
fn newest_key_that_seals_replaces_a_revoked_one_before_those_that_wait() {
    let second = Duration::from_secs(1);
    let now = noon() + Duration::from_hours(1);
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let stolen = ring.keys()[0].id;
    let recent = rotate(&mut ring, before(now, 10 * second), Duration::ZERO);
    rotate(&mut ring, now, Duration::from_hours(1));
    revoke(&mut ring, stolen, false, now).unwrap();
    for clock in [now, before(now, CLOCK_SKEW)] {
        assert_eq!(sealing(&ring, clock), recent);
    }
}

#[test]
fn key_that_seals_everywhere_already_makes_no_other_earlier() {
    let now = noon() + Duration::from_hours(1);
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    let stolen = ring.keys()[0].id;
    let everywhere = rotate(&mut ring, before(now, CLOCK_SKEW), Duration::ZERO);
    let newest = rotate(&mut ring, now, Duration::ZERO);
    revoke(&mut ring, stolen, false, now).unwrap();
    assert_eq!(sealing(&ring, now), newest);
    assert_eq!(sealing(&ring, before(now, CLOCK_SKEW)), everywhere);
}

#[test]
fn new_key_never_has_the_name_of_another_or_of_a_revoked_one() {
    // A counter that begins anew proposes the first key's name again.
    let repeated = || SequenceEntropy::default();
    let mut ring = KeyRing::generate(noon(), &repeated()).unwrap();
    let first = ring.keys()[0].id;
    ring.change(KeyChange::Add, noon(), &repeated()).unwrap();
    assert_ne!(ring.keys()[1].id, first);
    let mut ring = KeyRing::generate(noon(), &repeated()).unwrap();
    ring.change(KeyChange::Revoke { key: first, rotate: true }, noon(), &repeated()).unwrap();
    assert_ne!(ring.keys()[0].id, first);
}

#[test]
fn wrong_clock_brings_no_old_key_back() {
    // Two keys were made while the clock was a year ahead.
    let mut ring = KeyRing::generate(noon() + Duration::from_hours(8760), &OsEntropy).unwrap();
    let old = ring.keys()[0].id;
    let new = rotate(&mut ring, noon(), Duration::ZERO);
    assert_eq!(sealing(&ring, noon()), new);
    let again = KeyRing::parse(&ring.to_text()).unwrap();
    assert_eq!(sealing(&again, noon() + Duration::from_hours(9000)), new, "not {old}");
}

#[test]
fn ring_is_bounded_and_full_ring_allows_revoking() {
    let mut ring = KeyRing::generate(noon(), &OsEntropy).unwrap();
    for _ in 1..MAX_KEYS {
        rotate(&mut ring, noon(), Duration::ZERO);
    }
    let one_more = ring.change(KeyChange::Rotate { activate_in: Duration::ZERO }, noon(), &OsEntropy);
    assert_eq!(one_more, Err(KeyRingError::Full));
    assert_eq!(ring.keys().len(), MAX_KEYS, "a refused rotation loses nothing");
    let seals = sealing(&ring, noon());
    revoke(&mut ring, seals, true, noon()).unwrap();
    assert_eq!(ring.keys().len(), MAX_KEYS);
}

#[test]
fn key_is_named_by_eight_hexadecimal_digits() {
    let id: KeyId = "00abcdef".parse().unwrap();
    assert_eq!((id.to_string(), String::from(id)), ("00abcdef".to_owned(), "00abcdef".to_owned()));
    assert_eq!(KeyId::try_from("00abcdef".to_owned()), Ok(id));
    for text in ["", "00abcde", "00abcdef0", "00ABCDEF", "00abcdeg"] {
        assert_eq!(text.parse::<KeyId>(), Err(InvalidKeyId), "{text}");
    }
}

#[test]
fn new_key_of_a_shared_ring_settles_first() {
    let (second, key) = (Duration::from_secs(1), KeyId([0; 4]));
    assert_eq!(SETTLING, 10 * second, "as docs/design/shared-key-ring.md says");
    for (wanted, waits) in
        [(Duration::ZERO, SETTLING), (SETTLING, SETTLING), (SETTLING + second, SETTLING + second)]
    {
        let change = KeyChange::Rotate { activate_in: wanted }.settling();
        assert_eq!(change, KeyChange::Rotate { activate_in: waits });
    }
    for change in [KeyChange::Add, KeyChange::Revoke { key, rotate: true }] {
        assert_eq!(change.settling(), change);
    }
}

#[test]
fn debug_shows_no_secret() {
    let ring = KeyRing::generate(noon(), &SequenceEntropy::default()).unwrap();
    let shown = format!("{ring:?}");
    assert!(shown.contains("active_from") && !shown.contains("secret"), "{shown}");
}
