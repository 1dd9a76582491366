//! What is done to one packet, everything drawn.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an action came to, ready to be applied, recorded, and applied again.
///
/// As JSON an object of one key, the action's name, whose value has the details.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// The packet and all behind it wait.
    Latency {
        #[serde(rename = "ms", with = "milliseconds")]
        delay: Duration,
    },
    /// It vanishes.
    Drop {},
    /// It is passed on so many times more. Copies of a PUBLISH of QoS 1 or 2 say DUP [MQTT-3.3.1-1].
    Duplicate { count: u32 },
    /// So many packets overtake it, as far as they come in time.
    Reorder {
        behind: u32,
        #[serde(rename = "max_ms", with = "milliseconds")]
        max_wait: Duration,
        /// Whether packets may overtake it that MQTT keeps in order.
        violate: bool,
    },
    /// Bytes are changed, by exclusive or: position in the packet, and with what.
    Corrupt { changes: Vec<(u32, u8)> },
    /// It loses its last bytes; with `reframe` its Remaining Length says so.
    Truncate { bytes: u32, reframe: bool },
    /// An acknowledgement vanishes.
    WithholdAck {},
    /// An acknowledgement waits, and those behind it; other packets do not.
    DelayAck {
        #[serde(rename = "ms", with = "milliseconds")]
        delay: Duration,
    },
    /// An acknowledgement is passed on so many times more.
    DuplicateAck { count: u32 },
    /// An acknowledgement says this Reason Code instead, for every topic filter if there are several.
    ReasonCode { code: u8 },
    /// The connection ends behind the packet, or inside of it.
    Disconnect {
        mode: DisconnectMode,
        /// Bytes of the packet that are passed on; absent: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at_byte: Option<u32>,
        /// Whether the server publishes the Will.
        will: bool,
        /// Of the DISCONNECT that a client of MQTT 5 is sent in mode `mqtt5`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<u8>,
    },
    /// A CONNECT is answered by a CONNACK with this Reason Code and does not reach the server.
    RefuseConnect { code: u8 },
    /// The connection stays open, and what either side sends vanishes, from this packet on.
    Blackhole {
        /// Absent: as long as the connection and chaos last.
        #[serde(
            rename = "ms",
            with = "milliseconds::optional",
            default,
            skip_serializing_if = "Option::is_none"
        )]
        duration: Option<Duration>,
    },
    /// The packet takes its time, and all behind it wait.
    Bandwidth { bytes_per_s: u64 },
    /// The packet is passed on in pieces, with a pause after each.
    Slice {
        size: u32,
        #[serde(rename = "delay_ms", with = "milliseconds")]
        delay: Duration,
    },
    /// The server forgets the client's Session before it sees this CONNECT.
    LoseSession {},
    /// The client is told that another one took over its Session, and disconnected; its Will is published.
    Takeover {},
    /// A CONNACK says this about the server.
    Capabilities(Capabilities),
    /// A PUBLISH takes so long, one after the other; others pass, but for those of its topic and QoS.
    SlowSubscriber {
        #[serde(rename = "ms", with = "milliseconds")]
        every: Duration,
    },
}

/// How a connection ends for the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectMode {
    /// TCP FIN: in order.
    Fin,
    /// TCP RST.
    #[default]
    Rst,
    /// DISCONNECT, for clients of MQTT 5, then FIN.
    Mqtt5,
}

/// What a CONNACK says about the server; what is absent stays as it is. Of MQTT 5, except for the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
pub struct Capabilities {
    /// Whether the server says that it has a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_present: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_expiry_interval: Option<u32>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_maximum: Option<u16>,
    /// 0 or 1; 2 stands for no limit, which has no property.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_qos: Option<u8>,
    /// Whether retained messages may be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_available: Option<bool>,
    /// Bytes, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_packet_size: Option<u32>,
    /// The highest topic alias that is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_alias_maximum: Option<u16>,
    /// Whether filters may have wildcards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscriptions may have identifiers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscription_identifiers_available: Option<bool>,
    /// Whether subscriptions may be shared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_subscription_available: Option<bool>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_keep_alive: Option<u16>,
}

impl Effect {
    /// The name of its action, and its details as a JSON object.
    pub fn to_parts(&self) -> (String, String) {
        match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object
                .into_iter()
                .next()
                .map_or_else(Default::default, |(action, detail)| (action, detail.to_string())),
            _ => Default::default(),
        }
    }

    /// What [`to_parts`](Self::to_parts) gave.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn from_parts(action: &str, detail: &str) -> Result<Self, String> {
        let detail: Value = serde_json::from_str(detail).map_err(|error| error.to_string())?;
        let object = serde_json::Map::from_iter([(action.to_owned(), detail)]);
        serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
    }

    /// Whether nothing of the packet is passed on, so that what follows it for the packet is moot.
    pub fn ends_packet(&self) -> bool {
        matches!(
            self,
            Self::Drop {} | Self::WithholdAck {} | Self::RefuseConnect { .. } | Self::Blackhole { .. }
        )
    }

    /// Whether nothing more is done to the packet behind this.
    pub fn is_end(&self) -> bool {
        self.ends_packet() || self.ends_connection()
    }

    /// Whether the connection is over behind the packet.
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::Disconnect { .. } | Self::RefuseConnect { .. } | Self::Takeover {})
    }
}

/// Durations as milliseconds with all the digits of the nanoseconds behind them.
mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_nanos() as f64 / 1e6)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        from(f64::deserialize(deserializer)?).ok_or_else(|| D::Error::custom("is no number of milliseconds"))
    }

    fn from(milliseconds: f64) -> Option<Duration> {
        let nanoseconds = (milliseconds * 1e6).round();
        (0.0..=u64::MAX as f64).contains(&nanoseconds).then(|| Duration::from_nanos(nanoseconds as u64))
    }

    pub mod optional {
        use super::*;

        pub fn serialize<S: Serializer>(
            duration: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match duration {
                Some(duration) => super::serialize(duration, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_survive_being_written_down() {
        let effects = [
            Effect::Latency { delay: Duration::from_nanos(12_345_679) },
            Effect::Drop {},
            Effect::Reorder { behind: 3, max_wait: Duration::from_secs(1), violate: true },
            Effect::Corrupt { changes: vec![(2, 0xFF), (70_000, 1)] },
            Effect::Disconnect { mode: DisconnectMode::Mqtt5, at_byte: Some(3), will: false, reason: None },
            Effect::Blackhole { duration: None },
            Effect::Blackhole { duration: Some(Duration::from_millis(5)) },
            Effect::Capabilities(Capabilities { maximum_qos: Some(0), ..Capabilities::default() }),
        ];
        for effect in effects {
            let (action, detail) = effect.to_parts();
            assert_eq!(Effect::from_parts(&action, &detail), Ok(effect), "{action} {detail}");
        }
        let latency = Effect::Latency { delay: Duration::from_nanos(12_345_679) };
        assert_eq!(latency.to_parts(), ("latency".to_owned(), r#"{"ms":12.345679}"#.to_owned()));
    }

    #[test]
    fn what_is_no_effect_is_refused() {
        for (action, detail) in
            [("explode", "{}"), ("latency", "{}"), ("latency", r#"{"ms":-1}"#), ("drop", "")]
        {
            assert!(Effect::from_parts(action, detail).is_err(), "{action} {detail}");
        }
    }
}
