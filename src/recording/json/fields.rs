//! A packet as the fields of a JSON object, and back.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    packet::{
        Ack, ControlPacket, PacketIdentifier, PayloadEncoding, Properties, Property, PropertyIdentifier,
        PropertyValue, ProtocolVersion, Publish, QoS, ReasonCode, TopicName, Utf8String, Will,
    },
    recording::assembly::BadMember,
};

/// The details of a FAULT that has none, which are left out.
pub const NO_DETAIL: &str = "{}";

/// Whether `text` is one JSON object, without white space around it.
pub fn is_object(text: &str) -> bool {
    text.starts_with('{') && text.ends_with('}') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Writes the members of one JSON object.
pub struct Members<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Members<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true }
    }

    pub fn end(self) {
        self.out.push(b'}');
    }

    /// Writes the name; the value has to follow.
    pub fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.is_first {
            self.out.extend_from_slice(b", ");
        }
        self.is_first = false;
        push_text(name, self.out);
        self.out.extend_from_slice(b": ");
        self.out
    }

    pub fn text(&mut self, name: &str, value: &str) {
        push_text(value, self.name(name));
    }

    /// A number, `true` or `false`.
    pub fn plain(&mut self, name: &str, value: impl fmt::Display) {
        self.name(name).extend_from_slice(value.to_string().as_bytes());
    }

    pub fn optional_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub fn base64(&mut self, name: &str, value: &[u8]) {
        self.text(name, &BASE64_STANDARD.encode(value));
    }

    fn payload(&mut self, value: &[u8]) {
        let encoding = PayloadEncoding::write(value, self.name("payload"));
        self.text("payload_encoding", encoding.name());
    }

    fn reason_code(&mut self, code: ReasonCode) {
        self.plain("reason_code", code.0);
    }

    fn list<T>(&mut self, name: &str, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) {
        let out = self.name(name);
        out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            write(item, out);
        }
        out.push(b']');
    }

    /// Those that may stand more than once are lists, where the first one stood.
    fn properties(&mut self, properties: &Properties) {
        if properties.is_empty() {
            return;
        }
        let mut members = Members::begin(self.name("properties"));
        for (index, property) in properties.iter().enumerate() {
            let identifier = property.identifier();
            let same = || properties.iter().filter(move |other| other.identifier() == identifier);
            let is_first = !properties.iter().take(index).any(|other| other.identifier() == identifier);
            let name = property_name(identifier);
            match property.value() {
                PropertyValue::Pair(..) if is_first => {
                    members.list(&name, same(), |property, out| {
                        if let PropertyValue::Pair(name, value) = property.value() {
                            out.push(b'[');
                            push_text(name, out);
                            out.extend_from_slice(b", ");
                            push_text(value, out);
                            out.push(b']');
                        }
                    });
                }
                PropertyValue::Variable(_) if is_first => {
                    members.list(&name, same(), |property, out| {
                        if let PropertyValue::Variable(value) = property.value() {
                            out.extend_from_slice(value.to_string().as_bytes());
                        }
                    });
                }
                PropertyValue::Pair(..) | PropertyValue::Variable(_) => {}
                PropertyValue::Byte(value) => members.plain(&name, value),
                PropertyValue::TwoByte(value) => members.plain(&name, value),
                PropertyValue::FourByte(value) => members.plain(&name, value),
                PropertyValue::Text(value) => members.text(&name, value),
                PropertyValue::Binary(value) => members.base64(&name, value),
            }
        }
        members.end();
    }

    fn will(&mut self, will: &Will) {
        let mut members = Members::begin(self.name("will"));
        members.text("topic", will.topic.as_str());
        members.plain("qos", will.qos as u8);
        members.plain("retain", will.retain);
        members.properties(&will.properties);
        members.payload(&will.payload);
        members.end();
    }
}

