//! That no token and no key is ever logged.

use std::collections::BTreeSet;

use reqwest::Method;
use rustix::process::Signal;

use crate::fixture::{Place, Server};
use crate::http::{self, Raw, send};
use crate::process::Process;
use crate::receiver::{Post, Receiver};

const RING: &str = "countersign-data/key-ring.toml";
const ALARM_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const JSON: (&str, &str) = ("content-type", "application/json");
const XML: (&str, &str) = ("content-type", "text/xml");

/// The secrets in the key ring, as Base64.
fn secrets(place: &Place) -> BTreeSet<String> {
    let ring = place.read(RING);
    let found: BTreeSet<String> = ring
        .lines()
        .filter_map(|line| Some(line.strip_prefix("secret = \"")?.trim_end_matches('"').to_owned()))
        .collect();
    assert!(!found.is_empty());
    found
}

/// Every way in which a token can be told to the public listener, good and bad.
fn handshakes(server: &Server, token: &str) {
    let url = server.handshake_url(token);
    let form = ("content-type", "application/x-www-form-urlencoded");
    send(Method::GET, &url, &[], "");
    send(Method::PUT, &url, &[], token);
    http::post(&url, &[form], &format!("audience={token}"));
    http::post(&url, &[form], &format!("audience=https://evil.example/{token}"));
    http::post(&url, &[JSON], &format!("{{\"audience\": \"{token}\"}}"));
    http::post(&url, &[JSON], &format!("{{\"{token}"));
    http::post(&url, &[("accept", "application/json"), ("idempotency-key", token)], "");
    http::post(&url, &[], "");
    for trace in [("traceparent", token), ("tracestate", token)] {
        let parent = ("traceparent", TRACEPARENT);
        let state = format!("a={token}");
        http::post(&url, &[parent, ("tracestate", &state), ("baggage", &state)], "");
        http::post(&url, &[parent, trace], "");
        http::post(&url, &[trace], "");
        http::post(&format!("{}/bugs", server.private), &[parent, ("tracestate", &state), XML], token);
    }
    send(Method::from_bytes(token.as_bytes()).unwrap(), &url, &[], "");
    http::post(&format!("{url}?token={token}"), &[("referer", &url), ("cookie", token)], "");
    for path in [
        format!("/token/{token}"),
        format!("/token/{token}/"),
        format!("/token/{token}/+other"),
        format!("/token/{token}%00/+bugtracker-handshake"),
        format!("/token/%ff{token}/+bugtracker-handshake"),
        format!("/token/{token}x/%2Bbugtracker-handshake"),
        format!("/token/{token}/+bugtracker-handshake/more"),
        format!("/{token}"),
        format!("//{token}//"),
        format!("/healthz/{token}"),
    ] {
        raw(&server.public, &format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    }
}

/// Every way in which a token can be told to the private listener, good and bad.
fn private_calls(server: &Server, token: &str) {
    let url = |path: &str| format!("{}{path}", server.private);
    for path in [format!("/v1/tokens/{token}"), format!("/v1/tokens/{token}x"), format!("/{token}?{token}")] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            send(method, &url(&path), &[("authorization", token), ("origin", token)], "");
            http::get(&url(&path));
        }
    }
    for method in ["getLoginToken", "revokeLoginToken", "newBugTrackerToken", "system.methodHelp", token] {
        http::call(&server.private, method, &[token]);
        http::call(&server.private, method, &[token, token]);
    }
    for body in [token.to_owned(), format!("<methodCall><{token}>"), format!("<!DOCTYPE {token}>")] {
        http::post(&url("/bugs"), &[XML], &body);
        http::post(&url("/v1/tokens"), &[JSON], &body);
    }
    for body in [
        format!("{{\"audience\": \"{token}\"}}"),
        format!("{{\"{token}\": 1}}"),
        format!("{{\"claims\": {{\"{token}\": \"{token}\"}}}}"),
        format!("{{\"claims\": \"{token}\"}}"),
    ] {
        http::post(&url("/v1/tokens"), &[JSON], &body);
        http::post(&url("/v1/keys/rotate"), &[JSON], &body);
        http::post(&url("/v1/store/fence"), &[JSON, ("content-encoding", token)], &body);
    }
}

/// What the operators' page answers to a token that is pasted into its form.
fn pasted(server: &Server, token: &str) -> String {
    let headers = [("origin", &*server.private), ("content-type", "application/x-www-form-urlencoded")];
    let form = |body: String| http::post(&format!("{}/page/token", server.private), &headers, &body).text;
    let looked = form(format!("token={token}&do=look"));
    assert!(looked.contains("id=\"answer\""), "{looked}");
    form(format!("token={token}&do=revoke"))
        + &form(format!("token={token}x"))
        + &form(format!("{token}={token}"))
        + &looked
}

/// Sends what no HTTP client would send, and takes whatever comes.
fn raw(url: &str, text: &str) -> String {
    let mut raw = Raw::connect(url);
    raw.send(text);
    raw.rest()
}

