//! The configuration, and the files that it names.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use countersign_server::{
    Bearer, CALLERS_FILE, DATABASE, FileDocument, ISSUER_AUTHORITIES, ISSUER_KEYS, PassedOver, SecretFile,
    Tls, TlsFiles, exposure_of,
};
use countersign_store::place::StoreUrl;
use countersign_tls::Validity;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::Access;

use super::context::{Context, ServerReport};
use super::finding::{Finding, Level};
use super::public;
use crate::exposure::{KEY_RING, directories, issuer_files, secrets};
use crate::remote::read_secret;
use crate::settings::{Resolved, giver, passed_over};

/// Warn about certificates that expire within this time.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What to do with settings that are not in force.
const NOT_IN_FORCE: &str = "restart the server if it is to take them up; if it is another server's configuration, name that server with --server";

/// What the configuration says, and whether it is wise.
pub(super) fn configuration(context: &Context) -> Vec<Finding> {
    let mut findings = match &context.settings {
        Ok(settings) => {
            let mut findings = policy(settings);
            let here = || passed_over(&settings.store);
            let ignored = context.report().map_or_else(here, |report| report.passed_over.clone());
            findings.extend(ignored.into_iter().map(|PassedOver { what, reason }| {
                Finding::warning(
                    format!("{what} changes nothing: {reason}"),
                    "if it is meant for the store, say it in `store` (docs/scaling.md has what counts) or mend it; if not, \
                     take it away from the server",
                )
            }));
            match PrivateListener::effective_config(context, settings) {
                Some(door) => findings.extend(door.judge()),
                None => findings.push(Finding::warning(
                    "the server does not say where its private API listens, so that was not checked",
                    "install the same version for the server and this command",
                )),
            }
            findings
        }
        Err(wrong) => vec![cannot_be_used(wrong)],
    };
    if let Some(aside) = &context.aside {
        let beside = match &aside.settings {
            Ok(settings) => not_in_force(settings, context.now),
            Err(wrong) => vec![cannot_be_used(wrong)],
        };
        if !aside.differing.is_empty() {
            findings.push(Finding::note(
                format!(
                    "the server was started with other settings than are read here: {}",
                    aside.differing.join(", ")
                ),
                NOT_IN_FORCE,
            ));
        }
        let known: Vec<String> = findings.iter().map(|finding| finding.sentence.clone()).collect();
        findings.extend(beside.into_iter().filter(|finding| !known.contains(&finding.sentence)).map(
            |mut finding| {
                finding.sentence = format!("{} (as read here, and not in force)", finding.sentence);
                finding
            },
        ));
    }
    if findings.iter().all(|finding| finding.level < Level::Warning) {
        findings.push(Finding::ok(match context.server {
            Some(Ok(ServerReport { report: Ok(_), .. })) => "what the server was started with can be used",
            _ => "it can be used, as far as it is read here",
        }));
    }
    findings
}

fn cannot_be_used(wrong: &str) -> Finding {
    Finding::error(
        format!("it cannot be used: {wrong}"),
        "mend it; docs/countersign.sample.toml has every setting. What depends on it was not checked",
    )
}

/// What would be wrong with settings if they were in force.
fn not_in_force(settings: &Resolved, now: Timestamp) -> Vec<Finding> {
    let all = [
        policy(settings),
        PrivateListener::of(settings).judge(),
        public::believed(settings),
        read_certificates(settings, now),
    ];
    all.into_iter().flatten().filter(|finding| finding.level >= Level::Warning).collect()
}

/// What is decided about tokens and callers.
fn policy(settings: &Resolved) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.store.url == StoreUrl::Memory {
        findings.push(Finding::warning(
            "the store is in memory: it forgets everything when the server stops",
            format!(
                "for anything but a demonstration, set it to sqlite: or postgres: in {}",
                giver(settings, "store")
            ),
        ));
    }
    if !settings.policy.require_audience {
        findings.push(Finding::note(
            "tokens that are bound to no tracker are issued when asked for; a hostile tracker can pass such a token on",
            "set `require_audience = true` as soon as all your trackers state who they are",
        ));
    }
    if settings.refusals_per_minute == 0 {
        findings.push(Finding::note(
            "refusals are not limited, so that guessing costs an address nothing but its time",
            format!(
                "unless a proxy in front limits requests, set another number in {}",
                giver(settings, "refusals_per_minute")
            ),
        ));
    }
    if let Some(path) = &settings.private_bearer_file
        && let Ok(secret) = read_secret(path)
        && let Err(error) = Bearer::new(secret)
    {
        findings.push(Finding::error(
            format!("the secret in {} can be guessed, or no header can carry it", path.display()),
            format!("it {error}"),
        ));
    }
    findings
}

/// The private listener, and whom it lets in.
struct PrivateListener {
    address: String,
    is_local: Option<bool>,
    asks_for_bearer: bool,
    asks_for_certificates: bool,
    has_tls: bool,
}

