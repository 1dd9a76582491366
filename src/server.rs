//! The composition root: a checked [`Config`] becomes listeners, a broker or a proxy, and the control
//! plane before them. Decides nothing.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    runtime::Handle,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    broker::{self, BrokerEvent, DropReason},
    config::{Config, ListenConfig, MqttConfig, RingConfig},
    control::{Addresses, BrokerServer, Control, ControlParts, MqttServer, ProxyServer, fault_families},
    event::{EventBus, What},
    fault::{Chaos, ChaosOptions},
    gateway::{self, Access, BadBinding, Gateway},
    interceptor::Interest,
    metrics::Metrics,
    mock::{Fired, MockEvent},
    net::{
        Asking, BadUrl, BrokerHandle, BrokerOptions, ChaosWatch, Gate, MockHandle, MockOptions, MqttUrl,
        ProxyHandle, ProxyOptions, RelayLimits, WebhookHandle, WebhookOptions, bind, leads_to,
        reserve_descriptors, spawn_broker, spawn_proxy,
    },
    packet::ReasonCode,
    recorder::{FlightOptions, FlightRecorder, Trigger},
    recording::{MockFired, RecordingSpec},
    store::StoreOptions,
    tap::Tap,
};

/// For name resolution and TCP together; then the client is told that there is no server.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that listens: whoever connects after [`bind`](Self::bind) waits, and is served once it
/// [runs](Self::run). What is asked of its [`control`](Self::control) before, such as to record, is
/// in force for the first client.
pub struct Server {
    control: Control,
    gateway: Gateway,
    http: Option<TcpListener>,
    grpc: Option<TcpListener>,
    mqtt: Option<Mqtt>,
    gate: Gate,
    addresses: Addresses,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen for {what} on {address}: {error}")]
    Listen { what: &'static str, address: String, error: io::Error },
    #[error("mqtt.upstream: {0}")]
    Upstream(#[from] BadUrl),
    #[error("mqtt.upstream: {upstream} leads back to this proxy, which listens on {address}")]
    Loop { upstream: MqttUrl, address: SocketAddr },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("control plane: {0}")]
    Gateway(#[from] BadBinding),
}

impl BindError {
    /// Whether another port would do.
    pub(crate) fn is_about_a_port(&self) -> bool {
        match self {
            Self::Listen { error, .. } => error.kind() == io::ErrorKind::AddrInUse,
            Self::Loop { .. } => true,
            Self::Upstream(_) | Self::Thread(_) | Self::Gateway(_) => false,
        }
    }
}

/// The threads that move MQTT bytes.
enum Mqtt {
    Broker(BrokerHandle),
    Proxy(ProxyHandle),
}

impl Server {
    /// Listens on every address that `config` enables.
    ///
    /// # Errors
    /// The first address that cannot be listened on, or a proxy that would be its own upstream; then
    /// nothing was started.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let upstream = config.mqtt.upstream.as_deref().map(str::parse::<MqttUrl>).transpose()?;
        let listen = |what, host: &str, port| {
            bind(host, port).map_err(|error| BindError::Listen {
                what,
                address: format!("{host}:{port}"),
                error,
            })
        };
        let mqtt_listener = match &config.mqtt {
            MqttConfig { enabled: true, host, port, .. } => Some(listen("MQTT", host, *port)?),
            _ => None,
        };
        if let Some(listener) = &mqtt_listener {
            let sockets = if upstream.is_some() { 2 } else { 1 };
            reserve_descriptors(listener, config.mqtt.max_connections.saturating_mul(sockets));
        }
        let control_listener = |what, of: &ListenConfig| match of.enabled {
            true => {
                let listener = TcpListener::from_std(listen(what, &of.host, of.port)?);
                listener.map(Some).map_err(|error| BindError::Listen { what, address: of.address(), error })
            }
            false => Ok(None),
        };
        let http = control_listener("HTTP", &config.http)?;
        let grpc = control_listener("gRPC", &config.grpc)?;
        let addresses = Addresses {
            mqtt: mqtt_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            http: http.as_ref().and_then(|listener| listener.local_addr().ok()),
            grpc: grpc.as_ref().and_then(|listener| listener.local_addr().ok()),
        };
        if let (Some(upstream), Some(address)) = (&upstream, addresses.mqtt)
            && leads_to(upstream, address).await
        {
            return Err(BindError::Loop { upstream: upstream.clone(), address });
        }
        let (tap, metrics, events) = (Tap::new(), Arc::new(Metrics::new()), EventBus::new());
        let gate = Gate::default();
        let seed = config.mqtt.seed.unwrap_or_else(drawn_seed);
        let asking = make_asking(&config, seed, &tap, &metrics, &events);
        let (chaos, chaos_watch) = make_chaos(&config, seed, &metrics, &events);
        let parts = Parts {
            gate: &gate,
            tap: &tap,
            metrics: &metrics,
            events: &events,
            asking: &asking,
            chaos: &chaos_watch,
        };
        let mqtt = match (mqtt_listener, upstream) {
            (None, _) => None,
            (Some(listener), None) => Some(Mqtt::Broker(start_broker(listener, &config.mqtt, parts)?)),
            (Some(listener), Some(upstream)) => {
                Some(Mqtt::Proxy(start_proxy(listener, upstream, &config, parts)?))
            }
        };
        let stop = CancellationToken::new();
        let server = mqtt.as_ref().map(|mqtt| -> Arc<dyn MqttServer> {
            match (mqtt, addresses.mqtt) {
                (Mqtt::Broker(broker), Some(address)) => {
                    Arc::new(BrokerServer::new(broker.clone(), MqttUrl::of_listener(address), tap.clone()))
                }
                (Mqtt::Broker(_), None) => unreachable!("a broker was bound"),
                (Mqtt::Proxy(proxy), _) => Arc::new(ProxyServer::new(proxy.clone(), asking.clone())),
            }
        });
        metrics.make_latest();
        if let Some(server) = server.clone() {
            #[expect(clippy::async_yields_async, reason = "what comes of messages is awaited apart")]
            let publish = move |messages| {
                let server = Arc::clone(&server);
                async move { server.publish_all(messages).await }
            };
            tokio::spawn(asking.mocks.clone().answer(stop.clone(), publish));
        }
        // Whoever connects is served later, so it misses nobody.
        let flight = server.as_ref().zip(config.recorder.ring.as_ref());
        let flight = flight.map(|(server, ring)| {
            let spec = RecordingSpec::new(server.source());
            Arc::new(FlightRecorder::start(&tap, &spec, flight_options(ring)))
        });
        let control = Control::new(ControlParts {
            server,
            tap,
            metrics,
            events,
            store: StoreOptions {
                flush_interval: config.store.flush_interval,
                recorder_memory: config.recorder.memory_bytes,
                retention: config.store.retention,
                ..StoreOptions::new(&config.store.path)
            },
            on_overload: config.recorder.on_overload,
            flight,
            addresses,
            mocks: asking.mocks,
            webhooks: Some(asking.webhooks),
            chaos,
            stop,
        });
        tokio::spawn(control.clone().follow_triggers());
        let is_exposed =
            [addresses.http, addresses.grpc].into_iter().flatten().any(|address| !address.ip().is_loopback());
        let access = Access { token: config.api_token, any_host: is_exposed };
        let gateway = Gateway::new(control.clone(), access)?;
        let shown = |address: Option<SocketAddr>| address.map(tracing::field::display);
        info!(
            mqtt = shown(addresses.mqtt),
            http = shown(addresses.http),
            grpc = shown(addresses.grpc),
            seed,
            "listening"
        );
        Ok(Self { control, gateway, http, grpc, mqtt, gate, addresses })
    }

    /// Where it listens, with the ports in use.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Runs until `shutdown` completes, somebody asks for it over the API, or the MQTT threads end.
    ///
    /// Then clients are disconnected, recordings completed, calls under way answered: each for a
    /// bounded time.
    ///
    /// # Errors
    /// When the control plane's listeners fail, or the MQTT threads ended by themselves.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> io::Result<()> {
        self.run_traffic(shutdown).await.close().await
    }

