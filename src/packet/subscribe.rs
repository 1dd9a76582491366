//! SUBSCRIBE, UNSUBSCRIBE and their acknowledgements.

use bytes::Bytes;

use super::{
    DecodeError, PacketIdentifier, PacketType, Properties, ProtocolVersion, QoS, ReasonCode, TopicFilter,
    property::Place, reader::Reader, writer::Writer,
};

/// SUBSCRIBE [section 3.8]; never without a subscription [MQTT-3.8.3-2].
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    pub packet_identifier: PacketIdentifier,
    pub properties: Properties,
    pub subscriptions: Vec<Subscription>,
}

impl Subscribe {
    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Subscribe;
        let (packet_identifier, properties) = read_head(frame, body, PACKET, protocol)?;
        if body.is_empty() {
            return Err(DecodeError::NoFilters { packet: PACKET.name() }); // [MQTT-3.8.3-2]
        }
        let mut subscriptions = Vec::with_capacity(1);
        while !body.is_empty() {
            let filter = body.topic_filter(frame)?;
            let options = SubscriptionOptions::parse(body.u8("subscription options")?, protocol)?;
            if options.no_local && filter.is_shared() {
                return Err(DecodeError::NoLocalShared); // [MQTT-3.8.3-4]
            }
            subscriptions.push(Subscription { filter, options });
        }
        Ok(Self { packet_identifier, properties, subscriptions })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        write_head(self.packet_identifier, &self.properties, protocol, out);
        for subscription in &self.subscriptions {
            out.binary("topic filter", subscription.filter.as_str().as_bytes());
            out.u8(subscription.options.to_byte(protocol));
        }
    }
}

/// A Topic Filter with what the client asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    pub filter: TopicFilter,
    pub options: SubscriptionOptions,
}

/// Subscription Options [section 3.8.3.1]; before MQTT 5 only the QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

// The bits of the Subscription Options; the lowest two are the QoS.
const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const RETAIN_HANDLING_SHIFT: u8 = 4;

impl SubscriptionOptions {
    fn parse(byte: u8, protocol: ProtocolVersion) -> Result<Self, DecodeError> {
        let reserved = if protocol.has_properties() { 0b1100_0000 } else { 0b1111_1100 };
        if byte & reserved != 0 {
            return Err(DecodeError::ReservedBits { field: "subscription options" }); // [MQTT-3.8.3-5]
        }
        Ok(Self {
            qos: QoS::try_from(byte & 0b11).map_err(|_| DecodeError::SubscriptionQoS)?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling: RetainHandling::try_from(byte >> RETAIN_HANDLING_SHIFT & 0b11)
                .map_err(|_| DecodeError::RetainHandling)?,
        })
    }

    fn to_byte(self, protocol: ProtocolVersion) -> u8 {
        let qos = u8::from(self.qos);
        if !protocol.has_properties() {
            return qos;
        }
        qos | if self.no_local { NO_LOCAL } else { 0 }
            | if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
            | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }
}

/// When a subscription is sent the retained messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    #[default]
    Send = 0,
    SendIfNew = 1,
    DoNotSend = 2,
}

/// A number that is no Retain Handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("retain handling {0} is none of 0, 1 and 2")]
pub struct BadRetainHandling(pub u8);

impl TryFrom<u8> for RetainHandling {
    type Error = BadRetainHandling;

    fn try_from(value: u8) -> Result<Self, BadRetainHandling> {
        match value {
            0 => Ok(Self::Send),
            1 => Ok(Self::SendIfNew),
            2 => Ok(Self::DoNotSend),
            _ => Err(BadRetainHandling(value)),
        }
    }
}

impl From<RetainHandling> for u8 {
    fn from(retain_handling: RetainHandling) -> Self {
        retain_handling as Self
    }
}

/// SUBACK [section 3.9], a Reason Code per subscription in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Suback {
    pub packet_identifier: PacketIdentifier,
    pub properties: Properties,
    pub reason_codes: Vec<ReasonCode>,
}

