//! Chaos as people write it: in `mockforge.yaml`, over the API, and on the command line.
//!
//! Nothing here is checked beyond its shape; [`Rule::new`](super::Rule::new) and
//! [`settings_rules`](super::settings_rules) do that and say which field is wrong.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::json;

use super::{Capabilities, DisconnectMode};
use crate::packet::PacketType;

/// `mqtt.chaos` of the settings. All but the last two are short for rules, which go before those in `rules`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ChaosSpec {
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub enabled: bool,
    /// Of each PUBLISH, in either direction, that it vanishes. From 0 to 1.
    #[serde(skip_serializing_if = "is_default")]
    pub packet_loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_subscriber: Option<SlowSubscriberSpec>,
    /// Of each PUBLISH to a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySpec>,
    /// Of each PUBLISH, in either direction, that the connection is reset behind it. From 0 to 1.
    #[serde(skip_serializing_if = "is_default")]
    pub disconnect_probability: f64,
    /// The name of one, the rules of which go before `rules`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleSpec>,
}

impl Default for ChaosSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            packet_loss: 0.0,
            slow_subscriber: None,
            latency: None,
            disconnect_probability: 0.0,
            profile: None,
            rules: Vec::new(),
        }
    }
}

/// `slow_subscriber` of the settings; the action of that name has `delay_ms` alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct SlowSubscriberSpec {
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub enabled: bool,
    /// Milliseconds that each message takes, one after the other.
    pub delay_ms: f64,
    /// Topic Filters; none: all topics.
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "texts::Texts")]
    pub affected_topics: Vec<String>,
}

impl Default for SlowSubscriberSpec {
    fn default() -> Self {
        Self { enabled: true, delay_ms: 0.0, affected_topics: Vec::new() }
    }
}

/// One rule: which packets it is for, when, and what it does to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
#[schemars(extend("required" = ["actions"]))]
pub struct RuleSpec {
    /// Unique among rules; empty gets a free one: in the settings `rule-1` and so on by its position, elsewhere `added-1` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Whether it does anything.
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub enabled: bool,
    #[serde(rename = "match", skip_serializing_if = "is_default")]
    pub matches: MatchSpec,
    #[serde(skip_serializing_if = "is_default")]
    pub when: WhenSpec,
    /// In the order in which they are done; at least one.
    #[schemars(length(min = 1))]
    pub actions: Vec<ActionSpec>,
}

impl Default for RuleSpec {
    fn default() -> Self {
        Self {
            id: String::new(),
            enabled: true,
            matches: MatchSpec::default(),
            when: WhenSpec::default(),
            actions: Vec::new(),
        }
    }
}

/// Which packets; all that is given has to hold, and an empty list is as good as none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct MatchSpec {
    /// `c2s` or `s2c`, also `client_to_server` and `server_to_client`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["c2s", "s2c", "client_to_server", "server_to_client", null]))]
    pub direction: Option<String>,
    /// Client Identifiers, one of which it has to be; `*` stands for any characters.
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "texts::Texts")]
    pub client: Vec<String>,
    /// Ids of proxies, through one of which it has to come; `*` stands for any characters, and `default` is the server's own
    /// listener.
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "texts::Texts")]
    pub proxy: Vec<String>,
    /// Topic Filters, one of which has to match. Only PUBLISH packets have a topic.
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "texts::Texts")]
    pub topic: Vec<String>,
    /// Names of packet types, in any case; none: all that every action can be done to.
    #[serde(with = "texts", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "packet_types")]
    pub types: Vec<String>,
    /// Only PUBLISH packets have one.
    #[serde(with = "numbers", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "numbers::Numbers")]
    pub qos: Vec<u8>,
}