    /// The first half of [`run`](Self::run): returns when MQTT has ended, while recordings go on and
    /// the control plane still answers.
    pub(crate) async fn run_traffic(self, shutdown: impl Future<Output = ()> + Send) -> Quiet {
        let Self { control, gateway, http, grpc, mqtt, gate, .. } = self;
        gate.open();
        let stop = control.stop().clone();
        let stopping = stop.clone();
        let serving = gateway::serve(gateway, http, grpc, async move { stopping.cancelled().await });
        let mut serving = tokio::spawn(serving);
        let mqtt_stopped = async {
            match &mqtt {
                Some(Mqtt::Broker(broker)) => broker.stopped().await,
                Some(Mqtt::Proxy(proxy)) => proxy.stopped().await,
                None => std::future::pending().await,
            }
        };
        let mut failed = None;
        let mut served = None;
        tokio::select! {
            () = shutdown => {}
            () = stop.cancelled() => {}
            () = mqtt_stopped => {
                error!("the MQTT threads ended");
                failed = Some(io::Error::other("the MQTT threads ended"));
            }
            result = &mut serving => served = Some(result),
        }
        info!("shutting down");
        // Traffic first, so that recordings hold all of it.
        match &mqtt {
            Some(Mqtt::Broker(broker)) => broker.shut_down().await,
            Some(Mqtt::Proxy(proxy)) => proxy.shut_down().await,
            None => {}
        }
        Quiet { control, serving, served, failed }
    }
}

