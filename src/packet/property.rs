//! MQTT 5 properties.

use bytes::{Bytes, BytesMut};

use super::{
    DecodeError, PacketType, Utf8String,
    reader::Reader,
    topic,
    writer::{Size, Writer},
};

/// One property with its value [section 2.2.2.2].
#[derive(Clone, Debug, PartialEq)]
pub enum Property {
    /// 1 for a payload of UTF-8, 0 for one of bytes.
    PayloadFormatIndicator(u8),
    /// Seconds.
    MessageExpiryInterval(u32),
    ContentType(Utf8String),
    ResponseTopic(Utf8String),
    CorrelationData(Bytes),
    /// 1 to 268,435,455.
    SubscriptionIdentifier(u32),
    /// Seconds; 0xFFFFFFFF never expires.
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(Utf8String),
    ServerKeepAlive(u16),
    AuthenticationMethod(Utf8String),
    AuthenticationData(Bytes),
    RequestProblemInformation(bool),
    /// Seconds.
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(Utf8String),
    ServerReference(Utf8String),
    ReasonString(Utf8String),
    /// Never 0.
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    /// Never 0 on the wire.
    TopicAlias(u16),
    /// 0 or 1.
    MaximumQoS(u8),
    RetainAvailable(bool),
    UserProperty(Utf8String, Utf8String),
    /// Bytes, never 0.
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl Property {
    pub fn identifier(&self) -> PropertyIdentifier {
        PropertyIdentifier(self.to_wire().0)
    }

    /// The value as its data type on the wire, borrowed.
    pub fn value(&self) -> PropertyValue<'_> {
        self.to_wire().1
    }

