//! From a message to its subscribers' connections and queues: the hot path.
//!
//! A fan-out encodes a PUBLISH once for all receivers that see the same bytes and appends those to
//! each outbox; per subscriber nothing is allocated unless the message has to be kept for it.
//!
//! A Session whose subscriptions overlap gets one copy, with the highest granted QoS, every
//! Subscription Identifier, and RETAIN as published if any of the subscriptions asks for that
//! [MQTT-3.3.4-2], [MQTT-3.3.4-3].
//!
//! A shared subscription gives one member a copy of its own. Members take turns; those that are
//! away or do not read are passed over as long as another one is there, and else it waits for the
//! member whose turn it is. When a member's Session ends, what it had not been sent, and QoS 1
//! messages that it had not acknowledged, go to another member [section 4.8.2].

use std::{collections::VecDeque, sync::Arc, time::Instant};

use slab::Slab;
use smallvec::SmallVec;

use crate::{
    packet::{PacketIdentifier, QoS},
    session::{
        Connection, Delivery, MessageRef, Next, Session, Spares, StoredMessage, SubscriptionKey, Verbatim,
        layout::{self, Encoded, Layout},
    },
};

use super::{
    Broker, BrokerEvent, BrokerStats, DropReason, Limits, Output, Timer,
    journal::Journal,
    pressure::Room,
    retained::Step,
    subscriptions::{Matches, Subscriber, Subscriptions},
};

/// Retained topics looked at in one turn of one Session.
pub(super) const SCAN_BUDGET: usize = 2_048;

/// What is used again for each message.
#[derive(Debug, Default)]
pub(super) struct FanOut {
    finder: Finder,
    /// Members of shared subscriptions that the last message was given to.
    chosen: Vec<(Subscriber, u32)>,
    buffer: Vec<u8>,
    layouts: Layouts,
    pub(super) spares: Spares,
}

/// Finds routes.
#[derive(Debug, Default)]
struct Finder {
    matches: Matches,
    /// Where the last message went, unless a memo says so.
    route: Route,
    memos: Memos,
    /// Numbers the routes that are found.
    serial: u64,
}

/// The receivers of every message of a topic, as long as no subscription changes; which members of
/// shared subscriptions get one is decided each time.
#[derive(Clone, Debug, Default)]
struct Route {
    receivers: Vec<Receiver>,
    /// Subscription Identifiers of the receivers, each chained to the next one by index + 1.
    identifiers: Vec<(u32, u32)>,
    groups: Vec<u32>,
}

/// A Session that gets a copy.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    session: u32,
    qos: QoS,
    retain_as_published: bool,
    /// First and last of the chain of identifiers, by index + 1; 0 for none.
    identifiers: (u32, u32),
    share: Option<u32>,
}

/// Where a message went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routed {
    /// Subscribed Sessions.
    pub matched: usize,
    /// Those of them that were sent it or have it queued.
    pub reached: usize,
}

/// Encodings of one message by version, RETAIN and QoS.
#[derive(Debug, Default)]
struct Layouts {
    encoded: [Encoded; 12],
    /// A bit for each that is of this message.
    known: u16,
}

impl Layouts {
    #[inline]
    fn find(
        &mut self,
        message: &MessageRef<'_>,
        layout: &Layout<'_>,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> Option<Encoded> {
        let index = usize::from(layout.v5) * 6 + usize::from(layout.retain) * 3 + layout.qos as usize;
        if self.known & 1 << index == 0 {
            self.encoded[index] = layout::lay_out(message, layout, now, buffer)?;
            self.known |= 1 << index;
        }
        Some(self.encoded[index])
    }
}

impl Route {
    /// Decides who gets a copy of what matched. `publisher` is left out where it asked for that
    /// [MQTT-3.8.3-3]; returns whether a message of another client could go elsewhere.
    fn find(
        &mut self,
        matches: &mut Matches,
        publisher: Option<u32>,
        sessions: &mut Slab<Session>,
        serial: u64,
    ) -> bool {
        self.receivers.clear();
        self.identifiers.clear();
        std::mem::swap(&mut self.groups, &mut matches.groups);
        let mut depends_on_publisher = false;
        for &subscriber in &matches.subscribers {
            if subscriber.options.no_local {
                depends_on_publisher = true;
                if publisher == Some(subscriber.session) {
                    continue;
                }
            }
            let session = &mut sessions[subscriber.session as usize];
            if session.mark.0 == serial {
                let position = session.mark.1;
                self.merge(position as usize, subscriber);
            } else {
                session.mark = (serial, self.receivers.len() as u32);
                let identifiers = self.add_identifier(subscriber.subscription_identifier);
                self.receivers.push(Receiver::new(subscriber, (identifiers, identifiers), None));
            }
        }
        depends_on_publisher
    }

