//! Talking to a server, politely or not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::LazyLock;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::process::PATIENCE;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// No connection is kept, so that each request stands alone.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    Client::builder().no_proxy().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap()
});

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn send(method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = CLIENT.request(method, url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    RUNTIME.block_on(async {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    })
}

pub(crate) fn get(url: &str) -> Answer {
    send(Method::GET, url, &[], "")
}

pub(crate) fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send(Method::POST, url, headers, body)
}

/// An XML-RPC call with text parameters; returns the response document.
pub(crate) fn call(private: &str, method: &str, parameters: &[&str]) -> String {
    let answer =
        post(&format!("{private}/bugs"), &[("content-type", "text/xml")], &document(method, parameters));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text
}

/// The document of an XML-RPC call. No parameter may need escaping.
pub(crate) fn document(method: &str, parameters: &[&str]) -> String {
    let parameters: String = parameters
        .iter()
        .map(|text| format!("<param><value><string>{text}</string></value></param>"))
        .collect();
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{parameters}</params></methodCall>"
    )
}

/// The one string in a response that is not a fault.
pub(crate) fn string(response: &str) -> String {
    assert!(!response.contains("<fault>"), "{response}");
    let (_, rest) = response.split_once("<string>").unwrap_or_else(|| panic!("{response}"));
    rest.split_once("</string>").unwrap().0.to_owned()
}

/// The value of a struct's text member.
pub(crate) fn member(response: &str, name: &str) -> String {
    let (_, rest) =
        response.split_once(&format!("<name>{name}</name>")).unwrap_or_else(|| panic!("{response}"));
    string(rest)
}

/// A connection on which every byte is our own.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(address(url)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Reads up to the end of a head: an interim answer, or the final one.
    pub(crate) fn head(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    }

    /// Reads until the server closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        text
    }

    /// Begins an XML-RPC call, and returns when the server is reading its body, with the half that is still to be sent.
    pub(crate) fn half_a_call(private: &str) -> (Self, String) {
        let body = document("newBugTrackerToken", &[]);
        let (first, second) = body.split_at(body.len() / 2);
        let mut raw = Self::connect(private);
        raw.send(&format!(
            "POST /bugs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\
             Expect: 100-continue\r\n\r\n",
            body.len()
        ));
        // The server says so when it begins to read the body.
        assert_eq!(raw.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send(first);
        (raw, second.to_owned())
    }
}

/// Waits until nobody listens at a URL any more.
pub(crate) fn wait_until_refused(url: &str) {
    let refused = async {
        while tokio::net::TcpStream::connect(address(url)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let waited = RUNTIME.block_on(async { tokio::time::timeout(PATIENCE, refused).await });
    assert!(waited.is_ok(), "{url} still takes connections");
}

/// The address in `http://HOST:PORT`.
pub(crate) fn address(url: &str) -> &str {
    url.strip_prefix("http://").unwrap().trim_end_matches('/')
}
