//! Verification as the contract says it, and the reports of replays that were verified.

use std::{sync::Arc, time::Duration};

use super::{Control, ControlError, fields::Fields, pb, time};
use crate::{
    net::replay::{ReplayOutcome, ReplayReport, VerifySpec},
    verification::{
        Difference, Level, Rules, Told, Verdict,
        report::{self, Heading},
    },
};

/// Checks what is asked to be compared.
pub(super) fn checked_verification(
    fields: &mut Fields,
    spec: Option<&pb::VerificationSpec>,
) -> Option<VerifySpec> {
    let spec = spec?;
    let level = level(fields.choice("spec.verify.level", spec.level)).unwrap_or(Level::Payload);
    let rules = fields.keep("spec.verify.rules", Rules::parse(&spec.rules)).unwrap_or_default();
    let settle = fields.duration("spec.verify.settle", spec.settle.as_ref());
    Some(VerifySpec {
        rules: Arc::new(rules),
        settle: settle.unwrap_or(VerifySpec::SETTLE),
        ..VerifySpec::new(level)
    })
}

/// `None` where it is not said.
pub(super) fn level(level: Option<pb::VerificationLevel>) -> Option<Level> {
    match level? {
        pb::VerificationLevel::Unspecified => None,
        pb::VerificationLevel::Count => Some(Level::Count),
        pb::VerificationLevel::Payload => Some(Level::Payload),
        pb::VerificationLevel::Packets => Some(Level::Packets),
    }
}

/// A verdict with its first differences.
pub(super) fn shown_verdict(verdict: &Verdict) -> pb::VerificationReport {
    pb::VerificationReport {
        level: match verdict.level {
            Level::Count => pb::VerificationLevel::Count,
            Level::Payload => pb::VerificationLevel::Payload,
            Level::Packets => pb::VerificationLevel::Packets,
        }
        .into(),
        expected: verdict.expected,
        observed: verdict.observed,
        matched: verdict.matched,
        repeated: verdict.repeated,
        counts: verdict.counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        differences: verdict.differences.iter().map(shown_difference).collect(),
        incomplete: verdict.incomplete.map(|incomplete| incomplete.to_string()).unwrap_or_default(),
    }
}

fn shown_difference(difference: &Difference) -> pb::VerificationDifference {
    pb::VerificationDifference {
        kind: difference.kind.name().to_owned(),
        session: difference.owner.to_string(),
        direction: difference.direction.name().to_owned(),
        subject: difference.subject.to_string(),
        expected: difference.expected.as_ref().map(shown_packet),
        observed: difference.observed.as_ref().map(shown_packet),
        changes: difference
            .changes
            .iter()
            .map(|change| pb::VerificationChange {
                path: change.path.clone(),
                expected: change.expected.clone(),
                observed: change.observed.clone(),
            })
            .collect(),
        remark: difference.remark.clone(),
    }
}

fn shown_packet(told: &Told) -> pb::VerifiedPacket {
    pb::VerifiedPacket {
        seq: told.place.seq,
        at: Some(time::duration(told.place.at)),
        connection: told.place.connection,
        text: told.text.clone(),
    }
}

impl Control {
    pub async fn get_replay_report(
        &self,
        request: pb::GetReplayReportRequest,
    ) -> Result<pb::GetReplayReportResponse, ControlError> {
        let mut fields = Fields::new();
        let format: Option<pb::ReportFormat> = fields.choice("format", request.format);
        fields.finish()?;
        let (name, report) = self.replay_report(&request.id)?;
        let format = format.unwrap_or(pb::ReportFormat::Text);
        // Of a replay without a verdict there is what it sent.
        let nothing = Verdict::nothing(Level::Payload);
        let verdict = report.verdict.as_deref().unwrap_or(&nothing);
        let heading = heading(&name, &report, format);
        let (text, content_type) = written(&heading, verdict, report.actual_span, format);
        Ok(pb::GetReplayReportResponse { report: text, content_type: content_type.to_owned() })
    }
}

/// A report of what took `span`, and its content type.
pub(super) fn written(
    heading: &Heading,
    verdict: &Verdict,
    span: Duration,
    format: pb::ReportFormat,
) -> (String, &'static str) {
    match format {
        pb::ReportFormat::Json => (report::json(heading, verdict), "application/json"),
        pb::ReportFormat::Junit => (report::junit(heading, verdict, span.as_secs_f64()), "application/xml"),
        pb::ReportFormat::Html => (report::html(heading, verdict), "text/html"),
        pb::ReportFormat::Text | pb::ReportFormat::Unspecified => {
            (report::text(heading, verdict), "text/plain")
        }
    }
}

/// What stands in the replay's own report is not said again beside it, but in files, which stand alone.
fn heading(recording: &str, report: &ReplayReport, format: pb::ReportFormat) -> Heading {
    let mut notes = Vec::new();
    if format != pb::ReportFormat::Text || report.verdict.is_none() {
        notes.push(format!(
            "sent {} of {} messages to {}, {} acknowledged: {}",
            report.sent, report.planned, report.target, report.acked, report.outcome
        ));
        notes.extend(report.errors.iter().cloned());
        notes.extend(report.warnings.iter().map(|warning| format!("note: {warning}")));
    }
    if report.verdict.is_none() {
        notes.push("nothing was compared with the recording".to_owned());
    }
    let has_failed = !matches!(report.outcome, ReplayOutcome::Passed | ReplayOutcome::Different);
    Heading {
        title: recording.to_owned(),
        sides: report.sides.clone(),
        failure: if has_failed { report.outcome.to_string() } else { String::new() },
        may_be_empty: report.outcome == ReplayOutcome::Passed,
        case: if report.verdict.is_some() { "verification" } else { "replay" },
        notes,
    }
}
