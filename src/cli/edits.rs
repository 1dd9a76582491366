//! `recordings trim | merge | redact | check`: recordings made of others, and judged.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    event_filter::EventFilterArgs,
    exit::{Exit, Failure},
    output::{self, Format, json},
    place::Place,
    record::counts,
    recordings::names,
    transport::Transport,
};
use crate::control::{changed_nothing, pb};

#[derive(Debug, clap::Args)]
pub struct TrimArgs {
    /// Id or name
    recording: String,
    #[command(flatten)]
    filter: EventFilterArgs,
    /// Name of the new recording [default: that of the recording and `-trimmed`]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Ids or names
    #[arg(required = true, num_args = 2.., value_name = "RECORDING")]
    recordings: Vec<String>,
    /// Name of the new recording [default: `merged-` and the time it began]
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct RedactArgs {
    /// Id or name
    recording: String,
    #[command(flatten)]
    redaction: RedactionArgs,
    /// Name of the new recording [default: `redacted-` and when the recording began: its name may tell something, too]
    #[arg(long)]
    name: Option<String>,
}

/// What must not be in a recording.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RedactionArgs {
    /// What must not be in it, and what stands there instead, WHAT=HOW; may be given more than once
    ///
    /// WHAT: json:$.user.email (a JSONPath into payloads), text:REGEX (wherever text or a payload is), user_property:NAME,
    /// client_id, username, topic:devices/+/# (levels that stand where it has +), peer.
    /// HOW: remove, hash, mask, constant:TEXT.
    #[arg(long = "redact", value_name = "WHAT=HOW", help_heading = "Redaction")]
    rules: Vec<String>,
    /// What hashes are keyed with: with the same key, the same is the same in every recording
    /// [default: a key that is drawn and forgotten]
    #[arg(long, value_name = "FILE", requires = "rules", help_heading = "Redaction")]
    redaction_key: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Ids or names [default: all]
    recordings: Vec<String>,
}

impl RedactionArgs {
    /// `None` if nothing was asked for.
    ///
    /// # Errors
    /// When the key can't be read.
    pub fn redaction(&self) -> Result<Option<pb::Redaction>, Failure> {
        if self.rules.is_empty() {
            return Ok(None);
        }
        let key = self.redaction_key.as_deref().map(read_key).transpose()?.unwrap_or_default();
        Ok(Some(pb::Redaction { rules: self.rules.clone(), key }))
    }

    /// Whether something is hashed with a key that nobody will know.
    fn draws_key(&self) -> bool {
        self.redaction_key.is_none() && self.rules.iter().any(|rule| rule.trim().ends_with("=hash"))
    }
}

fn read_key(path: &Path) -> Result<Bytes, Failure> {
    let unusable = |why: &str| Failure::usage(format!("{}: {why}", path.display()));
    let key = std::fs::read(path).map_err(|error| unusable(&error.to_string()))?;
    // Editors end a file with a line's end, which is no part of the key.
    let end = key.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |last| last + 1);
    match end {
        0 => Err(unusable("the key is empty")),
        end => Ok(Bytes::copy_from_slice(&key[..end])),
    }
}

pub async fn trim(args: TrimArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let Some(filter) = args.filter.filter() else {
        return Err(Failure::usage("say which part: --start, --until, --topic, --client and so on"));
    };
    let name = args.name.unwrap_or_default();
    let request = pb::TrimRecordingRequest { id: args.recording.clone(), filter: Some(filter), name };
    let recording = transport.recordings().trim_recording(request).await?.into_inner();
    made(&recording, &format!("trimmed {}", args.recording), format)
}

pub async fn merge(args: MergeArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let merged = args.recordings.join(", ");
    let request = pb::MergeRecordingsRequest { ids: args.recordings, name: args.name.unwrap_or_default() };
    let recording = transport.recordings().merge_recordings(request).await?.into_inner();
    made(&recording, &format!("merged {merged}"), format)
}

fn made(recording: &pb::Recording, how: &str, format: Format) -> Result<Exit, Failure> {
    for note in &recording.notes {
        eprintln!("{note}");
    }
    match format {
        Format::Json => output::json_line(&json("Recording", recording))?,
        Format::Text => output::line(made_line(recording, how))?,
    }
    if recording.packets == 0 {
        return Err(Failure::new(Exit::Nothing, anyhow::anyhow!("no packet is in {}", recording.name)));
    }
    Ok(Exit::Passed)
}

fn made_line(recording: &pb::Recording, how: &str) -> String {
    let events = output::count(recording.events, "event");
    format!("{how} to {}: {}, {events} in all", recording.name, counts(recording))
}

pub async fn redact(args: RedactArgs, transport: &Transport, format: Format) -> Result<Exit, Failure> {
    let redaction = args.redaction.redaction()?;
    if redaction.is_none() {
        return Err(Failure::usage(
            "say what must not be in it: --redact WHAT=HOW, such as --redact client_id=hash",
        ));
    }
    let name = args.name.unwrap_or_default();
    let request = pb::RedactRecordingRequest { id: args.recording.clone(), redaction, name };
    let answer = transport.recordings().redact_recording(request).await?.into_inner();
    let (recording, report) =
        (answer.recording.clone().unwrap_or_default(), answer.report.clone().unwrap_or_default());
    match format {
        Format::Json => output::json_line(&json("RedactRecordingResponse", &answer))?,
        Format::Text => {
            output::line(made_line(&recording, &format!("redacted {}", args.recording)))?;
            output::line(report_text(&report))?;
        }
    }
    for rule in report.rules.iter().filter(|rule| rule.values == 0) {
        eprintln!("mockforge: warning: {}", changed_nothing(&rule.rule));
    }
    if args.redaction.draws_key() {
        eprintln!(
            "hashes are keyed with a key that was drawn and forgotten: they match those of no other recording \
             (--redaction-key FILE)"
        );
    }
    eprintln!("{} still has all of it, until `mockforge recordings rm` deletes it", args.recording);
    Ok(Exit::Passed)
}

