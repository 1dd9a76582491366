//! Messages one behind the other, in as few bytes as they take.
//!
//! Each is a head of eleven bytes, then topic, encoded properties and payload. What mostly is as with the message before,
//! the time and who published it, is said only where it changes, and always of the first. A long payload that whoever
//! moves messages shares is shared here, too. Packets that came one behind the other stay as they are, under one head; they
//! are read when somebody looks.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use super::{Message, MessageOrigin};
use crate::{
    interceptor::Run,
    mock::PayloadView,
    packet::{Frame, Properties, ProtocolVersion, PublishRef, QoS},
    recording::is_replay,
};

/// Payloads of at least so many bytes are shared, if they can be: as long as that they are most of the block they lie in.
const SHARED: usize = 128 << 10;

/// What a segment counts for beside its bytes.
const OVERHEAD: usize = 128;

const HEAD: usize = 11;

const RETAIN: u8 = 1 << 2;
const KEPT: u8 = 1 << 3;
/// The payload is the next of `shared`.
const IS_SHARED: u8 = 1 << 4;
/// Time, origin and publisher stand behind the head.
const CHANGES: u8 = 1 << 5;
/// It is a run of packets as they came: how many, and the bytes of all together, in place of lengths.
const RUN: u8 = 1 << 6;
/// Of a run with properties.
const V5: u8 = 1 << 7;

/// A message to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Noted<'a> {
    pub topic: &'a str,
    /// As MQTT 5 encodes them, without their length.
    pub properties: &'a [u8],
    pub payload: &'a [u8],
    /// The same, where it may be shared.
    pub shared: Option<&'a Bytes>,
    pub qos: QoS,
    pub retain: bool,
    pub client_identifier: &'a str,
    /// Of a replay, a client: its identifier says the rest.
    pub origin: MessageOrigin,
    /// Whether a mock kept it, so that nobody got it.
    pub is_kept: bool,
}

/// A message that is kept, where it lies.
#[derive(Clone, Copy, Debug)]
pub struct KeptMessage<'a> {
    /// From 1, in the order they came.
    pub sequence: u64,
    /// Since the journal began.
    pub at: Duration,
    pub topic: &'a str,
    /// As MQTT 5 encodes them, without their length.
    pub properties: &'a [u8],
    pub payload: &'a [u8],
    pub qos: QoS,
    pub retain: bool,
    pub client_identifier: &'a str,
    pub origin: MessageOrigin,
    /// Whether a mock kept it, so that nobody got it.
    pub is_kept: bool,
}

impl<'a> KeptMessage<'a> {
    /// As it is matched.
    pub fn view(&self) -> Message<'a> {
        Message {
            topic: self.topic,
            payload: PayloadView::new(self.payload),
            qos: self.qos,
            retain: self.retain,
            properties: Cow::Owned(Properties::of_publish(self.properties)),
            client_identifier: self.client_identifier,
            origin: self.origin,
        }
    }

    /// What a copy of it takes.
    pub fn size(&self) -> usize {
        self.topic.len() + self.properties.len() + self.payload.len() + self.client_identifier.len()
    }
}

/// Messages that came one after the other.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// Sequence number of the first.
    first: u64,
    messages: usize,
    bytes: Vec<u8>,
    shared: Vec<Bytes>,
    shared_len: usize,
    /// What was said last of what seldom changes.
    at: Option<Duration>,
    origin: Option<MessageOrigin>,
    /// Where it lies in `bytes`.
    client: (usize, usize),
}

