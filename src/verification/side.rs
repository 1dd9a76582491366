//! One of the two streams: what happens on it, and which bucket that belongs to.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{
    Identity, Judged, Level, Owner, Place, Rules, Scope, Subject,
    allowance::Allowance,
    bucket::{Bucket, Item},
    content::{EndedBy, Thing},
    exchanges::{Exchange, Exchanges},
    groups::Groups,
    lines::{Line, Lines, StandsFor},
    requests::Requests,
    scope::{Demand, Outside},
    wills::Wills,
};
use crate::{
    packet::{
        Ack, Connect, ControlPacket, PacketIdentifier, Property, Publish, QoS, ReasonCode, TopicName,
        Utf8String,
    },
    recording::{CloseCause, Connections, Direction, Event, EventKind, Seen},
};

/// Of a bucket, on one side and in the verifier, beside its names.
const BUCKET_BYTES: usize = 512;
/// Of a topic, beside its name.
const TOPIC_BYTES: usize = 48;

/// What is followed of one stream of events.
pub struct Side {
    level: Level,
    judged: Judged,
    is_expected: bool,
    scope: Arc<Scope>,
    allowance: Allowance,
    connections: Connections,
    lines: Lines,
    exchanges: Exchanges,
    requests: Requests,
    groups: Groups,
    topics: HashSet<Arc<str>>,
    buckets: HashSet<Arc<Bucket>>,
    /// Connections whose end was announced.
    announced: HashSet<u32>,
    wills: Wills,
    outside: Outside,
    /// Messages that were sent again and are not judged.
    pub repeated: u64,
}

/// Whose an event is, and whether that is judged.
struct About {
    line: Line,
    direction: Direction,
    demand: Demand,
    /// Whoever's it were.
    by_time: Demand,
}

impl About {
    fn new(line: Line, direction: Direction, by_time: Demand) -> Self {
        let demand = if line.is_in_scope { by_time } else { Demand::Ignored };
        Self { line, direction, demand, by_time }
    }
}

impl Side {
    pub fn new(is_expected: bool, level: Level, judged: Judged, identity: Identity) -> Self {
        Self {
            level,
            judged,
            is_expected,
            scope: Arc::default(),
            allowance: Allowance::default(),
            connections: Connections::new(),
            lines: Lines::new(identity),
            exchanges: Exchanges::default(),
            requests: Requests::default(),
            groups: Groups::default(),
            topics: HashSet::new(),
            buckets: HashSet::new(),
            announced: HashSet::new(),
            wills: Wills::default(),
            outside: Outside::default(),
            repeated: 0,
        }
    }

