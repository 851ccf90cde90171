//! Listing what ended last.

use std::time::Duration;

use countersign_core::{Clock, Ended, EndingQuery, EventCursor, before};
use jiff::Timestamp;

use super::Subject;
use super::fixture::{Fixture, consumed};

fn everything() -> EndingQuery {
    EndingQuery { consumed: true, revoked: true, since: Timestamp::MIN, after: None, limit: 1000 }
}

/// In the order in which the lives ended, whatever the order in which the tokens were issued; a page at a time, nothing
/// twice and nothing left out.
pub async fn endings_are_listed_newest_first(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    let long = Duration::from_hours(24);
    let tokens: Vec<_> = (0..7)
        .map(|_| {
            f.clock.advance(Duration::from_millis(1));
            f.token_for(long)
        })
        .collect();
    let mut expected = Vec::new();
    // The token issued last is consumed first; two end in the same millisecond, one of them a day after it was issued.
    for (at, token) in tokens.iter().rev().enumerate() {
        f.clock.advance(if at == 6 {
            long.saturating_sub(Duration::from_secs(1))
        } else {
            Duration::from_secs(u64::from(at != 3))
        });
        let by = [192, 0, 2, u8::try_from(at).expect("few")];
        let ending =
            if at == 2 { f.revocation() } else { consumed(f.clock.now(), Some(by.into()), Some(b"key")) };
        f.end(*token, &ending).await.expect("the store answers");
        expected.push(Ended { id: token.id, ending });
    }
    expected.sort_by_key(|ended| std::cmp::Reverse((ended.ending.at(), ended.id)));

    assert_eq!(f.store.endings(&everything()).await, Ok(expected.clone()));
    for limit in 1..=7 {
        let mut query = EndingQuery { limit, ..everything() };
        let mut pages = Vec::new();
        loop {
            let page = f.store.endings(&query).await.expect("the store answers");
            assert!(page.len() <= limit, "{page:?}");
            let Some(last) = page.last() else { break };
            query.after = Some(EventCursor { at: last.ending.at(), id: last.id.into() });
            pages.extend(page);
        }
        assert_eq!(pages, expected, "{limit} at a time");
    }
}

/// By kind and by age; also a consumption by a server whose clock is behind that of the one that issued.
pub async fn endings_are_listed_as_asked_for(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    assert_eq!(f.store.endings(&everything()).await, Ok(Vec::new()));
    let start = f.clock.now();
    let (early, taken, back) = (f.token(), f.token(), f.token());
    f.end(early, &consumed(before(start, Duration::from_secs(29)), None, None))
        .await
        .expect("the store answers");
    f.clock.advance(Duration::from_secs(10));
    let middle = f.clock.now();
    f.consume(taken).await;
    f.clock.advance(Duration::from_secs(10));
    f.end(back, &f.revocation()).await.expect("the store answers");

    for (query, expected) in [
        (everything(), vec![back.id, taken.id, early.id]),
        (EndingQuery { revoked: false, ..everything() }, vec![taken.id, early.id]),
        (EndingQuery { consumed: false, ..everything() }, vec![back.id]),
        (EndingQuery { consumed: false, revoked: false, ..everything() }, vec![]),
        (EndingQuery { since: start, ..everything() }, vec![back.id, taken.id]),
        (EndingQuery { since: middle, revoked: false, ..everything() }, vec![taken.id]),
        (EndingQuery { since: f.clock.now(), ..everything() }, vec![back.id]),
    ] {
        let found = f.store.endings(&query).await.expect("the store answers");
        let ids: Vec<_> = found.iter().map(|ended| ended.id).collect();
        assert_eq!(ids, expected, "{query:?}");
    }
}
