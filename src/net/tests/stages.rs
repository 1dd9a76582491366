//! The stages of transcripts that have a shell: a server over pipes, and the same behind a relay,
//! both in memory and under a paused clock.

use std::{
    collections::BTreeMap,
    io::Cursor,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    task::{LocalSet, yield_now},
    time::sleep,
};

use super::{Log, PATIENCE, PIPE_BYTES, chaos, no_chaos};
use crate::{
    broker::{
        Options,
        tests::{
            script::{Heard, Stage, perform},
            stage::Bare,
            transcripts::Transcripts,
        },
    },
    interceptor::Interception,
    metrics::Metrics,
    net::{
        Admission, BrokerOptions, ChaosWatch, Gate, ProxyOptions, RelayLimits,
        broker_thread::Shell,
        pipe::{End, Pipe, Valve},
        proxy::RelayThread,
        transport::Transport,
    },
    packet::ReasonCode,
    recording::{
        Direction, Event, EventKind,
        json::{JsonReader, JsonWriter},
        sample,
    },
    session::ApplicationMessage,
    tap::{Attachment, Observed, Tap},
};

/// Chaos that is on, and does nothing to anybody.
const FOR_NOBODY: &str = "[{match: {client: nobody}, actions: [drop]}]";

/// How often every task gets its turn until nothing happens any more by itself. The longest way is
/// that of a message from a client through two tasks of its relay to the broker, and back by those
/// of another; the rest is for messages that wait for one another.
const TURNS: usize = 300;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

/// A server, and what the clients of a script hold of their connections to it.
pub struct Pipes {
    // Dropped first: its tasks hold what follows.
    local: LocalSet,
    runtime: Runtime,
    shell: Rc<Shell>,
    relay: Option<RelayStage>,
    clients: Vec<Option<Pipe>>,
}

/// What stands between the clients and the server.
struct RelayStage {
    thread: Rc<RelayThread>,
    /// Connections of relays that the server has yet to accept.
    arriving: Arc<Mutex<Vec<Pipe>>>,
    /// Of the connections from the server, by client.
    valves: Arc<Mutex<Vec<Valve>>>,
    log: Arc<Log>,
    began: Instant,
    _attachment: Attachment,
}

impl Pipes {
    pub fn server(options: Options) -> Self {
        Self::server_under(no_chaos(), options)
    }

    /// With lines that change nothing before every client.
    pub fn lined(options: Options) -> Self {
        Self::server_under(chaos(FOR_NOBODY).1, options)
    }

    fn server_under(chaos: ChaosWatch, options: Options) -> Self {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let local = LocalSet::new();
        let shell = local.block_on(&runtime, async {
            Shell::start(
                BrokerOptions {
                    interception: Default::default(),
                    chaos,
                    broker: options,
                    admission: Admission::new(Default::default()),
                    seed: 1,
                    tracer: None,
                    guests: None,
                    persistence: None,
                    gate: Gate::open_already(),
                    tap: Tap::new(),
                    metrics: Arc::new(Metrics::new()),
                    on_event: Box::new(|_| {}),
                },
                tokio::sync::watch::channel(0).0,
            )
        });
        Self { local, runtime, shell, relay: None, clients: Vec::new() }
    }

    pub fn relayed(options: Options) -> Self {
        Self::relayed_under(no_chaos(), options)
    }

    pub fn relayed_and_lined(options: Options) -> Self {
        Self::relayed_under(chaos(FOR_NOBODY).1, options)
    }

    fn relayed_under(chaos: ChaosWatch, options: Options) -> Self {
        let mut stage = Self::server(options);
        let (tap, log) = (Tap::new(), Arc::new(Log::default()));
        let attachment = tap.attach(log.clone());
        let (arriving, valves) = (Arc::<Mutex<Vec<Pipe>>>::default(), Arc::<Mutex<Vec<Valve>>>::default());
        let (to_server, of_server) = (arriving.clone(), valves.clone());
        let options = ProxyOptions {
            interception: Box::new(Interception::default),
            chaos,
            upstream: "mqtt://server.in.memory".parse().expect("an address"),
            admission: Admission::new(Default::default()),
            upstream_timeout: Duration::from_secs(5),
            connect_timeout: PATIENCE,
            threads: 1,
            limits: RelayLimits::default(),
            guests: None,
            gate: Gate::open_already(),
            tap,
            metrics: Arc::new(Metrics::new()),
            on_event: Box::new(|_| {}),
        };
        let thread = RelayThread::in_memory(options, move || {
            let (ours, theirs) = Pipe::pair(PIPE_BYTES);
            of_server.lock().expect("no panic").push(ours.valve());
            to_server.lock().expect("no panic").push(theirs);
            ours
        });
        let began = stage.now();
        stage.relay = Some(RelayStage { thread, arriving, valves, log, began, _attachment: attachment });
        stage
    }

