//! Commands that do not find the server they need.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;

use crate::fixture::Place;

/// Every kind of request that commands make.
const COMMANDS: [&[&str]; 8] = [
    &["token", "new"],
    &["token", "show", "cs1abc"],
    &["token", "revoke", "cs1abc"],
    &["keys", "list"],
    &["keys", "rotate"],
    &["store", "stats"],
    &["store", "purge"],
    &["store", "fence"],
];

#[test]
fn missing_server_is_named_with_a_remedy() {
    let place = Place::new();
    // Bound and given back: nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    for command in COMMANDS {
        let said = place.refusal(&[command, &["--server", &url]].concat(), 1);
        assert!(said.starts_with(&format!("countersign: no Countersign server answers at {url}")), "{said}");
        assert!(
            said.contains("start one with `countersign serve`") && said.contains("--server URL"),
            "{said}"
        );
    }
}

#[test]
fn invalid_url_is_a_usage_error() {
    let place = Place::new();
    for url in ["nonsense", "localhost:8087", "ftp://localhost/", "http://", ""] {
        for command in COMMANDS {
            let said = place.run(&[command, &["--server", url]].concat());
            assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{url:?}: {said:?}");
            assert!(
                said.err.contains("http://HOST:PORT") || said.err.contains("--server <URL>"),
                "{url:?}: {said:?}"
            );
        }
    }
}

#[test]
fn foreign_server_is_recognized() {
    let place = Place::new();
    for (status, content_type, body) in [
        ("200 OK", "text/html", "<html>Welcome to nginx!</html>"),
        ("200 OK", "application/json", "{}"),
        ("200 OK", "application/json", "[]"),
        ("404 Not Found", "text/html", "<html>404</html>"),
        ("404 Not Found", "application/json", "{\"error\": \"no such page\"}"),
        ("302 Found", "text/html", ""),
    ] {
        let url = serve(status, content_type, body);
        for command in COMMANDS {
            let said = place.refusal(&[command, &["--server", &url]].concat(), 1);
            assert!(said.contains("is not the private API of a Countersign server"), "{status}: {said}");
            assert!(said.contains(&url) && said.contains(status), "{said}");
        }
    }
}

#[test]
fn failing_server_is_not_called_unreachable() {
    let place = Place::new();
    let long = format!("{{\"events\": [], \"x\": \"{}\"}}", "x".repeat(9_000_000));
    for (body, missing, says) in [
        (long.as_str(), 0, "its answer is longer than 8388608 bytes"),
        ("{}", 1, "its answer did not arrive whole"),
    ] {
        let url = serve_cut("200 OK", "application/json", body, missing);
        let said = place.refusal(&["events", "--limit", "1000", "--server", &url], 1);
        assert!(
            said.starts_with(&format!("countersign: the server at {url} was reached, but {says}")),
            "{said}"
        );
        assert!(!said.contains("no Countersign server answers"), "{said}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    thread::spawn(move || drop(silent.accept().unwrap()));
    let said = place.refusal(&["events", "--server", &url], 1);
    assert!(said.contains("cannot speak TLS with the server"), "{said}");
}

#[test]
fn public_listener_rejects_private_routes() {
    let place = Place::new();
    let server = place.serve();
    let said = place.refusal(&["token", "new", "--server", &server.public], 1);
    assert!(said.contains("is not the private API of a Countersign server"), "{said}");
}

#[test]
fn proxy_variables_are_ignored() {
    let place = Place::new();
    let server = place.serve();
    let proxy = [("http_proxy", "http://127.0.0.1:1"), ("ALL_PROXY", "http://127.0.0.1:1")];
    let ended = place.run_with(&["token", "new", "--server", &server.private], &proxy, "");
    assert_eq!(server.status(&ended.printed()), 200);
}

/// A server that gives everybody the same answer, for as long as the test runs.
fn serve(status: &str, content_type: &str, body: &str) -> String {
    serve_cut(status, content_type, body, 0)
}

/// The same, with so many bytes of the answer missing.
fn serve_cut(status: &str, content_type: &str, body: &str, missing: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nLocation: {url}/elsewhere\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len() + missing
    );
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap()).lines();
            while head.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            // A client that has read enough hangs up.
            let _ = stream.write_all(answer.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            // Only then close: what is left unread would break the connection before the answer is read.
            let _ = io::copy(&mut stream, &mut io::sink());
        }
    });
    url
}
