//! The state of a broker that outlives it, as it is kept on disk and loaded from there.
//!
//! Instants are of this process; whoever writes them down makes times of day of them.

use std::{sync::Arc, time::Instant};

use crate::{
    packet::{PacketIdentifier, ProtocolVersion, SubscriptionOptions},
    session::{Delivery, Standing, StoredMessage, WillMessage},
};

/// What is known of a Session itself.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    pub client_identifier: Arc<str>,
    pub protocol: ProtocolVersion,
    pub username: Option<Box<str>>,
    pub standing: Standing,
    pub clean_start: bool,
    /// Seconds.
    pub keep_alive: u16,
    /// Session Expiry Interval, seconds, or [`NEVER`](crate::session::NEVER); 0 is never kept.
    pub expiry: u32,
    /// Whether it had a Network Connection, which ended with the process: then neither of the two
    /// times that follow is known.
    pub is_connected: bool,
    /// When it ends; `None` if it does not.
    pub ends_at: Option<Instant>,
    /// When its Will is due, if it has one.
    pub will_at: Option<Instant>,
    pub will: Option<WillMessage>,
}

/// A subscription of a Session.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRecord {
    /// As it was subscribed to, `$share` and all.
    pub filter: Box<str>,
    pub options: SubscriptionOptions,
    /// 0 for none.
    pub subscription_identifier: u32,
    /// How far it has been sent its retained messages, while it has not been sent all.
    pub lookup: Option<LookupRecord>,
}

/// Retained messages that are still to be sent for a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct LookupRecord {
    /// As of a [`RetainedScan`](crate::session::RetainedScan).
    pub from: Vec<u8>,
    /// Serial number of the last one.
    pub until: u64,
    /// The record of the message in the queue that it stands behind; 0 for none.
    pub after: u64,
}

/// A message on its way to a Session.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// Of the Session.
    pub session: u64,
    /// The shared subscription that chose the Session, as it was subscribed to, if there is one; the
    /// number in the delivery means nothing elsewhere.
    pub share: Option<Box<str>>,
    pub stage: DeliveryStage,
}

#[derive(Clone, Debug)]
pub enum DeliveryStage {
    Queued(Delivery),
    /// PUBLISH was sent; the serial number says with which Packet Identifier.
    Published {
        serial: u64,
        delivery: Delivery,
    },
    /// PUBREC came.
    Released {
        serial: u64,
        order: u64,
    },
}

impl DeliveryStage {
    /// What may have to be sent again.
    pub fn delivery(&self) -> Option<&Delivery> {
        match self {
            Self::Queued(delivery) | Self::Published { delivery, .. } => Some(delivery),
            Self::Released { .. } => None,
        }
    }
}

/// A retained message.
#[derive(Clone, Debug)]
pub struct RetainedRecord {
    pub message: Arc<StoredMessage>,
    /// The client identifier of its publisher; `None` for the server itself.
    pub publisher: Option<Arc<str>>,
}

/// A Session with all that belongs to it.
#[derive(Clone, Debug)]
pub struct RestoredSession {
    pub number: u64,
    pub record: SessionRecord,
    pub subscriptions: Vec<SubscriptionRecord>,
    /// With their record numbers, in that order.
    pub deliveries: Vec<(u64, DeliveryRecord)>,
    /// QoS 2 messages of the client that were passed on and not released.
    pub received: Vec<PacketIdentifier>,
}

/// Everything that was kept of a broker.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// By number.
    pub sessions: Vec<RestoredSession>,
    /// With their serial numbers, in that order.
    pub retained: Vec<(u64, RetainedRecord)>,
}

impl Restored {
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.retained.is_empty()
    }
}
