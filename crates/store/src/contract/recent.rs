//! Listing the endings that were recorded last.

use std::time::Duration;

use countersign_core::{Clock, EndedToken, EndingQuery, Endings, EventCursor, before};

use super::Subject;
use super::fixture::{Fixture, consumed};

fn everything() -> EndingQuery {
    EndingQuery::newest(1000)
}

/// In the order in which the lives ended, not in that in which the tokens were issued; a page at a time, nothing
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
        expected.push(EndedToken { id: token.id, ending });
    }
    expected.sort_by_key(|ended| std::cmp::Reverse((ended.ending.at(), ended.id)));

    assert_eq!(f.store.endings(&everything()).await, Ok(Endings { found: expected.clone(), below: None }));
    for limit in 1..=7 {
        let mut query = EndingQuery { limit, ..everything() };
        let mut pages = Vec::new();
        loop {
            let page = f.store.endings(&query).await.expect("the store answers").found;
            assert!(page.len() <= limit, "{page:?}");
            let Some(last) = page.last() else { break };
            query.after = Some(EventCursor { at: last.ending.at(), id: last.id.into() });
            pages.extend(page);
        }
        assert_eq!(pages, expected, "{limit} at a time");
    }
    // For every number of tokens per query, nothing is missing, though the order may differ.
    for (look_at, limit) in (1..=8).flat_map(|look_at| [(look_at, 1000), (look_at, 1), (look_at, 2)]) {
        let mut query = EndingQuery { look_at, limit, ..everything() };
        let mut pages = Vec::new();
        loop {
            let Endings { found, below } = f.store.endings(&query).await.expect("the store answers");
            if let Some(last) = found.last().filter(|_| found.len() == limit) {
                query.after = Some(EventCursor { at: last.ending.at(), id: last.id.into() });
                assert_eq!(below, None, "the page is full");
            } else if below.is_some() {
                (query.after, query.below) = (None, below);
            } else {
                pages.extend(found);
                break;
            }
            pages.extend(found);
        }
        pages.sort_by_key(|ended| std::cmp::Reverse((ended.ending.at(), ended.id)));
        assert_eq!(pages, expected, "looking at {look_at} tokens, {limit} at a time");
    }
}

/// By kind and by age; also a consumption by a server whose clock is behind that of the one that issued.
pub async fn endings_are_listed_by_query(subject: &dyn Subject) {
    let f = Fixture::new(subject).await;
    assert_eq!(f.store.endings(&everything()).await, Ok(Endings::default()));
    let start = f.clock.now();
    let (early, taken, back) = (f.token(), f.token(), f.token());
    f.end(early, &consumed(before(start, Duration::from_secs(29)), Some([192, 0, 2, 9].into()), None))
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
        (EndingQuery { until: f.clock.now(), ..everything() }, vec![taken.id, early.id]),
        (EndingQuery { until: start, ..everything() }, vec![early.id]),
        (EndingQuery { since: middle, until: f.clock.now(), ..everything() }, vec![taken.id]),
        (EndingQuery { id: Some(taken.id), ..everything() }, vec![taken.id]),
        (EndingQuery { id: Some(back.id), revoked: false, ..everything() }, vec![]),
        (EndingQuery { id: Some(f.token().id), ..everything() }, vec![]),
        (EndingQuery { by: Some([192, 0, 2, 9].into()), ..everything() }, vec![early.id]),
        (EndingQuery { by: Some([192, 0, 2, 8].into()), ..everything() }, vec![]),
        (EndingQuery { below: Some(taken.id), ..everything() }, vec![early.id]),
    ] {
        let found = f.store.endings(&query).await.expect("the store answers").found;
        let ids: Vec<_> = found.iter().map(|ended| ended.id).collect();
        assert_eq!(ids, expected, "{query:?}");
    }
}
