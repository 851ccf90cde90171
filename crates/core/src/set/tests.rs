use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::handshake::{Refusal, StatedAudience};
use crate::{Ended, EndingQuery, ManualClock, SequenceEntropy, StoreStats};

/// The least a store can be; the real ones have a contract test-suite of their own.
#[derive(Debug, Default)]
struct TestStore {
    endings: Mutex<HashMap<TokenId, Ending>>,
    away: Mutex<bool>,
}

#[async_trait]
impl TokenStore for TestStore {
    async fn end(&self, id: TokenId, _expires: Timestamp, ending: Ending) -> Result<End, StoreError> {
        if *self.away.lock().unwrap() {
            return Err(StoreError::Unavailable("away".to_owned()));
        }
        let mut endings = self.endings.lock().unwrap();
        if let Some(first) = endings.get(&id) {
            return Ok(End::Already(first.clone()));
        }
        endings.insert(id, ending);
        Ok(End::Recorded)
    }

    async fn look(&self, id: TokenId, _expires: Timestamp) -> Result<End, StoreError> {
        Ok(self.endings.lock().unwrap().get(&id).cloned().map_or(End::Recorded, End::Already))
    }

    async fn endings(&self, _query: &EndingQuery) -> Result<Vec<Ended>, StoreError> {
        Err(StoreError::Busy)
    }

    async fn move_fence(&self, line: Timestamp) -> Result<Timestamp, StoreError> {
        Ok(line)
    }

    async fn purge(&self, _line: Timestamp) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Err(StoreError::Busy)
    }

    async fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}
}

struct Fixture {
    set: LoginTokenSet,
    clock: Arc<ManualClock>,
    store: Arc<TestStore>,
}

fn fixture(policy: Policy) -> Fixture {
    let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
    let entropy = Arc::new(SequenceEntropy::default());
    let keys = KeyRing::generate(clock.now(), &*entropy).unwrap();
    let store = Arc::new(TestStore::default());
    let set = LoginTokenSet::new(keys, store.clone(), clock.clone(), entropy, policy);
    Fixture { set, clock, store }
}

fn post() -> Attempt {
    Attempt { is_post: true, audience: StatedAudience::None, retry_key: None }
}

async fn verdict(set: &LoginTokenSet, text: &TokenText) -> Verdict {
    set.redeem(text.expose(), &post(), None).await.unwrap().verdict
}

#[tokio::test]
async fn a_token_is_redeemed_once_and_looking_never_consumes() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let issued = set.issue(NewToken::default()).unwrap();
    let text = issued.text.expose();
    assert_eq!(set.get(text).await.unwrap(), Lookup { token: issued.token.clone(), status: Status::Live });
    assert_eq!(set.get(text).await.unwrap().status, Status::Live);
    let now = clock.now();
    assert_eq!(verdict(&set, &issued.text).await, Verdict::Accepted { consumed: now, again: false });
    let first = Consumption { at: now, by: None, retry_key: None };
    assert_eq!(set.get(text).await.unwrap().status, Status::Consumed(first.clone()));
    assert_eq!(verdict(&set, &issued.text).await, Verdict::Refused(Refusal::Replay(first)));
}

#[tokio::test]
async fn consuming_one_token_leaves_the_others_alone() {
    let Fixture { set, .. } = fixture(Policy::default());
    let tokens: Vec<_> = (0..3).map(|_| set.issue(NewToken::default()).unwrap().text).collect();
    verdict(&set, &tokens[1]).await;
    assert_eq!(set.get(tokens[0].expose()).await.unwrap().status, Status::Live);
    assert_eq!(set.get(tokens[2].expose()).await.unwrap().status, Status::Live);
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_a_consumed_one_cannot_be_revoked() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let revoked = set.issue(NewToken::default()).unwrap().text;
    assert_eq!(set.revoke(revoked.expose()).await, Ok(true));
    assert_eq!(set.revoke(revoked.expose()).await, Ok(false));
    assert_eq!(verdict(&set, &revoked).await, Verdict::Refused(Refusal::Revoked));
    assert_eq!(set.get(revoked.expose()).await.unwrap().status, Status::Revoked { at: clock.now() });
    let consumed = set.issue(NewToken::default()).unwrap().text;
    verdict(&set, &consumed).await;
    assert_eq!(set.revoke(consumed.expose()).await, Ok(false));
    let expired = set.issue(NewToken::default()).unwrap().text;
    clock.advance(set.policy().lifetime);
    assert_eq!(set.revoke(expired.expose()).await, Ok(false));
    assert_eq!(set.get(expired.expose()).await.unwrap().status, Status::Expired);
}

#[tokio::test]
async fn issuing_needs_no_store_and_a_store_away_is_never_a_yes() {
    let Fixture { set, store, .. } = fixture(Policy::default());
    *store.away.lock().unwrap() = true;
    let text = set.issue(NewToken::default()).unwrap().text;
    let error = set.redeem(text.expose(), &post(), None).await.unwrap_err();
    assert_eq!(error, RedeemError(StoreError::Unavailable("away".to_owned())));
    *store.away.lock().unwrap() = false;
    assert!(matches!(verdict(&set, &text).await, Verdict::Accepted { .. }));
}

#[tokio::test]
async fn what_is_not_ours_never_reaches_the_store() {
    let Fixture { set, store, .. } = fixture(Policy::default());
    *store.away.lock().unwrap() = true;
    let redemption = set.redeem("cs1nonsense", &post(), None).await.unwrap();
    assert_eq!(redemption, Redemption { verdict: Verdict::Refused(Refusal::NotOurs), token: None });
    assert_eq!(set.get("cs1nonsense").await, Err(GetError::NotOurs(NotOurs)));
    assert_eq!(set.revoke("").await, Err(GetError::NotOurs(NotOurs)));
}

#[test]
fn the_policy_is_kept_when_issuing() {
    let Fixture { set, .. } = fixture(Policy { require_audience: true, ..Policy::default() });
    assert_eq!(set.issue(NewToken::default()).unwrap_err(), IssueError::AudienceRequired);
    let bound =
        NewToken { audience: Some(Audience::parse("https://a.example/").unwrap()), ..NewToken::default() };
    let token = set.issue(bound.clone()).unwrap().token;
    assert_eq!(token.expires() - token.created(), jiff::SignedDuration::from_mins(5));
    for (seconds, fine) in [(0, false), (1, true), (86_400, true), (86_401, false)] {
        let wanted = NewToken { lifetime: Some(Duration::from_secs(seconds)), ..bound.clone() };
        assert_eq!(set.issue(wanted).is_ok(), fine, "{seconds}");
    }
}

#[tokio::test]
async fn keys_rotate_under_live_tokens() {
    let Fixture { set, clock, .. } = fixture(Policy::default());
    let before = set.issue(NewToken::default()).unwrap().text;
    let mut keys = KeyRing::clone(&set.keys());
    let rotate = crate::KeyChange::Rotate { activate_in: Duration::ZERO };
    keys.change(rotate, clock.now(), &crate::OsEntropy).unwrap();
    set.use_file(keys);
    let after = set.issue(NewToken::default()).unwrap().text;
    assert_ne!(before.expose()[..8], after.expose()[..8], "the key's id is in the text");
    for text in [before, after] {
        assert!(matches!(verdict(&set, &text).await, Verdict::Accepted { .. }));
    }
}
