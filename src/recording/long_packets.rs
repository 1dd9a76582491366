//! Packets that were longer than `recorder.packet_bytes`, and so are in RAW pieces.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Direction, Event, EventKind};
use crate::{
    amount::counted,
    packet::{Frame, PacketIdentifier, PacketType, ProtocolVersion, TopicName, fixed_header_len},
};

/// A packet that was recorded in pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct LongPacket {
    pub packet_type: PacketType,
    pub direction: Direction,
    /// Of a PUBLISH, if its first piece spells it out: the recorder sees to it that it does. What an alias stood for is
    /// not looked up.
    pub topic: Option<TopicName>,
    /// Of a PUBLISH with QoS 1 or 2 whose topic is known.
    pub packet_identifier: Option<PacketIdentifier>,
    /// Whether this is its first piece.
    pub is_first: bool,
    /// Bytes that are still to come.
    left: usize,
}

impl LongPacket {
    /// Whether its last piece has come.
    pub fn is_whole(&self) -> bool {
        self.left == 0
    }

    pub fn is_message(&self, direction: Direction) -> bool {
        self.packet_type == PacketType::Publish && self.direction == direction
    }

    /// The packet that `bytes`, which stand where a packet begins, are the first piece of.
    fn begun_by(bytes: &Bytes, direction: Direction) -> Option<Self> {
        let left = bytes_to_come(bytes)?;
        let packet_type = PacketType::of(bytes[0])?;
        let head = match packet_type {
            PacketType::Publish => PublishStart::of(bytes),
            _ => None,
        };
        let PublishStart { topic, packet_identifier } = head.unwrap_or_default();
        Some(Self { packet_type, direction, topic, packet_identifier, is_first: true, left })
    }
}

/// Of the packet that `bytes` begin, how many bytes are not among them; `None` if it ends there or is none.
pub fn bytes_to_come(bytes: &[u8]) -> Option<usize> {
    PacketType::parse(*bytes.first()?, ProtocolVersion::V5).ok()?;
    let size = Frame::size(bytes).ok().flatten()?;
    size.checked_sub(bytes.len()).filter(|left| *left > 0)
}

/// What a PUBLISH begins with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PublishStart {
    /// `None` for one that is empty, or none.
    pub topic: Option<TopicName>,
    pub packet_identifier: Option<PacketIdentifier>,
}

impl PublishStart {
    /// Reads the first bytes of a PUBLISH; `None` while they do not reach behind it.
    pub fn of(start: &[u8]) -> Option<Self> {
        let [high, low, rest @ ..] = start.get(fixed_header_len(start)..)? else { return None };
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        let topic = std::str::from_utf8(topic).ok().and_then(|topic| TopicName::parse(topic).ok());
        let has_identifier = start[0] & 0b0110 != 0;
        let packet_identifier = match (has_identifier, rest) {
            (false, _) => None,
            (true, [high, low, ..]) => PacketIdentifier::new(u16::from_be_bytes([*high, *low])),
            (true, _) => return None,
        };
        Some(Self { topic, packet_identifier })
    }
}

/// Tells the pieces of long packets from other RAW, as the events of a recording go by.
#[derive(Clone, Debug, Default)]
pub struct LongPackets {
    /// Those that have begun, by connection.
    begun: HashMap<(u32, Direction), LongPacket>,
}

impl LongPackets {
    /// The packet that `event` is a piece of. `is_up` is asked whether packets begin where they should: the connection
    /// had a CONNECT.
    pub fn follow(&mut self, event: &Event, is_up: impl FnOnce() -> bool) -> Option<LongPacket> {
        match &event.kind {
            EventKind::Raw { direction, bytes } => self.piece(event.connection, *direction, bytes, is_up),
            EventKind::Packet { direction, .. } => {
                self.packet(event.connection, *direction);
                None
            }
            EventKind::Close(_) => {
                self.close(event.connection);
                None
            }
            EventKind::Gap { .. } => {
                self.gap(event.connection);
                None
            }
            _ => None,
        }
    }

    /// There is a whole packet: pieces that are missing before it were left out.
    #[inline]
    pub fn packet(&mut self, connection: u32, direction: Direction) {
        if !self.begun.is_empty() {
            self.begun.remove(&(connection, direction));
        }
    }

    /// Nothing of what had begun goes on.
    pub fn close(&mut self, connection: u32) {
        self.packet(connection, Direction::ClientToServer);
        self.packet(connection, Direction::ServerToClient);
    }

