//! In what two recordings differ, whatever the order in which their clients came.
//!
//! What one client sent over its n-th connection, and what it was sent there, is compared with the same of the other
//! recording, packet by packet. Times are not compared. Both are read side by side, so that memory does not grow with the
//! recordings as long as they run alike.

mod differences;

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;

pub use self::differences::{Difference, Differences};
use super::{Connections, Event, EventKind, Seen, without_run};
use crate::{
    amount::counted,
    packet::{ControlPacket, Property},
};

/// Packets that may wait for their like: so much may one recording be ahead of the other.
const WAITING_MAX: usize = 1_000_000;
/// How far behind a difference the like of a packet is looked for.
const LOOK_AHEAD: usize = 64;
/// Of a payload that is told.
const PAYLOAD_MAX: usize = 60;

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Comparison {
    /// Every byte of every packet.
    Bytes,
    /// What packets say. Packet Identifiers, DUP, topic aliases and pings are left aside: they depend on the moment.
    #[default]
    Packets,
    /// The messages alone: topic, payload, QoS, RETAIN and properties of PUBLISH packets.
    Messages,
}

/// Two recordings ran so differently that more would have to be kept than may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recordings differ too much: {WAITING_MAX} packets of one have no like in the other yet")]
pub struct TooDifferent;

/// Whose packets, over which connection, and which way.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Line {
    client_identifier: String,
    nth: u32,
    direction: u8,
}

struct Waiting {
    seq: u64,
    digest: u64,
    /// Told only while there is room for it.
    text: String,
}

/// One of the two recordings.
#[derive(Default)]
struct Side {
    connections: Connections,
    /// The client of each open connection and which of its connections it is.
    lines: HashMap<u32, (String, u32)>,
    /// Connections of each client so far.
    counts: HashMap<String, u32>,
}

/// Compares two recordings.
pub struct Comparer {
    comparison: Comparison,
    sides: [Side; 2],
    waiting: HashMap<Line, [VecDeque<Waiting>; 2]>,
    waiting_len: usize,
    differences: Differences,
}

impl Comparer {
    pub fn new(comparison: Comparison) -> Self {
        Self {
            comparison,
            sides: Default::default(),
            waiting: HashMap::new(),
            waiting_len: 0,
            differences: Differences::default(),
        }
    }

    /// Takes the next event of the first or of the second recording; both are best given at the same pace.
    ///
    /// # Errors
    /// When too many packets have no like yet.
    pub fn push(&mut self, is_second: bool, event: &Event) -> Result<(), TooDifferent> {
        let index = usize::from(is_second);
        let Some((line, digest, text)) = self.read(index, event) else { return Ok(()) };
        let waiting = Waiting { seq: event.seq, digest, text };
        let both = self.waiting.entry(line.clone()).or_default();
        both[index].push_back(waiting);
        self.waiting_len += 1;
        self.settle(&line, false);
        if self.waiting_len > WAITING_MAX { Err(TooDifferent) } else { Ok(()) }
    }

    /// What is left over has no like.
    pub fn finish(mut self) -> Differences {
        let mut lines: Vec<_> = self.waiting.keys().cloned().collect();
        lines.sort_unstable();
        for line in lines {
            self.settle(&line, true);
        }
        self.differences
    }

    fn read(&mut self, index: usize, event: &Event) -> Option<(Line, u64, String)> {
        let comparison = self.comparison;
        let side = &mut self.sides[index];
        let seen = side.connections.follow(event);
        let line = side.line(event);
        let read = match &event.kind {
            EventKind::Packet { direction, bytes } => Some((*direction, bytes, seen)),
            EventKind::Raw { direction, bytes } if comparison != Comparison::Messages => {
                Some((*direction, bytes, None))
            }
            EventKind::Close(_) => {
                side.lines.remove(&event.connection);
                side.connections.forget_client(event.connection);
                None
            }
            _ => None,
        };
        let (direction, bytes, seen) = read?;
        let (digest, text) = told(comparison, bytes, seen)?;
        let (client_identifier, nth) = line;
        Some((Line { client_identifier, nth, direction: direction as u8 }, digest, text))
    }