    #[cfg(test)]
    pub fn limit(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// Whether there is more to keep apart than may be.
    pub fn is_too_large(&self) -> bool {
        self.allowance.is_used_up()
    }

    /// Names clients otherwise: the recorded client for each of a replay's.
    pub fn rename(&mut self, names: impl Fn(&str) -> String + Send + 'static) {
        self.lines.rename(names);
    }

    pub fn set_scope(&mut self, scope: Arc<Scope>) {
        self.scope = scope;
    }

    /// What a connection of the other side stands for if it stands for this one.
    pub fn stood_for(&mut self, connection: u32) -> StandsFor {
        self.lines.stood_for(connection, &self.scope, &mut self.allowance)
    }

    /// Names the client of `connection`, should it have no identifier.
    pub fn call(&mut self, connection: u32, name: String) {
        self.lines.call(connection, name);
    }

    pub fn stand(&mut self, connection: u32, stands_for: StandsFor) {
        self.lines.stand(connection, stands_for);
    }

    /// What `event` adds, if it is to be judged; `asked` ignores it whatever it is.
    pub fn read(&mut self, event: &Event, rules: &Rules, asked: Demand) -> Option<Item> {
        let by_time = if self.is_expected { self.scope.demand_at(event.at) } else { Demand::Required };
        let demand = asked.and(by_time);
        match &event.kind {
            EventKind::Packet { direction, bytes } => {
                // What is kept of it is not to keep all that was read together with it.
                let kind = EventKind::Packet { direction: *direction, bytes: Bytes::copy_from_slice(bytes) };
                let event = Event { kind, ..*event };
                let seen = self.connections.follow(&event)?;
                self.packet(&event, *direction, seen, rules, demand)
            }
            EventKind::Raw { direction, bytes } => self.raw(event, *direction, bytes, rules, demand),
            EventKind::Close(cause) => self.close(event, *cause, rules, demand),
            EventKind::Open(_) | EventKind::Gap { .. } => {
                self.connections.follow(event);
                None
            }
            EventKind::Mark(_)
            | EventKind::Mock(_)
            | EventKind::Fault(_)
            | EventKind::State(_)
            | EventKind::Anchor(_) => None,
        }
    }

    fn close(&mut self, event: &Event, cause: CloseCause, rules: &Rules, demand: Demand) -> Option<Item> {
        // A look at whether anybody listens is no client.
        if self.is_unheard(event.connection) {
            self.lines.closed(event.connection, &mut self.allowance);
            self.connections.forget_client(event.connection);
            return None;
        }
        let line = self.line(event.connection);
        let was_announced = self.announced.remove(&event.connection);
        self.requests.close(event.connection, &mut self.allowance);
        self.lines.closed(event.connection, &mut self.allowance);
        self.connections.forget_client(event.connection);
        // Whoever is told to go and whoever tells both close; who is first is chance.
        let by = EndedBy::of(cause).filter(|_| self.level == Level::Packets && !was_announced)?;
        let (by, direction) = match (self.judged, by) {
            // Who stands in for a client does what was done to it.
            (Judged::FromServer, EndedBy::Other) => (EndedBy::Client, Direction::ServerToClient),
            // Judged where either side's own ends are: a client that is closed on cannot close itself.
            (Judged::FromServer, _) => (by, Direction::ServerToClient),
            (Judged::FromClients, _) => (by, Direction::ClientToServer),
            (Judged::Both, EndedBy::Client) => (by, Direction::ClientToServer),
            (Judged::Both, EndedBy::Server | EndedBy::Other) => (by, Direction::ServerToClient),
        };
        let about = About::new(line, direction, demand);
        self.judge(event, &about, Subject::Connection, Thing::End(by), None, rules)
    }

    /// What is no packet, or cannot be read.
    fn raw(
        &mut self,
        event: &Event,
        direction: Direction,
        bytes: &Bytes,
        rules: &Rules,
        demand: Demand,
    ) -> Option<Item> {
        if self.is_unheard(event.connection) {
            return None;
        }
        let line = self.line(event.connection);
        let about = About::new(line, direction, demand);
        self.judge(event, &about, Subject::Connection, Thing::Raw(Bytes::copy_from_slice(bytes)), None, rules)
    }

    fn packet(
        &mut self,
        event: &Event,
        direction: Direction,
        seen: Seen,
        rules: &Rules,
        demand: Demand,
    ) -> Option<Item> {
        let Seen { packet, topic } = seen;
        let Ok(mut packet) = packet else {
            let EventKind::Packet { bytes, .. } = &event.kind else { return None };
            return self.raw(event, direction, bytes, rules, demand);
        };
        let line = match &mut packet {
            ControlPacket::Connect(connect) => self.connect(event.connection, connect),
            _ => self.line(event.connection),
        };
        let mut about = About::new(line, direction, demand);
        if let ControlPacket::Publish(publish) = packet {
            return self.publish(event, about, publish, topic, rules);
        }
        let (subject, nth) = self.subject(event.connection, &mut about, &packet)?;
        // Where only some clients are, others that would get the message may be missing.
        if let ControlPacket::Puback(ack) | ControlPacket::Pubrec(ack) = &mut packet
            && ack.reason_code == ReasonCode::NO_MATCHING_SUBSCRIBERS
            && !self.scope.clients.is_empty()
        {
            ack.reason_code = ReasonCode::SUCCESS;
        }
        self.judge(event, &about, subject, Thing::Packet(packet), nth, rules)
    }

    /// A client says who it is, and is called what it is called here.
    fn connect(&mut self, connection: u32, connect: &mut Connect) -> Line {
        let line = self.lines.connected(connection, connect, &self.scope, &mut self.allowance);
        connect.client_identifier = Utf8String::new(line.session.client.as_str()).unwrap_or_default();
        if let Some(will) = &connect.will {
            match line.is_in_scope {
                true => self.wills.add(will, &line.session.client),
                false => self.outside.add(&will.topic, &will.payload),
            }
        }
        line
    }

    /// What a packet that is no PUBLISH is about, and which exchange it belongs to. An answer is judged if what it answers
    /// is.
    fn subject(
        &mut self,
        connection: u32,
        about: &mut About,
        packet: &ControlPacket,
    ) -> Option<(Subject, Option<u32>)> {
        let (sender, receiver) = (about.direction, opposite(about.direction));
        match packet {
            ControlPacket::Connect(_) => self.request(connection, None, about),
            ControlPacket::Connack(connack) => {
                if !connack.session_present && !connack.reason_code.is_error() {
                    self.exchanges.lose(&about.line.session, connection, &mut self.allowance);
                }
                self.answer(connection, None, about);
            }
            ControlPacket::Disconnect(_) => _ = self.announced.insert(connection),
            ControlPacket::Auth(_) => {}
            ControlPacket::Subscribe(subscribe) => {
                let is_in_scope = about.line.is_in_scope && !self.scope.is_everything();
                for subscription in &subscribe.subscriptions {
                    let (session, filter) = (&about.line.session, &subscription.filter);
                    self.groups.join(session, filter, is_in_scope, &mut self.allowance);
                }
                self.request(connection, Some(subscribe.packet_identifier), about);
            }
            ControlPacket::Unsubscribe(unsubscribe) => {
                self.request(connection, Some(unsubscribe.packet_identifier), about);
            }
            ControlPacket::Suback(suback) => self.answer(connection, Some(suback.packet_identifier), about),
            ControlPacket::Unsuback(unsuback) => {
                self.answer(connection, Some(unsuback.packet_identifier), about);
            }
            ControlPacket::Publish(_) | ControlPacket::Pingreq | ControlPacket::Pingresp => return None,
            ControlPacket::Puback(ack) | ControlPacket::Pubcomp(ack) => {
                return Some(self.exchange(connection, about, packet, ack, receiver, true));
            }
            ControlPacket::Pubrec(ack) => {
                let ends = ack.reason_code.is_error();
                return Some(self.exchange(connection, about, packet, ack, receiver, ends));
            }
            ControlPacket::Pubrel(ack) => {
                return Some(self.exchange(connection, about, packet, ack, sender, false));
            }
        }
        Some((packet_subject(packet), None))
    }

    fn request(&mut self, connection: u32, identifier: Option<PacketIdentifier>, about: &About) {
        self.requests.ask(connection, identifier, about.demand, &mut self.allowance);
    }

    fn answer(&mut self, connection: u32, identifier: Option<PacketIdentifier>, about: &mut About) {
        let asked = self.requests.answer(connection, identifier, &mut self.allowance);
        about.demand = of_answer(about.demand, asked);
    }

    /// The exchange that `ack` belongs to, about a message that `publisher` sent.
    fn exchange(
        &mut self,
        connection: u32,
        about: &mut About,
        packet: &ControlPacket,
        ack: &Ack,
        publisher: Direction,
        ends: bool,
    ) -> (Subject, Option<u32>) {
        let kind = packet.packet_type() as u8;
        let key = (publisher, ack.packet_identifier);
        let ack = (packet.packet_type(), connection);
        match self.exchanges.answered(&about.line.session, key, ack, ends, &mut self.allowance) {
            Some(exchange) => {
                about.demand = of_answer(about.demand, exchange.demand);
                (Subject::Exchanges(kind, exchange.topic), exchange.nth)
            }
            None => {
                // Begun before the recording, so on a topic that may be outside.
                if !self.scope.is_everything() {
                    about.demand = Demand::Ignored;
                }
                (Subject::Exchanges(kind, self.topic("")), None)
            }
        }
    }

    fn publish(
        &mut self,
        event: &Event,
        mut about: About,
        mut publish: Publish,
        topic: Option<TopicName>,
        rules: &Rules,
    ) -> Option<Item> {
        let identifier = publish.packet_identifier.take();
        publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
        publish.topic = topic;
        let topic = publish.topic.as_ref();
        let group = match about.direction {
            Direction::ServerToClient => self.groups.of(&about.line.session, topic),
            Direction::ClientToServer => None,
        };
        about.demand = self.demand_of_message(&about, group.as_ref(), &publish);
        if topic.is_some_and(|topic| rules.skips(topic)) {
            about.demand = Demand::Ignored;
        }
        let name = self.topic(topic.map_or("", TopicName::as_str));
        if let Some(identifier) = identifier
            && !self.begin(event.connection, &about, identifier, name.clone(), &publish)
        {
            self.repeated += u64::from(self.is_judged(Level::Count, &about));
            return None;
        }
        let is_unordered = group.is_some() || topic.is_some_and(|topic| rules.is_unordered(topic));
        let subject = match topic {
            Some(_) => Subject::Messages(name),
            None => Subject::UnknownTopics,
        };
        let owner = group.unwrap_or_else(|| Owner::Session(about.line.session.clone()));
        self.is_judged(Level::Count, &about).then(|| {
            let bucket = self.bucket(owner, about.direction, subject);
            let thing = Thing::Packet(ControlPacket::Publish(publish));
            Item { is_unordered, ..self.item(event, bucket, thing, None, about.demand, rules) }
        })
    }

    /// What is published outside of the scope need not be delivered inside. What a subscriber outside gets that shares with
    /// one inside might as well have come to that one.
    fn demand_of_message(&mut self, about: &About, group: Option<&Owner>, publish: &Publish) -> Demand {
        if self.scope.is_everything() {
            return about.demand;
        }
        let has_topic = self.scope.has_topic(publish.topic.as_ref());
        let demand = match group {
            _ if !has_topic => Demand::Ignored,
            Some(group) if self.groups.is_in_scope(group) => about.by_time,
            _ => about.demand,
        };
        let Some(topic) = &publish.topic else { return demand };
        match (about.direction, demand) {
            (Direction::ClientToServer, Demand::Ignored) => self.outside.add(topic, &publish.payload),
            (Direction::ClientToServer, _) => self.outside.remove(topic, &publish.payload),
            // What is retained is there before it begins.
            (Direction::ServerToClient, _)
                if self.is_expected && !publish.retain && self.outside.has(topic, &publish.payload) =>
            {
                return demand.and(Demand::Allowed);
            }
            (Direction::ServerToClient, _) => {}
        }
        demand
    }

    /// A message begins an exchange; `false` if it is one that is known, sent again. Whoever uses MQTT
    /// hears that once more at QoS 1, not at all at QoS 2; both are as they should be.
    fn begin(
        &mut self,
        connection: u32,
        about: &About,
        identifier: PacketIdentifier,
        topic: Arc<str>,
        publish: &Publish,
    ) -> bool {
        let session = &about.line.session;
        let key = (about.direction, identifier);
        let mut exchange = Exchange::new(publish, topic, connection, about.demand);
        let may_repeat = publish.dup || self.level != Level::Packets;
        if may_repeat && self.exchanges.is_repeated(session, key, &exchange, publish.dup) {
            return false;
        }
        // Where some deliveries need not come, it is not known which one is the n-th.
        let is_numbered = self.level == Level::Packets
            && about.demand != Demand::Ignored
            && (self.scope.is_everything() || about.direction == Direction::ClientToServer);
        if is_numbered {
            self.exchanges.number(session, about.direction, &mut exchange, &mut self.allowance);
        }
        self.exchanges.begin(session, key, exchange, &mut self.allowance);
        true
    }

    fn is_judged(&self, from: Level, about: &About) -> bool {
        self.level >= from && about.demand != Demand::Ignored && self.judged.includes(about.direction)
    }

    /// Something that only level packets looks at.
    fn judge(
        &mut self,
        event: &Event,
        about: &About,
        subject: Subject,
        thing: Thing,
        nth: Option<u32>,
        rules: &Rules,
    ) -> Option<Item> {
        self.is_judged(Level::Packets, about).then(|| {
            let owner = Owner::Session(about.line.session.clone());
            let bucket = self.bucket(owner, about.direction, subject);
            self.item(event, bucket, thing, nth, about.demand, rules)
        })
    }

    fn item(
        &self,
        event: &Event,
        bucket: Arc<Bucket>,
        thing: Thing,
        nth: Option<u32>,
        demand: Demand,
        rules: &Rules,
    ) -> Item {
        let (mut may_repeat, mut will_of) = (false, None);
        if let Thing::Packet(ControlPacket::Publish(publish)) = &thing {
            may_repeat = publish.qos == QoS::AtLeastOnce && (publish.dup || self.level != Level::Packets);
            will_of = self.wills.client(publish);
        }
        let place = Place { seq: event.seq, at: event.at, connection: event.connection };
        let size = event.kind.size() + size_of::<Item>();
        let item = Item {
            bucket,
            place,
            thing,
            size,
            nth,
            exact: 0,
            digest: 0,
            is_unordered: false,
            may_repeat,
            will_of,
            demand,
        };
        item.digested(rules)
    }

    /// Whether nothing has said yet who is there: no CONNECT, no packet, no note of the recording.
    fn is_unheard(&self, connection: u32) -> bool {
        let known = self.connections.get(connection);
        !self.lines.knows(connection) && known.is_none_or(|known| known.client_identifier.is_none())
    }

    fn line(&mut self, connection: u32) -> Line {
        let known = self.connections.get(connection);
        // As sent: what a server assigns is another one each time.
        let client = known.and_then(|known| known.client_identifier.as_deref()).unwrap_or_default();
        self.lines.line(connection, client, &self.scope, &mut self.allowance)
    }

    fn topic(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.topics.get(name) {
            return known.clone();
        }
        self.allowance.take(TOPIC_BYTES + name.len());
        let topic: Arc<str> = name.into();
        self.topics.insert(topic.clone());
        topic
    }

    fn bucket(&mut self, owner: Owner, direction: Direction, subject: Subject) -> Arc<Bucket> {
        let bucket = Bucket { owner, is_from_client: direction == Direction::ClientToServer, subject };
        if let Some(known) = self.buckets.get(&bucket) {
            return known.clone();
        }
        self.allowance.take(BUCKET_BYTES);
        let bucket = Arc::new(bucket);
        self.buckets.insert(bucket.clone());
        bucket
    }
}

/// Of a packet that belongs to no exchange.
fn packet_subject(packet: &ControlPacket) -> Subject {
    match packet {
        ControlPacket::Subscribe(_)
        | ControlPacket::Suback(_)
        | ControlPacket::Unsubscribe(_)
        | ControlPacket::Unsuback(_) => Subject::Subscriptions,
        _ => Subject::Connection,
    }
}

/// What is asked of an answer: what was of the request, unless the answer itself is ignored.
fn of_answer(answer: Demand, request: Demand) -> Demand {
    if answer == Demand::Ignored { answer } else { request }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::ClientToServer => Direction::ServerToClient,
        Direction::ServerToClient => Direction::ClientToServer,
    }
}
