//! The rpcs of `Recordings`: captures made, kept, and carried as files.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::sync::{broadcast::error::RecvError, mpsc};

use super::{
    Control, ControlError, ControlStream, blocking,
    fields::Fields,
    page::PageRequest,
    pb,
    recorded_event::{RecordedEventFilter, Shower},
    summary::Summary,
    time,
};
use crate::{
    event::What,
    metrics::Metrics,
    mock::infer::{Inference, InferenceOptions},
    recorder::Recorder,
    recording::{ClientPattern, RecordingInfo, RecordingSpec, RecordingState},
    store::{Imported, Store, StoreError},
};

/// Bytes of a piece of an export.
const PIECE: usize = 64 << 10;
/// Pieces that wait for a slow reader of an export.
const PIECES_MAX: usize = 4;
/// Encoded bytes of a page of events: below the 4 MiB that gRPC clients take unless told otherwise, with room to spare.
const PAGE_BYTES_MAX: usize = 3 << 20;
/// Encoded bytes of a page without its events: the token, a number in base64, and its field.
const PAGE_OVERHEAD: usize = 32;
const NAME_MAX: usize = 200;
const LABEL_MAX: usize = 1000;

/// The recordings that this process is making, by id.
#[derive(Default)]
pub struct Recorders {
    by_id: Mutex<HashMap<String, Making>>,
}

/// A recording that is being made.
struct Making {
    recorder: Recorder,
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

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Making>> {
        // A map is whole between any two calls.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::RecordingNotFound(error.to_string()),
            StoreError::AlreadyExists { name } => Self::RecordingExists { name },
            StoreError::InvalidName { reason, .. } => Self::bad_field("name", reason),
            StoreError::StillRecording { name } => Self::RecordingActive { name },
            StoreError::Ended { name } => Self::RecordingEnded { name },
            StoreError::Import(error) => Self::BadFile(error.to_string()),
            StoreError::Damaged { .. } => Self::RecordingDamaged(error.to_string()),
            StoreError::Locked { .. } => Self::StoreLocked(error.to_string()),
            StoreError::MovedAside { .. } => Self::StoreDamaged(error.to_string()),
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
        let topics = fields.filters("topics", &request.topics);
        let name = checked_name(&mut fields, request.name);
        fields.finish()?;
        let source = self.server()?.source();
        let spec = RecordingSpec {
            name,
            source,
            topics,
            keep_credentials: request.keep_credentials,
            seed: Some(self.parts().chaos.seed()),
        };
        let tap = self.parts().tap.clone();
        let recorder = self.with_store(move |store| Ok(Recorder::start(store, &tap, spec)?)).await?;
        let info = recorder.info();
        tracing::info!(id = %info.id, name = %info.name, "recording started");
        self.inner.recorders.lock().insert(info.id.clone(), Making { recorder, counted: [0; 3] });
        self.parts().events.emit(What::Recording(Box::new(info.clone())));
        Ok(recording(info))
    }

    pub async fn stop_recording(
        &self,
        request: pb::StopRecordingRequest,
    ) -> Result<pb::Recording, ControlError> {
        let info = self.find_recording(&request.id).await?;
        let making = self.inner.recorders.lock().remove(&info.id);
        let making = making.ok_or(ControlError::RecordingEnded { name: info.name })?;
        self.complete(making).await.map(recording)
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
        self.find_recording(&request.id).await.map(recording)
    }

