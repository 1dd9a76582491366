//! What a recording says about its connections, learnt while its events go by.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use super::{CloseCause, ConnectionInfo, Direction, Event, EventKind, aliases::Aliases};
use crate::packet::{ControlPacket, DecodeError, Frame, Property, ProtocolVersion, Publish, TopicName};

const CONNECT: u8 = 1;
const CONNACK: u8 = 2;

/// Bytes of Topic Aliases of all connections together: those beyond are not remembered.
const ALIASES_SIZE_MAX: usize = 64 << 20;

/// The connections of a recording, as far as its events were followed.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    by_number: HashMap<u32, Connection>,
    /// The session that goes on if the client's next CONNACK says Session Present.
    session_of: HashMap<String, u32>,
    sessions: u32,
    aliases: Aliases,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// What the recorder knew.
    pub info: ConnectionInfo,
    pub opened_at: Duration,
    pub closed: Option<(Duration, CloseCause)>,
    /// As sent in CONNECT, or as known when the recording began.
    pub client_identifier: Option<String>,
    /// The one that CONNACK gave a client without.
    pub assigned_client_identifier: Option<String>,
    pub protocol: Option<ProtocolVersion>,
    /// Clean Session before MQTT 5; `None` without a CONNECT.
    pub clean_start: Option<bool>,
    /// Seconds.
    pub keep_alive: Option<u16>,
    /// Numbers (client identifier, epoch) from 1; `None` until a server accepted the client.
    pub session: Option<u32>,
}

/// What a packet turned out to be.
#[derive(Clone, Debug)]
pub struct Seen {
    pub packet: Result<ControlPacket, Unreadable>,
    /// Of a PUBLISH: its topic, Topic Alias resolved. `None` when the alias was set before the
    /// recording began.
    pub topic: Option<TopicName>,
}

/// Why a recorded packet cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the protocol version of its connection is not known")]
    UnknownProtocol,
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Connection {
    /// The client identifier in force: as assigned, else as sent. `None` when there is none or it is
    /// not known.
    pub fn client(&self) -> Option<&str> {
        let client = self.assigned_client_identifier.as_deref().or(self.client_identifier.as_deref());
        client.filter(|client| !client.is_empty())
    }

    fn read(&mut self, direction: Direction, bytes: &Bytes) -> Result<ControlPacket, Unreadable> {
        // A CONNECT brings its own version.
        let protocol = match packet_type(bytes) {
            CONNECT => ProtocolVersion::V311,
            _ => self.protocol.ok_or(Unreadable::UnknownProtocol)?,
        };
        let packet = Frame::decode(bytes.clone(), protocol)?.packet;
        if let (ControlPacket::Connect(connect), Direction::ClientToServer) = (&packet, direction) {
            self.protocol = Some(connect.protocol);
            self.client_identifier = Some(connect.client_identifier.as_str().to_owned());
            self.clean_start = Some(connect.clean_start);
            self.keep_alive = Some(connect.keep_alive);
        }
        Ok(packet)
    }
}

