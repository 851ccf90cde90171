//! What the gate says of itself, and how `doctor` reads it.

/// Where it says so.
pub const HEALTH: &str = "/healthz";

/// What it answers at `/auth` to a proxy that does not send what it should.
pub(crate) const PROXY_IS_NOT_SET_UP: &str =
    "The reverse proxy is not set up; the gate's log has the reason.";

/// What it answers there while it cannot decide.
pub(crate) const CANNOT_DECIDE: &str = "The sessions cannot be read. Try again later.";

/// How the name of each of its metrics begins.
pub(crate) const METRICS_PREFIX: &str = "countersign_gate";

/// How it answers the detection of a plugin.
pub const DETECTED: &str = "This tracker logs in whoever brings a login token in place of the word check.";

/// Whether a gate works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Works,
    /// Open sessions go on, and no session can be made or ended.
    Unwritable,
    /// It lets nobody through.
    Unreadable,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Works, Self::Unwritable, Self::Unreadable];

    /// What the gate says.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Works => "The gate works.",
            Self::Unwritable => {
                "The gate works.\nBut no session can be made or ended; the log has the reason."
            }
            Self::Unreadable => "The sessions cannot be read; the log has the reason.",
        }
    }

    /// Reads what a gate said; `None`: it is not a gate's.
    pub fn read(said: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|health| health.sentence() == said.trim_end())
    }
}

/// Whether only the paths that are for the proxy and the operator are answered like this.
pub fn is_internal(answer: &str) -> bool {
    answer.contains(&format!("{METRICS_PREFIX}_"))
        || [PROXY_IS_NOT_SET_UP, CANNOT_DECIDE].iter().any(|sentence| answer.contains(sentence))
        || Health::ALL.iter().any(|health| answer.contains(health.sentence()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_read_as_it_is_said() {
        for health in Health::ALL {
            assert_eq!(Health::read(&format!("{}\n", health.sentence())), Some(health));
        }
        for other in ["", "The gate works. And more.", "<html>The gate works.</html>"] {
            assert_eq!(Health::read(other), None, "{other}");
        }
    }
}