    /// Appends identifier and value.
    ///
    /// # Errors
    /// [`EncodeError`](super::EncodeError) when a value is longer than the wire allows; nothing is
    /// appended then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), super::EncodeError> {
        Size::of(|size| self.write(size))?;
        self.write(out);
        Ok(())
    }

    pub(super) fn write(&self, out: &mut impl Writer) {
        let (identifier, value) = self.to_wire();
        let field = PropertyIdentifier(identifier).name();
        out.u8(identifier);
        match value {
            PropertyValue::Byte(value) => out.u8(value),
            PropertyValue::TwoByte(value) => out.u16(value),
            PropertyValue::FourByte(value) => out.u32(value),
            PropertyValue::Variable(value) => out.variable(field, value),
            PropertyValue::Text(value) => out.binary(field, value.as_bytes()),
            PropertyValue::Binary(value) => out.binary(field, value),
            PropertyValue::Pair(name, value) => {
                out.binary(field, name.as_bytes());
                out.binary(field, value.as_bytes());
            }
        }
    }

    fn to_wire(&self) -> (u8, PropertyValue<'_>) {
        use PropertyValue::*;
        match self {
            Self::PayloadFormatIndicator(value) => (0x01, Byte(*value)),
            Self::MessageExpiryInterval(value) => (0x02, FourByte(*value)),
            Self::ContentType(value) => (0x03, Text(value)),
            Self::ResponseTopic(value) => (0x08, Text(value)),
            Self::CorrelationData(value) => (0x09, Binary(value)),
            Self::SubscriptionIdentifier(value) => (0x0B, Variable(*value)),
            Self::SessionExpiryInterval(value) => (0x11, FourByte(*value)),
            Self::AssignedClientIdentifier(value) => (0x12, Text(value)),
            Self::ServerKeepAlive(value) => (0x13, TwoByte(*value)),
            Self::AuthenticationMethod(value) => (0x15, Text(value)),
            Self::AuthenticationData(value) => (0x16, Binary(value)),
            Self::RequestProblemInformation(value) => (0x17, Byte(u8::from(*value))),
            Self::WillDelayInterval(value) => (0x18, FourByte(*value)),
            Self::RequestResponseInformation(value) => (0x19, Byte(u8::from(*value))),
            Self::ResponseInformation(value) => (0x1A, Text(value)),
            Self::ServerReference(value) => (0x1C, Text(value)),
            Self::ReasonString(value) => (0x1F, Text(value)),
            Self::ReceiveMaximum(value) => (0x21, TwoByte(*value)),
            Self::TopicAliasMaximum(value) => (0x22, TwoByte(*value)),
            Self::TopicAlias(value) => (0x23, TwoByte(*value)),
            Self::MaximumQoS(value) => (0x24, Byte(*value)),
            Self::RetainAvailable(value) => (0x25, Byte(u8::from(*value))),
            Self::UserProperty(name, value) => (0x26, Pair(name, value)),
            Self::MaximumPacketSize(value) => (0x27, FourByte(*value)),
            Self::WildcardSubscriptionAvailable(value) => (0x28, Byte(u8::from(*value))),
            Self::SubscriptionIdentifierAvailable(value) => (0x29, Byte(u8::from(*value))),
            Self::SharedSubscriptionAvailable(value) => (0x2A, Byte(u8::from(*value))),
        }
    }

    /// `value` holds parts of `frame` and is of the data type that `identifier` has.
    pub(super) fn from_wire(identifier: PropertyIdentifier, value: PropertyValue<'_>, frame: &Bytes) -> Self {
        use PropertyValue::*;
        let text = |text: &str| Utf8String::slice(frame, text);
        match (identifier.0, value) {
            (0x01, Byte(value)) => Self::PayloadFormatIndicator(value),
            (0x02, FourByte(value)) => Self::MessageExpiryInterval(value),
            (0x03, Text(value)) => Self::ContentType(text(value)),
            (0x08, Text(value)) => Self::ResponseTopic(text(value)),
            (0x09, Binary(value)) => Self::CorrelationData(frame.slice_ref(value)),
            (0x0B, Variable(value)) => Self::SubscriptionIdentifier(value),
            (0x11, FourByte(value)) => Self::SessionExpiryInterval(value),
            (0x12, Text(value)) => Self::AssignedClientIdentifier(text(value)),
            (0x13, TwoByte(value)) => Self::ServerKeepAlive(value),
            (0x15, Text(value)) => Self::AuthenticationMethod(text(value)),
            (0x16, Binary(value)) => Self::AuthenticationData(frame.slice_ref(value)),
            (0x17, Byte(value)) => Self::RequestProblemInformation(value != 0),
            (0x18, FourByte(value)) => Self::WillDelayInterval(value),
            (0x19, Byte(value)) => Self::RequestResponseInformation(value != 0),
            (0x1A, Text(value)) => Self::ResponseInformation(text(value)),
            (0x1C, Text(value)) => Self::ServerReference(text(value)),
            (0x1F, Text(value)) => Self::ReasonString(text(value)),
            (0x21, TwoByte(value)) => Self::ReceiveMaximum(value),
            (0x22, TwoByte(value)) => Self::TopicAliasMaximum(value),
            (0x23, TwoByte(value)) => Self::TopicAlias(value),
            (0x24, Byte(value)) => Self::MaximumQoS(value),
            (0x25, Byte(value)) => Self::RetainAvailable(value != 0),
            (0x26, Pair(name, value)) => Self::UserProperty(text(name), text(value)),
            (0x27, FourByte(value)) => Self::MaximumPacketSize(value),
            (0x28, Byte(value)) => Self::WildcardSubscriptionAvailable(value != 0),
            (0x29, Byte(value)) => Self::SubscriptionIdentifierAvailable(value != 0),
            (0x2A, Byte(value)) => Self::SharedSubscriptionAvailable(value != 0),
            (identifier, value) => unreachable!("property {identifier:#04x} has no value like {value:?}"),
        }
    }
}

/// The identifier byte of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PropertyIdentifier(pub u8);

impl PropertyIdentifier {
    pub const PAYLOAD_FORMAT_INDICATOR: Self = Self(0x01);
    pub const MESSAGE_EXPIRY_INTERVAL: Self = Self(0x02);
    pub const SUBSCRIPTION_IDENTIFIER: Self = Self(0x0B);
    pub const TOPIC_ALIAS: Self = Self(TOPIC_ALIAS);

    /// Whether a server forwards the property of a PUBLISH unaltered [MQTT-3.3.2-4, -15, -16, -17, -20]:
    /// payload format, content type, response topic, correlation data and user properties.
    pub const fn is_forwarded(self) -> bool {
        matches!(self.0, 0x01 | 0x03 | 0x08 | 0x09 | 0x26)
    }

