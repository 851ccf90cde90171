//! `countersign callers`: new, list, rotate and remove.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use countersign_core::{CallerName, OsEntropy};
use countersign_server::{
    AudiencePattern, CallerRule, CallersFile, CertificateName, HttpsUrl, IssuerUrl, JwtRule, Scope,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::output::{Failure, note, print, print_json};
use crate::settings::{ServeArgs, parse_duration};
use crate::token::whole_seconds;

pub(crate) const CALLERS_HELP: &str = "\
The commands change the callers file, and a running server takes up the change within two seconds. A secret is printed once, alone \
on a line of standard output; the file has only its hash.

  umask 077
  countersign callers new worker-eu --scope issue --audience https://bugs.example.org/ >worker-eu.secret
  countersign token new --private-bearer-file worker-eu.secret";

#[derive(Debug, Subcommand)]
pub(crate) enum CallersCommand {
    /// Add a caller, and print its secret
    New(Box<NewArgs>),
    /// List the callers, and what each may do
    List(ListArgs),
    /// Give a caller another secret, and print it; the one before stays valid until --finish
    Rotate(RotateArgs),
    /// Remove a caller; its tokens stay good until they expire
    Remove(RemoveArgs),
}

/// Which file.
#[derive(Args, Debug)]
pub(crate) struct CallersPlace {
    /// The callers file [default: the one that the configuration file names]
    #[arg(long, env = "COUNTERSIGN_CALLERS_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Its name: lower-case letters, digits, - and _
    #[arg(value_name = "NAME")]
    name: CallerName,
    /// What it may do: issue, look, revoke, events or admin; repeat the flag for more
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<Scope>,
    /// A name in the client certificate that it shows instead of a secret: dns:NAME, uri:URI, email:ADDRESS or cn:NAME;
    /// repeat the flag for more [default: none; it gets a secret]
    #[arg(long = "certificate", value_name = "NAME")]
    certificates: Vec<CertificateName>,
    #[command(flatten)]
    jwt: JwtArgs,
    /// A tracker for which it may issue tokens: its base URL, or one with /* at its end for everything below; repeat
    /// the flag for more [default: all trackers, and unbound tokens]
    #[arg(long = "audience", value_name = "URL")]
    audiences: Vec<AudiencePattern>,
    /// The longest lifetime of its tokens, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_lifetime: Option<SignedDuration>,
    /// How many tokens it may issue in a minute
    #[arg(long, value_name = "NUMBER")]
    tokens_per_minute: Option<NonZeroU32>,
    /// Tell trackers its name, as the claim `caller`
    #[arg(long)]
    tell_trackers: bool,
    #[command(flatten)]
    place: CallersPlace,
}

/// The JWT that a caller shows instead of a secret.
#[derive(Args, Debug)]
pub(crate) struct JwtArgs {
    /// The issuer of the JWT that it shows instead of a secret, as the JWT has it as `iss`: an https URL
    /// [default: none; it gets a secret]
    #[arg(long = "jwt-issuer", value_name = "URL", requires_all = ["audience", "subject"])]
    issuer: Option<IssuerUrl>,
    /// What the JWT has as `aud`: let the issuer make JWTs for this server alone
    #[arg(id = "audience", long = "jwt-audience", value_name = "TEXT", requires = "issuer")]
    audience: Option<String>,
    /// What the JWT has as `sub`, such as system:serviceaccount:NAMESPACE:NAME
    #[arg(id = "subject", long = "jwt-subject", value_name = "TEXT", requires = "issuer")]
    subject: Option<String>,
    /// A further claim that the JWT has to have; repeat the flag for more
    #[arg(long = "jwt-claim", value_name = "NAME=TEXT", requires = "issuer", value_parser = parse_claim)]
    claims: Vec<(String, String)>,
    /// Where the issuer's keys can be fetched [default: the issuer's discovery document says it]
    #[arg(long = "jwt-jwks-url", value_name = "URL", requires = "issuer")]
    jwks_url: Option<HttpsUrl>,
    /// A file with the issuer's keys, where they cannot be fetched
    #[arg(long = "jwt-jwks-file", value_name = "FILE", requires = "issuer", value_parser = parse_file)]
    jwks_file: Option<PathBuf>,
    /// Certificate authorities (PEM) of the issuer [default: those that the server's machine trusts]
    #[arg(long = "jwt-ca-file", value_name = "FILE", requires = "issuer", value_parser = parse_file)]
    ca_file: Option<PathBuf>,
    /// A file with a bearer to send to --jwt-jwks-url
    #[arg(long = "jwt-bearer-file", value_name = "FILE", requires = "jwks_url", value_parser = parse_file)]
    bearer_file: Option<PathBuf>,
}

/// A file that the server reads, which may have been started in another directory.
fn parse_file(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    if path.to_str().is_some() { Ok(path) } else { Err("the path is not UTF-8".to_owned()) }
}

fn parse_claim(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=TEXT")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl JwtArgs {
    fn rule(self) -> Option<JwtRule> {
        Some(JwtRule {
            issuer: self.issuer?,
            audience: self.audience?,
            subject: self.subject?,
            claims: self.claims.into_iter().collect(),
            jwks_url: self.jwks_url,
            jwks_file: self.jwks_file,
            ca_file: self.ca_file,
            bearer_file: self.bearer_file,
        })
    }
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: CallersPlace,
}

#[derive(Args, Debug)]
pub(crate) struct RotateArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: CallerName,
    /// End the rotation: the older secret is not valid any more
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    place: CallersPlace,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: CallerName,
    #[command(flatten)]
    place: CallersPlace,
}