/// A server whose MQTT has ended.
pub(crate) struct Quiet {
    control: Control,
    serving: JoinHandle<io::Result<()>>,
    /// What `serving` came to, if that is why the server ended.
    served: Option<Result<io::Result<()>, JoinError>>,
    failed: Option<io::Error>,
}

impl Quiet {
    /// Completes recordings and ends the control plane.
    pub(crate) async fn close(self) -> io::Result<()> {
        self.control.close().await;
        let served = match self.served {
            Some(served) => served,
            None => self.serving.await,
        };
        match self.failed {
            Some(error) => Err(error),
            None => served.map_err(io::Error::other)?,
        }
    }
}

/// What whoever moves MQTT bytes is given.
#[derive(Clone, Copy)]
struct Parts<'a> {
    gate: &'a Gate,
    tap: &'a Tap,
    metrics: &'a Arc<Metrics>,
    events: &'a EventBus,
    asking: &'a Asking,
    chaos: &'a ChaosWatch,
}

fn flight_options(ring: &RingConfig) -> FlightOptions {
    FlightOptions {
        limits: ring.limits,
        // They are good: the settings were checked.
        triggers: ring.triggers.iter().filter_map(|spec| Trigger::new(spec).ok()).collect(),
        cooldown: ring.cooldown,
    }
}

/// Below 2^53, so that every program that reads JSON keeps all of its digits.
fn drawn_seed() -> u64 {
    // The last 80 bits are random.
    ulid::Ulid::new().0 as u64 >> 11
}

/// Mocks and webhooks of the settings.
fn make_asking(config: &Config, seed: u64, tap: &Tap, metrics: &Metrics, events: &EventBus) -> Asking {
    let interest = Interest::default();
    let mocks = make_mocks(config, seed, &interest, tap, metrics, events);
    let webhooks = make_webhooks(config, seed, &interest, &mocks, metrics, events);
    Asking { interest, mocks, webhooks }
}

fn recorded(fired: &Fired) -> MockFired {
    MockFired {
        mock: fired.mock.clone(),
        client_identifier: fired.client_identifier.clone(),
        topic: fired.topic.clone(),
        messages: fired.scheduled,
    }
}

fn make_mocks(
    config: &Config,
    seed: u64,
    interest: &Interest,
    tap: &Tap,
    metrics: &Metrics,
    events: &EventBus,
) -> MockHandle {
    let options = MockOptions {
        seed,
        limits: config.mqtt.mock_limits,
        environment: config.mqtt.mock_env.clone(),
        folder: config.folder.clone(),
        interest: interest.clone(),
    };
    let (tap, events) = (tap.clone(), events.clone());
    let told = move |event| {
        if let MockEvent::Fired(fired) = &event {
            tap.mock(tokio::time::Instant::now().into_std(), || recorded(fired));
        }
        events.emit(What::Mock(event));
    };
    let mocks = MockHandle::new(options, Box::new(told));
    let asked = mocks.clone();
    metrics.attach_families(Box::new(move || asked.families()));
    // They are good: the settings were checked.
    if let Err((position, error)) = mocks.set(config.mqtt.mocks.clone()) {
        warn!(position, %error, "a mock of the settings is not good any more");
    }
    mocks
}

fn make_webhooks(
    config: &Config,
    seed: u64,
    interest: &Interest,
    mocks: &MockHandle,
    metrics: &Metrics,
    events: &EventBus,
) -> WebhookHandle {
    let events = events.clone();
    let webhooks = WebhookHandle::start(WebhookOptions {
        runtime: Handle::current(),
        environment: config.mqtt.mock_env.clone(),
        folder: config.folder.clone(),
        state: mocks.shared_state(),
        seed,
        queue_bytes: config.mqtt.webhook_queue_bytes,
        interest: interest.clone(),
        on_event: Box::new(move |event| events.emit(What::Webhook(event))),
    });
    let asked = webhooks.clone();
    metrics.attach_families(Box::new(move || asked.families()));
    // They are good: the settings were checked.
    if let Err(error) = webhooks.replace_all(config.mqtt.webhooks.clone()) {
        warn!(%error, "a webhook of the settings is not good any more");
    }
    webhooks
}

