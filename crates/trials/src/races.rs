//! Many callers, each on a connection of its own, use the same token at the same moment.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{HandshakeResponse, Issued, Issuer, Lost, Target, Tracker};
use crate::history::{History, MAX_CONCURRENT, Op, Ret};
use crate::{ProgressSink, TrialError};

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many tokens.
    pub count: u64,
    /// How many callers fight for each: 2 to [`MAX_CONCURRENT`], because the checker tries all their orders.
    pub clients: usize,
    /// How many tokens are fought for at the same time.
    pub groups: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides who does what.
    pub seed: u64,
}

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Tokens fought for; each history was checked.
    pub tokens: u64,
    /// Operations on them.
    pub operations: u64,
    /// Tokens that exactly one key redeemed.
    pub redeemed: u64,
    /// Tokens that were revoked instead.
    pub revoked: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, operations, redeemed, revoked, took } = self;
        write!(
            f,
            "{tokens} tokens, {operations} operations in {:.0} s: {redeemed} redeemed exactly once, {revoked} revoked \
             instead; every history linearizable",
            took.as_secs_f64()
        )
    }
}

/// How a token is fought for.
#[derive(Clone, Copy, Debug)]
enum Contest {
    /// Nobody has a key, and the token is for anybody: the protocol as it was born.
    Strangers,
    /// Everybody has a key of their own.
    Rivals,
    /// Two at a time have the same key, as a tracker that asks again has.
    Twins,
    /// Rivals, while the issuer tries as often to take the token back.
    Revoked,
    /// Rivals, while the issuer looks.
    Watched,
    /// Rivals, among callers who have no right to consume anything: other trackers, and other methods.
    Bystanders,
}

impl Contest {
    const ALL: [Self; 6] =
        [Self::Strangers, Self::Rivals, Self::Twins, Self::Revoked, Self::Watched, Self::Bystanders];

    /// What the caller with this number does.
    fn op(self, caller: u32) -> Op {
        match (self, caller) {
            (Self::Strangers, _) => Op::Redeem(None),
            (Self::Twins, _) => Op::Redeem(Some(caller / 2)),
            (Self::Revoked, caller) if caller % 2 == 0 => Op::Revoke,
            (Self::Watched, 0) => Op::Look,
            (Self::Bystanders, caller) if caller % 3 == 0 => Op::Trespass,
            (Self::Bystanders, caller) if caller % 3 == 1 => Op::Get,
            (Self::Rivals | Self::Revoked | Self::Watched | Self::Bystanders, _) => Op::Redeem(Some(caller)),
        }
    }
}

/// Holds the trial.
pub async fn run(target: Target, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    if !(2..=MAX_CONCURRENT).contains(&options.clients) {
        return Err(TrialError::Setup(format!("races need from 2 to {MAX_CONCURRENT} clients")));
    }
    let began = Instant::now();
    let groups = options.groups.max(1);
    let mut running = JoinSet::new();
    let (judged, mut rounds) = mpsc::channel(1024);
    for group in 0..groups {
        let share = options.count / groups + u64::from(group < options.count % groups);
        let rng = StdRng::seed_from_u64(options.seed.wrapping_add(group));
        running.spawn(run_group(target, options, share, rng, began, judged.clone()));
    }
    drop(judged);
    let mut tally = Tally::default();
    loop {
        tokio::select! {
            Some(round) = rounds.recv() => {
                tally.add(round);
                if tally.tokens.is_multiple_of(options.count.div_ceil(10)) {
                    say(&format!("{} of {} tokens", tally.tokens, options.count));
                }
            }
            Some(ended) = running.join_next() => {
                ended.map_err(|error| TrialError::setup("a group broke off", error))??;
            }
            else => break,
        }
    }
    tally.took = began.elapsed();
    Ok(tally)
}

async fn run_group(
    target: Target,
    options: Options,
    share: u64,
    mut rng: StdRng,
    began: Instant,
    judged: mpsc::Sender<Round>,
) -> Result<(), TrialError> {
    let mut issuer = Issuer::connect(target).await?;
    let start = Arc::new(Barrier::new(options.clients));
    let (results, mut done) = mpsc::channel(options.clients);
    let mut callers = Vec::new();
    for _ in 0..options.clients {
        let caller =
            Caller { tracker: Tracker::connect(target).await?, issuer: Issuer::connect(target).await? };
        let (turns, inbox) = mpsc::channel(1);
        tokio::spawn(caller.take_turns(inbox, Arc::clone(&start), results.clone()));
        callers.push(turns);
    }
    let ended = || TrialError::Setup("a caller broke off".to_owned());
    for _ in 0..share {
        if began.elapsed() > options.limit {
            break;
        }
        let contest = Contest::ALL.choose(&mut rng).copied().unwrap_or(Contest::Rivals);
        let token = Arc::new(issuer.issue(!matches!(contest, Contest::Strangers)).await?);
        let history = Arc::new(History::new(&token.id.to_string()));
        for (number, caller) in (0..).zip(&callers) {
            let turn =
                Turn { token: Arc::clone(&token), history: Arc::clone(&history), op: contest.op(number) };
            caller.send(turn).await.map_err(|_| ended())?;
        }
        let mut answers = Vec::with_capacity(options.clients);
        for _ in 0..options.clients {
            answers.push(done.recv().await.ok_or_else(ended)??);
        }
        judged.send(judge(&history, &answers)?).await.map_err(|_| ended())?;
    }
    Ok(())
}

