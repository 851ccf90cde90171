use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{Claims, SequenceEntropy, TokenId};

const TRAC: &str = "https://trac.example.org/";
const OTHER: &str = "https://other.example.org/";
const LIFETIME: Duration = Duration::from_mins(5);

fn noon() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().unwrap()
}

fn token(audience: Option<&str>) -> LoginToken {
    LoginToken {
        id: TokenId::generate(noon(), &SequenceEntropy::default()).unwrap(),
        lifetime: LIFETIME,
        audience: audience.map(|url| Audience::parse(url).unwrap()),
        claims: Claims::default(),
        issued_by: None,
    }
}

fn post() -> Attempt {
    Attempt { is_post: true, audience: StatedAudience::None, retry_key: None }
}

fn post_from(tracker: &str) -> Attempt {
    Attempt { audience: StatedAudience::Tracker(Audience::parse(tracker).unwrap()), ..post() }
}

fn post_with_key(key: &str) -> Attempt {
    Attempt { retry_key: Some(RetryKeyHash::of(key.as_bytes())), ..post() }
}

fn consumed(at: Timestamp, key: Option<&str>) -> EndResult {
    let retry_key = key.map(|key| RetryKeyHash::of(key.as_bytes()));
    EndResult::Already(Ending::Consumed(Consumption { at, by: None, retry_key }))
}

#[test]
fn every_case_of_the_protocol_is_decided_right() {
    let unbound = token(None);
    let bound = token(Some(TRAC));
    let soon = noon() + Duration::from_secs(1);
    let unreadable = Attempt { audience: StatedAudience::Unreadable(UnreadableAudience::Twice), ..post() };
    let get = Attempt { is_post: false, ..post() };
    for (attempt, token, expected) in [
        (post(), Some(&unbound), Decision::Consume(&unbound)),
        (post_from(TRAC), Some(&unbound), Decision::Consume(&unbound)),
        (unreadable.clone(), Some(&unbound), Decision::Consume(&unbound)),
        (post_from(TRAC), Some(&bound), Decision::Consume(&bound)),
        (post_from(OTHER), Some(&bound), Decision::Reject(Refusal::AudienceMismatch)),
        (post(), Some(&bound), Decision::Reject(Refusal::AudienceMissing)),
        (unreadable, Some(&bound), Decision::Reject(Refusal::AudienceUnreadable(UnreadableAudience::Twice))),
        (post(), None, Decision::Reject(Refusal::NotOurs)),
        (get.clone(), Some(&unbound), Decision::Reject(Refusal::NotPost)),
        (get, None, Decision::Reject(Refusal::NotPost)),
    ] {
        assert_eq!(decide(&attempt, token, soon, soon), expected, "{attempt:?}");
    }
}

#[test]
fn token_lives_from_its_creation_to_its_expiry() {
    let token = token(None);
    let millisecond = Duration::from_millis(1);
    for (now, expected) in [
        (noon() - CLOCK_SKEW - millisecond, Decision::Reject(Refusal::FromTheFuture)),
        (noon() - CLOCK_SKEW, Decision::Consume(&token)),
        (noon(), Decision::Consume(&token)),
        (noon() + LIFETIME - millisecond, Decision::Consume(&token)),
        (noon() + LIFETIME, Decision::Reject(Refusal::Expired)),
    ] {
        assert_eq!(decide(&post(), Some(&token), now, now), expected, "{now}");
    }
}

#[test]
fn token_created_as_late_as_known_is_consumed() {
    let token = token(None);
    let (now, millisecond) = (noon() - Duration::from_mins(10), Duration::from_millis(1));
    for (latest, expected) in [
        (noon(), Decision::Consume(&token)),
        (noon() - millisecond, Decision::Reject(Refusal::FromTheFuture)),
    ] {
        assert_eq!(decide(&post(), Some(&token), now, latest), expected, "{latest}");
    }
}

#[test]
fn retry_after_expiry_gets_the_first_answer() {
    let token = token(None);
    let expired = noon() + LIFETIME;
    let attempt = post_with_key("k");
    let decision = decide(&attempt, Some(&token), expired, expired);
    assert_eq!(decision, Decision::Recall(&token));
    let first = expired - Duration::from_secs(1);
    assert_eq!(
        settle(&attempt, &decision, consumed(first, Some("k")), expired),
        Verdict::Accepted { consumed: first, again: true }
    );
    assert_eq!(
        settle(&attempt, &decision, EndResult::Recorded, expired),
        Verdict::Rejected(Refusal::Expired)
    );
    assert_eq!(
        decide(&attempt, Some(&token), expired + RETRY_WINDOW, expired),
        Decision::Reject(Refusal::Expired),
        "but not for ever"
    );
}

