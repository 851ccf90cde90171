//! Tokens as rows of PostgreSQL, over 64 pooled connections: `postgres-peer postgres://…`.

use countersign_peers::{DatabaseError, LIFETIME, Tokens, serve};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Config, NoTls};

const CONNECTIONS: usize = 64;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS peer_token (token TEXT PRIMARY KEY, expires TIMESTAMPTZ NOT NULL, \
                     consumed TIMESTAMPTZ)";
const KEEP: &str = "INSERT INTO peer_token (token, expires) VALUES ($1, now() + make_interval(secs => $2))";
const TAKE: &str =
    "UPDATE peer_token SET consumed = now() WHERE token = $1 AND consumed IS NULL AND expires > now()";

struct InPostgres(Pool);

impl Tokens for InPostgres {
    async fn keep(&self, token: String) -> Result<(), DatabaseError> {
        let connection = self.0.get().await?;
        let statement = connection.prepare_cached(KEEP).await?;
        connection.execute(&statement, &[&token, &f64::from(LIFETIME)]).await?;
        Ok(())
    }

    async fn take(&self, token: String) -> Result<bool, DatabaseError> {
        let connection = self.0.get().await?;
        let statement = connection.prepare_cached(TAKE).await?;
        Ok(connection.execute(&statement, &[&token]).await? == 1)
    }
}

#[tokio::main]
async fn main() -> Result<(), DatabaseError> {
    let url = std::env::args().nth(1).ok_or("usage: postgres-peer postgres://USER@HOST:PORT/DATABASE")?;
    let pool = Pool::builder(Manager::new(url.parse::<Config>()?, NoTls)).max_size(CONNECTIONS).build()?;
    pool.get().await?.batch_execute(TABLE).await?;
    // All are there before the first request, which would wait for them.
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(pool.get().await?);
    }
    drop(connections);
    Ok(serve(InPostgres(pool)).await?)
}
