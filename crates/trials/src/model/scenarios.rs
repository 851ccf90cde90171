//! The scenarios: each leaves out one defence and names the attack that must then succeed.

use std::fmt;

use stateright::{Checker, Expectation, Model, Property};

use super::protocol::Protocol;
use super::world::{Defences, Keys, World};
use super::{ONE_SESSION, ONE_YES, ONLY_THE_WORKER, SURVIVES_LOSS, WORKS};
use crate::TrialError;

/// A set of defences, and which promises it breaks.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What is special about it.
    pub name: &'static str,
    /// What stands between the parties and harm.
    pub defences: Defences,
    /// Where it is tried.
    pub world: World,
    /// The promises that do not hold. All others do.
    pub broken: &'static [&'static str],
    /// One of them, whose path is the story worth telling.
    pub story: Option<&'static str>,
}

/// Only the network is bad, and trackers are hostile.
const NETWORK: World = World { honest_trackers: 2, attempts: 2, restores: false, clock_steps_back: false };
/// The same with one honest tracker.
const SMALL: World = World { honest_trackers: 1, ..NETWORK };
/// A backup is restored as well.
const RESTORES: World = World { restores: true, ..SMALL };
/// The clock steps back as well, and records are purged.
const CLOCK: World = World { clock_steps_back: true, ..SMALL };
/// All of it at once, and one attempt more.
const EVERYTHING: World = World { attempts: 3, restores: true, clock_steps_back: true, ..SMALL };

/// The product's own defences.
pub fn defended() -> Vec<Scenario> {
    let scenario = |name, world| Scenario { name, defences: Defences::ALL, world, broken: &[], story: None };
    vec![
        scenario("all defences; a bad network, two honest trackers and a hostile one", NETWORK),
        scenario("all defences; and a backup is restored", RESTORES),
        scenario("all defences; and records are purged, and the clock steps back", CLOCK),
    ]
}

/// The product's own defences against everything at once. Takes a minute.
pub fn everything() -> Scenario {
    let name = "all defences; all of this at once, and one more attempt";
    Scenario { name, defences: Defences::ALL, world: EVERYTHING, broken: &[], story: None }
}

/// One defence less at a time, and what comes of it.
pub fn undefended() -> Vec<Scenario> {
    let all = Defences::ALL;
    let without = |name, defences, world, broken: &'static [&'static str]| {
        let story = broken.first().copied().filter(|promise| *promise != WORKS && *promise != SURVIVES_LOSS);
        Scenario { name, defences, world, broken, story }
    };
    vec![
        without(
            "tokens are not bound, as in Launchpad",
            Defences { bound: false, ..all },
            SMALL,
            &[ONLY_THE_WORKER],
        ),
        without(
            "tokens are bound, but trackers do not say who they are",
            Defences { audience_stated: false, ..all },
            SMALL,
            &[WORKS, SURVIVES_LOSS],
        ),
        without("trackers send no key", Defences { keys: Keys::None, ..all }, SMALL, &[SURVIVES_LOSS]),
        without(
            "trackers send the same key every time",
            Defences { keys: Keys::Fixed, ..all },
            SMALL,
            &[ONLY_THE_WORKER, ONE_SESSION, ONE_YES],
        ),
        without(
            "the store reads, and then writes",
            Defences { conditional_write: false, ..all },
            SMALL,
            &[ONE_SESSION, ONE_YES],
        ),
        without(
            "a backup is restored without moving the fence",
            Defences { fence: false, ..all },
            RESTORES,
            &[ONLY_THE_WORKER, ONE_SESSION, ONE_YES],
        ),
        without(
            "a purge does not move the horizon, and the clock steps back",
            Defences { horizon: false, ..all },
            CLOCK,
            &[ONLY_THE_WORKER, ONE_SESSION, ONE_YES],
        ),
        without(
            "two servers share the key ring, and not the store",
            Defences { one_store: false, ..all },
            SMALL,
            &[ONLY_THE_WORKER, ONE_SESSION, ONE_YES],
        ),
    ]
}

/// More steps than any story takes.
const MAX_STEPS: usize = 20;

/// What the checker found in one scenario.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which scenario.
    pub scenario: Scenario,
    /// How many different states were visited: all, unless every promise was decided before.
    pub states: usize,
    /// Each promise, and whether it holds: always, or, of something that is to be possible, at all.
    pub promises: Vec<(&'static str, bool)>,
    /// How the one worth telling about is broken, step by step.
    pub story: Vec<String>,
}

/// Visits every state that a scenario can reach. Takes some seconds.
pub fn check(scenario: Scenario) -> Result<Finding, TrialError> {
    let protocol = Protocol::new(scenario.defences, scenario.world)?;
    let checker = protocol.clone().checker().spawn_bfs().join();
    let discoveries = checker.discoveries();
    let holds = |property: &Property<Protocol>| {
        let discovered = discoveries.contains_key(property.name);
        discovered == (property.expectation == Expectation::Sometimes)
    };
    Ok(Finding {
        scenario,
        states: checker.unique_state_count(),
        promises: protocol.properties().iter().map(|it| (it.name, holds(it))).collect(),
        story: scenario.story.map_or(Vec::new(), |promise| shortest_path(&protocol, promise)),
    })
}

/// How a promise is broken in as few steps as possible. The checker itself keeps the last path that it found.
fn shortest_path(protocol: &Protocol, promise: &'static str) -> Vec<String> {
    (1..MAX_STEPS)
        .find_map(|depth| {
            protocol.clone().checker().target_max_depth(depth).spawn_bfs().join().discovery(promise)
        })
        .map_or(Vec::new(), |path| protocol.tell(path.into_vec()))
}

impl Finding {
    /// The promises for which something else was found than the scenario says.
    pub fn surprises(&self) -> Vec<&'static str> {
        self.promises
            .iter()
            .filter(|(name, holds)| *holds == self.scenario.broken.contains(name))
            .map(|(name, _)| *name)
            .collect()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({} states)", self.scenario.name, self.states)?;
        for (name, holds) in &self.promises {
            let says = if *holds { "holds " } else { "BROKEN" };
            writeln!(f, "  {says}  {name}")?;
        }
        for (number, step) in (1..).zip(&self.story) {
            writeln!(f, "    {number}. {step}")?;
        }
        Ok(())
    }
}
