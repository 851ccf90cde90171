//! The methods `Launchpad.*` at `{bugzilla}/xmlrpc.cgi`, whose arguments are in one struct.

use async_trait::async_trait;
use countersign_xmlrpc::ResponseValue as Value;
use dxr::Value as Argument;
use jiff::Timestamp;

use super::{ENDPOINT, NO_SUCH_METHOD};
use crate::api::{ApiError, ApiFailure, Bug, Comment, Part, PluginApi, PluginApiKind, Rejection};
use crate::error::TrackerMessage;

const GET_BUGS: &str = "Launchpad.get_bugs";

const COMMENTS: &str = "Launchpad.comments";

pub(super) struct BugzillaApi;

#[async_trait]
impl PluginApiKind for BugzillaApi {
    fn endpoint(&self) -> &'static str {
        ENDPOINT
    }

    fn login_wanted(&self) -> Rejection<'static> {
        Rejection::Fault("410")
    }

    fn missing_method(&self) -> &'static [&'static str] {
        NO_SUCH_METHOD
    }

    fn missing_bug(&self) -> &'static [&'static str] {
        &["100", "101", "102"]
    }

    fn remedy(&self, failure: &ApiFailure) -> Option<&'static str> {
        Some(match failure {
            ApiFailure::LoginWanted { .. } | ApiFailure::Fault { .. } | ApiFailure::Status { .. } => {
                "see what the account that launchpad_user names may see and change, and look into the log of the web server"
            }
            ApiFailure::NoMethod { .. } => "install the extension Launchpad, or a newer one",
            ApiFailure::PasswordAsked => "exempt /xmlrpc.cgi from that",
            _ => return None,
        })
    }

    fn is_read_without_session(&self) -> bool {
        true
    }

    async fn find(&self, api: &PluginApi) -> Result<(), ApiError> {
        api.call("Launchpad.plugin_version", vec![]).await.map(drop)
    }

    async fn time(&self, api: &PluginApi) -> Result<Timestamp, ApiError> {
        const METHOD: &str = "Launchpad.time";
        let value = api.call(METHOD, vec![]).await?;
        Part::result(api, METHOD, &value).member("utc_time")?.date()
    }

    async fn bug(&self, api: &PluginApi, id: &str) -> Result<Option<Bug>, ApiError> {
        let value = get_bugs(api, &[id], None).await?;
        let mut found = None;
        for bug in Part::result(api, GET_BUGS, &value).member("bugs")?.items()? {
            let number = bug.member("id")?.int()?;
            for name in ["priority", "severity", "product"] {
                bug.member(name)?.text()?;
            }
            let aliases = aliases(&bug)?;
            let status = bug.member("status")?.text()?;
            let resolution = bug.member("resolution")?.text()?;
            let described = Bug {
                id: id.to_owned(),
                status: status.to_owned(),
                resolution: resolution.to_owned(),
                is_known_to_launchpad: is_known(status, resolution),
                number,
                comments: None,
                link: link_of(&bug)?,
            };
            if id.parse() == Ok(number) || aliases.contains(&id) {
                found = Some(described);
            }
        }
        Ok(found)
    }

    async fn changed_since(
        &self,
        api: &PluginApi,
        ids: &[&str],
        since: Timestamp,
    ) -> Result<Vec<String>, ApiError> {
        let since = since.strftime("%Y%m%dT%H:%M:%S").to_string();
        // A year of more than four digits does not fit, and nothing has changed since then.
        let Ok(since) = since.parse() else { return Ok(vec![]) };
        let value = get_bugs(api, ids, Some(("changed_since", Argument::DateTime(since)))).await?;
        let bugs = Part::result(api, GET_BUGS, &value).member("bugs")?.items()?;
        // They are compared with the ids that were given, which are strings.
        bugs.iter().map(|bug| bug.member("id")?.text().map(str::to_owned)).collect()
    }

    async fn comments(&self, api: &PluginApi, bug: &Bug) -> Result<Vec<Comment>, ApiError> {
        let fields = Argument::Array(vec![Argument::String("id".to_owned())]);
        let value = get_comments(api, bug, ("include_fields", fields)).await?;
        let ids: Vec<i32> = of_bug(api, bug, &value)?
            .iter()
            .map(|comment| comment.member("id")?.int())
            .collect::<Result<_, _>>()?;

        let asked = Argument::Array(ids.iter().copied().map(Argument::Integer).collect());
        let value = get_comments(api, bug, ("ids", asked)).await?;
        let mut comments = Vec::new();
        for comment in of_bug(api, bug, &value)? {
            let author = match comment.optional("creator")? {
                Some(creator) => creator,
                None => comment.member("author")?,
            };
            comments.push((
                comment.member("id")?.int()?,
                Comment {
                    id: comment.member("id")?.id()?,
                    author: author.text()?.to_owned(),
                    time: comment.member("time")?.date()?,
                    text: comment.member("text")?.text()?.to_owned(),
                },
            ));
        }
        let result = Part::result(api, COMMENTS, &value);
        let missing = |id| result.unusable(format!("has no comment {id}, which is listed with the bug"));
        let find =
            |id: &i32| comments.iter().find(|(other, _)| other == id).map(|(_, comment)| comment.clone());
        ids.iter().map(|id| find(id).ok_or_else(|| missing(id))).collect()
    }

    async fn add_comment(&self, api: &PluginApi, bug: &Bug, text: &str) -> Result<String, ApiError> {
        const METHOD: &str = "Launchpad.add_comment";
        let members = [("id", Argument::Integer(bug.number)), ("comment", Argument::String(text.to_owned()))];
        let value = api.call(METHOD, structure(members)).await?;
        Part::result(api, METHOD, &value).member("comment_id")?.id()
    }

    /// The bug's answer includes the link.
    async fn link(&self, api: &PluginApi, id: &str) -> Result<Option<i32>, ApiError> {
        match self.bug(api, id).await? {
            Some(bug) => Ok(bug.link),
            None => Err(api.error(GET_BUGS, ApiFailure::NoSuchBug { said: TrackerMessage::default() })),
        }
    }

    async fn set_link(&self, api: &PluginApi, bug: &Bug, link: Option<i32>) -> Result<(), ApiError> {
        let members =
            [("id", Argument::Integer(bug.number)), ("launchpad_id", Argument::Integer(link.unwrap_or(0)))];
        api.call("Launchpad.set_link", structure(members)).await.map(drop)
    }
}

