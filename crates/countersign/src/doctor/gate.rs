//! Checks of a gate, beside a tracker: `countersign doctor --gate FILE`.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use countersign_client::{probe, probe_socket};
use countersign_gate::{Config, DETECTED, Gate, HEALTH, Health, WRITTEN_SESSIONS, check_socket, is_internal};
use countersign_http_client::is_this_machine;
use countersign_server::{Address, exposure_of};
use jiff::Timestamp;
use url::Url;

use super::finding::Finding;
use super::local::dates;
use countersign_tls::Validity;

/// The paths that no proxy may pass on.
const OWN_PATHS: [&str; 3] = ["metrics", "auth", "healthz"];

/// All that is looked at.
pub(super) async fn findings(file: &Path, now: Timestamp) -> Vec<(&'static str, Finding)> {
    let config = match Config::read(file) {
        Ok(config) => config,
        Err(error) => {
            let finding = Finding::error(
                format!("{}, {error}", file.display()),
                "correct it; docs/gate.sample.toml has every setting",
            );
            return vec![("configuration", finding)];
        }
    };
    let mut all = Vec::new();
    let mut add = |check, findings: Vec<Finding>| {
        all.extend(findings.into_iter().map(|finding| (check, finding)));
    };
    add("configuration", configuration(&config, file));
    add("files", files(&config));
    add("gate", vec![running(&config).await]);
    add("proxy", proxy(&config, now).await);
    all
}

