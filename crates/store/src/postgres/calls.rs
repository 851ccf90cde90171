//! The calls of the store, as statements.

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{
    EndResult, Ending, EndingQuery, Endings, Node, NodeList, StoreCounts, StoreError, StoreStats, StoreTimes,
    StoredRing, TokenId, TokenStore, from_millis, to_millis,
};
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::batch_workers::QUEUE;
use super::connector::take;
use super::fault::Failure;
use super::rows::{LookupRow, TokenKey, Watermarks, counts, unreadable, uuid};
use super::session::Session;
use super::sql::Query;
use super::{
    PATIENCE, PostgresStore, Work, moving, no_watermarks, node_registry, recent, ring, schema, work,
};

pub(super) fn unavailable(failure: Failure) -> StoreError {
    StoreError::Unavailable(failure.into())
}

impl PostgresStore {
    async fn ask<T: Send + 'static>(&self, work: Work<T>) -> Result<T, StoreError> {
        self.usable()?;
        self.core.ask_until(work, Instant::now() + PATIENCE).await.map_err(unavailable)
    }
}

#[async_trait]
impl TokenStore for PostgresStore {
    async fn end(&self, id: TokenId, expires: Timestamp, ending: Ending) -> Result<EndResult, StoreError> {
        self.end_with_ring(id, expires, ending, 0).await
    }

    async fn look_up(&self, id: TokenId, expires: Timestamp) -> Result<EndResult, StoreError> {
        self.look_up_with_ring(id, expires, 0).await
    }

