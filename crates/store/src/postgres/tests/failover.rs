//! Another database in the place of the one that it was.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::{Clock, EndResult, OsEntropy, StoreError, TokenStore, after};
use countersign_test_postgres::{BlackHole, Cluster, Place, Silent, run, seen, until};

use super::super::batch_workers::BATCH_WORKERS;
use super::super::connector::take_at_length;
use super::super::{PostgresStore, READERS};
use super::{World, consume, options, settled, url};

async fn open_at(world: &World, text: &str) -> PostgresStore {
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let options = options(world.place.schema());
    PostgresStore::open(&url(text), &options, clock, Arc::new(OsEntropy)).await.unwrap()
}

/// What happens to a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Crashes,
    /// It takes what is sent to it, and says nothing any more.
    Freezes,
}

/// Tokens are used until the moment of the promotion, with a standby that follows; whatever it had received, none that was
/// answered is good again, nor one that was issued before.
async fn promote(synchronous: bool, fate: Fate) {
    let primary = Cluster::start(&[]);
    let world = World::at(Place::at(primary.url()));
    world.clock.set(countersign_core::SystemClock.now());
    let standby = Cluster::standby_of(&primary);
    let both = of_both(&primary, &standby);
    let store = Arc::new(open_at(&world, &both).await);
    let other = Arc::new(open_at(&world, &both).await);
    assert!(store.take_moved_fences().is_empty());
    let unused = world.token();
    if synchronous {
        primary.wait_for_standby().await;
    } else {
        // Once it has the tables, it falls behind, as an asynchronous standby may at any time.
        let tables =
            format!("SELECT count(*) FROM {}.lines WHERE identity IS NOT NULL", world.place.schema());
        let has = format!("SELECT to_regclass('{}.lines') IS NOT NULL", world.place.schema());
        until(standby.url(), &has, "t").await;
        until(standby.url(), &tables, "64").await;
        standby.stop_following().await;
    }
    let tokens = world.tokens(20);
    for &token in &tokens {
        assert_eq!(settled(&store, token).await, EndResult::Recorded);
    }
    match fate {
        Fate::Crashes => primary.crash(),
        Fate::Freezes => primary.freeze(),
    }
    standby.promote();
    let late = open_at(&world, &both).await;
    for &token in &tokens {
        let end = settled(&store, token).await;
        assert!(matches!(end, EndResult::Already(_) | EndResult::Fenced), "used twice: {end:?}");
        assert!(
            !synchronous || matches!(end, EndResult::Already(_)),
            "a synchronous standby has it: {end:?}"
        );
    }
    assert_eq!(settled(&other, unused).await, EndResult::Fenced);
    assert_eq!(settled(&late, unused).await, EndResult::Fenced);
    let moved = [store.take_moved_fences(), other.take_moved_fences(), late.take_moved_fences()].concat();
    assert_eq!(moved.len(), 1, "one of the nodes moved it, and tells: {moved:?}");
    world.clock.set(moved[0]);
    let fresh = world.token();
    assert_eq!(settled(&store, fresh).await, EndResult::Recorded);
    assert!(matches!(settled(&other, fresh).await, EndResult::Already(_)));
    assert!(store.take_moved_fences().is_empty());

    // The old primary comes back, in which nobody has moved anything.
    match fate {
        Fate::Crashes => primary.start_again(),
        Fate::Freezes => primary.thaw(),
    }
    // Everybody has to connect anew, and finds the successor, which comes second in the URL.
    standby.stop();
    standby.start_again();
    let fresh = world.token();
    assert_eq!(settled(&store, fresh).await, EndResult::Recorded);
    assert!(matches!(settled(&other, fresh).await, EndResult::Already(_)));
    let on_record = format!(
        "SELECT count(*) FROM {}.{} WHERE id = '{}'",
        world.place.schema(),
        super::super::sql::Table::of(fresh.0),
        super::super::rows::uuid(fresh.0)
    );
    assert_eq!(run(standby.url(), &on_record).await, ["1"]);
    assert_eq!(run(primary.url(), &on_record).await, ["0"]);
    // If there is no successor, a node that has seen it does not use the old one.
    standby.stop();
    let refused = seen("the refusal tells of the successor", async || match consume(&store, unused).await {
        Err(StoreError::Unavailable(why)) => {
            why.reason().contains("succeeded").then(|| why.reason().to_owned())
        }
        Err(_) => None,
        Ok(end) => panic!("{end:?}"),
    })
    .await;
    assert!(refused.contains("store's URL"), "{refused}");
    // Not for anything else either.
    let reader = take_at_length(&store.core.readers, "").await.err().unwrap();
    assert!(reader.reason().contains("succeeded"), "{reader:?}");
}

