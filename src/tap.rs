//! Where frames are reported, once each, as they enter or leave the process.
//!
//! A [`Tap`] is shared by everything that moves MQTT bytes. With no observer attached a report
//! costs one branch. An observer that must not lose (a recorder) holds producers back through
//! [`Tap::ready`]; one that may lose counts what it missed.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    packet::ProtocolVersion,
    recording::{CloseCause, ConnectionInfo, Direction, FaultInjected, InForce, MockFired},
    session::ConnectionId,
};

/// One report.
#[derive(Clone, Debug)]
pub struct Observation {
    /// When the last byte was read, or the bytes were handed to the socket.
    pub at: Instant,
    pub connection: ConnectionId,
    pub what: Observed,
}

#[derive(Clone, Debug)]
pub enum Observed {
    Open(Box<ConnectionInfo>),
    /// One whole packet.
    Packet {
        direction: Direction,
        bytes: Bytes,
    },
    /// Bytes that are no packet.
    Raw {
        direction: Direction,
        bytes: Bytes,
    },
    Close(CloseCause),
    /// A mock fired; of no connection.
    Mock(Box<MockFired>),
    /// Chaos did something to a packet of the connection.
    Fault(Box<FaultInjected>),
    /// The server itself retained a message, or forgot one; of no connection.
    InForce(Box<InForce>),
}

/// Resolves once an observer has room again, or has made durable what it was told.
pub type Readiness = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sees every observation. Called on hot paths: must not block, and must not attach or detach
/// observers. The bytes of an observation are slices of read buffers: an observer that keeps them
/// copies them, or else accounts for the whole buffer it keeps alive.
pub trait Observer: Send + Sync {
    fn observe(&self, observation: &Observation);

    /// The same for packets that were read or written together, in their order.
    fn observe_packets(
        &self,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
        packets: &mut dyn Iterator<Item = &Bytes>,
    ) {
        for bytes in packets {
            let what = Observed::Packet { direction, bytes: bytes.clone() };
            self.observe(&Observation { at, connection, what });
        }
    }

    /// Whether this observer has no room and producers have to wait in [`Tap::ready`].
    fn is_full(&self) -> bool {
        false
    }

    /// Whether producers may have to wait in [`Tap::ready`] now, even where this observer is not full.
    fn is_strict(&self) -> bool {
        false
    }

    /// What a producer has to wait for before it passes on what it has reported so far; `None`
    /// when it need not wait. An observer that ever answers `true` in [`is_full`](Self::is_full)
    /// overrides this too.
    fn readiness(&self) -> Option<Readiness> {
        None
    }
}

/// The point that all traffic passes.
#[derive(Clone, Default)]
pub struct Tap {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Whether `observers` holds any: all that a report looks at when nobody observes.
    observed: AtomicBool,
    // Lock order: `connections`, then `observers`. Opens, closes and joins hold the first
    // throughout, so an observer learns of each connection exactly once.
    connections: Mutex<BTreeMap<ConnectionId, Box<Known>>>,
    /// Connections that were given a number, under their lock.
    numbered: AtomicU64,
    observers: RwLock<Vec<Attached>>,
    blocked_nanos: AtomicU64,
}

/// How a connection came to be; shared by all that one listener accepts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Way {
    pub listener: Option<SocketAddr>,
    /// `tcp`, `tls`, `ws` or `wss`; empty when unknown.
    pub transport: &'static str,
    /// URL of the real broker behind a proxy.
    pub upstream: Option<String>,
}

/// What is kept of an open connection, for observers that join later: of thousands that are idle it
/// is a good part of what they cost.
#[derive(Debug)]
struct Known {
    peer: Option<SocketAddr>,
    way: Arc<Way>,
    client_identifier: Option<Box<str>>,
    protocol: Option<ProtocolVersion>,
}

