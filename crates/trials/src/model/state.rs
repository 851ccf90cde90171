//! A state of the model, and the actions that are possible in it.

use std::collections::BTreeSet;

use super::store::ModelStore;

/// A token, by its place in the model's list: the worker has one for each tracker it logs in to.
pub(super) type TokenIndex = usize;

/// A bug tracker. The hostile one is [`HOSTILE`]; the others are honest.
pub(super) type Tracker = usize;

/// The hostile tracker.
pub(super) const HOSTILE: Tracker = 0;

/// A login attempt at an honest tracker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Login {
    /// Where.
    pub(super) at: Tracker,
    /// Whether the worker made it; otherwise the hostile tracker did.
    pub(super) by_worker: bool,
    /// With which token.
    pub(super) token: TokenIndex,
    /// How it stands.
    pub(super) outcome: LoginOutcome,
}

/// How a login attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LoginOutcome {
    /// The tracker has asked the server, and asks again as long as it hears nothing.
    Waiting,
    /// A session was opened. `again`: on an answer that was given before and had been lost.
    Opened {
        /// Whether it was a repeated answer.
        again: bool,
    },
    /// The server said no.
    Closed,
}

/// Who asks the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Asker {
    /// An honest tracker, for the login attempt of this number.
    Login(usize),
    /// The hostile tracker itself, which states any tracker as its audience, or none.
    Hostile(Option<Tracker>),
}

/// A message that is under way. It stays there: it may be delivered never, late, or any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// The worker shows a token to an honest tracker.
    Token(Tracker),
    /// The tracker asks the server for this login attempt.
    Handshake(usize),
    /// The server's answer to it; `Some(again)` is yes.
    Answer(usize, Option<bool>),
}

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) now: usize,
    pub(super) stores: Vec<ModelStore>,
    pub(super) backup: Option<ModelStore>,
    pub(super) restored: bool,
    pub(super) wire: BTreeSet<Message>,
    /// The attempts at honest trackers, in the order of their arrival.
    pub(super) logins: Vec<Login>,
    pub(super) worker_went_to: BTreeSet<Tracker>,
    /// The tokens that the hostile tracker has got hold of.
    pub(super) known: BTreeSet<TokenIndex>,
    /// Of a broken store: who has looked and is about to write.
    pub(super) about_to_write: BTreeSet<(usize, TokenIndex, Asker)>,
    /// To which login attempts the server has said yes; `None`: to the hostile tracker itself.
    pub(super) yes: BTreeSet<(TokenIndex, Option<usize>)>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The worker takes a token and logs in.
    WorkerLogsIn(Tracker),
    /// A message arrives; a handshake at this server.
    Deliver(Message, usize),
    /// The hostile tracker shows a token to an honest one, as if it were the worker.
    HostileShows(TokenIndex, Tracker),
    /// The hostile tracker asks the server itself.
    HostileAsks(TokenIndex, Option<Tracker>, usize),
    /// A token that was used gets into the hands of the hostile tracker: from a log, say.
    Leak(TokenIndex),
    /// A broken store writes what it decided earlier.
    Write(usize, TokenIndex, Asker),
    /// Time passes.
    Wait,
    /// The server's clock is set back.
    ClockStepsBack,
    /// A backup is made.
    Backup,
    /// The backup is restored.
    Restore,
    /// Old records are purged.
    Purge,
}

impl State {
    pub(super) fn sessions(&self) -> impl Iterator<Item = &Login> {
        self.logins.iter().filter(|login| matches!(login.outcome, LoginOutcome::Opened { .. }))
    }

    /// Whether the honest tracker has had the worker's request before.
    pub(super) fn has_seen(&self, tracker: Tracker) -> bool {
        self.logins.iter().any(|login| login.by_worker && login.at == tracker)
    }

    /// Whether, since the state before, a broken store has looked and found a token live.
    pub(super) fn is_about_to_write(&self, before: &Self) -> bool {
        self.about_to_write.len() > before.about_to_write.len()
    }

    /// Whether, since the state before, an answer was given again.
    pub(super) fn repeats_a_yes(&self, before: &Self) -> bool {
        self.wire.difference(&before.wire).any(|message| matches!(message, Message::Answer(_, Some(true))))
    }

    pub(super) fn is_waiting(&self, number: usize) -> bool {
        self.logins.get(number).is_some_and(|login| login.outcome == LoginOutcome::Waiting)
    }

    /// How many have been told yes for a token.
    pub(super) fn askers(&self, token: TokenIndex) -> usize {
        self.yes.iter().filter(|(of, _)| *of == token).count()
    }
}
