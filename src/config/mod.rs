//! Settings: what was typed in the file, the environment and flags, merged and checked once.
//!
//! A [`Config`] is the proof that every value is in range and every key is known; the rest of the
//! program takes the part it needs and checks nothing again. `setting.rs` has the table of keys.

mod error;
mod file;
mod layer;
mod setting;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use self::{
    error::{ConfigError, Origin},
    layer::Flag,
    setting::{PREFIX, SETTINGS, Setting, Value},
};
use self::{
    layer::Layer,
    setting::{CHAOS_ENABLED, Given, Kind, Support, TLS_ENABLED},
};
use crate::{auth::UserList, broker::Limits, packet::QoS};

/// Everything that can be set, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub mqtt: MqttConfig,
    pub http: ListenConfig,
    pub grpc: ListenConfig,
    /// What callers of the control plane must send as `Authorization: Bearer`.
    pub api_token: Option<String>,
    /// Whether others than this host may reach the control plane without a token.
    pub insecure_api: bool,
    pub store: StoreConfig,
    pub recorder: RecorderConfig,
    pub log: LogConfig,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
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
    pub max_connections: usize,
    /// `mqtt://` URL of the broker to proxy; none is a broker of our own.
    pub upstream: Option<String>,
    /// `mqtt.max_packet_size`, `mqtt.keep_alive_secs` and everything of `mqtt.limits`.
    pub limits: Limits,
    /// How often the `$SYS` topics are published; zero is never.
    pub sys_interval: Duration,
    /// Who may authenticate with SCRAM-SHA-256.
    pub scram_users: UserList,
}

/// Where a part of the control plane listens.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenConfig {
    pub enabled: bool,
    /// An address or a host name.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoreConfig {
    pub path: PathBuf,
    /// Zero: durable before a packet is passed on.
    pub flush_interval: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecorderConfig {
    pub memory_bytes: usize,
    /// Longest packet that a proxy records whole, in bytes.
    pub packet_bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// A `tracing` filter.
    pub level: String,
}

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    pub key: &'static str,
    /// Secrets are masked.
    pub value: Value,
    pub origin: Origin,
}

/// What a [`Config`] is made from; of two that say the same key, the later field wins.
#[derive(Debug, Default)]
pub struct Sources {
    pub file: ConfigFile,
    /// Names and values; those of others are ignored.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Flag>,
}

/// Which file is read.
#[derive(Clone, Debug, Default)]
pub enum ConfigFile {
    #[default]
    None,
    /// `mockforge.yaml` in this folder or the nearest of five parents that has one.
    Search(PathBuf),
    At(PathBuf),
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
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        Self { file, environment, flags }
    }
}

impl Config {
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let path = match &sources.file {
            ConfigFile::None => None,
            ConfigFile::At(path) => Some((path.clone(), path.clone())),
            ConfigFile::Search(folder) => file::search(folder).map(|path| {
                let shown = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                (path, shown)
            }),
        };
        let file = match &path {
            Some((path, shown)) => read(path, shown)?,
            None => Layer::default(),
        };
        let environment = Layer::from_environment(sources.environment)?;
        let flags = Layer::from_flags(sources.flags);
        let mut config = Self::check(&flags.or(environment).or(file))?;
        config.file = path.map(|(_, shown)| shown);
        Ok(config)
    }

    /// Whether file, environment or flags say the setting `key`.
    pub fn is_said(&self, key: &str) -> bool {
        self.in_force.iter().any(|setting| setting.key == key && setting.origin != Origin::Default)
    }

    fn check(typed: &Layer) -> Result<Self, ConfigError> {
        let checked = Checked::from(typed)?;
        checked.refuse_what_is_for_later()?;
        checked.refuse_exposure()?;
        Ok(Self {
            mqtt: MqttConfig {
                enabled: checked.switch("mqtt.enabled"),
                host: checked.text("mqtt.host"),
                port: checked.integer("mqtt.port"),
                max_connections: checked.integer("mqtt.max_connections"),
                upstream: checked.optional_text("mqtt.upstream"),
                limits: Limits {
                    max_packet_size: checked.integer("mqtt.max_packet_size"),
                    keep_alive_max: checked.integer("mqtt.keep_alive_secs"),
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
                    outbox_bytes: checked.integer("mqtt.limits.outbox_bytes"),
                    retained_messages: checked.integer("mqtt.limits.retained_messages"),
                    retained_bytes: checked.integer("mqtt.limits.retained_bytes"),
                    subscriptions_per_client: checked.integer("mqtt.limits.subscriptions_per_client"),
                    sessions: checked.integer("mqtt.limits.sessions"),
                    session_expiry_max: checked.integer("mqtt.limits.session_expiry_max_secs"),
                },
                sys_interval: Duration::from_secs(checked.integer("mqtt.sys_interval_secs")),
                scram_users: UserList::parse(&checked.text("mqtt.scram_users"))
                    .expect("the table has it checked"),
            },
            http: ListenConfig {
                enabled: checked.switch("http.enabled"),
                host: checked.text("http.host"),
                port: checked.integer("http.port"),
            },
            grpc: ListenConfig {
                enabled: checked.switch("grpc.enabled"),
                host: checked.text("grpc.host"),
                port: checked.integer("grpc.port"),
            },
            api_token: checked.optional_text("api_token"),
            insecure_api: checked.switch("insecure_api"),
            store: StoreConfig {
                path: checked.text("store.path").into(),
                flush_interval: Duration::from_millis(checked.integer("store.flush_interval_ms")),
            },
            recorder: RecorderConfig {
                memory_bytes: checked.integer("recorder.memory_bytes"),
                packet_bytes: checked.integer("recorder.packet_bytes"),
            },
            log: LogConfig { level: checked.text("log.level") },
            file: None,
            in_force: checked.in_force(),
            warnings: checked.warnings(),
        })
    }
}

