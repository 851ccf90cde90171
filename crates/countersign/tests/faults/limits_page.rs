//! `docs/limits.md` says what the code does.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign::MAX_WAITING_LINES;
use countersign_core::{
    LIVE, LOOKED_AT, MAX_AUDIENCE_BYTES, MAX_CLAIMS_BYTES, MAX_KEPT, MAX_KEPT_ISSUED, MAX_KEYS, MAX_LIFETIME,
    MAX_NOTE_CHARS, MAX_REVOKED, Policy, RETRY_WINDOW, STEADY, handshake, seal,
};
use countersign_server::limits;
use countersign_store::postgres::limits as postgres;
use countersign_store::sqlite::LOCK_WAIT;
use countersign_tls::small_file;

use crate::overload::{BASE_KIB, CONNECTION_KIB, QUEUE};

const PAGE: &str = include_str!("../../../../docs/limits.md");

const SAMPLE: &str = include_str!("../../../../docs/countersign.sample.toml");

fn number(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn bytes(count: usize) -> String {
    const KIB: usize = 1024;
    const MIB: usize = 1024 * 1024;
    match count {
        MIB.. if count.is_multiple_of(MIB) => format!("{} MiB", number(count / MIB)),
        KIB.. if count.is_multiple_of(KIB) => format!("{} KiB", number(count / KIB)),
        _ => format!("{} bytes", number(count)),
    }
}

fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 3600.. if seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        seconds @ 60.. if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

/// One of so many parts.
fn share(parts: usize) -> String {
    assert_eq!(parts, 4, "the page says a quarter");
    "a quarter of them".to_owned()
}

/// The number behind `before` in a text.
fn stated(source: &str, before: &str) -> usize {
    let after = source.split_once(before).unwrap_or_else(|| panic!("no {before}")).1;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn connecting() -> String {
    let [one, several] = [postgres::CONNECT, postgres::CONNECT_TO_ONE].map(time);
    format!("{one}; with several hosts, {several} for each")
}

fn limits_of_callers() -> Vec<(&'static str, String)> {
    vec![
        ("named callers", number(limits::MAX_CALLERS)),
        ("callers file", bytes(usize::try_from(limits::MAX_CALLERS_FILE_BYTES).unwrap())),
        ("configuration file", bytes(usize::try_from(small_file::MAX_SETTINGS_BYTES).unwrap())),
        ("file of certificates or a private key", bytes(usize::try_from(small_file::MAX_PEM_BYTES).unwrap())),
        ("file with another secret", bytes(usize::try_from(small_file::MAX_SECRET_BYTES).unwrap())),
        ("secrets of a caller that are valid at a time", number(limits::MAX_SECRETS)),
        ("JWT of a caller", bytes(limits::MAX_JWT_BYTES)),
        ("issuers of JWTs", number(limits::MAX_ISSUERS)),
        ("keys of an issuer, in one document", number(limits::MAX_JWKS_KEYS)),
        ("document of an issuer", bytes(limits::MAX_JWKS_BYTES)),
        ("an issuer's clock that differs, for JWTs", time(limits::JWT_CLOCK_SKEW)),
        ("longest life of a JWT, from `iat` to `exp`", time(limits::MAX_JWT_LIFETIME)),
        ("an issuer's keys, until they are fetched anew", time(limits::JWKS_REFRESH)),
        ("an issuer's keys, while newer ones cannot be had", time(limits::JWKS_MAX_AGE)),
        (
            "pause between two fetches of an issuer's keys, whatever asks for them",
            time(limits::MIN_REFRESH_INTERVAL),
        ),
        ("fetching an issuer's keys", time(limits::JWKS_TIMEOUT)),
        ("requests that wait for an issuer's keys", number(limits::MAX_WAITING)),
    ]
}

fn limits_of_the_page() -> Vec<(&'static str, String)> {
    vec![
        ("viewers of the operators' page, with news coming in", number(limits::MAX_VIEWERS)),
        ("files of events that the operators' page sends at a time", number(limits::MAX_EXPORTS)),
        ("events in a file from the operators' page", number(limits::MAX_EXPORTED)),
        ("trackers that are told apart, and as many callers", number(limits::MAX_PARTIES)),
        ("tokens that one question for redemptions looks at", number(usize::try_from(LOOKED_AT).unwrap())),
    ]
}

fn limits() -> Vec<(&'static str, String)> {
    let policy = Policy::default();
    vec![
        ("head of a request", bytes(limits::MAX_HEAD_BYTES)),
        ("header lines", number(100)),
        ("body, public listener", bytes(limits::MAX_PUBLIC_BODY_BYTES)),
        ("body that is taken in, public listener", bytes(limits::MAX_PUBLIC_DISCARDED_BYTES)),
        ("body, private listener", bytes(limits::MAX_PRIVATE_BODY_BYTES)),
        ("text of a token", format!("{} characters", number(seal::MAX_TEXT_CHARS))),
        ("audience", bytes(MAX_AUDIENCE_BYTES)),
        ("claims", bytes(MAX_CLAIMS_BYTES)),
        ("secret of the private API, at least", format!("{} characters", limits::MIN_SECRET_CHARS)),
        ("XML nesting", number(countersign_xmlrpc::MAX_DEPTH)),
        ("attributes of an XML element", number(countersign_xmlrpc::MAX_ATTRIBUTES)),
        ("calls in a `system.multicall`", number(countersign_xmlrpc::MAX_CALLS)),
        ("results of a `system.multicall`", bytes(countersign_xmlrpc::MAX_RESULTS_SIZE)),
        ("a request's head, a TLS handshake, silence between requests", time(limits::HEAD_TIMEOUT)),
        ("the calls of a `system.multicall`", time(limits::MULTICALL_TIME)),
        ("a whole request, from the arrival of its head", time(limits::REQUEST_TIMEOUT)),
        (
            "the store's answer",
            format!(
                "{}, or what is left of the {}",
                time(limits::STORE_TIMEOUT),
                limits::REQUEST_TIMEOUT.as_secs()
            ),
        ),
        ("a client that reads nothing of its answer", time(limits::WRITE_TIMEOUT)),
        ("a client that cannot be reached", time(limits::WRITE_TIMEOUT)),
        ("a client that goes on sending when it was answered and its connection ends", time(limits::LINGER)),
        ("another program's lock on the store", time(LOCK_WAIT)),
        ("requests whose head has arrived when the server stops", time(limits::GRACE)),
        ("life of a token", time(policy.lifetime)),
        ("longest life of a token", time(MAX_LIFETIME)),
        ("asking again with the same `Idempotency-Key`", time(RETRY_WINDOW)),
        ("a clock that is ahead", time(handshake::CLOCK_SKEW)),
        ("a server's clock that is not its database's", time(handshake::CLOCK_SKEW)),
        ("purging after a start, or after the clock was set", time(STEADY)),
        ("record of a used token, after its expiry", time(policy.retention)),
        ("connections of each listener", number(limits::MAX_CONNECTIONS)),
        ("connections of one address to the public listener", share(limits::CONNECTION_SHARES)),
        ("file descriptors kept from connections", number(limits::RESERVED_DESCRIPTORS)),
        ("file descriptors of a process, at least", number(limits::MIN_DESCRIPTORS)),
        ("handshakes that wait for the store", number(QUEUE)),
        (
            "refusals of one address in a minute, wrong secrets at the private API included",
            number(stated(SAMPLE, "refusals_per_minute = ")),
        ),
        ("addresses whose refusals are counted", number(limits::MAX_ADDRESSES)),
        ("keys in the ring", number(MAX_KEYS)),
        ("revoked keys whose names the ring remembers", number(MAX_REVOKED)),
        ("a server that has not checked in at a shared store", time(LIVE)),
        ("events that wait to be written", number(limits::EVENT_QUEUE)),
        (
            "refusals of one reason in a minute that are events of their own",
            number(usize::try_from(limits::KEPT_EACH_MINUTE).unwrap()),
        ),
        (
            "events of one kind, or refusals of one reason, that are kept",
            number(usize::try_from(MAX_KEPT).unwrap()),
        ),
        ("events of issued tokens that are kept", number(usize::try_from(MAX_KEPT_ISSUED).unwrap())),
        (
            "user agent, and tracker stated at a relay attempt, in an event",
            format!("{MAX_NOTE_CHARS} characters"),
        ),
        ("events in an answer", number(limits::MAX_EVENTS)),
        ("bytes of events in an answer", bytes(limits::MAX_PAGE_BYTES)),
        ("alarms of one kind that wait to be delivered", number(limits::ALARM_QUEUE)),
        ("alarms that are delivered at a time", number(limits::ALARM_DELIVERIES)),
        (
            "wrong secrets in a minute that are many enough for an alarm",
            number(usize::try_from(limits::MANY_GUESSES).unwrap()),
        ),
        ("attempts to deliver an alarm", number(usize::try_from(limits::ALARM_ATTEMPTS).unwrap())),
        ("the answer to an alarm", time(limits::ALARM_TIMEOUT)),
        ("the answer of a collector of traces", time(limits::COLLECTOR_TIMEOUT)),
        ("spans that wait when the server stops", time(limits::SPAN_GRACE)),
        ("spans that wait to be exported", number(limits::SPAN_QUEUE)),
        ("attempts to export a batch of spans", number(usize::try_from(limits::SPAN_ATTEMPTS).unwrap())),
        ("spans in a batch", number(limits::SPAN_BATCH)),
        ("followers of events", number(limits::MAX_FOLLOWERS)),
        ("events that a follower may be behind", number(limits::MAX_BEHIND)),
        ("an event", time(limits::EVENT_RETENTION)),
        ("log lines that wait to be written", number(MAX_WAITING_LINES)),
        ("making a connection to PostgreSQL, until it can be used", connecting()),
        ("a statement that consumes", time(postgres::STATEMENT_PATIENCE)),
        ("a batch of handshakes and revocations, with all attempts", time(postgres::BATCH_PATIENCE)),
        ("a look at a token, and all else that is asked", time(postgres::PATIENCE)),
        ("batches of a server under way", number(postgres::BATCH_WORKERS)),
        ("handshakes in a batch", number(postgres::BATCH)),
        ("connections of a server for all else", number(postgres::READERS)),
        ("memory of a connection", bytes(usize::try_from(CONNECTION_KIB * 1024).unwrap())),
        ("memory besides", bytes(usize::try_from(BASE_KIB * 1024).unwrap())),
    ]
}

/// The first two columns of every row of a table whose second column is called `limit`.
fn rows() -> BTreeSet<(&'static str, String)> {
    let mut rows = BTreeSet::new();
    let mut in_table = false;
    for line in PAGE.lines() {
        let mut columns = line.strip_prefix("| ").unwrap_or_default().split(" | ");
        match (columns.next(), columns.next()) {
            (Some(_), Some("limit")) => in_table = true,
            (Some(what), Some(limit)) if in_table => {
                rows.insert((what, limit.to_owned()));
            }
            _ => in_table &= line.starts_with("|-"),
        }
    }
    rows
}

#[test]
fn documented_limits_match_the_code() {
    let limits: BTreeSet<_> =
        limits().into_iter().chain(limits_of_callers()).chain(limits_of_the_page()).collect();
    let rows = rows();
    let missing: Vec<_> = limits.difference(&rows).collect();
    let wrong: Vec<_> = rows.difference(&limits).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "put {missing:#?} in the place of {wrong:#?}");
}