impl Connections {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, number: u32) -> Option<&Connection> {
        self.by_number.get(&number)
    }

    /// By number.
    pub fn into_sorted(self) -> Vec<(u32, Connection)> {
        let mut connections: Vec<_> = self.by_number.into_iter().collect();
        connections.sort_unstable_by_key(|(number, _)| *number);
        connections
    }

    /// Forgets a connection that is closed.
    pub fn forget(&mut self, number: u32) {
        self.aliases.forget(number);
        self.by_number.remove(&number);
    }

    /// Forgets a connection that is closed and the session of its client, where nobody asks for
    /// sessions: what is kept grows with the connections that are open, not with all there were.
    pub fn forget_client(&mut self, number: u32) {
        self.aliases.forget(number);
        let connection = self.by_number.remove(&number);
        if let Some(client) = connection.as_ref().and_then(Connection::client) {
            self.session_of.remove(client);
        }
    }

    /// Learns from `event` what it says about connections and sessions, reading as few packets as
    /// possible.
    pub fn outline(&mut self, event: &Event) {
        if let EventKind::Packet { direction, bytes } = &event.kind {
            let kind = packet_type(bytes);
            let (from_client, from_server) =
                (*direction == Direction::ClientToServer, *direction == Direction::ServerToClient);
            if !(kind == CONNECT && from_client || kind == CONNACK && from_server) {
                return;
            }
        }
        self.follow(event);
    }

    /// Learns from `event`; returns what it is if it is a packet.
    pub fn follow(&mut self, event: &Event) -> Option<Seen> {
        match &event.kind {
            EventKind::Open(info) => {
                self.open(event.connection, event.at, info);
                None
            }
            EventKind::Close(cause) => {
                let connection = self.by_number.entry(event.connection).or_default();
                connection.closed = Some((event.at, *cause));
                self.aliases.forget(event.connection);
                None
            }
            EventKind::Packet { direction, bytes } => Some(self.packet(event.connection, *direction, bytes)),
            EventKind::Gap { .. } => {
                // What is missing may have set any of them anew.
                self.aliases.clear();
                None
            }
            EventKind::Raw { .. }
            | EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::State(_)
            | EventKind::Anchor(_) => None,
        }
    }

    fn open(&mut self, number: u32, at: Duration, info: &ConnectionInfo) {
        let mut connection = Connection {
            info: info.clone(),
            opened_at: at,
            client_identifier: info.client_identifier.clone(),
            protocol: info.protocol,
            ..Connection::default()
        };
        if let Some(client) = connection.client() {
            let session = self.session_of.get(client).copied();
            connection.session = Some(session.unwrap_or_else(|| self.next_session(Some(client))));
        }
        self.by_number.insert(number, connection);
        self.aliases.forget(number);
    }

    fn packet(&mut self, number: u32, direction: Direction, bytes: &Bytes) -> Seen {
        let connection = self.by_number.entry(number).or_default();
        let packet = connection.read(direction, bytes);
        let mut topic = None;
        match &packet {
            Ok(ControlPacket::Publish(publish)) => topic = self.topic(number, direction, publish),
            Ok(ControlPacket::Connack(connack))
                if direction == Direction::ServerToClient && !connack.reason_code.is_error() =>
            {
                let assigned = connack.properties.iter().find_map(|property| match property {
                    Property::AssignedClientIdentifier(client) => Some(client.as_str().to_owned()),
                    _ => None,
                });
                connection.assigned_client_identifier = assigned;
                let client = connection.client().map(str::to_owned);
                self.accept(number, client.as_deref(), connack.session_present);
            }
            _ => {}
        }
        Seen { packet, topic }
    }

    /// The topic of `publish`, remembering the alias it sets.
    fn topic(&mut self, number: u32, direction: Direction, publish: &Publish) -> Option<TopicName> {
        let alias = publish.properties.topic_alias();
        match (&publish.topic, alias) {
            (Some(topic), Some(alias)) => {
                let room = ALIASES_SIZE_MAX.saturating_sub(self.aliases.size());
                self.aliases.set(number, direction, alias, topic, room);
                Some(topic.clone())
            }
            (Some(topic), None) => Some(topic.clone()),
            (None, Some(alias)) => self.aliases.get(number, direction, alias).cloned(),
            (None, None) => None,
        }
    }

    fn accept(&mut self, number: u32, client: Option<&str>, session_present: bool) {
        let before = client.filter(|_| session_present).and_then(|client| self.session_of.get(client));
        let session = before.copied().unwrap_or_else(|| self.next_session(client));
        self.by_number.entry(number).or_default().session = Some(session);
    }

    fn next_session(&mut self, client: Option<&str>) -> u32 {
        self.sessions += 1;
        if let Some(client) = client {
            self.session_of.insert(client.to_owned(), self.sessions);
        }
        self.sessions
    }
}

/// The packet type in the first byte; 0 for no bytes.
fn packet_type(bytes: &[u8]) -> u8 {
    bytes.first().map_or(0, |first| first >> 4)
}
