//! The form in which an operator looks a token up and revokes it.

use axum::http::StatusCode;

use super::{get, send_form, server, tile};
use crate::fixture::{TRAC, handshake_path};

#[tokio::test(start_paused = true)]
async fn token_is_looked_up_and_revoked_but_never_displayed() {
    let server = server();
    let bound = send_form(&server, &server.token_for(TRAC), "look").await;
    assert!(bound.text.contains(TRAC), "{bound:?}");
    let token = server.token();
    let looked = send_form(&server, &token, "look").await;
    assert_eq!(looked.status, StatusCode::OK);
    let id = server.look(&token).await["id"].as_str().unwrap().to_owned();
    assert!(
        looked.text.contains("<dd class=\"status\">live</dd>") && looked.text.contains(&id),
        "{looked:?}"
    );
    assert!(looked.text.contains("any tracker"));

    let revoked = send_form(&server, &token, "revoke").await;
    assert!(revoked.text.contains("It is revoked"), "{revoked:?}");
    assert!(revoked.text.contains("<dd class=\"status\">revoked</dd>"));
    assert_eq!(server.handshake(&token).await.status, StatusCode::UNAUTHORIZED);
    let again = send_form(&server, &token, "revoke").await;
    assert!(again.text.contains("nothing to revoke"), "{again:?}");
    assert_eq!(tile(&again.text, "revoked"), 1);

    let used = server.token();
    server.handshake(&used).await;
    let consumed = send_form(&server, &used, "look").await;
    assert!(consumed.text.contains("by 192.0.2.7"), "{consumed:?}");

    let forged = format!("{token}x");
    let unknown = send_form(&server, &forged, "look").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    for (answer, token) in
        [(looked, &token), (revoked, &token), (again, &token), (consumed, &used), (unknown, &forged)]
    {
        assert!(!answer.text.contains(&token[12..28]), "{answer:?}");
    }
    let redirected = server.private(get("/page/token")).await;
    assert_eq!((redirected.status, redirected.header("location")), (StatusCode::SEE_OTHER, "../"));
    let linked = server.private(get("/page/token?kind=replay")).await;
    assert_eq!((linked.status, linked.header("location")), (StatusCode::SEE_OTHER, "../?kind=replay"));
}

#[tokio::test(start_paused = true)]
async fn handshake_url_is_accepted_as_token() {
    let server = server();
    let token = server.token();
    let id = server.look(&token).await["id"].as_str().unwrap().to_owned();
    let path = handshake_path(&token);
    for pasted in [
        format!("https://lp.example.org{path}"),
        format!("  https://lp.example.org/prefix{path}/ "),
        format!("https://lp.example.org/tokens/{token}/%2Bbugtracker-handshake"),
        path.clone(),
        format!("{token}/+bugtracker-handshake"),
    ] {
        let typed: String = form_urlencoded::byte_serialize(pasted.as_bytes()).collect();
        let looked = send_form(&server, &typed, "look").await;
        assert!(looked.text.contains(&id), "{pasted}: {looked:?}");
        assert!(!looked.text.contains(&token[12..28]), "{looked:?}");
    }
    for pasted in ["/+bugtracker-handshake", "https://lp.example.org/token/+bugtracker-handshake", "https://"]
    {
        let typed: String = form_urlencoded::byte_serialize(pasted.as_bytes()).collect();
        assert_eq!(send_form(&server, &typed, "look").await.status, StatusCode::NOT_FOUND, "{pasted}");
    }
    let typed: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
    assert!(send_form(&server, &typed, "revoke").await.text.contains("It is revoked"));
}
