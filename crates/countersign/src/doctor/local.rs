//! The configuration, and the files that it names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use countersign_server::Bearer;
use countersign_store::StoreUrl;
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::remote::read_secret;

use super::context::Context;
use super::finding::Finding;
use crate::exposure::{Secret, secrets};

/// A certificate that expires sooner than this is to be renewed.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What the configuration says, and whether it is wise.
pub(super) fn configuration(context: &Context) -> Vec<Finding> {
    let settings = match &context.settings {
        Ok(settings) => settings,
        Err(wrong) => {
            return vec![Finding::error(
                format!("it cannot be used: {wrong}"),
                "mend it; docs/countersign.sample.toml has every setting. What depends on it was not checked",
            )];
        }
    };
    let mut findings = Vec::new();
    if settings.store.url == StoreUrl::Memory {
        findings.push(Finding::warning(
            "the store is in memory: it forgets everything when the server stops",
            "set `store` to sqlite: for anything but a demonstration",
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
            "set `refusals_per_minute` unless a proxy in front limits requests",
        ));
    }
    let guarded = settings.private_bearer_file.is_some()
        || settings.private.tls.as_ref().is_some_and(|tls| tls.client_authorities.is_some());
    if settings.private.address.is_local() == Some(false) && !guarded {
        findings.push(Finding::error(
            format!("the private API would be open to anybody who reaches {}", settings.private.address),
            "give it a secret (private_bearer_file) or let it ask for certificates (private_client_ca); the server does \
             not start like this",
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
    if settings.private_bearer_file.is_some()
        && settings.private.tls.is_none()
        && settings.private.address.is_local() == Some(false)
    {
        findings.push(Finding::warning(
            format!("the private API takes its secret in plain HTTP on {}", settings.private.address),
            "give it TLS (private_tls_certificate and private_tls_key), or keep it on 127.0.0.1",
        ));
    }
    if findings.iter().all(|finding| finding.level < super::finding::Level::Warning) {
        findings.push(Finding::ok("it can be used"));
    }
    findings
}

/// Who may read and write what.
pub(super) fn files(context: &Context) -> Vec<Finding> {
    let Ok(settings) = &context.settings else { return Vec::new() };
    let mut findings = Vec::new();
    let user = directory("the data directory", &settings.data_dir, &mut findings);
    let database = settings.store.url.database(&settings.store.data_dir);
    if let Some(place) = database.as_deref().and_then(Path::parent)
        && !is_same(place, &settings.data_dir)
    {
        directory("the database's directory", place, &mut findings);
    }
    for one in secrets(settings) {
        secret(&one, user, &mut findings);
    }
    if findings.is_empty() {
        findings.push(Finding::ok("the data directory and the secrets are their owner's alone"));
    }
    findings
}

/// Returns whose the secrets must be: the user's who runs this; for root, the user's to whom the directory belongs. Root can
/// look after the server of a user that exists only while it runs.
fn directory(what: &str, path: &Path, findings: &mut Vec<Finding>) -> u32 {
    let me = rustix::process::geteuid();
    let mut user = me.as_raw();
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) => findings.push(Finding::error(
            format!("{what} {shown} cannot be looked at: {error}"),
            "start the server once to make it, or name the right one with --data-dir; run this as the server's user",
        )),
        Ok(metadata) => {
            let mode = metadata.mode() & 0o7777;
            if mode & 0o022 != 0 {
                findings.push(Finding::error(
                    format!("others may write to {what} {shown} (mode {mode:04o}), and so make used tokens good again"),
                    format!("run `chmod 700 {shown}`"),
                ));
            } else if mode & 0o055 != 0 {
                findings.push(Finding::warning(
                    format!("others may look into {what} {shown} (mode {mode:04o})"),
                    format!("run `chmod 700 {shown}`"),
                ));
            }
            if me.is_root() {
                user = metadata.uid();
            }
            owner(what, path, &metadata, user, findings);
        }
    }
    user
}

fn secret(secret: &Secret, user: u32, findings: &mut Vec<Finding>) {
    let shown = secret.path.display();
    match secret.exposure() {
        Err(error) => findings.push(Finding::error(
            format!("{} {shown} cannot be looked at: {error}", secret.what),
            "put it there, or name the right place; run this as the server's user",
        )),
        Ok(exposure) => {
            if let Some(exposure) = exposure {
                findings.push(Finding::error(
                    exposure,
                    format!("run `chmod 600 {shown}`, and if anybody may have read it, replace it"),
                ));
            }
            let is_handed_over = |metadata: &fs::Metadata| secret.may_be_roots() && metadata.uid() == 0;
            if let Some(metadata) = fs::metadata(&secret.path).ok().filter(|found| !is_handed_over(found)) {
                owner(secret.what, &secret.path, &metadata, user, findings);
            }
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(one).is_some() && real(one) == real(other)
}

fn owner(what: &str, path: &Path, metadata: &fs::Metadata, user: u32, findings: &mut Vec<Finding>) {
    if metadata.uid() != user {
        let other = if rustix::process::geteuid().is_root() {
            format!("the data directory to user {user}")
        } else {
            format!("this is run by user {user}")
        };
        findings.push(Finding::warning(
            format!("{what} {} belongs to user {}, and {other}", path.display(), metadata.uid()),
            "make it belong to the user that the server runs as, and run this as that user, or as root",
        ));
    }
}

/// Until when the certificates of the listeners are valid.
pub(super) fn certificates(context: &Context) -> Vec<Finding> {
    let Ok(settings) = &context.settings else { return Vec::new() };
    let doors = [("public", &settings.public.tls), ("private", &settings.private.tls)];
    let mut findings = Vec::new();
    for (name, tls) in doors {
        let Some(tls) = tls else { continue };
        let what = format!("the {name} listener's certificate {}", tls.certificates.display());
        findings.push(match read_certificate(&tls.certificates) {
            Ok(certificate) => expiry(&what, &certificate, context.now),
            Err(reason) => Finding::error(
                format!("{what} cannot be used: {reason}"),
                "put a chain of certificates there, in PEM, the server's own first",
            ),
        });
    }
    findings
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, String> {
    let chain = countersign_tls::read(path).and_then(|pem| countersign_tls::certificates(&pem));
    let first = chain.map_err(|error| error.to_string())?.into_iter().next();
    first.ok_or_else(|| countersign_tls::PemError::NoCertificate.to_string())
}

/// How long a certificate is still good for.
pub(super) fn expiry(what: &str, certificate: &CertificateDer<'_>, now: Timestamp) -> Finding {
    let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
        return Finding::error(format!("{what} is not an X.509 certificate"), "replace it");
    };
    let moment = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
    };
    let (from, until) = (moment(parsed.validity().not_before), moment(parsed.validity().not_after));
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
