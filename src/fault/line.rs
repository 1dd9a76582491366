//! One connection under chaos: what both sides send, cut into packets, and passed on as the rules have it.
//!
//! A plain value: it is given bytes and time, and says what to do, in order. Packets that no rule is for pass as they
//! came, behind those that wait.

use std::{collections::VecDeque, time::Instant};

use bytes::{Bytes, BytesMut};

use super::{
    Chaos, Decision, DisconnectMode, Effect, Judge, Seen, change,
    cutter::{Cutter, Piece},
    fate::{Fate, Read},
    lanes::{Cut, Held, Item, Journey, Lanes, Overtaking, Packet, Passed, Step, Way},
};
use crate::{
    packet::{
        Aliases, Begun, Connack, Connect, ControlPacket, Disconnect, Frame, PacketType, PlainAck, Properties,
        ProtocolVersion, PublishHead, PublishRef, ReasonCode, alias_of,
    },
    recording::{Direction, FaultInjected},
};

/// Where a line is put into a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// Client identifier and version, of a connection whose CONNECT has passed.
    pub identity: Option<(String, ProtocolVersion)>,
    pub from_client: Begun,
    pub from_server: Begun,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum LineOutput {
    /// The client's CONNECT was read.
    Identified {
        client_identifier: String,
        protocol: ProtocolVersion,
    },
    /// What the client sent as it came, or what it is sent as it goes out: before it is passed on.
    Report {
        direction: Direction,
        bytes: Bytes,
        is_packet: bool,
    },
    Fault(Box<FaultInjected>),
    Pass {
        direction: Direction,
        bytes: Bytes,
    },
    /// The server is to forget the Session of the client that sent this CONNECT before more is passed on to it.
    LoseSession {
        connect: Bytes,
    },
    /// One side has sent its last byte, and the other is to be told.
    End(Direction),
    /// The connection is over: for the client by RST, or else by FIN; for the server by FIN.
    Cut {
        by_reset: bool,
    },
}

/// The line of one connection.
pub struct Line {
    chaos: Chaos,
    client: Option<Client>,
    up: Stream,
    down: Stream,
    /// What either side sends vanishes until then, or for good.
    black_until: Option<Option<Instant>>,
    is_over: bool,
    /// Of the chaos, as far as followed.
    ends: u64,
    outputs: VecDeque<LineOutput>,
    /// As the chaos was told last.
    counted: Held,
}

struct Client {
    identifier: String,
    protocol: ProtocolVersion,
    judge: Judge,
}

/// One direction.
struct Stream {
    direction: Direction,
    cutter: Cutter,
    lanes: Lanes,
    aliases: Aliases,
    /// Whether a cut is to come, behind which nothing is looked at.
    is_cut: bool,
    /// Whether the rest of a packet that is passed on in pieces vanishes.
    swallows: bool,
    has_ended: bool,
    /// Whether its end was put behind what waits.
    is_done: bool,
}

impl Stream {
    fn new(direction: Direction, begun: Begun, longest: usize) -> Self {
        let mut aliases = Aliases::default();
        // Whoever sends one has been told how many there may be.
        aliases.set_maximum(u16::MAX);
        let cutter = Cutter::new(begun, longest);
        Self {
            direction,
            cutter,
            lanes: Lanes::default(),
            aliases,
            is_cut: false,
            swallows: false,
            has_ended: false,
            is_done: false,
        }
    }

    fn held(&self) -> usize {
        self.cutter.len() + self.lanes.held().weight
    }
}

impl Line {
    /// Packets longer than `longest`, in bytes, pass in pieces and meet no rule.
    pub fn new(chaos: Chaos, longest: usize, splice: Splice) -> Self {
        let client = splice.identity.map(|(identifier, protocol)| Client {
            judge: chaos.judge(&identifier),
            identifier,
            protocol,
        });
        Self {
            ends: chaos.ends(),
            chaos,
            client,
            up: Stream::new(Direction::ClientToServer, splice.from_client, longest),
            down: Stream::new(Direction::ServerToClient, splice.from_server, longest),
            black_until: None,
            is_over: false,
            outputs: VecDeque::new(),
            counted: Held::default(),
        }
    }

    /// Takes what one side sent.
    pub fn receive(&mut self, now: Instant, direction: Direction, input: &[u8]) {
        if self.is_over {
            return;
        }
        self.follow(now);
        self.stream(direction).cutter.push(input);
        self.look(now, direction);
        self.account();
    }

    /// One side has sent its last byte.
    pub fn end(&mut self, now: Instant, direction: Direction) {
        if !self.is_over && !self.stream(direction).has_ended {
            self.stream(direction).has_ended = true;
            self.look(now, direction);
        }
        self.account();
    }

