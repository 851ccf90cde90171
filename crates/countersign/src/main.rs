//! The `countersign` command. All of it is in the library beside, where fuzzing can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    countersign::run()
}
