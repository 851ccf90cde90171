//! The calls that go from `writer.rs` to the writing thread (`thread.rs`) and share a transaction.

use std::sync::OnceLock;

use countersign_core::{EndResult, Ending, StoreError, TokenId};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::records::{self, IdBytes, Insert, PurgedSlice, Watermarks};
use crate::counts::Counts;

/// Opens the writing connection, again and again if need be.
pub(super) type Connect = Box<dyn Fn() -> rusqlite::Result<Connection> + Send>;

/// What the thread says about itself.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) counts: Counts,
    /// The damage that the check of a large database found; nothing is written from then on.
    pub(super) damage: OnceLock<String>,
}

/// What the queue holds.
pub(super) enum Message {
    Call(Box<dyn Job>),
    /// Take no more calls, finish those that wait, write the log back.
    Close,
}

/// What a call may do inside the batch's transaction.
pub(super) struct Batch<'c> {
    connection: &'c Connection,
    insert: Insert<'c>,
    watermarks: Watermarks,
}

impl<'c> Batch<'c> {
    pub(super) fn begin(connection: &'c Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute(())?;
        Ok(Self {
            connection,
            insert: Insert::prepare(connection)?,
            watermarks: Watermarks::read(connection)?,
        })
    }

    pub(super) fn end(
        &mut self,
        id: TokenId,
        expires: Timestamp,
        ending: &Ending,
    ) -> rusqlite::Result<EndResult> {
        records::end(self.connection, &mut self.insert, self.watermarks, id, expires, ending)
    }

    pub(super) fn move_fence(&mut self, to: i64) -> rusqlite::Result<i64> {
        self.watermarks.fence = records::move_fence(self.connection, to)?;
        Ok(self.watermarks.fence)
    }

    /// Removes some records, and moves the horizon over them.
    pub(super) fn purge_slice(
        &mut self,
        from: IdBytes,
        until: IdBytes,
        cutoff: i64,
    ) -> rusqlite::Result<PurgedSlice> {
        let slice = records::purge_slice(self.connection, from, until, cutoff)?;
        self.watermarks.horizon = slice.horizon;
        Ok(slice)
    }

    /// For everything that does not move the watermarks.
    pub(super) fn connection(&self) -> &Connection {
        self.connection
    }
}

/// A call: the operation, and where its answer goes.
pub(super) trait Job: Send {
    /// Whether its caller still waits; a call whose caller has disconnected is skipped.
    fn is_wanted(&self) -> bool;
    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Call<F, T> {
    work: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.work)(batch)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { result, reply, .. } = *self;
        // An error means that the caller has gone away.
        let _ = reply.send(outcome.and_then(|()| result.ok_or_else(stopped)));
    }
}

pub(super) fn call_message<F, T>(work: F) -> (Message, oneshot::Receiver<Result<T, StoreError>>)
where
    F: FnMut(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Message::Call(Box::new(Call { work, result: None, reply })), answer)
}

pub(super) fn stopped() -> StoreError {
    StoreError::unavailable("its writing thread has stopped; restart the server")
}