/// What a caller is to do next.
struct Turn {
    token: Arc<Issued>,
    history: Arc<History>,
    op: Op,
}

struct Caller {
    tracker: Tracker,
    issuer: Issuer,
}

impl Caller {
    async fn take_turns(
        mut self,
        mut turns: mpsc::Receiver<Turn>,
        start: Arc<Barrier>,
        results: mpsc::Sender<Result<(Op, Ret), TrialError>>,
    ) {
        while let Some(Turn { token, history, op }) = turns.recv().await {
            start.wait().await;
            let call = history.sent(op);
            let answer = self.act(&token, op).await;
            let result = match answer {
                Ok(ret) => {
                    history.answered(call, ret);
                    Ok((op, ret))
                }
                Err(surprise) => {
                    Err(history.violation(&format!("{op:?} was answered with {surprise}")).into())
                }
            };
            if results.send(result).await.is_err() {
                return;
            }
        }
    }

    /// Nothing fails in this trial, so an answer that is no answer is a surprise.
    async fn act(&mut self, token: &Issued, op: Op) -> Result<Ret, String> {
        match op {
            Op::Redeem(key) => read(self.tracker.redeem(&token.text, key).await),
            Op::Trespass => read(self.tracker.trespass(&token.text).await),
            Op::Get => read(self.tracker.get(&token.text).await),
            Op::Revoke => match self.issuer.revoke(&token.text).await {
                Ok(Some(revoked)) => Ok(Ret::Revoked(revoked)),
                Ok(None) => Err("something that is no answer".to_owned()),
                Err(lost) => Err(lost.to_string()),
            },
            Op::Look => match self.issuer.look(&token.text).await {
                Ok(Some(standing)) => standing.sight.map(Ret::Seen).ok_or(standing.status),
                Ok(None) => Err("something that is no answer".to_owned()),
                Err(lost) => Err(lost.to_string()),
            },
        }
    }
}

fn read(answer: Result<HandshakeResponse, Lost>) -> Result<Ret, String> {
    match answer {
        Ok(HandshakeResponse::Accepted(_)) => Ok(Ret::Accepted),
        Ok(HandshakeResponse::Spent(reason)) if reason == "replay" || reason == "revoked" => Ok(Ret::Refused),
        Ok(HandshakeResponse::Forbidden) => Ok(Ret::Forbidden),
        Ok(HandshakeResponse::NotAllowed) => Ok(Ret::NotAllowed),
        Ok(other) => Err(other.to_string()),
        Err(lost) => Err(lost.to_string()),
    }
}

/// Checks a history, and counts beside the checker, so that a fault of the checker's would be seen.
fn judge(history: &History, answers: &[(Op, Ret)]) -> Result<Round, TrialError> {
    history.check()?;
    let accepted = answers.iter().filter(|(_, ret)| *ret == Ret::Accepted);
    let keyless = accepted.clone().filter(|(op, _)| *op == Op::Redeem(None)).count();
    let keys: HashSet<_> = accepted.map(|(op, _)| *op).filter(|op| *op != Op::Redeem(None)).collect();
    let revocations = answers.iter().filter(|(_, ret)| *ret == Ret::Revoked(true)).count();
    let revoked = match (keyless + keys.len(), revocations) {
        (1, 0) => false,
        (0, 1) => true,
        (yes, revoked) => {
            let promise = format!("{yes} callers with different keys were accepted and {revoked} revoked");
            return Err(history.violation(&promise).into());
        }
    };
    Ok(Round { operations: u64::try_from(answers.len()).unwrap_or(0), revoked })
}

/// What became of one token.
struct Round {
    operations: u64,
    revoked: bool,
}

impl Tally {
    fn add(&mut self, Round { operations, revoked }: Round) {
        self.tokens += 1;
        self.operations += operations;
        self.redeemed += u64::from(!revoked);
        self.revoked += u64::from(revoked);
    }
}
