//! A look at the database.

use std::error::Error;
use std::sync::Arc;

use countersign_core::{Clock, OsEntropy, TokenStore};
use countersign_test_postgres::{Cluster, Place, seen};
use tokio_postgres::error::{DbError, SqlState};

use super::super::{DatabaseExamination, examine};
use super::{World, options, url};
use crate::error::OpenError;

async fn look(world: &World) -> Result<DatabaseExamination, OpenError> {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let options = options(world.place.schema());
    examine(&url(world.place.url()), &options, clock, Arc::new(OsEntropy)).await
}

#[tokio::test]
async fn settings_that_lose_commits_are_reported() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    assert!(matches!(look(&world).await, Err(OpenError::NoSchema { .. })), "it makes nothing");
    drop(world.open().await);
    let setting = |found: &DatabaseExamination, name: &str| {
        found.settings.iter().find(|(setting, _)| setting == name).map(|(_, value)| value.clone())
    };
    let found = look(&world).await.unwrap();
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        assert_eq!(setting(&found, name).as_deref(), Some("on"), "{name}");
    }
    assert!(!found.is_standby && found.standbys.is_empty());

    let (client, connection) = tokio_postgres::connect(cluster.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for name in ["full_page_writes", "synchronous_commit"] {
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = off")).await.unwrap();
    }
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // The server reads its settings again when it gets to it.
    let found = seen("full_page_writes is off", async || {
        let found = look(&world).await.unwrap();
        (setting(&found, "full_page_writes").as_deref() == Some("off")).then_some(found)
    })
    .await;
    assert_eq!(setting(&found, "synchronous_commit").as_deref(), Some("off"), "whatever the session sets");
}

#[tokio::test]
async fn refusal_quotes_the_databases_message() {
    let world = World::new();
    let store = world.open().await;
    world.place.run("DROP TABLE {s}.nodes").await;
    let refused = store.node_list(world.clock.now()).await.unwrap_err();
    let source = refused.source().and_then(|error| error.downcast_ref::<DbError>());
    assert_eq!(source.map(DbError::code), Some(&SqlState::UNDEFINED_TABLE), "{refused}");
}
