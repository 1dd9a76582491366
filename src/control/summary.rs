//! What is in a recording: connections, topics, packet types, faults, counted in one pass over its events.
//!
//! Memory grows with the connections that are open at the same time, not with the recording: what an answer has no room
//! for is counted and forgotten. So that the most talkative topics are known at the end, more are counted than shown.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use prost::Message;

use super::{
    pb,
    recorded_event::{close_cause, packet_type},
    time,
};
use crate::{
    packet::{ControlPacket, Publish, ReasonCode, TopicName},
    recording::{Connection, Connections, Direction, Event, EventFilter, EventKind, FaultInjected, Seen},
};

const CONNECTIONS_MAX: usize = 1000;
const TOPICS_MAX: usize = 1000;
const MARKS_MAX: usize = 100;
const ACTIONS_MAX: usize = 100;
const ERRORS_MAX: usize = 100;
/// Of the traffic: as many as a line on a terminal shows.
const INTERVALS: usize = 60;
/// Encoded bytes of each list, so that all of them fit into the 4 MiB that gRPC clients take unless told otherwise.
const LIST_BYTES_MAX: usize = 1 << 20;
/// Topics that are counted.
const TOPICS_TOLD_MAX: usize = 100_000;
/// Bytes of their names.
const NAMES_MAX: usize = 16 << 20;

/// Counts over the events of a recording, which it has to see in their order.
#[derive(Debug, Default)]
pub struct Summary {
    /// Those that are open, with what it takes to read their packets.
    connections: Connections,
    /// Packets of those, by number.
    packets: HashMap<u32, u64>,
    /// The most talkative ones that have ended.
    ended: Vec<pb::ConnectionSummary>,
    connections_left_out: u64,
    topics: Topics,
    packet_types: BTreeMap<pb::PacketType, Counts>,
    faults: BTreeMap<String, Counts>,
    actions_bytes: usize,
    faults_left_out: u64,
    raw: u64,
    marks: Vec<String>,
    marks_bytes: usize,
    marks_left_out: u64,
    gaps: u64,
    missing: pb::CaptureGap,
    qos: BTreeMap<u32, Counts>,
    errors: BTreeMap<(pb::PacketType, ReasonCode), u64>,
    unreadable: u64,
    traffic: Traffic,
    /// Where what is counted begins.
    start: Duration,
    /// Offset of the last event that is counted.
    last_at: Duration,
}

/// Packets over time.
#[derive(Debug, Default)]
struct Traffic {
    start: Duration,
    span: Duration,
    packets: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    client_to_server: u64,
    server_to_client: u64,
}

impl Summary {
    /// Of the part of a recording, so long, that `filter` means.
    pub fn new(filter: &EventFilter, duration: Duration) -> Self {
        let start = filter.start.unwrap_or_default().min(duration);
        let end = filter.until.unwrap_or(duration).clamp(start, duration);
        let traffic = Traffic { start, span: end - start, packets: Vec::new() };
        Self { start, last_at: start, traffic, ..Self::default() }
    }

    /// Takes the next event, which is counted if it is wanted.
    pub fn add(&mut self, event: &Event, is_wanted: bool) {
        let seen = self.connections.follow(event);
        if is_wanted {
            self.last_at = event.at;
            if event.connection != 0 {
                self.packets.entry(event.connection).or_default();
            }
            self.count(event, seen);
        }
        if matches!(event.kind, EventKind::Close(_)) {
            self.end(event.connection);
        }
    }

