//! The built server keeps its promises.

use std::time::Duration;

use countersign_trials::process::{Launch, find_binary};
use countersign_trials::{
    ProgressSink, clocks, crashes, disconnects, keys, lost_answers, lost_log, races, shared_store,
};

const LIMIT: Duration = Duration::from_mins(2);
/// Any will do; this one makes a failure repeatable.
const SEED: u64 = 20_080_229;
const SILENT: ProgressSink<'static> = &|_| {};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_concurrent_handshakes_redeems() {
    let place = tempfile::tempdir().unwrap();
    let server = Launch::new(find_binary().unwrap(), place.path()).start().await.unwrap();
    let options = races::Options { count: 300, clients: 8, groups: 3, limit: LIMIT, seed: SEED };
    let tally = races::run(server.target(), options, SILENT).await.unwrap();
    assert_eq!((tally.tokens, tally.operations), (300, 2400));
    assert_eq!(tally.redeemed + tally.revoked, 300);
    assert!(server.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answered_records_survive_crashes() {
    let options = crashes::Options { cycles: 10, limit: LIMIT, seed: SEED, lose_log: false };
    let tally = crashes::run(find_binary().unwrap(), options, SILENT).await.unwrap();
    assert_eq!(tally.cycles, 10);
    assert_eq!(tally.answered + tally.settled_as_consumed + tally.settled_as_live, tally.tokens);
    assert!(tally.answered > 0 && tally.unanswered_requests > 0, "not under load: {tally}");
    assert_eq!(tally.tried_at_the_end, tally.tokens, "every token has been redeemed by then");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_answer_is_repeated_only_for_its_key() {
    let place = tempfile::tempdir().unwrap();
    let server = Launch::new(find_binary().unwrap(), place.path()).start().await.unwrap();
    let options = lost_answers::Options { count: 100, limit: LIMIT, seed: SEED };
    let tally = lost_answers::run(server.target(), options, SILENT).await.unwrap();
    assert_eq!(tally.tokens, 100);
    assert!(tally.answers_lost > 0 && tally.requests_cut > 0 && tally.refused > 0, "{tally}");
    assert!(server.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_trackers_that_hang_up_are_decided_and_counted() {
    let place = tempfile::tempdir().unwrap();
    let server = Launch::new(find_binary().unwrap(), place.path()).start().await.unwrap();
    let options = disconnects::Options { count: 400, clients: 8, limit: LIMIT, seed: SEED };
    let tally = disconnects::run(server.target(), options, SILENT).await.unwrap();
    assert_eq!(tally.tokens, 400);
    assert!(
        tally.answered > 0
            && tally.hung_up > 0
            && tally.replays > 0
            && tally.broken_off > 0
            && tally.reset > 0,
        "{tally}"
    );
    assert!(server.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_database_redeem_each_token_once() {
    // Each of the five things that can happen; freezing takes a while.
    for (nodes, cycles) in [(2, 5), (3, 4)] {
        let options = shared_store::Options { nodes, cycles, limit: LIMIT, seed: SEED };
        let tally = shared_store::run(find_binary().unwrap(), options, SILENT).await.unwrap();
        assert_eq!((tally.cycles, tally.killed, tally.database_crashes), (cycles, 2, 1));
        assert_eq!(tally.database_freezes, cycles - 4);
        assert!(tally.cuts > 0 && tally.unanswered > 0 && tally.answered > 0, "{tally}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_clock_affects_no_other_server() {
    let options = clocks::Options { cycles: 3, limit: LIMIT, seed: SEED };
    let tally = clocks::run(find_binary().unwrap(), options, SILENT).await.unwrap();
    assert_eq!((tally.cycles, tally.wrong, tally.fences), (3, 2, 2), "{tally}");
    assert!(tally.restarts > 0 && tally.purges > 0 && tally.tokens > 0, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_that_is_revoked_under_load_redeems_nothing() {
    let options = shared_store::Options { nodes: 3, cycles: 4, limit: LIMIT, seed: SEED };
    let tally = keys::run(find_binary().unwrap(), options, SILENT).await.unwrap();
    assert_eq!(tally.revoked, 4);
    assert!(tally.accepted > 0 && tally.unknown > 0 && tally.cuts > 0, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_log_moves_the_fence() {
    let tally = lost_log::run(find_binary().unwrap(), 1, LIMIT, SILENT).await.unwrap();
    assert!(tally.redeemed > 0);
    assert_eq!(tally.refused, tally.redeemed);
}
