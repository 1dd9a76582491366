//! What Topic Aliases stand for.

use std::collections::BTreeMap;

use super::Direction;
use crate::packet::TopicName;

/// What an alias takes beside its topic.
const ENTRY_SIZE: usize = 64;

/// The Topic Aliases of all connections, of either direction. Takes a limited number of bytes: those beyond are not
/// remembered.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    topics: BTreeMap<Key, TopicName>,
    size: usize,
}

/// By connection, whether by the client, and the alias.
type Key = (u32, bool, u16);

impl Aliases {
    /// `room` is in bytes, beside what it takes already.
    pub fn set(&mut self, connection: u32, direction: Direction, alias: u16, topic: &TopicName, room: usize) {
        let key = key(connection, direction, alias);
        if self.topics.get(&key) == Some(topic) {
            return;
        }
        // What it stood for it stands for no longer.
        let before = self.topics.remove(&key).map_or(0, |before| entry_size(&before));
        self.size -= before;
        let size = entry_size(topic);
        // With bytes of its own: those it came in are a part of something much larger.
        if size <= room + before
            && let Ok(topic) = TopicName::parse(topic.as_str())
        {
            self.size += size;
            self.topics.insert(key, topic);
        }
    }

    pub fn get(&self, connection: u32, direction: Direction, alias: u16) -> Option<&TopicName> {
        self.topics.get(&key(connection, direction, alias))
    }

    /// Forgets those of a connection, which is closed.
    pub fn forget(&mut self, connection: u32) {
        let of_it = self.topics.range((connection, false, 0)..=(connection, true, u16::MAX));
        let of_it: Vec<Key> = of_it.map(|(key, _)| *key).collect();
        for key in of_it {
            self.size -= self.topics.remove(&key).map_or(0, |topic| entry_size(&topic));
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.size
    }
}

fn key(connection: u32, direction: Direction, alias: u16) -> Key {
    (connection, direction == Direction::ClientToServer, alias)
}

fn entry_size(topic: &TopicName) -> usize {
    ENTRY_SIZE + topic.as_str().len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::packet::{ControlPacket, ProtocolVersion, Publish};

    #[test]
    fn aliases_beyond_the_room_are_not_remembered_and_never_stand_for_what_they_did() {
        let topic = |len: usize| TopicName::parse(&"t".repeat(len)).unwrap();
        let mut aliases = Aliases::default();
        let set = |aliases: &mut Aliases, connection, alias, len| {
            let room = 300_usize.saturating_sub(aliases.size());
            aliases.set(connection, Direction::ClientToServer, alias, &topic(len), room);
        };
        set(&mut aliases, 1, 1, 100);
        set(&mut aliases, 2, 1, 60);
        assert_eq!(aliases.size(), 288);
        set(&mut aliases, 2, 2, 1);
        assert_eq!(aliases.get(2, Direction::ClientToServer, 2), None);
        // In the place of its own there is room for as much.
        set(&mut aliases, 1, 1, 99);
        assert_eq!(aliases.get(1, Direction::ClientToServer, 1), Some(&topic(99)));
        assert_eq!(aliases.get(1, Direction::ServerToClient, 1), None);
        set(&mut aliases, 1, 1, 1000);
        assert_eq!(aliases.get(1, Direction::ClientToServer, 1), None);
        aliases.forget(2);
        assert_eq!(aliases.size(), 0);
    }

    #[test]
    fn a_topic_keeps_nothing_alive_of_what_it_came_in() {
        let packet = Bytes::from(b"\x30\x05\x00\x03abc".to_vec());
        let decoded = ControlPacket::decode(&packet, ProtocolVersion::V311);
        let Ok(ControlPacket::Publish(Publish { topic: Some(topic), .. })) = decoded else {
            panic!("{decoded:?}")
        };
        let mut aliases = Aliases::default();
        aliases.set(1, Direction::ClientToServer, 1, &topic, 1000);
        drop(topic);
        assert!(packet.is_unique());
    }
}
