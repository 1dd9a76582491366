//! Mode server: plays the recorded server to live clients.
//!
//! The replay's thread keeps the time: a prompter says what is due, and the connection it is for is told. Each connection
//! is a task that hears its client, asks its part what to answer, and says what it is told.

mod figures;
mod on_miss;
mod play;
mod session;
mod stage;
mod upstream;
mod wire;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, runtime::Runtime, sync::watch, time::sleep};
use tracing::debug;

use super::{
    Ended, Phase, Remote, ReplayProgress, ReplayReport, ReplaySpec, gaps_error,
    judge::Judge,
    schedule::{SPIN, Stop, TELL_INTERVAL},
};
use crate::{
    recording::{
        Event, EventKind,
        player::{Parts, Prompter, TooLong},
    },
    session::ConnectionId,
    tap::Way,
    verification::{Identity, Judged, Scope},
};
use figures::Figures;
use play::{attend, shown};
use session::Session;
use stage::{Seat, Stage};
use wire::Wire;

pub use on_miss::OnMiss;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 10_000;
/// How long nothing may happen before it is over, where nothing is verified.
const SETTLE: Duration = Duration::from_millis(200);
/// How long those that are connected may go on when nobody comes any more.
const FINISH_MAX: Duration = Duration::from_secs(10);
/// How long they may take to end when they have to.
const ENDING_WAIT: Duration = Duration::from_secs(2);
/// Recorded clients that are named.
const NAMED: usize = 20;

/// One replay in which we are the recorded server.
pub(super) struct Serving {
    spec: ReplaySpec,
    runtime: Runtime,
    remote: Arc<Remote>,
    progress: watch::Sender<ReplayProgress>,
    report: ReplayReport,
    /// That its time was up, if it was.
    stopped: Option<String>,
    fell_short: bool,
    /// Messages that were sent and acknowledged, as told to the metrics.
    told: (u64, u64),
}

impl Serving {
    pub fn new(
        spec: ReplaySpec,
        runtime: Runtime,
        remote: Arc<Remote>,
        progress: watch::Sender<ReplayProgress>,
        report: ReplayReport,
    ) -> Self {
        Self { spec, runtime, remote, progress, report, stopped: None, fell_short: false, told: (0, 0) }
    }

    pub fn run(mut self, listener: std::net::TcpListener) -> Ended {
        let judge = self.spec.verify.as_ref().map(|spec| {
            // Parts are of the clients that are meant, by names of today.
            let scope = Scope { clients: Vec::new(), ..Scope::from(&self.spec.selection) };
            Arc::new(Judge::new(spec, Judged::FromClients, Identity::Session, scope, Instant::now()))
        });
        let stopped = self.play(listener, judge.clone()).err();
        match &stopped {
            Some(Stop::Events(error)) => self.report.errors.push(error.to_string()),
            Some(Stop::Connect(error)) => self.report.errors.push(error.to_string()),
            Some(Stop::Disconnected | Stop::Cancelled) | None => {}
        }
        if let Some(judge) = judge {
            let (verdict, too_different) = judge.finish();
            self.report.errors.extend(too_different.map(|error| error.to_string()));
            self.report.verdict = Some(Arc::new(verdict));
        }
        self.progress.send_modify(|progress| progress.phase = Phase::Ended);
        self.runtime.shutdown_background();
        Ended { fell_short: self.fell_short, ..Ended::new(self.report, stopped) }
    }

    fn play(&mut self, listener: std::net::TcpListener, judge: Option<Arc<Judge>>) -> Result<(), Stop> {
        let parts = self.read()?;
        let total = parts.connections;
        self.report.planned = parts.deliveries;
        self.report.recorded_span = parts.span;
        self.report.planned_span = self.spec.pace.speed.takes(parts.span);
        self.report.passes = 1;
        let address = listener.local_addr().ok();
        if self.spec.on_miss != OnMiss::Passthrough {
            self.report.target = "live clients".to_owned();
        }
        let way = Way { listener: address, transport: "tcp", upstream: None };
        let prompter = Prompter::new(self.spec.pace.speed, Instant::now());
        let about = (way, self.spec.on_miss, self.spec.target.clone());
        let may_be_left = self.spec.may_be_left();
        let stage = Arc::new(Stage::new(parts, prompter, judge, about, may_be_left, self.remote.clone()));
        stage.figures().lateness.tell(self.spec.metrics.as_ref());
        self.progress.send_modify(|progress| {
            (progress.phase, progress.total) = (Phase::Playing, Some(self.report.planned));
        });
        if total == 0 && !self.spec.until_finished {
            return Ok(());
        }
        let handle = self.runtime.handle().clone();
        let accepting = {
            let _inside = handle.enter();
            let listener = TcpListener::from_std(listener).map_err(|error| Stop::Events(error.into()))?;
            handle.spawn(accept(listener, stage.clone()))
        };
        let ended = self.keep_time(&stage);
        accepting.abort();
        self.progress.send_modify(|progress| progress.phase = Phase::Settling);
        stage.ending.send_replace(true);
        let patience = Instant::now() + ENDING_WAIT;
        while stage.open.load(Relaxed) > 0 && Instant::now() < patience {
            thread::park_timeout(Duration::from_millis(1));
        }
        let unreachable = stage.figures().unreachable.take();
        self.sum_up(&stage);
        ended.and(unreachable.map_or(Ok(()), |error| Err(Stop::Connect(error))))
    }

