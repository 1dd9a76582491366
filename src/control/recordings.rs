//! The rpcs of `Recordings`: captures made, kept, and carried as files.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{
    Control, ControlError, ControlStream, blocking,
    edits::{redaction as redaction_of, report_lines},
    event_filter::event_filter,
    fields::Fields,
    page::{NO_TOKEN, PageRequest},
    pb,
    recorded_event::Shower,
    server::next_client_identifier,
    summary::Summary,
    time,
};
use crate::{
    event::What,
    metrics::Metrics,
    mock::infer::{Inference, InferenceOptions},
    net::{Subscriber, SubscriberError, SubscriberOptions},
    recorder::{Prepared, Reason, Recorder, Snapshot},
    recording::{
        Event, EventFilter, NamePattern, OnOverload, Purpose, ReadOptions, RecordingFormat, RecordingInfo,
        RecordingSource, RecordingSpec, RecordingState, Sieve, redact::Redaction,
    },
    store::{Imported, Store, StoreError},
    tap::Tap,
};

/// Bytes of a piece of an export.
const PIECE: usize = 64 << 10;
/// Events that wait for a slow reader of them.
const EVENTS_MAX: usize = 64;
/// Pieces that wait for a slow reader of an export.
const PIECES_MAX: usize = 4;
const NAME_MAX: usize = 200;
const LABEL_MAX: usize = 1000;

/// The recordings that this process is making, by id.
#[derive(Default)]
pub struct Recorders {
    by_id: Mutex<HashMap<String, Making>>,
    /// What was noted of those that have ended, by id, the last one last.
    noted: Mutex<VecDeque<(String, Vec<String>)>>,
}

/// Recordings whose notes are still told when they have ended: some dozen lines each.
const NOTED_MAX: usize = 100;

/// A recording that is being made.
struct Making {
    recorder: Arc<Recorder>,
    /// What it records, if that is not what passes the server.
    subscriber: Option<Subscriber>,
    /// Events, bytes and gaps that the metrics have.
    counted: [u64; 3],
}

impl Making {
    /// Brings the metrics up to what `info` says.
    fn count(counted: &mut [u64; 3], info: &RecordingInfo, metrics: &Metrics) {
        let now = [info.events, info.bytes, info.gaps];
        let [events, bytes, gaps] = std::array::from_fn(|n| now[n].saturating_sub(counted[n]));
        metrics.recorded(events, bytes, gaps);
        *counted = now;
    }
}

impl Recorders {
    /// Brings the metrics up to what was recorded so far.
    pub fn count(&self, metrics: &Metrics) {
        for making in self.lock().values_mut() {
            Making::count(&mut making.counted, &making.recorder.info(), metrics);
        }
    }

    /// Keeps the notes of a recording that has ended.
    fn note(&self, id: &str, notes: &[String]) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.push_back((id.to_owned(), notes.to_vec()));
        if noted.len() > NOTED_MAX {
            noted.pop_front();
        }
    }

    fn notes(&self, id: &str) -> Vec<String> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.iter().find(|(of, _)| of == id).map(|(_, notes)| notes.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Making>> {
        // A map is whole between any two calls.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } | StoreError::Absent { .. } => {
                Self::RecordingNotFound(error.to_string())
            }
            StoreError::AlreadyExists { name } => Self::RecordingExists { name },
            StoreError::InvalidName { reason, .. } => Self::bad_field("name", reason),
            StoreError::StillRecording { name } => Self::RecordingActive { name },
            StoreError::Ended { name } => Self::RecordingEnded { name },
            StoreError::NothingMeant { .. } => Self::NothingMeant(error.to_string()),
            StoreError::Import(error) if error.is_damage() => Self::BadFile(error.to_string()),
            StoreError::Import(error) => Self::UnsupportedFile(error.to_string()),
            StoreError::Damaged { .. } => Self::RecordingDamaged(error.to_string()),
            StoreError::Locked { .. } => Self::StoreLocked(error.to_string()),
            StoreError::MovedAside { .. } | StoreError::Corrupted(_) => Self::StoreDamaged(error.to_string()),
            StoreError::Closed => Self::Stopping,
            error => Self::Store(error.to_string()),
        }
    }
}

