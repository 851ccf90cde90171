//! The model finds every attack that a missing defence allows, and none when all are there.

use countersign_trials::model::{self, Finding, ONE_SESSION, ONLY_THE_WORKER};

fn check(scenarios: Vec<model::Scenario>) -> Vec<Finding> {
    let findings: Vec<_> = scenarios.into_iter().map(|it| model::check(it).unwrap()).collect();
    for finding in &findings {
        assert_eq!(finding.surprises(), Vec::<&str>::new(), "{finding}");
    }
    findings
}

#[test]
fn model_holds_with_all_defences() {
    for finding in check(model::defended()) {
        assert!(finding.promises.iter().all(|(_, holds)| *holds), "{finding}");
        assert!(finding.states > 5000, "hardly anything can happen: {finding}");
    }
}

#[test]
fn model_breaks_without_any_one_defence() {
    let findings = check(model::undefended());
    assert!(findings.iter().all(|it| it.promises.iter().any(|(_, holds)| !holds)));
}

#[test]
fn relay_attack_is_reported() {
    let unbound = model::undefended().into_iter().find(|it| !it.defences.bound).unwrap();
    let finding = model::check(unbound).unwrap();
    assert!(finding.promises.contains(&(ONLY_THE_WORKER, false)), "{finding}");
    assert!(
        finding.promises.contains(&(ONE_SESSION, true)),
        "the token is used once all the same: {finding}"
    );
    let told = finding.story.join("\n");
    println!("{told}");
    assert_eq!(finding.story.len(), 4, "{told}");
    assert!(told.starts_with("The worker logs in to the hostile tracker"), "{told}");
    assert!(told.contains("shows the token meant for the hostile tracker to the"), "{told}");
    assert!(told.contains("opens a session for the hostile tracker, in the worker's name"), "{told}");
}
