//! The private API over the wire: its description, and its credential.

use std::collections::BTreeSet;

use reqwest::Method;
use rustix::process::Signal;

use countersign_testkit::{Authority, Certified, until};
use serde_json::{Value, json};

use crate::fixture::Place;
use crate::http::{self, send};
use crate::receiver::Receiver;

/// How many wrong credentials raise an alarm.
const MANY_GUESSES: usize = 10;

/// Every route of `/v1`, by method. `{token}` stands for a token.
const ROUTES: [(&str, &str); 13] = [
    ("delete", "/v1/tokens/{token}"),
    ("get", "/v1/events"),
    ("get", "/v1/keys"),
    ("get", "/v1/store"),
    ("get", "/v1/summary"),
    ("get", "/v1/tokens/{token}"),
    ("post", "/v1/keys/rotate"),
    ("post", "/v1/keys/revoke"),
    ("get", "/v1/nodes"),
    ("get", "/v1/server"),
    ("post", "/v1/store/fence"),
    ("post", "/v1/store/purge"),
    ("post", "/v1/tokens"),
];

#[test]
fn openapi_document_describes_every_route() {
    let place = Place::new();
    let server = place.serve();
    let answer = http::get(&format!("{}/openapi.json", server.private));
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{document}");
    let described: BTreeSet<(&str, &str)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (method.as_str(), path.as_str()))
        })
        .collect();
    let mut routes = BTreeSet::from(ROUTES);
    // Its answer has no end, so it is tried by those who follow events.
    routes.insert(("get", "/v1/events/stream"));
    // For a ring in a shared store, which this server has not.
    routes.insert(("post", "/v1/keys/rewrap"));
    assert_eq!(described, routes);
    for (method, path) in ROUTES {
        let query = if path == "/v1/summary" { "?by=tracker" } else { "" };
        let url = format!("{}{}{query}", server.private, path.replace("{token}", &server.token()));
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let key = http::get(&format!("{}/v1/keys", server.private)).json()["keys"][0]["id"].clone();
        let (headers, body) = match path {
            "/v1/keys/revoke" => (
                &[("content-type", "application/json")][..],
                json!({ "id": key, "rotate": true }).to_string(),
            ),
            _ => (&[][..], String::new()),
        };
        let answer = send(method, &url, headers, &body);
        let documented = &document["paths"][path][answer_key(path, &described)]["responses"];
        assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
        assert!(documented.is_object(), "{path}");
    }
}

/// A method under which a path is described.
fn answer_key<'a>(path: &str, described: &BTreeSet<(&'a str, &'a str)>) -> &'a str {
    described.iter().find(|(_, described)| *described == path).unwrap().0
}

#[test]
fn changed_secret_is_in_use_without_a_restart() {
    let place = Place::new();
    let (old, new) = ("old-0f9e8d7c6b5a4321", "new-0f9e8d7c6b5a43210");
    place.write("bearer", old);
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[]);
    let status = |secret: &str| {
        let shown = format!("Bearer {secret}");
        http::post(&format!("{}/v1/tokens", server.private), &[("authorization", &shown)], "").status
    };
    assert_eq!((status(old), status(new)), (201, 401));
    place.write("bearer", "short");
    server.process.signal(Signal::HUP);
    let said = server.process.err.with("the new secret cannot be used; keeping the old one");
    assert!(!said.contains("short"), "{said}");
    assert_eq!(status(old), 201);
    place.write("bearer", new);
    server.process.err.with("the private API's secret has changed on disk and is in use");
    assert_eq!((status(old), status(new)), (401, 201));
}

#[test]
fn configured_secret_is_required_on_every_route() {
    let place = Place::new();
    place.write("bearer", "  s3cret-0f9e8d7c6b5a4321 \n");
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[]);
    let paths = ["/bugs", "/bugs/", "/openapi.json", "/nowhere", "/metrics", "/v1/events/stream"]
        .into_iter()
        .chain(ROUTES.map(|(_, path)| path));
    for path in paths {
        let url = format!("{}{path}", server.private);
        for shown in [
            None,
            Some("Bearer wrong"),
            Some("Bearer "),
            Some("Basic s3cret-0f9e8d7c6b5a4321"),
            Some("s3cret-0f9e8d7c6b5a4321"),
        ] {
            let headers: Vec<(&str, &str)> =
                shown.map(|value| ("authorization", value)).into_iter().collect();
            let answer = http::post(&url, &headers, "");
            assert_eq!(answer.status, 401, "{path} {shown:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer "), "{path}");
        }
    }
    for path in ["healthz", "readyz"] {
        assert_eq!(http::get(&format!("{}/{path}", server.private)).status, 200, "probes need none");
    }
    let call = http::document("newBugTrackerToken", &[]);
    let answer = http::post(
        &format!("{}/bugs", server.private),
        &[("authorization", "Bearer s3cret-0f9e8d7c6b5a4321")],
        &call,
    );
    assert_eq!(server.status(&http::string(&answer.text)), 200);
}