impl Segment {
    /// Appends a message that came `at`, since the journal began.
    #[inline]
    pub fn push(&mut self, at: Duration, noted: &Noted<'_>) {
        let shared = noted.shared.filter(|shared| shared.len() >= SHARED);
        let (start, end) = self.client;
        let changes = self.at != Some(at)
            || self.origin != Some(noted.origin)
            || self.bytes[start..end] != *noted.client_identifier.as_bytes();
        let mut head = [0; HEAD];
        head[0] = noted.qos as u8
            | if noted.retain { RETAIN } else { 0 }
            | if noted.is_kept { KEPT } else { 0 }
            | if shared.is_some() { IS_SHARED } else { 0 }
            | if changes { CHANGES } else { 0 };
        head[1..3].copy_from_slice(&(noted.topic.len() as u16).to_le_bytes());
        head[3..7].copy_from_slice(&(noted.properties.len() as u32).to_le_bytes());
        head[7..11].copy_from_slice(&(noted.payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&head);
        if changes {
            self.push_changes(at, noted.client_identifier, noted.origin);
        }
        self.bytes.extend_from_slice(noted.topic.as_bytes());
        if !noted.properties.is_empty() {
            self.bytes.extend_from_slice(noted.properties);
        }
        match shared {
            None => self.bytes.extend_from_slice(noted.payload),
            Some(shared) => {
                self.shared_len += shared.len();
                self.shared.push(shared.clone());
            }
        }
        self.messages += 1;
    }

    /// Appends the messages of a run.
    pub fn push_run(&mut self, at: Duration, run: &Run<'_>) {
        let origin = MessageOrigin::Client;
        let (start, end) = self.client;
        let changes = self.at != Some(at)
            || self.origin != Some(origin)
            || self.bytes[start..end] != *run.client_identifier.as_bytes();
        let mut head = [0; HEAD];
        head[0] = RUN | if run.v5 { V5 } else { 0 } | if changes { CHANGES } else { 0 };
        head[3..7].copy_from_slice(&(run.count as u32).to_le_bytes());
        head[7..11].copy_from_slice(&(run.packets.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&head);
        if changes {
            self.push_changes(at, run.client_identifier, origin);
        }
        self.bytes.extend_from_slice(run.packets);
        self.messages += run.count;
    }

    #[inline(never)]
    fn push_changes(&mut self, at: Duration, client_identifier: &str, origin: MessageOrigin) {
        let client = client_identifier.as_bytes();
        self.bytes.extend_from_slice(&(at.as_nanos() as u64).to_le_bytes());
        self.bytes.push(origin as u8);
        self.bytes.extend_from_slice(&(client.len() as u16).to_le_bytes());
        self.client = (self.bytes.len(), self.bytes.len() + client.len());
        self.bytes.extend_from_slice(client);
        (self.at, self.origin) = (Some(at), Some(origin));
    }

    /// Appends the messages of another.
    pub fn append(&mut self, other: &Self) {
        let behind = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.shared.extend_from_slice(&other.shared);
        self.shared_len += other.shared_len;
        self.messages += other.messages;
        (self.at, self.origin) = (other.at, other.origin);
        self.client = (other.client.0 + behind, other.client.1 + behind);
    }

    /// Empties it; memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
        *self = Self {
            bytes: std::mem::take(&mut self.bytes),
            shared: std::mem::take(&mut self.shared),
            ..Self::default()
        };
    }

    pub fn set_first(&mut self, sequence: u64) {
        self.first = sequence;
    }

    /// Sequence number of the first.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Sequence number behind the last.
    pub fn end(&self) -> u64 {
        self.first + self.messages as u64
    }

    pub fn messages(&self) -> usize {
        self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of what stands in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it counts for.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.shared_len + OVERHEAD
    }

    pub fn iter(&self) -> Messages<'_> {
        Messages {
            sequence: self.first,
            left: self.messages,
            rest: &self.bytes,
            shared: self.shared.iter(),
            run: (0, &[], ProtocolVersion::V311),
            at: Duration::ZERO,
            origin: MessageOrigin::Client,
            client_identifier: "",
        }
    }
}

/// The messages of a segment, in their order.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    sequence: u64,
    left: usize,
    rest: &'a [u8],
    shared: std::slice::Iter<'a, Bytes>,
    /// What is left of the run that it is in.
    run: (u32, &'a [u8], ProtocolVersion),
    at: Duration,
    origin: MessageOrigin,
    client_identifier: &'a str,
}

impl<'a> Messages<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn take_array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().expect("as long as was taken")
    }

    fn next_of_run(&mut self) -> KeptMessage<'a> {
        let (left, packets, protocol) = self.run;
        let size = Frame::size(packets).ok().flatten().expect("a packet that was accepted");
        let (packet, rest) = packets.split_at(size);
        let publish = PublishRef::decode(packet, protocol).expect("a PUBLISH that was accepted");
        self.run = (left - 1, rest, protocol);
        let message = KeptMessage {
            sequence: self.sequence,
            at: self.at,
            topic: publish.topic,
            properties: publish.properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            client_identifier: self.client_identifier,
            origin: self.origin,
            is_kept: false,
        };
        self.sequence += 1;
        message
    }

    fn take_text(&mut self, len: usize) -> &'a str {
        std::str::from_utf8(self.take(len)).expect("a text was written")
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = KeptMessage<'a>;

    fn next(&mut self) -> Option<KeptMessage<'a>> {
        self.left = self.left.checked_sub(1)?;
        if self.run.0 > 0 {
            return Some(self.next_of_run());
        }
        let [flags] = self.take_array();
        let topic_len = u16::from_le_bytes(self.take_array());
        let properties_len = u32::from_le_bytes(self.take_array());
        let payload_len = u32::from_le_bytes(self.take_array());
        if flags & CHANGES != 0 {
            self.at = Duration::from_nanos(u64::from_le_bytes(self.take_array()));
            let [origin] = self.take_array();
            let client_len = u16::from_le_bytes(self.take_array());
            self.client_identifier = self.take_text(client_len.into());
            self.origin = match MessageOrigin::ALL[usize::from(origin)] {
                MessageOrigin::Client if is_replay(self.client_identifier) => MessageOrigin::Replay,
                origin => origin,
            };
        }
        if flags & RUN != 0 {
            let protocol = if flags & V5 != 0 { ProtocolVersion::V5 } else { ProtocolVersion::V311 };
            self.run = (properties_len, self.take(payload_len as usize), protocol);
            return Some(self.next_of_run());
        }
        let topic = self.take_text(topic_len.into());
        let properties = self.take(properties_len as usize);
        let payload = match flags & IS_SHARED {
            0 => self.take(payload_len as usize),
            _ => self.shared.next().expect("one for each that is shared"),
        };
        let message = KeptMessage {
            sequence: self.sequence,
            at: self.at,
            topic,
            properties,
            payload,
            qos: QoS::try_from(flags & 3).expect("a QoS was written"),
            retain: flags & RETAIN != 0,
            client_identifier: self.client_identifier,
            origin: self.origin,
            is_kept: flags & KEPT != 0,
        };
        self.sequence += 1;
        Some(message)
    }
}