fn configuration(config: &Config, file: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = Gate::check(config) {
        findings.push(Finding::error(error.to_string(), format!("correct it in {}", file.display())));
    }
    for network in config.trusted_proxies.iter().filter(|network| network.prefix_len() == 0) {
        findings.push(Finding::error(
            format!(
                "trusted_proxies has {network}: whoever reaches the gate may ask it in the proxy's place"
            ),
            "name the proxy's addresses alone, such as 127.0.0.1/32",
        ));
    }
    if config.listen.is_local() == Some(false) {
        findings.push(Finding::warning(
            format!("the gate listens on {}, beyond this machine", config.listen),
            "let a firewall pass on the proxy alone, or listen on 127.0.0.1",
        ));
    }
    // A missing one is reported below.
    if let Address::Unix(path) = &config.listen
        && path.exists()
        && let Err(error) = check_socket(path)
    {
        findings.push(Finding::error(
            error.to_string(),
            "or leave the socket to the gate, which makes one for its own user",
        ));
    }
    if config.base_url.scheme() == "http" && !is_this_machine(&config.base_url) {
        findings.push(Finding::error(
            format!("{} is without TLS: tokens and sessions can be read on the way", config.base_url),
            "serve the tracker over https, and set base_url to that",
        ));
    }
    for issuer in config.issuers.iter().filter(|issuer| issuer.allow_insecure_http) {
        findings.push(Finding::warning(
            format!(
                "{} may be asked without TLS: whoever is on the way can log in in its place",
                issuer.name
            ),
            "use an https URL, and remove allow_insecure_http",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(format!("{} can be used", file.display())));
    }
    findings
}

/// Who else has access to the secret and the sessions.
fn files(config: &Config) -> Vec<Finding> {
    let me = rustix::process::geteuid().as_raw();
    let data_dir = &config.data_dir;
    // The gate makes its data directory for itself alone, so that its owner is the gate's user.
    let user = fs::metadata(data_dir).map_or(me, |metadata| metadata.uid());
    let mut findings = Vec::new();
    if let Ok(Some(exposure)) = exposure_of(data_dir, user) {
        let (sentence, remedy) =
            (format!("data_dir {} {exposure}", data_dir.display()), exposure.remedy(data_dir, true));
        findings.push(if exposure.may_write() {
            Finding::error(format!("{sentence}, who can put files in the place of the gate's"), remedy)
        } else {
            Finding::warning(sentence, remedy)
        });
    }
    let [secret, sessions] = Gate::files(&config.data_dir);
    for path in [secret, sessions.clone()] {
        match exposure_of(&path, user) {
            Ok(None) => findings.push(Finding::ok(format!("nobody else has access to {}", path.display()))),
            Ok(Some(exposure)) if path == sessions => findings.push(Finding::error(
                format!("{} {exposure}; the gate does not start like this", path.display()),
                format!(
                    "{}{}",
                    exposure.remedy(&path, false),
                    if exposure.may_write() { WRITTEN_SESSIONS } else { "" }
                ),
            )),
            Ok(Some(exposure)) => findings.push(Finding::error(
                format!("{} {exposure}, who can be any user of the tracker by it", path.display()),
                format!(
                    "{}; then remove gate-secret and restart the gate, so that all sessions end",
                    exposure.remedy(&path, false)
                ),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => findings.push(Finding::note(
                format!("{} is not there", path.display()),
                "the gate makes it when it starts; run this as the gate's user, in the directory that it is started in",
            )),
            Err(error) => findings.push(Finding::error(
                format!("cannot look at {}: {error}", path.display()),
                "run this as the gate's user, or as root",
            )),
        }
    }
    findings
}

/// Whether a gate answers where this configuration has one listen.
async fn running(config: &Config) -> Finding {
    let address = &config.listen;
    let answer = match address {
        Address::Tcp(listen) => {
            let reached: IpAddr = match listen.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
            };
            match Url::parse(&format!("http://{}{HEALTH}", SocketAddr::new(reached, listen.port()))) {
                Ok(url) => probe(&url).await,
                Err(error) => Err(error.to_string()),
            }
        }
        Address::Unix(path) => probe_socket(path, HEALTH).await,
        Address::Systemd(_) => {
            return Finding::note(
                format!("the gate listens where {address} says, which is not known here"),
                "set listen to the socket unit's ListenStream to have it asked, and leave --listen systemd: to the service",
            );
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(reason) => {
            return Finding::error(
                format!("no gate answers on {address}: {reason}"),
                "start it: countersign gate --config FILE; if it was started with --listen, set that address in listen",
            );
        }
    };
    match Health::read(&answer.body) {
        Some(Health::Unwritable) => Finding::error(
            format!("the gate on {address} cannot write its sessions, so that nobody can log in"),
            "its log has the reason, such as a full disk below data_dir; sessions can be ended on a full disk, too",
        ),
        Some(Health::Works) => Finding::ok(format!("a gate answers on {address}, and can read its sessions")),
        Some(Health::Unreadable) => Finding::error(
            format!("the gate on {address} cannot read its sessions, and lets nobody through"),
            "its log has the reason",
        ),
        None => Finding::error(
            format!("what answers on {address} is not a gate (HTTP status {})", answer.status.as_u16()),
            "stop the program that uses that address, or set another in listen",
        ),
    }
}

/// Whether the tracker's URL leads to the gate where tokens arrive, and nowhere else.
async fn proxy(config: &Config, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    let below = |path: &str| {
        let mut url = config.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/').filter(|segment| !segment.is_empty()));
        }
        url
    };
    let mut has_certificate = false;
    for issuer in &config.issuers {
        let url = below(&format!("{}/check", issuer.login_path));
        let answer = match probe(&url).await {
            Ok(answer) => answer,
            Err(reason) => {
                findings.push(Finding::error(
                    format!("{url} does not answer: {reason}"),
                    "see that the name resolves here and that the proxy runs; for a certificate that only its users trust, set \
                     SSL_CERT_FILE to a file with it or its authority; if this machine is not meant to reach it, try from one \
                     that the issuer runs on",
                ));
                return findings;
            }
        };
        if let Some(certificate) = answer.certificate.as_ref().filter(|_| !has_certificate) {
            has_certificate = true;
            findings.push(dates("the certificate of base_url", Validity::of(certificate), now));
        }
        findings.push(if answer.status.as_u16() == 401 && answer.body.starts_with(DETECTED) {
            Finding::ok(format!("{} leads to the gate", below(&issuer.login_path)))
        } else {
            Finding::error(
                format!("{url} does not lead to the gate: it is answered {}", answer.status.as_u16()),
                format!(
                    "have the proxy pass {} and all below it on to the gate unchanged, as its sample does",
                    below(&issuer.login_path).path()
                ),
            )
        });
    }
    let mut exposed = Vec::new();
    for path in OWN_PATHS {
        let mut url = config.base_url.clone();
        url.set_path(path);
        if let Ok(answer) = probe(&url).await
            && is_internal(&answer.body)
        {
            exposed.push(url.to_string());
        }
    }
    findings.push(if exposed.is_empty() {
        Finding::ok("the proxy passes on none of the gate's own paths".to_owned())
    } else {
        Finding::error(
            format!("the proxy passes {} on to the gate", exposed.join(" and ")),
            "pass on the paths where tokens arrive, and nothing else, as the proxy's sample does",
        )
    });
    findings
}
