//! The thread that has recorded clients do again what they did, each at its time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::watch};

use super::{
    Command, Ended, EventsError, Phase, Remote, ReplayProgress, ReplayReport, ReplaySpec,
    cast::{Cast, Figures, Guise},
    expiry_warning, gaps_error,
    judge::Judge,
    mailbox::Mailbox,
    read_ahead::ReadAhead,
    schedule::{LEAD, SPIN, Stop, TELL_INTERVAL},
};
use crate::{
    recording::{
        Event, EventKind,
        player::{Act, Acts, Answers, Doing, Player, Poll, Priming, Repeat, Script, Speed, Step},
        replay_client,
    },
    verification::{Identity, Judged, Level, Scope},
};

/// Silences that are waited for where others talk on, until less is outstanding.
const SETTLES_MAX: u32 = 10;

/// How much of a recording is looked at behind the end of what is played.
const READ_ON: Duration = Duration::from_secs(5);

/// One replay in which our connections are the recorded clients.
pub(super) struct Impersonation {
    pub spec: ReplaySpec,
    pub runtime: Runtime,
    pub remote: Arc<Remote>,
    pub progress: watch::Sender<ReplayProgress>,
    pub report: ReplayReport,
    mailbox: Arc<Mailbox>,
    judge: Option<Arc<Judge>>,
    told_at: Instant,
    /// Messages that were sent and acknowledged, as told to the metrics.
    told: (u64, u64),
    anchor: Instant,
}

type Events = Box<dyn Iterator<Item = Result<Event, EventsError>>>;

impl Impersonation {
    pub fn new(
        spec: ReplaySpec,
        runtime: Runtime,
        remote: Arc<Remote>,
        progress: watch::Sender<ReplayProgress>,
        report: ReplayReport,
    ) -> Self {
        let now = Instant::now();
        let judge = spec.verify.as_ref().map(|verify| {
            let scope = Scope::from(&spec.selection);
            Judge::new(verify, Judged::FromServer, Identity::Session, scope, now)
        });
        Self::judged_by(judge, spec, runtime, remote, progress, report)
    }

    pub fn judged_by(
        judge: Option<Judge>,
        spec: ReplaySpec,
        runtime: Runtime,
        remote: Arc<Remote>,
        progress: watch::Sender<ReplayProgress>,
        report: ReplayReport,
    ) -> Self {
        let now = Instant::now();
        Self {
            spec,
            runtime,
            remote,
            progress,
            report,
            mailbox: Mailbox::new(),
            judge: judge.map(Arc::new),
            told_at: now,
            told: (0, 0),
            anchor: now,
        }
    }

    pub fn run(mut self) -> Ended {
        let planned = self.plan();
        self.run_planned(planned, None)
    }

    /// With what [`plan`](Self::plan) came to; the first act is due at `anchor`, if that is said.
    pub fn run_planned(mut self, planned: Result<Answers, Stop>, anchor: Option<Instant>) -> Ended {
        let (mut figures, stopped) = match planned {
            Ok(answers) => {
                let mut cast = self.cast(answers);
                let stopped = self.play(&mut cast, anchor).err();
                cast.dismiss();
                (cast.figures, stopped)
            }
            Err(stop) => (Figures::default(), Some(stop)),
        };
        match &stopped {
            Some(Stop::Events(error)) => figures.error(error.to_string()),
            Some(Stop::Connect(error)) => {
                let text = error.to_string();
                // It may have been said already, and of whom.
                if !figures.errors.iter().any(|said| said.ends_with(&text)) {
                    figures.error(text);
                }
            }
            Some(Stop::Disconnected | Stop::Cancelled) | None => {}
        }
        let fell_short = figures.fell_short;
        let was_turned_away = figures.refusal.is_some();
        self.tell(Phase::Ended, &figures);
        self.sum_up(figures);
        self.runtime.shutdown_background();
        Ended { report: self.report, stopped, fell_short, was_turned_away }
    }

    fn cast(&self, answers: Answers) -> Cast {
        let guise = Guise { target: self.spec.target.clone(), scale_intervals: self.scale() };
        let name = replay_client(&self.report.run, 0);
        let runtime = self.runtime.handle().clone();
        let mut cast = Cast::new(guise, name, runtime, self.mailbox.clone(), self.judge.clone(), answers);
        cast.figures.lateness.tell(self.spec.metrics.as_ref());
        if self.spec.selection.is_of_all_clients_and_topics() { cast } else { cast.of_a_part() }
    }

    fn scale(&self) -> Option<f64> {
        match self.spec.pace.speed {
            Speed::Factor(factor) if self.spec.scale_intervals => Some(factor),
            _ => None,
        }
    }