/// The host and the port of a URL.
fn host(url: &str) -> &str {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split('/').next().unwrap()
}

fn of_hosts(hosts: &[&str]) -> String {
    format!("postgres://postgres:postgres@{}/postgres", hosts.join(","))
}

fn of_both(first: &Cluster, second: &Cluster) -> String {
    of_hosts(&[host(first.url()), host(second.url())])
}

#[tokio::test]
async fn lagging_standby_revives_no_token() {
    promote(false, Fate::Crashes).await;
}

#[tokio::test]
async fn synchronous_standby_has_every_answered_consumption() {
    promote(true, Fate::Crashes).await;
}

#[tokio::test]
async fn frozen_primary_is_replaced_by_its_standby() {
    promote(false, Fate::Freezes).await;
}

#[tokio::test]
async fn frozen_primary_is_replaced_by_its_synchronous_standby() {
    promote(true, Fate::Freezes).await;
}

/// Every connection that a store may have hangs at the frozen primary, and as many may go to its standby.
#[tokio::test]
async fn calls_on_a_frozen_primary_block_no_others() {
    let primary = Cluster::start(&[]);
    let world = World::at(Place::at(primary.url()));
    world.clock.set(countersign_core::SystemClock.now());
    let standby = Cluster::standby_of(&primary);
    primary.wait_for_standby().await;
    let store = Arc::new(open_at(&world, &of_both(&primary, &standby)).await);
    for (pool, size) in [(&store.core.writers, BATCH_WORKERS + 1), (&store.core.readers, READERS)] {
        let mut all = Vec::new();
        for _ in 0..size {
            all.push(take_at_length(pool, "").await.unwrap());
        }
    }
    primary.freeze();
    // The last commit is so long ago that a look at the store makes another one.
    world.clock.set(after(world.clock.now(), Duration::from_secs(2)));
    let mut hanging = Vec::new();
    for token in world.tokens(BATCH_WORKERS) {
        let store = Arc::clone(&store);
        hanging.push(tokio::spawn(async move { consume(&store, token).await.map(drop) }));
        // Then a worker has taken it.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    let looking = Arc::clone(&store);
    hanging.push(tokio::spawn(async move { looking.ready().await }));
    for _ in 0..READERS {
        let reading = Arc::clone(&store);
        hanging.push(tokio::spawn(async move { reading.times().await.map(drop) }));
    }
    for call in hanging {
        assert!(matches!(call.await.unwrap(), Err(StoreError::Unavailable(_))));
    }
    standby.promote();
    assert_eq!(settled(&store, world.token()).await, EndResult::Fenced);
    world.clock.set(store.take_moved_fences()[0]);
    assert_eq!(settled(&store, world.token()).await, EndResult::Recorded);
    store.times().await.unwrap();
    primary.thaw();
}

/// Neither the hosts that take a connection and say nothing nor those that drop every packet keep a server from the live one,
/// at the start and when a connection breaks. They cost their time once.
#[tokio::test]
async fn silent_hosts_do_not_hide_the_live_one() {
    let world = World::new();
    let (silent, black_hole) = (Silent::start(), BlackHole::start());
    let (address, black_hole) = (silent.address().to_string(), black_hole.address().to_string());
    let live = host(world.place.url());
    for (hosts, options) in [
        (&[&*address, live][..], "connect_timeout=2"),
        (&[&black_hole, live], "connect_timeout=2"),
        (&[&address, &black_hole, live], "target_session_attrs=any"),
    ] {
        let store = open_at(&world, &format!("{}?{options}&application_name=hidden", of_hosts(hosts))).await;
        assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded), "{hosts:?}");
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hidden'";
        world.place.run(end).await;
        assert_eq!(settled(&store, world.token()).await, EndResult::Recorded, "{hosts:?}");
        assert_eq!(silent.queued(), usize::from(hosts.contains(&&*address)), "{hosts:?}");
        store.close().await;
    }
}

