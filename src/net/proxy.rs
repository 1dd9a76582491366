//! The proxy: a [`Relay`] per client between its socket and one to the real broker.
//!
//! Relays live on a few threads of their own, each with a single-threaded runtime; a relay stays on
//! the thread that it was given to, is one task, and shares nothing with others but the counters
//! and the list of who is connected. Bytes go from one socket's `read` to the other's `write` in the
//! same poll; nothing is read while the other side cannot take what was read before. How one side
//! ends its connection (FIN, RST), the other is shown too.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    future::{pending, poll_fn},
    io::{self, IoSlice},
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::{LocalSet, spawn_local},
    time::{sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info, warn};

#[cfg(test)]
use super::pipe;
use super::{
    admission::{Admission, Pass},
    chaos::ChaosWatch,
    dial::dial,
    door::{Guest, GuestSocket, Guests},
    line::{self, LineParts, LineState},
    listener::{Gate, accept},
    local_thread,
    refusal::{Seen, refuse, turn_away},
    transport::{LINGER, ReadHalf, Transport, WriteHalf},
    url::MqttUrl,
};
use crate::{
    broker::BrokerEvent,
    fault::Splice,
    interceptor::Interception,
    metrics::Metrics,
    packet::{
        Connect, ControlPacket, Disconnect, Frame, FrameReader, Properties, Property, ProtocolVersion, QoS,
        ReasonCode, SubscriptionOptions,
    },
    recording::{CloseCause, Direction},
    relay::{Asked, Forward, Identity, Relay, RelayLimits, Report, Watch},
    session::ConnectionId,
    tap::{Tap, Way},
};

/// Each read's size at most; shared by the relays of a thread. What is read is written at once, from the
/// first cache: with four times as much, long payloads cost a third more.
const SCRATCH_BYTES: usize = 32 << 10;

/// Reads that one direction may do before others get their turn.
const TURN_READS: usize = 4;

/// Sockets on their way to another thread.
const HANDED_OVER: usize = 256;

/// Longest CONNACK of an upstream that is to lose a session.
const SESSION_ANSWER_BYTES: usize = 256 << 10;

/// How long relays get to end when the proxy stops.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

pub struct ProxyOptions {
    /// Credentials in it are not used: clients authenticate themselves.
    pub upstream: MqttUrl,
    pub admission: Arc<Admission>,
    /// How long reaching the upstream may take: name resolution and TCP together.
    pub upstream_timeout: Duration,
    /// How long a client may take to send CONNECT, from when the upstream was reached.
    pub connect_timeout: Duration,
    /// Threads that relays are spread over; 0 is one per core.
    pub threads: usize,
    pub limits: RelayLimits,
    /// Clients that were accepted elsewhere.
    pub guests: Option<Guests>,
    /// Nobody is accepted before it is open.
    pub gate: Gate,
    pub tap: Tap,
    pub metrics: Arc<Metrics>,
    /// Who is asked about clients' messages; made once for each thread.
    pub interception: Box<dyn Fn() -> Interception + Send + Sync>,
    /// What happens to packets on their way, between a client and its relay.
    pub chaos: ChaosWatch,
    /// Told on the relays' threads: must not block.
    pub on_event: Box<dyn Fn(ProxyEvent) + Send + Sync>,
}

/// What an operator may want to see.
#[derive(Clone, Debug, PartialEq)]
pub enum ProxyEvent {
    /// The upstream let a client in.
    ClientConnected {
        connection: ConnectionId,
        client_identifier: String,
        username: Option<String>,
        protocol: ProtocolVersion,
        session_present: bool,
    },
    /// The upstream granted a subscription.
    Subscribed {
        connection: ConnectionId,
        client_identifier: String,
        filter: String,
        qos: QoS,
    },
    /// Only of clients that were let in.
    ClientDisconnected {
        connection: ConnectionId,
        client_identifier: String,
        cause: CloseCause,
    },
    UpstreamUnreachable {
        connection: ConnectionId,
        error: String,
    },
}

impl ProxyEvent {
    /// The same in the broker's words, where it has them: a watcher sees clients come and go
    /// whichever serves them.
    pub fn into_broker_event(self) -> Option<BrokerEvent> {
        match self {
            Self::Subscribed { connection, client_identifier, filter, qos } => {
                let client_identifier = client_identifier.into();
                Some(BrokerEvent::Subscribed { connection, client_identifier, filter, qos })
            }
            Self::ClientConnected { connection, client_identifier, username, protocol, session_present } => {
                Some(BrokerEvent::ClientConnected {
                    connection,
                    client_identifier,
                    username: username.map(String::into_boxed_str),
                    protocol,
                    session_present,
                })
            }
            Self::ClientDisconnected { connection, client_identifier, cause } => {
                let reason = match cause {
                    CloseCause::ClientFin | CloseCause::ServerFin => Some(ReasonCode::SUCCESS),
                    CloseCause::Timeout => Some(ReasonCode::KEEP_ALIVE_TIMEOUT),
                    CloseCause::Proxy => Some(ReasonCode::ADMINISTRATIVE_ACTION),
                    _ => None,
                };
                Some(BrokerEvent::ClientDisconnected { connection, client_identifier, reason })
            }
            Self::UpstreamUnreachable { .. } => None,
        }
    }
}

/// A client as an operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxiedClient {
    pub connection: ConnectionId,
    pub peer: SocketAddr,
    pub connected_at: Instant,
    /// `None` until its CONNECT was read, and for bytes that are no MQTT.
    pub identity: Option<Identity>,
    pub subscriptions: usize,
}

