//! Tokens in Redis, over one multiplexed connection: `redis-peer redis://HOST:PORT`.

use countersign_peers::{DatabaseError, LIFETIME, Tokens, serve};
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client};

struct InRedis(MultiplexedConnection);

impl Tokens for InRedis {
    async fn keep(&self, token: String) -> Result<(), DatabaseError> {
        Ok(self.0.clone().set_ex(token, 1, LIFETIME.into()).await?)
    }

    async fn take(&self, token: String) -> Result<bool, DatabaseError> {
        let found: Option<u8> = self.0.clone().get_del(token).await?;
        Ok(found.is_some())
    }
}

#[tokio::main]
async fn main() -> Result<(), DatabaseError> {
    let url = std::env::args().nth(1).ok_or("usage: redis-peer redis://HOST:PORT")?;
    let connection = Client::open(url)?.get_multiplexed_async_connection().await?;
    Ok(serve(InRedis(connection)).await?)
}
