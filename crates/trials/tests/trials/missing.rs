//! A program that a trial needs and that is not here.

use std::process::Command;

use countersign_trials::process::find_binary;

#[test]
fn missing_program_is_reported_in_one_sentence() {
    for (trial, variable, says) in [
        ("nodes", "PGBOUNCER_BIN", "./test rust brings PgBouncer"),
        ("nodes", "POSTGRES_BIN", "./test brings PostgreSQL"),
        ("keys", "POSTGRES_BIN", "./test brings PostgreSQL"),
    ] {
        let ended = Command::new(env!("CARGO_BIN_EXE_countersign-trials"))
            .args([trial, "--cycles", "1", "--seed", "1"])
            .env("COUNTERSIGN_BIN", find_binary().unwrap())
            .env(variable, "/nowhere")
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{trial}: {said}");
        let complaints: Vec<_> = said.lines().filter(|line| line.contains(says)).collect();
        assert!(complaints.len() == 1 && !said.contains("panicked"), "{trial}: {said}");
    }
}
