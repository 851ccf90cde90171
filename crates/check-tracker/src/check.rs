//! A check: its steps, and the function that judges the outcome.

use crate::observation::Observation;
use crate::step::{ApiStep, IssuerScheme, Step};

/// One thing that a tracker's plugin must do, and how to find out whether it does.
#[derive(Debug)]
pub struct Check {
    /// A short name, in lower case with hyphens.
    pub name: &'static str,
    /// What a plugin must do: one sentence, as an order.
    pub rule: &'static str,
    /// The risk if a plugin does not: one sentence.
    pub risk: &'static str,
    /// Whether it is wrong not to.
    pub weight: Weight,
    pub(crate) how: CheckKind,
}

/// How to find out.
#[derive(Debug)]
pub(crate) enum CheckKind {
    /// The worker comes to the tracker, and what happens is looked at.
    Watch {
        /// Which issuer the check needs.
        over: IssuerScheme,
        /// What happens, in this order.
        steps: &'static [Step],
        /// Looks at what happened: `Ok` is what was seen to be right, `Err` what was seen to be wrong.
        judge: fn(&Observation<'_>) -> Judgement,
    },
    /// The worker uses the plugin API.
    Api(ApiStep),
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