    /// Takes out of a line what both have, and what cannot have a like any more.
    fn settle(&mut self, line: &Line, is_last: bool) {
        let Some([first, second]) = self.waiting.get_mut(line) else { return };
        loop {
            let (Some(one), Some(other)) = (first.front(), second.front()) else {
                if !is_last || (first.is_empty() && second.is_empty()) {
                    break;
                }
                let (one, other) = (first.pop_front(), second.pop_front());
                self.waiting_len -= 1;
                self.differences.add(line, one, other);
                continue;
            };
            if one.digest == other.digest {
                self.differences.same += 1;
                first.pop_front();
                second.pop_front();
                self.waiting_len -= 2;
                continue;
            }
            let has_looked_ahead = first.len() >= LOOK_AHEAD && second.len() >= LOOK_AHEAD;
            if !has_looked_ahead && !is_last {
                break;
            }
            // The nearest place from which both go on alike.
            let in_second = second.iter().take(LOOK_AHEAD).position(|waiting| waiting.digest == one.digest);
            let in_first = first.iter().take(LOOK_AHEAD).position(|waiting| waiting.digest == other.digest);
            let (one, other) = match (in_first, in_second) {
                (Some(ahead), behind) if behind.is_none_or(|behind| ahead <= behind) => {
                    (first.pop_front(), None)
                }
                (_, Some(_)) => (None, second.pop_front()),
                _ => (first.pop_front(), second.pop_front()),
            };
            self.waiting_len -= usize::from(one.is_some()) + usize::from(other.is_some());
            self.differences.add(line, one, other);
        }
        if first.is_empty() && second.is_empty() {
            self.waiting.remove(line);
        }
    }
}

impl Side {
    /// The client of the event's connection, and which of its connections that is.
    fn line(&mut self, event: &Event) -> (String, u32) {
        let client = self.connections.get(event.connection);
        // As sent: what a server assigns is another one each time.
        let client =
            client.and_then(|connection| connection.client_identifier.as_deref()).unwrap_or_default();
        let client = without_run(client);
        match self.lines.get(&event.connection) {
            Some((known, nth)) if *known == client => (known.clone(), *nth),
            _ if !matches!(event.kind, EventKind::Packet { .. } | EventKind::Raw { .. }) => {
                (String::new(), 0)
            }
            _ => {
                let client = client.into_owned();
                let nth = self.counts.entry(client.clone()).or_default();
                *nth += 1;
                let line = (client, *nth);
                self.lines.insert(event.connection, line.clone());
                line
            }
        }
    }
}

