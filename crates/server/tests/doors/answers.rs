//! The answer to each method on each path, byte for byte, but for the order of its headers.

use std::collections::BTreeMap;
use std::fmt::Write;

use countersign_testkit::soon;
use expect_test::{ExpectFile, expect_file};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Running, connect, handshake, talk};

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"];

/// Answers, each with the requests that get it: of each path, the methods.
#[derive(Default)]
struct Answers(BTreeMap<String, BTreeMap<String, Vec<&'static str>>>);

impl Answers {
    fn note(&mut self, answer: String, method: &'static str, path: String) {
        self.0.entry(answer).or_default().entry(path).or_default().push(method);
    }

    fn compare(self, expected: &ExpectFile) {
        let mut text = String::new();
        for (answer, paths) in self.0 {
            writeln!(text, "{answer}\n").unwrap();
            for (path, methods) in paths {
                writeln!(text, "    {path}: {}", methods.join(" ")).unwrap();
            }
            writeln!(text).unwrap();
        }
        expected.assert_eq(&text);
    }
}

/// Sends a request on a connection of its own, and reads until that ends.
async fn ask(url: &str, request: &str) -> String {
    let mut stream = connect(url).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(request, stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// An answer with its headers sorted, without what changes each time.
fn settled(answer: &str, token: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    let is_date = |word: &str| word.starts_with("20") && word.contains('T');
    let words = body.split_inclusive([' ', '"']);
    let settled: String = words.map(|word| if is_date(word) { "…" } else { word }).collect();
    let settled = if token.is_empty() { settled } else { settled.replace(token, "{token}") };
    let mut headers: Vec<String> = headers
        .split("\r\n")
        .map(|header| match header.split_once(": ").unwrap() {
            (name @ ("date" | "x-request-id"), _) => format!("{name}: …"),
            // A date can be shorter by a digit.
            ("content-length", length) if settled.contains('…') && !body.contains('…') => {
                assert_eq!(length.parse(), Ok(body.len()));
                "content-length: …".to_owned()
            }
            _ => header.to_owned(),
        })
        .collect();
    headers.sort();
    format!("{status}\n{}\n\n{}", headers.join("\n"), settled.trim_end()).trim_end().to_owned()
}

#[tokio::test]
async fn each_method_on_each_public_path_has_its_answer() {
    let server = Running::plain().await;
    let used = server.token(None);
    talk(&mut server.connect().await, handshake(&used).as_bytes(), "validated.").await;
    let escaped = used.replacen('c', "%63", 1);
    let long = "x".repeat(12_000);
    let mut answers = Answers::default();
    for path in [
        "/token/{used}/+bugtracker-handshake",
        "/token/{used}/+bugtracker-handshake?a=b",
        "/tokens/{used}/+bugtracker-handshake",
        "/token/{escaped}/+bugtracker-handshake",
        "/token/{used}/%2Bbugtracker-handshake",
        "/tokens/{used}/%2bbugtracker%2Dhandshake",
        "http://a/token/{used}/+bugtracker-handshake",
        "/token/{fresh}/+bugtracker-handshake",
        "/token/nothing/+bugtracker-handshake",
        "/token/{long}/+bugtracker-handshake",
        "/token/a%2Fb/+bugtracker-handshake",
        "/token/%/+bugtracker-handshake",
        "/token/%zz/+bugtracker-handshake",
        "/token/%ff/+bugtracker-handshake",
        "/token/{used}/+bugtracker-handshake%ff",
        "/token/{used}/+bugtracker-handshake/",
        "/token/{used}//+bugtracker-handshake",
        "/token/{used}/more/+bugtracker-handshake",
        "/token/{used}+bugtracker-handshake",
        "/token/{used}/+other",
        "/token/{used}/",
        "/token/{used}",
        "/token//+bugtracker-handshake",
        "/token/+bugtracker-handshake",
        "//token/{used}/+bugtracker-handshake",
        "/TOKEN/{used}/+bugtracker-handshake",
        "/tokens2/{used}/+bugtracker-handshake",
        "/healthz",
        "/healthz?a=b",
        "/healthz/",
        "/health%7A",
        "http://a/healthz",
        "/readyz",
        "/readyz/",
        "/",
        "*",
        "a:1",
        "http://a",
        "/bugs",
        "/metrics",
        "/{long}",
    ] {
        for method in METHODS {
            for (header, named) in [("", ""), ("Accept: application/json\r\n", " as JSON")] {
                let fresh = server.token(None);
                let target = path
                    .replace("{used}", &used)
                    .replace("{escaped}", &escaped)
                    .replace("{fresh}", &fresh)
                    .replace("{long}", &long);
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{header}\r\n"
                );
                let answer = ask(&server.public, &request).await;
                answers.note(settled(&answer, &fresh), method, format!("{path}{named}"));
            }
        }
    }
    answers.compare(&expect_file!["answers.public.txt"]);
}

#[tokio::test]
async fn each_method_on_each_spelling_of_a_call_has_its_answer() {
    const CALL: &str = "<methodCall><methodName>getLoginToken</methodName></methodCall>";
    let directory = tempfile::TempDir::new().unwrap();
    let (public, private) = (crate::fixture::door(None), crate::fixture::door(None));
    let bearer = "secret-0f9e8d7c6b5a4321";
    let server = Running::start(directory, public, private, Some(bearer)).await.unwrap();
    let mut answers = Answers::default();
    for path in
        ["/bugs", "/bugs/", "/bugs?x", "/bugs/?x", "/bugs//", "//bugs", "/%62ugs", "/bugs/x", "http://a/bugs"]
    {
        for method in METHODS {
            for (header, named) in [
                ("Authorization: Bearer secret-0f9e8d7c6b5a4321\r\n", ""),
                ("Authorization: Bearer other\r\n", " with a wrong secret"),
                ("", " without a secret"),
                (
                    "Authorization: Bearer secret-0f9e8d7c6b5a4321\r\nOrigin: https://evil.example\r\n",
                    " of another origin",
                ),
            ] {
                let length = CALL.len();
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: text/xml\r\n\
                     Content-Length: {length}\r\n{header}\r\n{CALL}"
                );
                let answer = ask(&server.private, &request).await;
                answers.note(settled(&answer, ""), method, format!("{path}{named}"));
            }
        }
    }
    answers.compare(&expect_file!["answers.call.txt"]);
}