    fn count(&mut self, event: &Event, seen: Option<Seen>) {
        match &event.kind {
            EventKind::Open(_) | EventKind::Close(_) => {}
            EventKind::Packet { direction, bytes } => {
                *self.packets.entry(event.connection).or_default() += 1;
                self.traffic.add(event.at);
                let kind = packet_type(bytes).unwrap_or_default();
                self.packet_types.entry(kind).or_default().add(*direction);
                match seen {
                    Some(Seen { packet: Ok(packet), topic }) => self.packet(kind, *direction, packet, topic),
                    _ => self.unreadable += 1,
                }
            }
            EventKind::Raw { .. } => self.raw += 1,
            EventKind::Mark(label) => self.mark(label),
            EventKind::Mock(_) | EventKind::State(_) | EventKind::Anchor(_) => {}
            EventKind::Fault(fault) => self.fault(fault),
            EventKind::Gap { events, bytes } => {
                self.gaps += 1;
                self.missing.events += events;
                self.missing.bytes += bytes;
            }
        }
    }

    fn packet(
        &mut self,
        kind: pb::PacketType,
        direction: Direction,
        packet: ControlPacket,
        topic: Option<TopicName>,
    ) {
        if let ControlPacket::Publish(publish) = &packet {
            let topic = topic.as_ref().map_or("", |topic| topic.as_str());
            self.topics.add(topic, direction, publish);
            self.qos.entry(publish.qos as u32).or_default().add(direction);
        }
        for code in reason_codes(&packet).iter().filter(|code| code.is_error()) {
            *self.errors.entry((kind, *code)).or_default() += 1;
        }
    }

    fn end(&mut self, number: u32) {
        let packets = self.packets.remove(&number);
        if let (Some(connection), Some(packets)) = (self.connections.get(number), packets) {
            self.ended.push(connection_summary(number, connection, packets));
        }
        self.connections.forget_client(number);
        // Rarely, because it sorts.
        if self.ended.len() >= 2 * CONNECTIONS_MAX {
            self.connections_left_out += keep_most(&mut self.ended);
        }
    }

    fn mark(&mut self, label: &str) {
        self.marks_bytes += label.len();
        if self.marks.len() < MARKS_MAX && self.marks_bytes <= LIST_BYTES_MAX {
            self.marks.push(label.to_owned());
        } else {
            self.marks_left_out += 1;
        }
    }

    fn fault(&mut self, fault: &FaultInjected) {
        if let Some(counts) = self.faults.get_mut(&fault.action) {
            return counts.add(fault.direction);
        }
        let has_room =
            self.faults.len() < ACTIONS_MAX && self.actions_bytes + fault.action.len() <= LIST_BYTES_MAX;
        if !has_room {
            self.faults_left_out += 1;
            return;
        }
        self.actions_bytes += fault.action.len();
        self.faults.entry(fault.action.clone()).or_default().add(fault.direction);
    }

    pub fn finish(self) -> pb::RecordingSummary {
        let mut connections = self.ended;
        connections.extend(self.connections.into_sorted().into_iter().filter_map(|(number, connection)| {
            let packets = self.packets.get(&number)?;
            Some(connection_summary(number, &connection, *packets))
        }));
        let connections_left_out = self.connections_left_out + keep_most(&mut connections);
        connections.sort_by_key(|connection| connection.number);
        let untold_messages = self.topics.untold;
        let (topics, topics_left_out) = self.topics.finish(self.last_at - self.start);
        let packet_types = self.packet_types.into_iter().map(|(kind, counts)| pb::PacketTypeSummary {
            r#type: kind.into(),
            client_to_server: counts.client_to_server,
            server_to_client: counts.server_to_client,
        });
        let faults = self.faults.into_iter().map(|(action, counts)| pb::FaultSummary {
            action,
            client_to_server: counts.client_to_server,
            server_to_client: counts.server_to_client,
        });
        let qos = self.qos.into_iter().map(|(qos, counts)| pb::QosSummary {
            qos,
            client_to_server: counts.client_to_server,
            server_to_client: counts.server_to_client,
        });
        let errors = self.errors.into_iter().map(|((kind, code), count)| pb::ErrorSummary {
            r#type: kind.into(),
            reason_code: code.0.into(),
            reason: code.name().to_owned(),
            count,
        });
        let mut errors: Vec<_> = errors.collect();
        errors.sort_by_key(|error| Reverse(error.count));
        errors.truncate(ERRORS_MAX);
        pb::RecordingSummary {
            connections,
            connections_left_out,
            topics,
            topics_left_out,
            untold_messages,
            packet_types: packet_types.collect(),
            raw: self.raw,
            marks: self.marks,
            marks_left_out: self.marks_left_out,
            gaps: self.gaps,
            missing: (self.gaps > 0).then_some(self.missing),
            faults: faults.collect(),
            qos: qos.collect(),
            errors,
            unreadable: self.unreadable,
            traffic: self.traffic.finish(),
            faults_left_out: self.faults_left_out,
        }
    }
}