    /// What it takes to remember it.
    fn len(&self) -> usize {
        self.receivers.len() + self.identifiers.len() + self.groups.len()
    }

    fn merge(&mut self, position: usize, subscriber: Subscriber) {
        let added = self.add_identifier(subscriber.subscription_identifier);
        let receiver = &mut self.receivers[position];
        if added != 0 {
            match receiver.identifiers.1 {
                0 => receiver.identifiers.0 = added,
                last => self.identifiers[last as usize - 1].1 = added,
            }
            receiver.identifiers.1 = added;
        }
        receiver.qos = receiver.qos.max(subscriber.options.qos);
        receiver.retain_as_published |= subscriber.options.retain_as_published;
    }

    /// Its index + 1; 0 if there is none.
    fn add_identifier(&mut self, value: u32) -> u32 {
        if value == 0 {
            return 0;
        }
        self.identifiers.push((value, 0));
        self.identifiers.len() as u32
    }

    fn identifiers_of(&self, receiver: &Receiver) -> SmallVec<[u32; 4]> {
        let mut identifiers = SmallVec::new();
        let mut next = receiver.identifiers.0;
        while next != 0 {
            let (value, after) = self.identifiers[next as usize - 1];
            identifiers.push(value);
            next = after;
        }
        identifiers
    }
}

impl Finder {
    #[inline]
    fn find(
        &mut self,
        topic: &[u8],
        publisher: Option<u32>,
        subscriptions: &Subscriptions,
        sessions: &mut Slab<Session>,
    ) -> &Route {
        let (hash, generation) = (subscriptions.topic_hash(topic), subscriptions.generation());
        let memo = self.memos.slot(hash);
        if memo.is_of(topic, hash, generation) {
            return &memo.route;
        }
        self.serial += 1;
        subscriptions.matches(topic, &mut self.matches);
        let is_for_all = !self.route.find(&mut self.matches, publisher, sessions, self.serial);
        if is_for_all {
            memo.keep(topic, hash, generation, &self.route);
        }
        &self.route
    }
}

impl Receiver {
    fn new(subscriber: Subscriber, identifiers: (u32, u32), share: Option<u32>) -> Self {
        Self {
            session: subscriber.session,
            qos: subscriber.options.qos,
            retain_as_published: subscriber.options.retain_as_published,
            identifiers,
            share,
        }
    }
}

/// Routes of topics that were published to lately.
///
/// One slot for each hash: a topic that comes twice in a row is remembered, and any other one of that
/// hash makes the slot free again.
#[derive(Debug, Default)]
struct Memos(Vec<Memo>);

#[derive(Debug, Default)]
struct Memo {
    /// Of the topic that came last.
    hash: u64,
    /// Of the subscriptions that `route` was found in.
    generation: u64,
    /// Empty while there is none.
    topic: Box<[u8]>,
    route: Route,
}

impl Memos {
    const SLOTS: usize = 1 << 10;

    #[inline]
    fn slot(&mut self, hash: u64) -> &mut Memo {
        if self.0.is_empty() {
            self.0.resize_with(Self::SLOTS, Memo::default);
        }
        &mut self.0[hash as usize % Self::SLOTS]
    }
}

impl Memo {
    /// Longer routes are found anew each time: delivering costs more than finding them.
    const ROUTE_MAX: usize = 256;

    /// Longer topics are.
    const TOPIC_MAX: usize = 256;

    #[inline]
    fn is_of(&self, topic: &[u8], hash: u64, generation: u64) -> bool {
        self.hash == hash && self.generation == generation && *self.topic == *topic
    }

    /// Remembers `route`, if it is worth it.
    fn keep(&mut self, topic: &[u8], hash: u64, generation: u64, route: &Route) {
        let is_again = std::mem::replace(&mut self.hash, hash) == hash;
        if is_again && topic.len() <= Self::TOPIC_MAX && route.len() <= Self::ROUTE_MAX {
            self.generation = generation;
            self.topic = topic.into();
            // With room for no more.
            self.route = route.clone();
        } else {
            // What is there is of another topic, or of other subscriptions.
            self.topic = Box::default();
            self.route = Route::default();
        }
    }
}

