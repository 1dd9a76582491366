//! Settings: what was typed in the file, the environment and flags, merged and checked once.
//!
//! A [`Config`] is the proof that every value is in range and every key is known; the rest of the
//! program takes the part it needs and checks nothing again. `setting.rs` has the table of keys.

mod document;
mod error;
mod file;
mod given_file;
mod layer;
mod problems;
mod proxy;
mod schema;
mod setting;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    ops::Deref,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

pub use self::{
    document::{BadEntry, Content, Document, Key},
    error::{ConfigError, ConfigProblem, Origin},
    file::NAME as SETTINGS_FILE,
    given_file::read_given_file,
    layer::{Flag, setting_key},
    proxy::{OWN_PROXY, ProxySpec, check_proxies},
    schema::schema,
    setting::{PASSWORD_FILE, PREFIX, SETTINGS, Setting, Value},
    telemetry::{BatchConfig, ExporterConfig, Protocol, Sampler, TelemetryConfig},
    tls::{CertifiedFiles, MinVersion, TlsCertificate, TlsConfig, UsernameFrom},
};
use self::{
    layer::Layer,
    problems::Problems,
    setting::{
        ACL, AFFECTED_TOPICS, ALLOWED_HOSTS, API_TOKENS, CHAOS_RULES, Given, Kind, MOCKS, PROXIES,
        RING_TRIGGERS, SLOW_SUBSCRIBER_DELAY, TLS_ENABLED, USERS, WEBHOOKS,
    },
};
use crate::{
    auth::{Access, Accounts, Acl, ApiTokenSpec, ApiTokens, BadAccounts, UserList, UserSpec},
    broker::Durability,
    broker::Limits,
    fault::{ChaosSpec, LatencyDraw, LatencySpec, Rule, RuleSpec, SlowSubscriberSpec, settings_rules},
    field::BadField,
    journal::{Expectation, ExpectationSpec, JournalLimits, MatchSpec, MessageMatch},
    log::LogFormat,
    mock::{MockError, MockLimits, MockSpec, make_mocks},
    packet::QoS,
    recorder::{Trigger, TriggerSpec},
    recording::{OnOverload, RingLimits},
    store::Retention,
    webhook::{MASK, WebhookSpec, check_webhooks, is_secret_name, masked_url},
};

/// Settings of TLS of a port of the control plane.
struct TlsKeys {
    section: &'static str,
    enabled: &'static str,
    cert_path: &'static str,
    key_path: &'static str,
    ca_path: &'static str,
    client_auth: &'static str,
    /// The rest has no effect.
    why: &'static str,
}

const HTTP_TLS: TlsKeys = TlsKeys {
    section: "http.tls.",
    enabled: "http.tls.enabled",
    cert_path: "http.tls.cert_path",
    key_path: "http.tls.key_path",
    ca_path: "http.tls.ca_path",
    client_auth: "http.tls.client_auth",
    why: "http.tls.enabled is off",
};

const GRPC_TLS: TlsKeys = TlsKeys {
    section: "grpc.tls.",
    enabled: "grpc.tls.enabled",
    cert_path: "grpc.tls.cert_path",
    key_path: "grpc.tls.key_path",
    ca_path: "grpc.tls.ca_path",
    client_auth: "grpc.tls.client_auth",
    why: "grpc.tls.enabled is off",
};

/// The least that the flight recorder can do with, in bytes.
const RING_MIN: usize = 64 << 10;

/// Everything that can be set, checked. Shown, it has no secrets.
#[derive(Clone, PartialEq)]
pub struct Config {
    pub mqtt: MqttConfig,
    pub http: ListenConfig,
    pub grpc: ListenConfig,
    /// The token that our own commands send to a server: `client.token`, else `api_token`.
    pub client_token: Option<Secret>,
    pub api: ApiConfig,
    /// What our own commands go by towards a server.
    pub client_tls: ClientTlsConfig,
    /// Whether others than this host may reach the control plane without a token.
    pub insecure_api: bool,
    pub store: StoreConfig,
    pub recorder: RecorderConfig,
    /// How many of the last messages are kept for those who ask.
    pub journal: JournalLimits,
    pub scenarios: ScenarioLimits,
    pub log: LogConfig,
    /// Of the variables `OTEL_*`.
    pub telemetry: TelemetryConfig,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Where relative paths within settings start: the file's folder, else the working directory.
    pub folder: PathBuf,
    /// Files that settings name, and themselves, that no message may ever hold.
    pub secret_files: Vec<PathBuf>,
    /// What it was made from.
    pub sources: Sources,
    /// Where each value came from, for people to read.
    pub in_force: Vec<InForce>,
    /// What was odd but harmless, a line each.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MqttConfig {
    pub enabled: bool,
    /// An address or a host name.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
    pub connections: ConnectionLimits,
    /// None serves no TLS.
    pub tls: Option<TlsConfig>,
    /// None serves TCP and TLS alone.
    pub web_socket: Option<WebSocketConfig>,
    /// URL of the broker to proxy; none is a broker of our own.
    pub upstream: Option<String>,
    pub upstream_tls: UpstreamTlsConfig,
    /// How long reaching it may take.
    pub upstream_timeout: Duration,
    /// `mqtt.max_packet_size`, `mqtt.keep_alive_secs` and everything of `mqtt.limits`.
    pub limits: Limits,
    /// How often the `$SYS` topics are published; zero is never.
    pub sys_interval: Duration,
    /// When Sessions and retained messages are on disk.
    pub durability: Durability,
    /// Who may authenticate with SCRAM-SHA-256.
    pub scram_users: UserList,
    /// Who else is let in, and who may do what.
    pub access: Access,
    /// What random values are drawn from; none takes another one each time.
    pub seed: Option<u64>,
    pub mocks: Vec<MockSpec>,
    pub mock_limits: MockLimits,
    /// What templates may print of the environment.
    pub mock_env: BTreeMap<String, String>,
    pub webhooks: Vec<WebhookSpec>,
    /// Beside the server's own listener.
    pub proxies: Vec<ProxySpec>,
    /// How many may be at a time.
    pub proxies_max: usize,
    /// Of messages that wait for one webhook or are being sent, at most.
    pub webhook_queue_bytes: usize,
    pub chaos: ChaosSpec,
    /// That chaos holds back of one connection in one direction, before no more are read.
    pub chaos_bytes: usize,
}

/// MQTT over WebSocket.
#[derive(Clone, Debug, PartialEq)]
pub struct WebSocketConfig {
    /// 0 takes a free one.
    pub port: u16,
    /// Of the same with TLS, where there is TLS.
    pub tls_port: u16,
    /// Bytes.
    pub max_frame_size: u64,
    /// See [`SETTINGS`].
    pub origins: Vec<String>,
}

/// By what an upstream is believed, and what it is shown; what its URL says comes first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamTlsConfig {
    pub ca_path: Option<PathBuf>,
    pub cert_path: Option<PathBuf>,
    pub key_path: Option<PathBuf>,
    pub insecure: bool,
}

/// Which connections of MQTT clients are admitted; 0 of all but the first is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// At a time.
    pub total: usize,
    /// At a time, of one address.
    pub per_address: usize,
    /// A second.
    pub rate: usize,
    /// A second, of one address.
    pub rate_per_address: usize,
    /// After how much silence the system asks whether a peer is there.
    pub keepalive: Duration,
    /// How long a peer may leave unacknowledged, or untaken, what it is sent.
    pub unacknowledged: Duration,
}