impl Traffic {
    fn add(&mut self, at: Duration) {
        self.packets.resize(INTERVALS, 0);
        let after = at.saturating_sub(self.start).as_nanos();
        let interval = after * INTERVALS as u128 / self.span.as_nanos().max(1);
        // What came in the last instant is of the last interval, and so is what came to a recording that goes on.
        self.packets[(interval as usize).min(INTERVALS - 1)] += 1;
    }

    fn finish(self) -> Option<pb::TrafficSummary> {
        (!self.packets.is_empty()).then(|| pb::TrafficSummary {
            start: Some(time::duration(self.start)),
            step: Some(time::duration(self.span / INTERVALS as u32)),
            packets: self.packets,
        })
    }
}

fn reason_codes(packet: &ControlPacket) -> &[ReasonCode] {
    match packet {
        ControlPacket::Connack(connack) => std::slice::from_ref(&connack.reason_code),
        ControlPacket::Puback(ack)
        | ControlPacket::Pubrec(ack)
        | ControlPacket::Pubrel(ack)
        | ControlPacket::Pubcomp(ack) => std::slice::from_ref(&ack.reason_code),
        ControlPacket::Suback(suback) => &suback.reason_codes,
        ControlPacket::Unsuback(unsuback) => &unsuback.reason_codes,
        ControlPacket::Disconnect(disconnect) => std::slice::from_ref(&disconnect.reason_code),
        ControlPacket::Auth(auth) => std::slice::from_ref(&auth.reason_code),
        _ => &[],
    }
}

fn connection_summary(number: u32, connection: &Connection, packets: u64) -> pb::ConnectionSummary {
    pb::ConnectionSummary {
        number,
        client_id: connection.client().map(str::to_owned),
        peer: connection.info.peer.clone().unwrap_or_default(),
        protocol: connection.protocol.map_or(0, |protocol| protocol as i32),
        packets,
        close: connection.closed.map_or(0, |(_, cause)| close_cause(cause).into()),
    }
}

/// Keeps the connections with the most packets, as many as an answer holds. Returns how many are left out.
fn keep_most(connections: &mut Vec<pb::ConnectionSummary>) -> u64 {
    connections.sort_by_key(|connection| (Reverse(connection.packets), connection.number));
    cut(connections, CONNECTIONS_MAX)
}

/// Cuts `items` to what an answer holds. Returns how many are left out.
fn cut(items: &mut Vec<impl Message>, len_max: usize) -> u64 {
    let mut bytes = 0;
    let fitting = items.iter().take(len_max).take_while(|item| {
        bytes += item.encoded_len();
        bytes <= LIST_BYTES_MAX
    });
    let len = fitting.count();
    let left_out = items.len() - len;
    items.truncate(len);
    left_out as u64
}

/// PUBLISH packets by topic.
#[derive(Debug, Default)]
struct Topics {
    by_name: HashMap<Box<str>, Topic>,
    names_len: usize,
    /// Packets of topics that there was no room for.
    untold: u64,
}

#[derive(Debug, Default)]
struct Topic {
    counts: Counts,
    payload_bytes: u64,
    qos_max: u32,
    retained: u64,
}