/// With a member more than the ids, if there is one.
async fn get_bugs(api: &PluginApi, ids: &[&str], more: Option<(&str, Argument)>) -> Result<Value, ApiError> {
    let ids = Argument::Array(ids.iter().map(|id| Argument::String((*id).to_owned())).collect());
    let members = [("ids", ids), ("permissive", Argument::Boolean(true))];
    api.call(GET_BUGS, structure(members.into_iter().chain(more))).await
}

/// Before Bugzilla 5.0 it was a string, and later it is a list.
fn aliases<'a>(bug: &Part<'a>) -> Result<Vec<&'a str>, ApiError> {
    let Some(alias) = bug.optional("alias")?.filter(|alias| !alias.is_blank()) else { return Ok(vec![]) };
    match alias.text() {
        Ok(alias) => Ok(vec![alias]),
        Err(_) => alias.items()?.iter().map(Part::text).collect(),
    }
}

fn link_of(bug: &Part<'_>) -> Result<Option<i32>, ApiError> {
    let Some(internals) = bug.optional("internals")? else { return Ok(None) };
    let link = internals.optional("launchpad_id")?.filter(|link| !link.is_blank());
    Ok(link.map(|link| link.int()).transpose()?.filter(|number| *number != 0))
}

async fn get_comments(api: &PluginApi, bug: &Bug, more: (&str, Argument)) -> Result<Value, ApiError> {
    let bugs = Argument::Array(vec![Argument::Integer(bug.number)]);
    api.call(COMMENTS, structure([("bug_ids", bugs), more])).await
}

fn of_bug<'a>(api: &'a PluginApi, bug: &Bug, value: &'a Value) -> Result<Vec<Part<'a>>, ApiError> {
    Part::result(api, COMMENTS, value).member("bugs")?.member(&bug.number.to_string())?.items()
}

fn structure<'a>(members: impl IntoIterator<Item = (&'a str, Argument)>) -> Vec<Argument> {
    vec![Argument::Struct(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())]
}

/// Whether Launchpad knows what this status and this resolution mean.
fn is_known(status: &str, resolution: &str) -> bool {
    OPEN.contains(&status) || (CLOSED.contains(&status) && RESOLUTIONS.contains(&resolution))
}

/// Of an open bug the status counts ...
const OPEN: [&str; 20] = [
    "ASSIGNED",
    "DEFERRED",
    "FAILS_QA",
    "MODIFIED",
    "NEEDINFO",
    "NEEDINFO_REPORTER",
    "NEEDSINFO",
    "NEW",
    "ON_DEV",
    "ON_QA",
    "PENDINGUPLOAD",
    "PLEASETEST",
    "REJECTED",
    "RELEASE_PENDING",
    "REOPENED",
    "STARTED",
    "SUSPENDED",
    "UNCONFIRMED",
    "UPSTREAM",
    "WAITING",
];

/// ... and with one of these the resolution.
const CLOSED: [&str; 3] = ["CLOSED", "RESOLVED", "VERIFIED"];

const RESOLUTIONS: [&str; 24] = [
    "CANTFIX",
    "CODE_FIX",
    "CURRENTRELEASE",
    "DEFERRED",
    "DOCUMENTED",
    "DUPLICATE",
    "EOL",
    "ERRATA",
    "EXPIRED",
    "FIXED",
    "INCOMPLETE",
    "INSUFFICIENT_DATA",
    "INVALID",
    "NEXTRELEASE",
    "NOTABUG",
    "NOTOURBUG",
    "OBSOLETE",
    "PATCH_ALREADY_AVAILABLE",
    "RAWHIDE",
    "UNREPRODUCIBLE",
    "UPSTREAM",
    "WILL_NOT_FIX",
    "WONTFIX",
    "WORKSFORME",
];
