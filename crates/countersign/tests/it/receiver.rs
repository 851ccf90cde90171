//! Somebody to whom a server posts: alarms, or spans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
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
        Self::answering_in_turn(vec![(status, Vec::new())])
    }

    /// One that gives these answers one after the other, and the last one ever after.
    pub(crate) fn answering_in_turn(answers: Vec<(u16, Vec<u8>)>) -> Self {
        Self::start(answers)
    }

    /// One that takes connections and answers nothing.
    pub(crate) fn silent() -> Self {
        Self::start(Vec::new())
    }

    fn start(answers: Vec<(u16, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, posts) = mpsc::channel();
        let answers = Arc::new(Mutex::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender, answers) = (stream.unwrap(), sender.clone(), Arc::clone(&answers));
                thread::spawn(move || converse(stream, &answers, &sender));
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
fn converse(stream: TcpStream, answers: &Mutex<Vec<(u16, Vec<u8>)>>, sender: &mpsc::Sender<Post>) {
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
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { Some(answers.remove(0)) } else { answers.first().cloned() }
        };
        if let Some((status, body)) = answer {
            let length =
                if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            let head = format!("HTTP/1.1 {status} Something\r\n{length}\r\n");
            if stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).is_err() {
                return;
            }
        }
    }
}
