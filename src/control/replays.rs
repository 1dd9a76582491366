//! The rpcs of `Replays`: playing recordings again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream;
use tokio::sync::watch;

use super::{
    Control, ControlError, ControlStream, blocking,
    casting::Casting,
    fields::Fields,
    page::PageRequest,
    pb, time,
    verification::{checked_verification, shown_verdict},
};
use crate::{
    event::What,
    net::{
        MqttUrl,
        replay::{
            self, EventSource, EventsError, Mode, OnMiss, Phase, Quantiles, ReplayHandle, ReplayOutcome,
            ReplayReport, ReplaySpec, VerifySpec, expiry_warning, gaps_error,
        },
    },
    recording::{
        NamePattern, RecordingInfo, RecordingState,
        player::{Causality, Pace, Repeat, Selection, Speed, plan, plan_acts, plan_parts},
    },
    store::Store,
    telemetry::{ActiveSpan, SpanKind, current_context},
};

/// Replays that may run at once: each has threads of its own.
const RUNNING_MAX: usize = 32;
/// Replays that ended and are remembered.
const ENDED_MAX: usize = 100;
/// Topics of a report or a plan.
const TOPICS_MAX: usize = 1000;
const ERRORS_MAX: usize = 100;
/// The least time between two snapshots that a watcher is sent.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The replays of this process, by id and so in the order they were created.
#[derive(Default)]
pub struct ReplayList {
    by_id: Mutex<BTreeMap<String, Arc<Running>>>,
}

/// A replay, running or ended.
pub(super) struct Running {
    pub id: String,
    pub spec: pb::ReplaySpec,
    recording_id: String,
    recording_name: String,
    created_at: SystemTime,
    pub handle: ReplayHandle,
    /// What it was told last.
    course: Mutex<Course>,
    /// When it ended, and whether its thread failed instead of reporting.
    ended: OnceLock<(SystemTime, bool)>,
    /// Raised when `ended` is set.
    has_ended: watch::Sender<bool>,
}

/// How a replay was told to go.
#[derive(Clone, Copy)]
pub(super) struct Course {
    pub is_paused: bool,
    pub speed: Speed,
}

/// What is played: a recording of the store, or a file.
pub struct ReplaySource {
    /// Empty if it is not of the store.
    pub id: String,
    pub name: String,
    pub events: EventSource,
    /// As in [`Selection`].
    pub deliveries: bool,
    /// How many gaps the recording is known to have.
    pub gaps: u64,
    /// How it ended, if that is known.
    pub state: Option<RecordingState>,
    /// The wall clock at its beginning, if that is known.
    pub started_at: Option<jiff::Timestamp>,
    /// Of mode server: it goes on until it is told to finish, though all was played.
    pub until_finished: bool,
    /// The same: whether all that recorded clients did has to be done again.
    pub is_strict: bool,
}

impl ReplaySource {
    pub(super) fn stored(info: RecordingInfo, store: Store) -> Self {
        Self {
            events: stored_events(store, info.id.clone()),
            deliveries: info.source.is_subscriber(),
            gaps: info.gaps,
            state: Some(info.state),
            started_at: Some(info.started_at),
            until_finished: false,
            is_strict: true,
            id: info.id,
            name: info.name,
        }
    }

