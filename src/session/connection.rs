//! A live Network Connection.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;

use crate::packet::{ProtocolVersion, TopicName};

use super::{Outbox, layout::Alias};

/// Numbers the Network Connections of a process, from 1, in the order they were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is at the other end of a Network Connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// `tcp` (later `tls`, `ws`, `wss`).
    pub transport: &'static str,
    /// The user that its certificate proved it to be, which then needs no password.
    pub identity: Option<Box<str>>,
}

/// What a Network Connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    AwaitingConnect,
    /// CONNECT came, and its client has yet to prove who it is.
    Authenticating,
    /// CONNECT came, and its password is being checked elsewhere.
    Checking,
    /// Serves the Session with this index.
    Connected(u32),
    /// What the outbox holds is written, nothing more is read.
    Closing,
}

/// A Network Connection with everything that ends with it.
#[derive(Debug)]
pub struct Connection {
    pub id: ConnectionId,
    /// Of the [`Peer`], whose identity few have: it is kept elsewhere.
    pub address: Option<SocketAddr>,
    pub transport: &'static str,
    pub state: State,
    pub protocol: ProtocolVersion,
    pub outbox: Outbox,
    pub opened_at: Instant,
    /// When the last Control Packet came.
    pub last_heard: Instant,
    /// Seconds, as in force; 0 is off.
    pub keep_alive: u16,
    /// When the timer of this connection is due.
    pub deadline: Option<Instant>,
    /// QoS 1 and 2 messages the client takes at a time.
    pub send_maximum: u16,
    /// How many of those are taken.
    pub send_used: u16,
    /// QoS 2 messages of the client that are not released yet.
    pub receiving: u16,
    /// Bytes of the longest packet the client takes.
    pub packet_size_maximum: usize,
    /// Whether Reason Strings and User Properties may explain an error [MQTT-3.1.2-29].
    pub problem_information: bool,
    /// Only for clients that set any.
    #[expect(clippy::box_collection, reason = "one word while there are none")]
    aliases_in: Option<Box<Vec<Option<TopicName>>>>,
    aliases_out: Option<Box<AliasesOut>>,
}

/// Topic bytes for which we set aliases towards one client, however many it allows.
const ALIASED_BYTES: usize = 256 * 1024;

/// Topic Aliases that we set towards a client, first come, first served.
#[derive(Debug)]
struct AliasesOut {
    maximum: u16,
    /// Of the topics.
    bytes: usize,
    values: HashMap<Box<[u8]>, u16, FixedState>,
}

impl Connection {
    pub fn new(now: Instant, id: ConnectionId, peer: &Peer) -> Self {
        Self {
            id,
            address: peer.address,
            transport: peer.transport,
            state: State::AwaitingConnect,
            protocol: ProtocolVersion::V311,
            outbox: Outbox::default(),
            opened_at: now,
            last_heard: now,
            keep_alive: 0,
            deadline: None,
            send_maximum: u16::MAX,
            send_used: 0,
            receiving: 0,
            packet_size_maximum: usize::MAX,
            problem_information: true,
            aliases_in: None,
            aliases_out: None,
        }
    }

    pub fn is_v5(&self) -> bool {
        self.protocol == ProtocolVersion::V5
    }

    /// When silence has lasted too long.
    pub fn keep_alive_deadline(&self) -> Option<Instant> {
        // Half an interval of grace [MQTT-3.1.2-22]; a zero Keep Alive never expires.
        let keep_alive = Duration::from_secs(self.keep_alive.into());
        (!keep_alive.is_zero()).then(|| self.last_heard + keep_alive * 3 / 2)
    }

    /// Whether another QoS 1 or 2 message may be sent [MQTT-3.3.4-9].
    pub fn has_quota(&self) -> bool {
        self.send_used < self.send_maximum
    }

    /// The topic that the client has given the alias `value`.
    pub fn aliased_topic(&self, value: u16) -> Option<&TopicName> {
        self.aliases_in.as_ref()?.get(usize::from(value))?.as_ref()
    }

    /// Sets or replaces an alias; the caller has checked it against the Topic Alias Maximum.
    pub fn set_alias(&mut self, value: u16, topic: TopicName) {
        let index = usize::from(value);
        let aliases = self.aliases_in.get_or_insert_default();
        if aliases.len() <= index {
            aliases.resize(index + 1, None);
        }
        aliases[index] = Some(topic);
    }

    /// Lets us set up to `maximum` aliases towards the client.
    pub fn allow_aliases(&mut self, maximum: u16) {
        self.aliases_out = (maximum > 0).then(|| {
            Box::new(AliasesOut { maximum, bytes: 0, values: HashMap::with_hasher(FixedState::default()) })
        });
    }

    /// Whether we may set aliases towards the client.
    #[inline]
    pub fn has_aliases(&self) -> bool {
        self.aliases_out.is_some()
    }

    /// The alias to send `topic` with: a known one, or the next free one.
    #[inline]
    pub fn alias_for(&self, topic: &[u8]) -> Option<Alias> {
        let aliases = self.aliases_out.as_ref()?;
        if let Some(&value) = aliases.values.get(topic) {
            return Some(Alias { value, known: true });
        }
        let used = aliases.values.len();
        let has_room = used < usize::from(aliases.maximum) && aliases.bytes + topic.len() <= ALIASED_BYTES;
        has_room.then(|| Alias { value: used as u16 + 1, known: false })
    }

    /// A packet that sets `alias` was sent.
    pub fn alias_was_sent(&mut self, alias: Alias, topic: &[u8]) {
        if let Some(aliases) = self.aliases_out.as_mut().filter(|_| !alias.known) {
            aliases.bytes += topic.len();
            aliases.values.insert(topic.into(), alias.value);
        }
    }
}
