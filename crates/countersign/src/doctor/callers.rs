//! The callers of the private API that have names.

use std::path::Path;

use countersign_server::{CallerDocument, CallerRule, CallersFile, IssuerDocument, JwtRule};

use super::context::Context;
use super::finding::{Finding, Level};

/// Whether each of them is needed, and can call.
pub(super) async fn named(context: &Context) -> Vec<Finding> {
    let settings = context.settings.as_ref().ok();
    let Some(path) = settings.and_then(|settings| settings.callers_file.as_deref()) else {
        return Vec::new();
    };
    let has_default = settings.is_some_and(|settings| settings.private_bearer_file.is_some());
    let report = context.report();
    let (callers, issuers): (Vec<_>, Vec<_>) =
        match report.and_then(|report| Some((report, report.callers.as_ref()?))) {
            // Faults of the file are reported with the other files.
            Some((report, callers)) => {
                (callers.iter().map(Caller::of).collect(), report.issuers.iter().map(issuer).collect())
            }
            None => match read(path) {
                Ok(rules) => (rules.iter().map(Caller::from).collect(), try_issuers(&rules).await),
                Err(finding) => return vec![finding],
            },
        };
    let mut findings = judge(path, &callers, has_default);
    findings.extend(issuers);
    findings
}

/// How the server stands with an issuer of JWTs.
fn issuer(document: &IssuerDocument) -> Finding {
    let IssuerDocument { issuer, keys, fetched, trouble } = document;
    match (keys, trouble) {
        (0, None) => Finding::warning(
            format!("the keys of the issuer {issuer} have not been fetched yet"),
            "ask again in some seconds",
        ),
        (0, Some(reason)) => {
            Finding::error(format!("no JWT of the issuer {issuer} is accepted: {reason}"), ISSUER_REMEDY)
        }
        (_, Some(reason)) => {
            let since = fetched.map(|at| format!(", of {at:.0}")).unwrap_or_default();
            Finding::warning(
                format!("the keys of the issuer {issuer}{since} could not be fetched anew: {reason}"),
                format!(
                    "an hour after they were fetched, its JWTs are not accepted any more; {ISSUER_REMEDY}"
                ),
            )
        }
        (keys, None) => Finding::ok(format!("the issuer {issuer} has {}", counted(*keys))),
    }
}

const ISSUER_REMEDY: &str = "see that this machine reaches the issuer, or can read its jwks_file, and compare issuer, jwks_url, jwks_file, ca_file and \
     bearer_file in the callers file with docs/callers.md";

/// Fetches the keys of each issuer, as a server would. All are asked at once, as each may take seconds; a callers file has 16 at
/// most.
async fn try_issuers(rules: &[CallerRule]) -> Vec<Finding> {
    let mut jwts: Vec<&JwtRule> = Vec::new();
    for jwt in rules.iter().filter_map(|rule| rule.jwt.as_ref()) {
        if !jwts.iter().any(|tried| tried.issuer == jwt.issuer) {
            jwts.push(jwt);
        }
    }
    let asked: Vec<_> = jwts
        .into_iter()
        .map(|jwt| {
            let jwt = jwt.clone();
            tokio::spawn(async move { try_issuer(&jwt).await })
        })
        .collect();
    let mut findings = Vec::new();
    for asked in asked {
        // An error means that the process is ending.
        findings.extend(asked.await.ok());
    }
    findings
}

async fn try_issuer(jwt: &JwtRule) -> Finding {
    match jwt.try_keys().await {
        Ok(keys) => Finding::ok(format!("the issuer {} has {}", jwt.issuer, counted(keys))),
        Err(reason) => Finding::error(
            format!("the keys of the issuer {} cannot be fetched from here: {reason}", jwt.issuer),
            ISSUER_REMEDY,
        ),
    }
}

fn counted(keys: usize) -> String {
    if keys == 1 { "one key".to_owned() } else { format!("{keys} keys") }
}

/// What is known of a caller.
struct Caller {
    name: String,
    secrets: usize,
    /// Whether it has called; unknown without a server.
    is_used: Option<bool>,
}

impl Caller {
    fn of(document: &CallerDocument) -> Self {
        let is_used = Some(document.last_seen.is_some());
        Self { name: document.name.clone(), secrets: document.secrets, is_used }
    }
}

impl From<&CallerRule> for Caller {
    fn from(rule: &CallerRule) -> Self {
        Self { name: rule.name.to_string(), secrets: rule.secrets.len(), is_used: None }
    }
}

fn read(path: &Path) -> Result<Vec<CallerRule>, Finding> {
    CallersFile::new(path.to_owned()).callers().map_err(|error| {
        Finding::error(
            error.to_string(),
            "mend it; a server cannot be started with it, and a running one goes on with what it has read",
        )
    })
}

fn judge(path: &Path, callers: &[Caller], has_default: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if callers.is_empty() && !has_default {
        findings.push(Finding::warning(
            format!("{} names nobody, so that nobody can use the private API", path.display()),
            "add a caller with `countersign callers new`",
        ));
    }
    let names = |is_meant: fn(&&Caller) -> bool| {
        callers.iter().filter(is_meant).map(|caller| caller.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let rotating = names(|caller| caller.secrets > 1);
    if !rotating.is_empty() {
        findings.push(Finding::note(
            format!("callers with two secrets, whose rotation is not finished: {rotating}"),
            "when they all show the new one: `countersign callers rotate NAME --finish`",
        ));
    }
    let unused = names(|caller| caller.is_used == Some(false));
    if !unused.is_empty() {
        findings.push(Finding::note(
            format!("callers that have not called since this server was started: {unused}"),
            "remove those that are not needed any more: `countersign callers remove NAME`",
        ));
    }
    if findings.iter().all(|finding| finding.level < Level::Warning) {
        let how_many = match callers.len() {
            1 => "one caller".to_owned(),
            many => format!("{many} callers"),
        };
        findings.push(Finding::ok(format!("{} names {how_many}", path.display())));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Barrier};

    use countersign_server::parse_callers;

    use super::*;

    #[tokio::test]
    async fn all_issuers_are_asked_at_once() {
        const MANY: usize = 4;
        // None answers before all have been asked.
        let asked = Arc::new(Barrier::new(MANY));
        let callers = (0..MANY).map(|nth| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let asked = Arc::clone(&asked);
            std::thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = connection.read(&mut [0; 4096]).unwrap();
                asked.wait();
                connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
            });
            format!(
                "[[caller]]\nname = 'c{nth}'\nscopes = ['issue']\n[caller.jwt]\nissuer = 'http://{address}'\naudience = 'a'\n\
                 subject = 's'\n"
            )
        });
        let rules = parse_callers(&callers.collect::<String>()).unwrap();
        let findings = try_issuers(&rules).await;
        assert_eq!(findings.len(), MANY);
        for finding in findings {
            let said = format!("{finding:?}");
            assert!(said.contains("404"), "{said}");
        }
    }
}