impl Default for ConnectionLimits {
    /// None at all.
    fn default() -> Self {
        Self {
            total: usize::MAX,
            per_address: 0,
            rate: 0,
            rate_per_address: 0,
            keepalive: Duration::ZERO,
            unacknowledged: Duration::ZERO,
        }
    }
}

impl ConnectionLimits {
    /// Whether one address is to be told from another.
    pub fn is_by_address(&self) -> bool {
        self.per_address > 0 || self.rate_per_address > 0
    }
}

/// Where a part of the control plane listens.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenConfig {
    pub enabled: bool,
    /// An address or a host name.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
    /// With it, nothing else is spoken there.
    pub tls: Option<ListenTlsConfig>,
}

/// PEM files of a port of the control plane; relative paths start at [`Config::folder`].
#[derive(Clone, Debug, PartialEq)]
pub struct ListenTlsConfig {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    /// Of the CA that callers' certificates are checked against.
    pub ca_path: Option<PathBuf>,
    /// Whether callers need a certificate.
    pub client_auth: bool,
}

/// PEM files for our own commands, towards a server; relative paths start at [`Config::folder`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientTlsConfig {
    /// Of the CA of the server's certificate; none is whom the system trusts.
    pub ca_path: Option<PathBuf>,
    /// A certificate to show, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Takes any certificate.
    pub insecure: bool,
}

/// Who may call the control plane, by which names, and how much may be asked of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiConfig {
    /// `api_token` among them.
    pub tokens: ApiTokens,
    /// Names that the ports may be called by, beside `localhost` and addresses; `*.example.com` takes
    /// those below, `*` any.
    pub allowed_hosts: Vec<String>,
    pub limits: ApiLimits,
}

/// What callers of both ports of the control plane may make us do.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiLimits {
    pub connections: usize,
    /// Under way at a time.
    pub requests: usize,
    /// Under way at a time that stream.
    pub streaming_requests: usize,
    /// Of a REST request.
    pub body_bytes: usize,
    /// Of a file that is imported.
    pub import_bytes: u64,
    /// Of a request's head.
    pub header_bytes: usize,
    /// Lines of the same, in HTTP/1.
    pub headers: usize,
    /// For a request's head, and for TLS before it.
    pub head_timeout: Duration,
    /// For a REST request's body.
    pub body_timeout: Duration,
    /// Of an HTTP/2 connection, and of a caller that reads nothing.
    pub idle_timeout: Duration,
    /// Of a gRPC message that a caller sends.
    pub message_bytes: usize,
    /// Calls under way on one HTTP/2 connection.
    pub streams: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Checked::from(&Layer::default(), &mut Problems::default()).api_limits()
    }
}

/// What scenarios may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScenarioLimits {
    /// At a time.
    pub runs: usize,
    /// Of one scenario.
    pub clients: u64,
    /// Of messages that were received and not read, of one scenario.
    pub inbox_bytes: usize,
}

impl Default for ScenarioLimits {
    fn default() -> Self {
        let checked = Checked::from(&Layer::default(), &mut Problems::default());
        checked.scenario_limits()
    }
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    pub path: PathBuf,
    /// Zero: durable before a packet is passed on.
    pub flush_interval: Duration,
    pub retention: Retention,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecorderConfig {
    pub memory_bytes: usize,
    /// Longest packet that a proxy records whole, in bytes.
    pub packet_bytes: usize,
    pub on_overload: OnOverload,
    /// The flight recorder, if there is one.
    pub ring: Option<RingConfig>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RingConfig {
    pub limits: RingLimits,
    pub triggers: Vec<TriggerSpec>,
    /// Between two triggers that fire.
    pub cooldown: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// A `tracing` filter.
    pub level: String,
    pub format: LogFormat,
}

/// One setting as it is in force.
#[derive(Clone, PartialEq)]
pub struct InForce {
    pub key: &'static str,
    /// Secrets are masked.
    pub value: Value,
    pub origin: Origin,
    /// With its secrets.
    unmasked: Value,
}

impl InForce {
    /// Whether file, environment or flags say it.
    pub fn is_said(&self) -> bool {
        self.origin != Origin::Default
    }

    /// Whether both say the same, wherever they say it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.unmasked.to_json() == other.unmasked.to_json()
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, origin, .. } = self;
        f.debug_struct("InForce")
            .field("key", key)
            .field("value", value)
            .field("origin", origin)
            .finish_non_exhaustive()
    }
}

/// What a [`Config`] is made from; of two that say the same key, the later field wins.
#[derive(Clone, Default, PartialEq)]
pub struct Sources {
    pub file: ConfigFile,
    /// Names and values; those of others are ignored.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Flag>,
}

/// Which file is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ConfigFile {
    #[default]
    None,
    /// `mockforge.yaml` in this folder or the nearest of five parents that has one.
    Search(PathBuf),
    At(PathBuf),
    /// None: a text in its place, which errors call by a name. Paths in it start in the working directory.
    Text {
        name: String,
        text: String,
    },
    /// What a caller of the API sent in a file's place. Files that it names have to be below `folder`.
    Sent {
        /// What errors call it.
        name: String,
        text: String,
        folder: PathBuf,
        /// Of the settings in force.
        secret_files: Vec<PathBuf>,
    },
}

impl Sources {
    /// What a program started in the working directory goes by; `file` is that of `--config`.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let file = match file {
            Some(path) => ConfigFile::At(path),
            None => std::env::current_dir().map_or(ConfigFile::None, ConfigFile::Search),
        };
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| name.starts_with(PREFIX) || name.starts_with(telemetry::PREFIX))
            .collect();
        Self { file, environment, flags }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.in_force.iter().map(|setting| (setting.key, &setting.value))).finish()
    }
}

