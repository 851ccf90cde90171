//! The server, its store, the disk and the clock.

use std::path::Path;
use std::time::Duration;

use countersign_core::handshake::CLOCK_SKEW;
use countersign_core::{CHECK_IN_PERIOD, MAX_LIFETIME, StoreTimes, after};
use countersign_server::ServerDocument;
use countersign_store::place::StoreUrl;
use countersign_store::postgres::DatabaseExamination;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::context::Context;
use super::finding::Finding;

/// What to do about dates in the store that are still to come.
const BEGIN_ANEW: &str = "set this machine's clock right; if it is right, the store was used under a wrong clock: begin with a \
                          new store and a new key ring, as docs/backups.md says";

/// With less than this free, the store may soon take no more writes.
const LITTLE_ROOM: u64 = 1024 * 1024 * 1024;

/// With less than this free it is a matter of minutes.
const NO_ROOM: u64 = 64 * 1024 * 1024;

/// Whether the running server answers.
pub(super) fn server(context: &Context) -> Vec<Finding> {
    match &context.server {
        None => Vec::new(),
        Some(Err(unusable)) => vec![
            Finding::error(unusable.reason.clone(), unusable.remedy.clone()),
            Finding::note(
                "so only what can be seen from here was checked: not the flags and variables that a server was started with, \
                 nor whether it can serve",
                "look again when a server answers",
            ),
        ],
        Some(Ok(served)) => {
            let mut findings = Vec::new();
            let this = served.nodes.get("this").and_then(Value::as_str);
            let nodes = served.nodes.get("nodes").and_then(Value::as_array);
            let me = nodes.and_then(|nodes| {
                nodes.iter().find(|node| this.is_some() && node.get("id").and_then(Value::as_str) == this)
            });
            let version = me.and_then(|node| node.get("version")).and_then(Value::as_str);
            match version {
                Some(version) if version != env!("CARGO_PKG_VERSION") => findings.push(Finding::warning(
                    format!("it runs version {version}, and this is {}", env!("CARGO_PKG_VERSION")),
                    "restart it, so that the installed version runs",
                )),
                _ => {}
            }
            match &served.report {
                Ok(report) => findings.extend(readiness(report)),
                Err(reason) => findings.push(Finding::warning(
                    format!("{reason}; so only what can be seen from here was checked, not what it was started with"),
                    "install the same version for the server and this command",
                )),
            }
            if let Err(reason) = &served.store {
                findings.push(Finding::error(
                    format!("no token can be consumed: {reason}"),
                    "see its log; it comes back by itself when the cause is gone",
                ));
            }
            if findings.is_empty() {
                findings.push(Finding::ok("it answers, and tokens can be redeemed"));
            }
            findings
        }
    }
}

/// Whether the server can serve, by its own account.
fn readiness(report: &ServerDocument) -> Vec<Finding> {
    let unready = report.unready.as_ref().map(|reason| {
        Finding::error(
            format!("it answers, and is not ready to issue and redeem tokens: {reason}"),
            "see its log; most causes need no restart when they are gone",
        )
    });
    let doubtful = report.clock_warning.as_ref().map(|warning| {
        Finding::warning(
            format!("its clock is doubtful: {warning}"),
            "set it right, and keep it right (chrony, systemd-timesyncd)",
        )
    });
    unready.into_iter().chain(doubtful).collect()
}

/// The store: whether it can be opened, whole, and is meant to be served from.
pub(super) fn store(context: &Context) -> Vec<Finding> {
    let stored = match &context.store {
        None => return Vec::new(),
        // Of a server that can redeem tokens it is known that its store is in order, wherever that is.
        Some(Err(unusable)) if context.is_ready() => {
            return vec![Finding::note(
                format!("the server uses it, and it was not looked into from here: {}", unusable.reason),
                "run this where the server runs, as its user or as root; give --store with the password, or \
                 --store-password-file, for a database that asks for one",
            )];
        }
        Some(Err(unusable)) => {
            let in_memory =
                context.settings.as_ref().is_ok_and(|settings| settings.store.url == StoreUrl::Memory);
            return if in_memory {
                vec![Finding::note(unusable.reason.clone(), unusable.remedy.clone())]
            } else {
                vec![Finding::error(unusable.reason.clone(), unusable.remedy.clone())]
            };
        }
        Some(Ok(stored)) => stored,
    };
    let mut findings = Vec::new();
    if let Some(to) = &stored.handed_over_to {
        findings.push(Finding::error(
            format!("it was handed over to {to}, and no server may use it"),
            "serve from there; set `store`. If that one was handed over to this one, complete the move by running \
             `countersign store move` again",
        ));
    }
    if let Some(damage) = &stored.damage {
        findings.push(Finding::error(
            format!("it is damaged: {damage}"),
            "stop the server, and put a backup in its place; tokens issued before are refused then",
        ));
    }
    if let Some(file) = &stored.file
        && !context.is_ready()
        && rustix::fs::access(file, rustix::fs::Access::WRITE_OK).is_err()
    {
        findings.push(Finding::error(
            format!("{} cannot be written by this user", file.display()),
            "run this as the user that the server runs as, or as root; if that is who runs it, let that user write there",
        ));
    }
    let now = stored.times.as_ref().and_then(|times| times.clock).unwrap_or(context.now);
    // A fence that has just been moved is half a minute ahead.
    if stored.stats.fence > after(now, CLOCK_SKEW * 2) {
        findings.push(Finding::error(
            format!(
                "its fence stands at {}, which is still to come: every token is refused until then",
                stored.stats.fence
            ),
            BEGIN_ANEW,
        ));
    }
    if findings.is_empty() {
        let stats = &stored.stats;
        let size = stats.bytes.map_or_else(String::new, |bytes| format!(", {} KiB", bytes / 1024));
        findings.push(Finding::ok(format!(
            "{} (schema {}): {} consumed and {} revoked on record{size}",
            stats.kind, stats.schema, stats.consumed, stats.revoked
        )));
    }
    findings
}