impl Topics {
    fn add(&mut self, name: &str, direction: Direction, publish: &Publish) {
        if let Some(topic) = self.by_name.get_mut(name) {
            return topic.add(direction, publish);
        }
        if self.by_name.len() == TOPICS_TOLD_MAX || self.names_len + name.len() > NAMES_MAX {
            self.untold += 1;
            return;
        }
        self.names_len += name.len();
        self.by_name.entry(name.into()).or_default().add(direction, publish);
    }

    /// Most messages first, and how many topics are left out.
    fn finish(self, span: Duration) -> (Vec<pb::TopicSummary>, u64) {
        let mut topics: Vec<_> = self.by_name.into_iter().collect();
        topics.sort_unstable_by(|(name, topic), (other_name, other)| {
            other.counts.sum().cmp(&topic.counts.sum()).then_with(|| name.cmp(other_name))
        });
        let mut topics = topics.into_iter().map(|(name, topic)| topic.shown(name.into(), span)).collect();
        let left_out = cut(&mut topics, TOPICS_MAX);
        (topics, left_out)
    }
}

impl Topic {
    fn add(&mut self, direction: Direction, publish: &Publish) {
        self.counts.add(direction);
        self.payload_bytes += publish.payload.len() as u64;
        self.qos_max = self.qos_max.max(publish.qos as u32);
        self.retained += u64::from(publish.retain);
    }

    fn shown(self, topic: String, span: Duration) -> pb::TopicSummary {
        let messages = self.counts.sum() as f64;
        pb::TopicSummary {
            topic,
            client_to_server: self.counts.client_to_server,
            server_to_client: self.counts.server_to_client,
            payload_bytes: self.payload_bytes,
            qos_max: self.qos_max,
            retained: self.retained,
            messages_per_second: if span.is_zero() { 0.0 } else { messages / span.as_secs_f64() },
        }
    }
}

impl Counts {
    fn add(&mut self, direction: Direction) {
        match direction {
            Direction::ClientToServer => self.client_to_server += 1,
            Direction::ServerToClient => self.server_to_client += 1,
        }
    }

    fn sum(self) -> u64 {
        self.client_to_server + self.server_to_client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{ProtocolVersion, QoS},
        recording::{
            CloseCause,
            sample::{self, connack, connect, events, from_client, from_server, identified, open, publish},
        },
    };

    /// Each kind with its offset in microseconds and its connection.
    fn summary(kinds: impl IntoIterator<Item = (u64, u32, EventKind)>) -> pb::RecordingSummary {
        let events = events(kinds);
        let duration = events.last().map(|event| event.at).unwrap_or_default();
        let mut summary = Summary::new(&EventFilter::default(), duration);
        events.iter().for_each(|event| summary.add(event, true));
        summary.finish()
    }

    fn fault(action: &str, direction: Direction) -> EventKind {
        EventKind::Fault(Box::new(FaultInjected { direction, ..sample::fault(action, "{}") }))
    }

    fn message(topic: &str) -> EventKind {
        from_client(publish(Some(topic), b"on", Vec::new()))
    }

    const V5: ProtocolVersion = ProtocolVersion::V5;

