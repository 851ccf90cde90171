//! The inputs of all checks, gathered once.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_client::{ClientError, DEFAULT_SERVER, PrivateApi};
use countersign_core::{Clock, KeyRing, NodeList, OsEntropy, StoreStats, StoreTimes};
use countersign_server::{Address, KeyFile, KeyFileError, ServerDocument, Setting, Source};
use countersign_store::error::OpenError;
use countersign_store::place::{StorePlace, StoreUrl};
use countersign_store::postgres::{self, DatabaseExamination};
use countersign_store::sqlite;
use jiff::Timestamp;
use rustix::fs::Access;
use serde_json::Value;

use crate::output::Failure;
use crate::remote::Trust;
use crate::settings::{Resolved, ServeArgs, resolve_said};

/// Everything that is known.
pub(super) struct Context {
    pub(super) now: Timestamp,
    /// The settings to judge, or what is wrong with them: those that are in force, if a server says which; otherwise those
    /// that are read here.
    pub(super) settings: Result<Resolved, String>,
    /// The settings that were read here but are not in force, if they differ.
    pub(super) aside: Option<UnusedSettings>,
    /// The key ring, from its file or from a shared store that keeps it.
    pub(super) ring: Option<Result<KeyRing, Unusable>>,
    /// What the running server says; `None`: it is not to be asked.
    pub(super) server: Option<Result<ServerReport, Unusable>>,
    /// What the store says, opened beside the server; `None` without a configuration.
    pub(super) store: Option<Result<StoreReport, Unusable>>,
    /// Why events cannot be kept, or read, as the file of them stands there; looked at where no server says so.
    pub(super) events: Option<Result<(), String>>,
}

/// Settings that are not in force.
pub(super) struct UnusedSettings {
    pub(super) settings: Result<Resolved, String>,
    /// The names of those that differ.
    pub(super) differing: Vec<String>,
}

/// Why something could not be looked at.
#[derive(Debug)]
pub(super) struct Unusable {
    pub(super) reason: String,
    pub(super) remedy: String,
    /// Whether this command cannot see it, which does not tell whether the server can.
    pub(super) is_unseen: bool,
}

/// What a running server says.
pub(super) struct ServerReport {
    /// How it stands, or why it does not tell.
    pub(super) report: Result<ServerDocument, String>,
    pub(super) nodes: Value,
    /// What is in its store, or why it cannot be asked.
    pub(super) store: Result<Value, String>,
}

/// What is in the store.
pub(super) struct StoreReport {
    pub(super) stats: StoreStats,
    pub(super) node_list: NodeList,
    /// The store that it was handed over to.
    pub(super) handed_over_to: Option<String>,
    /// What it knows about the time; `None` while no server may use it.
    pub(super) times: Option<StoreTimes>,
    /// The database, if it is in a file.
    pub(super) file: Option<PathBuf>,
    /// What a search for damage has found.
    pub(super) damage: Option<String>,
    /// What a database server says of itself.
    pub(super) database: Option<DatabaseExamination>,
}

/// Which server to ask.
pub(super) struct TargetServer {
    /// Its URL, if one was given.
    pub(super) url: Option<String>,
    pub(super) trust: Trust,
}

impl Context {
    pub(super) async fn gather(
        args: ServeArgs,
        asked: Option<TargetServer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let now = clock.now();
        let bearer = args.given.path("private_bearer_file").map(Path::to_owned);
        let mine = args.resolve().map_err(Failure::into_sentence);
        let server = match asked {
            Some(asked) => Some(connect(&asked, mine.as_ref().ok(), bearer)?),
            None => None,
        };
        let server = match server {
            Some(Ok(server)) => Some(ask(&server).await),
            Some(Err(unusable)) => Some(Err(unusable)),
            None => None,
        };
        let report = server.as_ref().and_then(|server| server.as_ref().ok()?.report.as_ref().ok());
        let my_store = mine.as_ref().ok().map(store_of);
        let (settings, aside) = choose(mine, report);
        let (mut ring, mut store, mut events) = (None, None, None);
        if let Ok(settings) = &settings {
            let place = place(settings, my_store);
            store = Some(look_into(&place, Arc::clone(&clock)).await);
            // A user who cannot open the store cannot open the events either; the store's finding says so.
            let is_unseen = matches!(&store, Some(Err(unusable)) if unusable.is_unseen);
            if report.is_none() && !is_unseen {
                events = Some(look_at_events(&place).await);
            }
            let stored =
                store.as_ref().and_then(|store| store.as_ref().ok()?.database.as_ref()?.ring.as_ref());
            ring = Some(read_ring(&settings.key_ring).and_then(|file| match stored {
                Some(stored) => stored.open(&file).map_err(|error| Unusable {
                    reason: error.to_string(),
                    remedy: "put the key file of a server there that serves from this store; \"Lost files\" in \
                             docs/keys.md says what to do if there is none"
                        .to_owned(),
                    is_unseen: false,
                }),
                None => Ok(file),
            }));
        }
        Ok(Self { now, settings, aside, ring, server, store, events })
    }

