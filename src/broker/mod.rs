//! What sessions share: dispatch, subscriptions, retained messages, timers.
//!
//! A [`Broker`] is a plain value. Packets and the passing of time go in; bytes gather in each
//! connection's [`Outbox`], and [`Output`]s say what the shell has to do, in order. Nothing here
//! reads a clock, a socket or a random source.

mod access;
mod acknowledge;
mod authenticate;
mod connect;
#[cfg(any(test, fuzzing))]
mod consistency;
mod deliver;
mod disconnect;
mod figures;
mod held;
mod journal;
mod limits;
mod observers;
mod options;
mod output;
mod pressure;
mod publish;
mod records;
mod reset;
mod restore;
mod retained;
mod subscribe;
mod subscriptions;
#[cfg(test)]
pub(crate) mod tests;
mod timers;
mod view;
mod will;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use foldhash::fast::FixedState;
use slab::Slab;

use crate::{
    auth::{Access, Permissions, Random, Remembered, Users},
    interceptor::Interception,
    packet::{ControlPacket, DecodeError, PacketType, ProtocolVersion, ReasonCode},
    session::{ApplicationMessage, Connection, ConnectionId, Outbox, Peer, Session, State},
    trace::Tracer,
};

pub use access::Checked;
pub use journal::{Batch, Deliveries, DeliveryChange, Durability};
pub use limits::Limits;
pub use observers::{Observe, ObserverKey, RetainedBefore};
pub use options::Options;
pub use output::{BrokerEvent, Closing, DropReason, Output};
pub use records::{
    DeliveryRecord, DeliveryStage, LookupRecord, Restored, RestoredSession, RetainedRecord, SessionRecord,
    SubscriptionRecord,
};
pub use reset::ResetCounts;
pub use view::{BrokerStats, ClientView, RetainedView, SubscriptionView};

use access::Recheck;
use authenticate::Authentication;
use deliver::FanOut;
use disconnect::{WillFate, reason_in};
use figures::Figures;
use held::HeldConnects;
use journal::Journal;
use observers::Observers;
use pressure::Pressure;
use retained::Retained;
use subscriptions::Subscriptions;
use timers::{Timer, Timers};

/// Bytes of answers, beyond the limit for messages, that a client may leave unread before it is
/// disconnected. Answers are no longer than what they answer, so a shell that stops reading from a
/// connection it cannot write to stays far below.
const UNREAD_ANSWERS: usize = 1 << 20;

/// Timers handled in one call; the others stay due, so that connections get their turn.
const TIMERS_PER_TURN: usize = 1_000;

/// What became of a message that was published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Subscribed sessions that got it or have it queued.
    pub receivers: usize,
}

/// The broker's whole state.
pub struct Broker {
    limits: Limits,
    sessions: Slab<Session>,
    connections: Slab<Connection>,
    by_id: HashMap<ConnectionId, u32, FixedState>,
    /// What was found last in `by_id`: packets come in runs.
    last_found: Option<(ConnectionId, u32)>,
    /// Connections that serve a Session.
    connected: usize,
    by_client: HashMap<Arc<str>, u32, FixedState>,
    /// Of connections whose CONNECT names a method.
    authentications: HashMap<u32, Authentication, FixedState>,
    users: Users,
    access: Access,
    remembered: Remembered,
    /// Of connections whose password is being checked: which [`Access`] the check is of.
    checking: HashMap<u32, u64, FixedState>,
    /// Of those, and of connections in the middle of an authentication.
    held: HeldConnects,
    /// Of connections whose peers have a certificate that says who they are.
    identities: HashMap<u32, Box<str>, FixedState>,
    /// Of Sessions that the rules were looked up for; none while there are none.
    permissions: HashMap<u32, Permissions, FixedState>,
    recheck: Recheck,
    subscriptions: Subscriptions,
    /// What those of all Sessions count against the limit.
    subscription_cost: usize,
    retained: Retained,
    /// When the timer for expiring retained messages is due.
    retained_expiry_at: Option<Instant>,
    figures: Figures,
    timers: Timers,
    outputs: VecDeque<Output>,
    /// Only what is counted since the start; figures of now are counted when asked for.
    stats: BrokerStats,
    fan_out: FanOut,
    pressure: Pressure,
    interception: Interception,
    observers: Observers,
    tracer: Option<Box<dyn Tracer>>,
    /// Only if what outlives the broker is kept.
    journal: Option<Box<Journal>>,
    /// State of the generator of client identifiers.
    random: Random,
}

