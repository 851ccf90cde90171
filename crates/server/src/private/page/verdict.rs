//! Whether all is well, and what to do if it is not.

use askama::Template;
use countersign_core::{ClockError, KindFilter, StoreError};

use crate::history::Handshakes;

use super::parts::times;
use super::state::PageState;

/// How many minutes back it counts that handshakes could not be answered.
const LATELY: usize = 5;

/// What the page says first.
#[derive(Template)]
#[template(path = "verdict.html")]
pub(super) struct Verdict {
    pub(super) level: Level,
    /// What happened, and how often.
    pub(super) headline: String,
    findings: Vec<Finding>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    WorthALook,
    Bad,
}

impl Level {
    /// As style sheet and icons have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::WorthALook => "worth-a-look",
            Self::Bad => "bad",
        }
    }
}

/// Something to know.
struct Finding {
    level: Level,
    /// In a few words.
    what: String,
    /// What it means, and what to do.
    advice: String,
    /// Where there is more, and what it is.
    link: Option<(String, String)>,
}

impl Verdict {
    pub(super) fn of(state: &PageState) -> Self {
        let findings = findings(state);
        let level = match findings.first() {
            None => Level::Good,
            Some(first) => first.level,
        };
        let is_try = |finding: &&Finding| finding.level == Level::Bad && finding.link.is_some();
        let tries: Vec<&str> = findings.iter().filter(is_try).map(|finding| &*finding.what).collect();
        let headline = match findings.first() {
            None => "All is well".to_owned(),
            Some(first) if is_try(&first) => format!("{} in the last hour", tries.join(" and ")),
            Some(first) => first.what.clone(),
        };
        Self { level, headline, findings }
    }
}

/// Why tokens cannot be issued, or not redeemed either.
fn unready(error: &StoreError) -> Finding {
    let (what, then) = match error {
        // Tokens of a server whose clock is right are redeemed here.
        StoreError::Clock(ClockError::BehindLine(_)) => (
            "No token can be issued",
            "Handshakes are answered, and redeem the tokens that the store takes. As soon as the clock is right, it goes \
             on by itself.",
        ),
        StoreError::Clock(_) => (
            "No token can be issued or redeemed",
            "Handshakes are answered 503 until the clock is right; then it goes on by itself.",
        ),
        StoreError::Busy | StoreError::Unavailable(_) | StoreError::OtherRing => (
            "No token can be redeemed",
            "Handshakes are answered 503 until the cause is gone; then it goes on by itself. countersign doctor says what \
             to do.",
        ),
    };
    let why = error.to_string();
    Finding {
        level: Level::Bad,
        what: what.to_owned(),
        advice: format!("{}. {then}", why.trim_end_matches('.')),
        link: None,
    }
}

/// Everything to know, the worst first.
fn findings(state: &PageState) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(state.standing.ready.as_ref().err().map(unready));

    let mut hour = Handshakes::default();
    state.minutes.iter().for_each(|minute| hour += *minute);
    for (count, kind, one, many, advice) in [
        (
            hour.replays,
            KindFilter::Replay,
            "replay",
            "replays",
            "a used token was shown again. From the address of its first use, a tracker repeated its request; from \
             another one, somebody has got hold of a token.",
        ),
        (
            hour.relays,
            KindFilter::Relay,
            "relay attempt",
            "relay attempts",
            "a token was shown by another tracker than it is bound to. That tracker hands on what it is given, or is \
             configured with a wrong URL: ask those who run it.",
        ),
    ] {
        if count > 0 {
            let what = times(count, one, many);
            let see = if count == 1 { format!("See the {one}.") } else { format!("See the {what}.") };
            let link = Some((format!("?kind={}&within=1h#events-title", kind.label()), see));
            findings.push(Finding { level: Level::Bad, what, advice: advice.to_owned(), link });
        }
    }

    let seen = |kind: KindFilter| {
        Some((format!("?kind={}&within=1h#events-title", kind.label()), "See the events.".to_owned()))
    };
    if state.fence_moves.count > 0 {
        findings.push(Finding {
            level: Level::WorthALook,
            what: format!("{} in the last hour", state.fence_moves.times("move of the fence", "moves of the fence")),
            advice: "every token issued before is refused. If nobody moved it, the store was restored, or another \
                     database took over."
                .to_owned(),
            link: seen(KindFilter::FenceMoved),
        });
    }
    if state.guesses.count > 0 {
        findings.push(Finding {
            level: Level::WorthALook,
            what: format!("{} in the last hour", state.guesses.times("wrong credential", "wrong credentials")),
            advice: "the private API was sent a wrong secret or certificate: a program has an old one, or somebody guesses."
                .to_owned(),
            link: seen(KindFilter::CredentialRejected),
        });
    }

    let mut look = |what: String, advice: &str| {
        findings.push(Finding { level: Level::WorthALook, what, advice: advice.to_owned(), link: None });
    };
    let lately = state.minutes.iter().rev().take(LATELY).map(|minute| minute.unanswered).sum::<u64>();
    if lately > 0 {
        let handshakes = times(lately, "handshake", "handshakes");
        look(
            format!("{handshakes} could not be answered in the last {LATELY} minutes (503)"),
            "the store was busy or away. Trackers may try again; the server's log says why.",
        );
    }
    if let Some(reason) = &state.events_trouble {
        look(
            "Events cannot be kept".to_owned(),
            &format!(
                "{}. No handshake suffers. Mend that, and it goes on by itself.",
                reason.trim_end_matches('.')
            ),
        );
    }
    if state.events_lost > 0 {
        let events = times(state.events_lost, "event was", "events were");
        look(
            format!("{events} lost since the start"),
            "too many waited to be kept. No handshake suffers; look whether the disk of the events is slow or full.",
        );
    }
    if state.failing_purges > 0 {
        let purges = times(state.failing_purges, "purge", "purges");
        look(
            format!("{purges} failed, the last one too"),
            "the store grows until one succeeds; the server's log says why.",
        );
    }
    if let Some((_, failed @ 1.., _)) = state.alarms {
        let alarms = times(failed, "alarm", "alarms");
        look(
            format!("{alarms} could not be delivered since the start"),
            "see whether the receiver of alarm_webhook answers; the server's log says what it answered.",
        );
    }
    findings
}
