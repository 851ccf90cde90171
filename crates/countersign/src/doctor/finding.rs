//! The finding of a check.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// To be looked after.
    Warning,
    /// Something does not work, or is not safe.
    Error,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What it is.
    pub(super) sentence: String,
    /// What to do about it; nothing needs to be done about what is well.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(sentence: impl Into<String>) -> Self {
        Self { level: Level::Ok, sentence: sentence.into(), remedy: None }
    }

    pub(super) fn note(sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Note, sentence: sentence.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn warning(sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, sentence: sentence.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn error(sentence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Error, sentence: sentence.into(), remedy: Some(remedy.into()) }
    }
}
