//! What goes wrong between bytes and packets.

use super::{BadFilter, BadTopic, ReasonCode};

/// Why bytes from a peer did not become a Control Packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("{field} runs past the end of the packet")]
    Truncated { field: &'static str },
    #[error("{count} bytes behind the end of {packet}")]
    TrailingBytes { packet: &'static str, count: usize },
    #[error("packet of {size} bytes exceeds the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("{field} is longer than four bytes or than its value needs")]
    VariableByteInteger { field: &'static str },
    #[error("packet type {0} is reserved")]
    ReservedType(u8),
    #[error("{packet} with the reserved flags {flags:#06b}")]
    Flags { packet: &'static str, flags: u8 },
    #[error("reserved bits of {field} are set")]
    ReservedBits { field: &'static str },
    #[error("{field} with QoS 3")]
    QoS { field: &'static str },
    #[error("PUBLISH of QoS 0 with the DUP flag")]
    DupAtMostOnce,
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    #[error("U+0000 in {field}")]
    Null { field: &'static str },

    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    ProtocolName,
    #[error("protocol version {0} is not supported")]
    UnsupportedVersion(u8),
    #[error("Will QoS or Will Retain without the Will Flag")]
    WillFlags,
    #[error("a password without a user name")]
    PasswordAlone,
    #[error("an empty client identifier asks for a session to be kept")]
    ClientIdentifier,
    #[error("{packet} with the packet identifier 0")]
    PacketIdentifier { packet: &'static str },
    #[error("{field}: {problem}")]
    TopicName { field: &'static str, problem: BadTopic },
    #[error("PUBLISH with neither topic name nor topic alias")]
    TopicMissing,
    #[error("topic alias 0")]
    TopicAlias,
    #[error("{packet} without a topic filter")]
    NoFilters { packet: &'static str },
    #[error("{0}")]
    TopicFilter(BadFilter),
    #[error("subscription options with QoS 3")]
    SubscriptionQoS,
    #[error("retain handling 3")]
    RetainHandling,
    #[error("No Local on a shared subscription")]
    NoLocalShared,
    #[error("{packet} without a reason code")]
    NoReasonCodes { packet: &'static str },
    #[error("{packet} with the reason code {code:#04x}")]
    ReasonCode { packet: &'static str, code: u8 },
    #[error("session present in a CONNACK that refuses")]
    SessionPresent,

    #[error("unknown property {0:#04x}")]
    UnknownProperty(u32),
    #[error("{property} is no property of {place}")]
    MisplacedProperty { property: &'static str, place: &'static str },
    #[error("{property} more than once")]
    DuplicateProperty { property: &'static str },
    #[error("{property} with a value it must not have")]
    PropertyValue { property: &'static str },
    #[error("{packet} without authentication method")]
    AuthenticationMethod { packet: &'static str },
}

impl DecodeError {
    /// The Reason Code for the DISCONNECT (or CONNACK) sent before closing [MQTT-4.13.1-1].
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Truncated { .. }
            | Self::TrailingBytes { .. }
            | Self::VariableByteInteger { .. }
            | Self::ReservedType(_)
            | Self::Flags { .. }
            | Self::ReservedBits { .. }
            | Self::QoS { .. }
            | Self::DupAtMostOnce
            | Self::NotUtf8 { .. }
            | Self::Null { .. }
            | Self::WillFlags
            | Self::PasswordAlone
            | Self::UnknownProperty(_)
            | Self::MisplacedProperty { .. } => ReasonCode::MALFORMED_PACKET,

            Self::NotConnect
            | Self::PacketIdentifier { .. }
            | Self::TopicMissing
            | Self::NoFilters { .. }
            | Self::SubscriptionQoS
            | Self::RetainHandling
            | Self::NoLocalShared
            | Self::NoReasonCodes { .. }
            | Self::ReasonCode { .. }
            | Self::SessionPresent
            | Self::DuplicateProperty { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationMethod { .. } => ReasonCode::PROTOCOL_ERROR,

            Self::ProtocolName | Self::UnsupportedVersion(_) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::ClientIdentifier => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::TopicFilter(_) => ReasonCode::TOPIC_FILTER_INVALID,
            Self::TopicName { .. } => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicAlias => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::TooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
        }
    }
}

/// Why a packet cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    #[error("packet of {0} bytes is longer than MQTT can say")]
    TooLarge(usize),
    #[error("{field} of {len} bytes is longer than 65535")]
    FieldTooLong { field: &'static str, len: usize },
    #[error("{field} {value} is larger than MQTT can say")]
    ValueTooLarge { field: &'static str, value: u32 },
    #[error("MQTT {version} has no {packet} packet")]
    NotInVersion { packet: &'static str, version: &'static str },
    #[error("a PUBLISH has a packet identifier if and only if its QoS is above 0")]
    PacketIdentifier,
    #[error("a PUBLISH without topic name needs a topic alias, which came with MQTT 5")]
    TopicMissing,
    #[error("a password without a user name came with MQTT 5")]
    PasswordAlone,
}
