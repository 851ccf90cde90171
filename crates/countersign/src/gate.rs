//! `countersign gate`: the tracker's side of the handshake, behind the tracker's reverse proxy.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use countersign_core::{Clock, OsEntropy, SystemClock};
use countersign_gate::{
    BoundGate, Config, Ended, Event, EventKind, EventQuery, Gate, Session, Sessions, WhichSessions,
};
use countersign_server::{ActivatedSockets, Address};
use jiff::SignedDuration;
use serde_json::json;
use tokio::sync::Notify;

use crate::events::{ago, parse_period};
use crate::log;
use crate::output::{Failure, note, print, print_json};
use crate::serve::{Signals, raise_descriptor_limit};
use crate::service_manager;
use crate::settings::LogFormat;

pub(crate) const GATE_HELP: &str = "\
A worker shows a login token to the gate, which asks the issuer and opens a session. For each request to the tracker the \
reverse proxy asks the gate who sends it, and passes the user's name on to the tracker. docs/gate.md has samples for proxies, \
and what each tracker needs.

Standard output gets one line, `gate http://ADDRESS:PORT` or `gate unix:PATH`, when the gate is ready. SIGTERM and Ctrl-C stop it after the \
requests under way.";

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct GateCommand {
    #[command(subcommand)]
    action: Option<GateAction>,
    #[command(flatten)]
    serve: GateArgs,
}

#[derive(Args, Debug)]
struct GateArgs {
    #[command(flatten)]
    config: GateConfig,
    /// Listen on this address instead of the configured one: ADDRESS:PORT, where port 0 takes any free port, unix:PATH or
    /// systemd:NAME
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    /// How lines of the log look: human or json [default: human]
    #[arg(long, value_name = "FORMAT", value_enum, hide_possible_values = true)]
    log_format: Option<LogFormat>,
}

#[derive(Args, Debug)]
struct GateConfig {
    /// The gate's configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/countersign/gate.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum GateAction {
    /// List or end the sessions of the gates on one data directory
    #[command(subcommand)]
    Sessions(SessionsAction),
    /// List what happened: logins, refusals, and sessions that were ended; the oldest first
    #[command(after_help = EVENTS_HELP)]
    Events(EventsArgs),
}

const EVENTS_HELP: &str = "\
Kinds: login, login-refused, request-refused, session-ended. Several are separated by commas.

The gates on one data directory record events for 30 days, and a refusal until 100,000 further events have come. Of refusals of \
one reason each gate records 20 a minute; the next one says how many were left out. A request that brings no session is no event.";

#[derive(Args, Debug)]
struct EventsArgs {
    #[command(flatten)]
    config: GateConfig,
    /// Only events of this last period, such as 90s, 5m, 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_period)]
    since: Option<SignedDuration>,
    /// Only these kinds, separated by commas
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    kind: Vec<EventKind>,
    /// Print at most this many, the newest; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// Print each event as one line of JSON
    #[arg(long)]
    json: bool,
}