    /// The standard's name; `unknown property` for an identifier it does not know.
    pub fn name(self) -> &'static str {
        definition(self.0).map_or("unknown property", |definition| definition.name)
    }

    /// The short name of the text form; those of a Will get `will_` before it.
    pub(super) fn key(self) -> &'static str {
        definition(self.0).map_or("unknown_property", |definition| definition.key)
    }

    /// The property with that [`key`](Self::key) and its data type.
    pub(super) fn with_key(key: &str) -> Option<(Self, DataType)> {
        let mut known = (0..=u8::MAX).filter_map(|id| Some((PropertyIdentifier(id), definition(id)?)));
        known.find(|(_, definition)| definition.key == key).map(|(id, definition)| (id, definition.data_type))
    }
}

/// A property's value as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PropertyValue<'a> {
    Byte(u8),
    TwoByte(u16),
    FourByte(u32),
    Variable(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    Pair(&'a str, &'a str),
}

/// The properties of a packet in the order they stood in; empty before MQTT 5.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties(pub Vec<Property>);

impl Properties {
    /// Those of a PUBLISH, as they stand on the wire without their length; ends early at anything else.
    pub fn of_publish(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::new();
        }
        let bytes = Bytes::copy_from_slice(bytes);
        properties_of_publish(&bytes).map(|(id, value)| Property::from_wire(id, value, &bytes)).collect()
    }

    pub const fn new() -> Self {
        Self(Vec::new())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Property> {
        self.0.iter()
    }

    pub fn push(&mut self, property: Property) {
        self.0.push(property);
    }

    /// Keeps the properties that `keep` says yes to, in their order.
    pub fn retain(&mut self, keep: impl FnMut(&Property) -> bool) {
        self.0.retain(keep);
    }

    /// Bytes, without the Property Length before them.
    pub fn encoded_len(&self) -> usize {
        Size::of(|size| self.write_all(size)).unwrap_or(0)
    }

    /// Appends the properties without the Property Length before them, as
    /// [`PublishRef::properties`](super::PublishRef) takes them.
    ///
    /// # Errors
    /// [`EncodeError`](super::EncodeError) when a value is longer than the wire allows; nothing is
    /// appended then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), super::EncodeError> {
        Size::of(|size| self.write_all(size))?;
        self.write_all(out);
        Ok(())
    }

    /// With the Property Length.
    pub(super) fn write(&self, out: &mut impl Writer) {
        match Size::of(|size| self.write_all(size)) {
            Ok(len) => out.variable("property length", u32::try_from(len).unwrap_or(u32::MAX)),
            Err(error) => return out.refuse(error),
        }
        self.write_all(out);
    }

    fn write_all(&self, out: &mut impl Writer) {
        for property in self {
            property.write(out);
        }
    }

    pub(super) fn decode(frame: &Bytes, body: &mut Reader<'_>, place: Place) -> Result<Self, DecodeError> {
        let mut properties = Self::new();
        let (seen, _) =
            read_properties(body, place, |id, value| properties.push(Property::from_wire(id, value, frame)))?;
        if seen.lacks_authentication_method(place) {
            return Err(DecodeError::AuthenticationMethod { packet: place.name() });
        }
        Ok(properties)
    }
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident $variant:ident -> $type:ty, $get:expr;)*) => {
        /// What is absent is `None`; defaults are the caller's.
        impl Properties {
            $($(#[$doc])* pub fn $name(&self) -> Option<$type> {
                self.iter().find_map(|property| match property {
                    Property::$variant(value) => Some($get(value)),
                    _ => None,
                })
            })*
        }
    };
}

