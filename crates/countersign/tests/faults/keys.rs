//! The key ring: lost, vanished, another server's.

use std::fs;

use crate::http::seen;
use crate::server::{Launch, Place, Server};
use crate::shim::Dial;

async fn used_token(server: &Server) -> String {
    let token = server.token().await;
    assert_eq!(server.handshake(&token).await.status, 200);
    token
}

async fn until_handshake_is(server: &Server, token: &str, status: u16) {
    seen(&format!("status {status}"), async || {
        (server.handshake(token).await.status == status).then_some(())
    })
    .await;
}

/// As when the file system that has it is away.
#[tokio::test]
async fn hanging_read_of_an_issuers_keys_does_not_hold_up_the_end() {
    let place = Place::new();
    let (keys, callers) = (place.data().join("jwks.json"), place.data().join("callers.toml"));
    fs::write(&keys, "{}").unwrap();
    let text = format!(
        "[[caller]]\nname = 'worker'\nscopes = ['issue']\n[caller.jwt]\nissuer = 'https://issuer.example'\n\
         audience = 'a'\nsubject = 's'\njwks_file = '{}'\n",
        keys.display()
    );
    fs::write(&callers, text).unwrap();
    place.shim.set(Dial::HangKeys, 1);
    let server = place
        .start_with(Launch { arguments: &["--callers-file", callers.to_str().unwrap()], ..Launch::default() })
        .await;
    seen("a read that hangs", async || (place.shim.read(Dial::Hanging) == 1).then_some(())).await;
    place.logged("its keys did not come within 5 seconds").await;
    server.stop().await;
    assert_eq!(place.shim.read(Dial::Hanging), 1, "it never returned");
}

#[tokio::test]
async fn store_without_its_key_ring_is_not_served() {
    let place = Place::new();
    let server = place.start_unlimited().await;
    let (used, live) = (used_token(&server).await, server.token().await);
    server.stop().await;
    let aside = place.data().join("aside");
    fs::rename(place.key_ring(), &aside).unwrap();
    let said = place.refused().await;
    assert!(said.starts_with("there is no key ring at "), "{said}");
    assert!(said.contains(
        "put it back, or name its place with --key-ring; if it is lost, make a new one with `countersign keys new`"
    ));
    assert!(!place.key_ring().exists(), "none is made");

    fs::rename(&aside, place.key_ring()).unwrap();
    let server = place.start_unlimited().await;
    assert_eq!(server.handshake(&used).await.status, 401);
    assert_eq!(server.handshake(&live).await.status, 200);
    server.stop().await;

    // If it is lost for good.
    fs::remove_file(place.key_ring()).unwrap();
    fs::remove_file(place.database()).unwrap();
    let server = place.start_unlimited().await;
    assert_eq!(server.handshake(&used).await.status, 404);
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
}

#[tokio::test]
async fn key_ring_missing_beside_unused_store_is_recreated() {
    let place = Place::new();
    place.start().await.stop().await;
    fs::remove_file(place.key_ring()).unwrap();
    let server = place.start_unlimited().await;
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
}

#[tokio::test]
async fn vanished_key_ring_stays_in_use() {
    let place = Place::new();
    let server = place.start_unlimited().await;
    let token = server.token().await;
    let aside = place.data().join("aside");
    fs::rename(place.key_ring(), &aside).unwrap();
    server.signal(libc::SIGHUP);
    let said = place.logged("the key ring on disk cannot be used; keeping the old one").await;
    assert!(said.contains("cannot read the key ring"), "{said}");
    assert_eq!(server.handshake(&token).await.status, 200);
    assert_eq!(server.handshake(&server.token().await).await.status, 200);
    fs::rename(&aside, place.key_ring()).unwrap();
    server.signal(libc::SIGHUP);
    place.logged("the key ring has changed on disk and is in use").await;
}

#[tokio::test]
async fn key_ring_of_another_server_opens_nothing() {
    let (place, other) = (Place::new(), Place::new());
    let server = place.start_unlimited().await;
    let (used, live) = (used_token(&server).await, server.token().await);
    other.start().await.stop().await;
    let aside = place.data().join("aside");
    fs::copy(place.key_ring(), &aside).unwrap();

    // While it serves.
    fs::rename(other.key_ring(), place.key_ring()).unwrap();
    server.signal(libc::SIGHUP);
    place.logged("the new key ring has none of the old keys: tokens issued so far are refused").await;
    for token in [&used, &live] {
        until_handshake_is(&server, token, 404).await;
    }
    server.stop().await;

    // From its start on.
    let server = place.start_unlimited().await;
    for token in [&used, &live] {
        assert_eq!(server.handshake(token).await.status, 404);
    }
    assert_eq!(server.handshake(&server.token().await).await.status, 200);

    // Its own again.
    fs::rename(&aside, place.key_ring()).unwrap();
    server.signal(libc::SIGHUP);
    until_handshake_is(&server, &used, 401).await;
    assert_eq!(server.handshake(&live).await.status, 200);
}
