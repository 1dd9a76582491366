//! The table of all settings: key, what a value has to be, default, meaning.
//!
//! The file's keys, the environment's variables and `config show` all come from this one table.

use serde_json::{Value as Json, json};

use super::{document::Document, file::parse_list};
use crate::{
    auth::{UserList, check_token},
    log,
};

/// One key of the file, and the variable of the same path.
#[derive(Debug)]
pub struct Setting {
    /// Path in the file, dots between: `mqtt.limits.queue_bytes`.
    pub key: &'static str,
    pub kind: Kind,
    /// Spelled as in a variable; empty is no value.
    pub default: &'static str,
    pub about: &'static str,
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
    /// One of these texts; a test has each of them read by the room that it belongs to.
    Choice(&'static [&'static str]),
    /// A text that is not shown; what the function says must not show it either.
    Secret(fn(&str) -> Result<(), String>),
    List,
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

    /// Whether a running server follows a change of it; else it takes effect at the next start.
    pub fn is_followed(&self) -> bool {
        FOLLOWED.iter().any(|followed| self.key.starts_with(followed))
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
            (Self::Choice(names), Given::Text(text)) => match names.contains(&&*text) {
                true => Ok(Value::Text(text)),
                false => Err(format!("expected {}, found \"{text}\"", self.expectation())),
            },
            (Self::List, Given::List(list)) => Ok(Value::List(list)),
            // What stands where a list should may be a token.
            (Self::Secret(_) | Self::List, given) => {
                Err(format!("expected {}, found {}", self.expectation(), given.kind_noun()))
            }
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
            Self::Text(_) | Self::Choice(_) | Self::Secret(_) => Ok(Given::Text(text.to_owned())),
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
            Self::Choice(names) => match names {
                [others @ .., last] => format!("{} or {last}", others.join(", ")),
                [] => "nothing".to_owned(),
            },
            Self::List => "a list".to_owned(),
        }
    }
}

