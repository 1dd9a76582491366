//! One recording played to two servers at the same time, the second compared with the first.

use std::{
    panic,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::watch};

use super::{
    Ended, Remote, ReplayProgress, ReplayReport, ReplaySpec, impersonate::Impersonation, judge::Judge,
    schedule::Stop,
};
use crate::{net::MqttUrl, verification::Scope};

/// Until the first act, so that both threads are there.
const HEAD_START: Duration = Duration::from_millis(25);

/// What the second server takes.
pub(super) struct Second {
    pub target: MqttUrl,
    pub runtime: Runtime,
    pub remote: Arc<Remote>,
}

/// The same clients twice.
pub(super) struct Pair {
    first: Impersonation,
    second: Impersonation,
    targets: [String; 2],
}

impl Pair {
    pub fn new(
        spec: ReplaySpec,
        second: Second,
        runtime: Runtime,
        remote: Arc<Remote>,
        progress: watch::Sender<ReplayProgress>,
        report: ReplayReport,
    ) -> Self {
        let scope = Scope::from(&spec.selection);
        let judges = spec.verify.as_ref().map(|verify| Judge::pair(verify, scope, Instant::now()));
        let [expects, observes] = judges.map_or([None, None], |judges| judges.map(Some));
        let targets = [spec.target.to_string(), second.target.to_string()];
        let at_second = ReplaySpec { target: second.target, warnings: Vec::new(), ..spec.clone() };
        let blank = ReplayReport::blank(&at_second);
        // How far it is, the first tells for both.
        let untold = watch::channel(ReplayProgress::default()).0;
        Self {
            first: Impersonation::judged_by(expects, spec, runtime, remote, progress, report),
            second: Impersonation::judged_by(
                observes,
                at_second,
                second.runtime,
                second.remote,
                untold,
                blank,
            ),
            targets,
        }
    }

    pub fn run(self) -> Ended {
        let Self { mut first, mut second, targets } = self;
        let planned = match first.plan() {
            Ok(planned) => planned,
            Err(stop) => return first.run_planned(Err(stop), None),
        };
        (second.report.planned, second.report.missing) = (first.report.planned, first.report.missing);
        let anchor = Instant::now() + HEAD_START;
        let (one, other) = (first.remote.clone(), second.remote.clone());
        let answers = planned.clone();
        let spawned = thread::Builder::new().name("replay-second".to_owned()).spawn(move || {
            let ended = second.run_planned(Ok(answers), Some(anchor));
            if ended.stopped.is_some() {
                one.cancel();
            }
            ended
        });
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => return first.run_planned(Err(Stop::Events(error.into())), None),
        };
        // Set once, here.
        let _ = other.thread.set(thread.thread().clone());
        let ended = first.run_planned(Ok(planned), Some(anchor));
        if ended.stopped.is_some() {
            other.cancel();
        }
        match thread.join() {
            Ok(second) => ended.beside(second, targets),
            Err(panicked) => panic::resume_unwind(panicked),
        }
    }
}

impl Ended {
    /// Both as one: what was done in all, the worse lateness, and what went wrong at which.
    fn beside(self, other: Self, targets: [String; 2]) -> Self {
        let stopped = match (self.stopped, other.stopped) {
            // It was cancelled because the other could not go on.
            (None | Some(Stop::Cancelled), Some(stop)) => Some(stop),
            (stop, _) => stop,
        };
        let (mut report, second) = (self.report, other.report);
        let of = |target: &str, text: String| match text.contains(target) {
            true => text,
            false => format!("{target}: {text}"),
        };
        let both = |first: Vec<String>, second: Vec<String>| -> Vec<String> {
            let first = first.into_iter().map(|text| of(&targets[0], text));
            first.chain(second.into_iter().map(|text| of(&targets[1], text))).collect()
        };
        report.errors = both(report.errors, second.errors);
        report.warnings = both(report.warnings, second.warnings);
        report.target = targets.join(" and ");
        report.planned += second.planned;
        report.connections += second.connections;
        report.sent += second.sent;
        report.packets += second.packets;
        report.acked += second.acked;
        report.unacked += second.unacked;
        report.unsent += second.unsent;
        report.bytes += second.bytes;
        for (reason, count) in second.refused {
            *report.refused.entry(reason).or_default() += count;
        }
        report.incapable.extend(second.incapable);
        for (topic, count) in second.topics {
            let all = report.topics.entry(topic).or_default();
            all.messages += count.messages;
            all.bytes += count.bytes;
        }
        report.actual_span = report.actual_span.max(second.actual_span);
        if second.lateness.all.max > report.lateness.all.max {
            report.lateness = second.lateness;
        }
        report.verdict = report.verdict.or(second.verdict);
        report.sides = targets;
        Self {
            report,
            stopped,
            fell_short: self.fell_short || other.fell_short,
            was_turned_away: self.was_turned_away || other.was_turned_away,
        }
    }
}
