//! What a server, a database or a role has set, and what must come out in spite of it.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, TokenStore, after, from_millis, to_millis};
use countersign_test_postgres::{Cluster, Place, connect, new_name, run, seen, until};

use super::super::PostgresStore;
use super::super::connector::take;
use super::super::sql::{DAY, Table};
use super::{World, consume, options, settled, url};

/// The URL of a new role, for which this is set.
async fn role_with(world: &World, settings: &[&str]) -> String {
    let role = new_name();
    let mut sql = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'secret'");
    for setting in settings {
        sql = format!("{sql}; ALTER ROLE {role} SET {setting}");
    }
    run(world.place.url(), &sql).await;
    let (_, rest) = world.place.url().split_once('@').unwrap();
    format!("postgres://{role}:secret@{rest}")
}

async fn open_as(world: &World, role: &str) -> Arc<PostgresStore> {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let entropy = Arc::new(countersign_core::OsEntropy);
    let options = options(world.place.schema());
    Arc::new(PostgresStore::open(&url(role), &options, clock, entropy).await.unwrap())
}

const HOSTILE: [&str; 5] = [
    "synchronous_commit = off",
    "statement_timeout = '1s'",
    "lock_timeout = '1s'",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
];

/// What each kind of transaction goes by, in the order of [`RIGHT`].
const SHOWN: &str = "concat_ws(' ', current_setting('synchronous_commit'), current_setting('statement_timeout'), \
    current_setting('lock_timeout'), current_setting('transaction_isolation'))";
const RIGHT: &str = "on 0 5s read committed";

#[tokio::test]
async fn transactions_ignore_session_settings() {
    let world = World::new();
    let store = open_as(&world, &role_with(&world, &HOSTILE).await).await;
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    let mut session = take(&store.core.readers, deadline, "").await.unwrap();
    let shown = session.script(&format!("SELECT {SHOWN} AS shown"), "shown").await.unwrap();
    assert_eq!(shown, [Some(RIGHT.to_owned())]);
    session.begin().await.unwrap();
    let shown = session.rows(&format!("SELECT {SHOWN} AS shown")).await.unwrap();
    assert_eq!(shown[0].get("shown"), Some(RIGHT));
    session.roll_back().await.unwrap();

    // What holds when a batch, and any other write, is committed.
    let token = world.token();
    let watch = |table: &str| {
        format!(
            "CREATE CONSTRAINT TRIGGER watch AFTER INSERT OR UPDATE ON {{s}}.{table} DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION {{s}}.watch(); "
        )
    };
    let watched = format!(
        "CREATE TABLE {{s}}.shown (shown TEXT); CREATE FUNCTION {{s}}.watch() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN INSERT INTO {{s}}.shown VALUES ({SHOWN}); RETURN NULL; END$$; {} {}",
        watch(&Table::of(token.0).to_string()),
        watch("lines"),
    );
    world.place.run(&watched).await;
    assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
    assert_eq!(world.place.run("SELECT shown FROM {s}.shown").await, [RIGHT]);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(store.ready().await, Ok(()));
    store.move_fence(world.clock.now()).await.unwrap();
    assert_eq!(world.place.run("SELECT DISTINCT shown FROM {s}.shown").await, [RIGHT]);
}

/// A batch that is a statement alone goes by its own settings, too; and where it cannot, it is a transaction of several.
#[tokio::test]
async fn batches_ignore_session_settings() {
    for (settings, shown) in [
        (vec!["synchronous_commit = off"], "on 0 0 read committed"),
        (vec!["synchronous_commit = remote_apply"], "remote_apply 0 0 read committed"),
        (vec!["synchronous_commit = local", "statement_timeout = '1s'"], RIGHT),
        (vec!["default_transaction_isolation = 'repeatable read'"], RIGHT),
    ] {
        let world = World::new();
        let store = open_as(&world, &role_with(&world, &settings).await).await;
        let token = world.token();
        let watched = format!(
            "CREATE TABLE {{s}}.shown (shown TEXT); CREATE FUNCTION {{s}}.watch() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN INSERT INTO {{s}}.shown VALUES ({SHOWN}); RETURN NULL; END$$; CREATE CONSTRAINT TRIGGER watch \
             AFTER INSERT ON {{s}}.{} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {{s}}.watch()",
            Table::of(token.0)
        );
        world.place.run(&watched).await;
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
        assert_eq!(world.place.run("SELECT shown FROM {s}.shown").await, [shown], "{settings:?}");
    }
}

/// Somebody holds most of the rows of `lines`, as a node does whose network is cut in the middle of its batches.
#[tokio::test]
async fn batch_skips_locked_watermark_rows() {
    for pooled in [false, true] {
        let world = World::new();
        let settings: &[&str] =
            if pooled { &["default_transaction_isolation = 'repeatable read'"] } else { &[] };
        let store = open_as(&world, &role_with(&world, settings).await).await;
        let holder = connect(world.place.url()).await;
        let hold =
            format!("BEGIN; SELECT 1 FROM {}.lines WHERE stripe < 60 FOR UPDATE", world.place.schema());
        holder.batch_execute(&hold).await.unwrap();
        for token in world.tokens(20) {
            assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded), "{settings:?}");
        }
        holder.batch_execute("ROLLBACK").await.unwrap();
    }
}

