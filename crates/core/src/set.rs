//! The set of all login tokens of a server: issue, get, redeem, revoke.

mod clock_check;
mod membership;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::handshake::{Attempt, CLOCK_SKEW, Decision, Refusal, Verdict, decide, settle};
use crate::seal::{SealError, UnsealError, seal, unseal};
use crate::{
    Audience, CallerName, Claims, Clock, Consumption, EndResult, Ending, Entropy, EntropyError, KeyRing,
    LoginToken, MAX_LIFETIME, StoreError, TokenId, TokenStore, TokenText, after,
};

pub use self::clock_check::{ClockError, STEADY, apart, move_fence_now, purge_now};
pub use self::membership::{CheckInFinding, NodeFacts};

/// For how long the same `Idempotency-Key` gets the first answer again.
pub const RETRY_WINDOW: Duration = Duration::from_mins(1);

/// How often a token is opened anew because the store's key ring has changed meanwhile.
const ROUNDS: usize = 4;

/// What the operator decides about tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a token lives unless the issuer asks otherwise; whole seconds.
    pub lifetime: Duration,
    /// Whether every token must be bound to a tracker.
    pub require_audience: bool,
    /// For how long after a token's expiry its record is kept.
    pub retention: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_mins(5),
            require_audience: false,
            retention: Duration::from_hours(24),
        }
    }
}

/// What the issuer asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewToken {
    /// The tracker to bind it to.
    pub audience: Option<Audience>,
    /// How long it shall live; whole seconds, from one second to [`MAX_LIFETIME`].
    pub lifetime: Option<Duration>,
    /// What the redeeming tracker shall know.
    pub claims: Claims,
    /// The caller it is issued for; the token contains it, and no tracker learns it.
    pub issued_by: Option<CallerName>,
}

/// A token just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What it says.
    pub token: LoginToken,
    /// Its text, for the one who asked.
    pub text: TokenText,
}

/// Why no token was issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The policy wants every token bound.
    #[error("this server issues only tokens that are bound to a bug tracker; name the tracker's base URL")]
    AudienceRequired,
    /// The lifetime is out of range.
    #[error("a token's lifetime must be from 1 to {} seconds", MAX_LIFETIME.as_secs())]
    Lifetime,
    /// The clock is wrong, so that the token would be rejected, or live too long.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// It does not fit the format.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key ring is empty, which [`KeyRing`] does not allow.
    #[error("there is no key to seal with")]
    NoKey,
}

/// What is known about a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Lookup {
    /// What the token says.
    pub token: LoginToken,
    /// Its status.
    pub status: Status,
}

/// The status of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It can be redeemed.
    Live,
    /// It was redeemed.
    Consumed(Consumption),
    /// It was revoked.
    Revoked {
        /// When.
        at: Timestamp,
    },
    /// Its time ran out unused.
    Expired,
    /// It is from before the store's fence.
    Fenced,
}

