//! Session State [section 4.1].

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;

use crate::packet::{PacketIdentifier, ProtocolVersion};

use super::{Inflight, Queue, Received, StoredMessage};

/// Session Expiry Interval of a Session that does not expire.
pub const NEVER: u32 = u32::MAX;

/// Where the broker keeps one subscription: a node of its tree and, for a shared one, the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionKey {
    pub node: u32,
    pub share: Option<u32>,
}

/// One client's Session, with or without a Network Connection.
#[derive(Debug)]
pub struct Session {
    pub client_identifier: Arc<str>,
    /// Index of the Network Connection.
    pub connection: Option<u32>,
    /// As of the last CONNECT, like the three that follow.
    pub protocol: ProtocolVersion,
    pub username: Option<Box<str>>,
    pub clean_start: bool,
    pub keep_alive: u16,
    /// Where each subscription stands in the list of its node.
    pub subscriptions: HashMap<SubscriptionKey, u32, FixedState>,
    /// What the subscriptions count against the limit; long filters count more than once.
    pub subscription_cost: usize,
    pub inflight: Inflight,
    pub received: Received,
    pub queue: Queue,
    /// Unacknowledged messages still to be repeated over the present connection.
    pub resend: VecDeque<PacketIdentifier>,
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

/// A Will, kept while the client may still need it [section 3.1.2.5].
#[derive(Debug)]
pub struct WillMessage {
    /// Without its expiry: the Message Expiry Interval begins when the Will is published.
    pub message: StoredMessage,
    pub expiry: Option<Duration>,
    pub delay: Duration,
}

impl Session {
    pub fn new(client_identifier: Arc<str>) -> Self {
        Self {
            client_identifier,
            connection: None,
            protocol: ProtocolVersion::V311,
            username: None,
            clean_start: true,
            keep_alive: 0,
            subscriptions: HashMap::with_hasher(FixedState::default()),
            subscription_cost: 0,
            inflight: Inflight::default(),
            received: Received::default(),
            queue: Queue::default(),
            resend: VecDeque::new(),
            will: None,
            expiry: 0,
            ends_at: None,
            will_at: None,
            scan_at: None,
            mark: (0, 0),
        }
    }

    /// Whether nothing waits to be sent when there is room.
    pub fn is_caught_up(&self) -> bool {
        self.queue.is_empty() && self.resend.is_empty()
    }
}