    async fn end_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ending: Ending,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        self.usable()?;
        let end = self.batch_workers.end(TokenKey::new(id, expires, ring), ending).await?;
        if end == EndResult::Recorded {
            self.core.counts.has_written(to_millis(self.core.clock.now()));
        }
        Ok(end)
    }

    async fn look_up_with_ring(
        &self,
        id: TokenId,
        expires: Timestamp,
        ring: u64,
    ) -> Result<EndResult, StoreError> {
        let token = TokenKey::new(id, expires, ring);
        self.ask(work(move |session| {
            Box::pin(async move {
                let rows = session.query(Query::Look(token.table()), &[&vec![uuid(token.id)]]).await?;
                let seen = rows.first().map(LookupRow::read).transpose();
                match seen.map_err(|error| unreadable(&error, session.place()))? {
                    Some(seen) if seen.ring != token.ring => Ok(Err(StoreError::OtherRing)),
                    Some(LookupRow { record: Some((ending, _)), .. }) => Ok(Ok(EndResult::Already(ending))),
                    Some(LookupRow { watermarks, .. }) => Ok(Ok(token.judge(watermarks))),
                    None => Err(no_watermarks(session.place())),
                }
            })
        }))
        .await?
    }

    async fn ring(&self) -> Result<Option<StoredRing>, StoreError> {
        self.ask(work(|session| Box::pin(ring::read(session)))).await
    }

    async fn replace_ring(&self, from: u64, ring: &StoredRing) -> Result<bool, StoreError> {
        let ring = Arc::new(ring.clone());
        self.ask(work(move |session| {
            let ring = Arc::clone(&ring);
            Box::pin(async move { ring::replace(session, from, &ring).await })
        }))
        .await
    }

    async fn endings(&self, query: &EndingQuery) -> Result<Endings, StoreError> {
        let query = Arc::new(query.clone());
        self.ask(work(move |session| {
            let query = Arc::clone(&query);
            Box::pin(async move { recent::endings(session, &query).await })
        }))
        .await
    }

    async fn move_fence(&self, to: Timestamp) -> Result<Timestamp, StoreError> {
        let to = to_millis(to);
        let stands = self.ask(work(move |session| {
            Box::pin(async move {
                let script = session.sql().move_fence(to);
                let values = session.script(&script, "stands").await?;
                let stands = values.first().and_then(Option::as_deref).and_then(|stands| stands.parse().ok());
                stands.ok_or_else(|| no_watermarks(session.place()))
            })
        }));
        stands.await.map(from_millis)
    }

    async fn purge(&self, cutoff: Timestamp) -> Result<u64, StoreError> {
        self.usable()?;
        self.core.remove_expired(to_millis(cutoff)).await.map_err(unavailable)
    }

    async fn times(&self) -> Result<StoreTimes, StoreError> {
        self.ask(work(|session| Box::pin(times(session)))).await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        // Counting reads the whole store: one at a time, so that others find a connection.
        let _turn = self.core.counting.lock().await;
        self.ask(work(|session| Box::pin(stats(session)))).await
    }

    fn counts(&self) -> Option<StoreCounts> {
        Some(self.core.counts.read(QUEUE.saturating_sub(self.batch_workers.room())))
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.usable()?;
        if self.batch_workers.room() == 0 {
            return Err(StoreError::Busy);
        }
        if self.core.counts.has_just_written(to_millis(self.core.clock.now())) {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        let core = &self.core;
        let probed = async {
            let mut session = take(&core.writers, deadline, &core.place).await?;
            let limit = deadline.min(Instant::now() + core.limits.statement);
            let probed = timeout_at(limit, core.probe(&mut session)).await;
            probed.unwrap_or_else(|_| Err(session.gave_no_answer()))
        };
        probed.await.map_err(|failure| {
            core.note(&failure);
            unavailable(failure)
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn check_in(&self, node: &Node) -> Result<NodeList, StoreError> {
        let (core, node) = (Arc::clone(&self.core), Arc::new(node.clone()));
        self.ask(work(move |session| {
            let (core, node) = (Arc::clone(&core), Arc::clone(&node));
            Box::pin(async move {
                core.recognize(session).await?;
                node_registry::check_in(session, &node).await
            })
        }))
        .await
    }

    fn take_moved_fences(&self) -> Vec<Timestamp> {
        self.core.identity.take_moved()
    }

    async fn node_list(&self, _: Timestamp) -> Result<NodeList, StoreError> {
        self.ask(work(|session| Box::pin(node_registry::node_list(session)))).await
    }

    async fn close(&self) {
        if self.core.health.close() {
            self.batch_workers.close().await;
            self.core.writers.close();
            self.core.readers.close();
        } else {
            self.batch_workers.close().await;
        }
    }
}

/// The watermarks and the database's clock, of a store that serves.
pub(super) async fn times(session: &mut Session) -> Result<StoreTimes, Failure> {
    let rows = session.query(Query::Watermarks, &[]).await?;
    let Some(row) = rows.first() else { return Err(no_watermarks(session.place())) };
    let read = || Ok((Watermarks::read(row, 0)?, row.try_get(3)?));
    let (watermarks, clock) = read().map_err(|error| unreadable(&error, session.place()))?;
    Ok(StoreTimes {
        clock: Some(from_millis(clock)),
        fence: from_millis(watermarks.fence),
        horizon: watermarks.horizon(),
        // Its clock is what counts, also beside records that an earlier clock has left.
        newest: None,
    })
}

pub(super) async fn stats(session: &mut Session) -> Result<StoreStats, Failure> {
    let schema = schema::version(session).await?;
    let query = if schema < schema::PAIR { Query::WatermarksBefore } else { Query::Watermarks };
    let watermarks = session.query(query, &[]).await?;
    let rows = session.query(Query::Stats, &[]).await?;
    let read = || -> Result<_, tokio_postgres::Error> {
        let watermarks = watermarks.first().map(|row| Watermarks::read(row, 0)).transpose()?;
        Ok((watermarks, counts(&rows)?))
    };
    let (watermarks, (consumed, revoked)) = read().map_err(|error| unreadable(&error, session.place()))?;
    let watermarks = match watermarks {
        Some(watermarks) => watermarks,
        None => moving::watermarks_put_away(session).await?,
    };
    let bytes = match session.query(Query::Bytes, &[]).await {
        Ok(rows) => rows.first().and_then(|row| row.try_get::<_, i64>(0).ok()),
        // Not every database can say it.
        Err(_) => None,
    };
    Ok(StoreStats {
        kind: "postgres",
        schema,
        consumed,
        revoked,
        fence: from_millis(watermarks.fence),
        horizon: from_millis(watermarks.horizon),
        bytes: bytes.map(i64::unsigned_abs),
    })
}
