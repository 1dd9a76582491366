//! The table of all settings: key, what a value has to be, default, meaning.
//!
//! The file's keys, the environment's variables and `config show` all come from this one table.

use super::{document::Document, file::parse_list};
use crate::{auth::UserList, recording::OnOverload};

/// One key of the file, and the variable of the same path.
#[derive(Debug)]
pub struct Setting {
    /// Path in the file, dots between: `mqtt.limits.queue_bytes`.
    pub key: &'static str,
    pub kind: Kind,
    /// Spelled as in a variable; empty is no value.
    pub default: &'static str,
    pub about: &'static str,
    pub support: Support,
}

/// What a value has to be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Switch,
    /// Both ends are allowed.
    Integer {
        min: u64,
        max: u64,
    },
    Fraction {
        min: f64,
        max: f64,
    },
    /// Any whole number from 0, or nothing, which is an empty text.
    Number,
    /// The function says what is wrong with a text.
    Text(fn(&str) -> Result<(), String>),
    /// A text that is not shown; what the function says must not show it either.
    Secret(fn(&str) -> Result<(), String>),
    List,
}

/// Whether this version can do what the setting asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// Not yet, but the value alone changes nothing.
    Inert,
    /// Not yet: anything but off, zero or empty is refused.
    Refused,
}

/// A checked value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Switch(bool),
    Integer(u64),
    Fraction(f64),
    Text(String),
    /// Read by the room that it belongs to.
    List(Document),
}

/// A value as its source gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// From a variable or a flag, where everything is text.
    Spelled(String),
    Switch(bool),
    Integer(i128),
    Fraction(f64),
    Text(String),
    List(Document),
    /// A map where a value should be.
    Section,
}

impl Setting {
    /// The environment variable: `MOCKFORGE_MQTT_LIMITS_QUEUE_BYTES`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.key.replace('.', "_").to_uppercase())
    }

    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }
}

impl Kind {
    /// # Errors
    /// What was expected and what was found.
    pub fn read(self, given: &Given) -> Result<Value, String> {
        let given = match given {
            Given::Spelled(text) => self.spelled(text)?,
            other => other.clone(),
        };
        match (self, given) {
            (Self::Switch, Given::Switch(on)) => Ok(Value::Switch(on)),
            // To mocks `on` is a text; to a switch it is what it says.
            (Self::Switch, Given::Text(text)) => {
                let Given::Switch(on) = self.spelled(&text)? else {
                    unreachable!("what a switch is spelled")
                };
                Ok(Value::Switch(on))
            }
            (Self::Integer { min, max }, Given::Integer(number)) => u64::try_from(number)
                .ok()
                .filter(|number| (min..=max).contains(number))
                .map(Value::Integer)
                .ok_or_else(|| format!("expected {}, found {number}", self.expectation())),
            (Self::Number, Given::Integer(number)) => u64::try_from(number)
                .map(Value::Integer)
                .map_err(|_| format!("expected {}, found {number}", self.expectation())),
            (Self::Number, Given::Text(text)) if text.is_empty() => Ok(Value::Text(text)),
            (Self::Fraction { .. }, Given::Integer(number)) => self.read(&Given::Fraction(number as f64)),
            (Self::Fraction { min, max }, Given::Fraction(number)) => {
                if (min..=max).contains(&number) {
                    Ok(Value::Fraction(number))
                } else {
                    Err(format!("expected {}, found {number}", self.expectation()))
                }
            }
            (Self::Text(check) | Self::Secret(check), Given::Text(text)) => {
                check(&text).map(|()| Value::Text(text))
            }
            (Self::List, Given::List(list)) => Ok(Value::List(list)),
            (_, given) => Err(format!("expected {}, found {}", self.expectation(), given.noun())),
        }
    }