impl Control {
    pub async fn start_recording(
        &self,
        request: pb::StartRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let mut fields = Fields::new();
        let name = checked_name(&mut fields, request.name);
        let mut filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        filter.topics.extend(fields.filters("topics", &request.topics));
        if !filter.connections.is_empty() {
            fields.refuse("filter.connections", "of a recording that begins have no numbers yet");
        }
        let on_overload = fields.choice("on_overload", request.on_overload).map(on_overload);
        let subscriber = request.subscriber.and_then(|source| self.subscriber(&mut fields, source));
        let redaction = request.redaction.filter(|redaction| !redaction.rules.is_empty());
        let redaction = redaction.map(|said| redaction_of(&mut fields, "redaction", said));
        fields.finish()?;
        let source = match &subscriber {
            Some(options) => RecordingSource::subscriber(options.url.to_string()),
            None => self.server()?.source(),
        };
        let spec = RecordingSpec {
            name,
            filter,
            keep_credentials: request.keep_credentials,
            redaction,
            seed: subscriber.is_none().then(|| self.parts().chaos.seed()),
            on_overload: on_overload.unwrap_or(self.parts().on_overload),
            ..RecordingSpec::new(source)
        };
        let prepared = self.with_store(move |store| Ok(Prepared::begin(store, spec)?)).await?;
        let (making, notes) = match subscriber {
            None => self.record_server(prepared).await?,
            Some(options) => (record_subscriber(prepared, options).await?, Vec::new()),
        };
        let info = making.recorder.info();
        tracing::info!(id = %info.id, name = %info.name, "recording started");
        for note in &notes {
            tracing::info!(name = %info.name, "{note}");
        }
        self.inner.recorders.lock().insert(info.id.clone(), making);
        self.parts().events.emit(What::Recording(Box::new(info.clone())));
        Ok(pb::Recording { notes, ..recording(info) })
    }

    /// Records from here on what passes the server, and what is in force now.
    async fn record_server(&self, prepared: Prepared) -> Result<(Making, Vec<String>), ControlError> {
        let tap = self.parts().tap.clone();
        let (sender, attached) = tokio::sync::oneshot::channel();
        let then = Box::new(move |in_force| {
            // Whoever asked may have gone: the recording is an interrupted one then.
            let _ = sender.send(prepared.attach(&tap, in_force));
        });
        let notes = self.server()?.in_force(then).await?;
        let recorder = attached.await.map_err(|_| ControlError::Stopping)?;
        Ok((Making { recorder: Arc::new(recorder), subscriber: None, counted: [0; 3] }, notes))
    }

    pub async fn snapshot_recording(
        &self,
        request: pb::SnapshotRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let mut fields = Fields::new();
        let name = checked_name(&mut fields, request.name);
        let redaction = request.redaction.filter(|redaction| !redaction.rules.is_empty());
        let redaction = redaction.map(|said| redaction_of(&mut fields, "redaction", said));
        fields.finish()?;
        self.snapshot(name, redaction, Reason::Said("snapshot".to_owned())).await
    }

    /// Writes snapshots as triggers of the flight recorder fire, for as long as the server runs.
    pub async fn follow_triggers(self) {
        let Some(flight) = self.parts().flight.clone() else { return };
        let stop = self.parts().stop.clone();
        while let Some(why) = stop.run_until_cancelled(flight.fired()).await {
            if let Err(error) = self.snapshot(None, None, why.clone()).await {
                tracing::error!(%error, %why, "a trigger fired, and the snapshot could not be written");
            }
        }
    }

    /// Whether there is a flight recorder.
    pub fn has_ring(&self) -> bool {
        self.parts().flight.is_some()
    }

    /// Has every snapshot of the flight recorder redacted.
    ///
    /// # Errors
    /// [`ControlError::NoRing`], and rules that are none.
    pub fn redact_snapshots(&self, redaction: pb::Redaction) -> Result<(), ControlError> {
        let flight = self.parts().flight.as_ref().ok_or(ControlError::NoRing)?;
        let mut fields = Fields::new();
        let redaction = redaction_of(&mut fields, "redaction", redaction);
        fields.finish()?;
        flight.redact_snapshots(redaction);
        Ok(())
    }

    /// Writes down what the flight recorder has.
    pub async fn snapshot(
        &self,
        name: Option<String>,
        redaction: Option<Redaction>,
        why: Reason,
    ) -> Result<pb::Recording, ControlError> {
        let flight = self.parts().flight.clone().ok_or(ControlError::NoRing)?;
        let spec = RecordingSpec {
            name,
            redaction,
            seed: Some(self.parts().chaos.seed()),
            ..RecordingSpec::new(self.server()?.source())
        };
        let reason = why.clone();
        let taken = self.with_store(move |store| Ok(flight.snapshot(store, spec, &reason)?)).await?;
        let Snapshot { info, left_out, redacted, notes: of_window } = taken;
        tracing::info!(id = %info.id, name = %info.name, events = info.events, %why, "snapshot written");
        self.parts().events.emit(What::Recording(Box::new(info.clone())));
        let mut notes = redacted.map(|report| report_lines(&report)).unwrap_or_default();
        notes.extend(of_window);
        if left_out > 0 {
            notes.push(format!(
                "of subscriptions and retained messages, {left_out} found no room in recorder.ring_bytes, and are not \
                 in the recording's STATE"
            ));
        }
        Ok(pb::Recording { notes, ..recording(info) })
    }

