//! `GET /v1/server`: the server's settings, the files that it uses, and what keeps it from serving. `countersign doctor`
//! judges it.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::effective_config::{BoundListener, PassedOver, Setting, absolute};
use crate::health::STORE_TIMEOUT;
use crate::problem::Problem;
use crate::secret::{Exposure, SecretFile, exposure_of};
use crate::{Address, App, Callers, JwtRule, Scope, Tls};

/// How a server stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ServerDocument {
    /// The program's version.
    pub version: String,
    /// What this server's clock shows.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// The number of the user that it runs as.
    pub user: u32,
    /// Why this server is not ready to issue and redeem tokens now; absent while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unready: Option<String>,
    /// What is doubtful about its clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_warning: Option<String>,
    /// Why events cannot be kept now, although the server serves; absent while they can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_trouble: Option<String>,
    /// The configuration file that it read when it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_file: Option<String>,
    /// Every setting that is in force, and who said so.
    pub settings: Vec<Setting>,
    /// Both listeners.
    pub listeners: Vec<ListenerDocument>,
    /// The files and directories that only the server may use.
    pub files: Vec<FileDocument>,
    /// The named callers of the private API; absent where no file names any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callers: Option<Vec<CallerDocument>>,
    /// The issuers whose JWTs callers may show; absent where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerDocument>,
    /// Variables of libpq and a password file that could be meant for this server but have no effect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<PassedOver>,
    /// Where traces go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesDocument>,
}

/// A listener.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ListenerDocument {
    /// `public` or `private`.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Whether only this machine can reach it, where that can be told of all its addresses.
    pub is_local: Option<bool>,
    /// Whether callers must show a secret.
    pub asks_for_bearer: bool,
    /// Whether callers must show a certificate.
    pub asks_for_certificates: bool,
    /// Its certificate; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateDocument>,
}

/// The certificate that a listener shows.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificateDocument {
    /// The file that it is in.
    pub file: String,
    /// It is not valid before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub valid_from: Option<Timestamp>,
    /// Nor after.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub valid_until: Option<Timestamp>,
    /// Whether it is an authority's, which not every client takes for a server's.
    #[serde(default)]
    pub is_authority: bool,
    /// Why the files that stand there now could not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A named caller of the private API.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CallerDocument {
    /// Its name.
    pub name: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    pub scopes: Vec<Scope>,
    /// How many secrets are valid: two during a rotation.
    pub secrets: usize,
    /// Whose JWTs it shows; absent if it shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtDocument>,
    /// When it showed a credential last, since this server was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
}

/// Whose JWTs a caller shows.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JwtDocument {
    /// What they have as `iss`.
    pub issuer: String,
    /// What they have as `aud`.
    pub audience: String,
    /// What they have as `sub`.
    pub subject: String,
}

/// An issuer of JWTs, and its keys.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct IssuerDocument {
    /// Its URL.
    pub issuer: String,
    /// How many of its keys are in use; with none, no token of it is accepted.
    pub keys: usize,
    /// When they were fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub fetched: Option<Timestamp>,
    /// Why the last fetch brought none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A file or a directory that only the server may use, as the server sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FileDocument {
    /// What it is.
    pub what: String,
    /// Where it is.
    pub path: String,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// How many bytes are free there, of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Who else has access to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<ExposureDocument>,
    /// Why it cannot be used as it stands there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// That others have access to a file.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ExposureDocument {
    /// Who has access, and of which kind; the text continues from the file's name.
    pub finding: String,
    /// Whether they may write.
    pub may_write: bool,
    /// What to do.
    pub remedy: String,
}

/// Where traces go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TracesDocument {
    /// The collector's host.
    pub host: String,
    /// Why it does not take spans now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Describes this server: the settings that are in force and who gave them, its certificates and secret files, and
/// whether it can serve. No value is secret.
#[utoipa::path(
    get, path = "/v1/server", tag = "server",
    responses((status = 200, body = ServerDocument), (status = 500, body = Problem))
)]
pub(crate) async fn show_server(State(app): State<Arc<App>>) -> Result<Json<ServerDocument>, Problem> {
    let traces = async {
        let collector = app.traces.as_ref()?.collector();
        Some(TracesDocument { host: collector.host().to_owned(), trouble: collector.probe().await.err() })
    };
    let looks_at = Arc::clone(&app);
    let look = tokio::task::spawn_blocking(move || {
        (files(&looks_at), listeners(&looks_at), looks_at.effective_config.passed_over.now())
    });
    let events = async {
        let trouble = tokio::time::timeout(STORE_TIMEOUT, app.events.trouble()).await;
        trouble
            .unwrap_or_else(|_| Some("their store does not answer; check the disk that it is on".to_owned()))
    };
    let (ready, events_trouble, traces, look) = tokio::join!(app.ready(STORE_TIMEOUT), events, traces, look);
    // Nothing is left out in silence: who asks takes what is missing for well.
    let (files, listeners, passed_over) = look.map_err(|error| {
        let detail = format!("Looking at the files broke off: {error}.");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })?;
    Ok(Json(ServerDocument {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: app.tokens.clock().now(),
        user: geteuid().as_raw(),
        unready: ready.err().map(|error| error.to_string()),
        clock_warning: app.tokens.clock_warning().map(|warning| warning.to_string()),
        events_trouble,
        config_file: app.effective_config.config_file.as_deref().map(shown),
        settings: app.effective_config.settings.clone(),
        listeners,
        files,
        callers: app.callers.as_ref().map(callers),
        issuers: app.callers.as_ref().map(issuers).unwrap_or_default(),
        passed_over,
        traces,
    }))
}

