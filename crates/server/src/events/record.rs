//! What can happen: each method makes an event of it, counts it, and logs it where an operator has to see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use countersign_core::handshake::{Refusal, StatedAudience};
use countersign_core::{Event, EventId, EventKind, LoginToken, Note};
use jiff::Timestamp;
use tracing::field::display;

use super::{Events, FollowerMessage, MANY_GUESSES, Message, log};
use crate::caller::Caller;
use crate::callers::NotAllowed;
use crate::handshake_outcome::HandshakeOutcome;
use crate::traces;

impl Events {
    /// A token was issued.
    pub(crate) fn issued(&self, token: &LoginToken, caller: &Caller) {
        self.tally.issued.inc();
        self.activity.issued(token);
        traces::happened("issued", Some(token.id()));
        if self.policy.record_issued || self.is_followed() {
            // Not when it is created by its date: after a fence that is a moment still to come.
            let now = self.clock.now();
            self.happened(now, EventKind::Issued, Some(token), caller, self.policy.record_issued);
        }
    }

    /// A handshake was answered, with this token if it was an authentic one.
    pub(crate) fn answered(&self, token: Option<&LoginToken>, outcome: HandshakeOutcome<'_>, took: Duration) {
        self.tally.handshake(outcome, took);
        self.activity.handshake(token, outcome, took);
    }

    /// A token was redeemed, which is on record.
    pub(crate) fn consumed(&self, at: Timestamp, token: &LoginToken, caller: &Caller) {
        if self.is_followed() {
            self.happened(at, EventKind::Consumed, Some(token), caller, false);
        }
    }

    /// A token was revoked, which is on record. `token` is only called if the event is needed.
    pub(crate) fn revoked(&self, token: impl FnOnce() -> Option<LoginToken>, caller: &Caller) {
        self.tally.revoked.inc();
        traces::happened("revoked", None);
        if self.is_followed() {
            self.happened(self.clock.now(), EventKind::Revoked, token().as_ref(), caller, false);
        }
    }

    /// A handshake was rejected.
    pub(crate) fn refused(
        &self,
        refusal: &Refusal,
        token: Option<&LoginToken>,
        stated: &StatedAudience,
        caller: &Caller,
    ) {
        let now = self.clock.now();
        let stated = match stated {
            StatedAudience::Tracker(audience) => Note::clean(audience.as_str().as_bytes()),
            StatedAudience::None | StatedAudience::Unreadable(_) => None,
        };
        let kind = EventKind::of(refusal, stated);
        // An invalid token is no sign of a leaked one.
        let admitted = self.throttle.admit(&kind, now, token.is_some());
        log::refusal(refusal, token, caller, admitted.is_logged);
        if admitted.nth.is_none() {
            self.counts.summed_up.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.happened(now, kind, token, caller, true);
    }

    /// A request to the private API had a wrong credential: a bearer, or a certificate. `reason` holds nothing of it.
    pub(crate) fn credential_rejected(&self, caller: &Caller, reason: impl fmt::Display) {
        self.tally.credentials_rejected.inc();
        let (now, kind) = (self.clock.now(), EventKind::CredentialRejected);
        let admitted = self.throttle.admit(&kind, now, true);
        let (peer, request) = (caller.peer.map(display), caller.request.map(display));
        if admitted.is_logged {
            tracing::warn!(peer, request, %reason, "the private API was shown a wrong credential");
        }
        let Some(nth) = admitted.nth else {
            self.counts.summed_up.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if nth == MANY_GUESSES {
            tracing::warn!(
                peer,
                request,
                nth,
                "wrong credentials at the private API; somebody guesses, or has an old secret"
            );
            if let (Some(alarms), Some(event)) = (&self.alarms, self.event(now, kind.clone(), None, caller)) {
                alarms.raise(&Event { count: nth.into(), ..event });
            }
        }
        self.happened(now, kind, None, caller, true);
    }

    /// A named caller asked for more than it may have.
    pub(crate) fn denied(&self, caller: &Caller, reason: &NotAllowed) {
        let Some(name) = caller.name() else { return };
        self.tally.callers.denied(name, reason.label());
        let (now, kind) = (self.clock.now(), EventKind::CallerDenied(reason.denial()));
        let admitted = self.throttle.admit(&kind, now, true);
        let (peer, request) = (caller.peer.map(display), caller.request.map(display));
        if admitted.is_logged {
            tracing::warn!(caller = %name, peer, request, reason = reason.label(), "a caller asked for more than it may have");
        }
        let Some(nth) = admitted.nth else {
            self.counts.summed_up.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if nth == MANY_GUESSES
            && let (Some(alarms), Some(event)) = (&self.alarms, self.event(now, kind.clone(), None, caller))
        {
            alarms.raise(&Event { count: nth.into(), ..event });
        }
        self.happened(now, kind, None, caller, true);
    }

    /// Tells followers, and has it kept if `keep` says so.
    pub(super) fn happened(
        &self,
        at: Timestamp,
        kind: EventKind,
        token: Option<&LoginToken>,
        caller: &Caller,
        keep: bool,
    ) {
        match self.event(at, kind, token, caller) {
            Some(event) => self.tell(event, keep),
            // Without randomness no token is issued either, and that is complained about.
            None => self.lose(1),
        }
    }

    /// An event; `None` if there is no randomness for its name.
    fn event(
        &self,
        at: Timestamp,
        kind: EventKind,
        token: Option<&LoginToken>,
        caller: &Caller,
    ) -> Option<Event> {
        let id = match token {
            // It is on record under this name.
            Some(token) if kind.filter().is_an_ending() => token.id().into(),
            _ => EventId::generate(at, &*self.entropy).ok()?,
        };
        // By a caller that may have no name, which is not the one whose token it is.
        let is_asked = kind == EventKind::Revoked;
        Some(Event {
            id,
            at,
            kind,
            token: token.map(LoginToken::id),
            audience: token.and_then(LoginToken::audience).map(|audience| audience.as_str().to_owned()),
            peer: caller.peer,
            user_agent: caller.user_agent(),
            request: caller.request,
            caller: caller
                .name()
                .or_else(|| token.and_then(LoginToken::issued_by).filter(|_| !is_asked))
                .cloned(),
            count: 1,
        })
    }

    pub(super) fn tell(&self, event: Event, keep: bool) {
        if let Some(alarms) = &self.alarms {
            alarms.raise(&event);
        }
        if self.is_followed() {
            // An error means that the last one has just gone.
            let _ = self.followers.send(FollowerMessage::Event(Arc::new(event.clone())));
        }
        if keep && self.keeps() && self.queue.try_send(Message::Event(event)).is_err() {
            self.lose(1);
        }
    }

    pub(super) fn lose(&self, events: u64) {
        self.counts.lost.fetch_add(events, Ordering::Relaxed);
    }
}