    pub async fn stop_recording(
        &self,
        request: pb::StopRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let info = self.find_recording(&request.id).await?;
        let making = self.inner.recorders.lock().remove(&info.id);
        let making = making.ok_or(ControlError::RecordingEnded { name: info.name })?;
        let recorder = making.recorder.clone();
        let info = self.complete(making).await?;
        let mut notes = recorder.redaction_report().map(|report| report_lines(&report)).unwrap_or_default();
        notes.extend(recorder.notes());
        self.inner.recorders.note(&info.id, &notes);
        Ok(pb::Recording { notes, ..recording(info) })
    }

    pub async fn mark_recording(
        &self,
        request: pb::MarkRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let mut fields = Fields::new();
        fields.required("label", &request.label);
        if request.label.chars().count() > LABEL_MAX {
            fields.refuse("label", format_args!("has at most {LABEL_MAX} characters"));
        }
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        self.with_recorder(info, |recorder| {
            recorder.mark(&request.label);
            recording(recorder.info())
        })
    }

    pub async fn get_recording(
        &self,
        request: pb::GetRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let info = self.find_recording(&request.id).await?;
        let notes = self.inner.recorders.notes(&info.id);
        Ok(pb::Recording { notes, ..recording(info) })
    }

    pub async fn get_summary(
        &self,
        request: pb::GetSummaryRequest,
    ) -> Result<pb::RecordingSummary, ControlError> {
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        self.with_store(move |store| {
            let mut summary = Summary::new(&filter, info.duration);
            let mut sieve = Sieve::new(filter, Purpose::Look);
            sieve.learn(store.events(&info.id, 1)?)?;
            for event in store.events(&info.id, 1)? {
                let event = event?;
                let is_wanted = sieve.filter().is_everything() || !sieve.push(event.clone()).is_empty();
                summary.add(&event, is_wanted);
            }
            Ok(summary.finish())
        })
        .await
    }

    pub async fn infer_mocks(
        &self,
        request: pb::InferMocksRequest,
    ) -> Result<pb::InferMocksResponse, ControlError> {
        let info = self.find_recording(&request.id).await?;
        let options = InferenceOptions {
            responders: (!request.client.is_empty()).then(|| NamePattern::new(request.client)),
            started_at: Some(info.started_at),
            telemetry: request.telemetry,
        };
        self.with_store(move |store| {
            let mut inference = Inference::new(options);
            for event in store.events(&info.id, 1)? {
                inference.observe(&event?);
            }
            let inferred = inference.finish();
            Ok(pb::InferMocksResponse {
                yaml: inferred.to_yaml(&info.name),
                mocks: inferred.mocks.len() as u32,
                notes: inferred.notes,
                pairs: inferred.pairs,
            })
        })
        .await
    }

