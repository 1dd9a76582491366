//! What a replay did.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Lateness, Mode, ReplayOutcome, ReplaySpec};
use crate::{
    net::client::Capability,
    packet::ReasonCode,
    recording::player::{Skipped, Speed},
    verification::Verdict,
};

/// What a replay did.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Part of the client identifiers that were used: `mf-<run>-<n>`.
    pub run: String,
    pub target: String,
    pub outcome: ReplayOutcome,
    /// What went wrong, for people, in the order it did.
    pub errors: Vec<String>,
    /// What may surprise.
    pub warnings: Vec<String>,
    /// Messages to be sent by one pass.
    pub planned: u64,
    /// Passes that were begun.
    pub passes: u32,
    /// Those that were opened.
    pub connections: usize,
    pub sent: u64,
    /// Packets of any kind that were sent; of mode client.
    pub packets: u64,
    /// QoS 1 and 2 messages whose exchange was completed with success.
    pub acked: u64,
    /// QoS 1 and 2 messages that were sent and not acknowledged.
    pub unacked: u64,
    /// Refused by the target with an ack, by Reason Code.
    pub refused: BTreeMap<ReasonCode, u64>,
    /// Not sent because the target had said that it does not take them.
    pub incapable: Vec<(Capability, u64)>,
    /// Not sent because their connection had ended.
    pub unsent: u64,
    /// Of mode server: recorded connections that live clients made again.
    pub played: u64,
    /// Of mode server: those that they did not.
    pub unplayed: u64,
    /// Of mode server: what recorded clients did and those who played them did not.
    pub lacking: u64,
    /// Of mode server: recorded connections that were being made when the replay ended, and had not come to their end.
    pub cut_short: u64,
    /// Of mode server: what live clients did and no recorded one had done.
    pub missed: u64,
    /// Payload bytes sent.
    pub bytes: u64,
    pub topics: BTreeMap<String, TopicCount>,
    /// Left out of the plan, of one pass.
    pub skipped: Skipped,
    /// As in the spec.
    pub gaps: u64,
    /// Events that the recorder could not keep.
    pub missing: u64,
    pub speed: Speed,
    /// From the first to the last message of one pass, as recorded.
    pub recorded_span: Duration,
    /// The same at the speed asked for; of all passes, if they were played to their end.
    pub planned_span: Duration,
    /// From the first to the last message that was sent.
    pub actual_span: Duration,
    /// All 0 at speed `max` without a rate, where nothing has a time.
    pub lateness: Lateness,
    /// What came back, compared with the recording; `None` where that was not asked for.
    pub verdict: Option<Arc<Verdict>>,
    /// What is compared: what is expected, and what came.
    pub sides: [String; 2],
}

/// Messages sent to a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicCount {
    pub messages: u64,
    /// Of payload.
    pub bytes: u64,
}

impl ReplayReport {
    pub(super) fn blank(spec: &ReplaySpec) -> Self {
        Self {
            run: spec.run.clone(),
            target: spec.target.to_string(),
            outcome: ReplayOutcome::Passed,
            errors: Vec::new(),
            warnings: spec.warnings.clone(),
            planned: 0,
            passes: 0,
            connections: 0,
            sent: 0,
            packets: 0,
            acked: 0,
            unacked: 0,
            refused: BTreeMap::new(),
            incapable: Vec::new(),
            unsent: 0,
            played: 0,
            unplayed: 0,
            lacking: 0,
            cut_short: 0,
            missed: 0,
            bytes: 0,
            topics: BTreeMap::new(),
            skipped: Skipped::default(),
            gaps: spec.gaps,
            missing: 0,
            speed: spec.pace.speed,
            recorded_span: Duration::ZERO,
            planned_span: Duration::ZERO,
            actual_span: Duration::ZERO,
            lateness: Lateness::default(),
            verdict: None,
            sides: ["recorded", "replayed"].map(str::to_owned),
        }
    }

    pub fn exit_code(&self) -> u8 {
        self.outcome.exit_code()
    }

    /// What was not taken, for people.
    pub(super) fn shortfalls(&self) -> Vec<String> {
        let messages = |count: u64| match count {
            1 => "1 message was".to_owned(),
            count => format!("{count} messages were"),
        };
        let mut texts = Vec::new();
        for (capability, count) in &self.incapable {
            texts.push(format!("{} not sent: {capability}", messages(*count)));
        }
        for (reason, count) in &self.refused {
            texts.push(format!("{} refused: {} (0x{:02x})", messages(*count), reason.name(), reason.0));
        }
        if self.unsent > 0 {
            let whose = if self.unsent == 1 { "its" } else { "their" };
            texts.push(format!("{} not sent: {whose} connection had ended", messages(self.unsent)));
        }
        texts
    }
}

/// Why a recording with gaps does not pass: with `gaps` that its head knows of, and `missing` events
/// that others tell of. A plan says the same as the replay.
pub(crate) fn gaps_error(gaps: u64, missing: u64) -> Option<String> {
    match (gaps, missing) {
        (0, 0) => None,
        (1, 0) => Some("a gap is known in the recording".to_owned()),
        (_, 0) => Some(format!("{gaps} gaps are known in the recording")),
        (_, 1) => Some("an event is missing in the recording".to_owned()),
        _ => Some(format!("{missing} events are missing in the recording")),
    }
}

/// What may surprise where anything has an expiry interval.
pub(crate) fn expiry_warning(has_expiry: bool, mode: Mode, speed: Speed) -> Option<String> {
    let text = match mode {
        Mode::Publish => {
            "messages have a Message Expiry Interval, which is sent as recorded whatever the speed"
        }
        Mode::Client => {
            "there are expiry intervals, which are sent as recorded whatever the speed (--scale-intervals divides them)"
        }
        // It says what it was told to say.
        Mode::Server => return None,
    };
    (has_expiry && speed != Speed::Factor(1.0)).then(|| text.to_owned())
}
