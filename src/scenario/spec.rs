//! A scenario's clients and the arguments of its steps, as people write them.
//!
//! Nothing here is checked beyond its shape; [`Scenario::read`](super::Scenario::read) does that and says what is wrong where.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use crate::mock::PropertiesSpec;

/// What is done when a step has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The steps behind it are skipped.
    #[default]
    Stop,
    Continue,
}

/// One client, or as many alike as `count` says. Texts of `client_id`, `username`, `password` and `will` are templates.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ClientSpec {
    pub count: u32,
    /// Absent: the name, and `-{{i}}` behind it where there are several.
    pub client_id: Option<String>,
    /// `3.1`, `3.1.1` or `5`; absent: 5.
    pub protocol: Option<Spelled>,
    /// Before MQTT 5 it is called `clean_session`.
    #[serde(alias = "clean_session")]
    pub clean_start: bool,
    /// MQTT 5 only.
    pub session_expiry: Option<Seconds>,
    /// 0 turns it off.
    pub keep_alive: Option<Seconds>,
    pub username: Option<String>,
    pub password: Option<String>,
    pub will: Option<WillSpec>,
    pub properties: ConnectPropertiesSpec,
    /// Connects again so long after the connection was lost; absent: stays away.
    pub reconnect: Option<Span>,
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self {
            count: 1,
            client_id: None,
            protocol: None,
            clean_start: true,
            session_expiry: None,
            keep_alive: None,
            username: None,
            password: None,
            will: None,
            properties: ConnectPropertiesSpec::default(),
            reconnect: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct WillSpec {
    pub topic: String,
    pub payload: Option<Value>,
    pub qos: u8,
    pub retain: bool,
    /// MQTT 5 only.
    pub delay: Option<Seconds>,
    pub properties: PropertiesSpec,
}

/// Of CONNECT; MQTT 5 only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ConnectPropertiesSpec {
    pub receive_maximum: Option<u16>,
    pub maximum_packet_size: Option<u32>,
    pub user: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ConnectSpec {
    /// Clients connect at times drawn over so long.
    pub spread: Option<Span>,
    pub within: Option<Span>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct DisconnectSpec {
    pub mode: DisconnectMode,
    pub spread: Option<Span>,
}

/// How a connection is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectMode {
    /// DISCONNECT; the Will is forgotten.
    #[default]
    Normal,
    /// DISCONNECT with Will; before MQTT 5 there is none, and it is `fin`.
    WithWill,
    /// The connection is closed without a word.
    Fin,
    /// It is reset, as when a process dies.
    Rst,
}

/// A Topic Filter alone is short for `filter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct SubscribeSpec {
    /// Templates.
    #[serde(alias = "filters")]
    pub filter: OneOrMore,
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    /// As MQTT 5 numbers it: 0 sends retained messages, 1 only for a new subscription, 2 never.
    pub retain_handling: u8,
    pub subscription_identifier: Option<u32>,
    pub within: Option<Span>,
}

/// A Topic Filter alone is short for `filter`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct UnsubscribeSpec {
    #[serde(alias = "filters")]
    pub filter: OneOrMore,
    pub within: Option<Span>,
}

/// Topic, payload and properties are templates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct PublishSpec {
    pub topic: String,
    pub payload: Option<Value>,
    pub payload_base64: Option<String>,
    pub qos: u8,
    pub retain: bool,
    pub properties: PropertiesSpec,
    /// How many each client sends; absent: 1.
    pub count: Option<u64>,
    /// From one to the next.
    pub every: Option<Span>,
    /// Clients begin at times drawn over so long.
    pub spread: Option<Span>,
    /// For the acknowledgements, behind the last message.
    pub within: Option<Span>,
    /// Clients that are not connected, or lose their connection meanwhile, are no failure.
    pub lossy: bool,
}

/// What is expected beside what messages look like, which are the other keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ExpectSpec {
    pub client: OneOrMore,
    pub count: Option<Value>,
    /// Whether each client of several has to get so many, not all together.
    pub each: bool,
    pub within: Option<Span>,
    #[serde(rename = "for")]
    pub lasting: Option<Span>,
}