    /// What of one direction is here, in bytes and what it takes to keep them: more should not be given to it than can be
    /// held.
    pub fn held(&self, direction: Direction) -> usize {
        match direction {
            Direction::ClientToServer => self.up.held(),
            Direction::ServerToClient => self.down.held(),
        }
    }

    /// Once chaos has ended, what waits goes on at once, and nothing is cut any more.
    fn follow(&mut self, now: Instant) {
        let ends = self.chaos.ends();
        if ends == self.ends {
            return;
        }
        self.ends = ends;
        if self.is_over {
            return;
        }
        self.black_until = None;
        for direction in [Direction::ClientToServer, Direction::ServerToClient] {
            let stream = self.stream(direction);
            stream.lanes.release(now);
            stream.is_cut = false;
            self.look(now, direction);
        }
        self.account();
    }

    /// What is to be done by now, until it is `None`. Nothing is passed on where `is_open` does not hold.
    pub fn poll_output(&mut self, now: Instant, is_open: impl Fn(Direction) -> bool) -> Option<LineOutput> {
        self.follow(now);
        if self.down.has_ended && !self.down.is_done && !self.is_over {
            self.look(now, Direction::ServerToClient);
        }
        while self.outputs.is_empty() && !self.is_over {
            let Some((direction, step)) = self.next_due(now, &is_open) else { break };
            self.take_step(direction, step);
        }
        self.account();
        self.outputs.pop_front()
    }

    /// When more is to be done though nobody sends anything, where `is_open` holds.
    pub fn next_timeout(&self, is_open: impl Fn(Direction) -> bool) -> Option<Instant> {
        let hidden_end = self.black_until.flatten().filter(|_| self.down.has_ended && !self.down.is_done);
        let streams = [&self.up, &self.down].into_iter().filter(|stream| is_open(stream.direction));
        let lanes = streams.filter_map(|stream| stream.lanes.next_timeout());
        lanes.chain(hidden_end).min()
    }

    /// Whether nothing gets through in either direction.
    pub fn is_black(&mut self, now: Instant) -> bool {
        if self.black_until.flatten().is_some_and(|until| until <= now) {
            self.black_until = None;
        }
        self.black_until.is_some()
    }

    fn next_due(&mut self, now: Instant, is_open: &impl Fn(Direction) -> bool) -> Option<(Direction, Step)> {
        let times = [&self.up, &self.down].map(|stream| stream.lanes.next_timeout());
        let mut streams = [&mut self.up, &mut self.down];
        if let [Some(up), Some(down)] = times
            && down < up
        {
            streams.reverse();
        }
        let open = streams.into_iter().filter(|stream| is_open(stream.direction));
        open.into_iter().find_map(|stream| Some((stream.direction, stream.lanes.next_due(now)?)))
    }

    fn take_step(&mut self, direction: Direction, step: Step) {
        match step {
            Step::Pass { bytes, report } => {
                if let Some(Passed { bytes, is_packet }) = report {
                    self.report(direction, bytes, is_packet);
                }
                self.outputs.push_back(LineOutput::Pass { direction, bytes });
            }
            Step::LoseSession { connect } => self.outputs.push_back(LineOutput::LoseSession { connect }),
            Step::Cut(cut) => self.cut(direction, cut),
            Step::End => self.outputs.push_back(LineOutput::End(direction)),
        }
    }

    /// Tells what the client is sent as it goes out; what it sends was told when it came.
    fn report(&mut self, direction: Direction, bytes: Bytes, is_packet: bool) {
        if direction == Direction::ServerToClient {
            self.outputs.push_back(LineOutput::Report { direction, bytes, is_packet });
        }
    }

