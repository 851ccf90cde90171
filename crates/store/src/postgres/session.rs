//! One connection to the database, made ready for use; and the pools of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolError, RecycleResult};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage, SimpleQueryRow, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::Failure;
use super::settings::TlsMode;
use super::sql::{self, Query, Sql};

/// How long making one connection may take, unless the URL says so (`connect_timeout`).
const CONNECT: Duration = Duration::from_secs(5);

/// After so long without a sign of life the system asks the other side whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A pool of sessions.
pub(super) type Pool = managed::Pool<Manager>;

/// A session that goes back to its pool when it is dropped.
pub(super) type Pooled = managed::Object<Manager>;

/// A connection, with the statements that were prepared on it.
pub(super) struct Session {
    client: Client,
    statements: HashMap<Query, Statement>,
    sql: Arc<Sql>,
    place: Arc<str>,
    /// Whether a request or a transaction is under way. If it stays so, the session is of no more use.
    busy: bool,
    /// Moves the bytes. It ends when the client is dropped, or the connection breaks.
    driver: JoinHandle<()>,
}

impl Drop for Session {
    /// The connection is closed at once, also when the other side does not answer.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Runs a prepared statement.
    pub(super) async fn query(
        &mut self,
        query: Query,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        self.busy = true;
        let statement = self.prepared(query).await?;
        let rows = self.client.query(&statement, parameters).await.map_err(|error| self.failure(&error))?;
        self.busy = false;
        Ok(rows)
    }

    /// The same for a statement that returns no rows; how many it has changed.
    pub(super) async fn execute(
        &mut self,
        query: Query,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Failure> {
        self.busy = true;
        let statement = self.prepared(query).await?;
        let changed =
            self.client.execute(&statement, parameters).await.map_err(|error| self.failure(&error))?;
        self.busy = false;
        Ok(changed)
    }

    async fn prepared(&mut self, query: Query) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(&query) {
            return Ok(statement.clone());
        }
        let prepared = self.client.prepare(&self.sql.text(query)).await;
        let statement = prepared.map_err(|error| self.failure(&error))?;
        self.statements.insert(query, statement.clone());
        Ok(statement)
    }

    /// Runs statements in one request; the values of this column that they returned.
    pub(super) async fn script(&mut self, text: &str, column: &str) -> Result<Vec<Option<String>>, Failure> {
        let rows = self.rows(text).await?;
        let values = rows.into_iter().filter_map(|row| {
            let index = row.columns().iter().position(|found| found.name() == column)?;
            row.try_get(index).ok().map(|value| value.map(ToOwned::to_owned))
        });
        Ok(values.collect())
    }

    /// Runs statements in one request; the rows that they returned.
    pub(super) async fn rows(&mut self, text: &str) -> Result<Vec<SimpleQueryRow>, Failure> {
        self.busy = true;
        let messages = self.client.simple_query(text).await.map_err(|error| self.failure(&error))?;
        self.busy = false;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// The transaction that a script began goes on. Unless [`script`](Self::script) ends it, so does the session.
    pub(super) fn in_transaction(&mut self) {
        self.busy = true;
    }

    /// A request was refused and nothing of it is left.
    pub(super) fn recovered(&mut self) {
        self.busy = false;
    }

    pub(super) fn sql(&self) -> &Sql {
        &self.sql
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn failure(&self, error: &tokio_postgres::Error) -> Failure {
        Failure::of_request(error, &self.place)
    }
}

/// Makes sessions.
pub(super) struct Manager {
    config: Config,
    mode: TlsMode,
    tls: MakeRustlsConnect,
    password_file: Option<PathBuf>,
    sql: Arc<Sql>,
    place: Arc<str>,
}

impl Manager {
    pub(super) fn new(
        mut config: Config,
        mode: TlsMode,
        tls: MakeRustlsConnect,
        password_file: Option<PathBuf>,
        sql: Arc<Sql>,
        place: Arc<str>,
    ) -> Self {
        config.keepalives_idle(KEEPALIVE);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name("countersign");
        }
        Self { config, mode, tls, password_file, sql, place }
    }

    /// Connects and sets what is set for each connection.
    async fn connect(&self) -> Result<Session, Failure> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            config.password(read_password(path)?);
        }
        let failed = |error: tokio_postgres::Error| Failure::of_connecting(&error, &self.place);
        let (client, driver) = match self.mode {
            TlsMode::Disable => {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(drive(connection)))
            }
            TlsMode::Prefer | TlsMode::Verify => {
                let (client, connection) = config.connect(self.tls.clone()).await.map_err(failed)?;
                (client, tokio::spawn(drive(connection)))
            }
        };
        let mut session = Session {
            client,
            statements: HashMap::new(),
            sql: Arc::clone(&self.sql),
            place: Arc::clone(&self.place),
            busy: false,
            driver,
        };
        // A failure here comes before anything that matters was sent.
        prepare(&mut session).await.map_err(|failure| match failure {
            Failure::Lost { reason } | Failure::Refused { reason, .. } => Failure::Unreachable { reason },
            other => other,
        })?;
        Ok(session)
    }
}

/// Moves the bytes until the connection ends. Whoever waits for an answer is told how it ended.
async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the database ended");
    }
}

async fn prepare(session: &mut Session) -> Result<(), Failure> {
    session.script(sql::SESSION, "").await?;
    for set in sql::SESSION_IF_KNOWN {
        match session.script(set, "").await {
            Ok(_) => {}
            Err(Failure::Refused { .. }) => session.recovered(),
            Err(failure) => return Err(failure),
        }
    }
    for row in session.rows(sql::DURABILITY).await? {
        match (row.get(0), row.get(1)) {
            // `remote_apply` waits for more than `on` does, and stays.
            (Some("synchronous_commit"), Some("off" | "local" | "remote_write")) => {
                session.script(sql::SYNCHRONOUS, "").await?;
            }
            (Some("fsync"), Some("off")) => tracing::warn!(
                database = &*session.place,
                "the database runs with fsync=off: when its machine crashes, used tokens can become good again"
            ),
            _ => {}
        }
    }
    Ok(())
}

fn read_password(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::Unreachable {
        reason: format!("the password of the store cannot be read from {}: {error}", path.display()),
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        self.connect().await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        if session.busy || session.client.is_closed() {
            return Err(managed::RecycleError::message("the connection has ended"));
        }
        Ok(())
    }
}

/// A pool of at most so many connections. They are made when they are needed.
pub(super) fn pool(manager: Manager, size: usize) -> Result<Pool, String> {
    Pool::builder(manager).max_size(size).build().map_err(|error| error.to_string())
}

/// Takes a session out of the pool.
pub(super) async fn take(pool: &Pool, deadline: Instant, place: &str) -> Result<Pooled, Failure> {
    match timeout_at(deadline, pool.get()).await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(PoolError::Backend(failure))) => Err(failure),
        Ok(Err(PoolError::Closed)) => Err(Failure::Unreachable { reason: "it has been closed".to_owned() }),
        Ok(Err(error)) => {
            Err(Failure::Unreachable { reason: format!("no connection to {place}: {error:?}") })
        }
        Err(_) => Err(Failure::Overdue {
            reason: format!(
                "{place} cannot be reached in time; check it and the network, and it goes on by itself"
            ),
        }),
    }
}
