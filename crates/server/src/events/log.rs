//! Lines of the log about refusals.

use countersign_core::handshake::Refusal;
use countersign_core::{EventKind, KindFilter, LoginToken};
use tracing::field::display;

use super::KEPT_EACH_MINUTE;
use crate::caller::Caller;

/// Logs a refusal. The use of a token by a party that should not have it is a warning, or a debug line if the log has
/// had one of its kind lately.
pub(super) fn refusal(refusal: &Refusal, token: Option<&LoginToken>, caller: &Caller, is_logged: bool) {
    let (peer, request) = (caller.peer.map(display), caller.request.map(display));
    let (Some(token), true) = (token, is_logged) else {
        let id = token.map(|token| display(token.id()));
        tracing::debug!(id, peer, request, reason = refusal.label(), "refused");
        return;
    };
    let id = token.id();
    match refusal {
        Refusal::Replay(first) => {
            let caller = token.issued_by().map(display);
            tracing::warn!(%id, caller, peer, request, first_at = %first.at, first_by = first.by.map(display), "a token was used a second time");
        }
        Refusal::AudienceMismatch => {
            let audience = token.audience().map(display);
            let caller = token.issued_by().map(display);
            tracing::warn!(%id, caller, peer, request, audience, "a token was used by another tracker than it is for");
        }
        Refusal::NotPost
        | Refusal::NotOurs
        | Refusal::AudienceMissing
        | Refusal::AudienceUnreadable(_)
        | Refusal::Expired
        | Refusal::FromTheFuture
        | Refusal::Fenced
        | Refusal::Revoked => tracing::info!(%id, peer, request, reason = refusal.label(), "refused"),
    }
}

/// Logs how many refusals of a kind there were that got no line of their own.
pub(super) fn sum(kind: &EventKind, count: u64) {
    let reason = kind.reason();
    let more = format!("`countersign events` has them, up to {KEPT_EACH_MINUTE} a minute one by one");
    match kind.filter() {
        KindFilter::Replay => tracing::warn!(count, "more tokens were used a second time; {more}"),
        KindFilter::Relay => {
            tracing::warn!(count, "more tokens were used by another tracker than they are for; {more}");
        }
        KindFilter::CredentialRejected => {
            tracing::warn!(count, "the private API was shown more wrong credentials; {more}");
        }
        KindFilter::CallerDenied => {
            tracing::warn!(count, reason, "callers asked again for more than they may have; {more}");
        }
        _ => tracing::info!(count, reason, "more handshakes were refused; {more}"),
    }
}
