//! One proxied client: what both sides send, cut into packets for observers and passed on unchanged.
//!
//! By itself a [`Relay`] never makes up, drops or changes a byte; it only decides how many of those
//! received may be passed on already. Unobserved that is always all of them, and packets are read just
//! as far as to count them and to know the client and its subscriptions. Observed, a packet is held
//! until it is whole, so that it is reported before it is passed on. What cannot be read as MQTT is
//! reported as it came.
//!
//! Nobody is asked about a message before the server took the client: what a client sends from its first PUBLISH on
//! waits for the CONNACK, and is reported only then, too; beyond a limit it is passed on unasked.
//!
//! Where somebody may intercept messages, a client's PUBLISH is held until it is whole, too; otherwise bytes pass as
//! they come, and a copy is offered. A message that is intercepted does not reach the server; the relay answers it in
//! the server's place, after the acks that the server owes for earlier ones, and makes sure that the server still knows
//! what later topic aliases stand for. Once begun, that goes on whether or not anybody still asks.

mod answers;
mod exchanges;

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use self::{answers::Answers, exchanges::Exchanges};
use crate::{
    interceptor::{Interception, Offered, Publisher, Verdict},
    packet::{
        Aliases, Begun, ControlPacket, Frame, PacketIdentifier, PacketType, PlainAck, Property,
        PropertyIdentifier, PropertyValue, ProtocolVersion, PublishHead, PublishRef, QoS, ReasonCode,
        Subscription, SubscriptionOptions, alias_of,
    },
    recording::{Direction, PublishStart},
    session::{ConnectionId, Payload, SHARED_PAYLOAD},
};

/// Bounds of what a relay keeps of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Packets up to this size, in bytes, are held until they are whole while somebody observes;
    /// of longer ones all but the last piece is passed on before the report. As many bytes may wait for the server's
    /// CONNACK where somebody is asked about messages.
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

/// Who looks at what a relay receives.
pub struct Watch<'a> {
    /// Whether reports go to anybody.
    pub is_observed: bool,
    pub asked: Option<Asked<'a>>,
}

/// Who is asked about a client's messages.
pub struct Asked<'a> {
    pub interception: &'a mut Interception,
    pub now: Instant,
    /// Whose messages they are.
    pub connection: ConnectionId,
}

/// How much of what a side sends has to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// What we keep count of.
    Little,
    /// Messages, once they are whole; they need not wait for that.
    Copies,
    /// Every packet, before it is passed on.
    Whole,
}

impl Watch<'_> {
    /// Nobody is asked.
    pub fn observing(is_observed: bool) -> Self {
        Self { is_observed, asked: None }
    }
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
    /// The server took the client; whether it had a session for it.
    pub accepted: Option<bool>,
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
    /// Granted since they were last taken.
    granted: Vec<(String, QoS)>,
    counts: Counts,
    login: Login,
    /// What the client sent from its first message on, while that waits for the server's CONNACK.
    early: BytesMut,
    aliases: Aliases,
    exchanges: Exchanges,
    answers: Answers,
    /// Whether somebody was asked about what is not on its way yet.
    has_asked: bool,
}

/// What the server made of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// Its CONNACK is to come, and messages may wait for that.
    Pending,
    /// It is to come, and nothing waits.
    Hurried,
    Accepted,
    Refused,
}