getters! {
    payload_format_indicator PayloadFormatIndicator -> u8, u8::clone;
    /// Seconds.
    message_expiry_interval MessageExpiryInterval -> u32, u32::clone;
    content_type ContentType -> &Utf8String, std::convert::identity;
    response_topic ResponseTopic -> &Utf8String, std::convert::identity;
    correlation_data CorrelationData -> &Bytes, std::convert::identity;
    /// The first one; a PUBLISH may have [several](Self::subscription_identifiers).
    subscription_identifier SubscriptionIdentifier -> u32, u32::clone;
    /// Seconds.
    session_expiry_interval SessionExpiryInterval -> u32, u32::clone;
    assigned_client_identifier AssignedClientIdentifier -> &Utf8String, std::convert::identity;
    /// Seconds.
    server_keep_alive ServerKeepAlive -> u16, u16::clone;
    authentication_method AuthenticationMethod -> &Utf8String, std::convert::identity;
    authentication_data AuthenticationData -> &Bytes, std::convert::identity;
    request_problem_information RequestProblemInformation -> bool, bool::clone;
    /// Seconds.
    will_delay_interval WillDelayInterval -> u32, u32::clone;
    request_response_information RequestResponseInformation -> bool, bool::clone;
    response_information ResponseInformation -> &Utf8String, std::convert::identity;
    server_reference ServerReference -> &Utf8String, std::convert::identity;
    reason_string ReasonString -> &Utf8String, std::convert::identity;
    receive_maximum ReceiveMaximum -> u16, u16::clone;
    topic_alias_maximum TopicAliasMaximum -> u16, u16::clone;
    topic_alias TopicAlias -> u16, u16::clone;
    maximum_qos MaximumQoS -> u8, u8::clone;
    retain_available RetainAvailable -> bool, bool::clone;
    /// Bytes.
    maximum_packet_size MaximumPacketSize -> u32, u32::clone;
    wildcard_subscription_available WildcardSubscriptionAvailable -> bool, bool::clone;
    subscription_identifier_available SubscriptionIdentifierAvailable -> bool, bool::clone;
    shared_subscription_available SharedSubscriptionAvailable -> bool, bool::clone;
}

impl Properties {
    /// In their order, names as often as they came.
    pub fn user_properties(&self) -> impl Iterator<Item = (&Utf8String, &Utf8String)> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    pub fn subscription_identifiers(&self) -> impl Iterator<Item = u32> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(value) => Some(*value),
            _ => None,
        })
    }
}

impl<'a> IntoIterator for &'a Properties {
    type Item = &'a Property;
    type IntoIter = std::slice::Iter<'a, Property>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Property> for Properties {
    fn from_iter<I: IntoIterator<Item = Property>>(properties: I) -> Self {
        Self(properties.into_iter().collect())
    }
}

impl From<Vec<Property>> for Properties {
    fn from(properties: Vec<Property>) -> Self {
        Self(properties)
    }
}

impl Extend<Property> for Properties {
    fn extend<I: IntoIterator<Item = Property>>(&mut self, properties: I) {
        self.0.extend(properties);
    }
}

/// Where properties stand: in a packet, or in the payload of a CONNECT as those of its Will.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Place {
    Packet(PacketType),
    Will,
}

impl Place {
    /// Packet types start at 1, so 0 is free for the Will.
    const fn bit(self) -> u16 {
        match self {
            Self::Packet(packet) => 1 << packet as u16,
            Self::Will => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Packet(packet) => packet.name(),
            Self::Will => "a Will",
        }
    }
}

/// Which identifiers occurred, a bit each.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen(u64);

impl Seen {
    #[inline]
    pub(super) fn contains(self, identifier: u8) -> bool {
        self.0 & 1 << identifier != 0
    }

    /// Authentication Data never comes without a method, and AUTH always has one.
    fn lacks_authentication_method(self, place: Place) -> bool {
        (self.contains(0x16) || place == Place::Packet(PacketType::Auth)) && !self.contains(0x15)
    }
}

/// Takes the Property Length and the properties, checks every rule that concerns `place`, and
/// hands each to `sink`. Also returns their bytes, without the length.
#[inline]
pub(super) fn read_properties<'a>(
    body: &mut Reader<'a>,
    place: Place,
    mut sink: impl FnMut(PropertyIdentifier, PropertyValue<'a>),
) -> Result<(Seen, &'a [u8]), DecodeError> {
    let len = body.variable("property length")?;
    let bytes = body.take(len as usize, "property length")?;
    let mut properties = Reader::new(bytes);
    let mut seen = Seen::default();
    while !properties.is_empty() {
        let (identifier, value) = read_property(&mut properties, place, &mut seen)?;
        sink(identifier, value);
    }
    Ok((seen, bytes))
}

