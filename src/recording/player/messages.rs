//! The messages of a recording, as they stand for themselves: Topic Aliases resolved, retransmissions left out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{Script, Selection, Skipped};
use crate::{
    packet::{ControlPacket, Property, ProtocolVersion, Publish},
    recording::{Connections, Event, EventKind, LongPackets},
};

/// One message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `None` if the recording does not know it.
    pub client_identifier: Option<Arc<str>>,
    pub protocol: ProtocolVersion,
    /// Has a topic and neither Topic Alias nor DUP; the packet identifier is the recorded one.
    pub publish: Publish,
}

/// Reads the messages off a recording's events.
pub struct Messages {
    selection: Selection,
    /// What came before is not played.
    start: Duration,
    connections: Connections,
    long: LongPackets,
    exchanges: Exchanges,
    /// By recorded connection, made once.
    clients: HashMap<u32, Arc<str>>,
    skipped: Skipped,
}

impl Messages {
    pub fn new(selection: Selection) -> Self {
        Self {
            start: selection.start.unwrap_or_default(),
            selection,
            connections: Connections::new(),
            long: LongPackets::default(),
            exchanges: Exchanges::default(),
            clients: HashMap::new(),
            skipped: Skipped::default(),
        }
    }

    /// The PUBLISH in `event`, if it is to be played.
    fn message(&mut self, event: &Event) -> Option<(Publish, ProtocolVersion)> {
        let seen = self.connections.follow(event);
        self.skipped.in_pieces += u64::from(self.ends_in_pieces(event));
        let (direction, bytes) = match &event.kind {
            EventKind::Packet { direction, bytes } => (*direction, bytes),
            EventKind::Close(_) => {
                self.connections.forget(event.connection);
                self.clients.remove(&event.connection);
                return None;
            }
            _ => return None,
        };
        let played = self.selection.played();
        let seen = seen.expect("a packet was seen");
        let connection = self.connections.get(event.connection).expect("it was just followed");
        if direction != played {
            if let Ok(packet) = &seen.packet {
                self.exchanges.acknowledge(event.connection, connection.session, packet);
            }
            return None;
        }
        let is_publish = bytes.first().is_some_and(|first| first >> 4 == 3);
        let mut publish = match seen.packet {
            Ok(ControlPacket::Publish(publish)) => publish,
            Ok(_) => return None,
            Err(_) => {
                self.skipped.unreadable += u64::from(is_publish);
                return None;
            }
        };
        let protocol = connection.protocol.expect("it was decoded by it");
        let again = self.exchanges.is_retransmission(event.connection, connection.session, &publish);
        let Some(topic) = seen.topic else {
            self.skipped.unknown_aliases += 1;
            return None;
        };
        let selected = event.at >= self.start
            && self.selection.has_topic(&topic)
            && self.selection.has_client(connection.client());
        if !selected {
            self.skipped.unselected += 1;
            return None;
        }
        if again {
            self.skipped.retransmissions += 1;
            return None;
        }
        publish.topic = Some(topic);
        publish.dup = false;
        // Neither belongs to the message: one names its topic on that connection, the other is the
        // server's word to a subscriber [MQTT-3.3.4-6].
        publish.properties.0.retain(|property| {
            !matches!(property, Property::TopicAlias(_) | Property::SubscriptionIdentifier(_))
        });
        Some((publish, protocol))
    }

    /// Whether `event` is the last piece of a message that would be played, were it whole.
    fn ends_in_pieces(&mut self, event: &Event) -> bool {
        let connection = self.connections.get(event.connection);
        let is_up = || connection.is_some_and(|connection| connection.protocol.is_some());
        let Some(packet) = self.long.follow(event, is_up) else { return false };
        packet.is_whole()
            && packet.is_message(self.selection.played())
            && event.at >= self.start
            && packet.topic.is_none_or(|topic| self.selection.has_topic(&topic))
            && self.selection.has_client(connection.and_then(|connection| connection.client()))
    }

    fn client(&mut self, number: u32) -> Option<Arc<str>> {
        let client = self.connections.get(number)?.client()?;
        match self.clients.get(&number) {
            Some(known) if &**known == client => Some(known.clone()),
            _ => {
                let client: Arc<str> = client.into();
                self.clients.insert(number, client.clone());
                Some(client)
            }
        }
    }
}

impl Script for Messages {
    type Item = Message;

    fn take(&mut self, event: &Event) -> Option<Message> {
        let (publish, protocol) = self.message(event)?;
        Some(Message { client_identifier: self.client(event.connection), protocol, publish })
    }

    fn restart(&mut self, from: Duration) {
        let skipped = std::mem::take(&mut self.skipped);
        let fresh = Self::new(std::mem::take(&mut self.selection));
        *self = Self { skipped, start: fresh.start.max(from), ..fresh };
    }

    fn end(&self) -> Duration {
        self.selection.end()
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }
}

/// QoS 1 and 2 exchanges that wait for their acknowledgement, by session.
#[derive(Default)]
struct Exchanges {
    open: HashSet<(Owner, u16)>,
}

/// Who an exchange belongs to: the session, or the connection while that is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Owner {
    Session(u32),
    Connection(u32),
}

impl Owner {
    fn new(connection: u32, session: Option<u32>) -> Self {
        session.map_or(Self::Connection(connection), Self::Session)
    }
}

impl Exchanges {
    /// Whether `publish` repeats one that is not acknowledged yet; else its exchange begins.
    fn is_retransmission(&mut self, connection: u32, session: Option<u32>, publish: &Publish) -> bool {
        let Some(identifier) = publish.packet_identifier else { return false };
        let is_new = self.open.insert((Owner::new(connection, session), identifier.get()));
        publish.dup && !is_new
    }

    /// What the other side said. A PUBREC without an error goes on until PUBCOMP.
    fn acknowledge(&mut self, connection: u32, session: Option<u32>, packet: &ControlPacket) {
        let identifier = match packet {
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => ack.packet_identifier,
            ControlPacket::Pubrec(ack) if ack.reason_code.is_error() => ack.packet_identifier,
            _ => return,
        };
        // Either may have begun it: a client may publish before its CONNACK has come.
        self.open.remove(&(Owner::new(connection, session), identifier.get()));
        self.open.remove(&(Owner::Connection(connection), identifier.get()));
    }
}