/// Writes what `packet` says; `topic` is that of a PUBLISH, Topic Alias resolved. Whether the
/// fields are all there is to it: without `raw` they are read as the same bytes again.
pub fn write_packet(
    packet: &ControlPacket,
    topic: Option<&TopicName>,
    protocol: ProtocolVersion,
    bytes: &Bytes,
    members: &mut Members<'_>,
) -> bool {
    match packet {
        ControlPacket::Connect(connect) => {
            members.plain("protocol", connect.protocol.level());
            members.text("client_id", connect.client_identifier.as_str());
            members.plain("clean_start", connect.clean_start);
            members.plain("keep_alive", connect.keep_alive);
            members.optional_text("username", connect.username.as_ref().map(Utf8String::as_str));
            members.properties(&connect.properties);
            if let Some(will) = &connect.will {
                members.will(will);
            }
            return false;
        }
        ControlPacket::Connack(connack) => {
            members.plain("session_present", connack.session_present);
            members.reason_code(connack.reason_code);
            members.properties(&connack.properties);
            return false;
        }
        ControlPacket::Publish(publish) => {
            members.optional_text("topic", topic.or(publish.topic.as_ref()).map(TopicName::as_str));
            members.plain("qos", publish.qos as u8);
            members.plain("retain", publish.retain);
            if publish.dup {
                members.plain("dup", true);
            }
            if let Some(identifier) = publish.packet_identifier {
                members.plain("packet_id", identifier.get());
            }
            members.properties(&publish.properties);
            members.payload(&publish.payload);
        }
        ControlPacket::Puback(ack)
        | ControlPacket::Pubrec(ack)
        | ControlPacket::Pubrel(ack)
        | ControlPacket::Pubcomp(ack) => {
            members.plain("packet_id", ack.packet_identifier.get());
            if ack.reason_code != ReasonCode::SUCCESS {
                members.reason_code(ack.reason_code);
            }
            members.properties(&ack.properties);
        }
        ControlPacket::Subscribe(subscribe) => {
            members.plain("packet_id", subscribe.packet_identifier.get());
            members.list("filters", &subscribe.subscriptions, |subscription, out| {
                let mut members = Members::begin(out);
                members.text("filter", subscription.filter.as_str());
                members.plain("qos", subscription.options.qos as u8);
                if protocol.has_properties() {
                    members.plain("no_local", subscription.options.no_local);
                    members.plain("retain_as_published", subscription.options.retain_as_published);
                    members.plain("retain_handling", subscription.options.retain_handling as u8);
                }
                members.end();
            });
            members.properties(&subscribe.properties);
            return false;
        }
        ControlPacket::Unsubscribe(unsubscribe) => {
            members.plain("packet_id", unsubscribe.packet_identifier.get());
            members.list("filters", &unsubscribe.filters, |filter, out| push_text(filter.as_str(), out));
            members.properties(&unsubscribe.properties);
            return false;
        }
        ControlPacket::Suback(suback) => {
            members.plain("packet_id", suback.packet_identifier.get());
            members.list("reason_codes", &suback.reason_codes, push_code);
            members.properties(&suback.properties);
            return false;
        }
        ControlPacket::Unsuback(unsuback) => {
            members.plain("packet_id", unsuback.packet_identifier.get());
            members.list("reason_codes", &unsuback.reason_codes, push_code);
            members.properties(&unsuback.properties);
            return false;
        }
        ControlPacket::Disconnect(disconnect) => {
            members.reason_code(disconnect.reason_code);
            members.properties(&disconnect.properties);
            return false;
        }
        ControlPacket::Auth(auth) => {
            members.reason_code(auth.reason_code);
            members.properties(&auth.properties);
            return false;
        }
        ControlPacket::Pingreq | ControlPacket::Pingresp => {}
    }
    encodes_as(packet, topic, protocol, bytes)
}

/// Whether the fields written for `packet` are read as `bytes` again.
fn encodes_as(
    packet: &ControlPacket,
    topic: Option<&TopicName>,
    protocol: ProtocolVersion,
    bytes: &Bytes,
) -> bool {
    let mut packet = packet.clone();
    match &mut packet {
        ControlPacket::Publish(publish) => {
            publish.topic = topic.cloned().or(publish.topic.take());
            if publish.topic.is_none() {
                return false;
            }
            publish.properties = grouped(&publish.properties);
        }
        ControlPacket::Puback(ack)
        | ControlPacket::Pubrec(ack)
        | ControlPacket::Pubrel(ack)
        | ControlPacket::Pubcomp(ack) => ack.properties = grouped(&ack.properties),
        _ => {}
    }
    let mut encoded = BytesMut::with_capacity(bytes.len());
    packet.encode(protocol, &mut encoded).is_ok() && encoded == *bytes
}