impl Known {
    fn info(&self, already_open: bool) -> ConnectionInfo {
        ConnectionInfo {
            peer: self.peer.map(|address| address.to_string()),
            listener: self.way.listener.map(|address| address.to_string()),
            transport: self.way.transport.to_owned(),
            upstream: self.way.upstream.clone(),
            already_open,
            client_identifier: self.client_identifier.as_deref().map(str::to_owned),
            protocol: self.protocol,
        }
    }
}

struct Attached {
    number: u64,
    observer: Arc<dyn Observer>,
}

impl Tap {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether anybody looks: callers may skip preparing reports when not.
    #[inline]
    pub fn is_observed(&self) -> bool {
        // Relaxed is enough: whoever must be seen after an `attach` learnt of it by a message or a
        // lock, and that orders this load after the store.
        self.shared.observed.load(Ordering::Relaxed)
    }

    /// A connection was accepted. Always called, observed or not: the tap keeps who is connected,
    /// for observers that join later.
    pub fn open(&self, at: Instant, connection: ConnectionId, peer: Option<SocketAddr>, way: Arc<Way>) {
        self.open_as(&mut self.shared.connections(), at, connection, peer, way);
    }

    /// The same, with the number that is next: from 1, whoever of a server accepts, and reported in their order.
    pub fn open_next(&self, at: Instant, peer: Option<SocketAddr>, way: Arc<Way>) -> ConnectionId {
        let mut connections = self.shared.connections();
        let connection = ConnectionId(self.shared.numbered.fetch_add(1, Ordering::Relaxed) + 1);
        self.open_as(&mut connections, at, connection, peer, way);
        connection
    }

    fn open_as(
        &self,
        connections: &mut BTreeMap<ConnectionId, Box<Known>>,
        at: Instant,
        connection: ConnectionId,
        peer: Option<SocketAddr>,
        way: Arc<Way>,
    ) {
        let known = Known { peer, way, client_identifier: None, protocol: None };
        if self.is_observed() {
            let what = Observed::Open(Box::new(known.info(false)));
            self.shared.report(&Observation { at, connection, what });
        }
        connections.insert(connection, Box::new(known));
    }

    /// The connection's CONNECT was seen (also always called).
    pub fn identify(&self, connection: ConnectionId, client_identifier: &str, protocol: ProtocolVersion) {
        if let Some(known) = self.shared.connections().get_mut(&connection) {
            known.client_identifier = Some(client_identifier.into());
            known.protocol = Some(protocol);
        }
    }

    /// What a connection's CONNECT said of the client; `None` before that.
    pub fn identity(&self, connection: ConnectionId) -> Option<(String, ProtocolVersion)> {
        let connections = self.shared.connections();
        let known = connections.get(&connection)?;
        Some((known.client_identifier.as_deref()?.to_owned(), known.protocol?))
    }

    #[inline]
    pub fn packet(&self, at: Instant, connection: ConnectionId, direction: Direction, bytes: Bytes) {
        if self.is_observed() {
            let what = Observed::Packet { direction, bytes };
            self.shared.report(&Observation { at, connection, what });
        }
    }

