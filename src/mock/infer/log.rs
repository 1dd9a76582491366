//! What clients published in a recording, as far as there is room for it.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    mock::PropertiesSpec,
    packet::{ControlPacket, Publish},
    recording::{Connection, Connections, Direction, Event, EventKind, Seen},
};

/// Messages that are kept. Pairs that show in none of so many are no pairs.
const MESSAGES_MAX: usize = 100_000;
/// Messages of one topic that are kept: what a thousand do not teach, more will not either, and a talkative sensor
/// leaves room for the rest.
pub const TOPIC_MESSAGES_MAX: usize = 1000;
/// A longer payload is not kept: nobody reads it in a settings file.
const PAYLOAD_MAX: usize = 64 << 10;
/// Bytes of all payloads and properties together, and of all names.
const BYTES_MAX: usize = 32 << 20;
/// Messages that may come again with DUP and are remembered for that.
const UNACKNOWLEDGED_MAX: usize = 65_536;

/// One message that a client published.
#[derive(Debug)]
pub struct Message {
    pub at: Duration,
    pub client: Name,
    pub topic: Name,
    pub payload: Bytes,
    pub qos: u8,
    pub retain: bool,
    pub response_topic: Option<Name>,
    pub correlation_data: Option<Bytes>,
    /// Without the two above; texts as they were.
    pub properties: PropertiesSpec,
}

/// A text that is kept once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u32);

/// Messages in their order, each once.
#[derive(Debug, Default)]
pub struct Log {
    pub messages: Vec<Message>,
    pub left_out: LeftOut,
    /// When the first message of a topic was left out: what is known about the topic ends there.
    pub full_at: HashMap<Name, Duration>,
    /// Messages that a server delivered.
    pub deliveries: u64,
    connections: Connections,
    names: HashMap<Box<str>, Name>,
    texts: Vec<Box<str>>,
    by_topic: HashMap<Name, usize>,
    bytes: usize,
    unacknowledged: HashMap<(Name, u16), u64>,
}

/// Messages that were not kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOut {
    /// Of topics that had enough.
    pub plenty: u64,
    pub too_long: u64,
    pub no_room: u64,
    /// The Topic Alias was set before the recording began, or the version is not known.
    pub unreadable: u64,
}

impl Log {
    pub fn add(&mut self, event: &Event) {
        let seen = self.connections.follow(event);
        match (&event.kind, seen) {
            (EventKind::Packet { direction: Direction::ServerToClient, .. }, Some(seen)) => {
                self.deliveries += u64::from(matches!(seen.packet, Ok(ControlPacket::Publish(_))));
            }
            (EventKind::Packet { direction: Direction::ClientToServer, .. }, Some(seen)) => match seen {
                Seen { packet: Ok(ControlPacket::Publish(publish)), topic: Some(topic) } => {
                    self.message(event, topic.as_str(), publish);
                }
                Seen { packet: Ok(ControlPacket::Publish(_)), topic: None } | Seen { packet: Err(_), .. } => {
                    self.left_out.unreadable += 1;
                }
                _ => {}
            },
            (EventKind::Close(_), _) => self.connections.forget_client(event.connection),
            _ => {}
        }
    }

    pub fn text(&self, name: Name) -> &str {
        &self.texts[name.0 as usize]
    }

    pub fn find(&self, text: &str) -> Option<Name> {
        self.names.get(text).copied()
    }

    /// When the last message that was kept came.
    pub fn end(&self) -> Duration {
        self.messages.last().map_or(Duration::ZERO, |message| message.at)
    }

    fn message(&mut self, event: &Event, topic: &str, publish: Publish) {
        if self.messages.len() == MESSAGES_MAX || self.bytes > BYTES_MAX {
            self.left_out.no_room += 1;
            return;
        }
        if publish.payload.len() > PAYLOAD_MAX {
            self.left_out.too_long += 1;
            return;
        }
        let client = self.connections.get(event.connection).and_then(Connection::client).map(str::to_owned);
        let client = client.unwrap_or_else(|| format!("connection {}", event.connection));
        let (client, topic) = (self.name(&client), self.name(topic));
        if self.is_known(client, topic, &publish) {
            return;
        }
        let kept = self.by_topic.entry(topic).or_default();
        if *kept == TOPIC_MESSAGES_MAX {
            self.left_out.plenty += 1;
            self.full_at.entry(topic).or_insert(event.at);
            return;
        }
        *kept += 1;
        let properties = PropertiesSpec {
            payload_format_indicator: publish.properties.payload_format_indicator(),
            message_expiry_interval: publish.properties.message_expiry_interval(),
            content_type: publish.properties.content_type().map(|text| text.as_str().to_owned()),
            response_topic: None,
            correlation_data: None,
            user: publish
                .properties
                .user_properties()
                .map(|(name, value)| (name.as_str().to_owned(), value.as_str().to_owned()))
                .collect(),
        };
        let user_len =
            properties.user.iter().map(|(name, value)| 64 + name.len() + value.len()).sum::<usize>();
        let response_topic = publish.properties.response_topic().map(|text| text.as_str().to_owned());
        let response_topic = response_topic.map(|text| self.name(&text));
        // Copied: a slice would keep the block it was read from.
        let correlation_data = publish.properties.correlation_data().map(|data| Bytes::copy_from_slice(data));
        let payload = Bytes::copy_from_slice(&publish.payload);
        self.bytes += payload.len() + correlation_data.as_ref().map_or(0, Bytes::len) + user_len;
        self.messages.push(Message {
            at: event.at,
            client,
            topic,
            payload,
            qos: publish.qos.into(),
            retain: publish.retain,
            response_topic,
            correlation_data,
            properties,
        });
    }

    /// Whether it is a message that came before, sent again with DUP [MQTT-3.3.1-1].
    fn is_known(&mut self, client: Name, topic: Name, publish: &Publish) -> bool {
        let Some(identifier) = publish.packet_identifier else { return false };
        let mut hasher = DefaultHasher::new();
        (topic, &publish.payload).hash(&mut hasher);
        let hash = hasher.finish();
        let key = (client, identifier.get());
        if publish.dup && self.unacknowledged.get(&key) == Some(&hash) {
            return true;
        }
        if self.unacknowledged.len() == UNACKNOWLEDGED_MAX {
            self.unacknowledged.clear();
        }
        self.unacknowledged.insert(key, hash);
        false
    }

    fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return *name;
        }
        let name = Name(self.texts.len() as u32);
        // Each is kept twice, and takes a place in two tables.
        self.bytes += 2 * text.len() + 64;
        self.names.insert(text.into(), name);
        self.texts.push(text.into());
        name
    }
}
