//! The workloads, and the steps of each.

use std::fmt;
use std::str::FromStr;

/// What each connection does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Issues a token and redeems it, which is what the protocol is for.
    Handshake,
    /// Issues a token.
    Issue,
    /// Redeems a token that has been used.
    Replay,
    /// Redeems a token that was never issued.
    Forged,
    /// Asks whether the server lives, which is the least that it can do.
    Health,
}

impl Workload {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Handshake, Self::Issue, Self::Replay, Self::Forged, Self::Health];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Issue => "issue",
            Self::Replay => "replay",
            Self::Forged => "forged",
            Self::Health => "health",
        }
    }

    /// The requests that one round consists of, if they are several.
    pub(crate) const fn parts(self) -> &'static [Step] {
        match self {
            Self::Handshake => &[Step::Issue, Step::Redeem],
            Self::Issue | Self::Replay | Self::Forged | Self::Health => &[],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|workload| workload.name() == name).ok_or_else(|| {
            format!("there is no workload {name:?}; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// One request of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Issue,
    Describe,
    Redeem,
    Replay,
    Forged,
    Health,
}

impl Step {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Describe => "getLoginToken",
            Self::Redeem => "redeem",
            Self::Replay => "replay",
            Self::Forged => "forged",
            Self::Health => "health",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_names_are_read_back() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert!("handshakes".parse::<Workload>().is_err_and(|error| error.contains("handshake, issue")));
    }
}
