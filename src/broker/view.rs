//! What an operator sees of the broker.

use std::{sync::Arc, time::Instant};

use crate::{
    packet::{ProtocolVersion, SubscriptionOptions},
    session::{Connection, ConnectionId, Peer, StoredMessage},
};

use super::Broker;

/// A client as an operator sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientView {
    pub client_identifier: String,
    pub connection: Option<ConnectionId>,
    pub peer: Option<Peer>,
    pub protocol: ProtocolVersion,
    pub username: Option<String>,
    /// Seconds, as in force.
    pub keep_alive: u16,
    pub clean_start: bool,
    pub connected_at: Option<Instant>,
    pub subscriptions: usize,
    pub inflight: usize,
    pub queued: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionView {
    pub client_identifier: String,
    pub filter: String,
    pub options: SubscriptionOptions,
    pub subscription_identifier: Option<u32>,
}

/// What a topic has retained, though it may have expired.
#[derive(Clone, Debug)]
pub struct RetainedView {
    pub message: Arc<StoredMessage>,
    /// The client identifier of who published it; `None` for the server itself.
    pub publisher: Option<Arc<str>>,
}

/// Figures since the start, and of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerStats {
    pub clients_connected: u64,
    pub sessions: u64,
    pub subscriptions_active: u64,
    /// SUBSCRIBE requests granted since the start.
    pub subscriptions_total: u64,
    /// PUBLISH packets accepted from clients, by QoS.
    pub published: [u64; 3],
    /// PUBLISH packets sent to clients, by QoS.
    pub delivered: [u64; 3],
    pub dropped_queue_full: u64,
    pub dropped_expired: u64,
    pub dropped_too_large: u64,
    /// PUBLISH packets that no rule allows.
    pub dropped_not_authorized: u64,
    /// CONNECT packets with a wrong user name or password.
    pub refused_credentials: u64,
    /// CONNECT packets of those who may not connect, or not as they would.
    pub refused_not_authorized: u64,
    /// CONNECT packets whose password there was no time to check.
    pub refused_busy: u64,
    /// Subscriptions that no rule allows.
    pub refused_subscriptions: u64,
    /// Messages that were passed on but not retained, for want of room.
    pub dropped_retained: u64,
    /// Control Packets of every type.
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Of PUBLISH packets.
    pub payload_bytes_received: u64,
    pub payload_bytes_sent: u64,
    /// Transport connections.
    pub connections_accepted: u64,
    /// CONNECT packets.
    pub clients_accepted: u64,
    /// Most clients that were connected at a time.
    pub clients_maximum: u64,
    /// Sessions that ended when their Session Expiry Interval had passed.
    pub sessions_expired: u64,
    pub retained_messages: u64,
    pub retained_bytes: u64,
    pub inflight: u64,
    pub queued: u64,
}

impl Broker {
    /// Sessions by client identifier, connected or not.
    pub fn clients(&self) -> Vec<ClientView> {
        let mut clients: Vec<ClientView> = self
            .sessions
            .iter()
            .map(|(_, session)| {
                let connection = session.connection.map(|index| &self.connections[index as usize]);
                ClientView {
                    client_identifier: session.client_identifier.to_string(),
                    connection: connection.map(|connection| connection.id),
                    peer: session.connection.map(|index| self.peer(index)),
                    protocol: session.protocol,
                    username: session.username.as_deref().map(str::to_owned),
                    keep_alive: session.keep_alive,
                    clean_start: session.clean_start,
                    connected_at: connection.map(|connection| connection.opened_at),
                    subscriptions: session.subscriptions.len(),
                    inflight: session.inflight.len(),
                    queued: session.queue.len(),
                }
            })
            .collect();
        clients.sort_by(|one, other| one.client_identifier.cmp(&other.client_identifier));
        clients
    }

    fn peer(&self, index: u32) -> Peer {
        let Connection { address, transport, .. } = self.connections[index as usize];
        Peer { address, transport, identity: self.identities.get(&index).cloned() }
    }

    /// Subscriptions by client identifier and filter.
    pub fn subscriptions(&self) -> Vec<SubscriptionView> {
        let mut views = Vec::with_capacity(self.subscriptions.len());
        for (_, session) in &self.sessions {
            for (&key, &position) in &*session.subscriptions {
                let Some(subscriber) = self.subscriptions.get(key, position) else { continue };
                views.push(SubscriptionView {
                    client_identifier: session.client_identifier.to_string(),
                    filter: self.subscriptions.filter(key),
                    options: subscriber.options,
                    subscription_identifier: Some(subscriber.subscription_identifier)
                        .filter(|&value| value != 0),
                });
            }
        }
        views.sort_by(|one, other| {
            (&one.client_identifier, &one.filter).cmp(&(&other.client_identifier, &other.filter))
        });
        views
    }

    /// Retained messages that have not expired, by topic.
    pub fn retained_messages(&self, now: Instant) -> impl Iterator<Item = Arc<StoredMessage>> {
        self.retained.iter().filter(move |message| !message.is_expired(now)).cloned()
    }

    /// The first `count` retained messages behind `topic`, level by level, and whether there are more.
    pub fn retained_after(&self, topic: Option<&str>, count: usize) -> (Vec<RetainedView>, bool) {
        let mut entries = self.retained.after(topic.map(str::as_bytes));
        let views = entries.by_ref().take(count).map(|(message, publisher)| RetainedView {
            message: message.clone(),
            publisher: publisher.cloned(),
        });
        (views.collect(), entries.next().is_some())
    }

    pub fn stats(&self) -> BrokerStats {
        let sessions = self.sessions.iter().map(|(_, session)| session);
        BrokerStats {
            clients_connected: self.connected as u64,
            sessions: self.sessions.len() as u64,
            subscriptions_active: self.subscriptions.len() as u64,
            retained_messages: self.retained.len() as u64,
            retained_bytes: self.retained.bytes() as u64,
            inflight: sessions.clone().map(|session| session.inflight.len() as u64).sum(),
            queued: sessions.map(|session| session.queue.len() as u64).sum(),
            ..self.stats
        }
    }
}