/// How a connection is ended for whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides are closed; a MQTT 5 client is told why where that does not cut a packet in two.
    Disconnect(ReasonCode),
    /// Both sides are reset.
    Reset,
}

/// A subscription that the upstream granted while we looked.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxiedSubscription {
    pub client_identifier: String,
    pub filter: String,
    pub options: SubscriptionOptions,
    pub subscription_identifier: Option<u32>,
}

/// Figures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats {
    pub clients_connected: u64,
    pub subscriptions_active: u64,
    /// Connections that were refused because the upstream could not be reached.
    pub upstream_failures: u64,
}

/// The proxy's clients, from any thread.
///
/// The proxy stops when the last handle is dropped.
#[derive(Clone)]
pub struct ProxyHandle {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

/// What all relays share.
struct Shared {
    upstream: MqttUrl,
    connector: Connector,
    admission: Arc<Admission>,
    upstream_timeout: Duration,
    connect_timeout: Duration,
    limits: RelayLimits,
    gate: Gate,
    tap: Tap,
    metrics: Arc<Metrics>,
    interception: Box<dyn Fn() -> Interception + Send + Sync>,
    chaos: ChaosWatch,
    on_event: Box<dyn Fn(ProxyEvent) + Send + Sync>,
    clients: Mutex<HashMap<ConnectionId, Entry>>,
    upstream_failures: AtomicU64,
    stop: CancellationToken,
    /// Relay threads that still run.
    running: AtomicUsize,
    stopped: CancellationToken,
}

/// One client, for operators.
struct Entry {
    peer: SocketAddr,
    connected_at: Instant,
    identity: Option<Identity>,
    /// Whether the upstream let it in.
    is_accepted: bool,
    subscriptions: Vec<(String, SubscriptionOptions, Option<u32>)>,
    /// Ends the relay; taken by whoever does.
    end: Option<oneshot::Sender<Ending>>,
    _pass: Pass,
}

/// Starts relays for what `listeners` accept.
///
/// # Errors
/// When the system refuses a thread, or an event queue for it.
pub fn spawn_proxy(listeners: Vec<TcpListener>, mut options: ProxyOptions) -> io::Result<ProxyHandle> {
    let guests = options.guests.take();
    let threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, |cores| cores.get()),
        threads => threads,
    };
    let shared = Arc::new(Shared::new(options, Connector::Net, threads));
    let mut others = Vec::new();
    for number in 1..threads {
        let (sender, accepted) = mpsc::channel(HANDED_OVER);
        spawn_thread(number, Arc::clone(&shared), Vec::new(), Inflow::default(), accepted)?;
        others.push(sender);
    }
    let (_, nothing) = mpsc::channel(1);
    spawn_thread(0, Arc::clone(&shared), listeners, Inflow { others, guests }, nothing)?;
    let stop = Arc::new(shared.stop.clone().drop_guard());
    Ok(ProxyHandle { shared, _stop: stop })
}

impl ProxyHandle {
    pub fn upstream(&self) -> &MqttUrl {
        &self.shared.upstream
    }

    /// In the order they connected.
    pub fn clients(&self) -> Vec<ProxiedClient> {
        let mut clients: Vec<_> = self
            .shared
            .clients()
            .iter()
            .map(|(id, entry)| ProxiedClient {
                connection: *id,
                peer: entry.peer,
                connected_at: entry.connected_at,
                identity: entry.identity.clone(),
                subscriptions: entry.subscriptions.len(),
            })
            .collect();
        clients.sort_by_key(|client| client.connection);
        clients
    }

    /// By client identifier, then by filter.
    pub fn subscriptions(&self) -> Vec<ProxiedSubscription> {
        let clients = self.shared.clients();
        let mut subscriptions: Vec<_> = clients
            .values()
            .flat_map(|entry| {
                let client_identifier = entry.identity.as_ref().map_or("", |who| &who.client_identifier);
                entry.subscriptions.iter().map(move |(filter, options, identifier)| ProxiedSubscription {
                    client_identifier: client_identifier.to_owned(),
                    filter: filter.clone(),
                    options: *options,
                    subscription_identifier: *identifier,
                })
            })
            .collect();
        drop(clients);
        subscriptions.sort_by(|one, other| {
            (&one.client_identifier, &one.filter).cmp(&(&other.client_identifier, &other.filter))
        });
        subscriptions
    }

    /// Ends the connections of a client; whether there was one. A MQTT 5 client is told `reason` where
    /// that does not cut a packet in two; its Will is the upstream's to send.
    pub fn disconnect(&self, client_identifier: &str, reason: ReasonCode) -> bool {
        let mut clients = self.shared.clients();
        let ends: Vec<_> = clients
            .values_mut()
            .filter(|entry| {
                entry.identity.as_ref().is_some_and(|who| who.client_identifier == client_identifier)
            })
            .filter_map(|entry| entry.end.take())
            .collect();
        drop(clients);
        // A relay that ended by itself meanwhile counts as ended too.
        let was_connected = !ends.is_empty();
        for end in ends {
            let _ = end.send(Ending::Disconnect(reason));
        }
        was_connected
    }

    /// Ends one connection; whether there was one.
    pub fn close(&self, connection: ConnectionId, how: Ending) -> bool {
        let mut clients = self.shared.clients();
        let end = clients.get_mut(&connection).and_then(|entry| entry.end.take());
        drop(clients);
        // A relay that ended by itself meanwhile counts as ended too.
        end.is_some_and(|end| end.send(how).is_ok())
    }

