//! The rpc that compares two recordings.

use std::{sync::Arc, time::Instant};

use super::{
    Control, ControlError,
    fields::Fields,
    pb,
    verification::{level, shown_verdict, written},
};
use crate::{
    amount::counted,
    recording::{Event, EventKind, without_run},
    store::StoreError,
    verification::{Identity, Judged, Level, Rules, Verdict, Verifier, report::Heading},
};

/// One of each format.
const REPORTS_MAX: usize = 4;

/// Two recordings, read side by side.
struct Comparison {
    verdict: Verdict,
    /// Events that are known to be missing in each.
    missing: [u64; 2],
}

impl Control {
    pub async fn compare_recordings(
        &self,
        request: pb::CompareRecordingsRequest,
    ) -> Result<pb::CompareRecordingsResponse, ControlError> {
        let mut fields = Fields::new();
        let level = level(fields.choice("level", request.level)).unwrap_or(Level::Packets);
        let rules = fields.keep("rules", Rules::parse(&request.rules)).unwrap_or_default();
        let formats: Vec<pb::ReportFormat> = fields.choices("reports", &request.reports);
        if formats.len() > REPORTS_MAX {
            fields.refuse("reports", format_args!("are at most {REPORTS_MAX}"));
        }
        fields.finish()?;
        let first = self.find_recording_at("first", &request.first).await?;
        let second = self.find_recording_at("second", &request.second).await?;
        let began_at = Instant::now();
        let ids = (first.id.clone(), second.id.clone());
        let comparison = self
            .with_store(move |store| {
                let sides = (store.events(&ids.0, 1)?, store.events(&ids.1, 1)?);
                let verifier = Verifier::new(level, Judged::Both, Identity::Session, Arc::new(rules));
                Ok(compared(verifier, sides.0, sides.1)?)
            })
            .await?;
        let heading = heading([&first.name, &second.name], &comparison, request.allow_empty);
        let Comparison { verdict, missing } = comparison;
        let span = began_at.elapsed();
        let report = |format| {
            let (report, content_type) = written(&heading, &verdict, span, format);
            pb::WrittenReport { format: format.into(), report, content_type: content_type.to_owned() }
        };
        Ok(pb::CompareRecordingsResponse {
            passed: heading.has_passed(&verdict),
            verification: Some(shown_verdict(&verdict)),
            first_missing: missing[0],
            second_missing: missing[1],
            reports: formats.into_iter().map(report).collect(),
        })
    }
}

/// Reads on where less waits for its like, so that what waits does not grow with the recordings.
fn compared(
    mut verifier: Verifier,
    first: impl Iterator<Item = Result<Event, StoreError>>,
    second: impl Iterator<Item = Result<Event, StoreError>>,
) -> Result<Comparison, StoreError> {
    // Runs of one replay are compared as the clients they are of.
    verifier.rename_expected(|client| without_run(client).into_owned());
    verifier.rename_observed(|client| without_run(client).into_owned());
    let (mut first, mut second) = (first.fuse(), second.fuse());
    let mut missing = [0, 0];
    loop {
        let is_second_behind = verifier.is_observation_behind();
        let next = match is_second_behind {
            true => second.next().map(|event| (1, event)).or_else(|| first.next().map(|event| (0, event))),
            false => first.next().map(|event| (0, event)).or_else(|| second.next().map(|event| (1, event))),
        };
        let Some((side, event)) = next else { break };
        let event = event?;
        if let EventKind::Gap { events, .. } = event.kind {
            missing[side] += events.max(1);
        }
        let taken = if side == 0 { verifier.expect(&event) } else { verifier.observe(&event) };
        if taken.is_err() {
            // The verdict says so.
            break;
        }
    }
    Ok(Comparison { verdict: verifier.finish(), missing })
}

fn heading(names: [&str; 2], comparison: &Comparison, may_be_empty: bool) -> Heading {
    let lacks = names.into_iter().zip(comparison.missing).filter(|(_, missing)| *missing > 0);
    let lacks = lacks.map(|(name, missing)| format!("{name} lacks {}", counted(missing, "event")));
    Heading {
        title: format!("{} and {}", names[0], names[1]),
        sides: names.map(str::to_owned),
        failure: lacks.collect::<Vec<_>>().join(", "),
        may_be_empty,
        case: "comparison",
        notes: Vec::new(),
    }
}
