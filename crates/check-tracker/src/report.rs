//! The findings of a run.

use std::fmt;

use serde::Serialize;

use crate::check::Judgement;
use crate::{Check, Weight};

/// What a check came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// The tracker does what it must.
    Pass,
    /// It could do better.
    Advice,
    /// It does something wrong.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// What the check came to.
    pub result: Grade,
    /// The check's name.
    pub check: &'static str,
    /// What was seen: one sentence.
    pub seen: String,
    /// The risk if a plugin does otherwise.
    pub risk: &'static str,
    /// What a plugin must do.
    pub rule: &'static str,
}

impl Finding {
    pub(crate) fn new(check: &Check, judgement: Judgement) -> Self {
        let (result, seen) = match (judgement, check.weight) {
            (Ok(seen), _) => (Grade::Pass, seen),
            (Err(seen), Weight::Must) => (Grade::Fail, seen),
            (Err(seen), Weight::Should) => (Grade::Advice, seen),
        };
        Self { result, check: check.name, seen: sentence(&seen), risk: check.risk, rule: check.rule }
    }
}

impl fmt::Display for Finding {
    /// One line. A passed check needs neither the risk nor the rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (result, name, seen) = (self.result, self.check, &self.seen);
        write!(f, "{:<6}  {name:<22}  {seen}", result.label())?;
        if result == Grade::Pass { Ok(()) } else { write!(f, " {} {}", self.risk, self.rule) }
    }
}

impl Grade {
    fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Advice => "advice",
            Self::Fail => "FAIL",
        }
    }
}

/// Capital letter, full stop, and nothing in it that could take over a terminal.
fn sentence(seen: &str) -> String {
    let seen: String = seen.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut letters = seen.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", letters.as_str())
}

/// All findings about one tracker.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The tracker's base URL.
    pub tracker: String,
    /// Its kind, by name.
    pub kind: &'static str,
    /// What it had to state as its audience.
    pub audience: String,
    /// In the order of [`crate::CHECKS`], and then of [`crate::API_CHECKS`].
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing failed. Advice is not failure.
    pub fn passed(&self) -> bool {
        self.count(Grade::Fail) == 0
    }

    /// How many checks came to this.
    pub fn count(&self, result: Grade) -> usize {
        self.findings.iter().filter(|finding| finding.result == result).count()
    }
}
