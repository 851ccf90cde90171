//! The actions of the parties, and the properties that must hold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::handshake::{Attempt, Decision, StatedAudience, Verdict, decide, settle};
use countersign_core::{
    Audience, Consumption, EndResult, Ending, KeyRing, LoginToken, LoginTokenSet, ManualClock, NewToken,
    Policy, RetryKeyHash, SequenceEntropy, after, from_millis,
};
use countersign_store::memory::MemoryStore;
use jiff::Timestamp;
use stateright::{Model, Property};

use super::state::{Action, Asker, HOSTILE, Login, LoginOutcome, Message, State, TokenIndex, Tracker};
use super::store::ModelStore;
use super::world::{Defences, Keys, World};
use super::{ONE_SESSION, ONE_YES, ONLY_THE_WORKER, SURVIVES_LOSS, WORKS};
use crate::TrialError;

const TRACKERS: [&str; 3] = ["https://hostile.example/", "https://honest.example/", "https://other.example/"];

/// The model, with its defences.
#[derive(Clone, Debug)]
pub(super) struct Protocol {
    pub(super) defences: Defences,
    world: World,
    /// One for each tracker, in the same order.
    tokens: Vec<LoginToken>,
    audiences: Vec<Audience>,
    /// The keys of the login attempts, and last that of the hostile tracker.
    keys: Vec<Option<RetryKeyHash>>,
    /// The moments that time can stand at.
    moments: Vec<Timestamp>,
}

impl Protocol {
    /// The protocol with these defences, in this world.
    pub(super) fn new(defences: Defences, world: World) -> Result<Self, TrialError> {
        let failed =
            |error: &dyn std::fmt::Display| TrialError::setup("cannot issue the model's tokens", error);
        let start = from_millis(1_767_225_600_000);
        let clock = Arc::new(ManualClock::at(start));
        let entropy = Arc::new(SequenceEntropy::default());
        let ring = KeyRing::generate(start, &*entropy).map_err(|error| failed(&error))?;
        let policy = Policy::default();
        let lifetime = policy.lifetime;
        let store = Arc::new(MemoryStore::new(&*clock));
        let set = LoginTokenSet::new(ring, store, clock, entropy, policy);
        let (mut tokens, mut audiences) = (Vec::new(), Vec::new());
        for tracker in TRACKERS.into_iter().take(world.honest_trackers + 1) {
            let audience = Audience::parse(tracker).map_err(|error| failed(&error))?;
            let wanted =
                NewToken { audience: defences.bound.then(|| audience.clone()), ..NewToken::default() };
            tokens.push(set.issue(wanted).map_err(|error| failed(&error))?.token);
            audiences.push(audience);
        }
        let key = |number| match defences.keys {
            Keys::None => None,
            Keys::Fresh => Some(RetryKeyHash::of(format!("login {number}").as_bytes())),
            Keys::Fixed => Some(RetryKeyHash::of(b"fixed")),
        };
        let hostile = RetryKeyHash::of(b"hostile");
        let keys = (0..world.attempts).map(key).chain([Some(hostile)]).collect();
        let minute = Duration::from_mins(1);
        // At once; when keys are no longer good; when tokens have expired, and records may be purged.
        let moments =
            vec![start, after(start, minute + Duration::from_secs(1)), after(start, lifetime + 2 * minute)];
        Ok(Self { defences, world, tokens, audiences, keys, moments })
    }

    fn now(&self, state: &State) -> Timestamp {
        self.moments.get(state.now).copied().unwrap_or(Timestamp::MAX)
    }

    /// The request as the server reads it.
    fn request(&self, state: &State, asker: Asker) -> Attempt {
        let (stated, key) = match asker {
            Asker::Login(number) => {
                let tracker = state.logins.get(number).map_or(HOSTILE, |login| login.at);
                (self.defences.audience_stated.then_some(tracker), self.keys.get(number))
            }
            Asker::Hostile(stated) => (stated, self.keys.last()),
        };
        let audience = stated.and_then(|tracker| self.audiences.get(tracker));
        Attempt {
            is_post: true,
            audience: audience.map_or(StatedAudience::None, |it| StatedAudience::Tracker(it.clone())),
            retry_key: key.copied().flatten(),
        }
    }

