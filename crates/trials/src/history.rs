//! The operations on one token and their answers, in real-time order; checks whether they can be explained.
//!
//! The explanation is sought by [`stateright`]'s linearizability checker: there must be an order of the operations, one
//! after the other, that agrees with real time (what had been answered before another was sent comes before it), and in
//! which a plain sequential [`Token`] would have given the very same answers. An operation that got no answer may have
//! happened at any time after it was sent, or never.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use tokio::time::Instant;

use crate::Violation;

/// The most operations in one history: the checker tries all orders before it says no.
pub const MAX_CONCURRENT: usize = 8;

/// The names of `Idempotency-Key`s, as numbers that mean something for one token only.
pub type Key = u32;

/// A single-use token as a sequential object: what it is to be like, without concurrency, crashes or networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Token {
    /// It can be redeemed.
    #[default]
    Live,
    /// It was redeemed, with this key.
    Consumed(Option<Key>),
    /// The issuer took it back.
    Revoked,
}

/// What can be done with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A POST of the handshake, with this `Idempotency-Key`.
    Redeem(Option<Key>),
    /// The same from a tracker that the token is not for.
    Trespass,
    /// Some other method than POST.
    Get,
    /// The issuer takes it back.
    Revoke,
    /// The issuer looks how it stands.
    Look,
}

/// What the caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// 200.
    Accepted,
    /// 401: consumed or revoked before.
    Refused,
    /// 403.
    Forbidden,
    /// 405.
    NotAllowed,
    /// Whether the revocation took effect.
    Revoked(bool),
    /// How it stands.
    Seen(ObservedStatus),
}

/// How the private API says a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObservedStatus {
    /// `live`
    Live,
    /// `consumed`
    Consumed,
    /// `revoked`
    Revoked,
}

impl SequentialSpec for Token {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match (op, *self) {
            (Op::Redeem(key), Self::Live) => {
                *self = Self::Consumed(*key);
                Ret::Accepted
            }
            (Op::Redeem(Some(key)), Self::Consumed(Some(first))) if *key == first => Ret::Accepted,
            (Op::Redeem(_), Self::Consumed(_) | Self::Revoked) => Ret::Refused,
            (Op::Trespass, _) => Ret::Forbidden,
            (Op::Get, _) => Ret::NotAllowed,
            (Op::Revoke, Self::Live) => {
                *self = Self::Revoked;
                Ret::Revoked(true)
            }
            (Op::Revoke, Self::Consumed(_) | Self::Revoked) => Ret::Revoked(false),
            (Op::Look, Self::Live) => Ret::Seen(ObservedStatus::Live),
            (Op::Look, Self::Consumed(_)) => Ret::Seen(ObservedStatus::Consumed),
            (Op::Look, Self::Revoked) => Ret::Seen(ObservedStatus::Revoked),
        }
    }
}

/// The history of one token. Many callers write to it at the same time.
#[derive(Debug)]
pub struct History {
    id: String,
    began: Instant,
    events: Mutex<Vec<Event>>,
}

/// An operation that was begun; its number in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(usize);

#[derive(Debug)]
struct Event {
    at: Duration,
    call: usize,
    what: HistoryEntry,
}

#[derive(Debug)]
enum HistoryEntry {
    Sent(Op),
    Answered(Ret),
    Lost(String),
    Note(String),
}