impl PrivateListener {
    /// As the running server has it, or as it is read here.
    fn effective_config(context: &Context, settings: &Resolved) -> Option<Self> {
        let Some(report) = context.report() else { return Some(Self::of(settings)) };
        let private = report.listeners.iter().find(|listener| listener.name == "private")?;
        Some(Self {
            address: private.addresses.join(", "),
            is_local: private.is_local,
            asks_for_bearer: private.asks_for_bearer,
            asks_for_certificates: private.asks_for_certificates,
            has_tls: private.certificate.is_some(),
        })
    }

    fn of(settings: &Resolved) -> Self {
        let tls = settings.private.tls.as_ref();
        Self {
            address: settings.private.address.to_string(),
            is_local: settings.private.address.is_local(),
            asks_for_bearer: settings.private_bearer_file.is_some() || settings.callers_file.is_some(),
            asks_for_certificates: tls.is_some_and(|tls| tls.client_authorities.is_some()),
            has_tls: tls.is_some(),
        }
    }

    fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.is_local != Some(false) {
            return findings;
        }
        if !self.asks_for_bearer && !self.asks_for_certificates {
            findings.push(Finding::error(
                format!("the private API would be open to anybody who reaches {}", self.address),
                "give it callers with secrets (callers_file) or one secret (private_bearer_file), or let it ask for certificates (private_client_ca); a server \
                 refuses to start like this",
            ));
        }
        if self.asks_for_bearer && !self.has_tls {
            findings.push(Finding::warning(
                format!("the private API takes its secret in plain HTTP on {}", self.address),
                "give it TLS (private_tls_certificate and private_tls_key), or keep it on 127.0.0.1",
            ));
        }
        findings
    }
}

/// Who may read and write what.
pub(super) fn files(context: &Context) -> Vec<Finding> {
    let mut findings: Vec<Finding> = match (context.report(), &context.settings) {
        (Some(report), _) => report.files.iter().filter_map(reported).collect(),
        (None, Ok(settings)) => seen(settings),
        (None, Err(_)) => return Vec::new(),
    };
    if findings.is_empty() {
        findings.push(Finding::ok("the data directory and the secrets are their owner's alone"));
    }
    findings
}

/// The server's report about a file.
fn reported(file: &FileDocument) -> Option<Finding> {
    let name = format!("{} {}", file.what, file.path);
    if let Some(exposure) = &file.exposure {
        let sentence = format!("{name} {}", exposure.finding);
        return Some(if file.is_directory {
            open_directory(sentence, exposure.may_write, &exposure.remedy)
        } else {
            exposed(sentence, &exposure.remedy, &file.what)
        });
    }
    let trouble = file.trouble.as_ref()?;
    Some(Finding::error(
        format!("{name} {trouble}"),
        "put the right file there, for the server's user to read: the server goes on with what it has read, and cannot be \
         started again like this",
    ))
}

fn exposed(sentence: String, remedy: &str, what: &str) -> Finding {
    let then = match what {
        KEY_RING => "; if anybody may have read it, go on with \"After a theft\" in docs/keys.md",
        // It holds no token and no key; a new one would have forgotten which tokens were used.
        DATABASE => "",
        CALLERS_FILE => "; if anybody may have changed it, look at the callers in it",
        ISSUER_KEYS | ISSUER_AUTHORITIES => "; if anybody may have changed it, get it again from the issuer",
        _ => "; if anybody may have read it, replace it",
    };
    Finding::error(sentence, format!("{remedy}{then}"))
}

fn open_directory(sentence: String, may_write: bool, remedy: &str) -> Finding {
    if may_write {
        Finding::error(format!("{sentence}, who can so make used tokens good again"), remedy)
    } else {
        Finding::warning(sentence, remedy)
    }
}

/// What can be seen of the files from here.
fn seen(settings: &Resolved) -> Vec<Finding> {
    let mut findings = Vec::new();
    let me = rustix::process::geteuid().as_raw();
    // The server makes its data directory for itself alone, so that its owner is the server's user.
    let user = fs::metadata(&settings.data_dir).map_or(me, |metadata| metadata.uid());
    if me != 0 && me != user {
        findings.push(Finding::note(
            format!("this is run by user {me}, and the data directory belongs to user {user}"),
            "run this as the user that the server runs as, or as root: what others may not see is not checked",
        ));
    }
    for (what, path) in directories(settings) {
        let name = format!("{what} {}", path.display());
        match exposure_of(&path, user) {
            Ok(None) => {}
            Ok(Some(exposure)) => findings.push(open_directory(
                format!("{name} {exposure}"),
                exposure.may_write(),
                &exposure.remedy(&path, true),
            )),
            Err(error) => findings.push(unseen(
                &name,
                &error,
                "name the right one with --data-dir; the server makes it when it is started for the first time",
            )),
        }
        owner(&name, &path, user, &mut findings);
    }
    for file in secrets(settings) {
        secret(&file, user, &mut findings);
    }
    for file in issuer_files(settings) {
        // The check of its issuer reports every other fault of the file.
        if let Ok(Some(_)) = file.exposure(user) {
            secret(&file, user, &mut findings);
        }
    }
    findings
}

