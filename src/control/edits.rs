//! The rpcs of `Recordings` that make recordings of others, and those that judge them.

use std::hash::{BuildHasher, Hasher, RandomState};

use super::{
    Control, ControlError,
    event_filter::event_filter,
    fields::Fields,
    pb,
    recordings::{checked_name, recording},
};
use crate::{
    amount::counted,
    event::What,
    recording::{
        RecordingInfo, RecordingState,
        redact::{Redaction, RedactionKey, RedactionReport, RedactionRule, RuleReport},
    },
    store::{Edited, Problem},
};

const MERGED_MAX: usize = 100;
const RULES_MAX: usize = 100;
const KEY_MAX: usize = 1024;

impl Control {
    pub async fn trim_recording(
        &self,
        request: pb::TrimRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        if filter.is_everything() {
            fields.refuse("filter", "says nothing: the whole recording is there already");
        }
        let name = checked_name(&mut fields, request.name);
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        if let Some(start) = filter.start.filter(|start| *start > info.duration && !is_active(&info)) {
            let (start, end) = (start.as_secs_f64(), info.duration.as_secs_f64());
            let what = format!("{start} s is beyond the recording's end, {end} s");
            return Err(ControlError::bad_field("filter.start", what));
        }
        let edited = self.with_store(move |store| Ok(store.trim(&info.id, filter, name)?)).await?;
        let Edited { info, notes } = edited;
        Ok(pb::Recording { notes, ..self.made(info) })
    }

    pub async fn merge_recordings(
        &self,
        request: pb::MergeRecordingsRequest,
    ) -> Result<pb::Recording, ControlError> {
        let mut fields = Fields::new();
        if !(2..=MERGED_MAX).contains(&request.ids.len()) {
            fields.refuse("ids", format_args!("are 2 to {MERGED_MAX}, not {}", request.ids.len()));
        }
        let name = checked_name(&mut fields, request.name);
        fields.finish()?;
        let mut ids: Vec<String> = Vec::with_capacity(request.ids.len());
        for (index, id) in request.ids.iter().enumerate() {
            let found = self.find_recording_at(&format!("ids[{index}]"), id).await?.id;
            if let Some(same) = ids.iter().position(|id| *id == found) {
                let reason = format!("is the same recording as ids[{same}]");
                return Err(ControlError::bad_field(format!("ids[{index}]"), reason));
            }
            ids.push(found);
        }
        let info = self.with_store(move |store| Ok(store.merge(&ids, name)?)).await?;
        Ok(self.made(info))
    }

    pub async fn redact_recording(
        &self,
        request: pb::RedactRecordingRequest,
    ) -> Result<pb::RedactRecordingResponse, ControlError> {
        let mut fields = Fields::new();
        let redaction = redaction(&mut fields, "redaction", request.redaction.unwrap_or_default());
        let name = checked_name(&mut fields, request.name);
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let (info, report) =
            self.with_store(move |store| Ok(store.redact(&info.id, redaction, name)?)).await?;
        Ok(pb::RedactRecordingResponse { recording: Some(self.made(info)), report: Some(shown(report)) })
    }

    pub async fn check_recording(
        &self,
        request: pb::CheckRecordingRequest,
    ) -> Result<pb::CheckRecordingResponse, ControlError> {
        let info = self.find_recording(&request.id).await?;
        let checked = self.with_store(move |store| Ok(store.check(&info.id)?)).await?;
        let problem = |Problem { block, reason }| pb::RecordingProblem { block, reason };
        Ok(pb::CheckRecordingResponse {
            intact: checked.is_intact(),
            recording: Some(recording(checked.info)),
            blocks: checked.blocks,
            stored_bytes: checked.bytes,
            events: checked.events,
            problems: checked.problems.into_iter().map(problem).collect(),
            problems_left_out: checked.problems_left_out,
        })
    }

    /// Tells watchers of a recording that was made of others.
    fn made(&self, info: RecordingInfo) -> pb::Recording {
        tracing::info!(id = %info.id, name = %info.name, events = info.events, "recording made of others");
        self.parts().events.emit(What::Recording(Box::new(info.clone())));
        recording(info)
    }
}

fn is_active(info: &RecordingInfo) -> bool {
    info.state == RecordingState::Recording
}

/// What `redaction`, the field `path` of a request, says. Without a key, one is drawn.
pub fn redaction(fields: &mut Fields, path: &str, redaction: pb::Redaction) -> Redaction {
    if redaction.rules.is_empty() {
        fields.refuse(
            format!("{path}.rules"),
            "must have at least one rule: what must not be in the recording?",
        );
    }
    if redaction.rules.len() > RULES_MAX {
        fields.refuse(format!("{path}.rules"), format_args!("are at most {RULES_MAX}"));
    }
    if redaction.key.len() > KEY_MAX {
        fields.refuse(format!("{path}.key"), format_args!("has at most {KEY_MAX} bytes"));
    }
    let rules = redaction.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| {
        fields.keep(format!("{path}.rules[{index}]"), rule.parse::<RedactionRule>())
    });
    let rules = rules.collect();
    let key = if redaction.key.is_empty() { drawn_key() } else { redaction.key.to_vec() };
    Redaction { rules, key: RedactionKey::new(key) }
}

/// What nobody knows.
fn drawn_key() -> Vec<u8> {
    // The standard library's hasher keys are random, and hashes under them as good as random.
    let draw = |number: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(number);
        hasher.finish().to_be_bytes()
    };
    (0..4).flat_map(draw).collect()
}

/// What is said of a rule that may hold a typo, which would leave in what was to go.
pub fn changed_nothing(rule: &str) -> String {
    format!("{rule} changed nothing: is it as it was meant?")
}

/// What was changed, a line each, for people.
pub fn report_lines(report: &RedactionReport) -> Vec<String> {
    let RedactionReport { rules, passwords: _, hidden, not_json, events: _ } = report;
    let rules = rules.iter().map(|RuleReport { rule, values, events }| match values {
        0 => changed_nothing(rule),
        _ => format!("redacted by {rule}: {} in {}", counted(*values, "value"), counted(*events, "event")),
    });
    let mut lines: Vec<String> = rules.collect();
    if *hidden > 0 {
        lines.push(format!("of packets, payloads and other bytes, {hidden} can't be read and are hidden"));
    }
    if *not_json > 0 {
        let payloads = counted(*not_json, "payload");
        lines.push(format!("left as they are by rules about JSON, because they are none: {payloads}"));
    }
    lines
}

fn shown(report: RedactionReport) -> pb::RedactionReport {
    let rule = |RuleReport { rule, values, events }| pb::RedactionRuleReport { rule, values, events };
    let RedactionReport { rules, passwords, hidden, not_json, events } = report;
    pb::RedactionReport { rules: rules.into_iter().map(rule).collect(), passwords, hidden, not_json, events }
}
