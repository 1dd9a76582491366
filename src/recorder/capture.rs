//! What an observation is as an event: whose, and without what nobody may keep.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{lock, notes};
use crate::{
    packet::PacketType,
    recording::{
        CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, InForce, LongPackets,
        Purpose, RecordingSpec, Sieve,
        redact::{RawPasswords, redact_changed, redact_packet},
    },
    session::ConnectionId,
    store::Backlog,
    tap::{Observation, Observed, Observer, Readiness},
};

/// Where events go, in their total order.
pub trait Sink: Send {
    /// An offset before that of the last event counts as that one.
    fn push(&mut self, at: Duration, connection: u32, kind: EventKind);

    /// Something is in force without a packet that says so.
    fn told_in_force(&mut self, _at: Duration, _in_force: &InForce) {}
}

/// Makes events of what a tap reports.
pub struct Capture<S> {
    /// Offset 0.
    origin: Instant,
    keep_credentials: bool,
    /// Of the messages that are replayed.
    of_messages: Direction,
    /// What has room again before traffic goes on; `None` if traffic goes on anyway.
    backlog: Option<Backlog>,
    state: Mutex<State<S>>,
}

struct State<S> {
    sink: S,
    /// The connections that are open.
    numbers: BTreeMap<ConnectionId, Numbered>,
    next_number: u32,
    /// Whether connections are numbered as they are reported, and not from 1.
    keeps_numbers: bool,
    /// `None` if everything is wanted.
    sieve: Option<Sieved>,
    long: LongPackets,
    odd: Odd,
}

/// What is not there as it was said.
#[derive(Clone, Copy, Debug, Default)]
struct Odd {
    /// Messages that are in pieces.
    in_pieces: u64,
    /// RAW that something was overwritten in.
    overwritten: u64,
}

/// What is wanted, where not everything is.
struct Sieved {
    sieve: Sieve,
    /// Numbers of connections that something was kept of, by those they have before the sieve: others leave no hole.
    numbers: HashMap<u32, u32>,
    next_number: u32,
}

struct Numbered {
    number: u32,
    raw: RawPasswords,
}

