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
            an_ending_is_recorded_once_and_reported_ever_after,
            every_address_and_key_comes_back_as_it_was,
            looking_changes_nothing,
            tokens_do_not_touch_each_other,
            the_fence_of_a_new_store_is_its_creation,
            the_fence_only_moves_forward,
            a_record_is_reported_behind_the_fence,
            a_record_is_reported_beyond_the_horizon,
            the_fence_is_judged_before_the_horizon,
            purging_removes_what_expired_before_the_line,
            long_lived_tokens_survive_a_purge,
            a_purged_token_stays_dead_when_the_clock_steps_back,
            the_horizon_only_moves_forward,
            a_purge_by_a_wrong_clock_harms_no_later_token,
            a_store_tells_its_times,
            purging_works_in_slices,
            many_callers_and_one_winner,
            consuming_and_revoking_race_for_one_end,
            purging_and_ending_go_on_together,
            a_moving_fence_lets_nothing_slip,
            endings_are_listed_newest_first,
            endings_are_listed_as_asked_for,
            stats_count_what_there_is,
            a_store_is_ready_until_it_is_closed,
            a_closed_store_says_so,
            closing_answers_what_was_under_way,
            opening_again_finds_everything,
            opening_again_after_a_purge_keeps_the_horizon,
            a_node_that_checks_in_is_on_the_roll,
            nodes_see_each_other,
            nodes_that_check_in_together_do_not_miss_each_other,
            a_silent_node_is_remembered_for_a_day,
            opening_again_finds_the_nodes,
            ring_replaces_only_what_it_was_made_from,
            other_ring_ends_no_life,
            one_of_many_changes_of_the_ring_is_made,
            ring_that_was_replaced_redeems_nothing,
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
