//! The checks of the plugin API: uses it as Launchpad's worker does, and reports what Launchpad could not use.

use countersign_login::{ApiError, ApiFailure, Bug, Comment, Login, MAX_CLOCK_SKEW, PluginApi, Session};
use jiff::{SignedDuration, Timestamp};

use crate::check::Weight::{Must, Should};
use crate::check::{CheckKind, Judgement};
use crate::step::ApiStep;
use crate::{Check, CheckError, Checker};

/// No tracker has so many bugs.
const NO_BUG: &str = "999999999";

/// Numbers of Launchpad's own bugs; one of them is not the one that the bug is linked with.
const LINKS: [i32; 2] = [4711, 4712];

/// Every check of the plugin API, in the order in which they are made and shown.
pub const API_CHECKS: &[Check] = &[
    Check {
        name: "api-detection",
        rule: "Show that the API is there: answer 401 to launchpad-auth/check (Bugzilla: no fault to Launchpad.plugin_version).",
        risk: "Launchpad does without the plugin: it reads what a stranger sees, or nothing, and never writes.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Find),
    },
    Check {
        name: "api-asks-for-login",
        rule: "Answer a call that takes a login with HTTP status 403 (Bugzilla: fault 410) where there is no session.",
        risk: "Launchpad logs in after this answer and after no other.",
        weight: Must,
        how: CheckKind::Api(ApiStep::CallWithoutSession),
    },
    Check {
        name: "api-asks-again",
        rule: "Answer the same where the session is over or unknown.",
        risk: "Launchpad does not log in again, and all of its calls fail until it starts anew.",
        weight: Must,
        how: CheckKind::Api(ApiStep::CallWithOldSession),
    },
    Check {
        name: "api-reading",
        rule: "Let callers without a session read what everybody may see. (A Trac may ask for a login here, too.)",
        risk: "Launchpad reads a Bugzilla without a session until it has written something, and sees nothing.",
        weight: Must,
        how: CheckKind::Api(ApiStep::ReadWithoutSession),
    },
    Check {
        name: "api-login",
        rule: "Know the user by the cookies of the login, at the URL of the API.",
        risk: "Launchpad logs in for nothing: its calls are answered as before.",
        weight: Must,
        how: CheckKind::Api(ApiStep::LogIn),
    },
    Check {
        name: "api-time",
        rule: "Tell the time in UTC, and keep the clock right to ten minutes.",
        risk: "Launchpad works with no tracker whose clock it does not trust.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Time),
    },
    Check {
        name: "api-bug",
        rule: "Describe a bug with all that Launchpad reads of it, each in its type.",
        risk: "Launchpad cannot tell the status of any bug.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Bug),
    },
    Check {
        name: "api-status",
        rule: "Give statuses and resolutions the names that they have in a new Trac (in a Bugzilla: that they had before 4.0).",
        risk: "Launchpad takes the status for unknown.",
        weight: Should,
        how: CheckKind::Api(ApiStep::Status),
    },
    Check {
        name: "api-missing-bug",
        rule: "Describe a bug that is not there as missing, with fault 1001 where its link is asked for (Bugzilla: leave it out).",
        risk: "One bug that was deleted keeps Launchpad from all the others.",
        weight: Must,
        how: CheckKind::Api(ApiStep::MissingBug),
    },
    Check {
        name: "api-comments",
        rule: "List the ids of a bug's comments, and give each by its id, with author, time and text.",
        risk: "Launchpad imports no comment.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Comments),
    },
    Check {
        name: "api-add-comment",
        rule: "Add a comment with its text as it is, return its id, and list it under that.",
        risk: "Launchpad's comments are lost or garbled, or it imports its own.",
        weight: Must,
        how: CheckKind::Api(ApiStep::AddComment),
    },
    Check {
        name: "api-changes",
        rule: "Say which of the bugs have changed since a time, by the ids that were given, as strings.",
        risk: "Launchpad never hears of a change, or asks for all bugs each time.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Changes),
    },
    Check {
        name: "api-link",
        rule: "Keep the number of Launchpad's bug with a bug, and remove it for 0.",
        risk: "The bug does not lead to Launchpad's, or Launchpad links it anew in each run.",
        weight: Must,
        how: CheckKind::Api(ApiStep::Link),
    },
];

