//! The composition root: a checked [`Config`] becomes listeners, a broker or a proxy, and the control
//! plane before them. Decides nothing.

mod builder;
mod handles;
mod running;

use std::{future::Future, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    runtime::Handle,
    task::{JoinError, JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    broker::{self, BrokerEvent, DropReason, Durability},
    config::{
        Config, ConnectionLimits, ListenConfig, MqttConfig, RingConfig, UpstreamTlsConfig, WebSocketConfig,
    },
    control::{
        Addresses, BrokerServer, Control, ControlError, ControlParts, MqttServer, Proxies, ProxyParts,
        ProxyServer, SettingsInForce, TokensInForce, fault_families,
    },
    event::{EventBus, What},
    fault::{Chaos, ChaosOptions},
    gateway::{self, Access, BadBinding, Gateway, OtherHosts, Port},
    interceptor::{Interest, Party},
    metrics::{Family, Metrics},
    mock::{Fired, MockEvent},
    net::{
        Admission, Asking, BadUrl, BrokerHandle, BrokerOptions, ChaosWatch, DoorOptions, Entrance, Gate,
        Guests, JournalHandle, MockHandle, MockOptions, MqttUrl, Persistence, ProxyHandle, ProxyOptions,
        RelayLimits, WebSocketOptions, WebhookHandle, WebhookOptions, bind, leads_to, prepare,
        reserve_descriptors, spawn_broker, spawn_door, spawn_proxy,
        tls::{ServerTls, ServerTlsOptions, TlsError, TlsFiles, identity},
        watch_peers,
    },
    packet::ReasonCode,
    recorder::{FlightOptions, FlightRecorder, Trigger},
    recording::{MockFired, RecordingSpec},
    store::{SessionStore, StoreError, StoreOptions},
    tap::Tap,
    telemetry::Telemetry,
};

pub use self::{
    builder::{ServerBuilder, StartError},
    handles::{ActiveRecording, ChaosRules, Messages, MessagesError, Mocks, Recordings, Unexpected},
    running::{RunningServer, WaitError},
};

/// A server that listens: whoever connects after [`bind`](Self::bind) waits, and is served once it
/// [runs](Self::run). What is asked of its [`control`](Self::control) before, such as to record, is
/// in force for the first client.
pub struct Server {
    control: Control,
    gateway: Gateway,
    http: Option<Port>,
    grpc: Option<Port>,
    mqtt: Option<Mqtt>,
    gate: Gate,
    addresses: Addresses,
    sessions: Option<Arc<SessionStore>>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen for {what} on {address}: {error}")]
    Listen { what: &'static str, address: String, error: io::Error },
    #[error("mqtt.upstream: {0}")]
    Upstream(BadUrl),
    #[error("mqtt.upstream: {upstream} leads back to this proxy, which listens on {address}")]
    Loop { upstream: Box<MqttUrl>, address: SocketAddr },
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("mqtt.durability: {0}")]
    Sessions(StoreError),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("{0}")]
    Proxies(ControlError),
    #[error("control plane: {0}")]
    Gateway(#[from] BadBinding),
}

impl BindError {
    /// Whether another port would do.
    pub(crate) fn is_about_a_port(&self) -> bool {
        match self {
            Self::Listen { error, .. } => error.kind() == io::ErrorKind::AddrInUse,
            Self::Loop { .. } => true,
            Self::Proxies(error) => matches!(error, ControlError::CannotListen { .. }),
            Self::Upstream(_) | Self::Tls(_) | Self::Sessions(_) | Self::Thread(_) | Self::Gateway(_) => {
                false
            }
        }
    }
}

/// The threads that move MQTT bytes.
enum Mqtt {
    Broker(BrokerHandle),
    Proxy(ProxyHandle),
}

impl Server {
    /// A server inside another program, such as a test, without settings of file and environment.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = mockforge::Server::builder().port(0).start().await?;
    /// // … clients connect to server.port(), or server.url() …
    /// server.publish("devices/d1/set", "on").await?;
    /// assert_eq!(server.stats().await.active_connections, 0);
    /// server.stop().await?; // or drop it
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Listens on every address that `config` enables.
    ///
    /// # Errors
    /// The first address that cannot be listened on, or a proxy that would be its own upstream; then
    /// nothing was started.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let settings = SettingsInForce::new(config.clone());
        let upstream = upstream(&config.mqtt)?;
        let mqtt_listener = match &config.mqtt {
            MqttConfig { enabled: true, host, port, .. } => Some(listen("MQTT", host, *port)?),
            _ => None,
        };
        if let Some(listener) = &mqtt_listener {
            let sockets = if upstream.is_some() { 2 } else { 1 };
            reserve_descriptors(listener, config.mqtt.connections.total.saturating_mul(sockets));
        }
        let http = control_port("HTTP", &config.http, &config.folder)?;
        let grpc = control_port("gRPC", &config.grpc, &config.folder)?;
        let entrances = entrances(&config.mqtt)?;
        let of_ports = [&http, &grpc].into_iter().flatten().filter_map(|port| port.tls.as_ref());
        let of_listeners = entrances.certificates.iter().chain(of_ports).cloned();
        let mut certificates: Vec<_> = of_listeners.map(|tls| tls as Arc<dyn TlsFiles>).collect();
        let laid = [&entrances.tls, &entrances.ws, &entrances.wss].map(Option::as_ref);
        let laid = laid.into_iter().flatten().map(|entrance| &entrance.listener);
        for listener in mqtt_listener.iter().chain(laid) {
            let ConnectionLimits { keepalive, unacknowledged, .. } = config.mqtt.connections;
            if let Err(error) = watch_peers(listener, keepalive, unacknowledged) {
                warn!(%error, "clients that are gone without a word may not be noticed");
            }
        }
        let addresses = Addresses {
            mqtt: mqtt_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            mqtts: entrances.tls.as_ref().and_then(Entrance::address),
            ws: entrances.ws.as_ref().and_then(Entrance::address),
            wss: entrances.wss.as_ref().and_then(Entrance::address),
            http: http.as_ref().and_then(|port| port.listener.local_addr().ok()),
            grpc: grpc.as_ref().and_then(|port| port.listener.local_addr().ok()),
            http_tls: http.as_ref().is_some_and(|port| port.tls.is_some()),
            grpc_tls: grpc.as_ref().is_some_and(|port| port.tls.is_some()),
        };
        if let Some(upstream) = &upstream {
            for address in addresses.of_mqtt() {
                if leads_to(upstream, address).await {
                    return Err(BindError::Loop { upstream: Box::new(upstream.clone()), address });
                }
            }
            certificates.extend(prepare(upstream).await?.map(|tls| tls as Arc<dyn TlsFiles>));
        }
        let (tap, metrics, events) = (Tap::new(), Arc::new(Metrics::new()), EventBus::new());
        let gate = Gate::default();
        let seed = config.mqtt.seed.unwrap_or_else(drawn_seed);
        let telemetry = Telemetry::start(&config.telemetry).await;
        let asked = telemetry.clone();
        metrics.attach_families(Box::new(move || asked.families()));
        let asking = make_asking(&config, seed, &tap, &metrics, &events, &telemetry);
        asking.interest.set(Party::Traces, telemetry.traces());
        let (chaos, chaos_watch) = make_chaos(&config, seed, &metrics, &events);
        count_blocked(&tap, &metrics);
        let parts = Parts {
            admission: &Admission::new(config.mqtt.connections),
            gate: &gate,
            tap: &tap,
            metrics: &metrics,
            events: &events,
            asking: &asking,
            telemetry: &telemetry,
            chaos: &chaos_watch,
        };
        let (sessions, persistence) = match (&mqtt_listener, &upstream) {
            (Some(_), None) => open_sessions(&config, &metrics).await?,
            _ => (None, None),
        };
        let guests = start_door(entrances, &config.mqtt, upstream.as_ref(), parts)?;
        let mqtt = match (mqtt_listener, upstream) {
            (None, _) => None,
            (Some(listener), None) => {
                Some(Mqtt::Broker(start_broker(listener, guests, persistence, &config.mqtt, parts)?))
            }
            (Some(listener), Some(upstream)) => {
                Some(Mqtt::Proxy(start_proxy(listener, guests, upstream, &config, parts)?))
            }
        };
        let stop = CancellationToken::new();
        let proxies = mqtt.as_ref().map(|mqtt| make_proxies(mqtt, addresses, &config, parts));
        let server = mqtt.as_ref().map(|mqtt| -> Arc<dyn MqttServer> {
            match mqtt {
                Mqtt::Broker(broker) => Arc::new(BrokerServer::new(broker.clone(), tap.clone())),
                Mqtt::Proxy(proxy) => Arc::new(ProxyServer::new(proxy.clone(), asking.clone(), None)),
            }
        });
        metrics.make_latest();
        if let Some((server, proxies)) = server.clone().zip(proxies.clone()) {
            #[expect(clippy::async_yields_async, reason = "what comes of messages is awaited apart")]
            let publish = move |replies| {
                let (server, proxies) = (Arc::clone(&server), proxies.clone());
                async move { proxies.publish_all(&*server, replies).await }
            };
            tokio::spawn(asking.mocks.clone().answer(stop.clone(), publish));
        }
        // Whoever connects is served later, so it misses nobody.
        let flight = server.as_ref().zip(config.recorder.ring.as_ref());
        let flight = flight.map(|(server, ring)| {
            let spec = RecordingSpec::new(server.source());
            Arc::new(FlightRecorder::start(&tap, &spec, flight_options(ring)))
        });
        let has_tokens = !config.api.tokens.is_empty();
        let tokens = TokensInForce::from(config.api.tokens);
        let control = Control::new(ControlParts {
            settings: Some(settings),
            tokens: tokens.clone(),
            server,
            tap,
            metrics,
            events,
            folder: (config.http.enabled || config.grpc.enabled).then(|| config.folder.clone()),
            store: StoreOptions {
                flush_interval: config.store.flush_interval,
                recorder_memory: config.recorder.memory_bytes,
                retention: config.store.retention,
                ..StoreOptions::new(&config.store.path)
            },
            on_overload: config.recorder.on_overload,
            import_bytes: config.api.limits.import_bytes,
            scenarios: config.scenarios,
            flight,
            durability: matches!(mqtt, Some(Mqtt::Broker(_))).then_some(config.mqtt.durability),
            addresses,
            certificates,
            mocks: asking.mocks,
            proxies: proxies.clone(),
            webhooks: Some(asking.webhooks),
            journal: Some(asking.journal),
            chaos,
            telemetry,
            stop,
        });
        tokio::spawn(control.clone().follow_triggers());
        if let Some(proxies) = proxies {
            proxies.set(&config.mqtt.proxies).await.map_err(BindError::Proxies)?;
        }
        let is_exposed =
            [addresses.http, addresses.grpc].into_iter().flatten().any(|address| !address.ip().is_loopback());
        let other_hosts = match (is_exposed, has_tokens) {
            (false, _) => OtherHosts::None,
            (true, false) => OtherHosts::Undotted,
            (true, true) => OtherHosts::Any,
        };
        let access = Access { tokens, hosts: config.api.allowed_hosts, other_hosts };
        let gateway = Gateway::new(control.clone(), access, config.api.limits)?;
        // All that has figures is there.
        control.telemetry().export_metrics(control.metrics()).await;
        let shown = |address: Option<SocketAddr>| address.map(tracing::field::display);
        info!(
            mqtt = shown(addresses.mqtt),
            mqtts = shown(addresses.mqtts),
            ws = shown(addresses.ws),
            wss = shown(addresses.wss),
            http = shown(addresses.http),
            grpc = shown(addresses.grpc),
            seed,
            "listening"
        );
        Ok(Self { control, gateway, http, grpc, mqtt, gate, addresses, sessions })
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
        let Self { control, gateway, http, grpc, mqtt, gate, sessions, .. } = self;
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
        // For whoever reads figures when the broker cannot be asked any more.
        control.metrics().view().await;
        // Traffic first, so that recordings hold all of it.
        let own = async {
            match &mqtt {
                Some(Mqtt::Broker(broker)) => broker.shut_down().await,
                Some(Mqtt::Proxy(proxy)) => proxy.shut_down().await,
                None => {}
            }
        };
        tokio::join!(own, control.shut_down_proxies());
        if let Some(sessions) = sessions
            && let Err(error) = close_sessions(sessions).await
        {
            failed = Some(error);
        }
        Quiet { control, serving, served, failed }
    }
}

