//! The speed of the issuer's answers: at once, or slower than a tracker may wait for.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use crate::step::Part;

/// The time from one byte to the next: shorter than any limit that a tracker has for a single wait.
const TICK: Duration = Duration::from_millis(200);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the answer to the question under way is sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Pace {
    #[default]
    AtOnce,
    /// From this part on, a byte a tick.
    Drip(Part),
    /// Never: a `100 Continue` each tick instead.
    Continue,
    /// This text instead.
    Raw(&'static str),
}

/// The pace of one connection, which the answer to each question sets.
pub(crate) type SharedPace = Arc<Mutex<Pace>>;

/// Carries bytes between the tracker and the issuer's HTTP, until the issuer has no more of them, the tracker hangs up, or the
/// step of a slow answer is over.
pub(crate) async fn carry<S>(stream: S, issuer: DuplexStream, pace: SharedPace, step: watch::Receiver<u64>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_tracker, mut to_tracker) = tokio::io::split(stream);
    let (mut from_issuer, mut to_issuer) = tokio::io::split(issuer);
    let questions = async {
        let _ = tokio::io::copy(&mut from_tracker, &mut to_issuer).await;
        let _ = to_issuer.shutdown().await;
        std::future::pending::<()>().await;
    };
    let answers = async {
        let _ = send(&mut from_issuer, &mut to_tracker, &pace, step).await;
        let _ = to_tracker.shutdown().await;
    };
    tokio::select! {
        () = questions => {}
        () = answers => {}
    }
}

async fn send(
    issuer: &mut (impl AsyncRead + Unpin),
    tracker: &mut (impl AsyncWrite + Unpin),
    pace: &SharedPace,
    mut step: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = issuer.read(&mut buffer).await?;
        let piece = buffer.get(..length).unwrap_or_default();
        if piece.is_empty() {
            return Ok(());
        }
        let pace = *pace.lock().unwrap_or_else(PoisonError::into_inner);
        match pace {
            Pace::AtOnce => tracker.write_all(piece).await?,
            Pace::Raw(text) => return tracker.write_all(text.as_bytes()).await,
            Pace::Continue => return repeat(tracker, std::iter::repeat(CONTINUE), &mut step).await,
            Pace::Drip(part) => {
                let (now, later) = piece.split_at(start_of(part, piece));
                tracker.write_all(now).await?;
                return repeat(tracker, later.chunks(1), &mut step).await;
            }
        }
        tracker.flush().await?;
    }
}

/// Sends one part a tick, until the step is over.
async fn repeat<'p>(
    tracker: &mut (impl AsyncWrite + Unpin),
    parts: impl Iterator<Item = &'p [u8]>,
    step: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    step.mark_unchanged();
    for part in parts {
        tracker.write_all(part).await?;
        tracker.flush().await?;
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = step.changed() => return Ok(()),
        }
    }
    Ok(())
}

/// Where that part begins in an answer.
fn start_of(part: Part, answer: &[u8]) -> usize {
    let after = |mark: &[u8]| {
        answer.windows(mark.len()).position(|window| window == mark).map_or(0, |at| at + mark.len())
    };
    match part {
        Part::StatusLine => 0,
        Part::Headers => after(b"\r\n"),
        Part::Body => after(b"\r\n\r\n"),
    }
}