    fn cut(&mut self, direction: Direction, cut: Cut) {
        self.is_over = true;
        let Cut { mode, reason, will, part, .. } = cut;
        let is_part = !part.is_empty();
        if is_part {
            self.report(direction, part.clone(), false);
            self.outputs.push_back(LineOutput::Pass { direction, bytes: part });
        }
        let is_between =
            |stream: &Stream| stream.cutter.is_between_packets() && stream.lanes.is_between_packets();
        let is_within = is_part && direction == Direction::ServerToClient;
        if mode == DisconnectMode::Mqtt5
            && self.protocol() == ProtocolVersion::V5
            && !is_within
            && is_between(&self.down)
        {
            let disconnect = Disconnect { reason_code: ReasonCode(reason), properties: Properties::new() };
            if let Ok(frame) = Frame::encode(ControlPacket::Disconnect(disconnect), ProtocolVersion::V5) {
                let direction = Direction::ServerToClient;
                self.report(direction, frame.bytes.clone(), true);
                self.outputs.push_back(LineOutput::Pass { direction, bytes: frame.bytes });
            }
        }
        if !will && self.up.cutter.is_between_packets() {
            // As a client that ends by itself [MQTT-3.14.4-3]; in 3.1.1 it looks the same. Not inside of a packet.
            let mut bytes = BytesMut::from(&self.up.lanes.take_rest()[..]);
            bytes.extend_from_slice(&[0xE0, 0]);
            let (direction, bytes) = (Direction::ClientToServer, bytes.freeze());
            self.outputs.push_back(LineOutput::Pass { direction, bytes });
        }
        self.outputs.push_back(LineOutput::Cut { by_reset: mode == DisconnectMode::Rst });
        self.up.lanes.clear();
        self.down.lanes.clear();
    }

    /// Looks at the packets that one side sent, as far as they are whole.
    fn look(&mut self, now: Instant, direction: Direction) {
        while !self.stream(direction).is_cut {
            let in_pieces = self.is_hopeless(direction);
            let cutter = &mut self.stream(direction).cutter;
            let goes_on = cutter.goes_on();
            match cutter.next(in_pieces) {
                None => break,
                Some(Piece::Packet(bytes)) => self.packet(now, direction, bytes),
                Some(Piece::Begin { bytes, size }) => self.begin(now, direction, bytes, size),
                Some(Piece::Part(bytes)) => {
                    // All of a packet, or nothing.
                    let vanishes = if goes_on { self.stream(direction).swallows } else { self.is_black(now) };
                    self.pass_raw(now, direction, bytes, vanishes);
                }
            }
        }
        // A server that gives up is not seen to by a client that is there, as long as nothing gets through.
        let is_hidden = direction == Direction::ServerToClient && self.is_black(now) && !self.up.has_ended;
        let stream = self.stream(direction);
        if stream.has_ended && !stream.is_cut && !stream.is_done && !is_hidden {
            stream.is_done = true;
            let rest = stream.cutter.take_rest();
            self.pass_unread(now, direction, rest);
            self.stream(direction).lanes.end(now);
        }
    }

    /// Whether what comes next is refused from its first byte, so that holding it back would keep an answer from its
    /// sender.
    fn is_hopeless(&mut self, direction: Direction) -> bool {
        let Some(first) = self.stream(direction).cutter.next_first_byte() else { return false };
        match &self.client {
            Some(client) => PacketType::parse(first, client.protocol).is_err(),
            None if direction == Direction::ClientToServer && first == CONNECT => false,
            None => {
                self.go_blind();
                false
            }
        }
    }

    /// Takes the beginning of a packet that is not held until it is whole.
    fn begin(&mut self, now: Instant, direction: Direction, bytes: Bytes, size: usize) {
        let vanishes = self.is_black(now);
        let protocol = self.protocol();
        let stream = self.stream(direction);
        stream.swallows = vanishes;
        let is_publish = bytes[0] >> 4 == PacketType::Publish as u8;
        let head = match is_publish {
            true => stream.aliases.note_head(&bytes, size, 0, protocol),
            false => PublishHead::AsItIs,
        };
        let PublishHead::Instead { count, bytes: head } = head else {
            return self.pass_raw(now, direction, bytes, vanishes);
        };
        let told = [&head[..], &bytes[count..]].concat();
        self.pass_instead(now, direction, bytes, told.into(), vanishes);
    }

    /// Passes on what cannot be read, unless nothing gets through.
    fn pass_unread(&mut self, now: Instant, direction: Direction, bytes: Bytes) {
        let vanishes = self.is_black(now);
        self.pass_raw(now, direction, bytes, vanishes);
    }

    /// Passes on what is no packet, or too long to be held.
    fn pass_raw(&mut self, now: Instant, direction: Direction, bytes: Bytes, vanishes: bool) {
        self.pass_instead(now, direction, bytes.clone(), bytes, vanishes);
    }

    /// Passes on `bytes` in the place of what `came`.
    fn pass_instead(
        &mut self,
        now: Instant,
        direction: Direction,
        came: Bytes,
        bytes: Bytes,
        vanishes: bool,
    ) {
        if bytes.is_empty() {
            return;
        }
        if direction == Direction::ClientToServer {
            self.outputs.push_back(LineOutput::Report { direction, bytes: came, is_packet: false });
        }
        if vanishes {
            return;
        }
        let stream = self.stream(direction);
        let is_unfinished = stream.cutter.goes_on();
        stream.lanes.put_piece(now, Packet::piece(bytes, is_unfinished));
    }

