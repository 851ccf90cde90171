//! Which JWTs are accepted.

use std::time::Duration;

use axum::http::StatusCode;
use countersign_core::seal::unseal;
use countersign_server::limits::MAX_JWT_BYTES;
use countersign_testkit::{SigningKey, unsigned};
use data_encoding::BASE64URL_NOPAD;
use ring::hmac;
use serde_json::{Value, json};

use super::{NOON, claims, metrics, rejected_for, server_and_issuer, show, with};

#[tokio::test]
async fn token_of_each_algorithm_is_accepted() {
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let key = SigningKey::new("one", algorithm);
        let (server, issuer) = server_and_issuer(&key).await;
        let answer = show(&server, &key.token(&claims(issuer.url()))).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{algorithm}: {answer:?}");
        let token = answer.json()["token_id"].as_str().unwrap().to_owned();
        let issued_by = unseal(&token, &server.app.tokens.keys()).unwrap().issued_by().unwrap().to_string();
        assert_eq!(issued_by, "worker");
        let refreshes = metrics(&server).await;
        assert!(refreshes.contains("countersign_jwks_refreshes_total 1\n"), "{refreshes}");
    }
}

#[tokio::test]
async fn tokens_of_other_issuers_or_servers_are_rejected() {
    let (key, foreign) = (SigningKey::new("one", "ES256"), SigningKey::new("one", "ES256"));
    let (server, issuer) = server_and_issuer(&key).await;
    let good = claims(issuer.url());
    let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
    let is = |name: &str, value: Value| key.token(&with(good.clone(), name, value));
    let in_header = |name: &str, value: Value| key.sign(&with(header.clone(), name, value), &good);
    let hs256 = |secret: &[u8]| {
        let message = unsigned(&json!({ "alg": "HS256", "typ": "JWT", "kid": "one" }), &good);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", BASE64URL_NOPAD.encode(tag.as_ref()))
    };
    let whole = key.token(&good);
    let (message, signature) = whole.rsplit_once('.').unwrap();
    let other_claims = unsigned(&header, &with(good.clone(), "sub", json!("admin")));
    let cases = [
        ("none", format!("{}.", unsigned(&json!({ "alg": "none" }), &good)), "header"),
        (
            "None",
            format!("{}.{signature}", unsigned(&json!({ "alg": "None", "kid": "one" }), &good)),
            "header",
        ),
        ("HS256 with the public key", hs256(key.jwk().to_string().as_bytes()), "algorithm"),
        ("HS256 with the public point", hs256(key.jwk()["x"].as_str().unwrap().as_bytes()), "algorithm"),
        ("another algorithm of the same key", in_header("alg", json!("ES384")), "unknown-key"),
        ("an algorithm of another kind", in_header("alg", json!("RS256")), "unknown-key"),
        ("critical extension", in_header("crit", json!(["exp"])), "header"),
        ("a logout token", in_header("typ", json!("logout+jwt")), "type"),
        ("an unknown key", in_header("kid", json!("two")), "unknown-key"),
        ("a foreign key of the same name", foreign.token(&good), "signature"),
        (
            "its own key in the header",
            foreign.sign(&with(header.clone(), "jwk", foreign.jwk()), &good),
            "signature",
        ),
        ("no signature", format!("{message}."), "signature"),
        ("a cut signature", whole[..whole.len() - 4].to_owned(), "signature"),
        ("other claims", format!("{other_claims}.{signature}"), "signature"),
        ("expired", is("exp", json!(NOON - 61)), "expired"),
        ("expires never", is("exp", Value::Null), "claims"),
        ("exp is a text", is("exp", json!("9999999999")), "claims"),
        ("exp is huge", is("exp", json!(1e300)), "lifetime"),
        ("nbf is a text", is("nbf", json!("never")), "claims"),
        ("not yet", is("nbf", json!(NOON + 61)), "not-yet"),
        ("issued in the future", is("iat", json!(NOON + 61)), "not-yet"),
        ("issued at no time", is("iat", Value::Null), "claims"),
        ("lasts too long", is("exp", json!(NOON + 24 * 3600 + 1)), "lifetime"),
        ("another audience", is("aud", json!("vault")), "audience"),
        ("an audience that begins so", is("aud", json!(["countersign-other"])), "audience"),
        ("another case", is("aud", json!("Countersign")), "audience"),
        ("no audience", is("aud", Value::Null), "claims"),
        ("audience is a number", is("aud", json!(7)), "claims"),
        ("another subject", is("sub", json!("system:serviceaccount:trackers:worker2")), "subject"),
        ("no subject", is("sub", Value::Null), "claims"),
        (
            "a logout token without a type",
            is("events", json!({ "http://schemas.openid.net/event/backchannel-logout": {} })),
            "type",
        ),
        ("bound to a key", is("cnf", json!({ "jkt": "x" })), "bound"),
    ];
    for (what, token, reason) in cases {
        let before = metrics(&server).await;
        let answer = show(&server, &token).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
        assert_eq!(answer.json()["type"], "urn:countersign:problem:credential", "{what}");
        let detail = "Show the private API's bearer token: Authorization: Bearer …";
        assert_eq!(answer.json()["detail"], detail, "it tells nothing");
        assert_eq!(rejected_for(&server, &before).await, reason, "{what}");
        server.clock.advance(Duration::from_millis(1));
    }
    // What is no JWT of a known issuer is a wrong secret like any other.
    let before = metrics(&server).await;
    let elsewhere = with(good.clone(), "iss", json!(format!("{}/", issuer.url())));
    let long = with(good.clone(), "more", json!("x".repeat(MAX_JWT_BYTES)));
    for token in [
        key.token(&elsewhere),
        key.token(&long),
        is("iss", Value::Null),
        "ey.ey.ey".to_owned(),
        message.to_owned(),
    ] {
        assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(rejected_for(&server, &before).await, "0 reasons");
    assert_eq!(show(&server, &whole).await.status, StatusCode::CREATED, "the good one still is");
    assert_eq!(issuer.requests("/jwks").len(), 1, "none of them had the keys fetched again so soon");
}

#[tokio::test]
async fn clocks_may_differ_by_a_minute() {
    let key = SigningKey::new("one", "ES256");
    let (server, issuer) = server_and_issuer(&key).await;
    let good = claims(issuer.url());
    for (name, value, is_good) in [
        ("exp", json!(NOON - 59), true),
        ("exp", json!(NOON - 60), false),
        ("nbf", json!(NOON + 60), true),
        ("nbf", json!(NOON + 61), false),
        ("iat", json!(f64::from(i32::try_from(NOON).unwrap()) + 0.5), true),
        ("exp", json!(NOON + 24 * 3600), true),
        ("aud", json!("countersign"), true),
        ("aud", json!(["other", "countersign"]), true),
        ("nbf", Value::Null, true),
    ] {
        let mut claims = with(good.clone(), name, value.clone());
        if name == "exp" && value.as_i64() < Some(NOON) {
            claims = with(claims, "iat", json!(NOON - 3600));
        }
        let status = show(&server, &key.token(&claims)).await.status;
        assert_eq!(status == StatusCode::CREATED, is_good, "{name} {value}: {status}");
    }
}

#[tokio::test]
async fn key_of_another_use_is_ignored() {
    let (key, other) = (SigningKey::new("one", "ES256"), SigningKey::new("other", "EdDSA"));
    let secret = json!({ "kty": "oct", "kid": "one", "k": BASE64URL_NOPAD.encode(b"secret") });
    for (jwk, is_good) in [
        (key.jwk(), true),
        (with(key.jwk(), "use", json!("enc")), false),
        (with(key.jwk(), "use", Value::Null), true),
        (with(key.jwk(), "key_ops", json!(["sign"])), false),
        (with(key.jwk(), "key_ops", json!(["verify"])), true),
        (with(key.jwk(), "alg", json!("RS256")), false),
        (with(key.jwk(), "alg", json!("HS256")), false),
        (with(key.jwk(), "alg", json!("ES999")), false),
        (with(key.jwk(), "alg", Value::Null), true),
        (with(key.jwk(), "kid", Value::Null), false),
        (with(key.jwk(), "kid", json!("One")), false),
        (with(key.jwk(), "crv", json!("P-384")), false),
        (with(key.jwk(), "x", json!("AAAA")), false),
        (secret, false),
    ] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.answers("/jwks", "200 OK", json!({ "keys": [{ "kty": "new" }, 7, jwk, other.jwk()] }));
        let answer = show(&server, &key.token(&claims(issuer.url()))).await;
        assert_eq!(answer.status == StatusCode::CREATED, is_good, "{jwk}: {answer:?}");
    }
}

