//! What a check consists of.

use crate::scene::Scene;

/// One thing that a tracker's plugin must do, and how to find out whether it does.
#[derive(Debug)]
pub struct Check {
    /// A short name, in lower case with hyphens.
    pub name: &'static str,
    /// What a plugin must do: one sentence, as an order.
    pub rule: &'static str,
    /// Whether it is wrong not to.
    pub weight: Weight,
    /// What happens, in this order.
    pub(crate) steps: &'static [Step],
    /// Looks at what happened: `Ok` is what was seen to be right, `Err` what was seen to be wrong.
    pub(crate) judge: fn(&Scene<'_>) -> Judgement,
}

/// A sentence without its full stop.
pub(crate) type Judgement = Result<String, String>;

/// How much it matters to keep a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weight {
    /// A plugin that breaks it is insecure, or does not work with an issuer.
    Must,
    /// A plugin that breaks it works less well than it could.
    Should,
}

/// The worker comes to the tracker once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) bring: Bring,
    pub(crate) with: With,
    /// What the issuer answers to the first POST, the second, and so on; to every later one as to the last.
    pub(crate) issuer: &'static [Reply],
}

/// What the worker comes with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bring {
    /// A new token.
    Token,
    /// The token of the step before.
    SameToken,
    /// A text that is no token.
    Text(&'static str),
    /// A new token, with a request that is not a login.
    Look,
    /// Nothing: it wants to know whether there is a plugin.
    Nothing,
}

/// What the worker's request says besides.
#[derive(Clone, Copy, Debug)]
pub(crate) enum With {
    /// Nothing.
    Nothing,
    /// A header that names another tracker.
    Header(&'static str, &'static str),
    /// The cookies that the tracker set in the step before.
    CookiesOfBefore,
    /// The same cookies by name, but with [`CHOSEN`] for their values.
    ChosenCookies,
}

/// The value of a session that the worker would like to have.
pub(crate) const CHOSEN: &str = "0123456789abcdef0123456789abcdef";

/// What the issuer does when it is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    /// It answers with this HTTP status.
    Status(u16),
    /// It answers with this HTTP status, and names another place where it would say yes.
    Redirect(u16),
    /// It closes the connection without a word.
    Cut,
    /// It says nothing, and holds the connection.
    Silent,
    /// It says yes, with a body of [`crate::issuer::LONG_BODY`] bytes.
    LongBody,
}

/// Exactly this is a yes.
pub(crate) const YES: Reply = Reply::Status(200);

impl Step {
    /// A login with a new token.
    pub(crate) const fn login(issuer: &'static [Reply]) -> Self {
        Self { bring: Bring::Token, with: With::Nothing, issuer }
    }

    /// A text that is no token, which the issuer would not like either.
    pub(crate) const fn text(text: &'static str) -> Self {
        Self { bring: Bring::Text(text), with: With::Nothing, issuer: &[Reply::Status(404)] }
    }

    pub(crate) const fn bringing(mut self, bring: Bring) -> Self {
        self.bring = bring;
        self
    }

    pub(crate) const fn with(mut self, with: With) -> Self {
        self.with = with;
        self
    }
}
