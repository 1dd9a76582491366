//! PUBLISH, Quality of Service and Packet Identifiers.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};

use super::{
    BadTopic, DecodeError, EncodeError, PacketType, Properties, Property, PropertyIdentifier, PropertyValue,
    ProtocolVersion, TopicName, fixed_header_len,
    property::{Place, TOPIC_ALIAS, read_properties},
    reader,
    writer::{VARIABLE_MAX, Writer, variable_len},
};

/// Quality of Service [section 4.3].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QoS {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

/// A number that is no Quality of Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("QoS {0} is none of 0, 1 and 2")]
pub struct BadQoS(pub u8);

impl TryFrom<u8> for QoS {
    type Error = BadQoS;

    #[inline]
    fn try_from(value: u8) -> Result<Self, BadQoS> {
        match value {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(BadQoS(value)),
        }
    }
}

impl From<QoS> for u8 {
    #[inline]
    fn from(qos: QoS) -> Self {
        qos as Self
    }
}

impl std::fmt::Display for QoS {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        u8::from(*self).fmt(f)
    }
}

/// The Packet Identifier of an in-flight PUBLISH, SUBSCRIBE or UNSUBSCRIBE.
///
/// Never zero [MQTT-2.2.1-3], so `Option<PacketIdentifier>` is as small as a `u16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketIdentifier(NonZeroU16);

impl PacketIdentifier {
    pub const MIN: Self = Self(NonZeroU16::MIN);
    pub const MAX: Self = Self(NonZeroU16::MAX);

    /// `None` for zero.
    pub const fn new(value: u16) -> Option<Self> {
        match NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The one after it; 1 follows 65,535.
    pub const fn next(self) -> Self {
        match self.0.checked_add(1) {
            Some(value) => Self(value),
            None => Self::MIN,
        }
    }
}

impl std::fmt::Display for PacketIdentifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// PUBLISH [section 3.3].
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// `None` for the zero-length Topic Name that stands for a Topic Alias (MQTT 5).
    pub topic: Option<TopicName>,
    /// Present if and only if the QoS is above 0 [MQTT-2.2.1-2].
    pub packet_identifier: Option<PacketIdentifier>,
    pub properties: Properties,
    pub payload: Bytes,
}

impl Publish {
    pub(super) fn decode(frame: &Bytes, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut properties = Properties::new();
        let publish = PublishRef::read(frame, protocol, |id, value| {
            properties.push(Property::from_wire(id, value, frame));
        })?;
        Ok(publish.with_properties(properties, frame))
    }

    pub(super) fn first_byte(&self) -> u8 {
        first_byte(self.dup, self.qos, self.retain)
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        let topic = self.topic.as_ref().map_or("", TopicName::as_str);
        if let Err(error) = check(topic, self.qos, self.packet_identifier, protocol) {
            return out.refuse(error);
        }
        out.binary("topic name", topic.as_bytes());
        if let Some(packet_identifier) = self.packet_identifier {
            out.u16(packet_identifier.get());
        }
        if protocol.has_properties() {
            self.properties.write(out);
        }
        out.put(&self.payload);
    }
}