    /// The recording as parts.
    fn read(&mut self) -> Result<Parts, Stop> {
        let mut missing = 0;
        let events = (self.spec.events)().map_err(Stop::Events)?;
        let events = events.inspect(|event| {
            if let Ok(Event { kind: EventKind::Gap { events, .. }, .. }) = event {
                missing += (*events).max(1);
            }
        });
        let events = events.map(|event: Result<Event, _>| event.map_err(Stop::Events));
        let parts = Parts::read(events, &self.spec.selection, self.spec.verify.is_some())?;
        self.report.missing = missing;
        if let Some(text) = gaps_error(self.spec.gaps, missing) {
            self.report.errors.push(text);
        }
        Ok(match self.spec.names.clone() {
            Some(names) => parts.named(names),
            None => parts,
        })
    }

    /// Says when what is due, until every part has been played or it is told to end.
    fn keep_time(&mut self, stage: &Stage) -> Result<(), Stop> {
        let settle = self.spec.verify.as_ref().map_or(SETTLE, |verify| verify.settle);
        let began_at = Instant::now();
        let mut finishing_from = None;
        let mut told_at = began_at;
        loop {
            if self.remote.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            let now = Instant::now();
            for command in self.remote.take_commands() {
                command.apply(stage.prompter().timeline(), now);
            }
            let next = stage.prompt(now);
            if now >= told_at + TELL_INTERVAL {
                told_at = now;
                self.tell(stage, began_at);
            }
            let quiet = now.saturating_duration_since(stage.moved_at());
            if stage.is_through() && quiet >= settle && !self.spec.until_finished {
                return Ok(());
            }
            if self.remote.is_finishing() {
                let from = *finishing_from.get_or_insert(now);
                let is_alone = stage.open.load(Relaxed) == 0;
                let patience = if is_alone { SETTLE } else { settle.max(SETTLE) };
                // Those that came last may be accepted yet.
                let is_quiet = quiet >= patience && now >= from + SETTLE;
                if is_quiet || now >= from + FINISH_MAX {
                    return Ok(());
                }
            }
            if let Some(patience) = self.spec.patience
                && now >= began_at + patience
            {
                self.stopped = Some(format!("stopped after {patience:?}, the time it was given"));
                return Ok(());
            }
            wait(next, &self.remote);
        }
    }

    fn count(&mut self, sent: u64, acked: u64) {
        if let Some(metrics) = &self.spec.metrics {
            metrics.replayed(sent.saturating_sub(self.told.0), acked.saturating_sub(self.told.1));
            self.told = (sent.max(self.told.0), acked.max(self.told.1));
        }
    }

    fn tell(&mut self, stage: &Stage, began_at: Instant) {
        let now = Instant::now();
        let position = stage.prompter().position(now);
        let (sent, acked) = {
            let figures = stage.figures();
            (figures.sent, figures.acked)
        };
        self.count(sent, acked);
        self.progress.send_modify(|progress| {
            (progress.sent, progress.acked) = (sent, acked);
            (progress.position, progress.elapsed) = (position, now.saturating_duration_since(began_at));
        });
    }

