//! The shell with real sockets on 127.0.0.1.
//!
//! Nothing here waits for time to pass: what is awaited comes, or [`soon`] fails the test.

mod access;
mod broker;
mod chaos;
mod differential;
mod guests;
mod hostile;
mod interception;
mod journal;
mod limits;
mod persistence;
mod proxy;
mod replay;
mod server_mode;
pub(crate) mod sink;
mod stages;
mod webhooks;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a connection in memory holds in each direction, roughly as much as a socket's buffers.
pub(super) const PIPE_BYTES: usize = 4 << 20;

/// Chaos by `rules`, a list in YAML.
pub(super) fn chaos(rules: &str) -> (Chaos, ChaosWatch) {
    let options = ChaosOptions { seed: 7, ..ChaosOptions::default() };
    let (chaos, watch) = ChaosWatch::start(options, HELD_BYTES, |_| {});
    let rules: Vec<RuleSpec> = serde_saphyr::from_str(rules).expect("a list of rules");
    for rule in rules {
        chaos.create(rule).expect("a good rule");
    }
    (chaos, watch)
}

pub(super) fn no_chaos() -> ChaosWatch {
    chaos("[]").1
}

/// What a line holds back in each direction.
pub(super) const HELD_BYTES: usize = 1 << 20;

use super::{
    Admission, BrokerHandle, BrokerOptions, ChaosWatch, Client, ClientOptions, Gate, MqttUrl, Persistence,
    bind, spawn_broker,
};
use crate::{
    broker::{Limits, Options},
    config::ConnectionLimits,
    fault::{Chaos, ChaosOptions, RuleSpec},
    metrics::Metrics,
    packet::{
        Connect, ControlPacket, Frame, FrameReader, Properties, ProtocolVersion, Publish, QoS, Subscription,
        SubscriptionOptions, TopicFilter, TopicName, Utf8String,
    },
    tap::{Observation, Observer, Tap},
};

const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// What a slow machine may need; only a failing test takes it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

struct TestBroker {
    address: SocketAddr,
    handle: BrokerHandle,
    metrics: Arc<Metrics>,
    tap: Tap,
    chaos: Chaos,
}

impl TestBroker {
    fn start(limits: Limits, max_connections: usize) -> Self {
        Self::start_under("[]", limits, ConnectionLimits { total: max_connections, ..Default::default() })
    }

    fn start_under(rules: &str, broker: impl Into<Options>, connections: ConnectionLimits) -> Self {
        Self::start_keeping(rules, broker, connections, None)
    }

    fn start_keeping(
        rules: &str,
        broker: impl Into<Options>,
        connections: ConnectionLimits,
        persistence: Option<Persistence>,
    ) -> Self {
        let (chaos, watch) = chaos(rules);
        let listener = bind("127.0.0.1", 0).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (metrics, tap) = (Arc::new(Metrics::new()), Tap::new());
        let options = BrokerOptions {
            interception: Default::default(),
            chaos: watch,
            broker: broker.into(),
            admission: Admission::new(connections),
            seed: 1,
            tracer: None,
            guests: None,
            persistence,
            gate: Gate::open_already(),
            tap: tap.clone(),
            metrics: Arc::clone(&metrics),
            on_event: Box::new(|_| {}),
        };
        let handle = spawn_broker(vec![listener], options).expect("a thread");
        Self { address, handle, metrics, tap, chaos }
    }

    fn new() -> Self {
        Self::start(Limits::default(), 1000)
    }

    async fn client(&self, name: &str, protocol: ProtocolVersion) -> Client {
        soon(Client::connect(ClientOptions { protocol, ..options(self.address, name) })).await.expect(name)
    }

    async fn raw(&self) -> Raw {
        Raw::connect(self.address).await
    }
}

fn url(address: SocketAddr) -> MqttUrl {
    format!("mqtt://{address}").parse().expect("an address")
}

fn options(address: SocketAddr, name: &str) -> ClientOptions {
    ClientOptions::new(url(address), name)
}

/// A socket, and packets on it.
struct Raw {
    stream: TcpStream,
    frames: FrameReader,
}

impl Raw {
    async fn connect(address: SocketAddr) -> Self {
        let stream = soon(TcpStream::connect(address)).await.expect("a connection");
        Self::new(stream)
    }

    fn new(stream: TcpStream) -> Self {
        let mut frames = FrameReader::new(usize::MAX);
        frames.set_protocol(ProtocolVersion::V311);
        Self { stream, frames }
    }

    async fn login(address: SocketAddr, name: &str, protocol: ProtocolVersion) -> Self {
        let mut raw = Self::connect(address).await;
        raw.frames.set_protocol(protocol);
        raw.send(connect(name, protocol), protocol).await;
        assert!(matches!(raw.packet().await, Some(ControlPacket::Connack(_))));
        raw
    }

    async fn write(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.expect("written");
    }

    async fn send(&mut self, packet: ControlPacket, protocol: ProtocolVersion) {
        let frame = Frame::encode(packet, protocol).expect("encodes");
        self.write(&frame.bytes).await;
    }

    /// `None` at the end of the stream.
    async fn packet(&mut self) -> Option<ControlPacket> {
        loop {
            if let Some(frame) = self.frames.next_frame().expect("a packet") {
                return Some(frame.packet);
            }
            if soon(self.stream.read_buf(self.frames.buffer())).await.expect("read") == 0 {
                return None;
            }
        }
    }

    async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon(self.stream.read_exact(&mut bytes)).await.expect("read");
        bytes
    }

    async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        soon(self.stream.read_to_end(&mut bytes)).await.expect("FIN, not RST");
        bytes
    }
}

fn connect(name: &str, protocol: ProtocolVersion) -> ControlPacket {
    ControlPacket::Connect(Box::new(Connect {
        protocol,
        clean_start: true,
        keep_alive: 0,
        properties: Properties::new(),
        client_identifier: Utf8String::new(name).expect("short"),
        will: None,
        username: None,
        password: None,
    }))
}

fn publish(topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::parse(topic).expect(topic)),
        packet_identifier: None,
        properties: Properties::new(),
        payload: payload.into(),
    }
}

fn filters(filter: &str, qos: QoS) -> Vec<Subscription> {
    let filter = TopicFilter::parse(filter).expect(filter);
    vec![Subscription { filter, options: SubscriptionOptions { qos, ..Default::default() } }]
}

/// Keeps everything that is observed.
#[derive(Default)]
struct Log(Mutex<Vec<Observation>>);

impl Observer for Log {
    fn observe(&self, observation: &Observation) {
        self.0.lock().expect("no panic").push(observation.clone());
    }
}

impl Log {
    fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

/// Polls `found` until it finds something: for what no event tells of.
async fn until<R>(mut found: impl FnMut() -> Option<R>) -> R {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < give_up, "it never happened");
        tokio::task::yield_now().await;
    }
}
