//! A recording's events, assembled from files that leave out what can be known without saying.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::{ConnectionInfo, Connections, Direction, Event, EventKind};
use crate::packet::{ControlPacket, Frame, PacketIdentifier, ProtocolVersion, Publish, QoS};

/// What is wrong with a part of what was to become an event, by its name.
pub type BadMember = (&'static str, String);

/// Numbers events and opens connections; memory does not grow with the number of events.
#[derive(Debug, Default)]
pub struct Assembly {
    /// What the file says of connections whose OPEN is not in it.
    declared: HashMap<u32, ConnectionInfo>,
    last_seq: u64,
    last_at: Duration,
    connections: Connections,
    opened: HashSet<u32>,
    ready: VecDeque<Event>,
    /// Of messages alone: the connection for a client and a protocol, with its last packet identifier.
    clients: HashMap<(Option<String>, ProtocolVersion), (u32, PacketIdentifier)>,
}

/// A message of which no more is known.
#[derive(Debug)]
pub struct Message {
    pub client_identifier: Option<String>,
    /// `None` for the lowest that can say what it says.
    pub protocol: Option<ProtocolVersion>,
    pub direction: Direction,
    /// Without a packet identifier, it gets one if it needs it.
    pub publish: Publish,
}

impl Assembly {
    pub fn new(declared: HashMap<u32, ConnectionInfo>) -> Self {
        Self { declared, ..Self::default() }
    }

    /// The next event that is whole.
    pub fn next_ready(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// When the last event was.
    pub fn last_at(&self) -> Duration {
        self.last_at
    }

    /// The protocol of a connection, which is opened if it was not.
    pub fn protocol(&mut self, at: Duration, number: u32) -> Option<ProtocolVersion> {
        self.ensure_open(at, number);
        self.connections.get(number).and_then(|one| one.protocol)
    }

    /// Adds an event, and before it the OPEN of a connection whose own is not in the file.
    pub fn push(&mut self, at: Duration, connection: u32, kind: EventKind) {
        if matches!(kind, EventKind::Open(_)) {
            self.opened.insert(connection);
        } else {
            self.ensure_open(at, connection);
        }
        let ends = matches!(kind, EventKind::Close(_));
        self.last_seq += 1;
        self.last_at = at;
        let event = Event { seq: self.last_seq, at, connection, kind };
        self.connections.outline(&event);
        if ends {
            self.connections.forget_client(connection);
        }
        self.ready.push_back(event);
    }

    /// Adds a message, over the connection of its client.
    ///
    /// # Errors
    /// When no packet can say it.
    pub fn push_message(&mut self, at: Duration, message: Message) -> Result<(), BadMember> {
        let Message { client_identifier, protocol, direction, mut publish } = message;
        // 3.1.1 reaches every broker; what only MQTT 5 can say asks for that.
        let needed = if publish.properties.is_empty() { ProtocolVersion::V311 } else { ProtocolVersion::V5 };
        let protocol = protocol.unwrap_or(needed);
        let next = self.clients.len() as u32 + 1;
        let first = PacketIdentifier::new(u16::MAX).expect("not zero");
        let key = (client_identifier.clone(), protocol);
        let (number, identifier) = self.clients.entry(key).or_insert((next, first));
        if publish.qos != QoS::AtMostOnce && publish.packet_identifier.is_none() {
            *identifier = identifier.next();
            publish.packet_identifier = Some(*identifier);
        }
        let number = *number;
        let bytes = encode(ControlPacket::Publish(publish), protocol)?;
        if !self.opened.contains(&number) {
            let info = ConnectionInfo {
                already_open: true,
                client_identifier,
                protocol: Some(protocol),
                ..ConnectionInfo::default()
            };
            self.push(at, number, EventKind::Open(Box::new(info)));
        }
        self.push(at, number, EventKind::Packet { direction, bytes });
        Ok(())
    }

    fn ensure_open(&mut self, at: Duration, number: u32) {
        if number != 0 && !self.opened.contains(&number) {
            let mut info = self.declared.get(&number).cloned().unwrap_or_default();
            info.already_open = true;
            info.protocol = info.protocol.or(Some(ProtocolVersion::V311));
            self.push(at, number, EventKind::Open(Box::new(info)));
        }
    }
}

/// The bytes of a packet that is valid.
///
/// # Errors
/// When there is no such packet.
pub fn encode(packet: ControlPacket, protocol: ProtocolVersion) -> Result<Bytes, BadMember> {
    let name = packet.name();
    if let ControlPacket::Publish(publish) = &packet
        && publish.qos != QoS::AtMostOnce
        && publish.packet_identifier.is_none()
    {
        return Err(("packet_id", "missing, and QoS 1 and 2 need it".to_owned()));
    }
    let mut encoded = BytesMut::new();
    packet.encode(protocol, &mut encoded).map_err(|error| ("type", error.to_string()))?;
    let encoded = encoded.freeze();
    // What is written by hand may ask for what no packet can say.
    Frame::decode(encoded.clone(), protocol)
        .map_err(|error| ("type", format!("this {name} is not valid: {error}")))?;
    Ok(encoded)
}