    fn sum_up(&mut self, stage: &Stage) {
        let parts = std::mem::take(&mut *stage.parts());
        let figures = std::mem::take(&mut *stage.figures());
        self.count(figures.sent, figures.acked);
        let report = &mut self.report;
        let named = |names: BTreeSet<&str>| {
            let more = if names.len() > NAMED { " …" } else { "" };
            let names = names.into_iter().take(NAMED).map(shown).collect::<Vec<_>>().join(", ");
            format!("{names}{more}")
        };
        report.played = figures.played;
        report.unplayed = parts.len() as u64;
        report.lacking = figures.lacking;
        report.cut_short = figures.cut_short;
        report.missed = figures.missed;
        report.sent = figures.sent;
        report.bytes = figures.bytes;
        report.packets = figures.packets;
        report.acked = figures.acked;
        report.connections = figures.connections;
        report.lateness = figures.lateness.summary();
        if let (Some(first), Some(last)) = (figures.first_at, figures.last_at) {
            report.actual_span = last.saturating_duration_since(first);
        }
        report.errors.extend(figures.errors.iter().cloned());
        report.unsent += figures.unpassed;
        self.fell_short = figures.fell_short;
        let mut left = Vec::new();
        if report.unplayed > 0 {
            left.push(format!(
                "{} not made again, of {}",
                counted(report.unplayed, "recorded connection was", "recorded connections were"),
                named(parts.left().collect())
            ));
        }
        if report.lacking > 0 {
            let what = counted(
                report.lacking,
                "thing that a recorded client did was",
                "things that recorded clients did were",
            );
            left.push(format!("{what} not done again"));
        }
        if report.cut_short > 0 {
            let what = counted(
                report.cut_short,
                "recorded connection was not made to its end",
                "recorded connections were not made to their ends",
            );
            let messages = match figures.cut_messages {
                0 => String::new(),
                count => format!(": {} not sent", counted(count, "message was", "messages were")),
            };
            left.push(format!("{what}{messages}"));
        }
        match (self.stopped.take(), left.is_empty()) {
            (Some(stopped), true) => report.warnings.push(stopped),
            (Some(stopped), false) => left.insert(0, stopped),
            (None, _) => {}
        }
        let may_be_left = self.spec.may_be_left() || self.spec.allow_empty && report.played == 0;
        match may_be_left {
            true => report.warnings.extend(left),
            false => report.errors.extend(left),
        }
        let surprises = [
            figures.cast.sentence("by another name", "by other names"),
            figures.strangers.sentence(
                "a client came that is not in the recording",
                "clients came that are not in the recording",
            ),
            figures.idlers.sentence(
                "a client that is not in the recording only connected",
                "clients that are not in the recording only connected",
            ),
        ];
        report.warnings.extend(surprises.into_iter().flatten());
        let counts = [
            (
                figures.missed,
                "time a client did what is not in the recording",
                "times clients did what is not in the recording",
            ),
            (
                figures.unsaid,
                "message came too late: its client had left",
                "messages came too late: their clients had left",
            ),
            (
                figures.too_long,
                "message is longer than its client takes",
                "messages are longer than their clients take",
            ),
            (figures.unacknowledged, "message was not acknowledged", "messages were not acknowledged"),
            (figures.silent, "connection came without a CONNECT", "connections came without a CONNECT"),
        ];
        for (count, one, many) in counts.into_iter().filter(|(count, ..)| *count > 0) {
            report.warnings.push(counted(count, one, many));
        }
        report.topics = figures.topics;
        for mut part in parts.into_left() {
            stage.expect_rest(&mut part);
        }
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Sleeps until `next`, and spins for the last moment; ends early where there is something to hear or to obey.
fn wait(next: Option<Instant>, remote: &Remote) {
    let Some(next) = next else { return thread::park_timeout(TELL_INTERVAL) };
    let left = next.saturating_duration_since(Instant::now());
    match left.checked_sub(SPIN) {
        Some(sleep) => thread::park_timeout(sleep.min(TELL_INTERVAL)),
        None => {
            while Instant::now() < next && !remote.has_word() {
                std::hint::spin_loop();
            }
        }
    }
}

impl From<TooLong> for Stop {
    fn from(error: TooLong) -> Self {
        Self::Events(error.into())
    }
}

async fn accept(listener: TcpListener, stage: Arc<Stage>) {
    for number in 1.. {
        match listener.accept().await {
            Ok((stream, peer)) if stage.open.load(Relaxed) < CONNECTIONS_MAX => {
                stage.open.fetch_add(1, Relaxed);
                let stage = stage.clone();
                tokio::spawn(async move {
                    attend(&stage, stream, peer, ConnectionId(number)).await;
                    stage.open.fetch_sub(1, Relaxed);
                    stage.remote.wake();
                });
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