    pub async fn get_summary(
        &self,
        request: pb::GetSummaryRequest,
    ) -> Result<pb::RecordingSummary, ControlError> {
        let info = self.find_recording(&request.id).await?;
        self.with_store(move |store| {
            let mut summary = Summary::new();
            for event in store.events(&info.id, 1)? {
                summary.add(&event?);
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
            responders: (!request.client.is_empty()).then(|| ClientPattern::new(request.client)),
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
        let page = PageRequest::new(request.page_size, &request.page_token)?;
        let mut infos = self.with_store(|store| Ok(store.list()?)).await?;
        infos.retain(|info| states.is_empty() || states.contains(&state(info.state)));
        // Ids sort by time, but an import keeps the time it was recorded.
        let page = page.cut(infos, |info| format!("{:>30} {}", info.started_at.as_nanosecond(), info.id));
        Ok(pb::ListRecordingsResponse {
            recordings: page.items.into_iter().map(recording).collect(),
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
        let filter = RecordedEventFilter::checked(&mut fields, request.filter.as_ref());
        let page = PageRequest::new(request.page_size, &request.page_token)?;
        let after = match page.after() {
            None => Some(0),
            Some(after) => fields.keep("page_token", after.parse().map_err(|_| "is no token of this list")),
        };
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        self.with_store(move |store| {
            list_events(store, &info, filter, after.unwrap_or_default(), page.size())
        })
        .await
    }

    pub async fn tail_events(
        &self,
        request: pb::TailEventsRequest,
    ) -> Result<ControlStream<pb::TailEventsResponse>, ControlError> {
        let mut fields = Fields::new();
        let filter = RecordedEventFilter::checked(&mut fields, request.filter.as_ref());
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let tail = self.with_recorder(info, |recorder| recorder.tail())?;
        let tail = stream::unfold((tail, Shower::new(filter)), |(mut tail, mut shower)| async move {
            loop {
                let element = match tail.recv().await {
                    Ok(event) => match shower.show(&event) {
                        Some(event) => pb::tail_events_response::Element::Event(event),
                        None => continue,
                    },
                    Err(RecvError::Lagged(missed)) => {
                        pb::tail_events_response::Element::Gap(pb::Gap { missed })
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok(pb::TailEventsResponse { element: Some(element) }), (tail, shower)));
            }
        });
        Ok(self.until_stopped(tail))
    }

    pub async fn export_recording(
        &self,
        request: pb::ExportRecordingRequest,
    ) -> Result<ControlStream<pb::google::api::HttpBody>, ControlError> {
        let mut fields = Fields::new();
        let _: Option<pb::RecordingFormat> = fields.choice("format", request.format);
        fields.finish()?;
        let info = self.find_recording(&request.id).await?;
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let control = self.clone();
        tokio::spawn(async move {
            let pieces = sender.clone();
            let write = move |store: &Store| {
                let mut out = PieceWriter { pieces, piece: BytesMut::with_capacity(PIECE) };
                let written = store.export_json(&info.id, &mut out);
                // A reader that has gone needs no error.
                if out.pieces.is_closed() {
                    Ok(())
                } else {
                    written?;
                    Ok(out.flush().map_err(gone)?)
                }
            };
            if let Err(error) = control.with_store(write).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(Box::pin(stream::unfold(receiver, |mut receiver| async move {
            let piece: Result<Bytes, ControlError> = receiver.recv().await?;
            Some((piece.map(json_body), receiver))
        })))
    }

    /// `pieces` may fail on the way here; nothing is added then.
    pub async fn import_recording<E: std::fmt::Display>(
        &self,
        pieces: impl Stream<Item = Result<pb::ImportRecordingRequest, E>> + Send + Unpin,
    ) -> Result<pb::Recording, ControlError> {
        let (name, file) = spool(pieces).await?;
        let imported = self.with_store(move |store| Ok(store.import_json(file, name.as_deref())?)).await?;
        let Imported { info, is_new } = imported;
        if is_new {
            tracing::info!(id = %info.id, name = %info.name, events = info.events, "recording imported");
            self.parts().events.emit(What::Recording(Box::new(info.clone())));
        }
        Ok(pb::Recording { already_there: Some(!is_new), ..recording(info) })
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
        let Making { recorder, mut counted } = making;
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

fn checked_name(fields: &mut Fields, name: String) -> Option<String> {
    if name.chars().count() > NAME_MAX {
        fields.refuse("name", format_args!("has at most {NAME_MAX} characters"));
    }
    if name.contains(|c: char| c.is_control() || c == '/') {
        fields.refuse("name", "holds no control characters and no '/'");
    }
    (!name.is_empty()).then_some(name)
}

fn list_events(
    store: &Store,
    info: &RecordingInfo,
    filter: RecordedEventFilter,
    after: u64,
    size: usize,
) -> Result<pb::ListEventsResponse, ControlError> {
    // What a packet means depends on those before it (protocol version, topic aliases), so all are read.
    let mut shower = Shower::new(filter);
    let mut events: Vec<pb::RecordedEvent> = Vec::new();
    let mut bytes = PAGE_OVERHEAD;
    for event in store.events(&info.id, 1)? {
        let event = event?;
        if event.seq <= after {
            shower.skip(&event);
        } else if let Some(shown) = shower.show(&event) {
            let len = shown.encoded_len();
            // The field's number and the length stand before it.
            bytes += 1 + prost::length_delimiter_len(len) + len;
            if events.len() == size || (bytes > PAGE_BYTES_MAX && !events.is_empty()) {
                let last = events.last().map_or(after, |event| event.seq);
                let next_page_token = PageRequest::token(&last.to_string());
                return Ok(pb::ListEventsResponse { events, next_page_token });
            }
            events.push(shown);
        }
    }
    Ok(pb::ListEventsResponse { events, next_page_token: String::new() })
}

/// Takes the pieces of a file to a temporary one.
async fn spool<E: std::fmt::Display>(
    mut pieces: impl Stream<Item = Result<pb::ImportRecordingRequest, E>> + Send + Unpin,
) -> Result<(Option<String>, std::fs::File), ControlError> {
    let mut name = None;
    let mut first = true;
    let mut file = blocking(|| tempfile::tempfile().map_err(spooling)).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| ControlError::BadFile(format!("it ended early: {error}")))?;
        if std::mem::take(&mut first) {
            let mut fields = Fields::new();
            let _: Option<pb::RecordingFormat> = fields.choice("format", piece.format);
            name = checked_name(&mut fields, piece.name);
            fields.finish()?;
        }
        let data = piece.file.map(|file| file.data).unwrap_or_default();
        if !data.is_empty() {
            file = blocking(move || file.write_all(&data).map(|()| file).map_err(spooling)).await?;
        }
    }
    let file = blocking(move || {
        io::Seek::rewind(&mut file).map_err(spooling)?;
        Ok(file)
    });
    Ok((name, file.await?))
}

fn spooling(error: io::Error) -> ControlError {
    ControlError::Store(format!("a temporary file can't be written: {error}"))
}

fn gone(error: io::Error) -> ControlError {
    ControlError::Internal(error.to_string())
}

/// Cuts what is written into pieces and sends them, waiting for the reader.
struct PieceWriter {
    pieces: mpsc::Sender<Result<Bytes, ControlError>>,
    piece: BytesMut,
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
        let sent = self.pieces.blocking_send(Ok(piece));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone"))
    }
}

fn json_body(data: Bytes) -> pb::google::api::HttpBody {
    pb::google::api::HttpBody { content_type: "application/json".to_owned(), data, extensions: Vec::new() }
}

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

    use super::*;
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
        let summary = control.get_summary(pb::GetSummaryRequest { id: "r".to_owned() }).await.unwrap();
        assert_eq!((summary.topics[0].client_to_server, summary.topics[0].payload_bytes), (400, 24_000_000));
        assert_eq!(summary.connections[0].packets, 401);

        let pages = pages(&control, 1000).await;
        let lens: Vec<_> = pages.iter().map(Message::encoded_len).collect();
        assert!(lens.iter().all(|&len| len <= PAGE_BYTES_MAX), "{lens:?}");
        // Not smaller than need be either: one event more is 120 KB.
        assert!(lens.iter().rev().skip(1).all(|&len| len > PAGE_BYTES_MAX - 130_000), "{lens:?}");
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
        let summary = control.get_summary(pb::GetSummaryRequest { id: "r".to_owned() }).await.unwrap();
        assert_eq!((summary.topics[0].payload_bytes, summary.raw), (25_000_010, 1));
        control.close().await;
    }

    #[tokio::test] // with the 4 MiB that a client takes by default
    async fn a_clients_default_limit_is_enough_for_pages_and_summaries() {
        let large = (0..400).map(|n| from_client(publish(Some("t"), &[n as u8; 60_000], Vec::new())));
        let huge = from_client(publish(Some("t"), &vec![7; 20_000_000], Vec::new()));
        let (control, _folder) = control(start().into_iter().chain(large).chain([huge]));
        let mut client =
            pb::recordings_client::RecordingsClient::new(crate::gateway::routes(control.clone()));
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
        let request = pb::GetSummaryRequest { id: "r".to_owned() };
        let summary = client.get_summary(request).await.unwrap().into_inner();
        assert_eq!(summary.topics[0].client_to_server, 401);
        control.close().await;
    }
}