/// Rules of the settings.
fn make_chaos(config: &Config, seed: u64, metrics: &Metrics, events: &EventBus) -> (Chaos, ChaosWatch) {
    let events = events.clone();
    let options = ChaosOptions { seed, ..ChaosOptions::default() };
    let (chaos, watch) =
        ChaosWatch::start(options, config.mqtt.chaos_bytes, move |fault| events.emit_fault(fault));
    let asked = chaos.clone();
    metrics.attach_families(Box::new(move || fault_families(&asked)));
    // They are good: the settings were checked.
    if let Err(error) = chaos.set(&config.mqtt.chaos) {
        warn!(%error, "a rule of the settings is not good any more");
    }
    (chaos, watch)
}

fn start_broker(
    listener: std::net::TcpListener,
    config: &MqttConfig,
    parts: Parts<'_>,
) -> Result<BrokerHandle, BindError> {
    let Parts { gate, tap, metrics, .. } = parts;
    let (events, mocks) = (parts.events.clone(), parts.asking.mocks.clone());
    let options = BrokerOptions {
        broker: broker::Options {
            limits: config.limits.clone(),
            sys_interval: config.sys_interval,
            scram_users: config.scram_users.clone(),
        },
        max_connections: config.max_connections,
        // Its last 80 bits are random.
        seed: ulid::Ulid::new().0 as u64,
        gate: gate.clone(),
        tap: tap.clone(),
        metrics: Arc::clone(metrics),
        interception: parts.asking.interception(),
        chaos: parts.chaos.clone(),
        on_event: Box::new(move |event| {
            log(&event);
            mocks.handle_event(&event);
            events.emit(What::Broker(event));
        }),
    };
    let broker = spawn_broker(vec![listener], options).map_err(BindError::Thread)?;
    let asked = broker.downgrade();
    metrics.attach_broker(Box::new(move || {
        let broker = asked.upgrade();
        Box::pin(async move { broker?.run(|broker, _| broker.stats()).await.ok() })
    }));
    Ok(broker)
}

fn start_proxy(
    listener: std::net::TcpListener,
    upstream: MqttUrl,
    config: &Config,
    parts: Parts<'_>,
) -> Result<ProxyHandle, BindError> {
    let Parts { gate, tap, metrics, .. } = parts;
    let (events, mocks, asking) = (parts.events.clone(), parts.asking.mocks.clone(), parts.asking.clone());
    let options = ProxyOptions {
        upstream,
        max_connections: config.mqtt.max_connections,
        connect_timeout: UPSTREAM_TIMEOUT,
        threads: 0,
        limits: RelayLimits { record: config.recorder.packet_bytes, ..RelayLimits::default() },
        gate: gate.clone(),
        tap: tap.clone(),
        metrics: Arc::clone(metrics),
        interception: Box::new(move || asking.interception()),
        chaos: parts.chaos.clone(),
        on_event: Box::new(move |event| {
            if let Some(event) = event.into_broker_event() {
                mocks.handle_event(&event);
                events.emit(What::Broker(event));
            }
        }),
    };
    spawn_proxy(vec![listener], options).map_err(BindError::Thread)
}

fn log(event: &BrokerEvent) {
    match event {
        BrokerEvent::ClientConnected { connection, client_identifier, protocol, .. } => {
            info!(%connection, client = %client_identifier, protocol = protocol.name(), "connected");
        }
        BrokerEvent::ClientDisconnected { connection, client_identifier, reason } => {
            let reason = reason.map_or("connection lost", ReasonCode::name);
            info!(%connection, client = %client_identifier, reason, "disconnected");
        }
        BrokerEvent::Dropped { client_identifier, reason: DropReason::QueueFull } => {
            warn!(client = %client_identifier, "its queue is full: messages are dropped until there is room");
        }
        BrokerEvent::Dropped { client_identifier, reason } => {
            debug!(client = %client_identifier, reason = reason.name(), "a message was dropped");
        }
        BrokerEvent::Subscribed { connection, filter, .. } => debug!(%connection, filter, "subscribed"),
        BrokerEvent::Unsubscribed { connection, filter } => debug!(%connection, filter, "unsubscribed"),
    }
}

#[cfg(test)]
mod tests;
