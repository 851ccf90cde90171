//! `countersign token`: issue, show and revoke.

use std::io::Read;

use clap::{Args, Subcommand};
use countersign_client::TokenRequest;
use countersign_core::seal::MAX_TEXT_CHARS;
use jiff::SignedDuration;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::output::{Failure, member, print, print_json, print_members};
use crate::remote::ServerArgs;
use crate::settings::{parse_audience, parse_duration};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token and print it
    New(NewArgs),
    /// Show the status of a token, without consuming it
    Show(TokenArgs),
    /// Revoke a token; fails if it is no longer live
    Revoke(TokenArgs),
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// The base URL of the only bug tracker that may redeem it [default: any tracker may]
    #[arg(long, value_name = "URL", value_parser = parse_audience)]
    audience: Option<String>,
    /// How long it lives, such as 90s or 5m [default: the server's setting]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<SignedDuration>,
    /// A JSON object for the tracker that redeems it
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// Print everything about it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TokenArgs {
    /// The token, or - to read it from standard input, where other users do not see it
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::New(args) => new(args).await,
        TokenCommand::Show(args) => show(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

async fn new(args: NewArgs) -> Result<(), Failure> {
    let ttl = args.ttl.map(whole_seconds).transpose()?;
    let claims = args.claims.as_deref().map(serde_json::from_str::<Value>).transpose();
    let claims = claims.map_err(|error| Failure::usage(format!("--claims is not JSON: {error}")))?;
    if claims.as_ref().is_some_and(|claims| !claims.is_object()) {
        return Err(Failure::usage("--claims must be a JSON object, such as '{\"project\": \"demo\"}'"));
    }
    let request = TokenRequest { audience: args.audience, ttl, claims };
    let document = args.server.connect()?.new_token(&request).await?;
    if args.json { print_json(&document) } else { print(member(&document, "token_id")) }
}

async fn show(args: TokenArgs) -> Result<(), Failure> {
    let document = args.server.connect()?.token(&read_token(args.token)?).await?;
    if args.json {
        return print_json(&document);
    }
    let members = [
        "id",
        "status",
        "title",
        "audience",
        "claims",
        "date_created",
        "date_expires",
        "date_consumed",
        "handshake_url",
    ];
    print_members(&document, &members)
}

async fn revoke(args: TokenArgs) -> Result<(), Failure> {
    let document = args.server.connect()?.revoke(&read_token(args.token)?).await?;
    let revoked = document.get("revoked").and_then(Value::as_bool).unwrap_or(false);
    if args.json {
        print_json(&document)?;
    } else if revoked {
        print("revoked")?;
    }
    if revoked {
        Ok(())
    } else {
        Err(Failure::failed("the token was not live any more, so there was nothing to revoke"))
    }
}

/// A duration that the private API can be told.
pub(crate) fn whole_seconds(given: SignedDuration) -> Result<std::time::Duration, Failure> {
    std::time::Duration::try_from(given).ok().filter(|duration| duration.subsec_nanos() == 0).ok_or_else(
        || Failure::usage(format!("{given:#} will not do; give whole seconds, such as 90s or 5m")),
    )
}

fn read_token(argument: String) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(argument);
    if text.as_str() == "-" {
        text.clear();
        std::io::stdin()
            .take(64 * 1024)
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("cannot read the token from standard input: {error}")))?;
    }
    let token = Zeroizing::new(text.trim().to_owned());
    // The token becomes a part of a path, where nothing, or a dot, would ask for something else.
    let fits =
        (1..=MAX_TEXT_CHARS).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then_some(token).ok_or_else(|| {
        Failure::usage("this is not a token; a token is one word of letters and digits, as `countersign token new` prints")
    })
}