pub(crate) fn run(command: CallersCommand) -> Result<(), Failure> {
    match command {
        CallersCommand::New(args) => new(*args),
        CallersCommand::List(ListArgs { json, place }) => {
            let callers = place.open()?.callers().map_err(Failure::failed)?;
            if json { print_json(&document(&callers)) } else { print(table(&callers)) }
        }
        CallersCommand::Rotate(RotateArgs { name, finish: true, place }) => {
            place.open()?.finish_rotation(&name).map_err(Failure::failed)?;
            note(format!("{name} has one secret: the older one is not valid any more"));
            Ok(())
        }
        CallersCommand::Rotate(RotateArgs { name, finish: false, place }) => {
            let file = place.open()?;
            let secret = file.rotate(&name, &OsEntropy).map_err(Failure::failed)?;
            print(&*secret)?;
            // The secret is valid already: what follows is no reason to fail.
            let is_only = file.callers().is_ok_and(|callers| {
                callers.iter().any(|caller| caller.name == name && caller.secrets.len() == 1)
            });
            if is_only {
                note("this secret is not shown again; it is the caller's only one");
                return Ok(());
            }
            note(format!(
                "this secret is not shown again; the one before is valid until `countersign callers rotate {name} --finish`"
            ));
            Ok(())
        }
        CallersCommand::Remove(RemoveArgs { name, place }) => {
            place.open()?.remove(&name).map_err(Failure::failed)?;
            note(format!("{name} is removed; tokens that were issued for it stay good until they expire"));
            Ok(())
        }
    }
}

fn new(args: NewArgs) -> Result<(), Failure> {
    let mut scopes = args.scopes;
    scopes.dedup();
    let caller = CallerRule {
        name: args.name,
        secrets: Vec::new(),
        certificates: args.certificates,
        jwt: args.jwt.rule(),
        scopes,
        audiences: (!args.audiences.is_empty()).then_some(args.audiences),
        max_lifetime: args.max_lifetime.map(whole_seconds).transpose()?,
        tokens_per_minute: args.tokens_per_minute,
        tell_trackers: args.tell_trackers,
    };
    let secret = args.place.open()?.add(&caller, &OsEntropy).map_err(Failure::failed)?;
    let Some(secret) = secret else {
        if let Some(jwt) = &caller.jwt {
            note(format!(
                "it is known by JWTs of {}, which it sends as `Authorization: Bearer ...`, and has no secret; `countersign \
                 doctor` says whether the issuer's keys can be fetched",
                jwt.issuer
            ));
            return Ok(());
        }
        note("it is known by its certificate, which private_client_ca has to vouch for, and has no secret");
        return Ok(());
    };
    print(&*secret)?;
    note("this secret is not shown again; the caller sends it as `Authorization: Bearer ...`");
    Ok(())
}

impl CallersPlace {
    fn open(self) -> Result<CallersFile, Failure> {
        let configured = || Ok::<_, Failure>(ServeArgs::default().resolve()?.callers_file);
        let path = self.file.map_or_else(configured, |file| Ok(Some(file)))?;
        path.map(CallersFile::new).ok_or_else(|| {
            Failure::usage("no callers file is configured; name one with --file, and let the server read it as callers_file")
        })
    }
}

fn document(callers: &[CallerRule]) -> Value {
    let callers: Vec<Value> = callers
        .iter()
        .map(|caller| {
            json!({
                "name": caller.name.as_str(),
                "secrets": caller.secrets.len(),
                "certificates": caller.certificates.iter().map(CertificateName::as_str).collect::<Vec<_>>(),
                "jwt": caller.jwt.as_ref().map(|jwt| json!({
                    "issuer": jwt.issuer.as_str(),
                    "audience": jwt.audience,
                    "subject": jwt.subject,
                    "claims": jwt.claims,
                })),
                "scopes": caller.scopes,
                "audiences": caller.audiences.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>()),
                "max_lifetime": caller.max_lifetime.map(|longest| longest.as_secs()),
                "tokens_per_minute": caller.tokens_per_minute,
                "tell_trackers": caller.tell_trackers,
            })
        })
        .collect();
    json!({ "callers": callers })
}

fn table(callers: &[CallerRule]) -> String {
    let width =
        callers.iter().map(|caller| caller.name.as_str().len()).max().unwrap_or(0).max("caller".len());
    let mut lines = vec![format!("{:width$}  {:7}  {:32}  tokens", "caller", "secrets", "scopes")];
    for caller in callers {
        let scopes: Vec<_> = caller.scopes.iter().map(|scope| scope.label()).collect();
        let mut tokens = vec![match &caller.audiences {
            Some(patterns) => patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            None => "any tracker".to_owned(),
        }];
        tokens.extend(caller.max_lifetime.map(|longest| format!("at most {} s", longest.as_secs())));
        tokens.extend(caller.tokens_per_minute.map(|rate| format!("{rate} a minute")));
        let tokens = if caller.scopes.contains(&Scope::Issue) { tokens.join(", ") } else { "-".to_owned() };
        let secrets = caller.secrets.len();
        lines.push(format!(
            "{:width$}  {secrets:7}  {:32}  {tokens}",
            caller.name.as_str(),
            scopes.join(" ")
        ));
        lines.extend(caller.jwt.as_ref().map(|jwt| {
            format!("{:width$}  JWT of {} for {}: {}", "", jwt.issuer, jwt.audience, jwt.subject)
        }));
    }
    lines.join("\n")
}