    fn spelled(self, text: &str) -> Result<Given, String> {
        let wrong = || format!("expected {}, found \"{text}\"", self.expectation());
        match self {
            Self::Switch => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(Given::Switch(true)),
                "false" | "0" | "no" | "off" | "" => Ok(Given::Switch(false)),
                _ => Err(wrong()),
            },
            Self::Number if text.is_empty() => Ok(Given::Text(String::new())),
            Self::Integer { .. } | Self::Number => {
                text.trim().parse().map(Given::Integer).map_err(|_| wrong())
            }
            Self::Fraction { .. } => text.trim().parse().map(Given::Fraction).map_err(|_| wrong()),
            Self::Text(_) | Self::Secret(_) => Ok(Given::Text(text.to_owned())),
            Self::List => {
                let text = if text.trim().is_empty() { "[]" } else { text };
                parse_list(text).map(Given::List)
            }
        }
    }

    fn expectation(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Integer { min, max: u64::MAX } => format!("a whole number of at least {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Number => format!("a whole number from 0 to {}", u64::MAX),
            Self::Fraction { min, max } => format!("a number from {min} to {max}"),
            Self::Text(_) | Self::Secret(_) => "text (in quotes, if it looks like a number)".to_owned(),
            Self::List => "a list".to_owned(),
        }
    }
}

impl Given {
    fn noun(&self) -> String {
        match self {
            Self::Spelled(text) | Self::Text(text) => format!("the text \"{text}\""),
            Self::Switch(on) => format!("{on}"),
            Self::Integer(number) => format!("the number {number}"),
            Self::Fraction(number) => format!("the number {number}"),
            Self::List(_) => "a list".to_owned(),
            Self::Section => "a section with keys".to_owned(),
        }
    }
}

impl Value {
    /// Off, zero or empty.
    pub fn is_off(&self) -> bool {
        match self {
            Self::Switch(on) => !on,
            Self::Integer(number) => *number == 0,
            Self::Fraction(number) => *number == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.entries().is_empty(),
        }
    }
}

/// What the name of every variable of ours starts with.
pub const PREFIX: &str = "MOCKFORGE_";

const PORT: Kind = Kind::Integer { min: 0, max: 65_535 };
const ANY_TEXT: Kind = Kind::Text(|_| Ok(()));
const HOST: Kind = Kind::Text(check_host);
const PROBABILITY: Kind = Kind::Fraction { min: 0.0, max: 1.0 };
const MILLISECONDS: Kind = Kind::Integer { min: 0, max: 86_400_000 };
const COUNT: Kind = Kind::Integer { min: 1, max: u32::MAX as u64 };
const BYTES: Kind = Kind::Integer { min: 1024, max: 1 << 40 };

/// A fixed header of five bytes and the longest Remaining Length [section 1.5.5].
const LARGEST_PACKET: u64 = 268_435_455 + 5;

