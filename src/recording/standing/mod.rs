//! What is in force at a point of a recording, learnt while its events go by: who is connected, what clients have
//! subscribed to, what is retained.

mod left_out;
mod retained;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;

use self::{
    left_out::{LeftOut, Missing, hash, subscription_hash},
    retained::Retained,
};
use super::{ConnectionInfo, Direction, Event, EventKind, InForce, aliases::Aliases};
use crate::packet::{
    Connack, Connect, ControlPacket, Disconnect, PacketIdentifier, PacketType, Property, PropertyIdentifier,
    ProtocolVersion, Publish, PublishRef, ReasonCode, Subscribe, Subscription, SubscriptionOptions,
    TopicFilter, TopicName, Unsubscribe, Will,
};

/// The flag of a PUBLISH.
const RETAIN: u8 = 1;

/// Requests of a connection that wait for their answer: those beyond are not remembered.
const REQUESTS_MAX: usize = 1024;

/// A Session Expiry Interval that never ends.
const NEVER: u32 = u32::MAX;

/// What is in force, as far as the events that were followed tell. It learns of messages a server retained without a
/// client's PUBLISH from STATE.
#[derive(Clone, Debug)]
pub struct Standing {
    connections: BTreeMap<u32, Open>,
    /// By client identifier.
    sessions: HashMap<String, Session>,
    retained: BTreeMap<TopicName, Retained>,
    /// Those of clients.
    aliases: Aliases,
    /// When which of them end.
    ends: BTreeSet<(Duration, Ending)>,
    /// Bytes of `sessions`, `retained` and what connections keep, aliases aside.
    held: usize,
    /// How many there may be, aliases included.
    limit: usize,
    left_out: LeftOut,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Session(String),
    Retained(TopicName),
}

#[derive(Clone, Debug, Default)]
struct Open {
    info: ConnectionInfo,
    /// Before CONNACK says whether it is accepted.
    connect: Option<Box<Connect>>,
    /// In force, once it is accepted.
    client: Option<String>,
    session_expiry: u32,
    will: Option<Box<Will>>,
    subscribing: HashMap<PacketIdentifier, (Subscribe, usize)>,
    unsubscribing: HashMap<PacketIdentifier, (Vec<TopicFilter>, usize)>,
    /// Bytes of `connect`, or of `will`, which is a part of it.
    connect_size: usize,
    /// Bytes of the requests that wait for an answer.
    requests_size: usize,
}

#[derive(Clone, Debug, Default)]
struct Session {
    subscriptions: BTreeMap<String, (Subscription, Option<u32>)>,
    /// The connection it goes on over.
    connection: Option<u32>,
    /// `None` while it is connected, or if it never ends.
    ends_at: Option<Duration>,
}

/// Of all that a [`Standing`] keeps, where nothing else is said.
const LIMIT: usize = 64 << 20;

impl Default for Standing {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl Standing {
    /// `limit` is in bytes: of subscriptions, retained messages, and what connections have under way; what is too much is
    /// counted.
    pub fn new(limit: usize) -> Self {
        Self {
            connections: BTreeMap::new(),
            sessions: HashMap::new(),
            retained: BTreeMap::new(),
            aliases: Aliases::default(),
            ends: BTreeSet::new(),
            held: 0,
            limit,
            left_out: LeftOut::default(),
        }
    }

    /// Subscriptions and retained messages that are in force at offset `at` and found no room.
    pub fn left_out(&self, at: Duration) -> u64 {
        self.left_out.count(at)
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.held + self.aliases.size())
    }

    pub fn follow(&mut self, event: &Event) {
        self.forget_ended(event.at);
        match &event.kind {
            EventKind::Open(info) => {
                let client = info.client_identifier.clone().filter(|client| !client.is_empty());
                let open = Open {
                    info: (**info).clone(),
                    client,
                    // Nobody knows what its CONNECT said.
                    session_expiry: NEVER,
                    ..Open::default()
                };
                let before = self.connections.insert(event.connection, open);
                self.held -= before.map_or(0, |before| before.size());
                self.aliases.forget(event.connection);
            }
            EventKind::Packet { direction, bytes } => {
                self.packet(event.at, event.connection, *direction, bytes);
            }
            EventKind::Close(_) => self.close(event.at, event.connection),
            EventKind::State(in_force) => self.state(event.at, in_force),
            EventKind::Gap { .. } => {
                // What is missing may have set any of them anew.
                self.aliases.clear();
            }
            EventKind::Raw { .. }
            | EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::Anchor(_) => {}
        }
    }

