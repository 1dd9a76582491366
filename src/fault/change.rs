//! Packets that are not passed on as they came.

use bytes::{BufMut, Bytes, BytesMut};

use super::Capabilities;
use crate::packet::{
    ControlPacket, Frame, Properties, Property, ProtocolVersion, PublishRef, ReasonCode, Suback, TopicName,
    Unsuback, fixed_header_len, put_variable,
};

/// `changes` are positions and what is there by exclusive or; those behind the end change nothing.
pub(super) fn corrupted(packet: &[u8], changes: &[(u32, u8)]) -> Bytes {
    let mut bytes = BytesMut::from(packet);
    for &(position, mask) in changes {
        if let Some(byte) = bytes.get_mut(position as usize) {
            *byte ^= mask;
        }
    }
    bytes.freeze()
}

/// Without the last `count` bytes, the first one stays; with `reframe` the fixed header stays, too, and tells the new
/// length.
pub(super) fn truncated(packet: &Bytes, count: u32, reframe: bool) -> Bytes {
    let count = count as usize;
    if !reframe {
        return packet.slice(..packet.len().saturating_sub(count).max(1).min(packet.len()));
    }
    let header = fixed_header_len(packet).min(packet.len());
    let body = &packet[header..];
    let body = &body[..body.len().saturating_sub(count)];
    let mut bytes = BytesMut::with_capacity(header + body.len());
    bytes.put_u8(packet[0]);
    put_variable(body.len(), |byte| bytes.put_u8(byte));
    bytes.extend_from_slice(body);
    bytes.freeze()
}

/// As it is sent a second time: a PUBLISH of QoS 1 or 2 says DUP [MQTT-3.3.1-1].
pub(super) fn repeated(packet: &Bytes) -> Bytes {
    const PUBLISH: u8 = 3;
    const DUP: u8 = 0b1000;
    match packet.first() {
        Some(&first) if first >> 4 == PUBLISH && first & 0b0110 != 0 && first & DUP == 0 => {
            let mut bytes = BytesMut::from(&packet[..]);
            bytes[0] |= DUP;
            bytes.freeze()
        }
        _ => packet.clone(),
    }
}

/// An acknowledgement that says `code`; `None` if it has no place for one.
pub(super) fn with_reason(packet: &Bytes, code: ReasonCode, protocol: ProtocolVersion) -> Option<Bytes> {
    let mut packet = ControlPacket::decode(packet, protocol).ok()?;
    let has_codes = protocol.has_properties();
    match &mut packet {
        ControlPacket::Puback(ack)
        | ControlPacket::Pubrec(ack)
        | ControlPacket::Pubrel(ack)
        | ControlPacket::Pubcomp(ack)
            if has_codes =>
        {
            ack.reason_code = code;
        }
        ControlPacket::Connack(connack) => {
            connack.reason_code = code;
            // [MQTT-3.2.2-6]
            connack.session_present &= !code.is_error();
        }
        ControlPacket::Suback(Suback { reason_codes, .. }) => reason_codes.fill(code),
        ControlPacket::Unsuback(Unsuback { reason_codes, .. }) if has_codes => reason_codes.fill(code),
        _ => return None,
    }
    Some(Frame::encode(packet, protocol).ok()?.bytes)
}

/// A CONNACK that says `said`; `None` if that changes nothing, or the client was not let in.
pub(super) fn with_capabilities(
    packet: &Bytes,
    said: &Capabilities,
    protocol: ProtocolVersion,
) -> Option<Bytes> {
    let Ok(ControlPacket::Connack(mut connack)) = ControlPacket::decode(packet, protocol) else {
        return None;
    };
    if connack.reason_code.is_error() {
        return None;
    }
    let before = connack.clone();
    connack.session_present = said.session_present.unwrap_or(connack.session_present);
    if protocol.has_properties() {
        let properties = &mut connack.properties;
        set(properties, said.session_expiry_interval.map(Property::SessionExpiryInterval));
        set(properties, said.receive_maximum.map(Property::ReceiveMaximum));
        set(properties, said.maximum_qos.map(Property::MaximumQoS));
        // Its absence means that there is no limit [section 3.2.2.3.4].
        properties.retain(|property| !matches!(property, Property::MaximumQoS(2..)));
        set(properties, said.retain_available.map(Property::RetainAvailable));
        set(properties, said.maximum_packet_size.map(Property::MaximumPacketSize));
        set(properties, said.topic_alias_maximum.map(Property::TopicAliasMaximum));
        set(properties, said.wildcard_subscription_available.map(Property::WildcardSubscriptionAvailable));
        set(
            properties,
            said.subscription_identifiers_available.map(Property::SubscriptionIdentifierAvailable),
        );
        set(properties, said.shared_subscription_available.map(Property::SharedSubscriptionAvailable));
        set(properties, said.server_keep_alive.map(Property::ServerKeepAlive));
    }
    if connack == before {
        return None;
    }
    Some(Frame::encode(ControlPacket::Connack(connack), protocol).ok()?.bytes)
}

