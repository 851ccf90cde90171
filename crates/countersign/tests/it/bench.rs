//! `countersign bench` against `countersign serve`, as an operator runs them.

use crate::fixture::{Place, Server};
use crate::process::EndedProcess;

fn bench(place: &Place, server: &Server, arguments: &[&str]) -> EndedProcess {
    place.run(&[&["bench", "--private", &server.private, "--connections", "4"], arguments].concat())
}

#[test]
fn correct_answers_exit_zero() {
    let place = Place::new();
    let server = place.serve_with(&["--refusals-per-minute", "0"], &[]);
    for workload in ["handshake", "issue", "replay", "forged", "health"] {
        // No progress bar without a terminal.
        let shown = bench(&place, &server, &[workload, "--count", "20"]).printed();
        assert!(shown.contains(&format!("workload     {workload}\n")), "{shown}");
        let unit = if workload == "handshake" { "handshakes" } else { "requests" };
        assert!(
            shown.contains(&format!("{unit:<12} 20\n")) && shown.contains("errors       none"),
            "{shown}"
        );
    }
}

#[test]
fn wrong_answers_exit_nonzero_and_are_reported() {
    let place = Place::new();
    let server = place.serve_with(&["--refusals-per-minute", "1"], &[]);
    let ended = bench(&place, &server, &["forged", "--count", "20", "--json"]);
    assert_eq!(ended.code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["errors"]["forged: status 429"], 19);
    assert_eq!(report["requests"], 1);
    assert!(ended.err.contains("19 answers were wrong"), "{}", ended.err);
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    for (arguments, told) in [
        (&["handshakes"][..], "handshake"),
        (&["--private", "http://192.0.2.1:8087"], "--allow-remote"),
        (&["--private", "https://127.0.0.1:8087"], "TLS"),
        (&["--count", "5", "--duration", "5s"], "--count"),
        (&["--connections", "0"], "--connections"),
        (&["--duration=-1s"], "must not be negative"),
    ] {
        let refusal = Place::new().refusal(&[&["bench"], arguments].concat(), 2);
        assert!(refusal.contains(told), "{refusal}");
    }
    let refusal = Place::new().refusal(&["bench", "--server", "http://127.0.0.1:1"], 1);
    assert!(refusal.contains("countersign serve"), "{refusal}");
}