impl Config {
    /// # Errors
    /// What is wrong, each with its place.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let path = match &sources.file {
            ConfigFile::None | ConfigFile::Text { .. } | ConfigFile::Sent { .. } => None,
            ConfigFile::At(path) => Some((path.clone(), path.clone())),
            ConfigFile::Search(folder) => file::search(folder).map(|path| {
                let shown = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                (path, shown)
            }),
        };
        let mut problems = Problems::default();
        let file = match (&path, &sources.file) {
            (Some((path, shown)), _) => read(path, shown, &mut problems)?,
            (None, ConfigFile::Text { name, text } | ConfigFile::Sent { name, text, .. }) => {
                file::parse(name, text, &mut problems)
            }
            (None, _) => Layer::default(),
        };
        let (telemetry, telemetry_warnings) = TelemetryConfig::read(&sources.environment);
        let environment = Layer::from_environment(sources.environment.clone(), &mut problems);
        let flags = Layer::from_flags(sources.flags.clone());
        let files = match &sources.file {
            ConfigFile::Sent { folder, secret_files, .. } => {
                Files { folder: folder.clone(), secrets: Some(secret_files.clone()) }
            }
            _ => {
                let folder = path.as_ref().and_then(|(path, _)| path.parent());
                Files { folder: folder.map(Path::to_owned).unwrap_or_default(), secrets: None }
            }
        };
        let mut config = Self::check(&flags.or(environment).or(file), files, problems)?;
        config.secret_files.extend(path.as_ref().map(|(path, _)| path.clone()));
        config.file = path.map(|(_, shown)| shown);
        config.sources = sources;
        config.telemetry = telemetry;
        config.warnings.extend(telemetry_warnings);
        Ok(config)
    }

    /// As it is made from the same sources now.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        Self::load(self.sources.clone())
    }

    /// As it is with `text`, which errors call `name`, in the place of the file; variables and flags say what they said.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn with_text(&self, name: &str, text: &str) -> Result<Self, ConfigError> {
        let file = ConfigFile::Sent {
            name: name.to_owned(),
            text: text.to_owned(),
            folder: self.folder.clone(),
            secret_files: self.secret_files.clone(),
        };
        Self::load(Sources { file, ..self.sources.clone() })
    }

    /// As from a file called `name` with that `text`, nothing else being said; paths in it start at no folder.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    #[cfg(any(test, fuzzing))]
    pub fn of_text(name: &str, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let layer = file::parse(name, text, &mut problems);
        Self::check(&layer, Files::default(), problems)
    }

    /// Whether file, environment or flags say the setting `key`.
    pub fn is_said(&self, key: &str) -> bool {
        self.in_force.iter().any(|setting| setting.key == key && setting.is_said())
    }

    fn check(typed: &Layer, files: Files, mut problems: Problems) -> Result<Self, ConfigError> {
        let checked = Checked::from(typed, &mut problems);
        // A value that is wrong by itself makes what others say beside it wrong, too, and only that is worth telling.
        let is_sound = problems.is_empty();
        let access = problems.keep(checked.access(&files));
        let tokens = problems.keep(checked.api_tokens());
        let mocks = problems.keep(checked.mocks(&files));
        let webhooks = problems.keep(checked.webhooks(&files));
        let proxies = problems.keep(checked.proxies());
        let chaos = problems.keep(checked.chaos());
        let allowed_hosts = problems.keep(checked.allowed_hosts());
        let triggers = problems.keep(checked.triggers());
        if !is_sound {
            problems.finish()?;
            unreachable!("a problem was found")
        }
        let Files { folder, .. } = files;
        problems.keep(checked.refuse_exposure());
        let ring = triggers.and_then(|triggers| problems.keep(checked.ring(triggers)));
        let tls = problems.keep(checked.tls(&folder));
        let http_tls = problems.keep(checked.listen_tls(&HTTP_TLS));
        let grpc_tls = problems.keep(checked.listen_tls(&GRPC_TLS));
        let client_tls = problems.keep(checked.client_tls());
        problems.finish()?;
        let (Some(access), Some(tokens), Some(mocks), Some(webhooks), Some(proxies), Some(chaos)) =
            (access, tokens, mocks, webhooks, proxies, chaos)
        else {
            unreachable!("what is missing was a problem")
        };
        let (Some(allowed_hosts), Some(ring), Some(tls), Some(http_tls), Some(grpc_tls), Some(client_tls)) =
            (allowed_hosts, ring, tls, http_tls, grpc_tls, client_tls)
        else {
            unreachable!("what is missing was a problem")
        };
        let mut warnings = checked.warnings(&access);
        warnings.extend(checked.warnings_of_ports(&tokens));
        Ok(Self {
            mqtt: MqttConfig {
                enabled: checked.switch("mqtt.enabled"),
                host: checked.text("mqtt.host"),
                port: checked.integer("mqtt.port"),
                connections: ConnectionLimits {
                    total: checked.integer("mqtt.max_connections"),
                    per_address: checked.integer("mqtt.limits.connections_per_address"),
                    rate: checked.integer("mqtt.limits.connect_rate"),
                    rate_per_address: checked.integer("mqtt.limits.connect_rate_per_address"),
                    keepalive: Duration::from_secs(checked.integer("mqtt.limits.tcp_keepalive_secs")),
                    unacknowledged: Duration::from_secs(checked.integer("mqtt.limits.tcp_user_timeout_secs")),
                },
                tls,
                web_socket: checked.switch("mqtt.websocket.enabled").then(|| WebSocketConfig {
                    port: checked.integer("mqtt.websocket.port"),
                    tls_port: checked.integer("mqtt.websocket.tls_port"),
                    max_frame_size: checked.integer("mqtt.websocket.max_frame_size"),
                    origins: words(&checked.text("mqtt.websocket.origins")),
                }),
                upstream: checked.optional_text("mqtt.upstream"),
                upstream_tls: UpstreamTlsConfig {
                    ca_path: checked.path("mqtt.upstream_tls.ca_path", &folder),
                    cert_path: checked.path("mqtt.upstream_tls.cert_path", &folder),
                    key_path: checked.path("mqtt.upstream_tls.key_path", &folder),
                    insecure: checked.switch("mqtt.upstream_tls.insecure"),
                },
                upstream_timeout: Duration::from_secs(checked.integer("mqtt.limits.upstream_timeout_secs")),
                limits: Limits {
                    connect_timeout: Duration::from_secs(checked.integer("mqtt.limits.connect_timeout_secs")),
                    max_packet_size: checked.integer("mqtt.max_packet_size"),
                    keep_alive_max: checked.integer("mqtt.keep_alive_secs"),
                    control_packet_bytes: checked.integer("mqtt.limits.control_packet_bytes"),
                    client_id_bytes: checked.integer("mqtt.limits.client_id_bytes"),
                    topic_levels: checked.integer("mqtt.limits.topic_levels"),
                    topic_bytes: checked.integer("mqtt.limits.topic_bytes"),
                    filters_per_packet: checked.integer("mqtt.limits.filters_per_packet"),
                    receive_maximum: checked.integer("mqtt.limits.receive_maximum"),
                    maximum_qos: checked.qos("mqtt.limits.maximum_qos"),
                    retain_available: checked.switch("mqtt.limits.retain_available"),
                    wildcard_subscription_available: checked
                        .switch("mqtt.limits.wildcard_subscription_available"),
                    subscription_identifier_available: checked
                        .switch("mqtt.limits.subscription_identifier_available"),
                    shared_subscription_available: checked
                        .switch("mqtt.limits.shared_subscription_available"),
                    topic_alias_maximum: checked.integer("mqtt.limits.topic_alias_maximum"),
                    inflight_max: checked.integer("mqtt.limits.inflight_max"),
                    queue_messages: checked.integer("mqtt.limits.queue_messages"),
                    queue_bytes: checked.integer("mqtt.limits.queue_bytes"),
                    waiting_bytes: checked.integer("mqtt.limits.waiting_bytes"),
                    outbox_bytes: checked.integer("mqtt.limits.outbox_bytes"),
                    retained_messages: checked.integer("mqtt.limits.retained_messages"),
                    retained_bytes: checked.integer("mqtt.limits.retained_bytes"),
                    subscriptions_per_client: checked.integer("mqtt.limits.subscriptions_per_client"),
                    subscriptions: checked.integer("mqtt.limits.subscriptions"),
                    sessions: checked.integer("mqtt.limits.sessions"),
                    session_expiry_max: checked.integer("mqtt.limits.session_expiry_max_secs"),
                },
                sys_interval: Duration::from_secs(checked.integer("mqtt.sys_interval_secs")),
                durability: Durability::from_name(&checked.text("mqtt.durability"))
                    .expect("the table has it checked"),
                scram_users: UserList::parse(&checked.text("mqtt.scram_users"))
                    .expect("the table has it checked"),
                access,
                seed: checked.number("mqtt.seed"),
                mocks,
                mock_limits: MockLimits {
                    mocks: checked.integer("mqtt.limits.mocks"),
                    template_steps: checked.integer("mqtt.limits.template_steps"),
                    answers: checked.integer("mqtt.limits.mock_answers"),
                    answer_bytes: checked.integer("mqtt.limits.mock_answer_bytes"),
                },
                mock_env: environment(&checked.text("mqtt.mock_env")),
                webhooks,
                proxies,
                proxies_max: checked.integer("mqtt.limits.proxies"),
                webhook_queue_bytes: checked.integer("mqtt.limits.webhook_queue_bytes"),
                chaos,
                chaos_bytes: checked.integer("mqtt.limits.chaos_bytes"),
            },
            http: ListenConfig {
                enabled: checked.switch("http.enabled"),
                host: checked.text("http.host"),
                port: checked.integer("http.port"),
                tls: http_tls,
            },
            grpc: ListenConfig {
                enabled: checked.switch("grpc.enabled"),
                host: checked.text("grpc.host"),
                port: checked.integer("grpc.port"),
                tls: grpc_tls,
            },
            client_token: checked
                .optional_text("client.token")
                .or_else(|| checked.optional_text("api_token"))
                .map(Secret),
            api: ApiConfig { tokens, allowed_hosts, limits: checked.api_limits() },
            client_tls,
            insecure_api: checked.switch("insecure_api"),
            store: StoreConfig {
                path: checked.text("store.path").into(),
                flush_interval: Duration::from_millis(checked.integer("store.flush_interval_ms")),
                retention: Retention {
                    bytes: Some(checked.integer("store.max_bytes")).filter(|&bytes| bytes > 0),
                    age: Some(checked.integer("store.max_age_secs"))
                        .filter(|&seconds| seconds > 0)
                        .map(Duration::from_secs),
                },
            },
            journal: JournalLimits {
                messages: checked.integer("journal.messages"),
                bytes: checked.integer("journal.bytes"),
            },
            scenarios: checked.scenario_limits(),
            recorder: RecorderConfig {
                memory_bytes: checked.integer("recorder.memory_bytes"),
                packet_bytes: checked.integer("recorder.packet_bytes"),
                on_overload: OnOverload::from_name(&checked.text("recorder.on_overload"))
                    .expect("the table has it checked"),
                ring,
            },
            log: LogConfig {
                level: checked.text("log.level"),
                // It was checked.
                format: LogFormat::from_name(&checked.text("log.format")).unwrap_or_default(),
            },
            telemetry: TelemetryConfig::default(),
            file: None,
            secret_files: checked.secret_files(&folder),
            folder,
            sources: Sources::default(),
            in_force: checked.in_force(),
            warnings,
        })
    }
}