/// What is compared of a packet, as a digest, and what is told of it; `None` for what is left aside.
fn told(comparison: Comparison, bytes: &Bytes, seen: Option<Seen>) -> Option<(u64, String)> {
    let Some(Seen { packet: Ok(mut packet), topic }) = seen else {
        let is_message = comparison == Comparison::Messages;
        return (!is_message)
            .then(|| (digest(bytes), format!("{} that are no packet", counted(bytes.len() as u64, "byte"))));
    };
    if comparison == Comparison::Bytes {
        return Some((digest(bytes), format!("{packet:.PAYLOAD_MAX$}")));
    }
    match &mut packet {
        ControlPacket::Publish(publish) => {
            publish.packet_identifier = None;
            publish.dup = false;
            publish.topic = topic;
            publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
        }
        _ if comparison == Comparison::Messages => return None,
        ControlPacket::Pingreq | ControlPacket::Pingresp => return None,
        ControlPacket::Connect(connect) => {
            let client = without_run(&connect.client_identifier).into_owned();
            connect.client_identifier = crate::packet::Utf8String::new(client).unwrap_or_default();
        }
        _ => {}
    }
    let whole = format!("{packet}");
    let compared = match &packet {
        ControlPacket::Publish(_) | ControlPacket::Connect(_) => digest(whole.as_bytes()),
        // The number is the second word of all others that have one.
        ControlPacket::Connack(_) | ControlPacket::Disconnect(_) | ControlPacket::Auth(_) => {
            digest(whole.as_bytes())
        }
        _ => {
            let words = whole.split(' ').enumerate().filter(|(index, _)| *index != 1);
            digest(words.map(|(_, word)| word).collect::<Vec<_>>().join(" ").as_bytes())
        }
    };
    Some((compared, format!("{packet:.PAYLOAD_MAX$}")))
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::{ProtocolVersion, QoS},
        recording::{
            CloseCause, Direction,
            sample::{self, connack, connect, from_client, identified, open, publish},
        },
    };

    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn message(payload: &str) -> EventKind {
        from_client(publish(Some("t"), payload.as_bytes(), Vec::new()))
    }

    /// One client with one connection that publishes `payloads`.
    fn client(number: u32, name: &str, payloads: &[&str]) -> Vec<(u64, u32, EventKind)> {
        let begin = [open(), connect(name, V5), connack(false, V5)];
        let messages = payloads.iter().map(|payload| message(payload));
        let kinds = begin.into_iter().chain(messages).chain([EventKind::Close(CloseCause::ClientFin)]);
        kinds.map(|kind| (0, number, kind)).collect()
    }

    fn compared(
        comparison: Comparison,
        first: Vec<(u64, u32, EventKind)>,
        second: Vec<(u64, u32, EventKind)>,
    ) -> String {
        let mut comparer = Comparer::new(comparison);
        for event in sample::events(first) {
            comparer.push(false, &event).unwrap();
        }
        for event in sample::events(second) {
            comparer.push(true, &event).unwrap();
        }
        let Differences { same, missing, unexpected, changed, told } = comparer.finish();
        let mut out = format!("same {same}, missing {missing}, unexpected {unexpected}, changed {changed}\n");
        for Difference { client_identifier, nth, direction, first, second } in told {
            let text = |one: Option<(u64, String)>| {
                one.map_or("-".to_owned(), |(seq, text)| format!("{seq}: {text}"))
            };
            out += &format!(
                "{client_identifier}/{nth} {}: {} | {}\n",
                direction.name(),
                text(first),
                text(second)
            );
        }
        out
    }

    #[test]
    fn recordings_whose_clients_came_in_another_order_are_the_same() {
        let first = [client(1, "a", &["1", "2"]), client(2, "b", &["3"]), client(3, "a", &["4"])].concat();
        let second = [client(1, "b", &["3"]), client(2, "a", &["1", "2"]), client(3, "a", &["4"])].concat();
        assert_eq!(
            compared(Comparison::Bytes, first, second),
            "same 10, missing 0, unexpected 0, changed 0\n"
        );
    }

    #[test]
    fn what_is_missing_new_or_changed_is_told_with_its_place() {
        let first = client(1, "a", &["1", "2", "3", "4"]);
        let second = [client(1, "a", &["1", "3", "new", "4"]), client(2, "c", &[])].concat();
        expect_test::expect![[r#"
            same 5, missing 1, unexpected 3, changed 0
            a/1 c2s: 5: PUBLISH t "2" | -
            a/1 c2s: - | 6: PUBLISH t "new"
            c/1 c2s: - | 10: CONNECT c v=5 keep_alive=60
            c/1 s2c: - | 11: CONNACK session_present=false
        "#]]
        .assert_eq(&compared(Comparison::Packets, first, second));
        let (first, second) = (client(1, "a", &["1", "2", "3"]), client(1, "a", &["1", "x", "3"]));
        expect_test::expect![[r#"
            same 2, missing 0, unexpected 0, changed 1
            a/1 c2s: 5: PUBLISH t "2" | 5: PUBLISH t "x"
        "#]]
        .assert_eq(&compared(Comparison::Messages, first, second));
    }

    #[test]
    fn what_depends_on_the_moment_is_no_difference_of_packets() {
        let at_least_once = |identifier, dup| {
            from_client(identified(publish(Some("t"), b"x", Vec::new()), QoS::AtLeastOnce, identifier, dup))
        };
        let ack = |identifier| sample::ack(ControlPacket::Puback as fn(_) -> _, identifier);
        let pings = |kinds: &[&'static [u8]]| {
            let ping = |bytes: &&'static [u8]| {
                let direction = Direction::ClientToServer;
                (0, 1, EventKind::Packet { direction, bytes: Bytes::from_static(bytes) })
            };
            kinds.iter().map(ping).collect::<Vec<_>>()
        };
        let aliased = |topic, alias| from_client(publish(topic, b"y", vec![Property::TopicAlias(alias)]));
        let first = [
            client(1, "a", &[]),
            vec![(0, 1, connect("a", V5)), (0, 1, at_least_once(1, false)), (0, 1, ack(1))],
            vec![(0, 1, aliased(Some("z"), 1)), (0, 1, aliased(None, 1))],
        ];
        let second = [
            client(1, "a", &[]),
            vec![(0, 1, connect("a", V5)), (0, 1, at_least_once(9, true)), (0, 1, ack(9))],
            vec![(0, 1, aliased(Some("z"), 2)), (0, 1, aliased(Some("z"), 3))],
            pings(&[b"\xc0\0"]),
        ];
        let (first, second) = (first.concat(), second.concat());
        assert_eq!(
            compared(Comparison::Packets, first.clone(), second.clone()),
            "same 7, missing 0, unexpected 0, changed 0\n"
        );
        assert!(!compared(Comparison::Bytes, first, second).contains("unexpected 0, changed 0"));
    }

    #[test]
    fn of_many_differences_the_first_are_told() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut comparer = Comparer::new(Comparison::Messages);
        for event in sample::events(client(1, "a", &many)) {
            comparer.push(false, &event).unwrap();
        }
        for event in sample::events(client(1, "a", &many[500..])) {
            comparer.push(true, &event).unwrap();
        }
        let differences = comparer.finish();
        assert_eq!(differences.told.len(), differences::TOLD_MAX);
        assert!(differences.count() >= 500, "{differences:?}");
    }
}