impl History {
    /// The history of the token with this id, which is not its text.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), began: Instant::now(), events: Mutex::default() }
    }

    /// Records that an operation is about to be sent.
    pub fn sent(&self, op: Op) -> Call {
        let mut events = self.events();
        let call = events.iter().filter(|event| matches!(event.what, HistoryEntry::Sent(_))).count();
        events.push(Event { at: self.began.elapsed(), call, what: HistoryEntry::Sent(op) });
        Call(call)
    }

    /// Records its answer, which has just come.
    pub fn answered(&self, call: Call, ret: Ret) {
        self.push(call, HistoryEntry::Answered(ret));
    }

    /// Records that no answer will come, or none that counts, and why.
    pub fn lost(&self, call: Call, why: impl fmt::Display) {
        self.push(call, HistoryEntry::Lost(why.to_string()));
    }

    /// Records something that a reader of the evidence should know, such as that the server was killed.
    pub fn note(&self, text: impl fmt::Display) {
        self.push(Call(usize::MAX), HistoryEntry::Note(text.to_string()));
    }

    /// Whether there is an explanation.
    pub fn check(&self) -> Result<(), Violation> {
        let broken = |why: &str| self.violation(&format!("the history of token {} {why}", self.id));
        let mut tester = LinearizabilityTester::new(Token::default());
        for event in self.events().iter() {
            // Each operation is a thread of its own, so that the order is that of real time and nothing else.
            let recorded = match event.what {
                HistoryEntry::Sent(op) => tester.on_invoke(event.call, op),
                HistoryEntry::Answered(ret) => tester.on_return(event.call, ret),
                HistoryEntry::Lost(_) | HistoryEntry::Note(_) => continue,
            };
            if let Err(error) = recorded {
                return Err(broken(&format!("was recorded wrongly ({error})")));
            }
        }
        if tester.is_consistent() {
            Ok(())
        } else {
            Err(broken("is not linearizable: no order of its operations explains the answers"))
        }
    }

    /// A broken promise, with this history as the evidence.
    pub fn violation(&self, promise: &str) -> Violation {
        Violation { promise: promise.to_owned(), evidence: self.to_string() }
    }

    fn push(&self, Call(call): Call, what: HistoryEntry) {
        self.events().push(Event { at: self.began.elapsed(), call, what });
    }

    fn events(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "token {}", self.id)?;
        for Event { at, call, what } in self.events().iter() {
            let mut line = format!("{:>12.3} ms  ", at.as_secs_f64() * 1000.0);
            match what {
                HistoryEntry::Sent(op) => write!(line, "operation {call}: sent {op:?}")?,
                HistoryEntry::Answered(ret) => write!(line, "operation {call}: answered {ret:?}")?,
                HistoryEntry::Lost(why) => write!(line, "operation {call}: came to nothing ({why})")?,
                HistoryEntry::Note(text) => line.push_str(text),
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `(operation, answer)` pairs, all sent at once, then answered; `None` is never answered.
    fn concurrent(ops: &[(Op, Option<Ret>)]) -> Result<(), Violation> {
        let history = History::new("t");
        let calls: Vec<_> = ops.iter().map(|(op, _)| history.sent(*op)).collect();
        for (call, (_, ret)) in calls.into_iter().zip(ops) {
            match ret {
                Some(ret) => history.answered(call, *ret),
                None => history.lost(call, "test"),
            }
        }
        history.check()
    }

    fn one_after_the_other(ops: &[(Op, Option<Ret>)]) -> Result<(), Violation> {
        let history = History::new("t");
        for (op, ret) in ops {
            let call = history.sent(*op);
            match ret {
                Some(ret) => history.answered(call, *ret),
                None => history.lost(call, "test"),
            }
        }
        history.check()
    }

    const YES: Option<Ret> = Some(Ret::Accepted);
    const NO: Option<Ret> = Some(Ret::Refused);

    #[test]
    fn one_acceptance_in_any_order_is_allowed() {
        let (a, b, none) = (Op::Redeem(Some(1)), Op::Redeem(Some(2)), Op::Redeem(None));
        assert_eq!(concurrent(&[(a, NO), (none, YES), (b, NO)]), Ok(()));
        assert_eq!(one_after_the_other(&[(a, YES), (b, NO), (a, YES), (none, NO)]), Ok(()));
    }

    #[test]
    fn two_acceptances_are_a_violation() {
        let (a, b, none) = (Op::Redeem(Some(1)), Op::Redeem(Some(2)), Op::Redeem(None));
        for pair in [[(a, YES), (b, YES)], [(none, YES), (none, YES)], [(a, YES), (none, YES)]] {
            assert!(concurrent(&pair).is_err(), "{pair:?}");
            assert!(one_after_the_other(&pair).is_err(), "{pair:?}");
        }
    }

    #[test]
    fn checker_respects_real_time() {
        let (a, b) = (Op::Redeem(Some(1)), Op::Redeem(Some(2)));
        assert!(one_after_the_other(&[(a, NO), (b, YES)]).is_err(), "refused before anybody was accepted");
        let seen = |sight| (Op::Look, Some(Ret::Seen(sight)));
        assert!(
            one_after_the_other(&[(a, YES), seen(ObservedStatus::Live)]).is_err(),
            "a look may not lag behind"
        );
        assert_eq!(concurrent(&[(a, YES), seen(ObservedStatus::Live)]), Ok(()));
    }

    #[test]
    fn unanswered_operation_may_have_happened() {
        let (a, b) = (Op::Redeem(Some(1)), Op::Redeem(Some(2)));
        assert_eq!(one_after_the_other(&[(a, None), (b, NO), (a, YES)]), Ok(()), "it did");
        assert_eq!(one_after_the_other(&[(a, None), (b, YES), (a, NO)]), Ok(()), "it did not");
        assert!(one_after_the_other(&[(a, None), (b, YES), (a, YES)]).is_err(), "not both");
        assert!(one_after_the_other(&[(a, YES), (a, None), (a, NO)]).is_err(), "an answer is not taken back");
    }

    #[test]
    fn revoked_or_consumed_but_not_both() {
        let a = Op::Redeem(None);
        let revoke = |did| (Op::Revoke, Some(Ret::Revoked(did)));
        assert_eq!(concurrent(&[(a, YES), revoke(false)]), Ok(()));
        assert_eq!(concurrent(&[(a, NO), revoke(true)]), Ok(()));
        assert!(concurrent(&[(a, YES), revoke(true)]).is_err());
        assert!(concurrent(&[(a, NO), revoke(false)]).is_err());
    }

    #[test]
    fn history_is_printed_readably() {
        let history = History::new("0199-id");
        let call = history.sent(Op::Redeem(Some(3)));
        history.note("the server was killed");
        history.lost(call, "connection reset");
        let text = history.to_string();
        for part in ["token 0199-id", "operation 0: sent Redeem(Some(3))", "killed", "connection reset"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
