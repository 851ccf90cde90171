//! Completions and manual pages.

use std::process::Command;

use crate::fixture::Place;
use crate::process::Process;

#[test]
fn bash_completes_commands_and_flags() {
    let place = Place::new();
    place.write("completions", &place.print(&["completions", "bash"]));
    let complete = |words: &str| {
        let script = format!(
            "source ./completions; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _countersign countersign \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(place.path("."));
        Process::start(&mut bash, "").ended().printed()
    };
    assert_eq!(complete("countersign tok"), "token");
    assert_eq!(complete("countersign token r"), "revoke");
    assert_eq!(complete("countersign serve --public-u"), "--public-url");
}

#[test]
fn unknown_shell_lists_the_supported_ones() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.print(&["completions", shell]);
        assert!(script.contains("private-listen"), "{shell}: {script}");
    }
    let said = place.refusal(&["completions", "tcsh"], 2);
    assert!(said.contains("invalid value 'tcsh'"), "{said}");
}

#[test]
fn every_command_has_a_page_in_the_manual() {
    let place = Place::new();
    let said = place.print(&["man", "pages"]);
    assert!(said.contains("to pages"), "{said}");
    let pages = place.files("pages");
    for page in
        ["countersign.1", "countersign-serve.1", "countersign-token-new.1", "countersign-store-fence.1"]
    {
        assert!(pages.iter().any(|name| name == page), "{page} is not among {pages:?}");
    }
    let page = place.read("pages/countersign-serve.1");
    assert!(page.starts_with(".ie") && page.contains("\\-\\-public\\-url"), "{page}");
    place.write("file", "");
    let said = place.refusal(&["man", "file"], 1);
    assert!(said.contains("cannot write to file"), "{said}");
}