impl Broker {
    /// `seed` makes assigned client identifiers, and what authentication needs to be unforeseeable.
    pub fn new(now: Instant, options: impl Into<Options>, seed: u64) -> Self {
        let Options { limits, sys_interval, scram_users, access, durability } = options.into();
        let random = Random::new(seed);
        let mut broker = Self {
            pressure: Pressure::new(now, &limits),
            subscription_cost: 0,
            limits,
            authentications: HashMap::with_hasher(FixedState::with_seed(seed)),
            users: Users::new(&scram_users, seed),
            access,
            remembered: Remembered::new(random.of("key of remembered passwords", &[])),
            checking: HashMap::with_hasher(FixedState::with_seed(seed)),
            held: HeldConnects::new(seed),
            identities: HashMap::with_hasher(FixedState::with_seed(seed)),
            permissions: HashMap::with_hasher(FixedState::with_seed(seed)),
            recheck: Recheck::default(),
            sessions: Slab::new(),
            connections: Slab::new(),
            connected: 0,
            by_id: HashMap::with_hasher(FixedState::with_seed(seed)),
            last_found: None,
            by_client: HashMap::with_hasher(FixedState::with_seed(seed)),
            subscriptions: Subscriptions::new(seed),
            retained: Retained::default(),
            retained_expiry_at: None,
            figures: Figures::new(now, sys_interval),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            stats: BrokerStats::default(),
            fan_out: FanOut::default(),
            interception: Interception::default(),
            observers: Observers::default(),
            tracer: None,
            journal: Journal::new(durability).map(Box::new),
            random,
        };
        broker.start_figures();
        broker
    }

    /// As it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who is asked about messages from now on.
    pub fn set_interception(&mut self, interception: Interception) {
        self.interception = interception;
    }

    /// Who is told of messages that have a place in a trace, from now on.
    pub fn set_tracer(&mut self, tracer: Option<Box<dyn Tracer>>) {
        self.tracer = tracer;
    }

    /// What is handled from now on, of one client, lies in `input`.
    #[inline]
    pub fn begin_input(&mut self, input: &Bytes) {
        self.interception.begin_input(input);
    }

    #[inline]
    pub fn end_input(&mut self) {
        self.interception.end_input();
    }

    /// Who was asked about messages is to tell others of them: before anything that follows from them is sent.
    #[inline]
    pub fn settle_interception(&mut self) {
        self.interception.settle();
    }

    /// A transport connection was accepted, at `accepted_at`; its client has yet to send CONNECT.
    pub fn handle_open(&mut self, accepted_at: Instant, id: ConnectionId, peer: Peer) {
        let index = self.connections.insert(Connection::new(accepted_at, id, &peer)) as u32;
        if let Some(identity) = peer.identity {
            self.identities.insert(index, identity);
        }
        self.by_id.insert(id, index);
        self.stats.connections_accepted += 1;
        self.set_connection_timer(index, Some(accepted_at + self.limits.connect_timeout));
    }

    /// The protocol of a connection whose CONNECT is not accepted by the decoder, which still could
    /// tell so much: before [`handle_malformed`](Self::handle_malformed), for the right answer.
    pub fn set_protocol(&mut self, id: ConnectionId, protocol: ProtocolVersion) {
        if let Some(index) = self.find_connection(id) {
            let connection = &mut self.connections[index as usize];
            if connection.state == State::AwaitingConnect {
                connection.protocol = protocol;
            }
        }
    }

    #[inline]
    fn find_connection(&mut self, id: ConnectionId) -> Option<u32> {
        match self.last_found {
            Some((last, index)) if last == id => Some(index),
            _ => {
                self.last_found = self.by_id.get(&id).map(|&index| (id, index));
                self.last_found.map(|(_, index)| index)
            }
        }
    }

    /// Notes that a connected client sent something; whether it may.
    #[inline]
    fn hear(&mut self, now: Instant, index: u32) -> bool {
        if let Some(journal) = &mut self.journal {
            journal.begin_packet();
        }
        let connection = &mut self.connections[index as usize];
        connection.last_heard = now;
        let may = connection.outbox.len() <= self.limits.outbox_bytes + UNREAD_ANSWERS;
        if !may {
            self.fail(now, index, ReasonCode::QUOTA_EXCEEDED, Some("answers are not read"));
        }
        may
    }

