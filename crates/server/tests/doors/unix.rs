//! A private API on a Unix socket.

use countersign_client::{Credentials, TokenRequest};
use countersign_server::{Address, ListenerConfig};
use tempfile::TempDir;

use crate::fixture::{Running, door};

#[tokio::test]
async fn private_api_can_be_a_unix_socket() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("private.sock");
    let private = ListenerConfig { address: Address::Unix(path.clone()), tls: None };
    let mut server = Running::start(directory, door(None), private, None).await.unwrap();
    assert_eq!(server.private, format!("unix:{}", path.display()));
    let api = server.api(Credentials::default());
    let token = api.new_token(&TokenRequest::default()).await.unwrap();
    assert_eq!(api.token(token["token_id"].as_str().unwrap()).await.unwrap()["status"], "live");
    server.stop().await.unwrap();
    assert!(!path.exists(), "the socket goes with the server");
    let error = api.keys().await.unwrap_err().to_string();
    assert!(error.contains("unix:") && error.contains("countersign serve"), "{error}");
}
