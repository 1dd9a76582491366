//! Events that tests are made of.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};

use super::{
    CloseCause, ConnectionInfo, Direction, Event, EventKind, FaultInjected, RecordingInfo, RecordingSource,
    RecordingState,
};
use crate::packet::{
    Ack, Connack, Connect, ControlPacket, PacketIdentifier, PacketType, Properties, Property,
    ProtocolVersion, Publish, QoS, ReasonCode, TopicName, Utf8String,
};

/// Events with an offset each, in microseconds.
pub fn events(kinds: impl IntoIterator<Item = (u64, u32, EventKind)>) -> Vec<Event> {
    let numbered = (1..).zip(kinds);
    numbered
        .map(|(seq, (at, connection, kind))| Event { seq, at: Duration::from_micros(at), connection, kind })
        .collect()
}

pub fn packet(direction: Direction, protocol: ProtocolVersion, packet: ControlPacket) -> EventKind {
    let mut bytes = BytesMut::new();
    packet.encode(protocol, &mut bytes).unwrap();
    EventKind::Packet { direction, bytes: bytes.freeze() }
}

pub fn text(text: &str) -> Utf8String {
    Utf8String::new(text).unwrap()
}

pub fn connect(client: &str, protocol: ProtocolVersion) -> EventKind {
    let connect = Connect {
        protocol,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::new(),
        client_identifier: text(client),
        will: None,
        username: None,
        password: None,
    };
    packet(Direction::ClientToServer, protocol, ControlPacket::Connect(Box::new(connect)))
}

pub fn connack(session_present: bool, protocol: ProtocolVersion) -> EventKind {
    let connack =
        Connack { session_present, reason_code: ReasonCode::SUCCESS, properties: Properties::new() };
    packet(Direction::ServerToClient, protocol, ControlPacket::Connack(connack))
}

pub fn publish(topic: Option<&str>, payload: &[u8], properties: Vec<Property>) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: topic.map(|topic| TopicName::parse(topic).unwrap()),
        packet_identifier: None,
        properties: Properties(properties),
        payload: Bytes::copy_from_slice(payload),
    }
}

pub fn from_client(publish: Publish) -> EventKind {
    packet(Direction::ClientToServer, ProtocolVersion::V5, ControlPacket::Publish(publish))
}

pub fn open() -> EventKind {
    EventKind::Open(Box::new(ConnectionInfo {
        peer: Some("127.0.0.1:40000".to_owned()),
        transport: "tcp".to_owned(),
        ..ConnectionInfo::default()
    }))
}

/// What was decided for the seventh PUBLISH of `dev-1`.
pub fn fault(action: &str, detail: &str) -> FaultInjected {
    FaultInjected {
        rule: format!("some-{action}"),
        action: action.to_owned(),
        detail: detail.to_owned(),
        client_identifier: "dev-1".to_owned(),
        direction: Direction::ClientToServer,
        packet_type: PacketType::Publish,
        nth: 7,
        topic: "a/b".to_owned(),
        received: None,
        sent: None,
    }
}

pub fn from_server(publish: Publish) -> EventKind {
    packet(Direction::ServerToClient, ProtocolVersion::V5, ControlPacket::Publish(publish))
}

/// The same message at QoS 1 or 2.
pub fn identified(publish: Publish, qos: QoS, identifier: u16, dup: bool) -> Publish {
    Publish { qos, dup, packet_identifier: PacketIdentifier::new(identifier), ..publish }
}

/// What a server answers.
pub fn ack(make: fn(Ack) -> ControlPacket, identifier: u16) -> EventKind {
    let ack = Ack {
        packet_identifier: PacketIdentifier::new(identifier).unwrap(),
        reason_code: ReasonCode::SUCCESS,
        properties: Properties::new(),
    };
    packet(Direction::ServerToClient, ProtocolVersion::V5, make(ack))
}

/// A complete recording, of which nothing was counted.
pub fn info() -> RecordingInfo {
    RecordingInfo {
        id: "01JD3ZJ8Y0000000000000000A".to_owned(),
        name: "orders".to_owned(),
        state: RecordingState::Complete,
        source: RecordingSource::proxy("mqtt://broker:1883"),
        started_at: "2026-11-22T12:00:00.000000001Z".parse().unwrap(),
        duration: Duration::ZERO,
        events: 0,
        packets: 0,
        connections: 0,
        bytes: 0,
        gaps: 0,
        sha256: None,
        tool_version: "0.1.0".to_owned(),
        topics: Vec::new(),
        seed: None,
        edits: Vec::new(),
    }
}

/// Events from lines as `1 s2c PUBLISH t x`, `1 close client_fin` and `1 open`; a millisecond apart. Packets are of the
/// version that their connection's CONNECT says, else of MQTT 5.
pub fn script(text: &str) -> Vec<Event> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut protocols = HashMap::new();
    let event = |(seq, line): (u64, &str)| {
        let (number, rest) = line.split_once(' ').expect(line);
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let kind = match word {
            "open" => EventKind::Open(Box::<ConnectionInfo>::default()),
            "close" => EventKind::Close(CloseCause::from_name(rest).expect(line)),
            direction => {
                let direction = Direction::from_name(direction).expect(line);
                let known = protocols.entry(number.to_owned()).or_insert(ProtocolVersion::V5);
                let packet =
                    ControlPacket::parse_text(rest, *known).unwrap_or_else(|error| panic!("{line}: {error}"));
                if let ControlPacket::Connect(connect) = &packet {
                    *known = connect.protocol;
                }
                let mut bytes = BytesMut::new();
                packet.encode(*known, &mut bytes).expect(line);
                EventKind::Packet { direction, bytes: bytes.freeze() }
            }
        };
        let connection = number.parse().expect(line);
        Event { seq, at: Duration::from_millis(seq), connection, kind }
    };
    (1..).zip(lines).map(event).collect()
}