    pub fn handle_packet(&mut self, now: Instant, from: ConnectionId, packet: ControlPacket) {
        let Some(index) = self.find_connection(from) else { return };
        self.stats.packets_received += 1;
        let (session, packet) = match (self.connections[index as usize].state, packet) {
            // Nothing behind a DISCONNECT or a refused CONNECT counts [MQTT-3.1.4-6].
            (State::Closing, _) => return,
            (State::AwaitingConnect, ControlPacket::Connect(connect)) => {
                return self.connect(now, index, *connect);
            }
            // [MQTT-3.1.0-1]
            (State::AwaitingConnect, _) => {
                return self.close(index, Closing::Refused(ReasonCode::PROTOCOL_ERROR));
            }
            (State::Authenticating, ControlPacket::Auth(auth)) => {
                return self.continue_authentication(now, index, &auth);
            }
            (State::Authenticating, ControlPacket::Disconnect(_)) => {
                return self.close(index, Closing::ClientDisconnected);
            }
            // [MQTT-3.1.2-30]
            (State::Authenticating, _) => return self.refuse(index, ReasonCode::PROTOCOL_ERROR),
            // Whoever drives us holds them back.
            (State::Checking, _) => return self.refuse(index, ReasonCode::PROTOCOL_ERROR),
            (State::Connected(session), packet) => (session, packet),
        };
        if self.hear(now, index) {
            self.handle_connected(now, index, session, packet);
        }
    }

    /// Dispatches a packet of a client that has connected.
    fn handle_connected(&mut self, now: Instant, connection: u32, session: u32, packet: ControlPacket) {
        match packet {
            ControlPacket::Publish(publish) => self.handle_publish(now, connection, session, &publish),
            ControlPacket::Puback(ack) => self.handle_puback(now, connection, session, ack.packet_identifier),
            ControlPacket::Pubrec(ack) => {
                let refused = ack.reason_code.is_error();
                self.handle_pubrec(now, connection, session, ack.packet_identifier, refused);
            }
            ControlPacket::Pubrel(ack) => {
                self.handle_pubrel(now, connection, session, ack.packet_identifier);
            }
            ControlPacket::Pubcomp(ack) => {
                self.handle_pubcomp(now, connection, session, ack.packet_identifier)
            }
            ControlPacket::Subscribe(subscribe) => self.handle_subscribe(now, connection, session, subscribe),
            ControlPacket::Unsubscribe(unsubscribe) => {
                self.handle_unsubscribe(now, connection, session, unsubscribe);
            }
            ControlPacket::Pingreq => self.send_bytes(connection, &[0xD0, 0]),
            ControlPacket::Disconnect(disconnect) => {
                self.handle_disconnect(now, connection, session, disconnect)
            }
            ControlPacket::Connect(_) => {
                // [MQTT-3.1.0-2]
                self.fail(now, connection, ReasonCode::PROTOCOL_ERROR, Some("a second CONNECT"));
            }
            ControlPacket::Auth(auth) => self.handle_auth(now, connection, &auth),
            ControlPacket::Connack(_)
            | ControlPacket::Suback(_)
            | ControlPacket::Unsuback(_)
            | ControlPacket::Pingresp => {
                let text = "a packet that only servers send";
                self.fail(now, connection, ReasonCode::PROTOCOL_ERROR, Some(text));
            }
        }
    }

    /// The client sent bytes that are no packet.
    pub fn handle_malformed(&mut self, now: Instant, from: ConnectionId, error: &DecodeError) {
        let Some(index) = self.find_connection(from) else { return };
        match self.connections[index as usize].state {
            State::Closing => {}
            State::AwaitingConnect => self.refuse_malformed(index, error),
            // Its CONNECT was accepted as one: no code is left that only speaks of CONNECT.
            State::Authenticating | State::Checking => {
                self.refuse(index, reason_in(&[PacketType::Connack, PacketType::Disconnect], error));
            }
            State::Connected(_) => {
                let reason = reason_in(&[PacketType::Disconnect], error);
                self.fail(now, index, reason, Some(&error.to_string()));
            }
        }
    }

    /// The transport connection is gone: by itself, or after [`Output::Close`].
    pub fn handle_close(&mut self, now: Instant, from: ConnectionId) {
        let Some(index) = self.by_id.remove(&from) else { return };
        self.last_found = None;
        self.set_connection_timer(index, None);
        if let State::Connected(session) = self.connections[index as usize].state {
            self.detach(now, index, session, None, WillFate::Publish);
        }
        self.forget_connection(from);
        self.connections.remove(index as usize);
        self.authentications.remove(&index);
        self.checking.remove(&index);
        self.held.remove(index);
        self.identities.remove(&index);
    }

