//! For programs.

use serde::Serialize;

use super::Heading;
use crate::verification::{Change, Difference, Told, Verdict};

#[derive(Serialize)]
struct Report<'a> {
    title: &'a str,
    passed: bool,
    /// Why not all was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    level: &'static str,
    expected: u64,
    observed: u64,
    matched: u64,
    repeated: u64,
    differences_total: u64,
    counts: &'a std::collections::BTreeMap<&'static str, u64>,
    notes: &'a [String],
    sessions: Vec<Session>,
    differences: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Session {
    name: String,
    expected: u64,
    observed: u64,
    matched: u64,
    differences: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    kind: &'static str,
    session: String,
    direction: &'static str,
    subject: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    remark: &'a str,
    #[serde(skip_serializing_if = "<[Change]>::is_empty")]
    changes: &'a [Change],
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Packet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<Packet<'a>>,
}

#[derive(Serialize)]
struct Packet<'a> {
    seq: u64,
    t_ms: f64,
    conn: u32,
    text: &'a str,
}

/// One object, over several lines.
pub fn json(heading: &Heading, verdict: &Verdict) -> String {
    let report = Report {
        title: &heading.title,
        passed: heading.has_passed(verdict),
        incomplete: verdict.incomplete.map(|incomplete| incomplete.to_string()),
        level: verdict.level.name(),
        expected: verdict.expected,
        observed: verdict.observed,
        matched: verdict.matched,
        repeated: verdict.repeated,
        differences_total: verdict.difference_count(),
        counts: &verdict.counts,
        notes: &heading.notes,
        sessions: verdict.sessions.iter().map(session).collect(),
        differences: verdict.differences.iter().map(shown).collect(),
    };
    serde_json::to_string_pretty(&report).expect("texts and numbers are JSON")
}

fn session(session: &crate::verification::SessionVerdict) -> Session {
    Session {
        name: session.owner.to_string(),
        expected: session.expected,
        observed: session.observed,
        matched: session.matched,
        differences: session.differences,
    }
}

fn shown(difference: &Difference) -> Shown<'_> {
    Shown {
        kind: difference.kind.name(),
        session: difference.owner.to_string(),
        direction: difference.direction.name(),
        subject: difference.subject.to_string(),
        remark: &difference.remark,
        changes: &difference.changes,
        expected: difference.expected.as_ref().map(packet),
        observed: difference.observed.as_ref().map(packet),
    }
}

fn packet(told: &Told) -> Packet<'_> {
    Packet {
        seq: told.place.seq,
        t_ms: told.place.at.as_secs_f64() * 1000.0,
        conn: told.place.connection,
        text: &told.text,
    }
}
