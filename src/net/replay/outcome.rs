//! How a replay ended.

use std::fmt;

use tracing::info;

use super::{Mode, OnMiss, ReplayReport, ReplaySpec, schedule::Stop};
use crate::verification::Level;

/// How a replay ended. Where several are true, that is the one which explains the others: what came back differs because
/// not everything could be done, and that because the target refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    Cancelled,
    /// The recording could not be read to its end, or has gaps.
    Damaged,
    /// The target could not be reached or refused a connection.
    Unreachable,
    /// Not everything was sent and acknowledged.
    Incomplete,
    /// What came back is not what was recorded.
    Different,
    /// There was nothing to send.
    Nothing,
    /// Over `max_lateness`.
    Late,
    Passed,
}

impl ReplayOutcome {
    /// In one word, as figures say it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Incomplete => "incomplete",
            Self::Different => "different",
            Self::Unreachable => "unreachable",
            Self::Nothing => "nothing",
            Self::Damaged => "damaged",
            Self::Late => "late",
            Self::Cancelled => "cancelled",
        }
    }

    /// As every command of ours exits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Incomplete | Self::Different => 1,
            Self::Unreachable => 3,
            Self::Nothing => 4,
            Self::Damaged => 5,
            Self::Late => 6,
            Self::Cancelled => 130,
        }
    }
}

impl fmt::Display for ReplayOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cancelled => "cancelled",
            Self::Damaged => "recording damaged or with gaps",
            Self::Unreachable => "target unreachable, or it refused",
            Self::Incomplete => "not everything was sent and acknowledged",
            Self::Different => "what came back differs",
            Self::Nothing => "nothing was exercised",
            Self::Late => "too late",
            Self::Passed => "passed",
        })
    }
}

/// A replay that has ended, before it is known how.
pub(super) struct Ended {
    pub report: ReplayReport,
    pub stopped: Option<Stop>,
    /// Whether something other than messages did not go as it did then.
    pub fell_short: bool,
    /// Whether a client was refused that was not then.
    pub was_turned_away: bool,
}

impl Ended {
    pub fn new(report: ReplayReport, stopped: Option<Stop>) -> Self {
        Self { report, stopped, fell_short: false, was_turned_away: false }
    }

    pub fn judged(self, spec: &ReplaySpec) -> ReplayReport {
        let Self { mut report, stopped, fell_short, was_turned_away } = self;
        let is_damaged = matches!(stopped, Some(Stop::Events(_))) || report.gaps + report.missing > 0;
        let was_refused = report.refused.values().sum::<u64>() > 0;
        // What was refused in the recording, too, is as it should be, where answers are judged.
        let judges_acks = report.verdict.as_ref().is_some_and(|verdict| verdict.level == Level::Packets);
        // Where nobody played anything, it is not that something is left; and who may do otherwise may leave things out.
        let is_left = report.played > 0
            && report.unplayed + report.lacking + report.cut_short > 0
            && !spec.may_be_left();
        let has_missed = matches!(spec.on_miss, OnMiss::Fail | OnMiss::Disconnect) && report.missed > 0;
        let is_incomplete = matches!(stopped, Some(Stop::Disconnected))
            || report.unacked + report.unsent > 0
            || is_left
            || has_missed
            || was_refused && !judges_acks
            || !report.incapable.is_empty()
            || fell_short;
        let verdict = report.verdict.as_deref();
        let is_nothing = match (verdict, spec.mode) {
            (Some(verdict), Mode::Server) => report.played == 0 || verdict.is_empty(),
            (None, Mode::Server) => report.played == 0,
            (Some(verdict), _) => verdict.is_empty(),
            (None, Mode::Client) => report.packets == 0,
            (None, Mode::Publish) => report.sent == 0,
        };
        // Where nobody played anything, all of it is missing: that is not worth telling, unless somebody did something else.
        let is_excused = is_nothing
            && spec.mode == Mode::Server
            && (!spec.allow_empty || verdict.is_some_and(|verdict| verdict.observed == 0));
        let is_different = !is_excused
            && verdict.is_some_and(|verdict| verdict.difference_count() > 0 || !verdict.is_complete());
        report.outcome = if matches!(stopped, Some(Stop::Cancelled)) {
            ReplayOutcome::Cancelled
        } else if is_damaged {
            ReplayOutcome::Damaged
        } else if matches!(stopped, Some(Stop::Connect(_))) || was_turned_away && report.connections == 0 {
            ReplayOutcome::Unreachable
        } else if is_different {
            ReplayOutcome::Different
        } else if was_turned_away {
            ReplayOutcome::Unreachable
        } else if is_incomplete {
            ReplayOutcome::Incomplete
        } else if is_nothing && !spec.allow_empty {
            ReplayOutcome::Nothing
        } else if spec.mode == Mode::Server && !report.errors.is_empty() {
            ReplayOutcome::Incomplete
        } else if spec.max_lateness.is_some_and(|budget| report.lateness.all.max > budget) {
            ReplayOutcome::Late
        } else {
            ReplayOutcome::Passed
        };
        if let Some(metrics) = &spec.metrics {
            let verdict = report.verdict.as_deref();
            let count = |kind| verdict.and_then(|verdict| verdict.counts.get(kind)).copied().unwrap_or(0);
            let matched = verdict.map_or(0, |verdict| verdict.matched);
            metrics.replay_ended(report.outcome.name(), matched, count("missing"), count("unexpected"));
        }
        info!(outcome = %report.outcome, sent = report.sent, acked = report.acked, "replay ended");
        report
    }
}
