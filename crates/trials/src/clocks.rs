//! Clocks that are wrong, or are set while a server serves, with real processes under `libfaketime`.
//!
//! - Two servers on one PostgreSQL, one of which has another clock every time: the other stays right, and no token is
//!   redeemed twice on either. A clock that is too far off does nothing; one that is near enough takes part.
//! - A server on its own store, restarted, set and purged under a wrong clock: what was used stays used, and what is issued
//!   later is good.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_test_postgres::Cluster;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::client::{HandshakeResponse, Issuer, Target, Tracker};
use crate::process::{FakeClock, Launch, ServerProcess};
use crate::trial_token::{CallerOutcome, TrialToken};
use crate::{ProgressSink, TrialError};

/// Clocks that are too far off, and clocks that are not.
const WRONG: [&str; 6] = ["+3d", "+73y", "-2h", "-3d", "+10m", "+45"];
const TOLERATED: [&str; 2] = ["+25", "-25"];
const RIGHT: &str = "+0";

/// How many tokens are fought for while the clock is set.
const TOKENS: usize = 24;

/// How long a server may take to notice that its clock is wrong, or right again.
const NOTICE: Duration = Duration::from_secs(30);

/// How large a trial is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many times a clock is set, with several servers and with one.
    pub cycles: u64,
    /// Stop after this time, even if the goal was not reached.
    pub limit: Duration,
    /// Decides what happens when.
    pub seed: u64,
}

/// What a trial saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Times that a clock was set.
    pub cycles: u64,
    /// Of these, times that it was too far off.
    pub wrong: u64,
    /// Times that a server was started under a wrong clock.
    pub restarts: u64,
    /// Fences that were moved between servers whose clocks were apart.
    pub fences: u64,
    /// Purges that were tried under a wrong clock.
    pub purges: u64,
    /// Tokens that were fought for or outstanding while a clock was set, each redeemed at most once.
    pub tokens: u64,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} clocks set in {:.0} s, {} of them too far off; {} starts under a wrong clock, {} fences, {} purges; {} tokens, \
             none redeemed twice, and none that was issued later refused",
            self.cycles,
            self.took.as_secs_f64(),
            self.wrong,
            self.restarts,
            self.fences,
            self.purges,
            self.tokens
        )
    }
}

/// Holds the trial with the server's binary and a database of its own.
pub async fn run(binary: PathBuf, options: Options, say: ProgressSink<'_>) -> Result<Tally, TrialError> {
    let began = Instant::now();
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut tally = Tally::default();
    let mut world = World::start(&binary).await?;
    while tally.cycles < options.cycles && began.elapsed() < options.limit {
        let n = usize::try_from(tally.cycles).unwrap_or(0);
        let choices: &[&str] = if n % 3 == 2 { &TOLERATED } else { &WRONG };
        let offset = choices.get(n / 3 % choices.len().max(1)).or(choices.first()).copied().unwrap_or(RIGHT);
        world
            .cycle(
                if n % 3 == 1 { WRONG.choose(&mut rng).copied().unwrap_or(RIGHT) } else { offset },
                &mut rng,
                &mut tally,
            )
            .await?;
        alone(&binary, &mut rng, &mut tally).await?;
        tally.cycles += 1;
        say(&format!("{} of {} cycles, {} tokens", tally.cycles, options.cycles, tally.tokens));
    }
    world.end().await?;
    tally.took = began.elapsed();
    Ok(tally)
}

/// Two servers on one database.
struct World {
    right: ServerProcess,
    other: Option<ServerProcess>,
    /// The other one's.
    launch: Launch,
    clock: FakeClock,
    used: Vec<TrialToken>,
    _cluster: Cluster,
    _places: [tempfile::TempDir; 2],
}

impl World {
    async fn start(binary: &Path) -> Result<Self, TrialError> {
        countersign_test_postgres::is_here().map_err(TrialError::Setup)?;
        let cluster = Cluster::start(&[]);
        let places = [tempfile::tempdir()?, tempfile::tempdir()?];
        let launch = Launch::new(binary.to_owned(), places[0].path()).on(cluster.url());
        let right = launch.start().await?;
        let clock = FakeClock::new(places[1].path())?;
        clock.set(RIGHT)?;
        let other = Launch::new(binary.to_owned(), places[1].path()).on(cluster.url()).with(&clock);
        std::fs::create_dir(other.data_dir())?;
        let ring = |launch: &Launch| launch.data_dir().join("key-ring.toml");
        std::fs::copy(ring(&launch), ring(&other))?;
        let server = other.start().await?;
        until_ready(server.target(), true).await?;
        Ok(Self {
            right,
            other: Some(server),
            launch: other,
            clock,
            used: Vec::new(),
            _cluster: cluster,
            _places: places,
        })
    }

