//! What a handshake computes: seal, unseal, decide. `cargo bench -p countersign-store --bench handshake`

#![expect(clippy::unwrap_used, reason = "a measurement, not a part of the product")]

use std::sync::Arc;

use countersign_core::handshake::{Attempt, StatedAudience, decide};
use countersign_core::seal::{seal, unseal};
use countersign_core::{
    Audience, Clock, KeyRing, LoginToken, LoginTokenSet, ManualClock, NewToken, Policy, SequenceEntropy,
    from_millis,
};
use countersign_store::memory::MemoryStore;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const NOW: i64 = 1_767_225_600_000;
const TRACKERS: [Option<&str>; 2] = [None, Some("https://bugs.example.org/")];

fn token(tracker: Option<&str>) -> (LoginToken, KeyRing) {
    let (clock, entropy) =
        (Arc::new(ManualClock::at(from_millis(NOW))), Arc::new(SequenceEntropy::default()));
    let ring = KeyRing::generate(clock.now(), &*entropy).unwrap();
    let store = Arc::new(MemoryStore::new(&*clock));
    let tokens = LoginTokenSet::new(ring.clone(), store, clock, entropy, Policy::default());
    let audience = tracker.map(|url| Audience::parse(url).unwrap());
    let issued = tokens.issue(NewToken { audience, ..NewToken::default() }).unwrap();
    (issued.token, ring)
}

#[divan::bench(args = TRACKERS)]
fn sealing_is_measured(bencher: Bencher<'_, '_>, tracker: Option<&str>) {
    let (token, ring) = token(tracker);
    let key = ring.sealing_key(from_millis(NOW)).unwrap();
    bencher.bench(|| seal(black_box(&token), key));
}

#[divan::bench(args = TRACKERS)]
fn unsealing_is_measured(bencher: Bencher<'_, '_>, tracker: Option<&str>) {
    let (token, ring) = token(tracker);
    let text = seal(&token, ring.sealing_key(from_millis(NOW)).unwrap()).unwrap().into_exposed();
    bencher.bench(|| unseal(black_box(&text), &ring));
}

#[divan::bench]
fn refusing_a_forged_token_is_measured(bencher: Bencher<'_, '_>) {
    let (token, ring) = token(None);
    let mut text = seal(&token, ring.sealing_key(from_millis(NOW)).unwrap()).unwrap().into_exposed();
    text.replace_range(40..41, if text.get(40..41) == Some("b") { "c" } else { "b" });
    assert!(unseal(&text, &ring).is_err());
    bencher.bench(|| unseal(black_box(&text), &ring));
}

#[divan::bench(args = TRACKERS)]
fn deciding_is_measured(bencher: Bencher<'_, '_>, tracker: Option<&str>) {
    let (token, _) = token(tracker);
    let audience =
        tracker.map_or(StatedAudience::None, |url| StatedAudience::Tracker(Audience::parse(url).unwrap()));
    let attempt = Attempt { is_post: true, audience, retry_key: None };
    let now = from_millis(NOW + 1000);
    bencher.bench(|| decide(black_box(&attempt), Some(&token), now, now));
}
