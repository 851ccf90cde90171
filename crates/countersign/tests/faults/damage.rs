//! A store whose file is damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use crate::server::{Place, Server};

/// Puts records into the database itself, and not only into its log. Returns the tokens.
async fn filled(place: &Place) -> Vec<String> {
    let server = place.start().await;
    let tokens = server.tokens(200).await;
    for token in &tokens {
        assert_eq!(server.handshake(token).await.status, 200);
    }
    server.stop().await;
    tokens
}

/// Overwrites all of the database from a byte on.
fn damage(place: &Place, from: u64) {
    let file = OpenOptions::new().write(true).open(place.database()).unwrap();
    let length = usize::try_from(file.metadata().unwrap().len() - from).unwrap();
    file.write_all_at(&vec![0x5a; length], from).unwrap();
}

async fn assert_none_is_good(server: &Server, used: &[String]) {
    for token in used.iter().step_by(20) {
        let status = server.handshake(token).await.status;
        assert!(matches!(status, 401 | 503), "{status} for a token that was used");
    }
}

#[tokio::test]
async fn damaged_store_is_refused_at_the_start() {
    for from in [0, 4096] {
        let place = Place::new();
        let used = filled(&place).await;
        damage(&place, from);
        let said = place.refused().await;
        assert!(said.contains("countersign.db is damaged or not a database"), "{said}");
        assert!(said.contains("put a backup in its place, or move it away"), "{said}");

        // The advice of the message works.
        fs::rename(place.database(), place.data().join("damaged")).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(place.data().join(format!("countersign.db{suffix}")));
        }
        let server = place.start().await;
        for token in &used {
            assert_eq!(server.handshake(token).await.status, 401, "it was used before");
        }
        assert_eq!(server.handshake(&server.token().await).await.status, 200);
    }
}

#[tokio::test]
async fn store_damaged_in_use_accepts_no_token_twice() {
    let place = Place::new();
    let used = filled(&place).await;
    let server = place.start().await;
    damage(&place, 4096);

    // Reading meets the damage, unless a page is still in memory: then what was read before is told.
    let mut met = 0;
    for token in &used {
        let seen = server.private("GET", &format!("/v1/tokens/{token}")).await;
        if seen.status == 200 {
            assert_eq!(seen.json()["status"], "consumed", "{seen:?}");
            continue;
        }
        assert_eq!(seen.status, 503, "{seen:?}");
        let detail = seen.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("is damaged"), "{detail}");
        assert!(
            detail.contains("stop the server and put a backup in its place, or move it away"),
            "{detail}"
        );
        met += 1;
    }
    assert!(met > 0, "nobody has met the damage");

    // The writer may not, for as long as it knows by heart what it needs.
    assert_none_is_good(&server, &used).await;
    for token in server.tokens(20).await {
        let first = server.handshake(&token).await.status;
        assert!(matches!(first, 200 | 503), "{first}");
        let second = server.handshake(&token).await.status;
        assert!(matches!(second, 401 | 503) || first == 503, "{first}, then {second}");
    }
    assert_eq!(server.get(server.public, "/healthz").await.status, 200);
    assert_eq!(server.handshake("cs1forged").await.status, 404);
    server.stop().await;
}
