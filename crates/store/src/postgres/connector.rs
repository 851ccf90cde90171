//! Making connections, each to the first server that will do; and the pools of them.

use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::Entropy;
use deadpool::managed::{self, Metrics, PoolError, RecycleResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::Host as Name;
use tokio_postgres::{AsyncMessage, Config, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::fault::Failure;
use super::hosts::{ConnectionSlots, Host, Hosts, Server};
use super::identity::Identity;
use super::passwords::{PasswordQuery, Passwords};
use super::session::{Cancel, ConnectedHost, Notices, OwnedConnection, Session};
use super::settings::{PostgresUrl, TargetSession, TlsMode};
use super::sql::{self, Sql};
use super::{PostgresOptions, tls};
use crate::error::OpenError;

/// A pool of sessions.
pub(super) type Pool = managed::Pool<Manager>;

/// A session that goes back to its pool when it is dropped.
pub(super) type Pooled = managed::Object<Manager>;

/// How to connect. The pools of a store share it.
pub(super) struct Connector {
    config: Config,
    hosts: Arc<Hosts>,
    mode: TlsMode,
    tls: MakeRustlsConnect,
    passwords: Passwords,
    wants: TargetSession,
    /// How long each server has to take a connection and to answer on it.
    timeout: Duration,
    /// Present if the hosts are tried in a random order.
    entropy: Option<Arc<dyn Entropy>>,
    sql: Arc<Sql>,
    identity: Arc<Identity>,
}

impl Connector {
    pub(super) fn new(
        url: &PostgresUrl,
        options: &PostgresOptions,
        entropy: &Arc<dyn Entropy>,
        identity: Arc<Identity>,
    ) -> Result<Arc<Self>, OpenError> {
        let ca_file = options.ca_file.as_ref().or(url.ca_file());
        let hosts = url.hosts().iter().map(|host| (host.clone(), url.with_host(host).into())).collect();
        Ok(Arc::new(Self {
            config: url.config().clone(),
            hosts: Arc::new(Hosts::new(hosts)),
            mode: url.mode(),
            tls: tls::connector(url.mode(), ca_file.map(PathBuf::as_path))?,
            passwords: url.passwords(options.password_file.clone()),
            wants: url.wants(),
            timeout: url.connect_timeout(),
            entropy: url.is_random().then(|| Arc::clone(entropy)),
            sql: Arc::new(Sql::new(options.schema.clone())),
            identity,
        }))
    }

    /// Connects to the first server that will do. Each has a time of its own, so that one that is silent hides no other.
    async fn connect(&self, pool: &Manager) -> Result<Session, Failure> {
        let mut failures = Vec::new();
        for (number, host, place) in self.hosts.in_order(self.entropy.as_deref()) {
            match self.connect_to(number, host, place, pool).await {
                Ok(session) => return Ok(session),
                Err(failure) => failures.push(failure),
            }
        }
        Err(Failure::of_all(failures))
    }

    /// Connects to a host, at whichever of its addresses.
    async fn connect_to(
        &self,
        number: usize,
        host: &Host,
        place: &Arc<str>,
        pool: &Manager,
    ) -> Result<Session, Failure> {
        let mut attempt = Attempt { hosts: &self.hosts, host: number, server: None };
        let mut servers = match timeout(self.timeout, host.servers()).await {
            Ok(servers) => servers.map_err(|error| Failure::unknown_name(&error, place))?,
            Err(_) => return Err(Failure::slow(place, self.timeout)),
        };
        self.hosts.sort(&mut servers);
        let mut failure = Failure::unknown_name(&io::Error::from(io::ErrorKind::AddrNotAvailable), place);
        for server in servers {
            attempt.goes_on_at(server.clone());
            match self.connect_at(number, host, &server, place, pool).await {
                Ok(session) => {
                    attempt.succeeded();
                    return Ok(session);
                }
                Err(fails) => failure = fails,
            }
        }
        Err(failure)
    }

    async fn connect_at(
        &self,
        number: usize,
        host: &Host,
        server: &Server,
        place: &Arc<str>,
        pool: &Manager,
    ) -> Result<Session, Failure> {
        // If all are taken by what was given up, the server hangs; with no other to go to, it is waited for.
        let patience = if self.hosts.are_several() { self.timeout } else { Duration::MAX };
        let free = timeout(patience, pool.places.at(server).acquire_owned()).await;
        let free = free.map_err(|_| Failure::slow(place, self.timeout))?.map_err(|_| closed())?;
        let origin = ConnectedHost { hosts: Arc::clone(&self.hosts), host: number, server: server.clone() };
        let connected = timeout(self.timeout, async {
            let mut session = self.log_in(host, place, origin, free, pool.cancels).await?;
            // A failure here comes before anything that matters was sent.
            self.prepare(&mut session).await.map_err(Failure::or_unreachable)?;
            Ok(session)
        });
        connected.await.unwrap_or_else(|_| Err(Failure::slow(place, self.timeout)))
    }

    async fn log_in(
        &self,
        host: &Host,
        place: &Arc<str>,
        origin: ConnectedHost,
        free: OwnedSemaphorePermit,
        cancels: bool,
    ) -> Result<Session, Failure> {
        let mut config = self.config.clone();
        match &host.name {
            Some(Name::Tcp(name)) => config.host(name),
            #[cfg(unix)]
            Some(Name::Unix(directory)) => config.host_path(directory),
            None => &mut config,
        };
        if let Server::Tcp(address) = &origin.server {
            config.hostaddr(address.ip());
        }
        config.port(host.port);
        let user = match config.get_user() {
            Some(user) => user.to_owned(),
            None => whoami::username().map_err(|error| Failure::no_user(&error, place))?,
        };
        config.user(&user);
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let found = self.passwords.find(&PasswordQuery { host, user: &user, database: &database })?;
        if let Some(password) = &found.password {
            config.password(password);
        }
        let failed = |error: tokio_postgres::Error| Failure::of_connecting(&error, place, &found.says);
        let asides = Arc::new(Notices::default());
        let (client, driver) = match self.mode {
            TlsMode::Disable => {
                let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
                (client, tokio::spawn(drive(connection, Arc::clone(&asides), Arc::clone(place))))
            }
            TlsMode::Prefer | TlsMode::Verify => {
                let (client, connection) = config.connect(self.tls.clone()).await.map_err(failed)?;
                (client, tokio::spawn(drive(connection, Arc::clone(&asides), Arc::clone(place))))
            }
        };
        let cancel = Cancel {
            token: client.cancel_token(),
            tls: (self.mode != TlsMode::Disable).then(|| self.tls.clone()),
            at_once: cancels,
        };
        let connection = OwnedConnection { client, cancel, driver, _place: free };
        Ok(Session::new(connection, &self.sql, place, origin, asides))
    }

    /// Sees whether statements are carried out here, and whether this is the server to use.
    async fn prepare(&self, session: &mut Session) -> Result<(), Failure> {
        let fsync = session.rows(sql::FSYNC).await?;
        if fsync.first().is_some_and(|row| row.get(0) == Some("off")) {
            tracing::warn!(
                database = session.place(),
                "the database runs with fsync=off: when its machine crashes, used tokens can become good again"
            );
        }
        let asked = match self.wants {
            TargetSession::Any => None,
            TargetSession::ReadWrite => Some((sql::IS_READ_ONLY, "on")),
            TargetSession::Primary => Some((sql::IS_STANDBY, "t")),
        };
        if let Some((text, refused)) = asked {
            let rows = session.rows(text).await?;
            if rows.first().is_some_and(|row| row.get(0) == Some(refused)) {
                return Err(Failure::takes_no_writes(session.place()));
            }
        }
        self.identity.refuse_predecessor(session).await
    }
}

/// A host that is being tried. If the attempt fails or its caller stops waiting, the others come first the next
/// time.
struct Attempt<'a> {
    hosts: &'a Hosts,
    host: usize,
    server: Option<Server>,
}

impl Attempt<'_> {
    /// The server before has failed.
    fn goes_on_at(&mut self, server: Server) {
        if let Some(before) = self.server.replace(server) {
            self.hosts.trouble(self.host, Some(&before));
        }
    }

    fn succeeded(mut self) {
        if let Some(server) = self.server.take() {
            self.hosts.answered(self.host, &server);
        }
        std::mem::forget(self);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.hosts.trouble(self.host, self.server.as_ref());
    }
}