#[test]
fn only_the_first_retry_key_repeats_acceptance() {
    let token = token(None);
    let first = noon();
    for (attempt, on_record, after, accepted) in [
        (post_with_key("k"), Some("k"), Duration::ZERO, true),
        (post_with_key("k"), Some("k"), RETRY_WINDOW, true),
        (post_with_key("k"), Some("k"), RETRY_WINDOW + Duration::from_millis(1), false),
        (post_with_key("thief"), Some("k"), Duration::ZERO, false),
        (post_with_key("k"), None, Duration::ZERO, false),
        (post(), Some("k"), Duration::ZERO, false),
        (post(), None, Duration::ZERO, false),
    ] {
        let verdict = settle(&attempt, &Decision::Consume(&token), consumed(first, on_record), first + after);
        match verdict {
            Verdict::Accepted { consumed, again: true } if accepted => assert_eq!(consumed, first),
            Verdict::Rejected(Refusal::Replay(use_on_record)) if !accepted => {
                assert_eq!(use_on_record.at, first);
            }
            other => panic!("{attempt:?}, {after:?}: {other:?}"),
        }
    }
}

#[test]
fn each_store_answer_has_its_verdict() {
    let token = token(None);
    let consume = Decision::Consume(&token);
    for (answer, expected) in [
        (EndResult::Recorded, Verdict::Accepted { consumed: noon(), again: false }),
        (EndResult::Fenced, Verdict::Rejected(Refusal::Fenced)),
        (EndResult::Forgotten, Verdict::Rejected(Refusal::Expired)),
        (EndResult::Already(Ending::Revoked { at: noon() }), Verdict::Rejected(Refusal::Revoked)),
    ] {
        assert_eq!(settle(&post(), &consume, answer, noon()), expected);
    }
}

fn any_audience() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![Just(None), Just(Some(TRAC)), Just(Some(OTHER))]
}

proptest! {
    /// The whole truth about `decide`, said the other way round: when does it consume?
    #[test]
    fn only_allowed_handshakes_consume(
        is_post in any::<bool>(),
        bound in any_audience(),
        stated in any_audience(),
        keyed in any::<bool>(),
        ours in any::<bool>(),
        offset_ms in -60_000_i64..600_000,
    ) {
        let token = token(bound);
        let now = noon() + jiff::SignedDuration::from_millis(offset_ms);
        let audience = match stated {
            None => StatedAudience::None,
            Some(url) => StatedAudience::Tracker(Audience::parse(url).unwrap()),
        };
        let attempt = Attempt { is_post, audience, retry_key: keyed.then(|| RetryKeyHash::of(b"k")) };
        let decision = decide(&attempt, ours.then_some(&token), now, now);
        let may = is_post && ours && (bound.is_none() || bound == stated) && (-30_000..300_000).contains(&offset_ms);
        prop_assert_eq!(decision == Decision::Consume(&token), may);
    }

    /// Only a fresh record or the first use's own key leads to acceptance, for every answer of the store.
    #[test]
    fn only_fresh_or_retried_use_is_accepted(
        key in proptest::option::of("[ab]"),
        on_record in proptest::option::of("[ab]"),
        fresh in any::<bool>(),
        age_ms in -1_000_i64..120_000,
    ) {
        let token = token(None);
        let attempt = Attempt { retry_key: key.as_ref().map(|key| RetryKeyHash::of(key.as_bytes())), ..post() };
        let answer = if fresh { EndResult::Recorded } else { consumed(noon(), on_record.as_deref()) };
        let now = noon() + jiff::SignedDuration::from_millis(age_ms);
        let verdict = settle(&attempt, &Decision::Consume(&token), answer, now);
        let may = fresh || (key.is_some() && key == on_record && age_ms <= 60_000);
        let accepted = matches!(verdict, Verdict::Accepted { .. });
        prop_assert_eq!(accepted, may);
    }
}
