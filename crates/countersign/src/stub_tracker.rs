//! A bug tracker and the private API of its issuer in one, for the tests of the commands that log in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One that is made of a function: it is handed each request to the tracker, and what it returns is sent as it is.
pub(crate) struct StubTracker {
    pub(crate) url: String,
    /// The target and the body of each request.
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

pub(crate) struct Request {
    pub(crate) target: String,
    pub(crate) body: String,
    /// Whether it came with a cookie.
    pub(crate) has_session: bool,
    /// Whether a comment has been added before.
    pub(crate) has_comment: bool,
}

impl Request {
    /// The method that it calls.
    pub(crate) fn method(&self) -> Option<&str> {
        method(&self.body)
    }
}

fn method(body: &str) -> Option<&str> {
    body.split_once("<methodName>")?.1.split('<').next()
}

impl StubTracker {
    pub(crate) fn start(tracker: impl Fn(&Request) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &seen, &tracker);
            }
        });
        Self { url, requests }
    }

    /// The bodies of all requests so far for this target or method; of all requests if it is empty.
    pub(crate) fn calls(&self, name: &str) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let is_meant = |(target, body): &&(String, String)| {
            name.is_empty() || target == name || method(body) == Some(name)
        };
        requests.iter().filter(is_meant).map(|(_, body)| body.clone()).collect()
    }

    pub(crate) fn count(&self, name: &str) -> usize {
        self.calls(name).len()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<(String, String)>>, tracker: &impl Fn(&Request) -> String) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length, mut has_session) = (String::new(), 0, false);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_ascii_lowercase();
        match line.strip_prefix("content-length:") {
            Some(value) => length = value.trim().parse().unwrap(),
            None if line.is_empty() => break,
            None => has_session |= line.starts_with("cookie:"),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let target = first.split(' ').nth(1).unwrap().to_owned();
    let body = String::from_utf8(body).unwrap();
    let has_comment = seen
        .lock()
        .unwrap()
        .iter()
        .any(|(_, body)| method(body).is_some_and(|name| name.ends_with(".add_comment")));
    seen.lock().unwrap().push((target.clone(), body.clone()));

    let answer = if target == "/v1/tokens" {
        plain("201 Created", "Content-Type: application/json\r\n", r#"{"token_id": "cs1token"}"#)
    } else {
        tracker(&Request { target, body, has_session, has_comment })
    };
    stream.write_all(answer.as_bytes()).unwrap();
}

/// An answer in full. `headers` end each with its line's end.
pub(crate) fn plain(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}