impl Suback {
    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Suback;
        let (packet_identifier, properties) = read_head(frame, body, PACKET, protocol)?;
        let reason_codes = read_reason_codes(body, PACKET)?;
        // Before MQTT 5 there is one kind of refusal [MQTT3-3.9.3-2].
        if !protocol.has_properties()
            && let Some(code) = reason_codes.iter().find(|code| code.0 > 0x80)
        {
            return Err(DecodeError::ReasonCode { packet: PACKET.name(), code: code.0 });
        }
        Ok(Self { packet_identifier, properties, reason_codes })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        write_head(self.packet_identifier, &self.properties, protocol, out);
        for code in &self.reason_codes {
            out.u8(if protocol.has_properties() { code.0 } else { code.to_return_code_of_suback() });
        }
    }
}

/// UNSUBSCRIBE [section 3.10].
#[derive(Clone, Debug, PartialEq)]
pub struct Unsubscribe {
    pub packet_identifier: PacketIdentifier,
    pub properties: Properties,
    pub filters: Vec<TopicFilter>,
}

impl Unsubscribe {
    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Unsubscribe;
        let (packet_identifier, properties) = read_head(frame, body, PACKET, protocol)?;
        if body.is_empty() {
            return Err(DecodeError::NoFilters { packet: PACKET.name() }); // [MQTT-3.10.3-2]
        }
        let mut filters = Vec::with_capacity(1);
        while !body.is_empty() {
            filters.push(body.topic_filter(frame)?);
        }
        Ok(Self { packet_identifier, properties, filters })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        write_head(self.packet_identifier, &self.properties, protocol, out);
        for filter in &self.filters {
            out.binary("topic filter", filter.as_str().as_bytes());
        }
    }
}

/// UNSUBACK [section 3.11]; `reason_codes` is empty before MQTT 5.
#[derive(Clone, Debug, PartialEq)]
pub struct Unsuback {
    pub packet_identifier: PacketIdentifier,
    pub properties: Properties,
    pub reason_codes: Vec<ReasonCode>,
}

impl Unsuback {
    pub(super) fn decode(
        frame: &Bytes,
        body: &mut Reader<'_>,
        protocol: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        const PACKET: PacketType = PacketType::Unsuback;
        let (packet_identifier, properties) = read_head(frame, body, PACKET, protocol)?;
        let reason_codes = match protocol.has_properties() {
            true => read_reason_codes(body, PACKET)?,
            false => Vec::new(),
        };
        Ok(Self { packet_identifier, properties, reason_codes })
    }

    pub(super) fn write(&self, protocol: ProtocolVersion, out: &mut impl Writer) {
        write_head(self.packet_identifier, &self.properties, protocol, out);
        if protocol.has_properties() {
            for code in &self.reason_codes {
                out.u8(code.0);
            }
        }
    }
}

/// What all four packets start with.
fn read_head(
    frame: &Bytes,
    body: &mut Reader<'_>,
    packet: PacketType,
    protocol: ProtocolVersion,
) -> Result<(PacketIdentifier, Properties), DecodeError> {
    let packet_identifier = body.packet_identifier(packet)?;
    let properties = match protocol.has_properties() {
        true => Properties::decode(frame, body, Place::Packet(packet))?,
        false => Properties::new(),
    };
    Ok((packet_identifier, properties))
}

fn write_head(
    packet_identifier: PacketIdentifier,
    properties: &Properties,
    protocol: ProtocolVersion,
    out: &mut impl Writer,
) {
    out.u16(packet_identifier.get());
    if protocol.has_properties() {
        properties.write(out);
    }
}

/// One at least, as there is one per filter and never a request without a filter.
fn read_reason_codes(body: &mut Reader<'_>, packet: PacketType) -> Result<Vec<ReasonCode>, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::NoReasonCodes { packet: packet.name() });
    }
    let mut reason_codes = Vec::with_capacity(body.len());
    while !body.is_empty() {
        reason_codes.push(body.reason_code(packet)?);
    }
    Ok(reason_codes)
}
