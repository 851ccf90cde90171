//! The issuers whose tokens stand for callers, and their keys as they were fetched last.
//!
//! No request waits for another one's issuer, and none of them makes more than one fetch in [`MIN_REFRESH_INTERVAL`] happen, whatever
//! keys it names.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use countersign_core::Clock;
use jiff::Timestamp;
use jsonwebtoken::Algorithm;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::callers::CallerRule;
use crate::outage_log::{OutageLog, OutageNotice};

use super::fetch::{Reading, fetch};
use super::keys::KeySet;
use super::rule::{IssuerUrl, KeySource};

/// How old keys may be before they are fetched again.
pub const JWKS_REFRESH: Duration = Duration::from_mins(5);

/// The same of keys in a file.
const FILE_REFRESH: Duration = MIN_REFRESH_INTERVAL;

/// The shortest time between two fetches of one issuer, for any reason.
pub const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// For how long keys are used while no newer ones can be had. Then no token of the issuer is accepted.
pub const JWKS_MAX_AGE: Duration = Duration::from_hours(1);

/// How many requests wait for the keys of one issuer at a time. Further ones are answered at once.
pub const MAX_WAITING: usize = 16;

/// How many issuers there can be.
pub const MAX_ISSUERS: usize = 16;

/// The issuers that the callers file names.
#[derive(Debug)]
pub(crate) struct Issuers {
    clock: Arc<dyn Clock>,
    in_use: RwLock<Arc<Vec<Arc<Issuer>>>>,
    counts: Arc<RefreshCounts>,
}

/// How often keys were fetched.
#[derive(Debug, Default)]
pub(crate) struct RefreshCounts {
    pub(crate) succeeded: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// An issuer and its keys.
pub(crate) struct Issuer {
    source: KeySource,
    clock: Arc<dyn Clock>,
    counts: Arc<RefreshCounts>,
    state: Mutex<State>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Arc<Semaphore>,
    reading: Reading,
    outage: OutageLog,
}

#[derive(Default)]
struct State {
    keys: Option<FetchedKeys>,
    /// When the last fetch was begun, by the steady clock.
    tried: Option<Duration>,
    is_fetching: bool,
    trouble: Option<String>,
}

#[derive(Clone)]
struct FetchedKeys {
    keys: Arc<KeySet>,
    /// By the steady clock.
    at: Duration,
    wall: Timestamp,
}

impl FetchedKeys {
    /// The steady clock may stand still while the machine sleeps, and the other one may be set back.
    fn age(&self, clock: &dyn Clock) -> Duration {
        let by_wall = clock.now().duration_since(self.wall);
        clock.steady().saturating_sub(self.at).max(Duration::try_from(by_wall).unwrap_or_default())
    }
}

/// How an issuer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssuerState {
    pub(crate) issuer: String,
    /// How many keys are in use; none: no token of it is accepted.
    pub(crate) keys: usize,
    pub(crate) fetched: Option<Timestamp>,
    /// How old the keys in use are.
    pub(crate) age: Option<Duration>,
    /// Why the last fetch brought none.
    pub(crate) trouble: Option<String>,
}