    fn packet(&mut self, now: Instant, direction: Direction, bytes: Bytes) {
        if self.client.is_none() && !self.identify(direction, &bytes) {
            self.go_blind();
            return self.pass_unread(now, direction, bytes);
        }
        let Some(read) = self.read(direction, &bytes) else { return self.pass_unread(now, direction, bytes) };
        if direction == Direction::ClientToServer {
            self.outputs.push_back(LineOutput::Report { direction, bytes: bytes.clone(), is_packet: true });
        }
        let decided = match &mut self.client {
            Some(client) if self.chaos.is_on() => client.judge.judge(&Seen {
                direction,
                packet: read.kind,
                protocol: client.protocol,
                topic: read.topic.as_deref(),
                qos: read.qos,
                size: bytes.len(),
                payload_at: read.payload_at,
            }),
            _ => super::Decisions::default(),
        };
        if self.is_black(now) {
            // It was counted, so that what is decided later does not depend on how long this lasts.
            if let (Some(alias), true) = (read.alias, read.sets_alias) {
                self.stream(direction).aliases.keep_back(alias);
            }
            return;
        }
        let fate = self.decide(direction, &bytes, &read, &decided.decisions, decided.nth);
        if let Some(duration) = fate.black {
            self.black_until = Some(duration.map(|duration| now + duration));
        }
        self.send(now, direction, &read, fate);
    }

    /// Learns from the first packet who the client is; whether it is a CONNECT.
    fn identify(&mut self, direction: Direction, bytes: &Bytes) -> bool {
        if direction != Direction::ClientToServer || bytes.first() != Some(&CONNECT) {
            return false;
        }
        let Some(connect) = Connect::read(bytes) else { return false };
        let identifier = connect.client_identifier.as_str().to_owned();
        let protocol = connect.protocol;
        self.client =
            Some(Client { judge: self.chaos.judge(&identifier), identifier: identifier.clone(), protocol });
        self.outputs.push_back(LineOutput::Identified { client_identifier: identifier, protocol });
        true
    }

    /// What a packet is; `None` if it cannot be read.
    fn read(&mut self, direction: Direction, bytes: &Bytes) -> Option<Read> {
        let protocol = self.protocol();
        let kind = PacketType::parse(*bytes.first()?, protocol).ok()?;
        let mut read = Read::new(kind);
        if kind != PacketType::Publish {
            if PlainAck::read(bytes).is_none() {
                ControlPacket::decode(bytes, protocol).ok()?;
            }
            return Some(read);
        }
        let publish = PublishRef::decode(bytes, protocol).ok()?;
        read.qos = Some(publish.qos);
        read.payload_at = Some(bytes.len() - publish.payload.len());
        read.alias = alias_of(&publish);
        let aliases = &mut self.stream(direction).aliases;
        match (read.alias, publish.topic) {
            (Some(alias), "") => read.topic = aliases.topic(alias).map(str::to_owned),
            (alias, topic) => {
                read.topic = Some(topic.to_owned());
                read.sets_alias = alias.is_some_and(|alias| aliases.set(alias, topic));
            }
        }
        Some(read)
    }

    /// Adds up what the rules do to a packet, and tells of each.
    fn decide(
        &mut self,
        direction: Direction,
        bytes: &Bytes,
        read: &Read,
        decisions: &[Decision],
        nth: u64,
    ) -> Fate {
        let protocol = self.protocol();
        let mut fate = Fate::new(bytes.clone(), read);
        let leaves_order = |decision: &Decision| {
            decision.effect.ends_packet()
                || matches!(decision.effect, Effect::Reorder { .. } | Effect::SlowSubscriber { .. })
        };
        self.mend_alias(direction, read, protocol, decisions.iter().any(leaves_order), &mut fate);
        for decision in decisions {
            let before = fate.bytes.clone();
            if !fate.apply(&decision.effect, read.kind, protocol, direction == Direction::ClientToServer) {
                continue;
            }
            let is_changed = before != fate.bytes || fate.vanishes;
            let (action, detail) = decision.effect.to_parts();
            let fault = FaultInjected {
                rule: decision.rule.to_string(),
                action,
                detail,
                client_identifier: self
                    .client
                    .as_ref()
                    .map_or_else(String::new, |client| client.identifier.clone()),
                direction,
                packet_type: read.kind,
                nth,
                topic: read.topic.clone().unwrap_or_default(),
                received: (is_changed && direction == Direction::ServerToClient).then(|| bytes.clone()),
                sent: (is_changed && !fate.vanishes && direction == Direction::ClientToServer)
                    .then(|| fate.bytes.clone())
                    .filter(|sent| !sent.is_empty()),
            };
            self.outputs.push_back(LineOutput::Fault(Box::new(fault)));
        }
        fate
    }

