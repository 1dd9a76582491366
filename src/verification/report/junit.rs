//! JUnit XML, as CI servers read it: a test case for each session.

use std::{
    collections::HashMap,
    fmt::{self, Write},
};

use super::Heading;
use crate::{
    verification::{Difference, Owner, SessionVerdict, Verdict},
    xml::Escaped,
};

/// The verdict as one test suite that took `seconds`.
pub fn junit(heading: &Heading, verdict: &Verdict, seconds: f64) -> String {
    let mut out = String::new();
    write_junit(&mut out, heading, verdict, seconds).expect("a String takes everything");
    out
}

fn write_junit(out: &mut String, heading: &Heading, verdict: &Verdict, seconds: f64) -> fmt::Result {
    let name = Escaped(&heading.title);
    // CI must not be green for another reason than that all is as it was.
    let failure = heading.why_failed(verdict);
    let is_whole = failure.is_some() || verdict.sessions.is_empty();
    let tests = verdict.sessions.len() + usize::from(is_whole);
    let differing = verdict.sessions.iter().filter(|session| session.differences > 0).count();
    let failures = differing + usize::from(failure.is_some());
    let mut differences: HashMap<&Owner, Vec<&Difference>> = HashMap::new();
    for difference in &verdict.differences {
        differences.entry(&difference.owner).or_default().push(difference);
    }
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(
        out,
        r#"<testsuites name="mockforge" tests="{tests}" failures="{failures}" errors="0" time="{seconds:.3}">"#
    )?;
    writeln!(
        out,
        r#"  <testsuite name="{name}" tests="{tests}" failures="{failures}" errors="0" skipped="0" time="{seconds:.3}">"#
    )?;
    for session in &verdict.sessions {
        let differences = differences.get(&session.owner).map_or(&[][..], Vec::as_slice);
        write_case(out, heading, session, differences)?;
    }
    if is_whole {
        writeln!(out, r#"    <testcase name="{}" classname="{name}" time="0">"#, heading.case)?;
        match failure {
            Some(failure) => {
                writeln!(out, r#"      <failure type="failed" message="{}"/>"#, Escaped(&failure))?;
            }
            None => {
                writeln!(out, "      <system-out>{}</system-out>", Escaped(&heading.notes.join("\n")))?;
            }
        }
        writeln!(out, "    </testcase>")?;
    }
    writeln!(out, "  </testsuite>")?;
    writeln!(out, "</testsuites>")
}

fn write_case(
    out: &mut String,
    heading: &Heading,
    session: &SessionVerdict,
    differences: &[&Difference],
) -> fmt::Result {
    let owner = session.owner.to_string();
    let (case, class) = (Escaped(&owner), Escaped(&heading.title));
    if session.differences == 0 {
        return writeln!(out, r#"    <testcase name="{case}" classname="{class}" time="0"/>"#);
    }
    let message = match differences.first() {
        Some(first) if session.differences == 1 => first.to_string(),
        Some(first) => format!("{} differences, first: {first}", session.differences),
        None => format!("{} differences", session.differences),
    };
    let kind = differences.first().map_or("difference", |first| first.kind.name());
    writeln!(out, r#"    <testcase name="{case}" classname="{class}" time="0">"#)?;
    writeln!(out, r#"      <failure type="{kind}" message="{}">"#, Escaped(&message))?;
    for difference in differences {
        writeln!(out, "{}", Escaped(&difference.to_string()))?;
    }
    writeln!(out, "</failure>")?;
    writeln!(out, "    </testcase>")
}