    #[test]
    fn connections_topics_packet_types_and_faults_are_counted() {
        let retained = crate::packet::Publish { retain: true, ..publish(Some("a/b"), b"four", Vec::new()) };
        let summary = summary([
            (0, 1, open()),
            (0, 1, connect("dev", V5)),
            (0, 1, connack(false, V5)),
            (0, 1, message("a")),
            (0, 1, message("a/b")),
            (0, 1, from_server(identified(retained, QoS::AtLeastOnce, 1, false))),
            (0, 1, fault("latency", Direction::ServerToClient)),
            (0, 1, fault("drop", Direction::ClientToServer)),
            (0, 1, fault("latency", Direction::ServerToClient)),
            (0, 1, EventKind::Raw { direction: Direction::ClientToServer, bytes: vec![0].into() }),
            (0, 0, EventKind::Mark("half".to_owned())),
            (0, 0, EventKind::Gap { events: 2, bytes: 30 }),
            (0, 0, EventKind::Gap { events: 1, bytes: 12 }),
            (0, 1, EventKind::Close(CloseCause::ClientFin)),
            (500_000, 2, open()),
        ]);
        let counts = |kind: pb::PacketType, client_to_server, server_to_client| pb::PacketTypeSummary {
            r#type: kind.into(),
            client_to_server,
            server_to_client,
        };
        let peer = || "127.0.0.1:40000".to_owned();
        let expected = pb::RecordingSummary {
            connections: vec![
                pb::ConnectionSummary {
                    number: 1,
                    client_id: Some("dev".to_owned()),
                    peer: peer(),
                    protocol: pb::ProtocolVersion::V50.into(),
                    packets: 5,
                    close: pb::CloseCause::ClientFin.into(),
                },
                pb::ConnectionSummary { number: 2, peer: peer(), ..Default::default() },
            ],
            topics: vec![
                pb::TopicSummary {
                    topic: "a/b".to_owned(),
                    client_to_server: 1,
                    server_to_client: 1,
                    payload_bytes: 6,
                    qos_max: 1,
                    retained: 1,
                    messages_per_second: 4.0,
                },
                pb::TopicSummary {
                    topic: "a".to_owned(),
                    client_to_server: 1,
                    payload_bytes: 2,
                    messages_per_second: 2.0,
                    ..Default::default()
                },
            ],
            packet_types: vec![
                counts(pb::PacketType::Connect, 1, 0),
                counts(pb::PacketType::Connack, 0, 1),
                counts(pb::PacketType::Publish, 2, 1),
            ],
            raw: 1,
            marks: vec!["half".to_owned()],
            gaps: 2,
            missing: Some(pb::CaptureGap { events: 3, bytes: 42 }),
            faults: vec![
                pb::FaultSummary { action: "drop".to_owned(), client_to_server: 1, server_to_client: 0 },
                pb::FaultSummary { action: "latency".to_owned(), client_to_server: 0, server_to_client: 2 },
            ],
            qos: vec![
                pb::QosSummary { qos: 0, client_to_server: 2, server_to_client: 0 },
                pb::QosSummary { qos: 1, client_to_server: 0, server_to_client: 1 },
            ],
            traffic: Some(pb::TrafficSummary {
                start: Some(prost_types::Duration::default()),
                step: Some(prost_types::Duration { seconds: 0, nanos: 8_333_333 }),
                packets: [5].into_iter().chain([0; 59]).collect(),
            }),
            ..Default::default()
        };
        assert_eq!(summary, expected);
    }