#[tokio::test]
async fn token_without_a_key_id_needs_an_issuer_with_one_key() {
    let (key, other) = (SigningKey::new("one", "ES256"), SigningKey::new("two", "ES256"));
    let header = json!({ "alg": "ES256" });
    for (keys, status) in [(&[&key][..], StatusCode::CREATED), (&[&key, &other], StatusCode::UNAUTHORIZED)] {
        let (server, issuer) = server_and_issuer(&key).await;
        issuer.publish(keys);
        assert_eq!(show(&server, &key.sign(&header, &claims(issuer.url()))).await.status, status);
    }
}

#[tokio::test]
async fn unfixable_jwt_is_rejected_without_keys() {
    let key = SigningKey::new("one", "ES256");
    let (server, mut issuer) = server_and_issuer(&key).await;
    issuer.stop().await;
    let good = claims(issuer.url());
    let header = |header: Value| key.sign(&header, &good);
    for (token, reason) in [
        (header(json!({ "alg": "HS256" })), "algorithm"),
        (header(json!({ "alg": "ES256", "typ": "logout+jwt" })), "type"),
        (header(json!({ "alg": "none" })), "header"),
        (key.token(&with(good.clone(), "exp", json!(NOON - 60))), "expired"),
    ] {
        let before = metrics(&server).await;
        assert_eq!(show(&server, &token).await.status, StatusCode::UNAUTHORIZED, "{reason}");
        assert_eq!(rejected_for(&server, &before).await, reason);
    }
    assert!(
        metrics(&server).await.contains("countersign_jwks_refresh_failures_total 0\n"),
        "nothing was fetched"
    );
    assert_eq!(show(&server, &key.token(&good)).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
