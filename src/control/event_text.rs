//! What happened in a recording, a line an event, as people read it.

use bytes::Bytes;

use crate::{
    amount::counted,
    packet::{ControlPacket, PacketType, Publish, TopicName},
    recording::{ConnectionInfo, Event, EventKind, FaultInjected, InForce, MockFired, Seen},
};

/// Bytes of a payload that are shown.
const PAYLOAD_MAX: usize = 120;
/// Characters of a line.
const LINE_MAX: usize = 400;

/// One line, without the time and whose it is.
pub fn event_text(event: &Event, seen: Option<&Seen>) -> String {
    let text = match &event.kind {
        EventKind::Open(info) => opened(info),
        EventKind::Packet { bytes, .. } => packet(bytes, seen),
        EventKind::Raw { bytes, .. } => {
            let shown = &bytes[..bytes.len().min(PAYLOAD_MAX)];
            format!("RAW {} that are no packet: \"{}\"", size(bytes), shown.escape_ascii())
        }
        EventKind::Close(cause) => format!("CLOSE {}", cause.name()),
        EventKind::Mark(label) => format!("MARK {label}"),
        EventKind::Mock(fired) => {
            let MockFired { mock, client_identifier: _, topic, messages } = &**fired;
            let of = if topic.is_empty() { String::new() } else { format!(" for {topic}") };
            format!("MOCK {mock} fired{of}, messages={messages}")
        }
        EventKind::Fault(fault) => faulted(fault),
        EventKind::State(in_force) => stands(in_force),
        EventKind::Anchor(wall) => format!("ANCHOR {wall}"),
        EventKind::Gap { events: 0, bytes: 0 } => "GAP nobody knows what is missing here".to_owned(),
        EventKind::Gap { events, bytes } => {
            format!("GAP left out: {}, {}", counted(*events, "event"), counted(*bytes, "byte"))
        }
    };
    cut(&text)
}

fn opened(info: &ConnectionInfo) -> String {
    let mut text = "OPEN".to_owned();
    let optional = [
        ("from", info.peer.as_deref()),
        ("over", Some(&*info.transport).filter(|transport| !transport.is_empty())),
        ("to", info.upstream.as_deref()),
    ];
    for (word, value) in optional.into_iter().filter_map(|(word, value)| Some((word, value?))) {
        text += &format!(" {word} {value}");
    }
    if info.already_open {
        let version = info.protocol.map(|protocol| format!(", MQTT {protocol}")).unwrap_or_default();
        text += &format!(" (was open already{version})");
    }
    text
}

fn packet(bytes: &[u8], seen: Option<&Seen>) -> String {
    let name = bytes.first().and_then(|first| PacketType::of(*first)).map_or("packet", PacketType::name);
    match seen {
        Some(Seen { packet: Ok(ControlPacket::Publish(publish)), topic }) => {
            published(publish.clone(), topic.clone())
        }
        Some(Seen { packet: Ok(packet), .. }) => format!("{packet:.PAYLOAD_MAX$}"),
        Some(Seen { packet: Err(error), .. }) => {
            format!("{name} of {} that can't be read: {error}", size(bytes))
        }
        None => format!("{name} of {}", size(bytes)),
    }
}

fn size(bytes: &[u8]) -> String {
    counted(bytes.len() as u64, "byte")
}

/// With its topic if an alias stands for it, and a payload that is text as it is: quotes within quotes are hard to read.
fn published(mut publish: Publish, topic: Option<TopicName>) -> String {
    publish.topic = publish.topic.or(topic);
    let is_plain = |text: &&str| text.starts_with(['{', '[']) && !text.chars().any(char::is_control);
    let payload = publish.payload.clone();
    let text = std::str::from_utf8(&payload).ok().filter(is_plain);
    match text {
        Some(text) if text.len() <= PAYLOAD_MAX => {
            publish.payload = Bytes::new();
            format!("{} {text}", ControlPacket::Publish(publish))
        }
        _ => format!("{:.PAYLOAD_MAX$}", ControlPacket::Publish(publish)),
    }
}

