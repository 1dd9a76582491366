//! Which events of a recording are meant: the same words wherever events are listed, followed live, exported, cut out or
//! captured.
//!
//! There are two ways to apply them. Who looks at events is shown those that are meant and no others
//! ([`Purpose::Look`]). What becomes a recording of its own also has what it takes to read it
//! ([`Purpose::Keep`]): how connections began and ended, marks, gaps and the wall clock. Topics are about messages and
//! their acknowledgements: what becomes a recording keeps subscriptions, pings and the like whatever the topics.

use std::{fmt, time::Duration};

use super::{ClientSample, Direction, Event, EventKind, LongPacket, NamePattern, Seen};
use crate::packet::{ControlPacket, PacketType, TopicFilter, TopicName};

/// Which events are meant; the default is all. What is said of several things has to hold for each of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventFilter {
    /// Of PUBLISH packets, their acknowledgements, and what was done to them. Empty means all.
    pub topics: Vec<TopicFilter>,
    /// Client identifiers, of which one has to match. Empty means all.
    pub clients: Vec<NamePattern>,
    /// Of packets. Empty means all.
    pub types: Vec<PacketType>,
    /// As numbered in the recording. Empty means all.
    pub connections: Vec<u32>,
    pub direction: Option<Direction>,
    /// Offset in the recording, like the next.
    pub start: Option<Duration>,
    /// Up to and without this offset.
    pub until: Option<Duration>,
    pub sample: Option<ClientSample>,
}

/// What events are looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Exactly those that are meant.
    Look,
    /// A recording of its own. Messages whose topic cannot be told are kept.
    Keep,
}

/// What an event turned out to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// What [`Connections::follow`](super::Connections::follow) made of a packet.
    pub seen: Option<&'a Seen>,
    /// That RAW is a piece of.
    pub long: Option<&'a LongPacket>,
    /// Of an acknowledgement, whether its message has a topic that is meant; `None` if that is not known.
    pub acknowledges: Option<bool>,
}

impl EventFilter {
    /// Whether all events are meant.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it matters whose an event is.
    pub fn asks_for_clients(&self) -> bool {
        !self.clients.is_empty() || self.sample.is_some()
    }

    /// Whether events of this client are meant; `None` for one without identifier, or whose identifier is not known.
    pub fn has_client(&self, client_identifier: Option<&str>) -> bool {
        let name = client_identifier.unwrap_or_default();
        (self.clients.is_empty() || self.clients.iter().any(|pattern| pattern.matches(name)))
            && self.sample.is_none_or(|sample| sample.has(name))
    }