    #[test]
    fn errors_traffic_and_what_cannot_be_read_are_counted() {
        let ack = |code: u8| {
            let packet = ControlPacket::Puback(crate::packet::Ack {
                packet_identifier: crate::packet::PacketIdentifier::MIN,
                reason_code: ReasonCode(code),
                properties: crate::packet::Properties::new(),
            });
            sample::packet(Direction::ServerToClient, V5, packet)
        };
        let unread = |bytes: &'static [u8]| {
            let direction = Direction::ClientToServer;
            EventKind::Packet { direction, bytes: bytes.into() }
        };
        let summary = summary([
            (0, 1, connect("dev", V5)),
            (1_000_000, 1, ack(0x87)),
            (1_500_000, 1, ack(0x10)),
            (30_000_000, 1, ack(0x97)),
            (45_000_000, 1, unread(b"\x30\x01\0")),
            (59_000_000, 1, ack(0x97)),
            (60_000_000, 1, ack(0)),
        ]);
        let error = |reason_code: ReasonCode, count| pb::ErrorSummary {
            r#type: pb::PacketType::Puback.into(),
            reason_code: reason_code.0.into(),
            reason: reason_code.name().to_owned(),
            count,
        };
        assert_eq!(
            summary.errors,
            [error(ReasonCode::QUOTA_EXCEEDED, 2), error(ReasonCode::NOT_AUTHORIZED, 1)]
        );
        assert_eq!(summary.unreadable, 1);
        let packets = summary.traffic.unwrap().packets;
        let busy: Vec<_> = packets.iter().enumerate().filter(|(_, packets)| **packets > 0).collect();
        assert_eq!(busy, [(0, &1), (1, &2), (30, &1), (45, &1), (59, &2)]);
    }

    #[test]
    fn nothing_is_counted_in_an_empty_recording() {
        assert_eq!(summary([]), pb::RecordingSummary::default());
    }

    #[test]
    fn the_topics_with_the_most_messages_are_shown() {
        let once = (0..1500).map(|n| (0, 1, message(&format!("t/{n:04}"))));
        let again = (1499..1500).map(|n| (0, 1, message(&format!("t/{n:04}"))));
        let summary = summary([(0, 1, connect("dev", V5))].into_iter().chain(once).chain(again));
        assert_eq!((summary.topics.len(), summary.topics_left_out), (1000, 500));
        let names: Vec<_> = summary.topics.iter().take(2).map(|topic| topic.topic.as_str()).collect();
        assert_eq!(names, ["t/1499", "t/0000"]);
        assert_eq!(summary.topics[0].messages_per_second, 0.0);
    }

    #[test]
    fn topics_without_room_are_not_told_apart() {
        let name = |n: usize| format!("{n:060000}");
        let long = (0..300).map(|n| (0, 1, message(&name(n))));
        let again = [(0, 1, message(&name(0)))];
        let summary = summary([(0, 1, connect("dev", V5))].into_iter().chain(long).chain(again));
        let told = NAMES_MAX / 60_000;
        assert_eq!(summary.topics.len() + summary.topics_left_out as usize, told);
        assert_eq!(summary.untold_messages as usize, 300 - told);
        assert_eq!(summary.topics[0].client_to_server, 2);
        assert!(summary.encoded_len() <= 2 << 20);
    }

    #[test]
    fn the_connections_with_the_most_packets_are_shown_by_number() {
        let connections = (1..=5000).flat_map(|number| {
            let messages = usize::from(number % 10 == 0);
            [(0, number, open()), (0, number, connect("dev", V5))]
                .into_iter()
                .chain((0..messages).map(move |_| (0, number, message("t"))))
                .chain((number < 4990).then_some((0, number, EventKind::Close(CloseCause::Timeout))))
        });
        let summary = summary(connections);
        assert_eq!((summary.connections.len(), summary.connections_left_out), (1000, 4000));
        assert!(summary.connections.is_sorted_by_key(|connection| connection.number));
        let most = summary.connections.iter().filter(|connection| connection.packets == 2);
        assert_eq!(most.count(), 500);
        let last = summary.connections.last().unwrap();
        assert_eq!((last.number, last.close()), (5000, pb::CloseCause::Unspecified));
    }

    #[test]
    fn faults_of_the_first_actions_are_told_apart() {
        let faults = (0..130).map(|n| (0, 1, fault(&format!("f{n:03}"), Direction::ClientToServer)));
        let again = [0, 129].map(|n| (0, 1, fault(&format!("f{n:03}"), Direction::ServerToClient)));
        let summary = summary(faults.chain(again));
        assert_eq!((summary.faults.len(), summary.faults_left_out), (100, 31));
        assert_eq!(summary.faults[0].server_to_client, 1);
    }

    #[test]
    fn the_first_marks_are_shown() {
        let mark = |n: u32| (0, 0, EventKind::Mark(n.to_string()));
        let summary = summary((0..130).map(mark));
        assert_eq!((summary.marks.len(), summary.marks_left_out), (100, 30));
        assert_eq!(summary.marks[99], "99");
    }
}
