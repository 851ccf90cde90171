//! The contract, and what only a store in a database can get wrong.

mod abandoned;
mod batches;
mod defaults;
mod examining;
mod failover;
mod libpq;
mod lost;
mod moves;
mod pooled;
mod purging;
mod schemas;
mod settings;
mod tls;
mod unsound;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::{
    Clock, Consumption, EndResult, Ending, ManualClock, OsEntropy, SequenceEntropy, StoreError, TokenId,
    TokenStore, after, from_millis,
};
use countersign_test_postgres::{Place, seen};
use jiff::Timestamp;

use super::{PostgresOptions, PostgresStore, PostgresUrl};
use crate::contract::{Subject, contract_tests};
use crate::error::OpenError;

struct Postgres(Place);

#[async_trait]
impl Subject for Postgres {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
        Arc::new(try_open(&self.0, clock).await.unwrap())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn goes_by_its_own_clock(&self) -> bool {
        true
    }
}

contract_tests!(Postgres(Place::new()));

fn options(schema: &str) -> PostgresOptions {
    PostgresOptions { schema: schema.parse().unwrap(), ..PostgresOptions::default() }
}

fn url(text: &str) -> PostgresUrl {
    text.parse().unwrap()
}

/// Consumes it as soon as that works.
async fn settled(store: &PostgresStore, token: Token) -> EndResult {
    seen("the store works", async || match consume(store, token).await {
        Ok(end) => Some(end),
        Err(StoreError::Unavailable(_)) => None,
        Err(other) => panic!("{other:?}"),
    })
    .await
}

async fn try_open(place: &Place, clock: Arc<dyn Clock>) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(&url(place.url()), &options(place.schema()), clock, Arc::new(OsEntropy)).await
}

/// A schema, a clock and tokens.
struct World {
    place: Place,
    clock: Arc<ManualClock>,
    entropy: SequenceEntropy,
}

/// An id and when it expires.
type Token = (TokenId, Timestamp);

impl World {
    fn new() -> Self {
        Self::at(Place::new())
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            clock: Arc::new(ManualClock::at(from_millis(1_767_225_600_123))),
            entropy: SequenceEntropy::default(),
        }
    }

    async fn open(&self) -> PostgresStore {
        try_open(&self.place, Arc::clone(&self.clock) as Arc<dyn Clock>).await.unwrap()
    }

    fn token(&self) -> Token {
        let now = self.clock.now();
        (TokenId::generate(now, &self.entropy).unwrap(), after(now, Duration::from_mins(5)))
    }

    fn tokens(&self, count: usize) -> Vec<Token> {
        (0..count).map(|_| self.token()).collect()
    }
}

fn consumption(at: Timestamp) -> Ending {
    Ending::Consumed(Consumption { at, by: Some([192, 0, 2, 1].into()), retry_key: None })
}

async fn consume(store: &PostgresStore, (id, expires): Token) -> Result<EndResult, StoreError> {
    store.end(id, expires, consumption(id.created())).await
}
