//! The contract, and what only a store in a file can get wrong.

mod backups;
mod batches;
mod checkups;
mod faults;
mod lost_logs;
mod moves;
mod opening;
#[cfg(unix)]
mod processes;
mod reads;
mod size;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{
    Clock, Consumption, EndResult, Ending, ManualClock, SequenceEntropy, StoreError, TokenId, TokenStore,
    after, from_millis,
};
use jiff::Timestamp;
use tempfile::TempDir;

pub(crate) use self::moves::SqlitePlace;
use super::batch::Connect;
use super::schema::{self, Access};
use super::{FILE_NAME, SqliteStore};
use crate::backend::IfMissing;
use crate::contract::{Subject, contract_tests};
use crate::error::OpenError;

struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Subject for Sqlite {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore> {
        Arc::new(SqliteStore::open(&self.0.path().join(FILE_NAME), clock).await.unwrap())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

contract_tests!(Sqlite::new());

/// A directory, a clock and tokens.
struct Place {
    dir: TempDir,
    clock: Arc<ManualClock>,
    entropy: SequenceEntropy,
}

/// An id and when it expires.
type Token = (TokenId, Timestamp);

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(from_millis(1_767_225_600_123))),
            entropy: SequenceEntropy::default(),
        }
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join(FILE_NAME)
    }

    async fn open(&self) -> SqliteStore {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(&self.db(), Arc::clone(&self.clock) as Arc<dyn Clock>).await
    }

    /// Opens a store whose writing connections `tamper` gets to see first, and whose queue has so many places.
    fn open_tampered(
        &self,
        queue: usize,
        tamper: impl Fn(&rusqlite::Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> SqliteStore {
        let path = self.db();
        let connect: Connect = Box::new(move || {
            let connection = schema::connect(&path, Access::Write)?;
            tamper(&connection)?;
            Ok(connection)
        });
        SqliteStore::open_with(
            self.db(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            IfMissing::Make,
            connect,
            queue,
            u64::MAX,
        )
        .unwrap()
    }

    fn token(&self) -> Token {
        let now = self.clock.now();
        (TokenId::generate(now, &self.entropy).unwrap(), after(now, Duration::from_mins(5)))
    }

    fn tokens(&self, count: usize) -> Vec<Token> {
        (0..count).map(|_| self.token()).collect()
    }
}

/// Where a fence stands that was moved now by itself.
fn fence_after_all(place: &Place) -> Timestamp {
    after(place.clock.now(), CLOCK_SKEW + Duration::from_millis(1))
}

fn consumption(at: Timestamp) -> Ending {
    Ending::Consumed(Consumption { at, by: Some([192, 0, 2, 1].into()), retry_key: None })
}

async fn consume(store: &SqliteStore, (id, expires): Token) -> Result<EndResult, StoreError> {
    store.end(id, expires, consumption(id.created())).await
}

/// Consumes all of these in one batch.
async fn consume_all(store: &SqliteStore, tokens: Vec<Token>) {
    let all = store.writer.call(move |batch| {
        for (id, expires) in &tokens {
            assert_eq!(batch.end(*id, *expires, &consumption(id.created()))?, EndResult::Recorded);
        }
        Ok(())
    });
    assert_eq!(all.await, Ok(()));
}

async fn look(store: &SqliteStore, (id, expires): Token) -> EndResult {
    store.look_up(id, expires).await.unwrap()
}

/// What an unusable store says.
fn reason<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Unavailable(unusable)) => unusable.reason().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// Holds the writer in the middle of a batch, so that a test decides what is in the next one.
struct Held<'s> {
    store: &'s SqliteStore,
    release: mpsc::Sender<()>,
    call: Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 's>>,
}

impl<'s> Held<'s> {
    async fn new(store: &'s SqliteStore) -> Self {
        let (release, released) = mpsc::channel();
        let (here, is_here) = tokio::sync::oneshot::channel();
        let (released, mut here) = (std::sync::Mutex::new(released), Some(here));
        let call = store.writer.call(move |_| {
            here.take().unwrap().send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
            Ok(())
        });
        let mut held = Self { store, release, call: Box::pin(call) };
        assert!(poll_once(held.call.as_mut()).await.is_pending());
        is_here.await.unwrap();
        held
    }

    /// Puts a consumption into the queue; its answer comes after [`release`](Self::release).
    async fn queue(&self, token: Token) -> Queued<'s> {
        let mut queued = Queued(Box::pin(consume(self.store, token)));
        assert!(poll_once(queued.0.as_mut()).await.is_pending());
        queued
    }

    async fn release(self) {
        self.release.send(()).unwrap();
        self.call.await.unwrap();
    }
}

/// A consumption that waits in the queue.
struct Queued<'s>(Pin<Box<dyn Future<Output = Result<EndResult, StoreError>> + Send + 's>>);

async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