/// Which of the packets that match; all that is given has to hold. Counts are of the packets of one client, by
/// direction and type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
#[schemars(rename = "RuleWhenSpec")]
pub struct WhenSpec {
    /// From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub probability: Option<f64>,
    /// The first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_n: Option<u64>,
    /// Each so-many-th.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_nth: Option<u64>,
    /// Those behind the first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_n: Option<u64>,
    /// As long as the rule has not fired so often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_count: Option<u64>,
}

/// What is done to a packet: a name alone, or one key with details.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionSpec {
    Latency(LatencySpec),
    Drop,
    Duplicate(CountSpec),
    Reorder(ReorderSpec),
    Corrupt(CorruptSpec),
    Truncate(TruncateSpec),
    WithholdAck,
    DelayAck(LatencySpec),
    DuplicateAck(CountSpec),
    ReasonCode(ReasonSpec),
    Disconnect(DisconnectSpec),
    RefuseConnect(RefuseConnectSpec),
    Blackhole(BlackholeSpec),
    Bandwidth(BandwidthSpec),
    Slice(SliceSpec),
    LoseSession,
    Takeover,
    Capabilities(Capabilities),
    SlowSubscriber(SlowSubscriberActionSpec),
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}"
)]
pub enum LatencySpec {
    Fixed(f64),
    Drawn(LatencyDraw),
}

impl Default for LatencySpec {
    fn default() -> Self {
        Self::Drawn(LatencyDraw::default())
    }
}

/// `ms` alone, or one of the three pairs: evenly between two bounds, by a normal distribution, or by a lognormal one, of
/// which `sigma` is the standard deviation of the logarithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct LatencyDraw {
    /// Always so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// At least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Of a normal distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// Its standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sd_ms: Option<f64>,
    /// Of a lognormal distribution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_ms: Option<f64>,
    /// Standard deviation of its logarithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma: Option<f64>,
}

/// Of `duplicate` and `duplicate_ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct CountSpec {
    /// Copies beside the packet itself.
    pub count: u32,
}

impl Default for CountSpec {
    fn default() -> Self {
        Self { count: 1 }
    }
}

/// Of `reorder`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct ReorderSpec {
    /// At most so many packets overtake it; how many is drawn, at least one.
    pub window: u32,
    /// As long as it waits for them, milliseconds.
    pub max_ms: f64,
    /// Whether packets may overtake it that MQTT keeps in order.
    pub violate: bool,
}

impl Default for ReorderSpec {
    fn default() -> Self {
        Self { window: 3, max_ms: 1000.0, violate: false }
    }
}

/// Of `corrupt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct CorruptSpec {
    /// How many are changed, as far as there are so many.
    pub bytes: u32,
    pub part: CorruptPart,
}

impl Default for CorruptSpec {
    fn default() -> Self {
        Self { bytes: 1, part: CorruptPart::Body }
    }
}

/// Where bytes are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CorruptPart {
    /// Behind the fixed header.
    #[default]
    Body,
    /// The application message of a PUBLISH.
    Payload,
    Packet,
}

/// Of `truncate`: it loses its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct TruncateSpec {
    /// How many are lost; the first always stays.
    pub bytes: u32,
    /// Whether the Remaining Length says so; then all of the fixed header stays.
    pub reframe: bool,
}

impl Default for TruncateSpec {
    fn default() -> Self {
        Self { bytes: 1, reframe: false }
    }
}

/// A number, or the name of MQTT 5's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number from 0 to 255, or the name of a Reason Code")]
pub enum ReasonSpec {
    Code(u8),
    Name(String),
}

/// None at all, which is refused later, with the place.
impl Default for ReasonSpec {
    fn default() -> Self {
        Self::Name(String::new())
    }
}

/// Of `disconnect`: the connection ends behind the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct DisconnectSpec {
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(!skip_serializing_if)]
    pub mode: DisconnectMode,
    /// Bytes of the packet that are passed on before; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_byte: Option<u32>,
    /// Whether the server publishes the Will.
    #[serde(skip_serializing_if = "is_true")]
    #[schemars(!skip_serializing_if)]
    pub will: bool,
    /// Only with `mode: mqtt5`; absent: `server_shutting_down`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonSpec>,
}