/// Properties in the order that they are read from the lists they are written as.
fn grouped(properties: &Properties) -> Properties {
    let mut grouped: Vec<Property> = Vec::with_capacity(properties.len());
    for property in properties.iter() {
        let last = grouped.iter().rposition(|other| other.identifier() == property.identifier());
        grouped.insert(last.map_or(grouped.len(), |last| last + 1), property.clone());
    }
    Properties(grouped)
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("text into memory");
}

fn push_code(code: &ReasonCode, out: &mut Vec<u8>) {
    out.extend_from_slice(code.0.to_string().as_bytes());
}

/// The standard's name in the spelling of JSON members.
fn property_name(identifier: PropertyIdentifier) -> String {
    match identifier.0 {
        0x0B => "subscription_identifiers".to_owned(),
        0x26 => "user_properties".to_owned(),
        _ => identifier.name().to_ascii_lowercase().replace([' ', '-'], "_"),
    }
}

/// The members of an event that describe a packet that can be built from them.
#[derive(Debug, Default, Deserialize)]
pub struct PacketFields<'a> {
    pub topic: Option<String>,
    pub qos: Option<u8>,
    pub retain: Option<bool>,
    pub dup: Option<bool>,
    pub packet_id: Option<u16>,
    pub reason_code: Option<u8>,
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
    pub payload_encoding: Option<String>,
    #[serde(default, deserialize_with = "properties")]
    pub properties: Properties,
}

impl PacketFields<'_> {
    /// The packet of type `name`.
    pub fn build(&self, name: &str) -> Result<ControlPacket, BadMember> {
        let ack = || -> Result<Ack, BadMember> {
            Ok(Ack {
                packet_identifier: self.packet_identifier()?.ok_or(("packet_id", "missing".to_owned()))?,
                reason_code: ReasonCode(self.reason_code.unwrap_or(0)),
                properties: self.properties.clone(),
            })
        };
        Ok(match name {
            "PUBLISH" => ControlPacket::Publish(self.publish()?),
            "PUBACK" => ControlPacket::Puback(ack()?),
            "PUBREC" => ControlPacket::Pubrec(ack()?),
            "PUBREL" => ControlPacket::Pubrel(ack()?),
            "PUBCOMP" => ControlPacket::Pubcomp(ack()?),
            "PINGREQ" => ControlPacket::Pingreq,
            "PINGRESP" => ControlPacket::Pingresp,
            other => return Err(("raw", format!("missing, and a packet of type {other:?} needs it"))),
        })
    }

    /// A PUBLISH; one of QoS 1 or 2 has a packet identifier only if the members say so.
    pub fn publish(&self) -> Result<Publish, BadMember> {
        let topic = self.topic.as_deref().ok_or(("topic", "missing".to_owned()))?;
        let topic = TopicName::parse(topic).map_err(|error| ("topic", error.to_string()))?;
        let qos = match self.qos.unwrap_or(0) {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            other => return Err(("qos", format!("{other} is not 0, 1 or 2"))),
        };
        let encoding = self.payload_encoding.as_deref().map(|name| {
            PayloadEncoding::from_name(name)
                .ok_or(("payload_encoding", format!("{name:?} is not json, utf8 or base64")))
        });
        let payload = PayloadEncoding::parse(self.payload.map(RawValue::get), encoding.transpose()?)
            .map_err(|reason| ("payload", reason))?;
        Ok(Publish {
            dup: self.dup.unwrap_or(false),
            qos,
            retain: self.retain.unwrap_or(false),
            topic: Some(topic),
            packet_identifier: if qos == QoS::AtMostOnce { None } else { self.packet_identifier()? },
            properties: self.properties.clone(),
            payload: payload.into(),
        })
    }

    fn packet_identifier(&self) -> Result<Option<PacketIdentifier>, BadMember> {
        let parsed =
            self.packet_id.map(|id| PacketIdentifier::new(id).ok_or(("packet_id", "0 is none".to_owned())));
        parsed.transpose()
    }
}

fn properties<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Properties, D::Error> {
    struct InOrder;

    impl<'de> Visitor<'de> for InOrder {
        type Value = Properties;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of properties")
        }

        fn visit_unit<E: Error>(self) -> Result<Properties, E> {
            Ok(Properties::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Properties, A::Error> {
            let mut properties = Properties::new();
            while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                parse_property(&name, value.get(), &mut properties)
                    .map_err(|reason| A::Error::custom(format!("{name}: {reason}")))?;
            }
            Ok(properties)
        }
    }

    deserializer.deserialize_any(InOrder)
}