    /// A request reaches a server: the product's own rules, around the store.
    fn serve(&self, state: &mut State, server: usize, token: TokenIndex, asker: Asker) -> Option<()> {
        let (request, now) = (self.request(state, asker), self.now(state));
        let login_token = self.tokens.get(token)?;
        let store = state.stores.get_mut(server)?;
        let decision = decide(&request, Some(login_token), now, store.fence());
        let (id, expires) = (login_token.id(), login_token.expires());
        let end = match decision {
            Decision::Reject(_) => EndResult::Recorded,
            Decision::Recall(_) => store.look_up(id, expires),
            Decision::Consume(_) if self.defences.conditional_write => {
                store.end(id, expires, &consumption(&request, now))
            }
            Decision::Consume(_) => match store.look_up(id, expires) {
                EndResult::Recorded => {
                    state.about_to_write.insert((server, token, asker));
                    return Some(());
                }
                known => known,
            },
        };
        let verdict = settle(&request, &decision, end, now);
        Self::answer(state, token, asker, &verdict);
        Some(())
    }

    /// The second half of what a broken store does.
    fn write(&self, state: &mut State, server: usize, token: TokenIndex, asker: Asker) -> Option<()> {
        state.about_to_write.remove(&(server, token, asker));
        let (request, now) = (self.request(state, asker), self.now(state));
        let login_token = self.tokens.get(token)?;
        state.stores.get_mut(server)?.write(
            login_token.id(),
            login_token.expires(),
            &consumption(&request, now),
        );
        Self::answer(state, token, asker, &Verdict::Accepted { consumed: now, again: false });
        Some(())
    }

    fn answer(state: &mut State, token: TokenIndex, asker: Asker, verdict: &Verdict) {
        let yes = match verdict {
            Verdict::Accepted { again, .. } => Some(*again),
            Verdict::Rejected(_) => None,
        };
        let login = match asker {
            Asker::Login(number) => Some(number),
            Asker::Hostile(_) => None,
        };
        if yes.is_some() {
            state.yes.insert((token, login));
        }
        if let Some(number) = login
            && state.is_waiting(number)
        {
            state.wire.insert(Message::Answer(number, yes));
        }
    }

    /// A caller shows a token to an honest tracker, which begins to ask.
    fn show(&self, state: &mut State, at: Tracker, token: TokenIndex, by_worker: bool) -> Option<()> {
        if state.logins.len() == self.world.attempts {
            return None;
        }
        state.wire.insert(Message::Handshake(state.logins.len()));
        state.logins.push(Login { at, by_worker, token, outcome: LoginOutcome::Waiting });
        Some(())
    }

    fn deliver(&self, state: &mut State, message: Message, server: usize) -> Option<()> {
        match message {
            Message::Token(tracker) => self.show(state, tracker, tracker, true),
            Message::Handshake(number) => {
                let token = state.logins.get(number)?.token;
                self.serve(state, server, token, Asker::Login(number))
            }
            Message::Answer(number, yes) => {
                let login = state.logins.get_mut(number)?;
                login.outcome = yes.map_or(LoginOutcome::Closed, |again| LoginOutcome::Opened { again });
                // Further ones are not read.
                state.wire.retain(|message| !matches!(message, Message::Answer(to, _) if *to == number));
                Some(())
            }
        }
    }

