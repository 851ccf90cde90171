//! The permissions of a caller that has shown its credential.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use countersign_core::{Audience, CallerName, Claims, ClaimsError, Denial, NewToken, Policy};
use jiff::Timestamp;
use serde_json::Value;

use crate::problem::{Problem, with_retry_after};

use super::{NamedCaller, Scope};

/// The claim that tells a tracker the caller's name, where the callers file says so.
const CALLER_CLAIM: &str = "caller";

/// What a caller may do. A request that has passed no guard may do nothing.
#[derive(Clone, Debug, Default)]
pub(crate) enum Grant {
    #[default]
    Nothing,
    /// The caller without a name: it showed the one secret, or none is asked for.
    Everything,
    /// What the callers file allows this one; if it showed a JWT, until then.
    Named(Arc<NamedCaller>, Option<Timestamp>),
}

/// Why a caller does not get what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotAllowed {
    /// Its scopes do not have it.
    Scope(Scope),
    /// A token for a tracker that is not its.
    Audience(Audience),
    /// A token for any tracker, where it has some of its own.
    Unbound,
    /// A token that lives longer than its tokens may; the longest lifetime.
    Lifetime(Duration),
    /// Claims that have its name, or what would pass for it.
    CallerClaim,
    /// Claims that are too long with its name.
    Claims(ClaimsError),
    /// More tokens in a minute than it may have; how long until the next.
    Rate(Duration),
}

impl Grant {
    /// The caller's name, if it has one.
    pub(crate) fn name(&self) -> Option<&CallerName> {
        match self {
            Self::Named(caller, _) => Some(&caller.rule.name),
            Self::Nothing | Self::Everything => None,
        }
    }

    /// Fails unless the caller may do this.
    pub(crate) fn check(&self, scope: Scope) -> Result<(), NotAllowed> {
        let is_allowed = match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Named(caller, _) => caller.rule.scopes.contains(&scope),
        };
        is_allowed.then_some(()).ok_or(NotAllowed::Scope(scope))
    }

    /// The token that the caller gets when it asks for this one: bound to its own tracker if it has exactly one and names
    /// none, no longer than its tokens may live, and with its name.
    pub(crate) fn permit(&self, mut wanted: NewToken, policy: &Policy) -> Result<NewToken, NotAllowed> {
        self.check(Scope::Issue)?;
        let Self::Named(caller, _) = self else { return Ok(wanted) };
        let rule = &caller.rule;
        if let Some(patterns) = &rule.audiences {
            if let ([pattern], None) = (&**patterns, &wanted.audience) {
                wanted.audience = pattern.only().cloned();
            }
            match &wanted.audience {
                None => return Err(NotAllowed::Unbound),
                Some(audience) if !patterns.iter().any(|pattern| pattern.covers(audience)) => {
                    return Err(NotAllowed::Audience(audience.clone()));
                }
                Some(_) => {}
            }
        }
        if let Some(longest) = rule.max_lifetime {
            if wanted.lifetime.is_some_and(|lifetime| lifetime > longest) {
                return Err(NotAllowed::Lifetime(longest));
            }
            wanted.lifetime = Some(wanted.lifetime.unwrap_or(policy.lifetime).min(longest));
        }
        // A tracker that goes by this claim must be able to rely on it.
        if wanted.claims.members().contains_key(CALLER_CLAIM) {
            return Err(NotAllowed::CallerClaim);
        }
        if rule.tell_trackers {
            let mut members = wanted.claims.members().clone();
            members.insert(CALLER_CLAIM.to_owned(), Value::String(rule.name.to_string()));
            wanted.claims = Claims::new(members).map_err(NotAllowed::Claims)?;
        }
        // Only what is issued counts.
        if let Some(rate) = &caller.rate {
            rate.take().map_err(NotAllowed::Rate)?;
        }
        wanted.issued_by = Some(rule.name.clone());
        Ok(wanted)
    }
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => write!(
                f,
                "This caller has not the scope `{scope}`, which this takes; the callers file says what each caller may do."
            ),
            Self::Audience(audience) => write!(
                f,
                "This caller may not have tokens for {audience}; the callers file says for which trackers it may."
            ),
            Self::Unbound => f.write_str(
                "This caller may have tokens for certain trackers only, so that each has to name one; give the tracker's base \
                 URL as the audience.",
            ),
            Self::Lifetime(longest) => {
                write!(f, "Tokens of this caller live {} seconds at most.", longest.as_secs())
            }
            Self::CallerClaim => write!(
                f,
                "The claim `{CALLER_CLAIM}` is the server's: it tells trackers the caller's name, where the callers file says so."
            ),
            Self::Claims(error) => write!(f, "With the caller's name the {error}."),
            Self::Rate(_) => f.write_str("This caller has had as many tokens as it may in a minute; ask again later."),
        }
    }
}

impl NotAllowed {
    /// Of which kind it is.
    pub(crate) fn denial(&self) -> Denial {
        match self {
            Self::Scope(_) => Denial::Scope,
            Self::Audience(_) | Self::Unbound => Denial::Audience,
            Self::Lifetime(_) => Denial::Lifetime,
            Self::CallerClaim | Self::Claims(_) => Denial::Claims,
            Self::Rate(_) => Denial::Rate,
        }
    }

    /// The problem's type, in a word.
    pub(crate) fn label(&self) -> &'static str {
        self.denial().label()
    }

    fn problem(&self) -> Problem {
        let status = match self {
            Self::Scope(_) | Self::Audience(_) | Self::Unbound | Self::Lifetime(_) => StatusCode::FORBIDDEN,
            Self::CallerClaim | Self::Claims(_) => StatusCode::BAD_REQUEST,
            Self::Rate(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        Problem::new(status, self.label(), self.to_string())
    }
}

impl IntoResponse for NotAllowed {
    fn into_response(self) -> Response {
        let response = self.problem().into_response();
        match self {
            Self::Rate(wait) => with_retry_after(response, wait),
            _ => response,
        }
    }
}