/// The parts of the broker that a delivery changes.
struct Deliverer<'a> {
    now: Instant,
    limits: &'a Limits,
    sessions: &'a mut Slab<Session>,
    connections: &'a mut Slab<Connection>,
    outputs: &'a mut VecDeque<Output>,
    stats: &'a mut BrokerStats,
    room: Room,
    /// Bytes of messages that wait for somebody now and did not before.
    added: &'a mut usize,
    buffer: &'a mut Vec<u8>,
    layouts: &'a mut Layouts,
    spares: &'a mut Spares,
    journal: Option<&'a mut Journal>,
    /// Whether nobody gets the message after this one.
    is_last: bool,
}

impl Broker {
    /// Delivers `message` to every subscriber.
    pub(super) fn route(&mut self, now: Instant, message: &MessageRef<'_>, publisher: Option<u32>) -> Routed {
        let mut stored = None;
        if message.retain && self.limits.retain_available {
            self.retain(now, message, publisher, &mut stored);
        }
        self.watch_pressure(now);
        self.observers.show(now, message);
        let room = self.pressure.room();
        let Self {
            limits,
            sessions,
            connections,
            subscriptions,
            outputs,
            stats,
            fan_out,
            pressure,
            journal,
            ..
        } = self;
        let FanOut { finder, chosen, buffer, layouts, spares } = fan_out;
        let route = finder.find(message.topic, publisher, subscriptions, sessions);
        if let Some(packet) = &message.packet
            && let Some(count) = pass_on(packet, message, route, sessions, connections, room, outputs)
        {
            stats.delivered[QoS::AtMostOnce as usize] += count as u64;
            stats.packets_sent += count as u64;
            pressure.added += count * packet.bytes.len();
            stats.payload_bytes_sent += (count * message.payload.as_bytes().len()) as u64;
            return Routed { matched: count, reached: count };
        }
        chosen.clear();
        for &share in &route.groups {
            let is_ready = |session| is_ready(&sessions[session as usize], connections, room);
            chosen.extend(subscriptions.choose(share, is_ready).map(|subscriber| (subscriber, share)));
        }
        buffer.clear();
        layouts.known = 0;
        let mut left = route.receivers.len() + chosen.len();
        let is_last = left == 1;
        let mut deliverer = Deliverer {
            now,
            limits,
            sessions,
            connections,
            outputs,
            stats,
            room,
            added: &mut pressure.added,
            buffer,
            layouts,
            spares,
            journal: journal.as_deref_mut(),
            is_last,
        };
        let mut reached = 0;
        for receiver in &route.receivers {
            let identifiers = || route.identifiers_of(receiver);
            reached += usize::from(deliverer.deliver(receiver, identifiers, message, &mut stored));
            left -= 1;
            deliverer.is_last = left == 1;
        }
        for &(subscriber, share) in &*chosen {
            reached += usize::from(deliverer.deliver_to_member(subscriber, share, message, &mut stored));
            left -= 1;
            deliverer.is_last = left == 1;
        }
        Routed { matched: route.receivers.len() + chosen.len(), reached }
    }

    /// Gives a message that a member of a shared subscription did not get to another member.
    pub(super) fn hand_on(&mut self, now: Instant, delivery: Delivery) {
        let room = self.pressure.room();
        let Self {
            limits,
            sessions,
            connections,
            subscriptions,
            outputs,
            stats,
            fan_out,
            pressure,
            journal,
            ..
        } = self;
        let Some(share) = delivery.share else { return };
        if delivery.message.is_expired(now) {
            stats.dropped_expired += 1;
            return;
        }
        let chosen =
            subscriptions.choose(share, |session| is_ready(&sessions[session as usize], connections, room));
        let Some(subscriber) = chosen else { return };
        let FanOut { buffer, layouts, spares, .. } = fan_out;
        buffer.clear();
        layouts.known = 0;
        let mut deliverer = Deliverer {
            now,
            limits,
            sessions,
            connections,
            outputs,
            stats,
            room,
            added: &mut pressure.added,
            buffer,
            layouts,
            spares,
            journal: journal.as_deref_mut(),
            is_last: true,
        };
        let message = delivery.message.as_message();
        deliverer.deliver_to_member(subscriber, share, &message, &mut Some(delivery.message.clone()));
    }