    pub fn stats(&self) -> ProxyStats {
        let clients = self.shared.clients();
        ProxyStats {
            clients_connected: clients.len() as u64,
            subscriptions_active: clients.values().map(|entry| entry.subscriptions.len() as u64).sum(),
            upstream_failures: self.shared.upstream_failures.load(Relaxed),
        }
    }

    /// Stops accepting and ends every relay: MQTT 5 clients are told Server shutting down.
    pub async fn shut_down(&self) {
        self.shared.stop.cancel();
        self.stopped().await;
    }

    /// Returns once all threads have ended, for whatever reason.
    pub async fn stopped(&self) {
        self.shared.stopped.cancelled().await;
    }
}

/// How the upstream is reached.
enum Connector {
    Net,
    /// In memory: the function hands the other end to whoever plays the upstream.
    #[cfg(test)]
    Pipe(Box<dyn Fn() -> pipe::Pipe + Send + Sync>),
}

impl Shared {
    fn new(options: ProxyOptions, connector: Connector, threads: usize) -> Self {
        Self {
            upstream: options.upstream,
            connector,
            admission: options.admission,
            gate: options.gate,
            upstream_timeout: options.upstream_timeout,
            connect_timeout: options.connect_timeout,
            limits: options.limits,
            tap: options.tap,
            metrics: options.metrics,
            interception: options.interception,
            chaos: options.chaos,
            on_event: options.on_event,
            clients: Mutex::default(),
            upstream_failures: AtomicU64::new(0),
            stop: CancellationToken::new(),
            running: AtomicUsize::new(threads),
            stopped: CancellationToken::new(),
        }
    }

    async fn connect(&self) -> io::Result<Transport> {
        match &self.connector {
            Connector::Net => dial(&self.upstream).await,
            #[cfg(test)]
            Connector::Pipe(connect) => Ok(Transport::Pipe(connect())),
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<ConnectionId, Entry>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's socket on its way to the thread that relays it.
struct Accepted {
    id: ConnectionId,
    client: Handed,
    end: oneshot::Receiver<Ending>,
}

/// A socket that is registered nowhere.
enum Handed {
    Tcp(std::net::TcpStream),
    Guest(GuestSocket),
}

impl Handed {
    /// On the thread that serves it.
    fn into_transport(self) -> io::Result<Transport> {
        match self {
            Self::Tcp(stream) => Ok(TcpStream::from_std(stream)?.into()),
            Self::Guest(socket) => socket.into_transport(),
        }
    }
}

/// Where the thread that accepts has clients from, beside its listeners, and whom it shares them with.
#[derive(Default)]
struct Inflow {
    others: Vec<mpsc::Sender<Accepted>>,
    guests: Option<Guests>,
}

fn spawn_thread(
    number: usize,
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    inflow: Inflow,
    accepted: mpsc::Receiver<Accepted>,
) -> io::Result<()> {
    // However the thread ends, whoever waits for it is told.
    let running = Running(Arc::clone(&shared));
    local_thread::start(format!("relay-{number}"), listeners, move |runtime, listeners| {
        let _running = running;
        LocalSet::new().block_on(&runtime, serve(shared, listeners, inflow, accepted));
    })
}

struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Relaxed) == 1 {
            self.0.stopped.cancel();
        }
    }
}

/// What the relays of one thread share.
pub(super) struct RelayThread {
    shared: Arc<Shared>,
    /// Filled by one read at a time and never kept.
    scratch: RefCell<Box<[u8]>>,
    interception: RefCell<Interception>,
    relays: Cell<usize>,
    ended: Notify,
}

async fn serve(
    shared: Arc<Shared>,
    listeners: Vec<tokio::net::TcpListener>,
    inflow: Inflow,
    mut accepted: mpsc::Receiver<Accepted>,
) {
    let stop = shared.stop.clone();
    let thread = RelayThread::new(shared);
    let Inflow { others, guests } = inflow;
    let mut accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| spawn_local(Rc::clone(&thread).accept_from(listener, others.clone())))
        .collect();
    accepting.extend(guests.map(|guests| spawn_local(Rc::clone(&thread).receive(guests, others.clone()))));
    drop(others);
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => break,
            // The thread that accepts is handed nothing.
            Some(next) = accepted.recv() => next,
            else => {
                stop.cancelled().await;
                break;
            }
        };
        match next.client.into_transport() {
            Ok(client) => thread.start(next.id, client, next.end),
            Err(error) => {
                warn!(connection = %next.id, %error, "cannot serve a connection");
                thread.forget(next.id, CloseCause::Proxy);
            }
        }
    }
    for task in &accepting {
        task.abort();
    }
    if !accepting.is_empty() {
        // This is the thread that accepts: from here on no relay is added.
        let ends: Vec<_> =
            thread.shared.clients().values_mut().filter_map(|entry| entry.end.take()).collect();
        for end in ends {
            let _ = end.send(Ending::Disconnect(ReasonCode::SERVER_SHUTTING_DOWN));
        }
    }
    let all_ended = async {
        while thread.relays.get() > 0 {
            thread.ended.notified().await;
        }
    };
    let _ = timeout(SHUTDOWN_WAIT, all_ended).await;
}