impl Given {
    /// Without the value.
    fn kind_noun(&self) -> &'static str {
        match self {
            Self::Spelled(_) | Self::Text(_) => "a text",
            Self::Switch(_) => "a switch",
            Self::Integer(_) | Self::Fraction(_) => "a number",
            Self::List(_) => "a list",
            Self::Section => "a section with keys",
        }
    }

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

    /// An empty text is `null`.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Switch(on) => json!(on),
            Self::Integer(number) => json!(number),
            Self::Fraction(number) => json!(number),
            Self::Text(text) if text.is_empty() => Json::Null,
            Self::Text(text) => json!(text),
            Self::List(list) => list.to_json(),
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
const TIMEOUT: Kind = Kind::Integer { min: 1, max: 3_600 };
const SECONDS_OR_NONE: Kind = Kind::Integer { min: 0, max: 32_767 };
const COUNT_OR_NONE: Kind = Kind::Integer { min: 0, max: u32::MAX as u64 };
const RATE: Kind = Kind::Integer { min: 0, max: 1_000_000 };
const SECONDS: Kind = Kind::Integer { min: 1, max: 86_400 };
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
    full("mqtt.durability", Kind::Choice(&["none", "relaxed", "strict"]), "none", "when Sessions and retained messages are on disk: `none` keeps them in memory, `relaxed` has them there within 250 ms of the acknowledgement that promises it, `strict` before it; of no effect with `mqtt.upstream`"),
    full("mqtt.scram_users", Kind::Secret(check_users), "", "who may authenticate with SCRAM-SHA-256: `name:password`, a line or a comma apart"),
    full("mqtt.allow_anonymous", Kind::Switch, "true", "let clients in that give no user name; off, they need a right one and its password, or a certificate"),
    full(USERS, Kind::List, "[]", "who may log in: `username`, `password_hash` as `mockforge passwd --hash` prints it, `groups`"),
    full(PASSWORD_FILE, ANY_TEXT, "", "file of more of them, `name:hash` on each line: of `mockforge passwd` or of mosquitto; a relative path starts at the settings file's folder"),
    full(ACL, Kind::List, "[]", "who may publish and subscribe to what: rules in order, the first that applies decides, and what none allows is denied; without any, everything is allowed"),
    full("mqtt.limits.connections_per_address", COUNT_OR_NONE, "0", "MQTT connections at a time from one address (of IPv6: from one /64 network); 0 is no limit"),
    full("mqtt.limits.connect_rate", RATE, "0", "MQTT connections admitted a second; 0 is no limit"),
    full("mqtt.limits.connect_rate_per_address", RATE, "0", "the same from one address"),
    full("mqtt.limits.connect_timeout_secs", TIMEOUT, "10", "time from being accepted to a whole CONNECT, handshakes of TLS and WebSocket included"),
    full("mqtt.limits.upstream_timeout_secs", TIMEOUT, "5", "time that reaching the upstream may take"),
    full("mqtt.limits.tcp_keepalive_secs", SECONDS_OR_NONE, "60", "silence after which the system asks whether a client is there; it is given up after as long again; 0 never asks"),
    full("mqtt.limits.tcp_user_timeout_secs", SECONDS_OR_NONE, "0", "time after which a client is given up that acknowledges or takes nothing of what it is sent, whatever its keep alive; 0 leaves it to the system"),
    full("mqtt.limits.control_packet_bytes", BYTES, "524288", "longest packet other than PUBLISH, and longest PUBLISH without its payload"),
    full("mqtt.limits.client_id_bytes", Kind::Integer { min: 23, max: 65_535 }, "1024", "longest client identifier"),
    full("mqtt.limits.topic_levels", COUNT, "200", "levels of clients' topics and topic filters"),
    full("mqtt.limits.topic_bytes", Kind::Integer { min: 1, max: 65_535 }, "65535", "their bytes"),
    full("mqtt.limits.filters_per_packet", COUNT, "10000", "topic filters in one SUBSCRIBE or UNSUBSCRIBE"),
    full("mqtt.limits.receive_maximum", Kind::Integer { min: 1, max: 65_535 }, "1000", "QoS 1 and 2 messages a client may have unacknowledged towards us"),
    full("mqtt.limits.maximum_qos", Kind::Integer { min: 0, max: 2 }, "2", "highest QoS of messages and subscriptions"),
    full("mqtt.limits.retain_available", Kind::Switch, "true", "let clients publish retained messages"),
    full("mqtt.limits.wildcard_subscription_available", Kind::Switch, "true", "let clients subscribe with `+` and `#`"),
    full("mqtt.limits.subscription_identifier_available", Kind::Switch, "true", "let clients give subscriptions an identifier"),
    full("mqtt.limits.shared_subscription_available", Kind::Switch, "true", "let clients share subscriptions"),
    full("mqtt.limits.topic_alias_maximum", Kind::Integer { min: 0, max: 65_535 }, "64", "topic aliases a client may use; 0 forbids them"),
    full("mqtt.limits.inflight_max", Kind::Integer { min: 1, max: 65_535 }, "1000", "QoS 1 and 2 messages in flight towards one client"),
    full("mqtt.limits.queue_messages", COUNT, "10000", "messages that wait for one client, offline or slow"),
    full("mqtt.limits.queue_bytes", BYTES, "16777216", "topic, property and payload bytes of the same; as many may be in flight"),
    full("mqtt.limits.waiting_bytes", BYTES, "536870912", "bytes that wait for all clients together, on sockets, in queues and in flight, above which each client has 64 KiB in each place"),
    full("mqtt.limits.outbox_bytes", BYTES, "1048576", "bytes waiting on a socket above which QoS 0 messages to that client are dropped"),
    full("mqtt.limits.retained_messages", COUNT, "100000", "retained messages kept"),
    full("mqtt.limits.retained_bytes", BYTES, "67108864", "topic, property and payload bytes of the same"),
    full("mqtt.limits.subscriptions_per_client", COUNT, "10000", "subscriptions of one session"),
    full("mqtt.limits.subscriptions", COUNT, "2000000", "subscriptions of all sessions"),
    full("mqtt.limits.mocks", COUNT, "100000", "mocks, those of the settings included"),
    full("mqtt.limits.template_steps", COUNT, "1000000", "calls of helpers and turns of loops in one rendering of a template: a second or so"),
    full("mqtt.limits.mock_answers", COUNT, "100000", "answers of mocks that wait for their time"),
    full("mqtt.limits.mock_answer_bytes", BYTES, "67108864", "topic and payload bytes of what they answer"),
    full("mqtt.limits.webhook_queue_bytes", BYTES, "16777216", "bytes of messages that wait for one webhook or are being sent"),
    full("mqtt.limits.proxies", COUNT, "100", "proxies beside the server's own listener; each has a thread"),
    full("mqtt.limits.chaos_bytes", BYTES, "4194304", "bytes that chaos holds back of one connection, in each direction, before no more are read; how packets are kept counts, too"),
    full("mqtt.limits.sessions", COUNT, "100000", "sessions kept, connected or not"),
    full("mqtt.limits.session_expiry_max_secs", Kind::Integer { min: 0, max: u32::MAX as u64 }, "4294967295", "longest Session Expiry Interval granted; 4294967295 is no limit"),
    full(TLS_ENABLED, Kind::Switch, "false", "serve MQTT over TLS, too"),
    full("mqtt.tls.port", PORT, "8883", "0 takes a free one"),
    full("mqtt.tls.cert_path", ANY_TEXT, "", "PEM file of the server's certificate, and of those that lead to its authority; empty is one for development in `certs`, made if there is none"),
    full("mqtt.tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    full("mqtt.tls.ca_path", ANY_TEXT, "", "PEM file of the authorities of clients' certificates; empty asks for none, or with certificates for development, and `client_auth` or `username_from`, takes their authority"),
    full("mqtt.tls.client_auth", Kind::Switch, "false", "refuse clients without a certificate"),
    full("mqtt.tls.username_from", Kind::Choice(&["none", "cn", "subject"]), "none", "what of a client's certificate is its user name: `cn`, the Common Name, `subject`, all of it as in RFC 2253, or `none`"),
    full("mqtt.tls.min_version", Kind::Choice(&["1.2", "1.3"]), "1.2", "`1.2` or `1.3`"),
    full("mqtt.tls.mint", Kind::Switch, "false", "make certificates for other names that clients ask for; always done where `cert_path` is empty and there is an upstream"),
    full("mqtt.tls.mint_ca_path", ANY_TEXT, "", "PEM file of the authority that signs them; empty is the one for development"),
    full("mqtt.tls.mint_ca_key_path", ANY_TEXT, "", "PEM file of its key"),
    full("mqtt.websocket.enabled", Kind::Switch, "false", "serve MQTT over WebSocket, and with mqtt.tls.enabled over that with TLS, too"),
    full("mqtt.websocket.port", PORT, "8083", "0 takes a free one"),
    full("mqtt.websocket.tls_port", PORT, "8084", "the same with TLS; 0 takes a free one"),
    full("mqtt.websocket.max_frame_size", Kind::Integer { min: 1024, max: 1 << 40 }, "16777216", "bytes of a WebSocket frame; those of a packet may come in several"),
    full("mqtt.websocket.origins", ANY_TEXT, "", "pages that may connect beside those of this machine and of the host connected to, such as `https://app.example`, a comma apart; `*` is all"),
    full("mqtt.upstream_tls.ca_path", ANY_TEXT, "", "PEM file of the authorities that may vouch for an `mqtts://` or `wss://` upstream; empty is the system's"),
    full("mqtt.upstream_tls.cert_path", ANY_TEXT, "", "PEM file of the certificate that it is shown"),
    full("mqtt.upstream_tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    full("mqtt.upstream_tls.insecure", Kind::Switch, "false", "believe any upstream, whatever its certificate"),
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
    full(PROXIES, Kind::List, "[]", "proxies beside the server's own listener"),
    full("http.enabled", Kind::Switch, "true", "serve the REST interface, metrics and gRPC on one port"),
    full("http.host", HOST, "127.0.0.1", "another than a loopback address needs a token, http.tls.client_auth or insecure_api"),
    full("http.port", PORT, "3000", "0 takes a free one"),
    full(ALLOWED_HOSTS, Kind::List, "[]", "names that both ports may be called by, beside `localhost` and addresses; `*.example.com` takes those below, `*` any"),
    full("http.tls.enabled", Kind::Switch, "false", "serve HTTPS, and no HTTP, on the port"),
    full("http.tls.cert_path", ANY_TEXT, "", "PEM file of the server's certificate, and those between it and its CA"),
    full("http.tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    full("http.tls.ca_path", ANY_TEXT, "", "PEM file of the CA that callers' certificates are checked against"),
    full("http.tls.client_auth", Kind::Switch, "false", "require certificates of callers"),
    full("http.limits.connections", COUNT, "256", "connections to both ports at a time; where there are tokens, those that have shown none have half of them at most, and those of role `read`, too"),
    full("http.limits.requests", COUNT, "1024", "calls under way at a time, without those that stream; callers of role `read` have half of them at most"),
    full("http.limits.streaming_requests", COUNT, "1024", "calls under way at a time that stream: live events, exports, imports and the like; likewise"),
    full("http.limits.body_bytes", Kind::Integer { min: 1024, max: 512 << 20 }, "16777216", "longest body of a REST request; not of an import"),
    full("http.limits.import_bytes", BYTES, "4294967296", "longest file that is imported; those under way may have as much together"),
    full("http.limits.header_bytes", Kind::Integer { min: 8192, max: 1 << 20 }, "32768", "longest head of a request, on both ports"),
    full("http.limits.headers", Kind::Integer { min: 16, max: 1000 }, "100", "most header lines of an HTTP/1 request"),
    full("http.limits.head_timeout_secs", SECONDS, "10", "time for a request's head, and for TLS before it; an HTTP/1 connection may be idle as long"),
    full("http.limits.body_timeout_secs", SECONDS, "60", "time for a REST request's body; of an import for each piece"),
    full("http.limits.idle_timeout_secs", SECONDS, "120", "how long an HTTP/2 connection may be idle, and a caller read nothing of its answer"),
    full("grpc.enabled", Kind::Switch, "true", "serve gRPC on a port of its own"),
    full("grpc.host", HOST, "127.0.0.1", "another than a loopback address needs a token, grpc.tls.client_auth or insecure_api"),
    full("grpc.port", PORT, "50051", "0 takes a free one"),
    full("grpc.tls.enabled", Kind::Switch, "false", "serve gRPC over TLS only"),
    full("grpc.tls.cert_path", ANY_TEXT, "", "PEM file of the server's certificate, and those between it and its CA"),
    full("grpc.tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    full("grpc.tls.ca_path", ANY_TEXT, "", "PEM file of the CA that callers' certificates are checked against"),
    full("grpc.tls.client_auth", Kind::Switch, "false", "require certificates of callers"),
    full("grpc.limits.message_bytes", Kind::Integer { min: 1024, max: 512 << 20 }, "16777216", "longest message of a caller"),
    full("grpc.limits.streams", Kind::Integer { min: 1, max: 10_000 }, "1000", "calls under way on one HTTP/2 connection"),
    full("scenarios.runs", COUNT, "16", "scenarios that may run at a time"),
    full("scenarios.clients", Kind::Integer { min: 1, max: 10_000 }, "10000", "clients of one scenario"),
    full("scenarios.inbox_bytes", BYTES, "67108864", "messages that a scenario's clients have received and no step has read; beyond that its expectations fail"),
    full("api_token", Kind::Secret(check_api_token), "", "what callers of the control plane send as `Authorization: Bearer` to do everything; empty asks for none"),
    full(API_TOKENS, Kind::List, "[]", "more callers: `name`, `role` (`read`, `control` or `admin`), and `token`, `token_sha256` or `certificate`"),
    full("client.token", Kind::Secret(check_api_token), "", "what commands that talk to a server send it (`--token`); empty is `api_token`"),
    full("client.tls.ca_path", ANY_TEXT, "", "PEM file of the CA of a server's certificate, for commands that talk to one over `https://`; empty trusts whom the system trusts"),
    full("client.tls.cert_path", ANY_TEXT, "", "PEM file of the certificate that they show"),
    full("client.tls.key_path", ANY_TEXT, "", "PEM file of its key"),
    full("client.tls.insecure", Kind::Switch, "false", "take any certificate: whoever is in between reads and changes everything"),
    full("insecure_api", Kind::Switch, "false", "let others reach the control plane without a token"),
    full("store.path", Kind::Text(check_not_empty), ".mockforge", "folder of the recordings; a relative one starts at the working directory"),
    full("store.flush_interval_ms", Kind::Integer { min: 0, max: 60_000 }, "250", "what kill -9 may cost; 0 stores each packet before it is passed on"),
    full("store.max_bytes", Kind::Integer { min: 0, max: 1 << 50 }, "0", "bytes of recordings in the store, above which the oldest go; 0 is no limit"),
    full("store.max_age_secs", Kind::Integer { min: 0, max: 10 * 366 * 86_400 }, "0", "recordings go so long after they were stored; 0 is never"),
    full("recorder.memory_bytes", Kind::Integer { min: 1 << 20, max: 1 << 40 }, "67108864", "what a recording may hold unwritten before `on_overload` says what happens"),
    full("recorder.packet_bytes", Kind::Integer { min: 1 << 10, max: 268_435_460 }, "16777216", "longest packet that a proxy records whole; longer ones are recorded in raw pieces"),
    full("recorder.on_overload", Kind::Choice(&["block", "drop"]), "block", "what gives way when `memory_bytes` are in use: `block` slows the traffic down, `drop` leaves out events and counts them"),
    full("recorder.ring_bytes", Kind::Integer { min: 0, max: 1 << 40 }, "0", "memory for the flight recorder: what passed last, to be written down when asked to; 0 keeps nothing, else at least 65536"),
    full("recorder.ring_duration_secs", Kind::Integer { min: 1, max: 86_400 }, "600", "how far back it goes at most"),
    full(RING_TRIGGERS, Kind::List, "[]", "what makes it write by itself: errors, or messages"),
    full("recorder.ring_cooldown_secs", Kind::Integer { min: 0, max: 86_400 }, "60", "least time between two of those"),
    full("journal.messages", COUNT_OR_NONE, "10000", "last messages that are kept for those who wait for them, count them and look for them; 0 keeps none"),
    full("journal.bytes", Kind::Integer { min: 0, max: 1 << 40 }, "16777216", "topic, property and payload bytes of the same; 0 keeps none, too"),
    full("log.level", Kind::Text(log::check), "info", "error, warn, info, debug, trace, or a filter such as `info,mockforge::net=debug`"),
    full("log.format", Kind::Choice(&["text", "json"]), "text", "`text` for people, or `json`: an object on each line"),
];

pub const USERS: &str = "mqtt.users";
pub const PASSWORD_FILE: &str = "mqtt.password_file";
pub const ACL: &str = "mqtt.acl";
pub const ALLOWED_HOSTS: &str = "http.allowed_hosts";
pub const API_TOKENS: &str = "api_tokens";
pub const MOCKS: &str = "mqtt.mocks";
pub const RING_TRIGGERS: &str = "recorder.ring_triggers";
pub const WEBHOOKS: &str = "mqtt.webhooks";
pub const PROXIES: &str = "mqtt.proxies";
pub const CHAOS_RULES: &str = "mqtt.chaos.rules";
pub const SLOW_SUBSCRIBER_DELAY: &str = "mqtt.chaos.slow_subscriber.delay_ms";
pub const AFFECTED_TOPICS: &str = "mqtt.chaos.slow_subscriber.affected_topics";

/// How the keys begin that a running server follows.
const FOLLOWED: [&str; 10] = [
    "log.level",
    "api_token",
    "mqtt.allow_anonymous",
    USERS,
    PASSWORD_FILE,
    ACL,
    MOCKS,
    WEBHOOKS,
    PROXIES,
    "mqtt.chaos.",
];

/// The switch without which the rest of its section has no effect.
pub const TLS_ENABLED: &str = "mqtt.tls.enabled";

const fn full(key: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { key, kind, default, about }
}

fn check_not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(()) }
}

fn check_users(users: &str) -> Result<(), String> {
    UserList::parse(users).map(|_| ()).map_err(|problem| problem.to_string())
}

fn check_api_token(token: &str) -> Result<(), String> {
    if token.is_empty() { Ok(()) } else { check_token(token) }
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
        None | Some(("mqtt" | "tcp" | "mqtts" | "ssl" | "tls" | "ws" | "wss", _)) => Ok(()),
        Some(_) => {
            Err("expected mqtt://[user[:password]@]host[:port], or mqtts://, ws:// or wss://".to_owned())
        }
    }
}
