//! TLS on either listener.

use std::fs;
use std::sync::Arc;

use countersign_client::{ClientError, Credentials, PrivateApi, TokenRequest};
use countersign_core::SystemClock;
use countersign_server::{Callers, ListenerConfig, StartError, Tls, TlsFiles};
use countersign_testkit::{Authority, Certified, seen};
use tempfile::TempDir;

use crate::authority::{connect_trusting, write, write_to};
use crate::fixture::{Running, door, talk};

/// Every address, so that the refusal of an open private API is tested where it matters.
fn everywhere(tls: Option<TlsFiles>) -> ListenerConfig {
    ListenerConfig { address: "0.0.0.0:0".parse().unwrap(), tls }
}

/// The listener's URL as a client on this machine would write it.
fn here(url: &str) -> String {
    url.replace("0.0.0.0", "127.0.0.1")
}

fn trusting(authority: &Authority) -> Credentials {
    Credentials { server_authorities: Some(authority.pem().into_bytes()), ..Credentials::default() }
}

#[tokio::test]
async fn both_listeners_speak_tls() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = write_to(&authority, directory.path());
    let server = Running::start(directory, door(Some(files.clone())), door(Some(files)), None).await.unwrap();
    assert!(server.public.starts_with("https://") && server.private.starts_with("https://"));
    server.api(trusting(&authority)).new_token(&TokenRequest::default()).await.unwrap();
    // The public listener has no such route, but answers: the way there works.
    let public = PrivateApi::new(&server.public, trusting(&authority)).unwrap();
    assert!(matches!(public.keys().await, Err(ClientError::NotCountersign { status, .. }) if status == 404));
    let strangers = server.api(trusting(&Authority::new())).keys().await.unwrap_err().to_string();
    assert!(strangers.contains("certificate"), "{strangers}");
    let plain = PrivateApi::new(&server.private.replace("https", "http"), Credentials::default()).unwrap();
    assert!(matches!(plain.keys().await, Err(ClientError::NoAnswer { .. })));
}

#[tokio::test]
async fn client_is_served_whichever_http_1_it_offers() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = write_to(&authority, directory.path());
    let server = Running::start(directory, door(Some(files)), door(None), None).await.unwrap();
    for protocols in [&[][..], &["http/1.1"], &["http/1.0"], &["h2", "http/1.0"], &["http/1.0", "http/1.1"]] {
        let mut stream = connect_trusting(&authority, &server.public, protocols).await;
        let answer = talk(&mut stream, b"GET /healthz HTTP/1.0\r\n\r\n", "alive").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{protocols:?}: {answer}");
    }
}

#[tokio::test]
async fn new_certificate_is_used_and_bad_one_ignored() {
    let directory = TempDir::new().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let files = write_to(&old, directory.path());
    let tls = Tls::load(files.clone()).unwrap();
    let server = Running::start(directory, door(None), door(Some(files)), None).await.unwrap();
    let reaches = async |authority: &Authority| server.api(trusting(authority)).keys().await.is_ok();
    assert!(reaches(&old).await && !reaches(&new).await);
    write(server.directory.path(), "server.crt", "no certificate");
    server.reload.notify_one();
    assert!(reaches(&old).await, "what cannot be used changes nothing");
    write_to(&new, server.directory.path());
    server.reload.notify_one();
    seen("the new certificate is in use", async || reaches(&new).await.then_some(())).await;
    assert!(!reaches(&old).await);
    drop(tls);
}

