//! Trackers that close one side, or both, at any moment, and messages that break off. Whole requests are decided, and
//! answered where somebody listens; what is not whole consumes nothing; and the server counts what its record shows.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::client::{Issued, Issuer, Lost, Target};
use crate::history::ObservedStatus;
use crate::{ProgressSink, TrialError, Violation};

/// How long an answer, or what the server does by itself, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the server is asked whether it is done.
const PAUSE: Duration = Duration::from_millis(5);

/// Bodies that end before they should: their headers, and what there is of them.
const BROKEN_OFF: [(&str, &str); 6] = [
    ("Content-Length: 42", "audience=http"),
    ("Content-Length: 42", ""),
    ("Transfer-Encoding: chunked", "zz\r\naudience=http\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", "40\r\naudience=http\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked", "d\r\naudience=http\r\n"),
    ("Transfer-Encoding: chunked", ""),
];

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many tokens.
    pub count: u64,
    /// How many trackers at a time.
    pub clients: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides who does what.
    pub seed: u64,
}

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Tokens.
    pub tokens: u64,
    /// Trackers that stayed, or closed their side, and were answered 200.
    pub answered: u64,
    /// Trackers that hung up behind a whole request, which was decided.
    pub hung_up: u64,
    /// Replays by trackers that hung up.
    pub replays: u64,
    /// Messages that broke off, and consumed nothing.
    pub broken_off: u64,
    /// Connections that were reset, so that their requests may or may not have arrived.
    pub reset: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tokens in {:.0} s; {} trackers answered, some with their side closed; {} hung up and were decided, \
             and {} replays by others that did; {} messages broke off and consumed nothing; {} connections reset; the \
             server counted what its record shows",
            self.tokens,
            self.took.as_secs_f64(),
            self.answered,
            self.hung_up,
            self.replays,
            self.broken_off,
            self.reset
        )
    }
}

/// Runs the trial, on a server that has no other clients.
pub async fn run(target: Target, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..options.clients {
        let share = options.count.div_ceil(options.clients);
        let rng = StdRng::seed_from_u64(options.seed.wrapping_add(client));
        clients.spawn(misbehave(target, share, began + options.limit, rng));
    }
    let mut tally = Tally::default();
    while let Some(done) = clients.join_next().await {
        let done = done.map_err(|error| TrialError::setup("a tracker broke off", error))??;
        tally.tokens += done.tokens;
        tally.answered += done.answered;
        tally.hung_up += done.hung_up;
        tally.replays += done.replays;
        tally.broken_off += done.broken_off;
        tally.reset += done.reset;
        say(&format!("{} tokens", tally.tokens));
    }
    compare(target, tally.replays).await?;
    tally.took = began.elapsed();
    Ok(tally)
}

/// One tracker after another.
async fn misbehave(target: Target, count: u64, until: Instant, mut rng: StdRng) -> Result<Tally, TrialError> {
    let mut issuer = Issuer::connect(target).await?;
    let mut tally = Tally::default();
    while tally.tokens < count && Instant::now() < until {
        let token = issuer.issue(false).await?;
        tally.tokens += 1;
        match rng.random_range(0..5) {
            0 => {
                let mut line = send(target, &token, "Content-Length: 0", "").await?;
                if rng.random() {
                    line.shutdown().await?;
                }
                expect(&token, "whole", status(&mut line).await?, 200)?;
                tally.answered += 1;
            }
            1 => {
                drop(send(target, &token, "Content-Length: 0", "").await?);
                is_decided(&mut issuer, &token).await?;
                tally.hung_up += 1;
            }
            2 => {
                let mut line = send(target, &token, "Content-Length: 0", "").await?;
                expect(&token, "whole", status(&mut line).await?, 200)?;
                drop(send(target, &token, "Content-Length: 0", "").await?);
                tally.answered += 1;
                tally.replays += 1;
            }
            3 => {
                let (headers, body) = BROKEN_OFF.choose(&mut rng).copied().unwrap_or_default();
                let mut line = send(target, &token, headers, body).await?;
                line.shutdown().await?;
                expect(&token, "broken off", status(&mut line).await?, 400)?;
                let mut line = send(target, &token, "Content-Length: 0", "").await?;
                expect(&token, "whole, after one that broke off", status(&mut line).await?, 200)?;
                tally.broken_off += 1;
                tally.answered += 1;
            }
            _ => {
                let line = send(target, &token, "Content-Length: 0", "").await?;
                line.set_zero_linger()?;
                tally.reset += 1;
            }
        }
    }
    Ok(tally)
}

/// Sends a handshake, and keeps its connection.
async fn send(target: Target, token: &Issued, headers: &str, body: &str) -> Result<TcpStream, TrialError> {
    let mut line = TcpStream::connect(target.public).await?;
    let request = format!(
        "POST /token/{}/+bugtracker-handshake HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n\r\n{body}",
        token.text
    );
    line.write_all(request.as_bytes()).await?;
    Ok(line)
}

/// The status that is answered; `None` if the connection ends without an answer.
async fn status(line: &mut TcpStream) -> Result<Option<u16>, TrialError> {
    let mut answer = String::new();
    match timeout(PATIENCE, line.read_to_string(&mut answer)).await {
        Ok(read) => read?,
        Err(_) => return Err(Lost::because(format!("no answer within {} s", PATIENCE.as_secs())).into()),
    };
    Ok(answer.split(' ').nth(1).and_then(|status| status.parse().ok()))
}

fn expect(token: &Issued, what: &str, status: Option<u16>, expected: u16) -> Result<(), TrialError> {
    if status == Some(expected) {
        return Ok(());
    }
    let promise = format!("a request that is {what} was answered {status:?}, not {expected}");
    Err(Violation { promise, evidence: format!("token {}", token.id) }.into())
}

/// Waits until a token is consumed by a request that was whole.
async fn is_decided(issuer: &mut Issuer, token: &Issued) -> Result<(), TrialError> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let standing = issuer.look(&token.text).await?;
        if standing.is_some_and(|standing| standing.sight == Some(ObservedStatus::Consumed)) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    let promise = "a whole request of a tracker that hung up was not decided".to_owned();
    Err(Violation { promise, evidence: format!("token {}", token.id) }.into())
}

/// Waits until what the server has counted is what its record shows, and at least so many replays.
async fn compare(target: Target, replays: u64) -> Result<(), TrialError> {
    let mut issuer = Issuer::connect(target).await?;
    let until = Instant::now() + PATIENCE;
    loop {
        let counted = (issuer.counted("accepted").await?, issuer.counted("replay").await?);
        let consumed = issuer.consumed().await?;
        if counted == (consumed, replays) {
            return Ok(());
        }
        if Instant::now() > until {
            let promise = "the server did not count what happened".to_owned();
            let evidence = format!(
                "consumed {consumed}, counted {}; replays {replays}, counted {}",
                counted.0, counted.1
            );
            return Err(Violation { promise, evidence }.into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