/// All of them, in the order `config show` prints.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    full("mqtt.enabled", Kind::Switch, "false", "serve MQTT"),
    full("mqtt.host", HOST, "0.0.0.0", "address that MQTT clients connect to"),
    full("mqtt.port", PORT, "1883", "0 takes a free one"),
    full("mqtt.max_connections", COUNT, "1000", "MQTT connections at a time"),
    full("mqtt.max_packet_size", Kind::Integer { min: 2, max: LARGEST_PACKET }, "65536", "bytes, fixed header included"),
    full("mqtt.keep_alive_secs", Kind::Integer { min: 0, max: 65_535 }, "60", "longest keep alive an MQTT 5 client is granted, unless it asks for none; 0 leaves every client its own"),
    full("mqtt.upstream", Kind::Text(check_upstream), "", "URL of a real broker to stand in front of; empty is a broker of our own"),
    full("mqtt.sys_interval_secs", Kind::Integer { min: 0, max: 86_400 }, "10", "how often the `$SYS/broker/` topics are published; 0 is never"),
    full("mqtt.scram_users", Kind::Secret(check_users), "", "who may authenticate with SCRAM-SHA-256: `name:password`, a line or a comma apart"),
    full("mqtt.limits.receive_maximum", Kind::Integer { min: 1, max: 65_535 }, "1000", "QoS 1 and 2 messages a client may have unacknowledged towards us"),
    full("mqtt.limits.maximum_qos", Kind::Integer { min: 0, max: 2 }, "2", "highest QoS of messages and subscriptions"),
    full("mqtt.limits.retain_available", Kind::Switch, "true", "let clients publish retained messages"),
    full("mqtt.limits.wildcard_subscription_available", Kind::Switch, "true", "let clients subscribe with `+` and `#`"),
    full("mqtt.limits.subscription_identifier_available", Kind::Switch, "true", "let clients give subscriptions an identifier"),
    full("mqtt.limits.shared_subscription_available", Kind::Switch, "true", "let clients share subscriptions"),
    full("mqtt.limits.topic_alias_maximum", Kind::Integer { min: 0, max: 65_535 }, "64", "topic aliases a client may use; 0 forbids them"),
    full("mqtt.limits.inflight_max", Kind::Integer { min: 1, max: 65_535 }, "1000", "QoS 1 and 2 messages in flight towards one client"),
    full("mqtt.limits.queue_messages", COUNT, "10000", "messages that wait for one client, offline or slow"),
    full("mqtt.limits.queue_bytes", BYTES, "16777216", "topic, property and payload bytes of the same"),
    full("mqtt.limits.outbox_bytes", BYTES, "1048576", "bytes waiting on a socket above which QoS 0 messages to that client are dropped"),
    full("mqtt.limits.retained_messages", COUNT, "100000", "retained messages kept"),
    full("mqtt.limits.retained_bytes", BYTES, "67108864", "topic, property and payload bytes of the same"),
    full("mqtt.limits.subscriptions_per_client", COUNT, "10000", "subscriptions of one session"),
    full("mqtt.limits.mock_answers", COUNT, "100000", "answers of mocks that wait for their time"),
    full("mqtt.limits.mock_answer_bytes", BYTES, "67108864", "topic and payload bytes of what they answer"),
    full("mqtt.limits.webhook_queue_bytes", BYTES, "16777216", "bytes of messages that wait for one webhook or are being sent"),
    full("mqtt.limits.chaos_bytes", BYTES, "4194304", "bytes that chaos holds back of one connection, in each direction, before no more are read; how packets are kept counts, too"),
    full("mqtt.limits.sessions", COUNT, "100000", "sessions kept, connected or not"),
    full("mqtt.limits.session_expiry_max_secs", Kind::Integer { min: 0, max: u32::MAX as u64 }, "4294967295", "longest Session Expiry Interval granted; 4294967295 is no limit"),
    refused("mqtt.tls.enabled", Kind::Switch, "false", "serve MQTT over TLS"),
    inert("mqtt.tls.port", PORT, "8883", "0 takes a free one"),
    inert("mqtt.tls.cert_path", ANY_TEXT, "", "PEM file of the server's certificate"),
    inert("mqtt.tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    inert("mqtt.tls.ca_path", ANY_TEXT, "", "PEM file of the CA that client certificates are checked against"),
    inert("mqtt.tls.client_auth", Kind::Switch, "false", "require client certificates"),
    full("mqtt.seed", Kind::Number, "", "what random values are drawn from, a whole number; empty takes another one each time"),
    full(MOCKS, Kind::List, "[]", "answers to messages"),
    full("mqtt.mock_env", ANY_TEXT, "", "environment variables that templates may print, a comma apart"),
    full("mqtt.chaos.enabled", Kind::Switch, "true", "break things, as far as the settings below say any"),
    full("mqtt.chaos.packet_loss", PROBABILITY, "0", "of each PUBLISH, in both directions, from 0 to 1"),
    full("mqtt.chaos.slow_subscriber.enabled", Kind::Switch, "true", "slow down what subscribers get, where `delay_ms` is not 0"),
    full(SLOW_SUBSCRIBER_DELAY, MILLISECONDS, "0", "time that each message to a client takes, one after the other"),
    full(AFFECTED_TOPICS, Kind::List, "[]", "topic filters of those messages; empty is all"),
    full("mqtt.chaos.latency.min_ms", MILLISECONDS, "0", "least delay of a PUBLISH to a client"),
    full("mqtt.chaos.latency.max_ms", MILLISECONDS, "0", "greatest delay of a PUBLISH to a client"),
    full("mqtt.chaos.disconnect_probability", PROBABILITY, "0", "of a reset behind each PUBLISH, in both directions, from 0 to 1"),
    full("mqtt.chaos.profile", ANY_TEXT, "", "`3g`, `edge`, `satellite`, `lossy-wifi` or `flaky-broker`: rules before those below"),
    full(CHAOS_RULES, Kind::List, "[]", "which packets suffer what"),
    full(WEBHOOKS, Kind::List, "[]", "HTTP requests on messages"),
    full("http.enabled", Kind::Switch, "true", "serve the REST interface, metrics and gRPC on one port"),
    full("http.host", HOST, "127.0.0.1", "another than a loopback address needs api_token or insecure_api"),
    full("http.port", PORT, "3000", "0 takes a free one"),
    full("grpc.enabled", Kind::Switch, "true", "serve gRPC on a port of its own"),
    full("grpc.host", HOST, "127.0.0.1", "another than a loopback address needs api_token or insecure_api"),
    full("grpc.port", PORT, "50051", "0 takes a free one"),
    full("api_token", Kind::Secret(|_| Ok(())), "", "what callers of the control plane send as `Authorization: Bearer`; empty asks for none"),
    full("insecure_api", Kind::Switch, "false", "let others reach the control plane without a token"),
    full("store.path", Kind::Text(check_not_empty), ".mockforge", "folder of the recordings; a relative one starts at the working directory"),
    full("store.flush_interval_ms", Kind::Integer { min: 0, max: 60_000 }, "250", "what kill -9 may cost; 0 stores each packet before it is passed on"),
    full("store.max_bytes", Kind::Integer { min: 0, max: 1 << 50 }, "0", "bytes of recordings in the store, above which the oldest go; 0 is no limit"),
    full("store.max_age_secs", Kind::Integer { min: 0, max: 10 * 366 * 86_400 }, "0", "recordings go so long after they were stored; 0 is never"),
    full("recorder.memory_bytes", Kind::Integer { min: 1 << 20, max: 1 << 40 }, "67108864", "what a recording may hold unwritten before `on_overload` says what happens"),
    full("recorder.packet_bytes", Kind::Integer { min: 1 << 10, max: 268_435_460 }, "16777216", "longest packet that a proxy records whole; longer ones are recorded in raw pieces"),
    full("recorder.on_overload", Kind::Text(check_on_overload), "block", "what gives way when `memory_bytes` are in use: `block` slows the traffic down, `drop` leaves out events and counts them"),
    full("recorder.ring_bytes", Kind::Integer { min: 0, max: 1 << 40 }, "0", "memory for the flight recorder: what passed last, to be written down when asked to; 0 keeps nothing, else at least 65536"),
    full("recorder.ring_duration_secs", Kind::Integer { min: 1, max: 86_400 }, "600", "how far back it goes at most"),
    full(RING_TRIGGERS, Kind::List, "[]", "what makes it write by itself: errors, or messages"),
    full("recorder.ring_cooldown_secs", Kind::Integer { min: 0, max: 86_400 }, "60", "least time between two of those"),
    full("log.level", Kind::Text(check_not_empty), "info", "error, warn, info, debug, trace, or a filter such as `info,mockforge::net=debug`"),
];