/// All defaults.
impl Default for Config {
    fn default() -> Self {
        Self::check(&Layer::default(), Files::default(), Problems::default())
            .expect("the table's defaults are valid, as a test proves")
    }
}

impl ListenConfig {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        join_address(&self.host, self.port)
    }
}

impl MqttConfig {
    /// `host:port`, with brackets around an IPv6 address.
    pub fn address(&self) -> String {
        join_address(&self.host, self.port)
    }
}

fn join_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Every setting's value, each of the kind its row of the table asks for.
struct Checked {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Checked {
    /// What is wrong has its default.
    fn from(typed: &Layer, problems: &mut Problems) -> Self {
        let mut values = BTreeMap::new();
        for Setting { key, kind, default, .. } in SETTINGS {
            let by_default = || {
                let value = kind.read(&Given::Spelled((*default).to_owned()));
                (value.expect("a test proves that the table's defaults are good"), Origin::Default)
            };
            let said = typed.get(key).and_then(|(given, origin)| {
                let read = kind.read(given);
                let read =
                    read.map_err(|reason| ConfigError::Invalid { origin: origin.clone(), key, reason });
                Some((problems.keep(read)?, origin.clone()))
            });
            values.insert(*key, said.unwrap_or_else(by_default));
        }
        Self { values }
    }

    /// `tls: {enabled: false, …}` is a section that is prepared for later; without the switch it may
    /// be meant to be in force.
    fn warnings(&self, access: &Access) -> Vec<String> {
        let without_effect = |section: &'static str, why: &'static str| {
            let said = move |setting: &Setting| {
                let (key, origin) = (setting.key, &self.values[setting.key].1);
                let is_said = key.starts_with(section) && *origin != Origin::Default;
                is_said.then(|| format!("{origin}: {key} has no effect, because {why}"))
            };
            SETTINGS.iter().filter_map(said)
        };
        let mut warnings = Vec::new();
        if self.values[TLS_ENABLED].1 == Origin::Default {
            warnings.extend(without_effect("mqtt.tls.", "mqtt.tls.enabled is off"));
        }
        let has_users = access.accounts.is_in_force()
            || !self.values["mqtt.scram_users"].0.is_off()
            || self.switch(TLS_ENABLED) && self.text("mqtt.tls.username_from") != "none";
        if self.values["mqtt.upstream"].0.is_off() {
            if access.acl.is_about_users() && !has_users {
                warnings.push(format!(
                    "{}: {ACL} is about users, but nobody can prove to be one: {USERS}, {PASSWORD_FILE} and \
                     mqtt.scram_users say none",
                    self.values[ACL].1
                ));
            }
        } else {
            for key in ["mqtt.scram_users", "mqtt.allow_anonymous", USERS, PASSWORD_FILE, ACL] {
                let why = "mqtt.upstream is set: the broker behind the proxy says who may do what";
                warnings.extend(without_effect(key, why));
            }
        }
        for keys in [&HTTP_TLS, &GRPC_TLS] {
            if self.values[keys.enabled].1 == Origin::Default {
                warnings.extend(without_effect(keys.section, keys.why));
            }
        }
        if self.values[SLOW_SUBSCRIBER_DELAY].0.is_off() {
            warnings.extend(without_effect(AFFECTED_TOPICS, "mqtt.chaos.slow_subscriber.delay_ms is 0"));
        }
        warnings
    }

    fn refuse_exposure(&self) -> Result<(), ConfigError> {
        let has_tokens = self.optional_text("api_token").is_some() || !self.values[API_TOKENS].0.is_off();
        if self.switch("insecure_api") || has_tokens {
            return Ok(());
        }
        for (enabled, key, tls) in
            [("http.enabled", "http.host", &HTTP_TLS), ("grpc.enabled", "grpc.host", &GRPC_TLS)]
        {
            let host = self.text(key);
            // Whoever has a certificate of the CA was let in by whoever has its key.
            if self.switch(enabled) && !is_loopback(&host) && !self.asks_for_certificates(tls) {
                let origin = self.values[key].1.clone();
                return Err(ConfigError::Exposed { origin, key, host });
            }
        }
        Ok(())
    }

    fn asks_for_certificates(&self, tls: &TlsKeys) -> bool {
        self.switch(tls.enabled) && self.switch(tls.client_auth)
    }