impl RelayThread {
    fn new(shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            interception: RefCell::new((shared.interception)()),
            shared,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            relays: Cell::new(0),
            ended: Notify::new(),
        })
    }

    /// Relays in memory, on the runtime of whoever calls it.
    #[cfg(test)]
    pub(super) fn in_memory(
        options: ProxyOptions,
        connect: impl Fn() -> pipe::Pipe + Send + Sync + 'static,
    ) -> Rc<Self> {
        Self::new(Arc::new(Shared::new(options, Connector::Pipe(Box::new(connect)), 1)))
    }

    /// Relays a connection that was accepted elsewhere.
    #[cfg(test)]
    pub(super) fn open(self: &Rc<Self>, client: pipe::Pipe, peer: SocketAddr) {
        let client = Transport::Pipe(client);
        let upstream = Some(self.shared.upstream.to_string());
        let way = Way { listener: None, transport: client.name(), upstream };
        let pass = self.shared.admission.admit(peer).ok().expect("there is room");
        let (id, ending) = self.register(peer, way.into(), now(), pass);
        self.start(id, client, ending);
    }

    async fn accept_from(
        self: Rc<Self>,
        listener: tokio::net::TcpListener,
        others: Vec<mpsc::Sender<Accepted>>,
    ) {
        let mut turn = 0;
        let way = Arc::new(Way {
            listener: listener.local_addr().ok(),
            transport: "tcp",
            upstream: Some(self.shared.upstream.to_string()),
        });
        self.shared.gate.opened().await;
        loop {
            let (stream, peer) = accept(&listener).await;
            let pass = match self.shared.admission.admit(peer) {
                Ok(pass) => pass,
                Err(refused) => {
                    turn_away(&self.shared.metrics, stream, peer, refused);
                    continue;
                }
            };
            let (id, ending) = self.register(peer, Arc::clone(&way), now(), pass);
            turn = (turn + 1) % (others.len() + 1);
            match turn.checked_sub(1) {
                None => self.start(id, stream.into(), ending),
                Some(other) => match stream.into_std() {
                    Ok(stream) => {
                        let client = Handed::Tcp(stream);
                        // The other thread has ended only if all do.
                        let _ = others[other].send(Accepted { id, client, end: ending }).await;
                    }
                    Err(error) => {
                        warn!(connection = %id, %error, "cannot hand a connection over");
                        self.forget(id, CloseCause::Proxy);
                    }
                },
            }
        }
    }

    /// Relays clients that come through the door.
    async fn receive(self: Rc<Self>, mut guests: Guests, others: Vec<mpsc::Sender<Accepted>>) {
        let mut turn = 0;
        while let Some(guest) = guests.recv().await {
            let Guest { socket, peer, way, accepted_at, pass, .. } = guest;
            let (id, ending) = self.register(peer, way, accepted_at, pass);
            turn = (turn + 1) % (others.len() + 1);
            match turn.checked_sub(1) {
                None => match socket.into_transport() {
                    Ok(client) => self.start(id, client, ending),
                    Err(error) => {
                        warn!(connection = %id, %error, "cannot serve a connection");
                        self.forget(id, CloseCause::Proxy);
                    }
                },
                Some(other) => {
                    let client = Handed::Guest(socket);
                    // The other thread has ended only if all do.
                    let _ = others[other].send(Accepted { id, client, end: ending }).await;
                }
            }
        }
    }

    /// Takes a connection into the list of clients: its number, and how it is told to end.
    fn register(
        &self,
        peer: SocketAddr,
        way: Arc<Way>,
        accepted_at: Instant,
        pass: Pass,
    ) -> (ConnectionId, oneshot::Receiver<Ending>) {
        let shared = &self.shared;
        let (end, ending) = oneshot::channel();
        let id = shared.tap.open_next(now(), Some(peer), way);
        shared.metrics.connection_opened();
        let entry = Entry {
            peer,
            connected_at: accepted_at,
            identity: None,
            is_accepted: false,
            subscriptions: Vec::new(),
            end: Some(end),
            _pass: pass,
        };
        shared.clients().insert(id, entry);
        (id, ending)
    }

    fn start(self: &Rc<Self>, id: ConnectionId, client: Transport, end: oneshot::Receiver<Ending>) {
        let thread = Rc::clone(self);
        thread.relays.set(thread.relays.get() + 1);
        spawn_local(async move {
            let relayed = std::panic::AssertUnwindSafe(thread.serve_client(id, client, end)).catch_unwind();
            let cause = relayed.await.unwrap_or_else(|_| {
                error!(connection = %id, "a relay panicked");
                CloseCause::Proxy
            });
            thread.relays.set(thread.relays.get() - 1);
            thread.forget(id, cause);
            thread.ended.notify_one();
        });
    }

    fn forget(&self, id: ConnectionId, cause: CloseCause) {
        let shared = &self.shared;
        debug!(connection = %id, ?cause, "closed");
        // Answers to a message that was read follow from it even if the upstream did not take it any more: it was
        // reported, and its mock has fired. Nothing of what waited stays behind, whatever ended the relay.
        self.interception.borrow_mut().passed(id);
        if let Some(entry) = shared.clients().remove(&id) {
            shared.metrics.subscriptions_changed(0, -(entry.subscriptions.len() as i64));
            if let Some(who) = entry.identity.filter(|_| entry.is_accepted) {
                let client_identifier = who.client_identifier;
                (shared.on_event)(ProxyEvent::ClientDisconnected {
                    connection: id,
                    client_identifier,
                    cause,
                });
            }
        }
        shared.tap.close(now(), id, cause);
        shared.metrics.connection_closed();
    }

    async fn serve_client(
        &self,
        id: ConnectionId,
        client: Transport,
        mut end: oneshot::Receiver<Ending>,
    ) -> CloseCause {
        let shared = &self.shared;
        let connecting = timeout(shared.upstream_timeout, shared.connect());
        let server = tokio::select! {
            connected = connecting => connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            _ = told_to_end(&mut end) => return CloseCause::Proxy,
        };
        match server {
            Ok(server) => self.relay(id, client, server, end).await,
            Err(error) => {
                warn!(connection = %id, upstream = %shared.upstream, %error, "cannot reach the upstream");
                shared.upstream_failures.fetch_add(1, Relaxed);
                shared.metrics.connection_refused();
                let error = error.to_string();
                (shared.on_event)(ProxyEvent::UpstreamUnreachable { connection: id, error });
                self.refuse(id, client).await;
                CloseCause::Proxy
            }
        }
    }

    /// Tells a client that there is no server for it.
    async fn refuse(&self, id: ConnectionId, client: Transport) {
        let shared = &self.shared;
        let (tap, metrics) = (&shared.tap, &shared.metrics);
        refuse(client, ReasonCode::SERVER_UNAVAILABLE, |seen| {
            let now = now();
            match seen {
                Seen::Connect(connect) => {
                    tap.identify(id, connect.client_identifier.as_str(), connect.protocol);
                }
                Seen::Bytes { direction, is_packet, bytes } => {
                    match direction {
                        Direction::ClientToServer => metrics.received(now, bytes.len() as u64, [0; 3]),
                        Direction::ServerToClient => metrics.sent(bytes.len() as u64),
                    }
                    match is_packet {
                        _ if !tap.is_observed() => {}
                        true => tap.packet(now, id, direction, bytes),
                        false => tap.raw(now, id, direction, bytes),
                    }
                }
            }
        })
        .await;
    }

    async fn relay(
        &self,
        id: ConnectionId,
        client: Transport,
        server: Transport,
        end: oneshot::Receiver<Ending>,
    ) -> CloseCause {
        let line = OnceCell::new();
        let cause = self.relay_through(id, client, server, end, &line).await;
        let Some(line) = line.get() else { return cause };
        // It may still hold back what the client is to get.
        line.ended().await;
        if line.is_cut() { CloseCause::Fault } else { cause }
    }

    /// As [`relay`](Self::relay); `line` is set if there is chaos.
    async fn relay_through(
        &self,
        id: ConnectionId,
        client: Transport,
        server: Transport,
        mut end: oneshot::Receiver<Ending>,
        line: &OnceCell<Rc<LineState>>,
    ) -> CloseCause {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let (to_client, to_server) = (Side::new(to_client), Side::new(to_server));
        let core = RefCell::new(Relay::new(self.shared.limits));
        let sides = Sides { client: &to_client, server: &to_server, line };
        let mut up = Pump::new(self, id, &core, Direction::ClientToServer, from_client, sides);
        let mut down = Pump::new(self, id, &core, Direction::ServerToClient, from_server, sides);
        let mut chaos = self.shared.chaos.clone();
        let ended = {
            let (mut going_up, mut going_down) = (pin!(up.run()), pin!(down.run()));
            let mut told = pin!(told_to_end(&mut end));
            let accepted_at = self.shared.clients().get(&id).map_or_else(now, |entry| entry.connected_at);
            let mut connect_due = pin!(sleep_until((accepted_at + self.shared.connect_timeout).into()));
            let mut may_be_late = true;
            let (mut up_end, mut down_end) = (None, None);
            let mut first = None;
            loop {
                tokio::select! {
                    biased;
                    ended = &mut going_up, if up_end.is_none() => {
                        up_end = Some(ended);
                        match ended {
                            PumpEnd::Fin => _ = first.get_or_insert(CloseCause::ClientFin),
                            PumpEnd::Reset => break Ended::Reset(*first.get_or_insert(CloseCause::ClientRst)),
                            // The server is gone: what it sent last is still on its way down.
                            PumpEnd::Blocked => {}
                        }
                    }
                    ended = &mut going_down, if down_end.is_none() => {
                        down_end = Some(ended);
                        // What waits for a CONNACK waits no more.
                        core.borrow_mut().give_up_on_connack();
                        match ended {
                            PumpEnd::Fin => _ = first.get_or_insert(CloseCause::ServerFin),
                            PumpEnd::Reset => break Ended::Reset(*first.get_or_insert(CloseCause::ServerRst)),
                            PumpEnd::Blocked => {}
                        }
                    }
                    ending = &mut told => break match ending {
                        Ending::Disconnect(reason) => Ended::Told(reason),
                        Ending::Reset => Ended::Reset(CloseCause::Proxy),
                    },
                    () = &mut connect_due, if may_be_late => {
                        may_be_late = false;
                        if core.borrow().awaits_connect() {
                            debug!(connection = %id, "no CONNECT in time");
                            break Ended::Late;
                        }
                    }
                    // Then what the client sends is looked at anew.
                    () = chaos.changed() => {}
                }
                if let (Some(up_end), Some(_)) = (up_end, down_end) {
                    // Neither side takes bytes any more and neither said why: they were reset.
                    let cause = first.unwrap_or(CloseCause::ServerRst);
                    break Ended::Both { cause, has_unread: up_end == PumpEnd::Blocked };
                }
            }
        };
        if let Ended::Told(reason) = ended
            && !to_client.is_writing.get()
        {
            self.tell(id, &core, reason, sides).await;
        }
        // What is held of packets that will never be whole has nowhere to go, but it did arrive.
        for pump in [&mut up, &mut down] {
            pump.finish();
        }
        match ended {
            Ended::Reset(cause) => {
                to_client.reset();
                to_server.reset();
                cause
            }
            Ended::Both { cause, has_unread } => {
                if has_unread {
                    up.from.drain().await;
                }
                cause
            }
            Ended::Told(_) | Ended::Late => {
                to_client.finish();
                up.from.drain().await;
                if let Ended::Late = ended { CloseCause::Timeout } else { CloseCause::Proxy }
            }
        }
    }

    /// Sends an MQTT 5 client a DISCONNECT of our own, if it is between two packets.
    async fn tell(&self, id: ConnectionId, core: &RefCell<Relay>, reason_code: ReasonCode, sides: Sides<'_>) {
        let direction = Direction::ServerToClient;
        let is_told = {
            let core = core.borrow();
            core.identity().is_some_and(|who| who.protocol == ProtocolVersion::V5)
                && core.is_between_packets(direction)
        };
        let disconnect = ControlPacket::Disconnect(Disconnect { reason_code, properties: Properties::new() });
        if is_told && let Ok(frame) = Frame::encode(disconnect, ProtocolVersion::V5) {
            self.shared.metrics.sent(frame.bytes.len() as u64);
            if self.shared.tap.is_observed() && sides.line.get().is_none() {
                self.shared.tap.packet(now(), id, direction, frame.bytes.clone());
            }
            let _ = timeout(LINGER, sides.client.write_all(&frame.bytes)).await;
        }
    }

    /// Tells observers and operators what a relay found.
    fn report(&self, id: ConnectionId, at: Instant, reports: &mut Vec<Report>, core: &mut Relay) {
        let shared = &self.shared;
        let is_packet = |report: &Report| matches!(report, Report::Packet { .. });
        for run in reports.chunk_by(|one, next| is_packet(one) && is_packet(next)) {
            match &run[0] {
                Report::Identified { client_identifier, protocol } => {
                    info!(connection = %id, client = %client_identifier, "connected");
                    shared.tap.identify(id, client_identifier, *protocol);
                    if let Some(entry) = shared.clients().get_mut(&id) {
                        entry.identity = core.identity().cloned();
                    }
                }
                // All of one direction: a relay reads one at a time.
                Report::Packet { direction, .. } => {
                    let packets = run.iter().filter_map(|report| match report {
                        Report::Packet { bytes, .. } => Some(bytes),
                        _ => None,
                    });
                    shared.tap.packets(at, id, *direction, packets);
                }
                Report::Raw { direction, bytes } => shared.tap.raw(at, id, *direction, bytes.clone()),
            }
        }
        reports.clear();
    }

    /// Counts what a read of `bytes` brought; how many PUBLISH packets.
    fn count(
        &self,
        id: ConnectionId,
        at: Instant,
        direction: Direction,
        bytes: usize,
        core: &mut Relay,
    ) -> u64 {
        let shared = &self.shared;
        let counts = core.take_counts();
        let messages = match direction {
            Direction::ClientToServer => counts.published,
            Direction::ServerToClient => counts.delivered,
        };
        match direction {
            Direction::ClientToServer => shared.metrics.received(at, bytes as u64, counts.published),
            Direction::ServerToClient => {
                shared.metrics.sent(bytes as u64);
                shared.metrics.delivered(counts.delivered);
            }
        }
        if counts.is_renamed
            && let Some(entry) = shared.clients().get_mut(&id)
        {
            entry.identity = core.identity().cloned();
        }
        if let Some(session_present) = counts.accepted
            && let Some(who) = core.identity()
        {
            if let Some(entry) = shared.clients().get_mut(&id) {
                entry.is_accepted = true;
            }
            (shared.on_event)(ProxyEvent::ClientConnected {
                connection: id,
                client_identifier: who.client_identifier.clone(),
                username: who.username.clone(),
                protocol: who.protocol,
                session_present,
            });
        }
        for (filter, qos) in core.take_granted() {
            let client_identifier =
                core.identity().map_or_else(String::new, |who| who.client_identifier.clone());
            (shared.on_event)(ProxyEvent::Subscribed { connection: id, client_identifier, filter, qos });
        }
        if counts.subscribed > 0 || counts.subscriptions != 0 {
            shared.metrics.subscriptions_changed(counts.subscribed, counts.subscriptions);
            if let Some(entry) = shared.clients().get_mut(&id) {
                entry.subscriptions = core
                    .subscriptions()
                    .iter()
                    .map(|(filter, granted)| {
                        (filter.clone(), granted.options, granted.subscription_identifier)
                    })
                    .collect();
            }
        }
        messages.iter().sum()
    }
}