    fn play(&mut self, cast: &mut Cast, anchor: Option<Instant>) -> Result<(), Stop> {
        let events = self.events()?;
        self.anchor = anchor.unwrap_or_else(|| Instant::now() + LEAD);
        let acts = Acts::new(self.spec.selection.clone(), self.spec.causality, self.judge.is_some());
        let mut player = Player::new(events, acts, &self.spec.pace, self.anchor);
        self.report.passes = 1;
        self.tell(Phase::Playing, &cast.figures);
        let mut was_priming = false;
        loop {
            cast.hear();
            self.check(cast)?;
            let now = Instant::now();
            let look_at = cast.look(now);
            self.obey(cast, &mut player, now)?;
            if cast.is_priming() {
                was_priming = true;
                self.wait(cast, look_at);
                continue;
            }
            if std::mem::take(&mut was_priming) {
                player.go_on(Instant::now() + LEAD);
            }
            if cast.is_full() || self.judge.as_ref().is_some_and(|judge| judge.is_far_ahead(now)) {
                self.wait(cast, look_at);
                continue;
            }
            match player.poll(now).map_err(Stop::Events)? {
                Poll::Due(step) => self.perform(cast, step),
                Poll::Wait(deadline) => self.wait(cast, deadline.min(look_at)),
                Poll::Paused => self.wait(cast, look_at),
                Poll::Rewind => {
                    self.read_on(&mut player)?;
                    self.settle(cast)?;
                    cast.dismiss();
                    player.rewind(self.events()?);
                    self.report.passes += 1;
                    player.begin_pass(Instant::now() + LEAD);
                }
                Poll::Done => break,
            }
            if now >= self.told_at + TELL_INTERVAL {
                self.tell(Phase::Playing, &cast.figures);
            }
        }
        self.read_on(&mut player)?;
        self.report.planned_span = player.planned_span();
        self.report.skipped = player.skipped().clone();
        self.settle(cast)
    }

    /// What was answered and delivered behind the end may come now, too.
    fn read_on(&self, player: &mut Player<Events, Acts>) -> Result<(), Stop> {
        let end = self.spec.selection.end();
        match end {
            Duration::MAX => Ok(()),
            _ if self.judge.is_none() => Ok(()),
            end => player.read_on(end + READ_ON).map_err(Stop::Events),
        }
    }

