//! `countersign demo`: the protocol in ten seconds.
//!
//! Everything in it is real: a token server on a temporary store, trackers that use the verifier, a worker that uses the
//! login client, all on loopback. It prints the real messages: a layer around the token server records them.

mod transcript;
mod world;

use std::error::Error;

use countersign_core::{Audience, Clock, NewToken, SystemClock};
use countersign_login::{Login, LoginError, Session, Tracker, Zeroizing};

use crate::output::{Failure, print};

use self::transcript::short;
use self::world::DemoWorld;

/// Plays the scenes, each printed when it is over.
pub(crate) async fn run() -> Result<(), Failure> {
    play().await.map_err(|error| Failure::failed(format!("the demonstration broke off: {error}")))
}

type Played<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

async fn play() -> Played {
    let world = DemoWorld::set().await?;
    tell(
        "\
An issuer's worker logs in to bug trackers of other people, with no password between them. Its token server is
Countersign. Everything below happens now, on this machine, over HTTP.",
    )?;
    let token = log_in(&world).await?;
    replay(&world, &token).await?;
    relay(&world).await?;
    relay_unbound(&world).await?;
    look(&world).await?;
    world.end().await;
    tell("\nYour turn: run `countersign serve`, and take the tour in docs/tour.md.")
}

async fn log_in(world: &DemoWorld) -> Played<String> {
    tell("\n1. A worker logs in. The token is for one tracker and good for one use.\n")?;
    let token = world.issue(Some(&world.tracker))?;
    let session = bring(world, "worker", &world.tracker, &token).await?;
    world.says("worker", "tracker", "GET /private with the cookie");
    let page = world.private_page(&session).await?;
    world.says("tracker", "worker", page.trim());
    show(world)?;
    Ok(token)
}

async fn replay(world: &DemoWorld, token: &str) -> Played {
    tell("\n2. Somebody found that token, in a log perhaps, and uses it again.\n")?;
    expect_refusal(bring(world, "thief", &world.tracker, token).await)?;
    show(world)
}

async fn relay(world: &DemoWorld) -> Played {
    tell(
        "\n3. The worker logs in to a hostile tracker, which passes the token on and hopes to be the worker elsewhere.\n",
    )?;
    let token = world.issue(Some(&world.hostile))?;
    world.says("worker", "hostile", &format!("GET /launchpad-auth/{}", short(&token)));
    expect_refusal(bring(world, "hostile", &world.tracker, &token).await)?;
    show(world)
}

async fn relay_unbound(world: &DemoWorld) -> Played {
    tell(
        "\n4. The same with a token that is bound to no tracker, which is all that the original protocol had.\n",
    )?;
    let token = world.issue(None)?;
    world.says("worker", "hostile", &format!("GET /launchpad-auth/{}", short(&token)));
    bring(world, "hostile", &world.tracker, &token).await?;
    show(world)?;
    tell(
        "\n   The hostile tracker is logged in as the worker. So bind tokens; `require_audience` issues no others.",
    )
}

async fn look(world: &DemoWorld) -> Played {
    tell("\n5. Only POST uses a token up. Somebody who merely opens its URL does no harm.\n")?;
    let token = world.issue(Some(&world.tracker))?;
    world.get_handshake(&token).await?;
    let status = world.status(&token).await?;
    show(world)?;
    tell(&format!("\n   The token is still {status}."))
}

/// Shows a token to a tracker, as the issuer's worker would.
async fn bring(
    world: &DemoWorld,
    who: &'static str,
    tracker: &str,
    token: &str,
) -> Result<Session, LoginError> {
    world.says(who, "tracker", &format!("GET /launchpad-auth/{}", short(token)));
    let login = Login::new(Tracker::Trac, tracker)?.audience(None);
    let token = Zeroizing::new(token.to_owned());
    let outcome = login.run(SystemClock.now(), async |_| Ok::<_, std::io::Error>(token)).await;
    match &outcome {
        Ok(_) => world.says("tracker", who, "200 and a session cookie"),
        Err(_) => world.says("tracker", who, "401"),
    }
    outcome
}

/// A demonstration that shows a hole where there should be none must not look like a success.
fn expect_refusal(outcome: Result<Session, LoginError>) -> Played {
    match outcome {
        Err(LoginError::Refused { .. }) => Ok(()),
        Err(other) => Err(other.into()),
        Ok(_) => Err("a token was accepted that must not be".into()),
    }
}

fn show(world: &DemoWorld) -> Played {
    tell(world.transcript.take().trim_end())
}

fn tell(text: &str) -> Played {
    print(text).map_err(|failure| format!("{failure:?}").into())
}

impl DemoWorld {
    /// The worker asks for a token.
    fn issue(&self, tracker: Option<&str>) -> Played<String> {
        let audience = tracker.map(Audience::parse).transpose()?;
        let parameter = audience.as_ref().map_or(String::new(), |audience| format!("\"{audience}\""));
        self.says("worker", "countersign", &format!("newBugTrackerToken({parameter})"));
        let token = self.tokens().issue(NewToken { audience, ..NewToken::default() })?.text.into_exposed();
        self.says("countersign", "worker", &short(&token));
        Ok(token)
    }
}