/// Adds the property or properties that the JSON `value` is of; names that mean nothing are left
/// alone.
pub fn parse_property(name: &str, value: &str, properties: &mut Properties) -> Result<(), String> {
    fn plain<'a, T: Deserialize<'a>>(value: &'a str) -> Result<T, String> {
        // The place inside the value means nothing to the reader of the file.
        serde_json::from_str(value).map_err(|error| {
            let reason = error.to_string();
            reason.split(" at line").next().unwrap_or_default().to_owned()
        })
    }
    let string =
        |text: String| Utf8String::new(text).ok_or("longer than 65535 bytes or with U+0000".to_owned());
    let text = || string(plain(value)?);
    let binary = || -> Result<Bytes, String> {
        let decoded = BASE64_STANDARD.decode(plain::<String>(value)?);
        decoded.map(Bytes::from).map_err(|error| error.to_string())
    };
    let flag = || match plain::<serde_json::Value>(value)? {
        serde_json::Value::Bool(flag) => Ok(flag),
        number if number == 0 => Ok(false),
        number if number == 1 => Ok(true),
        _ => Err("neither 0 nor 1".to_owned()),
    };
    let property = match name {
        "payload_format_indicator" => Property::PayloadFormatIndicator(plain(value)?),
        "message_expiry_interval" => Property::MessageExpiryInterval(plain(value)?),
        "content_type" => Property::ContentType(text()?),
        "response_topic" => Property::ResponseTopic(text()?),
        "correlation_data" => Property::CorrelationData(binary()?),
        "session_expiry_interval" => Property::SessionExpiryInterval(plain(value)?),
        "assigned_client_identifier" => Property::AssignedClientIdentifier(text()?),
        "server_keep_alive" => Property::ServerKeepAlive(plain(value)?),
        "authentication_method" => Property::AuthenticationMethod(text()?),
        "authentication_data" => Property::AuthenticationData(binary()?),
        "request_problem_information" => Property::RequestProblemInformation(flag()?),
        "will_delay_interval" => Property::WillDelayInterval(plain(value)?),
        "request_response_information" => Property::RequestResponseInformation(flag()?),
        "response_information" => Property::ResponseInformation(text()?),
        "server_reference" => Property::ServerReference(text()?),
        "reason_string" => Property::ReasonString(text()?),
        "receive_maximum" => Property::ReceiveMaximum(plain(value)?),
        "topic_alias_maximum" => Property::TopicAliasMaximum(plain(value)?),
        "topic_alias" => Property::TopicAlias(plain(value)?),
        "maximum_qos" => Property::MaximumQoS(plain(value)?),
        "retain_available" => Property::RetainAvailable(flag()?),
        "maximum_packet_size" => Property::MaximumPacketSize(plain(value)?),
        "wildcard_subscription_available" => Property::WildcardSubscriptionAvailable(flag()?),
        "subscription_identifier_available" => Property::SubscriptionIdentifierAvailable(flag()?),
        "shared_subscription_available" => Property::SharedSubscriptionAvailable(flag()?),
        "subscription_identifiers" => {
            properties.0.extend(plain::<Vec<u32>>(value)?.into_iter().map(Property::SubscriptionIdentifier));
            return Ok(());
        }
        "user_properties" => {
            for (name, value) in plain::<Vec<(String, String)>>(value)? {
                properties.push(Property::UserProperty(string(name)?, string(value)?));
            }
            return Ok(());
        }
        // Of a later version, perhaps.
        _ => return Ok(()),
    };
    properties.push(property);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_of_the_standard_can_be_read_by_the_name_it_is_written_with() {
        for identifier in 0..=u8::MAX {
            let name = property_name(PropertyIdentifier(identifier));
            if name == "unknown_property" {
                continue;
            }
            let read = ["1", "\"YQ==\"", "[1]", "[[\"a\",\"b\"]]"].into_iter().any(|value| {
                let mut properties = Properties::new();
                parse_property(&name, value, &mut properties).is_ok()
                    && properties.iter().any(|property| property.identifier().0 == identifier)
            });
            assert!(read, "{name}");
        }
    }
}