    /// The store, if it could be looked into.
    pub(super) fn stored(&self) -> Option<&StoreReport> {
        self.store.as_ref()?.as_ref().ok()
    }

    /// What the running server says of itself.
    pub(super) fn report(&self) -> Option<&ServerDocument> {
        self.server.as_ref()?.as_ref().ok()?.report.as_ref().ok()
    }

    /// Whether a running server says that it can serve.
    pub(super) fn is_ready(&self) -> bool {
        self.report().is_some_and(|report| report.unready.is_none())
    }
}

/// The server to ask: the one that was named, or the one of these settings. Wrong flags are wrong usage; a secret that
/// cannot be read is a finding.
fn connect(
    asked: &TargetServer,
    settings: Option<&Resolved>,
    bearer: Option<PathBuf>,
) -> Result<Result<PrivateApi, Unusable>, Failure> {
    let url = asked.url.clone().or_else(|| settings.and_then(private_url));
    let url = url.as_deref().unwrap_or(DEFAULT_SERVER);
    let bare = asked.trust.connect(url, None)?;
    let Some(bearer) = bearer.or_else(|| settings?.private_bearer_file.clone()) else { return Ok(Ok(bare)) };
    Ok(asked.trust.connect(url, Some(&bearer)).map_err(|failure| Unusable {
        reason: format!("the server at {url} was not asked: {}", failure.into_sentence()),
        remedy: "run this as the user that the server runs as, or as root; or name a file with the secret that this user \
                 can read, with --private-bearer-file"
            .to_owned(),
        is_unseen: true,
    }))
}

/// Where a server with these settings has its private API, if they tell.
fn private_url(settings: &Resolved) -> Option<String> {
    match &settings.private.address {
        Address::Tcp(address) => {
            let mut address = *address;
            if address.ip().is_unspecified() {
                address.set_ip(match address.ip() {
                    std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                });
            }
            let scheme = if settings.private.tls.is_some() { "https" } else { "http" };
            (address.port() != 0).then(|| format!("{scheme}://{address}"))
        }
        Address::Unix(path) => Some(format!("unix:{}", path.display())),
        Address::Systemd(_) => None,
    }
}

async fn ask(server: &PrivateApi) -> Result<ServerReport, Unusable> {
    // Whether it answers at all.
    if let Err(error) = server.keys().await {
        let remedy = match &error {
            ClientError::Refused { status, .. } if status.as_u16() == 401 => {
                "name the file with its secret: --private-bearer-file FILE"
            }
            ClientError::Unreachable { .. } => {
                "start it, name its private API with --server URL, or look at the rest alone with --offline"
            }
            ClientError::Tls(_) => {
                "name the authority of its certificate (--server-ca), and the server by the name that stands in it \
                 (--server https://NAME:PORT)"
            }
            _ => "name its private API with --server URL, and see the server's log",
        };
        return Err(Unusable { reason: error.to_string(), remedy: remedy.to_owned(), is_unseen: true });
    }
    let report = match server.server().await {
        Ok(report) => serde_json::from_value(report)
            .map_err(|error| format!("what it says of itself is not understood ({error})")),
        Err(ClientError::NotCountersign { status, .. }) if status.as_u16() == 404 => {
            Err("it is of an older version, which does not say what is in force".to_owned())
        }
        Err(error) => Err(format!("it does not say what is in force: {error}")),
    };
    let nodes = server.nodes().await;
    let store = server.store_stats().await.map_err(|error| error.to_string());
    Ok(ServerReport { report, nodes: nodes.unwrap_or_default(), store })
}

/// The settings to judge, and those beside them.
fn choose(
    mine: Result<Resolved, String>,
    report: Option<&ServerDocument>,
) -> (Result<Resolved, String>, Option<UnusedSettings>) {
    let Some(report) = report else { return (mine, None) };
    let effective_config =
        match resolve_said(&report.settings, report.config_file.as_ref().map(PathBuf::from)) {
            Ok(effective_config) => effective_config,
            Err(failure) => {
                let reason = failure.into_sentence();
                return (
                    Err(format!("what the server says of its settings is not understood: {reason}")),
                    None,
                );
            }
        };
    let differing = match &mine {
        Ok(mine) => differing(mine, report),
        Err(_) => Vec::new(),
    };
    let aside =
        (mine.is_err() || !differing.is_empty()).then_some(UnusedSettings { settings: mine, differing });
    (Ok(effective_config), aside)
}

