//! Topic aliases of an excerpt: those that were set before it begins tell nobody their topics.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;

use crate::{
    packet::{ControlPacket, ProtocolVersion, Publish, TopicName},
    recording::{Connections, Direction, Event, EventKind, Seen},
};

/// Topic aliases.
#[derive(Debug, Default)]
pub(super) struct Told {
    connections: Connections,
    /// Those whose topic is told within the excerpt, by connection.
    told: HashMap<u32, HashSet<(Direction, u16)>>,
}

impl Told {
    /// Takes the next event of the recording, within the excerpt or before.
    pub(super) fn follow(&mut self, event: &Event) -> Option<Seen> {
        self.connections.follow(event)
    }

    /// The PUBLISH with its topic, if its alias was set before the excerpt; `seen` is what `event`, which is within it,
    /// turned out to be.
    pub(super) fn spell_out(&mut self, event: &Event, seen: Seen) -> Option<EventKind> {
        let EventKind::Packet { direction, .. } = event.kind else { return None };
        let Ok(ControlPacket::Publish(publish)) = seen.packet else { return None };
        let alias = publish.properties.topic_alias()?;
        let told = self.told.entry(event.connection).or_default();
        let is_told = !told.insert((direction, alias)) || publish.topic.is_some();
        if is_told { None } else { with_topic(direction, publish, seen.topic?) }
    }

    /// The connection was closed.
    pub(super) fn forget(&mut self, connection: u32) {
        self.told.remove(&connection);
        self.connections.forget_client(connection);
    }
}

fn with_topic(direction: Direction, publish: Publish, topic: TopicName) -> Option<EventKind> {
    let mut bytes = BytesMut::new();
    let packet = ControlPacket::Publish(Publish { topic: Some(topic), ..publish });
    // Only MQTT 5 has aliases.
    packet.encode(ProtocolVersion::V5, &mut bytes).ok()?;
    Some(EventKind::Packet { direction, bytes: bytes.freeze() })
}