    fn warnings(&self) -> Vec<String> {
        let text = match self.state {
            Some(RecordingState::Interrupted) => "the recording was interrupted: its end is missing",
            Some(RecordingState::Failed) => "recording failed in the middle: the recording's end is missing",
            Some(RecordingState::Recording | RecordingState::Complete) | None => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

/// A spec that was checked.
struct CheckedReplay {
    /// As it is shown: defaults filled in, without the password.
    spec: pb::ReplaySpec,
    target: MqttUrl,
    other_target: Option<MqttUrl>,
    selection: Selection,
    pace: Pace,
    max_lateness: Option<Duration>,
    copies: Casting,
    mode: Mode,
    causality: Causality,
    listen: SocketAddr,
    on_miss: OnMiss,
    patience: Option<Duration>,
    verify: Option<VerifySpec>,
}

impl CheckedReplay {
    /// Learns what it needs of the events. Blocks.
    fn prepare(&mut self, events: &EventSource) -> Result<(), ControlError> {
        // What clients send does not depend on other copies.
        let is_compared = self.verify.is_some() && self.mode == Mode::Client;
        self.copies.prepare(events, &mut self.selection, self.mode, is_compared)
    }
}

impl ReplayList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        // A map is whole between any two calls.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn find(&self, id: &str) -> Result<Arc<Running>, ControlError> {
        let found = self.lock().get(&id.to_ascii_uppercase()).cloned();
        found.ok_or_else(|| ControlError::ReplayNotFound { id: id.to_owned() })
    }
}

impl Control {
    pub async fn create_replay(&self, request: pb::CreateReplayRequest) -> Result<pb::Replay, ControlError> {
        let spec = request.spec.ok_or_else(|| ControlError::bad_field("spec", "is required"))?;
        let source = self.stored_source(&spec).await?;
        self.replay_source(spec, source).await
    }

    pub async fn get_replay(&self, request: pb::GetReplayRequest) -> Result<pb::Replay, ControlError> {
        Ok(self.inner.replays.find(&request.id)?.shown())
    }