fn parse_kind(label: &str) -> Result<EventKind, String> {
    let known = EventKind::ALL.map(EventKind::label);
    EventKind::ALL
        .into_iter()
        .find(|kind| kind.label() == label)
        .ok_or_else(|| format!("the kinds are {}", known.join(", ")))
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    /// List the sessions that have not ended, the newest first
    List(ListArgs),
    /// End sessions; every gate rejects their cookies from then on
    End(EndArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    config: GateConfig,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct EndArgs {
    #[command(flatten)]
    config: GateConfig,
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct WhichArgs {
    /// The session's id, as `list` shows it
    #[arg(value_name = "SESSION")]
    session: Option<String>,
    /// All sessions of this issuer
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// All sessions
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(command: GateCommand) -> Result<(), Failure> {
    match command.action {
        None => serve(command.serve).await,
        Some(GateAction::Sessions(SessionsAction::List(args))) => list(args).await,
        Some(GateAction::Sessions(SessionsAction::End(args))) => end(args).await,
        Some(GateAction::Events(args)) => events(args).await,
    }
}

async fn serve(args: GateArgs) -> Result<(), Failure> {
    let mut config = args.config.read()?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    let listen = config.listen.clone();
    let log = log::start(args.log_format.unwrap_or(LogFormat::Human))?;
    let signals = Signals::catch()?;
    raise_descriptor_limit()?;
    let gate = Gate::open(config, Arc::new(SystemClock), Arc::new(OsEntropy))
        .map_err(|error| Failure::usage(format!("the gate of {}: {error}", args.config.config.display())))?;
    let bound = BoundGate::bind(gate, &mut ActivatedSockets::from_environment()).await.map_err(|error| {
        let next = match listen {
            // The error says what to do.
            Address::Systemd(_) => "",
            _ => "; stop the program that uses it, or choose another address with --listen",
        };
        Failure::failed(format!("cannot listen on {listen}: {error}{next}"))
    })?;
    let address = bound.address().map_err(Failure::failed)?;
    print(match address {
        Address::Tcp(address) => format!("gate http://{address}"),
        other => format!("gate {other}"),
    })?;
    service_manager::tell(service_manager::READY);
    bound.run(signals.stop(Arc::new(Notify::new()))).await;
    tracing::info!("stopped");
    drop(log);
    Ok(())
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let sessions = args.config.sessions()?.list(SystemClock.now()).await.map_err(Failure::failed)?;
    if args.json {
        return print_json(&sessions.iter().map(document).collect());
    }
    let mut lines = vec![format!(
        "{:16}  {:20}  {:20}  {:20}  {}",
        "session", "began", "ends", "issuer", "user, address"
    )];
    lines.extend(sessions.iter().map(|session| {
        let peer = session.peer.as_deref().unwrap_or("-");
        let Session { id, began, ends, issuer, user, .. } = session;
        format!("{id:16}  {began:.0}  {ends:.0}  {issuer:20}  {user}, {peer}")
    }));
    print(lines.join("\n"))
}

fn document(session: &Session) -> serde_json::Value {
    json!({
        "session": session.id,
        "tracker": session.tracker,
        "issuer": session.issuer,
        "user": session.user,
        "address": session.peer,
        "date_began": session.began,
        "date_expires": session.ends,
    })
}

async fn end(args: EndArgs) -> Result<(), Failure> {
    let WhichArgs { session, issuer, .. } = args.which;
    let named = session.is_some();
    let which = match (session, issuer) {
        (Some(session), _) => WhichSessions::Id(session),
        (None, Some(issuer)) => WhichSessions::Issuer(issuer),
        (None, None) => WhichSessions::All,
    };
    let ended = args.config.sessions()?.end(which, SystemClock.now()).await.map_err(Failure::failed)?;
    let Ended { number, unrecorded } = ended;
    if named && number == 0 {
        return Err(Failure::failed(
            "there is no session of this id, or it has ended already; `countersign gate sessions list` shows all",
        ));
    }
    if let Some(error) = unrecorded {
        note(format!("the sessions are over, but `countersign gate events` will not show it: {error}"));
    }
    print(format!("ended {number}"))
}

async fn events(args: EventsArgs) -> Result<(), Failure> {
    let query = EventQuery {
        since: ago(args.since, "--since")?,
        kinds: args.kind,
        limit: Some(args.limit).filter(|limit| *limit > 0),
    };
    let events = args.config.sessions()?.events(query).await.map_err(Failure::failed)?;
    if events.is_empty() {
        return if args.json { Ok(()) } else { print("no events") };
    }
    let line = |event: &Event| {
        if args.json { serde_json::to_string(event).unwrap_or_default() } else { sentence(event) }
    };
    print(events.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn sentence(event: &Event) -> String {
    let Event { at, kind, reason, issuer, user, session, address, left_out } = event;
    let mut parts = vec![format!("{at:.0}  {kind:15}"), reason.clone().unwrap_or_else(|| "-".to_owned())];
    for (name, value) in [("issuer", issuer), ("user", user), ("session", session), ("address", address)] {
        parts.extend(value.as_ref().map(|value| format!("{name}={value}")));
    }
    if *left_out > 0 {
        parts.push(format!("({left_out} more before it)"));
    }
    parts.join("  ")
}

impl GateConfig {
    fn read(&self) -> Result<Config, Failure> {
        let path = self.config.display();
        Config::read(&self.config)
            .map_err(|error| Failure::usage(format!("configuration file {path}, {error}")))
    }

    fn sessions(&self) -> Result<Sessions, Failure> {
        Sessions::open_existing(&self.read()?.data_dir).map_err(Failure::failed)
    }
}