    /// Sets the other server's clock under load, and sets it right again.
    async fn cycle(&mut self, offset: &str, rng: &mut StdRng, tally: &mut Tally) -> Result<(), TrialError> {
        let is_wrong = WRONG.contains(&offset);
        let targets = self.targets()?;
        let mut subjects = Vec::new();
        for target in targets {
            let tokens = Issuer::connect(target).await?.issue_many(TOKENS / 2).await?;
            subjects.extend(tokens.into_iter().map(TrialToken::new));
        }
        // While both servers are asked for each of them, the clock is set.
        let set_at = rng.random_range(0..TOKENS);
        for (n, subject) in subjects.iter().enumerate() {
            if n == set_at {
                self.clock.set(offset)?;
            }
            let ask = async |target: Target, key| {
                let mut tracker = Tracker::connect(target).await?;
                subject.redeem(&mut tracker, Some(key)).await
            };
            let (right, other) = tokio::join!(ask(targets[0], 1), ask(targets[1], 2));
            if right? == CallerOutcome::NoAnswer {
                return Err(subject.broken("a server with the right clock gave no answer"));
            }
            let other = other?;
            if is_wrong && n > set_at && other != CallerOutcome::NoAnswer {
                return Err(
                    subject.broken(&format!("a server whose clock is off by {offset} answered {other:?}"))
                );
            }
        }
        tally.tokens += u64::try_from(subjects.len()).unwrap_or(0);
        self.used.append(&mut subjects);

        let outstanding = TrialToken::new(Issuer::connect(self.right.target()).await?.issue(true).await?);
        if is_wrong {
            tally.wrong += 1;
            if rng.random_bool(0.5) {
                self.restart().await?;
                tally.restarts += 1;
            }
            until_ready(self.targets()?[1], false).await?;
            for path in ["/v1/tokens", "/v1/store/purge"] {
                let status = Issuer::connect(self.targets()?[1]).await?.post(path).await?;
                if status != 503 {
                    return Err(
                        outstanding.broken(&format!("off by {offset}, POST {path} was answered {status}"))
                    );
                }
            }
            tally.purges += 1;
        } else {
            until_ready(self.targets()?[1], true).await?;
            self.fence(tally).await?;
        }
        // The other server's clock is wrong still; this one does as ever.
        let later = TrialToken::new(Issuer::connect(self.right.target()).await?.issue(true).await?);
        let mut tracker = Tracker::connect(self.right.target()).await?;
        let good: &[&TrialToken] = if is_wrong { &[&outstanding, &later] } else { &[&later] };
        for subject in good {
            if subject.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
                return Err(
                    subject.broken(&format!("refused beside a server whose clock is off by {offset}"))
                );
            }
        }
        self.clock.set(RIGHT)?;
        until_ready(self.targets()?[1], true).await?;
        self.used.push(later);
        if is_wrong {
            self.used.push(outstanding);
        }
        self.nothing_twice().await
    }

    /// Moves the fence at each server: tokens of either from before are rejected, later ones are good on both.
    async fn fence(&mut self, tally: &mut Tally) -> Result<(), TrialError> {
        let targets = self.targets()?;
        for fencing in targets {
            let mut before = Vec::new();
            for target in targets {
                before.push(TrialToken::new(Issuer::connect(target).await?.issue(true).await?));
            }
            let status = Issuer::connect(fencing).await?.post("/v1/store/fence").await?;
            for subject in &before {
                for target in targets {
                    let answer = Tracker::connect(target).await?.redeem(&subject.token.text, None).await?;
                    if status != 200 || answer != HandshakeResponse::Spent("fenced".to_owned()) {
                        return Err(
                            subject.broken(&format!("after a fence ({status}) it was answered {answer}"))
                        );
                    }
                }
            }
            // On the server that moved it at once; on the other one when it has heard of it.
            let until = Instant::now() + NOTICE;
            for (issuing, redeeming) in [
                (fencing, targets[0]),
                (fencing, targets[1]),
                (targets[0], targets[1]),
                (targets[1], targets[0]),
            ] {
                loop {
                    let later = TrialToken::new(Issuer::connect(issuing).await?.issue(true).await?);
                    let answer = Tracker::connect(redeeming).await?.redeem(&later.token.text, None).await?;
                    if matches!(answer, HandshakeResponse::Accepted(_)) {
                        break;
                    }
                    let may_wait =
                        issuing != fencing && answer == HandshakeResponse::Spent("fenced".to_owned());
                    if !may_wait || Instant::now() > until {
                        return Err(
                            later.broken(&format!("issued after the fence, it was answered {answer}"))
                        );
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            tally.fences += 1;
        }
        Ok(())
    }

    /// Stops the other server and starts it again, with its present clock.
    async fn restart(&mut self) -> Result<(), TrialError> {
        if let Some(server) = self.other.take() {
            server.kill().await?;
        }
        self.other = Some(self.launch.start().await?);
        Ok(())
    }

    fn targets(&self) -> Result<[Target; 2], TrialError> {
        let other =
            self.other.as_ref().ok_or_else(|| TrialError::Setup("the other server is gone".to_owned()))?;
        Ok([self.right.target(), other.target()])
    }

    /// Nothing that was redeemed is redeemed by another key, on either server.
    async fn nothing_twice(&self) -> Result<(), TrialError> {
        for target in self.targets()? {
            let mut tracker = Tracker::connect(target).await?;
            for subject in &self.used {
                if subject.redeem(&mut tracker, None).await? != CallerOutcome::Refused {
                    return Err(subject.broken("it was redeemed before, and is not refused"));
                }
            }
        }
        Ok(())
    }

    async fn end(self) -> Result<(), TrialError> {
        for subject in &self.used {
            subject.history.check()?;
        }
        self.right.stop().await?;
        if let Some(other) = self.other {
            other.stop().await?;
        }
        Ok(())
    }
}

/// A server with a store of its own: started, set and purged under a wrong clock.
async fn alone(binary: &Path, rng: &mut StdRng, tally: &mut Tally) -> Result<(), TrialError> {
    let place = tempfile::tempdir()?;
    let clock = FakeClock::new(place.path())?;
    let launch = Launch::new(binary.to_owned(), place.path()).with(&clock);
    let wrong = *["+3d", "+73y"].choose(rng).unwrap_or(&"+3d");
    clock.set(RIGHT)?;
    let server = launch.start().await?;
    let mut tokens = Issuer::connect(server.target()).await?.issue_many(8).await?;
    let outstanding = tokens.split_off(4);
    let mut tracker = Tracker::connect(server.target()).await?;
    let used: Vec<_> = tokens.into_iter().map(TrialToken::new).collect();
    for subject in &used {
        if subject.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
            return Err(subject.broken("a new token is not accepted"));
        }
    }
    // Set while it serves, and at a start: nothing is forgotten.
    clock.set(wrong)?;
    if Issuer::connect(server.target()).await?.post("/v1/store/purge").await? != 503 {
        return Err(TrialError::Setup("a purge right after the clock was set is not refused".to_owned()));
    }
    server.stop().await?;
    let server = launch.start().await?;
    until_ready(server.target(), true).await?;
    server.stop().await?;
    clock.set(RIGHT)?;
    let server = launch.start().await?;
    let mut tracker = Tracker::connect(server.target()).await?;
    for token in outstanding {
        let subject = TrialToken::new(token);
        if subject.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
            return Err(subject.broken(&format!("refused after a start under a clock off by {wrong}")));
        }
    }
    server.stop().await?;
    // An operator purges under it: what was used stays used, and what comes later is good.
    clock.set(wrong)?;
    let purged = launch.run(&["store", "purge", "--offline", "--retention", "2m"]).await?;
    clock.set(RIGHT)?;
    let server = launch.start().await?;
    let mut tracker = Tracker::connect(server.target()).await?;
    for subject in &used {
        for key in [Some(1), None] {
            match tracker.redeem(&subject.token.text, key).await? {
                HandshakeResponse::Spent(_) => {}
                answer => {
                    return Err(
                        subject.broken(&format!("used, and purged ({purged}), it was answered {answer}"))
                    );
                }
            }
        }
    }
    let later = TrialToken::new(Issuer::connect(server.target()).await?.issue(true).await?);
    if later.redeem(&mut tracker, Some(1)).await? != CallerOutcome::Accepted {
        return Err(
            later.broken(&format!("issued after a purge under a clock off by {wrong}, it is refused"))
        );
    }
    server.stop().await?;
    tally.purges += 2;
    tally.restarts += 1;
    tally.tokens += 9;
    Ok(())
}

/// Waits until a server says that it is ready, or that it is not.
async fn until_ready(target: Target, ready: bool) -> Result<(), TrialError> {
    let until = Instant::now() + NOTICE;
    loop {
        if let Ok(mut tracker) = Tracker::connect(target).await
            && tracker.is_ready().await.is_ok_and(|is| is == ready)
        {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(TrialError::Setup(format!(
                "/readyz was not {} within {} s",
                if ready { "200" } else { "503" },
                NOTICE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