fn report_text(report: &pb::RedactionReport) -> String {
    let mut rows = vec![["REDACTED", "VALUES", "EVENTS"].map(str::to_owned).to_vec()];
    let mut row = |what: &str, values: u64, events: String| {
        rows.push(vec![what.to_owned(), values.to_string(), events]);
    };
    for rule in &report.rules {
        row(&rule.rule, rule.values, rule.events.to_string());
    }
    row("passwords", report.passwords, report.passwords.to_string());
    if report.hidden > 0 {
        row("what can't be read, hidden as a whole", report.hidden, report.hidden.to_string());
    }
    let mut text = output::table(&rows);
    text += &format!("\n\n{} changed", output::count(report.events, "event"));
    if report.not_json > 0 {
        let payloads = output::count(report.not_json, "payload");
        text += &format!("\n{payloads} left alone by rules about JSON, because they are none");
    }
    text
}

#[derive(Serialize)]
struct CheckedAll {
    checks: Vec<Box<RawValue>>,
}

pub async fn check(
    args: CheckArgs,
    transport: &Transport,
    place: &Place,
    format: Format,
) -> Result<Exit, Failure> {
    let ids = if args.recordings.is_empty() { names(transport, place).await? } else { args.recordings };
    let (mut exit, mut checks) = (Exit::Passed, Vec::new());
    for id in &ids {
        let request = pb::CheckRecordingRequest { id: id.clone() };
        let checked = transport.recordings().check_recording(request).await?.into_inner();
        if !checked.intact {
            exit = Exit::Damaged;
        }
        match format {
            Format::Json => checks.push(json("CheckRecordingResponse", &checked)),
            Format::Text => output::line(check_text(&checked))?,
        }
    }
    match format {
        Format::Json => output::json_line(&CheckedAll { checks })?,
        Format::Text if ids.is_empty() => output::line(format!("no recordings {place}"))?,
        Format::Text => {}
    }
    Ok(exit)
}

fn check_text(checked: &pb::CheckRecordingResponse) -> String {
    let recording = checked.recording.clone().unwrap_or_default();
    let verdict = match (checked.intact, recording.state()) {
        (false, _) => "DAMAGED",
        (true, pb::RecordingState::Recording) => "good so far (still being made)",
        (true, _) => "good",
    };
    let mut text = format!(
        "{}: {verdict}, {} in {} ({})",
        recording.name,
        output::count(checked.events, "event"),
        output::count(checked.blocks, "block"),
        output::bytes(checked.stored_bytes),
    );
    if checked.intact && !recording.sha256.is_empty() {
        text += &format!(", sha256 {}", recording.sha256);
    }
    if recording.gaps > 0 {
        text +=
            &format!("\n  {} where the recorder left something out", output::count(recording.gaps, "gap"));
    }
    for problem in &checked.problems {
        let block = problem.block.map(|block| format!("block {block}: ")).unwrap_or_default();
        text += &format!("\n  {block}{}", problem.reason);
    }
    if checked.problems_left_out > 0 {
        text += &format!("\n  and {} more", output::count(checked.problems_left_out, "problem"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_says_what_is_wrong() {
        let recording = pb::Recording { name: "orders".into(), sha256: "ab12".into(), ..Default::default() };
        let good = pb::CheckRecordingResponse {
            recording: Some(recording.clone()),
            intact: true,
            blocks: 3,
            stored_bytes: 4096,
            events: 120,
            ..Default::default()
        };
        assert_eq!(check_text(&good), "orders: good, 120 events in 3 blocks (4.0 KiB), sha256 ab12");
        let problem = |block, reason: &str| pb::RecordingProblem { block, reason: reason.into() };
        let damaged = pb::CheckRecordingResponse {
            recording: Some(pb::Recording { gaps: 1, ..recording }),
            intact: false,
            problems: vec![problem(Some(1), "checksum"), problem(None, "events 4 to 9 are lost")],
            problems_left_out: 2,
            ..good
        };
        expect_test::expect![[r#"
            orders: DAMAGED, 120 events in 3 blocks (4.0 KiB)
              1 gap where the recorder left something out
              block 1: checksum
              events 4 to 9 are lost
              and 2 problems more
        "#]]
        .assert_eq(&(check_text(&damaged) + "\n"));
    }

    #[test]
    fn a_redaction_says_what_was_changed_how_often() {
        let report = pb::RedactionReport {
            rules: vec![pb::RedactionRuleReport { rule: "client_id=hash".into(), values: 12, events: 11 }],
            passwords: 2,
            hidden: 1,
            not_json: 3,
            events: 14,
        };
        expect_test::expect![[r#"
            REDACTED                               VALUES  EVENTS
            client_id=hash                         12      11
            passwords                              2       2
            what can't be read, hidden as a whole  1       1

            14 events changed
            3 payloads left alone by rules about JSON, because they are none
        "#]]
        .assert_eq(&(report_text(&report) + "\n"));
    }
}