    /// Whether there is any use in going on.
    fn check(&self, cast: &mut Cast) -> Result<(), Stop> {
        if let Some(error) = cast.figures.unreachable.take() {
            return Err(Stop::Connect(error));
        }
        if self.remote.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        // Where answers are compared, this is one.
        let judges_answers = self.spec.verify.as_ref().is_some_and(|verify| verify.level == Level::Packets);
        match &cast.figures.refusal {
            Some(error) if cast.figures.connections == 0 && !judges_answers => {
                Err(Stop::Connect(error.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Reads the recording once, to know how much there is.
    pub fn plan(&mut self) -> Result<Answers, Stop> {
        let acts = Acts::new(self.spec.selection.clone(), self.spec.causality, false);
        let mut acts = acts.noting_answers();
        let end = acts.end();
        let (mut messages, mut missing, mut span) = (0, 0, (None, Duration::ZERO));
        let (mut has_expiry, mut last_at) = (false, Duration::ZERO);
        for event in (self.spec.events)().map_err(Stop::Events)? {
            if self.remote.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            let event = event.map_err(Stop::Events)?;
            if event.at >= end {
                break;
            }
            last_at = event.at;
            if let EventKind::Gap { events, .. } = event.kind {
                missing += events.max(1);
            }
            acts.before(&event);
            if let Some(act) = acts.take(&event) {
                span = (span.0.or(Some(event.at)), event.at);
                messages += u64::from(act.is_message());
                has_expiry |= act.doing.has_expiry();
            }
        }
        let has_expiry = has_expiry && !self.spec.scale_intervals;
        self.report.warnings.extend(expiry_warning(has_expiry, self.spec.mode, self.spec.pace.speed));
        self.report.planned = messages;
        self.report.missing = missing;
        self.report.recorded_span = span.1.saturating_sub(span.0.unwrap_or_default());
        if let Some(text) = gaps_error(self.spec.gaps, missing) {
            self.report.errors.push(text);
        }
        let passes = match self.spec.pace.repeat {
            Repeat::Times(times) => Some(u64::from(times)),
            Repeat::Forever => None,
        };
        let pace = &self.spec.pace;
        let is_plain = pace.max_gap.is_none() && pace.rate.is_none();
        let span = pace.speed.takes(self.report.recorded_span);
        self.progress.send_modify(|progress| {
            progress.total = passes.map(|passes| messages * passes);
            progress.planned_span =
                passes.filter(|_| is_plain).map(|passes| span.saturating_mul(passes as u32));
            progress.end = Some(last_at);
        });
        Ok(acts.into_answers())
    }

    /// What is read is expected.
    fn events(&self) -> Result<Events, Stop> {
        let events = (self.spec.events)().map_err(Stop::Events)?;
        let events = ReadAhead::new(events).map_err(|error| Stop::Events(error.into()))?;
        events.fill();
        // What comes before the start may be long.
        let remote = self.remote.clone();
        let events = events.take_while(move |_| !remote.is_cancelled());
        Ok(match self.judge.clone() {
            Some(judge) => Box::new(events.inspect(move |event| {
                if let Ok(event) = event {
                    judge.expect(event);
                }
            })),
            None => Box::new(events),
        })
    }

    fn obey(&mut self, cast: &mut Cast, player: &mut Player<Events, Acts>, now: Instant) -> Result<(), Stop> {
        for command in self.remote.take_commands() {
            match command {
                Command::Seek(to) => {
                    let to = self.spec.selection.clamp(to);
                    // What is left out need not be done.
                    cast.forget();
                    cast.figures.position = to;
                    player.seek(self.events()?, to, now);
                }
                command => command.apply(player.timeline(), now),
            }
        }
        Ok(())
    }

    fn perform(&mut self, cast: &mut Cast, step: Step<Act>) {
        match step.item.doing {
            Doing::Prime(priming) => {
                cast.figures.position = step.at;
                cast.prime(*priming);
            }
            Doing::Retain(publish) => {
                let retained = vec![*publish];
                cast.prime(Priming { retained, ..Priming::default() });
            }
            _ => cast.perform(step.connection, step.seq, step.at, step.deadline, step.item),
        }
    }

    /// Sleeps, and spins for the last moment; ends early where there is something to hear or to obey.
    fn wait(&mut self, cast: &Cast, until: Instant) {
        while !self.mailbox.has_mail() && !self.remote.has_word() {
            let now = Instant::now();
            if now >= self.told_at + TELL_INTERVAL {
                self.tell(Phase::Playing, &cast.figures);
            }
            let left = until.saturating_duration_since(now);
            match left.checked_sub(SPIN) {
                _ if left.is_zero() => return,
                Some(sleep) => thread::park_timeout(sleep),
                None => std::hint::spin_loop(),
            }
        }
    }

    /// Waits for answers, each as long as it may take, and for what is expected.
    fn settle(&mut self, cast: &mut Cast) -> Result<(), Stop> {
        self.tell(Phase::Settling, &cast.figures);
        cast.settle();
        let began_at = Instant::now();
        let settle = self.spec.verify.as_ref().map_or(Duration::ZERO, |verify| verify.settle);
        let (mut least, mut fell_at) = (u64::MAX, began_at);
        loop {
            cast.hear();
            self.check(cast)?;
            let now = Instant::now();
            let look_at = cast.look(now);
            if cast.is_idle() {
                // What is too many comes late, too.
                match self.judge.as_ref().map(|judge| judge.outstanding()) {
                    None => return Ok(()),
                    Some((_, heard_at)) if now >= heard_at.max(began_at) + settle => return Ok(()),
                    Some((outstanding, _)) if outstanding < least => (least, fell_at) = (outstanding, now),
                    // What is heard is something else.
                    Some(_) if now >= fell_at + settle * SETTLES_MAX => return Ok(()),
                    Some(_) => {}
                }
            }
            if now >= self.told_at + TELL_INTERVAL {
                self.tell(Phase::Settling, &cast.figures);
            }
            thread::park_timeout(look_at.saturating_duration_since(now).min(Duration::from_millis(10)));
        }
    }

    fn sum_up(&mut self, figures: Figures) {
        let report = &mut self.report;
        report.sent = figures.sent;
        report.packets = figures.packets;
        report.bytes = figures.bytes;
        report.acked = figures.acked;
        report.unacked = figures.lost;
        report.unsent = figures.unsent;
        report.refused = figures.refused;
        report.connections = figures.connections;
        report.incapable = figures.incapable.into_iter().collect();
        report.topics = figures.topics;
        report.lateness = figures.lateness.summary();
        report.errors.extend(figures.errors);
        report.errors.extend(report.shortfalls());
        report.warnings.extend(figures.warnings);
        if let (Some(first), Some(last)) = (figures.first_at, figures.last_at) {
            report.actual_span = last.saturating_duration_since(first);
        }
        if let Some((verdict, too_different)) = self.judge.as_ref().and_then(|judge| judge.finish_last()) {
            report.errors.extend(too_different.map(|error| error.to_string()));
            report.verdict = Some(Arc::new(verdict));
        }
    }

    fn tell(&mut self, phase: Phase, figures: &Figures) {
        let now = Instant::now();
        self.told_at = now;
        let (sent, acked, position) = (figures.sent, figures.acked, figures.position);
        if let Some(metrics) = &self.spec.metrics {
            // A message that turned out not to have left was told already.
            metrics.replayed(sent.saturating_sub(self.told.0), acked - self.told.1);
            self.told = (sent.max(self.told.0), acked);
        }
        let elapsed = match phase {
            Phase::Planning | Phase::Connecting => Duration::ZERO,
            Phase::Playing | Phase::Settling | Phase::Ended => now.saturating_duration_since(self.anchor),
        };
        self.progress.send_modify(|progress| {
            (progress.phase, progress.sent, progress.acked) = (phase, sent, acked);
            (progress.position, progress.elapsed) = (position, elapsed);
        });
    }
}