/// In the place of one of its kind.
fn set(properties: &mut Properties, property: Option<Property>) {
    let Some(property) = property else { return };
    let kind = property.identifier();
    properties.retain(|other| other.identifier() != kind);
    properties.push(property);
}

/// A PUBLISH that says its `topic`, beside its Topic Alias.
pub(super) fn with_topic(publish: &PublishRef<'_>, topic: &str, protocol: ProtocolVersion) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    (PublishRef { topic, ..*publish }).encode(protocol, &mut bytes).ok()?;
    Some(bytes.freeze())
}

/// A PUBLISH that says its `topic` in place of a Topic Alias.
pub(super) fn without_alias(packet: &Bytes, topic: &str, protocol: ProtocolVersion) -> Option<Bytes> {
    let Ok(ControlPacket::Publish(mut publish)) = ControlPacket::decode(packet, protocol) else {
        return None;
    };
    publish.topic = Some(TopicName::parse(topic).ok()?);
    publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
    Some(Frame::encode(ControlPacket::Publish(publish), protocol).ok()?.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V5: ProtocolVersion = ProtocolVersion::V5;
    const V311: ProtocolVersion = ProtocolVersion::V311;

    fn packet(text: &str, protocol: ProtocolVersion) -> Bytes {
        let packet = ControlPacket::parse_text(text, protocol).expect("a packet");
        Frame::encode(packet, protocol).expect("it can be encoded").bytes
    }

    fn text(bytes: Option<Bytes>, protocol: ProtocolVersion) -> Option<String> {
        let packet = ControlPacket::decode(&bytes?, protocol).expect("a packet");
        Some(packet.to_string())
    }

    #[test]
    fn a_truncated_packet_keeps_its_beginning() {
        let publish = packet("PUBLISH a \"hello\"", V311);
        assert_eq!(truncated(&publish, 2, false), publish[..publish.len() - 2]);
        assert_eq!(truncated(&publish, 200, false), publish[..1]);
        assert_eq!(truncated(&publish, 2, true), packet("PUBLISH a \"hel\"", V311));
        assert_eq!(truncated(&publish, 200, true)[..], [0x30, 0]);
        let long = packet(&format!("PUBLISH a \"{}\"", "x".repeat(200)), V311);
        let short = packet(&format!("PUBLISH a \"{}\"", "x".repeat(50)), V311);
        assert_eq!(truncated(&long, 150, true), short);
    }

    #[test]
    fn only_a_publish_that_is_acknowledged_says_dup() {
        for (before, after) in [
            ("PUBLISH a qos=1 id=1 x", "PUBLISH a qos=1 id=1 dup=true x"),
            ("PUBLISH a x", "PUBLISH a qos=0 x"),
            ("PUBACK 1", "PUBACK 1"),
        ] {
            assert_eq!(repeated(&packet(before, V311)), packet(after, V311), "{before}");
        }
    }

    #[test]
    fn bytes_are_changed_where_they_are() {
        assert_eq!(corrupted(&[1, 2, 3], &[(1, 0xFF), (9, 1)])[..], [1, 0xFD, 3]);
    }

    #[test]
    fn acks_say_the_reason_that_is_wanted_where_they_have_a_place_for_it() {
        let quota = ReasonCode::QUOTA_EXCEEDED;
        let said = |text_before: &str, protocol| {
            text(with_reason(&packet(text_before, protocol), quota, protocol), protocol)
        };
        assert_eq!(said("PUBACK 7", V311), None);
        for text_before in ["PUBACK 7", "PUBREC 7", "CONNACK session_present=true"] {
            let after = said(text_before, V5).expect("MQTT 5 has a place for it");
            assert!(after.contains("0x97") && !after.contains("session_present=true"), "{after}");
        }
        assert!(said("CONNACK session_present=true", V311).is_some());
    }
}