/// How a relay ended.
enum Ended {
    /// One side sent RST.
    Reset(CloseCause),
    /// Both directions are over; `has_unread` if the client may have sent what nobody took.
    Both { cause: CloseCause, has_unread: bool },
    /// By an operator, or because the proxy stops.
    Told(ReasonCode),
    /// Without a CONNECT in time.
    Late,
}

/// How a direction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PumpEnd {
    /// The side that was read closed its half, and the other was told.
    Fin,
    /// The side that was read sent RST.
    Reset,
    /// The side that is written to takes nothing any more.
    Blocked,
}

/// Where one side is written to.
struct Side {
    write: RefCell<WriteHalf>,
    /// Whether a packet may have been written in part.
    is_writing: Cell<bool>,
}

impl Side {
    fn new(write: WriteHalf) -> Self {
        Self { write: RefCell::new(write), is_writing: Cell::new(false) }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.write.borrow().try_write(&[IoSlice::new(bytes)])
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|context| self.write.borrow().poll_writable(context)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn finish(&self) -> bool {
        self.write.borrow().finish()
    }

    fn reset(self) {
        self.write.into_inner().reset();
    }
}

/// Both of them, and what lies before the client's.
#[derive(Clone, Copy)]
struct Sides<'a> {
    client: &'a Side,
    server: &'a Side,
    line: &'a OnceCell<Rc<LineState>>,
}

