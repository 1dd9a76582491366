//! The packets that answer or end: CONNACK, the four publish acknowledgements, DISCONNECT, AUTH.

use bytes::Bytes;

use super::{
    DecodeError, PacketIdentifier, PacketType, Properties, ProtocolVersion, ReasonCode, property::Place,
    reader::Reader, writer::Writer,
};

/// CONNACK [section 3.2].
#[derive(Clone, Debug, PartialEq)]
pub struct Connack {
    pub session_present: bool,
    /// MQTT 5's codes; 3.1.1's return codes 1 to 5 are mapped to their MQTT 5 successors and back.
    pub reason_code: ReasonCode,
    pub properties: Properties,
}

impl Connack {
    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Connack;
        let flags = body.u8("connect acknowledge flags")?;
        // MQTT 3.1 has no Session Present [MQTT3-3.2.2-1]; the byte is reserved.
        if flags > u8::from(protocol > ProtocolVersion::V31) {
            return Err(DecodeError::ReservedBits { field: "connect acknowledge flags" });
        }
        let session_present = flags != 0;
        let reason_code = if protocol.has_properties() {
            body.reason_code(PACKET)?
        } else {
            let code = body.u8("return code")?;
            ReasonCode::from_return_code(code)
                .ok_or(DecodeError::ReasonCode { packet: PACKET.name(), code })?
        };
        if session_present && reason_code != ReasonCode::SUCCESS {
            return Err(DecodeError::SessionPresent); // [MQTT-3.2.2-6]
        }
        let properties = match protocol.has_properties() {
            true => Properties::decode(frame, body, Place::Packet(PACKET))?,
            false => Properties::new(),
        };
        Ok(Self { session_present, reason_code, properties })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        out.u8(u8::from(self.session_present && protocol > ProtocolVersion::V31));
        if protocol.has_properties() {
            out.u8(self.reason_code.0);
            self.properties.write(out);
        } else {
            out.u8(self.reason_code.to_return_code());
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP [sections 3.4 to 3.7].
#[derive(Clone, Debug, PartialEq)]
pub struct Ack {
    pub packet_identifier: PacketIdentifier,
    /// Success where the packet left it out, and always before MQTT 5.
    pub reason_code: ReasonCode,
    pub properties: Properties,
}

impl Ack {
    /// Success, without properties.
    pub const fn new(packet_identifier: PacketIdentifier) -> Self {
        Self { packet_identifier, reason_code: ReasonCode::SUCCESS, properties: Properties::new() }
    }

    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        packet: PacketType,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let packet_identifier = body.packet_identifier(packet)?;
        let (reason_code, properties) = match protocol.has_properties() {
            true => read_reason(frame, body, packet)?,
            false => (ReasonCode::SUCCESS, Properties::new()),
        };
        Ok(Self { packet_identifier, reason_code, properties })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        out.u16(self.packet_identifier.get());
        if protocol.has_properties() {
            write_reason(self.reason_code, &self.properties, out);
        }
    }
}

/// A publish acknowledgement in its shortest form: Success, without properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainAck {
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub packet: PacketType,
    pub packet_identifier: PacketIdentifier,
}

impl PlainAck {
    /// `None` for every other packet, and for one that is malformed.
    #[inline]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let [first, 2, high, low] = *frame else { return None };
        let packet = match first {
            0x40 => PacketType::Puback,
            0x50 => PacketType::Pubrec,
            0x62 => PacketType::Pubrel,
            0x70 => PacketType::Pubcomp,
            _ => return None,
        };
        let packet_identifier = PacketIdentifier::new(u16::from_be_bytes([high, low]))?;
        Some(Self { packet, packet_identifier })
    }
}

/// DISCONNECT [section 3.14].
#[derive(Clone, Debug, PartialEq)]
pub struct Disconnect {
    pub reason_code: ReasonCode,
    pub properties: Properties,
}

impl Disconnect {
    /// Without properties.
    pub const fn new(reason_code: ReasonCode) -> Self {
        Self { reason_code, properties: Properties::new() }
    }

    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let (reason_code, properties) = match protocol.has_properties() {
            true => read_reason(frame, body, PacketType::Disconnect)?,
            false => (ReasonCode::SUCCESS, Properties::new()),
        };
        Ok(Self { reason_code, properties })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        if protocol.has_properties() {
            write_reason(self.reason_code, &self.properties, out);
        }
    }
}

/// AUTH [section 3.15], MQTT 5 only.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    pub reason_code: ReasonCode,
    pub properties: Properties,
}

impl Auth {
    pub(super) fn decode(frame: &Bytes, body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Auth;
        // Both fields or none [section 3.15.2.1]: only here does the short form end at 0 bytes.
        if body.is_empty() {
            return Ok(Self { reason_code: ReasonCode::SUCCESS, properties: Properties::new() });
        }
        let reason_code = body.reason_code(PACKET)?;
        let properties = Properties::decode(frame, body, Place::Packet(PACKET))?;
        Ok(Self { reason_code, properties })
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        if self.reason_code != ReasonCode::SUCCESS || !self.properties.is_empty() {
            out.u8(self.reason_code.0);
            self.properties.write(out);
        }
    }
}

/// Reason Code and properties, of which the short forms leave out the second or both.
fn read_reason(
    frame: &Bytes,
    body: &mut Reader<'_>,
    packet: PacketType,
) -> Result<(ReasonCode, Properties), DecodeError> {
    if body.is_empty() {
        return Ok((ReasonCode::SUCCESS, Properties::new()));
    }
    let reason_code = body.reason_code(packet)?;
    if body.is_empty() {
        return Ok((reason_code, Properties::new()));
    }
    Ok((reason_code, Properties::decode(frame, body, Place::Packet(packet))?))
}

/// In the shortest form there is.
fn write_reason(reason_code: ReasonCode, properties: &Properties, out: &mut impl Writer) {
    if !properties.is_empty() {
        out.u8(reason_code.0);
        properties.write(out);
    } else if reason_code != ReasonCode::SUCCESS {
        out.u8(reason_code.0);
    }
}