/// A PUBLISH in place: borrowed from the bytes it was received in, or about to be encoded from
/// pieces that lie elsewhere.
///
/// [`decode`](Self::decode) is where a PUBLISH is checked, the owned [`Publish`] included. To send
/// a message on, change the fields that differ and [`encode`](Self::encode):
/// `PublishRef { dup: true, ..publish }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishRef<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Present if and only if the QoS is above 0.
    pub packet_identifier: Option<PacketIdentifier>,
    /// A Topic Name; empty where a Topic Alias stands for it.
    pub topic: &'a str,
    /// The properties as on the wire, without the Property Length; empty before MQTT 5.
    pub properties: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> PublishRef<'a> {
    /// Checks `frame`, which holds exactly one packet, a PUBLISH. Allocates nothing.
    #[inline]
    pub fn decode(frame: &'a [u8], protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        Self::read(frame, protocol, |_, _| {})
    }

    /// Hands each property to `sink`.
    #[inline]
    fn read(
        frame: &'a [u8],
        protocol: ProtocolVersion,
        sink: impl FnMut(PropertyIdentifier, PropertyValue<'a>),
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Publish;
        let mut body = reader::open(frame)?;
        let flags = frame[0];
        if PacketType::parse(flags, protocol)? != PACKET {
            return Err(DecodeError::Flags { packet: PACKET.name(), flags });
        }
        let qos = QoS::try_from(flags >> 1 & 0b11).map_err(|_| DecodeError::QoS { field: PACKET.name() })?;
        let topic = body.topic_name_or_alias("topic name")?;
        let packet_identifier = match qos {
            QoS::AtMostOnce => None,
            _ => Some(body.packet_identifier(PACKET)?),
        };
        let mut properties: &[u8] = &[];
        let mut has_alias = false;
        if protocol.has_properties() {
            let (seen, bytes) = read_properties(&mut body, Place::Packet(PACKET), sink)?;
            has_alias = seen.contains(TOPIC_ALIAS);
            properties = bytes;
        }
        if topic.is_empty() && !has_alias {
            return Err(if protocol.has_properties() {
                DecodeError::TopicMissing
            } else {
                DecodeError::TopicName { field: "topic name", problem: BadTopic::Empty }
            });
        }
        Ok(Self {
            dup: flags & 0b1000 != 0,
            qos,
            retain: flags & 1 != 0,
            packet_identifier,
            topic,
            properties,
            payload: body.take_rest(),
        })
    }

    /// The properties one by one; it ends early at bytes that are none.
    pub fn iter_properties(&self) -> impl Iterator<Item = (PropertyIdentifier, PropertyValue<'a>)> {
        super::property::properties_of_publish(self.properties)
    }

    /// Appends the properties that a server forwards unaltered, as they stand.
    pub fn encode_forwarded(&self, out: &mut BytesMut) {
        super::property::copy_forwarded(self.properties, out);
    }

    /// Where in `frame`, which this was decoded from, the Packet Identifier is, or would be.
    #[inline]
    pub fn identifier_at(&self, frame: &[u8]) -> usize {
        fixed_header_len(frame) + 2 + self.topic.len()
    }

    /// The owned packet, sharing `frame`, which this was decoded from.
    pub fn to_publish(&self, frame: &Bytes) -> Publish {
        let properties =
            self.iter_properties().map(|(id, value)| Property::from_wire(id, value, frame)).collect();
        self.with_properties(properties, frame)
    }

    #[inline]
    fn with_properties(&self, properties: Properties, frame: &Bytes) -> Publish {
        Publish {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: (!self.topic.is_empty()).then(|| TopicName::slice(frame, self.topic)),
            packet_identifier: self.packet_identifier,
            properties,
            payload: frame.slice_ref(self.payload),
        }
    }

    /// Appends the packet as `protocol` encodes it.
    ///
    /// # Errors
    /// As [`ControlPacket::encode`](super::ControlPacket::encode).
    pub fn encode(&self, protocol: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        self.encode_head(protocol, out)?;
        out.extend_from_slice(self.payload);
        Ok(())
    }

    /// Appends everything in front of the payload, whose length is counted in: for writing the
    /// payload from where it lies.
    pub fn encode_head(&self, protocol: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        check(self.topic, self.qos, self.packet_identifier, protocol)?;
        let remaining = self.remaining(protocol);
        if remaining > VARIABLE_MAX as usize {
            return Err(EncodeError::TooLarge(1 + variable_len(remaining) + remaining));
        }
        out.reserve(5 + remaining - self.payload.len());
        out.u8(first_byte(self.dup, self.qos, self.retain));
        out.variable("remaining length", remaining as u32);
        out.binary("topic name", self.topic.as_bytes());
        if let Some(packet_identifier) = self.packet_identifier {
            out.u16(packet_identifier.get());
        }
        if protocol.has_properties() {
            out.variable("property length", self.properties.len() as u32);
            out.put(self.properties);
        }
        Ok(())
    }

    /// How many bytes [`encode`](Self::encode) would append.
    #[inline]
    pub fn encoded_len(&self, protocol: ProtocolVersion) -> usize {
        let remaining = self.remaining(protocol);
        1 + variable_len(remaining) + remaining
    }

    #[inline]
    fn remaining(&self, protocol: ProtocolVersion) -> usize {
        let identifier = if self.packet_identifier.is_some() { 2 } else { 0 };
        let properties = match protocol.has_properties() {
            true => variable_len(self.properties.len()) + self.properties.len(),
            false => 0,
        };
        2 + self.topic.len() + identifier + properties + self.payload.len()
    }
}

#[inline]
fn first_byte(dup: bool, qos: QoS, retain: bool) -> u8 {
    (PacketType::Publish as u8) << 4 | u8::from(dup) << 3 | u8::from(qos) << 1 | u8::from(retain)
}

/// What the types of a PUBLISH's fields leave open.
#[inline]
fn check(
    topic: &str,
    qos: QoS,
    packet_identifier: Option<PacketIdentifier>,
    protocol: ProtocolVersion,
) -> Result<(), EncodeError> {
    if packet_identifier.is_some() != (qos > QoS::AtMostOnce) {
        return Err(EncodeError::PacketIdentifier);
    }
    if topic.is_empty() && !protocol.has_properties() {
        return Err(EncodeError::TopicMissing);
    }
    if topic.len() > usize::from(u16::MAX) {
        return Err(EncodeError::FieldTooLong { field: "topic name", len: topic.len() });
    }
    Ok(())
}
