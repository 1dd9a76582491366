//! What lets the events through that an [`EventFilter`] means.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use smallvec::{SmallVec, smallvec};

use super::{
    Connections, Direction, Event, EventFilter, EventKind, LongPackets, Purpose, Seen, exchanges::Exchanges,
    filter::Told,
};

/// Events of a connection that wait until it is known whose it is.
const HELD_MAX: usize = 16;

/// An event that is meant, with what it turned out to be.
pub type Sifted = (Event, Option<Seen>);

/// Lets through the events of a recording that are meant. Has to see all of them in their order, because what a packet
/// means and whose it is depends on those before.
///
/// Where clients matter, it is known whose a connection is only once its CONNECT has come, and for clients that are
/// given an identifier, its CONNACK: what came before waits until then and follows late. Who can go through the events
/// beforehand ([`learn`](Self::learn)) has each in its place.
#[derive(Clone, Debug)]
pub struct Sieve {
    filter: EventFilter,
    purpose: Purpose,
    connections: Connections,
    long: LongPackets,
    /// Those of messages whose topic is known, where topics are asked for.
    exchanges: Exchanges,
    /// Of connections whose client is known, whether they are meant.
    decided: HashMap<u32, bool>,
    /// Of the others, what has come.
    held: HashMap<u32, Vec<Sifted>>,
    /// The connections that are meant, learnt beforehand.
    learnt: Option<Arc<HashSet<u32>>>,
}

impl Sieve {
    pub fn new(filter: EventFilter, purpose: Purpose) -> Self {
        Self {
            filter,
            purpose,
            connections: Connections::new(),
            long: LongPackets::default(),
            exchanges: Exchanges::default(),
            decided: HashMap::new(),
            held: HashMap::new(),
            learnt: None,
        }
    }

    pub fn filter(&self) -> &EventFilter {
        &self.filter
    }

    /// The connections that are open by now.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Goes through all events to learn whose connections are whose, if that matters. Keeps a number for each connection
    /// that is meant.
    ///
    /// # Errors
    /// Those of the events.
    pub fn learn<E>(&mut self, events: impl IntoIterator<Item = Result<Event, E>>) -> Result<(), E> {
        if !self.filter.asks_for_clients() {
            return Ok(());
        }
        let mut connections = Connections::new();
        let mut wanted = HashSet::new();
        for event in events {
            let event = event?;
            connections.outline(&event);
            if event.connection == 0 {
                continue;
            }
            let client = connections.get(event.connection).and_then(|connection| connection.client());
            if self.filter.has_client(client) {
                wanted.insert(event.connection);
            } else {
                // It may have had no name yet when `*` matched it.
                wanted.remove(&event.connection);
            }
            if matches!(event.kind, EventKind::Close(_)) {
                connections.forget_client(event.connection);
            }
        }
        self.learnt = Some(Arc::new(wanted));
        Ok(())
    }

    /// Takes the next event. Answers with those that are meant and whose turn is now, mostly none or this one.
    pub fn push(&mut self, event: Event) -> SmallVec<[Sifted; 1]> {
        let reads_all = self.purpose == Purpose::Look || !self.filter.topics.is_empty();
        let seen = if reads_all {
            self.connections.follow(&event)
        } else {
            self.connections.outline(&event);
            None
        };
        let number = event.connection;
        let closes = matches!(event.kind, EventKind::Close(_));
        let connection = self.connections.get(number);
        let is_up = || connection.is_some_and(|connection| connection.protocol.is_some());
        let long = self.long.follow(&event, is_up);
        if let Some(packet) = long.as_ref().filter(|packet| packet.is_first)
            && let (Some(topic), Some(identifier)) = (&packet.topic, packet.packet_identifier)
            && !self.filter.topics.is_empty()
        {
            let client = connection.and_then(|connection| connection.client());
            let is_meant = self.filter.has_topic(topic);
            self.exchanges.begin(number, client, packet.direction, identifier, is_meant);
        }
        let acknowledges = self.acknowledges(&event, seen.as_ref());
        let told = Told { seen: seen.as_ref(), long: long.as_ref(), acknowledges };
        let is_meant = self.filter.has_event(self.purpose, &event, told);
        let mut out = SmallVec::new();
        match self.has_connection(&event, closes) {
            Some(true) => {
                out.extend(self.held.remove(&number).into_iter().flatten());
                if is_meant {
                    out.push((event, seen));
                }
            }
            Some(false) => {
                self.held.remove(&number);
            }
            None if is_meant => self.held.entry(number).or_default().push((event, seen)),
            None => {}
        }
        if closes {
            let client = self.connections.get(number).and_then(|connection| connection.client());
            self.exchanges.close(number, client);
            self.connections.forget_client(number);
            self.decided.remove(&number);
        }
        out
    }