impl Default for DisconnectSpec {
    fn default() -> Self {
        Self { mode: DisconnectMode::default(), at_byte: None, will: true, reason: None }
    }
}

/// Of `refuse_connect`: what the CONNACK says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct RefuseConnectSpec {
    /// Absent: `server_unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonSpec>,
}

/// Of `blackhole`: bytes vanish, and TCP stays open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct BlackholeSpec {
    /// Absent: as long as the connection and chaos last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<DurationSpec>,
}

/// Of `bandwidth`, for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct BandwidthSpec {
    /// At most so many pass in a second.
    pub bytes_per_s: u64,
}

/// Of `slice`: a packet goes out in pieces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct SliceSpec {
    /// Bytes of a piece.
    pub size: u32,
    /// Behind each; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<DurationSpec>,
}

/// Of `slow_subscriber`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct SlowSubscriberActionSpec {
    /// Milliseconds that each message takes, one after the other.
    pub delay_ms: f64,
}

/// A number of milliseconds, or a text such as `5s`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of milliseconds, or a duration such as 250ms or 5s")]
pub enum DurationSpec {
    Milliseconds(f64),
    Text(String),
}

impl ActionSpec {
    /// Every name.
    pub const NAMES: [&str; 19] = [
        "latency",
        "drop",
        "duplicate",
        "reorder",
        "corrupt",
        "truncate",
        "withhold_ack",
        "delay_ack",
        "duplicate_ack",
        "reason_code",
        "disconnect",
        "refuse_connect",
        "blackhole",
        "bandwidth",
        "slice",
        "lose_session",
        "takeover",
        "capabilities",
        "slow_subscriber",
    ];

    pub fn name(&self) -> &'static str {
        match self {
            Self::Latency(_) => "latency",
            Self::Drop => "drop",
            Self::Duplicate(_) => "duplicate",
            Self::Reorder(_) => "reorder",
            Self::Corrupt(_) => "corrupt",
            Self::Truncate(_) => "truncate",
            Self::WithholdAck => "withhold_ack",
            Self::DelayAck(_) => "delay_ack",
            Self::DuplicateAck(_) => "duplicate_ack",
            Self::ReasonCode(_) => "reason_code",
            Self::Disconnect(_) => "disconnect",
            Self::RefuseConnect(_) => "refuse_connect",
            Self::Blackhole(_) => "blackhole",
            Self::Bandwidth(_) => "bandwidth",
            Self::Slice(_) => "slice",
            Self::LoseSession => "lose_session",
            Self::Takeover => "takeover",
            Self::Capabilities(_) => "capabilities",
            Self::SlowSubscriber(_) => "slow_subscriber",
        }
    }

    /// The action of that name, its details from `details`.
    fn read<E: serde::de::Error>(name: &str, details: impl Details<E>) -> Result<Self, E> {
        Ok(match name {
            "latency" => Self::Latency(details.read()?),
            "drop" => details.none(Self::Drop)?,
            "duplicate" => Self::Duplicate(details.read()?),
            "reorder" => Self::Reorder(details.read()?),
            "corrupt" => Self::Corrupt(details.read()?),
            "truncate" => Self::Truncate(details.read()?),
            "withhold_ack" => details.none(Self::WithholdAck)?,
            "delay_ack" => Self::DelayAck(details.read()?),
            "duplicate_ack" => Self::DuplicateAck(details.read()?),
            "reason_code" => Self::ReasonCode(details.read()?),
            "disconnect" => Self::Disconnect(details.read()?),
            "refuse_connect" => Self::RefuseConnect(details.read()?),
            "blackhole" => Self::Blackhole(details.read()?),
            "bandwidth" => Self::Bandwidth(details.read()?),
            "slice" => Self::Slice(details.read()?),
            "lose_session" => details.none(Self::LoseSession)?,
            "takeover" => details.none(Self::Takeover)?,
            "capabilities" => Self::Capabilities(details.read()?),
            "slow_subscriber" => Self::SlowSubscriber(details.read()?),
            unknown => return Err(E::unknown_variant(unknown, &Self::NAMES)),
        })
    }
}

