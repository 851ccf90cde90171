//! What every store has to do: the sentences of [`TokenStore`]'s documentation as tests.
//!
//! To test a store, implement [`Subject`] and write `contract_tests!(its_subject());` in a test module. Each case is then
//! a test of its own, and gets a subject of its own: a place where nothing has been stored yet.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "these are tests, for the tests of other modules and crates to call"
)]

mod endings;
pub mod events;
mod fixture;
mod life;
mod moves;
mod node_registry;
mod races;
mod recent;
mod ring;
mod watermarks;

use std::sync::Arc;

use async_trait::async_trait;
use countersign_core::{Clock, TokenStore};

pub use self::endings::*;
pub use self::life::*;
pub use self::moves::*;
pub use self::node_registry::*;
pub use self::races::*;
pub use self::recent::*;
pub use self::ring::*;
pub use self::watermarks::*;

/// A place for one store.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Opens the store that is in this place; a new one the first time. The one before has been closed or dropped.
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn TokenStore>;

    /// Whether the records are still there when the store is opened again.
    fn is_durable(&self) -> bool;

    /// Whether the store tells by a clock of its own, and not by the one that it is opened with, who is still there.
    fn goes_by_its_own_clock(&self) -> bool {
        false
    }
}

/// Makes a test of each case of the contract, for the [`Subject`] that the expression gives anew each time.
#[macro_export]
macro_rules! contract_tests {
    ($subject:expr) => {
        $crate::contract_tests! { @each $subject;
            ending_is_recorded_once_and_reported_afterwards,
            addresses_and_retry_keys_round_trip,
            lookup_changes_nothing,
            tokens_are_independent,
            fence_of_a_new_store_is_its_creation,
            fence_only_moves_forward,
            record_is_reported_behind_the_fence,
            record_is_reported_beyond_the_horizon,
            fence_is_judged_before_the_horizon,
            purge_removes_endings_that_expired_before,
            long_lived_tokens_survive_a_purge,
            purged_token_stays_dead_when_the_clock_steps_back,
            horizon_only_moves_forward,
            purge_by_a_wrong_clock_harms_no_later_token,
            store_reports_its_times,
            purging_works_in_slices,
            one_of_many_callers_wins,
            consume_and_revoke_have_one_winner,
            purge_and_end_run_concurrently,
            moving_fence_lets_no_token_through,
            endings_are_listed_newest_first,
            endings_are_listed_by_query,
            stats_count_the_records,
            store_is_ready_until_closed,
            closed_store_is_unavailable,
            closing_answers_calls_in_flight,
            reopening_finds_everything,
            reopening_after_a_purge_keeps_the_horizon,
            node_that_checks_in_is_listed,
            nodes_see_each_other,
            nodes_that_check_in_together_see_each_other,
            silent_node_is_listed_for_a_day,
            reopening_finds_the_nodes,
            ring_replaces_only_its_own_predecessor,
            another_ring_ends_no_token,
            one_of_concurrent_ring_changes_wins,
            replaced_ring_redeems_nothing,
        }
    };
    (@each $subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                $crate::contract::$case(&$subject).await;
            }
        )*
    };
}

pub use crate::contract_tests;