/// Moving a watermark holds all stripes. Tokens consumed meanwhile are judged by its new position.
#[tokio::test]
async fn batch_waits_for_a_moving_watermark() {
    let world = World::new();
    let role = role_with(&world, &[]).await;
    let store = open_as(&world, &role).await;
    let token = world.token();
    let mover = connect(world.place.url()).await;
    let schema = world.place.schema();
    mover.batch_execute(&format!("BEGIN; UPDATE {schema}.lines SET fence = fence + 3600000")).await.unwrap();
    let watch = connect(&role).await;
    let now = "SELECT extract(epoch FROM clock_timestamp())::FLOAT8";
    let began: f64 = watch.query_one(now, &[]).await.unwrap().get(0);
    let call = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { consume(&store, token).await })
    };
    // The batch found every stripe held, and then looked for its record. As it is missing, it asks which database this is, and
    // waits a moment before it begins again: one of these is what it sent last.
    let looked = "SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() \
                  AND (query = 'COMMIT' OR query ~ 'identity|relpersistence') \
                  AND extract(epoch FROM query_start)::FLOAT8 > $1";
    seen("the batch has looked", async || {
        assert!(!call.is_finished());
        (watch.query_one(looked, &[&began]).await.unwrap().get::<_, i64>(0) > 0).then_some(())
    })
    .await;
    mover.batch_execute("COMMIT").await.unwrap();
    assert_eq!(call.await.unwrap(), Ok(EndResult::Fenced));
}

#[tokio::test]
async fn role_keeps_remote_apply() {
    let world = World::new();
    let role = role_with(&world, &["synchronous_commit = remote_apply"]).await;
    let store = open_as(&world, &role).await;
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    let mut session = take(&store.core.readers, deadline, "").await.unwrap();
    let shown = session.script("SHOW synchronous_commit", "synchronous_commit").await.unwrap();
    assert_eq!(shown, [Some("remote_apply".to_owned())]);
}

/// The database forgets, in a crash, what was committed in the last ten seconds without waiting for its disk.
#[tokio::test]
async fn answered_records_survive_synchronous_commit_off() {
    let cluster = Cluster::start(&["--config", "wal_writer_delay=10s"]);
    let world = World::at(Place::at(cluster.url()));
    let store = world.open().await;
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    // While the sessions of the store are open.
    run(cluster.url(), "ALTER SYSTEM SET synchronous_commit = off").await;
    run(cluster.url(), "SELECT pg_reload_conf()").await;
    until(cluster.url(), "SHOW synchronous_commit", "off").await;
    for _ in 0..3 {
        // The second one is forgotten, as one whose transaction does not care.
        let (token, witness) = (world.token(), world.token());
        world.place.run("UPDATE {s}.lines SET probed = 0").await;
        assert_eq!(consume(&store, token).await, Ok(EndResult::Recorded));
        let forgotten = format!(
            "INSERT INTO {{s}}.{} VALUES ('{}', 0, 0, 0, 0, NULL, NULL)",
            Table::of(witness.0),
            super::super::rows::uuid(witness.0)
        );
        world.place.run(&forgotten).await;
        cluster.crash();
        cluster.start_again();
        assert!(matches!(settled(&store, token).await, EndResult::Already(_)));
        assert_eq!(consume(&store, witness).await, Ok(EndResult::Recorded), "the crash forgets what it may");
    }
}

/// Nodes fight for tokens, by a role whose transactions would see no one else's rows, or fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_isolation_level_changes_no_answer() {
    for level in ["repeatable read", "serializable"] {
        let world = World::new();
        let level = format!("default_transaction_isolation = '{level}'");
        let role = role_with(&world, &[&level, "default_transaction_deferrable = on"]).await;
        let nodes = [open_as(&world, &role).await, open_as(&world, &role).await];
        let tokens = world.tokens(50);
        let calls = tokens.iter().flat_map(|&token| nodes.iter().map(move |node| (token, Arc::clone(node))));
        let calls: Vec<_> =
            calls.map(|(token, node)| tokio::spawn(async move { consume(&node, token).await })).collect();
        let mut recorded = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(EndResult::Recorded) => recorded += 1,
                Ok(EndResult::Already(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(recorded, 50, "{level}");
        assert!(nodes[0].move_fence(world.clock.now()).await.unwrap() >= world.clock.now());
    }
}

/// A token is consumed while a table is about to be emptied, by a role whose transactions see what was there when they
/// began.
#[tokio::test]
async fn row_inserted_before_truncate_survives() {
    let world = World::new();
    let role = role_with(&world, &["default_transaction_isolation = 'repeatable read'"]).await;
    let store = open_as(&world, &role).await;
    let (old, expires) = world.token();
    assert_eq!(consume(&store, (old, expires)).await, Ok(EndResult::Recorded));
    let table = Table::of(old);
    // The table's next day.
    world.clock.set(from_millis(to_millis(old.created()) + 8 * DAY));
    let (new, new_expires) = world.token();
    assert_eq!(Table::of(new), table);
    let cutoff = to_millis(after(expires, Duration::from_hours(48)));
    let (client, other) = (connect(world.place.url()).await, connect(world.place.url()).await);
    let batch = format!(
        "BEGIN; SELECT 1 FROM {s}.lines WHERE stripe = 63 FOR UPDATE; \
         INSERT INTO {s}.{table} VALUES ('{}', {}, 0, 1, 0, NULL, NULL)",
        super::super::rows::uuid(new),
        to_millis(new_expires),
        s = world.place.schema(),
    );
    client.batch_execute(&batch).await.unwrap();
    let purge = {
        let core = Arc::clone(&store.core);
        tokio::spawn(async move { core.remove_expired(cutoff).await })
    };
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        world.place.schema()
    );
    // It waits for a fifth of a second, and for a lock that this holds.
    seen("the purge waits for the lock", async || {
        (other.query_one(&waits, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    client.batch_execute("COMMIT").await.unwrap();
    purge.await.unwrap().unwrap();
    assert!(matches!(consume(&store, (new, new_expires)).await, Ok(EndResult::Already(_))));
}