/// Where the details of an action come from.
trait Details<E>: Sized {
    fn read<T: DeserializeOwned + Default>(self) -> Result<T, E>;

    /// Of an action that has none.
    fn none(self, action: ActionSpec) -> Result<ActionSpec, E> {
        self.read::<NoDetails>().map(|_| action)
    }
}

/// Nothing.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "no details")]
struct NoDetails {}

/// A name that stands alone.
struct Usual;

impl<E> Details<E> for Usual {
    fn read<T: DeserializeOwned + Default>(self) -> Result<T, E> {
        Ok(T::default())
    }
}

/// The value of a key.
struct Said<'m, M>(&'m mut M);

impl<'de, M: MapAccess<'de>> Details<M::Error> for Said<'_, M> {
    fn read<T: DeserializeOwned + Default>(self) -> Result<T, M::Error> {
        // `drop:`, with nothing behind it, is a name alone, too.
        Ok(self.0.next_value::<Option<T>>()?.unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for ActionSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Action;

        impl<'de> Visitor<'de> for Action {
            type Value = ActionSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an action, alone or as a key with details")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ActionSpec, E> {
                ActionSpec::read(name, Usual)
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ActionSpec, M::Error> {
                let Some(name) = map.next_key::<String>()? else {
                    return Err(M::Error::custom("is no action: the name of one is missing"));
                };
                let action = ActionSpec::read(&name, Said(&mut map))?;
                match map.next_entry::<String, IgnoredAny>()? {
                    None => Ok(action),
                    Some((second, _)) => Err(M::Error::custom(format_args!(
                        "{name} and {second} are two entries of the list, not one"
                    ))),
                }
            }
        }

        deserializer.deserialize_any(Action)
    }
}

impl Serialize for ActionSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = self.name();
        match self {
            Self::Drop | Self::WithholdAck | Self::LoseSession | Self::Takeover => {
                serializer.serialize_str(name)
            }
            Self::Latency(details) | Self::DelayAck(details) => write(serializer, name, details),
            Self::Duplicate(details) | Self::DuplicateAck(details) => write(serializer, name, details),
            Self::Reorder(details) => write(serializer, name, details),
            Self::Corrupt(details) => write(serializer, name, details),
            Self::Truncate(details) => write(serializer, name, details),
            Self::ReasonCode(details) => write(serializer, name, details),
            Self::Disconnect(details) => write(serializer, name, details),
            Self::RefuseConnect(details) => write(serializer, name, details),
            Self::Blackhole(details) => write(serializer, name, details),
            Self::Bandwidth(details) => write(serializer, name, details),
            Self::Slice(details) => write(serializer, name, details),
            Self::Capabilities(details) => write(serializer, name, details),
            Self::SlowSubscriber(details) => write(serializer, name, details),
        }
    }
}