    /// Time's and the operator's doings.
    fn operate(&self, state: &mut State, action: Action) -> Option<()> {
        let now = self.now(state);
        match action {
            Action::Wait => state.now += 1,
            Action::ClockStepsBack => state.now = 0,
            Action::Backup => state.backup = state.stores.first().cloned(),
            Action::Restore => {
                let mut store = state.backup.clone()?;
                if self.defences.fence {
                    // No restore happens within the millisecond in which the last token was issued.
                    store.move_fence(after(now, Duration::from_millis(1)));
                }
                *state.stores.first_mut()? = store;
                state.restored = true;
            }
            Action::Purge => {
                for store in &mut state.stores {
                    let forgotten = if self.defences.horizon { store.purge(now) } else { store.forget(now) };
                    if forgotten == 0 {
                        return None;
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }
}

fn consumption(request: &Attempt, now: Timestamp) -> Ending {
    Ending::Consumed(Consumption { at: now, by: None, retry_key: request.retry_key })
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = self.moments.first().copied().unwrap_or(Timestamp::MIN);
        let stores = if self.defences.one_store { 1 } else { 2 };
        vec![State {
            now: 0,
            stores: vec![ModelStore::new(start); stores],
            backup: None,
            restored: false,
            wire: BTreeSet::new(),
            logins: Vec::new(),
            worker_went_to: BTreeSet::new(),
            known: BTreeSet::new(),
            about_to_write: BTreeSet::new(),
            yes: BTreeSet::new(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let honest = HOSTILE + 1..self.tokens.len();
        let servers = 0..state.stores.len();
        actions.extend(
            (HOSTILE..self.tokens.len())
                .filter(|to| !state.worker_went_to.contains(to))
                .map(Action::WorkerLogsIn),
        );
        for message in &state.wire {
            let servers = if matches!(message, Message::Handshake(_)) { servers.clone() } else { 0..1 };
            actions.extend(servers.map(|server| Action::Deliver(*message, server)));
        }
        for token in &state.known {
            actions.extend(honest.clone().map(|to| Action::HostileShows(*token, to)));
            for stated in (HOSTILE..self.tokens.len()).map(Some).chain([None]) {
                actions.extend(servers.clone().map(|server| Action::HostileAsks(*token, stated, server)));
            }
        }
        let used: BTreeSet<_> = state.yes.iter().map(|(token, _)| *token).collect();
        actions.extend(used.difference(&state.known).map(|token| Action::Leak(*token)));
        actions.extend(
            state.about_to_write.iter().map(|(server, token, asker)| Action::Write(*server, *token, *asker)),
        );
        if state.now + 1 < self.moments.len() {
            actions.push(Action::Wait);
        } else if self.world.clock_steps_back {
            actions.extend([Action::Purge, Action::ClockStepsBack]);
        }
        if !self.world.restores {
            return;
        }
        if state.backup.is_none() {
            actions.push(Action::Backup);
        } else if !state.restored {
            actions.push(Action::Restore);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::WorkerLogsIn(tracker) => {
                state.worker_went_to.insert(tracker);
                if tracker == HOSTILE {
                    state.known.insert(HOSTILE);
                } else {
                    state.wire.insert(Message::Token(tracker));
                }
            }
            Action::Deliver(message, server) => self.deliver(&mut state, message, server)?,
            Action::HostileShows(token, to) => self.show(&mut state, to, token, false)?,
            Action::HostileAsks(token, stated, server) => {
                self.serve(&mut state, server, token, Asker::Hostile(stated))?;
            }
            Action::Leak(token) => drop(state.known.insert(token)),
            Action::Write(server, token, asker) => self.write(&mut state, server, token, asker)?,
            Action::Wait | Action::ClockStepsBack | Action::Backup | Action::Restore | Action::Purge => {
                self.operate(&mut state, action)?;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONLY_THE_WORKER, |_, state: &State| {
                state.sessions().all(|login| login.by_worker && login.token == login.at)
            }),
            Property::always(ONE_SESSION, |model: &Self, state: &State| {
                (0..model.tokens.len())
                    .all(|token| state.sessions().filter(|login| login.token == token).count() <= 1)
            }),
            Property::always(ONE_YES, |model: &Self, state: &State| {
                (0..model.tokens.len()).all(|token| state.askers(token) <= 1)
            }),
            Property::sometimes(WORKS, |_, state: &State| state.sessions().any(|login| login.by_worker)),
            Property::sometimes(SURVIVES_LOSS, |_, state: &State| {
                state
                    .logins
                    .iter()
                    .any(|login| login.by_worker && login.outcome == LoginOutcome::Opened { again: true })
            }),
        ]
    }
}