pub const MOCKS: &str = "mqtt.mocks";
pub const RING_TRIGGERS: &str = "recorder.ring_triggers";
pub const WEBHOOKS: &str = "mqtt.webhooks";
pub const CHAOS_RULES: &str = "mqtt.chaos.rules";
pub const SLOW_SUBSCRIBER_DELAY: &str = "mqtt.chaos.slow_subscriber.delay_ms";
pub const AFFECTED_TOPICS: &str = "mqtt.chaos.slow_subscriber.affected_topics";

/// The switch without which the rest of its section has no effect.
pub const TLS_ENABLED: &str = "mqtt.tls.enabled";

const fn full(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default, about, support: Support::Full }
}

const fn inert(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default, about, support: Support::Inert }
}

const fn refused(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default, about, support: Support::Refused }
}

fn check_not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

fn check_on_overload(text: &str) -> Result<(), String> {
    match OnOverload::from_name(text) {
        Some(_) => Ok(()),
        None => Err(format!("expected block or drop, found \"{text}\"")),
    }
}

fn check_users(users: &str) -> Result<(), String> {
    UserList::parse(users).map(|_| ()).map_err(|problem| problem.to_string())
}

fn check_host(host: &str) -> Result<(), String> {
    let known = |c: char| c.is_alphanumeric() || ".-_:%".contains(c);
    if !host.is_empty() && host.chars().all(known) {
        Ok(())
    } else {
        Err(format!("expected an address or a host name, found \"{host}\""))
    }
}

/// Only what is sure to be wrong; the proxy's own parser is stricter.
fn check_upstream(url: &str) -> Result<(), String> {
    match url.split_once("://") {
        None | Some(("mqtt" | "tcp", _)) => Ok(()),
        Some(("mqtts" | "ssl" | "tls", _)) => {
            Err("TLS is not supported by this version yet, only mqtt://host[:port]".to_owned())
        }
        Some(_) => Err("expected mqtt://[user[:password]@]host[:port]".to_owned()),
    }
}
