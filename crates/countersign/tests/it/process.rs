//! A process whose output is read while it runs.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take before the test gives up. Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running process. It is killed when dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) out: Stream,
    pub(crate) err: Stream,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct EndedProcess {
    /// The exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// What a process has written so far.
#[derive(Clone)]
pub(crate) struct Stream(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

impl Process {
    pub(crate) fn start(command: &mut Command, input: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Self::start_as_it_is(command);
        // A process that does not read its input may have closed it.
        let _ = process.child.stdin.take().unwrap().write_all(input.as_bytes());
        process
    }

    /// Leaves the standard streams as the command has them; those that are not pipes to here count as ended.
    pub(crate) fn start_as_it_is(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().map_or_else(Stream::ended, Stream::read);
        let err = child.stderr.take().map_or_else(Stream::ended, Stream::read);
        Self { child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ended(&mut self) -> EndedProcess {
        let out = self.out.whole();
        let err = self.err.whole();
        let status = self.child.wait().unwrap();
        assert!(status.signal().is_none(), "{status}: {err}");
        EndedProcess { code: status.code(), out, err }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let stream = Self(Arc::default());
        let written = Arc::clone(&stream.0);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = from.read(&mut buffer).unwrap_or(0);
                let mut state = written.0.lock().unwrap();
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                written.1.notify_all();
                if state.ended {
                    break;
                }
            }
        });
        stream
    }

    fn ended() -> Self {
        Self::read(io::empty())
    }

    /// What has been written until now.
    pub(crate) fn so_far(&self) -> String {
        self.wait("", |_| true)
    }

    /// Everything, once it is complete.
    pub(crate) fn whole(&self) -> String {
        self.wait("its end", |written| written.ended)
    }

    /// What has been written, once `part` is in it.
    pub(crate) fn with(&self, part: &str) -> String {
        self.with_times(1, part)
    }

    /// What has been written, once `part` is in it so many times.
    pub(crate) fn with_times(&self, count: usize, part: &str) -> String {
        let met = |text: &str| text.matches(part).count() >= count;
        let text = self.wait(part, |written| written.ended || met(&written.text()));
        assert!(met(&text), "it ended without {part:?}:\n{text}");
        text
    }

    /// What has been written, once there are so many lines, or it has ended.
    pub(crate) fn lines(&self, count: usize) -> String {
        self.wait("more lines", |written| written.ended || written.text().matches('\n').count() >= count)
    }

    fn wait(&self, for_what: &str, met: impl Fn(&Written) -> bool) -> String {
        let (lock, changed) = &*self.0;
        let waited = changed.wait_timeout_while(lock.lock().unwrap(), PATIENCE, |written| !met(written));
        let (written, waited) = waited.unwrap();
        assert!(!waited.timed_out(), "still waiting for {for_what:?} after:\n{}", written.text());
        written.text()
    }
}

impl Written {
    fn text(&self) -> String {
        // The last character may have come in part only.
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
