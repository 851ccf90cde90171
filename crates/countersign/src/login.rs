//! `countersign login`: be the issuer's worker for once, and log in to a bug tracker.

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
Makes sure that the tracker and its plugin are there, gets a token from the server, brings it to the tracker, and prints \
the session:

  curl -H \"$(countersign login trac https://trac.example.org/)\" https://trac.example.org/

or keeps it for many requests:

  countersign login bugzilla https://bugs.example.org/ --cookie-jar jar
  curl -b jar https://bugs.example.org/

Proxy variables of the environment are ignored; use --proxy.";

#[derive(Args, Debug)]
pub(crate) struct LoginCommand {
    /// Which kind of tracker it is
    #[arg(value_name = "TRACKER", value_parser = PossibleValuesParser::new(Tracker::ALL.map(Tracker::name)).try_map(|name| name.parse::<Tracker>()))]
    tracker: Tracker,
    /// The tracker's base URL
    #[arg(value_name = "URL")]
    url: String,
    /// The base URL by which the tracker knows itself, if that is another
    #[arg(long, value_name = "URL", value_parser = parse_audience, conflicts_with = "unbound")]
    audience: Option<String>,
    /// Use a token for no tracker in particular, for plugins too old to state their URL; a tracker can pass it on
    #[arg(long)]
    unbound: bool,
    /// Write the session to a Netscape cookie jar, for curl -b; replaces another cookie jar
    #[arg(long, value_name = "FILE")]
    cookie_jar: Option<PathBuf>,
    /// Print the session as JSON
    #[arg(long)]
    json: bool,
    /// A PEM file with certificate authorities to trust for the tracker, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// An HTTP proxy that allows CONNECT, as http://HOST:PORT
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Send the token over plain http to another machine, where whoever sees it first can use it
    #[arg(long)]
    allow_http: bool,
    /// How long the tracker may take for an answer, such as 30s or 2m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: SignedDuration,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: LoginCommand) -> Result<(), Failure> {
    let session = log_in(&command).await?;
    if let Some(path) = &command.cookie_jar {
        session.write_cookie_jar(path)?;
    }
    // Standard output is for programs. That the rest is lost when nobody reads it does no harm.
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

async fn log_in(command: &LoginCommand) -> Result<Session, Failure> {
    let timeout = std::time::Duration::try_from(command.timeout)
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| Failure::usage("--timeout must be longer than nothing"))?;
    // What could only fail once the token is spent is looked at before.
    if let Some(path) = &command.cookie_jar {
        check_cookie_jar(path)?;
    }
    let issuer = command.server.connect()?;
    let trace = trace();
    let http = HttpSettings {
        timeout,
        ca_file: command.ca_file.as_deref(),
        proxy: command.proxy.as_deref(),
        allow_http: command.allow_http,
        traceparent: trace.as_ref().map(Trace::parent),
    };
    let mut login = Login::new(command.tracker, &command.url)?.http(http);
    if command.unbound || command.audience.is_some() {
        login = login.audience(command.audience.clone());
    }
    Ok(login.run(SystemClock.now(), async |audience| new_token(&issuer, audience).await).await?)
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
    use std::io::{BufRead, BufReader, Read};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        login: LoginCommand,
    }

    /// A Trac and the private API of its issuer in one, and the first line and the body of each request to them.
    struct Both {
        url: String,
        requests: Arc<Mutex<Vec<String>>>,
    }

    fn both() -> Both {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &seen);
            }
        });
        Both { url, requests }
    }

    fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.to_ascii_lowercase().trim().strip_prefix("content-length:") {
                Some(value) => length = value.trim().parse().unwrap(),
                None if line.trim().is_empty() => break,
                None => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        seen.lock().unwrap().push(format!("{} {}", first.trim(), String::from_utf8(body).unwrap()));

        let json = "Content-Type: application/json\r\n";
        let cookie = "Set-Cookie: trac_auth=5e551on; Path=/; HttpOnly\r\n";
        let (status, header, body) = match first.split(' ').nth(1).unwrap() {
            "/v1/tokens" => ("201 Created", json, r#"{"token_id": "cs1token"}"#),
            "/launchpad-auth/cs1token" => ("200 OK", cookie, ""),
            _ => ("401 Unauthorized", "", ""),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{header}\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    }

    async fn login(both: &Both, arguments: &[&str]) -> Result<(), Failure> {
        let line = ["login", "trac", &both.url, "--server", &both.url];
        run(Line::try_parse_from(line.iter().chain(arguments)).unwrap().login).await
    }

    #[tokio::test]
    async fn the_session_ends_up_in_the_cookie_jar() {
        let (both, directory) = (both(), TempDir::new().unwrap());
        let jar = directory.path().join("jar");
        login(&both, &["--cookie-jar", jar.to_str().unwrap()]).await.unwrap();
        let text = fs::read_to_string(jar).unwrap();
        assert!(text.ends_with("#HttpOnly_127.0.0.1\tFALSE\t/\tFALSE\t0\ttrac_auth\t5e551on\n"), "{text}");
    }

    #[tokio::test]
    async fn the_token_is_bound_as_the_flags_say() {
        let both = both();
        login(&both, &[]).await.unwrap();
        login(&both, &["--audience", "https://trac.example.org/"]).await.unwrap();
        login(&both, &["--unbound"]).await.unwrap();
        let requests = both.requests.lock().unwrap();
        let issued: Vec<&str> =
            requests.iter().filter_map(|line| line.strip_prefix("POST /v1/tokens HTTP/1.1 ")).collect();
        let here = format!(r#"{{"audience":"{}/"}}"#, both.url);
        assert_eq!(issued, [here.as_str(), r#"{"audience":"https://trac.example.org/"}"#, "{}"]);
    }

    #[tokio::test]
    async fn nothing_is_asked_for_that_could_not_be_kept() {
        let (both, directory) = (both(), TempDir::new().unwrap());
        let precious = directory.path().join("thesis.txt");
        fs::write(&precious, "precious").unwrap();
        let failure = login(&both, &["--cookie-jar", precious.to_str().unwrap()]).await.unwrap_err();
        assert!(format!("{failure:?}").contains("code: 2"), "{failure:?}");
        assert_eq!(*both.requests.lock().unwrap(), [] as [&str; 0]);
        assert_eq!(fs::read(precious).unwrap(), b"precious");
    }

    #[test]
    fn every_kind_of_tracker_can_be_named() {
        for tracker in Tracker::ALL {
            let line = Line::try_parse_from(["login", tracker.name(), "https://bugs.example.org/"]).unwrap();
            assert_eq!(line.login.tracker, tracker);
        }
        assert!(Line::try_parse_from(["login", "jira", "https://bugs.example.org/"]).is_err());
    }
}