/// A name that may stand alone, or an object of one key.
impl JsonSchema for ActionSpec {
    fn schema_name() -> Cow<'static, str> {
        "Action".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut described = |name: &str| {
            let details = match name {
                "latency" | "delay_ack" => generator.subschema_for::<Option<LatencySpec>>(),
                "duplicate" | "duplicate_ack" => generator.subschema_for::<Option<CountSpec>>(),
                "reorder" => generator.subschema_for::<Option<ReorderSpec>>(),
                "corrupt" => generator.subschema_for::<Option<CorruptSpec>>(),
                "truncate" => generator.subschema_for::<Option<TruncateSpec>>(),
                "reason_code" => generator.subschema_for::<Option<ReasonSpec>>(),
                "disconnect" => generator.subschema_for::<Option<DisconnectSpec>>(),
                "refuse_connect" => generator.subschema_for::<Option<RefuseConnectSpec>>(),
                "blackhole" => generator.subschema_for::<Option<BlackholeSpec>>(),
                "bandwidth" => generator.subschema_for::<Option<BandwidthSpec>>(),
                "slice" => generator.subschema_for::<Option<SliceSpec>>(),
                "capabilities" => generator.subschema_for::<Option<Capabilities>>(),
                "slow_subscriber" => generator.subschema_for::<Option<SlowSubscriberActionSpec>>(),
                _ => generator.subschema_for::<Option<NoDetails>>(),
            };
            (name.to_owned(), details.to_value())
        };
        let properties: serde_json::Map<_, _> = Self::NAMES.into_iter().map(&mut described).collect();
        json_schema!({
            "description": "What is done to a packet: a name alone, or one key with details.",
            "anyOf": [
                {"enum": Self::NAMES},
                {
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": false,
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            ],
        })
    }
}

/// The name alone where that says all.
fn write<S: Serializer, T: Serialize + Default + PartialEq>(
    serializer: S,
    name: &str,
    details: &T,
) -> Result<S::Ok, S::Error> {
    if is_default(details) {
        return serializer.serialize_str(name);
    }
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, details)?;
    map.end()
}

/// One text, or a list of them.
mod texts {
    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged, expecting = "expected text (in quotes, if it looks like a number), or a list of texts")]
    pub enum Texts {
        One(String),
        More(Vec<String>),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match Texts::deserialize(deserializer)? {
            Texts::One(one) => vec![one],
            Texts::More(more) => more,
        })
    }

    pub fn serialize<S: Serializer>(texts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        match texts {
            [one] => serializer.serialize_str(one),
            more => more.serialize(serializer),
        }
    }
}

/// One name, or a list of them.
fn packet_types(_: &mut SchemaGenerator) -> Schema {
    let names = PacketType::ALL.map(PacketType::name);
    // For editors the names, and for validators what they may look like otherwise.
    let in_any_case = |name: &str| -> String {
        name.chars().map(|letter| format!("[{letter}{}]", letter.to_ascii_lowercase())).collect()
    };
    let pattern = format!("^({})$", names.map(in_any_case).join("|"));
    let name = json!({"anyOf": [{"enum": names}, {"type": "string", "pattern": pattern}]});
    json_schema!({"anyOf": [name, {"type": "array", "items": name}]})
}

