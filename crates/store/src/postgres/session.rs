//! One connection to the database, and the requests on it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{CancelToken, Client, NoTls, Row, SimpleQueryMessage, SimpleQueryRow, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::fault::Failure;
use super::hosts::{Hosts, Server};
use super::rows::BatchArguments;
use super::sql::{self, Query, Sql, Table};

/// The time limit for cancelling an abandoned statement.
const CANCEL: Duration = Duration::from_secs(5);

/// A connection. It holds nothing that a request relies on: with a pooler in between, each transaction may be carried out
/// by another session of the database.
pub(super) struct Session {
    connection: Arc<OwnedConnection>,
    sql: Arc<Sql>,
    /// The server that it goes to, for people.
    place: Arc<str>,
    /// The same for the order in which servers are tried.
    origin: ConnectedHost,
    /// Whether a request is under way. If it stays so, the session is of no more use.
    busy: bool,
    /// Whether a transaction of several requests is under way.
    open: bool,
    asides: Arc<Notices>,
    /// Whether batches are sent as [prepared statements alone](Self::record_alone).
    goes_alone: bool,
    statements: HashMap<(Table, bool), Statement>,
}

/// Whether a batch cannot be recorded by a prepared statement alone: another session of the database answers than the one that
/// prepared it, because there is a pooler in between; or the settings are not what it needs. Nothing was kept.
fn is_unfit(failure: &Failure) -> bool {
    failure.is(&[
        &SqlState::INVALID_SQL_STATEMENT_NAME,
        &SqlState::DUPLICATE_PSTATEMENT,
        &SqlState::PROTOCOL_VIOLATION,
        &SqlState::DIVISION_BY_ZERO,
    ])
}

/// The types of a batch's parameters, see [`Sql::batch`].
const BATCH: &[Type] = &[
    Type::INT8,
    Type::INT2,
    Type::TEXT,
    Type::UUID_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::INT8_ARRAY,
    Type::INT2_ARRAY,
    Type::INET_ARRAY,
    Type::BYTEA_ARRAY,
    Type::INT8,
    Type::TEXT,
    Type::INT8,
    Type::INT8,
];

/// Where a session goes.
pub(super) struct ConnectedHost {
    pub(super) hosts: Arc<Hosts>,
    pub(super) host: usize,
    pub(super) server: Server,
}

/// The connection itself, and the place that it takes among those that a node may have at a server.
///
/// A session that ends with a request under way keeps its place until the database is done with that. So what a node has at
/// a server is bounded, however often it has given up waiting; and one server that hangs takes no places at another.
pub(super) struct OwnedConnection {
    pub(super) client: Client,
    pub(super) cancel: Cancel,
    /// Moves the bytes. It ends when the client is dropped, or the connection breaks.
    pub(super) driver: JoinHandle<()>,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Drop for OwnedConnection {
    /// The connection is closed at once, also when the other side does not answer.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl OwnedConnection {
    /// Waits until the database has nothing under way here any more.
    async fn wind_up(&self) {
        if self.cancel.at_once && !self.client.is_closed() {
            self.cancel.send().await;
        }
        // It is answered after everything before it.
        if self.client.simple_query("ROLLBACK").await.is_err() {
            // The connection is broken, and what was sent before may go on at its other end.
            self.cancel.send().await;
        }
    }
}

/// How to make the database stop what a session has under way.
pub(super) struct Cancel {
    pub(super) token: CancelToken,
    pub(super) tls: Option<MakeRustlsConnect>,
    /// Whether that is done while the connection stands. Not for batches: one that waits for a synchronous standby would be
    /// committed without it, and its tokens be used up with nobody to tell. It waits on, and keeps others from doing the
    /// same. A batch that waits for a lock keeps its place in the same way until it gets it.
    pub(super) at_once: bool,
}

impl Cancel {
    async fn send(&self) {
        let outcome = match &self.tls {
            Some(tls) => timeout(CANCEL, self.token.cancel_query(tls.clone())).await,
            None => timeout(CANCEL, self.token.cancel_query(NoTls)).await,
        };
        if let Ok(Err(error)) = outcome {
            tracing::debug!(%error, "cannot cancel an abandoned statement in the database");
        }
    }
}

/// What the database says beside its answers.
#[derive(Debug, Default)]
pub(super) struct Notices {
    warning: Mutex<Option<String>>,
    /// Why the connection ended, if it came when no answer was waited for.
    end: Mutex<Option<Failure>>,
}

impl Notices {
    /// A commit whose wait for a synchronous standby is cancelled succeeds, with a warning of this class. The standby may
    /// not have it, so it counts as a lost answer.
    pub(super) fn note(&self, notice: &DbError) {
        if *notice.code() == SqlState::WARNING {
            *self.warning.lock().unwrap_or_else(PoisonError::into_inner) = Some(notice.message().to_owned());
        }
    }

    fn take_warning(&self) -> Option<String> {
        self.warning.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn note_end(&self, failure: Failure) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.or_lost());
    }