    /// What a recording that begins at offset `at` begins with: connections by number, then subscriptions by client,
    /// then retained messages by topic.
    pub fn events(&self, at: Duration) -> Vec<(u32, EventKind)> {
        let opens = self.connections.iter().map(|(number, open)| {
            let info = ConnectionInfo {
                already_open: true,
                client_identifier: open.client.clone().or_else(|| open.info.client_identifier.clone()),
                ..open.info.clone()
            };
            (*number, EventKind::Open(Box::new(info)))
        });
        let mut sessions: Vec<_> =
            self.sessions.iter().filter(|(_, session)| !session.has_ended(at)).collect();
        sessions.sort_unstable_by_key(|(client, _)| *client);
        let subscriptions = sessions.into_iter().flat_map(|(client, session)| {
            let mut together: BTreeMap<Option<u32>, Vec<Subscription>> = BTreeMap::new();
            for (subscription, identifier) in session.subscriptions.values() {
                together.entry(*identifier).or_default().push(subscription.clone());
            }
            together.into_iter().filter_map(move |(identifier, subscriptions)| {
                InForce::subscriptions(client, subscriptions, identifier)
            })
        });
        let retained =
            self.retained.values().filter(|retained| retained.expires_at.is_none_or(|end| end > at));
        let retained =
            retained.map(|retained| InForce { client_identifier: None, packet: retained.packet_at(at) });
        let states = subscriptions.chain(retained).map(|state| (0, EventKind::State(Box::new(state))));
        opens.chain(states).collect()
    }

    /// Whether a packet may say something of what is in force: most do not.
    pub fn may_learn(&self, number: u32, direction: Direction, bytes: &[u8]) -> bool {
        let Some(&first) = bytes.first() else { return false };
        match (PacketType::of(first), direction == Direction::ClientToServer) {
            (
                Some(
                    PacketType::Connect
                    | PacketType::Subscribe
                    | PacketType::Unsubscribe
                    | PacketType::Disconnect,
                ),
                true,
            )
            | (Some(PacketType::Connack | PacketType::Suback | PacketType::Unsuback), false) => true,
            // Others tell only which alias stands for which topic.
            (Some(PacketType::Publish), from_client) => {
                first & RETAIN != 0
                    || (from_client
                        && self.connections.get(&number).is_some_and(|open| {
                            open.info.protocol.is_none_or(ProtocolVersion::has_properties)
                        }))
            }
            _ => false,
        }
    }

