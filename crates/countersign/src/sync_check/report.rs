//! What `countersign sync-check` saw, for a person and as JSON.

use countersign_login::{ApiError, Bug, Comment, MAX_CLOCK_SKEW, Session, Tracker, printable};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// How much of a comment is shown, in characters.
const SHOWN: usize = 200;

/// What Launchpad would see.
pub(super) struct SyncReport {
    pub(super) tracker: Tracker,
    pub(super) url: String,
    pub(super) user: Option<String>,
    pub(super) clock: Option<(Timestamp, SignedDuration)>,
    pub(super) bug: Option<Bug>,
    pub(super) link: Option<i32>,
    pub(super) comments: Option<Vec<Comment>>,
    pub(super) added: Option<String>,
    /// Each with what came of it.
    pub(super) steps: Vec<(&'static str, Result<String, String>)>,
}

impl SyncReport {
    pub(super) fn new(session: &Session) -> Self {
        let user = session.user.as_ref().map(|user| format!(" as user {user}")).unwrap_or_default();
        Self {
            tracker: session.tracker,
            url: session.url.to_string(),
            user: session.user.clone(),
            clock: None,
            bug: None,
            link: None,
            comments: None,
            added: None,
            steps: vec![("login", Ok(format!("logged in to {}{user}", session.url)))],
        }
    }

    pub(super) fn step(&mut self, name: &'static str, result: Result<String, String>) {
        self.steps.push((name, result));
    }

    pub(super) fn problems(&self) -> usize {
        self.steps.iter().filter(|(_, result)| result.is_err()).count()
    }

    /// The tracker tells whole seconds, cut off or rounded: what lies between the question and the answer, or a second beside it,
    /// is the same time.
    pub(super) fn compare_clocks(
        &mut self,
        before: Timestamp,
        time: Result<Timestamp, ApiError>,
        after: Timestamp,
    ) {
        let time = match time {
            Ok(time) => time,
            Err(error) => return self.step("clock", Err(error.to_string())),
        };
        let second = SignedDuration::from_secs(1);
        let (ahead, behind) = (time.duration_since(after), before.duration_since(time));
        let difference = if ahead > second {
            ahead
        } else if behind > second {
            -behind
        } else {
            SignedDuration::ZERO
        };
        self.clock = Some((time, difference));
        let seconds = difference.as_secs_f64().abs().ceil();
        let far = difference.unsigned_abs() > MAX_CLOCK_SKEW.unsigned_abs();
        let words = match difference.signum() {
            0 => "agrees with this machine's".to_owned(),
            1 => format!("is {seconds} s ahead of this machine's"),
            _ => format!("is {seconds} s behind this machine's"),
        };
        let result = if far {
            Err(format!("{words}, and Launchpad accepts ten minutes; set both clocks by NTP"))
        } else {
            Ok(words)
        };
        self.step("clock", result);
    }

    pub(super) fn lines(&self) -> String {
        let line = |(name, result): &(&str, Result<String, String>)| match result {
            Ok(seen) => format!("{name:<9} {seen}"),
            Err(reason) => format!("{name:<9} FAILED: {reason}"),
        };
        self.steps.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn document(&self) -> Value {
        let comment = |comment: &Comment| json!({"id": comment.id, "author": comment.author, "time": comment.time, "text": comment.text});
        let comments =
            self.comments.as_ref().map(|comments| comments.iter().map(comment).collect::<Vec<_>>());
        let could = self.steps.iter().find(|(step, _)| *step == "comment").map(|(_, result)| result.is_ok());
        let problems: Vec<Value> = self
            .steps
            .iter()
            .filter_map(|(step, result)| Some(json!({"step": step, "problem": result.as_ref().err()?})))
            .collect();
        json!({
            "tracker": self.tracker,
            "url": self.url,
            "user": self.user,
            "time": self.clock.map(|(time, _)| time),
            "seconds_ahead": self.clock.map(|(_, difference)| difference.as_secs_f64()),
            "bug": self.bug.as_ref().map(|bug| json!({
                "id": bug.id,
                "status": bug.status,
                "resolution": bug.resolution,
                "is_known_to_launchpad": bug.is_known_to_launchpad,
                "launchpad_bug": self.link,
            })),
            "comments": comments,
            "comment_can_be_added": could,
            "comment_added": self.added,
            "problems": problems,
        })
    }
}

pub(super) fn describe(bug: &Bug) -> String {
    let resolution = if bug.resolution.is_empty() { String::new() } else { format!(", {}", bug.resolution) };
    let known = if bug.is_known_to_launchpad {
        ""
    } else {
        " (Launchpad does not know this status, and takes it for unknown)"
    };
    format!(
        "{}: {}{known}",
        printable(&bug.id, SHOWN),
        printable(&format!("{}{resolution}", bug.status), SHOWN)
    )
}

pub(super) fn list(comments: &[Comment]) -> String {
    let comment = |comment: &Comment| {
        format!(
            "\n  {}  {}  {}: {}",
            printable(&comment.id, SHOWN),
            comment.time,
            printable(&comment.author, SHOWN),
            printable(&comment.text, SHOWN)
        )
    };
    format!("{}{}", comments.len(), comments.iter().map(comment).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_rounded_to_a_second_agrees() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (before, after) = (at("2026-11-30T05:16:23.6Z"), at("2026-11-30T05:16:23.7Z"));
        for (time, expected) in [
            ("2026-11-30T05:16:23Z", "agrees with this machine's"),
            ("2026-11-30T05:16:24Z", "agrees with this machine's"),
            ("2026-11-30T05:16:22Z", "is 2 s behind this machine's"),
            ("2026-11-30T05:16:25Z", "is 2 s ahead of this machine's"),
            ("2026-11-30T05:26:23Z", "is 600 s ahead of this machine's"),
        ] {
            let session = Session {
                tracker: Tracker::Trac,
                url: "http://h/".parse().unwrap(),
                user: None,
                cookies: vec![],
            };
            let mut sight = SyncReport::new(&session);
            sight.compare_clocks(before, Ok(at(time)), after);
            assert_eq!(sight.steps.pop().unwrap().1, Ok(expected.to_owned()), "{time}");
        }
    }
}