/// One number, or a list of them.
mod numbers {
    use schemars::JsonSchema;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize, JsonSchema)]
    #[serde(untagged, expecting = "expected 0, 1 or 2, or a list of them")]
    pub enum Numbers {
        One(#[schemars(range(max = 2))] u8),
        More(#[schemars(inner(range(max = 2)))] Vec<u8>),
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Numbers::deserialize(deserializer)? {
            Numbers::One(one) => vec![one],
            Numbers::More(more) => more,
        })
    }

    pub fn serialize<S: Serializer>(numbers: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match numbers {
            [one] => serializer.serialize_u8(*one),
            more => more.serialize(serializer),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_true(value: &bool) -> bool {
    *value
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;
    use crate::likeness::plain;

    /// Reads YAML, and writes it as JSON.
    fn check(yaml: &str, written: Expect) {
        let spec: RuleSpec = serde_saphyr::from_str(yaml).expect("a rule");
        let json = serde_json::to_string(&spec).expect("it can be written");
        written.assert_eq(&json);
        assert_eq!(serde_json::from_str::<RuleSpec>(&json).expect("what was written"), spec);
    }

    fn refused(rule: Value) -> String {
        let error = serde_path_to_error::deserialize::<_, RuleSpec>(rule).expect_err("no rule");
        format!("{}: {}", error.path(), plain(&error.inner().to_string()))
    }

    #[test]
    fn rules_are_written_as_people_write_them() {
        check(
            "id: x
match: {direction: c2s, client: 'sensor-*', topic: [a/#, b], types: publish, qos: 1}
when: {probability: 0.5, first_n: 3}
actions: [drop]",
            expect![[
                r##"{"id":"x","match":{"direction":"c2s","client":"sensor-*","topic":["a/#","b"],"types":"publish","qos":1},"when":{"probability":0.5,"first_n":3},"actions":["drop"]}"##
            ]],
        );
        check(
            "enabled: false
match: {client: [a, b], qos: [1, 2]}
actions: [{latency: 50}, {latency: {min_ms: 1, max_ms: 2.5}}, {disconnect: {mode: mqtt5, reason: 0x89}}]",
            expect![[
                r#"{"enabled":false,"match":{"client":["a","b"],"qos":[1,2]},"actions":[{"latency":50.0},{"latency":{"min_ms":1.0,"max_ms":2.5}},{"disconnect":{"mode":"mqtt5","reason":137}}]}"#
            ]],
        );
    }

    #[test]
    fn every_action_may_stand_alone_or_with_details() {
        let alone: RuleSpec = serde_json::from_value(json!({ "actions": ActionSpec::NAMES })).expect("names");
        let names: Vec<&str> = alone.actions.iter().map(ActionSpec::name).collect();
        assert_eq!(names, ActionSpec::NAMES);
        for (action, name) in alone.actions.iter().zip(ActionSpec::NAMES) {
            assert_eq!(serde_json::to_value(action).expect("it can be written"), json!(name));
            // A Reason Code is no map.
            let none = if name == "reason_code" { json!("") } else { json!({}) };
            for details in [none, json!(null)] {
                let action: ActionSpec = serde_json::from_value(json!({ name: details })).expect(name);
                assert_eq!(action.name(), name);
            }
        }
        check(
            "actions:
  - {latency: {ms: 5}}
  - {latency: {mean_ms: 5, sd_ms: 1}}
  - {duplicate: {count: 2}}
  - {reorder: {window: 5, max_ms: 10, violate: true}}
  - {corrupt: {bytes: 2, part: payload}}
  - {truncate: {bytes: 3, reframe: true}}
  - {delay_ack: {median_ms: 5, sigma: 0.5}}
  - {duplicate_ack: {count: 3}}
  - {reason_code: quota exceeded}
  - {reason_code: 151}
  - {disconnect: {mode: fin, at_byte: 0, will: false}}
  - {refuse_connect: {reason: server_busy}}
  - {blackhole: {duration: 5s}}
  - {blackhole: {duration: 250}}
  - {bandwidth: {bytes_per_s: 1000}}
  - {slice: {size: 10, delay: 5ms}}
  - {capabilities: {maximum_qos: 0}}
  - {slow_subscriber: {delay_ms: 5000}}",
            expect![[
                r#"{"actions":[{"latency":{"ms":5.0}},{"latency":{"mean_ms":5.0,"sd_ms":1.0}},{"duplicate":{"count":2}},{"reorder":{"window":5,"max_ms":10.0,"violate":true}},{"corrupt":{"bytes":2,"part":"payload"}},{"truncate":{"bytes":3,"reframe":true}},{"delay_ack":{"median_ms":5.0,"sigma":0.5}},{"duplicate_ack":{"count":3}},{"reason_code":"quota exceeded"},{"reason_code":151},{"disconnect":{"mode":"fin","at_byte":0,"will":false}},{"refuse_connect":{"reason":"server_busy"}},{"blackhole":{"duration":"5s"}},{"blackhole":{"duration":250.0}},{"bandwidth":{"bytes_per_s":1000}},{"slice":{"size":10,"delay":"5ms"}},{"capabilities":{"maximum_qos":0}},{"slow_subscriber":{"delay_ms":5000.0}}]}"#
            ]],
        );
    }

    #[test]
    fn the_guides_blocks_are_read_as_printed() {
        let spec: ChaosSpec = serde_saphyr::from_str(
            "enabled: true
disconnect_probability: 0.05  # 5% chance of random disconnect
packet_loss: 0.01             # 1% packet loss
latency:
  min_ms: 10
  max_ms: 100
",
        )
        .expect("the first block");
        let latency = LatencyDraw { min_ms: Some(10.0), max_ms: Some(100.0), ..LatencyDraw::default() };
        let said = ChaosSpec {
            disconnect_probability: 0.05,
            packet_loss: 0.01,
            latency: Some(LatencySpec::Drawn(latency)),
            ..ChaosSpec::default()
        };
        assert_eq!(spec, said);
        let spec: ChaosSpec = serde_saphyr::from_str(
            "slow_subscriber:
  enabled: true
  delay_ms: 5000          # Simulate slow consumer
  affected_topics:
    - \"slow/#\"
",
        )
        .expect("the second block");
        let slow = SlowSubscriberSpec {
            delay_ms: 5000.0,
            affected_topics: vec!["slow/#".to_owned()],
            ..SlowSubscriberSpec::default()
        };
        assert_eq!(spec, ChaosSpec { slow_subscriber: Some(slow), ..ChaosSpec::default() });
        assert!(spec.enabled, "though the block does not say so");
    }

    #[test]
    fn a_wrong_shape_is_told_with_its_place() {
        let mut told = String::new();
        for wrong in [
            json!({ "actions": ["dorp"] }),
            json!({ "actions": [{ "latncy": 5 }] }),
            json!({ "actions": [5] }),
            json!({ "actions": [{}] }),
            json!({ "actions": [{ "drop": {}, "latency": 5 }] }),
            json!({ "actions": [{ "drop": { "probability": 1 } }] }),
            json!({ "actions": [{ "latency": { "min": 1 } }] }),
            json!({ "actions": [{ "duplicate": { "cuont": 1 } }] }),
            json!({ "actions": [{ "corrupt": { "part": "bdoy" } }] }),
            json!({ "actions": [{ "reason_code": 300 }] }),
            json!({ "actions": [{ "blackhole": { "duration": [] } }] }),
            json!({ "actions": [{ "disconnect": { "mode": "rts" } }] }),
            json!({ "match": { "client": 7 } }),
            json!({ "match": { "qos": "1" } }),
            json!({ "match": { "topics": "a" } }),
            json!({ "when": { "propability": 0.5 } }),
            json!({ "when": { "first_n": -1 } }),
        ] {
            told += &refused(wrong);
            told += "\n";
        }
        expect![[r#"
            actions[0]: unknown value "dorp"; did you mean "drop"?
            actions[0]: unknown value "latncy"; did you mean "latency"?
            actions[0]: invalid type: integer `5`, expected the name of an action, alone or as a key with details
            actions[0]: is no action: the name of one is missing
            actions[0]: drop and latency are two entries of the list, not one
            actions[0].drop.probability: unknown key "probability"; there are none
            actions[0].latency: expected a number, or one of {ms}, {min_ms, max_ms}, {mean_ms, sd_ms} and {median_ms, sigma}
            actions[0].duplicate.cuont: unknown key "cuont"; did you mean "count"?
            actions[0].corrupt.part: unknown value "bdoy"; did you mean "body"?
            actions[0].reason_code: expected a number from 0 to 255, or the name of a Reason Code
            actions[0].blackhole.duration: expected a number of milliseconds, or a duration such as 250ms or 5s
            actions[0].disconnect.mode: unknown value "rts"; did you mean "rst"?
            match.client: expected text (in quotes, if it looks like a number), or a list of texts
            match.qos: expected 0, 1 or 2, or a list of them
            match.topics: unknown key "topics"; did you mean "topic"?
            when.propability: unknown key "propability"; did you mean "probability"?
            when.first_n: invalid value: integer `-1`, expected u64
        "#]].assert_eq(&told);
    }
}