#[tokio::test]
async fn reachable_private_api_needs_a_credential_to_start() {
    let authority = Authority::new();
    let clients = Authority::new();
    let start = async |with_tls: bool, with_clients: bool, bearer: Option<&str>| {
        let directory = TempDir::new().unwrap();
        let tls = with_tls.then(|| TlsFiles {
            client_authorities: with_clients.then(|| write(directory.path(), "clients.crt", &clients.pem())),
            ..write_to(&authority, directory.path())
        });
        Running::start(directory, door(None), everywhere(tls), bearer).await
    };
    for with_tls in [false, true] {
        let refused = start(with_tls, false, None).await.err().unwrap();
        assert!(matches!(refused, StartError::Exposed(_)), "{refused}");
        let sentence = refused.to_string();
        assert!(
            sentence.contains("--private-bearer-file") && sentence.contains("--private-client-ca"),
            "{sentence}"
        );
    }
    let server = start(true, false, Some("s3cret-0f9e8d7c6b5a4321")).await.unwrap();
    let with = |credentials| PrivateApi::new(&here(&server.private), credentials).unwrap();
    assert!(
        matches!(with(trusting(&authority)).keys().await, Err(ClientError::Refused { status, .. }) if status == 401)
    );
    let bearer = Some("s3cret-0f9e8d7c6b5a4321".to_owned().into());
    assert!(with(Credentials { bearer, ..trusting(&authority) }).keys().await.is_ok());

    let server = start(true, true, None).await.unwrap();
    let with = |credentials| PrivateApi::new(&here(&server.private), credentials).unwrap();
    assert!(matches!(with(trusting(&authority)).keys().await, Err(ClientError::NoAnswer { .. })));
    for (issuer, accepted) in [(&clients, true), (&authority, false)] {
        let Certified { certificate, key } = issuer.certify("worker");
        let identity = Some(format!("{certificate}{key}").into_bytes().into());
        let reached = with(Credentials { identity, ..trusting(&authority) }).keys().await;
        assert_eq!(reached.is_ok(), accepted, "{reached:?}");
    }
}

#[tokio::test]
async fn client_certificate_is_a_callers_credential() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let directory = TempDir::new().unwrap();
    let tls = TlsFiles {
        client_authorities: Some(write(directory.path(), "clients.crt", &clients.pem())),
        ..write_to(&authority, directory.path())
    };
    let secret = countersign_server::SecretHash::of(b"the-secret");
    let callers = format!(
        "[[caller]]\nname = 'worker'\ncertificates = ['dns:worker']\nscopes = ['issue']\n\
         [[caller]]\nname = 'ops'\ncertificates = ['dns:OPS']\nsecrets = ['{secret}']\nscopes = ['admin']\n"
    );
    let callers =
        Callers::load(&write(directory.path(), "callers.toml", &callers), Arc::new(SystemClock)).unwrap();
    let server = Running::with_callers(directory, everywhere(Some(tls)), callers).await.unwrap();
    let reach = async |certified: &str, bearer: Option<&str>| {
        let Certified { certificate, key } = clients.certify(certified);
        let identity = Some(format!("{certificate}{key}").into_bytes().into());
        let bearer = bearer.map(|secret| secret.to_owned().into());
        let credentials = Credentials { identity, bearer, ..trusting(&authority) };
        let api = PrivateApi::new(&here(&server.private), credentials).unwrap();
        match api.keys().await {
            Ok(_) => 200,
            Err(ClientError::Refused { status, .. }) => status.as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(reach("ops", None).await, 200);
    assert_eq!(reach("worker", None).await, 403, "it has another scope");
    assert_eq!(reach("other", None).await, 401, "an authority vouches for it, and no caller is known by it");
    assert_eq!(reach("worker", Some("the-secret")).await, 200, "a secret says who it is");
    assert_eq!(
        reach("ops", Some("another-secret")).await,
        401,
        "a wrong secret is not mended by the certificate"
    );
}

#[test]
fn unusable_tls_files_are_named() {
    let directory = TempDir::new().unwrap();
    let authority = Authority::new();
    let files = write_to(&authority, directory.path());
    let empty = write(directory.path(), "empty", "");
    let other_key = authority.certify("127.0.0.1").key;
    let other_key = write(directory.path(), "other.key", &other_key);
    for (files, says) in [
        (TlsFiles { certificates: "missing.crt".into(), ..files.clone() }, "missing.crt"),
        (TlsFiles { certificates: empty.clone(), ..files.clone() }, "certificate chain"),
        (TlsFiles { key: empty.clone(), ..files.clone() }, "private key"),
        (TlsFiles { key: other_key, ..files.clone() }, "cannot be used"),
        (TlsFiles { client_authorities: Some(empty), ..files.clone() }, "client authorities"),
    ] {
        let error = Tls::load(files.clone()).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let key = fs::read_to_string(&files.key).unwrap();
    let shown = format!("{:?}", Tls::load(files).unwrap());
    assert!(!key.lines().skip(1).any(|line| !line.starts_with('-') && shown.contains(line)), "{shown}");
}
