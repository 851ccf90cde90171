//! The seed corpora and the dictionaries, which `cargo fuzz` uses too.

use std::fs;
use std::path::PathBuf;

/// The corpus from which a target's inputs are made.
#[derive(Debug)]
pub(crate) struct Seeds {
    /// The corpus, by file name.
    pub(crate) inputs: Vec<(String, Vec<u8>)>,
    /// Pieces that mean something to the code under test.
    pub(crate) dictionary: Vec<Vec<u8>>,
}

impl Seeds {
    pub(crate) fn of(target: &str) -> Self {
        let corpus = format!("corpus/{target}");
        let inputs: Vec<_> = names(&corpus, "")
            .into_iter()
            .map(|name| {
                let input = fs::read(directory(&corpus).join(&name)).unwrap();
                (name, input)
            })
            .collect();
        assert!(inputs.len() >= 10, "{corpus} has lost its files");
        let dictionary =
            fs::read_to_string(directory("dictionaries").join(format!("{target}.dict"))).unwrap();
        Self { inputs, dictionary: dictionary.lines().map(entry).collect() }
    }
}

/// The files in a directory of the fuzz package, without their ending, in order.
pub(crate) fn names(of: &str, ending: &str) -> Vec<String> {
    let files =
        fs::read_dir(directory(of)).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.map(|name| name.strip_suffix(ending).unwrap().to_owned()).collect();
    names.sort_unstable();
    names
}

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(name)
}

/// A line of a dictionary, as libFuzzer has it: in quotes, with `\\`, `\"` and `\xAB` as escapes.
fn entry(line: &str) -> Vec<u8> {
    let quoted = line.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
    let mut bytes = Vec::new();
    let mut rest = quoted.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        (bytes, rest) = match (first, tail) {
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let hex = [*high, *low];
                let byte = u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap();
                ([bytes, vec![byte]].concat(), tail)
            }
            (b'\\', [escaped @ (b'\\' | b'"'), tail @ ..]) => ([bytes, vec![*escaped]].concat(), tail),
            (b'\\', _) => panic!("libFuzzer does not know this escape: {line}"),
            _ => ([bytes, vec![*first]].concat(), tail),
        };
    }
    bytes
}

#[test]
fn dictionary_is_read_as_libfuzzer_does() {
    assert_eq!(entry(r#""a\x0a\"\\b""#), b"a\n\"\\b");
}
