//! Describes a path through the model in words.

use super::protocol::Protocol;
use super::state::{Action, Asker, HOSTILE, LoginOutcome, Message, State, Tracker};

const NAMES: [&str; 3] = ["the hostile tracker", "the honest tracker", "the other honest tracker"];

fn name(tracker: Tracker) -> &'static str {
    NAMES.get(tracker).copied().unwrap_or("a tracker")
}

fn token(index: usize) -> String {
    format!("the token meant for {}", name(index))
}

impl Protocol {
    /// The path as sentences, one a step.
    pub(super) fn tell(&self, path: Vec<(State, Option<Action>)>) -> Vec<String> {
        let mut steps = path.into_iter().peekable();
        let mut told = Vec::new();
        while let Some((before, action)) = steps.next() {
            if let (Some(action), Some((after, _))) = (action, steps.peek()) {
                told.push(self.sentence(&before, action, after));
            }
        }
        told
    }

    fn sentence(&self, before: &State, action: Action, after: &State) -> String {
        let answer = |asker| {
            if after.yes.len() > before.yes.len() {
                "the server says yes (200)"
            } else if after.is_about_to_write(before) {
                "the server looks and finds the token live"
            } else if matches!(asker, Asker::Login(_)) && after.repeats_a_yes(before) {
                "the server says yes again (200)"
            } else {
                "the server says no"
            }
        };
        match action {
            Action::WorkerLogsIn(HOSTILE) => {
                format!("The worker logs in to {}, which now has {}.", name(HOSTILE), token(HOSTILE))
            }
            Action::WorkerLogsIn(tracker) => format!("The worker sends {} a token.", name(tracker)),
            Action::Deliver(Message::Token(tracker), _) if before.has_seen(tracker) => {
                format!(
                    "The worker's request reaches {} once more (attempt {}).",
                    name(tracker),
                    after.logins.len()
                )
            }
            Action::Deliver(Message::Token(tracker), _) => {
                format!("It reaches {} (attempt {}).", name(tracker), after.logins.len())
            }
            Action::Deliver(Message::Handshake(number), server) => format!(
                "For attempt {}, {} asks {}; {}.",
                number + 1,
                before.logins.get(number).map_or("a tracker", |login| name(login.at)),
                self.server(server),
                answer(Asker::Login(number))
            ),
            Action::Deliver(Message::Answer(number, _), _) => tell_outcome(after, number),
            Action::HostileShows(index, to) => format!(
                "The hostile tracker shows {} to {}, as if it were the worker (attempt {}).",
                token(index),
                name(to),
                after.logins.len()
            ),
            Action::HostileAsks(index, stated, server) => format!(
                "The hostile tracker asks {} itself about {}, {}; {}.",
                self.server(server),
                token(index),
                stated.map_or("stating nothing".to_owned(), |it| format!("stating to be {}", name(it))),
                answer(Asker::Hostile(stated))
            ),
            Action::Leak(index) => {
                format!("From some log, the hostile tracker learns {}, which is used.", token(index))
            }
            Action::Write(_, _, Asker::Login(number)) => {
                format!("The server writes what it found out for attempt {}, and says yes (200).", number + 1)
            }
            Action::Write(_, _, Asker::Hostile(_)) => {
                "The server writes what it found out for the hostile tracker, and says yes (200).".to_owned()
            }
            Action::Wait => "Time passes.".to_owned(),
            Action::ClockStepsBack => "The server's clock is set back.".to_owned(),
            Action::Backup => "A backup is made.".to_owned(),
            Action::Restore => "The backup is restored.".to_owned(),
            Action::Purge => "The records of expired tokens are purged.".to_owned(),
        }
    }

    fn server(&self, number: usize) -> &'static str {
        match (self.defences.one_store, number) {
            (true, _) => "the server",
            (false, 0) => "the first server",
            (false, _) => "the second server",
        }
    }
}

fn tell_outcome(state: &State, number: usize) -> String {
    let Some(login) = state.logins.get(number) else { return String::new() };
    let whom = if login.by_worker { "the worker" } else { "the hostile tracker, in the worker's name" };
    let tracker = name(login.at);
    match login.outcome {
        LoginOutcome::Opened { again: false } => {
            format!("The answer arrives; {tracker} opens a session for {whom} (attempt {}).", number + 1)
        }
        LoginOutcome::Opened { again: true } => {
            format!(
                "The repeated answer arrives; {tracker} opens a session for {whom} (attempt {}).",
                number + 1
            )
        }
        LoginOutcome::Closed | LoginOutcome::Waiting => {
            format!("The answer arrives; {tracker} lets nobody in (attempt {}).", number + 1)
        }
    }
}