    /// Of an acknowledgement, whether its message has a topic that is meant.
    fn acknowledges(&mut self, event: &Event, seen: Option<&Seen>) -> Option<bool> {
        let EventKind::Packet { direction, .. } = event.kind else { return None };
        let Seen { packet: Ok(packet), topic } = seen? else { return None };
        if self.filter.topics.is_empty() {
            return None;
        }
        let is_meant = topic.as_ref().map(|topic| self.filter.has_topic(topic));
        let client = self.connections.get(event.connection).and_then(|connection| connection.client());
        self.exchanges.follow(event.connection, client, direction, packet, is_meant)
    }

    /// Whether what stood when an excerpt begins is to be said in it; `event` is an OPEN or a STATE.
    pub(super) fn wants_standing(&self, event: &Event) -> bool {
        let has_connection = match &event.kind {
            EventKind::Open(info) => {
                let number = event.connection;
                let has_number =
                    self.filter.connections.is_empty() || self.filter.connections.contains(&number);
                let client = info.client_identifier.as_deref().filter(|client| !client.is_empty());
                has_number
                    && self
                        .learnt
                        .as_ref()
                        .map_or_else(|| self.filter.has_client(client), |learnt| learnt.contains(&number))
            }
            _ => true,
        };
        has_connection && self.filter.has_event(self.purpose, event, Told::default())
    }

    /// The events that still wait because nobody knows whose they are; call when no more come.
    pub fn finish(&mut self) -> SmallVec<[Sifted; 1]> {
        if !self.filter.has_client(None) {
            return smallvec![];
        }
        let mut rest: SmallVec<[Sifted; 1]> = self.held.drain().flat_map(|(_, events)| events).collect();
        rest.sort_unstable_by_key(|(event, _)| event.seq);
        rest
    }