/// Goes through the API once. Later checks reuse what earlier ones found out.
pub(crate) struct ApiRun<'a> {
    checker: &'a Checker,
    id: &'a str,
    login: Login<'static>,
    stranger: PluginApi,
    /// The login, or why there is none.
    entered: Option<Result<LoggedIn, String>>,
    /// The text of the comment that was added.
    added: Option<String>,
}

/// The result of a login.
struct LoggedIn {
    session: Session,
    api: PluginApi,
}

impl<'a> ApiRun<'a> {
    pub(crate) fn new(checker: &'a Checker, id: &'a str) -> Result<Self, CheckError> {
        let login = checker.login()?;
        let stranger = login.plugin_api()?;
        Ok(Self { checker, id, login, stranger, entered: None, added: None })
    }

    pub(crate) async fn judge(&mut self, used: ApiStep) -> Judgement {
        match used {
            ApiStep::Find => self.stranger.find().await.map_err(seen).map(|()| "it is found".to_owned()),
            ApiStep::CallWithoutSession => self.call_without_session().await,
            ApiStep::CallWithOldSession => self.call_with_old_session().await,
            ApiStep::ReadWithoutSession => self.read_without_session().await,
            ApiStep::LogIn => self.log_in().await,
            ApiStep::Time => self.time().await,
            ApiStep::Bug => {
                let bug = self.read_bug().await?;
                Ok(format!("bug {} is {}", bug.id, status(&bug)))
            }
            ApiStep::Status => {
                let bug = self.bug().await?;
                if bug.is_known_to_launchpad {
                    Ok(format!("Launchpad knows what {} means", status(&bug)))
                } else {
                    Err(format!("Launchpad does not know what {} means", status(&bug)))
                }
            }
            ApiStep::MissingBug => self.missing_bug().await,
            ApiStep::Comments => {
                let bug = self.bug().await?;
                let comments = self.api().await?.comments(&bug).await.map_err(seen)?;
                Ok(format!("bug {} has {} comments", bug.id, comments.len()))
            }
            ApiStep::AddComment => self.add_comment().await,
            ApiStep::Changes => self.changes().await,
            ApiStep::Link => self.link().await,
        }
    }

    async fn entered(&mut self) -> Result<&LoggedIn, &str> {
        if self.entered.is_none() {
            self.entered = Some(self.enter().await);
        }
        match &self.entered {
            Some(entered) => entered.as_ref().map_err(String::as_str),
            None => Err("nothing happened"),
        }
    }

    async fn enter(&self) -> Result<LoggedIn, String> {
        let session = self.checker.log_in(&self.login).await?;
        let mut api = self.login.plugin_api().map_err(|error| error.to_string())?;
        api.use_session(&session).map_err(seen)?;
        Ok(LoggedIn { session, api })
    }

    /// The API, called with the session. Why there is none its own check says.
    async fn api(&mut self) -> Result<&PluginApi, String> {
        match self.entered().await {
            Ok(entered) => Ok(&entered.api),
            Err(_) => Err("it cannot be tried without a login; see api-login".to_owned()),
        }
    }

    /// The bug that it is tried with, as it is now. Why there is none its own check says.
    async fn bug(&mut self) -> Result<Bug, String> {
        self.api().await?;
        self.read_bug().await.map_err(|_| "it cannot be tried without a bug; see api-bug".to_owned())
    }

    async fn read_bug(&mut self) -> Result<Bug, String> {
        let id = self.id;
        let bug = self.api().await?.bug(id).await.map_err(seen)?;
        bug.ok_or_else(|| format!("there is no bug {id}, or the worker may not see it"))
    }

