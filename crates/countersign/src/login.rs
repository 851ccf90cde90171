//! `countersign login`: logs in to a bug tracker, as the issuer's worker does.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use countersign_client::{ClientError, PrivateApi, TokenRequest, Trace};
use countersign_core::{Clock, SystemClock};
use countersign_login::{
    CookieJarError, HttpSettings, Login, LoginError, Session, Tracker, Zeroizing, check_cookie_jar,
};
use jiff::SignedDuration;
use serde_json::Value;

use crate::output::{Failure, print, print_json};
use crate::remote::{ServerArgs, trace};
use crate::settings::{parse_audience, parse_duration};

pub(crate) const LOGIN_HELP: &str = "\
The command checks that the tracker and its plugin answer, gets a token from the server, shows it to the tracker, and prints \
the session:

  curl -H \"$(countersign login trac https://trac.example.org/)\" https://trac.example.org/

Or it keeps the session for many requests:

  countersign login bugzilla https://bugs.example.org/ --cookie-jar jar
  curl -b jar https://bugs.example.org/

The command ignores the proxy variables of the environment; use --proxy.";

/// Which tracker it is, and how it is reached.
#[derive(Args, Debug)]
pub(crate) struct TrackerArgs {
    /// The kind of tracker
    #[arg(value_name = "TRACKER", value_parser = tracker_parser())]
    pub(crate) tracker: Tracker,
    /// The tracker's base URL
    #[arg(value_name = "URL")]
    url: String,
    /// The base URL that the tracker states for itself, if it differs
    #[arg(long, value_name = "URL", value_parser = parse_audience, conflicts_with = "unbound")]
    audience: Option<String>,
    /// Use a token that is bound to no tracker, for plugins that do not state their URL; a hostile tracker can use it
    /// elsewhere
    #[arg(long)]
    unbound: bool,
    /// Certificate authorities (PEM) to trust for the tracker, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// An HTTP proxy that allows CONNECT, as http://HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Send the token to another machine over plain http, where anybody on the path can use it first
    #[arg(long)]
    allow_http: bool,
    /// How long to wait for each answer of the tracker, such as 30s or 2m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: SignedDuration,
}

/// Offers every kind of tracker there is.
pub(crate) fn tracker_parser() -> impl TypedValueParser<Value = Tracker> {
    PossibleValuesParser::new(Tracker::ALL.map(Tracker::name)).try_map(|name| name.parse::<Tracker>())
}

#[derive(Args, Debug)]
pub(crate) struct LoginCommand {
    #[command(flatten)]
    tracker: TrackerArgs,
    /// Write the session to a Netscape cookie jar, for curl -b; replaces another cookie jar
    #[arg(long, value_name = "FILE")]
    cookie_jar: Option<PathBuf>,
    /// Print the session as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: LoginCommand) -> Result<(), Failure> {
    let trace = trace();
    let login = command.tracker.login(trace.as_ref())?;
    // Check this first: it would fail only after the token is used.
    if let Some(path) = &command.cookie_jar {
        check_cookie_jar(path)?;
    }
    let session = log_in(&login, &command.server.connect()?).await?;
    if let Some(path) = &command.cookie_jar {
        session.write_cookie_jar(path)?;
    }
    // Standard output is for programs. The rest may get lost.
    let _ = writeln!(io::stderr(), "{}", report(&command, &session));
    if command.json {
        let document = serde_json::to_value(&session).map_err(Failure::failed)?;
        print_json(&document)
    } else if command.cookie_jar.is_none() {
        print(format!("Cookie: {}", session.cookie_header()))
    } else {
        Ok(())
    }
}

impl TrackerArgs {
    /// The login that the flags describe.
    pub(crate) fn login<'a>(&'a self, trace: Option<&'a Trace>) -> Result<Login<'a>, Failure> {
        let timeout = std::time::Duration::try_from(self.timeout)
            .ok()
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| Failure::usage("--timeout must be longer than nothing"))?;
        let login = Login::new(self.tracker, &self.url)?.http(HttpSettings {
            timeout,
            ca_file: self.ca_file.as_deref(),
            proxy: self.proxy.as_deref(),
            allow_http: self.allow_http,
            traceparent: trace.map(Trace::parent),
        });
        let is_bound_to_url = !self.unbound && self.audience.is_none();
        Ok(if is_bound_to_url { login } else { login.audience(self.audience.clone()) })
    }
}

