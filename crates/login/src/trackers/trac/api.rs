//! The methods `launchpad.*` at `{trac}/xmlrpc`, whose arguments are positional.

use std::collections::BTreeMap;

use async_trait::async_trait;
use dxr::Value as Argument;
use jiff::Timestamp;

use crate::api::{ApiError, ApiFailure, Bug, Comment, Part, PluginApi, PluginApiKind, Rejection};

const CHECK: &str = "launchpad-auth/check";

/// Levels of detail of `bug_info`.
const IDS_ONLY: i32 = 0;
const WITH_COMMENT_IDS: i32 = 2;

const BUG_INFO: &str = "launchpad.bug_info";

pub(super) struct TracApi;

#[async_trait]
impl PluginApiKind for TracApi {
    fn endpoint(&self) -> &'static str {
        "xmlrpc"
    }

    fn login_wanted(&self) -> Rejection<'static> {
        Rejection::Status(403)
    }

    fn missing_method(&self) -> &'static [&'static str] {
        &["-32601"]
    }

    fn missing_bug(&self) -> &'static [&'static str] {
        &["1001"]
    }

    fn remedy(&self, failure: &ApiFailure) -> Option<&'static str> {
        Some(match failure {
            ApiFailure::LoginWanted { .. } | ApiFailure::Fault { .. } | ApiFailure::Status { .. } => {
                "see that its user has the permissions LAUNCHPAD_RPC, TICKET_VIEW and TICKET_APPEND (trac-admin ENV launchpad \
                 check), and look into the log of the Trac"
            }
            ApiFailure::NoMethod { .. } => {
                "install the plugin countersign_trac, or a newer one, and let /xmlrpc through to it"
            }
            ApiFailure::PasswordAsked => "exempt /xmlrpc from that",
            _ => return None,
        })
    }

    fn is_read_without_session(&self) -> bool {
        false
    }

    fn check_id(&self, id: &str) -> Result<(), &'static str> {
        id.parse::<i32>().map(drop).map_err(|_| "is not the number of a ticket")
    }

    async fn find(&self, api: &PluginApi) -> Result<(), ApiError> {
        let error = |trouble| api.error(CHECK, trouble);
        let answer = api.get(CHECK).await.map_err(|trouble| error(trouble.into()))?;
        match answer.status.as_u16() {
            401 if answer.asks_for_password() => Err(error(ApiFailure::PasswordAsked)),
            401 => Ok(()),
            status => Err(error(ApiFailure::NoMethod { found: format!("HTTP status {status}, not 401") })),
        }
    }

    async fn time(&self, api: &PluginApi) -> Result<Timestamp, ApiError> {
        const METHOD: &str = "launchpad.time_snapshot";
        let value = api.call(METHOD, vec![]).await?;
        let [_zone, _local_time, utc_time] = Part::result(api, METHOD, &value).tuple()?;
        utc_time.seconds()
    }

    async fn bug(&self, api: &PluginApi, id: &str) -> Result<Option<Bug>, ApiError> {
        let value =
            api.call(BUG_INFO, vec![Argument::Integer(WITH_COMMENT_IDS), criteria(&[id], None)]).await?;
        let [_time, bugs] = Part::result(api, BUG_INFO, &value).tuple()?;
        let mut found = None;
        for bug in bugs.items()? {
            let status = bug.member("status")?.text()?;
            let given = bug.member("id")?;
            if status == "missing" {
                continue;
            }
            let text = given.id()?;
            let number = text.parse().map_err(|_| given.unusable("is not a number"))?;
            let resolution = bug.optional("resolution")?.filter(|resolution| !resolution.is_blank());
            let resolution = resolution.map(|resolution| resolution.text()).transpose()?;
            let resolution = resolution.filter(|text| *text != "--").unwrap_or_default();
            // Ids are compared with those that are stored, which are texts.
            let comments: Result<Vec<_>, _> =
                bug.member("comments")?.items()?.iter().map(|id| id.text().map(str::to_owned)).collect();
            if id.parse() == Ok(number) {
                found = Some(Bug {
                    id: id.to_owned(),
                    status: status.to_owned(),
                    resolution: resolution.to_owned(),
                    is_known_to_launchpad: is_known(status, resolution),
                    number,
                    comments: Some(comments?),
                    link: None,
                });
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
        let since = Argument::Integer(i32::try_from(since.as_second()).unwrap_or(i32::MAX));
        let criteria = criteria(ids, Some(("modified_since", since)));
        let value = api.call(BUG_INFO, vec![Argument::Integer(IDS_ONLY), criteria]).await?;
        let [_time, bugs] = Part::result(api, BUG_INFO, &value).tuple()?;
        bugs.items()?.iter().map(|bug| bug.member("id")?.text().map(str::to_owned)).collect()
    }

    async fn comments(&self, api: &PluginApi, bug: &Bug) -> Result<Vec<Comment>, ApiError> {
        const METHOD: &str = "launchpad.get_comments";
        let ids = bug.comments.as_deref().unwrap_or_default();
        let value = api.call(METHOD, vec![texts(ids.iter().map(String::as_str))]).await?;
        let result = Part::result(api, METHOD, &value);
        let [_time, comments] = result.tuple()?;
        let mut found = BTreeMap::new();
        for comment in comments.items()? {
            let id = comment.member("id")?.text()?.to_owned();
            let comment = Comment {
                id: id.clone(),
                author: comment.member("user")?.text()?.to_owned(),
                time: comment.member("timestamp")?.seconds()?,
                text: comment.member("comment")?.text()?.to_owned(),
            };
            found.insert(id, comment);
        }
        let missing = |id| result.unusable(format!("has no comment {id:?}, which is listed with the bug"));
        ids.iter().map(|id| found.remove(id).ok_or_else(|| missing(id))).collect()
    }

    async fn add_comment(&self, api: &PluginApi, bug: &Bug, text: &str) -> Result<String, ApiError> {
        const METHOD: &str = "launchpad.add_comment";
        let value = api.call(METHOD, vec![text_argument(&bug.id), text_argument(text)]).await?;
        let [_time, id] = Part::result(api, METHOD, &value).tuple()?;
        id.text().map(str::to_owned)
    }

    async fn link(&self, api: &PluginApi, id: &str) -> Result<Option<i32>, ApiError> {
        const METHOD: &str = "launchpad.get_launchpad_bug";
        let value = api.call(METHOD, vec![text_argument(id)]).await?;
        let [_time, number] = Part::result(api, METHOD, &value).tuple()?;
        Ok(Some(number.int()?).filter(|number| *number != 0))
    }

    async fn set_link(&self, api: &PluginApi, bug: &Bug, number: Option<i32>) -> Result<(), ApiError> {
        let number = Argument::Integer(number.unwrap_or(0));
        api.call("launchpad.set_launchpad_bug", vec![text_argument(&bug.id), number]).await.map(drop)
    }
}

/// With a criterion more than the ids, if there is one.
fn criteria(ids: &[&str], more: Option<(&str, Argument)>) -> Argument {
    let more = more.map(|(name, value)| (name.to_owned(), value));
    let bugs = ("bugs".to_owned(), texts(ids.iter().copied()));
    Argument::Struct(std::iter::once(bugs).chain(more).collect::<BTreeMap<_, _>>())
}

fn text_argument(text: &str) -> Argument {
    Argument::String(text.to_owned())
}

fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> Argument {
    Argument::Array(texts.map(text_argument).collect())
}

/// Whether Launchpad knows what this status and this resolution mean.
fn is_known(status: &str, resolution: &str) -> bool {
    KNOWN.contains(&if resolution.is_empty() { status } else { resolution })
}

/// The statuses and resolutions that Launchpad has a status of its own for. The resolution counts, and the status where there
/// is none.
const KNOWN: [&str; 12] = [
    "accepted",
    "assigned",
    "closed",
    "duplicate",
    "fixed",
    "fixverified",
    "invalid",
    "new",
    "open",
    "reopened",
    "wontfix",
    "worksforme",
];