    /// Packets that were read or written together: cheaper than one by one.
    pub fn packets<'a>(
        &self,
        at: Instant,
        connection: ConnectionId,
        direction: Direction,
        packets: impl Iterator<Item = &'a Bytes> + Clone,
    ) {
        if self.is_observed() && packets.clone().next().is_some() {
            for attached in self.shared.observers().iter() {
                attached.observer.observe_packets(at, connection, direction, &mut packets.clone());
            }
        }
    }

    #[inline]
    pub fn raw(&self, at: Instant, connection: ConnectionId, direction: Direction, bytes: Bytes) {
        if self.is_observed() {
            let what = Observed::Raw { direction, bytes };
            self.shared.report(&Observation { at, connection, what });
        }
    }

    /// A mock fired.
    pub fn mock(&self, at: Instant, fired: impl FnOnce() -> MockFired) {
        if self.is_observed() {
            let what = Observed::Mock(Box::new(fired()));
            self.shared.report(&Observation { at, connection: ConnectionId(0), what });
        }
    }

    /// The server itself retained a message, as no packet says.
    pub fn in_force(&self, at: Instant, in_force: impl FnOnce() -> Option<InForce>) {
        if self.is_observed()
            && let Some(in_force) = in_force()
        {
            let what = Observed::InForce(Box::new(in_force));
            self.shared.report(&Observation { at, connection: ConnectionId(0), what });
        }
    }

    /// Chaos did something to a packet: behind what the client sent, before what it was sent.
    pub fn fault(&self, at: Instant, connection: ConnectionId, injected: impl FnOnce() -> FaultInjected) {
        if self.is_observed() {
            let what = Observed::Fault(Box::new(injected()));
            self.shared.report(&Observation { at, connection, what });
        }
    }

    /// The connection is gone (always called, like [`open`](Self::open)).
    pub fn close(&self, at: Instant, connection: ConnectionId, cause: CloseCause) {
        let mut connections = self.shared.connections();
        connections.remove(&connection);
        if self.is_observed() {
            self.shared.report(&Observation { at, connection, what: Observed::Close(cause) });
        }
    }

    /// Whether an observer has no room: [`ready`](Self::ready) would wait.
    pub fn is_full(&self) -> bool {
        self.is_observed() && self.shared.observers().iter().any(|attached| attached.observer.is_full())
    }

    /// Whether whoever reports now has to await [`ready`](Self::ready) before it passes anything on. Where not, it may pass
    /// on what it reads together, and ask again before it reads more.
    pub fn holds_up(&self) -> bool {
        let holds_up = |attached: &Attached| attached.observer.is_strict() || attached.observer.is_full();
        self.is_observed() && self.shared.observers().iter().any(holds_up)
    }

    /// Returns at once unless an observer that must not lose is full, or has to make what was
    /// reported durable before it is passed on. Callers await it between reporting what they read
    /// and passing it on.
    pub async fn ready(&self) {
        if !self.is_observed() {
            return;
        }
        let waits: Vec<Readiness> =
            self.shared.observers().iter().filter_map(|attached| attached.observer.readiness()).collect();
        if waits.is_empty() {
            return;
        }
        let begun = tokio::time::Instant::now();
        for wait in waits {
            wait.await;
        }
        self.shared.blocked_nanos.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }

    /// How long callers of [`ready`](Self::ready) have waited there, all added up.
    pub fn blocked(&self) -> Duration {
        Duration::from_nanos(self.shared.blocked_nanos.load(Ordering::Relaxed))
    }

    /// Attaches `observer`, telling it first of the connections already open (as `Observed::Open`
    /// with `already_open`). Detached when the returned guard is dropped.
    pub fn attach(&self, observer: Arc<dyn Observer>) -> Attachment {
        let connections = self.shared.connections();
        let mut observers = self.shared.observers.write().unwrap_or_else(PoisonError::into_inner);
        // No report gets past the write lock, so the opens come before anything else.
        let at = Instant::now();
        for (&connection, known) in connections.iter() {
            let what = Observed::Open(Box::new(known.info(true)));
            observer.observe(&Observation { at, connection, what });
        }
        let number = observers.last().map_or(0, |attached| attached.number + 1);
        observers.push(Attached { number, observer });
        self.shared.observed.store(true, Ordering::Relaxed);
        Attachment { shared: Arc::downgrade(&self.shared), number }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tap").field("observed", &self.is_observed()).finish_non_exhaustive()
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Box<Known>>> {
        // Nothing that is done under these locks leaves them half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observers(&self) -> std::sync::RwLockReadGuard<'_, Vec<Attached>> {
        self.observers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, observation: &Observation) {
        for attached in self.observers().iter() {
            attached.observer.observe(observation);
        }
    }
}

