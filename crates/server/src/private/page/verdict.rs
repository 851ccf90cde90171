//! The headline of the page: whether all is well, and what to do if it is not.

use std::collections::HashMap;
use std::fmt::Write as _;

use askama::Template;
use countersign_core::{ClockError, KindFilter, Reason, StoreError};

use crate::activity::{By, Line, Party};
use crate::metrics::count;
use crate::private::summary::filter_of;
use crate::sum::{Sum, saturating_sum};

use super::parties::counted_since;
use super::parts::{moment, times};
use super::state::PageState;

/// How many minutes back it counts that handshakes could not be answered.
const LATELY: usize = 5;

/// How many trackers or callers a finding names.
const MAX_NAMED: usize = 3;

/// The number of refused handshakes, or of tokens that are never shown, that is no accident.
const MANY: u64 = 5;

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
        StoreError::Clock(ClockError::BehindWatermark(_)) => (
            "No token can be issued",
            "Handshakes are answered, and redeem the tokens that the store takes. As soon as the clock is right, it goes \
             on by itself.",
        ),
        StoreError::Clock(_) => (
            "No token can be issued or redeemed",
            "Handshakes are answered 503 until the clock is right; then it recovers by itself.",
        ),
        StoreError::Busy | StoreError::Unavailable(_) | StoreError::OtherRing => (
            "No token can be redeemed",
            "Handshakes are answered 503 until the cause is gone; then it recovers by itself. countersign doctor says what \
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

/// Whom replays or relay attempts concern, in a sentence of its own.
fn concerned(parties: &[(By, Vec<Line>)], kind: KindFilter) -> String {
    let mut sentences = String::new();
    for (by, lines) in parties {
        let count = |line: &Line| match kind {
            KindFilter::Replay => line.sum.replays(),
            _ => line.sum.relays(),
        };
        let some: Vec<_> = lines.iter().filter(|line| count(line) > 0).collect();
        // That the caller without a name is concerned tells nobody anything.
        if some.iter().all(|line| (by, &line.party) == (&By::Caller, &Party::Nameless)) {
            continue;
        }
        let name = |line: &Line| match (by, &line.party) {
            (By::Tracker, Party::Nameless) => "any tracker".to_owned(),
            (_, Party::Other) => "others".to_owned(),
            (_, party) => party.name(*by).to_owned(),
        };
        let names = some.iter().take(MAX_NAMED).map(|line| format!("{} ({})", name(line), count(line)));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = if some.len() > MAX_NAMED { " and others" } else { "" };
        let whose = match by {
            By::Tracker => "Tokens for",
            By::Caller => "Issued for",
        };
        let _ = write!(sentences, " {whose} {names}{more}.");
    }
    sentences
}

/// The trackers at which logins were tried in the last hour and none worked.
fn silent_trackers(state: &PageState) -> Vec<Finding> {
    // Its window begins earlier than the hour's, too. Tokens that were shown then have nothing to do with this.
    let had_time: HashMap<_, _> = state
        .tracker_had_time
        .iter()
        .filter(|line| line.sum.handshakes() == 0)
        .map(|line| (&line.party, line.sum.issued))
        .collect();
    let mut silent: Vec<_> = trackers(state)
        .filter(|line| matches!(line.party, Party::Named(_)) && line.sum.good() == 0)
        .filter_map(|line| {
            // Where the store is shared, another server may redeem what this one issues.
            let had_time = if state.shared { None } else { had_time.get(&line.party).copied() };
            Some((line.last_good, silent_tracker(line, had_time.unwrap_or(0), state)?))
        })
        .collect();
    // A caller can have tokens for trackers that there are not: those at which logins worked once come first.
    silent.sort_by_key(|(last_good, _)| last_good.is_none());
    let more = silent.len().saturating_sub(MAX_NAMED);
    let mut findings: Vec<_> = silent.into_iter().take(MAX_NAMED).map(|(_, finding)| finding).collect();
    if more > 0 {
        findings.push(Finding {
            level: Level::WorthALook,
            what: format!(
                "No login at {} in the last hour",
                times(count(more), "more tracker", "more trackers")
            ),
            advice: "countersign events --by tracker has all.".to_owned(),
            link: None,
        });
    }
    findings
}

/// What this server did for each tracker in the last hour.
fn trackers(state: &PageState) -> impl Iterator<Item = &Line> {
    state.hour.iter().filter(|(by, _)| *by == By::Tracker).flat_map(|(_, lines)| lines)
}

/// `had_time` is how many tokens there were that it has had time to show.
fn silent_tracker(
    Line { party, last_good, sum }: &Line,
    had_time: u64,
    state: &PageState,
) -> Option<Finding> {
    let name = party.name(By::Tracker);
    let here = if state.shared { " by way of this server" } else { "" };
    let before =
        last_good.map_or(String::new(), |last| format!(" The last good one was at {}.", moment(last).text));
    let most = sum.reasons().max_by_key(|(_, count)| *count).and_then(|(reason, _)| Reason::of_label(reason));
    let (happened, advice) = match most {
        Some(reason) if sum.refused() >= MANY => {
            (format!("{} refused", times(sum.refused(), "handshake", "handshakes")), remedy(reason))
        }
        _ if sum.issued.min(had_time) >= MANY && sum.handshakes() == 0 => (
            format!("{} issued and none shown", times(sum.issued, "token", "tokens")),
            "the tracker does not ask this server, or not with these tokens. See whether it runs, whether its plugin has this \
             server's public URL, and whether it can reach that. If unattributed has handshakes that are unknown, something \
             changes tokens on the way.",
        ),
        _ => return None,
    };
    let link = filter_of(By::Tracker, party).filter(|_| sum.refused() > 0).map(|(filter, name)| {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("kind", KindFilter::Refused.label())
            .append_pair(filter, name)
            .append_pair("since", &counted_since(state.hour_since))
            .finish();
        (format!("?{query}#events-title"), "See the events.".to_owned())
    });
    Some(Finding {
        level: Level::WorthALook,
        what: format!("No login at {name}{here} in the last hour: {happened}"),
        advice: format!("{advice}{before}"),
        link,
    })
}

/// Advice for handshakes that are refused for this reason.
fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Method => {
            "the tracker does not POST. Its plugin is not made for this server, or a proxy redirects its request."
        }
        Reason::Unknown => "the tracker shows what is no token of this server. See which server issues them.",
        Reason::AudienceMissing => {
            "the tracker does not say which one it is. Set the base URL in its plugin, or update the plugin."
        }
        Reason::AudienceUnreadable => {
            "what the tracker says it is cannot be read. Mend the base URL in its plugin."
        }
        Reason::Expired => {
            "tokens come too late. See what holds up the worker or the tracker, or give tokens a longer life."
        }
        Reason::FromTheFuture => "tokens are from the future. Set the clocks of the servers that issue them.",
        Reason::Fenced => "tokens are from before the fence. Workers have to take new ones.",
        Reason::Revoked => "tokens were revoked before they were shown.",
    }
}

