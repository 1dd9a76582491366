//! A mock as people write it: in `mockforge.yaml`, over the API, and as `recordings mocks` prints it.
//!
//! Nothing here is checked beyond its shape; [`Mock::new`](super::Mock::new) does that and says which field is wrong.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

/// One mock. `response` is short for a list of one in `responses`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct MockSpec {
    /// Unique among mocks; empty gets a free `mock-1`, `mock-2` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "is_default")]
    pub on: Trigger,
    /// A Topic Filter in which `{{name}}` is a named `+`. Of a message, the topic; of a subscription, its filter, which
    /// counts like a topic. Without meaning for `connect`; for `interval` the topic that answers go to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// Of answers that do not say their own.
    #[serde(skip_serializing_if = "is_default")]
    pub qos: u8,
    /// All of it has to hold; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<WhenSpec>,
    /// The lowest number goes first.
    #[serde(skip_serializing_if = "is_usual_priority")]
    pub priority: i32,
    /// Whether the mocks behind this one get their turn, too.
    #[serde(rename = "continue", skip_serializing_if = "is_default")]
    pub goes_on: bool,
    /// Whether the message is passed on; only with `on: publish`.
    #[serde(skip_serializing_if = "is_true")]
    pub route: bool,
    /// A JSONPath into the payload, to where clients say the answer goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds; only, and always, with `on: interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "keys_only")]
    pub response: Option<ResponseSpec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub responses: Vec<ResponseSpec>,
    /// Which of `responses` are sent.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// What a `sequence` does behind its last entry.
    #[serde(skip_serializing_if = "is_default")]
    pub then: Then,
    /// Whose place in a `sequence`, whose `nth` and whose state.
    #[serde(skip_serializing_if = "is_default")]
    pub scope: Scope,
    /// Written when the mock fires; texts are templates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_state: BTreeMap<String, Value>,
    /// Whether messages that a mock, a webhook, a replay or the API made count, too.
    #[serde(skip_serializing_if = "is_default")]
    pub trigger_on_synthetic: bool,
}

impl Default for MockSpec {
    fn default() -> Self {
        Self {
            id: String::new(),
            on: Trigger::Publish,
            topic: String::new(),
            enabled: true,
            qos: 0,
            when: None,
            priority: USUAL_PRIORITY,
            goes_on: false,
            route: true,
            reply_to: None,
            interval_ms: None,
            response: None,
            responses: Vec::new(),
            mode: Mode::All,
            then: Then::Repeat,
            scope: Scope::Global,
            set_state: BTreeMap::new(),
            trigger_on_synthetic: false,
        }
    }
}

impl MockSpec {
    /// The files that its answers are taken from.
    pub fn payload_files(&self) -> impl Iterator<Item = &str> {
        self.response.iter().chain(&self.responses).filter_map(|response| response.payload_file.as_deref())
    }
}

pub const USUAL_PRIORITY: i32 = 5;

/// What makes a mock fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    #[default]
    Publish,
    Subscribe,
    Connect,
    Interval,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every entry in its order, `delay_ms` counted from the one before.
    #[default]
    All,
    /// The next one each time.
    Sequence,
    /// Any.
    Random,
    /// Any, by `weight`.
    Weighted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Begins again.
    #[default]
    Repeat,
    /// The last one again and again.
    Last,
    /// Nothing more: the mock matches no more.
    Stop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Global,
    Client,
}

/// Conditions; an absent one always holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct WhenSpec {
    /// Client identifier; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<OneOrMore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// By JSONPath (`$.a.b`), tests of the values it selects, one of which has to pass each; tests that stand
    /// beside them by their own names are of the payload as a whole.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub payload: Value,
    /// By name, tests of User Properties.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, Value>,
    /// By key, tests of state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub state: BTreeMap<String, Value>,
    /// Of the triggers that all else holds for, counted from 1 by the mock's `scope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<NthSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected 0, 1 or 2, or a list of them")]
pub enum OneOrMore {
    One(u8),
    More(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number from 1, or {first, after, every}")]
pub enum NthSpec {
    /// Just that one.
    One(u64),
    Among(NthAmong),
}

/// What is given has to hold, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct NthAmong {
    /// The first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// Those behind the first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Each so-many-th.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
}

/// What is tested of one value. A plain value in its place means `equals`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct TestSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equals: Option<Value>,
    /// Found anywhere in a text, or in the text of another value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<f64>,
}

/// One answer. Its payload is one of the three, or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ResponseSpec {
    /// A text is a template; any other value is sent as its compact JSON, the texts in it being templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Value>,
    /// A file, sent as it is. A relative path starts at the settings file, or the working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_file: Option<String>,
    /// Bytes, sent as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
    /// A template; absent: see `reply_to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    #[serde(skip_serializing_if = "is_default")]
    pub retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<DelaySpec>,
    #[serde(skip_serializing_if = "is_default")]
    pub properties: PropertiesSpec,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat: Option<RepeatSpec>,
    /// With `mode: weighted`; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or one of {min, max}, {mean, sd} and {median, sigma}")]
pub enum DelaySpec {
    Fixed(f64),
    Drawn(DelayDraw),
}

/// One of the three pairs: evenly between two bounds, by a normal distribution, or by a lognormal one, of which
/// `sigma` is the standard deviation of the logarithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct DelayDraw {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "keys with values")]
pub struct RepeatSpec {
    /// How often it is sent in all.
    pub count: u64,
    /// Milliseconds from one to the next.
    #[serde(default)]
    pub interval_ms: u64,
}

/// MQTT 5 properties of an answer; texts are templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct PropertiesSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_format_indicator: Option<u8>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    /// Instead of the trigger's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_data: Option<String>,
    /// User Properties by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user: BTreeMap<String, String>,
}

/// A list is no answer, though it could be read as the values of one.
fn keys_only<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ResponseSpec>, D::Error> {
    struct Keys;

    impl<'de> Visitor<'de> for Keys {
        type Value = Option<ResponseSpec>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("keys with values")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ResponseSpec::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Keys)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_true(value: &bool) -> bool {
    *value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_usual_priority(value: &i32) -> bool {
    *value == USUAL_PRIORITY
}