fn faulted(fault: &FaultInjected) -> String {
    let FaultInjected { rule, action, detail, packet_type, nth, topic, .. } = fault;
    let topic = if topic.is_empty() { String::new() } else { format!(" {topic}") };
    let detail = if detail == "{}" { String::new() } else { format!(" {detail}") };
    format!("FAULT {action} by {rule} on {} {nth}{topic}{detail}", packet_type.name())
}

fn stands(in_force: &InForce) -> String {
    let what = match in_force.decode() {
        Some(ControlPacket::Publish(publish)) => published(publish, None),
        Some(packet) => format!("{packet:.PAYLOAD_MAX$}"),
        None => format!("{} that can't be read", size(&in_force.packet)),
    };
    match &in_force.client_identifier {
        Some(client) => format!("STATE of {client}: {what}"),
        None => format!("STATE retained: {what}"),
    }
}

/// What clients chose may hold anything and be of any length.
fn cut(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LINE_MAX));
    for (count, letter) in text.chars().enumerate() {
        if count == LINE_MAX {
            line.push('…');
            break;
        }
        match letter.is_control() {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{Property, ProtocolVersion},
        recording::{
            CloseCause, Connections, Direction,
            sample::{self, connect, from_client, open, publish},
        },
    };

    #[test]
    fn events_are_lines() {
        let alias = || vec![Property::TopicAlias(1)];
        let EventKind::Packet { bytes: retained, .. } = from_client(publish(Some("a"), b"on", Vec::new()))
        else {
            unreachable!("it makes packets")
        };
        let already = ConnectionInfo {
            already_open: true,
            protocol: Some(ProtocolVersion::V311),
            ..ConnectionInfo::default()
        };
        let direction = Direction::ClientToServer;
        let kinds = [
            open(),
            connect("dev", ProtocolVersion::V5),
            from_client(publish(Some("a/b"), b"1", alias())),
            from_client(publish(None, &[b'x'; 200], alias())),
            from_client(publish(None, br#"{"on": true}"#, alias())),
            EventKind::Packet { direction, bytes: Bytes::from_static(b"\x30\x01\0") },
            EventKind::Packet { direction, bytes: Bytes::new() },
            EventKind::Raw { direction, bytes: Bytes::from_static(b"GET / \r\n") },
            EventKind::Fault(Box::new(sample::fault("latency", r#"{"ms":2}"#))),
            EventKind::Mock(Box::new(MockFired {
                mock: "m".to_owned(),
                topic: "a".to_owned(),
                messages: 2,
                ..MockFired::default()
            })),
            EventKind::State(Box::new(InForce { client_identifier: None, packet: retained })),
            EventKind::Mark("half\nway".to_owned()),
            EventKind::Mark("m".repeat(500)),
            EventKind::Gap { events: 3, bytes: 40 },
            EventKind::Gap { events: 0, bytes: 0 },
            EventKind::Close(CloseCause::ClientFin),
            EventKind::Open(Box::new(already)),
        ];
        let mut connections = Connections::new();
        let events = sample::events(kinds.into_iter().map(|kind| (0, 1, kind)));
        let lines: Vec<_> =
            events.iter().map(|event| event_text(event, connections.follow(event).as_ref())).collect();
        expect_test::expect![[r#"
            OPEN from 127.0.0.1:40000 over tcp
            CONNECT dev v=5 keep_alive=60
            PUBLISH a/b alias=1 "1"
            PUBLISH a/b alias=1 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"… (200 bytes)
            PUBLISH a/b alias=1 {"on": true}
            PUBLISH of 3 bytes that can't be read: topic name runs past the end of the packet
            packet of 0 bytes that can't be read: fixed header runs past the end of the packet
            RAW 8 bytes that are no packet: "GET / \r\n"
            FAULT latency by some-latency on PUBLISH 7 a/b {"ms":2}
            MOCK m fired for a, messages=2
            STATE retained: PUBLISH a "on"
            MARK half\nway
            MARK mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm…
            GAP left out: 3 events, 40 bytes
            GAP nobody knows what is missing here
            CLOSE client_fin
            OPEN (was open already, MQTT 3.1.1)
        "#]].assert_eq(&(lines.join("\n") + "\n"));
    }
}