/// Takes apart what [`read_properties`] returned for a PUBLISH; ends early at anything else.
pub(super) fn properties_of_publish(
    bytes: &[u8],
) -> impl Iterator<Item = (PropertyIdentifier, PropertyValue<'_>)> {
    let (mut properties, mut seen) = (Reader::new(bytes), Seen::default());
    std::iter::from_fn(move || {
        read_property(&mut properties, Place::Packet(PacketType::Publish), &mut seen).ok()
    })
}

/// Appends those of the properties that [`properties_of_publish`] finds which are forwarded.
pub(super) fn copy_forwarded(bytes: &[u8], out: &mut BytesMut) {
    let (mut properties, mut seen) = (Reader::new(bytes), Seen::default());
    loop {
        let start = bytes.len() - properties.len();
        match read_property(&mut properties, Place::Packet(PacketType::Publish), &mut seen) {
            Ok((identifier, _)) if identifier.is_forwarded() => {
                out.extend_from_slice(&bytes[start..bytes.len() - properties.len()]);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

fn read_property<'a>(
    properties: &mut Reader<'a>,
    place: Place,
    seen: &mut Seen,
) -> Result<(PropertyIdentifier, PropertyValue<'a>), DecodeError> {
    let identifier = properties.variable("property identifier")?;
    let (id, definition) = u8::try_from(identifier)
        .ok()
        .and_then(|id| Some((id, definition(id)?)))
        .ok_or(DecodeError::UnknownProperty(identifier))?;
    let property = definition.name;
    if definition.places & place.bit() == 0 {
        return Err(DecodeError::MisplacedProperty { property, place: place.name() });
    }
    let repeatable = id == 0x26 || id == 0x0B && place == Place::Packet(PacketType::Publish);
    if seen.contains(id) && !repeatable {
        return Err(DecodeError::DuplicateProperty { property });
    }
    seen.0 |= 1 << id;
    let value = read_value(properties, definition.data_type, property)?;
    check_value(id, value, property)?;
    Ok((PropertyIdentifier(id), value))
}

#[inline]
fn read_value<'a>(
    properties: &mut Reader<'a>,
    data_type: DataType,
    property: &'static str,
) -> Result<PropertyValue<'a>, DecodeError> {
    Ok(match data_type {
        DataType::Byte => PropertyValue::Byte(properties.u8(property)?),
        DataType::TwoByte => PropertyValue::TwoByte(properties.u16(property)?),
        DataType::FourByte => PropertyValue::FourByte(properties.u32(property)?),
        DataType::Variable => PropertyValue::Variable(properties.variable(property)?),
        DataType::Text => PropertyValue::Text(properties.text(property)?),
        DataType::Binary => PropertyValue::Binary(properties.binary(property)?),
        DataType::Pair => PropertyValue::Pair(properties.text(property)?, properties.text(property)?),
    })
}

#[inline]
fn check_value(id: u8, value: PropertyValue<'_>, property: &'static str) -> Result<(), DecodeError> {
    let allowed = match (id, value) {
        // Every property of one byte says no or yes.
        (_, PropertyValue::Byte(value)) => value <= 1,
        (TOPIC_ALIAS, PropertyValue::TwoByte(0)) => return Err(DecodeError::TopicAlias),
        (RECEIVE_MAXIMUM, PropertyValue::TwoByte(0)) => false,
        (MAXIMUM_PACKET_SIZE, PropertyValue::FourByte(0)) => false,
        (_, PropertyValue::Variable(value)) => value != 0,
        (RESPONSE_TOPIC, PropertyValue::Text(topic)) => topic::check_name(topic).is_ok(), // [MQTT-3.3.2-14]
        _ => true,
    };
    if allowed { Ok(()) } else { Err(DecodeError::PropertyValue { property }) }
}

const RESPONSE_TOPIC: u8 = 0x08;
const RECEIVE_MAXIMUM: u8 = 0x21;
pub(super) const TOPIC_ALIAS: u8 = 0x23;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// The data types of table 2-4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum DataType {
    Byte,
    TwoByte,
    FourByte,
    Variable,
    Text,
    Binary,
    Pair,
}

/// A row of table 2-4.
#[derive(Clone, Copy)]
struct Definition {
    name: &'static str,
    key: &'static str,
    data_type: DataType,
    /// The [`Place::bit`]s of where it may stand.
    places: u16,
}