    /// What leaves a port of the control plane more open than it looks.
    fn warnings_of_ports(&self, tokens: &ApiTokens) -> Vec<String> {
        let ports = [
            ("http", "http.enabled", "http.host", &HTTP_TLS),
            ("grpc", "grpc.enabled", "grpc.host", &GRPC_TLS),
        ]
        .into_iter()
        .filter(|(_, enabled, ..)| self.switch(enabled));
        let ports: Vec<_> = ports.collect();
        let mut warnings = Vec::new();
        if tokens.is_empty() {
            let (closed, open): (Vec<_>, Vec<_>) =
                ports.iter().partition(|(_, _, _, tls)| self.asks_for_certificates(tls));
            if let ([(closed, _, _, tls)], [(open, ..)]) = (&closed[..], &open[..]) {
                warnings.push(format!(
                    "{}: the {closed} port wants certificates ({}), and the {open} port lets in whoever reaches it, to \
                     do everything",
                    self.values[tls.client_auth].1, tls.client_auth
                ));
            }
        }
        let takes_certificates =
            |tls: &TlsKeys| self.switch(tls.enabled) && self.optional_text(tls.ca_path).is_some();
        if tokens.name_certificates() && !ports.iter().any(|(_, _, _, tls)| takes_certificates(tls)) {
            warnings.push(format!(
                "{}: {API_TOKENS} has a certificate, but no port asks for any: http.tls and grpc.tls have no ca_path in \
                 force",
                self.values[API_TOKENS].1
            ));
        }
        for (name, _, host, tls) in &ports {
            if !tokens.is_empty() && !is_loopback(&self.text(host)) && !self.switch(tls.enabled) {
                warnings.push(format!(
                    "{}: tokens are sent to the {name} port in clear, for others to read on the way, because {}",
                    self.values[*host].1, tls.why
                ));
            }
        }
        warnings
    }

    fn api_tokens(&self) -> Result<ApiTokens, ConfigError> {
        let mut tokens = ApiTokens::default();
        self.list(API_TOKENS, |specs: &[ApiTokenSpec]| {
            tokens = ApiTokens::new(specs)?;
            Ok(())
        })?;
        let Some(token) = self.optional_text("api_token") else { return Ok(tokens) };
        if tokens.of_token(&token).is_some() {
            let origin = self.values[API_TOKENS].1.clone();
            let reason = "api_token, which may do everything, is among them; a token that commands send to a server is \
                          client.token (--token, MOCKFORGE_CLIENT_TOKEN)"
                .to_owned();
            return Err(ConfigError::Invalid { origin, key: API_TOKENS, reason });
        }
        Ok(tokens.with_admin("api_token", &token))
    }

