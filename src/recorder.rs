//! The observer that records.
//!
//! What the tap reports is numbered, stripped of passwords and encoded where it is reported, under
//! one lock: that makes the total order. Writing happens on the store's thread. When as much waits
//! as the recorder may hold, or when everything has to be durable before it is passed on, producers
//! wait in [`Tap::ready`]; nothing is left out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::{broadcast, watch};

use crate::{
    packet::{Frame, PacketType, TopicFilter, TopicName},
    recording::{
        CloseCause, ConnectionInfo, Connections, Direction, Event, EventKind, FaultInjected, RecordingInfo,
        RecordingSpec,
        redact::{redact_changed, redact_packet, redact_raw},
    },
    session::ConnectionId,
    store::{RecordingWriter, Store, StoreError},
    tap::{Attachment, Observation, Observed, Observer, Readiness, Tap},
};

/// Events a receiver of the live tail may be behind before it misses some.
const TAIL_LEN: usize = 1024;

/// Records what a [`Tap`] reports. Dropped without [`stop`](Self::stop) it leaves an INTERRUPTED
/// recording.
pub struct Recorder {
    capture: Arc<Capture>,
    attachment: Arc<Mutex<Option<Attachment>>>,
    failed: watch::Receiver<bool>,
}

impl Recorder {
    /// Begins a recording of what `tap` reports from now on.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when the name is taken.
    pub fn start(store: &Store, tap: &Tap, spec: RecordingSpec) -> Result<Self, StoreError> {
        let (topics, keep_credentials) = (spec.topics.clone(), spec.keep_credentials);
        let writer = store.begin(spec)?;
        let attachment: Arc<Mutex<Option<Attachment>>> = Arc::default();
        let (set_failed, failed) = watch::channel(false);
        let to_detach = Arc::downgrade(&attachment);
        writer.on_failure(move || {
            // The traffic goes on without us.
            drop(to_detach.upgrade().and_then(|attachment| lock(&attachment).take()));
            set_failed.send_replace(true);
        });
        let capture = Arc::new(Capture {
            origin: Instant::now(),
            keep_credentials,
            tail: broadcast::Sender::new(TAIL_LEN),
            state: Mutex::new(State {
                writer: Some(writer),
                topics,
                numbers: BTreeMap::new(),
                next_number: 1,
                connections: Connections::new(),
            }),
        });
        *lock(&attachment) = Some(tap.attach(capture.clone()));
        // It may have failed before there was anything to detach.
        if *failed.borrow() {
            lock(&attachment).take();
        }
        Ok(Self { capture, attachment, failed })
    }

    /// What was recorded so far.
    pub fn info(&self) -> RecordingInfo {
        let state = lock(&self.capture.state);
        state.writer.as_ref().expect("only stop takes it").info()
    }

    /// Puts a label between what was observed before and after.
    pub fn mark(&self, label: &str) {
        let mut state = lock(&self.capture.state);
        self.capture.push(&mut state, Instant::now(), 0, EventKind::Mark(label.to_owned()));
    }

    /// The events from now on. A receiver that lags learns how many it missed.
    pub fn tail(&self) -> broadcast::Receiver<Arc<Event>> {
        self.capture.tail.subscribe()
    }

    /// Resolves when the store has refused a write: the recording is FAILED and the traffic goes on.
    pub async fn failed(&self) {
        let mut failed = self.failed.clone();
        if failed.wait_for(|failed| *failed).await.is_err() {
            // The recording ended in another way and cannot fail any more.
            std::future::pending::<()>().await;
        }
    }

    /// Ends the recording: everything observed so far is durable, and it is COMPLETE.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the store had refused a write.
    pub async fn stop(self) -> Result<RecordingInfo, StoreError> {
        lock(&self.attachment).take();
        let Some(writer) = self.capture.end() else { return Err(StoreError::Closed) };
        let finished = tokio::task::spawn_blocking(move || writer.finish()).await;
        finished.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // Before the writer goes, so that nothing is observed that cannot be written.
        lock(&self.attachment).take();
    }
}