/// A server whose MQTT has ended.
pub(crate) struct Quiet {
    control: Control,
    serving: JoinHandle<()>,
    /// What `serving` came to, if that is why the server ended.
    served: Option<Result<(), JoinError>>,
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
        // What has been done until here is part of it.
        self.control.telemetry().close().await;
        match self.failed {
            Some(error) => Err(error),
            None => served.map_err(io::Error::other),
        }
    }
}

/// What whoever moves MQTT bytes is given.
#[derive(Clone, Copy)]
struct Parts<'a> {
    admission: &'a Arc<Admission>,
    gate: &'a Gate,
    tap: &'a Tap,
    metrics: &'a Arc<Metrics>,
    events: &'a EventBus,
    asking: &'a Asking,
    telemetry: &'a Telemetry,
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

/// Mocks and webhooks of the settings, the journal, and who is told of traces.
fn make_asking(
    config: &Config,
    seed: u64,
    tap: &Tap,
    metrics: &Metrics,
    events: &EventBus,
    telemetry: &Telemetry,
) -> Asking {
    let interest = Interest::default();
    let mocks = make_mocks(config, seed, &interest, tap, metrics, events);
    let webhooks = make_webhooks(config, seed, &interest, &mocks, metrics, events);
    let journal = JournalHandle::new(config.journal, &interest);
    let asked = journal.clone();
    metrics.attach_families(Box::new(move || asked.families()));
    let telemetry = telemetry.clone();
    Asking { interest, mocks, webhooks, journal, tracer: Some(Arc::new(move || telemetry.tracer())) }
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
        secret_files: config.secret_files.clone(),
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
        template_steps: config.mqtt.mock_limits.template_steps,
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

/// How long observers of `tap` held traffic up.
fn count_blocked(tap: &Tap, metrics: &Metrics) {
    let tap = tap.clone();
    metrics.attach_families(Box::new(move || {
        vec![
            Family::counter(
                "mqtt_recorder_blocked_seconds_total",
                "Time that connections waited for a recorder, all added up.",
            )
            .value(tap.blocked().as_secs_f64()),
        ]
    }));
}

fn listen(what: &'static str, host: &str, port: u16) -> Result<std::net::TcpListener, BindError> {
    bind(host, port).map_err(|error| BindError::Listen { what, address: format!("{host}:{port}"), error })
}

fn control_port(what: &'static str, config: &ListenConfig, folder: &Path) -> Result<Option<Port>, BindError> {
    if !config.enabled {
        return Ok(None);
    }
    let tls = config.tls.as_ref().map(|tls| {
        ServerTls::load(&ServerTlsOptions {
            cert_path: folder.join(&tls.cert_path),
            key_path: folder.join(&tls.key_path),
            ca_path: tls.ca_path.as_ref().map(|path| folder.join(path)),
            client_auth: tls.client_auth,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ..ServerTlsOptions::default()
        })
    });
    let tls = tls.transpose()?;
    let listener = TcpListener::from_std(listen(what, &config.host, config.port)?)
        .map_err(|error| BindError::Listen { what, address: config.address(), error })?;
    Ok(Some(Port { listener, tls: tls.map(Arc::new) }))
}

/// The broker to proxy, with all that is said of how it is believed.
fn upstream(config: &MqttConfig) -> Result<Option<MqttUrl>, BindError> {
    let Some(url) = &config.upstream else { return Ok(None) };
    let mut url: MqttUrl = url.parse().map_err(BindError::Upstream)?;
    let UpstreamTlsConfig { ca_path, cert_path, key_path, insecure } = config.upstream_tls.clone();
    if url.trust.cert.is_none() {
        (url.trust.cert, url.trust.key) = (cert_path, key_path);
    }
    url.trust.cafile = url.trust.cafile.or(ca_path);
    url.trust.insecure |= insecure;
    Ok(Some(url))
}

/// Listeners of what is more than TCP.
#[derive(Default)]
struct Entrances {
    tls: Option<Entrance>,
    ws: Option<Entrance>,
    wss: Option<Entrance>,
    /// What those with TLS show.
    certificates: Option<Arc<ServerTls>>,
}

fn entrances(config: &MqttConfig) -> Result<Entrances, BindError> {
    if !config.enabled {
        return Ok(Entrances::default());
    }
    let is_proxy = config.upstream.is_some();
    let certificates =
        config.tls.as_ref().map(|tls| ServerTls::of_mqtt(tls, is_proxy)).transpose()?.map(Arc::new);
    let enter = |what, port, tls: Option<&Arc<ServerTls>>, web_socket| {
        let listener = listen(what, &config.host, port)?;
        Ok::<_, BindError>(Entrance { listener, tls: tls.cloned(), web_socket })
    };
    let mut entrances = Entrances::default();
    if let Some(tls) = &config.tls {
        entrances.tls = Some(enter("MQTT over TLS", tls.port, certificates.as_ref(), None)?);
    }
    if let Some(WebSocketConfig { port, tls_port, max_frame_size, origins }) = &config.web_socket {
        let options = WebSocketOptions { frame_max: *max_frame_size, origins: origins.clone() };
        entrances.ws = Some(enter("MQTT over WebSocket", *port, None, Some(options.clone()))?);
        if certificates.is_some() {
            let what = "MQTT over WebSocket with TLS";
            entrances.wss = Some(enter(what, *tls_port, certificates.as_ref(), Some(options))?);
        }
    }
    Ok(Entrances { certificates, ..entrances })
}

fn start_door(
    entrances: Entrances,
    config: &MqttConfig,
    upstream: Option<&MqttUrl>,
    parts: Parts<'_>,
) -> Result<Option<Guests>, BindError> {
    let Entrances { tls, ws, wss, .. } = entrances;
    let entrances: Vec<_> = [tls, ws, wss].into_iter().flatten().collect();
    if entrances.is_empty() {
        return Ok(None);
    }
    let username_from = config.tls.as_ref().map(|tls| tls.username_from).unwrap_or_default();
    let options = DoorOptions {
        admission: Arc::clone(parts.admission),
        handshake_timeout: config.limits.connect_timeout,
        gate: parts.gate.clone(),
        metrics: Arc::clone(parts.metrics),
        identify: Box::new(move |connection| identity(username_from, connection.peer_certificates())),
        upstream: upstream.map(MqttUrl::to_string),
    };
    spawn_door(entrances, options).map(Some).map_err(BindError::Thread)
}

/// Opens what is kept of the broker, if anything is to be.
async fn open_sessions(
    config: &Config,
    metrics: &Metrics,
) -> Result<(Option<Arc<SessionStore>>, Option<Persistence>), BindError> {
    let durability = config.mqtt.durability;
    let path = config.store.path.clone();
    if durability == Durability::None {
        if SessionStore::is_there(&path) {
            info!(
                "sessions and retained messages that were kept there are left alone: mqtt.durability is none"
            );
        }
        return Ok((None, None));
    }
    let opened = spawn_blocking(move || SessionStore::open(&path)).await.map_err(io::Error::other);
    let (store, restored) = opened.map_err(BindError::Thread)?.map_err(BindError::Sessions)?;
    info!(
        ?durability,
        sessions = restored.sessions.len(),
        retained = restored.retained.len(),
        "what was kept of sessions and retained messages is there again"
    );
    let store = Arc::new(store);
    let asked = Arc::clone(&store);
    metrics.attach_families(Box::new(move || {
        vec![
            Family::counter(
                "mqtt_persistence_failures_total",
                "Attempts to write sessions and retained messages to disk that failed.",
            )
            .value(asked.failures()),
        ]
    }));
    let kept = Arc::clone(&store);
    let commit = Box::new(move |batch, done: Box<dyn FnOnce() + Send>| kept.commit(batch, done));
    Ok((Some(store), Some(Persistence { restored, commit })))
}

/// # Errors
/// When something could not be kept.
async fn close_sessions(sessions: Arc<SessionStore>) -> io::Result<()> {
    let closed = spawn_blocking(move || sessions.close()).await;
    closed.map_err(io::Error::other)?.map_err(io::Error::other)
}

fn start_broker(
    listener: std::net::TcpListener,
    guests: Option<Guests>,
    persistence: Option<Persistence>,
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
            access: config.access.clone(),
            durability: config.durability,
        },
        admission: Arc::clone(parts.admission),
        // Its last 80 bits are random.
        seed: ulid::Ulid::new().0 as u64,
        guests,
        gate: gate.clone(),
        tap: tap.clone(),
        metrics: Arc::clone(metrics),
        interception: parts.asking.interception(None),
        tracer: parts.telemetry.tracer(),
        chaos: parts.chaos.clone(),
        persistence,
        on_event: Box::new(move |event| {
            log(&event);
            mocks.handle_event(&event, None);
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
    guests: Option<Guests>,
    upstream: MqttUrl,
    config: &Config,
    parts: Parts<'_>,
) -> Result<ProxyHandle, BindError> {
    let options = ProxyMaker::new(config, parts).options(upstream, None);
    spawn_proxy(vec![listener], ProxyOptions { guests, ..options }).map_err(BindError::Thread)
}

/// Those beside the server's own listener.
fn make_proxies(mqtt: &Mqtt, addresses: Addresses, config: &Config, parts: Parts<'_>) -> Proxies {
    let own = match mqtt {
        Mqtt::Broker(_) => None,
        Mqtt::Proxy(proxy) => addresses.mqtt.map(|address| (address, proxy.clone())),
    };
    let maker = ProxyMaker::new(config, parts);
    let ConnectionLimits { keepalive, unacknowledged, .. } = config.mqtt.connections;
    Proxies::new(ProxyParts {
        spawn: Box::new(move |listener, upstream, id| {
            if let Err(error) = watch_peers(&listener, keepalive, unacknowledged) {
                warn!(%error, "clients that are gone without a word may not be noticed");
            }
            // There may be many, and few of them are busy.
            let options = ProxyOptions { threads: 1, ..maker.options(upstream, Some(Arc::clone(id))) };
            spawn_proxy(vec![listener], options)
        }),
        asking: parts.asking.clone(),
        max: config.mqtt.proxies_max,
        listeners: addresses.of_mqtt().collect(),
        own,
    })
}

/// What all proxies of a server are made with.
struct ProxyMaker {
    admission: Arc<Admission>,
    upstream_timeout: Duration,
    connect_timeout: Duration,
    limits: RelayLimits,
    gate: Gate,
    tap: Tap,
    metrics: Arc<Metrics>,
    events: EventBus,
    asking: Asking,
    chaos: ChaosWatch,
}

impl ProxyMaker {
    fn new(config: &Config, parts: Parts<'_>) -> Self {
        Self {
            admission: Arc::clone(parts.admission),
            upstream_timeout: config.mqtt.upstream_timeout,
            connect_timeout: config.mqtt.limits.connect_timeout,
            limits: RelayLimits { record: config.recorder.packet_bytes, ..RelayLimits::default() },
            gate: parts.gate.clone(),
            tap: parts.tap.clone(),
            metrics: Arc::clone(parts.metrics),
            events: parts.events.clone(),
            asking: parts.asking.clone(),
            chaos: parts.chaos.clone(),
        }
    }

    /// Of the proxy with the id `via`, or of the server's own.
    fn options(&self, upstream: MqttUrl, via: Option<Arc<str>>) -> ProxyOptions {
        let (events, mocks, asking) = (self.events.clone(), self.asking.mocks.clone(), self.asking.clone());
        let told = via.clone();
        let chaos = via.as_ref().map_or_else(|| self.chaos.clone(), |id| self.chaos.of_proxy(id));
        ProxyOptions {
            upstream,
            admission: Arc::clone(&self.admission),
            upstream_timeout: self.upstream_timeout,
            connect_timeout: self.connect_timeout,
            threads: 0,
            limits: self.limits,
            guests: None,
            gate: self.gate.clone(),
            tap: self.tap.clone(),
            metrics: Arc::clone(&self.metrics),
            interception: Box::new(move || asking.of_relays(via.clone())),
            chaos,
            on_event: Box::new(move |event| {
                if let Some(event) = event.into_broker_event() {
                    mocks.handle_event(&event, told.as_ref());
                    events.emit(What::Broker(event));
                }
            }),
        }
    }
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
        BrokerEvent::Refused { connection, client_identifier, username, reason } => {
            let user = username.as_ref().map(tracing::field::display);
            info!(%connection, client = %client_identifier, user, reason = reason.name(), "not let in");
        }
        BrokerEvent::NotAuthorized { client_identifier, username, action, topic, rule } => {
            let user = username.as_ref().map(tracing::field::display);
            let rule = rule.map(|position| format!("mqtt.acl[{position}]"));
            let rule = rule.as_deref().unwrap_or("no rule allows it");
            debug!(client = %client_identifier, user, action = action.name(), topic, rule, "not authorized");
        }
        BrokerEvent::Subscribed { connection, filter, .. } => debug!(%connection, filter, "subscribed"),
        BrokerEvent::Unsubscribed { connection, filter } => debug!(%connection, filter, "unsubscribed"),
    }
}

#[cfg(test)]
mod tests;