    /// Whether the connection of `event` is meant; `None` if that cannot be told yet.
    fn has_connection(&mut self, event: &Event, closes: bool) -> Option<bool> {
        let number = event.connection;
        if number == 0 {
            return Some(self.purpose == Purpose::Keep || self.filter.connections.is_empty());
        }
        if !self.filter.connections.is_empty() && !self.filter.connections.contains(&number) {
            return Some(false);
        }
        if !self.filter.asks_for_clients() {
            return Some(true);
        }
        if let Some(learnt) = &self.learnt {
            return Some(learnt.contains(&number));
        }
        if let Some(decided) = self.decided.get(&number) {
            return Some(*decided);
        }
        let client = self.connections.get(number).and_then(|connection| connection.client());
        let is_answered =
            matches!(&event.kind, EventKind::Packet { direction: Direction::ServerToClient, .. });
        let is_late = self.held.get(&number).is_some_and(|held| held.len() >= HELD_MAX);
        let told = match &event.kind {
            EventKind::Fault(fault) if client.is_none() => Some(&*fault.client_identifier),
            _ => client,
        };
        let told = told.filter(|client| !client.is_empty());
        if told.is_none() && !(closes || is_answered || is_late) {
            return None;
        }
        let has = self.filter.has_client(told);
        self.decided.insert(number, has);
        Some(has)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use super::*;
    use crate::{
        packet::{
            Ack, Connack, Connect, ControlPacket, PacketIdentifier, PacketType, Properties, Property,
            ProtocolVersion, QoS, ReasonCode, Suback, TopicFilter,
        },
        recording::{
            CloseCause, FaultInjected, InForce, NamePattern,
            sample::{self, ack, connack, connect, from_client, from_server, identified, open, publish},
        },
    };

    const V5: ProtocolVersion = ProtocolVersion::V5;

    fn message(topic: &str) -> EventKind {
        from_client(publish(Some(topic), b"on", Vec::new()))
    }

    fn in_force(client: Option<&str>, topic: &str) -> EventKind {
        let EventKind::Packet { bytes, .. } = message(topic) else { unreachable!("it makes packets") };
        let client_identifier = client.map(str::to_owned);
        EventKind::State(Box::new(InForce { client_identifier, packet: bytes }))
    }

    /// Two clients, the second of which came first and is given its name by the server.
    fn events() -> Vec<Event> {
        let assigned = Connack {
            session_present: false,
            reason_code: ReasonCode::SUCCESS,
            properties: Properties(vec![Property::AssignedClientIdentifier(sample::text("auto-7"))]),
        };
        let assigned = ControlPacket::Connack(assigned);
        let acked = identified(publish(Some("a/x"), b"1", Vec::new()), QoS::AtLeastOnce, 1, false);
        let fault = FaultInjected { topic: "a/x".to_owned(), ..sample::fault("drop", "{}") };
        sample::events([
            (0, 0, in_force(None, "a/kept")),
            (0, 0, in_force(Some("dev-1"), "s")),
            (1, 1, open()),
            (2, 2, open()),
            (3, 2, connect("dev-1", V5)),
            (4, 1, connect("", V5)),
            (5, 2, connack(false, V5)),
            (6, 1, sample::packet(Direction::ServerToClient, V5, assigned)),
            (7, 2, from_client(acked)),
            (8, 2, ack(ControlPacket::Puback as fn(Ack) -> _, 1)),
            (9, 1, from_server(publish(Some("a/x"), b"1", Vec::new()))),
            (10, 0, EventKind::Mark("half".to_owned())),
            (11, 2, message("b")),
            (12, 1, EventKind::Fault(Box::new(fault))),
            (13, 1, EventKind::Raw { direction: Direction::ClientToServer, bytes: vec![0].into() }),
            (14, 0, EventKind::Gap { events: 1, bytes: 2 }),
            (15, 1, EventKind::Close(CloseCause::ClientFin)),
        ])
    }

    fn name(event: &Event) -> String {
        let what = match &event.kind {
            EventKind::Packet { bytes, .. } => PacketType::of(bytes[0]).unwrap().name(),
            kind => kind.name(),
        };
        format!("{}:{what}", event.connection)
    }

    fn sifted(purpose: Purpose, learn: bool, filter: EventFilter) -> String {
        let mut sieve = Sieve::new(filter, purpose);
        if learn {
            sieve.learn(events().into_iter().map(Ok::<_, Infallible>)).unwrap();
        }
        let mut out: Vec<Event> =
            events().into_iter().flat_map(|event| sieve.push(event)).map(|(event, _)| event).collect();
        out.extend(sieve.finish().into_iter().map(|(event, _)| event));
        out.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    fn topics(filter: &str) -> EventFilter {
        EventFilter { topics: vec![TopicFilter::parse(filter).unwrap()], ..EventFilter::default() }
    }

    fn clients(pattern: &str) -> EventFilter {
        EventFilter { clients: vec![NamePattern::new(pattern)], ..EventFilter::default() }
    }

    #[test]
    fn who_looks_is_shown_what_is_meant_and_nothing_else() {
        let look = |filter| sifted(Purpose::Look, true, filter);
        expect_test::expect!["0:STATE 2:PUBLISH 2:PUBACK 1:PUBLISH 1:FAULT"].assert_eq(&look(topics("a/#")));
        expect_test::expect!["1:OPEN 1:CONNECT 1:CONNACK 1:PUBLISH 1:FAULT 1:RAW 1:CLOSE"]
            .assert_eq(&look(clients("auto-*")));
        expect_test::expect!["0:STATE 2:OPEN 2:CONNECT 2:CONNACK 2:PUBLISH 2:PUBACK 2:PUBLISH"]
            .assert_eq(&look(clients("dev-?")));
        let types = vec![PacketType::Publish, PacketType::Puback];
        expect_test::expect!["2:PUBLISH 2:PUBACK 1:PUBLISH 2:PUBLISH 1:FAULT"]
            .assert_eq(&look(EventFilter { types, ..Default::default() }));
        let direction = Some(Direction::ServerToClient);
        expect_test::expect!["2:CONNACK 1:CONNACK 2:PUBACK 1:PUBLISH"]
            .assert_eq(&look(EventFilter { direction, ..Default::default() }));
        expect_test::expect!["1:OPEN 1:CONNECT 1:CONNACK 1:PUBLISH 1:FAULT 1:RAW 1:CLOSE"]
            .assert_eq(&look(EventFilter { connections: vec![1], ..Default::default() }));
        let (start, until) = (Some(Duration::from_micros(10)), Some(Duration::from_micros(12)));
        expect_test::expect!["0:MARK 2:PUBLISH"].assert_eq(&look(EventFilter {
            start,
            until,
            ..Default::default()
        }));
        assert_eq!(look(EventFilter::default()).split(' ').count(), events().len());
    }

    #[test]
    fn what_becomes_a_recording_can_be_read() {
        let keep = |filter| sifted(Purpose::Keep, true, filter);
        expect_test::expect!["0:STATE 1:OPEN 2:OPEN 2:CONNECT 1:CONNECT 2:CONNACK 1:CONNACK 0:MARK 2:PUBLISH 1:RAW 0:GAP 1:CLOSE"].assert_eq(&keep(topics("b")));
        expect_test::expect![
            "0:STATE 1:OPEN 1:CONNECT 1:CONNACK 1:PUBLISH 0:MARK 1:FAULT 1:RAW 0:GAP 1:CLOSE"
        ]
        .assert_eq(&keep(clients("auto-*")));
        expect_test::expect!["0:STATE 0:STATE 1:OPEN 2:OPEN 2:CONNECT 1:CONNECT 2:CONNACK 1:CONNACK 2:PUBLISH 1:PUBLISH 0:MARK 2:PUBLISH 1:FAULT 1:RAW 0:GAP 1:CLOSE"]
            .assert_eq(&keep(EventFilter { types: vec![PacketType::Publish], ..Default::default() }));
        let direction = Some(Direction::ServerToClient);
        expect_test::expect!["0:STATE 0:STATE 1:OPEN 2:OPEN 2:CONNECT 1:CONNECT 2:CONNACK 1:CONNACK 2:PUBACK 1:PUBLISH 0:MARK 0:GAP 1:CLOSE"].assert_eq(&keep(EventFilter { direction, ..Default::default() }));
        assert_eq!(keep(EventFilter::default()).split(' ').count(), events().len());
    }

    #[test]
    fn live_events_wait_until_it_is_known_whose_they_are() {
        for purpose in [Purpose::Look, Purpose::Keep] {
            for pattern in ["auto-*", "dev-1", "nobody", "*"] {
                let sorted = |learn| {
                    let text = sifted(purpose, learn, clients(pattern));
                    let mut events: Vec<String> = text.split(' ').map(str::to_owned).collect();
                    events.sort();
                    events
                };
                assert_eq!(sorted(false), sorted(true), "{pattern}");
            }
        }
        expect_test::expect!["1:OPEN 1:CONNECT 1:CONNACK 1:PUBLISH 1:FAULT 1:RAW 1:CLOSE"]
            .assert_eq(&sifted(Purpose::Look, false, clients("auto-*")));
    }

    fn seqs(purpose: Purpose, filter: EventFilter, events: &[Event]) -> Vec<u64> {
        let mut sieve = Sieve::new(filter, purpose);
        let sifted = events.iter().flat_map(|event| sieve.push(event.clone()));
        sifted.map(|(event, _)| event.seq).collect()
    }

    #[test]
    fn acknowledgements_go_with_their_messages_and_subscriptions_stay() {
        let sent = |topic, qos, identifier| {
            from_client(identified(publish(Some(topic), b"1", Vec::new()), qos, identifier, false))
        };
        let release = |identifier| {
            let ack = Ack::new(PacketIdentifier::new(identifier).unwrap());
            sample::packet(Direction::ClientToServer, V5, ControlPacket::Pubrel(ack))
        };
        // Its session outlives the connection.
        let lasting = || {
            let connect = Connect {
                protocol: V5,
                clean_start: false,
                keep_alive: 0,
                properties: Properties(vec![Property::SessionExpiryInterval(60)]),
                client_identifier: sample::text("dev"),
                will: None,
                username: None,
                password: None,
            };
            sample::packet(Direction::ClientToServer, V5, ControlPacket::Connect(Box::new(connect)))
        };
        let subscribe = sample::packet(
            Direction::ServerToClient,
            V5,
            ControlPacket::Suback(Suback {
                packet_identifier: PacketIdentifier::new(9).unwrap(),
                properties: Properties::new(),
                reason_codes: vec![ReasonCode::SUCCESS],
            }),
        );
        let kinds = [
            (0, 1, open()),
            (1, 1, lasting()),
            (2, 1, connack(false, V5)),
            (3, 1, sent("a", QoS::AtLeastOnce, 1)),
            (4, 1, sent("b", QoS::AtLeastOnce, 2)),
            (5, 1, ack(ControlPacket::Puback as fn(Ack) -> _, 2)),
            (6, 1, ack(ControlPacket::Puback as fn(Ack) -> _, 1)),
            (7, 1, sent("b", QoS::ExactlyOnce, 3)),
            (8, 1, sent("a", QoS::ExactlyOnce, 4)),
            (9, 1, ack(ControlPacket::Pubrec as fn(Ack) -> _, 3)),
            (10, 1, ack(ControlPacket::Pubrec as fn(Ack) -> _, 4)),
            (11, 1, subscribe),
            (12, 1, EventKind::Close(CloseCause::ClientRst)),
            // The session goes on.
            (13, 2, open()),
            (14, 2, lasting()),
            (15, 2, connack(true, V5)),
            (16, 2, release(3)),
            (17, 2, release(4)),
            (18, 2, ack(ControlPacket::Pubcomp as fn(Ack) -> _, 3)),
            (19, 2, ack(ControlPacket::Pubcomp as fn(Ack) -> _, 4)),
            // Of a message that nobody saw.
            (20, 2, ack(ControlPacket::Puback as fn(Ack) -> _, 7)),
        ];
        let events = sample::events(kinds.clone());
        let kept = [1, 2, 3, 4, 7, 9, 11, 12, 13, 14, 15, 16, 18, 20, 21];
        assert_eq!(seqs(Purpose::Keep, topics("a"), &events), kept);
        assert_eq!(seqs(Purpose::Look, topics("a"), &events), [4, 7, 9, 11, 18, 20]);
        let types = vec![PacketType::Puback];
        let acks = EventFilter { types, ..topics("a") };
        assert_eq!(seqs(Purpose::Look, acks, &events), [7]);
        // Taken over: the server, or the network, closes the first connection late.
        let mut kinds = kinds.to_vec();
        kinds[12..16].rotate_left(1);
        let events = sample::events(kinds);
        assert_eq!(seqs(Purpose::Keep, topics("a"), &events), kept);
    }

    #[test]
    fn a_long_message_in_pieces_has_its_topic_too() {
        let raw = |bytes: &[u8]| EventKind::Raw {
            direction: Direction::ClientToServer,
            bytes: bytes::Bytes::copy_from_slice(bytes),
        };
        let events = sample::events([
            (0, 1, connect("dev", V5)),
            (1, 1, raw(b"\x30\x07\0\x01a\0")),
            (2, 1, raw(b"\x30\x05x")),
            (3, 1, raw(b"\x32\x08\0\x01b\0\x05")),
            (4, 1, raw(b"\x30\x05x")),
            (5, 1, raw(b"rest")),
            (6, 1, ack(ControlPacket::Puback as fn(Ack) -> _, 5)),
        ]);
        assert_eq!(seqs(Purpose::Keep, topics("a"), &events), [1, 2, 3, 6]);
        assert_eq!(seqs(Purpose::Look, topics("a"), &events), [2, 3]);
    }

    #[test]
    fn aliases_are_followed_though_what_set_them_is_not_meant() {
        let alias = || vec![Property::TopicAlias(1)];
        let events = sample::events([
            (0, 1, connect("dev", V5)),
            (1, 1, from_client(publish(Some("a/x"), b"1", alias()))),
            (2, 1, from_client(publish(None, b"2", alias()))),
            (3, 1, from_client(publish(None, b"3", vec![Property::TopicAlias(2)]))),
        ]);
        let seqs = |purpose| {
            let start = Some(Duration::from_micros(2));
            let mut sieve = Sieve::new(EventFilter { start, ..topics("a/#") }, purpose);
            let sifted: Vec<_> = events.iter().flat_map(|event| sieve.push(event.clone())).collect();
            sifted.into_iter().map(|(event, _)| event.seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(Purpose::Look), [3]);
        // Nobody can tell the topic of the last one.
        assert_eq!(seqs(Purpose::Keep), [3, 4]);
    }
}