/// The observer's half.
struct Capture {
    /// Offset 0 of the recording.
    origin: Instant,
    keep_credentials: bool,
    tail: broadcast::Sender<Arc<Event>>,
    state: Mutex<State>,
}

struct State {
    /// `None` once stopped.
    writer: Option<RecordingWriter>,
    /// Empty means all.
    topics: Vec<TopicFilter>,
    /// The connections that are open.
    numbers: BTreeMap<ConnectionId, Numbered>,
    next_number: u32,
    /// Followed only if there are topics to tell apart.
    connections: Connections,
}

struct Numbered {
    number: u32,
    /// Whether its client has sent anything yet.
    heard: bool,
    /// Bytes of a CONNECT that does not parse which are still to come.
    masked: usize,
}

impl Observer for Capture {
    fn observe(&self, observation: &Observation) {
        let Observation { at, connection, what } = observation;
        let mut state = lock(&self.state);
        let state = &mut *state;
        match what {
            Observed::Open(info) => self.open(state, *at, *connection, info),
            Observed::Packet { direction, bytes } => self.packet(state, *at, *connection, *direction, bytes),
            Observed::Raw { direction, bytes } => {
                let numbered = self.numbered(state, *at, *connection);
                let number = numbered.number;
                let mut bytes = bytes.clone();
                if *direction == Direction::ClientToServer && !self.keep_credentials {
                    bytes = numbered.redact_raw(bytes);
                }
                self.push(state, *at, number, EventKind::Raw { direction: *direction, bytes });
            }
            Observed::Mock(fired) => self.push(state, *at, 0, EventKind::Mock(fired.clone())),
            Observed::Fault(fault) => self.fault(state, *at, *connection, fault),
            Observed::Close(cause) => {
                let number = self.numbered(state, *at, *connection).number;
                state.numbers.remove(connection);
                state.connections.forget(number);
                self.push(state, *at, number, EventKind::Close(*cause));
            }
        }
    }

    fn observe_packets(
        &self,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
        packets: &mut dyn Iterator<Item = &Bytes>,
    ) {
        let mut state = lock(&self.state);
        for bytes in packets {
            self.packet(&mut state, at, connection, direction, bytes);
        }
    }

    fn is_full(&self) -> bool {
        lock(&self.state).writer.as_ref().is_some_and(RecordingWriter::is_full)
    }

    fn readiness(&self) -> Option<Readiness> {
        let state = lock(&self.state);
        let readiness = state.writer.as_ref()?.readiness()?;
        Some(Box::pin(readiness))
    }
}

