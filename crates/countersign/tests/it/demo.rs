//! `countersign demo`, as a newcomer sees it.

use crate::fixture::Place;

#[test]
fn demo_shows_every_attack_and_its_result() {
    let ended = Place::new().run(&["demo"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let shown = ended.out;
    let said: Vec<_> = shown.lines().filter(|line| line.contains('→')).map(masked).collect();
    let expected = "\
        worker → countersign newBugTrackerToken(TRACKER)
        countersign → worker TOKEN
        worker → tracker GET /launchpad-auth/TOKEN
        tracker → countersign POST /token/TOKEN/+bugtracker-handshake audience=TRACKER
        countersign → tracker 200 this token is Launchpad's
        tracker → worker 200 and a session cookie
        worker → tracker GET /private with the cookie
        tracker → worker 200 Bug 2, which only launchpad may see.

        thief → tracker GET /launchpad-auth/TOKEN
        tracker → countersign POST /token/TOKEN/+bugtracker-handshake audience=TRACKER
        countersign → tracker 401 This token was already used, at TIME
        tracker → thief 401

        worker → countersign newBugTrackerToken(\"http://hostile.example/\")
        countersign → worker TOKEN
        worker → hostile GET /launchpad-auth/TOKEN
        hostile → tracker GET /launchpad-auth/TOKEN
        tracker → countersign POST /token/TOKEN/+bugtracker-handshake audience=TRACKER
        countersign → tracker 403 This token is for another bug tracker.
        tracker → hostile 401

        worker → countersign newBugTrackerToken()
        countersign → worker TOKEN
        worker → hostile GET /launchpad-auth/TOKEN
        hostile → tracker GET /launchpad-auth/TOKEN
        tracker → countersign POST /token/TOKEN/+bugtracker-handshake audience=TRACKER
        countersign → tracker 200 this token is Launchpad's
        tracker → hostile 200 and a session cookie

        worker → countersign newBugTrackerToken(TRACKER)
        countersign → worker TOKEN
        somebody → countersign GET /token/TOKEN/+bugtracker-handshake
        countersign → somebody 405 Only POST requests are accepted for bugtracker handshakes.";
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(said, expected, "{shown}");
    assert!(shown.contains("The token is still live."), "{shown}");
    assert!(
        !shown.contains("bugtracker-handshake audience=http://hostile"),
        "the tracker states its own URL: {shown}"
    );
}

/// A line with one space between its words, and names for what differs from run to run.
fn masked(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        if let Some((before, _)) = word.split_once("cs1") {
            let after = word.rsplit_once('…').map_or("", |(_, after)| after);
            format!("{before}TOKEN{after}")
        } else if let Some((before, after)) = word.split_once("http://127.0.0.1:") {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('/');
            format!("{before}TRACKER{after}").replace("\"TRACKER\"", "TRACKER")
        } else if word.ends_with("Z.") {
            "TIME".to_owned()
        } else {
            word.to_owned()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}
