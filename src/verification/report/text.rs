//! For people, on a terminal.

use std::fmt::Write;

use super::Heading;
use crate::verification::{Difference, DifferenceKind, Verdict, plain::Plain};

/// Differences that are printed.
const SHOWN: usize = 20;

/// The verdict, figures, and the first differences side by side.
pub fn text(heading: &Heading, verdict: &Verdict) -> String {
    let mut out = String::new();
    write_text(&mut out, heading, verdict).expect("a String takes everything");
    out
}

fn write_text(out: &mut String, heading: &Heading, verdict: &Verdict) -> std::fmt::Result {
    writeln!(
        out,
        "{} of {} expected {} came as they should ({})",
        verdict.matched,
        verdict.expected,
        verdict.things(),
        verdict.level
    )?;
    for note in &heading.notes {
        writeln!(out, "{}", Plain(note))?;
    }
    if let Some(incomplete) = verdict.incomplete {
        writeln!(out, "not all was compared: {incomplete}")?;
    }
    if verdict.repeated > 0 {
        writeln!(out, "{} came again, as QoS 1 allows", verdict.repeated)?;
    }
    let counts: Vec<String> = DifferenceKind::ALL
        .into_iter()
        .filter(|kind| verdict.count(*kind) > 0)
        .map(|kind| format!("{} {}", verdict.count(kind), kind.name()))
        .collect();
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(out, "differences: {}", counts.join(", "))?;
    if verdict.consequences > 0 {
        writeln!(out, "{} packets of their exchanges differ, too", verdict.consequences)?;
    }
    for difference in verdict.differences.iter().take(SHOWN) {
        write_difference(out, heading, difference)?;
    }
    let more = verdict.difference_count().saturating_sub(verdict.differences.len().min(SHOWN) as u64);
    if more > 0 {
        writeln!(out, "  and {more} more")?;
    }
    Ok(())
}

fn write_difference(out: &mut String, heading: &Heading, difference: &Difference) -> std::fmt::Result {
    writeln!(
        out,
        "  {} {} {} {}{}",
        difference.kind.name(),
        Plain(&difference.owner.to_string()),
        difference.direction.name(),
        Plain(&difference.subject.to_string()),
        if difference.remark.is_empty() {
            String::new()
        } else {
            format!(" ({})", Plain(&difference.remark))
        },
    )?;
    for change in &difference.changes {
        writeln!(out, "    {change}")?;
    }
    let width = heading.sides.iter().map(|side| side.chars().count()).max().unwrap_or_default();
    for (side, told) in heading.sides.iter().zip([&difference.expected, &difference.observed]) {
        if let Some(told) = told.as_ref().filter(|_| difference.kind != DifferenceKind::Count) {
            let seconds = told.place.at.as_secs_f64();
            writeln!(out, "    {side:width$}  {seconds:>10.3} s  {}", Plain(&told.text))?;
        }
    }
    Ok(())
}