/// The settings that were given here and are not in force, and those that have left the file since.
fn differing(mine: &Resolved, report: &ServerDocument) -> Vec<String> {
    let is_same_file =
        mine.config_file.as_deref().map(|path| path.display().to_string()) == report.config_file;
    let differs = |setting: &&Setting| {
        let effective_config = report.settings.iter().find(|other| other.name == setting.name);
        let value = effective_config.and_then(|effective_config| effective_config.value.as_ref());
        let has_left = is_same_file
            && effective_config.is_some_and(|effective_config| effective_config.source == Source::File);
        // The secret is also what this command shows to the server, and may be a copy.
        setting.name != "private_bearer_file"
            && setting.value.as_ref() != value
            && (setting.source != Source::Default || has_left)
    };
    mine.said.iter().filter(differs).map(|setting| setting.name.clone()).collect()
}

/// The store of these settings, as they tell of it, and where it is.
fn store_of(settings: &Resolved) -> (Option<Value>, StorePlace) {
    let said = settings.said.iter().find(|setting| setting.name == "store");
    (said.and_then(|setting| setting.value.clone()), settings.store.clone())
}

/// Where to look for the store. The server's report of it has no password; the settings read here may have one.
fn place(settings: &Resolved, mine: Option<(Option<Value>, StorePlace)>) -> StorePlace {
    let (said, place) = store_of(settings);
    match mine {
        Some((of_mine, with_password)) if matches!(place.url, StoreUrl::Postgres(_)) && of_mine == said => {
            with_password
        }
        _ => place,
    }
}

fn read_ring(path: &Path) -> Result<KeyRing, Unusable> {
    KeyFile::new(path.to_owned()).load().map_err(|error| {
        let (remedy, is_unseen) = match &error {
            KeyFileError::Exposed { .. } => {
                ("make it secret again as the check of the files says; its keys stay as they are", false)
            }
            KeyFileError::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                ("run this as the user that the server runs as, or as root", true)
            }
            KeyFileError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => (
                "name its place with --key-ring, or put it back from a backup or from another server of this store; a server \
                 makes one when it is started for the first time. \"Lost files\" in docs/keys.md has the rest",
                true,
            ),
            _ => (
                "put the right one back, from a backup or from another server of this store; \"Lost files\" in docs/keys.md \
                 says what to do if there is none",
                false,
            ),
        };
        let reason = match &error {
            KeyFileError::Exposed { path, .. } => {
                format!("the key ring {} was not read, because others have access to it", path.display())
            }
            other => other.to_string(),
        };
        Unusable { reason, remedy: remedy.to_owned(), is_unseen }
    })
}

/// Looks at the file of events without changing it. One that is not there yet is made by the server.
async fn look_at_events(place: &StorePlace) -> Result<(), String> {
    place.backend().events().known().await.map(drop).map_err(|error| error.reason())
}

/// Looks into the store without changing it, and without keeping a server from it.
async fn look_into(place: &StorePlace, clock: Arc<dyn Clock>) -> Result<StoreReport, Unusable> {
    let unusable = |reason: String| Unusable {
        reason,
        remedy: "mend that; no server starts on this store".to_owned(),
        is_unseen: false,
    };
    if let StoreUrl::Postgres(url) = &place.url {
        let examined = postgres::examine(url, &place.postgres, clock, Arc::new(OsEntropy)).await;
        let examined = examined.map_err(|error| unusable(error.to_string()))?;
        return Ok(StoreReport {
            stats: examined.stats.clone(),
            node_list: examined.node_list.clone(),
            handed_over_to: examined.handed_over_to.clone(),
            times: examined.times.clone(),
            damage: None,
            file: None,
            database: Some(examined),
        });
    }
    let Some(path) = place.url.database(&place.data_dir) else {
        return Err(Unusable {
            reason: "a store in memory can only be asked through its server".to_owned(),
            remedy: "ask its server, without --offline".to_owned(),
            is_unseen: true,
        });
    };
    if rustix::fs::access(&path, Access::READ_OK) == Err(rustix::io::Errno::ACCESS) {
        return Err(Unusable {
            reason: format!("{} cannot be read by this user, so it was not looked into", path.display()),
            remedy: "run this as the user that the server runs as, or as root".to_owned(),
            is_unseen: true,
        });
    }
    let (file, now) = (path.clone(), clock.now());
    let examined = tokio::task::spawn_blocking(move || sqlite::examine(&path, now)).await;
    let examined = examined.map_err(|error| unusable(error.to_string()))?;
    let examined = examined.map_err(|error| Unusable {
        remedy: match &error {
            OpenError::Missing(_) => {
                "if it was moved, put it back where the server looks for it; before a server's first start there is none"
            }
            OpenError::Damaged { .. } => {
                "stop the server before anything is moved; a backup in its place refuses the tokens issued before"
            }
            _ => "mend that; no server starts on this store",
        }
        .to_owned(),
        ..unusable(error.to_string())
    })?;
    Ok(StoreReport {
        stats: examined.stats,
        node_list: examined.node_list,
        handed_over_to: examined.handed_over_to,
        times: Some(examined.times),
        damage: examined.damage,
        file: Some(file),
        database: None,
    })
}