fn files(app: &App) -> Vec<FileDocument> {
    let user = geteuid().as_raw();
    let directories = app.effective_config.directories.iter().map(|(what, path)| {
        let room = rustix::fs::statvfs(path).ok().map(|room| room.f_bavail.saturating_mul(room.f_frsize));
        FileDocument { free_bytes: room, ..file(what, path, true, exposure_of(path, user)) }
    });
    let secrets = app.effective_config.secrets.iter().map(|secret| {
        let mut document = file(secret.what, &secret.path, false, secret.exposure(user));
        if document.exposure.is_none() && document.trouble.is_none() {
            document.trouble = trouble(app, &secret.path);
        }
        document
    });
    let mut files: Vec<FileDocument> = directories.chain(secrets).collect();
    for file in issuer_files(app) {
        let document = self::file(file.what, &file.path, false, file.exposure(user));
        // Callers of one issuer have its keys from the same files. The issuer's error covers every other fault of such a file.
        if document.exposure.is_some() && files.iter().all(|known| known.path != document.path) {
            files.push(document);
        }
    }
    files
}

fn issuer_files(app: &App) -> Vec<SecretFile> {
    let callers = app.callers.as_ref().map(Callers::all).unwrap_or_default();
    callers.iter().filter_map(|caller| caller.rule.jwt.as_ref()).flat_map(JwtRule::files).collect()
}

fn callers(callers: &Callers) -> Vec<CallerDocument> {
    let callers = callers.all();
    let documents = callers.iter().map(|caller| CallerDocument {
        name: caller.rule.name.to_string(),
        scopes: caller.rule.scopes.clone(),
        secrets: caller.rule.secrets.len(),
        jwt: caller.rule.jwt.as_ref().map(|rule| JwtDocument {
            issuer: rule.issuer.to_string(),
            audience: rule.audience.clone(),
            subject: rule.subject.clone(),
        }),
        last_seen: caller.last_seen(),
    });
    documents.collect()
}

fn issuers(callers: &Callers) -> Vec<IssuerDocument> {
    let documents = callers.issuers().states().into_iter().map(|state| IssuerDocument {
        issuer: state.issuer,
        keys: state.keys,
        fetched: state.fetched,
        trouble: state.trouble,
    });
    documents.collect()
}

fn file(
    what: &str,
    path: &Path,
    is_directory: bool,
    exposure: std::io::Result<Option<Exposure>>,
) -> FileDocument {
    let (exposure, trouble) = match exposure {
        Ok(exposure) => (exposure, None),
        Err(error) => (None, Some(format!("cannot be looked at: {error}"))),
    };
    let exposure = exposure.map(|exposure| ExposureDocument {
        finding: exposure.to_string(),
        may_write: exposure.may_write(),
        remedy: exposure.remedy(&absolute(path), is_directory),
    });
    FileDocument {
        what: what.to_owned(),
        path: shown(path),
        is_directory,
        free_bytes: None,
        exposure,
        trouble,
    }
}

/// Why a secret file that is read again when it changes could not be used now.
fn trouble(app: &App, path: &Path) -> Option<String> {
    if path == app.key_file.path() {
        return app.key_file.load().err().map(|error| error.beside_its_name());
    }
    let callers = app.callers.as_ref().filter(|callers| callers.path() == path);
    callers.and_then(Callers::trouble).or_else(|| app.bearer.as_ref()?.trouble_of(path))
}

fn listeners(app: &App) -> Vec<ListenerDocument> {
    app.effective_config.listeners.iter().map(|door| listener(app, door)).collect()
}

fn listener(app: &App, door: &BoundListener) -> ListenerDocument {
    let is_private = door.name == "private";
    ListenerDocument {
        name: door.name.to_owned(),
        addresses: door.addresses.iter().flatten().map(ToString::to_string).collect(),
        is_local: is_local(&door.addresses),
        asks_for_bearer: is_private && app.asks_for_credential(),
        asks_for_certificates: door.tls.as_ref().is_some_and(|tls| tls.asks_for_certificates()),
        certificate: door.tls.as_deref().map(certificate),
    }
}

/// One address that others can reach is enough for them.
fn is_local(addresses: &[Option<Address>]) -> Option<bool> {
    let mut each = addresses.iter().map(|address| address.as_ref().and_then(Address::is_local));
    if each.clone().any(|is_local| is_local == Some(false)) {
        return Some(false);
    }
    each.all(|is_local| is_local == Some(true)).then_some(true)
}

fn certificate(tls: &Tls) -> CertificateDocument {
    let validity = tls.validity();
    CertificateDocument {
        file: shown(&tls.files().certificates),
        valid_from: validity.map(|validity| validity.from),
        valid_until: validity.map(|validity| validity.until),
        is_authority: tls.is_authority(),
        trouble: Tls::load(tls.files().clone()).err().map(|error| error.to_string()),
    }
}

fn shown(path: &Path) -> String {
    absolute(path).display().to_string()
}