/// Whether what happens can be kept.
pub(super) fn events(context: &Context) -> Vec<Finding> {
    let looked = match context.report() {
        Some(report) => report.events_trouble.clone().map_or(Ok(()), Err),
        None => match &context.events {
            // Where the store is missing, a file of events that is not there tells nothing.
            Some(Ok(())) if context.stored().is_none() => return Vec::new(),
            Some(looked) => looked.clone(),
            None => return Vec::new(),
        },
    };
    vec![match looked {
        Ok(()) => Finding::ok("they can be read and kept, as far as can be told"),
        Err(reason) => Finding::error(
            format!("what happens is not kept: {reason}"),
            "mend that, and the server goes on by itself. Until then tokens are redeemed and alarms are sent; replays, relay \
             attempts and other refusals wait to be kept, and are lost when too many wait or the server stops",
        ),
    }]
}

/// Whether a database server keeps what it has committed.
pub(super) fn durability(context: &Context) -> Vec<Finding> {
    let Some(database) = context.stored().and_then(|stored| stored.database.as_ref()) else {
        return Vec::new();
    };
    let longest = context.settings.as_ref().map_or(MAX_LIFETIME, |settings| settings.policy.lifetime);
    judge(database, longest)
}

fn judge(database: &DatabaseExamination, lifetime: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is = |name: &str, value: &str| {
        database.settings.iter().any(|(setting, is)| setting == name && is == value)
    };
    if database.is_standby {
        findings.push(Finding::error(
            "the database is a standby, and takes no writes",
            "name the primary in `store`; only when that one is gone for good: promote this one, and run `countersign store \
             fence` then",
        ));
    } else if is("default_transaction_read_only", "on") {
        findings.push(Finding::error(
            "the database takes no writes (default_transaction_read_only is on)",
            "set it off for the role that serves",
        ));
    }
    if is("fsync", "off") {
        findings.push(Finding::error(
            "fsync is off: a power cut forgets which tokens were used, and damages the database",
            "set fsync = on in postgresql.conf and restart PostgreSQL",
        ));
    }
    if is("full_page_writes", "off") {
        findings.push(Finding::error(
            "full_page_writes is off: a power cut can damage the database",
            "set full_page_writes = on, unless its file system never tears a page",
        ));
    }
    if is("synchronous_commit", "off") || is("synchronous_commit", "local") {
        findings.push(Finding::note(
            "synchronous_commit is not on by default; each transaction of Countersign sets it on for itself",
            "nothing",
        ));
    }
    for (table, what) in &database.unsound_tables {
        findings.push(if what == "unlogged" {
            Finding::error(
                format!("the table {table} is unlogged: a crash empties it, and used tokens would be good again"),
                format!("run `ALTER TABLE {table} SET LOGGED` in the store's schema; no token is redeemed until then"),
            )
        } else {
            Finding::error(
                format!("the table {table} is {what}, by which the database decides who redeems a token"),
                "finish putting the backup back, or add the primary key again; none of its tokens is redeemed until then",
            )
        });
    }
    if database.is_told_apart == Some(false) {
        findings.push(Finding::warning(
            "the database does not tell which server it is of: that a standby took over, or that a backup of the server was \
             put back, is not noticed, and tokens that it has forgotten are good again",
            "let the role that serves execute pg_control_system() and pg_current_wal_lsn(), or run `countersign store fence` \
             whenever another server takes over",
        ));
    }
    let takeover = if database.is_told_apart == Some(true) {
        "if it is promoted, the fence moves by itself, and every token issued until then is refused, since it may have \
         forgotten which were used last"
            .to_owned()
    } else {
        format!(
            "if it is promoted, it may have forgotten which tokens were used last, and these are good again for as long as \
             tokens live ({} s, unless one was issued for longer)",
            lifetime.as_secs()
        )
    };
    for (name, how) in &database.standbys {
        match how.as_deref() {
            Some("sync" | "quorum" | "potential") => {}
            Some(_) if database.is_told_apart == Some(true) => findings.push(Finding::note(
                format!("the standby {name:?} follows asynchronously: {takeover}"),
                "nothing, or name it in synchronous_standby_names",
            )),
            Some(_) => findings.push(Finding::warning(
                format!("the standby {name:?} follows asynchronously: {takeover}"),
                "name it in synchronous_standby_names; or run `countersign store fence` after a promotion, before serving",
            )),
            None => findings.push(Finding::note(
                format!("the standby {name:?} follows; this role may not know whether synchronously"),
                "grant pg_monitor to the role that this is run with, or ask the database's administrator",
            )),
        }
    }
    if findings.iter().all(|finding| finding.level < super::finding::Level::Warning) {
        findings.push(Finding::ok("what is committed is kept, as far as can be told from here"));
    }
    findings
}