    /// Has the receiver know what aliases stand for, though a packet that set one may not come, or come late.
    fn mend_alias(
        &mut self,
        direction: Direction,
        read: &Read,
        protocol: ProtocolVersion,
        leaves_order: bool,
        fate: &mut Fate,
    ) {
        let (Some(alias), Some(topic)) = (read.alias, &read.topic) else { return };
        let aliases = &mut self.stream(direction).aliases;
        let mended = if leaves_order {
            if read.sets_alias {
                aliases.keep_back(alias);
            }
            change::without_alias(&fate.bytes, topic, protocol)
        } else if !read.sets_alias && aliases.tell(alias) {
            PublishRef::decode(&fate.bytes, protocol)
                .ok()
                .and_then(|publish| change::with_topic(&publish, topic, protocol))
        } else {
            None
        };
        if let Some(mended) = mended {
            fate.bytes = mended;
        }
    }

    /// Lets a packet go its way.
    fn send(&mut self, now: Instant, direction: Direction, read: &Read, mut fate: Fate) {
        if let Some(code) = fate.refusal {
            return self.refuse(now, code);
        }
        let is_cut = fate.is_cut();
        let items = fate.take_items();
        let Fate { mut journey, aside, overtaking, .. } = fate;
        let stream = self.stream(direction);
        journey.lane = match journey.lane {
            Way::Main if is_ack(read.kind) && stream.lanes.has_acks(now) => Way::Acks,
            lane => stream.lanes.way(lane, &overtaking),
        };
        // What comes behind one that is slow does not wait for it, not even for the end.
        stream.is_cut |= is_cut && !matches!(journey.lane, Way::Slow { .. });
        match aside.filter(|_| !is_cut) {
            _ if read.kind == PacketType::Disconnect => stream.lanes.put_last(now, journey, items),
            Some(aside) => stream.lanes.put_aside(now, journey, items, overtaking, aside),
            None => stream.lanes.put(now, journey, items, &overtaking),
        }
    }

    /// Answers a CONNECT in the server's place.
    fn refuse(&mut self, now: Instant, code: ReasonCode) {
        let protocol = self.protocol();
        let connack = Connack { session_present: false, reason_code: code, properties: Properties::new() };
        let mut items = Vec::new();
        if let Ok(frame) = Frame::encode(ControlPacket::Connack(connack), protocol) {
            items.push(Item::Packet(Packet::new(frame.bytes, true, 1)));
        }
        items.push(Item::Cut(Cut::refused()));
        self.up.is_cut = true;
        self.down.lanes.put(now, Journey::default(), items, &Overtaking::default());
    }

    /// Whatever passes, it is not MQTT.
    fn go_blind(&mut self) {
        self.up.cutter.go_blind();
        self.down.cutter.go_blind();
    }

    /// Of the client's CONNECT; before that it makes no difference.
    fn protocol(&self) -> ProtocolVersion {
        self.client.as_ref().map_or(ProtocolVersion::V311, |client| client.protocol)
    }

    fn stream(&mut self, direction: Direction) -> &mut Stream {
        match direction {
            Direction::ClientToServer => &mut self.up,
            Direction::ServerToClient => &mut self.down,
        }
    }

    /// Tells the chaos how much more, or less, is held back.
    fn account(&mut self) {
        let (up, down) = (self.up.lanes.held(), self.down.lanes.held());
        let held = Held {
            packets: up.packets + down.packets,
            bytes: up.bytes + down.bytes,
            weight: up.weight + down.weight,
        };
        if held != self.counted {
            let difference = |now: usize, before: usize| now as i64 - before as i64;
            self.chaos.count_held(
                difference(held.packets, self.counted.packets),
                difference(held.bytes, self.counted.bytes),
            );
            self.counted = held;
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.up.lanes.clear();
        self.down.lanes.clear();
        self.account();
    }
}

/// The first byte of a CONNECT, whose flags are all reserved.
const CONNECT: u8 = 0x10;

/// Whether it answers a packet of the other side, and may be overtaken by what does not.
fn is_ack(kind: PacketType) -> bool {
    use PacketType::*;
    matches!(kind, Puback | Pubrec | Pubrel | Pubcomp | Suback | Unsuback | Pingresp)
}

#[cfg(test)]
mod tests;
