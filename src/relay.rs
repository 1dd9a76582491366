//! One proxied client: what both sides send, cut into packets for observers and passed on unchanged.
//!
//! A [`Relay`] never makes up, drops or changes a byte; it only decides how many of those received
//! may be passed on already. Unobserved that is always all of them, and packets are read just as
//! far as to count them and to know the client and its subscriptions. Observed, a packet is held
//! until it is whole, so that it is reported before it is passed on. What cannot be read as MQTT is
//! reported as it came.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};

use crate::{
    packet::{
        ControlPacket, Frame, PacketIdentifier, PacketType, PlainAck, Property, ProtocolVersion, PublishRef,
        Subscription, SubscriptionOptions,
    },
    recording::Direction,
};

/// Bounds of what a relay keeps of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Packets up to this size, in bytes, are held until they are whole while somebody observes;
    /// of longer ones all but the last piece is passed on before the report.
    pub hold: usize,
    /// Packets up to this size are reported whole; longer ones as raw pieces.
    pub record: usize,
}

impl Default for RelayLimits {
    /// A read's worth is held; 16 MiB is beyond what real clients send in one message.
    fn default() -> Self {
        Self { hold: 256 << 10, record: 16 << 20 }
    }
}

/// What an observer is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The client's CONNECT was read; observed or not.
    Identified { client_identifier: String, protocol: ProtocolVersion },
    /// One whole packet.
    Packet { direction: Direction, bytes: Bytes },
    /// Bytes that are no packet.
    Raw { direction: Direction, bytes: Bytes },
}

/// What to pass on after [`Relay::receive`].
#[derive(Clone, Debug, PartialEq)]
pub enum Forward {
    /// What was received, as it is.
    Received,
    /// These bytes, held ones before received ones; some may be held for the next call.
    Bytes(Bytes),
}

/// Who the client says it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// As sent, or as the server assigned it.
    pub client_identifier: String,
    pub protocol: ProtocolVersion,
    pub username: Option<String>,
    /// Seconds, as the client asked.
    pub keep_alive: u16,
    pub clean_start: bool,
}

/// A subscription that the server granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    pub options: SubscriptionOptions,
    pub subscription_identifier: Option<u32>,
}

/// Figures since they were last taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// PUBLISH packets from the client, by QoS.
    pub published: [u64; 3],
    /// PUBLISH packets to the client, by QoS.
    pub delivered: [u64; 3],
    /// Subscriptions granted by SUBACKs, repeated ones included.
    pub subscribed: u64,
    /// By how much the number of subscriptions in force changed.
    pub subscriptions: i64,
    /// Whether the server assigned the client its identifier.
    pub is_renamed: bool,
}

/// The relay of one client.
pub struct Relay {
    limits: RelayLimits,
    to_server: Place,
    to_client: Place,
    identity: Option<Identity>,
    /// SUBSCRIBE and UNSUBSCRIBE packets without their ack.
    requests: HashMap<PacketIdentifier, Request>,
    subscriptions: BTreeMap<String, Granted>,
    counts: Counts,
}

/// What an ack will decide.
enum Request {
    Subscribe { subscriptions: Vec<Subscription>, subscription_identifier: Option<u32> },
    Unsubscribe { filters: Vec<String> },
}

/// Where in the byte stream a direction stands.
enum Place {
    /// Behind a whole packet; `held` begins the next one, and its first `passed` bytes were passed
    /// on already.
    Boundary { held: BytesMut, passed: usize },
    /// In a packet that is passed on piece by piece: `left` bytes are to come.
    Inside { left: usize, keep: Keep },
    /// No packets any more: bytes are passed on as they come.
    Blind,
}

/// What is kept of a packet that is passed on in pieces.
enum Keep {
    Nothing,
    /// All of it, to be reported when it is whole.
    Copy(BytesMut),
    /// Each piece is reported by itself.
    Pieces,
}