    pub async fn list_replays(
        &self,
        request: pb::ListReplaysRequest,
    ) -> Result<pb::ListReplaysResponse, ControlError> {
        let mut fields = Fields::new();
        let states: Vec<pb::ReplayState> = fields.choices("states", &request.states);
        fields.finish()?;
        let page = PageRequest::new("replays", request.page_size, &request.page_token)?;
        let mut replays: Vec<_> = self.inner.replays.lock().values().map(|replay| replay.shown()).collect();
        replays.retain(|replay| states.is_empty() || states.contains(&replay.state()));
        let page = page.cut(replays, |replay| replay.id.clone(), |replay| replay);
        Ok(pb::ListReplaysResponse {
            replays: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn watch_replay(
        &self,
        request: pb::WatchReplayRequest,
    ) -> Result<ControlStream<pb::Replay>, ControlError> {
        let replay = self.inner.replays.find(&request.id)?;
        // Not `until_stopped`: a replay that the stop cancels is watched to its end.
        Ok(Box::pin(stream::unfold(Some(Watching::new(replay)), |watching| async move {
            let mut watching = watching?;
            let (shown, is_last) = watching.next().await;
            Some((Ok(shown), (!is_last).then_some(watching)))
        })))
    }

    pub async fn cancel_replay(&self, request: pb::CancelReplayRequest) -> Result<pb::Replay, ControlError> {
        let replay = self.inner.replays.find(&request.id)?;
        replay.handle.cancel();
        replay.until_ended().await;
        Ok(replay.shown())
    }

    /// Ends a replay of mode server whose clients are done: answers when it was judged. No rpc: whoever runs the clients does it.
    ///
    /// # Errors
    /// `ReplayNotFound`.
    pub async fn finish_replay(&self, id: &str) -> Result<pb::Replay, ControlError> {
        let replay = self.inner.replays.find(id)?;
        replay.handle.finish();
        replay.until_ended().await;
        Ok(replay.shown())
    }

    /// The report of a replay that has ended, with the name of its recording.
    pub(super) fn replay_report(&self, id: &str) -> Result<(String, Arc<ReplayReport>), ControlError> {
        let replay = self.inner.replays.find(id)?;
        let report = replay.handle.report().filter(|_| replay.ended.get().is_some());
        let report = report.ok_or_else(|| ControlError::ReplayRunning { id: replay.id.clone() })?;
        Ok((replay.recording_name.clone(), report))
    }

    pub async fn plan_replay(&self, request: pb::PlanReplayRequest) -> Result<pb::ReplayPlan, ControlError> {
        let spec = request.spec.ok_or_else(|| ControlError::bad_field("spec", "is required"))?;
        let source = self.stored_source(&spec).await?;
        self.plan_source(spec, source).await
    }

    /// Plans a replay of `source`, whatever recording the spec names.
    ///
    /// # Errors
    /// As `PlanReplay`.
    pub async fn plan_source(
        &self,
        spec: pb::ReplaySpec,
        source: ReplaySource,
    ) -> Result<pb::ReplayPlan, ControlError> {
        let mut checked = self.checked(spec, &source, Target::Unneeded)?;
        blocking(move || {
            checked.prepare(&source.events)?;
            planned(&source, checked)
        })
        .await
    }

    /// The replay as it is now.
    pub(super) fn replay(&self, id: &str) -> Option<pb::Replay> {
        Some(self.inner.replays.find(id).ok()?.shown())
    }

    /// Cancels all that run, and waits for their end.
    pub(super) async fn cancel_replays(&self) {
        let replays: Vec<_> = self.inner.replays.lock().values().cloned().collect();
        for replay in &replays {
            replay.handle.cancel();
        }
        for replay in replays {
            replay.until_ended().await;
        }
    }

    async fn stored_source(&self, spec: &pb::ReplaySpec) -> Result<ReplaySource, ControlError> {
        let info = self.find_recording_at("spec.recording", &spec.recording).await?;
        // What is played is read more than once, and has to be the same each time.
        if info.state == RecordingState::Recording {
            return Err(ControlError::RecordingActive { name: info.name });
        }
        self.with_store(move |store| Ok(ReplaySource::stored(info, store.clone()))).await
    }

    /// Replays `source`, whatever recording the spec names.
    ///
    /// # Errors
    /// As `CreateReplay`.
    pub async fn replay_source(
        &self,
        spec: pb::ReplaySpec,
        source: ReplaySource,
    ) -> Result<pb::Replay, ControlError> {
        let mut checked = self.checked(spec, &source, Target::Required)?;
        let events = source.events.clone();
        let checked = blocking(move || checked.prepare(&events).map(|()| checked)).await?;
        let mut replays = self.inner.replays.lock();
        let running = replays.values().filter(|replay| replay.ended.get().is_none()).count();
        if running >= RUNNING_MAX {
            return Err(ControlError::TooManyReplays { limit: RUNNING_MAX });
        }
        let warnings = source.warnings();
        let course = Course { is_paused: checked.spec.start_paused, speed: checked.pace.speed };
        let handle = replay::start(ReplaySpec {
            run: checked.copies.run.clone(),
            gaps: source.gaps,
            warnings,
            events: checked.copies.apply_to(source.events, checked.mode),
            target: checked.target,
            other_target: checked.other_target,
            selection: checked.selection,
            pace: checked.pace,
            as_one: checked.spec.as_one,
            mode: checked.mode,
            start_paused: checked.spec.start_paused,
            causality: checked.causality,
            scale_intervals: checked.spec.scale_intervals,
            listen: checked.listen,
            on_miss: checked.on_miss,
            names: checked.copies.names(checked.mode),
            patience: checked.patience,
            verify: checked.verify,
            max_lateness: checked.max_lateness,
            allow_empty: checked.spec.allow_empty,
            until_finished: source.until_finished,
            is_strict: source.is_strict,
            metrics: Some(self.metrics().clone()),
        })
        .map_err(|error| match checked.mode {
            Mode::Server => ControlError::bad_field("spec.listen", format!("{}: {error}", checked.listen)),
            Mode::Publish | Mode::Client => {
                ControlError::Internal(format!("no thread for a replay: {error}"))
            }
        })?;
        let replay = Arc::new(Running {
            id: ulid::Ulid::new().to_string(),
            course: Mutex::new(course),
            spec: checked.spec,
            recording_id: source.id,
            recording_name: source.name,
            created_at: SystemTime::now(),
            handle,
            ended: OnceLock::new(),
            has_ended: watch::Sender::new(false),
        });
        tracing::info!(id = %replay.id, recording = %replay.recording_name, "replay created");
        replays.insert(replay.id.clone(), replay.clone());
        drop(replays);
        let mut span = self.telemetry().span("replay", SpanKind::Internal, current_context());
        if let Some(span) = &mut span {
            span.set_text("mockforge.replay.id", &replay.id);
            span.set_text("mockforge.recording.name", &replay.recording_name);
        }
        tokio::spawn(self.clone().follow_replay(replay.clone(), span));
        Ok(replay.shown())
    }

    /// Tells watchers of the replay's states, and forgets the oldest ones when it has ended.
    async fn follow_replay(self, replay: Arc<Running>, mut span: Option<ActiveSpan>) {
        let events = &self.parts().events;
        events.emit(What::Replay(replay.id.clone()));
        let mut progress = replay.handle.progress();
        let playing = |progress: &replay::ReplayProgress| is_playing(progress.phase);
        if progress.wait_for(playing).await.is_ok_and(|progress| progress.phase != Phase::Ended) {
            events.emit(What::Replay(replay.id.clone()));
        }
        let handle = replay.handle.clone();
        // A task of its own, because waiting panics when the replay's thread did.
        let failed = tokio::spawn(async move { handle.wait().await }).await.is_err();
        // Set here alone.
        let _ = replay.ended.set((SystemTime::now(), failed));
        replay.has_ended.send_replace(true);
        if let Some(span) = &mut span {
            match replay.handle.report() {
                Some(report) => {
                    span.set("mockforge.replay.outcome", report.outcome.name());
                    span.set("mockforge.replay.sent", report.sent.cast_signed());
                }
                None => span.fail("the replay failed inside"),
            }
        }
        drop(span);
        match replay.handle.report() {
            Some(report) => tracing::info!(id = %replay.id, verdict = %report.outcome, "replay ended"),
            None => tracing::error!(id = %replay.id, "the replay failed inside"),
        }
        events.emit(What::Replay(replay.id.clone()));

        let mut replays = self.inner.replays.lock();
        let ended: Vec<_> = replays.values().filter(|one| one.ended.get().is_some()).cloned().collect();
        for old in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            replays.remove(&old.id);
        }
    }

    fn checked(
        &self,
        mut spec: pb::ReplaySpec,
        source: &ReplaySource,
        target: Target,
    ) -> Result<CheckedReplay, ControlError> {
        let mut fields = Fields::new();
        let needs_none = spec.mode == i32::from(pb::ReplayMode::Server)
            && spec.on_miss != i32::from(pb::ReplayOnMiss::Passthrough);
        let target = if needs_none { Target::Unneeded } else { target };
        let target = self.checked_target(&mut fields, &spec, target);
        let other_target = self.checked_other_target(&mut fields, &spec, target.as_ref());
        if !spec.other_target.is_empty() {
            spec.verify.get_or_insert_default();
        }
        let mode = match fields.choice("spec.mode", spec.mode) {
            Some(pb::ReplayMode::Client) => Mode::Client,
            Some(pb::ReplayMode::Server) => Mode::Server,
            _ => Mode::Publish,
        };
        let causality = match fields.choice("spec.causality", spec.causality) {
            Some(pb::ReplayCausality::None) => Causality::None,
            Some(pb::ReplayCausality::Global) => Causality::Global,
            _ => Causality::Session,
        };
        let verify = checked_verification(&mut fields, spec.verify.as_ref());
        if mode == Mode::Publish && verify.is_some() {
            fields.refuse("spec.verify", "needs mode client: publishing alone receives nothing to compare");
        }
        refuse_misplaced(&mut fields, &spec, mode);
        let on_miss = match fields.choice("spec.on_miss", spec.on_miss) {
            Some(pb::ReplayOnMiss::Fail) => OnMiss::Fail,
            Some(pb::ReplayOnMiss::Passthrough) => OnMiss::Passthrough,
            Some(pb::ReplayOnMiss::Disconnect) => OnMiss::Disconnect,
            _ => OnMiss::Ignore,
        };
        let listen = match &*spec.listen {
            "" => Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            text => fields.keep("spec.listen", text.parse::<SocketAddr>()),
        };
        let patience = fields.duration("spec.timeout", spec.timeout.as_ref());
        let pace = checked_pace(&mut fields, &spec);
        let copies = Casting::checked(&mut fields, &mut spec, pace.speed, source.started_at);
        let selection = spec.selection.clone().unwrap_or_default();
        let selection =
            Selection { deliveries: source.deliveries, ..checked_selection(&mut fields, &selection) };
        let max_lateness = fields.duration("spec.max_lateness", spec.max_lateness.as_ref());
        if max_lateness.is_some() && pace.speed == Speed::Max && pace.rate.is_none() {
            fields.refuse("spec.max_lateness", "needs a speed or a rate: without waiting nothing has a time");
        }
        fields.finish()?;
        let (target, listen) = target.zip(listen).ok_or_else(super::broker::unchecked)?;
        spec.mode = match mode {
            Mode::Publish => pb::ReplayMode::Publish,
            Mode::Client => pb::ReplayMode::Client,
            Mode::Server => pb::ReplayMode::Server,
        }
        .into();
        spec.speed = Some(factor(pace.speed));
        spec.loops.get_or_insert(1);
        spec.target = if needs_none { String::new() } else { target.to_string() };
        spec.other_target = other_target.as_ref().map(MqttUrl::to_string).unwrap_or_default();
        spec.password = None;
        Ok(CheckedReplay {
            spec,
            target,
            other_target,
            selection,
            pace,
            max_lateness,
            copies,
            mode,
            causality,
            listen,
            on_miss,
            patience,
            verify,
        })
    }

    fn checked_target(&self, fields: &mut Fields, spec: &pb::ReplaySpec, wanted: Target) -> Option<MqttUrl> {
        let text = match (spec.target.as_str(), self.parts().addresses.mqtt) {
            ("", Some(own)) => MqttUrl::of_listener(own).to_string(),
            ("", None) if wanted == Target::Unneeded => "mqtt://localhost".to_owned(),
            ("", None) => {
                fields.refuse("spec.target", "is required: no MQTT server runs in this process");
                return None;
            }
            (target, _) => target.to_owned(),
        };
        let url = self.broker_url(fields, "spec.target", &text)?;
        Some(with_credentials(url, spec))
    }

    fn checked_other_target(
        &self,
        fields: &mut Fields,
        spec: &pb::ReplaySpec,
        target: Option<&MqttUrl>,
    ) -> Option<MqttUrl> {
        if spec.other_target.is_empty() {
            return None;
        }
        let url = self.broker_url(fields, "spec.other_target", &spec.other_target)?;
        if target.is_some_and(|target| (&target.host, target.port) == (&url.host, url.port)) {
            fields.refuse("spec.other_target", "is another than target: clients of one name end each other");
        }
        Some(with_credentials(url, spec))
    }
}

fn with_credentials(mut url: MqttUrl, spec: &pb::ReplaySpec) -> MqttUrl {
    if spec.username.is_some() {
        (url.username, url.password) = (spec.username.clone(), None);
    }
    if spec.password.is_some() {
        url.password = spec.password.clone();
    }
    url
}

/// Whether a replay has to say where to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Required,
    Unneeded,
}

/// What means nothing in the mode is not taken, so that nobody believes it does.
fn refuse_misplaced(fields: &mut Fields, spec: &pb::ReplaySpec, mode: Mode) {
    let start = spec.selection.as_ref().is_some_and(|selection| selection.start.is_some());
    let copies = spec.multiply > 1;
    let asks_target = mode != Mode::Server || spec.on_miss() == pb::ReplayOnMiss::Passthrough;
    let (publish, client, server) = (mode == Mode::Publish, mode == Mode::Client, mode == Mode::Server);
    for (name, is_given, has_meaning, what) in [
        ("as_one", spec.as_one, publish, "is for mode publish"),
        ("causality", spec.causality != 0, client, "is for mode client"),
        ("scale_intervals", spec.scale_intervals, client, "is for mode client"),
        ("other_target", !spec.other_target.is_empty(), client, "is for mode client"),
        ("listen", !spec.listen.is_empty(), server, "is for mode server"),
        ("on_miss", spec.on_miss != 0, server, "is for mode server"),
        ("timeout", spec.timeout.is_some(), server, "is for mode server"),
        (
            "target",
            !spec.target.is_empty(),
            asks_target,
            "is asked in mode server only with on_miss PASSTHROUGH",
        ),
        ("username", spec.username.is_some(), asks_target, "is for the target, which is not asked"),
        ("password", spec.password.is_some(), asks_target, "is for the target, which is not asked"),
        ("max_gap", spec.max_gap.is_some(), !server, "is not for mode server: clients set the pace"),
        ("rate", spec.rate != 0.0, !server, "is not for mode server: clients set the pace"),
        (
            "loops",
            spec.loops.is_some_and(|loops| loops != 1),
            !server,
            "is not for mode server: clients come once",
        ),
        ("selection.start", start, !server, "is not for mode server: clients begin at the beginning"),
        (
            "max_lateness",
            spec.max_lateness.is_some(),
            !server,
            "is not for mode server: clients set the pace",
        ),
        ("spread", spec.spread.is_some(), copies, "is for copies, with multiply"),
        ("seed", spec.seed.is_some(), copies, "is for copies, with multiply"),
        (
            "map_client",
            !spec.map_client.is_empty(),
            !publish || copies,
            "is for modes client and server, and for copies: publishing goes over connections of its own",
        ),
    ] {
        if is_given && !has_meaning {
            fields.refuse(format!("spec.{name}"), what);
        }
    }
}

fn checked_pace(fields: &mut Fields, spec: &pb::ReplaySpec) -> Pace {
    let speed = checked_speed(fields, "spec.speed", spec.speed);
    if !(spec.rate.is_finite() && spec.rate >= 0.0) {
        fields.refuse("spec.rate", format_args!("is 0 or more messages a second, not {}", spec.rate));
    }
    Pace {
        speed,
        max_gap: fields.duration("spec.max_gap", spec.max_gap.as_ref()),
        rate: (spec.rate > 0.0).then_some(spec.rate),
        repeat: match spec.loops {
            None => Repeat::Times(1),
            Some(0) => Repeat::Forever,
            Some(times) => Repeat::Times(times),
        },
    }
}

pub(super) fn checked_speed(fields: &mut Fields, path: &str, speed: Option<f64>) -> Speed {
    match speed {
        None => Speed::Factor(1.0),
        Some(0.0) => Speed::Max,
        Some(factor) if (0.001..=1000.0).contains(&factor) => Speed::Factor(factor),
        Some(factor) => {
            fields.refuse(path, format_args!("is from 0.001 to 1000, or 0 for no waiting, not {factor}"));
            Speed::Max
        }
    }
}

fn checked_selection(fields: &mut Fields, selection: &pb::ReplaySelection) -> Selection {
    let path = |name: &str| format!("spec.selection.{name}");
    let start = fields.duration(&path("start"), selection.start.as_ref());
    let until = fields.duration(&path("until"), selection.until.as_ref());
    if let (Some(start), Some(until)) = (start, until)
        && until <= start
    {
        fields.refuse(path("until"), "is later than start");
    }
    Selection {
        topics: fields.filters(&path("topics"), &selection.topics),
        exclude_topics: fields.filters(&path("exclude_topics"), &selection.exclude_topics),
        clients: selection.clients.iter().map(|text| NamePattern::new(text.as_str())).collect(),
        start,
        until,
        duration: fields.duration(&path("duration"), selection.duration.as_ref()),
        deliveries: false,
        renamed: None,
    }
}

fn stored_events(store: Store, id: String) -> EventSource {
    Arc::new(move || {
        let events = store.events(&id, 1)?;
        Ok(Box::new(events.map(|event| event.map_err(EventsError::from))) as _)
    })
}

fn planned(source: &ReplaySource, checked: CheckedReplay) -> Result<pb::ReplayPlan, ControlError> {
    let CheckedReplay { spec, selection, pace, copies, mode, .. } = checked;
    let unreadable = |error: EventsError| ControlError::RecordingDamaged(error.to_string());
    let (speed, now) = (pace.speed, Instant::now());
    let events = copies.apply_to(source.events.clone(), mode)().map_err(unreadable)?;
    let plan = match mode {
        Mode::Publish => plan(events, selection, pace, now),
        Mode::Client => plan_acts(events, selection, pace, now),
        Mode::Server => plan_parts(events, &selection, speed),
    }
    .map_err(unreadable)?;
    let connections = match mode {
        Mode::Publish => plan.connections(spec.as_one) as u64,
        Mode::Client | Mode::Server => plan.counts.get("connect").copied().unwrap_or_default(),
    };
    let is_nothing = if mode == Mode::Publish { plan.messages == 0 } else { connections == 0 };
    let errors: Vec<_> = gaps_error(source.gaps, plan.missing).into_iter().collect();
    let mut warnings = source.warnings();
    warnings.extend(plan.left_out_warning());
    warnings.extend(expiry_warning(plan.has_expiry && !spec.scale_intervals, mode, speed));
    // As the replay would end, if all goes well.
    let outcome = if !errors.is_empty() {
        ReplayOutcome::Damaged
    } else if is_nothing && !spec.allow_empty {
        ReplayOutcome::Nothing
    } else {
        ReplayOutcome::Passed
    };
    Ok(pb::ReplayPlan {
        messages: plan.messages,
        bytes: plan.payload_bytes,
        connections,
        topics: most_first(plan.topics),
        span_recorded: Some(time::duration(plan.recorded_span)),
        span_planned: Some(time::duration(plan.planned_span)),
        errors,
        warnings,
        verdict: self::outcome(&outcome).1.into(),
        exit_code: outcome.exit_code().into(),
        counts: plan.counts.into_iter().map(|(what, count)| (what.to_owned(), count)).collect(),
    })
}

/// Who is told how a replay goes.
pub(super) struct Watching {
    pub replay: Arc<Running>,
    progress: watch::Receiver<replay::ReplayProgress>,
    ended: watch::Receiver<bool>,
    /// When the last snapshot was sent.
    told_at: Option<tokio::time::Instant>,
}

impl Watching {
    pub fn new(replay: Arc<Running>) -> Self {
        let (progress, ended) = (replay.handle.progress(), replay.has_ended.subscribe());
        Self { replay, progress, ended, told_at: None }
    }

