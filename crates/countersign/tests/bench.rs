//! `countersign bench` against `countersign serve`, as an operator runs them.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail as tests do")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

/// A server on free ports; it ends with this.
struct Server {
    process: Child,
    private: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start(refusals_per_minute: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["serve", "--public-listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0"])
            .args(["--refusals-per-minute", refusals_per_minute, "--data-dir"])
            .arg(data.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines: Vec<_> = BufReader::new(process.stdout.take().unwrap()).lines().take(2).collect();
        let private = lines[1].as_ref().unwrap().strip_prefix("private ").unwrap().to_owned();
        Self { process, private, _data: data }
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        bench(&[&["--private", &self.private, "--connections", "4"], arguments].concat())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign")).arg("bench").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn right_answers_end_well() {
    let server = Server::start("0");
    for workload in ["handshake", "issue", "replay", "forged", "health"] {
        let output = server.bench(&[workload, "--count", "20"]);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{shown}{}", text(&output.stderr));
        assert!(shown.contains(&format!("workload     {workload}\n")), "{shown}");
        let unit = if workload == "handshake" { "handshakes" } else { "requests" };
        assert!(
            shown.contains(&format!("{unit:<12} 20\n")) && shown.contains("errors       none\n"),
            "{shown}"
        );
        assert_eq!(text(&output.stderr), "", "no progress bar without a terminal");
    }
}

#[test]
fn wrong_answers_end_badly_and_are_told() {
    let server = Server::start("1");
    let output = server.bench(&["forged", "--count", "20", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"]["forged: status 429"], 19);
    assert_eq!(report["requests"], 1);
    assert!(text(&output.stderr).contains("19 answers were wrong"), "{}", text(&output.stderr));
}

#[test]
fn wrong_usage_is_told_apart() {
    for (arguments, told) in [
        (&["handshakes"][..], "handshake"),
        (&["--private", "http://192.0.2.1:8087"], "--allow-remote"),
        (&["--private", "https://127.0.0.1:8087"], "TLS"),
        (&["--count", "5", "--duration", "5s"], "--count"),
        (&["--connections", "0"], "--connections"),
        (&["--duration=-1s"], "must not be negative"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(told), "{}", text(&output.stderr));
    }
    let output = bench(&["--server", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("countersign serve"), "{}", text(&output.stderr));
}
