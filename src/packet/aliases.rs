//! Topics that the topic aliases of one direction stand for, as far as they were seen.
//!
//! A receiver that did not get the message which set an alias has to be told the topic with the next one it does get.

use std::collections::{HashMap, HashSet};

use bytes::{BufMut, Bytes, BytesMut};

use super::{PropertyIdentifier, PropertyValue, ProtocolVersion, PublishRef, TopicName, put_variable};

/// What aliases stand for, and which of them the receiver does not know.
#[derive(Debug, Default)]
pub struct Aliases {
    /// As the receiver granted.
    maximum: u16,
    topics: HashMap<u16, TopicName>,
    /// Bytes of the topics.
    bytes: usize,
    /// Those of `topics` that were set by a message which the receiver did not get.
    unknown_to_receiver: HashSet<u16>,
}

/// What the first bytes of a long PUBLISH say.
#[derive(Debug, PartialEq)]
pub enum PublishHead {
    /// Not enough yet.
    Part,
    AsItIs,
    /// The first `count` bytes are to be passed on as `bytes`.
    Instead {
        count: usize,
        bytes: Bytes,
    },
}

impl Aliases {
    /// Topics beyond these bytes are not remembered.
    const BYTES_MAX: usize = 1 << 20;

    pub fn set_maximum(&mut self, maximum: u16) {
        self.maximum = maximum;
    }

    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether the receiver is to be told of any before it may be used.
    pub fn is_any_unknown_to_receiver(&self) -> bool {
        !self.unknown_to_receiver.is_empty()
    }

    pub fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(&alias).map(TopicName::as_str)
    }

    /// A message set `alias`; returns whether that is remembered.
    pub fn set(&mut self, alias: u16, topic: &str) -> bool {
        let before = self.topics.remove(&alias).map_or(0, |topic| topic.as_str().len());
        self.bytes -= before;
        self.unknown_to_receiver.remove(&alias);
        if alias <= self.maximum
            && self.bytes + topic.len() <= Self::BYTES_MAX
            && let Ok(topic) = TopicName::parse(topic)
        {
            self.bytes += topic.as_str().len();
            self.topics.insert(alias, topic);
            return true;
        }
        false
    }

    /// The receiver does not get the message that set `alias`, which is remembered.
    pub fn keep_back(&mut self, alias: u16) {
        self.unknown_to_receiver.insert(alias);
    }

    /// The receiver gets a message that has nothing but `alias`; returns whether it needs the topic, too.
    pub fn tell(&mut self, alias: u16) -> bool {
        self.unknown_to_receiver.remove(&alias)
    }

    /// After a message that nobody could read, and which may have set any.
    pub fn forget(&mut self) {
        *self = Self { maximum: self.maximum, ..Self::default() };
    }

    /// Notes what a PUBLISH of `size` bytes says, which is passed on before it is whole; `held` are its first bytes.
    pub fn note_head(
        &mut self,
        held: &[u8],
        size: usize,
        limit: usize,
        protocol: ProtocolVersion,
    ) -> PublishHead {
        let len = head_len(held, protocol);
        if len > held.len() && len <= size && held.len() <= limit {
            return PublishHead::Part;
        }
        // By itself it is a PUBLISH without a payload.
        let whole = held.get(..len).map(|head| with_remaining(head, 0, &[]));
        let read = whole.as_deref().map(|whole| PublishRef::decode(whole, protocol));
        let Some(Ok(publish)) = read else {
            self.forget();
            return PublishHead::AsItIs;
        };
        let Some(alias) = alias_of(&publish) else { return PublishHead::AsItIs };
        if !publish.topic.is_empty() {
            self.set(alias, publish.topic);
            return PublishHead::AsItIs;
        }
        if !self.tell(alias) {
            return PublishHead::AsItIs;
        }
        let topic = self.topic(alias).unwrap_or_default();
        let bytes = with_remaining(&held[..len], size - len, topic.as_bytes());
        PublishHead::Instead { count: len, bytes }
    }
}

/// The Topic Alias of a message.
pub fn alias_of(publish: &PublishRef<'_>) -> Option<u16> {
    publish.iter_properties().find_map(|(id, value)| match (id, value) {
        (PropertyIdentifier::TOPIC_ALIAS, PropertyValue::TwoByte(alias)) => Some(alias),
        _ => None,
    })
}

/// How long the fixed header at the start of `bytes` is, if all of it is there.
#[inline]
pub fn fixed_header_len(bytes: &[u8]) -> usize {
    2 + bytes.iter().skip(1).take_while(|byte| **byte > 0x7F).count()
}

/// How many bytes of a PUBLISH come before its payload; more than there are if that is not known yet.
fn head_len(bytes: &[u8], protocol: ProtocolVersion) -> usize {
    let mut at = fixed_header_len(bytes);
    let Some([high, low]) = bytes.get(at..at + 2) else { return at + 2 };
    at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    if bytes[0] & 0b0110 != 0 {
        at += 2;
    }
    if !protocol.has_properties() {
        return at;
    }
    let mut len = 0;
    for shift in [0, 7, 14, 21] {
        let Some(&byte) = bytes.get(at) else { return at + 1 };
        at += 1;
        len |= usize::from(byte & 0x7F) << shift;
        if byte <= 0x7F {
            break;
        }
    }
    at + len
}

/// `head`, with `topic` in the place of an empty one unless that is empty, too, in a packet of `more` bytes behind it.
fn with_remaining(head: &[u8], more: usize, topic: &[u8]) -> Bytes {
    let (fixed, rest) = head.split_at(fixed_header_len(head));
    let remaining = rest.len() + topic.len() + more;
    let mut bytes = BytesMut::with_capacity(5 + rest.len() + topic.len());
    bytes.put_u8(fixed[0]);
    put_variable(remaining, |byte| bytes.put_u8(byte));
    if topic.is_empty() {
        bytes.extend_from_slice(rest);
    } else {
        bytes.put_u16(topic.len() as u16);
        bytes.extend_from_slice(topic);
        bytes.extend_from_slice(&rest[2..]);
    }
    bytes.freeze()
}