/// All defaults.
impl Default for Config {
    fn default() -> Self {
        Self::check(&Layer::default()).expect("the table's defaults are valid, as a test proves")
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
    fn from(typed: &Layer) -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        for Setting { key, kind, default, .. } in SETTINGS {
            let by_default = (Given::Spelled((*default).to_owned()), Origin::Default);
            let (given, origin) = typed.get(key).unwrap_or(&by_default);
            let value = kind.read(given).map_err(|reason| ConfigError::Invalid {
                origin: origin.clone(),
                key,
                reason,
            })?;
            values.insert(*key, (value, origin.clone()));
        }
        Ok(Self { values })
    }

    fn refuse_what_is_for_later(&self) -> Result<(), ConfigError> {
        // `chaos: {enabled: false}` is how people keep a prepared section around. One that does not
        // say so is meant: the guide's slow subscriber stands in a section without the switch.
        let (chaos, said_by) = &self.values[CHAOS_ENABLED];
        let without_chaos = chaos.is_off() && *said_by != Origin::Default;
        for setting in SETTINGS.iter().filter(|setting| setting.support == Support::Refused) {
            let (value, origin) = &self.values[setting.key];
            if value.is_off() || (without_chaos && setting.key.starts_with("mqtt.chaos.")) {
                continue;
            }
            return Err(ConfigError::NotSupported { origin: origin.clone(), key: setting.key });
        }
        Ok(())
    }

    /// `tls: {enabled: false, …}` is a section that is prepared for later; without the switch it may
    /// be meant to be in force.
    fn warnings(&self) -> Vec<String> {
        if self.values[TLS_ENABLED].1 != Origin::Default {
            return Vec::new();
        }
        SETTINGS
            .iter()
            .filter(|setting| setting.key.starts_with("mqtt.tls."))
            .filter_map(|Setting { key, .. }| {
                let origin = &self.values[key].1;
                let is_said = *origin != Origin::Default;
                is_said.then(|| format!("{origin}: {key} has no effect, because {TLS_ENABLED} is off"))
            })
            .collect()
    }

    fn refuse_exposure(&self) -> Result<(), ConfigError> {
        if self.switch("insecure_api") || self.optional_text("api_token").is_some() {
            return Ok(());
        }
        for (enabled, key) in [("http.enabled", "http.host"), ("grpc.enabled", "grpc.host")] {
            let host = self.text(key);
            if self.switch(enabled) && !is_loopback(&host) {
                let origin = self.values[key].1.clone();
                return Err(ConfigError::Exposed { origin, key, host });
            }
        }
        Ok(())
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

    fn in_force(&self) -> Vec<InForce> {
        SETTINGS
            .iter()
            .map(|setting| {
                let (value, origin) = &self.values[setting.key];
                InForce { key: setting.key, value: masked(setting, value), origin: origin.clone() }
            })
            .collect()
    }
}

fn read(path: &Path, shown: &Path) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: shown.to_owned(), error })?;
    file::parse(&shown.display().to_string(), &text)
}

fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

const MASK: &str = "********";

fn masked(setting: &Setting, value: &Value) -> Value {
    match (setting.kind, value) {
        (Kind::Secret(_), Value::Text(text)) if !text.is_empty() => Value::Text(MASK.to_owned()),
        (_, Value::Text(text)) => Value::Text(without_password(text)),
        (_, value) => value.clone(),
    }
}

/// `mqtt://user:password@host` with the password masked; other texts as they are.
fn without_password(text: &str) -> String {
    let parts = || {
        let (scheme, rest) = text.split_once("://")?;
        let (credentials, host) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{host}"))
    };
    parts().unwrap_or_else(|| text.to_owned())
}