    async fn call_without_session(&mut self) -> Judgement {
        let bug = self.bug().await?;
        wants_login(&self.stranger, &bug, "without a session").await
    }

    async fn call_with_old_session(&mut self) -> Judgement {
        let bug = self.bug().await?;
        let mut session = self.entered().await?.session.clone();
        // A cookie with a number, as a Bugzilla has it, says whose session it is, and remains.
        for cookie in session.cookies.iter_mut().filter(|cookie| cookie.value.parse::<u32>().is_err()) {
            cookie.value =
                cookie.value.chars().map(|c| if c.is_ascii_alphanumeric() { '0' } else { c }).collect();
        }
        let mut late = self.login.plugin_api().map_err(|error| error.to_string())?;
        late.use_session(&session).map_err(seen)?;
        wants_login(&late, &bug, "with a session that it does not know").await
    }

    async fn read_without_session(&mut self) -> Judgement {
        if !self.stranger.is_read_without_session() {
            let title = self.checker.tracker().kind().title();
            return Ok(format!("to a {title} Launchpad logs in for reading, too"));
        }
        let id = self.id;
        match self.stranger.bug(id).await {
            Ok(Some(_)) => Ok(format!("without a session it describes bug {id}")),
            Ok(None) => Err(format!("without a session there is no bug {id}")),
            Err(error) => Err(format!("without a session {}", error.seen())),
        }
    }

    async fn log_in(&mut self) -> Judgement {
        let id = self.id;
        let LoggedIn { session, api } =
            self.entered().await.map_err(|reason| format!("the worker cannot log in: {reason}"))?;
        match use_all(api, id).await {
            Err(error) if matches!(error.trouble, ApiFailure::LoginWanted { .. }) => {
                Err(format!("it does not take the session that it has opened: {}", error.seen()))
            }
            // Other faults have checks of their own.
            Ok(()) | Err(_) => {
                let user = session.user.as_deref().unwrap_or("the worker");
                Ok(format!("it knows {user} by the session"))
            }
        }
    }

    async fn time(&mut self) -> Judgement {
        let time = self.api().await?.time().await.map_err(seen)?;
        let off = time.duration_since(self.checker.now()).abs();
        if off > MAX_CLOCK_SKEW {
            return Err(format!("its clock is off by {} s", off.as_secs()));
        }
        Ok("its clock is right to ten minutes".to_owned())
    }

    async fn missing_bug(&mut self) -> Judgement {
        let api = self.api().await?;
        if let Some(bug) = api.bug(NO_BUG).await.map_err(seen)? {
            return Err(format!("it says that bug {NO_BUG} is {}", status(&bug)));
        }
        match api.link(NO_BUG).await {
            Err(error) if matches!(error.trouble, ApiFailure::NoSuchBug { .. }) => {
                Ok(format!("it says that there is no bug {NO_BUG}"))
            }
            Err(error) => Err(format!("for bug {NO_BUG}, which is not there, {}", error.seen())),
            Ok(_) => Err(format!("it has a link for bug {NO_BUG}, which is not there")),
        }
    }

    /// With letters, signs and a second line that a careless plugin garbles.
    async fn add_comment(&mut self) -> Judgement {
        let bug = self.bug().await?;
        let now = self.checker.now();
        let text =
            format!("Added by countersign check-tracker at {now}.\n\nNaïve <b>&amp; \"quoted\"</b>? 雪");
        let api = self.api().await?;
        let before = api.comments(&bug).await.map_err(seen)?;
        let id = api.add_comment(&bug, &text).await.map_err(seen)?;
        if before.iter().any(|comment| comment.id == id) {
            return Err(format!("the new comment's id, {id:?}, is that of another comment"));
        }
        let bug = self.bug().await?;
        let comments = self.api().await?.comments(&bug).await.map_err(seen)?;
        let comment = comments.iter().find(|comment| comment.id == id);
        let comment =
            comment.ok_or_else(|| format!("it does not list the new comment under its id, {id:?}"))?;
        // Line ends are the tracker's own affair.
        if lines(&comment.text) != lines(&text) {
            return Err(format!("of the comment {text:?} it has made {:?}", comment.text));
        }
        self.is_recent(comment)?;
        self.added = Some(text);
        Ok(format!("it added a comment, {id}"))
    }