    /// Whether messages of this topic are meant.
    pub fn has_topic(&self, topic: &TopicName) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|filter| filter.matches(topic))
    }

    pub fn has_time(&self, at: Duration) -> bool {
        self.start.is_none_or(|start| at >= start) && self.until.is_none_or(|until| at < until)
    }

    /// Whether `event` is meant. Connections and clients are not looked at, but for events that belong to no connection.
    pub fn has_event(&self, purpose: Purpose, event: &Event, told: Told<'_>) -> bool {
        self.has_time(event.at)
            && match purpose {
                Purpose::Look => self.means(event, told),
                Purpose::Keep => self.keeps(event, told),
            }
    }

    /// Whether an event that is meant says something by itself, and is not only what it takes to read the others.
    pub fn is_about(&self, kind: &EventKind) -> bool {
        let all_topics = self.topics.is_empty();
        match kind {
            EventKind::Packet { bytes, .. } => match packet_type(bytes) {
                Some(PacketType::Publish) => true,
                Some(kind) if self.types.contains(&kind) => {
                    all_topics || !matches!(kind, PacketType::Connect | PacketType::Connack)
                }
                Some(PacketType::Connect | PacketType::Connack) => all_topics && self.types.is_empty(),
                _ => all_topics,
            },
            EventKind::Raw { bytes, .. } => all_topics || packet_type(bytes) == Some(PacketType::Publish),
            EventKind::Fault(fault) => all_topics || !fault.topic.is_empty(),
            EventKind::Mock(fired) => all_topics || !fired.topic.is_empty(),
            EventKind::Open(_)
            | EventKind::Close(_)
            | EventKind::Mark(_)
            | EventKind::State(_)
            | EventKind::Anchor(_)
            | EventKind::Gap { .. } => false,
        }
    }

    fn means(&self, event: &Event, told: Told<'_>) -> bool {
        let (direction, packet_type) = match &event.kind {
            EventKind::Packet { direction, bytes } => (Some(*direction), packet_type(bytes)),
            EventKind::Raw { direction, .. } => (Some(*direction), told.long.map(|long| long.packet_type)),
            EventKind::Fault(fault) => (Some(fault.direction), Some(fault.packet_type)),
            _ => (None, None),
        };
        let has_topic = || {
            let topic = told.topic().cloned().or_else(|| told_topic(&event.kind));
            topic.map_or(told.acknowledges == Some(true), |topic| self.has_topic(&topic))
        };
        self.direction.is_none_or(|wanted| direction == Some(wanted))
            && (self.types.is_empty() || packet_type.is_some_and(|kind| self.types.contains(&kind)))
            && (self.topics.is_empty() || has_topic())
            && match told_client(&event.kind) {
                Some(client) if event.connection == 0 => self.has_client(Some(client)),
                _ => event.connection != 0 || !self.asks_for_clients(),
            }
    }

    fn keeps(&self, event: &Event, told: Told<'_>) -> bool {
        let has = |direction: Direction, packet_type: PacketType, topic: Option<&TopicName>| {
            self.direction.is_none_or(|wanted| direction == wanted)
                && (self.types.is_empty() || self.types.contains(&packet_type))
                && topic.is_none_or(|topic| self.has_topic(topic))
        };
        match &event.kind {
            EventKind::Packet { direction, bytes } => match packet_type(bytes) {
                // What says how to read the others.
                Some(PacketType::Connect | PacketType::Connack) => true,
                Some(kind) => has(*direction, kind, told.topic()) && told.acknowledges != Some(false),
                None => self.types.is_empty(),
            },
            EventKind::Raw { direction, .. } => match told.long {
                Some(long) => has(*direction, long.packet_type, told.topic()),
                None => self.direction.is_none_or(|wanted| *direction == wanted),
            },
            EventKind::Fault(fault) => {
                has(fault.direction, fault.packet_type, told_topic(&event.kind).as_ref())
            }
            EventKind::Mock(_) => {
                told_topic(&event.kind).is_none_or(|topic| self.has_topic(&topic))
                    && told_client(&event.kind).is_none_or(|client| self.has_client(Some(client)))
            }
            EventKind::State(in_force) => match &in_force.client_identifier {
                Some(client) => self.has_client(Some(client)),
                None => told_topic(&event.kind).is_none_or(|topic| self.has_topic(&topic)),
            },
            EventKind::Open(_)
            | EventKind::Close(_)
            | EventKind::Mark(_)
            | EventKind::Anchor(_)
            | EventKind::Gap { .. } => true,
        }
    }
}

impl<'a> Told<'a> {
    fn topic(&self) -> Option<&'a TopicName> {
        let seen = self.seen.and_then(|seen| seen.topic.as_ref());
        seen.or_else(|| self.long.and_then(|long| long.topic.as_ref()))
    }
}

/// What is meant, for people: `topics a/#, start 10s`.
impl fmt::Display for EventFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topics, clients, types, connections, direction, start, until, sample } = self;
        let list = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join(" "));
        let seconds = |at: &Duration| format!("{}s", at.as_secs_f64());
        let parts = [
            ("topics", list(topics.iter().map(|filter| filter.as_str().to_owned()).collect())),
            ("clients", list(clients.iter().map(|pattern| pattern.as_str().to_owned()).collect())),
            ("types", list(types.iter().map(|kind| kind.name().to_owned()).collect())),
            ("connections", list(connections.iter().map(u32::to_string).collect())),
            ("direction", direction.map(|direction| direction.name().to_owned())),
            ("start", start.as_ref().map(seconds)),
            ("until", until.as_ref().map(seconds)),
            ("sample", sample.map(|sample| sample.share().to_string())),
        ];
        let parts = parts.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
        match parts.collect::<Vec<_>>().join(", ") {
            parts if parts.is_empty() => f.write_str("everything"),
            parts => f.write_str(&parts),
        }
    }
}

/// The topic that an event which is no packet tells.
fn told_topic(kind: &EventKind) -> Option<TopicName> {
    match kind {
        EventKind::Fault(fault) => TopicName::parse(&fault.topic).ok(),
        EventKind::Mock(fired) => TopicName::parse(&fired.topic).ok(),
        EventKind::State(in_force) => match in_force.decode()? {
            ControlPacket::Publish(publish) => publish.topic,
            _ => None,
        },
        _ => None,
    }
}

/// The client that an event which is no packet tells.
fn told_client(kind: &EventKind) -> Option<&str> {
    let client = match kind {
        EventKind::Fault(fault) => &fault.client_identifier,
        EventKind::Mock(fired) => &fired.client_identifier,
        EventKind::State(in_force) => in_force.client_identifier.as_ref()?,
        _ => return None,
    };
    (!client.is_empty()).then_some(client)
}

/// The type that the first byte says.
fn packet_type(bytes: &[u8]) -> Option<PacketType> {
    PacketType::of(*bytes.first()?)
}