/// What begins a run of bytes.
enum Start {
    Whole(usize),
    /// `size` is unknown while the fixed header is not whole.
    Part {
        size: Option<usize>,
    },
    /// No fixed header.
    Broken,
}

impl Relay {
    pub fn new(limits: RelayLimits) -> Self {
        Self {
            limits,
            to_server: Place::start(),
            to_client: Place::start(),
            identity: None,
            requests: HashMap::new(),
            subscriptions: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// `None` until the client's CONNECT was read.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Subscriptions granted on this connection, by Topic Filter.
    pub fn subscriptions(&self) -> &BTreeMap<String, Granted> {
        &self.subscriptions
    }

    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Whether a packet of our own could be sent in `direction` without cutting another in two.
    pub fn is_between_packets(&self, direction: Direction) -> bool {
        match self.place(direction) {
            Place::Boundary { passed, .. } => *passed == 0,
            Place::Inside { .. } | Place::Blind => false,
        }
    }

    /// Takes what one side sent and says what to pass on to the other, after having told observers
    /// the `reports`.
    pub fn receive(
        &mut self,
        direction: Direction,
        input: &[u8],
        is_observed: bool,
        reports: &mut Vec<Report>,
    ) -> Forward {
        let place = std::mem::replace(self.place_mut(direction), Place::Blind);
        match (place, is_observed) {
            (Place::Blind, false) => Forward::Received,
            (Place::Blind, true) => {
                reports.push(Report::Raw { direction, bytes: Bytes::copy_from_slice(input) });
                Forward::Received
            }
            (Place::Boundary { held, .. }, false) if held.is_empty() => {
                let place = self.pass(direction, input, reports);
                *self.place_mut(direction) = place;
                Forward::Received
            }
            (Place::Boundary { mut held, passed }, _) => {
                append(&mut held, input);
                Forward::Bytes(self.take(direction, held, passed, is_observed, reports))
            }
            (Place::Inside { left, keep }, _) => {
                self.continue_packet(direction, input, left, keep, is_observed, reports)
            }
        }
    }

    /// `direction` has ended: what was held of a packet that will never be whole.
    pub fn finish(&mut self, direction: Direction, is_observed: bool, reports: &mut Vec<Report>) -> Bytes {
        let (part, passed) = match std::mem::replace(self.place_mut(direction), Place::Blind) {
            Place::Boundary { held, passed } => (held, passed),
            Place::Inside { keep: Keep::Copy(copy), .. } => {
                let passed = copy.len();
                (copy, passed)
            }
            Place::Inside { .. } | Place::Blind => return Bytes::new(),
        };
        let part = part.freeze();
        if is_observed && !part.is_empty() {
            reports.push(Report::Raw { direction, bytes: part.clone() });
        }
        part.slice(passed..)
    }

    fn place(&self, direction: Direction) -> &Place {
        match direction {
            Direction::ClientToServer => &self.to_server,
            Direction::ServerToClient => &self.to_client,
        }
    }

    fn place_mut(&mut self, direction: Direction) -> &mut Place {
        match direction {
            Direction::ClientToServer => &mut self.to_server,
            Direction::ServerToClient => &mut self.to_client,
        }
    }

    /// Reads `input`, all of which is passed on, just for what we keep count of; it begins a packet.
    fn pass(&mut self, direction: Direction, mut input: &[u8], reports: &mut Vec<Report>) -> Place {
        while let Some(&first) = input.first() {
            let size = match self.start_of(direction, input) {
                Start::Whole(size) => {
                    self.count(direction, first);
                    if is_tracked(first) {
                        self.track(direction, Bytes::copy_from_slice(&input[..size]), reports);
                    }
                    input = &input[size..];
                    continue;
                }
                Start::Part { size } => size,
                Start::Broken => return Place::Blind,
            };
            return match size {
                Some(size) if !is_tracked(first) || size > self.limits.hold => {
                    self.count(direction, first);
                    Place::Inside { left: size - input.len(), keep: Keep::Nothing }
                }
                // All of it was passed on; the bytes are kept to read the packet once it is whole.
                _ => Place::Boundary { held: BytesMut::from(input), passed: input.len() },
            };
        }
        Place::start()
    }

    /// Takes the whole packets off `held`; what is returned may be passed on.
    fn take(
        &mut self,
        direction: Direction,
        mut held: BytesMut,
        passed: usize,
        is_observed: bool,
        reports: &mut Vec<Report>,
    ) -> Bytes {
        if !is_observed {
            let all = held.freeze();
            let place = self.pass(direction, &all, reports);
            *self.place_mut(direction) = place;
            return all.slice(passed..);
        }
        let mut whole = 0;
        let rest = loop {
            match held.get(whole) {
                None => break Start::Part { size: None },
                Some(_) if whole > 0 => match start_of(&held[whole..]) {
                    Start::Whole(size) => whole += size,
                    rest => break rest,
                },
                Some(_) => match self.start_of(direction, &held) {
                    Start::Whole(size) => whole += size,
                    rest => break rest,
                },
            }
        };
        let packets = held.split_to(whole).freeze();
        // Observers may keep the packets for long: the rest must not keep their buffer alive.
        let held = BytesMut::from(&held[..]);
        let mut offset = 0;
        while let Start::Whole(size) = start_of(&packets[offset..]) {
            if self.report(direction, packets.slice(offset..offset + size), reports) {
                offset += size;
                continue;
            }
            // Not MQTT from the first packet on.
            let rest = join(&packets[offset..], &held);
            reports.push(Report::Raw { direction, bytes: rest.clone() });
            return join(&packets[passed.min(offset)..offset], &rest[passed.saturating_sub(offset)..]);
        }
        let (place, passable) = match rest {
            Start::Broken => self.go_blind(direction, &held, reports),
            Start::Part { size: None } if held.first().is_some_and(|&first| self.is_refused(first)) => {
                self.go_blind(direction, &held, reports)
            }
            Start::Part { size: Some(size) } if size > self.limits.hold || self.is_refused(held[0]) => {
                self.count(direction, held[0]);
                let (left, len) = (size - held.len(), held.len());
                let keep = if size > self.limits.record {
                    reports.push(Report::Raw { direction, bytes: Bytes::copy_from_slice(&held) });
                    Keep::Pieces
                } else {
                    Keep::Copy(held.clone())
                };
                (Place::Inside { left, keep }, len)
            }
            Start::Part { .. } | Start::Whole(_) => {
                let already_passed = passed.saturating_sub(whole);
                let place = Place::Boundary { held, passed: already_passed };
                *self.place_mut(direction) = place;
                return packets.slice(passed.min(whole)..);
            }
        };
        let started = join(&packets[passed.min(whole)..], &held[passed.saturating_sub(whole)..passable]);
        *self.place_mut(direction) = place;
        started
    }

    /// Gives up on packets, from `held` on; all of it may be passed on.
    fn go_blind(&self, direction: Direction, held: &BytesMut, reports: &mut Vec<Report>) -> (Place, usize) {
        reports.push(Report::Raw { direction, bytes: Bytes::copy_from_slice(held) });
        (Place::Blind, held.len())
    }

    /// Whether a packet that begins with `first` is refused before its end is there, so that holding
    /// it back would keep an answer from its sender.
    fn is_refused(&self, first: u8) -> bool {
        self.protocol().is_some_and(|protocol| PacketType::parse(first, protocol).is_err())
    }

    /// Takes more of a packet that is passed on in pieces, and what follows it.
    fn continue_packet(
        &mut self,
        direction: Direction,
        input: &[u8],
        left: usize,
        keep: Keep,
        is_observed: bool,
        reports: &mut Vec<Report>,
    ) -> Forward {
        let (piece, next) = input.split_at(left.min(input.len()));
        let left = left - piece.len();
        let keep = match keep {
            // Nobody looks any more.
            Keep::Copy(_) | Keep::Pieces if !is_observed => Keep::Nothing,
            Keep::Copy(mut copy) => {
                copy.extend_from_slice(piece);
                if left == 0 {
                    let whole = copy.freeze();
                    if !self.report_counted(direction, whole.clone(), reports) {
                        reports.push(Report::Raw { direction, bytes: whole });
                    }
                    Keep::Nothing
                } else {
                    Keep::Copy(copy)
                }
            }
            Keep::Pieces => {
                reports.push(Report::Raw { direction, bytes: Bytes::copy_from_slice(piece) });
                Keep::Pieces
            }
            Keep::Nothing => Keep::Nothing,
        };
        if left > 0 {
            *self.place_mut(direction) = Place::Inside { left, keep };
            return Forward::Received;
        }
        if next.is_empty() {
            *self.place_mut(direction) = Place::start();
            return Forward::Received;
        }
        if !is_observed {
            let place = self.pass(direction, next, reports);
            *self.place_mut(direction) = place;
            return Forward::Received;
        }
        let following = self.take(direction, BytesMut::from(next), 0, true, reports);
        Forward::Bytes(join(piece, &following))
    }

    /// Reports one whole packet; whether the direction still speaks MQTT.
    fn report(&mut self, direction: Direction, bytes: Bytes, reports: &mut Vec<Report>) -> bool {
        if let Some(&first) = bytes.first() {
            self.count(direction, first);
        }
        self.report_counted(direction, bytes, reports)
    }

    fn report_counted(&mut self, direction: Direction, bytes: Bytes, reports: &mut Vec<Report>) -> bool {
        let protocol = match (self.protocol(), direction) {
            (Some(protocol), _) => protocol,
            // A CONNECT says itself what it is; a server has nothing to say before one.
            (None, Direction::ClientToServer) if bytes.first() == Some(&CONNECT) => ProtocolVersion::V311,
            (None, _) => return false,
        };
        let decoded = match bytes.first() {
            // Of those that come in millions it is enough to know that they are whole and well-formed.
            Some(first) if first >> 4 == PUBLISH => PublishRef::decode(&bytes, protocol).map(|_| None),
            Some(_) if PlainAck::read(&bytes).is_some() => Ok(None),
            _ => ControlPacket::decode(&bytes, protocol).map(Some),
        };
        match decoded {
            Ok(packet) => {
                reports.push(Report::Packet { direction, bytes });
                if let Some(packet) = packet {
                    self.learn(direction, packet, reports);
                }
                true
            }
            // Its length is known, so the next packet still begins behind it.
            Err(_) if self.identity.is_some() => {
                reports.push(Report::Raw { direction, bytes });
                true
            }
            Err(_) => false,
        }
    }

    /// Reads a packet for what it says about the client.
    fn track(&mut self, direction: Direction, bytes: Bytes, reports: &mut Vec<Report>) {
        let protocol = self.protocol().unwrap_or(ProtocolVersion::V311);
        // One that cannot be read is the server's to refuse.
        if let Ok(frame) = Frame::decode(bytes, protocol) {
            self.learn(direction, frame.packet, reports);
        }
    }

    /// As [`start_of`], and a client begins with CONNECT [MQTT-3.1.0-1], a server after it.
    fn start_of(&self, direction: Direction, bytes: &[u8]) -> Start {
        let is_connect = direction == Direction::ClientToServer && bytes.first() == Some(&CONNECT);
        if self.identity.is_none() && !is_connect { Start::Broken } else { start_of(bytes) }
    }

    fn protocol(&self) -> Option<ProtocolVersion> {
        self.identity.as_ref().map(|identity| identity.protocol)
    }

    fn count(&mut self, direction: Direction, first: u8) {
        let qos = usize::from(first >> 1 & 0b11);
        if first >> 4 == PUBLISH && qos < 3 {
            match direction {
                Direction::ClientToServer => self.counts.published[qos] += 1,
                Direction::ServerToClient => self.counts.delivered[qos] += 1,
            }
        }
    }

    fn learn(&mut self, direction: Direction, packet: ControlPacket, reports: &mut Vec<Report>) {
        match (direction, packet) {
            (Direction::ClientToServer, ControlPacket::Connect(connect)) if self.identity.is_none() => {
                let identity = Identity {
                    client_identifier: connect.client_identifier.as_str().to_owned(),
                    protocol: connect.protocol,
                    username: connect.username.as_ref().map(|name| name.as_str().to_owned()),
                    keep_alive: connect.keep_alive,
                    clean_start: connect.clean_start,
                };
                reports.push(Report::Identified {
                    client_identifier: identity.client_identifier.clone(),
                    protocol: identity.protocol,
                });
                self.identity = Some(identity);
            }
            (Direction::ServerToClient, ControlPacket::Connack(connack)) => {
                let assigned = connack.properties.iter().find_map(|property| match property {
                    Property::AssignedClientIdentifier(assigned) => Some(assigned.as_str().to_owned()),
                    _ => None,
                });
                if let (Some(assigned), Some(identity)) = (assigned, &mut self.identity) {
                    identity.client_identifier = assigned;
                    self.counts.is_renamed = true;
                }
            }
            (Direction::ClientToServer, ControlPacket::Subscribe(subscribe)) => {
                let subscription_identifier =
                    subscribe.properties.iter().find_map(|property| match property {
                        Property::SubscriptionIdentifier(identifier) => Some(*identifier),
                        _ => None,
                    });
                let subscriptions = subscribe.subscriptions;
                self.requests.insert(
                    subscribe.packet_identifier,
                    Request::Subscribe { subscriptions, subscription_identifier },
                );
            }
            (Direction::ClientToServer, ControlPacket::Unsubscribe(unsubscribe)) => {
                let filters = unsubscribe.filters.iter().map(|filter| filter.as_str().to_owned()).collect();
                self.requests.insert(unsubscribe.packet_identifier, Request::Unsubscribe { filters });
            }
            (Direction::ServerToClient, ControlPacket::Suback(suback)) => {
                let Some(Request::Subscribe { subscriptions, subscription_identifier }) =
                    self.requests.remove(&suback.packet_identifier)
                else {
                    return;
                };
                for (subscription, code) in subscriptions.into_iter().zip(suback.reason_codes) {
                    if code.is_error() {
                        continue;
                    }
                    let granted = Granted { options: subscription.options, subscription_identifier };
                    let filter = subscription.filter.as_str().to_owned();
                    self.counts.subscribed += 1;
                    if self.subscriptions.insert(filter, granted).is_none() {
                        self.counts.subscriptions += 1;
                    }
                }
            }
            (Direction::ServerToClient, ControlPacket::Unsuback(unsuback)) => {
                let Some(Request::Unsubscribe { filters }) =
                    self.requests.remove(&unsuback.packet_identifier)
                else {
                    return;
                };
                for filter in filters {
                    if self.subscriptions.remove(&filter).is_some() {
                        self.counts.subscriptions -= 1;
                    }
                }
            }
            _ => {}
        }
    }
}

impl Place {
    fn start() -> Self {
        Self::Boundary { held: BytesMut::new(), passed: 0 }
    }
}

/// Packet type 3, whatever the flags.
const PUBLISH: u8 = 3;

/// The first byte of a CONNECT, whose flags are all reserved.
const CONNECT: u8 = 0x10;

/// Whether packets that begin with `first` say something about the client or its subscriptions:
/// CONNECT, CONNACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
fn is_tracked(first: u8) -> bool {
    matches!(first >> 4, 1 | 2 | 8..=11)
}

fn start_of(bytes: &[u8]) -> Start {
    match bytes.first() {
        // Packet type 0 is reserved [section 2.1.2].
        Some(first) if first >> 4 == 0 => return Start::Broken,
        Some(_) => {}
        None => return Start::Part { size: None },
    }
    match Frame::size(bytes) {
        Ok(Some(size)) if size <= bytes.len() => Start::Whole(size),
        Ok(size) => Start::Part { size },
        Err(_) => Start::Broken,
    }
}

/// Appends without leaving more room than needed where nothing was held.
fn append(held: &mut BytesMut, input: &[u8]) {
    if held.is_empty() {
        *held = BytesMut::from(input);
    } else {
        held.extend_from_slice(input);
    }
}

fn join(first: &[u8], second: &[u8]) -> Bytes {
    [first, second].concat().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: Direction = Direction::ClientToServer;
    const DOWN: Direction = Direction::ServerToClient;

    const CONNECT: &[u8] = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03dev";
    const SUBSCRIBE: &[u8] = b"\x82\x0c\x00\x07\x00\x03a/+\x01\x00\x01b\x00";
    const UNSUBSCRIBE: &[u8] = b"\xa2\x05\x00\x08\x00\x01b";
    const PUBLISH: &[u8] = b"\x32\x09\x00\x03a/b\x00\x01hi";
    const DISCONNECT: &[u8] = b"\xe0\x00";
    const CONNACK: &[u8] = b"\x20\x02\x00\x00";
    const SUBACK: &[u8] = b"\x90\x04\x00\x07\x01\x00";
    const UNSUBACK: &[u8] = b"\xb0\x02\x00\x08";
    const DELIVERY: &[u8] = b"\x30\x07\x00\x03a/bhi";
    /// Well delimited, but a QoS of 3.
    const MALFORMED: &[u8] = b"\x36\x03\x00\x01a";

    /// Has `relay` take `pieces`; returns what was passed on and what was reported.
    fn feed(
        relay: &mut Relay,
        direction: Direction,
        pieces: &[&[u8]],
        is_observed: bool,
    ) -> (Vec<u8>, Vec<Report>) {
        let (mut passed, mut reports) = (Vec::new(), Vec::new());
        for piece in pieces {
            match relay.receive(direction, piece, is_observed, &mut reports) {
                Forward::Received => passed.extend_from_slice(piece),
                Forward::Bytes(bytes) => passed.extend_from_slice(&bytes),
            }
        }
        (passed, reports)
    }

    fn connected() -> Relay {
        let mut relay = Relay::new(RelayLimits::default());
        feed(&mut relay, UP, &[CONNECT], false);
        relay
    }

    fn reported(reports: &[Report]) -> Vec<(bool, &[u8])> {
        reports
            .iter()
            .filter_map(|report| match report {
                Report::Identified { .. } => None,
                Report::Packet { bytes, .. } => Some((true, &bytes[..])),
                Report::Raw { bytes, .. } => Some((false, &bytes[..])),
            })
            .collect()
    }

    #[test]
    fn a_packet_that_is_refused_for_its_first_byte_is_not_held() {
        let mut relay = connected();
        let (first, second) = MALFORMED.split_at(3);
        assert_eq!(feed(&mut relay, UP, &[first], true), (first.to_vec(), vec![]));
        let (passed, reports) = feed(&mut relay, UP, &[second, PUBLISH], true);
        assert_eq!(passed, [second, PUBLISH].concat());
        assert_eq!(reported(&reports), [(false, MALFORMED), (true, PUBLISH)]);
        // AUTH in 3.1.1, and its length is not known yet.
        let (passed, reports) = feed(&mut relay, UP, &[b"\xff\xff"], true);
        assert_eq!(passed, b"\xff\xff");
        assert_eq!(reported(&reports), [(false, &b"\xff\xff"[..])]);
    }

    #[test]
    fn a_packet_is_reported_when_it_is_whole_and_only_then_passed_on() {
        let mut relay = connected();
        let (first, second) = PUBLISH.split_at(6);
        assert_eq!(feed(&mut relay, UP, &[first], true), (vec![], vec![]));
        let (passed, reports) = feed(&mut relay, UP, &[second], true);
        assert_eq!(passed, PUBLISH);
        assert_eq!(reported(&reports), [(true, PUBLISH)]);
    }

    #[test]
    fn unobserved_everything_is_passed_on_at_once() {
        let mut relay = connected();
        for byte in [PUBLISH, SUBSCRIBE].concat() {
            assert_eq!(feed(&mut relay, UP, &[&[byte]], false).0, [byte]);
        }
        assert_eq!(relay.take_counts().published, [0, 1, 0]);
    }

    #[test]
    fn the_client_and_its_subscriptions_are_known_observed_or_not() {
        for is_observed in [false, true] {
            for cut in 1..SUBSCRIBE.len() {
                let mut relay = Relay::new(RelayLimits::default());
                let (_, reports) = feed(&mut relay, UP, &[&CONNECT[..cut], &CONNECT[cut..]], is_observed);
                assert!(reports.contains(&Report::Identified {
                    client_identifier: "dev".to_owned(),
                    protocol: ProtocolVersion::V311
                }));
                feed(&mut relay, DOWN, &[CONNACK], is_observed);
                feed(&mut relay, UP, &[&SUBSCRIBE[..cut], &SUBSCRIBE[cut..]], is_observed);
                assert_eq!(relay.subscriptions().len(), 0, "nothing is granted yet");
                feed(&mut relay, DOWN, &[&SUBACK[..3], &SUBACK[3..]], is_observed);
                assert_eq!(relay.subscriptions().keys().collect::<Vec<_>>(), ["a/+", "b"]);
                let counts = relay.take_counts();
                assert_eq!((counts.subscribed, counts.subscriptions), (2, 2));
                feed(&mut relay, UP, &[UNSUBSCRIBE], is_observed);
                feed(&mut relay, DOWN, &[UNSUBACK], is_observed);
                assert_eq!(relay.subscriptions().keys().collect::<Vec<_>>(), ["a/+"]);
                assert_eq!(relay.take_counts().subscriptions, -1);
            }
        }
    }

    #[test]
    fn a_malformed_packet_is_reported_raw_and_those_behind_it_as_packets() {
        let mut relay = connected();
        let stream = [PUBLISH, MALFORMED, PUBLISH].concat();
        let (passed, reports) = feed(&mut relay, UP, &[&stream], true);
        assert_eq!(passed, stream);
        assert_eq!(reported(&reports), [(true, PUBLISH), (false, MALFORMED), (true, PUBLISH)]);
    }

    #[test]
    fn what_is_not_mqtt_at_all_is_raw_from_then_on() {
        let mut relay = Relay::new(RelayLimits::default());
        let (passed, reports) = feed(&mut relay, UP, &[b"GET / HTTP/1.1\r\n", b"Host: x\r\n"], true);
        assert_eq!(passed, b"GET / HTTP/1.1\r\nHost: x\r\n");
        assert!(reported(&reports).iter().all(|(is_packet, _)| !is_packet));
        let mut relay = connected();
        let (passed, reports) = feed(&mut relay, UP, &[b"\x30\xff\xff\xff\xff\xff", PUBLISH], true);
        assert_eq!(passed.len(), 6 + PUBLISH.len());
        assert_eq!(reported(&reports), [(false, &b"\x30\xff\xff\xff\xff\xff"[..]), (false, PUBLISH)]);
    }

    #[test]
    fn a_long_packet_is_passed_on_in_pieces_and_still_reported_whole() {
        let limits = RelayLimits { hold: 16, record: 64 };
        let mut relay = Relay::new(limits);
        feed(&mut relay, UP, &[CONNECT], true);
        let long = [&b"\x30\x30\x00\x01a"[..], &[b'x'; 45]].concat();
        let (passed, reports) = feed(&mut relay, UP, &[&long[..20], &long[20..40]], true);
        assert_eq!((passed.len(), reported(&reports).len()), (40, 0));
        let end = [&long[40..], PUBLISH, &PUBLISH[..3]].concat();
        let (passed, reports) = feed(&mut relay, UP, &[&end], true);
        assert_eq!(passed, end[..end.len() - 3]);
        assert_eq!(reported(&reports), [(true, &long[..]), (true, PUBLISH)]);
        assert_eq!(relay.take_counts().published, [1, 1, 0]);
    }

    #[test]
    fn a_packet_too_long_to_record_is_reported_in_raw_pieces() {
        let limits = RelayLimits { hold: 16, record: 32 };
        let mut relay = Relay::new(limits);
        feed(&mut relay, UP, &[CONNECT], true);
        let long = [&b"\x30\x30\x00\x01a"[..], &[b'x'; 45]].concat();
        let (passed, reports) = feed(&mut relay, UP, &[&long[..20], &long[20..], PUBLISH], true);
        assert_eq!(passed, [&long[..], PUBLISH].concat());
        assert_eq!(reported(&reports), [(false, &long[..20]), (false, &long[20..]), (true, PUBLISH)]);
    }

    #[test]
    fn an_observer_that_comes_within_a_packet_is_told_of_the_next() {
        let mut relay = connected();
        let (first, second) = PUBLISH.split_at(6);
        feed(&mut relay, UP, &[first], false);
        let (passed, reports) = feed(&mut relay, UP, &[&[second, PUBLISH].concat()], true);
        assert_eq!(passed, [second, PUBLISH].concat());
        assert_eq!(reported(&reports), [(true, PUBLISH)]);
    }

    #[test]
    fn what_a_direction_ends_with_is_passed_on_though_it_is_no_packet() {
        let mut relay = connected();
        feed(&mut relay, UP, &[&PUBLISH[..5]], true);
        let mut reports = Vec::new();
        assert_eq!(relay.finish(UP, true, &mut reports), PUBLISH[..5]);
        assert_eq!(reported(&reports), [(false, &PUBLISH[..5])]);
    }

    #[test]
    fn a_packet_of_our_own_fits_only_between_two_others() {
        let mut relay = connected();
        feed(&mut relay, DOWN, &[&DELIVERY[..4]], false);
        assert!(!relay.is_between_packets(DOWN));
        feed(&mut relay, DOWN, &[&DELIVERY[4..]], false);
        assert!(relay.is_between_packets(DOWN));
    }

    proptest! {
        /// Whatever the pieces, and whenever somebody observes: the bytes that leave are the bytes
        /// that came, and an observer who was always there saw exactly them.
        #[test]
        fn the_bytes_that_leave_are_the_bytes_that_came(
            packets in prop::collection::vec(
                prop::sample::select(vec![PUBLISH, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT, MALFORMED]), 0..20),
            tail in prop::collection::vec(any::<u8>(), 0..20),
            sizes in prop::collection::vec((1usize..40, any::<bool>()), 1..50),
            hold in 4usize..20,
            always in any::<bool>(),
        ) {
            let mut stream = CONNECT.to_vec();
            stream.extend(packets.concat());
            stream.extend(tail);
            let mut relay = Relay::new(RelayLimits { hold, record: 2 * hold });
            let (mut passed, mut reports) = (Vec::new(), Vec::new());
            let mut rest = &stream[..];
            for (size, is_observed) in sizes.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                let (some, more) = feed(&mut relay, UP, &[piece], always || is_observed);
                passed.extend(some);
                reports.extend(more);
                prop_assert!(stream.starts_with(&passed));
                rest = behind;
            }
            passed.extend(relay.finish(UP, true, &mut reports));
            prop_assert_eq!(&passed, &stream);
            if always {
                let seen: Vec<u8> = reported(&reports).iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
                prop_assert_eq!(seen, stream);
            }
        }
    }
}
