//! What was in force at a point in time, as packets that would bring it about.

use bytes::{Bytes, BytesMut};

use crate::packet::{
    ControlPacket, PacketIdentifier, Properties, Property, ProtocolVersion, Publish, QoS, Subscribe,
    Subscription, TopicName,
};

/// A retained message or subscriptions of a client, as they were when the recording began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Whose subscriptions; `None` for a retained message.
    pub client_identifier: Option<String>,
    /// What would bring it about: a PUBLISH or a SUBSCRIBE of MQTT 5.
    pub packet: Bytes,
}

impl InForce {
    /// The message that `publish` retained, its topic resolved. `None` for one that no packet can hold.
    pub fn retained(mut publish: Publish) -> Option<Self> {
        publish.retain = true;
        publish.dup = false;
        publish.packet_identifier =
            if publish.qos == QoS::AtMostOnce { None } else { PacketIdentifier::new(1) };
        publish.properties.retain(|property| {
            !matches!(property, Property::TopicAlias(_) | Property::SubscriptionIdentifier(_))
        });
        Some(Self { client_identifier: None, packet: encode(&ControlPacket::Publish(publish))? })
    }

    /// Subscriptions of a client that have the same identifier, or none. `None` for what no packet can hold.
    pub fn subscriptions(
        client_identifier: &str,
        subscriptions: Vec<Subscription>,
        identifier: Option<u32>,
    ) -> Option<Self> {
        let mut properties = Properties::new();
        if let Some(identifier) = identifier {
            properties.push(Property::SubscriptionIdentifier(identifier));
        }
        let packet_identifier = PacketIdentifier::new(1)?;
        let subscribe = Subscribe { packet_identifier, properties, subscriptions };
        let packet = encode(&ControlPacket::Subscribe(subscribe))?;
        Some(Self { client_identifier: Some(client_identifier.to_owned()), packet })
    }

    /// `None` for bytes that are neither PUBLISH nor SUBSCRIBE.
    pub fn decode(&self) -> Option<ControlPacket> {
        let packet = ControlPacket::decode(&self.packet, ProtocolVersion::V5).ok()?;
        matches!(packet, ControlPacket::Publish(_) | ControlPacket::Subscribe(_)).then_some(packet)
    }

    /// Of a retained message.
    pub fn topic(&self) -> Option<TopicName> {
        match self.decode()? {
            ControlPacket::Publish(publish) => publish.topic,
            _ => None,
        }
    }
}

fn encode(packet: &ControlPacket) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    packet.encode(ProtocolVersion::V5, &mut bytes).ok()?;
    Some(bytes.freeze())
}
