//! Any text as a scenario, and any other as a step of its clients.

use mockforge::scenario::{Problem, Scenario};

use super::split;

pub fn run(input: &[u8]) {
    let (scenario, step) = split(input);
    let (Ok(scenario), Ok(step)) = (std::str::from_utf8(scenario), std::str::from_utf8(step)) else { return };
    if let Err(problems) = Scenario::read(scenario) {
        check(scenario, &problems);
    }
    match Scenario::read_header(scenario) {
        Ok(header) => {
            if let Err(problems) = header.read_step(1, step) {
                check(step, &problems);
            }
        }
        Err(problems) => check(scenario, &problems),
    }
}

/// Every problem has a place in the text, or just behind it.
fn check(text: &str, problems: &[Problem]) {
    assert!(!problems.is_empty());
    // YAML breaks a line at a carriage return by itself, too.
    let lines = text.split(['\r', '\n']).count() as u64 + 1;
    for problem in problems {
        assert!((1..=lines).contains(&problem.line) && problem.column > 0, "{problem}");
        assert!(!problem.reason.is_empty(), "{problem}");
    }
}
