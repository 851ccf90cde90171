//! Changes that callers of the private API or the page request. Each runs to its end, with its event, its metric and its
//! line in the log, even if the caller disconnects or the deadline passes.

use std::sync::Arc;

use countersign_core::seal::unseal;
use countersign_core::{GetError, IssueError, Issued, NewToken, StoreError};
use jiff::Timestamp;
use tokio::task::JoinError;
use zeroize::Zeroizing;

use crate::App;
use crate::caller::Caller;
use crate::callers::NotAllowed;

/// Why a caller gets no token.
#[derive(Debug)]
pub(crate) enum NotIssued {
    NotAllowed(NotAllowed),
    Failed(IssueError),
}

impl App {
    /// Issues a token, if the caller may have it. Nothing waits in between, so that it runs to its end by itself.
    pub(crate) fn issue(&self, wanted: NewToken, caller: &Caller) -> Result<Issued, NotIssued> {
        let wanted = caller.grant.permit(wanted, self.tokens.policy()).map_err(|reason| {
            self.events.denied(caller, &reason);
            NotIssued::NotAllowed(reason)
        })?;
        let issued = self.tokens.issue(wanted).map_err(NotIssued::Failed)?;
        self.events.issued(&issued.token, caller);
        Ok(issued)
    }

    /// Takes a token back; whether it was still live.
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        text: Zeroizing<String>,
        caller: Caller,
    ) -> Result<bool, GetError> {
        let app = Arc::clone(self);
        let revoked = self.tasks.run(async move {
            let revoked = app.tokens.revoke(&text).await?;
            if revoked {
                app.events.revoked(|| unseal(&text, &app.tokens.keys()).ok(), &caller);
            }
            Ok(revoked)
        });
        revoked.await.unwrap_or_else(|error| Err(broke_off(&error).into()))
    }

    /// Moves the fence over every token issued so far. Returns where it stands.
    pub(crate) async fn move_fence(self: &Arc<Self>, caller: Caller) -> Result<Timestamp, StoreError> {
        let app = Arc::clone(self);
        let moved = self.tasks.run(async move {
            let fence = app.tokens.fence().await?;
            app.events.fence_moved(fence, &caller);
            app.tokens.note_told_fence(fence);
            if app.tokens.store().is_shared() {
                // Otherwise another server would tell of it, too.
                app.check_in().await;
            }
            tracing::info!(%fence, request = caller.request.map(display), "the fence was moved");
            Ok(fence)
        });
        moved.await.unwrap_or_else(|error| Err(broke_off(&error)))
    }

    /// Removes old records. Returns how many.
    pub(crate) async fn purge(self: &Arc<Self>) -> Result<u64, StoreError> {
        let app = Arc::clone(self);
        let purged = self.tasks.run(async move {
            let purged = app.tokens.purge().await;
            app.events.tally().purged(purged.as_ref().copied());
            purged
        });
        purged.await.unwrap_or_else(|error| Err(broke_off(&error)))
    }
}

/// It did not come to its end: a mistake in the program, or the end of the process.
fn broke_off(error: &JoinError) -> StoreError {
    tracing::error!(%error, "a change was interrupted");
    StoreError::unavailable(
        "the change was interrupted and may have taken effect; the server's log has more".to_owned(),
    )
}