impl Capture {
    /// Closes what is still open, as the recording ends.
    fn end(&self) -> Option<RecordingWriter> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        for connection in std::mem::take(&mut state.numbers).into_values() {
            let kind = EventKind::Close(CloseCause::RecordingEnded);
            self.push(&mut state, now, connection.number, kind);
        }
        state.writer.take()
    }

    fn open(&self, state: &mut State, at: Instant, connection: ConnectionId, info: &ConnectionInfo) {
        let number = state.next_number;
        state.next_number += 1;
        // Of a connection that was there before, the first thing heard is not what it began with.
        let numbered = Numbered { number, heard: info.already_open, masked: 0 };
        state.numbers.insert(connection, numbered);
        let kind = EventKind::Open(Box::new(info.clone()));
        if !state.topics.is_empty() {
            state.connections.follow(&Event {
                seq: 0,
                at: Duration::ZERO,
                connection: number,
                kind: kind.clone(),
            });
        }
        self.push(state, at, number, kind);
    }

    fn packet(
        &self,
        state: &mut State,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
        bytes: &Bytes,
    ) {
        let numbered = self.numbered(state, at, connection);
        numbered.heard |= direction == Direction::ClientToServer;
        let number = numbered.number;
        // Of all that goes past here, only a CONNECT is looked into.
        let is_connect = bytes.first().is_some_and(|first| first >> 4 == 1);
        let redacted = if is_connect && !self.keep_credentials { redact_packet(bytes) } else { None };
        let bytes = redacted.unwrap_or_else(|| bytes.clone());
        let kind = EventKind::Packet { direction, bytes };
        if state.topics.is_empty() || state.is_wanted(number, &kind) {
            self.push(state, at, number, kind);
        }
    }

    fn fault(&self, state: &mut State, at: Instant, connection: ConnectionId, fault: &FaultInjected) {
        let number = self.numbered(state, at, connection).number;
        if !state.wants_fault(fault) {
            return;
        }
        let mut fault = fault.clone();
        if fault.packet_type == PacketType::Connect && !self.keep_credentials {
            for bytes in [&mut fault.received, &mut fault.sent].into_iter().flatten() {
                *bytes = redact_changed(bytes);
            }
        }
        self.push(state, at, number, EventKind::Fault(Box::new(fault)));
    }

    /// The connection that is reported on. One whose opening was never reported is opened here, so
    /// that every recorded connection has its OPEN.
    fn numbered<'a>(&self, state: &'a mut State, at: Instant, connection: ConnectionId) -> &'a mut Numbered {
        if !state.numbers.contains_key(&connection) {
            let unknown = ConnectionInfo { already_open: true, ..ConnectionInfo::default() };
            self.open(state, at, connection, &unknown);
        }
        state.numbers.get_mut(&connection).expect("it is open now")
    }

    fn push(&self, state: &mut State, at: Instant, connection: u32, kind: EventKind) {
        let Some(writer) = &state.writer else { return };
        let at = at.saturating_duration_since(self.origin);
        let Some(event) = writer.push(at, connection, kind) else { return };
        if self.tail.receiver_count() > 0 {
            // Nobody being left meanwhile is no error.
            let _ = self.tail.send(Arc::new(detached(event)));
        }
    }
}

impl State {
    /// Whether the topic filters let a packet pass. What has no topic, or none that can be told,
    /// passes.
    fn is_wanted(&mut self, number: u32, kind: &EventKind) -> bool {
        let event = Event { seq: 0, at: Duration::ZERO, connection: number, kind: kind.clone() };
        let topic = self.connections.follow(&event).and_then(|seen| seen.topic);
        topic.is_none_or(|topic| self.matches(&topic))
    }

    /// Whether the topic filters let what was done to a packet pass, as they do the packet.
    fn wants_fault(&self, fault: &FaultInjected) -> bool {
        let topic = (!self.topics.is_empty()).then(|| TopicName::parse(&fault.topic).ok()).flatten();
        topic.is_none_or(|topic| self.matches(&topic))
    }

    fn matches(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|filter| filter.matches(topic))
    }
}

impl Numbered {
    /// Hides the password in a CONNECT that does not parse, in however many pieces it comes.
    fn redact_raw(&mut self, bytes: Bytes) -> Bytes {
        let is_first = !std::mem::replace(&mut self.heard, true);
        if is_first {
            let size = Frame::size(&bytes).ok().flatten().unwrap_or(0);
            let Some(redacted) = redact_raw(&bytes) else { return bytes };
            self.masked = size.saturating_sub(bytes.len());
            return redacted;
        }
        let masked = self.masked.min(bytes.len());
        if masked == 0 {
            return bytes;
        }
        self.masked -= masked;
        let mut bytes = BytesMut::from(&bytes[..]);
        bytes[..masked].fill(b'*');
        bytes.freeze()
    }
}