fn malformed(server: &Server, token: &str) {
    for url in [&server.public, &server.private] {
        raw(url, &format!("{token}\r\n\r\n"));
        raw(url, &format!("POST /token/{token} HTTP/9.9\r\n\r\n"));
        raw(url, &format!("POST /token/{token}\u{7f} HTTP/1.1\r\n\r\n"));
        raw(url, &format!("GET / HTTP/1.1\r\nHost: {token}\r\n{token}\r\n\r\n"));
        raw(url, &format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {token}\r\n\r\n"));
    }
    Raw::half_a_call(&server.private).0.send(token);
}

fn a_full_run(format: &str) {
    let place = Place::new();
    // Its URL has a secret in it, as many have.
    let alarms = Receiver::answering(204);
    let webhook = format!("{}/hook/sEcretHookPath", alarms.url);
    let collector = Receiver::answering(200);
    place.write("alarm-secret", ALARM_SECRET);
    let server = place.serve_with(
        &["--log-format", format, "--alarm-webhook", &webhook, "--alarm-secret-file", "alarm-secret"],
        &[("RUST_LOG", "trace"), ("COUNTERSIGN_TRACES", &collector.url)],
    );
    let mut keys = secrets(&place);
    let new = |more: &[&str]| server.print(&place, &[&["token", "new"], more].concat());
    let bound = ["--audience", "https://trac.example.org/", "--claims", "{\"a\": 1}"];
    let mut tokens = vec![server.token(), new(&[]), new(&bound), new(&["--ttl", "1h"])];

    let follower =
        Process::start(&mut place.command(["events", "--follow", "--json", "--server", &server.private]), "");
    let agent = |token: &str| [("user-agent", format!("probe/1 ({token})"))];
    for token in &tokens {
        let agent = agent(token);
        let agent = agent.each_ref().map(|(name, value)| (*name, value.as_str()));
        http::post(&server.handshake_url(token), &agent, "");
        handshakes(&server, token);
        private_calls(&server, token);
        malformed(&server, token);
    }
    server.print(&place, &["keys", "rotate"]);
    keys.extend(secrets(&place));
    let whole = place.read(RING);
    for broken in [whole.replace("secret = \"", "secret = "), whole.replace("version", "virsion")] {
        place.replace(RING, &broken, 0o600);
        server.process.signal(Signal::HUP);
        server.process.err.with(if broken.contains("virsion") { "`virsion`" } else { "keeping the old one" });
    }
    place.replace(RING, &whole, 0o600);
    place.print(&["keys", "rotate", "--offline"]);
    keys.extend(secrets(&place));
    server.process.signal(Signal::HUP);
    server.process.err.with("is in use");
    server.print(&place, &["store", "fence"]);
    tokens.push(server.token());
    handshakes(&server, &tokens[4]);

    let listed = server.print(&place, &["events", "--json", "--limit", "0"]);
    assert!(listed.contains("probe/1") && listed.contains("relay") && listed.contains("replay"), "{listed}");
    let mut posted = Vec::new();
    for kind in ["countersign.relay", "countersign.replay"] {
        while !posted.iter().any(|alarm: &String| alarm.contains(kind)) {
            posted.push(alarms.next().text());
        }
    }
    let pages: String = tokens.iter().map(|token| pasted(&server, token)).collect();
    let metrics = http::get(&format!("{}/metrics", server.private)).text;
    let ended = server.stop();
    let mut log = ended.err;
    // As they come: a token's text is the same in protobuf.
    let spans: String = collector.all().iter().map(Post::text).collect();
    assert!(spans.contains("/token/{token}/{view}") && spans.contains("getLoginToken"), "{spans}");
    for (name, text) in [
        ("spans", spans),
        ("out", ended.out),
        ("metrics", metrics),
        ("pages", pages),
        ("alarms", posted.concat()),
        ("events", listed),
        ("followed", follower.out.whole()),
    ] {
        assert!(!text.is_empty(), "{name}");
        log.push_str(&text);
    }
    // Ids and dates are no secrets, so that the files may be looked through as they are.
    for file in place.files("countersign-data") {
        if file != "key-ring.toml" {
            let bytes = std::fs::read(place.path(&format!("countersign-data/{file}"))).unwrap();
            log.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    assert!(log.contains("DEBUG"), "so much is logged that something could be in it");
    assert!(log.contains("a token was used a second time"), "{log}");
    assert!(log.contains("127.0.0.1") && !log.contains("Some(127.0.0.1)"), "addresses are for people: {log}");
    assert!(log.contains("a token was used by another tracker"), "{log}");
    assert!(!log.contains(&ALARM_SECRET[6..]), "the alarms' secret");
    // The receiver's own head has its path, and nobody else may.
    assert_eq!(log.matches("sEcretHookPath").count(), posted.len(), "only where alarms were sent");
    assert_eq!(keys.len(), 3);
    for token in &tokens {
        // The first letters name the key; the rest is the token.
        assert!(!log.to_lowercase().contains(&token[12..28]), "the token {token} is in:\n{log}");
    }
    for secret in &keys {
        assert!(!log.contains(&secret[..12]) && !log.contains(&secret[40..52]), "{secret} is in:\n{log}");
    }
}

#[test]
fn no_token_and_no_key_is_in_the_log_of_a_full_run() {
    a_full_run("human");
}

#[test]
fn json_log_shows_no_token() {
    a_full_run("json");
}

#[test]
fn private_secret_is_not_logged() {
    let place = Place::new();
    place.write("bearer", "s3cretBearer-0f9e8d7c6b5a\n");
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[("RUST_LOG", "trace")]);
    server.print(&place, &["token", "new", "--private-bearer-file", "bearer"]);
    for shown in [
        "Bearer s3cretBearer-0f9e8d7c6b5a",
        "Bearer s3cretBearer-0f9e8d7c6b5as",
        "Basic s3cretBearer-0f9e8d7c6b5a",
    ] {
        http::post(&format!("{}/v1/tokens", server.private), &[("authorization", shown)], "");
    }
    let log = server.stop().err;
    assert!(!log.contains("s3cretBearer-0f9e8d7c6b5a"), "{log}");
}