    /// The replay at once, then whenever it has changed, and whether that was its end. Nothing is lost when it is not waited
    /// for to the end.
    pub async fn next(&mut self) -> (pb::Replay, bool) {
        if let Some(told_at) = self.told_at
            && !*self.ended.borrow()
        {
            let changed = async {
                tokio::time::sleep_until(told_at + WATCH_INTERVAL).await;
                if self.progress.changed().await.is_err() {
                    // Its thread is done, and what is left is its end.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                _ = self.ended.wait_for(|ended| *ended) => {}
            }
        }
        self.told_at = Some(tokio::time::Instant::now());
        self.progress.borrow_and_update();
        let is_last = *self.ended.borrow_and_update();
        (self.replay.shown(), is_last)
    }
}

fn most_first(topics: impl IntoIterator<Item = (String, u64)>) -> Vec<pb::TopicCount> {
    let counts = topics.into_iter().map(|(topic, count)| pb::TopicCount { topic, count });
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by(|one, two| two.count.cmp(&one.count).then_with(|| one.topic.cmp(&two.topic)));
    counts.truncate(TOPICS_MAX);
    counts
}

fn is_playing(phase: Phase) -> bool {
    matches!(phase, Phase::Playing | Phase::Settling | Phase::Ended)
}

/// 0 for no waiting.
fn factor(speed: Speed) -> f64 {
    match speed {
        Speed::Factor(factor) => factor,
        Speed::Max => 0.0,
    }
}

impl Running {
    pub fn has_ended(&self) -> bool {
        self.ended.get().is_some()
    }

