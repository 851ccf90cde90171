//! Callers without a secret of ours: they show a JWT that their platform gave them, such as a Kubernetes service-account token.
//!
//! ```text
//! token ──Unverified (iss, kid)──▶ Issuer ──KeySet──▶ verify ──Claims──▶ check (times) ──▶ the caller with this audience and subject
//! ```
//!
//! The content of an unverified token decides only which configured issuer's keys are looked at. `docs/design/keyless-callers.md` has
//! the reasons.

mod crypto;
mod fetch;
mod issuers;
mod keys;
mod rule;
mod verify;

pub use self::fetch::{JWKS_TIMEOUT, MAX_JWKS_BYTES};
pub(crate) use self::issuers::{Issuers, RefreshCounts};
pub use self::issuers::{JWKS_MAX_AGE, JWKS_REFRESH, MAX_ISSUERS, MAX_WAITING, MIN_REFRESH_INTERVAL};
pub use self::keys::MAX_JWKS_KEYS;
pub use self::rule::{HttpsUrl, ISSUER_AUTHORITIES, ISSUER_KEYS, IssuerUrl, JwtRule, NotAnHttpsUrl};
pub(crate) use self::verify::JwtFault;
pub use self::verify::{JWT_CLOCK_SKEW, MAX_JWT_BYTES, MAX_JWT_LIFETIME};

use std::sync::Arc;

use jiff::Timestamp;

use self::keys::KeySet;
use self::verify::{Unverified, verify};
use super::NamedCaller;

impl Issuers {
    /// The fetch that has to end before a token can be verified, if any.
    pub(crate) fn fetch_for(
        &self,
        shown: &[u8],
        now: Timestamp,
    ) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
        if self.is_empty() {
            return None;
        }
        let token = Unverified::read(shown)?;
        if token.is_expired(now) {
            return None;
        }
        let header = token.header.ok()?;
        self.find(&token.issuer)?.fetch_for(header.kid.as_deref(), header.alg)
    }

    /// Whose token this is, and until when it is good. `None`: it is no JWT of an issuer that is known here.
    pub(crate) fn find_caller(
        &self,
        shown: &[u8],
        callers: &[Arc<NamedCaller>],
        now: Timestamp,
    ) -> Option<Result<(Arc<NamedCaller>, Timestamp), JwtFault>> {
        if self.is_empty() {
            return None;
        }
        let token = Unverified::read(shown)?;
        let issuer = self.find(&token.issuer)?;
        let rules: Vec<_> =
            callers.iter().filter_map(|caller| Some((caller, caller.rule.jwt.as_ref()?))).collect();
        let judged = match issuer.keys() {
            Some(keys) => judge(shown, token, &keys, &rules, now),
            None => Err(token.fault_without_keys(now)),
        };
        Some(judged.map(|(caller, until)| (Arc::clone(caller), until)))
    }
}

/// To whom of those with these rules a token belongs, by the keys of the issuer that it names; and until when it is good.
fn judge<'c, C>(
    shown: &[u8],
    token: Unverified,
    keys: &KeySet,
    rules: &[(&'c C, &JwtRule)],
    now: Timestamp,
) -> Result<(&'c C, Timestamp), JwtFault> {
    let header = token.header?;
    let claims = verify(shown, header.alg, &keys.fitting(header.kid.as_deref(), header.alg))?;
    let until = claims.check(&token.issuer, now)?;
    let mut for_them = rules.iter().filter(|(_, rule)| claims.is_for(rule)).peekable();
    if for_them.peek().is_none() {
        return Err(JwtFault::Audience);
    }
    let mut found = for_them.filter(|(_, rule)| claims.is_of(rule));
    match (found.next(), found.next()) {
        (Some((caller, _)), None) => Ok((caller, until)),
        (None, _) => Err(JwtFault::Subject),
        (Some(_), Some(_)) => Err(JwtFault::Ambiguous),
    }
}

/// Until when a token is good that is shown for this rule, by the keys of a JWKS document: what a server does with it when it has
/// fetched that. For fuzzing.
///
/// # Errors
///
/// Why the document or the token is not good.
pub fn judge_jwt(rule: &JwtRule, jwks: &[u8], shown: &[u8], now: Timestamp) -> Result<Timestamp, String> {
    let keys = KeySet::read(jwks)?;
    let token = Unverified::read(shown).ok_or("it is no JWT")?;
    if token.issuer != rule.issuer.as_str() {
        return Err("it is of another issuer".to_owned());
    }
    judge(shown, token, &keys, &[(&(), rule)], now)
        .map(|((), until)| until)
        .map_err(|fault| fault.to_string())
}

impl JwtRule {
    /// Fetches the issuer's keys, for `countersign doctor`; how many there are.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub async fn try_keys(&self) -> Result<usize, String> {
        fetch::fetch(&self.source(), &fetch::Reading::default()).await.map(|keys| keys.len())
    }
}