impl<S: Sink> Observer for Capture<S> {
    fn observe(&self, observation: &Observation) {
        let Observation { at, connection, what } = observation;
        let mut state = self.state();
        let state = &mut *state;
        match what {
            Observed::Open(info) => self.open(state, *at, *connection, info),
            Observed::Packet { direction, bytes } => {
                let number = self.of_packets(state, *at, *connection, *direction);
                self.packet(state, *at, number, *direction, bytes);
            }
            Observed::Raw { direction, bytes } => {
                self.raw(state, *at, *connection, *direction, bytes.clone());
            }
            Observed::Mock(fired) => {
                self.push(state, *at, 0, EventKind::Mock(fired.clone()));
            }
            Observed::InForce(in_force) => state.sink.told_in_force(self.offset(*at), in_force),
            Observed::Fault(fault) => self.fault(state, *at, *connection, fault),
            Observed::Close(cause) => {
                let number = self.numbered(state, *at, *connection).number;
                state.numbers.remove(connection);
                state.long.close(number);
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
        let mut state = self.state();
        let state = &mut *state;
        let number = self.of_packets(state, at, connection, direction);
        for bytes in packets {
            self.packet(state, at, number, direction, bytes);
        }
    }

    fn is_full(&self) -> bool {
        self.backlog.as_ref().is_some_and(Backlog::is_full)
    }

    fn is_strict(&self) -> bool {
        self.backlog.as_ref().is_some_and(Backlog::is_durable_first)
    }

    fn readiness(&self) -> Option<Readiness> {
        Some(Box::pin(self.backlog.as_ref()?.readiness()?))
    }
}

impl<S: Sink> Capture<S> {
    pub fn new(origin: Instant, spec: &RecordingSpec, sink: S, backlog: Option<Backlog>) -> Self {
        let state = State {
            sink,
            numbers: BTreeMap::new(),
            next_number: 1,
            keeps_numbers: false,
            sieve: (!spec.filter.is_everything()).then(|| Sieved {
                sieve: Sieve::new(spec.filter.clone(), Purpose::Keep),
                numbers: HashMap::new(),
                next_number: 1,
            }),
            long: LongPackets::default(),
            odd: Odd::default(),
        };
        let of_messages = match spec.source.is_subscriber() {
            true => Direction::ServerToClient,
            false => Direction::ClientToServer,
        };
        let keep_credentials = spec.keep_credentials;
        Self { origin, keep_credentials, of_messages, backlog, state: Mutex::new(state) }
    }

    /// Numbers connections as they are reported.
    pub fn keeping_numbers(self) -> Self {
        self.state().keeps_numbers = true;
        self
    }

    /// Something is missing here, of any connection.
    pub fn gap(&self, events: u64, bytes: u64) {
        let mut state = self.state();
        let state = &mut *state;
        state.long.gap(0);
        for connection in state.numbers.values_mut() {
            connection.raw.gap();
        }
        self.push(state, Instant::now(), 0, EventKind::Gap { events, bytes });
    }

    /// Has `f` put something between two observations, at the offset it is given.
    pub fn push_apart(&self, f: impl FnOnce(&mut S, Duration)) {
        let mut state = self.state();
        let at = self.offset(Instant::now());
        f(&mut state.sink, at);
    }

    pub fn with_sink<R>(&self, f: impl FnOnce(&mut S) -> R) -> R {
        f(&mut self.state().sink)
    }

    /// What whoever uses the recording would miss, for people.
    pub fn notes(&self) -> Vec<String> {
        let Odd { in_pieces, overwritten } = self.state().odd;
        notes::long_messages(in_pieces).into_iter().chain(notes::overwritten(overwritten)).collect()
    }

    /// Pieces of RAW that something was overwritten in.
    pub fn overwritten(&self) -> u64 {
        self.state().odd.overwritten
    }

    /// What was in force before anything else.
    pub fn report_in_force(&self, in_force: InForce) {
        let mut state = self.state();
        self.push(&mut state, Instant::now(), 0, EventKind::State(Box::new(in_force)));
    }

    /// Closes what is still open, as the recording ends.
    pub fn close_all(&self) {
        let mut state = self.state();
        let now = Instant::now();
        for connection in std::mem::take(&mut state.numbers).into_values() {
            let kind = EventKind::Close(CloseCause::RecordingEnded);
            self.push(&mut state, now, connection.number, kind);
        }
        let state = &mut *state;
        if let Some(sieved) = &mut state.sieve {
            let rest = sieved.sieve.finish();
            for (event, _) in rest {
                sieved.keep(event, &mut state.sink);
            }
        }
    }

    fn open(&self, state: &mut State<S>, at: Instant, connection: ConnectionId, info: &ConnectionInfo) {
        let number = match state.keeps_numbers {
            true => u32::try_from(connection.0).unwrap_or(u32::MAX),
            false => state.next_number,
        };
        state.next_number += 1;
        let numbered = Numbered { number, raw: RawPasswords::new(info.is_up()) };
        state.numbers.insert(connection, numbered);
        self.push(state, at, number, EventKind::Open(Box::new(info.clone())));
    }

    /// The number of a connection that packets come over.
    #[inline]
    fn of_packets(
        &self,
        state: &mut State<S>,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
    ) -> u32 {
        let numbered = self.numbered(state, at, connection);
        if direction == Direction::ClientToServer {
            numbered.raw.packet();
        }
        let number = numbered.number;
        state.long.packet(number, direction);
        number
    }

    fn raw(
        &self,
        state: &mut State<S>,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
        mut bytes: Bytes,
    ) {
        let numbered = self.numbered(state, at, connection);
        let (number, is_up) = (numbered.number, numbered.raw.is_up());
        let mut is_overwritten = false;
        if direction == Direction::ClientToServer
            && !self.keep_credentials
            && let Some(redacted) = numbered.raw.redact(&bytes)
        {
            is_overwritten = redacted != bytes;
            bytes = redacted;
        }
        let packet = state.long.piece(number, direction, &bytes, || is_up);
        if self.push(state, at, number, EventKind::Raw { direction, bytes }) {
            let is_long =
                packet.is_some_and(|packet| packet.is_whole() && packet.is_message(self.of_messages));
            state.odd.in_pieces += u64::from(is_long);
            state.odd.overwritten += u64::from(is_overwritten);
        }
    }

    #[inline]
    fn packet(&self, state: &mut State<S>, at: Instant, number: u32, direction: Direction, bytes: &Bytes) {
        // Of all that goes past here, only a CONNECT is looked into.
        let redacted = if self.keep_credentials { None } else { redact_packet(bytes) };
        let bytes = redacted.unwrap_or_else(|| bytes.clone());
        self.push(state, at, number, EventKind::Packet { direction, bytes });
    }

    fn fault(&self, state: &mut State<S>, at: Instant, connection: ConnectionId, fault: &FaultInjected) {
        let number = self.numbered(state, at, connection).number;
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
    fn numbered<'a>(
        &self,
        state: &'a mut State<S>,
        at: Instant,
        connection: ConnectionId,
    ) -> &'a mut Numbered {
        if !state.numbers.contains_key(&connection) {
            let unknown = ConnectionInfo { already_open: true, ..ConnectionInfo::default() };
            self.open(state, at, connection, &unknown);
        }
        state.numbers.get_mut(&connection).expect("it is open now")
    }

    /// Whether something was wanted.
    #[inline]
    fn push(&self, state: &mut State<S>, at: Instant, connection: u32, kind: EventKind) -> bool {
        let at = self.offset(at);
        match &mut state.sieve {
            None => {
                state.sink.push(at, connection, kind);
                true
            }
            Some(sieved) => {
                let wanted = sieved.sieve.push(Event { seq: 0, at, connection, kind });
                let is_wanted = !wanted.is_empty();
                for (event, _) in wanted {
                    sieved.keep(event, &mut state.sink);
                }
                is_wanted
            }
        }
    }

    fn offset(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.origin)
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        lock(&self.state)
    }
}

impl Sieved {
    /// What a connection is called in the recording.
    fn number(&mut self, connection: u32, is_last: bool) -> u32 {
        if connection == 0 {
            return 0;
        }
        let next = &mut self.next_number;
        let number = *self.numbers.entry(connection).or_insert_with(|| {
            *next += 1;
            *next - 1
        });
        if is_last {
            self.numbers.remove(&connection);
        }
        number
    }

    fn keep(&mut self, event: Event, sink: &mut impl Sink) {
        let Event { at, connection, kind, .. } = event;
        sink.push(at, self.number(connection, matches!(kind, EventKind::Close(_))), kind);
    }
}