    /// The shell wrote from the outbox; messages that waited for room can follow.
    pub fn handle_flushed(&mut self, now: Instant, id: ConnectionId) {
        let Some(index) = self.find_connection(id) else { return };
        let connection = &self.connections[index as usize];
        if let State::Connected(session) = connection.state
            && connection.outbox.len() <= self.limits.outbox_bytes
        {
            if connection.outbox.len() <= self.limits.outbox_bytes / 2
                && let Some(queue) = self.sessions[session as usize].queue.changed()
            {
                queue.recover();
            }
            if !self.sessions[session as usize].is_caught_up() {
                self.pump(now, session);
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = self.timers.pop(now) else { return };
            match timer {
                Timer::Connection(index) => self.connection_timed_out(now, index),
                Timer::SessionExpiry(index) => {
                    self.sessions[index as usize].ends_at = None;
                    self.stats.sessions_expired += 1;
                    self.end_session(now, index);
                }
                Timer::Figures => {
                    self.figures.due = None;
                    self.publish_figures(now);
                }
                Timer::WillDelay(index) => {
                    self.sessions[index as usize].will_at = None;
                    self.publish_will_of(now, index);
                }
                Timer::RetainedScan(index) => {
                    self.sessions[index as usize].scan_at = None;
                    // Others have their turn before the next lookup.
                    return self.pump(now, index);
                }
                // Others have their turn before it goes on.
                Timer::Recheck => return self.recheck(now),
                Timer::RetainedExpiry => {
                    self.retained_expiry_at = None;
                    self.expire_retained(now);
                }
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, which may be at once.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Packets that were put into outboxes since the start.
    #[inline]
    pub fn packets_sent(&self) -> u64 {
        self.stats.packets_sent
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Bytes to write to `id`; `None` once the broker knows of no such connection.
    pub fn outbox(&mut self, id: ConnectionId) -> Option<&mut Outbox> {
        let index = self.find_connection(id)?;
        Some(&mut self.connections[index as usize].outbox)
    }

    /// Publishes on behalf of the control plane, a mock or a replay.
    pub fn publish(&mut self, now: Instant, message: ApplicationMessage) -> Delivered {
        self.publish_message(now, &message)
    }

    /// Closes the connection of a client with `reason`; whether there was one.
    pub fn disconnect(
        &mut self,
        now: Instant,
        client_identifier: &str,
        reason: ReasonCode,
        with_will: bool,
    ) -> bool {
        let Some(&session) = self.by_client.get(client_identifier) else { return false };
        let Some(connection) = self.sessions[session as usize].connection else { return false };
        let fate = if with_will { WillFate::Publish } else { WillFate::Discard };
        self.disconnect_client(now, connection, session, reason, None, fate);
        true
    }

    /// Ends the Session of a client, as if it had never been: a connection that has it is closed as one that was taken
    /// over, and its Will is published. Whether there was one.
    pub fn discard_session(&mut self, now: Instant, client_identifier: &str) -> bool {
        let was_connected = self.disconnect(now, client_identifier, ReasonCode::SESSION_TAKEN_OVER, true);
        match self.by_client.get(client_identifier) {
            Some(&session) => {
                self.end_session(now, session);
                true
            }
            None => was_connected,
        }
    }

    /// Sends every client DISCONNECT (Server shutting down) and closes; Wills are published if what
    /// they come to is kept.
    pub fn shut_down(&mut self, now: Instant) {
        let indices: Vec<u32> = self.connections.iter().map(|(index, _)| index as u32).collect();
        let reason = ReasonCode::SERVER_SHUTTING_DOWN;
        let mut left = Vec::new();
        for index in indices {
            match self.connections[index as usize].state {
                State::Connected(session) => {
                    self.say_goodbye(index, reason, None);
                    self.sessions[session as usize].connection = None;
                    left.push((index, session));
                }
                State::AwaitingConnect => self.close(index, Closing::Refused(reason)),
                State::Authenticating | State::Checking => self.refuse(index, ReasonCode::SERVER_UNAVAILABLE),
                State::Closing => {}
            }
        }
        // Nobody is left to be told, but what comes of a Will may be kept.
        let fate = if self.journal.is_some() { WillFate::Publish } else { WillFate::Discard };
        for (index, session) in left {
            self.detach(now, index, session, Some(reason), fate);
        }
    }

    fn connection_timed_out(&mut self, now: Instant, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.deadline = None;
        if connection.state == State::Checking {
            return self.give_up_checking(index);
        }
        let State::Connected(_) = connection.state else {
            return self.close(index, Closing::Refused(ReasonCode::KEEP_ALIVE_TIMEOUT));
        };
        connection.outbox.shrink();
        // Packets only note the time; the timer follows them here.
        match connection.keep_alive_deadline() {
            Some(deadline) if deadline <= now => {
                self.fail(now, index, ReasonCode::KEEP_ALIVE_TIMEOUT, None);
            }
            deadline => self.set_connection_timer(index, deadline),
        }
    }

    fn set_connection_timer(&mut self, index: u32, at: Option<Instant>) {
        let connection = &mut self.connections[index as usize];
        self.timers.set(&mut connection.deadline, at, Timer::Connection(index));
    }

    fn set_retained_timer(&mut self) {
        self.timers.set(&mut self.retained_expiry_at, self.retained.next_expiry(), Timer::RetainedExpiry);
    }
}
