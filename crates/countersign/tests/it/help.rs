//! What users are told with `--help`, word by word.
//!
//! The expected texts are the files in `tests/help`, one for each command. After a change that is meant, write them
//! anew and read the difference: `just generate`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use crate::fixture::Place;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help")
}

fn help(arguments: &[&str]) -> String {
    let ended = Place::new().run_with(arguments, &[("COLUMNS", "100")], "");
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{arguments:?}");
    ended.out
}

/// The subcommands that a help text lists.
fn subcommands(text: &str) -> Vec<String> {
    let (_, rest) = text.split_once("\nCommands:\n").unwrap_or_default();
    rest.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The help of `command` and of all its subcommands, by the command's words.
fn collect(command: &[&str], texts: &mut BTreeMap<String, String>) {
    let text = help(&[command, &["--help"]].concat());
    for subcommand in subcommands(&text) {
        collect(&[command, &[&subcommand]].concat(), texts);
    }
    texts.insert([&["countersign"], command].concat().join(" "), text);
}

#[test]
fn help_matches_its_snapshots() {
    let mut texts = BTreeMap::new();
    collect(&[], &mut texts);
    assert!(texts.len() > 10, "only {:?} were found", texts.keys());
    let texts: BTreeMap<String, String> =
        texts.into_iter().map(|(command, text)| (command.replace(' ', "-") + ".txt", text)).collect();
    for (name, text) in &texts {
        expect_file![directory().join(name)].assert_eq(text);
    }
    let files =
        fs::read_dir(directory()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = files.filter(|name| !texts.contains_key(name)).collect();
    assert!(left.is_empty(), "there are no commands any more for {left:?}; remove the files");
}

#[test]
fn help_fits_a_terminal_in_every_form() {
    let mut texts = BTreeMap::new();
    collect(&[], &mut texts);
    for (name, text) in &texts {
        let command: Vec<&str> = name.split(' ').skip(1).collect();
        assert_eq!(help(&[&command[..], &["-h"]].concat()), *text, "{name}: -h");
        assert_eq!(help(&[&["help"], &command[..]].concat()), *text, "{name}: help");
        for line in text.lines() {
            assert!(line.chars().count() <= 100 && line == line.trim_end(), "{name}: {line:?}");
        }
    }
}

#[test]
fn help_hides_values_of_the_environment() {
    let place = Place::new();
    let secret = [("COUNTERSIGN_STORE", "postgres://anna:hunter2@db/tokens")];
    for command in [&["serve", "--help"][..], &["store", "stats", "--help"], &["store", "backup", "--help"]] {
        let text = place.run_with(command, &secret, "").printed();
        assert!(text.contains("--store") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn unknown_command_lists_the_commands() {
    let place = Place::new();
    for arguments in [&[][..], &["token"], &["keys"], &["store"]] {
        let said = place.refusal(arguments, 2);
        assert!(said.contains("Usage: countersign") && said.contains("Commands:"), "{said}");
    }
    let said = place.refusal(&["tokens"], 2);
    assert!(said.contains("unrecognized subcommand 'tokens'") && said.contains("'token'"), "{said}");
}

#[test]
fn version_is_printed() {
    assert_eq!(Place::new().print(&["--version"]), concat!("countersign ", env!("CARGO_PKG_VERSION")));
}