/// Logs in with a new token of this issuer.
pub(crate) async fn log_in(login: &Login<'_>, issuer: &PrivateApi) -> Result<Session, LoginError> {
    login.run(SystemClock.now(), async |audience| new_token(issuer, audience).await).await
}

/// An answer without a token counts as an empty one, which the login refuses.
async fn new_token(issuer: &PrivateApi, audience: Option<&str>) -> Result<Zeroizing<String>, ClientError> {
    let request = TokenRequest { audience: audience.map(str::to_owned), ..TokenRequest::default() };
    let document = issuer.new_token(&request).await?;
    let token = document.get("token_id").and_then(Value::as_str).unwrap_or_default();
    Ok(Zeroizing::new(token.to_owned()))
}

/// What happened, for a person.
fn report(command: &LoginCommand, session: &Session) -> String {
    let user = session.user.as_deref().map(|user| format!(" as user {user}")).unwrap_or_default();
    let done = format!("Logged in to {}{user}.", session.url);
    match &command.cookie_jar {
        Some(path) => {
            let path = path.display();
            format!("{done} The session is in {path}; use it with: curl -b {path} {}", session.url)
        }
        None if command.json => done,
        None => format!(
            "{done} Whoever has this line has the session; use it with: curl -H 'LINE' {}",
            session.url
        ),
    }
}

impl From<LoginError> for Failure {
    fn from(error: LoginError) -> Self {
        if error.is_usage() { Self::usage(error) } else { Self::failed(error) }
    }
}

impl From<CookieJarError> for Failure {
    fn from(error: CookieJarError) -> Self {
        match error {
            CookieJarError::NotACookieJar(_) => Self::usage(error),
            CookieJarError::Io { .. } => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::stub_tracker::{StubTracker, plain};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        login: LoginCommand,
    }

    fn both() -> StubTracker {
        StubTracker::start(|request| match &*request.target {
            "/launchpad-auth/cs1token" => {
                plain("200 OK", "Set-Cookie: trac_auth=5e551on; Path=/; HttpOnly\r\n", "")
            }
            _ => plain("401 Unauthorized", "", ""),
        })
    }

    async fn login(both: &StubTracker, arguments: &[&str]) -> Result<(), Failure> {
        let line = ["login", "trac", &both.url, "--server", &both.url];
        run(Line::try_parse_from(line.iter().chain(arguments)).unwrap().login).await
    }

    #[tokio::test]
    async fn session_ends_up_in_the_cookie_jar() {
        let (both, directory) = (both(), TempDir::new().unwrap());
        let jar = directory.path().join("jar");
        login(&both, &["--cookie-jar", jar.to_str().unwrap()]).await.unwrap();
        let text = fs::read_to_string(jar).unwrap();
        assert!(text.ends_with("#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\ttrac_auth\t5e551on\n"), "{text}");
    }

    #[tokio::test]
    async fn token_is_bound_as_the_flags_say() {
        let both = both();
        login(&both, &[]).await.unwrap();
        login(&both, &["--audience", "https://trac.example.org/"]).await.unwrap();
        login(&both, &["--unbound"]).await.unwrap();
        let issued = both.calls("/v1/tokens");
        let here = format!(r#"{{"audience":"{}/"}}"#, both.url);
        assert_eq!(issued, [&*here, r#"{"audience":"https://trac.example.org/"}"#, "{}"]);
    }

    #[tokio::test]
    async fn unusable_jar_is_refused_before_any_request() {
        let (both, directory) = (both(), TempDir::new().unwrap());
        let precious = directory.path().join("thesis.txt");
        fs::write(&precious, "precious").unwrap();
        let failure = login(&both, &["--cookie-jar", precious.to_str().unwrap()]).await.unwrap_err();
        assert!(format!("{failure:?}").contains("code: 2"), "{failure:?}");
        assert_eq!(both.count(""), 0);
        assert_eq!(fs::read(precious).unwrap(), b"precious");
    }

    #[test]
    fn every_kind_of_tracker_can_be_named() {
        for tracker in Tracker::ALL {
            let line = Line::try_parse_from(["login", tracker.name(), "https://bugs.example.org/"]).unwrap();
            assert_eq!(line.login.tracker.tracker, tracker);
        }
        assert!(Line::try_parse_from(["login", "jira", "https://bugs.example.org/"]).is_err());
    }
}