impl Issuers {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, in_use: RwLock::default(), counts: Arc::default() }
    }

    /// Takes the issuers that these callers name. An issuer whose keys come from where they came from keeps them.
    pub(crate) fn put_to_use(&self, rules: &[CallerRule]) {
        let before = self.all();
        let mut issuers: Vec<Arc<Issuer>> = Vec::new();
        for rule in rules.iter().filter_map(|rule| rule.jwt.as_ref()) {
            let source = rule.source();
            if issuers.iter().all(|issuer| issuer.source != source) {
                let same = before.iter().find(|issuer| issuer.source == source);
                issuers.push(same.map_or_else(|| Arc::new(self.issuer(source)), Arc::clone));
            }
        }
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(issuers);
    }

    fn issuer(&self, source: KeySource) -> Issuer {
        Issuer {
            source,
            clock: Arc::clone(&self.clock),
            counts: Arc::clone(&self.counts),
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            reading: Reading::default(),
            outage: OutageLog::default(),
        }
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Issuer>>> {
        Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The issuer whose tokens have this as `iss`.
    pub(super) fn find(&self, iss: &str) -> Option<Arc<Issuer>> {
        self.all().iter().find(|issuer| issuer.source.issuer.as_str() == iss).cloned()
    }

    /// Begins to fetch the keys that have become old, or all of them; waits for none.
    pub(crate) fn refresh(&self, all: bool) {
        for issuer in self.all().iter().filter(|issuer| all || issuer.is_due()) {
            drop(issuer.fetch_again());
        }
    }

    pub(crate) fn counts(&self) -> &RefreshCounts {
        &self.counts
    }

    pub(crate) fn states(&self) -> Vec<IssuerState> {
        self.all().iter().map(|issuer| issuer.standing()).collect()
    }
}

impl Issuer {
    pub(super) fn url(&self) -> &IssuerUrl {
        &self.source.issuer
    }

    /// The keys, unless they are too old to go by.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.fetched().map(|fetched| fetched.keys)
    }

    /// A fetch to wait for, if a token with this header cannot be verified without: no keys, or none that fits. `None` also if too
    /// many wait for it already.
    pub(super) fn fetch_for(
        self: &Arc<Self>,
        key: Option<&str>,
        algorithm: Algorithm,
    ) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        let is_known = self.keys().is_some_and(|keys| !keys.fitting(key, algorithm).is_empty());
        if is_known {
            return None;
        }
        let fetch = self.fetch_again()?;
        let place = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        Some(async move {
            fetch.await;
            drop(place);
        })
    }

    /// Begins to fetch the keys, or joins a fetch that goes on; `None` if the last one was begun too short a time ago, or
    /// still has a thread that reads a file. The fetch runs to its end in a task of its own, and is over when what is returned is.
    fn fetch_again(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        let mut state = self.state();
        // Subscribed while the state is held, so that its end is not missed.
        let mut ended = self.ended.subscribe();
        if !state.is_fetching {
            let now = self.clock.steady();
            let is_soon = state.tried.is_some_and(|tried| now.saturating_sub(tried) < MIN_REFRESH_INTERVAL);
            if is_soon || Arc::strong_count(&self.reading) > 1 {
                return None;
            }
            state.tried = Some(now);
            state.is_fetching = true;
            let fetching = Fetching(Arc::clone(self));
            tokio::spawn(async move {
                let found = fetch(&fetching.0.source, &fetching.0.reading).await;
                fetching.0.note(found);
            });
        }
        Some(async move {
            let _ = ended.changed().await;
        })
    }

    fn note(&self, found: Result<KeySet, String>) {
        let (issuer, now) = (self.url(), Instant::now());
        match found {
            Ok(keys) => {
                self.counts.succeeded.fetch_add(1, Ordering::Relaxed);
                let how_many = keys.len();
                let keys =
                    FetchedKeys { keys: Arc::new(keys), at: self.clock.steady(), wall: self.clock.now() };
                let mut state = self.state();
                let is_first = state.keys.replace(keys).is_none();
                state.trouble = None;
                drop(state);
                if let Some(failures) = self.outage.succeeded(now) {
                    tracing::info!(%issuer, failures, "the issuer's keys can be fetched again");
                } else if is_first {
                    tracing::info!(%issuer, keys = how_many, "the issuer's keys were fetched");
                }
            }
            Err(reason) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                self.state().trouble = Some(reason.clone());
                let has_keys = self.keys().is_some();
                let goes_on = if has_keys {
                    "its tokens are verified by the keys that were fetched before, for an hour at most"
                } else {
                    "none of its tokens is accepted"
                };
                match self.outage.failed(now) {
                    Some(OutageNotice::Begins) => {
                        tracing::error!(%issuer, %reason, "the issuer's keys cannot be fetched; {goes_on}");
                    }
                    Some(OutageNotice::GoesOn(failures)) => {
                        tracing::error!(%issuer, %reason, failures, "the issuer's keys still cannot be fetched; {goes_on}");
                    }
                    None => {}
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        let period = if self.source.jwks_file.is_some() { FILE_REFRESH } else { JWKS_REFRESH };
        self.state().keys.as_ref().is_none_or(|keys| keys.age(&*self.clock) >= period)
    }

    fn fetched(&self) -> Option<FetchedKeys> {
        self.state().keys.clone().filter(|keys| keys.age(&*self.clock) <= JWKS_MAX_AGE)
    }

    fn standing(&self) -> IssuerState {
        let fetched = self.fetched();
        let state = self.state();
        IssuerState {
            issuer: self.url().to_string(),
            keys: fetched.as_ref().map_or(0, |fetched| fetched.keys.len()),
            age: fetched.map(|fetched| fetched.age(&*self.clock)),
            fetched: state.keys.as_ref().map(|keys| keys.wall),
            trouble: state.trouble.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("url", &self.source.issuer).finish_non_exhaustive()
    }
}

/// A running fetch. However it ends, the next one can begin, and its waiters go on.
struct Fetching(Arc<Issuer>);

impl Drop for Fetching {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_fetching = false;
        self.0.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::ManualClock;

    use super::*;

    fn issuer(clock: &Arc<ManualClock>, source: &str) -> Arc<Issuer> {
        let rule = format!("issuer = 'https://issuer.example'\naudience = 'a'\nsubject = 's'\n{source}");
        let rule: crate::JwtRule = toml::from_str(&rule).unwrap();
        Arc::new(Issuers::new(Arc::clone(clock) as Arc<dyn Clock>).issuer(rule.source()))
    }

    #[tokio::test]
    async fn no_read_begins_while_one_has_not_returned() {
        let clock = Arc::new(ManualClock::at("2026-01-31T12:00:00Z".parse().unwrap()));
        let issuer = issuer(&clock, "jwks_file = '/nowhere'");
        let hangs = Arc::clone(&issuer.reading);
        assert!(issuer.fetch_again().is_none(), "a thread still reads");
        assert_eq!(issuer.counts.failed.load(Ordering::Relaxed), 0);
        drop(hangs);
        issuer.fetch_again().unwrap().await;
        assert_eq!(issuer.counts.failed.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn keys_age_by_the_faster_clock() {
        let noon: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let clock = ManualClock::at(noon);
        let hour_ago = noon - jiff::SignedDuration::from_hours(1);
        let keys = |wall| {
            let key =
                serde_json::json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": "A".repeat(43) }] });
            let keys = Arc::new(KeySet::read(key.to_string().as_bytes()).unwrap());
            FetchedKeys { keys, at: clock.steady(), wall }
        };
        assert_eq!(keys(hour_ago).age(&clock), Duration::from_hours(1), "this machine has slept");
        let fetched = keys(noon + jiff::SignedDuration::from_hours(1));
        clock.advance(Duration::from_mins(2));
        assert_eq!(fetched.age(&clock), Duration::from_mins(2), "the wall clock was set back");
    }
}
