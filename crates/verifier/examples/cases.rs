//! The verifier in front of the cases of `tests/verifiers`: a question on each line of the input, the outcome on one of the
//! output. It is not an example of anything else.

use std::error::Error;
use std::fs;
use std::io::{BufRead, Write, stdin, stdout};
use std::time::Duration;

use countersign_verifier::{SetupError, Verifier, VerifyError};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Question {
    settings: Settings,
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    issuer: String,
    audience: Option<String>,
    timeout: f64,
    ca_file: Option<String>,
    proxy: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    for line in stdin().lock().lines() {
        let question: Question = serde_json::from_str(&line?)?;
        writeln!(stdout(), "{}", answer(question).await?)?;
    }
    Ok(())
}

async fn answer(question: Question) -> Result<Value, Box<dyn Error>> {
    let verifier = match verifier(question.settings)? {
        Ok(verifier) => verifier,
        Err(error) => return Ok(json!({"outcome": "usage", "text": format!("{error} {error:?}")})),
    };
    Ok(match verifier.verify(&question.token).await {
        Ok(said) => json!({
            "outcome": "accepted",
            "text": format!("{verifier:?}"),
            "says": {"issuer": said.issuer, "audience": said.audience, "claims": said.claims},
        }),
        Err(error) => json!({"outcome": outcome(&error), "text": format!("{error} {error:?}")}),
    })
}

fn verifier(settings: Settings) -> Result<Result<Verifier, SetupError>, Box<dyn Error>> {
    let mut builder =
        Verifier::builder(settings.issuer).timeout(Duration::try_from_secs_f64(settings.timeout)?);
    if let Some(audience) = settings.audience {
        builder = builder.audience(audience);
    }
    if let Some(file) = settings.ca_file {
        builder = builder.certificate_authorities(fs::read(file)?);
    }
    if let Some(proxy) = settings.proxy {
        builder = builder.proxy(proxy);
    }
    Ok(builder.build())
}

fn outcome(error: &VerifyError) -> &'static str {
    match error {
        VerifyError::MalformedToken => "malformed",
        VerifyError::Refused { .. } => "refused",
        VerifyError::Unreachable { .. } => "unreachable",
        VerifyError::UnexpectedAnswer { .. } => "unexpected",
        VerifyError::NoRandomness => "no randomness",
    }
}