    fn is_recent(&self, comment: &Comment) -> Result<(), String> {
        if comment.author.trim().is_empty() {
            return Err("the new comment has no author".to_owned());
        }
        let off = comment.time.duration_since(self.checker.now()).abs();
        if off > MAX_CLOCK_SKEW { Err(format!("it dates the new comment {}", comment.time)) } else { Ok(()) }
    }

    async fn changes(&mut self) -> Judgement {
        if self.added.is_none() {
            self.add_comment().await?;
        }
        let id = self.id;
        let api = self.api().await?;
        let now = api.time().await.map_err(seen)?;
        let hour = SignedDuration::from_hours(1);
        let since = |time: Option<Timestamp>| time.unwrap_or(now);
        let lately =
            api.changed_since(&[id, NO_BUG], since(now.checked_sub(hour).ok())).await.map_err(seen)?;
        if !lately.iter().any(|changed| changed == id) {
            return Err(format!(
                "it does not say that bug {id} has changed, which got a comment a moment ago"
            ));
        }
        let later = api.changed_since(&[id], since(now.checked_add(hour).ok())).await.map_err(seen)?;
        if later.iter().any(|changed| changed == id) {
            return Err(format!("it says that bug {id} has changed since an hour from now"));
        }
        Ok(format!("it says that bug {id} has changed, which got a comment a moment ago"))
    }

    async fn link(&mut self) -> Judgement {
        let (id, bug) = (self.id, self.bug().await?);
        let api = self.api().await?;
        let before = api.link(id).await.map_err(seen)?;
        let mut judgement = Ok("it keeps a link, and removes it".to_owned());
        for link in LINKS.into_iter().filter(|link| Some(*link) != before).take(1).map(Some).chain([None]) {
            api.set_link(&bug, link).await.map_err(seen)?;
            let kept = api.link(id).await.map_err(seen)?;
            if kept != link && judgement.is_ok() {
                judgement = Err(format!("the link was set to {}, and is {}", shown(link), shown(kept)));
            }
        }
        if before.is_some() {
            api.set_link(&bug, before).await.map_err(seen)?;
        }
        judgement
    }
}

/// Reads, and writes what is there already.
async fn use_all(api: &PluginApi, id: &str) -> Result<(), ApiError> {
    let Some(bug) = api.bug(id).await? else { return Ok(()) };
    let link = api.link(id).await?;
    api.set_link(&bug, link).await
}

fn shown(link: Option<i32>) -> String {
    link.map_or_else(|| "none".to_owned(), |number| number.to_string())
}

/// Whether a comment that comes so is answered in the way that makes Launchpad log in.
async fn wants_login(api: &PluginApi, bug: &Bug, how: &str) -> Judgement {
    match api.add_comment(bug, "This comment must be refused.").await {
        Err(error) if matches!(error.trouble, ApiFailure::LoginWanted { .. }) => {
            Ok(format!("{how} it answers with {}", api.login_wanted()))
        }
        Err(error) => Err(format!("{how} {}, and Launchpad waits for {}", error.seen(), api.login_wanted())),
        Ok(_) => Err(format!("{how} it added a comment")),
    }
}

fn status(bug: &Bug) -> String {
    if bug.resolution.is_empty() { bug.status.clone() } else { format!("{} {}", bug.status, bug.resolution) }
}

fn lines(text: &str) -> Vec<&str> {
    text.trim().lines().map(str::trim_end).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is what errors are mapped with")]
fn seen(error: ApiError) -> String {
    error.seen()
}