    /// Something is missing, on every connection if it is 0: perhaps the rest of what had begun.
    pub fn gap(&mut self, connection: u32) {
        match connection {
            0 => self.begun.clear(),
            number => self.close(number),
        }
    }

    /// As [`follow`](Self::follow), for bytes.
    pub fn piece(
        &mut self,
        connection: u32,
        direction: Direction,
        bytes: &Bytes,
        is_up: impl FnOnce() -> bool,
    ) -> Option<LongPacket> {
        let key = (connection, direction);
        let Some(begun) = self.begun.get_mut(&key) else {
            let packet = is_up().then(|| LongPacket::begun_by(bytes, direction)).flatten()?;
            self.begun.insert(key, packet.clone());
            return Some(packet);
        };
        begun.is_first = false;
        begun.left = begun.left.saturating_sub(bytes.len());
        match begun.is_whole() {
            true => self.begun.remove(&key),
            false => Some(begun.clone()),
        }
    }
}

/// `1 message longer than recorder.packet_bytes is in raw pieces`, and so on.
pub fn in_pieces(messages: u64) -> String {
    let verb = if messages == 1 { "is" } else { "are" };
    format!("{} longer than recorder.packet_bytes {verb} in raw pieces", counted(messages, "message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{CloseCause, sample};

    fn raw(bytes: &[u8]) -> EventKind {
        EventKind::Raw { direction: Direction::ClientToServer, bytes: Bytes::copy_from_slice(bytes) }
    }

    fn told(kinds: impl IntoIterator<Item = EventKind>, is_up: bool) -> Vec<Option<(String, bool)>> {
        let mut long = LongPackets::default();
        let events = sample::events(kinds.into_iter().map(|kind| (0, 1, kind)));
        let packets = events.iter().map(|event| long.follow(event, || is_up));
        let topic = |packet: &LongPacket| packet.topic.as_ref().map_or("", |topic| topic.as_str()).to_owned();
        packets.map(|packet| packet.map(|packet| (topic(&packet), packet.is_whole()))).collect()
    }

    #[test]
    fn the_pieces_of_a_long_packet_are_told_from_other_bytes() {
        // The second piece looks like the beginning of another packet.
        let pieces = [raw(b"\x30\x0a\0\x01abc"), raw(b"\x30\x09\0\x01"), raw(b"c"), raw(b"\x30\x01x")];
        let part = |is_whole| Some(("a".to_owned(), is_whole));
        assert_eq!(told(pieces.clone(), true), [part(false), part(false), part(true), None]);
        assert_eq!(told(pieces.clone(), false), [None, None, None, None]);
        let [first, ..] = pieces;
        for end in [
            EventKind::Close(CloseCause::ClientRst),
            sample::connect("dev", crate::packet::ProtocolVersion::V311),
        ] {
            assert_eq!(told([first.clone(), end, raw(b"x")], true), [part(false), None, None]);
        }
    }

    #[test]
    fn a_gap_ends_a_long_packet() {
        for (connection, ends) in [(0, true), (1, true), (2, false)] {
            let mut long = LongPackets::default();
            let events = sample::events([
                (0, 1, raw(b"\x30\x0a\0\x01abc")),
                (1, connection, EventKind::Gap { events: 1, bytes: 0 }),
                (2, 1, raw(b"\x30\x09\0\x01b")),
            ]);
            let topics = events.iter().filter_map(|event| long.follow(event, || true)?.topic);
            let topics: Vec<_> = topics.map(|topic| topic.as_str().to_owned()).collect();
            assert_eq!(topics, ["a", if ends { "b" } else { "a" }], "a gap of {connection}");
        }
    }

    #[test]
    fn a_topic_is_read_once_it_is_there() {
        let start = b"\x30\x80\x80\x80\x08\0\x03a/bpayload";
        for len in 0..10 {
            assert_eq!(PublishStart::of(&start[..len]), None, "{len}");
        }
        let topic = TopicName::parse("a/b").ok();
        let head = PublishStart::of(&start[..10]).unwrap();
        assert_eq!(head, PublishStart { topic, packet_identifier: None });
        assert_eq!(PublishStart::of(b"\x30\x10\0\0\x03"), Some(PublishStart::default()));
        assert_eq!(PublishStart::of(b"\x32\x10\0\x01a\0"), None);
        let head = PublishStart::of(b"\x32\x10\0\x01a\0\x05").unwrap();
        assert_eq!(head.packet_identifier, PacketIdentifier::new(5));
    }
}