/// Moves the bytes until the connection ends. Calls in flight get the reason.
async fn drive<S, T>(mut connection: Connection<S, T>, asides: Arc<Notices>, place: Arc<str>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => asides.note(&notice),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection to the database ended");
                if error.as_db_error().is_some() {
                    asides.note_end(Failure::of_request(&error, &place));
                }
                return;
            }
        }
    }
}

/// Makes the sessions of one pool.
pub(super) struct Manager {
    connector: Arc<Connector>,
    places: ConnectionSlots,
    /// Whether statements whose caller has left are cancelled at once.
    cancels: bool,
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = Failure;

    async fn create(&self) -> Result<Session, Failure> {
        // In a box: this is rare and large, and every batch would carry room for it.
        Box::pin(self.connector.connect(self)).await
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<Failure> {
        if session.is_sound() {
            Ok(())
        } else {
            Err(managed::RecycleError::message("the connection is of no more use"))
        }
    }
}

/// A pool of up to `size` connections, which has no more than that at each server. They are made when they are needed.
pub(super) fn pool(connector: &Arc<Connector>, size: usize, cancels: bool) -> Result<Pool, OpenError> {
    let manager = Manager { connector: Arc::clone(connector), places: ConnectionSlots::new(size), cancels };
    let pool = Pool::builder(manager).max_size(size).build();
    pool.map_err(|error| OpenError::Unusable(error.to_string()))
}

/// Takes a session out of the pool.
pub(super) async fn take(pool: &Pool, deadline: Instant, place: &str) -> Result<Pooled, Failure> {
    timeout_at(deadline, take_at_length(pool, place)).await.unwrap_or_else(|_| {
        Err(Failure::Overdue {
            reason: format!(
                "{place} cannot be reached in time; check it and the network, and it goes on by itself"
            ),
        })
    })
}

/// The same, for as long as it takes to try every server, each of which has a time of its own.
pub(super) async fn take_at_length(pool: &Pool, place: &str) -> Result<Pooled, Failure> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(failure) => failure,
        PoolError::Closed => closed(),
        error => Failure::Unreachable { reason: format!("no connection to {place}: {error:?}") },
    })
}

fn closed() -> Failure {
    Failure::Unreachable { reason: "it has been closed".to_owned() }
}