    fn packet(&mut self, at: Duration, number: u32, direction: Direction, bytes: &Bytes) {
        if !self.may_learn(number, direction, bytes) {
            return;
        }
        let packet_type = PacketType::of(bytes[0]);
        let from_client = direction == Direction::ClientToServer;
        if packet_type == Some(PacketType::Publish) {
            return self.publish(at, number, from_client, bytes);
        }
        let room = self.room();
        let Some(open) = self.connections.get_mut(&number) else { return };
        // A CONNECT brings its own version.
        let version = if packet_type == Some(PacketType::Connect) {
            Some(ProtocolVersion::V311)
        } else {
            open.info.protocol
        };
        let Some(version) = version else { return };
        // A copy: the bytes are a part of something much larger.
        let Ok(packet) = ControlPacket::decode_copied(bytes, version) else { return };
        match packet {
            // Of an accepted client a second one means nothing.
            ControlPacket::Connect(connect) if open.will.is_none() => {
                open.info.protocol = Some(connect.protocol);
                open.info.client_identifier = Some(connect.client_identifier.as_str().to_owned());
                self.held -= std::mem::take(&mut open.connect_size);
                open.connect = None;
                if let Some(size) = fitting::<Connect>(bytes, 1, room) {
                    (open.connect, open.connect_size) = (Some(connect), size);
                    self.held += size;
                } else {
                    self.left_out.insert(hash(&number), Missing::default());
                }
            }
            ControlPacket::Connack(connack) => self.accept(number, &connack),
            ControlPacket::Subscribe(subscribe) if open.subscribing.len() < REQUESTS_MAX => {
                let count = subscribe.subscriptions.len();
                let Some(size) = fitting::<Subscription>(bytes, count, room) else {
                    let client = open.client.clone();
                    return self.leave_out(client.as_deref(), &subscribe);
                };
                let before = open.subscribing.insert(subscribe.packet_identifier, (subscribe, size));
                open.requests_size += size;
                self.held += size;
                self.answered(number, before.map(|(_, size)| size));
            }
            ControlPacket::Suback(suback) => {
                let request = open.subscribing.remove(&suback.packet_identifier);
                let client = open.client.clone();
                self.answered(number, request.as_ref().map(|(_, size)| *size));
                if let (Some((subscribe, _)), Some(client)) = (request, client) {
                    self.subscribe(&client, subscribe, &suback.reason_codes);
                }
            }
            ControlPacket::Unsubscribe(Unsubscribe { packet_identifier, filters, .. })
                if open.unsubscribing.len() < REQUESTS_MAX =>
            {
                let count = filters.len();
                let Some(size) = fitting::<TopicFilter>(bytes, count, room) else { return };
                let before = open.unsubscribing.insert(packet_identifier, (filters, size));
                open.requests_size += size;
                self.held += size;
                self.answered(number, before.map(|(_, size)| size));
            }
            ControlPacket::Unsuback(unsuback) => {
                let request = open.unsubscribing.remove(&unsuback.packet_identifier);
                let client = open.client.clone();
                self.answered(number, request.as_ref().map(|(_, size)| *size));
                if let (Some((filters, _)), Some(client)) = (request, client) {
                    self.unsubscribe(&client, filters);
                }
            }
            ControlPacket::Disconnect(Disconnect { reason_code, properties }) => {
                if reason_code == ReasonCode::SUCCESS {
                    open.will = None;
                    if open.connect.is_none() {
                        self.held -= std::mem::take(&mut open.connect_size);
                    }
                }
                if let Some(expiry) = properties.session_expiry_interval() {
                    open.session_expiry = expiry;
                }
            }
            _ => {}
        }
    }

    /// There is no room to wait for the answer.
    fn leave_out(&mut self, client: Option<&str>, subscribe: &Subscribe) {
        let Some(client) = client else { return };
        for subscription in &subscribe.subscriptions {
            let missing = Missing { client: Some(hash(&client)), ends_at: None };
            self.left_out.insert(subscription_hash(client, subscription.filter.as_str()), missing);
        }
    }

    /// A request no longer waits.
    fn answered(&mut self, number: u32, size: Option<usize>) {
        let (Some(open), Some(size)) = (self.connections.get_mut(&number), size) else { return };
        open.requests_size -= size;
        self.held -= size;
    }

    fn unsubscribe(&mut self, client: &str, filters: Vec<TopicFilter>) {
        for filter in filters {
            self.left_out.remove(subscription_hash(client, filter.as_str()));
            if let Some(session) = self.sessions.get_mut(client) {
                let removed = session.subscriptions.remove(filter.as_str());
                self.held -= removed.map_or(0, |(subscription, _)| subscription_size(&subscription));
            }
        }
    }

    fn accept(&mut self, number: u32, connack: &Connack) {
        let Some(open) = self.connections.get_mut(&number) else { return };
        let Some(connect) = open.connect.take() else { return };
        if connack.reason_code.is_error() || connect.will.is_none() {
            self.held -= std::mem::take(&mut open.connect_size);
        }
        if connack.reason_code.is_error() {
            return;
        }
        let Connect { protocol, clean_start, properties, client_identifier, will, .. } = *connect;
        let assigned = connack.properties.assigned_client_identifier();
        let client = assigned.unwrap_or(&client_identifier).as_str().to_owned();
        open.session_expiry = match (protocol, clean_start) {
            (ProtocolVersion::V5, _) => {
                let said = connack.properties.session_expiry_interval();
                said.or(properties.session_expiry_interval()).unwrap_or(0)
            }
            (_, true) => 0,
            (_, false) => NEVER,
        };
        open.client = Some(client.clone());
        open.will = will.map(Box::new);
        if !connack.session_present {
            self.forget(&client);
        }
        if let Some(session) = self.session(&client) {
            session.connection = Some(number);
            if let Some(end) = session.ends_at.take() {
                self.ends.remove(&(end, Ending::Session(client)));
            }
        }
    }