/// What happened to the fence and at the private API in the last hour.
fn private_api(state: &PageState) -> impl Iterator<Item = Finding> {
    let kinds = [
        (
            &state.fence_moves,
            ("move of the fence", "moves of the fence"),
            "every token issued before is refused. If nobody moved it, the store was restored, or another \
             database took over.",
            KindFilter::FenceMoved,
        ),
        (
            &state.guesses,
            ("wrong credential", "wrong credentials"),
            "the private API was sent a wrong secret or certificate: a program has an old one, or somebody guesses.",
            KindFilter::CredentialRejected,
        ),
        (
            &state.denials,
            ("request denied to a caller", "requests denied to callers"),
            "a caller asked for what its scopes, trackers or limits do not allow. Change the callers file if it needs that; \
             if not, ask who runs it, as its secret may be in other hands.",
            KindFilter::CallerDenied,
        ),
    ];
    kinds.into_iter().filter(|(recent, ..)| recent.count > 0).map(|(recent, (one, many), advice, kind)| {
        Finding {
            level: Level::WorthALook,
            what: format!("{} in the last hour", recent.times(one, many)),
            advice: advice.to_owned(),
            link: Some((
                format!("?kind={}&within=1h#events-title", kind.label()),
                "See the events.".to_owned(),
            )),
        }
    })
}

/// Everything to know, the worst first.
fn findings(state: &PageState) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(state.store_status.ready.as_ref().err().map(unready));

    // From the same source as the names beside them.
    let sum = |count: fn(&Sum) -> u64| saturating_sum(trackers(state).map(|line| count(&line.sum)));
    for (count, kind, one, many, advice) in [
        (
            sum(Sum::replays),
            KindFilter::Replay,
            "replay",
            "replays",
            "a used token was shown again. From the address of its first use, a tracker repeated its request; from \
             another one, somebody has got hold of a token.",
        ),
        (
            sum(Sum::relays),
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
            // The numbers go back some minutes further than an hour, and so does the list.
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("kind", kind.label())
                .append_pair("since", &counted_since(state.hour_since))
                .finish();
            let link = Some((format!("?{query}#events-title"), see));
            let advice = format!("{advice}{}", concerned(&state.hour, kind));
            findings.push(Finding { level: Level::Bad, what, advice, link });
        }
    }

    findings.extend(private_api(state));

    findings.extend(silent_trackers(state));

    let mut look = |what: String, advice: &str| {
        findings.push(Finding { level: Level::WorthALook, what, advice: advice.to_owned(), link: None });
    };
    let lately = saturating_sum(state.minutes.iter().rev().take(LATELY).map(Sum::unanswered));
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
                "{}. No handshake suffers. Fix that, and it recovers by itself.",
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