    fn allowed_hosts(&self) -> Result<Vec<String>, ConfigError> {
        let hosts = self.texts(ALLOWED_HOSTS)?;
        let wrong = hosts.iter().position(|host| {
            let name = host.strip_prefix("*.").unwrap_or(host);
            host != "*"
                && (name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)))
        });
        match (wrong, &self.values[ALLOWED_HOSTS]) {
            (Some(position), (Value::List(list), origin)) => {
                let what = "expected a name without scheme and port, `*.` and a name, or `*`".to_owned();
                Err(in_list(origin, ALLOWED_HOSTS, list.bad(format!("[{position}]"), what)))
            }
            _ => Ok(hosts),
        }
    }

    fn api_limits(&self) -> ApiLimits {
        let seconds = |key| Duration::from_secs(self.integer(key));
        ApiLimits {
            connections: self.integer("http.limits.connections"),
            requests: self.integer("http.limits.requests"),
            streaming_requests: self.integer("http.limits.streaming_requests"),
            body_bytes: self.integer("http.limits.body_bytes"),
            import_bytes: self.integer("http.limits.import_bytes"),
            header_bytes: self.integer("http.limits.header_bytes"),
            headers: self.integer("http.limits.headers"),
            head_timeout: seconds("http.limits.head_timeout_secs"),
            body_timeout: seconds("http.limits.body_timeout_secs"),
            idle_timeout: seconds("http.limits.idle_timeout_secs"),
            message_bytes: self.integer("grpc.limits.message_bytes"),
            streams: self.integer("grpc.limits.streams"),
        }
    }

    fn scenario_limits(&self) -> ScenarioLimits {
        ScenarioLimits {
            runs: self.integer("scenarios.runs"),
            clients: self.integer("scenarios.clients"),
            inbox_bytes: self.integer("scenarios.inbox_bytes"),
        }
    }

    fn client_tls(&self) -> Result<ClientTlsConfig, ConfigError> {
        let path = |key| self.optional_text(key).map(PathBuf::from);
        let (cert, key) = ("client.tls.cert_path", "client.tls.key_path");
        let certificate = match (path(cert), path(key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (one, _) => {
                let (given, missing) = if one.is_some() { (cert, key) } else { (key, cert) };
                let origin = self.values[given].1.clone();
                let reason = format!("is required with {given}");
                return Err(ConfigError::Invalid { origin, key: missing, reason });
            }
        };
        let (ca_path, insecure) = (path("client.tls.ca_path"), self.switch("client.tls.insecure"));
        Ok(ClientTlsConfig { ca_path, certificate, insecure })
    }

    fn listen_tls(&self, keys: &TlsKeys) -> Result<Option<ListenTlsConfig>, ConfigError> {
        if !self.switch(keys.enabled) {
            // A port that only seems to be closed is worse than one that is open.
            if self.switch(keys.client_auth) {
                let origin = self.values[keys.client_auth].1.clone();
                let reason = format!("asks for certificates, but {}", keys.why);
                return Err(ConfigError::Invalid { origin, key: keys.client_auth, reason });
            }
            return Ok(None);
        }
        let required = |key: &'static str, why: &str| {
            self.optional_text(key).map(PathBuf::from).ok_or_else(|| ConfigError::Invalid {
                origin: self.values[keys.enabled].1.clone(),
                key,
                reason: format!("is required where {why}"),
            })
        };
        let client_auth = self.switch(keys.client_auth);
        Ok(Some(ListenTlsConfig {
            cert_path: required(keys.cert_path, "TLS is on")?,
            key_path: required(keys.key_path, "TLS is on")?,
            ca_path: match client_auth {
                true => Some(required(keys.ca_path, "callers need a certificate")?),
                false => self.optional_text(keys.ca_path).map(PathBuf::from),
            },
            client_auth,
        }))
    }

    fn switch(&self, key: &str) -> bool {
        !self.values[key].0.is_off()
    }

    /// # Panics
    /// If the table's row allows more than `N` holds.
    fn integer<N: TryFrom<u64>>(&self, key: &str) -> N {
        match &self.values[key].0 {
            Value::Integer(number) => N::try_from(*number).ok(),
            _ => None,
        }
        .expect("the table keeps the number within its type")
    }

    /// `None` when nothing is said.
    fn number(&self, key: &str) -> Option<u64> {
        match &self.values[key].0 {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }

    fn access(&self, files: &Files) -> Result<Access, ConfigError> {
        let users = self.list(USERS, |specs: &[UserSpec]| match Accounts::new(specs, None) {
            Err(BadAccounts::User(position, fields)) => Err((position, fields)),
            _ => Ok(()),
        })?;
        let refused = |key: &'static str, reason| {
            let origin = self.values[key].1.clone();
            ConfigError::Invalid { origin, key, reason }
        };
        let file = self.optional_text(PASSWORD_FILE);
        let text = file.as_deref().map(|path| {
            let bytes = files.read(path)?;
            String::from_utf8(bytes.into()).map_err(|_| format!("{path} is not UTF-8"))
        });
        let text = text.transpose().map_err(|reason| refused(PASSWORD_FILE, reason))?;
        let accounts = Accounts::new(&users, text.as_deref()).map_err(|error| match error {
            BadAccounts::Line(number, what) => {
                refused(PASSWORD_FILE, format!("{}:{number}: {what}", file.unwrap_or_default()))
            }
            BadAccounts::User(..) => unreachable!("those of the settings were checked"),
        })?;
        let mut acl = Acl::default();
        self.list(ACL, |specs| Acl::new(specs).map(|checked| acl = checked))?;
        Ok(Access { allow_anonymous: self.switch("mqtt.allow_anonymous"), accounts, acl })
    }

    fn mocks(&self, files: &Files) -> Result<Vec<MockSpec>, ConfigError> {
        self.list(MOCKS, |specs| check_mocks(specs, &|path| files.read_for_message(path)))
    }

    fn webhooks(&self, files: &Files) -> Result<Vec<WebhookSpec>, ConfigError> {
        self.list(WEBHOOKS, |specs| check_webhooks(specs, &|path| files.read(path)))
    }

    fn proxies(&self) -> Result<Vec<ProxySpec>, ConfigError> {
        self.list(PROXIES, |specs: &[ProxySpec]| {
            check_proxies(specs)?;
            let unnamed = specs.iter().position(|spec| spec.id.is_empty());
            // By their ids those that are the same are known when the file is read again.
            let required = || vec![BadField { path: "id".to_owned(), what: "is required".to_owned() }];
            unnamed.map_or(Ok(()), |position| Err((position, required())))
        })
    }

    fn triggers(&self) -> Result<Vec<TriggerSpec>, ConfigError> {
        self.list(RING_TRIGGERS, |specs: &[TriggerSpec]| {
            let wrong = specs.iter().enumerate();
            let mut wrong = wrong.filter_map(|(position, spec)| Some((position, Trigger::new(spec).err()?)));
            wrong.next().map_or(Ok(()), Err)
        })
    }

    fn ring(&self, triggers: Vec<TriggerSpec>) -> Result<Option<RingConfig>, ConfigError> {
        let bytes: usize = self.integer("recorder.ring_bytes");
        if bytes == 0 {
            return Ok(None);
        }
        if bytes < RING_MIN {
            let key = "recorder.ring_bytes";
            let origin = self.values[key].1.clone();
            let reason = format!(
                "{bytes} bytes are too few: at least {RING_MIN}, or 0 for none; --ring takes units, such as 64MiB"
            );
            return Err(ConfigError::Invalid { origin, key, reason });
        }
        Ok(Some(RingConfig {
            limits: RingLimits {
                bytes,
                duration: Duration::from_secs(self.integer("recorder.ring_duration_secs")),
            },
            triggers,
            cooldown: Duration::from_secs(self.integer("recorder.ring_cooldown_secs")),
        }))
    }

    fn chaos(&self) -> Result<ChaosSpec, ConfigError> {
        let milliseconds = |key: &str| self.integer::<u32>(key).into();
        let latency = LatencyDraw {
            min_ms: Some(milliseconds("mqtt.chaos.latency.min_ms")),
            max_ms: Some(milliseconds("mqtt.chaos.latency.max_ms")),
            ..LatencyDraw::default()
        };
        let slow_subscriber = SlowSubscriberSpec {
            enabled: self.switch("mqtt.chaos.slow_subscriber.enabled"),
            delay_ms: milliseconds(SLOW_SUBSCRIBER_DELAY),
            affected_topics: self.texts(AFFECTED_TOPICS)?,
        };
        let mut errors = Vec::new();
        let (mut positions, mut rules): (Vec<usize>, Vec<RuleSpec>) = Default::default();
        if let (Value::List(list), origin) = &self.values[CHAOS_RULES] {
            let (read, bad) = list.read();
            errors.extend(bad.into_iter().map(|bad| in_list(origin, CHAOS_RULES, bad)));
            (positions, rules) = read.into_iter().unzip();
        }
        let spec = ChaosSpec {
            enabled: self.switch("mqtt.chaos.enabled"),
            packet_loss: self.fraction("mqtt.chaos.packet_loss"),
            slow_subscriber: (slow_subscriber.delay_ms > 0.0).then_some(slow_subscriber),
            latency: (latency.min_ms > Some(0.0) || latency.max_ms > Some(0.0))
                .then_some(LatencySpec::Drawn(latency)),
            disconnect_probability: self.fraction("mqtt.chaos.disconnect_probability"),
            profile: self.optional_text("mqtt.chaos.profile"),
            rules,
        };
        // By their places in the file, where others between them were not read.
        let in_file = |field: BadField| {
            let rest = field.path.strip_prefix("rules[").and_then(|rest| rest.split_once(']'));
            let moved = rest.and_then(|(position, rest)| {
                let position = positions.get(position.parse::<usize>().ok()?)?;
                Some(format!("rules[{position}]{rest}"))
            });
            BadField { path: moved.unwrap_or(field.path), ..field }
        };
        let wrong = settings_rules(&spec).err().unwrap_or_default();
        errors.extend(wrong.into_iter().map(|field| self.bad_chaos(in_file(field))));
        if errors.is_empty() { Ok(spec) } else { Err(together(errors.into_iter())) }
    }

    /// What is wrong with `mqtt.chaos`, at the setting that says it.
    fn bad_chaos(&self, field: BadField) -> ConfigError {
        let path = format!("mqtt.chaos.{}", field.path);
        let is_below = |path: &str, above: &str| {
            path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let said = |key: &str| self.values[key].1 != Origin::Default;
        let keys = || SETTINGS.iter().map(|setting| setting.key).filter(|key| key.starts_with("mqtt.chaos."));
        let key = keys()
            .find(|key| is_below(&path, key))
            .or_else(|| keys().find(|key| is_below(key, &path) && said(key)))
            .expect("what is wrong was said by a setting");
        let (value, origin) = &self.values[key];
        match value {
            Value::List(list) => in_list(origin, key, list.bad(path[key.len()..].to_owned(), field.what)),
            _ => ConfigError::Invalid { origin: origin.clone(), key, reason: field.what },
        }
    }

    fn texts(&self, key: &'static str) -> Result<Vec<String>, ConfigError> {
        let (Value::List(list), origin) = &self.values[key] else { return Ok(Vec::new()) };
        let text = |(position, entry): (usize, &Document)| match &entry.content {
            Content::Text(text) => Ok(text.clone()),
            _ => {
                let what = "expected text (in quotes, if it looks like a number)".to_owned();
                Err(in_list(origin, key, list.bad(format!("[{position}]"), what)))
            }
        };
        list.entries().iter().enumerate().map(text).collect()
    }

    fn fraction(&self, key: &str) -> f64 {
        match &self.values[key].0 {
            Value::Fraction(number) => *number,
            _ => 0.0,
        }
    }

    fn list<T: DeserializeOwned + Clone>(
        &self,
        key: &'static str,
        check: impl FnMut(&[T]) -> Result<(), (usize, Vec<BadField>)>,
    ) -> Result<Vec<T>, ConfigError> {
        let (Value::List(list), origin) = &self.values[key] else { return Ok(Vec::new()) };
        read_list(list, origin, key, check)
    }

    /// # Panics
    /// If the table's row allows more than 2.
    fn qos(&self, key: &str) -> QoS {
        QoS::try_from(self.integer::<u8>(key)).expect("the table keeps it from 0 to 2")
    }

    fn text(&self, key: &str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    fn optional_text(&self, key: &str) -> Option<String> {
        match &self.values[key].0 {
            Value::Text(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// A file; a relative path starts where it was said: at the settings' file, or in the working directory.
    fn path(&self, key: &str, folder: &Path) -> Option<PathBuf> {
        let path = PathBuf::from(self.optional_text(key)?);
        match self.values[key].1 {
            // Without `.` in the middle of it.
            Origin::File { .. } => Some(folder.join(path).components().collect()),
            _ => Some(path),
        }
    }

    fn secret_files(&self, folder: &Path) -> Vec<PathBuf> {
        let holds_secrets =
            |setting: &&Setting| setting.key.ends_with("key_path") || setting.key == PASSWORD_FILE;
        SETTINGS.iter().filter(holds_secrets).filter_map(|setting| self.path(setting.key, folder)).collect()
    }

    fn in_force(&self) -> Vec<InForce> {
        SETTINGS
            .iter()
            .map(|setting| {
                let (value, origin) = &self.values[setting.key];
                let (unmasked, origin) = (value.clone(), origin.clone());
                InForce { key: setting.key, value: masked(setting, value), origin, unmasked }
            })
            .collect()
    }
}

/// Reads the mocks of `text`, which `path` names in errors: a list of them, one alone, or a whole settings file.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn read_mocks(path: &str, text: &str) -> Result<Vec<MockSpec>, ConfigError> {
    // Files are on the server's machine.
    read_alone(MOCKS, path, text, |specs| check_mocks(specs, &|_| Ok(bytes::Bytes::new())))
}

/// The same for webhooks.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn read_webhooks(path: &str, text: &str) -> Result<Vec<WebhookSpec>, ConfigError> {
    // As are files with authorities: the server checks the rest.
    read_alone(WEBHOOKS, path, text, |_| Ok(()))
}

/// The same for rules of chaos, where what the keys of a settings file are short for is among them. What the control plane
/// shows of rules is read, too.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn read_rules(path: &str, text: &str) -> Result<Vec<RuleSpec>, ConfigError> {
    let check = |specs: &[RuleSpec]| {
        for (position, spec) in specs.iter().enumerate() {
            let before = &specs[..position];
            if !spec.id.is_empty() && before.iter().any(|other| other.id == spec.id) {
                let what = format!("{:?} is the id of another rule", spec.id);
                return Err((position, vec![BadField { path: "id".to_owned(), what }]));
            }
        }
        let wrong = specs.iter().enumerate().find_map(|(position, spec)| {
            // The server chooses a free one.
            let id = if spec.id.is_empty() { "rule".to_owned() } else { spec.id.clone() };
            Some((position, Rule::new(RuleSpec { id, ..spec.clone() }).err()?))
        });
        wrong.map_or(Ok(()), Err)
    };
    let document = file::parse_document(path, text)?;
    if document.get("mqtt").is_some_and(|section| section.get("chaos").is_some()) {
        let mut problems = Problems::default();
        let layer = file::parse(path, text, &mut problems);
        let checked = Checked::from(&layer, &mut problems);
        let chaos = problems.keep(checked.chaos());
        problems.finish()?;
        let chaos = chaos.expect("what is missing was a problem");
        let rules = settings_rules(&chaos).expect("they were checked");
        return Ok(rules.into_iter().map(|rule| rule.spec().clone()).collect());
    }
    // As `chaos ls -o json` has it.
    let document = document.get("rules").cloned().unwrap_or(document);
    let list = if document.entries().is_empty() { document.alone() } else { document };
    // What is known of a rule besides.
    let list = list.without(&["faults", "from_settings"]);
    let origin = Origin::File { path: path.to_owned(), line: 1, column: 1 };
    read_list(&list, &origin, "", check)
}

/// Reads which messages are meant.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn read_match(path: &str, text: &str) -> Result<MatchSpec, ConfigError> {
    let document = file::parse_document(path, text)?;
    let origin = Origin::File { path: path.to_owned(), line: 1, column: 1 };
    if !document.entries().is_empty() {
        return Err(in_list(
            &origin,
            "",
            document.bad(String::new(), "expected keys with values, not a list".to_owned()),
        ));
    }
    let list = document.alone();
    let check = |specs: &[MatchSpec]| {
        let wrong = |(position, spec)| Some((position, MessageMatch::new(spec).err()?));
        specs.iter().enumerate().find_map(wrong).map_or(Ok(()), Err)
    };
    Ok(read_list(&list, &origin, "", check)?.pop().unwrap_or_default())
}