/// One direction of a relay.
struct Pump<'a> {
    thread: &'a RelayThread,
    id: ConnectionId,
    core: &'a RefCell<Relay>,
    direction: Direction,
    from: ReadHalf,
    sides: Sides<'a>,
    to: &'a Side,
    reports: Vec<Report>,
    /// When what is on its way was read, and how many PUBLISH packets are among it.
    carried: (Instant, u64),
    /// Whether what is read has ended, which the other side is told once nothing waits any more.
    has_ended: bool,
}

/// What a read came to, when it is not yet passed on.
enum Step {
    /// To be passed on, after the observers are ready if there are any.
    Pass(Bytes),
    /// Packets of our own.
    Reply(Bytes),
    Fin,
    Reset,
    Blocked,
}

impl<'a> Pump<'a> {
    fn new(
        thread: &'a RelayThread,
        id: ConnectionId,
        core: &'a RefCell<Relay>,
        direction: Direction,
        from: ReadHalf,
        sides: Sides<'a>,
    ) -> Self {
        let to = match direction {
            Direction::ClientToServer => sides.server,
            Direction::ServerToClient => sides.client,
        };
        Self {
            thread,
            id,
            core,
            direction,
            from,
            sides,
            to,
            reports: Vec::new(),
            carried: (now(), 0),
            has_ended: false,
        }
    }

