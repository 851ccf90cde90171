//! Through a real `PgBouncer`, which gives each transaction another session of the database.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use countersign_core::{Clock, EndResult, OsEntropy, TokenStore, to_millis};
use countersign_test_postgres::{Cluster, Place, Pooler, connect, new_name, run, seen, shared};
use tokio_postgres::SimpleQueryMessage;

use super::super::PostgresStore;
use super::super::rows::{self, BatchArguments, BatchColumns};
use super::super::sql::{DAY, Sql, Table};
use super::{World, consume, consumption, options, settled, try_open, url};
use crate::contract::{Subject, contract_tests};

/// The one that all cases of the contract share: fewer sessions than a single node opens connections, so that they change
/// hands all the time.
fn pooler() -> &'static str {
    static POOLER: OnceLock<Pooler> = OnceLock::new();
    POOLER.get_or_init(|| Pooler::start(&shared(), &["pool_mode=transaction", "default_pool_size=3"])).url()
}

struct Pooled(Place);

#[async_trait]
impl Subject for Pooled {
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

contract_tests!(Pooled(Place::at(pooler())));

/// Two nodes, whose statements would have the same names and other texts if they were named by number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_share_sessions_do_not_share_statements() {
    let worlds = [World::at(Place::at(pooler())), World::at(Place::at(pooler()))];
    let stores = [Arc::new(worlds[0].open().await), Arc::new(worlds[1].open().await)];
    for _ in 0..20 {
        let mut calls = Vec::new();
        for (world, store) in worlds.iter().zip(&stores) {
            for token in world.tokens(4) {
                let store = Arc::clone(store);
                calls.push(tokio::spawn(async move { consume(&store, token).await }));
            }
        }
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(EndResult::Recorded));
        }
    }
    for world in &worlds {
        let count = format!("SELECT count(*) FROM {{s}}.{}", Table::of(world.token().0));
        assert_eq!(world.place.run(&count).await, ["80"]);
    }
}

/// Behind a pooler a statement's name may be another node's. One that is called by another's name records nothing.
#[tokio::test]
async fn renamed_statement_records_nothing() {
    let world = World::new();
    let store = world.open().await;
    let token = world.token();
    let (table, other) = (Table::of(token.0), Table::at(to_millis(token.0.created()) + DAY));
    let sql = Sql::new(world.place.schema().parse().unwrap());
    let known = store.core.identity.known();
    let mut columns = BatchColumns::default();
    columns.push(rows::TokenKey::new(token.0, token.1, 0), &consumption(token.0.created()));
    let arguments = BatchArguments { nonce: 7, group: 3, known: &known, ring: 0, columns: &columns };
    let client = connect(world.place.url()).await;
    client.batch_execute(&sql.prepare(other, true)).await.unwrap();
    let (wrong, right) = (&sql.batch_of(table, true).name, &sql.batch_of(other, true).name);
    let execute = |called: &str| format!("EXECUTE {right}({})", arguments.text(called));
    let recorded = |messages: Vec<SimpleQueryMessage>| {
        messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count()
    };
    assert_eq!(recorded(client.simple_query(&execute(wrong)).await.unwrap()), 0);
    assert_eq!(recorded(client.simple_query(&execute(right)).await.unwrap()), 1);
    // Its locks would be waited for when the schema is dropped.
    client.batch_execute("ROLLBACK").await.unwrap();
}

/// The role, and so each session of the pool, forgets in a crash what was committed in the last ten seconds.
#[tokio::test]
async fn records_answered_through_a_pool_survive_a_crash() {
    let cluster = Cluster::start(&["--config", "wal_writer_delay=10s"]);
    let role = new_name();
    let make = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'secret'; ALTER ROLE {role} SET synchronous_commit = off; \
         ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'"
    );
    run(cluster.url(), &make).await;
    let (_, rest) = cluster.url().split_once('@').unwrap();
    let settings = ["pool_mode=transaction", "default_pool_size=2", "server_login_retry=0"];
    let pooler = Pooler::start(&format!("postgres://{role}:secret@{rest}"), &settings);
    let world = World::at(Place::at(pooler.url()));
    let store = world.open().await;
    for _ in 0..3 {
        let tokens = world.tokens(5);
        for &token in &tokens {
            assert_eq!(settled(&store, token).await, EndResult::Recorded);
        }
        cluster.crash();
        cluster.start_again();
        for &token in &tokens {
            assert!(matches!(settled(&store, token).await, EndResult::Already(_)), "a token was forgotten");
        }
    }
}

/// Statements alone: there are no transactions, and so no promises.
#[tokio::test]
async fn statement_pooling_is_refused() {
    let pooler = Pooler::start(&shared(), &["pool_mode=statement"]);
    let place = Place::at(pooler.url());
    seen("the refusal names the mode", async || {
        let clock: Arc<dyn Clock> = Arc::new(countersign_core::SystemClock);
        let options = options(place.schema());
        let refused = PostgresStore::open(&url(place.url()), &options, clock, Arc::new(OsEntropy)).await;
        let refused = refused.unwrap_err().to_string();
        let names_it = refused.contains("pool_mode = transaction");
        // PgBouncer hangs up, and what it said before that does not always arrive.
        assert!(names_it || refused.contains("connection closed"), "{refused}");
        names_it.then_some(())
    })
    .await;
}

/// A pooler has no code of its own for it.
#[tokio::test]
async fn password_that_a_pooler_rejects_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "\"postgres\" \"postgres\"\n").unwrap();
    // It runs as another user.
    for (path, mode) in [(dir.path(), 0o755), (&*users, 0o644)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let users = format!("auth_file={}", users.display());
    for kind in ["scram-sha-256", "md5"] {
        let kind = format!("auth_type={kind}");
        let pooler = Pooler::start(&shared(), &["pool_mode=transaction", &kind, &users]);
        let (_, rest) = pooler.url().split_once('@').unwrap();
        for (user, says) in [
            ("postgres:hunter2", "does not let this user in with the password in the store's URL"),
            ("nobody:hunter2", "does not let this user in with the password in the store's URL"),
            ("postgres", "asks for a password, and none was given"),
        ] {
            let place = Place::at(&format!("postgres://{user}@{rest}"));
            let clock: Arc<dyn Clock> = Arc::new(countersign_core::SystemClock);
            let refused = try_open(&place, clock).await.unwrap_err().to_string();
            assert!(refused.contains(says) && !refused.contains("hunter2"), "{kind}: {refused}");
        }
    }
}