/// The event with bytes of its own: a tail that is read slowly keeps no read buffer alive.
fn detached(mut event: Event) -> Event {
    match &mut event.kind {
        EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. } => {
            *bytes = Bytes::copy_from_slice(bytes);
        }
        EventKind::Fault(fault) => fault.detach(),
        _ => {}
    }
    event
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recording::{RecordingSource, RecordingState, sample},
        store::StoreOptions,
    };

    const ONE: ConnectionId = ConnectionId(11);
    const TWO: ConnectionId = ConnectionId(12);
    const CONNECT: &[u8] = b"\x10\x1a\0\x04MQTT\x04\xc2\0\x3c\0\x01c\0\x03bob\0\x06secret";
    const PINGREQ: &[u8] = b"\xc0\0";

    struct Bench {
        _folder: tempfile::TempDir,
        store: Store,
        tap: Tap,
    }

    impl Bench {
        fn new(change: impl FnOnce(&mut StoreOptions)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut options = StoreOptions::new(folder.path());
            change(&mut options);
            Self { store: Store::open(options).unwrap(), _folder: folder, tap: Tap::new() }
        }

        fn start(&self, change: impl FnOnce(&mut RecordingSpec)) -> Recorder {
            let mut spec = RecordingSpec::new(RecordingSource::broker());
            change(&mut spec);
            Recorder::start(&self.store, &self.tap, spec).unwrap()
        }

        fn sent(&self, connection: ConnectionId, bytes: &'static [u8]) {
            self.tap.packet(Instant::now(), connection, Direction::ClientToServer, Bytes::from_static(bytes));
        }

        fn events(&self, info: &RecordingInfo) -> Vec<Event> {
            self.store.events(&info.id, 1).unwrap().collect::<Result<_, _>>().unwrap()
        }
    }

    fn shown(event: &Event) -> String {
        let what = match &event.kind {
            EventKind::Open(info) if info.already_open => "already open".to_owned(),
            EventKind::Packet { bytes, .. } | EventKind::Raw { bytes, .. } => {
                bytes.escape_ascii().to_string()
            }
            EventKind::Close(cause) => cause.name().to_owned(),
            EventKind::Mark(label) => label.clone(),
            EventKind::Mock(fired) => fired.mock.clone(),
            EventKind::Fault(fault) => {
                let sent = fault.sent.as_ref().map(|sent| sent.escape_ascii().to_string());
                format!("{} {}", fault.action, sent.unwrap_or_default())
            }
            EventKind::Open(_) | EventKind::Gap { .. } => String::new(),
        };
        format!("{} {} {} {what}", event.seq, event.connection, event.kind.name())
    }

    #[tokio::test]
    async fn what_the_tap_reports_is_recorded_in_one_order() {
        let bench = Bench::new(|_| {});
        let now = Instant::now();
        bench.tap.open(now, ONE, None, Arc::default());
        let recorder = bench.start(|spec| spec.name = Some("orders".to_owned()));
        let mut tail = recorder.tail();
        bench.tap.open(now, TWO, None, Arc::default());
        bench.sent(TWO, PINGREQ);
        bench.sent(ONE, b"\xd0\0");
        recorder.mark("half way");
        bench.tap.raw(now, TWO, Direction::ServerToClient, Bytes::from_static(b"?"));
        bench.tap.close(now, TWO, CloseCause::ServerRst);
        assert_eq!(recorder.info().events, 7);
        assert_eq!(recorder.info().state, RecordingState::Recording);
        let info = recorder.stop().await.unwrap();
        bench.sent(ONE, PINGREQ);
        let events = bench.events(&info);
        assert_eq!(
            events.iter().map(shown).collect::<Vec<_>>(),
            [
                "1 1 OPEN already open",
                "2 2 OPEN ",
                "3 2 PACKET \\xc0\\x00",
                "4 1 PACKET \\xd0\\x00",
                "5 0 MARK half way",
                "6 2 RAW ?",
                "7 2 CLOSE server_rst",
                "8 1 CLOSE recording_ended",
            ]
        );
        assert!(events.is_sorted_by_key(|event| event.at));
        assert_eq!((info.state, info.connections, info.packets), (RecordingState::Complete, 2, 2));
        let mut live = Vec::new();
        while let Ok(event) = tail.try_recv() {
            live.push(shown(&event));
        }
        assert_eq!(live, events[1..].iter().map(shown).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn passwords_are_kept_only_if_asked_for() {
        for keep in [false, true] {
            let bench = Bench::new(|_| {});
            let recorder = bench.start(|spec| spec.keep_credentials = keep);
            let now = Instant::now();
            for connection in [ONE, TWO] {
                bench.tap.open(now, connection, None, Arc::default());
            }
            bench.sent(ONE, CONNECT);
            // The same with a reserved flag set, so that it does not parse, and in two pieces.
            let raw = |bytes| bench.tap.raw(now, TWO, Direction::ClientToServer, bytes);
            let mut malformed = BytesMut::from(CONNECT);
            malformed[9] |= 1;
            let malformed = malformed.freeze();
            raw(malformed.slice(..22));
            raw(malformed.slice(22..));
            raw(Bytes::from_static(b"open secret"));
            let info = recorder.stop().await.unwrap();
            let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
            assert_eq!(shown.iter().filter(|line| line.contains("secret")).count(), if keep { 3 } else { 1 });
            assert!(shown.iter().any(|line| line.contains("open secret")));
            assert_eq!(shown.iter().any(|line| line.contains("redacted")), !keep, "{shown:?}");
        }
    }

    #[tokio::test]
    async fn faults_are_recorded_where_they_happened() {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| spec.topics = vec![TopicFilter::parse("a/#").unwrap()]);
        let mut tail = recorder.tail();
        let now = Instant::now();
        let fault = |change: fn(&mut FaultInjected)| {
            let mut fault = sample::fault("drop", "{}");
            change(&mut fault);
            bench.tap.fault(now, TWO, || fault);
        };
        bench.sent(ONE, PINGREQ);
        fault(|_| {});
        fault(|fault| fault.topic = "b".to_owned());
        // An alias that nobody can tell.
        fault(|fault| fault.topic.clear());
        fault(|fault| {
            fault.packet_type = PacketType::Puback;
            fault.topic.clear();
            fault.sent = Some(Bytes::from_static(b"\x40"));
        });
        let info = recorder.stop().await.unwrap();
        let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
        assert_eq!(
            shown[2..6],
            ["3 2 OPEN already open", "4 2 FAULT drop ", "5 2 FAULT drop ", "6 2 FAULT drop @"]
        );
        let mut live = Vec::new();
        while let Ok(event) = tail.try_recv() {
            live.push(super::tests::shown(&event));
        }
        assert_eq!(live, shown);
    }

    #[tokio::test]
    async fn a_changed_connect_gives_its_password_away_only_if_asked_to() {
        for keep in [false, true] {
            let bench = Bench::new(|_| {});
            let recorder = bench.start(|spec| spec.keep_credentials = keep);
            bench.tap.fault(Instant::now(), ONE, || FaultInjected {
                packet_type: PacketType::Connect,
                // The flag that says that there is a password is gone, and so is its type.
                sent: Some([b"\x00\x1a\0\x04MQTT\x04\x82", &CONNECT[10..]].concat().into()),
                ..sample::fault("corrupt", "{}")
            });
            let info = recorder.stop().await.unwrap();
            let shown: Vec<String> = bench.events(&info).iter().map(shown).collect();
            assert_eq!(shown[1].contains("secret"), keep, "{shown:?}");
            assert!(shown[1].contains("MQTT"), "{shown:?}");
        }
    }

    #[tokio::test]
    async fn only_wanted_topics_are_recorded_aliases_resolved() {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| spec.topics = vec![TopicFilter::parse("a/#").unwrap()]);
        bench.tap.open(Instant::now(), ONE, None, Arc::default());
        bench.sent(ONE, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c");
        bench.sent(ONE, b"\x30\x0a\0\x03a/b\x03\x23\0\x01x");
        bench.sent(ONE, b"\x30\x0a\0\x03b/b\x03\x23\0\x02y");
        bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x01X");
        bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x02Y");
        // An alias that nobody can tell.
        bench.sent(ONE, b"\x30\x07\0\0\x03\x23\0\x09?");
        bench.sent(ONE, PINGREQ);
        let info = recorder.stop().await.unwrap();
        let last: Vec<u8> = bench
            .events(&info)
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Packet { bytes, .. } => bytes.last().copied(),
                _ => None,
            })
            .collect();
        assert_eq!(last, b"cxX?\0");
        assert_eq!(info.topics, ["a/#"]);
    }

    #[tokio::test]
    async fn with_a_flush_interval_of_zero_everything_is_durable_before_it_is_passed_on() {
        let bench = Bench::new(|options| options.flush_interval = Duration::ZERO);
        let recorder = bench.start(|_| {});
        for _ in 0..5 {
            bench.sent(ONE, PINGREQ);
            bench.tap.ready().await;
            let state = lock(&recorder.capture.state);
            let writer = state.writer.as_ref().unwrap();
            assert_eq!(writer.durable_seq(), writer.info().events);
        }
        recorder.stop().await.unwrap();
    }

    #[tokio::test]
    async fn producers_wait_while_the_recorder_holds_as_much_as_it_may() {
        let bench = Bench::new(|options| options.recorder_memory = 20_000);
        let recorder = bench.start(|_| {});
        static LONG: [u8; 4000] = [0x30; 4000];
        let mut waited = false;
        for _ in 0..200 {
            bench.sent(ONE, &LONG);
            waited |= bench.tap.is_full();
            bench.tap.ready().await;
            assert!(!bench.tap.is_full());
        }
        assert!(waited, "the store was never behind");
        waited = false;
        for _ in 0..200 {
            let received = Some(Bytes::from_static(&LONG));
            let fault = FaultInjected { received, ..sample::fault("drop", "{}") };
            bench.tap.fault(Instant::now(), ONE, || fault);
            waited |= bench.tap.is_full();
            bench.tap.ready().await;
        }
        assert!(waited, "the bytes of faults are not counted");
        let info = recorder.stop().await.unwrap();
        assert_eq!(info.packets, 200);
        assert_eq!(bench.events(&info).len(), 402);
    }

    #[tokio::test]
    async fn a_refused_write_fails_the_recording_and_lets_the_traffic_go_on() {
        let bench = Bench::new(|options| options.flush_interval = Duration::ZERO);
        let recorder = bench.start(|spec| spec.name = Some("full disk".to_owned()));
        bench.sent(ONE, PINGREQ);
        bench.tap.ready().await;
        bench.store.refuse_writes();
        bench.sent(ONE, PINGREQ);
        bench.tap.ready().await;
        recorder.failed().await;
        assert!(!bench.tap.is_observed());
        assert!(matches!(recorder.stop().await, Err(StoreError::Failed { .. })));
        let info = bench.store.find("full disk").unwrap();
        assert_eq!((info.state, info.events), (RecordingState::Failed, 2));
        assert_eq!(bench.events(&info).len(), 2);
    }

    #[tokio::test]
    async fn a_recorder_that_is_dropped_leaves_an_interrupted_recording() {
        let bench = Bench::new(|_| {});
        let recorder = bench.start(|spec| spec.name = Some("gone".to_owned()));
        bench.sent(ONE, PINGREQ);
        drop(recorder);
        assert!(!bench.tap.is_observed());
        // Commands are answered in order, so the end was dealt with once this is.
        bench.start(|_| {}).stop().await.unwrap();
        let info = bench.store.find("gone").unwrap();
        assert_eq!((info.state, info.events), (RecordingState::Interrupted, 2));
    }
}
