//! Session State [section 4.1].

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;

use crate::packet::{PacketIdentifier, ProtocolVersion};

use super::{Empty, Inflight, Queue, Rarely, Received, StoredMessage};

/// Session Expiry Interval of a Session that does not expire.
pub const NEVER: u32 = u32::MAX;

/// Where the broker keeps one subscription: a node of its tree and, for a shared one, the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey {
    pub node: u32,
    pub share: Option<u32>,
}

impl SubscriptionKey {
    /// Of what looks at messages without a subscription.
    pub const NONE: Self = Self { node: u32::MAX, share: None };
}

/// One client's Session, with or without a Network Connection.
#[derive(Debug)]
pub struct Session {
    pub client_identifier: Arc<str>,
    /// What its records in the journal are found by; 0 if it has none.
    pub number: u64,
    /// Index of the Network Connection.
    pub connection: Option<u32>,
    /// As of the last CONNECT, like the four that follow.
    pub protocol: ProtocolVersion,
    pub username: Option<Box<str>>,
    pub standing: Standing,
    pub clean_start: bool,
    /// Whether another process had it last, and no client since.
    pub is_restored: bool,
    pub keep_alive: u16,
    /// Where each subscription stands in the list of its node.
    pub subscriptions: Rarely<Positions>,
    /// What the subscriptions count against the limit; long filters count more than once.
    pub subscription_cost: usize,
    pub inflight: Rarely<Inflight>,
    pub received: Rarely<Received>,
    pub queue: Rarely<Queue>,
    /// Unacknowledged messages still to be repeated over the present connection.
    pub resend: Rarely<VecDeque<PacketIdentifier>>,
    pub will: Option<Box<WillMessage>>,
    /// Session Expiry Interval, seconds; [`NEVER`].
    pub expiry: u32,
    /// When the Session ends, while there is no connection.
    pub ends_at: Option<Instant>,
    /// When the Will is due, while it is delayed.
    pub will_at: Option<Instant>,
    /// When sending retained messages goes on.
    pub scan_at: Option<Instant>,
    /// The last message that found this Session, and where it stands among the receivers: merges
    /// overlapping subscriptions.
    pub mark: (u64, u32),
}

/// What a client's user name is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Anybody could have given it, or none.
    Claimed,
    /// The client has proven to be that user.
    Proven,
}

/// By where a subscription stands, its place there.
pub type Positions = HashMap<SubscriptionKey, u32, FixedState>;

impl Empty for Positions {
    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Positions> = LazyLock::new(Positions::default);
        &EMPTY
    }
}

impl Empty for VecDeque<PacketIdentifier> {
    fn empty() -> &'static Self {
        static EMPTY: VecDeque<PacketIdentifier> = VecDeque::new();
        &EMPTY
    }
}

/// A Will, kept while the client may still need it [section 3.1.2.5].
#[derive(Clone, Debug)]
pub struct WillMessage {
    /// Without its expiry: the Message Expiry Interval begins when the Will is published.
    pub message: Arc<StoredMessage>,
    pub expiry: Option<Duration>,
    pub delay: Duration,
}

impl Session {
    pub fn new(client_identifier: Arc<str>) -> Self {
        Self {
            client_identifier,
            number: 0,
            connection: None,
            protocol: ProtocolVersion::V311,
            username: None,
            standing: Standing::Claimed,
            clean_start: true,
            is_restored: false,
            keep_alive: 0,
            subscriptions: Rarely::default(),
            subscription_cost: 0,
            inflight: Rarely::default(),
            received: Rarely::default(),
            queue: Rarely::default(),
            resend: Rarely::default(),
            will: None,
            expiry: 0,
            ends_at: None,
            will_at: None,
            scan_at: None,
            mark: (0, 0),
        }
    }

    /// The user that the client has proven to be, if it has.
    pub fn proven_user(&self) -> Option<&str> {
        self.username.as_deref().filter(|_| self.standing != Standing::Claimed)
    }

    /// Whether nobody but its user may have it, or end it with a Session of its own.
    pub fn is_reserved(&self) -> bool {
        self.standing == Standing::Proven
    }

    /// Whether nothing waits to be sent when there is room.
    pub fn is_caught_up(&self) -> bool {
        self.queue.is_empty() && self.resend.is_empty()
    }
}
