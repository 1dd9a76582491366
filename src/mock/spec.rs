//! A mock as people write it: in `mockforge.yaml`, over the API, and as `recordings mocks` prints it.
//!
//! Nothing here is checked beyond its shape; [`Mock::new`](super::Mock::new) does that and says which field is wrong.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

/// One mock. `response` is short for a list of one in `responses`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct MockSpec {
    /// Unique among mocks; empty gets a free `mock-1`, `mock-2` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub on: Trigger,
    /// A Topic Filter in which `{{name}}` is a named `+`. Of a message, the topic; of a subscription, its filter, which
    /// counts like a topic. Without meaning for `connect`; for `interval` the topic that answers go to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// Whether it answers at all.
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub enabled: bool,
    /// Of answers that do not say their own.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if, range(max = 2))]
    pub qos: u8,
    /// All of it has to hold; absent: always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<WhenSpec>,
    /// The lowest number goes first.
    #[serde(skip_serializing_if = "is_usual_priority")]
    #[schemars(!skip_serializing_if)]
    pub priority: i32,
    /// Whether the mocks behind this one get their turn, too.
    #[serde(rename = "continue", skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub goes_on: bool,
    /// Whether the message is passed on; only with `on: publish`.
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub route: bool,
    /// A JSONPath into the payload, to where clients say the answer goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Milliseconds; only, and always, with `on: interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "keys_only")]
    pub response: Option<ResponseSpec>,
    /// What is sent, as `mode` says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub responses: Vec<ResponseSpec>,
    /// Which of `responses` are sent.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub mode: Mode,
    /// What a `sequence` does behind its last entry.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub then: Then,
    /// Whose place in a `sequence`, whose `nth` and whose state.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub scope: Scope,
    /// Written when the mock fires; texts are templates.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_state: BTreeMap<String, Value>,
    /// Whether messages that a mock, a webhook, a replay or the API made count, too.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    #[default]
    Publish,
    Subscribe,
    Connect,
    Interval,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Global,
    Client,
}

/// Conditions; an absent one always holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct WhenSpec {
    /// Client identifier; `*` stands for any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// One of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos: Option<OneOrMore>,
    /// Whether the message is to be retained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// By JSONPath (`$.a.b`), tests of the values it selects, one of which has to pass each; tests that stand
    /// beside them by their own names are of the payload as a whole.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[schemars(with = "PayloadShape")]
    pub payload: Value,
    /// By name, tests of User Properties.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, TestShape>")]
    pub user: BTreeMap<String, Value>,
    /// By key, tests of state.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, TestShape>")]
    pub state: BTreeMap<String, Value>,
    /// Of the triggers that all else holds for, counted from 1 by the mock's `scope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<NthSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected 0, 1 or 2, or a list of them")]
pub enum OneOrMore {
    One(#[schemars(range(max = 2))] u8),
    More(#[schemars(inner(range(max = 2)))] Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number from 1, or {first, after, every}")]
pub enum NthSpec {
    /// Just that one.
    One(#[schemars(range(min = 1))] u64),
    Among(NthAmong),
}

/// What is given has to hold, all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct TestSpec {
    /// Just this value.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "even_null")]
    #[schemars(with = "Option<Value>")]
    pub equals: Option<Value>,
    /// Found anywhere in a text, or in the text of another value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Whether there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// Greater than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gt: Option<f64>,
    /// Greater than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gte: Option<f64>,
    /// Less than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lt: Option<f64>,
    /// Less than or equal to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lte: Option<f64>,
}

/// What may stand where one value is tested, for the schema of settings.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its shape is asked for")]
enum TestShape {
    Tests(TestSpec),
    Text(String),
    Number(f64),
    Switch(bool),
    List(Vec<Value>),
    Nothing(()),
}

/// The same of a payload.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its shape is asked for")]
enum PayloadShape {
    /// By JSONPath, beside tests of the payload as a whole.
    Tests(BTreeMap<String, Value>),
    Text(String),
    Number(f64),
    Switch(bool),
    List(Vec<Value>),
    Nothing(()),
}

/// One answer. Its payload is one of the three, or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Absent: the mock's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 2))]
    pub qos: Option<u8>,
    /// Whether the broker keeps it for later subscribers.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number, or one of {min, max}, {mean, sd} and {median, sigma}")]
pub enum DelaySpec {
    Fixed(f64),
    Drawn(DelayDraw),
}

/// One of the three pairs: evenly between two bounds, by a normal distribution, or by a lognormal one, of which
/// `sigma` is the standard deviation of the logarithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct DelayDraw {
    /// At least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Of a normal distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Its standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    /// Of a lognormal distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    /// Standard deviation of its logarithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

/// One answer several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys with values")]
pub struct RepeatSpec {
    /// How often it is sent in all.
    pub count: u64,
    /// Milliseconds from one to the next.
    #[serde(default)]
    pub interval_ms: u64,
}

/// MQTT 5 properties of an answer; texts are templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct PropertiesSpec {
    /// 1 says that the payload is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1))]
    pub payload_format_indicator: Option<u8>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_expiry_interval: Option<u32>,
    /// Such as `application/json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Where an answer to it is to go.
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

/// `null` is a value to compare with.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
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