fn secret(file: &SecretFile, user: u32, findings: &mut Vec<Finding>) {
    let name = format!("{} {}", file.what, file.path.display());
    match file.exposure(user) {
        Err(error) => findings.push(unseen(&name, &error, "put it there, or name the right place")),
        Ok(Some(exposure)) => {
            findings.push(exposed(
                format!("{name} {exposure}"),
                &exposure.remedy(&file.path, false),
                file.what,
            ));
        }
        Ok(None) => owner(&name, &file.path, user, findings),
    }
}

fn unseen(name: &str, error: &io::Error, remedy: &str) -> Finding {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "run this as the user that the server runs as, or as root",
        _ => remedy,
    };
    Finding::error(format!("{name} cannot be looked at: {error}"), remedy)
}

/// Whether something belongs to the server's user. Root's files are handed over to it by their group, or are read-only.
fn owner(name: &str, path: &Path, user: u32, findings: &mut Vec<Finding>) {
    let Ok(metadata) = fs::metadata(path) else { return };
    let is_handed_over = metadata.uid() == 0 && metadata.mode() & 0o040 != 0;
    if metadata.uid() != user && !is_handed_over {
        findings.push(Finding::warning(
            format!("{name} belongs to user {}, and the data directory to user {user}", metadata.uid()),
            format!("if the server runs as user {user}: `chown {user} {}`", path.display()),
        ));
    }
}

/// Until when the certificates of the listeners are valid, and whether they can be used.
pub(super) fn certificates(context: &Context) -> Vec<Finding> {
    let Some(report) = context.report() else {
        let Ok(settings) = &context.settings else { return Vec::new() };
        return read_certificates(settings, context.now);
    };
    let mut findings = Vec::new();
    for listener in &report.listeners {
        let Some(certificate) = &listener.certificate else { continue };
        let what = format!("the {} listener's certificate {}", listener.name, certificate.file);
        let validity = certificate.valid_from.zip(certificate.valid_until);
        findings.push(dates(&what, validity.map(|(from, until)| Validity { from, until }), context.now));
        findings.extend(certificate.is_authority.then(|| of_an_authority(&what)));
        findings.extend(certificate.trouble.as_ref().map(|trouble| {
            Finding::error(
                format!("{what}, as it stands there now, cannot be used: {trouble}"),
                "put a chain and its own key there; the server goes on with what it has read, and cannot be started again \
                 like this",
            )
        }));
    }
    findings
}

/// What can be read of the certificates from here.
fn read_certificates(settings: &Resolved, now: Timestamp) -> Vec<Finding> {
    let listeners = [("public", &settings.public.tls), ("private", &settings.private.tls)];
    let listeners = listeners.into_iter().filter_map(|(name, tls)| Some((name, tls.as_ref()?)));
    listeners.flat_map(|(name, tls)| read_certificate(name, tls, now)).collect()
}

fn read_certificate(name: &str, tls: &TlsFiles, now: Timestamp) -> Vec<Finding> {
    let what = format!("the {name} listener's certificate {}", tls.certificates.display());
    let chain = countersign_tls::read(&tls.certificates).and_then(|pem| countersign_tls::certificates(&pem));
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => {
            return vec![Finding::error(
                format!("{what} cannot be used: {error}"),
                "put a chain of certificates there, in PEM, the server's own first",
            )];
        }
    };
    let mut findings = vec![dates(&what, chain.first().and_then(Validity::of), now)];
    if chain.first().is_some_and(countersign_tls::is_authority) {
        findings.push(of_an_authority(&what));
    }
    if rustix::fs::access(&tls.key, Access::READ_OK) == Err(rustix::io::Errno::ACCESS) {
        findings.push(Finding::note(
            format!("the TLS key {} cannot be read by this user, so it was not tried", tls.key.display()),
            "run this as the user that the server runs as, or as root",
        ));
    } else if let Err(error) = Tls::load(tls.clone()) {
        findings.push(Finding::error(
            format!("{what} and its key cannot be used: {error}"),
            "put a chain and its own key there, both in PEM",
        ));
    }
    findings
}

fn of_an_authority(what: &str) -> Finding {
    Finding::warning(
        format!("{what} is an authority's (CA:TRUE), and some clients refuse it as a server's"),
        "put one there that is not; with `openssl req -x509`, -addext basicConstraints=critical,CA:FALSE makes it so",
    )
}

/// How long a certificate is still good for.
pub(super) fn dates(what: &str, validity: Option<Validity>, now: Timestamp) -> Finding {
    let Some(Validity { from, until }) = validity else {
        return Finding::error(format!("{what} is not an X.509 certificate"), "replace it");
    };
    if from > now {
        return Finding::error(
            format!("{what} is not valid before {from}"),
            "replace it, or look at this machine's clock",
        );
    }
    if until <= now {
        return Finding::error(
            format!("{what} expired at {until}"),
            "renew it; the server takes a new file up by itself",
        );
    }
    if until.duration_since(now) < RENEW_BEFORE {
        return Finding::warning(
            format!("{what} expires at {until}"),
            "renew it, and see why that has not happened by itself",
        );
    }
    Finding::ok(format!("{what} is valid until {until}"))
}