    /// Lets every task run until nothing more happens while the clock stands still.
    fn settle(&self) {
        self.local.block_on(&self.runtime, async {
            for _ in 0..TURNS {
                yield_now().await;
                while !self.shell.has_checked_all() {
                    std::thread::yield_now();
                    yield_now().await;
                }
                if let Some(relay) = &self.relay {
                    for pipe in relay.arriving.lock().expect("no panic").drain(..) {
                        self.shell.open(Transport::Pipe(pipe), PEER, Arc::default(), self.shell.admit(PEER));
                    }
                }
            }
        });
    }

    fn change<R>(&self, change: impl FnOnce(&mut crate::broker::Broker, Instant) -> R) -> R {
        let changed = self.local.block_on(&self.runtime, async {
            let changed = change(&mut self.shell.broker.borrow_mut(), self.shell.now());
            self.shell.settle();
            changed
        });
        self.settle();
        changed
    }
}

impl Stage for Pipes {
    fn now(&self) -> Instant {
        self.local.block_on(&self.runtime, async { self.shell.now() })
    }

    fn open(&mut self) -> usize {
        let (ours, theirs) = Pipe::pair(PIPE_BYTES);
        self.local.block_on(&self.runtime, async {
            match &self.relay {
                None => {
                    self.shell.open(Transport::Pipe(theirs), PEER, Arc::default(), self.shell.admit(PEER))
                }
                Some(relay) => relay.thread.open(theirs, PEER),
            }
        });
        self.settle();
        self.clients.push(Some(ours));
        self.clients.len() - 1
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        if let Some(pipe) = &self.clients[connection] {
            pipe.send(bytes);
        }
        self.settle();
    }

    fn break_off(&mut self, connection: usize) {
        self.clients[connection] = None;
        self.settle();
    }

    fn set_stalled(&mut self, connection: usize, is_stalled: bool) {
        if let Some(pipe) = &self.clients[connection] {
            pipe.valve().set_stalled(is_stalled);
        }
        if let Some(relay) = &self.relay {
            // Full buffers on the way fill those before them.
            relay.valves.lock().expect("no panic")[connection].set_stalled(is_stalled);
        }
        self.settle();
    }

    fn publish(&mut self, message: ApplicationMessage) {
        self.change(|broker, now| broker.publish(now, message));
    }

    fn disconnect(&mut self, client_identifier: &str, reason: ReasonCode) {
        assert!(self.change(|broker, now| broker.disconnect(now, client_identifier, reason, true)));
    }

    fn shut_down(&mut self) {
        self.change(|broker, now| broker.shut_down(now));
    }

    fn pass(&mut self, time: Duration) {
        self.local.block_on(&self.runtime, async { sleep(time).await });
        self.settle();
    }

    fn hear(&mut self) -> Vec<Heard> {
        self.settle();
        let mut all = Vec::new();
        for (connection, client) in self.clients.iter_mut().enumerate() {
            let Some(pipe) = client else { continue };
            let (bytes, end) = pipe.take();
            let is_closed = end.is_some();
            if is_closed {
                assert_eq!(end, Some(End::Fin), "what was sent last might be lost");
                *client = None;
            }
            if is_closed || !bytes.is_empty() {
                all.push(Heard { connection, bytes: bytes.to_vec(), is_closed });
            }
        }
        self.settle();
        all
    }
}

impl Pipes {
    /// What was recorded between the clients and the server, from the relay's point of view.
    fn recording(&self) -> Vec<Event> {
        let relay = self.relay.as_ref().expect("behind a relay");
        let observations = relay.log.take();
        (1..)
            .zip(observations)
            .map(|(seq, observation)| Event {
                seq,
                at: observation.at - relay.began,
                connection: u32::try_from(observation.connection.0).expect("few"),
                kind: match observation.what {
                    Observed::Open(info) => EventKind::Open(info),
                    Observed::Packet { direction, bytes } => EventKind::Packet { direction, bytes },
                    Observed::Raw { direction, bytes } => EventKind::Raw { direction, bytes },
                    Observed::Close(cause) => EventKind::Close(cause),
                    Observed::Mock(fired) => EventKind::Mock(fired),
                    Observed::Fault(fault) => EventKind::Fault(fault),
                    Observed::InForce(in_force) => EventKind::State(in_force),
                },
            })
            .collect()
    }
}