    pub fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until_ended(&self) {
        let mut ended = self.has_ended.subscribe();
        // Its sender lives as long as we do.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    pub fn shown(&self) -> pb::Replay {
        // Before the report, so that an end is never shown without it.
        let ended = self.ended.get().copied();
        let progress = *self.handle.progress().borrow();
        let course = *self.course();
        let report = self.handle.report().filter(|_| ended.is_some());
        let (state, verdict) = match (&report, ended) {
            (Some(report), _) => outcome(&report.outcome),
            (None, Some(_)) => (pb::ReplayState::Failed, pb::ReplayVerdict::Failed),
            (None, None) if is_playing(progress.phase) => {
                (pb::ReplayState::Running, pb::ReplayVerdict::Unspecified)
            }
            (None, None) => (pb::ReplayState::Pending, pb::ReplayVerdict::Unspecified),
        };
        let error = match (&report, ended) {
            (Some(report), _) if state != pb::ReplayState::Completed => report.errors.join("; "),
            (None, Some(_)) => "the replay failed inside".to_owned(),
            _ => String::new(),
        };
        pb::Replay {
            id: self.id.clone(),
            spec: Some(self.spec.clone()),
            recording_id: self.recording_id.clone(),
            recording_name: self.recording_name.clone(),
            state: state.into(),
            progress: Some(pb::ReplayProgress {
                sent: progress.sent,
                total: progress.total,
                acked: progress.acked,
                position: Some(time::duration(progress.position)),
                elapsed: Some(time::duration(progress.elapsed)),
                planned_span: progress.planned_span.map(time::duration),
                paused: course.is_paused,
                speed: factor(course.speed),
                end: progress.end.map(time::duration),
            }),
            created_at: Some(time::timestamp(self.created_at)),
            ended_at: ended.map(|(at, _)| time::timestamp(at)),
            verdict: verdict.into(),
            exit_code: ended.map(|_| report.as_ref().map_or(1, |report| i32::from(report.exit_code()))),
            report: report.map(|report| shown_report(&report)),
            error,
            address: self.handle.address().map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

fn outcome(outcome: &ReplayOutcome) -> (pb::ReplayState, pb::ReplayVerdict) {
    match outcome {
        ReplayOutcome::Passed => (pb::ReplayState::Completed, pb::ReplayVerdict::Passed),
        ReplayOutcome::Incomplete => (pb::ReplayState::Completed, pb::ReplayVerdict::Failed),
        ReplayOutcome::Different => (pb::ReplayState::Completed, pb::ReplayVerdict::Different),
        ReplayOutcome::Nothing => (pb::ReplayState::Completed, pb::ReplayVerdict::NothingSent),
        ReplayOutcome::Late => (pb::ReplayState::Completed, pb::ReplayVerdict::Late),
        ReplayOutcome::Unreachable => (pb::ReplayState::Failed, pb::ReplayVerdict::Unreachable),
        ReplayOutcome::Damaged => (pb::ReplayState::Failed, pb::ReplayVerdict::Damaged),
        ReplayOutcome::Cancelled => (pb::ReplayState::Cancelled, pb::ReplayVerdict::Cancelled),
    }
}

fn shown_report(report: &ReplayReport) -> pb::ReplayReport {
    let lateness = &report.lateness;
    let by_cause = [
        ("scheduler", lateness.scheduler),
        ("flow_control", lateness.flow_control),
        ("causality", lateness.causality),
        ("socket", lateness.socket),
    ];
    pb::ReplayReport {
        sent: report.sent,
        acked: report.acked,
        unacked: report.unacked,
        bytes: report.bytes,
        topics: most_first(report.topics.iter().map(|(topic, count)| (topic.clone(), count.messages))),
        span_recorded: Some(time::duration(report.recorded_span)),
        span_planned: Some(time::duration(report.planned_span)),
        span_actual: Some(time::duration(report.actual_span)),
        speed: factor(report.speed),
        lateness: Some(pb::ReplayLateness {
            overall: Some(figures(lateness.all)),
            by_cause: by_cause.into_iter().map(|(cause, of)| (cause.to_owned(), figures(of))).collect(),
        }),
        errors: report.errors.iter().take(ERRORS_MAX).cloned().collect(),
        warnings: report.warnings.clone(),
        planned: report.planned,
        passes: report.passes,
        connections: report.connections as u64,
        refused: report.refused.values().sum(),
        unsent: report.unsent + report.incapable.iter().map(|(_, count)| count).sum::<u64>(),
        packets: report.packets,
        verification: report.verdict.as_deref().map(shown_verdict),
        played: report.played,
        unplayed: report.unplayed,
        lacking: report.lacking,
        missed: report.missed,
        refused_by_code: report.refused.iter().map(|(code, count)| (u32::from(code.0), *count)).collect(),
    }
}

fn figures(of: Quantiles) -> pb::LatenessFigures {
    pb::LatenessFigures {
        count: of.count,
        p50: Some(time::duration(of.p50)),
        p99: Some(time::duration(of.p99)),
        max: Some(time::duration(of.max)),
    }
}