    /// Sends what waits for a Session as far as its connection has room: repeated messages first,
    /// then what is queued, lookups of retained messages in their place.
    pub(super) fn pump(&mut self, now: Instant, index: u32) {
        let mut budget = SCAN_BUDGET;
        self.pump_within(now, index, &mut budget);
    }

    /// The same, looking at no more than `budget` retained topics.
    pub(super) fn pump_within(&mut self, now: Instant, index: u32, budget: &mut usize) {
        let room = self.pressure.room();
        let Self {
            limits,
            sessions,
            connections,
            outputs,
            stats,
            fan_out,
            retained,
            figures,
            timers,
            pressure,
            journal,
            ..
        } = self;
        let FanOut { buffer, layouts, spares, .. } = fan_out;
        let mut deliverer = Deliverer {
            now,
            limits,
            sessions,
            connections,
            outputs,
            stats,
            room,
            added: &mut pressure.added,
            buffer,
            layouts,
            spares,
            journal: journal.as_deref_mut(),
            is_last: true,
        };
        // Subscriptions whose lookups got further.
        let mut looked_up = SmallVec::<[SubscriptionKey; 1]>::new();
        loop {
            let session = &mut deliverer.sessions[index as usize];
            let Some(connection) = session.connection else { break };
            if deliverer.connections[connection as usize].outbox.len() > deliverer.room.outbox {
                break;
            }
            if !session.resend.is_empty() {
                if !deliverer.resend(index, connection) {
                    break;
                }
                continue;
            }
            let receiving = &deliverer.connections[connection as usize];
            let may_begin = has_slot(session, receiving, deliverer.limits, deliverer.room);
            if session.queue.take_missed() {
                for scan in session.queue.scans_mut() {
                    let retained = if scan.is_of_figures { &figures.retained } else { &*retained };
                    retained.extend(scan);
                }
            }
            // A lookup that has had its turn goes on when the timer says so, whatever wakes us before.
            let is_paused = session.scan_at.is_some();
            let (place, scan) = match session.queue.next(may_begin) {
                None => break,
                Some(Next::Retained(..)) if is_paused => break,
                Some(Next::Message(delivery)) => {
                    deliverer.send_queued(index, connection, delivery);
                    continue;
                }
                Some(Next::Retained(place, scan)) => (place, scan),
            };
            let retained = if scan.is_of_figures { &figures.retained } else { &*retained };
            if session.number != 0 && !scan.is_of_figures && !looked_up.contains(&scan.subscription) {
                looked_up.push(scan.subscription);
            }
            match retained.next(scan, now, budget) {
                Step::Found(message) => {
                    let qos = message.as_message().qos.min(scan.lookup.qos);
                    let subscription_identifiers = scan.lookup.subscription_identifier.into_iter().collect();
                    // [MQTT3-3.3.1-8]
                    let delivery = Delivery {
                        message,
                        qos,
                        retain: true,
                        subscription_identifiers,
                        share: None,
                        record: 0,
                    };
                    deliverer.begin(index, connection, delivery);
                }
                Step::Pause => {
                    timers.set(&mut session.scan_at, Some(now), Timer::RetainedScan(index));
                    break;
                }
                Step::Done => session.queue.finish(place),
            }
        }
        for key in looked_up {
            self.note_subscription(now, index, key, false);
        }
    }
}

/// Whether a shared subscription prefers this member: it is connected and keeps up.
fn is_ready(session: &Session, connections: &Slab<Connection>, room: Room) -> bool {
    session.connection.is_some_and(|index| connections[index as usize].outbox.len() <= room.outbox)
}

/// Whether a message of QoS 1 or 2 may be sent for the first time.
fn has_slot(session: &Session, connection: &Connection, limits: &Limits, room: Room) -> bool {
    session.inflight.len() < usize::from(limits.inflight_max)
        && session.inflight.bytes() < room.queue
        && connection.has_quota()
}

/// Begins an exchange that is kept, on a connection that is then to be sent the PUBLISH.
fn begin_kept(
    now: Instant,
    session: &mut Session,
    connection: &mut Connection,
    delivery: Delivery,
    journal: &mut Journal,
    outputs: &mut VecDeque<Output>,
) -> Option<PacketIdentifier> {
    let is_exactly_once = delivery.qos == QoS::ExactlyOnce;
    let identifier = session.inflight.begin(delivery.clone())?;
    journal.deliver(now, session.number, delivery, Some(session.inflight.last_serial()), outputs);
    if is_exactly_once {
        // Sent without being known, it might be sent again as another message.
        journal.hold(connection, outputs);
    }
    Some(identifier)
}

