//! CONNECT and the Will it carries.

use bytes::Bytes;

use super::{
    ControlPacket, DecodeError, EncodeError, PacketType, Properties, ProtocolVersion, QoS, TopicName,
    Utf8String,
    property::Place,
    reader::{self, Reader},
    writer::Writer,
};

/// CONNECT [section 3.1].
#[derive(Clone, PartialEq)]
pub struct Connect {
    pub protocol: ProtocolVersion,
    /// Clean Session before MQTT 5.
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off.
    pub keep_alive: u16,
    pub properties: Properties,
    /// Empty asks the server to assign one.
    pub client_identifier: Utf8String,
    pub will: Option<Will>,
    pub username: Option<Utf8String>,
    pub password: Option<Bytes>,
}

// The bits of the Connect Flags [section 3.1.2.3].
const RESERVED: u8 = 1;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_QOS: u8 = 0b11 << WILL_QOS_SHIFT;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USERNAME: u8 = 1 << 7;

impl Connect {
    /// Decodes `frame`, which says itself of which version it is; `None` if it is no CONNECT, or not a valid one.
    pub fn read(frame: &Bytes) -> Option<Box<Self>> {
        match ControlPacket::decode(frame, ProtocolVersion::V311) {
            Ok(ControlPacket::Connect(connect)) => Some(connect),
            _ => None,
        }
    }

    /// The version that `frame`, a CONNECT, asks for, whether or not the rest of it is valid.
    pub(super) fn peek_protocol(frame: &[u8]) -> Result<ProtocolVersion, DecodeError> {
        read_protocol(&mut reader::open(frame)?)
    }

    pub(super) fn decode(frame: &Bytes, body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = read_protocol(body)?;
        let flags = body.u8("connect flags")?;
        check_flags(flags, protocol)?;
        let keep_alive = body.u16("keep alive")?;
        let properties = match protocol.has_properties() {
            true => Properties::decode(frame, body, Place::Packet(PacketType::Connect))?,
            false => Properties::new(),
        };
        let clean_start = flags & CLEAN_START != 0;
        let client_identifier = Utf8String::slice(frame, body.text("client identifier")?);
        let may_be_empty = match protocol {
            ProtocolVersion::V31 => false,
            ProtocolVersion::V311 => clean_start, // [MQTT3-3.1.3-8]
            ProtocolVersion::V5 => true,
        };
        if client_identifier.is_empty() && !may_be_empty {
            return Err(DecodeError::ClientIdentifier);
        }
        let will = match flags & WILL {
            0 => None,
            _ => Some(Will::decode(frame, body, flags, protocol)?),
        };
        let username = match has_field(USERNAME, flags, protocol, body) {
            true => Some(Utf8String::slice(frame, body.text("user name")?)),
            false => None,
        };
        let password = match has_field(PASSWORD, flags, protocol, body) {
            true => Some(frame.slice_ref(body.binary("password")?)),
            false => None,
        };
        Ok(Self {
            protocol,
            clean_start,
            keep_alive,
            properties,
            client_identifier,
            will,
            username,
            password,
        })
    }

    /// As [`protocol`](Self::protocol) encodes it.
    pub(super) fn write(&self, out: &mut impl Writer) {
        if self.password.is_some() && self.username.is_none() && !self.protocol.has_properties() {
            return out.refuse(EncodeError::PasswordAlone);
        }
        out.binary("protocol name", self.protocol.protocol_name().as_bytes());
        out.u8(self.protocol.level());
        out.u8(self.flags());
        out.u16(self.keep_alive);
        if self.protocol.has_properties() {
            self.properties.write(out);
        }
        out.binary("client identifier", self.client_identifier.as_bytes());
        if let Some(will) = &self.will {
            will.write(self.protocol, out);
        }
        if let Some(username) = &self.username {
            out.binary("user name", username.as_bytes());
        }
        if let Some(password) = &self.password {
            out.binary("password", password);
        }
    }

    fn flags(&self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| WILL | u8::from(will.qos) << WILL_QOS_SHIFT | bit(will.retain, WILL_RETAIN));
        will | bit(self.clean_start, CLEAN_START)
            | bit(self.username.is_some(), USERNAME)
            | bit(self.password.is_some(), PASSWORD)
    }
}

fn read_protocol(body: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
    let name = body.binary("protocol name")?;
    if !matches!(name, b"MQTT" | b"MQIsdp") {
        return Err(DecodeError::ProtocolName);
    }
    let level = body.u8("protocol version")?;
    ProtocolVersion::from_level(level)
        .filter(|protocol| protocol.protocol_name().as_bytes() == name)
        .ok_or(DecodeError::UnsupportedVersion(level))
}

fn check_flags(flags: u8, protocol: ProtocolVersion) -> Result<(), DecodeError> {
    if flags & RESERVED != 0 {
        return Err(DecodeError::ReservedBits { field: "connect flags" }); // [MQTT-3.1.2-3]
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(DecodeError::WillFlags); // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::QoS { field: "a Will" }); // [MQTT-3.1.2-12]
    }
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && !protocol.has_properties() {
        return Err(DecodeError::PasswordAlone); // [MQTT3-3.1.2-22]
    }
    Ok(())
}

/// Whether `flag` announces a field of the payload.
fn has_field(flag: u8, flags: u8, protocol: ProtocolVersion, body: &Reader<'_>) -> bool {
    // In MQTT 3.1 the end of the packet takes precedence over the flags of user name and password.
    flags & flag != 0 && !(protocol == ProtocolVersion::V31 && body.is_empty())
}

impl std::fmt::Debug for Connect {
    /// Everything but the password, which has no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("protocol", &self.protocol)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("properties", &self.properties)
            .field("client_identifier", &self.client_identifier)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .finish()
    }
}

/// The Will Message of a CONNECT [section 3.1.2.5].
#[derive(Clone, Debug, PartialEq)]
pub struct Will {
    pub qos: QoS,
    pub retain: bool,
    pub properties: Properties,
    pub topic: TopicName,
    pub payload: Bytes,
}

impl Will {
    fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        flags: u8,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let qos = QoS::try_from((flags & WILL_QOS) >> WILL_QOS_SHIFT)
            .map_err(|_| DecodeError::QoS { field: "a Will" })?;
        let properties = match protocol.has_properties() {
            true => Properties::decode(frame, body, Place::Will)?,
            false => Properties::new(),
        };
        let topic = body.topic_name(frame, "will topic")?;
        let payload = frame.slice_ref(body.binary("will payload")?);
        Ok(Self { qos, retain: flags & WILL_RETAIN != 0, properties, topic, payload })
    }

    fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        if protocol.has_properties() {
            self.properties.write(out);
        }
        out.binary("will topic", self.topic.as_str().as_bytes());
        out.binary("will payload", &self.payload);
    }
}