/// The same events after a way through a file.
fn written_and_read(events: Vec<Event>) -> Vec<Event> {
    let written = JsonWriter::new(Vec::new())
        .write(&sample::info(), || Ok::<_, std::io::Error>(events.clone().into_iter().map(Ok)))
        .expect("memory takes it");
    let mut reader = JsonReader::open(Cursor::new(written)).expect("our own file");
    reader.events().expect("the same").collect::<Result<_, _>>().expect("our own events")
}

/// What clients were sent, by the number of their connection.
fn sent_to_clients(events: &[Event]) -> BTreeMap<usize, Vec<u8>> {
    let mut sent: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for event in events {
        if let EventKind::Packet { direction: Direction::ServerToClient, bytes }
        | EventKind::Raw { direction: Direction::ServerToClient, bytes } = &event.kind
        {
            sent.entry(event.connection as usize).or_default().extend_from_slice(bytes);
        }
    }
    sent
}

/// What a fresh broker sends to clients that do again what was recorded.
fn replayed(events: &[Event], options: Options) -> BTreeMap<usize, Vec<u8>> {
    let mut stage = Bare::new(options);
    let mut numbers = BTreeMap::new();
    let (mut at, mut sent) = (Duration::ZERO, BTreeMap::<usize, Vec<u8>>::new());
    for event in events {
        if event.at > at {
            stage.pass(event.at - at);
            at = event.at;
        }
        let number = event.connection as usize;
        match &event.kind {
            EventKind::Open(_) => _ = numbers.insert(number, stage.open()),
            EventKind::Packet { direction: Direction::ClientToServer, bytes }
            | EventKind::Raw { direction: Direction::ClientToServer, bytes } => {
                stage.send(numbers[&number], bytes);
            }
            EventKind::Close(_) => stage.break_off(numbers[&number]),
            _ => {}
        }
        for heard in stage.hear() {
            let number = numbers.iter().find(|(_, connection)| **connection == heard.connection);
            sent.entry(*number.expect("opened above").0).or_default().extend(heard.bytes);
        }
    }
    sent.retain(|_, bytes| !bytes.is_empty());
    sent
}

#[test]
fn every_transcript_is_the_same_on_a_server_over_pipes() {
    let mut failures = Vec::new();
    for file in Transcripts::all() {
        for scenario in file.scenarios() {
            let (heard, _) = perform(scenario.text, Pipes::server);
            failures.extend(scenario.compare(&heard));
        }
    }
    assert!(failures.is_empty(), "{} differ\n\n{}", failures.len(), failures.join("\n"));
}

/// How a script ends for a client that reads nothing depends on what lies between it and the server.
fn stalls(text: &str) -> bool {
    text.contains(" stalls\n")
}

#[test]
fn every_transcript_is_the_same_behind_a_line() {
    let mut failures = Vec::new();
    for file in Transcripts::all() {
        for scenario in file.scenarios().filter(|scenario| !stalls(scenario.text)) {
            for stage in [Pipes::lined, Pipes::relayed_and_lined] {
                let (heard, _) = perform(scenario.text, stage);
                failures.extend(scenario.compare(&heard));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_transcript_is_the_same_behind_a_relay_and_its_recording_replays_to_it() {
    let mut failures = Vec::new();
    for file in Transcripts::all() {
        for scenario in file.scenarios() {
            let mut granted = None;
            let (heard, player) = perform(scenario.text, |options| {
                granted = Some(options.clone());
                Pipes::relayed(options)
            });
            failures.extend(scenario.compare(&heard));
            let events = written_and_read(player.stage.recording());
            // What the control plane did and who did not read is in no recording.
            let is_all_there = !scenario.text.contains("\napi> ") && !stalls(scenario.text);
            if is_all_there && sent_to_clients(&events) != replayed(&events, granted.expect("performed")) {
                failures
                    .push(format!("{}: {}\nthe recording plays differently", scenario.file, scenario.title));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ\n\n{}", failures.len(), failures.join("\n"));
}
