//! Single-use tokens in Redis: `SET` under a random name, then `GETDEL`.
//!
//! Pairs are measured rather than single commands, because a handshake is two requests, too. Every answer is checked.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::{Failure, histogram, micros, summary};

/// For how long there is load before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// As long as what a store keeps of a token.
const VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef";

/// Makes pairs on so many connections at a time.
pub(crate) fn pairs(address: SocketAddr, connections: u16, time: Duration) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let times = Rc::new(RefCell::new(histogram()?));
        let start = Instant::now();
        let tasks: Vec<_> = (0..connections)
            .map(|number| {
                tokio::task::spawn_local(connection(address, number, start, time, Rc::clone(&times)))
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        let times = times.borrow();
        Ok(summary(&times, time))
    })
}

async fn connection(
    address: SocketAddr,
    number: u16,
    start: Instant,
    time: Duration,
    times: Rc<RefCell<Histogram<u64>>>,
) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    stream.set_nodelay(true).map_err(text)?;
    let got = format!("${}\r\n{VALUE}\r\n", VALUE.len());
    let mut pair = 0_u64;
    loop {
        let began = start.elapsed();
        if began >= WARM_UP + time {
            return Ok(());
        }
        pair += 1;
        let name = format!("token:{number:05}:{pair:016}");
        let set = command(&["SET", &name, VALUE, "NX", "EX", "300"]);
        ask(&mut stream, &set, "+OK\r\n").await?;
        ask(&mut stream, &command(&["GETDEL", &name]), &got).await?;
        let done = start.elapsed();
        if began >= WARM_UP && done <= WARM_UP + time {
            times.borrow_mut().saturating_record(micros(done.saturating_sub(began)));
        }
    }
}

/// A command in Redis's protocol: an array of strings, each with its length.
fn command(words: &[&str]) -> String {
    let mut text = format!("*{}\r\n", words.len());
    for word in words {
        let length = word.len().to_string();
        text.extend(["$", &length, "\r\n", word, "\r\n"]);
    }
    text
}

async fn ask(stream: &mut TcpStream, command: &str, right: &str) -> Result<(), String> {
    stream.write_all(command.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = [0; 256];
    let mut length = 0;
    loop {
        let room = answer.get_mut(length..).unwrap_or_default();
        let read = stream.read(room).await.map_err(|error| error.to_string())?;
        length += read;
        let so_far = answer.get(..length).unwrap_or_default();
        if so_far == right.as_bytes() {
            return Ok(());
        }
        if read == 0 || !right.as_bytes().starts_with(so_far) {
            return Err(format!("Redis answered {} instead of {right:?}", so_far.escape_ascii()));
        }
    }
}