/// What becomes of a client's packet.
enum Passing {
    AsItIs,
    Instead(Bytes),
    Nothing,
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
    /// The start of a PUBLISH whose topic is not there yet: it is reported with it, so that the pieces tell what they are.
    Head(BytesMut),
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
    /// A message that comes before the server's CONNACK.
    Early,
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
            granted: Vec::new(),
            counts: Counts::default(),
            login: Login::Pending,
            early: BytesMut::new(),
            aliases: Aliases::default(),
            exchanges: Exchanges::default(),
            answers: Answers::default(),
            has_asked: false,
        }
    }

    /// Answers to an intercepted message that a client may leave unread before nothing more is to be read from it.
    const REPLIES_MAX: usize = 64 << 10;

    /// Whether packets of our own wait for the client.
    pub fn has_replies(&self) -> bool {
        self.answers.len() > 0
    }

    pub fn owes_too_much(&self) -> bool {
        self.answers.len() > Self::REPLIES_MAX
    }

    /// Packets of our own, to be sent to the client [between](Self::is_between_packets) two others.
    pub fn take_replies(&mut self) -> Bytes {
        self.answers.take()
    }

    /// Whether somebody was asked about a message since this was last called.
    pub fn take_asked(&mut self) -> bool {
        std::mem::take(&mut self.has_asked)
    }

    /// Whether messages wait for the server's CONNACK.
    pub fn is_waiting(&self) -> bool {
        !self.early.is_empty() && self.login == Login::Pending
    }

    /// Whether messages waited for the server's CONNACK and need no more: [`resume`](Self::resume) has them.
    pub fn is_resumable(&self) -> bool {
        !self.early.is_empty() && self.login != Login::Pending
    }

    /// Takes what has waited for the server's CONNACK, as if it were received now; what to pass on.
    pub fn resume(&mut self, watch: Watch<'_>, reports: &mut Vec<Report>) -> Bytes {
        let early = std::mem::take(&mut self.early);
        self.take(Direction::ClientToServer, early, 0, watch, reports)
    }

    /// Subscriptions that the server granted since this was last asked.
    pub fn take_granted(&mut self) -> Vec<(String, QoS)> {
        std::mem::take(&mut self.granted)
    }

    /// `None` until the client's CONNECT was read.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether the client still owes a CONNECT. One that sends what is no MQTT owes none: the server judges it.
    pub fn awaits_connect(&self) -> bool {
        self.identity.is_none() && !matches!(self.to_server, Place::Blind)
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

    /// Where `direction` is: the client's as it was received, the server's as it was passed on.
    pub fn begun(&self, direction: Direction) -> Begun {
        match (self.place(direction), direction) {
            (Place::Inside { left, .. }, _) => Begun::Left(*left),
            (Place::Blind, _) => Begun::Unknown,
            (Place::Boundary { held, passed }, Direction::ServerToClient) => Begun::behind(&held[..*passed]),
            (Place::Boundary { held, .. }, Direction::ClientToServer) if self.early.is_empty() => {
                Begun::behind(held)
            }
            (Place::Boundary { .. }, Direction::ClientToServer) => {
                let mut rest = &self.early[..];
                while let Start::Whole(size) = start_of(rest) {
                    rest = &rest[size..];
                }
                Begun::behind(rest)
            }
        }
    }

    /// Takes what one side sent and says what to pass on to the other, after having told observers
    /// the `reports`.
    pub fn receive(
        &mut self,
        direction: Direction,
        input: &[u8],
        watch: Watch<'_>,
        reports: &mut Vec<Report>,
    ) -> Forward {
        if direction == Direction::ClientToServer && !self.early.is_empty() {
            self.early.extend_from_slice(input);
            if self.early.len() > self.limits.hold && self.login == Login::Pending {
                self.login = Login::Hurried;
            }
            return Forward::Bytes(match self.login {
                Login::Pending => Bytes::new(),
                _ => self.resume(watch, reports),
            });
        }
        let forward = self.receive_now(direction, input, watch, reports);
        if direction == Direction::ServerToClient && matches!(self.to_client, Place::Blind) {
            self.give_up_on_connack();
        }
        forward
    }

    /// Without a CONNACK that could be read, nobody is asked about anything.
    pub fn give_up_on_connack(&mut self) {
        if matches!(self.login, Login::Pending | Login::Hurried) {
            self.login = Login::Refused;
        }
    }

    fn receive_now(
        &mut self,
        direction: Direction,
        input: &[u8],
        watch: Watch<'_>,
        reports: &mut Vec<Report>,
    ) -> Forward {
        let care = self.care(direction, &watch);
        let place = std::mem::replace(self.place_mut(direction), Place::Blind);
        match (place, care) {
            (Place::Blind, _) => {
                if watch.is_observed {
                    reports.push(Report::Raw { direction, bytes: Bytes::copy_from_slice(input) });
                }
                Forward::Received
            }
            (Place::Boundary { held, .. }, Care::Little | Care::Copies) if held.is_empty() => {
                let place = self.pass(direction, input, watch, reports);
                *self.place_mut(direction) = place;
                Forward::Received
            }
            (Place::Boundary { mut held, passed }, _) => {
                append(&mut held, input);
                Forward::Bytes(self.take(direction, held, passed, watch, reports))
            }
            (Place::Inside { left, keep }, _) => {
                self.continue_packet(direction, input, left, keep, watch, reports)
            }
        }
    }

    /// `direction` has ended: what was held of a packet that will never be whole.
    pub fn finish(&mut self, direction: Direction, is_observed: bool, reports: &mut Vec<Report>) -> Bytes {
        if direction == Direction::ServerToClient {
            self.give_up_on_connack();
            return self.finish_packet(direction, is_observed, reports);
        }
        if self.early.is_empty() {
            return self.finish_packet(direction, is_observed, reports);
        }
        let early = self.resume(Watch::observing(is_observed), reports);
        join(&early, &self.finish_packet(direction, is_observed, reports))
    }

    fn finish_packet(&mut self, direction: Direction, is_observed: bool, reports: &mut Vec<Report>) -> Bytes {
        let (part, passed) = match std::mem::replace(self.place_mut(direction), Place::Blind) {
            Place::Boundary { held, passed } => (held, passed),
            Place::Inside { keep: Keep::Copy(copy) | Keep::Head(copy), .. } => {
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

    fn care(&self, direction: Direction, watch: &Watch<'_>) -> Care {
        if watch.is_observed {
            return Care::Whole;
        }
        if direction == Direction::ServerToClient {
            return Care::Little;
        }
        let asked = watch.asked.as_ref();
        let may_intercept = asked.is_some_and(|asked| asked.interception.may_intercept());
        let may_wait = asked.is_some() && self.login == Login::Pending;
        let may_change = self.aliases.is_any_unknown_to_receiver() || self.exchanges.is_any_intercepted();
        if may_intercept || may_wait || may_change {
            Care::Whole
        } else if asked.is_some() || self.is_remembering() {
            Care::Copies
        } else {
            Care::Little
        }
    }

    /// Whether what was seen of the client's messages matters for later ones.
    fn is_remembering(&self) -> bool {
        !self.aliases.is_empty() || !self.exchanges.is_empty()
    }

    /// Reads `input`, all of which is passed on, just for what we keep count of, and messages for who is asked about
    /// them; it begins a packet.
    fn pass(
        &mut self,
        direction: Direction,
        mut input: &[u8],
        mut watch: Watch<'_>,
        reports: &mut Vec<Report>,
    ) -> Place {
        let has_copies = self.care(direction, &watch) == Care::Copies;
        while let Some(&first) = input.first() {
            let size = match self.start_of(direction, input) {
                Start::Whole(size) => {
                    self.count(direction, first);
                    let packet = &input[..size];
                    if is_tracked(first) {
                        self.track(direction, Bytes::copy_from_slice(packet), reports);
                    } else if self.is_awaited(direction, first) {
                        self.answers.note(packet);
                    } else if has_copies && is_of_message(first) {
                        self.judge(&Bytes::copy_from_slice(packet), &mut watch, false);
                    }
                    input = &input[size..];
                    continue;
                }
                Start::Part { size } => size,
                Start::Early | Start::Broken => return Place::Blind,
            };
            let is_read_whole = is_tracked(first) || self.is_awaited(direction, first);
            return match size {
                Some(size) if !is_read_whole || size > self.limits.hold => {
                    self.count(direction, first);
                    let keep = match has_copies && is_of_message(first) {
                        true if size <= self.limits.record => Keep::Copy(BytesMut::from(input)),
                        true => {
                            self.aliases.forget();
                            Keep::Nothing
                        }
                        false => Keep::Nothing,
                    };
                    Place::Inside { left: size - input.len(), keep }
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
        mut watch: Watch<'_>,
        reports: &mut Vec<Report>,
    ) -> Bytes {
        if self.care(direction, &watch) != Care::Whole {
            let all = held.freeze();
            let place = self.pass(direction, &all, watch, reports);
            *self.place_mut(direction) = place;
            return all.slice(passed..);
        }
        let is_up = direction == Direction::ClientToServer;
        let may_wait = is_up && watch.asked.is_some() && self.login == Login::Pending;
        let mut whole = 0;
        let rest = loop {
            match held.get(whole) {
                None => break Start::Part { size: None },
                Some(first) if may_wait && first >> 4 == PUBLISH && self.may_be_early(whole, passed) => {
                    break Start::Early;
                }
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
        // What is passed on, once that is not what came.
        let mut edited: Option<BytesMut> = None;
        let mut offset = 0;
        while let Start::Whole(size) = start_of(&packets[offset..]) {
            let packet = packets.slice(offset..offset + size);
            if self.report(direction, packet.clone(), reports) {
                // One of which a part was passed on has to be passed on.
                let passing = match is_up {
                    true => self.judge(&packet, &mut watch, passed <= offset),
                    false => Passing::AsItIs,
                };
                if !matches!(passing, Passing::AsItIs) {
                    edited.get_or_insert_with(|| BytesMut::from(&packets[passed.min(offset)..offset]));
                }
                if let Some(edited) = &mut edited {
                    match passing {
                        Passing::AsItIs => edited.extend_from_slice(&packet),
                        Passing::Instead(bytes) => edited.extend_from_slice(&bytes),
                        Passing::Nothing => {}
                    }
                }
                offset += size;
                continue;
            }
            // Not MQTT from the first packet on.
            let rest = join(&packets[offset..], &held);
            reports.push(Report::Raw { direction, bytes: rest.clone() });
            let before = edited.as_deref().unwrap_or(&packets[passed.min(offset)..offset]);
            return join(before, &rest[passed.saturating_sub(offset)..]);
        }
        let packets = edited.map_or_else(|| packets.slice(passed.min(whole)..), BytesMut::freeze);
        let (place, passable) = match rest {
            Start::Broken => self.go_blind(direction, &held, reports),
            Start::Part { size: None } if held.first().is_some_and(|&first| self.is_refused(first)) => {
                self.go_blind(direction, &held, reports)
            }
            Start::Part { size: Some(size) } if size > self.limits.hold || self.is_refused(held[0]) => {
                let head = match passed <= whole && !self.is_refused(held[0]) {
                    true => self.note_head(direction, &held, size),
                    false => {
                        if is_up && size > self.limits.record {
                            // Nobody will read it, and a part of it was passed on while the server knew all aliases.
                            self.aliases.forget();
                        }
                        PublishHead::AsItIs
                    }
                };
                if head == PublishHead::Part {
                    *self.place_mut(direction) = Place::Boundary { held, passed: 0 };
                    return packets;
                }
                self.count(direction, held[0]);
                let (left, len) = (size - held.len(), held.len());
                let keep = if size > self.limits.record {
                    begin_pieces(direction, held.clone(), reports)
                } else {
                    Keep::Copy(held.clone())
                };
                if let PublishHead::Instead { count, bytes } = head {
                    *self.place_mut(direction) = Place::Inside { left, keep };
                    return [&packets[..], &bytes, &held[count..]].concat().into();
                }
                (Place::Inside { left, keep }, len)
            }
            Start::Early => {
                *self.place_mut(direction) = Place::start();
                if self.login == Login::Pending && held.len() <= self.limits.hold {
                    self.early = held;
                    return packets;
                }
                if self.login == Login::Pending {
                    self.login = Login::Hurried;
                }
                return join(&packets, &self.take(direction, held, 0, watch, reports));
            }
            Start::Part { .. } | Start::Whole(_) => {
                let already_passed = passed.saturating_sub(whole);
                let place = Place::Boundary { held, passed: already_passed };
                *self.place_mut(direction) = place;
                return packets;
            }
        };
        let started = join(&packets, &held[passed.saturating_sub(whole)..passable]);
        *self.place_mut(direction) = place;
        started
    }

    /// Whether the packet at `whole` is not the client's first, and nothing of it was passed on.
    fn may_be_early(&self, whole: usize, passed: usize) -> bool {
        (whole > 0 || self.identity.is_some()) && passed <= whole
    }

    /// Notes what a packet of `size` bytes says of topic aliases, which is not held until it is whole.
    fn note_head(&mut self, direction: Direction, held: &[u8], size: usize) -> PublishHead {
        let is_message = direction == Direction::ClientToServer && held[0] >> 4 == PUBLISH;
        match self.protocol() {
            Some(protocol) if is_message && !self.aliases.is_empty() => {
                self.aliases.note_head(held, size, self.limits.hold, protocol)
            }
            _ => PublishHead::AsItIs,
        }
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
        mut watch: Watch<'_>,
        reports: &mut Vec<Report>,
    ) -> Forward {
        let care = self.care(direction, &watch);
        let (piece, next) = input.split_at(left.min(input.len()));
        let left = left - piece.len();
        let keep = match keep {
            // Nobody looks any more.
            Keep::Copy(_) | Keep::Head(_) | Keep::Pieces if care == Care::Little => Keep::Nothing,
            Keep::Copy(mut copy) => {
                copy.extend_from_slice(piece);
                if left == 0 {
                    let whole = copy.freeze();
                    if !self.report_counted(direction, whole.clone(), reports) {
                        reports.push(Report::Raw { direction, bytes: whole });
                    } else if direction == Direction::ClientToServer {
                        self.judge(&whole, &mut watch, false);
                    }
                    Keep::Nothing
                } else {
                    Keep::Copy(copy)
                }
            }
            Keep::Head(mut head) => {
                head.extend_from_slice(piece);
                match left {
                    0 => {
                        reports.push(Report::Raw { direction, bytes: head.freeze() });
                        Keep::Nothing
                    }
                    _ => begin_pieces(direction, head, reports),
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
        if self.care(direction, &watch) != Care::Whole {
            let place = self.pass(direction, next, watch, reports);
            *self.place_mut(direction) = place;
            return Forward::Received;
        }
        let following = self.take(direction, BytesMut::from(next), 0, watch, reports);
        Forward::Bytes(join(piece, &following))
    }

    /// Asks about a client's message, and says what becomes of the packet; unless it `may` be changed or kept from the
    /// server, it goes on as it is.
    fn judge(&mut self, packet: &Bytes, watch: &mut Watch<'_>, may: bool) -> Passing {
        let Some(protocol) = self.protocol() else { return Passing::AsItIs };
        let asked = watch.asked.as_mut().filter(|_| self.login == Login::Accepted);
        let Some(&first) = packet.first() else { return Passing::AsItIs };
        if !is_of_message(first) || asked.is_none() && !self.is_remembering() {
            return Passing::AsItIs;
        }
        if first >> 4 == PUBREL {
            return self.release(packet, protocol, may);
        }
        let Ok(publish) = PublishRef::decode(packet, protocol) else { return Passing::AsItIs };
        let alias = alias_of(&publish);
        let set = alias.filter(|_| !publish.topic.is_empty());
        // The server must get what sets an alias that it could not be told of later.
        let is_remembered = set.is_none_or(|alias| self.aliases.set(alias, publish.topic));
        let may_be_kept = may && is_remembered;

        let exchange = publish.packet_identifier.filter(|_| publish.qos == QoS::ExactlyOnce);
        let before = exchange.and_then(|identifier| self.exchanges.get(identifier));
        let may_intercept = asked.as_ref().is_some_and(|asked| asked.interception.may_intercept());
        let is_asked = asked.is_some();
        let verdict = match (before.filter(|_| publish.dup), asked) {
            // The same one again: it was asked about already.
            (Some(verdict), _) => verdict,
            (None, Some(asked)) => self.ask(asked, packet, &publish, may_be_kept),
            (None, None) => Verdict::Route,
        };
        let verdict = if may_be_kept { verdict } else { Verdict::Route };
        if let Some(identifier) = exchange.filter(|_| is_asked || before.is_some()) {
            self.exchanges.insert(identifier, verdict);
        }
        match verdict {
            Verdict::Intercept => {
                if let Some(alias) = set {
                    self.aliases.keep_back(alias);
                }
                if let Some(identifier) = publish.packet_identifier {
                    let ack = match publish.qos {
                        QoS::ExactlyOnce => PacketType::Pubrec,
                        _ => PacketType::Puback,
                    };
                    self.answers.acknowledge(ack, identifier);
                }
                Passing::Nothing
            }
            Verdict::Route => {
                if let Some(identifier) = publish.packet_identifier.filter(|_| may_intercept) {
                    self.answers.expect(identifier);
                }
                match alias {
                    Some(alias) if publish.topic.is_empty() && may && self.aliases.tell(alias) => {
                        self.with_topic(&publish, alias, protocol)
                    }
                    _ => Passing::AsItIs,
                }
            }
        }
    }

    /// Asks about a message, unless it has only an alias that was set unseen.
    fn ask(
        &mut self,
        asked: &mut Asked<'_>,
        packet: &Bytes,
        publish: &PublishRef<'_>,
        may_be_kept: bool,
    ) -> Verdict {
        let topic = match publish.topic {
            "" => alias_of(publish).and_then(|alias| self.aliases.topic(alias)),
            topic => Some(topic),
        };
        let (Some(topic), Some(identity)) = (topic, &self.identity) else { return Verdict::Route };
        let expiry = publish.iter_properties().find_map(|(id, value)| match (id, value) {
            (PropertyIdentifier::MESSAGE_EXPIRY_INTERVAL, PropertyValue::FourByte(expiry)) => Some(expiry),
            _ => None,
        });
        let mut properties = BytesMut::new();
        publish.encode_forwarded(&mut properties);
        let shared = packet.slice_ref(publish.payload);
        let payload = match publish.payload.len() {
            SHARED_PAYLOAD.. => Payload::Shared(&shared),
            _ => Payload::Copied(publish.payload),
        };
        let offered = Offered {
            topic,
            payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: &properties,
            expiry,
            from: Publisher::Client {
                identifier: &identity.client_identifier,
                username: identity.username.as_deref(),
            },
            is_will: false,
            may_be_kept,
        };
        self.has_asked = true;
        asked.interception.ask_ahead(asked.now, asked.connection, &offered)
    }

    /// A message that has only an alias, for a server that does not know it.
    fn with_topic(&self, publish: &PublishRef<'_>, alias: u16, protocol: ProtocolVersion) -> Passing {
        let topic = self.aliases.topic(alias).unwrap_or_default();
        let mut bytes = BytesMut::new();
        match (PublishRef { topic, ..*publish }).encode(protocol, &mut bytes) {
            Ok(()) => Passing::Instead(bytes.freeze()),
            Err(_) => Passing::AsItIs,
        }
    }

    /// PUBREL ends an exchange of QoS 2; of a message that the server did not get, the client is answered here.
    fn release(&mut self, packet: &Bytes, protocol: ProtocolVersion, may: bool) -> Passing {
        let identifier = match PlainAck::read(packet) {
            Some(ack) => ack.packet_identifier,
            None => match ControlPacket::decode(packet, protocol) {
                Ok(ControlPacket::Pubrel(ack)) => ack.packet_identifier,
                _ => return Passing::AsItIs,
            },
        };
        match self.exchanges.remove(identifier) {
            Some(Verdict::Intercept) if may => {
                self.answers.complete(identifier);
                Passing::Nothing
            }
            _ => Passing::AsItIs,
        }
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
                if bytes.first().is_some_and(|&first| self.is_awaited(direction, first)) {
                    self.answers.note(&bytes);
                }
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

    /// Whether a packet that begins with `first` may be an ack that one of ours waits for: PUBACK or PUBREC.
    fn is_awaited(&self, direction: Direction, first: u8) -> bool {
        direction == Direction::ServerToClient && matches!(first >> 4, 4 | 5) && self.answers.is_waiting()
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
        if direction == Direction::ServerToClient && first >> 4 != AUTH {
            // If it is a CONNACK that lets the client in, that is learnt next.
            self.give_up_on_connack();
        }
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
                let authenticates = connect
                    .properties
                    .iter()
                    .any(|property| matches!(property, Property::AuthenticationMethod(_)));
                if authenticates {
                    // Its AUTH packets must not wait, and before the CONNACK it sends nothing else [MQTT-3.1.2-30].
                    self.login = Login::Hurried;
                }
            }
            (Direction::ServerToClient, ControlPacket::Connack(connack)) => {
                let assigned = connack.properties.iter().find_map(|property| match property {
                    Property::AssignedClientIdentifier(assigned) => Some(assigned.as_str().to_owned()),
                    _ => None,
                });
                for property in connack.properties.iter() {
                    if let Property::TopicAliasMaximum(maximum) = property {
                        self.aliases.set_maximum(*maximum);
                    }
                }
                if connack.reason_code == ReasonCode::SUCCESS && self.login != Login::Accepted {
                    self.login = Login::Accepted;
                    self.counts.accepted = Some(connack.session_present);
                }
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
                    let qos = QoS::try_from(code.0).unwrap_or(subscription.options.qos);
                    self.granted.push((filter.clone(), qos));
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

/// Packet types, whatever the flags.
const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;
const AUTH: u8 = 15;

/// The first byte of a CONNECT, whose flags are all reserved.
const CONNECT: u8 = 0x10;

/// Whether packets that begin with `first` say something about the client or its subscriptions:
/// CONNECT, CONNACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.
fn is_tracked(first: u8) -> bool {
    matches!(first >> 4, 1 | 2 | 8..=11)
}

/// Whether packets that begin with `first` carry a message, or end the exchange of one.
fn is_of_message(first: u8) -> bool {
    matches!(first >> 4, PUBLISH | PUBREL)
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

/// Reports the first piece of a long packet, as soon as it tells what the packet is about.
fn begin_pieces(direction: Direction, start: BytesMut, reports: &mut Vec<Report>) -> Keep {
    if start[0] >> 4 == PUBLISH && PublishStart::of(&start).is_none() {
        return Keep::Head(start);
    }
    reports.push(Report::Raw { direction, bytes: start.freeze() });
    Keep::Pieces
}

fn join(first: &[u8], second: &[u8]) -> Bytes {
    [first, second].concat().into()
}

#[cfg(test)]
mod tests;