/// Sends the most frequent message, of QoS 0 and not retained, if its packet is what every receiver is to
/// be sent; to how many.
#[inline]
fn pass_on(
    packet: &Verbatim<'_>,
    message: &MessageRef<'_>,
    route: &Route,
    sessions: &Slab<Session>,
    connections: &mut Slab<Connection>,
    room: Room,
    outputs: &mut VecDeque<Output>,
) -> Option<usize> {
    let takes_it = |receiver: &Receiver, connection: &Connection| {
        packet.v5 == connection.is_v5()
            && receiver.identifiers.0 == 0
            && !connection.has_aliases()
            && connection.outbox.len() <= room.outbox
            && packet.bytes.len() <= connection.packet_size_maximum
    };
    let connection_of = |receiver: &Receiver| sessions[receiver.session as usize].connection;
    let is_simple = |receiver: &Receiver| {
        connection_of(receiver).is_some_and(|index| takes_it(receiver, &connections[index as usize]))
    };
    if message.qos != QoS::AtMostOnce
        || message.retain
        || !route.groups.is_empty()
        || !route.receivers.iter().all(is_simple)
    {
        return None;
    }
    for index in route.receivers.iter().filter_map(connection_of) {
        let connection = &mut connections[index as usize];
        if connection.outbox.is_empty() {
            outputs.push_back(Output::Flush(connection.id));
        }
        connection.outbox.extend(packet.bytes);
    }
    Some(route.receivers.len())
}

/// The message to keep for one receiver. The last one takes it, so that nobody else counts.
#[inline]
fn take_stored(
    stored: &mut Option<Arc<StoredMessage>>,
    message: &MessageRef<'_>,
    spares: &mut Spares,
    is_last: bool,
) -> Arc<StoredMessage> {
    let taken = stored.take().unwrap_or_else(|| spares.store(message));
    if !is_last {
        *stored = Some(taken.clone());
    }
    taken
}

/// Encodes a PUBLISH of no more than `longest` bytes: without a Topic Alias of ours, if it is that
/// which makes it too large. One that does not fit leaves nothing behind.
fn encode_within(
    longest: usize,
    message: &MessageRef<'_>,
    layout: &mut Layout<'_>,
    now: Instant,
    buffer: &mut Vec<u8>,
) -> Option<Encoded> {
    let begin = buffer.len();
    loop {
        let encoded = layout::encode(message, layout, now, buffer);
        if let Some(encoded) = encoded.filter(|encoded| encoded.size <= longest) {
            return Some(encoded);
        }
        buffer.truncate(begin);
        layout.alias.take()?;
    }
}

