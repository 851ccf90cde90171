//! Somebody to whom a server posts: alarms, or spans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::process::PATIENCE;

/// Takes what is posted to it.
pub(crate) struct Receiver {
    /// Its base URL.
    pub(crate) url: String,
    posts: mpsc::Receiver<Post>,
}

/// What was posted.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Post {
    /// All of it as text, as far as it is text.
    pub(crate) fn text(&self) -> String {
        self.head.clone() + &String::from_utf8_lossy(&self.body)
    }

    /// The value of a header; empty without one.
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl Receiver {
    /// One that answers with this status.
    pub(crate) fn answering(status: u16) -> Self {
        Self::start(Some(status))
    }

    /// One that takes connections and answers nothing.
    pub(crate) fn silent() -> Self {
        Self::start(None)
    }

    fn start(status: Option<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, posts) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender) = (stream.unwrap(), sender.clone());
                thread::spawn(move || converse(stream, status, &sender));
            }
        });
        Self { url, posts }
    }

    /// Waits for the next.
    pub(crate) fn next(&self) -> Post {
        self.posts.recv_timeout(PATIENCE).unwrap()
    }

    /// What has come by now.
    pub(crate) fn all(&self) -> Vec<Post> {
        self.posts.try_iter().collect()
    }
}

/// Reads message after message. Each is handed out before it is answered.
fn converse(stream: TcpStream, status: Option<u16>, sender: &mpsc::Sender<Post>) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            if let Some(number) = head[start..].to_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() || sender.send(Post { head, body }).is_err() {
            return;
        }
        if let Some(status) = status {
            let length = if status == 204 { "" } else { "Content-Length: 0\r\n" };
            let answer = format!("HTTP/1.1 {status} Something\r\n{length}\r\n");
            if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}