    fn end(&self) -> Option<Failure> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A parameter of a statement. Its type goes with it, so that the statement need not be prepared to find it out.
pub(super) trait Parameter: ToSql + Sync {
    fn kind(&self) -> Type;
}

macro_rules! parameters {
    ($($rust:ty => $kind:ident),* $(,)?) => {
        $(impl Parameter for $rust {
            fn kind(&self) -> Type {
                Type::$kind
            }
        })*
    };
}

parameters! {
    bool => BOOL,
    i16 => INT2,
    i32 => INT4,
    i64 => INT8,
    Uuid => UUID,
    String => TEXT,
    &str => TEXT,
    Option<&str> => TEXT,
    Option<&[u8]> => BYTEA,
    Option<IpAddr> => INET,
    Vec<i16> => INT2_ARRAY,
    Vec<i64> => INT8_ARRAY,
    Vec<Uuid> => UUID_ARRAY,
    Vec<Option<IpAddr>> => INET_ARRAY,
    Vec<Option<Vec<u8>>> => BYTEA_ARRAY,
}

impl Drop for Session {
    fn drop(&mut self) {
        if !(self.busy || self.open) {
            return;
        }
        // Without a runtime the program ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let connection = Arc::clone(&self.connection);
            runtime.spawn(async move { connection.wind_up().await });
        }
    }
}

impl Session {
    pub(super) fn new(
        connection: OwnedConnection,
        sql: &Arc<Sql>,
        place: &Arc<str>,
        origin: ConnectedHost,
        asides: Arc<Notices>,
    ) -> Self {
        Self {
            connection: Arc::new(connection),
            sql: Arc::clone(sql),
            place: Arc::clone(place),
            origin,
            busy: false,
            open: false,
            asides,
            goes_alone: true,
            statements: HashMap::new(),
        }
    }

    /// Whether it can be used again.
    pub(super) fn is_sound(&self) -> bool {
        let ConnectedHost { hosts, server, .. } = &self.origin;
        !self.busy && !self.open && !self.connection.client.is_closed() && !hosts.is_left(server)
    }

    /// The caller no longer waits for the answer. Its server may hang, so the others come first from now on, and what
    /// else is connected to this one is not used any more.
    pub(super) fn gave_no_answer(&self) -> Failure {
        self.is_not_the_one();
        Failure::silence(&self.place)
    }

    /// Its server is not the one to use: the others come first from now on.
    pub(super) fn is_not_the_one(&self) {
        let ConnectedHost { hosts, host, server } = &self.origin;
        hosts.leave(*host, server);
    }

    /// Runs a statement, in a transaction of its own unless one is under way; the rows that it returned.
    pub(super) async fn query(
        &mut self,
        query: Query,
        parameters: &[&dyn Parameter],
    ) -> Result<Vec<Row>, Failure> {
        let (text, typed) = (self.sql.text(query), typed(parameters));
        self.busy = true;
        let outcome = self.carry_out(self.connection.client.query_typed(&text, &typed)).await;
        self.finish(outcome)
    }

    /// The same for a statement that returns no rows; how many it has changed.
    pub(super) async fn execute(
        &mut self,
        query: Query,
        parameters: &[&dyn Parameter],
    ) -> Result<u64, Failure> {
        let (text, typed) = (self.sql.text(query), typed(parameters));
        self.busy = true;
        let outcome = self.carry_out(self.connection.client.execute_typed(&text, &typed)).await;
        self.finish(outcome)
    }

    /// The statement is sent without a name, for a pooler may give the next request to a session that has not heard of it.
    /// Without a transaction, its beginning and its end travel with it.
    async fn carry_out<T>(
        &self,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        if self.open {
            return statement.await.map_err(|error| self.failure(&error));
        }
        let (begun, outcome, ended) = tokio::join!(
            biased;
            self.connection.client.simple_query(sql::BEGIN),
            statement,
            self.connection.client.simple_query("COMMIT"),
        );
        // Then the statement was sent nevertheless, and was a transaction by itself.
        begun.map_err(|error| self.failure(&error).or_lost())?;
        let value = outcome.map_err(|error| self.failure(&error))?;
        ended.map_err(|error| self.failure(&error))?;
        Ok(value)
    }

    /// Records a batch, in one transaction that costs one way to the database and back; the ids that it recorded.
    pub(super) async fn record(
        &mut self,
        table: Table,
        arguments: &BatchArguments<'_>,
    ) -> Result<Vec<Uuid>, Failure> {
        self.busy = true;
        if self.goes_alone {
            let outcome = self.record_alone(table, arguments).await;
            if !outcome.as_ref().is_err_and(is_unfit) {
                return self.finish(outcome);
            }
            self.goes_alone = false;
            self.statements.clear();
        }
        let outcome = Box::pin(self.record_by_name(table, arguments)).await;
        self.finish(outcome)
    }