/// Reads expectations: a list of them, or one alone.
///
/// # Errors
/// [`ConfigError`], with line and column.
pub fn read_expectations(path: &str, text: &str) -> Result<Vec<ExpectationSpec>, ConfigError> {
    let document = file::parse_document(path, text)?;
    let list = if document.entries().is_empty() { document.alone() } else { document };
    let origin = Origin::File { path: path.to_owned(), line: 1, column: 1 };
    let check = |specs: &[ExpectationSpec]| {
        let wrong = |(position, spec)| {
            let bad = Expectation::new(spec).err()?;
            Some((position, bad.finish().err()?))
        };
        specs.iter().enumerate().find_map(wrong).map_or(Ok(()), Err)
    };
    read_list(&list, &origin, "", check)
}

/// Reads any YAML, with the place of everything in it.
///
/// # Errors
/// What is no YAML, and where.
pub fn parse_document(text: &str) -> Result<Document, BadEntry> {
    file::parse_document("", text).map_err(|error| match error {
        ConfigError::Syntax { origin: Origin::File { line, column, .. }, reason } => {
            BadEntry { path: String::new(), line, column, reason }
        }
        other => BadEntry { path: String::new(), line: 1, column: 1, reason: other.to_string() },
    })
}

/// `key` is the setting that such a list is.
fn read_alone<T: DeserializeOwned + Clone>(
    key: &str,
    path: &str,
    text: &str,
    check: impl FnMut(&[T]) -> Result<(), (usize, Vec<BadField>)>,
) -> Result<Vec<T>, ConfigError> {
    let document = file::parse_document(path, text)?;
    let settings = key.split('.').try_fold(&document, |section, name| section.get(name));
    let (list, prefix) = match (settings, document.entries()) {
        (Some(list), _) => (list.clone(), key),
        (None, []) => (document.alone(), ""),
        (None, _) => (document, ""),
    };
    let origin = Origin::File { path: path.to_owned(), line: 1, column: 1 };
    read_list(&list, &origin, prefix, check)
}

/// Entries of a list that may be wrong before the rest is not looked at.
const WRONG_MAX: usize = 20;