/// How much room there is.
pub(super) fn disk(context: &Context) -> Vec<Finding> {
    if let Some(report) = context.report() {
        let directories = report.files.iter().filter_map(|file| Some((file.path.as_str(), file.free_bytes?)));
        return directories.map(|(path, free)| room_finding(path, free)).collect();
    }
    let Ok(settings) = &context.settings else { return Vec::new() };
    // The room on a database's own machine cannot be seen from here.
    let database = context.stored().and_then(|stored| stored.file.as_deref());
    let place = database.and_then(Path::parent).unwrap_or(&settings.data_dir);
    let Ok(room) = rustix::fs::statvfs(place) else { return Vec::new() };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    vec![room_finding(&place.display().to_string(), free)]
}

fn room_finding(place: &str, free: u64) -> Finding {
    let shown = format!("{} MiB are free at {place}", free / (1024 * 1024));
    let remedy = "make room; when it is full, no token is consumed";
    if free < NO_ROOM {
        Finding::error(shown, remedy)
    } else if free < LITTLE_ROOM {
        Finding::warning(shown, remedy)
    } else {
        Finding::ok(shown)
    }
}

/// Whether the clocks of this machine, the store and the servers agree.
pub(super) fn clock(context: &Context) -> Vec<Finding> {
    let Some(stored) = context.stored() else { return Vec::new() };
    let mut findings = Vec::new();
    let here = context.now.duration_since(stored.node_list.now).abs();
    skew("this machine's clock and the store's", here, &mut findings);
    for seen in stored.node_list.nodes.iter().filter(|seen| seen.live) {
        let apart = seen.node.clock.duration_since(seen.at).abs();
        skew(&format!("the clocks of {} and the store", seen.node.label()), apart, &mut findings);
    }
    if let Some(times) = &stored.times {
        lines(times, context.now, &mut findings);
    }
    let latest = stored.node_list.nodes.iter().map(|seen| seen.at).max();
    if let Some(latest) = latest.filter(|latest| latest.duration_since(context.now) > tolerance()) {
        findings.push(Finding::error(
            format!("a server checked in at {latest}, which is still to come: this clock has stepped back"),
            "set the clock right, and keep it right (chrony, systemd-timesyncd)",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("no clock is off, as far as can be told from here"));
    }
    findings
}

/// Whether the store's dates are ones that this clock has reached.
fn lines(times: &StoreTimes, now: Timestamp, findings: &mut Vec<Finding>) {
    let now = times.clock.unwrap_or(now);
    let is_ahead = |moment: Timestamp| moment > after(now, CLOCK_SKEW * 2);
    if is_ahead(times.horizon.created) {
        findings.push(Finding::error(
            format!(
                "records were purged of tokens made at {}, which is still to come: no token is issued until then",
                times.horizon.created
            ),
            BEGIN_ANEW,
        ));
    }
    if let Some(newest) = times.newest.filter(|newest| is_ahead(*newest)) {
        findings.push(Finding::error(
            format!("a token is on record that was made at {newest}, which is still to come: nothing is purged until then"),
            BEGIN_ANEW,
        ));
    }
}

/// How far clocks may be apart before it is worth a word.
fn tolerance() -> SignedDuration {
    SignedDuration::try_from(CHECK_IN_PERIOD).unwrap_or(SignedDuration::ZERO)
}

fn skew(whose: &str, apart: SignedDuration, findings: &mut Vec<Finding>) {
    let allowed = SignedDuration::try_from(CLOCK_SKEW).unwrap_or(SignedDuration::ZERO);
    let sentence = format!("{whose} are {} s apart", apart.as_secs());
    let remedy = "set them right, and keep them right (chrony, systemd-timesyncd)";
    if apart > allowed {
        findings.push(Finding::error(
            format!("{sentence}: a server with such a clock neither issues nor redeems tokens"),
            remedy,
        ));
    } else if apart > tolerance() {
        findings.push(Finding::warning(sentence, remedy));
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::{Horizon, NodeList, StoreStats};

    use super::super::finding::Level;
    use super::*;

    fn database(
        settings: &[(&str, &str)],
        standbys: &[(&str, Option<&str>)],
        is_standby: bool,
    ) -> Vec<Finding> {
        database_that(settings, standbys, is_standby, true)
    }

    fn database_that(
        settings: &[(&str, &str)],
        standbys: &[(&str, Option<&str>)],
        is_standby: bool,
        is_told_apart: bool,
    ) -> Vec<Finding> {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let stats = StoreStats {
            kind: "postgres",
            schema: 2,
            consumed: 0,
            revoked: 0,
            fence: now,
            horizon: now,
            bytes: None,
        };
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let follows = |(name, how): &(&str, Option<&str>)| ((*name).to_owned(), how.map(str::to_owned));
        let examined = DatabaseExamination {
            ring: None,
            handed_over_to: None,
            stats,
            node_list: NodeList { now, nodes: Vec::new() },
            times: None,
            settings: settings.iter().map(own).collect(),
            is_told_apart: Some(is_told_apart),
            unsound_tables: Vec::new(),
            is_standby,
            standbys: standbys.iter().map(follows).collect(),
        };
        judge(&examined, Duration::from_mins(5))
    }

    #[test]
    fn database_that_may_forget_is_reported() {
        let found = |findings: Vec<Finding>, level: Level, part: &str| {
            assert!(
                findings.iter().any(|found| found.level == level && found.sentence.contains(part)),
                "{part}: {findings:?}"
            );
        };
        let well = [("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on")];
        assert_eq!(database(&well, &[("b", Some("sync")), ("c", Some("quorum"))], false).len(), 1);
        found(database(&well, &[], false), Level::Ok, "is kept");
        found(database(&[("fsync", "off")], &[], false), Level::Error, "fsync is off");
        found(database(&[("full_page_writes", "off")], &[], false), Level::Error, "can damage");
        found(database(&[("synchronous_commit", "off")], &[], false), Level::Note, "not on by default");
        found(
            database(&[("default_transaction_read_only", "on")], &[], false),
            Level::Error,
            "takes no writes",
        );
        found(database(&well, &[], true), Level::Error, "is a standby");
        found(database(&well, &[("b", Some("async"))], false), Level::Note, "the fence moves by itself");
        let untold = database_that(&well, &[("b", Some("async"))], false, false);
        found(untold.clone(), Level::Warning, "as long as tokens live (300 s");
        found(untold, Level::Warning, "does not tell which server it is of");
        found(database(&well, &[("b", None)], false), Level::Note, "may not know");
    }

    #[test]
    fn low_disk_space_warns_and_none_is_an_error() {
        let level = |free| room_finding("/srv", free).level;
        assert_eq!(level(u64::MAX), Level::Ok);
        assert_eq!(level(LITTLE_ROOM - 1), Level::Warning);
        assert_eq!(level(NO_ROOM - 1), Level::Error);
    }

    #[test]
    fn future_dates_are_errors() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let far = after(now, Duration::from_secs(61));
        let horizon = Horizon { created: far, expires: far };
        let found = |times: &StoreTimes| {
            let mut findings = Vec::new();
            lines(times, now, &mut findings);
            findings.iter().map(|found| found.sentence.clone()).collect::<Vec<_>>().join("\n")
        };
        let well = StoreTimes::default();
        assert_eq!(found(&well), "");
        let of_its_clock = StoreTimes { horizon, clock: Some(far), ..well.clone() };
        assert_eq!(found(&of_its_clock), "", "the store's own clock counts");
        assert!(found(&StoreTimes { horizon, ..well.clone() }).contains("no token is issued until then"));
        assert!(found(&StoreTimes { newest: Some(far), ..well }).contains("nothing is purged until then"));
    }

    #[test]
    fn clocks_may_be_a_little_apart() {
        let level = |seconds| {
            let mut findings = Vec::new();
            skew("two clocks", SignedDuration::from_secs(seconds), &mut findings);
            findings.first().map(|finding| finding.level)
        };
        assert_eq!(
            [level(0), level(5), level(6), level(30), level(31)],
            [None, None, Some(Level::Warning), Some(Level::Warning), Some(Level::Error)]
        );
    }
}