impl ExpectSpec {
    /// The keys that are not of messages.
    pub const KEYS: [&'static str; 5] = ["client", "count", "each", "within", "for"];
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct RepeatSpec {
    #[serde(alias = "count")]
    pub times: u32,
    pub steps: Value,
}

/// A key of the state store, with a value to write or to test.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct StateSpec {
    /// `global`, or `client:` and a client identifier; absent: `global`.
    pub scope: Option<String>,
    pub key: String,
    pub value: Value,
}

/// A name alone is short for `name`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct RecordSpec {
    /// A template; absent: the scenario's, with the run's id behind it.
    pub name: Option<String>,
    pub topics: Vec<String>,
    pub keep_credentials: bool,
}

/// A recording alone is short for `recording`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ReplaySpec {
    /// Id or name, a template.
    pub recording: String,
    pub mode: ReplayMode,
    /// URL; absent: where the scenario's clients connect.
    pub target: Option<String>,
    pub speed: Option<Speed>,
    pub max_gap: Option<Span>,
    pub loops: Option<u32>,
    pub map_topics: Vec<String>,
    pub map_client: Option<String>,
    pub verify: Option<VerifyLevel>,
    pub within: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayMode {
    #[default]
    Publish,
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLevel {
    Count,
    Payload,
    Packets,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct HttpSpec {
    /// Absent: GET, or POST with a body.
    pub method: Option<String>,
    pub url: String,
    pub headers: BTreeMap<String, String>,
    /// A text as it is, any other value as its compact JSON.
    pub body: Option<Value>,
    #[serde(deserialize_with = "status_or_more")]
    pub expect: HttpExpectSpec,
    pub within: Option<Span>,
}

/// A status alone is short for `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct HttpExpectSpec {
    /// Absent: any from 200 to 299.
    pub status: Option<u16>,
    /// As the `payload` of a mock's `when`.
    pub body: Value,
}

fn status_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<HttpExpectSpec, D::Error> {
    struct Expected;

    impl<'de> Visitor<'de> for Expected {
        type Value = HttpExpectSpec;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a status, or keys with values")
        }

        fn visit_u64<E: serde::de::Error>(self, status: u64) -> Result<HttpExpectSpec, E> {
            let status = u16::try_from(status).map_err(|_| E::custom(format!("no status is {status}")))?;
            Ok(HttpExpectSpec { status: Some(status), ..HttpExpectSpec::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HttpExpectSpec, A::Error> {
            HttpExpectSpec::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Expected)
}

/// So many times as fast as recorded, from 0.001 to 1000; 0, which is also spelled `max`, does not wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed(pub f64);

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spelled(text) = Spelled::deserialize(deserializer)?;
        match text.trim().parse::<f64>() {
            _ if text.trim().eq_ignore_ascii_case("max") => Ok(Self(0.0)),
            Ok(speed) if speed == 0.0 || (0.001..=1000.0).contains(&speed) => Ok(Self(speed)),
            _ => {
                Err(D::Error::custom(format!("is a number from 0.001 to 1000, or max (or 0), not {text:?}")))
            }
        }
    }
}

/// A length of time with its unit: `500ms`, `2s`, `1m30s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

/// The longest that anything in a scenario may take.
pub const SPAN_MAX: Duration = Duration::from_secs(86_400);

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with('-') {
            return Err("is not negative".to_owned());
        }
        if !text.is_empty() && text.parse::<f64>().is_ok() {
            return Err(format!("has no unit: {text}ms, {text}s or {text}m"));
        }
        let span = text.parse::<jiff::SignedDuration>().ok();
        match span.and_then(|span| Duration::try_from(span).ok()) {
            Some(span) if span <= SPAN_MAX => Ok(Self(span)),
            Some(_) => Err("is at most a day".to_owned()),
            None => Err(format!("is a time such as 500ms, 2s or 1m30s, not {text:?}")),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&Spelled::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

/// Whole seconds: a number, or a time with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub u32);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spelled(text) = Spelled::deserialize(deserializer)?;
        if let Ok(seconds) = text.parse() {
            return Ok(Self(seconds));
        }
        let span = text.parse::<jiff::SignedDuration>().ok().filter(|span| span.subsec_nanos() == 0);
        let seconds = span.and_then(|span| u32::try_from(span.as_secs()).ok());
        let wrong = || D::Error::custom(format!("is whole seconds from 0 to 4294967295, not {text:?}"));
        seconds.map(Self).ok_or_else(wrong)
    }
}

/// A text, or a number as it is spelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spelled(pub String);

impl<'de> Deserialize<'de> for Spelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            other => Err(D::Error::custom(format!("expected a text, found {}", kind(&other)))),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a switch",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "keys with values",
    }
}

/// A text, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneOrMore(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of them")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<OneOrMore, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = entries.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMore(texts))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}