    async fn run(&mut self) -> PumpEnd {
        loop {
            let bytes = match poll_fn(|context| self.poll_step(context)).await {
                Step::Pass(bytes) => bytes,
                Step::Reply(bytes) => {
                    self.report_replies(&bytes);
                    if self.pass(bytes).await.is_err() {
                        return PumpEnd::Blocked;
                    }
                    // The other direction may have waited for it.
                    tokio::task::yield_now().await;
                    continue;
                }
                Step::Fin => {
                    let rest = self.finish();
                    if !rest.is_empty() && self.pass(rest).await.is_err() {
                        return PumpEnd::Blocked;
                    }
                    // A side that is gone needs not to be told.
                    self.to.finish();
                    return PumpEnd::Fin;
                }
                Step::Reset => {
                    let rest = self.finish();
                    let _ = self.to.try_write(&rest);
                    return PumpEnd::Reset;
                }
                Step::Blocked => return PumpEnd::Blocked,
            };
            if self.pass(bytes).await.is_err() {
                return PumpEnd::Blocked;
            }
            self.note_passed();
        }
    }

    /// All that was received is on its way.
    fn note_passed(&mut self) {
        let (read_at, messages) = self.carried;
        if messages > 0 {
            self.carried.1 = 0;
            let after = now().saturating_duration_since(read_at);
            self.thread.shared.metrics.proxied(self.direction, after, messages);
        }
        if self.direction == Direction::ClientToServer && self.core.borrow_mut().take_asked() {
            self.thread.interception.borrow_mut().passed(self.id);
        }
    }