    pub async fn list_recordings(
        &self,
        request: pb::ListRecordingsRequest,
    ) -> Result<pb::ListRecordingsResponse, ControlError> {
        let mut fields = Fields::new();
        let states: Vec<pb::RecordingState> = fields.choices("states", &request.states);
        fields.finish()?;
        let page = PageRequest::new("recordings", request.page_size, &request.page_token)?;
        let mut infos = self.with_store(|store| Ok(store.list()?)).await?;
        infos.retain(|info| states.is_empty() || states.contains(&state(info.state)));
        // Ids sort by time, but an import keeps the time it was recorded.
        let page =
            page.cut(infos, |info| format!("{:>30} {}", info.started_at.as_nanosecond(), info.id), recording);
        Ok(pb::ListRecordingsResponse {
            recordings: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn delete_recording(
        &self,
        request: pb::DeleteRecordingRequest,
    ) -> Result<pb::DeleteRecordingResponse, ControlError> {
        let info = self.find_recording(&request.id).await?;
        self.with_store(move |store| Ok(store.delete(&info.id)?)).await?;
        Ok(pb::DeleteRecordingResponse {})
    }

    pub async fn list_events(
        &self,
        request: pb::ListEventsRequest,
    ) -> Result<pb::ListEventsResponse, ControlError> {
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        let page = PageRequest::new("events", request.page_size, &request.page_token)?;
        let after = match page.after() {
            None => Some(0),
            Some(after) => fields.keep("page_token", after.parse().map_err(|_| NO_TOKEN)),
        };
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        self.with_store(move |store| list_events(store, &info, filter, after.unwrap_or_default(), &page))
            .await
    }

    pub async fn read_events(
        &self,
        request: pb::ReadEventsRequest,
    ) -> Result<ControlStream<pb::RecordedEvent>, ControlError> {
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        let control = self.clone();
        tokio::spawn(async move {
            let events = sender.clone();
            let read = move |store: &Store| {
                let until = filter.until;
                let mut shower = Shower::new(filter);
                shower.learn(store.events(&info.id, 1)?)?;
                for event in store.events(&info.id, 1)? {
                    let event = event?;
                    if until.is_some_and(|until| event.at >= until) {
                        break;
                    }
                    for shown in shower.show(event) {
                        if events.blocking_send(Ok(shown)).is_err() {
                            // The reader has gone.
                            return Ok(());
                        }
                    }
                }
                Ok(())
            };
            if let Err(error) = control.with_store(read).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }

    pub async fn tail_events(
        &self,
        request: pb::TailEventsRequest,
    ) -> Result<ControlStream<pb::TailEventsResponse>, ControlError> {
        let mut fields = Fields::new();
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let tail = self.with_recorder(info, |recorder| recorder.tail())?;
        let tail = stream::unfold((tail, Shower::new(filter)), |(mut tail, mut shower)| async move {
            use pb::tail_events_response::Element;
            let elements: Vec<_> = match tail.recv().await {
                Ok(event) => shower.show(Event::clone(&event)).map(Element::Event).collect(),
                Err(RecvError::Lagged(missed)) => vec![Element::Gap(pb::Gap { missed })],
                Err(RecvError::Closed) => return None,
            };
            let answers =
                elements.into_iter().map(|element| Ok(pb::TailEventsResponse { element: Some(element) }));
            Some((stream::iter(answers), (tail, shower)))
        })
        .flatten();
        Ok(self.until_stopped(tail))
    }

    pub async fn export_recording(
        &self,
        request: pb::ExportRecordingRequest,
    ) -> Result<ControlStream<pb::google::api::HttpBody>, ControlError> {
        let mut fields = Fields::new();
        let format = checked_format(&mut fields, request.format).unwrap_or(RecordingFormat::Json);
        let filter = event_filter(&mut fields, "filter", request.filter.as_ref());
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let control = self.clone();
        tokio::spawn(async move {
            let mut out = PieceWriter::new(sender.clone(), format, &info);
            let events = out.events.clone();
            let write = move |store: &Store| {
                let went_through = |count| events.store(count, Ordering::Relaxed);
                let written = store.export(&info.id, format, filter, &mut out, went_through);
                // A reader that has gone needs no error.
                if out.pieces.is_closed() {
                    return Ok(());
                }
                out.finish(written?).map_err(gone)
            };
            if let Err(error) = control.with_store(write).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }

    /// `pieces` may fail on the way here; nothing is added then.
    pub async fn import_recording<E: std::fmt::Display>(
        &self,
        pieces: impl Stream<Item = Result<pb::ImportRecordingRequest, E>> + Send + Unpin,
    ) -> Result<pb::Recording, ControlError> {
        let room = SpoolRoom::new(&self.inner.spooled, self.parts().import_bytes);
        let folder = self.parts().store.path.clone();
        let Spooled { name, options, file, room } = spool(pieces, folder, room).await?;
        let import = move |store: &Store| {
            let imported = store.import(file, &options, name.as_deref());
            drop(room);
            Ok(imported?)
        };
        let imported = self.with_store(import).await?;
        let Imported { info, is_new, notes } = imported;
        if is_new {
            tracing::info!(id = %info.id, name = %info.name, events = info.events, "recording imported");
            self.parts().events.emit(What::Recording(Box::new(info.clone())));
        }
        Ok(pb::Recording { already_there: Some(!is_new), notes, ..recording(info) })
    }

    /// Ends all that this process is recording.
    pub(super) async fn complete_recordings(&self) {
        let all: Vec<_> = self.inner.recorders.lock().drain().map(|(_, making)| making).collect();
        for making in all {
            let name = making.recorder.info().name;
            if let Err(error) = self.complete(making).await {
                tracing::error!(%name, %error, "recording not completed");
            }
        }
    }

    async fn complete(&self, making: Making) -> Result<RecordingInfo, ControlError> {
        let Making { recorder, subscriber, mut counted } = making;
        if let Some(subscriber) = subscriber {
            subscriber.stop().await;
        }
        // On a thread that may block: what it holds on the way can't change threads.
        let runtime = tokio::runtime::Handle::current();
        let info = blocking(move || Ok(runtime.block_on(recorder.stop())?)).await?;
        Making::count(&mut counted, &info, self.metrics());
        tracing::info!(id = %info.id, name = %info.name, events = info.events, "recording complete");
        self.parts().events.emit(What::Recording(Box::new(info.clone())));
        Ok(info)
    }

    pub(super) async fn find_recording(&self, id: &str) -> Result<RecordingInfo, ControlError> {
        self.find_recording_at("id", id).await
    }

    pub(super) async fn find_recording_at(
        &self,
        path: &str,
        id: &str,
    ) -> Result<RecordingInfo, ControlError> {
        let mut fields = Fields::new();
        fields.required(path, id);
        fields.finish()?;
        let id = id.to_owned();
        self.with_store(move |store| Ok(store.find(&id)?)).await
    }

    fn subscriber(&self, fields: &mut Fields, source: pb::SubscriberSource) -> Option<SubscriberOptions> {
        let filters = fields.filters("subscriber.filters", &source.filters);
        if source.filters.is_empty() {
            fields.refuse("subscriber.filters", "has at least one");
        }
        fields.required("subscriber.url", &source.url);
        let qos = fields.qos("subscriber.qos", source.qos.unwrap_or(2));
        let client_identifier = match source.client_id {
            none if none.is_empty() => next_client_identifier("record"),
            given => given,
        };
        let url = self.broker_url(fields, "subscriber.url", &source.url);
        Some(SubscriberOptions { url: url?, filters, qos: qos?, client_identifier })
    }

    fn with_recorder<R>(
        &self,
        info: RecordingInfo,
        f: impl FnOnce(&Recorder) -> R,
    ) -> Result<R, ControlError> {
        let recorders = self.inner.recorders.lock();
        let recorder = recorders.get(&info.id);
        recorder.map(|making| f(&making.recorder)).ok_or(ControlError::RecordingEnded { name: info.name })
    }
}

/// Records what another broker delivers; nothing is left of the recording if that does not begin.
async fn record_subscriber(prepared: Prepared, options: SubscriberOptions) -> Result<Making, ControlError> {
    let broker = options.url.to_string();
    let tap = Tap::new();
    let recorder = Arc::new(prepared.attach(&tap, []));
    let recording = Arc::downgrade(&recorder);
    let on_loss = move || {
        if let Some(recorder) = recording.upgrade() {
            // Nobody knows what was sent meanwhile.
            recorder.gap(0, 0);
        }
    };
    match Subscriber::start(options, tap, on_loss).await {
        Ok(subscriber) => Ok(Making { recorder, subscriber: Some(subscriber), counted: [0; 3] }),
        Err(error) => {
            blocking(move || Ok(recorder.abandon()?)).await?;
            Err(match error {
                SubscriberError::Refused { index, .. } => {
                    ControlError::bad_field(format!("subscriber.filters[{index}]"), error)
                }
                SubscriberError::Client(error) => {
                    ControlError::UpstreamUnavailable { upstream: broker, what: error.to_string() }
                }
            })
        }
    }
}

fn on_overload(choice: pb::OnOverload) -> OnOverload {
    match choice {
        pb::OnOverload::Drop => OnOverload::Drop,
        pb::OnOverload::Block | pb::OnOverload::Unspecified => OnOverload::Block,
    }
}

pub(super) fn checked_name(fields: &mut Fields, name: String) -> Option<String> {
    if name.chars().count() > NAME_MAX {
        fields.refuse("name", format_args!("has at most {NAME_MAX} characters"));
    }
    if name.contains(|c: char| c.is_control() || c == '/') {
        fields.refuse("name", "must not hold control characters or '/'");
    }
    (!name.is_empty()).then_some(name)
}

fn list_events(
    store: &Store,
    info: &RecordingInfo,
    filter: EventFilter,
    after: u64,
    page: &PageRequest,
) -> Result<pb::ListEventsResponse, ControlError> {
    // What a packet means depends on those before it (protocol version, topic aliases), so all are read.
    let mut shower = Shower::new(filter);
    shower.learn(store.events(&info.id, 1)?)?;
    let mut events = page.begin();
    for event in store.events(&info.id, 1)? {
        let event = event?;
        let is_new = event.seq > after;
        for shown in shower.show(event).filter(|_| is_new) {
            if !events.take(shown) {
                let last = events.last().map_or(after, |event: &pb::RecordedEvent| event.seq);
                let next_page_token = page.token(&last.to_string());
                return Ok(pb::ListEventsResponse { events: events.into_items(), next_page_token });
            }
        }
    }
    Ok(pb::ListEventsResponse { events: events.into_items(), next_page_token: String::new() })
}

/// The format of a file, if one is said.
impl From<RecordingFormat> for pb::RecordingFormat {
    fn from(format: RecordingFormat) -> Self {
        match format {
            RecordingFormat::Json => Self::Json,
            RecordingFormat::Ndjson => Self::Ndjson,
            RecordingFormat::Mcap => Self::Mcap,
            RecordingFormat::Pcapng => Self::Pcapng,
            RecordingFormat::Csv => Self::Csv,
        }
    }
}

fn checked_format(fields: &mut Fields, format: i32) -> Option<RecordingFormat> {
    Some(match fields.choice("format", format)? {
        pb::RecordingFormat::Unspecified => return None,
        pb::RecordingFormat::Json => RecordingFormat::Json,
        pb::RecordingFormat::Ndjson => RecordingFormat::Ndjson,
        pb::RecordingFormat::Mcap => RecordingFormat::Mcap,
        pb::RecordingFormat::Pcapng => RecordingFormat::Pcapng,
        pb::RecordingFormat::Csv => RecordingFormat::Csv,
    })
}

/// A file that is here.
struct Spooled {
    name: Option<String>,
    options: ReadOptions,
    file: std::fs::File,
    room: SpoolRoom,
}

/// What one import has of what all may have together; given back when it is dropped.
struct SpoolRoom {
    of_all: Arc<AtomicU64>,
    limit: u64,
    taken: u64,
}

impl SpoolRoom {
    fn new(of_all: &Arc<AtomicU64>, limit: u64) -> Self {
        Self { of_all: Arc::clone(of_all), limit, taken: 0 }
    }

    fn take(&mut self, bytes: u64) -> Result<(), ControlError> {
        let more = |sum: u64| sum.checked_add(bytes).filter(|sum| *sum <= self.limit);
        if more(self.taken).is_none() {
            return Err(ControlError::FileTooLong { limit: self.limit });
        }
        let taken = self.of_all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map_err(|_| ControlError::ImportsTooLong { limit: self.limit })?;
        self.taken += bytes;
        Ok(())
    }
}

impl Drop for SpoolRoom {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// Takes the pieces of a file to a temporary one, on the disk where the store is: where others are may be memory.
async fn spool<E: std::fmt::Display>(
    mut pieces: impl Stream<Item = Result<pb::ImportRecordingRequest, E>> + Send + Unpin,
    folder: PathBuf,
    mut room: SpoolRoom,
) -> Result<Spooled, ControlError> {
    let (mut name, mut options) = (None, ReadOptions::default());
    let mut first = true;
    let make = move || {
        std::fs::create_dir_all(&folder)?;
        tempfile::tempfile_in(&folder)
    };
    let mut file = blocking(move || make().map_err(spooling)).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| ControlError::BadFile(format!("it ended early: {error}")))?;
        if std::mem::take(&mut first) {
            let mut fields = Fields::new();
            options.format = checked_format(&mut fields, piece.format);
            options.recover = piece.recover;
            options.keep_credentials = piece.keep_credentials;
            for (index, port) in piece.ports.into_iter().enumerate() {
                let port = u16::try_from(port).ok().filter(|port| *port != 0).ok_or("is 1 to 65535");
                options.ports.extend(fields.keep(format!("ports[{index}]"), port));
            }
            name = checked_name(&mut fields, piece.name);
            fields.finish()?;
        }
        let data = piece.file.map(|file| file.data).unwrap_or_default();
        room.take(data.len() as u64)?;
        if !data.is_empty() {
            file = blocking(move || file.write_all(&data).map(|()| file).map_err(spooling)).await?;
        }
    }
    let file = blocking(move || {
        io::Seek::rewind(&mut file).map_err(spooling)?;
        Ok(file)
    });
    Ok(Spooled { name, options, file: file.await?, room })
}

fn spooling(error: io::Error) -> ControlError {
    ControlError::Store(format!("a temporary file can't be written: {error}"))
}

fn gone(error: io::Error) -> ControlError {
    ControlError::Internal(error.to_string())
}

/// Cuts what is written into pieces and sends them, waiting for the reader.
struct PieceWriter {
    pieces: mpsc::Sender<Result<pb::google::api::HttpBody, ControlError>>,
    piece: BytesMut,
    content_type: &'static str,
    file_name: String,
    /// Of the recording, that were gone through.
    events: Arc<AtomicU64>,
    events_total: u64,
}

impl PieceWriter {
    fn new(
        pieces: mpsc::Sender<Result<pb::google::api::HttpBody, ControlError>>,
        format: RecordingFormat,
        info: &RecordingInfo,
    ) -> Self {
        Self {
            pieces,
            piece: BytesMut::with_capacity(PIECE),
            content_type: format.media_type(),
            file_name: format!("{}.{}", info.name, format.name()),
            events: Arc::default(),
            events_total: info.events,
        }
    }

    /// Sends what is left, and then what the file lacks.
    fn finish(mut self, notes: Vec<String>) -> io::Result<()> {
        io::Write::flush(&mut self)?;
        self.events.store(self.events_total, Ordering::Relaxed);
        self.send(Bytes::new(), notes)
    }

    fn send(&self, data: Bytes, notes: Vec<String>) -> io::Result<()> {
        let progress = pb::ExportProgress {
            file_name: self.file_name.clone(),
            events: self.events.load(Ordering::Relaxed),
            events_total: self.events_total,
            notes,
        };
        let extension =
            prost_types::Any { type_url: EXPORT_PROGRESS.to_owned(), value: progress.encode_to_vec() };
        let content_type = self.content_type.to_owned();
        let piece = pb::google::api::HttpBody { content_type, data, extensions: vec![extension] };
        let sent = self.pieces.blocking_send(Ok(piece));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone"))
    }
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
        self.send(piece, Vec::new())
    }
}

/// How far the export is that `piece` is of.
pub fn export_progress(piece: &pb::google::api::HttpBody) -> Option<pb::ExportProgress> {
    let extension = piece.extensions.iter().find(|extension| extension.type_url == EXPORT_PROGRESS)?;
    pb::ExportProgress::decode(extension.value.as_slice()).ok()
}

const EXPORT_PROGRESS: &str = "type.googleapis.com/mockforge.mqtt.v1.ExportProgress";

/// A recording as the API says it.
pub fn recording(info: RecordingInfo) -> pb::Recording {
    let kind = match info.source.kind.as_str() {
        "broker" => pb::RecordingSourceKind::Broker,
        "proxy" => pb::RecordingSourceKind::Proxy,
        "subscriber" => pb::RecordingSourceKind::Subscriber,
        "import" => pb::RecordingSourceKind::Import,
        _ => pb::RecordingSourceKind::Unspecified,
    };
    pb::Recording {
        id: info.id,
        name: info.name,
        state: state(info.state).into(),
        source: Some(pb::RecordingSource {
            kind: kind.into(),
            upstream: info.source.upstream.unwrap_or_default(),
        }),
        started_at: Some(time::timestamp_of_jiff(info.started_at)),
        duration: Some(time::duration(info.duration)),
        events: info.events,
        packets: info.packets,
        connections: info.connections,
        bytes: info.bytes,
        gaps: info.gaps,
        sha256: info.sha256.unwrap_or_default(),
        tool_version: info.tool_version,
        already_there: None,
        notes: Vec::new(),
        edits: info.edits,
        seed: info.seed,
    }
}

fn state(state: RecordingState) -> pb::RecordingState {
    match state {
        RecordingState::Recording => pb::RecordingState::Recording,
        RecordingState::Complete => pb::RecordingState::Complete,
        RecordingState::Interrupted => pb::RecordingState::Interrupted,
        RecordingState::Failed => pb::RecordingState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use tempfile::TempDir;

    use super::{super::page::BYTES_MAX, *};
    use crate::{
        control::{ControlParts, MESSAGE_MAX, pb::recorded_event::Kind},
        packet::ProtocolVersion,
        recording::{
            Direction, EventKind, RecordingSource,
            sample::{connect, from_client, open, publish},
        },
        store::StoreOptions,
    };

    /// A control plane whose store holds the recording `r` of one connection with `kinds`.
    fn control(kinds: impl IntoIterator<Item = EventKind>) -> (Control, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::new(folder.path())).unwrap();
        let spec =
            RecordingSpec { name: Some("r".to_owned()), ..RecordingSpec::new(RecordingSource::broker()) };
        let writer = store.begin(spec).unwrap();
        for (at, kind) in (0..).zip(kinds) {
            writer.append(Duration::from_millis(at), 1, kind).unwrap();
        }
        writer.finish().unwrap();
        store.close();
        drop(store);
        (Control::new(ControlParts::alone(StoreOptions::new(folder.path()))), folder)
    }

    /// The events of the recording, page by page.
    async fn pages(control: &Control, page_size: u32) -> Vec<pb::ListEventsResponse> {
        let mut pages = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListEventsRequest { id: "r".to_owned(), filter: None, page_size, page_token };
            let page = control.list_events(request).await.unwrap();
            page_token = page.next_page_token.clone();
            pages.push(page);
            if page_token.is_empty() {
                return pages;
            }
        }
    }

    fn start() -> [EventKind; 2] {
        [open(), connect("dev", ProtocolVersion::V5)]
    }

    #[tokio::test]
    async fn pages_of_large_packets_end_early_and_show_every_event_once() {
        let large = (0..400).map(|n| from_client(publish(Some("t"), &[n as u8; 60_000], Vec::new())));
        let (control, _folder) = control(start().into_iter().chain(large));
        let summary =
            control.get_summary(pb::GetSummaryRequest { id: "r".to_owned(), filter: None }).await.unwrap();
        assert_eq!((summary.topics[0].client_to_server, summary.topics[0].payload_bytes), (400, 24_000_000));
        assert_eq!(summary.connections[0].packets, 401);

        let pages = pages(&control, 1000).await;
        let lens: Vec<_> = pages.iter().map(Message::encoded_len).collect();
        assert!(lens.iter().all(|&len| len <= BYTES_MAX + 32), "{lens:?}");
        // Not smaller than need be either: one event more is 120 KB.
        assert!(lens.iter().rev().skip(1).all(|&len| len > BYTES_MAX - 130_000), "{lens:?}");
        let seqs: Vec<_> = pages.iter().flat_map(|page| &page.events).map(|event| event.seq).collect();
        assert_eq!(seqs, (1..=402).collect::<Vec<_>>());
        control.close().await;
    }

    #[tokio::test]
    async fn an_event_larger_than_a_page_has_one_and_larger_than_a_message_no_bytes() {
        let of = |len: usize| from_client(publish(Some("t"), &vec![7; len], Vec::new()));
        let raw = EventKind::Raw { direction: Direction::ClientToServer, bytes: vec![1; 20_000_000].into() };
        let (control, _folder) =
            control(start().into_iter().chain([of(5_000_000), of(20_000_000), raw, of(10)]));
        let mut pages = pages(&control, 0).await;
        assert!(pages.iter().all(|page| page.encoded_len() <= MESSAGE_MAX));
        assert_eq!(pages.iter().map(|page| page.events.len()).collect::<Vec<_>>(), [2, 1, 3]);
        let shown: BTreeMap<_, _> = pages
            .iter_mut()
            .flat_map(|page| page.events.drain(..))
            .map(|event| match event.kind.unwrap() {
                Kind::Packet(packet) => {
                    let payload = packet.publish.map(|publish| publish.payload.len());
                    (event.seq, (packet.raw_omitted, packet.raw.is_empty(), payload))
                }
                Kind::Raw(raw) => (event.seq, (raw.raw_omitted, raw.raw.is_empty(), None)),
                _ => (event.seq, (false, true, None)),
            })
            .collect();
        assert_eq!(
            shown.into_values().collect::<Vec<_>>(),
            [
                (false, true, None),
                (false, false, None),
                (false, false, Some(5_000_000)),
                (true, true, Some(0)),
                (true, true, None),
                (false, false, Some(10)),
            ]
        );
        let summary =
            control.get_summary(pb::GetSummaryRequest { id: "r".to_owned(), filter: None }).await.unwrap();
        assert_eq!((summary.topics[0].payload_bytes, summary.raw), (25_000_010, 1));
        control.close().await;
    }

    #[tokio::test]
    async fn a_cut_beyond_the_recordings_end_is_refused_and_names_the_field() {
        let (control, _folder) = control(start());
        let trim = |seconds| {
            let start = Some(prost_types::Duration { seconds, nanos: 0 });
            let filter = Some(pb::EventFilter { start, ..Default::default() });
            control.trim_recording(pb::TrimRecordingRequest {
                id: "r".to_owned(),
                filter,
                name: String::new(),
            })
        };
        let refused = trim(600).await.unwrap_err();
        assert_eq!(refused.to_string(), "filter.start: 600 s is beyond the recording's end, 0.001 s");
        trim(0).await.unwrap();
        control.close().await;
    }

    #[tokio::test] // with the 4 MiB that a client takes by default
    async fn a_clients_default_limit_is_enough_for_pages_and_summaries() {
        let large = (0..400).map(|n| from_client(publish(Some("t"), &[n as u8; 60_000], Vec::new())));
        let huge = from_client(publish(Some("t"), &vec![7; 20_000_000], Vec::new()));
        let (control, _folder) = control(start().into_iter().chain(large).chain([huge]));
        let mut client = pb::recordings_client::RecordingsClient::new(crate::gateway::routes(
            control.clone(),
            MESSAGE_MAX,
        ));
        let (mut events, mut page_token) = (0, String::new());
        loop {
            let request =
                pb::ListEventsRequest { id: "r".to_owned(), filter: None, page_size: 1000, page_token };
            let page = client.list_events(request).await.unwrap().into_inner();
            events += page.events.len();
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(events, 403);
        let request = pb::GetSummaryRequest { id: "r".to_owned(), filter: None };
        let summary = client.get_summary(request).await.unwrap().into_inner();
        assert_eq!(summary.topics[0].client_to_server, 401);
        control.close().await;
    }
}
