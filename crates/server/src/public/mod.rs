//! The public API: the handshake.
//!
//! ```text
//! request ──attempt──▶ what it says ──LoginTokenSet::redeem──▶ the verdict ──answer──▶ response
//! ```

mod answer;
mod attempt;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use countersign_core::handshake::{Attempt, Refusal, Verdict};
use countersign_core::seal::unseal;
use countersign_core::{LoginToken, RedeemError, Redemption, StoreError};
use opentelemetry::KeyValue;
use tokio::time::{Instant, timeout_at};

use crate::arrival::Arrival;
use crate::caller::Caller;
use crate::handshake_outcome::HandshakeOutcome;
use crate::health::{STORE_TIMEOUT, store_hangs};
use crate::{App, traces};

pub(crate) use answer::TOKEN_TYPE;
pub use attempt::{MAX_BODY_BYTES, MAX_DISCARDED_BYTES};

/// The last part of a token's handshake URL.
pub const VIEW: &str = "+bugtracker-handshake";

/// `/token/{text}/+bugtracker-handshake`: a bug tracker asks whether a token is good, and consumes it. Answers by the request's
/// deadline.
pub(crate) async fn answer(app: &Arc<App>, text: String, arrival: &Arrival, request: Request) -> Response {
    let started = Instant::now();
    let deadline = arrival.deadline;
    let peer = app.proxies.client(arrival.peer, request.headers());
    let caller = Caller::of(arrival, request.headers()).behind_proxies(peer);
    let json = attempt::wants_json(request.headers());
    let answers = answer::ResponseWriter { app, json };
    let attempt = match attempt::read(request, deadline).await {
        Ok(attempt) => attempt,
        Err(incomplete) => {
            tracing::debug!(
                peer = peer.map(display),
                request = caller.request.map(display),
                ?incomplete,
                "incomplete handshake"
            );
            return answers.incomplete(incomplete);
        }
    };
    let request = caller.request;
    let handshake = Arc::new(Handshake { app: Arc::clone(app), text, attempt, caller, json, started });
    let decided = Arc::clone(&handshake);
    // A hanging disk is answered 503, like a full one. The call to the store goes on; its outcome is counted and
    // reported later.
    let patience = deadline.0.min(Instant::now() + STORE_TIMEOUT);
    if let Ok(answered) = timeout_at(patience, app.tasks.outlive(async move { decided.decide().await })).await
    {
        return answered;
    }
    let error = store_hangs();
    let token = handshake.token();
    app.events.answered(token.as_ref(), HandshakeOutcome::Unanswered(&error), started.elapsed());
    tracing::debug!(%error, request = request.map(display), "a handshake could not be answered");
    answers.store_away(&error)
}

/// A whole request, on its way to a verdict.
struct Handshake {
    app: Arc<App>,
    text: String,
    attempt: Attempt,
    caller: Caller,
    json: bool,
    started: Instant,
}

impl Handshake {
    /// The token, if its text is authentic: what could not be answered counts for a tracker and a caller, too.
    fn token(&self) -> Option<LoginToken> {
        unseal(&self.text, &self.app.tokens.keys()).ok()
    }

    /// Decides, and records and counts the outcome. It has to run to its end, also when the client has left: otherwise
    /// a client that disconnects could consume tokens, or replay them, without a trace.
    async fn decide(&self) -> Response {
        let Self { app, text, attempt, caller, json, started } = self;
        let answers = answer::ResponseWriter { app, json: *json };
        let peer = caller.peer;
        let redeemed = app.tokens.redeem(text, attempt, peer).await.map_err(|RedeemError(error)| error);
        let unsealed = if redeemed.is_err() { self.token() } else { None };
        let token = redeemed.as_ref().map_or(unsealed.as_ref(), |redemption| redemption.token.as_ref());
        app.events.answered(token, outcome(&redeemed), started.elapsed());
        traces::note(|| KeyValue::new("countersign.outcome", outcome(&redeemed).label()));
        if let Some(token) = token {
            traces::note(|| traces::about(token.id()));
        }
        match redeemed {
            Ok(Redemption { verdict: Verdict::Accepted { consumed, again }, token: Some(token) }) => {
                tracing::debug!(id = %token.id(), peer = peer.map(display), again, request = caller.request.map(display), "accepted");
                if !again {
                    app.events.consumed(consumed, &token, caller);
                }
                answers.accepted(text, &token, consumed)
            }
            Ok(Redemption { verdict: Verdict::Rejected(refusal), token }) => {
                app.events.refused(&refusal, token.as_ref(), &attempt.audience, caller);
                match app.limiter.count(peer) {
                    Ok(()) => answers.refused(&refusal),
                    // A wrong method tells nothing about the token, and who asks so is not guessing.
                    Err(_) if refusal == Refusal::NotPost => answers.refused(&refusal),
                    Err(wait) => {
                        app.events.tally().limited.inc();
                        answers.too_many(wait)
                    }
                }
            }
            // `redeem` accepts nothing that it could not unseal.
            Ok(Redemption { verdict: Verdict::Accepted { .. }, token: None }) => {
                answers.refused(&Refusal::NotOurs)
            }
            Err(error) => {
                tracing::debug!(%error, request = caller.request.map(display), "a handshake could not be answered");
                answers.store_away(&error)
            }
        }
    }
}

/// What is counted.
fn outcome(redeemed: &Result<Redemption, StoreError>) -> HandshakeOutcome<'_> {
    match redeemed {
        Ok(Redemption { verdict: Verdict::Accepted { again: false, .. }, .. }) => HandshakeOutcome::Accepted,
        Ok(Redemption { verdict: Verdict::Accepted { again: true, .. }, .. }) => HandshakeOutcome::Repeated,
        Ok(Redemption { verdict: Verdict::Rejected(refusal), .. }) => {
            HandshakeOutcome::Rejected(refusal.label())
        }
        Err(error) => HandshakeOutcome::Unanswered(error),
    }
}