impl Deliverer<'_> {
    /// Delivers to the member of a shared subscription whose turn it is.
    fn deliver_to_member(
        &mut self,
        member: Subscriber,
        share: u32,
        message: &MessageRef<'_>,
        stored: &mut Option<Arc<StoredMessage>>,
    ) -> bool {
        let identifier = Some(member.subscription_identifier).filter(|&value| value != 0);
        let receiver = Receiver::new(member, (0, 0), Some(share));
        self.deliver(&receiver, || identifier.into_iter().collect(), message, stored)
    }

    /// Sends, queues or drops one receiver's copy; whether it was not dropped.
    #[inline]
    fn deliver(
        &mut self,
        receiver: &Receiver,
        identifiers: impl FnOnce() -> SmallVec<[u32; 4]>,
        message: &MessageRef<'_>,
        stored: &mut Option<Arc<StoredMessage>>,
    ) -> bool {
        let qos = message.qos.min(receiver.qos);
        let retain = message.retain && receiver.retain_as_published;
        let session = &mut self.sessions[receiver.session as usize];
        let connection = session.connection.map(|index| &mut self.connections[index as usize]);
        let has_room =
            connection.as_ref().is_some_and(|connection| connection.outbox.len() <= self.room.outbox);
        let identifiers = identifiers();
        if qos == QoS::AtMostOnce {
            if !has_room {
                // A client that is away misses QoS 0 messages; one that is slow has them dropped.
                if connection.is_some() {
                    self.drop_full(receiver.session);
                }
                return false;
            }
        } else {
            let may_begin = has_room
                && session.is_caught_up()
                && connection
                    .as_ref()
                    .is_some_and(|connection| has_slot(session, connection, self.limits, self.room));
            if !may_begin {
                let message = take_stored(stored, message, self.spares, self.is_last);
                let share = receiver.share;
                let subscription_identifiers = identifiers;
                let delivery = Delivery { message, qos, retain, subscription_identifiers, share, record: 0 };
                return self.queue(receiver.session, delivery);
            }
        }
        let Some(connection) = connection else { return false };
        let v5 = connection.is_v5();
        let alias = connection.alias_for(message.topic);
        let mut layout = Layout {
            v5,
            qos,
            retain,
            dup: false,
            alias,
            subscription_identifiers: if v5 { &identifiers } else { &[] },
        };
        // What no other receiver sees is not kept for them.
        let is_its_own = alias.is_some() || !layout.subscription_identifiers.is_empty();
        let begin = self.buffer.len();
        let encoded = if is_its_own {
            encode_within(connection.packet_size_maximum, message, &mut layout, self.now, self.buffer)
        } else {
            self.layouts.find(message, &layout, self.now, self.buffer)
        };
        let Some(encoded) = encoded.filter(|encoded| encoded.size <= connection.packet_size_maximum) else {
            // [MQTT-3.1.2-25] It counts as sent.
            self.drop_too_large(receiver.session);
            return true;
        };
        let alias = layout.alias;
        let mut packet_identifier = 0;
        if qos != QoS::AtMostOnce {
            let message = take_stored(stored, message, self.spares, self.is_last);
            let share = receiver.share;
            let subscription_identifiers = identifiers.clone();
            let mut delivery = Delivery { message, qos, retain, subscription_identifiers, share, record: 0 };
            let kept = self.journal.as_deref_mut().filter(|_| session.number != 0);
            // There are fewer exchanges than the limit, and so than identifiers.
            let begun = match kept {
                None => session.inflight.begin(delivery),
                Some(journal) => {
                    delivery.record = journal.next_record();
                    begin_kept(self.now, session, connection, delivery, journal, self.outputs)
                }
            };
            let Some(identifier) = begun else { return false };
            packet_identifier = identifier.get();
            connection.send_used += 1;
        }
        if connection.outbox.is_empty() {
            self.outputs.push_back(Output::Flush(connection.id));
        }
        encoded.send(packet_identifier, message, self.buffer, &mut connection.outbox);
        if is_its_own {
            self.buffer.truncate(begin);
        }
        if let Some(alias) = alias {
            connection.alias_was_sent(alias, message.topic);
        }
        self.count_delivered(qos, message);
        true
    }

    #[inline]
    fn count_delivered(&mut self, qos: QoS, message: &MessageRef<'_>) {
        // Unacknowledged, it waits in flight as well.
        *self.added += message.size() << u8::from(qos != QoS::AtMostOnce);
        self.stats.delivered[qos as usize] += 1;
        self.stats.packets_sent += 1;
        self.stats.payload_bytes_sent += message.payload.as_bytes().len() as u64;
    }

    fn queue(&mut self, index: u32, mut delivery: Delivery) -> bool {
        let session = &mut self.sessions[index as usize];
        let number = session.number;
        let mut journal = self.journal.as_deref_mut().filter(|_| number != 0);
        session.queue.expire(self.now, |expired| {
            self.stats.dropped_expired += 1;
            if let Some(journal) = journal.as_deref_mut() {
                journal.end(self.now, number, expired.record, self.outputs);
            }
        });
        *self.added += delivery.message.size();
        let kept = journal.map(|journal| {
            delivery.record = journal.next_record();
            (journal, delivery.clone())
        });
        match session.queue.push(delivery, self.limits.queue_messages, self.room.queue) {
            Ok(()) => {
                if let Some((journal, delivery)) = kept {
                    journal.deliver(self.now, number, delivery, None, self.outputs);
                }
                true
            }
            Err(full) => {
                self.count_full(index, full.is_first);
                false
            }
        }
    }

    fn drop_full(&mut self, index: u32) {
        let full = self.sessions[index as usize].queue.refuse();
        self.count_full(index, full.is_first);
    }

    /// Counts a drop, and reports the first one of a run.
    fn count_full(&mut self, index: u32, is_first: bool) {
        self.stats.dropped_queue_full += 1;
        if is_first {
            self.report_drop(index, DropReason::QueueFull);
        }
    }

    fn drop_too_large(&mut self, index: u32) {
        self.stats.dropped_too_large += 1;
        self.report_drop(index, DropReason::TooLarge);
    }

    fn report_drop(&mut self, index: u32, reason: DropReason) {
        let client_identifier = self.sessions[index as usize].client_identifier.to_string();
        self.outputs.push_back(Output::Emit(BrokerEvent::Dropped { client_identifier, reason }));
    }

    /// Repeats the next unacknowledged message; whether there was quota for it.
    fn resend(&mut self, index: u32, connection: u32) -> bool {
        if !self.connections[connection as usize].has_quota() {
            return false;
        }
        let Some(identifier) = self.sessions[index as usize].resend.pop_front() else { return false };
        let Some(delivery) = self.sessions[index as usize].inflight.published(identifier).cloned() else {
            // Acknowledged without having been repeated.
            return true;
        };
        if delivery.qos == QoS::ExactlyOnce
            && let Some(journal) = self.journal.as_deref_mut().filter(|_| delivery.record != 0)
        {
            // It may not have left over the connection before.
            journal.hold(&mut self.connections[connection as usize], self.outputs);
        }
        if self.send(connection, &delivery, identifier.get(), true) {
            self.sessions[index as usize].inflight.resend(identifier);
            self.connections[connection as usize].send_used += 1;
        } else {
            self.sessions[index as usize].inflight.complete(identifier);
            self.end(index, delivery.record);
            self.drop_too_large(index);
        }
        true
    }

    /// Notes that nothing is to become of a delivery any more.
    fn end(&mut self, index: u32, record: u64) {
        let number = self.sessions[index as usize].number;
        if let Some(journal) = self.journal.as_deref_mut().filter(|_| number != 0 && record != 0) {
            journal.end(self.now, number, record, self.outputs);
        }
    }

    /// Sends a message that has waited, or finds it expired.
    fn send_queued(&mut self, index: u32, connection: u32, delivery: Delivery) {
        if delivery.message.is_expired(self.now) {
            self.stats.dropped_expired += 1;
            self.end(index, delivery.record);
        } else {
            self.begin(index, connection, delivery);
        }
    }

    /// Sends a message for the first time, after the caller has seen that it may.
    fn begin(&mut self, index: u32, connection: u32, mut delivery: Delivery) {
        if delivery.qos == QoS::AtMostOnce {
            if !self.send(connection, &delivery, 0, false) {
                self.drop_too_large(index);
            }
            return;
        }
        let session = &mut self.sessions[index as usize];
        let begun = match self.journal.as_deref_mut().filter(|_| session.number != 0) {
            None => session.inflight.begin(delivery.clone()),
            Some(journal) => {
                if delivery.record == 0 {
                    delivery.record = journal.next_record();
                }
                let connection = &mut self.connections[connection as usize];
                begin_kept(self.now, session, connection, delivery.clone(), journal, self.outputs)
            }
        };
        let Some(identifier) = begun else { return };
        if self.send(connection, &delivery, identifier.get(), false) {
            self.connections[connection as usize].send_used += 1;
        } else {
            self.sessions[index as usize].inflight.complete(identifier);
            self.end(index, delivery.record);
            self.drop_too_large(index);
        }
    }

    /// Appends one PUBLISH; `false` if it is larger than the client takes.
    fn send(&mut self, connection: u32, delivery: &Delivery, identifier: u16, dup: bool) -> bool {
        let connection = &mut self.connections[connection as usize];
        let message = delivery.message.as_message();
        let v5 = connection.is_v5();
        let alias = connection.alias_for(message.topic);
        let mut layout = Layout {
            v5,
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            alias,
            subscription_identifiers: if v5 { &delivery.subscription_identifiers } else { &[] },
        };
        self.buffer.clear();
        let longest = connection.packet_size_maximum;
        let Some(encoded) = encode_within(longest, &message, &mut layout, self.now, self.buffer) else {
            return false;
        };
        if connection.outbox.is_empty() {
            self.outputs.push_back(Output::Flush(connection.id));
        }
        encoded.send(identifier, &message, self.buffer, &mut connection.outbox);
        if let Some(alias) = layout.alias {
            connection.alias_was_sent(alias, message.topic);
        }
        self.count_delivered(delivery.qos, &message);
        true
    }
}
