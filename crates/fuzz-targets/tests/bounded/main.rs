//! A bounded run of every target, on any toolchain: the seed corpus as it is, then random changes of it.
//!
//! The changes are the same in every run, so that what passes here passes elsewhere. `COUNTERSIGN_FUZZ_CASES=N` looks for
//! new faults instead, with N changes for each target that no run before had.
//!
//! An input that makes a target panic is shrunk and shown; put it into the corpus, and it is tried every time.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests"
)]

mod mutation;
mod seeds;

use countersign_fuzz_targets::TARGETS;
use proptest::test_runner::{Config, TestRng, TestRunner};
use seeds::Seeds;

/// How many changed inputs each target gets.
const CASES: u32 = 1000;

fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(of, _)| *of == name).unwrap();
    let seeds = Seeds::of(name);
    for (file, input) in &seeds.inputs {
        println!("{name}: {file}");
        target(input);
    }
    // The input says more than the seed of the generator would, and survives a change of the generator.
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = if let Ok(cases) = std::env::var("COUNTERSIGN_FUZZ_CASES") {
        TestRunner::new(Config { cases: cases.parse().unwrap(), ..config })
    } else {
        let same = TestRng::deterministic_rng(config.rng_algorithm);
        TestRunner::new_with_rng(config, same)
    };
    let outcome = runner.run(&mutation::changed(seeds), |input| {
        target(&input.0);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
}

/// A test for each target, and the list of them.
macro_rules! tests {
    ($($target:ident)*) => {
        const RUN_HERE: &[&str] = &[$(stringify!($target)),*];

        $(#[test]
        fn $target() {
            run(stringify!($target));
        })*
    };
}

tests!(callers configuration gate_request handshake_request jwt key_ring names token_text tracker_answer xmlrpc_body);

#[test]
fn every_corpus_has_a_target_in_both_runners() {
    let mut targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    assert_eq!(seeds::names("corpus", ""), targets);
    assert_eq!(seeds::names("dictionaries", ".dict"), targets);
    assert_eq!(seeds::names("fuzz_targets", ".rs"), targets);
    assert_eq!(RUN_HERE, targets);
}