    /// As a statement that this connection has prepared, and that is a transaction by itself: the fast way, where nothing
    /// is in between and the settings of the session are as usual. Behind a pooler the driver's name for the statement may
    /// be that of another node's; so the call also states its real name, and records nothing if that is wrong.
    async fn record_alone(
        &mut self,
        table: Table,
        arguments: &BatchArguments<'_>,
    ) -> Result<Vec<Uuid>, Failure> {
        let BatchArguments { nonce, group, known, ring, columns } = arguments;
        let sql = Arc::clone(&self.sql);
        let batch = sql.batch_of(table, known.tells());
        let key = (table, known.tells());
        let statement = if let Some(statement) = self.statements.get(&key) {
            statement.clone()
        } else {
            let prepared = Box::pin(self.connection.client.prepare_typed(&batch.alone, BATCH)).await;
            let statement = prepared.map_err(|error| self.failure(&error))?;
            self.statements.insert(key, statement.clone());
            statement
        };
        let identity = known.name();
        let parameters: [&(dyn ToSql + Sync); 14] = [
            nonce,
            group,
            &identity,
            &columns.ids,
            &columns.created,
            &columns.expires,
            &columns.ended,
            &columns.kinds,
            &columns.peers,
            &columns.retry_keys,
            ring,
            &batch.name,
            &known.since,
            &known.table,
        ];
        let rows = self.connection.client.query(&statement, &parameters).await;
        let rows = rows.map_err(|error| self.failure(&error))?;
        let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
        ids.map_err(|error| self.failure(&error))
    }

    /// With a statement that is prepared, in whatever session of the database carries this out, under a name that says all
    /// of it. One that has not prepared it yet refuses, and nothing is kept; while the transaction that failed is not rolled
    /// back, a pooler stays with the same session.
    async fn record_by_name(
        &self,
        table: Table,
        arguments: &BatchArguments<'_>,
    ) -> Result<Vec<Uuid>, Failure> {
        let (client, sql, tells) = (&self.connection.client, &self.sql, arguments.known.tells());
        let text = arguments.text(&sql.batch_of(table, tells).name);
        let mut outcome = client.simple_query(&sql.batch(table, &text, tells)).await;
        if outcome.as_ref().is_err_and(|error| error.code() == Some(&SqlState::INVALID_SQL_STATEMENT_NAME)) {
            outcome = match client.simple_query(&sql.prepare(table, tells)).await {
                Ok(_) => client.simple_query(&sql.prepared(table, &text, tells)).await,
                Err(error) => Err(error),
            };
        }
        let outcome = outcome.map_err(|error| self.failure(&error));
        if let Err(Failure::Refused { .. }) = outcome {
            client.simple_query("ROLLBACK").await.map_err(|error| self.failure(&error).or_lost())?;
        }
        let ids = rows_of(outcome?).into_iter().filter_map(|row| Uuid::parse_str(row.get("id")?).ok());
        Ok(ids.collect())
    }

    /// Runs statements as one request, which is a whole transaction; the values of this column that they returned.
    pub(super) async fn script(&mut self, text: &str, column: &str) -> Result<Vec<Option<String>>, Failure> {
        self.busy = true;
        let script = format!("{}; {text}; COMMIT", sql::BEGIN);
        let outcome =
            self.connection.client.simple_query(&script).await.map_err(|error| self.failure(&error));
        if let Err(Failure::Refused { .. }) = outcome {
            self.connection
                .client
                .simple_query("ROLLBACK")
                .await
                .map_err(|error| self.failure(&error).or_lost())?;
        }
        let values = rows_of(self.finish(outcome)?).into_iter().filter_map(|row| {
            let index = row.columns().iter().position(|found| found.name() == column)?;
            row.try_get(index).ok().map(|value| value.map(ToOwned::to_owned))
        });
        Ok(values.collect())
    }

    /// Runs statements in one request; the rows that they returned. Where they change something, a transaction has to be
    /// under way.
    pub(super) async fn rows(&mut self, text: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        self.busy = true;
        let outcome = self.connection.client.simple_query(text).await.map_err(|error| self.failure(&error));
        self.finish(outcome).map(rows_of)
    }

    /// Begins a transaction of several requests. If it is not ended by one of the next two, the session ends.
    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.open = true;
        self.rows(sql::BEGIN).await.map(drop)
    }

    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.rows("COMMIT").await?;
        self.open = false;
        Ok(())
    }

    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        self.rows("ROLLBACK").await?;
        self.open = false;
        Ok(())
    }

    fn finish<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let warning = self.asides.take_warning();
        match (outcome, warning) {
            (Ok(_), Some(warning)) => Err(Failure::warned(&warning, &self.place)),
            (Ok(value), None) => {
                self.busy = false;
                Ok(value)
            }
            (Err(failure), _) => {
                // Nothing is left of a request that was refused.
                self.busy = !matches!(failure, Failure::Refused { .. });
                Err(failure)
            }
        }
    }

    pub(super) fn sql(&self) -> &Sql {
        &self.sql
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    fn failure(&self, error: &tokio_postgres::Error) -> Failure {
        let end = if error.is_closed() { self.asides.end() } else { None };
        end.unwrap_or_else(|| Failure::of_request(error, &self.place))
    }
}

fn typed<'a>(parameters: &[&'a dyn Parameter]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    parameters.iter().map(|&parameter| (parameter as &(dyn ToSql + Sync), parameter.kind())).collect()
}

fn rows_of(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.collect()
}
