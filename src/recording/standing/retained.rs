//! A retained message that is in force.

use std::time::Duration;

use bytes::Bytes;

use super::NEVER;
use crate::{
    packet::{ControlPacket, Property, ProtocolVersion},
    recording::InForce,
};

/// The retained message of a topic.
#[derive(Clone, Debug)]
pub(super) struct Retained {
    pub(super) packet: Bytes,
    pub(super) expires_at: Option<Duration>,
}

impl Retained {
    pub(super) fn size(&self) -> usize {
        // The topic is the key as well.
        2 * self.packet.len()
    }

    /// With what is left of its expiry.
    pub(super) fn packet_at(&self, at: Duration) -> Bytes {
        let Some(expires_at) = self.expires_at else { return self.packet.clone() };
        let left = expires_at.saturating_sub(at).as_millis().div_ceil(1000);
        let decoded = ControlPacket::decode(&self.packet, ProtocolVersion::V5);
        let Ok(ControlPacket::Publish(mut publish)) = decoded else { return self.packet.clone() };
        publish.properties.retain(|property| !matches!(property, Property::MessageExpiryInterval(_)));
        publish.properties.push(Property::MessageExpiryInterval(u32::try_from(left).unwrap_or(NEVER)));
        InForce::retained(publish).map_or_else(|| self.packet.clone(), |in_force| in_force.packet)
    }
}
