//! What a recording consists of.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::InForce;
use crate::packet::{PacketType, ProtocolVersion};

/// One thing that happened, in the total order of a recording.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// Since the recording began, by a monotonic clock; for a packet, when its last byte had been
    /// read. Whole nanoseconds, at most `u64::MAX` of them, never before the event before it.
    pub at: Duration,
    /// From 1 in the order of first appearance; 0 for events that belong to no connection.
    pub connection: u32,
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    Open(Box<ConnectionInfo>),
    /// One whole MQTT packet as it was received or sent.
    Packet {
        direction: Direction,
        bytes: Bytes,
    },
    /// Bytes that do not parse, as they came.
    Raw {
        direction: Direction,
        bytes: Bytes,
    },
    Close(CloseCause),
    Mark(String),
    /// A mock fired.
    Mock(Box<MockFired>),
    /// Chaos did something to a packet; what the client sent comes before, what it was sent after.
    Fault(Box<FaultInjected>),
    /// What was in force when the recording began.
    State(Box<InForce>),
    /// What the wall clock said then: at least every 10 s, and after it was set.
    Anchor(Timestamp),
    /// The recorder could not keep up and left this much out.
    Gap {
        events: u64,
        bytes: u64,
    },
}

impl EventKind {
    /// The name recordings and people use, in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open(_) => "OPEN",
            Self::Packet { .. } => "PACKET",
            Self::Raw { .. } => "RAW",
            Self::Close(_) => "CLOSE",
            Self::Mark(_) => "MARK",
            Self::Mock(_) => "MOCK",
            Self::Fault(_) => "FAULT",
            Self::State(_) => "STATE",
            Self::Anchor(_) => "ANCHOR",
            Self::Gap { .. } => "GAP",
        }
    }

    /// Bytes of the packets and texts it holds.
    pub fn size(&self) -> usize {
        match self {
            Self::Packet { bytes, .. } | Self::Raw { bytes, .. } => bytes.len(),
            Self::Mark(label) => label.len(),
            Self::Fault(fault) => fault.size(),
            Self::State(in_force) => in_force.packet.len(),
            Self::Open(_) | Self::Close(_) | Self::Mock(_) | Self::Anchor(_) | Self::Gap { .. } => 0,
        }
    }

    /// Gives the packets it holds bytes of their own, so that they keep no read buffer alive.
    pub fn detach(&mut self) {
        match self {
            Self::Packet { bytes, .. } | Self::Raw { bytes, .. } => *bytes = Bytes::copy_from_slice(bytes),
            Self::Fault(fault) => fault.detach(),
            Self::State(in_force) => in_force.packet = Bytes::copy_from_slice(&in_force.packet),
            Self::Open(_)
            | Self::Close(_)
            | Self::Mark(_)
            | Self::Mock(_)
            | Self::Anchor(_)
            | Self::Gap { .. } => {}
        }
    }
}

/// Which mock fired, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MockFired {
    pub mock: String,
    /// Of whoever made it fire; empty for nobody.
    pub client_identifier: String,
    /// Of the message, or the filter of the subscription; empty without one.
    pub topic: String,
    /// Messages it was going to send.
    pub messages: u64,
}

/// A chaos decision, and what became of the packet it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultInjected {
    /// Identifier of the rule.
    pub rule: String,
    /// As rules name it: `latency`, `drop` and so on.
    pub action: String,
    /// What was drawn, as a JSON object.
    pub detail: String,
    pub client_identifier: String,
    pub direction: Direction,
    pub packet_type: PacketType,
    /// Which one of its type the client sent, or was sent, from 1, over all of its connections.
    pub nth: u64,
    /// Of a PUBLISH, its alias resolved; empty if unknown, and for other packets.
    pub topic: String,
    /// The server's packet, where the client was not sent the same.
    pub received: Option<Bytes>,
    /// What was passed on in place of the client's packet, if anything was.
    pub sent: Option<Bytes>,
}

impl FaultInjected {
    /// Bytes of the texts and packets it holds.
    pub fn size(&self) -> usize {
        let texts = [&self.rule, &self.action, &self.detail, &self.client_identifier, &self.topic];
        let packets = [&self.received, &self.sent].into_iter().flatten();
        texts.map(String::len).into_iter().chain(packets.map(Bytes::len)).sum()
    }

    /// Gives the packets it holds bytes of their own, so that they keep no read buffer alive.
    pub fn detach(&mut self) {
        for bytes in [&mut self.received, &mut self.sent].into_iter().flatten() {
            *bytes = Bytes::copy_from_slice(bytes);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    ClientToServer,
    ServerToClient,
}

impl Direction {
    /// `c2s` or `s2c`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientToServer => "c2s",
            Self::ServerToClient => "s2c",
        }
    }

    /// The direction that [`name`](Self::name) names.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::ClientToServer, Self::ServerToClient].into_iter().find(|direction| direction.name() == name)
    }
}

/// What was known of a connection when it was opened, or when the recording began if earlier.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionInfo {
    pub peer: Option<String>,
    /// Address of the listener that accepted it.
    pub listener: Option<String>,
    /// `tcp`, `tls`, `ws` or `wss`; empty when unknown.
    pub transport: String,
    /// URL of the real broker behind a proxy.
    pub upstream: Option<String>,
    /// Whether the connection was there before the recording began; then the two fields below say
    /// what its CONNECT had said.
    pub already_open: bool,
    pub client_identifier: Option<String>,
    pub protocol: Option<ProtocolVersion>,
}

impl ConnectionInfo {
    /// Whether its CONNECT came before the recording began.
    pub fn is_up(&self) -> bool {
        self.already_open && self.protocol.is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    ClientFin,
    ClientRst,
    ServerFin,
    ServerRst,
    Timeout,
    /// The proxy itself: its upstream could not be reached, or it was told to.
    Proxy,
    Fault,
    /// Still open when the recording ended.
    RecordingEnded,
}

impl CloseCause {
    /// Every cause; the position is its number in stored recordings, so new ones go last.
    pub const ALL: [Self; 8] = [
        Self::ClientFin,
        Self::ClientRst,
        Self::ServerFin,
        Self::ServerRst,
        Self::Timeout,
        Self::Proxy,
        Self::Fault,
        Self::RecordingEnded,
    ];

    /// `client_fin`, `recording_ended` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientFin => "client_fin",
            Self::ClientRst => "client_rst",
            Self::ServerFin => "server_fin",
            Self::ServerRst => "server_rst",
            Self::Timeout => "timeout",
            Self::Proxy => "proxy",
            Self::Fault => "fault",
            Self::RecordingEnded => "recording_ended",
        }
    }

    /// The cause that [`name`](Self::name) names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}