/// Keeps an observer attached.
#[must_use = "dropping it detaches the observer"]
pub struct Attachment {
    shared: Weak<Shared>,
    number: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut observers = shared.observers.write().unwrap_or_else(PoisonError::into_inner);
        observers.retain(|attached| attached.number != self.number);
        shared.observed.store(!observers.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Log {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Observer for Log {
        fn observe(&self, observation: &Observation) {
            let what = match &observation.what {
                Observed::Open(info) if info.already_open => {
                    let client = info.client_identifier.as_deref().unwrap_or("?");
                    format!("already open, {client}")
                }
                Observed::Open(_) => "open".to_owned(),
                Observed::Packet { bytes, .. } => format!("packet {bytes:?}"),
                Observed::Raw { bytes, .. } => format!("raw {bytes:?}"),
                Observed::Close(cause) => format!("close {cause:?}"),
                Observed::Mock(fired) => format!("mock {}", fired.mock),
                Observed::Fault(fault) => format!("fault {}", fault.action),
                Observed::InForce(_) => "in force".to_owned(),
            };
            self.0.lock().unwrap().push(format!("{} {what}", observation.connection));
        }
    }

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    #[test]
    fn an_observer_that_joins_later_is_told_who_is_connected() {
        let (tap, log) = (Tap::new(), Arc::new(Log::default()));
        let now = Instant::now();
        tap.open(now, ONE, None, Arc::default());
        tap.open(now, TWO, None, Arc::default());
        tap.identify(ONE, "alice", ProtocolVersion::V5);
        tap.close(now, TWO, CloseCause::ClientFin);
        let _attachment = tap.attach(log.clone());
        tap.open(now, TWO, None, Arc::default());
        assert_eq!(log.lines(), ["1 already open, alice", "2 open"]);
    }

    #[test]
    fn only_attached_observers_are_told() {
        let (tap, first, second) = (Tap::new(), Arc::new(Log::default()), Arc::new(Log::default()));
        let now = Instant::now();
        let packet = |text: &'static [u8]| tap.packet(now, ONE, Direction::ClientToServer, text.into());
        packet(b"a");
        assert!(!tap.is_observed());
        let attached_first = tap.attach(first.clone());
        packet(b"b");
        let attached_second = tap.attach(second.clone());
        packet(b"c");
        drop(attached_first);
        tap.raw(now, ONE, Direction::ServerToClient, Bytes::from_static(b"d"));
        drop(attached_second);
        packet(b"e");
        assert!(!tap.is_observed());
        assert_eq!(first.lines(), ["1 packet b\"b\"", "1 packet b\"c\""]);
        assert_eq!(second.lines(), ["1 packet b\"c\"", "1 raw b\"d\""]);
    }

    struct Full(tokio::sync::watch::Receiver<bool>);

    impl Observer for Full {
        fn observe(&self, _: &Observation) {}

        fn is_full(&self) -> bool {
            *self.0.borrow()
        }

        fn readiness(&self) -> Option<Readiness> {
            let mut full = self.0.clone();
            self.is_full().then(|| -> Readiness {
                Box::pin(async move {
                    let _ = full.wait_for(|full| !full).await;
                })
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_producers_waited_is_added_up() {
        let tap = Tap::new();
        let (set_full, full) = tokio::sync::watch::channel(true);
        let _attached = tap.attach(Arc::new(Full(full)));
        let release = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            set_full.send_replace(false);
        };
        tokio::join!(tap.ready(), tap.ready(), release);
        tap.ready().await;
        assert_eq!(tap.blocked(), Duration::from_secs(6));
    }

    #[tokio::test]
    async fn producers_wait_while_an_observer_is_full() {
        let tap = Tap::new();
        let (set_full, full) = tokio::sync::watch::channel(true);
        tap.ready().await;
        let _attachment = tap.attach(Arc::new(Full(full)));
        assert!(tap.is_full());
        let mut ready = std::pin::pin!(tap.ready());
        assert!(futures_util::poll!(ready.as_mut()).is_pending());
        set_full.send_replace(false);
        ready.await;
        assert!(!tap.is_full());
    }
}
