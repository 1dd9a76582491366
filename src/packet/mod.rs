//! The Control Packets of MQTT 3.1, 3.1.1 and 5.0: bytes in, [`ControlPacket`] out, and back.
//!
//! One packet type serves every protocol version; what a version lacks (properties before 5.0) is
//! empty. Decoding checks everything that a packet's own bytes can prove and slices the read
//! buffer instead of copying it. A [`Frame`] keeps the bytes as they were received.

mod ack;
mod aliases;
mod connect;
mod error;
mod filter_tree;
mod frame;
mod packet_type;
mod payload;
mod property;
mod publish;
mod reader;
mod reason;
mod string;
mod subscribe;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod topic;
mod version;
mod writer;

pub use ack::{Ack, Auth, Connack, Disconnect, PlainAck};
pub use aliases::{Aliases, PublishHead, alias_of, fixed_header_len};
pub use connect::{Connect, Will};
pub use error::{DecodeError, EncodeError};
pub use filter_tree::FilterTree;
pub use frame::{Begun, Frame, FrameReader};
pub use packet_type::PacketType;
pub use payload::PayloadEncoding;
pub use property::{Properties, Property, PropertyIdentifier, PropertyValue};
pub use publish::{BadQoS, PacketIdentifier, Publish, PublishRef, QoS};
pub use reason::ReasonCode;
pub use string::{BadString, Utf8String};
pub use subscribe::{
    BadRetainHandling, RetainHandling, Suback, Subscribe, Subscription, SubscriptionOptions, Unsuback,
    Unsubscribe,
};
pub use text::BadText;
pub use topic::{BadFilter, BadTopic, TopicFilter, TopicName};
pub use version::{BadVersion, ProtocolVersion};
pub use writer::put_variable;

use bytes::{Bytes, BytesMut};

use writer::{Size, VARIABLE_MAX, Writer, variable_len};

/// One MQTT Control Packet [section 2.1.2].
#[derive(Clone, Debug, PartialEq)]
pub enum ControlPacket {
    Connect(Box<Connect>),
    Connack(Connack),
    Publish(Publish),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe),
    Suback(Suback),
    Unsubscribe(Unsubscribe),
    Unsuback(Unsuback),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect),
    Auth(Auth),
}

impl ControlPacket {
    pub fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }

    /// The name the standard prints, in capitals: `PUBLISH`.
    pub fn name(&self) -> &'static str {
        self.packet_type().name()
    }

    /// Decodes `frame`, which holds exactly one packet; the packet shares its bytes. A CONNECT
    /// says itself which version it is of.
    ///
    /// # Errors
    /// [`DecodeError`] for every rule of `protocol` that the bytes alone prove broken.
    #[inline]
    pub fn decode(frame: &Bytes, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        match frame.first().map(|byte| byte >> 4) {
            Some(number) if number == PacketType::Publish as u8 => {
                Publish::decode(frame, protocol).map(Self::Publish)
            }
            _ => Self::decode_other(frame, protocol),
        }
    }

    /// The same from borrowed bytes, which are copied.
    pub fn decode_copied(frame: &[u8], protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        Self::decode(&Bytes::copy_from_slice(frame), protocol)
    }

    fn decode_other(frame: &Bytes, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        let mut input = reader::open(frame)?;
        let body = &mut input;
        let packet = PacketType::parse(frame[0], protocol)?;
        let decoded = match packet {
            PacketType::Connect => Self::Connect(Box::new(Connect::decode(frame, body)?)),
            PacketType::Connack => Self::Connack(Connack::decode(frame, body, protocol)?),
            PacketType::Publish => return Publish::decode(frame, protocol).map(Self::Publish),
            PacketType::Puback => Self::Puback(Ack::decode(frame, body, packet, protocol)?),
            PacketType::Pubrec => Self::Pubrec(Ack::decode(frame, body, packet, protocol)?),
            PacketType::Pubrel => Self::Pubrel(Ack::decode(frame, body, packet, protocol)?),
            PacketType::Pubcomp => Self::Pubcomp(Ack::decode(frame, body, packet, protocol)?),
            PacketType::Subscribe => Self::Subscribe(Subscribe::decode(frame, body, protocol)?),
            PacketType::Suback => Self::Suback(Suback::decode(frame, body, protocol)?),
            PacketType::Unsubscribe => Self::Unsubscribe(Unsubscribe::decode(frame, body, protocol)?),
            PacketType::Unsuback => Self::Unsuback(Unsuback::decode(frame, body, protocol)?),
            PacketType::Pingreq => Self::Pingreq,
            PacketType::Pingresp => Self::Pingresp,
            PacketType::Disconnect => Self::Disconnect(Disconnect::decode(frame, body, protocol)?),
            PacketType::Auth => Self::Auth(Auth::decode(frame, body)?),
        };
        body.finish(packet)?;
        Ok(decoded)
    }

    /// Appends the packet as `protocol` encodes it; a CONNECT as the version it asks for.
    ///
    /// Properties are left out before MQTT 5, and reason codes are said as far as they can be.
    ///
    /// # Errors
    /// [`EncodeError`] when the packet is longer than a Remaining Length can say, a field longer
    /// than its length prefix can, or when it is one that `protocol` lacks (AUTH before 5.0).
    /// Nothing is appended then.
    pub fn encode(&self, protocol: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let remaining = Size::of(|size| self.write_body(protocol, size))?;
        if remaining > VARIABLE_MAX as usize {
            return Err(EncodeError::TooLarge(1 + variable_len(remaining) + remaining));
        }
        out.reserve(1 + variable_len(remaining) + remaining);
        out.u8(match self {
            Self::Publish(publish) => publish.first_byte(),
            other => other.packet_type().first_byte(),
        });
        out.variable("remaining length", remaining as u32);
        self.write_body(protocol, out);
        Ok(())
    }

    /// How many bytes [`encode`](Self::encode) would append; 0 where it fails.
    pub fn encoded_len(&self, protocol: ProtocolVersion) -> usize {
        match Size::of(|size| self.write_body(protocol, size)) {
            Ok(remaining) if remaining <= VARIABLE_MAX as usize => 1 + variable_len(remaining) + remaining,
            _ => 0,
        }
    }

    fn write_body(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        match self {
            Self::Connect(connect) => connect.write(out),
            Self::Connack(connack) => connack.write(protocol, out),
            Self::Publish(publish) => publish.write(protocol, out),
            Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack) => {
                ack.write(protocol, out);
            }
            Self::Subscribe(subscribe) => subscribe.write(protocol, out),
            Self::Suback(suback) => suback.write(protocol, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.write(protocol, out),
            Self::Unsuback(unsuback) => unsuback.write(protocol, out),
            Self::Pingreq | Self::Pingresp => {}
            Self::Disconnect(disconnect) => disconnect.write(protocol, out),
            Self::Auth(auth) if protocol.has_properties() => auth.write(out),
            Self::Auth(_) => {
                out.refuse(EncodeError::NotInVersion { packet: self.name(), version: protocol.name() });
            }
        }
    }
}

impl From<PlainAck> for ControlPacket {
    fn from(plain: PlainAck) -> Self {
        let ack = Ack::new(plain.packet_identifier);
        match plain.packet {
            PacketType::Pubrec => Self::Pubrec(ack),
            PacketType::Pubrel => Self::Pubrel(ack),
            PacketType::Pubcomp => Self::Pubcomp(ack),
            _ => Self::Puback(ack),
        }
    }
}

impl From<Publish> for ControlPacket {
    fn from(publish: Publish) -> Self {
        Self::Publish(publish)
    }
}