/// Reads a list of things that have a room of their own; `check` says what is wrong with the first of them that is not good.
fn read_list<T: DeserializeOwned + Clone>(
    list: &Document,
    origin: &Origin,
    key: &str,
    mut check: impl FnMut(&[T]) -> Result<(), (usize, Vec<BadField>)>,
) -> Result<Vec<T>, ConfigError> {
    let (read, bad) = list.read();
    let mut errors: Vec<ConfigError> = bad.into_iter().map(|bad| in_list(origin, key, bad)).collect();
    let (mut positions, things): (Vec<usize>, Vec<T>) = read.into_iter().unzip();
    let mut wrong = match check(&things) {
        Ok(()) if errors.is_empty() => return Ok(things),
        Ok(()) => return Err(together(errors.into_iter())),
        Err(wrong) => wrong,
    };
    // Those behind it are looked at without it.
    let mut others = things;
    for _ in 0..WRONG_MAX {
        let (position, fields) = wrong;
        others.remove(position);
        let position = positions.remove(position);
        errors.extend(fields.into_iter().map(|field| {
            let dot = if field.path.is_empty() { "" } else { "." };
            in_list(origin, key, list.bad(format!("[{position}]{dot}{}", field.path), field.what))
        }));
        match check(&others) {
            Ok(()) => break,
            Err(next) => wrong = next,
        }
    }
    Err(together(errors.into_iter()))
}

fn in_list(origin: &Origin, key: &str, bad: BadEntry) -> ConfigError {
    ConfigError::InList {
        origin: match origin {
            Origin::File { path, .. } => {
                Origin::File { path: path.clone(), line: bad.line, column: bad.column }
            }
            other => other.clone(),
        },
        path: format!("{key}{}", bad.path),
        reason: bad.reason,
    }
}

/// One error, or all of them; there is one at least.
fn together(errors: impl Iterator<Item = ConfigError>) -> ConfigError {
    let mut problems = Problems::default();
    errors.for_each(|error| problems.add(error));
    problems.finish().expect_err("there is one at least")
}

fn check_mocks(
    specs: &[MockSpec],
    read_file: &dyn Fn(&str) -> Result<bytes::Bytes, String>,
) -> Result<(), (usize, Vec<BadField>)> {
    make_mocks(specs, MockLimits::default(), read_file).map(drop).map_err(|(position, error)| match error {
        MockError::Bad(fields) => (position, fields),
        other => (position, vec![BadField { path: "id".to_owned(), what: other.to_string() }]),
    })
}

/// The files that settings name.
#[derive(Default)]
struct Files {
    /// Where relative paths start.
    folder: PathBuf,
    /// Where a caller of the API names them: below the folder, and none of these in messages.
    secrets: Option<Vec<PathBuf>>,
}

impl Files {
    fn read(&self, path: &str) -> Result<bytes::Bytes, String> {
        match self.secrets {
            Some(_) => read_file_below(&self.folder, path),
            None => read_file(&self.folder, path),
        }
    }

    fn read_for_message(&self, path: &str) -> Result<bytes::Bytes, String> {
        match &self.secrets {
            Some(secrets) => read_given_file(&self.folder, secrets, path),
            None => read_file(&self.folder, path),
        }
    }
}

/// Longest file that settings may name, bytes.
const FILE_MAX: u64 = 16 << 20;

/// Reads a file that settings name; a relative path starts at `folder`.
///
/// # Errors
/// Why it cannot be read, for people.
pub fn read_file(folder: &Path, path: &str) -> Result<bytes::Bytes, String> {
    let path = folder.join(path);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = std::fs::metadata(&path).map_err(failed)?;
    // Reading a pipe or a device may never end.
    if !metadata.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    let size = metadata.len();
    if size > FILE_MAX {
        return Err(format!("{} has {size} bytes; at most {FILE_MAX} are allowed", path.display()));
    }
    Ok(std::fs::read(&path).map_err(failed)?.into())
}

/// Reads a file for callers of the API: only below the folder, wherever links lead.
///
/// # Errors
/// Why it cannot be read, for people.
pub fn read_file_below(folder: &Path, path: &str) -> Result<bytes::Bytes, String> {
    let real = file_below(folder, path)?;
    read_file(Path::new(""), real.to_str().ok_or_else(|| format!("{path:?} is no path"))?)
        .map_err(|error| error.replace(&*real.to_string_lossy(), path))
}

/// Where a file that callers of the API name really is: only below the folder, wherever links lead.
///
/// # Errors
/// As [`read_file_below`].
pub fn file_below(folder: &Path, path: &str) -> Result<PathBuf, String> {
    let outside = || format!("{path:?} is not a path below the settings file's folder");
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(outside());
    }
    let failed = |error: std::io::Error| format!("{path}: {error}");
    // An empty path is the working directory everywhere but here.
    let folder = Path::new(".").join(folder).canonicalize().map_err(failed)?;
    let real = folder.join(path).canonicalize().map_err(failed)?;
    if real.starts_with(&folder) { Ok(real) } else { Err(outside()) }
}

/// The variables of this process that are called so; those that are not set are left out.
fn environment(names: &str) -> BTreeMap<String, String> {
    words(names).into_iter().map(|name| (name.clone(), std::env::var(name).unwrap_or_default())).collect()
}

/// Those between commas and line breaks.
fn words(text: &str) -> Vec<String> {
    text.split([',', '\n']).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn read(path: &Path, shown: &Path, problems: &mut Problems) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: shown.to_owned(), error })?;
    Ok(file::parse(&shown.display().to_string(), &text, problems))
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn masked(setting: &Setting, value: &Value) -> Value {
    match (setting.kind, value) {
        (Kind::Secret(_), Value::Text(text)) if !text.is_empty() => Value::Text(MASK.to_owned()),
        (_, Value::Text(text)) => Value::Text(without_password(text)),
        (_, Value::List(list)) if setting.key == PROXIES => {
            Value::List(list.map_texts(&|_, text| without_password(text)))
        }
        (_, Value::List(list)) if setting.key == API_TOKENS => Value::List(without_tokens(list)),
        (_, Value::List(list)) if setting.key == USERS => Value::List(list.map_texts(&|path, text| {
            let is_hash = path.last() == Some(&"password_hash");
            if is_hash { MASK.to_owned() } else { text.to_owned() }
        })),
        (_, Value::List(list)) if setting.key == WEBHOOKS => Value::List(without_secrets(list)),
        (_, value) => value.clone(),
    }
}

fn without_tokens(callers: &Document) -> Document {
    callers.map_texts(&|path, text| match path {
        ["name" | "role" | "certificate"] => text.to_owned(),
        _ => MASK.to_owned(),
    })
}

/// Webhooks with their secrets masked, and headers and parameters that carry some.
fn without_secrets(webhooks: &Document) -> Document {
    webhooks.map_texts(&|path, text| match path {
        [.., "secret"] => MASK.to_owned(),
        [.., "headers", name] if is_secret_name(name) => MASK.to_owned(),
        ["url"] => masked_url(text),
        _ => text.to_owned(),
    })
}

/// `mqtt://user:password@host?query` with the password and the query, which may hold a signature, masked; other texts as
/// they are.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (credentials, rest) = rest.rsplit_once('@').map_or((None, rest), |(both, rest)| (Some(both), rest));
    let credentials = match credentials.map(|both| both.split_once(':').ok_or(both)) {
        Some(Ok((user, _))) => format!("{user}:{MASK}@"),
        Some(Err(user)) => format!("{user}@"),
        None => String::new(),
    };
    let rest = match rest.split_once('?') {
        Some((path, _)) => format!("{path}?{MASK}"),
        None => rest.to_owned(),
    };
    format!("{scheme}://{credentials}{rest}")
}