    fn subscribe(&mut self, client: &str, subscribe: Subscribe, codes: &[ReasonCode]) {
        let identifier = subscribe.properties.subscription_identifier();
        let owner = hash(&client);
        let is_known = self.session(client).is_some();
        for (mut subscription, code) in subscribe.subscriptions.into_iter().zip(codes) {
            if code.is_error() {
                continue;
            }
            if let Ok(granted) = code.0.try_into() {
                subscription.options = SubscriptionOptions { qos: granted, ..subscription.options };
            }
            let room = self.room();
            let key = subscription.filter.as_str().to_owned();
            let (size, hash) = (subscription_size(&subscription), subscription_hash(client, &key));
            let session = self.sessions.get_mut(client).filter(|_| is_known);
            let Some(session) = session else {
                self.left_out.insert(hash, Missing { client: Some(owner), ends_at: None });
                continue;
            };
            let before = session.subscriptions.remove(&key);
            let before = before.map_or(0, |(before, _)| subscription_size(&before));
            self.held -= before;
            if size > room + before {
                self.left_out.insert(hash, Missing { client: Some(owner), ends_at: None });
                continue;
            }
            self.left_out.remove(hash);
            self.held += size;
            session.subscriptions.insert(key, (subscription, identifier));
        }
    }

    fn publish(&mut self, at: Duration, number: u32, from_client: bool, bytes: &Bytes) {
        let is_retained = bytes[0] & RETAIN != 0;
        let Some(open) = self.connections.get(&number) else { return };
        let Some(version) = open.info.protocol else { return };
        let Ok(publish) = PublishRef::decode(bytes, version) else { return };
        let has_alias = publish.iter_properties().any(|(kind, _)| kind == PropertyIdentifier::TOPIC_ALIAS);
        if !is_retained && !has_alias {
            return;
        }
        let publish = publish.to_publish(bytes);
        let alias = publish.properties.topic_alias().filter(|_| from_client);
        let topic = match (&publish.topic, alias) {
            (Some(topic), alias) => {
                let topic = detached(topic);
                if let (Some(alias), Some(topic)) = (alias, &topic) {
                    let room = self.room();
                    self.aliases.set(number, Direction::ClientToServer, alias, topic, room);
                }
                topic
            }
            (None, Some(alias)) => self.aliases.get(number, Direction::ClientToServer, alias).cloned(),
            (None, None) => None,
        };
        if !is_retained {
            return;
        }
        let Some(topic) = topic else { return };
        // What a server delivers may be older than what it is being told.
        if from_client || !self.retained.contains_key(&topic) {
            self.retain(at, Publish { topic: Some(topic), ..publish });
        }
    }

    fn retain(&mut self, at: Duration, publish: Publish) {
        let Some(topic) = publish.topic.clone() else { return };
        self.forget_retained(&topic);
        let hash = hash(&topic);
        self.left_out.remove(hash);
        if publish.payload.is_empty() {
            return;
        }
        let expiry = publish.properties.message_expiry_interval();
        let ends_at = expiry.map(|seconds| at + Duration::from_secs(seconds.into()));
        let Some(InForce { packet, .. }) = InForce::retained(publish) else { return };
        let retained = Retained { packet, expires_at: ends_at };
        if retained.size() > self.room() {
            self.left_out.insert(hash, Missing { client: None, ends_at });
            return;
        }
        self.held += retained.size();
        self.ends.extend(ends_at.map(|end| (end, Ending::Retained(topic.clone()))));
        self.retained.insert(topic, retained);
    }

