//! The rpcs of `Replays`: playing recordings again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::stream;
use tokio::sync::watch;

use super::{Control, ControlError, ControlStream, blocking, fields::Fields, page::PageRequest, pb, time};
use crate::{
    event::What,
    net::{
        MqttUrl,
        replay::{
            self, EventSource, EventsError, Phase, Quantiles, ReplayHandle, ReplayOutcome, ReplayReport,
            ReplaySpec, expiry_warning, gaps_error,
        },
    },
    recording::{
        NamePattern, RecordingInfo, RecordingState,
        player::{Pace, Repeat, Selection, Speed, plan},
    },
    store::Store,
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
struct Running {
    id: String,
    spec: pb::ReplaySpec,
    recording_id: String,
    recording_name: String,
    created_at: SystemTime,
    handle: ReplayHandle,
    /// When it ended, and whether its thread failed instead of reporting.
    ended: OnceLock<(SystemTime, bool)>,
    /// Raised when `ended` is set.
    has_ended: watch::Sender<bool>,
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
}

impl ReplaySource {
    pub(super) fn stored(info: RecordingInfo, store: Store) -> Self {
        Self {
            events: stored_events(store, info.id.clone()),
            deliveries: info.source.is_subscriber(),
            gaps: info.gaps,
            state: Some(info.state),
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
    selection: Selection,
    pace: Pace,
    max_lateness: Option<Duration>,
}

impl ReplayList {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Running>>> {
        // A map is whole between any two calls.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Running>, ControlError> {
        let found = self.lock().get(&id.to_ascii_uppercase()).cloned();
        found.ok_or_else(|| ControlError::ReplayNotFound { id: id.to_owned() })
    }
}

impl Control {
    pub async fn create_replay(&self, request: pb::CreateReplayRequest) -> Result<pb::Replay, ControlError> {
        let spec = request.spec.ok_or_else(|| ControlError::bad_field("spec", "is required"))?;
        let source = self.stored_source(&spec).await?;
        self.replay_source(spec, source)
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
        let page = PageRequest::new(request.page_size, &request.page_token)?;
        let mut replays: Vec<_> = self.inner.replays.lock().values().map(|replay| replay.shown()).collect();
        replays.retain(|replay| states.is_empty() || states.contains(&replay.state()));
        let page = page.cut(replays, |replay| replay.id.clone());
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
        let (progress, ended) = (replay.handle.progress(), replay.has_ended.subscribe());
        let watching = Some((replay, progress, ended, true));
        // Not `until_stopped`: a replay that the stop cancels is watched to its end.
        Ok(Box::pin(stream::unfold(watching, |watching| async move {
            let (replay, mut progress, mut ended, first) = watching?;
            if !first && !*ended.borrow() {
                let changed = async {
                    tokio::time::sleep(WATCH_INTERVAL).await;
                    if progress.changed().await.is_err() {
                        // Its thread is done, and what is left is its end.
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = changed => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            }
            progress.borrow_and_update();
            let last = *ended.borrow_and_update();
            let shown = replay.shown();
            Some((Ok(shown), (!last).then_some((replay, progress, ended, false))))
        })))
    }

    pub async fn cancel_replay(&self, request: pb::CancelReplayRequest) -> Result<pb::Replay, ControlError> {
        let replay = self.inner.replays.find(&request.id)?;
        replay.handle.cancel();
        replay.until_ended().await;
        Ok(replay.shown())
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
        let checked = self.checked(spec, source.deliveries, Target::Unneeded)?;
        blocking(move || planned(&source, checked)).await
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
        self.with_store(move |store| Ok(ReplaySource::stored(info, store.clone()))).await
    }

    /// Replays `source`, whatever recording the spec names.
    ///
    /// # Errors
    /// As `CreateReplay`.
    pub fn replay_source(
        &self,
        spec: pb::ReplaySpec,
        source: ReplaySource,
    ) -> Result<pb::Replay, ControlError> {
        let checked = self.checked(spec, source.deliveries, Target::Required)?;
        let mut replays = self.inner.replays.lock();
        let running = replays.values().filter(|replay| replay.ended.get().is_none()).count();
        if running >= RUNNING_MAX {
            return Err(ControlError::TooManyReplays { limit: RUNNING_MAX });
        }
        let handle = replay::start(ReplaySpec {
            gaps: source.gaps,
            warnings: source.warnings(),
            events: source.events,
            target: checked.target,
            selection: checked.selection,
            pace: checked.pace,
            as_one: checked.spec.as_one,
            max_lateness: checked.max_lateness,
            allow_empty: checked.spec.allow_empty,
            metrics: Some(self.metrics().clone()),
        })
        .map_err(|error| ControlError::Internal(format!("no thread for a replay: {error}")))?;
        let replay = Arc::new(Running {
            id: ulid::Ulid::new().to_string(),
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
        tokio::spawn(self.clone().follow_replay(replay.clone()));
        Ok(replay.shown())
    }

    /// Tells watchers of the replay's states, and forgets the oldest ones when it has ended.
    async fn follow_replay(self, replay: Arc<Running>) {
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
        deliveries: bool,
        target: Target,
    ) -> Result<CheckedReplay, ControlError> {
        let mut fields = Fields::new();
        let target = self.checked_target(&mut fields, &spec, target);
        let _: Option<pb::ReplayMode> = fields.choice("spec.mode", spec.mode);
        let pace = checked_pace(&mut fields, &spec);
        let selection = spec.selection.clone().unwrap_or_default();
        let selection = Selection { deliveries, ..checked_selection(&mut fields, &selection) };
        let max_lateness = fields.duration("spec.max_lateness", spec.max_lateness.as_ref());
        fields.finish()?;
        let target = target.ok_or_else(super::broker::unchecked)?;
        spec.mode = pb::ReplayMode::Publish.into();
        spec.speed = Some(factor(pace.speed));
        spec.loops.get_or_insert(1);
        spec.target = target.to_string();
        spec.password = None;
        Ok(CheckedReplay { spec, target, selection, pace, max_lateness })
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
        let mut url: MqttUrl = fields.keep("spec.target", text.parse())?;
        if spec.username.is_some() {
            (url.username, url.password) = (spec.username.clone(), None);
        }
        if spec.password.is_some() {
            url.password = spec.password.clone();
        }
        Some(url)
    }
}

/// Whether a replay has to say where to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Required,
    Unneeded,
}

fn checked_pace(fields: &mut Fields, spec: &pb::ReplaySpec) -> Pace {
    let speed = match spec.speed {
        None => Speed::Factor(1.0),
        Some(0.0) => Speed::Max,
        Some(factor) if (0.001..=1000.0).contains(&factor) => Speed::Factor(factor),
        Some(factor) => {
            let what = format_args!("is from 0.001 to 1000, or 0 for no waiting, not {factor}");
            fields.refuse("spec.speed", what);
            Speed::Max
        }
    };
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
    }
}

fn stored_events(store: Store, id: String) -> EventSource {
    Arc::new(move || {
        let events = store.events(&id, 1)?;
        Ok(Box::new(events.map(|event| event.map_err(EventsError::from))) as _)
    })
}

fn planned(source: &ReplaySource, checked: CheckedReplay) -> Result<pb::ReplayPlan, ControlError> {
    let CheckedReplay { spec, selection, pace, .. } = checked;
    let unreadable = |error: EventsError| ControlError::RecordingDamaged(error.to_string());
    let speed = pace.speed;
    let plan = plan((source.events)().map_err(unreadable)?, selection, pace).map_err(unreadable)?;
    let errors: Vec<_> = gaps_error(source.gaps, plan.missing).into_iter().collect();
    let mut warnings = source.warnings();
    warnings.extend(plan.left_out_warning());
    warnings.extend(expiry_warning(&plan, speed));
    // As the replay would end, if all goes well.
    let outcome = if !errors.is_empty() {
        ReplayOutcome::Damaged
    } else if plan.messages == 0 && !spec.allow_empty {
        ReplayOutcome::Nothing
    } else {
        ReplayOutcome::Passed
    };
    Ok(pb::ReplayPlan {
        messages: plan.messages,
        bytes: plan.payload_bytes,
        connections: plan.connections(spec.as_one) as u64,
        topics: most_first(plan.topics),
        span_recorded: Some(time::duration(plan.recorded_span)),
        span_planned: Some(time::duration(plan.planned_span)),
        errors,
        warnings,
        verdict: self::outcome(&outcome).1.into(),
        exit_code: outcome.exit_code().into(),
    })
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
    async fn until_ended(&self) {
        let mut ended = self.has_ended.subscribe();
        // Its sender lives as long as we do.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn shown(&self) -> pb::Replay {
        // Before the report, so that an end is never shown without it.
        let ended = self.ended.get().copied();
        let progress = *self.handle.progress().borrow();
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
            }),
            created_at: Some(time::timestamp(self.created_at)),
            ended_at: ended.map(|(at, _)| time::timestamp(at)),
            verdict: verdict.into(),
            exit_code: ended.map(|_| report.as_ref().map_or(1, |report| i32::from(report.exit_code()))),
            report: report.map(|report| shown_report(&report)),
            error,
        }
    }
}

fn outcome(outcome: &ReplayOutcome) -> (pb::ReplayState, pb::ReplayVerdict) {
    match outcome {
        ReplayOutcome::Passed => (pb::ReplayState::Completed, pb::ReplayVerdict::Passed),
        ReplayOutcome::Incomplete => (pb::ReplayState::Completed, pb::ReplayVerdict::Failed),
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