#[test]
fn commands_send_the_secret_of_their_file() {
    let place = Place::new();
    place.write("bearer", "s3cret-0f9e8d7c6b5a4321\n");
    place.write("wrong", "other\n");
    let server = place.serve_with(&["--private-bearer-file", "bearer"], &[]);
    let token = server.print(&place, &["token", "new", "--private-bearer-file", "bearer"]);
    let variables = [("COUNTERSIGN_PRIVATE_BEARER_FILE", "bearer")];
    let shown =
        place.run_with(&["token", "show", &token, "--server", &server.private], &variables, "").printed();
    assert!(shown.contains("status         live"), "{shown}");
    server.print(&place, &["keys", "list", "--private-bearer-file", "bearer"]);
    server.print(&place, &["store", "fence", "--private-bearer-file", "bearer"]);

    for arguments in [&["token", "new"][..], &["token", "new", "--private-bearer-file", "wrong"]] {
        let said = server.run(&place, arguments).refused(1);
        assert!(said.contains("bearer token"), "{said}");
    }
    let said = server.run(&place, &["token", "new", "--private-bearer-file", "./missing"]).refused(2);
    assert!(said.contains("cannot read the bearer file ./missing"), "{said}");
}

#[test]
fn wrong_client_certificates_are_counted_recorded_and_alarmed() {
    let place = Place::new();
    let alarms = Receiver::answering(204);
    place.write("alarm-secret", &format!("whsec_{}", "QUFB".repeat(8)));
    let authority = |name: &str| {
        let authority = Authority::new();
        place.write(&format!("{name}-ca.pem"), &authority.pem());
        let Certified { certificate, key } = authority.certify("127.0.0.1");
        place.write(&format!("{name}.pem"), &(certificate + &key));
        place.set_mode(&format!("{name}.pem"), 0o600);
    };
    authority("ours");
    authority("theirs");
    let server = place.serve_with(
        &[
            ["--private-tls-certificate", "ours.pem", "--private-tls-key", "ours.pem"],
            ["--private-client-ca", "ours-ca.pem", "--alarm-webhook", &alarms.url],
        ]
        .concat()
        .into_iter()
        .chain(["--alarm-secret-file", "alarm-secret"])
        .collect::<Vec<_>>(),
        &[],
    );
    let run = |arguments: &[&str], identity: &str| {
        server.run(
            &place,
            &[arguments, &["--server-ca", "ours-ca.pem", "--client-identity", identity]].concat(),
        )
    };
    // To show none is no guess.
    server.run(&place, &["token", "new", "--server-ca", "ours-ca.pem"]).refused(1);
    for _ in 0..MANY_GUESSES {
        run(&["token", "new"], "theirs.pem").refused(1);
    }
    let alarm: Value = serde_json::from_slice(&alarms.next().body).unwrap();
    assert_eq!(alarm["type"], "countersign.credential-rejected");
    assert_eq!(
        (&alarm["data"]["count"], &alarm["data"]["peer"]),
        (&MANY_GUESSES.into(), &"127.0.0.1".into())
    );
    let list = ["events", "--kind", "credential-rejected", "--json"];
    until("an event for each guess", || {
        (run(&list, "ours.pem").printed().lines().count() >= MANY_GUESSES).then_some(())
    });
    let log = server.stop().err;
    let first = log.lines().find(|line| line.contains("was shown a wrong credential")).unwrap();
    assert!(first.contains("reason=invalid peer certificate") && !log.contains("BEGIN"), "{log}");
    let sum = format!("count={}", MANY_GUESSES - 1);
    assert!(log.lines().any(|line| line.contains("more wrong credentials") && line.contains(&sum)), "{log}");
}

#[test]
fn web_page_cannot_use_its_readers_private_api() {
    let place = Place::new();
    let server = place.serve();
    let url = format!("{}/v1/tokens", server.private);
    assert_eq!(http::post(&url, &[("origin", "https://evil.example")], "").status, 403);
    assert_eq!(http::post(&url, &[("origin", "http://localhost:3000")], "").status, 403);
    assert_eq!(http::post(&url, &[("origin", &*server.private)], "").status, 201);
}