    fn forget_retained(&mut self, topic: &TopicName) {
        let Some(retained) = self.retained.remove(topic) else { return };
        self.held -= retained.size();
        if let Some(end) = retained.expires_at {
            self.ends.remove(&(end, Ending::Retained(topic.clone())));
        }
    }

    fn state(&mut self, at: Duration, in_force: &InForce) {
        let packet = ControlPacket::decode_copied(&in_force.packet, ProtocolVersion::V5);
        match (packet, &in_force.client_identifier) {
            (Ok(ControlPacket::Publish(publish)), _) => self.retain(at, publish),
            (Ok(ControlPacket::Subscribe(subscribe)), Some(client)) => {
                let granted = subscribe.subscriptions.iter().map(|one| ReasonCode(one.options.qos.into()));
                let codes: Vec<ReasonCode> = granted.collect();
                self.subscribe(client, subscribe, &codes);
            }
            _ => {}
        }
    }

    fn close(&mut self, at: Duration, number: u32) {
        let Some(open) = self.connections.remove(&number) else { return };
        self.held -= open.size();
        self.aliases.forget(number);
        self.left_out.remove(hash(&number));
        if let Some(client) = &open.client
            && let Some(session) = self.sessions.get_mut(client)
            // It may go on over another connection already.
            && session.connection == Some(number)
        {
            session.connection = None;
            match open.session_expiry {
                0 => self.forget(client),
                NEVER => {}
                seconds => {
                    let end = at + Duration::from_secs(seconds.into());
                    session.ends_at = Some(end);
                    self.ends.insert((end, Ending::Session(client.clone())));
                }
            }
        }
        // Its delay is not waited for.
        if let Some(will) = open.will.filter(|will| will.retain) {
            let Will { qos, mut properties, topic, payload, .. } = *will;
            properties.retain(|property| !matches!(property, Property::WillDelayInterval(_)));
            let publish = Publish {
                dup: false,
                qos,
                retain: true,
                topic: Some(topic),
                packet_identifier: None,
                properties,
                payload,
            };
            self.retain(at, publish);
        }
    }

    /// The session of a client, a new one if need be; `None` if there is no room for it.
    fn session(&mut self, client: &str) -> Option<&mut Session> {
        if !self.sessions.contains_key(client) {
            let size = session_size(client);
            if size > self.room() {
                return None;
            }
            self.held += size;
            self.sessions.insert(client.to_owned(), Session::default());
        }
        self.sessions.get_mut(client)
    }

    fn forget(&mut self, client: &str) {
        self.left_out.forget(client);
        let Some(session) = self.sessions.remove(client) else { return };
        let subscriptions = session.subscriptions.values();
        self.held -= session_size(client)
            + subscriptions.map(|(subscription, _)| subscription_size(subscription)).sum::<usize>();
        if let Some(end) = session.ends_at {
            self.ends.remove(&(end, Ending::Session(client.to_owned())));
        }
    }

    fn forget_ended(&mut self, at: Duration) {
        while self.ends.first().is_some_and(|(end, _)| *end <= at) {
            match self.ends.pop_first() {
                Some((_, Ending::Session(client))) => self.forget(&client),
                Some((_, Ending::Retained(topic))) => self.forget_retained(&topic),
                None => return,
            }
        }
    }
}

impl Open {
    /// Of what it has under way.
    fn size(&self) -> usize {
        self.connect_size + self.requests_size
    }
}

impl Session {
    fn has_ended(&self, at: Duration) -> bool {
        self.ends_at.is_some_and(|end| end <= at)
    }
}

fn session_size(client: &str) -> usize {
    size_of::<Session>() + size_of::<String>() + client.len()
}

fn subscription_size(subscription: &Subscription) -> usize {
    // The filter is the key as well.
    2 * subscription.filter.as_str().len() + size_of::<Subscription>()
}

/// What the packet in `bytes` takes once decoded to so many `T`, if there is `room` for it.
fn fitting<T>(bytes: &[u8], count: usize, room: usize) -> Option<usize> {
    let size = count * size_of::<T>() + bytes.len();
    (size <= room).then_some(size)
}

/// With bytes of its own.
fn detached(topic: &TopicName) -> Option<TopicName> {
    TopicName::parse(topic.as_str()).ok()
}
