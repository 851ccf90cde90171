//! The fixture of all cases.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::{
    Clock, Consumption, EndResult, Ending, Entropy, ManualClock, RetryKeyHash, SequenceEntropy, StoreError,
    TokenId, TokenStore, after, from_millis,
};
use jiff::Timestamp;

use super::Subject;

/// A store in use, and the clock it goes by.
pub(super) struct Fixture {
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<dyn TokenStore>,
    entropy: SequenceEntropy,
}

/// A token, as far as a store is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) id: TokenId,
    pub(super) expires: Timestamp,
}

/// When every case begins: a day in 2026, at a millisecond that is not a whole second.
pub(super) fn beginning() -> Timestamp {
    from_millis(1_767_225_600_123)
}

/// How long a token lives unless the case says otherwise.
pub(super) const LIFETIME: Duration = Duration::from_mins(5);

impl Fixture {
    pub(super) async fn new(subject: &dyn Subject) -> Self {
        let clock = Arc::new(ManualClock::at(beginning()));
        let store = subject.open(Arc::clone(&clock) as Arc<dyn Clock>).await;
        Self { clock, store, entropy: SequenceEntropy::default() }
    }

    /// Lets go of the store, closed or not, and opens it again.
    pub(super) async fn open_again(self, subject: &dyn Subject) -> Self {
        let Self { clock, store, entropy } = self;
        drop(store);
        let store = subject.open(Arc::clone(&clock) as Arc<dyn Clock>).await;
        Self { clock, store, entropy }
    }

    /// A token made now.
    pub(super) fn token(&self) -> Token {
        self.token_for(LIFETIME)
    }

    /// A token made now that lives so long.
    pub(super) fn token_for(&self, lifetime: Duration) -> Token {
        self.token_at(self.clock.now(), lifetime)
    }

    /// A token made then.
    pub(super) fn token_at(&self, created: Timestamp, lifetime: Duration) -> Token {
        let id = TokenId::generate(created, &self.entropy as &dyn Entropy).expect("a counter never runs dry");
        Token { id, expires: after(created, lifetime) }
    }

    pub(super) async fn end(&self, token: Token, ending: &Ending) -> Result<EndResult, StoreError> {
        self.store.end(token.id, token.expires, ending.clone()).await
    }

    /// Consumes it now; what the store answers.
    pub(super) async fn consume(&self, token: Token) -> EndResult {
        self.end(token, &self.consumption()).await.expect("the store answers")
    }

    /// What the store knows of it.
    pub(super) async fn look_up(&self, token: Token) -> EndResult {
        self.store.look_up(token.id, token.expires).await.expect("the store answers")
    }

    /// A consumption at the present moment.
    pub(super) fn consumption(&self) -> Ending {
        consumed(self.clock.now(), None, None)
    }

    /// A revocation at the present moment.
    pub(super) fn revocation(&self) -> Ending {
        Ending::Revoked { at: self.clock.now() }
    }
}

pub(super) fn consumed(at: Timestamp, by: Option<IpAddr>, key: Option<&[u8]>) -> Ending {
    Ending::Consumed(Consumption { at, by, retry_key: key.map(RetryKeyHash::of) })
}