/// Why a token cannot be looked up or revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError {
    /// No key of this server sealed it.
    #[error(transparent)]
    NotOurs(#[from] UnsealError),
    /// It is authentic, but expired so long ago that its record is gone, and with it whether it was consumed.
    #[error("token {id} expired at {expires}, and records are not kept that long")]
    Forgotten {
        /// Which.
        id: TokenId,
        /// When it expired.
        expires: Timestamp,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The answer to a handshake, and what it was about.
#[derive(Clone, Debug, PartialEq)]
pub struct Redemption {
    /// Yes or no.
    pub verdict: Verdict,
    /// The token, if its text is authentic.
    pub token: Option<LoginToken>,
}

/// Why a handshake could be neither accepted nor rejected. The answer has to be "ask again", never a yes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct RedeemError(#[from] pub StoreError);

/// All login tokens of a server.
#[derive(Debug)]
pub struct LoginTokenSet {
    keys: RwLock<Arc<KeyRing>>,
    store: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    policy: Policy,
    nodes: membership::Membership,
    time: clock_check::TimeKeeper,
}

impl LoginTokenSet {
    /// The set of the tokens that `keys` seal and whose endings `store` remembers. If the store is a shared one, `keys` are
    /// those of the key file, and [`join`](Self::join) puts the store's ring to use.
    pub fn new(
        keys: KeyRing,
        store: Arc<dyn TokenStore>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        policy: Policy,
    ) -> Self {
        let keys = Arc::new(keys);
        let (nodes, time) =
            (membership::Membership::new(Arc::clone(&keys)), clock_check::TimeKeeper::default());
        Self { keys: RwLock::new(keys), store, clock, entropy, policy, nodes, time }
    }

    /// Issues a token. Writes nothing: it succeeds also while the store is away. A token that is issued while the clock
    /// has not reached the fence yet is created at the fence, so that it is good immediately.
    pub fn issue(&self, wanted: NewToken) -> Result<Issued, IssueError> {
        if self.policy.require_audience && wanted.audience.is_none() {
            return Err(IssueError::AudienceRequired);
        }
        let lifetime = wanted.lifetime.unwrap_or(self.policy.lifetime);
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(IssueError::Lifetime);
        }
        let now = self.clock.now();
        let token = LoginToken {
            id: TokenId::generate(self.time.creation(&*self.clock)?, &*self.entropy)?,
            lifetime: Duration::from_secs(lifetime.as_secs()),
            audience: wanted.audience,
            claims: wanted.claims,
            issued_by: wanted.issued_by,
        };
        let keys = self.keys();
        let key = keys.sealing_key(now).ok_or(IssueError::NoKey)?;
        let text = seal(&token, key)?;
        Ok(Issued { token, text })
    }

    /// What is known about a token. Looking never consumes.
    pub async fn get(&self, text: &str) -> Result<Lookup, GetError> {
        let now = self.clock.now();
        let (token, end) = self.ask(text, &|_| StoreRequest::Look).await?;
        let (Some(token), Some(end)) = (token, end) else { return Err(UnsealError.into()) };
        let status = match end {
            EndResult::Already(Ending::Consumed(consumption)) => Status::Consumed(consumption),
            EndResult::Already(Ending::Revoked { at }) => Status::Revoked { at },
            EndResult::Forgotten => {
                return Err(GetError::Forgotten { id: token.id(), expires: token.expires() });
            }
            EndResult::Recorded | EndResult::Fenced if now >= token.expires() => Status::Expired,
            EndResult::Fenced => Status::Fenced,
            EndResult::Recorded => Status::Live,
        };
        Ok(Lookup { token, status })
    }

    /// Answers a handshake; consumes the token if it is accepted.
    ///
    /// # Errors
    ///
    /// If the store does not answer, the token may or may not be consumed. Asking again with the same
    /// `Idempotency-Key` settles it.
    pub async fn redeem(
        &self,
        text: &str,
        attempt: &Attempt,
        by: Option<IpAddr>,
    ) -> Result<Redemption, RedeemError> {
        if !attempt.is_post {
            // Refused without a look at the store.
            let token = unseal(text, &self.keys()).ok();
            return Ok(Redemption { verdict: Verdict::Rejected(Refusal::NotPost), token });
        }
        let latest = self.time.latest_creation(&*self.clock);
        let mut redemption = self.redeem_after(text, attempt, by, latest).await?;
        if redemption.verdict == Verdict::Rejected(Refusal::FromTheFuture) && self.store.is_shared() {
            // A node whose clock is ahead of the store's may have created it; or one that has seen the fence move.
            // In a box: what hardly ever happens should not make the future of each redemption longer.
            redemption = Box::pin(async {
                self.ask_for_times().await?;
                let latest = self.time.latest_creation(&*self.clock);
                self.redeem_after(text, attempt, by, latest).await
            })
            .await?;
        }
        if redemption.verdict == Verdict::Rejected(Refusal::Fenced) && self.store.is_shared() {
            // Another node, or an operator, has moved the fence: what is issued here from now on is created at it. If this
            // fails, that is found out a few seconds later.
            let _ = self.ask_for_times().await;
        }
        Ok(redemption)
    }

    async fn redeem_after(
        &self,
        text: &str,
        attempt: &Attempt,
        by: Option<IpAddr>,
        latest: Timestamp,
    ) -> Result<Redemption, RedeemError> {
        // The very reading that was found right decides.
        let present = self.time.present(&*self.clock);
        let now = present.clone().unwrap_or_else(|_| self.clock.now());
        let (token, end) = self
            .ask(text, &|token| match (decide(attempt, Some(token), now, latest), &present) {
                (_, Err(trouble)) => StoreRequest::Wait(trouble.clone()),
                (Decision::Reject(_), _) => StoreRequest::Nothing,
                (Decision::Recall(_), _) => StoreRequest::Look,
                (Decision::Consume(_), _) => StoreRequest::End(Ending::Consumed(Consumption {
                    at: now,
                    by,
                    retry_key: attempt.retry_key,
                })),
            })
            .await?;
        let decision = decide(attempt, token.as_ref(), now, latest);
        let verdict = match (&decision, end) {
            (Decision::Reject(refusal), _) => Verdict::Rejected(refusal.clone()),
            (_, Some(end)) => settle(attempt, &decision, end, now),
            // The store was asked about all that is not rejected.
            (_, None) => Verdict::Rejected(Refusal::NotOurs),
        };
        Ok(Redemption { verdict, token })
    }

    /// Takes a token back. Returns whether it was still live.
    pub async fn revoke(&self, text: &str) -> Result<bool, GetError> {
        let present = self.time.present(&*self.clock);
        let now = present.clone().unwrap_or_else(|_| self.clock.now());
        // A token that has expired here may be live on a node whose clock is behind. Each clock may differ from the store's by
        // CLOCK_SKEW, so two nodes may differ by twice that.
        let others_are_behind_by = if self.store.is_shared() { CLOCK_SKEW * 2 } else { Duration::ZERO };
        let may_live = |token: &LoginToken| now < after(token.expires(), others_are_behind_by);
        let revoked = Ending::Revoked { at: now };
        let asked = self
            .ask(text, &|token| match &present {
                Err(trouble) => StoreRequest::Wait(trouble.clone()),
                Ok(_) if may_live(token) => StoreRequest::End(revoked.clone()),
                Ok(_) => StoreRequest::Nothing,
            })
            .await?;
        match asked {
            (None, _) => Err(UnsealError.into()),
            (Some(token), end) => Ok(end == Some(EndResult::Recorded) && now < token.expires()),
        }
    }

    /// Opens a token and asks the store what `ask` wants to know of it, both with one and the same key ring: if the store
    /// has another one meanwhile, all of it is done anew.
    async fn ask(
        &self,
        text: &str,
        ask: &impl Fn(&LoginToken) -> StoreRequest,
    ) -> Result<(Option<LoginToken>, Option<EndResult>), StoreError> {
        for _ in 0..ROUNDS {
            let ring = self.ring_for(text).await?;
            let Ok(token) = unseal(text, &ring) else { return Ok((None, None)) };
            let end = match ask(&token) {
                StoreRequest::Nothing => return Ok((Some(token), None)),
                StoreRequest::Wait(trouble) => return Err(trouble.into()),
                StoreRequest::Look => {
                    self.store.look_up_with_ring(token.id(), token.expires(), ring.version()).await
                }
                StoreRequest::End(ending) => {
                    self.store.end_with_ring(token.id(), token.expires(), ending, ring.version()).await
                }
            };
            match end {
                Err(StoreError::OtherRing) => self.read_beyond(ring.version()).await?,
                end => return Ok((Some(token), Some(end?))),
            }
        }
        Err(StoreError::OtherRing)
    }

    /// The key ring in use.
    pub fn keys(&self) -> Arc<KeyRing> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_keys(&self, keys: Arc<KeyRing>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The source of randomness.
    pub fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.entropy
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn TokenStore> {
        &self.store
    }

    /// What the operator decided.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// What the store is asked about a token.
enum StoreRequest {
    Nothing,
    /// Nothing, because this machine's clock is wrong; only the unknown is rejected.
    Wait(ClockError),
    Look,
    End(Ending),
}

#[cfg(test)]
mod tests;
