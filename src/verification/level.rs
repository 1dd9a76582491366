//! How closely, and what of it, is compared.

use std::{fmt, str::FromStr};

use crate::{likeness::unknown, recording::Direction};

/// How closely traffic is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// How many messages there are in each bucket.
    Count,
    /// Messages: payload, QoS, RETAIN and properties. Packet Identifiers, DUP and topic aliases depend on the moment, and
    /// so does what is left of a Message Expiry Interval. A message of QoS 1 may come more than once.
    Payload,
    /// The same, and all other packets by their fields, how connections ended, and messages that came more than once
    /// without DUP. Pings are left aside, and of CONNACK what says how capable the server is.
    Packets,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Count, Self::Payload, Self::Packets];

    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Payload => "payload",
            Self::Packets => "packets",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|level| level.name() == text);
        known.ok_or_else(|| unknown("level", text, Self::ALL.map(Self::name)))
    }
}

/// Whose packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// What servers sent: where we were the clients.
    FromServer,
    /// What clients sent: where we were the server.
    FromClients,
    /// Both: where others were.
    Both,
}

impl Judged {
    pub fn includes(self, direction: Direction) -> bool {
        match self {
            Self::FromServer => direction == Direction::ServerToClient,
            Self::FromClients => direction == Direction::ClientToServer,
            Self::Both => true,
        }
    }
}

/// What counts as the same receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// A client from one clean start to the next, over all of its connections.
    #[default]
    Session,
    /// A client, whatever became of its sessions: for subscribers that stand for all the sessions of one.
    Client,
}
