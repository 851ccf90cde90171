//! Checks of the public URL, as trackers see it.

use countersign_client::probe;
use countersign_http_client::is_this_machine;
use countersign_tls::Validity;
use jiff::Timestamp;
use url::Url;

use super::context::Context;
use super::finding::{Finding, Level};
use super::local::dates;
use crate::settings::{Resolved, giver};

/// What the server answers to a GET of a handshake.
const ONLY_POST: &str = "Only POST requests are accepted for bugtracker handshakes.";

/// Whether the public URL leads to the server: a GET of a handshake is answered 405, in the server's own words. No
/// redirect is followed.
pub(super) async fn url(context: &Context) -> Vec<Finding> {
    let Ok(settings) = &context.settings else { return Vec::new() };
    let aside = context.aside.as_ref().and_then(|aside| aside.settings.as_ref().ok()?.public_url.as_ref());
    let mut urls: Vec<&Url> = settings.public_url.iter().chain(aside).collect();
    urls.dedup();
    if urls.is_empty() {
        return vec![Finding::note(
            "public_url is not set, so token URLs begin with the address that is listened on",
            "set it to the https URL under which trackers reach this server",
        )];
    }
    if context.server.is_none() {
        return vec![Finding::note("it was not asked, because of --offline", "run this without --offline")];
    }
    let mut findings = Vec::new();
    for url in urls {
        findings.extend(lead(url, context.now).await);
    }
    findings
}

/// Where a public URL leads.
async fn lead(public_url: &Url, now: Timestamp) -> Vec<Finding> {
    let mut findings = Vec::new();
    if public_url.scheme() == "http" && !is_this_machine(public_url) {
        findings.push(Finding::warning(
            format!("{public_url} is without TLS: anybody between a tracker and this server can answer in its place"),
            "use https, with a proxy in front or public_tls_certificate",
        ));
    }
    let mut asked = public_url.clone();
    if let Ok(mut segments) = asked.path_segments_mut() {
        segments.pop_if_empty().extend(["token", "doctor", "+bugtracker-handshake"]);
    }
    let answer = match probe(&asked).await {
        Ok(answer) => answer,
        Err(reason) => {
            findings.push(Finding::error(
                format!("{public_url} does not answer: {reason}"),
                "see that its name resolves, that the proxy runs and forwards /token/, and that the certificate is valid \
                 (SSL_CERT_FILE names a file of those to trust); \
                 if this machine is not meant to reach it, try from one that a tracker runs on",
            ));
            return findings;
        }
    };
    findings.extend(
        answer
            .certificate
            .map(|certificate| dates("the certificate of the public URL", Validity::of(&certificate), now)),
    );
    let status = answer.status;
    if status.as_u16() == 405 && answer.body.trim_end() == ONLY_POST {
        findings.push(Finding::ok(format!("{public_url} leads to a Countersign server")));
    } else if let Some(location) = answer.location {
        findings.push(Finding::error(
            format!("{public_url} redirects to {location}; trackers do not follow redirects"),
            "set public_url to where the server is, or have the proxy forward rather than redirect",
        ));
    } else {
        findings.push(Finding::error(
            format!("{public_url} does not lead to a Countersign server: a GET of a handshake is answered {status}, not 405"),
            "have the proxy forward the path /token/ unchanged to public_listen",
        ));
    }
    findings
}

/// Whom the server believes where requests come from.
pub(super) fn proxies(context: &Context) -> Vec<Finding> {
    context.settings.as_ref().map(believed).unwrap_or_default()
}

/// Whom a server with these settings believes.
pub(super) fn believed(settings: &Resolved) -> Vec<Finding> {
    let mut findings = Vec::new();
    let networks = &settings.proxies.networks;
    for network in networks.iter().filter(|network| network.prefix_len() == 0) {
        findings.push(Finding::error(
            format!("trusted_proxies has {network}: anybody may say that a request comes from elsewhere"),
            format!(
                "name your proxies alone, such as 127.0.0.1/32, in {}",
                giver(settings, "trusted_proxies")
            ),
        ));
    }
    let is_behind = settings.public_url.as_ref().is_some_and(|url| !is_this_machine(url))
        && settings.public.address.is_local() == Some(true);
    if networks.is_empty() && is_behind {
        findings.push(Finding::warning(
            "public_listen is on this machine alone, and public_url is not, so a proxy stands between; it is not among \
             trusted_proxies, and all trackers share its address and its limit on refusals",
            "set trusted_proxies to the proxy's address, and have it set X-Forwarded-For",
        ));
    }
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        findings.push(Finding::ok(match networks.len() {
            0 => "none is believed, and none seems to be needed".to_owned(),
            _ => "they are named; whether they set the header themselves cannot be seen from here".to_owned(),
        }));
    }
    findings
}
