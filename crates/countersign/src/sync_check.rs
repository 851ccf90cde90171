//! `countersign sync-check`: reads a bug tracker as Launchpad would.

mod report;

use clap::Args;
use countersign_client::PrivateApi;
use countersign_core::{Clock, SystemClock};
use countersign_login::{ApiError, ApiFailure, Bug, Login, PluginApi, Session};

use self::report::{SyncReport, describe, list};
use crate::login::{TrackerArgs, log_in};
use crate::output::{Failure, print, print_json};
use crate::remote::{ServerArgs, trace};

pub(crate) const SYNC_CHECK_HELP: &str = "\
The command does with one bug what Launchpad does with many: it logs in with a token of the server, compares the clocks, reads \
the bug's status, comments and link, and finds out whether a comment could be added:

  countersign sync-check trac https://trac.example.org/ 42

Without --write the command changes nothing: it sets the bug's link to Launchpad to its present value. Each line says what \
Launchpad would see, or FAILED, with the reason and what to do.

Exit codes: 0 Launchpad could do its work with this bug, 1 it could not, 2 wrong usage.";

/// What `--write` adds.
const TEXT: &str =
    "This comment was added by \"countersign sync-check\", to see whether Launchpad could add one.";

#[derive(Args, Debug)]
pub(crate) struct SyncCheckCommand {
    #[command(flatten)]
    tracker: TrackerArgs,
    /// The number of the bug to read; a Bugzilla also takes its alias
    #[arg(value_name = "BUG")]
    bug: String,
    /// Add a comment to the bug and print its id
    #[arg(long)]
    write: bool,
    /// Print what was seen as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: SyncCheckCommand) -> Result<(), Failure> {
    let sight = see(&command).await?;
    if command.json {
        print_json(&sight.document())?;
    } else {
        print(sight.lines())?;
    }
    match sight.problems() {
        0 => Ok(()),
        problems => Err(Failure::failed(format!(
            "Launchpad could not do its work with this bug: {problems} of {} steps failed",
            sight.steps.len()
        ))),
    }
}

async fn see(command: &SyncCheckCommand) -> Result<SyncReport, Failure> {
    let trace = trace();
    let login = command.tracker.login(trace.as_ref())?;
    let mut api = login.plugin_api()?;
    api.check_id(&command.bug).map_err(|why| Failure::usage(format!("{:?} {why}", command.bug)))?;
    let session = enter(&login, &mut api, &command.server.connect()?).await?;
    let mut sight = SyncReport::new(&session);
    look(command, &login, &api, &mut sight).await?;
    Ok(sight)
}

/// Logs in, once it is sure that there is a plugin.
async fn enter(login: &Login<'_>, api: &mut PluginApi, issuer: &PrivateApi) -> Result<Session, Failure> {
    api.find().await.map_err(|error| Failure::failed(format!("{error}. No token was used")))?;
    let session = log_in(login, issuer).await?;
    api.use_session(&session).map_err(Failure::failed)?;
    Ok(session)
}

/// Takes every step that the one before has not made impossible.
async fn look(
    command: &SyncCheckCommand,
    login: &Login<'_>,
    api: &PluginApi,
    sight: &mut SyncReport,
) -> Result<(), Failure> {
    let before = SystemClock.now();
    let time = api.time().await;
    sight.compare_clocks(before, time, SystemClock.now());

    let bug = match api.bug(&command.bug).await {
        Ok(Some(bug)) => bug,
        Ok(None) => {
            let reason =
                format!("there is no bug {}, or the issuer's user may not see it; name another", command.bug);
            sight.step("bug", Err(reason));
            return Ok(());
        }
        Err(error) => {
            sight.step("bug", Err(error.to_string()));
            return Ok(());
        }
    };
    sight.step("bug", Ok(describe(&bug)));
    sight.bug = Some(bug.clone());

    match api.comments(&bug).await {
        Ok(comments) => {
            sight.step("comments", Ok(list(&comments)));
            sight.comments = Some(comments);
        }
        Err(error) => sight.step("comments", Err(error.to_string())),
    }

    match api.link(&bug.id).await {
        Ok(link) => {
            sight.link = link;
            let words =
                link.map_or_else(|| "none".to_owned(), |number| format!("to Launchpad's bug {number}"));
            // The tracker asks of a link what it asks of a comment, and this one is there already.
            let set = api.set_link(&bug, link).await;
            let can_be_set = set.is_ok();
            let reason = |error| format!("{words}, and cannot be set: {error}");
            sight.step("link", set.map_err(reason).map(|()| words.clone()));
            sight.without_session(&login.plugin_api()?, &bug).await;
            if !command.write {
                let result = if can_be_set {
                    Ok("could be added; --write adds one".to_owned())
                } else {
                    Err("could not be added, for the reason of the link; --write tries it all the same"
                        .to_owned())
                };
                sight.step("comment", result);
            }
        }
        Err(error) => sight.step("link", Err(error.to_string())),
    }
    if command.write {
        let added = add_comment(api, &bug).await;
        sight.step("comment", added.as_ref().map(|id| format!("added, as {id}")).map_err(Clone::clone));
        sight.added = added.ok();
    }
    Ok(())
}

/// Adds a comment, and looks whether it is there.
async fn add_comment(api: &PluginApi, bug: &Bug) -> Result<String, String> {
    let id = api.add_comment(bug, TEXT).await.map_err(|error| error.to_string())?;
    let lost = |reason: String| format!("added, as {id}, but it cannot be read: {reason}");
    let comments = async {
        let bug = api.bug(&bug.id).await?;
        match bug {
            Some(bug) => api.comments(&bug).await,
            None => Ok(vec![]),
        }
    };
    let comments = comments.await.map_err(|error: ApiError| lost(error.to_string()))?;
    if comments.iter().any(|comment| comment.id == id && comment.text.trim() == TEXT) {
        Ok(id)
    } else {
        Err(lost("the bug does not list it with its text; update the tracker's plugin".to_owned()))
    }
}

impl SyncReport {
    /// Launchpad comes without a session, and logs in only after a particular answer.
    async fn without_session(&mut self, stranger: &PluginApi, bug: &Bug) {
        if stranger.is_read_without_session() {
            let reason = match stranger.bug(&bug.id).await {
                Ok(Some(_)) => None,
                Ok(None) => Some("not everybody may see the bug".to_owned()),
                Err(error) => Some(error.seen()),
            };
            if let Some(reason) = reason {
                self.step("reading", Err(format!(
                    "{reason}; Launchpad reads without a session until it has written something, so let everybody see the \
                     bug, or leave requirelogin off"
                )));
            }
        }
        let result = match stranger.set_link(bug, self.link).await {
            Err(ApiError { trouble: ApiFailure::LoginWanted { .. }, .. }) => {
                Ok("asked for, by Launchpad's rules".to_owned())
            }
            Err(error) => Err(format!(
                "without a session {}, and Launchpad logs in on {} only; {}",
                error.seen(),
                stranger.login_wanted(),
                error.remedy()
            )),
            Ok(()) => Err("anybody can change links without a login; update the tracker's plugin".to_owned()),
        };
        self.step("a login", result);
    }
}

#[cfg(test)]
mod tests;