const CONNECT: u16 = Place::Packet(PacketType::Connect).bit();
const CONNACK: u16 = Place::Packet(PacketType::Connack).bit();
const PUBLISH: u16 = Place::Packet(PacketType::Publish).bit();
const SUBSCRIBE: u16 = Place::Packet(PacketType::Subscribe).bit();
const DISCONNECT: u16 = Place::Packet(PacketType::Disconnect).bit();
const AUTH: u16 = Place::Packet(PacketType::Auth).bit();
const WILL: u16 = Place::Will.bit();
/// The packets with a Reason Code.
const ANSWERS: u16 = CONNACK
    | Place::Packet(PacketType::Puback).bit()
    | Place::Packet(PacketType::Pubrec).bit()
    | Place::Packet(PacketType::Pubrel).bit()
    | Place::Packet(PacketType::Pubcomp).bit()
    | Place::Packet(PacketType::Suback).bit()
    | Place::Packet(PacketType::Unsuback).bit()
    | DISCONNECT
    | AUTH;
/// All packets but the pings, which have no properties.
const ANYWHERE: u16 = u16::MAX;

macro_rules! definitions {
    ($($id:literal $name:literal $key:literal $data_type:ident $place:ident $(| $places:ident)*;)*) => {
        /// By identifier; the standard's last one is 0x2A.
        static DEFINITIONS: [Option<Definition>; 0x2B] = {
            let mut table = [None; 0x2B];
            $(table[$id] = Some(Definition {
                name: $name,
                key: $key,
                data_type: DataType::$data_type,
                places: $place $(| $places)*,
            });)*
            table
        };
    };
}

definitions! {
    0x01 "Payload Format Indicator" "payload_format" Byte PUBLISH | WILL;
    0x02 "Message Expiry Interval" "expiry" FourByte PUBLISH | WILL;
    0x03 "Content Type" "content_type" Text PUBLISH | WILL;
    0x08 "Response Topic" "response_topic" Text PUBLISH | WILL;
    0x09 "Correlation Data" "correlation_data" Binary PUBLISH | WILL;
    0x0B "Subscription Identifier" "sub_id" Variable PUBLISH | SUBSCRIBE;
    0x11 "Session Expiry Interval" "session_expiry" FourByte CONNECT | CONNACK | DISCONNECT;
    0x12 "Assigned Client Identifier" "assigned_client_id" Text CONNACK;
    0x13 "Server Keep Alive" "server_keep_alive" TwoByte CONNACK;
    0x15 "Authentication Method" "auth_method" Text CONNECT | CONNACK | AUTH;
    0x16 "Authentication Data" "auth_data" Binary CONNECT | CONNACK | AUTH;
    0x17 "Request Problem Information" "request_problem_information" Byte CONNECT;
    0x18 "Will Delay Interval" "delay" FourByte WILL;
    0x19 "Request Response Information" "request_response_information" Byte CONNECT;
    0x1A "Response Information" "response_information" Text CONNACK;
    0x1C "Server Reference" "server_reference" Text CONNACK | DISCONNECT;
    0x1F "Reason String" "reason_string" Text ANSWERS;
    0x21 "Receive Maximum" "receive_maximum" TwoByte CONNECT | CONNACK;
    0x22 "Topic Alias Maximum" "topic_alias_maximum" TwoByte CONNECT | CONNACK;
    0x23 "Topic Alias" "alias" TwoByte PUBLISH;
    0x24 "Maximum QoS" "maximum_qos" Byte CONNACK;
    0x25 "Retain Available" "retain_available" Byte CONNACK;
    0x26 "User Property" "user" Pair ANYWHERE;
    0x27 "Maximum Packet Size" "maximum_packet_size" FourByte CONNECT | CONNACK;
    0x28 "Wildcard Subscription Available" "wildcard_available" Byte CONNACK;
    0x29 "Subscription Identifier Available" "sub_id_available" Byte CONNACK;
    0x2A "Shared Subscription Available" "shared_available" Byte CONNACK;
}

#[inline]
fn definition(id: u8) -> Option<&'static Definition> {
    DEFINITIONS.get(usize::from(id))?.as_ref()
}
