//! The statements for moving the store.

use super::{Sql, every_table};

/// A statement that is for moving the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgres) enum MoveQuery {
    /// Whether a server may use the store: state, the other store; and the watermarks, if it may not.
    Standing,
    /// The same, locked until the transaction ends.
    LockStanding,
    /// Changes that. Parameters: state, the other store.
    SetStanding,
    /// Puts the watermarks away until [`Restore`](Self::Restore): first these two, in one transaction. Each batch that has
    /// begun is committed before the second one returns, and none begins after the commit.
    LockFirstStripe,
    KeepWatermarks,
    Withdraw,
    /// Puts a key ring there, or none. Parameters: version, what unlocks it, and itself.
    SetRing,
    /// Puts the watermarks back, with a fence that is no earlier than a moment. Parameters: the stripes, the moment.
    Restore,
    /// Whether a token's life has ended in the store, or a server has ever used it.
    IsUsed,
    /// The id on record that was made last.
    Newest,
}

impl Sql {
    pub(super) fn text_for_move(&self, query: MoveQuery) -> String {
        let s = self.schema.quoted();
        let standing =
            format!("SELECT state, peer, fence, cleared, horizon, copy FROM {s}.copying WHERE one = 0");
        match query {
            MoveQuery::Standing => standing,
            MoveQuery::LockStanding => format!("{standing} FOR UPDATE"),
            // `copy` is the id of the move. Servers of the version before expect a name there, and never NULL.
            MoveQuery::SetStanding => {
                format!("UPDATE {s}.copying SET state = $1, copy = $2, peer = $3 WHERE one = 0")
            }
            MoveQuery::LockFirstStripe => format!("SELECT stripe FROM {s}.lines WHERE stripe = 0 FOR UPDATE"),
            MoveQuery::KeepWatermarks => format!(
                "UPDATE {s}.copying SET fence = line.fence, cleared = line.cleared, horizon = line.horizon \
                 FROM {s}.lines AS line WHERE one = 0 AND line.stripe = 0"
            ),
            MoveQuery::Withdraw => format!("DELETE FROM {s}.lines"),
            MoveQuery::SetRing => {
                format!("UPDATE {s}.ring SET version = $1, unlocked_by = $2, sealed = $3 WHERE one = 0")
            }
            MoveQuery::Restore => format!(
                "INSERT INTO {s}.lines (stripe, fence, cleared, horizon, probed, ring) \
                 SELECT w.stripe, greatest(c.fence, $2), c.cleared, c.horizon, c.fence, \
                 (SELECT version FROM {s}.ring WHERE one = 0) \
                 FROM {s}.copying AS c CROSS JOIN unnest($1::SMALLINT[]) AS w (stripe) WHERE c.one = 0"
            ),
            MoveQuery::IsUsed => format!(
                "SELECT {} OR EXISTS (SELECT 1 FROM {s}.nodes)",
                every_table(|table| format!("EXISTS (SELECT 1 FROM {s}.{table})"), " OR ")
            ),
            MoveQuery::Newest => format!(
                "SELECT id FROM ({}) AS every ORDER BY id DESC LIMIT 1",
                every_table(
                    |table| format!("(SELECT id FROM {s}.{table} ORDER BY id DESC LIMIT 1)"),
                    " UNION ALL "
                )
            ),
        }
    }
}