#[tokio::test]
async fn silent_database_times_out_with_the_reason() {
    let world = World::new();
    let silent = Silent::start();
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let text = format!("postgres://anna@{}/tokens?connect_timeout=2", silent.address());
    let opened = PostgresStore::open(&url(&text), &options("a"), clock, Arc::new(OsEntropy)).await;
    let refused = opened.unwrap_err().to_string();
    assert!(refused.contains("has not answered for 2 s") && refused.contains("connect_timeout"), "{refused}");
}

/// The standby comes first in the URL. Which server takes writes need not be said where there are several.
#[tokio::test]
async fn primary_is_found_behind_its_standby() {
    let primary = Cluster::start(&[]);
    let standby = Cluster::standby_of(&primary);
    let world = World::at(Place::at(primary.url()));
    let both = of_both(&standby, &primary);
    for options in ["", "?target_session_attrs=read-write", "?target_session_attrs=primary"] {
        let store = open_at(&world, &format!("{both}{options}")).await;
        assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded), "{options}");
    }
    let one = format!("{}?target_session_attrs=primary", standby.url());
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let opened = PostgresStore::open(&url(&one), &options("a"), clock, Arc::new(OsEntropy)).await;
    let refused = opened.unwrap_err().to_string();
    assert!(refused.contains("is read-only") && refused.contains("name the primary"), "{refused}");
}

#[tokio::test]
async fn restored_dump_moves_the_fence() {
    let world = World::new();
    world.clock.set(countersign_core::SystemClock.now());
    let store = world.open().await;
    let (used, unused) = (world.token(), world.token());
    // As pg_dump and psql would: the table is another one, with the rows of then.
    let s = world.place.schema();
    let dump = format!(
        "CREATE TABLE {s}.backup (LIKE {s}.lines INCLUDING ALL); INSERT INTO {s}.backup SELECT * FROM {s}.lines"
    );
    world.place.run(&dump).await;
    assert_eq!(consume(&store, used).await, Ok(EndResult::Recorded));
    let restore = format!(
        "DROP TABLE {s}.lines; ALTER TABLE {s}.backup RENAME TO lines; \
         DELETE FROM {s}.{}",
        super::super::sql::Table::of(used.0)
    );
    world.place.run(&restore).await;
    assert_eq!(consume(&store, used).await, Ok(EndResult::Fenced));
    assert_eq!(consume(&store, unused).await, Ok(EndResult::Fenced));
    let moved = store.take_moved_fences();
    assert_eq!(moved.len(), 1);
    world.clock.set(moved[0]);
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
}

#[tokio::test]
async fn role_without_pg_monitor_serves() {
    let cluster = Cluster::start(&[]);
    let world = World::at(Place::at(cluster.url()));
    world.open().await.close().await;
    let s = world.place.schema();
    let grants = format!(
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public; CREATE ROLE serves LOGIN PASSWORD 'secret'; \
         GRANT USAGE ON SCHEMA {s} TO serves; GRANT ALL ON ALL TABLES IN SCHEMA {s} TO serves"
    );
    run(cluster.url(), &grants).await;
    let (_, rest) = cluster.url().split_once('@').unwrap();
    let store = open_at(&world, &format!("postgres://serves:secret@{rest}")).await;
    assert_eq!(consume(&store, world.token()).await, Ok(EndResult::Recorded));
    assert!(store.take_moved_fences().is_empty(), "that is no other server");
    // The others may.
    let told = world.open().await;
    assert_eq!(consume(&told, world.token()).await, Ok(EndResult::Recorded));
    assert!(told.take_moved_fences().is_empty(), "nor is that");
}