    /// Has `f` take bytes while those who want to see and to be asked look on, and reports what they saw.
    fn watched<R>(
        &mut self,
        count: usize,
        f: impl FnOnce(&mut Relay, Watch<'_>, &mut Vec<Report>) -> R,
    ) -> R {
        let now = now();
        let is_observed = self.is_observed();
        let mut core = self.core.borrow_mut();
        let mut interception = self.thread.interception.borrow_mut();
        let is_active = interception.is_active();
        let asked = is_active.then_some(Asked { interception: &mut interception, now, connection: self.id });
        let result = f(&mut core, Watch { is_observed, asked }, &mut self.reports);
        interception.settle();
        drop(interception);
        self.leave_to_line(is_observed);
        self.thread.report(self.id, now, &mut self.reports, &mut core);
        self.carried = (now, self.thread.count(self.id, now, self.direction, count, &mut core));
        result
    }

    /// Reads and passes on until there is no more to read, the other side takes no more, or there is
    /// something to wait for.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let thread = self.thread;
        if self.direction == Direction::ClientToServer && thread.shared.chaos.is_on() {
            self.put_line();
        }
        for _ in 0..TURN_READS {
            if self.direction == Direction::ClientToServer {
                if self.core.borrow().is_resumable() {
                    return Poll::Ready(Step::Pass(self.watched(0, Relay::resume)));
                }
                if self.has_ended {
                    // The other direction is about to read a CONNACK, or to end without one.
                    return if self.core.borrow().is_waiting() {
                        Poll::Pending
                    } else {
                        Poll::Ready(Step::Fin)
                    };
                }
            }
            if let Some(replies) = self.take_replies() {
                return Poll::Ready(Step::Reply(replies));
            }
            if self.owes_too_much() {
                // The other direction is about to write them.
                return Poll::Pending;
            }
            let mut scratch = thread.scratch.borrow_mut();
            let mut read = ReadBuf::new(&mut scratch);
            if ready!(Pin::new(&mut self.from).poll_read(context, &mut read)).is_err() {
                return Poll::Ready(Step::Reset);
            }
            let read = read.filled();
            if read.is_empty() {
                self.has_ended = true;
                if self.direction == Direction::ClientToServer && self.core.borrow().is_waiting() {
                    return Poll::Pending;
                }
                return Poll::Ready(Step::Fin);
            }
            let is_observed = self.is_observed();
            let direction = self.direction;
            let forward = self
                .watched(read.len(), |core, watch, reports| core.receive(direction, read, watch, reports));
            if direction == Direction::ServerToClient && self.core.borrow().is_resumable() {
                // The other direction has waited for it.
                context.waker().wake_by_ref();
            }
            let bytes = match forward {
                Forward::Received if is_observed => Bytes::copy_from_slice(read),
                Forward::Received => match self.to.try_write(read) {
                    Ok(count) if count == read.len() => {
                        self.note_passed();
                        continue;
                    }
                    Ok(count) => Bytes::copy_from_slice(&read[count..]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Bytes::copy_from_slice(read),
                    Err(_) => return Poll::Ready(Step::Blocked),
                },
                Forward::Bytes(bytes) => bytes,
            };
            // An observer may have to make what it saw durable even when nothing is passed on.
            return Poll::Ready(Step::Pass(bytes));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has chaos see what passes between the client and the relay from here on. Waits for a packet that is on its way to
    /// the client.
    fn put_line(&mut self) {
        let Sides { client, line, .. } = self.sides;
        if line.get().is_some() || client.is_writing.get() {
            return;
        }
        let shared = Arc::clone(&self.thread.shared);
        let core = self.core.borrow();
        let splice = Splice {
            identity: shared.tap.identity(self.id),
            from_client: core.begun(Direction::ClientToServer),
            from_server: core.begun(Direction::ServerToClient),
        };
        let parts = LineParts {
            watch: shared.chaos.clone(),
            tap: shared.tap.clone(),
            connection: self.id,
            lose_session: Box::new(move |connect| Box::pin(lose_session(Arc::clone(&shared), connect))),
        };
        let state = line::put_in(parts, splice, &mut self.from, &mut client.write.borrow_mut());
        line.get_or_init(|| state);
    }

    /// Who a client is concerns the relay, whoever reports its packets.
    fn leave_to_line(&mut self, is_observed: bool) {
        if !is_observed {
            self.reports.retain(|report| matches!(report, Report::Identified { .. }));
        }
    }

    /// Whether what is read is to be reported; a line reports by itself.
    fn is_observed(&self) -> bool {
        self.thread.shared.tap.is_observed() && self.sides.line.get().is_none()
    }

    /// What the client is to be answered in place of the server, when that cuts no packet in two.
    fn take_replies(&self) -> Option<Bytes> {
        let is_down = self.direction == Direction::ServerToClient;
        let mut core = self.core.borrow_mut();
        let may = is_down && core.has_replies() && core.is_between_packets(self.direction);
        may.then(|| core.take_replies())
    }

    /// Whether the client leaves answers unread, so that nothing more is read from it.
    fn owes_too_much(&self) -> bool {
        self.direction == Direction::ClientToServer && self.core.borrow().owes_too_much()
    }

    fn report_replies(&self, mut bytes: &[u8]) {
        let shared = &self.thread.shared;
        shared.metrics.sent(bytes.len() as u64);
        if !self.is_observed() {
            return;
        }
        while let Ok(Some(size)) = Frame::size(bytes)
            && size <= bytes.len()
        {
            let (packet, rest) = bytes.split_at(size);
            shared.tap.packet(now(), self.id, self.direction, Bytes::copy_from_slice(packet));
            bytes = rest;
        }
    }

    async fn pass(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.is_observed() {
            self.thread.shared.tap.ready().await;
        }
        self.to.is_writing.set(true);
        self.to.write_all(&bytes).await?;
        self.to.is_writing.set(false);
        Ok(())
    }

    /// Reports what is held of a packet that will never be whole; what of it was not passed on.
    fn finish(&mut self) -> Bytes {
        let is_observed = self.is_observed();
        let mut core = self.core.borrow_mut();
        let rest = core.finish(self.direction, is_observed, &mut self.reports);
        self.leave_to_line(is_observed);
        self.thread.report(self.id, now(), &mut self.reports, &mut core);
        rest
    }
}

/// Has the upstream forget the Session of the client that sent `connect`: by a connection of our own that takes it over,
/// wants none, and ends.
async fn lose_session(shared: Arc<Shared>, connect: Bytes) {
    let lost = timeout(shared.upstream_timeout, try_lose_session(&shared, &connect)).await;
    if let Err(error) = lost.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        warn!(upstream = %shared.upstream, %error, "cannot have the upstream lose a session");
    }
}

async fn try_lose_session(shared: &Shared, connect: &Bytes) -> io::Result<()> {
    let Some(mut connect) = Connect::read(connect) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let protocol = connect.protocol;
    connect.clean_start = true;
    connect.will = None;
    connect.properties.retain(|property| !matches!(property, Property::SessionExpiryInterval(_)));
    let frame = Frame::encode(ControlPacket::Connect(connect), protocol).map_err(io::Error::other)?;
    let (mut read, write) = shared.connect().await?.split();
    write.write_all(&frame.bytes).await?;
    let mut frames = FrameReader::new(SESSION_ANSWER_BYTES);
    frames.set_protocol(protocol);
    let answer = loop {
        if let Some(frame) = frames.next_frame().map_err(io::Error::other)? {
            break frame.packet;
        }
        if read.read_buf(frames.buffer()).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    match answer {
        ControlPacket::Connack(connack) if !connack.reason_code.is_error() => {
            write.write_all(&[0xE0, 0]).await?;
            write.finish();
            read.drain().await;
            Ok(())
        }
        other => Err(io::Error::other(format!("it answers {}", other.name()))),
    }
}

/// Returns why, when an operator ends this relay or the proxy stops.
async fn told_to_end(end: &mut oneshot::Receiver<Ending>) -> Ending {
    match end.await {
        Ok(ending) => ending,
        // Nobody can say so any more.
        Err(_) => pending().await,
    }
}

/// The runtime's clock, so that a paused one is followed.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
